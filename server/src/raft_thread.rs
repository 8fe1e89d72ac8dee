//! Owns consensus and the log: gathers what waits, decides, persists, hands on what is committed.
//!
//! Everything that waits is proposed together, appended together and synced once, while the messages of a
//! leader are on their way to the other members; those of a follower leave after the sync. An entry
//! reaches `apply_thread`, and so its answer, only when it is durable here and on a quorum.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender};
use std::time::{Duration, Instant};

use bytes::Bytes;
use consensus::{
    ConfState, ConfigurationChange, Envelope, EnvelopeKind, Node, NodeId, Progress, ProposeError,
    SnapshotReceived, Work,
};
use state_machine::RequestId;
use storage::disk::Disk;
use storage::raft_snapshot::{self, RaftSnapshot};
use storage::{Fault, wal};
use tokio::sync::oneshot;

use crate::apply_thread;
use crate::clock;
use crate::doubtful::Doubtful;
use crate::linearizable::{Reads, Waiting};
use crate::metrics::Metrics;
use crate::peer::Transport;
use crate::requests::{NoAnswer, QUEUE_LENGTH_MAX, Requests};
use crate::views::ConsensusState;

/// Inputs taken in one go, so that a flood of proposals cannot keep the log from its sync for ever.
const GATHERED_MAX: usize = 4096;
/// Bytes of proposals taken in one go: about what a disk writes in a few milliseconds.
const GATHERED_BYTES_MAX: usize = 8 << 20;
/// A sync of the log that takes longer than this is worth a line; etcd's value.
const SLOW_SYNC: Duration = Duration::from_secs(1);

/// What other threads ask of this one.
pub enum Input {
    /// Put these bytes into the log.
    Propose {
        /// Who waits.
        id: RequestId,
        /// An encoded request.
        data: Bytes,
    },
    /// Put a change of the members into the log.
    ProposeConfiguration {
        /// Who waits.
        id: RequestId,
        /// What is to change.
        change: ConfigurationChange,
    },
    /// Find out what a linearizable read must see.
    Read(Waiting),
    /// A message of another member.
    Step(Envelope),
    /// A message to this member could not be delivered.
    Unreachable(NodeId),
    /// This member's host answers that nobody listens there any more.
    Gone(NodeId),
    /// A snapshot for this member was delivered, or could not be.
    SnapshotSent(NodeId, bool),
    /// Hand leadership over to this member.
    HandOver(NodeId),
    /// Tell how far the members are, as the leader sees it; nothing from others.
    Progress(oneshot::Sender<Vec<Progress>>),
    /// `apply_thread` has applied everything up to this index.
    Applied(consensus::Index),
    /// `apply_thread` has checked a configuration change: `None` when it was refused and is void.
    Configuration {
        /// The change.
        change: Option<ConfigurationChange>,
        /// Takes the configuration after it.
        reply: SyncSender<ConfState>,
    },
    /// The database holds everything up to a snapshot's index: the log before it may go.
    SaveSnapshot(RaftSnapshot),
    /// Answer through `apply_thread`, as a proof that both work.
    Ping(oneshot::Sender<()>),
    /// Stop, with everything written.
    Stop,
}

/// Where the files of the log lie, and how many of them stay.
pub struct LogFiles {
    /// The disk.
    pub disk: Arc<dyn Disk>,
    /// Folder of the raft snapshots.
    pub snapshot_folder: PathBuf,
    /// Log segments kept; 0 keeps all.
    pub segments_max: usize,
    /// Entries that stay in memory behind a raft snapshot, for members that are a little behind.
    pub entries_kept: u64,
    /// Raft snapshots kept; 0 keeps all.
    pub snapshots_max: usize,
}

/// The thread's state.
pub struct RaftThread {
    /// The core.
    pub node: Node,
    /// The write-ahead log.
    pub log: wal::Log,
    /// Its files.
    pub files: LogFiles,
    /// What others ask.
    pub inbox: Receiver<Input>,
    /// Takes committed entries. Unbounded, but consensus refuses proposals while too many entries
    /// are not applied.
    pub apply: Sender<apply_thread::Input>,
    /// Carries messages to the other members.
    pub transport: Transport,
    /// Who waits for a linearizable read.
    pub reads: Reads,
    /// Proposals that a leader may have taken with it.
    pub doubtful: Doubtful,
    /// Proposals that wait for a leader.
    pub held: VecDeque<Input>,
    /// Who waits.
    pub requests: Arc<Requests>,
    /// Where consensus stands, for all to see.
    pub state: Arc<ConsensusState>,
    /// Time of one tick.
    pub heartbeat_interval: Duration,
    /// Counts what happens.
    pub metrics: Arc<Metrics>,
    /// A commit index that no entry was written with yet; it goes out with the next ones.
    pub unwritten: Option<consensus::HardState>,
}

impl RaftThread {
    /// Works until it is told to stop.
    pub fn run(mut self) -> Result<(), Fault> {
        self.campaign_if_alone();
        self.carry_out()?;
        let mut next_tick = clock::monotonic() + self.heartbeat_interval;
        loop {
            let wait = next_tick.saturating_duration_since(clock::monotonic());
            match self.inbox.recv_timeout(wait) {
                Ok(input) => {
                    if !self.gather(input)? {
                        return self.stop();
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return self.stop(),
            }
            // Under load there is always an input, and never a timeout.
            if clock::monotonic() >= next_tick {
                next_tick = self.tick(next_tick)?;
            }
            self.carry_out()?;
        }
    }

    /// Takes all that waits; false when it is time to stop.
    fn gather(&mut self, first: Input) -> Result<bool, Fault> {
        let mut bytes = 0;
        let mut next = Some(first);
        let mut taken = 0;
        while let Some(input) = next {
            match input {
                Input::Propose { .. } | Input::ProposeConfiguration { .. } => {
                    bytes += self.propose_or_hold(input);
                }
                Input::Read(waiting) => self.reads.wait(waiting),
                Input::Step(envelope) => {
                    bytes += envelope.entry_bytes();
                    self.step(envelope);
                }
                Input::Unreachable(id) => self.node.report_unreachable(id),
                Input::Gone(id) => self.node.report_gone(id),
                Input::SnapshotSent(id, success) => self.node.report_snapshot(id, success),
                Input::HandOver(to) => self.node.transfer_leader(to),
                Input::Progress(reply) => {
                    // Whoever asked may have given up.
                    let _ = reply.send(self.node.progress());
                }
                Input::Applied(index) => self.applied(index),
                Input::Configuration { change, reply } => {
                    let configuration = self
                        .node
                        .apply_configuration(change.as_ref())
                        .expect("apply_thread refuses what would leave no voter");
                    // Whether reads need a quorum must be known before anybody else can lead.
                    self.state.store(&self.node.status());
                    // The receiver waits for nothing else.
                    let _ = reply.send(configuration);
                }
                Input::SaveSnapshot(snapshot) => self.save_snapshot(&snapshot)?,
                Input::Ping(reply) => {
                    // As with entries: a stopped apply_thread has told why.
                    let _ = self.apply.send(apply_thread::Input::Ping(reply));
                }
                Input::Stop => return Ok(false),
            }
            taken += 1;
            let more = taken < GATHERED_MAX && bytes < GATHERED_BYTES_MAX;
            next = if more {
                self.inbox.try_recv().ok()
            } else {
                None
            };
        }
        Ok(true)
    }

    /// The bytes that this adds to the log.
    fn propose_or_hold(&mut self, input: Input) -> usize {
        if self.state.leader() != 0 {
            return self.propose(input);
        }
        // Elections are short; whoever waits too long gives up by itself.
        if self.held.len() < QUEUE_LENGTH_MAX {
            self.held.push_back(input);
        } else if let Input::Propose { id, .. } | Input::ProposeConfiguration { id, .. } = input {
            self.refuse(id, &ProposeError::NoLeader);
        }
        0
    }

    fn propose(&mut self, input: Input) -> usize {
        let (id, length, proposed) = match input {
            Input::Propose { id, data } => (id, data.len(), self.node.propose(data)),
            Input::ProposeConfiguration { id, change } => {
                (id, 0, self.node.propose_configuration(&change))
            }
            _ => unreachable!("only proposals come here"),
        };
        match proposed {
            Ok(()) => {
                let requests = &self.requests;
                self.doubtful.given(id, |id| requests.is_waiting(id));
            }
            Err(error) => self.refuse(id, &error),
        }
        length
    }

    /// Proposes what was held back, once there is a leader again.
    fn propose_held(&mut self) {
        if self.state.leader() == 0 {
            return;
        }
        for input in std::mem::take(&mut self.held) {
            let (Input::Propose { id, .. } | Input::ProposeConfiguration { id, .. }) = &input
            else {
                unreachable!("only proposals are held back");
            };
            if self.requests.is_waiting(*id) {
                self.propose(input);
            }
        }
    }

    fn step(&mut self, envelope: Envelope) {
        let from = envelope.from();
        if let Err(refusal) = self.node.step(envelope) {
            self.metrics.server.messages_refused.inc();
            tracing::warn!(%from, %refusal, "refused a message of another member");
        }
    }

    fn applied(&mut self, index: consensus::Index) {
        self.node.applied(index);
        for id in self.doubtful.lost(index) {
            self.requests.refuse(id, NoAnswer::LeaderFailed);
        }
        if self.state.leader() == 0 {
            // At start the members come out of the log, and only then is there somebody to elect.
            self.campaign_if_alone();
        }
    }

    /// Nobody else could lead, so there is nothing to wait for.
    fn campaign_if_alone(&mut self) {
        let status = self.node.status();
        if status.voters == [status.id] {
            self.node.campaign();
        }
    }

    fn refuse(&self, id: RequestId, error: &ProposeError) {
        self.metrics.server.proposals_failed.inc();
        let reason = match error {
            ProposeError::NoLeader => NoAnswer::NoLeader,
            ProposeError::TooLarge { .. } => NoAnswer::TooLarge,
            _ => NoAnswer::TooManyRequests,
        };
        self.requests.refuse(id, reason);
    }

    /// Does whatever consensus asks for until it asks for nothing more.
    fn carry_out(&mut self) -> Result<(), Fault> {
        self.reads.ask(&mut self.node);
        loop {
            while let Some(mut work) = self.node.work() {
                self.send(std::mem::take(&mut work.messages));
                self.hand_on(std::mem::take(&mut work.committed));
                self.persist(&work)?;
                self.node.persisted(work.number);
                if let Some(received) = work.snapshot {
                    // As with entries: a stopped apply_thread has told why.
                    let _ = self.apply.send(apply_thread::Input::Install(received.mark));
                }
                self.send(work.messages_after_sync);
                self.reads.answer(&work.reads);
            }
            if !self.note_status() {
                return Ok(());
            }
            self.reads.give_up();
            self.reads.ask(&mut self.node);
            self.propose_held();
        }
    }

    fn hand_on(&mut self, committed: Vec<consensus::Entry>) {
        if !committed.is_empty() {
            self.doubtful.committed(&committed);
            // A stopped apply_thread has told why; this thread is told to stop next.
            let _ = self.apply.send(apply_thread::Input::Entries(committed));
        }
    }

    /// Snapshots leave through `apply_thread`, which knows the state that they bring.
    fn send(&self, envelopes: Vec<Envelope>) {
        let is_snapshot = |envelope: &Envelope| envelope.kind() == EnvelopeKind::Snapshot;
        if !envelopes.iter().any(is_snapshot) {
            if !envelopes.is_empty() {
                self.transport.send(envelopes);
            }
            return;
        }
        let (snapshots, others): (Vec<_>, Vec<_>) = envelopes.into_iter().partition(is_snapshot);
        self.transport.send(others);
        for envelope in snapshots {
            let _ = self.apply.send(apply_thread::Input::SendSnapshot(envelope));
        }
    }

    /// Tells all where consensus stands; whether there is another leader than before.
    fn note_status(&mut self) -> bool {
        let status = self.node.status();
        let leader = status.leader.map_or(0, |id| id.0);
        let has_changed = leader != self.state.leader();
        if has_changed && leader != 0 {
            self.doubtful.leader_changed(status.term);
            self.metrics.server.leader_changes_seen.inc();
            tracing::info!(
                leader = format!("{leader:x}"),
                term = status.term.0,
                "there is a leader"
            );
        } else if has_changed {
            tracing::warn!(term = status.term.0, "there is no leader");
        }
        self.state.store(&status);
        has_changed
    }

    fn persist(&mut self, work: &Work) -> Result<(), Fault> {
        if let Some(state) = work.hard_state {
            self.unwritten = Some(state);
        }
        if let Some(received) = &work.snapshot {
            self.save_received(received)?;
        }
        if work.entries.is_empty() && !work.must_sync {
            return Ok(());
        }
        let entries: Vec<wal::Entry> = work.entries.iter().map(to_log_entry).collect();
        let started = clock::monotonic();
        self.log
            .append(&entries, self.unwritten.take().map(to_log_state).as_ref())?;
        let written = clock::monotonic();
        self.metrics
            .disk
            .wal_write_duration
            .observe((written - started).as_secs_f64());
        self.metrics
            .disk
            .wal_write_bytes
            .set(self.log.bytes_written());
        self.log.sync()?;
        let took = clock::monotonic() - written;
        self.metrics
            .disk
            .wal_fsync_duration
            .observe(took.as_secs_f64());
        if took >= SLOW_SYNC {
            tracing::warn!(took = ?took, expected_duration = ?SLOW_SYNC, "slow fdatasync");
        }
        Ok(())
    }

    /// Notes a leader's state, whose database has been stored before its message came here. A crash before
    /// the commit index follows leaves this note without effect.
    fn save_received(&mut self, received: &SnapshotReceived) -> Result<(), Fault> {
        let mark = &received.mark;
        let snapshot = RaftSnapshot {
            index: wal::Index(mark.index.0),
            term: wal::Term(mark.term.0),
            conf_state: to_log_configuration(&mark.conf_state),
            data: received.data.clone(),
        };
        snapshot.save(&*self.files.disk, &self.files.snapshot_folder)?;
        self.log.save_snapshot(&snapshot.mark())?;
        // The mark counts once the commit index has reached it, which must stand before any entry behind.
        self.write_commit()?;
        self.log.release_to(snapshot.index);
        tracing::info!(
            index = mark.index.0,
            term = mark.term.0,
            "received a snapshot"
        );
        Ok(())
    }

    fn tick(&mut self, due: Instant) -> Result<Instant, Fault> {
        self.node.tick();
        self.reads.tick();
        self.held.retain(|input| match input {
            Input::Propose { id, .. } | Input::ProposeConfiguration { id, .. } => {
                self.requests.is_waiting(*id)
            }
            _ => unreachable!("only proposals are held back"),
        });
        self.write_commit()?;
        // A thread that was paused does not make up for ticks: that would only cause elections.
        Ok(clock::monotonic().max(due) + self.heartbeat_interval)
    }

    /// Writes the commit index that waits for the next entries.
    fn write_commit(&mut self) -> Result<(), Fault> {
        match self.unwritten.take() {
            Some(state) => self.log.append(&[], Some(&to_log_state(state))),
            None => Ok(()),
        }
    }

    fn save_snapshot(&mut self, snapshot: &RaftSnapshot) -> Result<(), Fault> {
        // A start passes over marks beyond the commit index in the log; what they replace may be gone then.
        self.write_commit()?;
        snapshot.save(&*self.files.disk, &self.files.snapshot_folder)?;
        self.log.save_snapshot(&snapshot.mark())?;
        self.log.release_to(snapshot.index);
        self.node.compact_log(consensus::Index(
            snapshot.index.0.saturating_sub(self.files.entries_kept),
        ));
        self.log.purge(self.files.segments_max)?;
        raft_snapshot::purge(
            &*self.files.disk,
            &self.files.snapshot_folder,
            self.files.snapshots_max,
        )?;
        tracing::info!(
            index = snapshot.index.0,
            term = snapshot.term.0,
            "saved raft snapshot"
        );
        Ok(())
    }

    fn stop(mut self) -> Result<(), Fault> {
        self.write_commit()?;
        self.log.sync()
    }
}

/// An entry in the log's form.
pub(crate) fn to_log_entry(entry: &consensus::Entry) -> wal::Entry {
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

/// A hard state in the log's form.
pub(crate) fn to_log_state(state: consensus::HardState) -> wal::HardState {
    wal::HardState {
        term: wal::Term(state.term.0),
        vote: wal::NodeId(state.vote),
        commit: wal::Index(state.commit.0),
    }
}

/// A configuration in the log's form.
pub fn to_log_configuration(configuration: &ConfState) -> wal::ConfState {
    let ids = |ids: &[NodeId]| ids.iter().map(|id| wal::NodeId(id.0)).collect();
    wal::ConfState {
        voters: ids(&configuration.voters),
        learners: ids(&configuration.learners),
        ..wal::ConfState::default()
    }
}
