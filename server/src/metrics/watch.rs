//! Metrics of watchers.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::catalog::{counter, gauge};

/// `etcd_debugging_mvcc_*watch*` and the events.
#[derive(Debug)]
pub struct WatchMetrics {
    /// Open streams.
    pub streams: Gauge,
    /// Watchers on them.
    pub watchers: Gauge,
    /// Watchers that are fed from history.
    pub slow: Gauge,
    /// Events given to streams, once for each watcher.
    pub events: Counter,
    /// Events that wait for a slow client. What waits is bounded by the queue and fed from history
    /// after that, so there is nothing to count.
    pub pending: Gauge,
}

impl WatchMetrics {
    pub(super) fn new(r: &mut Registry) -> WatchMetrics {
        WatchMetrics {
            streams: gauge(r, "etcd_debugging_mvcc_watch_stream_total", "Watch streams"),
            watchers: gauge(r, "etcd_debugging_mvcc_watcher_total", "Watchers"),
            slow: gauge(
                r,
                "etcd_debugging_mvcc_slow_watcher_total",
                "Watchers that are fed from history",
            ),
            events: counter(
                r,
                "etcd_debugging_mvcc_events",
                "Events sent by this member",
            ),
            pending: gauge(
                r,
                "etcd_debugging_mvcc_pending_events_total",
                "Events that wait to be sent",
            ),
        }
    }
}
