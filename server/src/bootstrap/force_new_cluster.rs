//! `--force-new-cluster`: what a member appends to its log to be alone.

use consensus::{
    ConfState, ConfigurationChange, ConfigurationChangeKind, Entry, EntryKind, HardState, Index,
    NodeId, SnapshotMark,
};

/// Where a member is said to be that its own log does not know; etcd's value. It can be changed by an
/// update of the member afterwards.
const PEER_URL_UNKNOWN: &str = "http://localhost:2380";

/// What was found in the member's directory.
pub struct Found<'a> {
    /// Who goes on.
    pub own: NodeId,
    /// Where the log begins.
    pub snapshot: &'a SnapshotMark,
    /// The last one stored.
    pub hard_state: HardState,
    /// Up to here the database holds the entries.
    pub applied: Index,
    /// All entries after the snapshot.
    pub entries: &'a [Entry],
}

/// How the log goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Alone {
    /// Entries up to here count; what follows was never agreed on, as far as this member knows.
    pub kept: Index,
    /// Follow those, committed by this member's word.
    pub appended: Vec<Entry>,
    /// The state after them.
    pub hard_state: HardState,
}

/// The changes that make a member the only one: it gets a vote if it has none, then all others are
/// removed, ascending by id.
///
/// # Errors
/// When the log holds a change that cannot be read.
pub fn alone(found: &Found<'_>) -> Result<Alone, String> {
    let kept = found.hard_state.commit.max(found.applied);
    let counted = found.entries.iter().take_while(|entry| entry.index <= kept);
    let members = members_after(found.snapshot, counted)?;

    let own = found.own;
    let mut changes = Vec::new();
    if !members.voters.contains(&own) {
        changes.push(vote_for(own, members.learners.contains(&own)));
    }
    let mut others: Vec<NodeId> = members
        .voters
        .into_iter()
        .chain(members.learners)
        .filter(|id| *id != own)
        .collect();
    others.sort_unstable();
    changes.extend(others.into_iter().map(removal));

    let entry = |(number, change): (usize, ConfigurationChange)| Entry {
        kind: EntryKind::ConfigurationChange,
        term: found.hard_state.term,
        index: Index(kept.0 + 1 + number as u64),
        data: change.encode(),
    };
    let appended: Vec<Entry> = changes.into_iter().enumerate().map(entry).collect();
    let commit = appended.last().map_or(kept, |entry| entry.index);
    Ok(Alone {
        kept,
        appended,
        hard_state: HardState {
            commit,
            ..found.hard_state
        },
    })
}

/// Who belongs to the cluster after these entries.
fn members_after<'a>(
    snapshot: &SnapshotMark,
    entries: impl Iterator<Item = &'a Entry>,
) -> Result<ConfState, String> {
    let mut members = snapshot.conf_state.clone();
    for entry in entries.filter(|entry| entry.kind == EntryKind::ConfigurationChange) {
        let change = ConfigurationChange::decode(&entry.data)
            .map_err(|error| format!("entry {} of the log: {error}", entry.index))?;
        let id = change.node_id;
        if change.kind == ConfigurationChangeKind::UpdateNode {
            continue;
        }
        let ConfState { voters, learners } = &mut members;
        learners.retain(|learner| *learner != id);
        match change.kind {
            ConfigurationChangeKind::RemoveNode => voters.retain(|voter| *voter != id),
            // Who votes does not learn any more, so this change was refused when it was applied.
            ConfigurationChangeKind::AddLearnerNode if voters.contains(&id) => {}
            ConfigurationChangeKind::AddLearnerNode => learners.push(id),
            _ if voters.contains(&id) => {}
            _ => voters.push(id),
        }
    }
    Ok(members)
}

fn vote_for(id: NodeId, is_learner: bool) -> ConfigurationChange {
    let context = match is_learner {
        true => format!(r#"{{"id":{},"peerURLs":null,"isPromote":true}}"#, id.0),
        false => format!(r#"{{"id":{},"peerURLs":["{PEER_URL_UNKNOWN}"]}}"#, id.0),
    };
    ConfigurationChange {
        id: 0,
        kind: ConfigurationChangeKind::AddNode,
        node_id: id,
        context: Some(context.into()),
    }
}

fn removal(id: NodeId) -> ConfigurationChange {
    ConfigurationChange {
        id: 0,
        kind: ConfigurationChangeKind::RemoveNode,
        node_id: id,
        context: None,
    }
}
