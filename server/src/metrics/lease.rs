//! Metrics of leases.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use super::catalog::{add, counter};

/// `etcd_debugging_lease_*`, and how many leases ran out.
#[derive(Debug)]
pub struct LeaseMetrics {
    /// Leases granted.
    pub granted: Counter,
    /// Leases revoked.
    pub revoked: Counter,
    /// Renewals.
    pub renewed: Counter,
    /// Leases that ran out.
    pub expired: Counter,
    /// Seconds that leases were granted for.
    pub ttl: Histogram,
}

impl LeaseMetrics {
    pub(super) fn new(r: &mut Registry) -> LeaseMetrics {
        LeaseMetrics {
            granted: counter(r, "etcd_debugging_lease_granted", "Leases granted"),
            revoked: counter(r, "etcd_debugging_lease_revoked", "Leases revoked"),
            renewed: counter(r, "etcd_debugging_lease_renewed", "Renewals of leases"),
            expired: counter(
                r,
                "etcd_debugging_server_lease_expired",
                "Leases that ran out",
            ),
            ttl: add(
                r,
                "etcd_debugging_lease_ttl_total",
                "Seconds that leases were granted for",
                Histogram::new(exponential_buckets(1.0, 2.0, 24)),
            ),
        }
    }
}
