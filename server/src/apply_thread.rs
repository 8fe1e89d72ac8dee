//! Owns the state machine: committed entries in, answers and new views out.
//!
//! After each batch of entries the new state is published, then the answers leave; so whoever got
//! an answer finds its effect in every later read. Changes go to `commit_thread` from time to time,
//! and compaction goes on in small steps in between.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use bytes::Bytes;
use consensus::{ConfState, ConfigurationChange, Entry, EntryKind, Envelope, NodeId, SnapshotMark};
use mvcc::{CompactionState, RECENT_BYTES_MAX, Revision};
use state_machine::{
    Answer, Applied, CommandError, Fault, MemberChange, MemberId, Members, Position, RequestId,
    Settings, StateMachine, member_change,
};
use storage::Committed;
use storage::raft_snapshot::RaftSnapshot;
use storage::wal;
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::oneshot;

use crate::auth::Tokens;
use crate::clock;
use crate::commit_thread::{Done, Job};
use crate::lessor::Lessor;
use crate::metrics::Metrics;
use crate::node::Failure;
use crate::peer::Transport;
use crate::raft_thread::{self, to_log_configuration};
use crate::received_database;
use crate::requests::Requests;
use crate::space_return::{self, SpaceReturn};
use crate::views::{State, Views};
use crate::watch::Watches;

/// Keys or records that one step of a compaction looks at: a fraction of a millisecond, during
/// which no entry is applied.
const COMPACTION_STEP: usize = 500;
/// Pause between two steps of a compaction while there is nothing else to do, so that it takes a
/// small share of one core. etcd pauses as long after steps twice the size.
const COMPACTION_PAUSE: Duration = Duration::from_millis(2);
/// Batches of entries applied before the answers leave and a new state is published.
const GATHERED_MAX: usize = 64;
/// Wait when there is nothing to do but listen; any length would do.
const IDLE: Duration = Duration::from_secs(3600);

/// What other threads ask of this one.
pub enum Input {
    /// Committed entries, in order.
    Entries(Vec<Entry>),
    /// A leader's state takes the place of this member's. Its database lies beside ours.
    Install(SnapshotMark),
    /// Send this member's state with this message.
    SendSnapshot(Envelope),
    /// `commit_thread` has finished a job.
    Wake,
    /// Commit what is applied so far, and hand out the committed state.
    Flush(oneshot::Sender<Committed>),
    /// Tell when the database file is as small as it can be.
    Shrink(oneshot::Sender<()>),
    /// Tell when the compaction at this revision has deleted everything.
    AwaitCompaction(Revision, oneshot::Sender<()>),
    /// Answer once everything that came before is applied and published.
    Ping(oneshot::Sender<()>),
    /// Commit what is applied, and stop.
    Stop,
}

/// When to commit, and when to cut the log.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// Longest time that a change waits for its commit.
    pub commit_interval: Duration,
    /// Changes that are worth a commit at once.
    pub commit_operations: u64,
    /// Applied entries between two raft snapshots.
    pub snapshot_count: u64,
    /// Applying one entry longer than this is worth a line in the log.
    pub slow_apply: Duration,
}

/// The thread's state.
pub struct ApplyThread {
    id: NodeId,
    machine: StateMachine,
    settings: Settings,
    /// Folder of the database, where that of a leader's snapshot lies too.
    snapshot_folder: PathBuf,
    transport: Transport,
    failure: UnboundedSender<Failure>,
    pace: Pace,
    inbox: Receiver<Input>,
    raft: SyncSender<raft_thread::Input>,
    jobs: SyncSender<Job>,
    outcomes: Receiver<Result<Done, storage::Fault>>,
    requests: Arc<Requests>,
    views: Arc<Views>,
    lessor: Arc<Lessor>,
    watches: Arc<Watches>,
    tokens: Arc<Tokens>,
    metrics: Arc<Metrics>,
    /// Consensus' configuration as of the last applied entry.
    configuration: ConfState,
    /// Index of the last raft snapshot, made or under way.
    snapshot_index: u64,
    job: Option<RunningJob>,
    /// When the oldest uncommitted change must be committed.
    commit_due: Option<Instant>,
    compaction_due: Option<Instant>,
    flushes: Vec<oneshot::Sender<Committed>>,
    /// Messages that wait for a committed state to go with.
    snapshots_to_send: Vec<Envelope>,
    space_return: SpaceReturn,
    compactions: Vec<(Revision, oneshot::Sender<()>)>,
}

/// What the thread begins with.
pub struct Beginning {
    /// This member.
    pub id: NodeId,
    /// The state found at start.
    pub machine: StateMachine,
    /// How a state is opened.
    pub settings: Settings,
    /// The configuration at its raft snapshot.
    pub configuration: ConfState,
    /// That snapshot's index.
    pub snapshot_index: u64,
    /// Folder of the database.
    pub snapshot_folder: PathBuf,
    /// When space is given back.
    pub space_return: space_return::Pace,
}

/// Channels to the other threads.
pub struct Doors {
    /// To the other members.
    pub transport: Transport,
    /// Is told when this member is removed.
    pub failure: UnboundedSender<Failure>,
    /// What others ask.
    pub inbox: Receiver<Input>,
    /// To `raft_thread`.
    pub raft: SyncSender<raft_thread::Input>,
    /// To `commit_thread`, which takes one job at a time.
    pub jobs: SyncSender<Job>,
    /// From `commit_thread`.
    pub outcomes: Receiver<Result<Done, storage::Fault>>,
    /// Who waits for answers.
    pub requests: Arc<Requests>,
    /// What readers read.
    pub views: Arc<Views>,
    /// Keeps the time of leases.
    pub lessor: Arc<Lessor>,
    /// Tells watchers.
    pub watches: Arc<Watches>,
    /// Knows the tokens.
    pub tokens: Arc<Tokens>,
    /// Counts what happens.
    pub metrics: Arc<Metrics>,
}

/// What `commit_thread` is busy with, and who waits for it.
enum RunningJob {
    Commit {
        flushes: Vec<oneshot::Sender<Committed>>,
        snapshot: Option<RaftSnapshot>,
        to_send: Vec<Envelope>,
    },
    Replace,
    Sweep {
        moved_before: u64,
    },
}

impl ApplyThread {
    /// Begins with what was found at start.
    pub fn new(beginning: Beginning, pace: Pace, doors: Doors) -> ApplyThread {
        let space_return = SpaceReturn::new(beginning.space_return, doors.metrics.clone());
        ApplyThread {
            id: beginning.id,
            machine: beginning.machine,
            settings: beginning.settings,
            snapshot_folder: beginning.snapshot_folder,
            transport: doors.transport,
            failure: doors.failure,
            pace,
            inbox: doors.inbox,
            raft: doors.raft,
            jobs: doors.jobs,
            outcomes: doors.outcomes,
            requests: doors.requests,
            views: doors.views,
            lessor: doors.lessor,
            watches: doors.watches,
            tokens: doors.tokens,
            metrics: doors.metrics,
            configuration: beginning.configuration,
            snapshot_index: beginning.snapshot_index,
            job: None,
            commit_due: None,
            compaction_due: None,
            flushes: Vec::new(),
            snapshots_to_send: Vec::new(),
            space_return,
            compactions: Vec::new(),
        }
    }

    /// Works until it is told to stop.
    pub fn run(mut self) -> Result<(), Fault> {
        loop {
            match self.inbox.recv_timeout(self.next_wait()) {
                Ok(input) => {
                    if !self.gather(input)? {
                        return self.stop();
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return self.stop(),
            }
            self.finish_jobs()?;
            self.answer_compactions();
            self.compact()?;
            self.start_job();
            self.hold_back()?;
        }
    }

    fn next_wait(&self) -> Duration {
        let now = clock::monotonic();
        let (commit_due, sweep_due) = match self.job {
            None => (self.commit_due, self.space_return.next_due(now)),
            Some(_) => (None, None),
        };
        match [commit_due, sweep_due, self.compaction_due]
            .into_iter()
            .flatten()
            .min()
        {
            Some(due) => due.saturating_duration_since(now),
            None => IDLE,
        }
    }

    /// Takes what waits, applies it, publishes, answers; false when it is time to stop.
    fn gather(&mut self, first: Input) -> Result<bool, Fault> {
        let mut answers = Vec::new();
        let mut pings = Vec::new();
        let mut next = Some(first);
        let mut taken = 0;
        let mut last = None;
        let mut going_on = true;
        let mut install = None;
        while let Some(input) = next.take() {
            match input {
                Input::Install(mark) => install = Some(mark),
                Input::SendSnapshot(envelope) => self.snapshots_to_send.push(envelope),
                Input::Entries(entries) => {
                    self.apply_all(&entries, &mut answers)?;
                    last = entries.last().map(|entry| entry.index).or(last);
                }
                Input::Wake => {}
                Input::Flush(waiting) => self.flushes.push(waiting),
                Input::Shrink(waiting) => self.space_return.ask(waiting),
                Input::AwaitCompaction(at, waiting) => self.compactions.push((at, waiting)),
                Input::Ping(reply) => pings.push(reply),
                Input::Stop => going_on = false,
            }
            taken += 1;
            if going_on && install.is_none() && taken < GATHERED_MAX {
                next = self.inbox.try_recv().ok();
            }
        }
        if let Some(last) = last {
            self.lessor.follow(self.machine.take_lease_changes());
            self.tokens.follow(self.machine.take_auth_changes());
            self.publish();
            let changes = self.machine.take_changes();
            self.watches.publish(self.machine.view(), changes);
            // Consensus takes one change of the members at a time: whoever is answered may ask for the
            // next one. The raft thread ends before this one only when the member stops.
            let _ = self.raft.send(raft_thread::Input::Applied(last));
            for applied in answers {
                self.requests.answer(applied);
            }
        }
        for reply in pings {
            // Whoever asked may have given up.
            let _ = reply.send(());
        }
        if let Some(mark) = install {
            self.install(&mark)?;
        }
        Ok(going_on)
    }

    fn apply_all(&mut self, entries: &[Entry], answers: &mut Vec<Applied>) -> Result<(), Fault> {
        let mut started = clock::monotonic();
        for entry in entries {
            let applied = self.apply(entry)?;
            let ended = clock::monotonic();
            let took = ended - started;
            started = ended;
            if let Some(applied) = &applied
                && let Some(operation) = applied.operation
            {
                let success = applied.result.is_ok();
                let metric = self.metrics.server.apply_duration(operation, success);
                metric.observe(took.as_secs_f64());
            }
            answers.extend(applied);
            if took > self.pace.slow_apply {
                self.metrics.server.slow_apply.inc();
                tracing::warn!(
                    took = ?took, expected_duration = ?self.pace.slow_apply, index = entry.index.0,
                    "apply request took too long"
                );
            }
        }
        Ok(())
    }

    fn apply(&mut self, entry: &Entry) -> Result<Option<Applied>, Fault> {
        let position = Position {
            index: entry.index.0,
            term: entry.term.0,
        };
        match entry.kind {
            EntryKind::Normal => self.machine.apply(position, &entry.data),
            EntryKind::ConfigurationChange => {
                self.apply_configuration(position, &entry.data).map(Some)
            }
            EntryKind::ConfigurationChangeV2 => {
                let source = CommandError::Unsupported("configuration change, second form");
                Err(Fault::Entry {
                    index: position.index,
                    source,
                })
            }
        }
    }

    /// Members change first here, if the change fits, then in consensus.
    fn apply_configuration(&mut self, position: Position, data: &Bytes) -> Result<Applied, Fault> {
        let malformed = |what: String| Fault::Entry {
            index: position.index,
            source: CommandError::Malformed(what),
        };
        let change =
            ConfigurationChange::decode(data).map_err(|error| malformed(error.to_string()))?;
        let context = change.context.clone().unwrap_or_default();
        let member_change =
            member_change(change.kind as i32, change.node_id.0, &context).map_err(|source| {
                Fault::Entry {
                    index: position.index,
                    source,
                }
            })?;
        let id = RequestId(change.id);
        let is_new = position.index > self.machine.applied().index;
        let result = self
            .machine
            .apply_member_change(position, member_change.clone());
        let (reply, configuration) = sync_channel(1);
        let change = result.is_ok().then_some(change);
        let _ = self
            .raft
            .send(raft_thread::Input::Configuration { change, reply });
        if let Ok(configuration) = configuration.recv() {
            self.configuration = configuration;
        }
        if is_new && result.is_ok() {
            let ids = |ids: &[NodeId]| ids.iter().map(|id| MemberId(id.0)).collect::<Vec<_>>();
            let (voters, learners) = (
                ids(&self.configuration.voters),
                ids(&self.configuration.learners),
            );
            self.machine.set_configuration(&voters, &learners);
            self.tell_transport(member_change);
        }
        let revision = self.machine.store().revision();
        Ok(Applied {
            id,
            operation: None,
            result: result.map(|()| Answer::Done),
            revision,
        })
    }

    /// The transport reaches exactly the other members.
    fn tell_transport(&self, change: MemberChange) {
        match change {
            MemberChange::Add(member) if member.id.0 != self.id.0 => {
                self.transport
                    .add_peer(NodeId(member.id.0), &member.peer_urls);
            }
            MemberChange::Update(member) if member.id.0 != self.id.0 => {
                self.transport
                    .update_peer(NodeId(member.id.0), &member.peer_urls);
            }
            MemberChange::Remove(id) if id.0 == self.id.0 => {
                // Whoever listened is gone only when the member stops anyway.
                let _ = self.failure.send(Failure::Removed);
            }
            MemberChange::Remove(id) => self.transport.remove_peer(NodeId(id.0)),
            _ => {}
        }
    }

    /// Goes on from a leader's state. What was applied here and not there does not exist: the leader has
    /// committed all that we have.
    fn install(&mut self, mark: &SnapshotMark) -> Result<(), Fault> {
        // 1. The database, once the one before is at rest.
        while self.job.is_some() {
            match self.outcomes.recv() {
                Ok(outcome) => self.finish_job(outcome?)?,
                Err(_) => return Ok(()),
            }
        }
        let name = received_database::file_name(wal::Index(mark.index.0));
        let received = self.snapshot_folder.join(name);
        self.start(Job::Replace(received), RunningJob::Replace);
        let committed = match self.outcomes.recv() {
            Ok(outcome) => outcome?.committed,
            Err(_) => return Ok(()),
        };
        self.job = None;

        // 2. What is in it.
        let seen = self.machine.view().revision();
        let others = self.machine.members();
        self.machine = StateMachine::open(committed, self.settings)?;
        self.machine.set_applied(Position {
            index: mark.index.0,
            term: mark.term.0,
        })?;
        self.configuration = mark.conf_state.clone();
        self.snapshot_index = mark.index.0;
        self.commit_due = None;
        self.compaction_due = None;
        self.space_return.start_over();

        // 3. Those who follow it.
        self.meet(&others);
        self.lessor.start_over(self.machine.leases());
        self.publish();
        let revision = self.machine.view().revision();
        self.watches.skip_to(seen.next(), revision);
        let _ = self.raft.send(raft_thread::Input::Applied(mark.index));
        tracing::info!(
            index = mark.index.0,
            revision = revision.0,
            "goes on from a leader's snapshot"
        );
        Ok(())
    }

    /// Makes the transport know the members of now in place of those of before.
    fn meet(&self, before: &Members) {
        let members = self.machine.members();
        for member in members.iter().filter(|member| member.id.0 != self.id.0) {
            let id = NodeId(member.id.0);
            match before.get(member.id) {
                None => self.transport.add_peer(id, &member.peer_urls),
                Some(old) if old.peer_urls != member.peer_urls => {
                    self.transport.update_peer(id, &member.peer_urls);
                }
                Some(_) => {}
            }
        }
        for gone in before.iter().filter(|old| members.get(old.id).is_none()) {
            self.transport.remove_peer(NodeId(gone.id.0));
        }
    }

    fn publish(&mut self) {
        self.metrics
            .server
            .proposals_applied
            .set(self.machine.applied().index);
        self.views.publish(State::of(&mut self.machine));
    }

    /// Takes in what `commit_thread` has done.
    fn finish_jobs(&mut self) -> Result<(), Fault> {
        while let Ok(outcome) = self.outcomes.try_recv() {
            self.finish_job(outcome?)?;
        }
        Ok(())
    }

    fn finish_job(&mut self, done: Done) -> Result<(), Fault> {
        let Done {
            committed,
            sweep,
            took,
        } = done;
        match self.job.take().expect("an outcome follows a job") {
            RunningJob::Replace => unreachable!("whoever replaces waits for it"),
            RunningJob::Commit {
                flushes,
                snapshot,
                to_send,
            } => {
                self.machine.store().batch_committed(committed.clone())?;
                for envelope in to_send {
                    self.transport.send_snapshot(envelope, committed.clone());
                }
                for waiting in flushes {
                    // Whoever waited may have gone meanwhile.
                    let _ = waiting.send(committed.clone());
                }
                if let Some(snapshot) = snapshot {
                    let _ = self.raft.send(raft_thread::Input::SaveSnapshot(snapshot));
                }
            }
            RunningJob::Sweep { moved_before } => {
                self.machine.store().file_rewritten(committed.clone())?;
                let sweep = sweep.expect("the job was a sweep");
                self.space_return.moved(sweep.moved_pages() - moved_before);
                let now = clock::monotonic();
                // Whoever waits for the end reads the new size then.
                self.publish();
                self.space_return.give(now, sweep, took, &committed);
            }
        }
        self.publish();
        Ok(())
    }

    /// Tells those who wait for a compaction that all it had to delete is gone, durably.
    fn answer_compactions(&mut self) {
        let finished = self.machine.store().compaction_finished();
        for (_, waiting) in self
            .compactions
            .extract_if(.., |(at, _)| Some(*at) <= finished)
        {
            let _ = waiting.send(());
        }
    }

    /// Hands the next job to `commit_thread`, if it is free and there is one.
    fn start_job(&mut self) {
        if self.commit_due.is_none() && self.machine.has_batch() {
            self.commit_due = Some(clock::monotonic() + self.pace.commit_interval);
        }
        if self.job.is_some() {
            return;
        }
        if self.is_commit_due() {
            self.start_commit();
            return;
        }
        let committed = self.machine.store().committed();
        let now = clock::monotonic();
        if let Some((sweep, pages)) = self.space_return.take(now, committed) {
            let moved_before = sweep.moved_pages();
            self.start(Job::Sweep(sweep, pages), RunningJob::Sweep { moved_before });
        }
    }

    fn is_commit_due(&mut self) -> bool {
        let store = self.machine.store();
        !self.flushes.is_empty()
            || !self.snapshots_to_send.is_empty()
            || store.wants_commit()
            || store.batch().operations() as u64 >= self.pace.commit_operations
            || store.compaction_state() == CompactionState::WaitsForCommit
            || self.commit_due.is_some_and(|due| due <= clock::monotonic())
    }

    fn start_commit(&mut self) {
        let position = self.machine.applied();
        let snapshot =
            (position.index >= self.snapshot_index + self.pace.snapshot_count).then(|| {
                self.snapshot_index = position.index;
                RaftSnapshot {
                    index: wal::Index(position.index),
                    term: wal::Term(position.term),
                    conf_state: to_log_configuration(&self.configuration),
                    data: self.machine.members().to_v2_tree(position.index),
                }
            });
        let to_send = self.snapshots_of(position);
        let batch = self.machine.take_batch();
        self.commit_due = None;
        let running = RunningJob::Commit {
            flushes: std::mem::take(&mut self.flushes),
            snapshot,
            to_send,
        };
        self.start(Job::Commit(batch), running);
    }

    /// The messages that wait for a state, with that of now.
    fn snapshots_of(&mut self, position: Position) -> Vec<Envelope> {
        let waiting = std::mem::take(&mut self.snapshots_to_send);
        if waiting.is_empty() {
            return waiting;
        }
        let mark = SnapshotMark {
            index: consensus::Index(position.index),
            term: consensus::Term(position.term),
            conf_state: self.configuration.clone(),
        };
        let data = self.machine.members().to_v2_tree(position.index);
        let with = |envelope: Envelope| envelope.with_snapshot(&mark, data.clone());
        waiting.into_iter().map(with).collect()
    }

    fn start(&mut self, job: Job, running: RunningJob) {
        // `commit_thread` ends early only after a fault, which comes out of `outcomes`.
        let _ = self.jobs.send(job);
        self.job = Some(running);
    }

    /// Carries a running compaction on by one step, if the last one is long enough ago.
    fn compact(&mut self) -> Result<(), Fault> {
        if self.machine.store().compaction_state() != CompactionState::Runs {
            self.compaction_due = None;
            return Ok(());
        }
        let now = clock::monotonic();
        if self.compaction_due.is_some_and(|due| due > now) {
            return Ok(());
        }
        self.machine.store().compact_step(COMPACTION_STEP)?;
        self.compaction_due = Some(now + COMPACTION_PAUSE);
        Ok(())
    }

    /// Waits for the commit under way when too much stands in memory uncommitted.
    fn hold_back(&mut self) -> Result<(), Fault> {
        while self.machine.store().recent_bytes() >= RECENT_BYTES_MAX && self.job.is_some() {
            match self.outcomes.recv() {
                Ok(outcome) => self.finish_job(outcome?)?,
                Err(_) => return Ok(()),
            }
            self.start_job();
        }
        Ok(())
    }

    /// Commits what is applied.
    fn stop(mut self) -> Result<(), Fault> {
        while self.job.is_some() || self.machine.has_batch() {
            if self.job.is_none() {
                self.start_commit();
            }
            match self.outcomes.recv() {
                Ok(outcome) => self.finish_job(outcome?)?,
                Err(_) => return Ok(()),
            }
        }
        self.requests.stop();
        Ok(())
    }
}
