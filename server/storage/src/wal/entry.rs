//! What the log keeps: entries, the hard state, marks of snapshots, whose log it is.

use bytes::Bytes;

use super::protobuf::{Fields, Malformed, Value, put_bytes, put_length, put_number};

/// Position of an entry in the replicated log; the first is 1.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Index(pub u64);

/// Number of a leader's time in office.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Term(pub u64);

/// A member of the cluster; 0 is nobody.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub u64);

/// A cluster.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClusterId(pub u64);

/// What an entry's data mean. The numbers are those of etcd's `raftpb.EntryType`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum EntryKind {
    /// A request, or nothing.
    #[default]
    Normal = 0,
    /// A change of one member.
    ConfChange = 1,
    /// A change of several members.
    ConfChangeV2 = 2,
}

/// An entry of the replicated log: `raftpb.Entry {1 type, 2 term, 3 index, 4 data}`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Entry {
    /// What the data mean.
    pub kind: EntryKind,
    /// The term of the leader that made it.
    pub term: Term,
    /// Its position.
    pub index: Index,
    /// The request or change; this room does not look inside.
    pub data: Bytes,
}

/// What a member promised: `raftpb.HardState {1 term, 2 vote, 3 commit}`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HardState {
    /// The newest term it knows.
    pub term: Term,
    /// Whom it voted for in that term.
    pub vote: NodeId,
    /// Up to where the log is known to be committed.
    pub commit: Index,
}

impl HardState {
    /// Whether nothing was promised yet; such a state is not written.
    pub fn is_empty(&self) -> bool {
        *self == HardState::default()
    }
}

/// The members that count: `raftpb.ConfState {1 voters, 2 learners, 3 voters_outgoing,
/// 4 learners_next, 5 auto_leave}`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ConfState {
    /// Members that vote.
    pub voters: Vec<NodeId>,
    /// Members that only listen.
    pub learners: Vec<NodeId>,
    /// The voters before a change of several members that is under way.
    pub voters_outgoing: Vec<NodeId>,
    /// Voters that become learners when that change ends.
    pub learners_next: Vec<NodeId>,
    /// Whether that change ends by itself.
    pub auto_leave: bool,
}

/// The log's note that a snapshot was saved: `walpb.Snapshot {1 index, 2 term, 3 conf_state}`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SnapshotMark {
    /// The last entry that the snapshot holds.
    pub index: Index,
    /// That entry's term.
    pub term: Term,
    /// The members at that entry. Required above index 0 since etcd 3.5; 3.4 does not write it.
    pub conf_state: Option<ConfState>,
}

/// Whose log it is: `etcdserverpb.Metadata {1 NodeID, 2 ClusterID}`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Metadata {
    /// The member that writes it.
    pub node_id: NodeId,
    /// The member's cluster.
    pub cluster_id: ClusterId,
}

impl Entry {
    /// Writes all of the message but the data's bytes, which must follow. Data that are empty are not
    /// written at all.
    pub(crate) fn put_head(&self, buffer: &mut Vec<u8>) {
        put_number(buffer, 1, self.kind as u64);
        put_number(buffer, 2, self.term.0);
        put_number(buffer, 3, self.index.0);
        if !self.data.is_empty() {
            put_length(buffer, 4, self.data.len());
        }
    }

    pub(crate) fn decode(message: &[u8]) -> Result<Entry, Malformed> {
        let mut entry = Entry::default();
        for field in Fields::of(message) {
            match field? {
                (1, value) => entry.kind = EntryKind::from_number(value.number()?)?,
                (2, value) => entry.term = Term(value.number()?),
                (3, value) => entry.index = Index(value.number()?),
                (4, value) => entry.data = Bytes::copy_from_slice(value.bytes()?),
                _ => {}
            }
        }
        Ok(entry)
    }
}

impl EntryKind {
    fn from_number(number: u64) -> Result<EntryKind, Malformed> {
        match number {
            0 => Ok(EntryKind::Normal),
            1 => Ok(EntryKind::ConfChange),
            2 => Ok(EntryKind::ConfChangeV2),
            _ => Err(Malformed(
                "an entry of an unknown type, written by a newer version",
            )),
        }
    }
}

impl HardState {
    pub(crate) fn encode(&self, buffer: &mut Vec<u8>) {
        put_number(buffer, 1, self.term.0);
        put_number(buffer, 2, self.vote.0);
        put_number(buffer, 3, self.commit.0);
    }

    pub(crate) fn decode(message: &[u8]) -> Result<HardState, Malformed> {
        let mut state = HardState::default();
        for field in Fields::of(message) {
            match field? {
                (1, value) => state.term = Term(value.number()?),
                (2, value) => state.vote = NodeId(value.number()?),
                (3, value) => state.commit = Index(value.number()?),
                _ => {}
            }
        }
        Ok(state)
    }
}

impl ConfState {
    pub(crate) fn encode(&self, buffer: &mut Vec<u8>) {
        let lists = [
            &self.voters,
            &self.learners,
            &self.voters_outgoing,
            &self.learners_next,
        ];
        for (field, list) in (1..).zip(lists) {
            for member in list {
                put_number(buffer, field, member.0);
            }
        }
        put_number(buffer, 5, u64::from(self.auto_leave));
    }

    pub(crate) fn decode(message: &[u8]) -> Result<ConfState, Malformed> {
        let mut lists: [Vec<u64>; 4] = Default::default();
        let mut auto_leave = false;
        for field in Fields::of(message) {
            match field? {
                (field @ 1..=4, value) => value.add_to(&mut lists[field as usize - 1])?,
                (5, value) => auto_leave = value.flag()?,
                _ => {}
            }
        }
        let [voters, learners, voters_outgoing, learners_next] =
            lists.map(|list| list.into_iter().map(NodeId).collect());
        Ok(ConfState {
            voters,
            learners,
            voters_outgoing,
            learners_next,
            auto_leave,
        })
    }
}

impl SnapshotMark {
    pub(crate) fn encode(&self, buffer: &mut Vec<u8>) {
        put_number(buffer, 1, self.index.0);
        put_number(buffer, 2, self.term.0);
        if let Some(conf_state) = &self.conf_state {
            let mut inner = Vec::new();
            conf_state.encode(&mut inner);
            put_bytes(buffer, 3, &inner);
        }
    }

    pub(crate) fn decode(message: &[u8]) -> Result<SnapshotMark, Malformed> {
        let mut mark = SnapshotMark::default();
        for field in Fields::of(message) {
            match field? {
                (1, value) => mark.index = Index(value.number()?),
                (2, value) => mark.term = Term(value.number()?),
                (3, value) => mark.conf_state = Some(ConfState::decode(value.bytes()?)?),
                _ => {}
            }
        }
        Ok(mark)
    }
}

impl Metadata {
    pub(crate) fn encode(&self, buffer: &mut Vec<u8>) {
        put_number(buffer, 1, self.node_id.0);
        put_number(buffer, 2, self.cluster_id.0);
    }

    pub(crate) fn decode(message: &[u8]) -> Result<Metadata, Malformed> {
        let mut metadata = Metadata::default();
        for field in Fields::of(message) {
            match field? {
                (1, Value::Number(id)) => metadata.node_id = NodeId(id),
                (2, Value::Number(id)) => metadata.cluster_id = ClusterId(id),
                (1 | 2, _) => return Err(Malformed("an id that is no number")),
                _ => {}
            }
        }
        Ok(metadata)
    }
}
