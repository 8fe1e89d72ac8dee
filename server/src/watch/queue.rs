//! What waits to be told to one stream.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mvcc::Revision;
use tokio::sync::Notify;

use super::event::Encoded;

/// Deliveries that wait for one stream: what a client may be behind before history feeds it.
const DELIVERIES_MAX: usize = 1024;
/// Bytes of theirs, though they are shared with other streams.
const BYTES_MAX: usize = 4 << 20;

/// Something for a stream to do.
#[derive(Debug)]
pub(crate) enum Delivery {
    /// Events of one revision for some of its watchers.
    Events {
        /// When they happened.
        revision: Revision,
        /// The events, the same for all of them.
        encoded: Encoded,
        /// The watchers.
        ids: Arc<[i64]>,
        /// Whether a response that is too large may be cut.
        fragment: bool,
    },
    /// Everything up to this revision was delivered before.
    Mark(Revision, Mark),
    /// From this revision on deliveries are missing; none comes before the stream joins again.
    Lost(Revision),
    /// The member stops.
    Stop,
}

/// What a mark was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mark {
    /// The client wants to know.
    Asked,
    /// It is time to tell silent watchers how far they are.
    Tick,
}

/// The queue between the `watch` thread and a stream's task.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    waiting: Mutex<Waiting>,
    filled: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    deliveries: VecDeque<Delivery>,
    bytes: usize,
    lost: Option<Revision>,
}

impl Queue {
    /// The next delivery. What is missing comes behind all that is not, again and again until
    /// [`Queue::resume`].
    pub(crate) async fn next(&self) -> Delivery {
        loop {
            if let Some(delivery) = self.try_next() {
                return delivery;
            }
            self.filled.notified().await;
        }
    }

    /// The next delivery, if one waits.
    pub(crate) fn try_next(&self) -> Option<Delivery> {
        let mut waiting = self.lock();
        match waiting.deliveries.pop_front() {
            Some(delivery) => {
                waiting.bytes -= bytes_of(&delivery);
                Some(delivery)
            }
            None => waiting.lost.map(Delivery::Lost),
        }
    }

    /// Deliveries count again. Its watchers must have left before, so that none was lost since.
    pub(crate) fn resume(&self) {
        self.lock().lost = None;
    }

    /// Adds a delivery, unless there is no room or was none before.
    pub(super) fn push(&self, revision: Revision, delivery: Delivery) {
        let mut waiting = self.lock();
        if waiting.lost.is_some() {
            return;
        }
        let bytes = bytes_of(&delivery);
        let is_full = waiting.deliveries.len() >= DELIVERIES_MAX
            || waiting.bytes > 0 && waiting.bytes + bytes > BYTES_MAX;
        if is_full && matches!(delivery, Delivery::Mark(..)) {
            // The client asks again, and the clock ticks again.
        } else if is_full {
            waiting.lost = Some(revision);
        } else {
            waiting.bytes += bytes;
            waiting.deliveries.push_back(delivery);
        }
        drop(waiting);
        self.filled.notify_one();
    }

    /// Whatever happens from `revision` on does not come this way.
    pub(super) fn lose(&self, revision: Revision) {
        self.lock().lost.get_or_insert(revision);
        self.filled.notify_one();
    }

    /// Adds what must not be lost.
    pub(super) fn stop(&self) {
        self.lock().deliveries.push_back(Delivery::Stop);
        self.filled.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        // Whole between any two calls.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn bytes_of(delivery: &Delivery) -> usize {
    match delivery {
        Delivery::Events { encoded, .. } => encoded.bytes,
        _ => 0,
    }
}
