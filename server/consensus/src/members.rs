//! Who takes part: ids, the configuration, and changes to it in etcd's encoding.
//!
//! The data of a configuration entry is a `raftpb.ConfChange` (proto2). etcd up to 3.6 writes every
//! scalar field, zeros included, and the context only if there is one; this is the form written
//! here:
//!
//! ```text
//! 08 id   10 type   18 node_id   22 length context
//! ```
//!
//! Readers take an absent field as zero and skip fields they do not know.

use std::fmt;

use bytes::{Bytes, BytesMut};
use raft::eraftpb;
use thiserror::Error;

/// Identifies a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub u64);

impl NodeId {
    /// Whether a member may have this id: 0 means "nobody", and etcd's raft keeps the two highest
    /// values for itself.
    pub fn is_valid(self) -> bool {
        self.0 != 0 && self.0 < u64::MAX - 1
    }

    pub(crate) fn from_raft(id: u64) -> Option<NodeId> {
        (id != raft::INVALID_ID).then_some(NodeId(id))
    }
}

impl fmt::Display for NodeId {
    /// Lower-case hexadecimal without leading zeros, as etcd prints member ids.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}", self.0)
    }
}

/// The members at one index of the log. Joint configurations do not occur: etcd never enters one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConfState {
    /// Voting members, ascending.
    pub voters: Vec<NodeId>,
    /// Members without a vote, ascending.
    pub learners: Vec<NodeId>,
}

impl ConfState {
    /// The first reason why these members cannot be a configuration, if there is one.
    pub(crate) fn fault(&self) -> Option<String> {
        let mut all: Vec<NodeId> = self.voters.iter().chain(&self.learners).copied().collect();
        if let Some(id) = all.iter().find(|id| !id.is_valid()) {
            return Some(format!("member id {id} is reserved"));
        }
        all.sort_unstable();
        if let Some(pair) = all.windows(2).find(|pair| pair[0] == pair[1]) {
            return Some(format!("member {} is listed twice", pair[0]));
        }
        if self.voters.is_empty() && !self.learners.is_empty() {
            return Some("there are learners but no voter".to_owned());
        }
        None
    }

    /// The members after a change that is not void.
    pub(crate) fn after(&self, change: &ConfigurationChange) -> ConfState {
        let mut after = self.clone();
        let id = change.node_id;
        if change.kind != ConfigurationChangeKind::UpdateNode {
            after.voters.retain(|voter| *voter != id);
            after.learners.retain(|learner| *learner != id);
        }
        match change.kind {
            ConfigurationChangeKind::AddNode => after.voters.push(id),
            ConfigurationChangeKind::AddLearnerNode => after.learners.push(id),
            ConfigurationChangeKind::RemoveNode | ConfigurationChangeKind::UpdateNode => {}
        }
        after.voters.sort_unstable();
        after.learners.sort_unstable();
        after
    }

    pub(crate) fn to_raft(&self) -> eraftpb::ConfState {
        let mut state = eraftpb::ConfState::default();
        state.set_voters(self.voters.iter().map(|id| id.0).collect());
        state.set_learners(self.learners.iter().map(|id| id.0).collect());
        state
    }

    pub(crate) fn from_raft(state: &eraftpb::ConfState) -> ConfState {
        let ascending = |ids: &[u64]| {
            let mut ids: Vec<NodeId> = ids.iter().copied().map(NodeId).collect();
            ids.sort_unstable();
            ids
        };
        ConfState {
            voters: ascending(&state.voters),
            learners: ascending(&state.learners),
        }
    }
}

/// What a configuration change does, in etcd's numbering.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ConfigurationChangeKind {
    /// Adds a voter, or gives a learner a vote.
    AddNode = 0,
    /// Removes a member.
    RemoveNode = 1,
    /// Changes what is known about a member; the configuration stays as it is.
    UpdateNode = 2,
    /// Adds a member without a vote.
    AddLearnerNode = 3,
}

impl ConfigurationChangeKind {
    fn from_number(number: u64) -> Option<Self> {
        match number {
            0 => Some(Self::AddNode),
            1 => Some(Self::RemoveNode),
            2 => Some(Self::UpdateNode),
            3 => Some(Self::AddLearnerNode),
            _ => None,
        }
    }
}

/// A proposed change of the members.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigurationChange {
    /// Number of the request, by which its proposer is answered.
    pub id: u64,
    /// What is changed.
    pub kind: ConfigurationChangeKind,
    /// Whom it is about.
    pub node_id: NodeId,
    /// Opaque here (etcd: JSON of the member); `None` is told apart from empty.
    pub context: Option<Bytes>,
}

impl ConfigurationChange {
    /// The data of a log entry.
    pub fn encode(&self) -> Bytes {
        let context_length = self.context.as_ref().map_or(0, Bytes::len);
        let mut out = BytesMut::with_capacity(context_length + 4 * (1 + VARINT_BYTES_MAX));
        put_scalar(&mut out, 1, self.id);
        put_scalar(&mut out, 2, self.kind as u64);
        put_scalar(&mut out, 3, self.node_id.0);
        if let Some(context) = &self.context {
            put_varint(&mut out, 4 << 3 | u64::from(WIRE_BYTES));
            put_varint(&mut out, context.len() as u64);
            out.extend_from_slice(context);
        }
        out.freeze()
    }

    /// Reads the data of a log entry; the context shares its memory.
    ///
    /// # Errors
    /// If the bytes are no `raftpb.ConfChange`, or its type is unknown.
    pub fn decode(data: &Bytes) -> Result<ConfigurationChange, MalformedChange> {
        let mut change = ConfigurationChange {
            id: 0,
            kind: ConfigurationChangeKind::AddNode,
            node_id: NodeId(0),
            context: None,
        };
        let mut rest = Fields { data, at: 0 };
        while let Some((field, value)) = rest.next()? {
            match (field, value) {
                (1, Value::Scalar(id)) => change.id = id,
                (2, Value::Scalar(number)) => {
                    change.kind = ConfigurationChangeKind::from_number(number)
                        .ok_or(MalformedChange::UnknownType(number))?;
                }
                (3, Value::Scalar(id)) => change.node_id = NodeId(id),
                (4, Value::Bytes(context)) => change.context = Some(context),
                (1..=4, _) => return Err(MalformedChange::WireType { field }),
                _ => {}
            }
        }
        Ok(change)
    }

    /// The same change in the raft crate's numbering; `None` if the configuration stays as it is.
    pub(crate) fn to_raft(&self) -> Option<eraftpb::ConfChange> {
        let kind = match self.kind {
            ConfigurationChangeKind::AddNode => eraftpb::ConfChangeType::AddNode,
            ConfigurationChangeKind::RemoveNode => eraftpb::ConfChangeType::RemoveNode,
            ConfigurationChangeKind::AddLearnerNode => eraftpb::ConfChangeType::AddLearnerNode,
            ConfigurationChangeKind::UpdateNode => return None,
        };
        let mut change = eraftpb::ConfChange::default();
        change.set_change_type(kind);
        change.node_id = self.node_id.0;
        Some(change)
    }
}

/// Why the data of a configuration entry cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum MalformedChange {
    /// The bytes end inside a field, or a number is longer than 64 bits.
    #[error("configuration change is cut short or malformed at byte {at}")]
    Cut {
        /// Offset in the data.
        at: usize,
    },
    /// A known field has a form it cannot have.
    #[error("field {field} of a configuration change has the wrong wire type")]
    WireType {
        /// Number of the field.
        field: u64,
    },
    /// A type that no etcd version writes.
    #[error("configuration change of unknown type {0}; known are 0 to 3")]
    UnknownType(u64),
}

/// A 64-bit number needs at most ten groups of seven bits.
const VARINT_BYTES_MAX: usize = 10;
const WIRE_VARINT: u8 = 0;
const WIRE_FIXED64: u8 = 1;
const WIRE_BYTES: u8 = 2;
const WIRE_FIXED32: u8 = 5;

fn put_scalar(out: &mut BytesMut, field: u64, value: u64) {
    put_varint(out, field << 3 | u64::from(WIRE_VARINT));
    put_varint(out, value);
}

fn put_varint(out: &mut BytesMut, mut value: u64) {
    while value >= 0x80 {
        out.extend_from_slice(&[value as u8 | 0x80]);
        value >>= 7;
    }
    out.extend_from_slice(&[value as u8]);
}

enum Value {
    Scalar(u64),
    Bytes(Bytes),
    Skipped,
}

struct Fields<'a> {
    data: &'a Bytes,
    at: usize,
}

impl Fields<'_> {
    fn next(&mut self) -> Result<Option<(u64, Value)>, MalformedChange> {
        if self.at == self.data.len() {
            return Ok(None);
        }
        let key = self.varint()?;
        let value = match (key & 7) as u8 {
            WIRE_VARINT => Value::Scalar(self.varint()?),
            WIRE_BYTES => {
                let length = self.varint()?;
                Value::Bytes(self.take(length)?)
            }
            WIRE_FIXED64 => self.take(8).map(|_| Value::Skipped)?,
            WIRE_FIXED32 => self.take(4).map(|_| Value::Skipped)?,
            _ => return Err(MalformedChange::Cut { at: self.at }),
        };
        Ok(Some((key >> 3, value)))
    }

    fn varint(&mut self) -> Result<u64, MalformedChange> {
        let start = self.at;
        let cut = MalformedChange::Cut { at: start };
        let mut value = 0u64;
        for group in 0..VARINT_BYTES_MAX {
            let Some(&byte) = self.data.get(start + group) else {
                return Err(cut);
            };
            // The tenth group holds the one bit that is left.
            if group == VARINT_BYTES_MAX - 1 && byte > 1 {
                return Err(cut);
            }
            value |= u64::from(byte & 0x7f) << (7 * group);
            if byte < 0x80 {
                self.at = start + group + 1;
                return Ok(value);
            }
        }
        Err(cut)
    }

    fn take(&mut self, length: u64) -> Result<Bytes, MalformedChange> {
        let rest = self.data.len() - self.at;
        let length = usize::try_from(length)
            .ok()
            .filter(|length| *length <= rest);
        let Some(length) = length else {
            return Err(MalformedChange::Cut { at: self.at });
        };
        let taken = self.data.slice(self.at..self.at + length);
        self.at += length;
        Ok(taken)
    }
}
