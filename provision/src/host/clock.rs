//! The only door to the time. Nothing here is replayed, so it comes straight from the host.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// How often a waiting loop looks again.
pub(crate) const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// For measuring how long something took and when to give up.
#[expect(
    clippy::disallowed_methods,
    reason = "the provisioner measures and limits real time"
)]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// Seconds since 1970; zero for a clock set before that.
#[expect(
    clippy::disallowed_methods,
    reason = "backups, histories and reports carry the date"
)]
pub(crate) fn unix_seconds() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs()
}

/// Looks until `look` sees something or the limit is over.
pub(crate) fn wait_for<T>(limit: Duration, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = now() + limit;
    loop {
        if let Some(seen) = look() {
            return Some(seen);
        }
        if now() >= deadline {
            return None;
        }
        std::thread::sleep(POLL_INTERVAL);
    }
}
