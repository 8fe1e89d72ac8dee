//! Tells watchers what happened to their keys.
//!
//! ```text
//! apply_thread ──changes──> watch thread ──deliveries──> a queue per stream ──> its task ──> client
//! ```
//!
//! `apply_thread` hands over what each revision changed and goes on. The `watch` thread finds out whom
//! an event is for, encodes it once for all of them, and puts it into the queues of their streams. No
//! step waits for a slow one behind it: a queue that is full loses what comes next, and remembers from
//! where on. Its stream then reads that from history ([`crate::api`]'s part) and joins again. So what a
//! slow client costs is bounded, and no event is lost or told twice.

mod event;
mod groups;
mod key_index;
mod queue;

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use mvcc::{Changed, KeyRange, Revision, View};

pub(crate) use event::{Encoded, encode_with};
use groups::Groups;
pub(crate) use groups::{Interest, StreamId};
pub(crate) use key_index::KeyIndex;
pub(crate) use queue::{Delivery, Mark, Queue};

use crate::metrics::Metrics;

/// Changed bytes that may wait for the `watch` thread. It only falls behind when very many streams
/// get very many events; what it cannot take then, the streams read from history.
const WAITING_BYTES_MAX: usize = 64 << 20;
/// What an event costs beside its record.
const EVENT_BYTES: usize = 64;

/// Whom to tell what. One for the whole member.
pub struct Watches {
    inbox: Mutex<Inbox>,
    /// Wakes the `watch` thread.
    filled: Condvar,
    groups: Mutex<Groups>,
    metrics: Arc<Metrics>,
}

#[derive(Default)]
struct Inbox {
    batches: VecDeque<Batch>,
    bytes: usize,
    /// First and last revision that found no room.
    lost: Option<(Revision, Revision)>,
    stopped: bool,
}

/// Revisions that were applied together, and the state after them.
struct Batch {
    view: View,
    changes: Vec<Changed>,
}

impl Watches {
    /// Begins behind `revision`.
    pub fn new(revision: Revision, metrics: Arc<Metrics>) -> Watches {
        Watches {
            inbox: Mutex::default(),
            filled: Condvar::new(),
            groups: Mutex::new(Groups::new(revision)),
            metrics,
        }
    }

    /// Takes in what was applied; never waits for a watcher.
    pub(crate) fn publish(&self, view: View, changes: Vec<Changed>) {
        let (Some(first), Some(last)) = (changes.first(), changes.last()) else {
            return;
        };
        let (first, last) = (first.revision, last.revision);
        let events = changes.iter().flat_map(|changed| &changed.events);
        let bytes: usize = events
            .map(|event| event.pair.record().len() + EVENT_BYTES)
            .sum();
        let mut inbox = self.lock_inbox();
        if inbox.lost.is_some() || inbox.bytes > 0 && inbox.bytes + bytes > WAITING_BYTES_MAX {
            inbox.lost.get_or_insert((first, last)).1 = last;
        } else {
            inbox.bytes += bytes;
            inbox.batches.push_back(Batch { view, changes });
        }
        drop(inbox);
        self.filled.notify_one();
    }

    /// What happened up to `revision` was not seen here: every stream reads it from history.
    pub(crate) fn skip_to(&self, from: Revision, revision: Revision) {
        if from <= revision {
            self.lock_inbox().lost.get_or_insert((from, revision)).1 = revision;
            self.filled.notify_one();
        }
    }

    /// The body of the `watch` thread: works until [`Watches::stop`].
    pub fn run(&self) {
        loop {
            let mut inbox = self.lock_inbox();
            while inbox.batches.is_empty() && inbox.lost.is_none() && !inbox.stopped {
                inbox = self
                    .filled
                    .wait(inbox)
                    .unwrap_or_else(PoisonError::into_inner);
            }
            if inbox.stopped {
                break;
            }
            let batches = std::mem::take(&mut inbox.batches);
            // Nothing comes in before what was lost is dealt with.
            let lost = inbox.lost.take();
            inbox.bytes = 0;
            drop(inbox);
            let mut groups = self.groups();
            for batch in batches {
                for changed in &batch.changes {
                    groups.deliver(&batch.view, changed, &self.metrics.watch);
                }
            }
            if let Some((from, to)) = lost {
                groups.lose(from, to);
            }
        }
        self.groups().stop();
    }

    /// Ends all streams and the thread.
    pub(crate) fn stop(&self) {
        self.lock_inbox().stopped = true;
        self.filled.notify_one();
    }

    /// Opens the queue of a new stream.
    pub(crate) fn open(&self) -> (StreamId, Arc<Queue>) {
        self.metrics.watch.streams.inc();
        self.groups().open()
    }

    /// Forgets a stream with watchers of these interests.
    pub(crate) fn close<'i>(
        &self,
        stream: StreamId,
        interests: impl Iterator<Item = &'i Interest>,
    ) {
        self.metrics.watch.streams.dec();
        self.groups().close(stream, interests);
    }

    /// From revision `from` on, watcher `id` of a stream gets its events as they happen; false when
    /// later ones were delivered to others already, which it must first read from history.
    pub(crate) fn join(
        &self,
        stream: StreamId,
        id: i64,
        interest: &Interest,
        from: Revision,
    ) -> bool {
        self.groups().join(stream, id, interest, from)
    }

    /// Watcher `id` of a stream gets nothing more. The revision up to which it may have got
    /// something.
    pub(crate) fn leave(&self, stream: StreamId, id: i64, interest: &Interest) -> Revision {
        self.groups().leave(stream, id, interest)
    }

    /// No watcher of a stream gets anything more; these are their interests.
    pub(crate) fn leave_all<'i>(
        &self,
        stream: StreamId,
        interests: impl Iterator<Item = &'i Interest>,
    ) {
        self.groups().leave_all(stream, interests);
    }

    /// Puts a mark into a stream's queue behind everything up to `revision`.
    pub(crate) fn mark(&self, stream: StreamId, revision: Revision, mark: Mark) {
        self.groups().mark(stream, revision, mark);
    }

    fn groups(&self) -> MutexGuard<'_, Groups> {
        // A panic of the `watch` thread ends the member; the streams only see its last moments.
        self.groups.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_inbox(&self) -> MutexGuard<'_, Inbox> {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a range can hold any key.
pub(crate) fn is_empty_range(keys: &KeyRange) -> bool {
    matches!(keys, KeyRange::Range { from, to } if to <= from)
}
