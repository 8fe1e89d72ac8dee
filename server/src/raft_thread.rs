//! Owns consensus and the log: gathers what waits, decides, persists, hands on what is committed.
//!
//! Everything that waits is proposed together, appended together and synced once. An entry reaches
//! `apply_thread`, and so its answer, only after that sync.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender};
use std::time::{Duration, Instant};

use bytes::Bytes;
use consensus::{ConfState, ConfigurationChange, Node, NodeId, ProposeError, Work};
use state_machine::RequestId;
use storage::disk::Disk;
use storage::raft_snapshot::{self, RaftSnapshot};
use storage::{Fault, wal};
use tokio::sync::oneshot;

use crate::apply_thread;
use crate::clock;
use crate::metrics::Metrics;
use crate::requests::{NoAnswer, Requests};
use crate::views::ConsensusState;

/// Inputs taken in one go, so that a flood of proposals cannot keep the log from its sync for ever.
const GATHERED_MAX: usize = 4096;
/// Bytes of proposals taken in one go: about what a disk writes in a few milliseconds.
const GATHERED_BYTES_MAX: usize = 8 << 20;
/// Entries before a snapshot that stay in memory, for members that are a little behind; etcd's value.
const CATCH_UP_ENTRIES: u64 = 5000;
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
        self.node.campaign();
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
                Err(RecvTimeoutError::Timeout) => {
                    next_tick = self.tick(next_tick)?;
                }
                Err(RecvTimeoutError::Disconnected) => return self.stop(),
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
                Input::Propose { id, data } => {
                    bytes += data.len();
                    if let Err(error) = self.node.propose(data) {
                        self.refuse(id, &error);
                    }
                }
                Input::ProposeConfiguration { id, change } => {
                    if let Err(error) = self.node.propose_configuration(&change) {
                        self.refuse(id, &error);
                    }
                }
                Input::Applied(index) => self.applied(index),
                Input::Configuration { change, reply } => {
                    let configuration = self
                        .node
                        .apply_configuration(change.as_ref())
                        .expect("apply_thread refuses what would leave no voter");
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

    fn applied(&mut self, index: consensus::Index) {
        self.node.applied(index);
        if self.state.leader() == 0 {
            // At start the members come out of the log, and only then is there somebody to elect.
            // Consensus ignores this while an election could not be won by this member alone.
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
        while let Some(work) = self.node.work() {
            self.persist(&work)?;
            self.node.persisted(work.number);
            if !work.committed.is_empty() {
                // A stopped apply_thread has told why; this thread is told to stop next.
                let _ = self
                    .apply
                    .send(apply_thread::Input::Entries(work.committed));
            }
        }
        let status = self.node.status();
        let leader = status.leader.map_or(0, |id| id.0);
        if leader != 0 && leader != self.state.leader() {
            self.metrics.server.leader_changes_seen.inc();
        }
        self.state.store(&status);
        Ok(())
    }

    fn persist(&mut self, work: &Work) -> Result<(), Fault> {
        if let Some(state) = work.hard_state {
            self.unwritten = Some(state);
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

    fn tick(&mut self, due: Instant) -> Result<Instant, Fault> {
        self.node.tick();
        if let Some(state) = self.unwritten.take() {
            self.log.append(&[], Some(&to_log_state(state)))?;
        }
        // A thread that was paused does not make up for ticks: that would only cause elections.
        Ok(clock::monotonic().max(due) + self.heartbeat_interval)
    }

    fn save_snapshot(&mut self, snapshot: &RaftSnapshot) -> Result<(), Fault> {
        snapshot.save(&*self.files.disk, &self.files.snapshot_folder)?;
        self.log.save_snapshot(&snapshot.mark())?;
        self.log.release_to(snapshot.index);
        self.node.compact_log(consensus::Index(
            snapshot.index.0.saturating_sub(CATCH_UP_ENTRIES),
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
        if let Some(state) = self.unwritten.take() {
            self.log.append(&[], Some(&to_log_state(state)))?;
        }
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
