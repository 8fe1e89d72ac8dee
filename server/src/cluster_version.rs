//! The version on which all members agree, seen to by the leader.
//!
//! It says what the members may write. A cluster begins at [`CLUSTER_VERSION`], or at that of its oldest
//! member; the leader never raises it, so that every member can go back to etcd 3.5. A leader of etcd
//! raises it by its own rules, which ours accept.

use std::sync::Arc;
use std::time::Duration;

use proto::etcdserverpb::InternalRaftRequest;
use proto::membershippb::ClusterVersionSetRequest;
use serde::Deserialize;
use state_machine::MemberId;

use crate::api::{Caller, Member};
use crate::config::CLUSTER_VERSION;

/// How often the leader looks; etcd's value.
const INTERVAL: Duration = Duration::from_secs(5);
/// A version is told at once by a member that runs.
const PATIENCE: Duration = Duration::from_secs(2);

/// Runs until it is dropped.
pub async fn run(member: Arc<Member>) {
    loop {
        if member.leads() && member.cluster_version().is_none() {
            decide(&member).await;
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

/// Sets the first version, if all members can be asked.
pub async fn decide(member: &Member) {
    let state = member.state();
    let own = member.identity().member;
    let mut version = parse(CLUSTER_VERSION);
    for other in state.members.iter().filter(|other| other.id != own) {
        let mut answer = None;
        for url in &other.peer_urls {
            answer = server_version(member, other.id, url).await.or(answer);
        }
        let Some(answer) = answer else {
            tracing::debug!(member = %other.id, "cannot ask a member for its version yet");
            return;
        };
        version = version.min(Some(answer));
    }
    let Some((major, minor)) = version else {
        return;
    };
    let ver = format!("{major}.{minor}.0");
    let request = InternalRaftRequest {
        cluster_version_set: Some(ClusterVersionSetRequest { ver: ver.clone() }),
        ..Default::default()
    };
    match member.submit(&Caller::member(), request).await {
        Ok(_) => tracing::info!(version = ver, "set the initial cluster version"),
        Err(status) => {
            tracing::warn!(error = status.message(), "cannot set the cluster version");
        }
    }
}

async fn server_version(member: &Member, id: MemberId, url: &str) -> Option<(u64, u64)> {
    #[derive(Deserialize)]
    struct Versions {
        etcdserver: String,
    }
    let answer = member.peer_client().get(url, "/version", PATIENCE).await;
    match answer {
        Ok(response) => {
            let versions: Versions = serde_json::from_slice(response.body()).ok()?;
            parse(&versions.etcdserver)
        }
        Err(error) => {
            tracing::debug!(member = %id, url, error, "cannot ask a member for its version");
            None
        }
    }
}

/// Major and minor number.
fn parse(version: &str) -> Option<(u64, u64)> {
    let mut parts = version.split('.').map(str::parse);
    match (parts.next()?, parts.next()?) {
        (Ok(major), Ok(minor)) => Some((major, minor)),
        _ => None,
    }
}
