//! Forgetting history.
//!
//! A compaction at C, as etcd orders it, so that a crash at any point loses nothing:
//!
//! 1. `scheduledCompactRev` = C goes into the batch; reads below C are refused from now on.
//! 2. That batch is durable before anything is deleted.
//! 3. In steps, between which client work and commits go on: the index forgets; the records up to
//!    C are read in order, hashed, and deleted unless they stay.
//! 4. `finishedCompactRev` = C goes into the batch of the last step's deletions.
//!
//! Reading the records always begins anew from the newest committed state, after the last one
//! that was looked at. So no old state of the file is held, and records deleted but not yet
//! committed are not met again.

use std::sync::Arc;

use bytes::Bytes;

use crate::hash::{Digest, HASHES_MAX, KeyHash};
use crate::history::{Change, record_stays};
use crate::record::KeyValue;
use crate::refusal::{Fault, Refusal};
use crate::revision::{Position, RECORD_KEY_BYTES, RecordKey, Revision, encode_mark};
use crate::state::{KEY_BUCKET, State, decode_record_key};
use crate::store::Store;

/// The bucket of the compaction marks.
pub(crate) const META_BUCKET: &str = "meta";
pub(crate) const SCHEDULED_MARK: &str = "scheduledCompactRev";
pub(crate) const FINISHED_MARK: &str = "finishedCompactRev";

/// Bytes of records that one step reads at most, beyond the last record: hashing them takes about
/// a millisecond once they are in memory.
const STEP_BYTES_MAX: usize = 4 << 20;

/// Where the compactions of a store stand.
#[derive(Debug, Clone, Default)]
pub(crate) struct Compaction {
    running: Option<Job>,
    /// Begins when the running one ends. A later request takes the place of one that waits: what
    /// it deletes includes all that the other would.
    waiting: Option<Job>,
    /// Revision and batch of finished compactions whose mark is not durable yet.
    finishing: Option<(Revision, u64)>,
    finished: Option<Revision>,
}

#[derive(Debug, Clone)]
struct Job {
    at: Revision,
    /// The batch with the scheduled mark.
    batch: u64,
    /// The compaction before, against which the hash counts; `None` when no hash is to be kept,
    /// because that one had not finished when this one was scheduled.
    hash_after: Option<Option<Revision>>,
    progress: Progress,
}

#[derive(Debug, Clone)]
enum Progress {
    /// The index forgets, from this key on.
    Index(Vec<u8>),
    /// The records are read, from this position on.
    Records(Position, Option<Digest>),
}

/// What the owner of a store has to do for compaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CompactionState {
    /// Nothing.
    Idle,
    /// Commit the batch: nothing may be deleted before the mark of the compaction is durable.
    WaitsForCommit,
    /// Call [`Store::compact_step`] until it says otherwise.
    Runs,
}

impl Store {
    /// Makes `at` the oldest revision that can be read, and schedules the deletion of what only
    /// older ones need. The owner commits the batch next.
    ///
    /// # Errors
    /// A refusal when `at` is not above the last compaction, or beyond the current revision.
    pub fn schedule_compaction(&mut self, at: Revision) -> Result<(), Refusal> {
        let before = self.state.compacted;
        if let Some(oldest) = before.filter(|oldest| at <= *oldest) {
            return Err(Refusal::Compacted { oldest });
        }
        if at > self.state.revision {
            return Err(Refusal::FutureRevision {
                current: self.state.revision,
            });
        }
        let job = Job {
            at,
            batch: self.batches.gathering,
            hash_after: self.compaction.is_idle().then_some(before),
            progress: Progress::Index(Vec::new()),
        };
        self.put_mark(SCHEDULED_MARK, at);
        self.state.compacted = Some(at);
        match self.compaction.running {
            None => self.compaction.running = Some(job),
            Some(_) => self.compaction.waiting = Some(job),
        }
        Ok(())
    }

    /// What is to be done for compaction.
    pub fn compaction_state(&self) -> CompactionState {
        match &self.compaction.running {
            None => CompactionState::Idle,
            Some(job) if job.batch > self.batches.durable() => CompactionState::WaitsForCommit,
            Some(_) => CompactionState::Runs,
        }
    }

    /// The last compaction whose deletions are all durable.
    pub fn compaction_finished(&self) -> Option<Revision> {
        self.compaction.finished
    }

    /// Carries the running compaction on by at most `entries_max` keys of the index or records
    /// of the file. Deletions go into the batch; it changes nothing unless the state is
    /// [`CompactionState::Runs`].
    ///
    /// # Errors
    /// When a record cannot be read.
    pub fn compact_step(&mut self, entries_max: usize) -> Result<CompactionState, Fault> {
        if self.compaction_state() != CompactionState::Runs {
            return Ok(self.compaction_state());
        }
        let mut job = self.compaction.running.take().expect("a compaction runs");
        let done = match job.progress {
            Progress::Index(from) => {
                job.progress = self.compact_index(job.at, &from, job.hash_after, entries_max)?;
                false
            }
            Progress::Records(from, ref mut digest) => {
                let step = scan(&self.state, job.at, from, entries_max, digest.as_mut())?;
                for key in step.deletions {
                    self.batch.delete(KEY_BUCKET, key);
                }
                match step.next {
                    Some(next) => {
                        job.progress = Progress::Records(next, digest.take());
                        false
                    }
                    None => {
                        let digest = digest.take();
                        self.finish_compaction(job.at, digest);
                        true
                    }
                }
            }
        };
        self.compaction.running = if done {
            self.compaction.waiting.take()
        } else {
            Some(job)
        };
        Ok(self.compaction_state())
    }

    fn compact_index(
        &mut self,
        at: Revision,
        from: &[u8],
        hash_after: Option<Option<Revision>>,
        keys_max: usize,
    ) -> Result<Progress, Fault> {
        if let Some(next) = self.state.index.compact(from, at, keys_max) {
            return Ok(Progress::Index(next));
        }
        let digest = match hash_after {
            Some(before) => Some(Digest::new(before, any_record_stays(&self.state, at)?)),
            None => None,
        };
        Ok(Progress::Records(Position::first(Revision(0)), digest))
    }

    fn finish_compaction(&mut self, at: Revision, digest: Option<Digest>) {
        self.put_mark(FINISHED_MARK, at);
        self.compaction.finishing = Some((at, self.batches.gathering));
        if let Some(digest) = digest {
            remember(&mut self.state.hashes, digest.finish(at));
        }
    }

    fn put_mark(&mut self, name: &'static str, at: Revision) {
        let mark = Bytes::copy_from_slice(&encode_mark(at));
        self.batch
            .put(META_BUCKET, Bytes::from_static(name.as_bytes()), mark);
    }
}

impl Compaction {
    /// Where the marks of a file say that compactions stand.
    pub(crate) fn resume(scheduled: Option<Revision>, finished: Option<Revision>) -> Compaction {
        let running = scheduled
            .filter(|scheduled| Some(*scheduled) > finished)
            .map(|at| Job {
                at,
                batch: 0,
                hash_after: None,
                progress: Progress::Index(Vec::new()),
            });
        Compaction {
            running,
            waiting: None,
            finishing: None,
            finished,
        }
    }

    /// Learns that all batches up to `batch` are durable.
    pub(crate) fn committed(&mut self, batch: u64) {
        if let Some((revision, _)) = self.finishing.filter(|(_, finishing)| *finishing <= batch) {
            self.finished = Some(revision);
            self.finishing = None;
        }
    }

    /// Whether every compaction that was scheduled has deleted all it had to.
    fn is_idle(&self) -> bool {
        self.running.is_none()
    }
}

/// Whether anything outlives a compaction at `at`: a key that lives there, or a tombstone that
/// stands exactly there.
fn any_record_stays(state: &State, at: Revision) -> Result<bool, Fault> {
    if state.index.count_all(at) > 0 {
        return Ok(true);
    }
    for record in state.records_from(Position::first(at))? {
        let (key, _) = record?;
        if key.position.revision > at {
            break;
        }
        if key.tombstone {
            return Ok(true);
        }
    }
    Ok(false)
}

struct Scanned {
    deletions: Vec<Bytes>,
    /// Where the next step begins; `None` when all records up to the compaction were read.
    next: Option<Position>,
}

/// Reads some records from `from` on: which of them a compaction at `at` deletes.
fn scan(
    state: &State,
    at: Revision,
    from: Position,
    records_max: usize,
    mut digest: Option<&mut Digest>,
) -> Result<Scanned, Fault> {
    let mut deletions = Vec::new();
    let Some(records) = &state.records else {
        return Ok(Scanned {
            deletions,
            next: None,
        });
    };
    let (start, _) = RecordKey::live(from).encode();
    let mut bytes = 0;
    for (number, entry) in records.range(&start[..RECORD_KEY_BYTES])?.enumerate() {
        let (stored_key, record) = entry?;
        let key = decode_record_key(&stored_key)?;
        let position = key.position;
        if position.revision > at {
            break;
        }
        if number >= records_max.max(1) || bytes > STEP_BYTES_MAX {
            return Ok(Scanned {
                deletions,
                next: Some(position),
            });
        }
        bytes += record.len();
        let pair = KeyValue::decode(record.clone())
            .map_err(|source| Fault::Record { position, source })?;
        let last = state.index.last_change(pair.key(), at);
        let stays = record_stays(Change::new(position, key.tombstone), last, at);
        if let Some(digest) = &mut digest {
            digest.add(key, &record, |any_stays| Ok(stays || !any_stays))?;
        }
        if !stays {
            // A copy: the deletion must not hold the old state of the file.
            deletions.push(Bytes::copy_from_slice(&stored_key));
        }
    }
    Ok(Scanned {
        deletions,
        next: None,
    })
}

fn remember(hashes: &mut Arc<Vec<KeyHash>>, hash: KeyHash) {
    let hashes = Arc::make_mut(hashes);
    hashes.push(hash);
    hashes.sort_by_key(|hash| hash.revision);
    let surplus = hashes.len().saturating_sub(HASHES_MAX);
    hashes.drain(..surplus);
}
