//! Every metric by its name.

use std::sync::atomic::AtomicU64;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Metric, Registry};

use state_machine::AppliedOperation;

use super::calls::GrpcMetrics;
use super::exposition;
use super::lease::LeaseMetrics;
use super::peer::PeerMetrics;
use super::process::ProcessCollector;
use super::watch::WatchMetrics;
use crate::config::ETCD_VERSION;

pub(super) type Labels = Vec<(&'static str, String)>;
type UnsignedGauge = Gauge<u64, AtomicU64>;

/// All metrics of a member. Whoever feeds one keeps its handle: touching it takes an atomic
/// operation, for histograms an uncontended lock.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// Leadership, proposals, health.
    pub server: ServerMetrics,
    /// Keys and the database's size.
    pub mvcc: MvccMetrics,
    /// Watchers.
    pub watch: WatchMetrics,
    /// Leases.
    pub lease: LeaseMetrics,
    /// Syncs and commits.
    pub disk: DiskMetrics,
    /// Space of the database given back.
    pub space: SpaceMetrics,
    /// Bytes to and from clients.
    pub network: NetworkMetrics,
    /// Other members.
    pub peers: PeerMetrics,
    /// Calls by method.
    pub grpc: GrpcMetrics,
}

impl Metrics {
    /// The content type of [`Metrics::text`].
    pub const CONTENT_TYPE: &'static str = exposition::CONTENT_TYPE;

    /// All metrics at zero.
    pub fn new() -> Metrics {
        let mut registry = Registry::default();
        let metrics = Metrics {
            server: ServerMetrics::new(&mut registry),
            mvcc: MvccMetrics::new(&mut registry),
            watch: WatchMetrics::new(&mut registry),
            lease: LeaseMetrics::new(&mut registry),
            disk: DiskMetrics::new(&mut registry),
            space: SpaceMetrics::new(&mut registry),
            network: NetworkMetrics::new(&mut registry),
            peers: PeerMetrics::new(&mut registry),
            grpc: GrpcMetrics::new(&mut registry),
            registry: Registry::default(),
        };
        registry.register_collector(Box::new(ProcessCollector));
        Metrics {
            registry,
            ..metrics
        }
    }

    /// All values in Prometheus' text format 0.0.4.
    pub fn text(&self) -> String {
        exposition::text(&self.registry).expect("writing to a String succeeds")
    }
}

impl Default for Metrics {
    fn default() -> Metrics {
        Metrics::new()
    }
}

/// `etcd_server_*`.
#[derive(Debug)]
pub struct ServerMetrics {
    /// 1 if a leader is known.
    pub has_leader: Gauge,
    /// 1 if this member leads.
    pub is_leader: Gauge,
    /// 1 if this member is a learner.
    pub is_learner: Gauge,
    /// Leader changes seen.
    pub leader_changes_seen: Counter,
    /// The committed index.
    pub proposals_committed: UnsignedGauge,
    /// The applied index.
    pub proposals_applied: UnsignedGauge,
    /// Proposals that wait.
    pub proposals_pending: Gauge,
    /// Proposals that failed.
    pub proposals_failed: Counter,
    /// Messages of other members that no correct member sends.
    pub messages_refused: Counter,
    /// Heartbeats that the leader sent late.
    pub heartbeat_send_failures: Counter,
    /// Requests that took longer to apply than they should.
    pub slow_apply: Counter,
    /// Read indexes that came late.
    pub slow_read_indexes: Counter,
    /// Read indexes that did not come.
    pub read_indexes_failed: Counter,
    /// The quota in bytes; negative for none.
    pub quota_backend_bytes: Gauge,
    /// Successful answers of `/health`.
    pub health_success: Counter,
    /// Other answers of `/health`.
    pub health_failures: Counter,
    apply_duration: Vec<[Histogram; 2]>,
    range_duration: [Histogram; 2],
    id: Family<Labels, Gauge>,
    cluster_version: Family<Labels, Gauge>,
    health_check: Family<Labels, Gauge>,
    health_checks: Family<Labels, Counter>,
}

/// The operations whose application is timed, as etcd calls them.
const APPLIED: [(AppliedOperation, &str); 4] = [
    (AppliedOperation::Put, "Put"),
    (AppliedOperation::DeleteRange, "DeleteRange"),
    (AppliedOperation::Txn, "Txn"),
    (AppliedOperation::Compaction, "Compaction"),
];

/// The HTTP endpoint that ran a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HealthEndpoint {
    /// Is the process worth keeping?
    Livez,
    /// Should clients be sent here?
    Readyz,
}

impl HealthEndpoint {
    /// The name in paths and labels.
    pub fn name(self) -> &'static str {
        match self {
            HealthEndpoint::Livez => "livez",
            HealthEndpoint::Readyz => "readyz",
        }
    }
}

impl ServerMetrics {
    fn new(r: &mut Registry) -> ServerMetrics {
        let version: Family<Labels, Gauge> = add(
            r,
            "etcd_server_version",
            "1 under the version of this server",
            Family::default(),
        );
        version
            .get_or_create(&vec![("server_version", ETCD_VERSION.to_owned())])
            .set(1);
        ServerMetrics {
            has_leader: gauge(r, "etcd_server_has_leader", "Whether a leader is known"),
            is_leader: gauge(r, "etcd_server_is_leader", "Whether this member leads"),
            is_learner: gauge(
                r,
                "etcd_server_is_learner",
                "Whether this member is a learner",
            ),
            leader_changes_seen: counter(
                r,
                "etcd_server_leader_changes_seen",
                "Leader changes seen",
            ),
            proposals_committed: gauge(
                r,
                "etcd_server_proposals_committed_total",
                "The committed index of the log",
            ),
            proposals_applied: gauge(
                r,
                "etcd_server_proposals_applied_total",
                "The applied index of the log",
            ),
            proposals_pending: gauge(r, "etcd_server_proposals_pending", "Proposals that wait"),
            proposals_failed: counter(r, "etcd_server_proposals_failed", "Proposals that failed"),
            messages_refused: counter(
                r,
                "holdfast_peer_messages_refused",
                "Messages of other members that no correct member sends",
            ),
            heartbeat_send_failures: counter(
                r,
                "etcd_server_heartbeat_send_failures",
                "Heartbeats that the leader sent late",
            ),
            slow_apply: counter(r, "etcd_server_slow_apply", "Slow applies"),
            slow_read_indexes: counter(
                r,
                "etcd_server_slow_read_indexes",
                "Read indexes that came late or not at all",
            ),
            read_indexes_failed: counter(
                r,
                "etcd_server_read_indexes_failed",
                "Read indexes that failed",
            ),
            quota_backend_bytes: gauge(
                r,
                "etcd_server_quota_backend_bytes",
                "Quota of the database in bytes",
            ),
            health_success: counter(
                r,
                "etcd_server_health_success",
                "Healthy answers of /health",
            ),
            health_failures: counter(
                r,
                "etcd_server_health_failures",
                "Unhealthy answers of /health",
            ),
            apply_duration: apply_durations(r),
            range_duration: range_durations(r),
            id: add(
                r,
                "etcd_server_id",
                "1 under the id of this member",
                Family::default(),
            ),
            cluster_version: add(
                r,
                "etcd_cluster_version",
                "1 under the version of the cluster",
                Family::default(),
            ),
            health_check: add(
                r,
                "etcd_server_healthcheck",
                "Whether the last run of a health check succeeded",
                Family::default(),
            ),
            health_checks: add(
                r,
                "etcd_server_healthchecks",
                "Runs of health checks",
                Family::default(),
            ),
        }
    }

    /// The time in seconds that applying an operation took, `success` telling whether it did.
    pub fn apply_duration(&self, operation: AppliedOperation, success: bool) -> &Histogram {
        let place = APPLIED.iter().position(|(other, _)| *other == operation);
        &self.apply_duration[place.expect("every operation is listed")][usize::from(success)]
    }

    /// The time in seconds that a range took, `success` telling whether it was answered.
    pub fn range_duration(&self, success: bool) -> &Histogram {
        &self.range_duration[usize::from(success)]
    }

    /// Tells which member this is.
    pub fn set_member_id(&self, id: u64) {
        self.id.clear();
        self.id
            .get_or_create(&vec![("server_id", format!("{id:x}"))])
            .set(1);
    }

    /// Tells the version of the cluster, as in `3.6`.
    pub fn set_cluster_version(&self, version: &str) {
        self.cluster_version.clear();
        self.cluster_version
            .get_or_create(&vec![("cluster_version", version.to_owned())])
            .set(1);
    }

    /// Counts one run of a check of `/livez` or `/readyz`.
    pub fn count_health_check(&self, endpoint: HealthEndpoint, check: &str, success: bool) {
        let mut labels = vec![
            ("type", endpoint.name().to_owned()),
            ("name", check.to_owned()),
        ];
        self.health_check
            .get_or_create(&labels)
            .set(i64::from(success));
        labels.push((
            "status",
            if success { "success" } else { "error" }.to_owned(),
        ));
        self.health_checks.get_or_create(&labels).inc();
    }
}

/// `etcd_mvcc_*`.
#[derive(Debug)]
pub struct MvccMetrics {
    /// Bytes that the database has taken from the disk.
    pub db_total_size_in_bytes: UnsignedGauge,
    /// Bytes of the database that hold something.
    pub db_total_size_in_use_in_bytes: UnsignedGauge,
    /// Readers of the database that are open.
    pub db_open_read_transactions: Gauge,
    /// Keys that exist.
    pub keys: Gauge,
    /// The newest revision.
    pub current_revision: Gauge,
    /// The oldest revision that can be read; -1 before the first compaction.
    pub compact_revision: Gauge,
    /// Number of changes of users and roles.
    pub auth_revision: Gauge,
    /// Ranges.
    pub range: Counter,
    /// Puts.
    pub put: Counter,
    /// Deletes.
    pub delete: Counter,
    /// Transactions.
    pub txn: Counter,
}

impl MvccMetrics {
    fn new(r: &mut Registry) -> MvccMetrics {
        MvccMetrics {
            db_total_size_in_bytes: gauge(
                r,
                "etcd_mvcc_db_total_size_in_bytes",
                "Bytes that the database has taken from the disk",
            ),
            db_total_size_in_use_in_bytes: gauge(
                r,
                "etcd_mvcc_db_total_size_in_use_in_bytes",
                "Bytes of the database in use",
            ),
            db_open_read_transactions: gauge(
                r,
                "etcd_mvcc_db_open_read_transactions",
                "Open readers of the database",
            ),
            keys: gauge(r, "etcd_debugging_mvcc_keys_total", "Keys that exist"),
            current_revision: gauge(
                r,
                "etcd_debugging_mvcc_current_revision",
                "The newest revision",
            ),
            compact_revision: gauge(
                r,
                "etcd_debugging_mvcc_compact_revision",
                "The oldest revision that can be read",
            ),
            auth_revision: gauge(
                r,
                "etcd_debugging_auth_revision",
                "Number of changes of users and roles",
            ),
            range: counter(r, "etcd_mvcc_range", "Ranges seen by this member"),
            put: counter(r, "etcd_mvcc_put", "Puts seen by this member"),
            delete: counter(r, "etcd_mvcc_delete", "Deletes seen by this member"),
            txn: counter(r, "etcd_mvcc_txn", "Transactions seen by this member"),
        }
    }
}

/// `etcd_disk_*` and `etcd_snap_*`. Times are in seconds.
#[derive(Debug)]
pub struct DiskMetrics {
    /// Syncing the write-ahead log.
    pub wal_fsync_duration: Histogram,
    /// Writing to the write-ahead log, without the sync.
    pub wal_write_duration: Histogram,
    /// Bytes written to the write-ahead log since the start.
    pub wal_write_bytes: UnsignedGauge,
    /// Committing the database.
    pub backend_commit_duration: Histogram,
    /// Defragmenting the database.
    pub backend_defrag_duration: Histogram,
    /// Copying the database to a client or member.
    pub backend_snapshot_duration: Histogram,
    /// 1 while the database is defragmented.
    pub defrag_inflight: Gauge,
    /// Syncing a snapshot of the log.
    pub snap_fsync_duration: Histogram,
}

impl DiskMetrics {
    fn new(r: &mut Registry) -> DiskMetrics {
        let millisecond_up = || Histogram::new(exponential_buckets(0.001, 2.0, 14));
        DiskMetrics {
            wal_fsync_duration: add(
                r,
                "etcd_disk_wal_fsync_duration_seconds",
                "Time to sync the write-ahead log",
                millisecond_up(),
            ),
            wal_write_duration: add(
                r,
                "etcd_disk_wal_write_duration_seconds",
                "Time to write to the write-ahead log",
                millisecond_up(),
            ),
            wal_write_bytes: gauge(
                r,
                "etcd_disk_wal_write_bytes_total",
                "Bytes written to the write-ahead log",
            ),
            backend_commit_duration: add(
                r,
                "etcd_disk_backend_commit_duration_seconds",
                "Time to commit the database",
                millisecond_up(),
            ),
            backend_defrag_duration: add(
                r,
                "etcd_disk_backend_defrag_duration_seconds",
                "Time to defragment the database",
                Histogram::new(exponential_buckets(0.1, 2.0, 13)),
            ),
            backend_snapshot_duration: add(
                r,
                "etcd_disk_backend_snapshot_duration_seconds",
                "Time to copy the database",
                Histogram::new(exponential_buckets(0.01, 2.0, 17)),
            ),
            defrag_inflight: gauge(
                r,
                "etcd_disk_defrag_inflight",
                "Whether the database is being defragmented",
            ),
            snap_fsync_duration: add(
                r,
                "etcd_snap_fsync_duration_seconds",
                "Time to sync a snapshot of the log",
                millisecond_up(),
            ),
        }
    }
}

/// `holdfast_space_return_*` and what becomes of the alarm NOSPACE: etcd has nothing like it.
#[derive(Debug)]
pub struct SpaceMetrics {
    /// Bytes of the database file that hold nothing.
    pub bytes_to_go: Gauge,
    /// Pages moved towards the start of the file.
    pub moved_pages: Counter,
    /// Bytes cut off its end.
    pub cut_bytes: Counter,
    /// Alarms NOSPACE cleared since the database is below its quota again.
    pub alarms_cleared: Counter,
}

impl SpaceMetrics {
    fn new(r: &mut Registry) -> SpaceMetrics {
        SpaceMetrics {
            bytes_to_go: gauge(
                r,
                "holdfast_space_return_bytes_to_go",
                "Bytes of the database file that hold nothing",
            ),
            moved_pages: counter(
                r,
                "holdfast_space_return_moved_pages",
                "Pages moved towards the start of the database file",
            ),
            cut_bytes: counter(
                r,
                "holdfast_space_return_cut_bytes",
                "Bytes cut off the end of the database file",
            ),
            alarms_cleared: counter(
                r,
                "holdfast_nospace_alarms_cleared",
                "NOSPACE alarms cleared since the database was below its quota again",
            ),
        }
    }
}

/// `etcd_network_*`.
#[derive(Debug)]
pub struct NetworkMetrics {
    /// Bytes of messages sent to gRPC clients.
    pub client_grpc_sent_bytes: Counter,
    /// Bytes of messages received from gRPC clients.
    pub client_grpc_received_bytes: Counter,
}

impl NetworkMetrics {
    fn new(r: &mut Registry) -> NetworkMetrics {
        NetworkMetrics {
            client_grpc_sent_bytes: counter(
                r,
                "etcd_network_client_grpc_sent_bytes",
                "Bytes sent to gRPC clients",
            ),
            client_grpc_received_bytes: counter(
                r,
                "etcd_network_client_grpc_received_bytes",
                "Bytes received from gRPC clients",
            ),
        }
    }
}

pub(super) fn add<M: Metric + Clone>(
    registry: &mut Registry,
    name: &str,
    help: &str,
    metric: M,
) -> M {
    registry.register(name, help, metric.clone());
    metric
}

/// A counter; its name as it is printed, without the ending `_total`.
pub(super) fn counter(registry: &mut Registry, name: &str, help: &str) -> Counter {
    add(registry, name, help, Counter::default())
}

pub(super) fn gauge<M: Metric + Clone + Default>(
    registry: &mut Registry,
    name: &str,
    help: &str,
) -> M {
    add(registry, name, help, M::default())
}

type DurationFamily = Family<Labels, Histogram, fn() -> Histogram>;

fn duration_family(registry: &mut Registry, name: &str, help: &str) -> DurationFamily {
    let buckets: fn() -> Histogram = || Histogram::new(exponential_buckets(0.0001, 2.0, 20));
    add(registry, name, help, Family::new_with_constructor(buckets))
}

fn failure_and_success(family: &DurationFamily, labels: &Labels) -> [Histogram; 2] {
    ["false", "true"].map(|success| {
        let mut labels = labels.clone();
        labels.push(("success", success.to_owned()));
        family.get_or_create_owned(&labels)
    })
}

fn apply_durations(registry: &mut Registry) -> Vec<[Histogram; 2]> {
    let name = "etcd_server_apply_duration_seconds";
    let family = duration_family(registry, name, "Time to apply a request");
    APPLIED
        .iter()
        .map(|(_, operation)| {
            let labels = vec![
                ("version", "v3".to_owned()),
                ("op", (*operation).to_owned()),
            ];
            failure_and_success(&family, &labels)
        })
        .collect()
}

fn range_durations(registry: &mut Registry) -> [Histogram; 2] {
    let name = "etcd_server_range_duration_seconds";
    failure_and_success(
        &duration_family(registry, name, "Time to answer a range"),
        &Vec::new(),
    )
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// Names and types as etcd prints them, against which alerts and dashboards are written, and our own.
    const EXPECTED: &[(&str, &str)] = &[
        ("holdfast_peer_messages_refused_total", "counter"),
        ("holdfast_nospace_alarms_cleared_total", "counter"),
        ("holdfast_space_return_bytes_to_go", "gauge"),
        ("holdfast_space_return_cut_bytes_total", "counter"),
        ("holdfast_space_return_moved_pages_total", "counter"),
        ("etcd_cluster_version", "gauge"),
        ("etcd_disk_backend_commit_duration_seconds", "histogram"),
        ("etcd_disk_backend_defrag_duration_seconds", "histogram"),
        ("etcd_disk_backend_snapshot_duration_seconds", "histogram"),
        ("etcd_disk_defrag_inflight", "gauge"),
        ("etcd_disk_wal_fsync_duration_seconds", "histogram"),
        ("etcd_disk_wal_write_bytes_total", "gauge"),
        ("etcd_disk_wal_write_duration_seconds", "histogram"),
        ("etcd_mvcc_db_open_read_transactions", "gauge"),
        ("etcd_mvcc_db_total_size_in_bytes", "gauge"),
        ("etcd_mvcc_db_total_size_in_use_in_bytes", "gauge"),
        ("etcd_mvcc_delete_total", "counter"),
        ("etcd_mvcc_put_total", "counter"),
        ("etcd_mvcc_range_total", "counter"),
        ("etcd_mvcc_txn_total", "counter"),
        ("etcd_network_client_grpc_received_bytes_total", "counter"),
        ("etcd_network_client_grpc_sent_bytes_total", "counter"),
        ("etcd_server_apply_duration_seconds", "histogram"),
        ("etcd_server_client_requests_total", "counter"),
        ("etcd_debugging_auth_revision", "gauge"),
        ("etcd_debugging_lease_granted_total", "counter"),
        ("etcd_debugging_lease_renewed_total", "counter"),
        ("etcd_debugging_lease_revoked_total", "counter"),
        ("etcd_debugging_lease_ttl_total", "histogram"),
        ("etcd_debugging_mvcc_compact_revision", "gauge"),
        ("etcd_debugging_mvcc_current_revision", "gauge"),
        ("etcd_debugging_mvcc_events_total", "counter"),
        ("etcd_debugging_mvcc_keys_total", "gauge"),
        ("etcd_debugging_mvcc_pending_events_total", "gauge"),
        ("etcd_debugging_mvcc_slow_watcher_total", "gauge"),
        ("etcd_debugging_mvcc_watch_stream_total", "gauge"),
        ("etcd_debugging_mvcc_watcher_total", "gauge"),
        ("etcd_debugging_server_lease_expired_total", "counter"),
        ("etcd_server_has_leader", "gauge"),
        ("etcd_server_health_failures", "counter"),
        ("etcd_server_health_success", "counter"),
        ("etcd_server_healthcheck", "gauge"),
        ("etcd_server_healthchecks_total", "counter"),
        ("etcd_server_heartbeat_send_failures_total", "counter"),
        ("etcd_server_id", "gauge"),
        ("etcd_server_is_leader", "gauge"),
        ("etcd_server_is_learner", "gauge"),
        ("etcd_server_leader_changes_seen_total", "counter"),
        ("etcd_server_proposals_applied_total", "gauge"),
        ("etcd_server_proposals_committed_total", "gauge"),
        ("etcd_server_proposals_failed_total", "counter"),
        ("etcd_server_proposals_pending", "gauge"),
        ("etcd_server_quota_backend_bytes", "gauge"),
        ("etcd_server_range_duration_seconds", "histogram"),
        ("etcd_server_read_indexes_failed_total", "counter"),
        ("etcd_server_slow_apply_total", "counter"),
        ("etcd_server_slow_read_indexes_total", "counter"),
        ("etcd_server_version", "gauge"),
        ("etcd_snap_fsync_duration_seconds", "histogram"),
        ("grpc_server_handled_total", "counter"),
        ("grpc_server_msg_received_total", "counter"),
        ("grpc_server_msg_sent_total", "counter"),
        ("grpc_server_started_total", "counter"),
        ("os_fd_limit", "gauge"),
        ("os_fd_used", "gauge"),
        ("process_cpu_seconds_total", "counter"),
        ("process_max_fds", "gauge"),
        ("process_network_receive_bytes_total", "counter"),
        ("process_network_transmit_bytes_total", "counter"),
        ("process_open_fds", "gauge"),
        ("process_resident_memory_bytes", "gauge"),
        ("process_start_time_seconds", "gauge"),
        ("process_virtual_memory_bytes", "gauge"),
        ("process_virtual_memory_max_bytes", "gauge"),
    ];

    /// Metrics with a value under each name.
    fn used() -> Metrics {
        let metrics = Metrics::new();
        metrics.server.set_member_id(0x8e9e_05c5_2164_694d);
        metrics.server.set_cluster_version("3.5");
        metrics.server.set_cluster_version("3.6");
        metrics
            .server
            .count_health_check(HealthEndpoint::Livez, "serializable_read", true);
        metrics.grpc.count_client(false, Some("3.6.0"));
        metrics
    }

    #[test]
    fn names_and_types_are_etcds() {
        let text = used().text();
        let found: BTreeMap<&str, &str> = text
            .lines()
            .filter_map(|line| line.strip_prefix("# TYPE "))
            .map(|rest| rest.split_once(' ').expect("a type"))
            .collect();
        let expected: BTreeMap<&str, &str> = EXPECTED.iter().copied().collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn every_sample_belongs_to_the_type_above_it() {
        let text = used().text();
        let mut family = ("", "");
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                family = rest.split_once(' ').expect("a type");
            } else if !line.starts_with('#') {
                let name = line.split(['{', ' ']).next().expect("a name");
                let base = match family.1 {
                    "histogram" => ["_bucket", "_sum", "_count"]
                        .iter()
                        .find_map(|ending| name.strip_suffix(ending))
                        .expect("a histogram's sample"),
                    _ => name,
                };
                assert_eq!(base, family.0, "{line}");
            }
        }
    }

    #[test]
    fn labels_and_buckets_are_etcds() {
        let metrics = used();
        metrics.disk.wal_fsync_duration.observe(0.0015);
        metrics
            .server
            .apply_duration(AppliedOperation::Txn, true)
            .observe(0.00015);
        metrics.server.proposals_committed.set(7);
        metrics.server.quota_backend_bytes.set(-1);
        let text = metrics.text();
        for line in [
            "etcd_server_id{server_id=\"8e9e05c52164694d\"} 1",
            "etcd_server_version{server_version=\"3.6.12\"} 1",
            "etcd_cluster_version{cluster_version=\"3.6\"} 1",
            "etcd_server_healthcheck{type=\"livez\",name=\"serializable_read\"} 1",
            "etcd_server_healthchecks_total{type=\"livez\",name=\"serializable_read\",status=\"success\"} 1",
            "etcd_server_proposals_committed_total 7",
            "etcd_server_quota_backend_bytes -1",
            "etcd_disk_wal_fsync_duration_seconds_bucket{le=\"0.001\"} 0",
            "etcd_disk_wal_fsync_duration_seconds_bucket{le=\"0.002\"} 1",
            "etcd_disk_wal_fsync_duration_seconds_bucket{le=\"8.192\"} 1",
            "etcd_disk_wal_fsync_duration_seconds_bucket{le=\"+Inf\"} 1",
            "etcd_server_apply_duration_seconds_bucket{le=\"0.0001\",version=\"v3\",op=\"Txn\",success=\"true\"} 0",
            "etcd_server_apply_duration_seconds_bucket{le=\"0.0002\",version=\"v3\",op=\"Txn\",success=\"true\"} 1",
            "etcd_server_client_requests_total{type=\"unary\",client_api_version=\"3.6.0\"} 1",
        ] {
            assert!(
                text.lines().any(|other| other == line),
                "{line} in:\n{text}"
            );
        }
        assert!(!text.contains("cluster_version=\"3.5\""));
    }
}
