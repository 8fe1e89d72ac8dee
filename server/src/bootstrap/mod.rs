//! How a member begins that has no data: with others that begin, too, or in a cluster that runs.
//!
//! Deciding is apart from asking: [`Ask`] puts the questions, the functions here and in the files
//! beside take the answers.

mod force_new_cluster;
mod join;
mod srv;

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use consensus::{ConfigurationChange, ConfigurationChangeKind, Entry, EntryKind};
use state_machine::{Member, MemberId, go_json};

use crate::config::{
    Config, InitialClusterState, InitialMember, PeerUrl, check_own_member, own_place,
};
use crate::data_dir::StartError;
use crate::identity::{ClusterId, Identity, cluster_id, member_id};

pub use force_new_cluster::{Alone, Found, alone};

/// Whoever begins like this member has no answer yet, so nobody waits long for one; etcd's value.
const NEW_CLUSTER_PATIENCE: Duration = Duration::from_secs(1);
/// A running cluster must answer before this member can begin; etcd's value.
const RUNNING_CLUSTER_PATIENCE: Duration = Duration::from_secs(10);

/// Questions to the outside. The real answers are those of [`crate::peer::Asker`].
pub trait Ask {
    /// The members as the one at `url` knows them.
    ///
    /// # Errors
    /// When it does not answer so.
    fn members(&self, url: &str, patience: Duration) -> Result<RemoteMembers, AskError>;
    /// The version of the cluster, as the member at `url` knows it.
    ///
    /// # Errors
    /// When it does not answer.
    fn cluster_version(&self, url: &str) -> Result<String, AskError>;
    /// Whether the cluster is on its way to an older version.
    ///
    /// # Errors
    /// When the member at `url` does not answer.
    fn downgrade_enabled(&self, url: &str) -> Result<bool, AskError>;
    /// The addresses of a host.
    ///
    /// # Errors
    /// When nobody knows them.
    fn addresses(&self, host: &str, port: u16) -> Result<Vec<SocketAddr>, AskError>;
    /// The SRV records of a name.
    ///
    /// # Errors
    /// When there are none, or the name service does not answer.
    fn srv(&self, name: &str) -> Result<Vec<SrvRecord>, AskError>;
}

/// Why a question got no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{asked}: {what}")]
pub struct AskError {
    /// The URL or name.
    pub asked: String,
    /// What happened.
    pub what: String,
}

/// The members of a cluster that runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteMembers {
    /// The cluster's id.
    pub cluster: ClusterId,
    /// All members.
    pub members: Vec<Member>,
}

/// What an SRV record says, as far as it counts here.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct SrvRecord {
    /// Lower ones come first.
    pub priority: u16,
    /// The host, without a dot at its end.
    pub host: String,
    /// The port.
    pub port: u16,
}

/// With what a member's log begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Beginning {
    /// Who it is.
    pub identity: Identity,
    /// The first entries, all of them committed; none in a cluster that runs.
    pub entries: Vec<Entry>,
    /// The other members of the running cluster; the log does not tell of them yet.
    pub remotes: Vec<Member>,
}

/// Finds out how the member of `config` begins. Nothing is written.
///
/// # Errors
/// Which setting cannot be right, or what the cluster says against it.
pub fn begin(config: &Config, ask: &dyn Ask) -> Result<Beginning, StartError> {
    let listed = match &config.discovery_srv {
        None => config.initial_cluster.clone(),
        Some(discovery) => srv::members(
            discovery,
            &config.name,
            &config.initial_advertise_peer_urls,
            ask,
        )?,
    };
    match config.initial_cluster_state {
        InitialClusterState::New => found(config, &listed, ask),
        InitialClusterState::Existing => join(config, &listed, ask),
    }
}

/// Begins a cluster together with the others that are listed.
fn found(
    config: &Config,
    listed: &[InitialMember],
    ask: &dyn Ask,
) -> Result<Beginning, StartError> {
    // 1. The list and this member's own URLs agree, if need be by their addresses.
    let own = own_place(&config.name, listed)?;
    let advertised = &config.initial_advertise_peer_urls;
    if let Err(refusal) = check_own_member(&config.name, advertised, listed) {
        match join::same_urls(&listed[own].peer_urls, advertised, ask) {
            Ok(true) => {}
            Ok(false) => return Err(refusal.into()),
            Err(error) => return Err(StartError::Setting(format!("{refusal} ({error})"))),
        }
    }

    // 2. Ids follow from the list.
    let members = first_members(listed, &config.initial_cluster_token);
    let ids: Vec<MemberId> = members.iter().map(|member| member.id).collect();
    let identity = Identity {
        cluster: cluster_id(&ids),
        member: ids[own],
    };

    // 3. Whoever lost its data must not begin once more: its votes are lost, too.
    let urls = others_urls(listed, own);
    let answer = urls
        .iter()
        .find_map(|url| ask.members(url, NEW_CLUSTER_PATIENCE).ok());
    if answer.is_some_and(|remote| has_begun(identity.member, &remote.members)) {
        return Err(StartError::Setting(already_bootstrapped(
            identity.member,
            &config.data_dir,
        )));
    }
    Ok(Beginning {
        identity,
        entries: bootstrap_entries(members),
        remotes: Vec::new(),
    })
}

/// Begins as a member that was added to a running cluster.
fn join(config: &Config, listed: &[InitialMember], ask: &dyn Ask) -> Result<Beginning, StartError> {
    let own = own_place(&config.name, listed)?;

    // 1. The first of the others that answers knows everything.
    let mut failures = Vec::new();
    let remote = others_urls(listed, own).iter().find_map(|url| {
        match ask.members(url, RUNNING_CLUSTER_PATIENCE) {
            Ok(remote) => Some(remote),
            Err(error) => {
                failures.push(error.to_string());
                None
            }
        }
    });
    let Some(remote) = remote else {
        return Err(StartError::Cluster(join::nobody_answers(&failures)));
    };
    let RemoteMembers { cluster, members } = remote;
    if members.is_empty() {
        return Err(StartError::Cluster(join::no_members()));
    }

    // 2. Both lists must name the same members; the ids are those that the cluster gave.
    let member = join::own_id(listed, own, &members, ask).map_err(StartError::Cluster)?;
    join::check_learners(&members, config.max_learners).map_err(StartError::Cluster)?;
    if has_begun(member, &members) {
        // etcd lets it pass, too.
        tracing::warn!(
            member_id = %member,
            "this member has served its cluster before and comes without its data; votes that it gave \
             are forgotten, so it is safer to remove it and to add it as a new one"
        );
    }

    // 3. The others' versions.
    let remotes: Vec<Member> = members
        .into_iter()
        .filter(|other| other.id != member)
        .collect();
    join::check_versions(&remotes, ask).map_err(StartError::Cluster)?;
    Ok(Beginning {
        identity: Identity { cluster, member },
        entries: Vec::new(),
        remotes,
    })
}

/// The first members of a new cluster, in the order of the list.
pub(crate) fn first_members(listed: &[InitialMember], token: &str) -> Vec<Member> {
    let member = |first: &InitialMember| {
        let peer_urls: Vec<String> = first.peer_urls.iter().map(ToString::to_string).collect();
        Member {
            id: member_id(&peer_urls, token),
            peer_urls,
            learner: false,
            name: first.name.clone(),
            client_urls: Vec::new(),
        }
    };
    listed.iter().map(member).collect()
}

/// The entries that every first member of a cluster writes: all members, ascending by id.
pub(crate) fn bootstrap_entries(mut members: Vec<Member>) -> Vec<Entry> {
    members.sort_by_key(|member| member.id);
    let entry = |(number, member): (usize, &Member)| {
        let context = go_json(member);
        let change = ConfigurationChange {
            id: 0,
            kind: ConfigurationChangeKind::AddNode,
            node_id: consensus::NodeId(member.id.0),
            context: Some(context.into()),
        };
        Entry {
            kind: EntryKind::ConfigurationChange,
            term: consensus::Term(1),
            index: consensus::Index(number as u64 + 1),
            data: change.encode(),
        }
    };
    members.iter().enumerate().map(entry).collect()
}

/// Where others than the member at place `own` are reached, in the order in which they are asked.
fn others_urls(listed: &[InitialMember], own: usize) -> Vec<&str> {
    let others = listed.iter().enumerate().filter(|(place, _)| *place != own);
    let mut urls: Vec<&str> = others
        .flat_map(|(_, member)| member.peer_urls.iter().map(PeerUrl::as_str))
        .collect();
    urls.sort_unstable();
    urls
}

/// Whether the member `id` has told the others where clients reach it, which it does when it serves
/// for the first time.
fn has_begun(id: MemberId, members: &[Member]) -> bool {
    members
        .iter()
        .any(|member| member.id == id && !member.client_urls.is_empty())
}

fn already_bootstrapped(id: MemberId, data_dir: &Path) -> String {
    format!(
        "member {id} has already been bootstrapped, and {} does not hold its data: put them back, or \
         remove the member from the cluster, add it as a new one and start it with \
         --initial-cluster-state=existing",
        data_dir.display()
    )
}

#[cfg(test)]
pub(crate) mod tests;
