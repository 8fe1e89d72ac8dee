//! What a member tells its cluster when it has started: its name, where clients reach it, and, if
//! nobody has done so, the cluster's version.

use std::time::Duration;

use proto::etcdserverpb::InternalRaftRequest;
use proto::membershippb::{Attributes, ClusterMemberAttrSetRequest};
use tonic::{Code, Status};

use crate::api::{Caller, Member};
use crate::cluster_version;
use crate::config::Config;

/// Between two tries while there is no leader.
const RETRY: Duration = Duration::from_millis(10);

/// Returns once everything is told, which takes a leader.
pub async fn publish(config: &Config, member: &Member) -> Result<(), Status> {
    let urls: Vec<String> = config
        .advertise_client_urls
        .iter()
        .map(ToString::to_string)
        .collect();
    let id = member.identity().member;
    loop {
        let members = member.state().members.clone();
        let request = match members.get(id) {
            Some(own) if own.name != config.name || own.client_urls != urls => {
                attributes(id.0, config.name.clone(), urls.clone())
            }
            Some(_) if member.linearizable_state().await.is_ok() => {
                if member.leads() && member.cluster_version().is_none() {
                    cluster_version::decide(member).await;
                }
                return Ok(());
            }
            _ => {
                // Not applied yet that there is such a member, or nobody leads.
                tokio::time::sleep(RETRY).await;
                continue;
            }
        };
        match member.submit(&Caller::member(), request).await {
            // No leader, or the log of before is still being applied ("too many requests").
            Err(status) if matches!(status.code(), Code::Unavailable | Code::Unknown) => {
                tokio::time::sleep(RETRY).await;
            }
            Err(status) => return Err(status),
            Ok(_) => {}
        }
    }
}

fn attributes(member_id: u64, name: String, client_urls: Vec<String>) -> InternalRaftRequest {
    let member_attributes = Some(Attributes { name, client_urls });
    InternalRaftRequest {
        cluster_member_attr_set: Some(ClusterMemberAttrSetRequest {
            member_id,
            member_attributes,
        }),
        ..Default::default()
    }
}
