//! A member that runs: what `server/src/raft_thread.rs` does, cut where that thread waits for the disk.
//!
//! [`Member::turn`] is its loop's body. A sync takes time, during which nothing else happens here; so the
//! body ends there, and [`Member::synced`] goes on. What the other threads do stands in [`Applier`].

use std::collections::{BTreeSet, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use consensus::{
    ConfigurationChange, Entry, Envelope, EnvelopeKind, HardState, Index, Node, NodeId, Role,
    SnapshotReceived, Work,
};
use storage::disk::Disk;
use storage::raft_snapshot::{self, RaftSnapshot};
use storage::{Committed, wal};

use crate::applier::{self, Answered, Applier, to_log_configuration};
use crate::planted::Bug;
use crate::reads::{ReadId, Reads};
use crate::scenario::{Micros, Moment};

/// Log segments and raft snapshots that are kept.
const FILES_KEPT: usize = 2;

/// Why a member cannot go on, as its operator would read it.
pub(crate) type Failure = String;

/// What others ask of the part that owns consensus and the log.
pub(crate) enum Input {
    Propose { id: u64, data: Bytes },
    ProposeConfiguration(ConfigurationChange),
    Read(ReadId),
    Step(Envelope),
    SnapshotSent(NodeId, bool),
    HandOver(NodeId),
    Applied(Index),
    SaveSnapshot(RaftSnapshot),
}

/// What a member asks of the world.
pub(crate) enum Effect {
    /// Carry messages.
    Send(Vec<Envelope>),
    /// Carry a message and a database.
    SendSnapshot(Envelope, Committed),
    /// Call [`Member::synced`] when the disk is done.
    SyncBegun(Moment),
    /// Call [`Member::turn`] soon.
    Turn,
    /// Call [`Applier::turn`] soon.
    ApplySoon,
    /// Call [`Applier::turn`] at this time.
    ApplyAt(Micros),
    /// Call [`Applier::job_done`] when the disk is done.
    JobBegun,
    /// Entries are committed, as this member sees it.
    Committed(Vec<Entry>),
    /// A request was answered.
    Answered(Answered),
    /// A request certainly never happens.
    Refused(u64),
    /// What is read now is linearizable.
    ReadReady(ReadId),
    /// A digest of the state at an index.
    Digest(u64, applier::Digest),
    /// By mistake: the log is cut before its time.
    SaveSnapshotEarly(RaftSnapshot),
    /// It has learnt that it was removed.
    Removed,
}

/// Where a member's files lie, and how it goes by them.
#[derive(Clone)]
pub(crate) struct Place {
    pub(crate) id: u64,
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) snapshots: PathBuf,
    /// Entries kept in memory behind a raft snapshot.
    pub(crate) catch_up: u64,
    pub(crate) bug: Option<Bug>,
}

pub(crate) struct Member {
    pub(crate) place: Place,
    pub(crate) node: Node,
    log: wal::Log,
    pub(crate) inbox: VecDeque<Input>,
    held: VecDeque<Input>,
    reads: Reads,
    /// Confirmed reads that wait for an index to be applied.
    confirmed: Vec<(ReadId, Index)>,
    /// A commit index that no entry was written with yet.
    unwritten: Option<HardState>,
    /// Written, and not synced yet.
    persisting: Option<Work>,
    is_tick_due: bool,
    leader: Option<NodeId>,
    /// Requests that somebody waits for.
    pub(crate) waiting: BTreeSet<u64>,
    pub(crate) applier: Applier,
    pub(crate) effects: Vec<Effect>,
}

impl Member {
    pub(crate) fn new(
        place: Place,
        node: Node,
        log: wal::Log,
        first_context: u64,
        applier: Applier,
    ) -> Member {
        let reads = Reads::new(first_context, place.bug);
        Member {
            place,
            node,
            log,
            inbox: VecDeque::new(),
            held: VecDeque::new(),
            reads,
            confirmed: Vec::new(),
            unwritten: None,
            persisting: None,
            is_tick_due: false,
            leader: None,
            waiting: BTreeSet::new(),
            applier,
            effects: Vec::new(),
        }
    }

    pub(crate) fn ask(&mut self, input: Input) {
        self.inbox.push_back(input);
        self.effects.push(Effect::Turn);
    }

    pub(crate) fn is_leader(&self) -> bool {
        self.node.status().role == Role::Leader
    }

    /// Takes all that waits and does what consensus asks for, up to the next sync.
    pub(crate) fn turn(&mut self, now: Micros) -> Result<(), Failure> {
        if self.persisting.is_some() {
            return Ok(());
        }
        if std::mem::take(&mut self.is_tick_due) {
            self.tick_now(now)?;
        }
        self.gather()?;
        if !self.applier.inbox.is_empty() {
            self.effects.push(Effect::ApplySoon);
        }
        self.ask_for_reads(now);
        self.carry_out(now)
    }

    /// The disk is done with what [`Effect::SyncBegun`] told of.
    pub(crate) fn synced(&mut self, now: Micros) -> Result<(), Failure> {
        let Some(work) = self.persisting.take() else {
            return Ok(());
        };
        self.log.sync().map_err(text)?;
        self.finish(work);
        self.carry_out(now)?;
        self.effects.push(Effect::Turn);
        self.effects.push(Effect::ApplySoon);
        Ok(())
    }

    /// A tick that comes during a sync waits for its end; two make one.
    pub(crate) fn tick(&mut self, now: Micros) -> Result<(), Failure> {
        self.is_tick_due = true;
        self.turn(now)
    }

    /// What was committed is applied and can be read: `raft_thread` and `apply_thread` meet here.
    pub(crate) fn apply(&mut self, now: Micros) -> Result<(), Failure> {
        // A change of the members goes to it behind all that it was told before.
        let is_raft_busy = self.persisting.is_some() || !self.inbox.is_empty();
        let raft = applier::Raft {
            node: &mut self.node,
            is_busy: is_raft_busy,
            inbox: &mut self.inbox,
        };
        self.applier.turn(now, raft, &mut self.effects)?;
        self.answer_reads();
        Ok(())
    }

    /// What `commit_thread` was busy with is done.
    pub(crate) fn job_done(&mut self, now: Micros) -> Result<(), Failure> {
        self.applier
            .job_done(now, &mut self.inbox, &mut self.effects)?;
        self.answer_reads();
        self.apply(now)
    }

    fn answer_reads(&mut self) {
        let applied = match self.place.bug {
            Some(Bug::ReadBeforeApplied) => u64::MAX,
            _ => self.applier.published_index,
        };
        let ready = self
            .confirmed
            .extract_if(.., |(_, index)| index.0 <= applied);
        self.effects
            .extend(ready.map(|(read, _)| Effect::ReadReady(read)));
    }

    fn gather(&mut self) -> Result<(), Failure> {
        while let Some(input) = self.inbox.pop_front() {
            match input {
                Input::Propose { .. } | Input::ProposeConfiguration(_) => {
                    self.propose_or_hold(input);
                }
                Input::Read(read) => self.reads.wait(read),
                // A message that cannot be, or that came to somebody who does not know its sender yet.
                Input::Step(envelope) => drop(self.node.step(envelope)),
                Input::SnapshotSent(id, success) => self.node.report_snapshot(id, success),
                Input::HandOver(to) => self.node.transfer_leader(to),
                Input::Applied(index) => self.applied(index),
                Input::SaveSnapshot(snapshot) => self.save_snapshot(&snapshot)?,
            }
        }
        Ok(())
    }

    fn applied(&mut self, index: Index) {
        self.node.applied(index);
        let status = self.node.status();
        if self.leader.is_none() && status.voters == [status.id] {
            self.node.campaign();
        }
    }

    fn propose_or_hold(&mut self, input: Input) {
        match self.leader {
            Some(_) => self.propose(input),
            None => self.held.push_back(input),
        }
    }

    fn propose(&mut self, input: Input) {
        match input {
            Input::Propose { id, data } => {
                if self.node.propose(data).is_err() && self.waiting.remove(&id) {
                    self.effects.push(Effect::Refused(id));
                }
            }
            // Nobody waits for it in the simulation: the members tell what came of it.
            Input::ProposeConfiguration(change) => drop(self.node.propose_configuration(&change)),
            _ => unreachable!("only proposals come here"),
        }
    }

    fn propose_held(&mut self) {
        if self.leader.is_none() {
            return;
        }
        for input in std::mem::take(&mut self.held) {
            let is_waiting = match &input {
                Input::Propose { id, .. } => self.waiting.contains(id),
                _ => true,
            };
            if is_waiting {
                self.propose(input);
            }
        }
    }

    fn ask_for_reads(&mut self, now: Micros) {
        let at_once = self.reads.ask(&mut self.node, now);
        self.confirmed.extend(at_once);
        self.answer_reads();
    }

    /// Does whatever consensus asks for until it asks for nothing more, or a sync is to be waited for.
    fn carry_out(&mut self, now: Micros) -> Result<(), Failure> {
        loop {
            while let Some(mut work) = self.node.work() {
                self.send(std::mem::take(&mut work.messages));
                self.hand_on(std::mem::take(&mut work.committed));
                let must_wait = self.write(&work)?;
                if must_wait {
                    let moment = match work.entries.is_empty() {
                        true => Moment::VoteWritten,
                        false => Moment::EntriesWritten,
                    };
                    self.effects.push(Effect::SyncBegun(moment));
                    if self.place.bug == Some(Bug::AnswersBeforeSync) {
                        self.send(std::mem::take(&mut work.messages_after_sync));
                    }
                    self.persisting = Some(work);
                    return Ok(());
                }
                self.finish(work);
            }
            if !self.note_status() {
                return Ok(());
            }
            self.reads.give_up();
            self.ask_for_reads(now);
            self.propose_held();
        }
    }

    /// The work is durable.
    fn finish(&mut self, work: Work) {
        self.node.persisted(work.number);
        if let Some(received) = work.snapshot {
            self.applier
                .inbox
                .push_back(applier::Input::Install(received.mark));
            self.effects.push(Effect::ApplySoon);
        }
        self.send(work.messages_after_sync);
        let answered = self.reads.answer(&work.reads);
        self.confirmed.extend(answered);
        self.answer_reads();
    }

    fn hand_on(&mut self, committed: Vec<Entry>) {
        if !committed.is_empty() {
            self.effects.push(Effect::Committed(committed.clone()));
            self.applier.take(committed);
            self.effects.push(Effect::ApplySoon);
        }
    }

    fn send(&mut self, envelopes: Vec<Envelope>) {
        let is_snapshot = |envelope: &Envelope| envelope.kind() == EnvelopeKind::Snapshot;
        let (snapshots, others): (Vec<_>, Vec<_>) = envelopes.into_iter().partition(is_snapshot);
        if !others.is_empty() {
            self.effects.push(Effect::Send(others));
        }
        for envelope in snapshots {
            self.applier
                .inbox
                .push_back(applier::Input::SendSnapshot(envelope));
            self.effects.push(Effect::ApplySoon);
        }
    }

    /// Whether there is another leader than before.
    fn note_status(&mut self) -> bool {
        let leader = self.node.status().leader;
        std::mem::replace(&mut self.leader, leader) != leader
    }

    /// Writes what must be durable; whether a sync must follow.
    fn write(&mut self, work: &Work) -> Result<bool, Failure> {
        if let Some(received) = &work.snapshot {
            self.save_received(received)?;
        }
        if let Some(state) = work.hard_state {
            self.unwritten = Some(state);
        }
        if work.snapshot.is_some() {
            self.write_commit()?;
        }
        if work.entries.is_empty() && !work.must_sync {
            return Ok(false);
        }
        let entries: Vec<wal::Entry> = work.entries.iter().map(to_log_entry).collect();
        let state = self.unwritten.take().map(to_log_state);
        self.log.append(&entries, state.as_ref()).map_err(text)?;
        Ok(true)
    }

    fn save_received(&mut self, received: &SnapshotReceived) -> Result<(), Failure> {
        let snapshot = RaftSnapshot {
            index: wal::Index(received.mark.index.0),
            term: wal::Term(received.mark.term.0),
            conf_state: to_log_configuration(&received.mark.conf_state),
            data: received.data.clone(),
        };
        snapshot
            .save(&*self.place.disk, &self.place.snapshots)
            .map_err(text)?;
        self.log.save_snapshot(&snapshot.mark()).map_err(text)?;
        self.log.release_to(snapshot.index);
        Ok(())
    }

    fn save_snapshot(&mut self, snapshot: &RaftSnapshot) -> Result<(), Failure> {
        self.write_commit()?;
        let (disk, folder) = (&*self.place.disk, &self.place.snapshots);
        snapshot.save(disk, folder).map_err(text)?;
        self.log.save_snapshot(&snapshot.mark()).map_err(text)?;
        self.log.release_to(snapshot.index);
        let kept = snapshot.index.0.saturating_sub(self.place.catch_up);
        self.node.compact_log(Index(kept));
        self.log.purge(FILES_KEPT).map_err(text)?;
        raft_snapshot::purge(disk, folder, FILES_KEPT).map_err(text)?;
        Ok(())
    }

    fn tick_now(&mut self, now: Micros) -> Result<(), Failure> {
        self.node.tick();
        self.reads.tick(now);
        let waiting = &self.waiting;
        self.held.retain(|input| match input {
            Input::Propose { id, .. } => waiting.contains(id),
            _ => true,
        });
        self.write_commit()
    }

    /// [D10] Before the mark of a snapshot, too: a start passes over marks beyond the commit index in the log,
    /// and what came before them may be gone.
    fn write_commit(&mut self) -> Result<(), Failure> {
        let Some(state) = self.unwritten.take() else {
            return Ok(());
        };
        let state = to_log_state(state);
        self.log.append(&[], Some(&state)).map_err(text)
    }
}

pub(crate) fn text(error: impl std::fmt::Display) -> Failure {
    error.to_string()
}

fn to_log_entry(entry: &Entry) -> wal::Entry {
    wal::Entry {
        kind: match entry.kind {
            consensus::EntryKind::Normal => wal::EntryKind::Normal,
            consensus::EntryKind::ConfigurationChange => wal::EntryKind::ConfChange,
            consensus::EntryKind::ConfigurationChangeV2 => wal::EntryKind::ConfChangeV2,
        },
        term: wal::Term(entry.term.0),
        index: wal::Index(entry.index.0),
        data: entry.data.clone(),
    }
}

pub(crate) fn to_log_state(state: HardState) -> wal::HardState {
    wal::HardState {
        term: wal::Term(state.term.0),
        vote: wal::NodeId(state.vote),
        commit: wal::Index(state.commit.0),
    }
}

pub(crate) fn first_records(entries: &[Entry], state: HardState) -> Vec<wal::Record> {
    entries
        .iter()
        .map(|entry| wal::Record::Entry(to_log_entry(entry)))
        .chain([wal::Record::State(to_log_state(state))])
        .collect()
}
