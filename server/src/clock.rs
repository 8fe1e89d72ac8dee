//! The only place that asks what time it is. Everything else is handed the time.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// The time of day, which an operator may set back. For logs and ids, never for waiting.
#[expect(clippy::disallowed_methods, reason = "this is the door")]
pub fn wall() -> SystemTime {
    SystemTime::now()
}

/// Time since an arbitrary moment, which only grows. For measuring and waiting.
#[expect(clippy::disallowed_methods, reason = "this is the door")]
pub fn monotonic() -> Instant {
    Instant::now()
}

/// The time of day as text, with nanoseconds, in UTC.
pub fn rfc3339() -> String {
    let now = time::OffsetDateTime::from(wall());
    now.format(&time::format_description::well_known::Rfc3339)
        .unwrap_or_default()
}

/// The time of day since 1970; zero before that.
pub fn since_unix_epoch() -> Duration {
    wall().duration_since(UNIX_EPOCH).unwrap_or_default()
}
