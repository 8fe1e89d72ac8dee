//! A node with its log: what the shell does with each work, and what a crash leaves of it.

use std::collections::VecDeque;

use bytes::Bytes;
use consensus::{
    ConfState, ConfigurationChange, ConfigurationChangeKind, Entry, EntryKind, Envelope, HardState,
    Index, Initial, Node, NodeId, Options, ReadReady, SnapshotMark, Term, Work, WorkNumber,
};

/// A stream of reproducible choices.
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Dice {
        Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % limit
    }

    pub(crate) fn one_in(&mut self, odds: u64) -> bool {
        self.below(odds) == 0
    }
}

#[derive(Clone)]
enum Record {
    Entry(Entry),
    HardState(HardState),
}

/// The log on disk: records in the order of writing, of which the first `durable` are synced.
#[derive(Clone)]
pub(crate) struct Disk {
    records: Vec<Record>,
    durable: usize,
}

impl Disk {
    /// The log with which etcd's members begin: one entry for each of them, committed.
    pub(crate) fn bootstrapped(ids: &[u64]) -> Disk {
        let entry = |(position, id): (usize, &u64)| Entry {
            kind: EntryKind::ConfigurationChange,
            term: Term(1),
            index: Index(position as u64 + 1),
            data: change(ConfigurationChangeKind::AddNode, *id).encode(),
        };
        let mut records: Vec<Record> = ids
            .iter()
            .enumerate()
            .map(entry)
            .map(Record::Entry)
            .collect();
        let commit = Index(ids.len() as u64);
        records.push(Record::HardState(HardState {
            term: Term(1),
            vote: 0,
            commit,
        }));
        let durable = records.len();
        Disk { records, durable }
    }

    /// Loses all but `kept` of the records that were never synced.
    pub(crate) fn lose(&mut self, kept: usize) {
        self.records.truncate(self.durable + kept);
        self.durable = self.records.len();
    }

    pub(crate) fn unsynced(&self) -> usize {
        self.records.len() - self.durable
    }

    pub(crate) fn initial(&self) -> Initial {
        let mut initial = Initial::default();
        for record in &self.records {
            match record {
                Record::Entry(entry) => {
                    initial.entries.truncate(entry.index.0 as usize - 1);
                    initial.entries.push(entry.clone());
                }
                Record::HardState(state) => initial.hard_state = *state,
            }
        }
        initial.snapshot = SnapshotMark::default();
        initial
    }
}

pub(crate) fn change(kind: ConfigurationChangeKind, id: u64) -> ConfigurationChange {
    ConfigurationChange {
        id: 0,
        kind,
        node_id: NodeId(id),
        context: None,
    }
}

pub(crate) fn options(id: u64, seed: u64) -> Options {
    Options {
        id: NodeId(id),
        election_ticks: 10,
        heartbeat_ticks: 1,
        seed,
        applied: Index(0),
    }
}

pub(crate) struct Member {
    pub(crate) node: Node,
    pub(crate) disk: Disk,
    /// Everything delivered since the last start, in order.
    pub(crate) applied: Vec<Entry>,
    pub(crate) members: ConfState,
    pub(crate) outbox: Vec<Envelope>,
    /// Reads that were confirmed.
    pub(crate) reads: Vec<ReadReady>,
    /// The last state taken in from a leader.
    pub(crate) snapshot: Option<(SnapshotMark, Bytes)>,
    /// The work that brought it, until it is durable.
    installing: Option<WorkNumber>,
    /// Works that are written but not reported durable, with the messages that wait for it.
    writing: VecDeque<(WorkNumber, Vec<Envelope>)>,
}

impl Member {
    pub(crate) fn start(id: u64, seed: u64, disk: Disk) -> Member {
        let node = Node::new(&options(id, seed), disk.initial()).expect("the log is sound");
        Member {
            node,
            disk,
            applied: Vec::new(),
            members: ConfState::default(),
            outbox: Vec::new(),
            reads: Vec::new(),
            snapshot: None,
            installing: None,
            writing: VecDeque::new(),
        }
    }

    /// A member alone that leads and has committed the opening entry of its term.
    pub(crate) fn alone() -> Member {
        let mut member = Member::start(1, 7, Disk::bootstrapped(&[1]));
        member.settle();
        member.node.campaign();
        member.settle();
        member
    }

    /// Takes works and makes them durable until nothing waits.
    pub(crate) fn settle(&mut self) {
        loop {
            let took = self.take_work();
            let wrote = self.finish_write();
            if !took && !wrote {
                break;
            }
        }
    }

    /// Takes one work as far as writing it; nothing is synced.
    pub(crate) fn take_work(&mut self) -> bool {
        let Some(work) = self.node.work() else {
            return false;
        };
        self.carry_out(work);
        true
    }

    /// Syncs everything written so far and reports the oldest work durable.
    pub(crate) fn finish_write(&mut self) -> bool {
        let Some((number, messages)) = self.writing.pop_front() else {
            return false;
        };
        self.disk.durable = self.disk.records.len();
        self.node.persisted(number);
        if self.installing == Some(number) {
            self.installing = None;
            let (mark, _) = self.snapshot.as_ref().expect("it came with this work");
            self.node.applied(mark.index);
        }
        self.outbox.extend(messages);
        true
    }

    fn carry_out(&mut self, work: Work) {
        self.outbox.extend(work.messages);
        self.reads.extend(work.reads);
        if let Some(received) = work.snapshot {
            self.snapshot = Some((received.mark, received.data));
            self.installing = Some(work.number);
        }
        for entry in work.committed {
            self.apply(entry);
        }
        self.disk
            .records
            .extend(work.entries.into_iter().map(Record::Entry));
        self.disk
            .records
            .extend(work.hard_state.map(Record::HardState));
        self.writing
            .push_back((work.number, work.messages_after_sync));
    }

    fn apply(&mut self, entry: Entry) {
        if entry.kind == EntryKind::ConfigurationChange {
            let change = ConfigurationChange::decode(&entry.data).expect("we proposed it");
            self.members = self
                .node
                .apply_configuration(Some(&change))
                .expect("a voter is left");
        }
        self.node.applied(entry.index);
        self.applied.push(entry);
    }
}

pub(crate) fn text(value: impl Into<String>) -> Bytes {
    Bytes::from(value.into())
}
