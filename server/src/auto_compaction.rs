//! Forgets old history by itself, as often and as far as the operator has set.
//!
//! Both modes work as etcd's: `periodic` keeps what was current within the last period, and looks
//! often enough that it is at most a tenth (an hour at most) late; `revision` keeps a number of
//! revisions and looks every five minutes.

use std::collections::VecDeque;
use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mvcc::Revision;
use proto::etcdserverpb::CompactionRequest;
use tonic::Code;

use crate::api::{Caller, Member};
use crate::clock;
use crate::config::AutoCompaction;

const REVISION_INTERVAL: Duration = Duration::from_secs(5 * 60);
/// A period longer than this is looked at this often; a shorter one once a period.
const PERIODIC_INTERVAL_MAX: Duration = Duration::from_secs(60 * 60);
/// Looks at the revision within one interval.
const LOOKS_PER_INTERVAL: u32 = 10;

/// Runs until it is dropped.
pub async fn run(mode: AutoCompaction, member: Arc<Member>) {
    match mode {
        AutoCompaction::Off => std::future::pending().await,
        AutoCompaction::Periodic(period) => periodic(period, &member).await,
        AutoCompaction::Revisions(keep) => by_revisions(keep, &member).await,
    }
}

async fn periodic(period: Duration, member: &Member) {
    let look_interval = period.min(PERIODIC_INTERVAL_MAX) / LOOKS_PER_INTERVAL;
    let mut history = History::new(period);
    loop {
        tokio::time::sleep(look_interval).await;
        let revision = member.state().view.revision();
        if let Some(old) = history.look(clock::monotonic(), revision) {
            compact(old, member).await;
        }
    }
}

async fn by_revisions(keep: NonZeroU64, member: &Member) {
    let keep = i64::try_from(keep.get()).unwrap_or(i64::MAX);
    let mut done = Revision(0);
    loop {
        tokio::time::sleep(REVISION_INTERVAL).await;
        let old = Revision(member.state().view.revision().0.saturating_sub(keep));
        if old > Revision(0) && old != done {
            compact(old, member).await;
            done = old;
        }
    }
}

/// The leader does it for all.
async fn compact(revision: Revision, member: &Member) {
    if !member.leads() {
        return;
    }
    let request = CompactionRequest {
        revision: revision.0,
        physical: false,
    };
    match member.compact(&Caller::member(), request).await {
        Ok(_) => tracing::info!(revision = revision.0, "completed auto compaction"),
        // Somebody has compacted as far or further already.
        Err(status) if status.code() == Code::OutOfRange => {}
        Err(status) => {
            let error = status.message();
            tracing::warn!(
                revision = revision.0,
                error,
                "auto compaction failed; trying later"
            );
        }
    }
}

/// Which revision was current when.
struct History {
    period: Duration,
    interval: Duration,
    looks: VecDeque<(Instant, Revision)>,
    last: Option<(Instant, Revision)>,
}

impl History {
    fn new(period: Duration) -> History {
        let interval = period.min(PERIODIC_INTERVAL_MAX);
        History {
            period,
            interval,
            looks: VecDeque::new(),
            last: None,
        }
    }

    /// Notes the current revision. The revision to compact at, when an interval has passed and the
    /// revision of a period ago is not the one compacted at last.
    fn look(&mut self, now: Instant, revision: Revision) -> Option<Revision> {
        self.looks.push_back((now, revision));
        let old_enough = |look: &(Instant, Revision)| now.duration_since(look.0) >= self.period;
        while self.looks.get(1).is_some_and(old_enough) {
            self.looks.pop_front();
        }
        let (at, old) = *self.looks.front().filter(|look| old_enough(look))?;
        let due = self
            .last
            .is_none_or(|last| now.duration_since(last.0) >= self.interval);
        let new = self.last.is_none_or(|last| last.1 != old);
        if !due || !new {
            return None;
        }
        self.last = Some((now, old));
        debug_assert!(at <= now);
        Some(old)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_current_within_the_period_is_kept() {
        let start = clock::monotonic();
        let minutes = |count: u64| start + Duration::from_secs(60 * count);
        let mut history = History::new(Duration::from_secs(60 * 60));
        let mut compacted = Vec::new();
        for look in 0..40 {
            let now = minutes(6 * look);
            if let Some(at) = history.look(now, Revision(100 + i64::try_from(look).unwrap())) {
                compacted.push((look, at.0));
            }
        }
        // After an hour the revision of an hour ago, then once an hour.
        assert_eq!(compacted, [(10, 100), (20, 110), (30, 120)]);
    }

    #[test]
    fn an_idle_store_is_not_compacted_again() {
        let start = clock::monotonic();
        let mut history = History::new(Duration::from_secs(10));
        let compacted = (0..1000)
            .filter_map(|second| history.look(start + Duration::from_secs(second), Revision(7)))
            .count();
        assert_eq!(compacted, 1);
    }
}
