//! The applying side of a member: what `server/src/apply_thread.rs` and `commit_thread.rs` do.
//!
//! A job of the disk is carried out when it begins or when it ends, as the dice decide; in between the
//! applying goes on.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use consensus::{
    ConfState, ConfigurationChange, Entry, EntryKind, Envelope, Index, Node, NodeId, SnapshotMark,
};
use holdfast_tests::dice::Dice;
use mvcc::{CompactionState, KeyHash, View};
use state_machine::{
    Answer, MemberChange, MemberId, Position, Refusal, Settings, StateMachine, member_change,
    schema,
};
use storage::raft_snapshot::RaftSnapshot;
use storage::{Batch, Committed, Store, Sweep, wal};

use crate::member::{self, Effect, Failure, text};
use crate::planted::Bug;
use crate::scenario::{MILLISECOND, Micros, Scenario};
use crate::watches::Watches;

/// Batches of entries applied before the answers leave.
const GATHERED_MAX: usize = 64;
/// Pause between two steps of a compaction.
const COMPACTION_PAUSE: Micros = 2 * MILLISECOND;
/// Pages that one step of a sweep writes.
const SWEEP_PAGES: u64 = 4;
/// Entries from one comparison of whole states to the next.
const DIGEST_EVERY: u64 = 16;

/// How a state is opened, the same for all.
pub(crate) const SETTINGS: Settings = Settings {
    lease_ttl_min: 2,
    persist_lease_checkpoints: false,
    learners_max: 1,
};

pub(crate) enum Input {
    Entries(Vec<Entry>),
    Install(SnapshotMark),
    SendSnapshot(Envelope),
}

/// What came of a request.
pub(crate) struct Answered {
    pub(crate) id: u64,
    pub(crate) result: Result<Answer, Refusal>,
    pub(crate) revision: i64,
}

/// What all members must have alike at an index.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Digest {
    keys: KeyHash,
    members: String,
    leases: Vec<(i64, i64, Vec<String>)>,
    configuration: ConfState,
}

/// The part that owns consensus, as far as applying meets it.
pub(crate) struct Raft<'a> {
    pub(crate) node: &'a mut Node,
    pub(crate) is_busy: bool,
    pub(crate) inbox: &'a mut VecDeque<member::Input>,
}

/// Where applying stands and how it is paced.
pub(crate) struct Pace {
    commit_interval: Micros,
    snapshot_count: u64,
    compaction_step: usize,
    sweeps: bool,
    bug: Option<Bug>,
}

impl Pace {
    pub(crate) fn of(scenario: &Scenario) -> Pace {
        Pace {
            commit_interval: scenario.commit_interval,
            snapshot_count: scenario.snapshot_count,
            compaction_step: scenario.compaction_step,
            sweeps: scenario.sweeps,
            bug: scenario.bug,
        }
    }
}

/// What a member begins with.
pub(crate) struct Beginning {
    pub(crate) id: u64,
    pub(crate) store: Store,
    pub(crate) machine: StateMachine,
    pub(crate) configuration: ConfState,
    pub(crate) snapshot_index: u64,
    pub(crate) snapshots: PathBuf,
}

pub(crate) struct Applier {
    id: u64,
    pub(crate) machine: StateMachine,
    store: Store,
    snapshots: PathBuf,
    pace: Pace,
    dice: Dice,
    pub(crate) inbox: VecDeque<Input>,
    configuration: ConfState,
    snapshot_index: u64,
    job: Option<Job>,
    installing: Option<SnapshotMark>,
    commit_due: Option<Micros>,
    compaction_due: Option<Micros>,
    snapshots_to_send: Vec<Envelope>,
    handed_on: u64,
    pub(crate) watches: Watches,
    /// What readers see.
    pub(crate) view: View,
    /// The last entry that is in it.
    pub(crate) published_index: u64,
}

/// What the disk is busy with.
enum Job {
    Commit {
        snapshot: Option<RaftSnapshot>,
        to_send: Vec<Envelope>,
        work: JobWork<Batch>,
    },
    Sweep(Committed),
    Replace(SnapshotMark, JobWork<PathBuf>),
}

enum JobWork<T> {
    Later(T),
    Done(Committed),
}

/// Where the database of a leader's snapshot lies; `received_database.rs`.
pub(crate) fn received_database(folder: &Path, index: Index) -> PathBuf {
    folder.join(format!("{:016x}.snap.db", index.0))
}

impl Applier {
    pub(crate) fn new(beginning: Beginning, pace: Pace, dice: Dice, watches: Watches) -> Applier {
        let machine = beginning.machine;
        let view = machine.view();
        Applier {
            id: beginning.id,
            store: beginning.store,
            snapshots: beginning.snapshots,
            pace,
            dice,
            inbox: VecDeque::new(),
            configuration: beginning.configuration,
            snapshot_index: beginning.snapshot_index,
            job: None,
            installing: None,
            commit_due: None,
            compaction_due: None,
            snapshots_to_send: Vec::new(),
            handed_on: 0,
            watches,
            view,
            published_index: machine.applied().index,
            machine,
        }
    }

    pub(crate) fn take(&mut self, entries: Vec<Entry>) {
        self.handed_on = entries.last().map_or(self.handed_on, |last| last.index.0);
        self.inbox.push_back(Input::Entries(entries));
    }

    /// The loop's body.
    pub(crate) fn turn(
        &mut self,
        now: Micros,
        mut raft: Raft<'_>,
        effects: &mut Vec<Effect>,
    ) -> Result<(), Failure> {
        if self.installing.is_some() {
            return Ok(());
        }
        if self.pace.bug == Some(Bug::IndexAheadOfData) {
            self.start_job(now, effects)?;
        }
        self.gather(&mut raft, effects)?;
        self.compact(now, effects)?;
        self.start_job(now, effects)
    }

    /// Takes what waits, applies it, publishes, answers. It stops before a change of the members while the
    /// other part cannot take it, and at a leader's state.
    fn gather(&mut self, raft: &mut Raft<'_>, effects: &mut Vec<Effect>) -> Result<(), Failure> {
        let mut answers = Vec::new();
        let mut last = None;
        for _ in 0..GATHERED_MAX {
            match self.inbox.pop_front() {
                None => break,
                Some(Input::SendSnapshot(envelope)) => self.snapshots_to_send.push(envelope),
                Some(Input::Install(mark)) => {
                    self.installing = Some(mark);
                    break;
                }
                Some(Input::Entries(entries)) => {
                    let done = self.apply_all(&entries, raft, &mut answers, effects)?;
                    last = done.checked_sub(1).map(|at| entries[at].index).or(last);
                    if done < entries.len() {
                        self.inbox
                            .push_front(Input::Entries(entries[done..].to_vec()));
                        break;
                    }
                }
            }
        }
        if let Some(last) = last {
            self.publish();
            effects.extend(answers.into_iter().map(Effect::Answered));
            raft.inbox.push_back(member::Input::Applied(last));
            effects.push(Effect::Turn);
        }
        if !self.inbox.is_empty() && self.installing.is_none() && !raft.is_busy {
            effects.push(Effect::ApplySoon);
        }
        Ok(())
    }

    /// How many of the entries are applied.
    fn apply_all(
        &mut self,
        entries: &[Entry],
        raft: &mut Raft<'_>,
        answers: &mut Vec<Answered>,
        effects: &mut Vec<Effect>,
    ) -> Result<usize, Failure> {
        for (done, entry) in entries.iter().enumerate() {
            let is_new = entry.index.0 > self.machine.applied().index;
            match entry.kind {
                EntryKind::Normal => answers.extend(self.apply_normal(entry)?),
                _ if raft.is_busy => return Ok(done),
                _ => self.apply_configuration(entry, raft.node, effects)?,
            }
            if is_new && entry.index.0.is_multiple_of(DIGEST_EVERY) {
                effects.push(Effect::Digest(entry.index.0, self.digest()?));
            }
        }
        Ok(entries.len())
    }

    fn apply_normal(&mut self, entry: &Entry) -> Result<Option<Answered>, Failure> {
        let applied = self
            .machine
            .apply(position(entry), &entry.data)
            .map_err(text)?;
        Ok(applied.map(|applied| Answered {
            id: applied.id.0,
            result: applied.result,
            revision: applied.revision.0,
        }))
    }

    fn apply_configuration(
        &mut self,
        entry: &Entry,
        node: &mut Node,
        effects: &mut Vec<Effect>,
    ) -> Result<(), Failure> {
        let change = ConfigurationChange::decode(&entry.data).map_err(text)?;
        let context = change.context.clone().unwrap_or_default();
        let of_members =
            member_change(change.kind as i32, change.node_id.0, &context).map_err(text)?;
        let is_new = entry.index.0 > self.machine.applied().index;
        let removes_us =
            matches!(&of_members, MemberChange::Remove(removed) if removed.0 == self.id);
        let result = self
            .machine
            .apply_member_change(position(entry), of_members);
        let change = result.is_ok().then_some(change);
        self.configuration = node.apply_configuration(change.as_ref()).map_err(text)?;
        effects.push(Effect::Turn);
        if is_new && result.is_ok() {
            let voters = member_ids(&self.configuration.voters);
            let learners = member_ids(&self.configuration.learners);
            self.machine.set_configuration(&voters, &learners);
            if removes_us {
                effects.push(Effect::Removed);
            }
        }
        Ok(())
    }

    /// What must be alike everywhere.
    pub(crate) fn digest(&self) -> Result<Digest, Failure> {
        let mut leases: Vec<_> = self
            .machine
            .leases()
            .iter()
            .map(|(id, lease)| {
                // Texts of their own: pages that a member's bytes are in change when it is gone.
                let keys = lease.keys().map(|key| key.escape_ascii().to_string());
                (id.0, lease.ttl, keys.collect())
            })
            .collect();
        leases.sort();
        Ok(Digest {
            keys: self.machine.view().hash(None).map_err(text)?,
            members: String::from_utf8_lossy(&self.machine.members().to_json()).into_owned(),
            leases,
            configuration: self.configuration.clone(),
        })
    }

    fn publish(&mut self) {
        self.view = self.machine.view();
        self.published_index = self.machine.applied().index;
        self.machine.take_lease_changes();
        let changes = self.machine.take_changes();
        self.watches.publish(changes);
    }

    fn compact(&mut self, now: Micros, effects: &mut Vec<Effect>) -> Result<(), Failure> {
        if self.machine.store().compaction_state() != CompactionState::Runs {
            self.compaction_due = None;
            return Ok(());
        }
        if self.compaction_due.is_none_or(|due| due <= now) {
            let step = self.pace.compaction_step;
            self.machine.store().compact_step(step).map_err(text)?;
            let due = now + COMPACTION_PAUSE;
            self.compaction_due = Some(due);
            effects.push(Effect::ApplyAt(due));
        }
        Ok(())
    }

    fn start_job(&mut self, now: Micros, effects: &mut Vec<Effect>) -> Result<(), Failure> {
        if self.commit_due.is_none() && self.machine.has_batch() {
            let due = now + self.pace.commit_interval;
            self.commit_due = Some(due);
            effects.push(Effect::ApplyAt(due));
        }
        if self.job.is_some() {
            return Ok(());
        }
        let job = if let Some(mark) = self.installing.clone() {
            self.begin_replacing(mark)?
        } else if self.is_commit_due(now) {
            self.begin_commit(effects)?
        } else if self.pace.sweeps && self.dice.one_in(40) {
            self.sweep()?
        } else {
            return Ok(());
        };
        self.job = Some(job);
        effects.push(Effect::JobBegun);
        Ok(())
    }

    fn is_commit_due(&mut self, now: Micros) -> bool {
        let store = self.machine.store();
        !self.snapshots_to_send.is_empty()
            || store.compaction_state() == CompactionState::WaitsForCommit
            || self.commit_due.is_some_and(|due| due <= now)
    }

    fn begin_commit(&mut self, effects: &mut Vec<Effect>) -> Result<Job, Failure> {
        let position = self.machine.applied();
        let is_snapshot_due = position.index >= self.snapshot_index + self.pace.snapshot_count;
        let mut snapshot = is_snapshot_due.then(|| {
            self.snapshot_index = position.index;
            RaftSnapshot {
                index: wal::Index(position.index),
                term: wal::Term(position.term),
                conf_state: to_log_configuration(&self.configuration),
                data: self.machine.members().to_v2_tree(position.index),
            }
        });
        let to_send = self.snapshots_of(position);
        let batch = self.batch();
        self.commit_due = None;
        if self.pace.bug == Some(Bug::LogCutEarly) {
            effects.extend(snapshot.take().map(Effect::SaveSnapshotEarly));
        }
        let work = match self.dice.one_in(2) {
            true => JobWork::Done(self.store.commit(batch).map_err(text)?),
            false => JobWork::Later(batch),
        };
        Ok(Job::Commit {
            snapshot,
            to_send,
            work,
        })
    }

    fn batch(&mut self) -> Batch {
        let applied = self.machine.applied().index;
        let mut batch = self.machine.take_batch();
        let wrong_index = match self.pace.bug {
            Some(Bug::IndexAheadOfData) => self.handed_on.max(applied),
            Some(Bug::IndexBehindData) => applied.saturating_sub(1),
            _ => return batch,
        };
        let key = Bytes::from_static(schema::CONSISTENT_INDEX);
        batch.put(schema::META, key, schema::encode_u64(wrong_index));
        batch
    }

    /// The messages that wait for a state, with that of now.
    fn snapshots_of(&mut self, position: Position) -> Vec<Envelope> {
        let waiting = std::mem::take(&mut self.snapshots_to_send);
        if waiting.is_empty() {
            return waiting;
        }
        let mark = SnapshotMark {
            index: Index(position.index),
            term: consensus::Term(position.term),
            conf_state: self.configuration.clone(),
        };
        let data = self.machine.members().to_v2_tree(position.index);
        let with = |envelope: Envelope| envelope.with_snapshot(&mark, data.clone());
        waiting.into_iter().map(with).collect()
    }

    fn sweep(&mut self) -> Result<Job, Failure> {
        let is_dense = self.dice.one_in(2);
        let mut sweep = Sweep::new(self.store.committed(), is_dense);
        let swept = self.store.sweep(&mut sweep, SWEEP_PAGES).map_err(text)?;
        Ok(Job::Sweep(swept))
    }

    fn begin_replacing(&mut self, mark: SnapshotMark) -> Result<Job, Failure> {
        let received = received_database(&self.snapshots, mark.index);
        let work = match self.dice.one_in(2) {
            true => JobWork::Done(self.store.replace(&received).map_err(text)?),
            false => JobWork::Later(received),
        };
        Ok(Job::Replace(mark, work))
    }

    /// The disk is done with the job.
    pub(crate) fn job_done(
        &mut self,
        now: Micros,
        raft: &mut VecDeque<member::Input>,
        effects: &mut Vec<Effect>,
    ) -> Result<(), Failure> {
        match self.job.take().expect("it was begun") {
            Job::Commit {
                snapshot,
                to_send,
                work,
            } => {
                let committed = match work {
                    JobWork::Done(committed) => committed,
                    JobWork::Later(batch) => self.store.commit(batch).map_err(text)?,
                };
                let store = self.machine.store();
                store.batch_committed(committed.clone()).map_err(text)?;
                for envelope in to_send {
                    effects.push(Effect::SendSnapshot(envelope, committed.clone()));
                }
                if let Some(snapshot) = snapshot {
                    raft.push_back(member::Input::SaveSnapshot(snapshot));
                    effects.push(Effect::Turn);
                }
            }
            Job::Sweep(committed) => {
                let store = self.machine.store();
                store.file_rewritten(committed).map_err(text)?;
            }
            Job::Replace(mark, work) => {
                let committed = match work {
                    JobWork::Done(committed) => committed,
                    JobWork::Later(path) => self.store.replace(&path).map_err(text)?,
                };
                self.install(&mark, committed)?;
                raft.push_back(member::Input::Applied(mark.index));
                effects.push(Effect::Turn);
            }
        }
        self.publish();
        self.start_job(now, effects)
    }

    /// Goes on from a leader's state.
    fn install(&mut self, mark: &SnapshotMark, committed: Committed) -> Result<(), Failure> {
        let seen = self.machine.view().revision();
        self.machine = StateMachine::open(committed, SETTINGS).map_err(text)?;
        let position = Position {
            index: mark.index.0,
            term: mark.term.0,
        };
        self.machine.set_applied(position).map_err(text)?;
        self.configuration = mark.conf_state.clone();
        self.snapshot_index = mark.index.0;
        self.installing = None;
        self.commit_due = None;
        self.compaction_due = None;
        self.publish();
        self.watches.skip_to(seen, self.view.revision());
        Ok(())
    }

    /// The file beneath, for a look at all of it.
    pub(crate) fn committed(&self) -> &Committed {
        self.store.committed()
    }
}

fn position(entry: &Entry) -> Position {
    Position {
        index: entry.index.0,
        term: entry.term.0,
    }
}

fn member_ids(ids: &[NodeId]) -> Vec<MemberId> {
    ids.iter().map(|id| MemberId(id.0)).collect()
}

/// A configuration in the log's form.
pub(crate) fn to_log_configuration(configuration: &ConfState) -> wal::ConfState {
    let ids = |ids: &[NodeId]| ids.iter().map(|id| wal::NodeId(id.0)).collect();
    wal::ConfState {
        voters: ids(&configuration.voters),
        learners: ids(&configuration.learners),
        ..wal::ConfState::default()
    }
}
