//! The log as the core sees it: the entries since the last compaction, in memory. The bytes on disk
//! are the shell's; an entry stands here before it is durable, and the raft crate keeps count of
//! which ones are.

use std::collections::VecDeque;
use std::fmt;

use bytes::Bytes;
use raft::eraftpb;
use raft::{GetEntriesContext, RaftState, Storage, StorageError};

use crate::members::ConfState;
use crate::node::SnapshotMark;

/// Position in the log; the first entry has 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Index(pub u64);

/// Number of an election period.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Term(pub u64);

impl fmt::Display for Index {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// No index or term from outside may reach this: the raft crate adds to them without a check, and no
/// honest log comes near.
pub const INDEX_MAX: u64 = 1 << 62;

/// Applied entries are kept in memory up to this many bytes, for members that lag a little; who lags
/// more needs a snapshot. A member without others keeps none.
pub const LOG_BYTES_KEPT: usize = 64 * 1024 * 1024;

/// What an entry holds, in raft's numbering.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EntryKind {
    /// A command, or nothing: the entry with which a leader opens its term.
    Normal = 0,
    /// A [`crate::ConfigurationChange`].
    ConfigurationChange = 1,
    /// raft's second form of configuration changes, which etcd never writes and refuses to apply.
    ConfigurationChangeV2 = 2,
}

/// One entry of the replicated log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// What `data` is.
    pub kind: EntryKind,
    /// Term of the leader that proposed it.
    pub term: Term,
    /// Position in the log.
    pub index: Index,
    /// Opaque to this crate unless it is a configuration change.
    pub data: Bytes,
}

impl Entry {
    pub(crate) fn from_raft(mut entry: eraftpb::Entry) -> Entry {
        unveil(&mut entry);
        let kind = match entry.entry_type {
            eraftpb::EntryType::EntryNormal => EntryKind::Normal,
            eraftpb::EntryType::EntryConfChange => EntryKind::ConfigurationChange,
            eraftpb::EntryType::EntryConfChangeV2 => EntryKind::ConfigurationChangeV2,
        };
        Entry {
            kind,
            term: Term(entry.term),
            index: Index(entry.index),
            data: entry.data,
        }
    }

    fn to_raft(&self) -> eraftpb::Entry {
        eraftpb::Entry {
            entry_type: match self.kind {
                EntryKind::Normal => eraftpb::EntryType::EntryNormal,
                EntryKind::ConfigurationChange => eraftpb::EntryType::EntryConfChange,
                EntryKind::ConfigurationChangeV2 => eraftpb::EntryType::EntryConfChangeV2,
            },
            term: self.term.0,
            index: self.index.0,
            data: self.data.clone(),
            ..Default::default()
        }
    }

    /// What the entry costs in memory.
    fn bytes(&self) -> usize {
        self.data.len() + size_of::<Entry>()
    }
}

/// Hides the data of a proposed configuration change from the raft crate, whose decoder fails on
/// etcd's AddLearnerNode (3) and takes UpdateNode (2) for adding a learner. The crate then sees an
/// empty change, which passes its only check (that the change is no joint one); the real data travel
/// in `context`, a field that etcd's entries do not have, until the entry leaves the crate.
pub(crate) fn veil(entry: &mut eraftpb::Entry) {
    if entry.entry_type == eraftpb::EntryType::EntryConfChange {
        entry.context = std::mem::take(&mut entry.data);
    }
}

/// Undoes [`veil`] on an entry that leaves the raft crate.
pub(crate) fn unveil(entry: &mut eraftpb::Entry) {
    if !entry.context.is_empty() {
        entry.data = std::mem::take(&mut entry.context);
    }
}

/// What raft must not forget besides the entries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HardState {
    /// The current term.
    pub term: Term,
    /// The id voted for in that term; 0 is nobody, as etcd stores it.
    pub vote: u64,
    /// Highest index known to be committed. It may lag behind the truth after a crash.
    pub commit: Index,
}

impl HardState {
    pub(crate) fn from_raft(state: &eraftpb::HardState) -> HardState {
        HardState {
            term: Term(state.term),
            vote: state.vote,
            commit: Index(state.commit),
        }
    }

    pub(crate) fn to_raft(self) -> eraftpb::HardState {
        eraftpb::HardState {
            term: self.term.0,
            vote: self.vote,
            commit: self.commit.0,
            ..Default::default()
        }
    }
}

/// Where a member that lags needs entries, they are kept beyond [`LOG_BYTES_KEPT`] up to this many bytes:
/// those that follow a snapshot on its way must still be there when it has arrived.
pub const LOG_BYTES_KEPT_FOR_LAGGARDS: usize = 512 * 1024 * 1024;

/// Invariants: `entries` are contiguous and start one above `compacted`; `applied` lies in
/// `compacted ..= last`; `bytes` and `unapplied_bytes` are the sums they are named after.
pub(crate) struct Log {
    compacted: Index,
    compacted_term: Term,
    entries: VecDeque<Entry>,
    bytes: usize,
    applied: Index,
    unapplied_bytes: usize,
    /// The members at `applied`.
    conf_state: ConfState,
    /// Read once by the raft crate, when the node starts.
    initial: RaftState,
}

impl Log {
    /// `entries` must follow `compacted` without a gap.
    pub(crate) fn new(
        compacted: (Index, Term),
        entries: Vec<Entry>,
        initial: RaftState,
        applied: Index,
    ) -> Log {
        let mut log = Log {
            compacted: compacted.0,
            compacted_term: compacted.1,
            entries: VecDeque::new(),
            bytes: 0,
            applied: compacted.0,
            unapplied_bytes: 0,
            conf_state: ConfState::from_raft(&initial.conf_state),
            initial,
        };
        log.append(entries);
        log.advance_applied(applied);
        log
    }

    /// Appends entries; the first one may lie inside the log, whose tail is then replaced.
    pub(crate) fn append(&mut self, entries: Vec<Entry>) {
        let Some(first) = entries.first() else {
            return;
        };
        assert!(
            first.index > self.applied && first.index.0 <= self.last_index().0 + 1,
            "entry {} does not follow a log applied up to {} that ends at {}",
            first.index,
            self.applied,
            self.last_index(),
        );
        let keep = self.position(first.index);
        for dropped in self.entries.drain(keep..) {
            self.bytes -= dropped.bytes();
            self.unapplied_bytes -= dropped.bytes();
        }
        let added: usize = entries.iter().map(Entry::bytes).sum();
        self.bytes += added;
        self.unapplied_bytes += added;
        self.entries.extend(entries);
    }

    /// Puts a snapshot in place of everything.
    pub(crate) fn restore(&mut self, mark: &SnapshotMark) {
        assert!(
            mark.index > self.applied,
            "snapshot {} is older",
            mark.index
        );
        self.entries.clear();
        self.bytes = 0;
        self.unapplied_bytes = 0;
        self.compacted = mark.index;
        self.compacted_term = mark.term;
        self.applied = mark.index;
        self.conf_state = mark.conf_state.clone();
    }

    /// Takes note of the members as of the last applied entry.
    pub(crate) fn set_conf_state(&mut self, conf_state: ConfState) {
        self.conf_state = conf_state;
    }

    /// Takes note that everything up to `applied` has had its effect. What lies behind a snapshot is
    /// known already.
    pub(crate) fn advance_applied(&mut self, applied: Index) {
        if applied <= self.applied {
            return;
        }
        let positions =
            self.position(Index(self.applied.0 + 1))..self.position(Index(applied.0 + 1));
        let done: usize = self.entries.range(positions).map(Entry::bytes).sum();
        self.unapplied_bytes -= done;
        self.applied = applied;
    }

    /// Drops the entries up to `upto` that have been applied, and returns the new last dropped index.
    pub(crate) fn compact(&mut self, upto: Index) -> Index {
        let upto = upto.min(self.applied);
        if upto > self.compacted {
            self.compacted_term = self.held(upto).term;
            let end = self.position(Index(upto.0 + 1));
            for dropped in self.entries.drain(..end) {
                self.bytes -= dropped.bytes();
            }
            self.compacted = upto;
        }
        self.compacted
    }

    /// Drops the oldest applied entries while more than `budget` bytes of applied entries are held, but
    /// those above `needed` only while it is more than `budget_needed`.
    pub(crate) fn compact_to_budget(&mut self, budget: usize, needed: Index, budget_needed: usize) {
        let mut applied_bytes = self.bytes - self.unapplied_bytes;
        let mut upto = self.compacted;
        for entry in &self.entries {
            let budget = match entry.index > needed {
                true => budget_needed,
                false => budget,
            };
            if applied_bytes <= budget || entry.index > self.applied {
                break;
            }
            applied_bytes -= entry.bytes();
            upto = entry.index;
        }
        self.compact(upto);
    }

    pub(crate) fn last_index(&self) -> Index {
        Index(self.compacted.0 + self.entries.len() as u64)
    }

    pub(crate) fn first_held(&self) -> Index {
        Index(self.compacted.0 + 1)
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn unapplied_bytes(&self) -> usize {
        self.unapplied_bytes
    }

    fn position(&self, index: Index) -> usize {
        (index.0 - self.compacted.0 - 1) as usize
    }

    fn held(&self, index: Index) -> &Entry {
        &self.entries[self.position(index)]
    }
}

impl Storage for Log {
    fn initial_state(&self) -> raft::Result<RaftState> {
        Ok(self.initial.clone())
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _context: GetEntriesContext,
    ) -> raft::Result<Vec<eraftpb::Entry>> {
        if low <= self.compacted.0 {
            return Err(StorageError::Compacted.into());
        }
        if high > self.last_index().0 + 1 {
            return Err(StorageError::Unavailable.into());
        }
        let positions = self.position(Index(low))..self.position(Index(high));
        let budget = max_size.into().unwrap_or(u64::MAX);
        let mut found = Vec::with_capacity(positions.len());
        let mut size = 0u64;
        for entry in self.entries.range(positions) {
            size = size.saturating_add(entry.bytes() as u64);
            if size > budget && !found.is_empty() {
                break;
            }
            found.push(entry.to_raft());
        }
        Ok(found)
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        if index == self.compacted.0 {
            return Ok(self.compacted_term.0);
        }
        if index < self.compacted.0 {
            return Err(StorageError::Compacted.into());
        }
        if index > self.last_index().0 {
            return Err(StorageError::Unavailable.into());
        }
        Ok(self.held(Index(index)).term.0)
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.first_held().0)
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(Log::last_index(self).0)
    }

    /// The members and place of the applied state. The state itself is added when the message is sent,
    /// by [`crate::Envelope::with_snapshot`].
    fn snapshot(&self, _request_index: u64, _to: u64) -> raft::Result<eraftpb::Snapshot> {
        if self.applied.0 == 0 {
            return Err(StorageError::SnapshotTemporarilyUnavailable.into());
        }
        let mut snapshot = eraftpb::Snapshot::default();
        let metadata = snapshot.mut_metadata();
        metadata.index = self.applied.0;
        metadata.term = self.term(self.applied.0)?;
        metadata.set_conf_state(self.conf_state.to_raft());
        Ok(snapshot)
    }
}
