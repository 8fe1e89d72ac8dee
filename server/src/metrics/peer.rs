//! Metrics of the connections between members.

use std::time::Duration;

use consensus::NodeId;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use super::catalog::{Labels, add};

type Histograms = Family<Labels, Histogram, fn() -> Histogram>;

/// `etcd_network_*` between members.
#[derive(Debug)]
pub struct PeerMetrics {
    active: Family<Labels, Gauge>,
    disconnected: Family<Labels, Counter>,
    sent_bytes: Family<Labels, Counter>,
    received_bytes: Family<Labels, Counter>,
    sent_failures: Family<Labels, Counter>,
    received_failures: Family<Labels, Counter>,
    round_trip: Histograms,
    snapshots_sent: Family<Labels, Counter>,
    snapshots_not_sent: Family<Labels, Counter>,
    snapshot_send_duration: Histograms,
    snapshots_received: Family<Labels, Counter>,
    snapshots_not_received: Family<Labels, Counter>,
    snapshot_receive_duration: Histograms,
}

fn round_trips() -> Histogram {
    Histogram::new(exponential_buckets(0.0001, 2.0, 16))
}

fn transfers() -> Histogram {
    Histogram::new(exponential_buckets(0.1, 2.0, 10))
}

impl PeerMetrics {
    pub(super) fn new(r: &mut Registry) -> PeerMetrics {
        PeerMetrics {
            active: add(
                r,
                "etcd_network_active_peers",
                "Members whose messages arrive",
                Family::default(),
            ),
            disconnected: add(
                r,
                "etcd_network_disconnected_peers",
                "Members whose messages have stopped to arrive",
                Family::default(),
            ),
            sent_bytes: add(
                r,
                "etcd_network_peer_sent_bytes",
                "Bytes sent to members",
                Family::default(),
            ),
            received_bytes: add(
                r,
                "etcd_network_peer_received_bytes",
                "Bytes received from members",
                Family::default(),
            ),
            sent_failures: add(
                r,
                "etcd_network_peer_sent_failures",
                "Messages to members that were lost here",
                Family::default(),
            ),
            received_failures: add(
                r,
                "etcd_network_peer_received_failures",
                "Messages from members that made no sense",
                Family::default(),
            ),
            round_trip: add(
                r,
                "etcd_network_peer_round_trip_time_seconds",
                "Time to a member and back",
                Family::new_with_constructor(round_trips as fn() -> Histogram),
            ),
            snapshots_sent: add(
                r,
                "etcd_network_snapshot_send_success",
                "Snapshots that members have taken in",
                Family::default(),
            ),
            snapshots_not_sent: add(
                r,
                "etcd_network_snapshot_send_failures",
                "Snapshots that members have not taken in",
                Family::default(),
            ),
            snapshot_send_duration: add(
                r,
                "etcd_network_snapshot_send_total_duration_seconds",
                "Time to send a snapshot",
                Family::new_with_constructor(transfers as fn() -> Histogram),
            ),
            snapshots_received: add(
                r,
                "etcd_network_snapshot_receive_success",
                "Snapshots taken in",
                Family::default(),
            ),
            snapshots_not_received: add(
                r,
                "etcd_network_snapshot_receive_failures",
                "Snapshots not taken in",
                Family::default(),
            ),
            snapshot_receive_duration: add(
                r,
                "etcd_network_snapshot_receive_total_duration_seconds",
                "Time to receive a snapshot",
                Family::new_with_constructor(transfers as fn() -> Histogram),
            ),
        }
    }

    /// Messages of `remote` arrive, or have stopped to.
    pub(crate) fn set_active(&self, local: NodeId, remote: NodeId, is_active: bool) {
        let labels = vec![("Local", local.to_string()), ("Remote", remote.to_string())];
        let gauge = self.active.get_or_create(&labels);
        gauge.set(i64::from(is_active));
        if !is_active {
            self.disconnected.get_or_create(&labels).inc();
        }
    }

    pub(crate) fn sent(&self, to: NodeId, bytes: usize) {
        let counter = self.sent_bytes.get_or_create(&of("To", to));
        counter.inc_by(bytes as u64);
    }

    pub(crate) fn received(&self, from: NodeId, bytes: usize) {
        let counter = self.received_bytes.get_or_create(&of("From", from));
        counter.inc_by(bytes as u64);
    }

    pub(crate) fn lost(&self, to: NodeId) {
        self.sent_failures.get_or_create(&of("To", to)).inc();
    }

    pub(crate) fn malformed(&self, from: NodeId) {
        self.received_failures
            .get_or_create(&of("From", from))
            .inc();
    }

    pub(crate) fn round_trip(&self, to: NodeId, took: Duration) {
        let histogram = self.round_trip.get_or_create(&of("To", to));
        histogram.observe(took.as_secs_f64());
    }

    pub(crate) fn snapshot_sent(&self, to: NodeId, success: bool, took: Duration) {
        let counters = match success {
            true => &self.snapshots_sent,
            false => &self.snapshots_not_sent,
        };
        counters.get_or_create(&of("To", to)).inc();
        let histogram = self.snapshot_send_duration.get_or_create(&of("To", to));
        histogram.observe(took.as_secs_f64());
    }

    pub(crate) fn snapshot_received(&self, from: NodeId, success: bool, took: Duration) {
        let counters = match success {
            true => &self.snapshots_received,
            false => &self.snapshots_not_received,
        };
        counters.get_or_create(&of("From", from)).inc();
        let histogram = self
            .snapshot_receive_duration
            .get_or_create(&of("From", from));
        histogram.observe(took.as_secs_f64());
    }
}

fn of(label: &'static str, id: NodeId) -> Labels {
    vec![(label, id.to_string())]
}
