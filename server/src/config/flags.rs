//! The flags we know. Their names are etcd's; the same names are keys of the configuration file
//! and, as `ETCD_…`, environment variables.

/// One flag.
pub(super) struct Flag {
    pub(super) name: &'static str,
    pub(super) topic: Topic,
    /// What the help shows in place of a value.
    pub(super) placeholder: &'static str,
    pub(super) kind: Kind,
    /// What holds when nothing is typed, as the help says it.
    pub(super) default: &'static str,
    pub(super) help: &'static str,
}

/// The tasks by which the help is grouped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Topic {
    Member,
    Cluster,
    Limits,
    Compaction,
    Tuning,
    Monitoring,
    Start,
}

impl Topic {
    pub(super) const ALL: [(Topic, &'static str); 7] = [
        (Topic::Member, "This member"),
        (Topic::Cluster, "The cluster it belongs to"),
        (Topic::Limits, "Limits"),
        (Topic::Compaction, "Compaction of old revisions"),
        (Topic::Tuning, "Timing and disk"),
        (Topic::Monitoring, "Logs and metrics"),
        (Topic::Start, "Starting"),
    ];
}

/// How the configuration file may write a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A plain word or number.
    Plain,
    /// A comma-separated text or a list.
    List,
    /// A duration, or a whole number of nanoseconds.
    Duration,
    /// A switch without a value.
    Switch,
}

const fn flag(
    name: &'static str,
    topic: Topic,
    (placeholder, kind): (&'static str, Kind),
    default: &'static str,
    help: &'static str,
) -> Flag {
    Flag {
        name,
        topic,
        placeholder,
        kind,
        default,
        help,
    }
}

const URLS: (&str, Kind) = ("URL,…", Kind::List);
const MILLISECONDS: (&str, Kind) = ("MS", Kind::Plain);
const NUMBER: (&str, Kind) = ("N", Kind::Plain);
const SWITCH: (&str, Kind) = ("", Kind::Switch);

pub(super) const FLAGS: &[Flag] = &[
    flag(
        "name",
        Topic::Member,
        ("NAME", Kind::Plain),
        "default",
        "name of this member",
    ),
    flag(
        "data-dir",
        Topic::Member,
        ("DIR", Kind::Plain),
        "<name>.etcd",
        "folder of this member's data",
    ),
    flag(
        "wal-dir",
        Topic::Member,
        ("DIR", Kind::Plain),
        "<data-dir>/member/wal",
        "folder of the write-ahead log, to place it on a disk of its own",
    ),
    flag(
        "listen-client-urls",
        Topic::Member,
        URLS,
        "http://localhost:2379",
        "addresses to serve clients on: gRPC and HTTP",
    ),
    flag(
        "advertise-client-urls",
        Topic::Member,
        URLS,
        "http://localhost:2379",
        "URLs that clients are told; required with --listen-client-urls",
    ),
    flag(
        "listen-peer-urls",
        Topic::Member,
        URLS,
        "http://localhost:2380",
        "addresses to serve other members on",
    ),
    flag(
        "initial-advertise-peer-urls",
        Topic::Cluster,
        URLS,
        "http://localhost:2380",
        "URLs that other members are told when the cluster is made",
    ),
    flag(
        "initial-cluster",
        Topic::Cluster,
        ("NAME=URL,…", Kind::List),
        "<name>=<initial-advertise-peer-urls>",
        "members of a new cluster; this version runs one member",
    ),
    flag(
        "initial-cluster-state",
        Topic::Cluster,
        ("new|existing", Kind::Plain),
        "new",
        "whether the cluster is to be made or joined; without effect once there is data",
    ),
    flag(
        "initial-cluster-token",
        Topic::Cluster,
        ("TEXT", Kind::Plain),
        "etcd-cluster",
        "tells clusters made of the same URLs apart",
    ),
    flag(
        "quota-backend-bytes",
        Topic::Limits,
        ("BYTES", Kind::Plain),
        "0",
        "size of the database that stops writes; 0 is 2 GiB, negative is no limit",
    ),
    flag(
        "max-request-bytes",
        Topic::Limits,
        ("BYTES", Kind::Plain),
        "1572864",
        "largest request of a client",
    ),
    flag(
        "max-txn-ops",
        Topic::Limits,
        NUMBER,
        "128",
        "most operations in one transaction",
    ),
    flag(
        "auto-compaction-mode",
        Topic::Compaction,
        ("periodic|revision", Kind::Plain),
        "periodic",
        "whether the retention is a time or a number of revisions",
    ),
    flag(
        "auto-compaction-retention",
        Topic::Compaction,
        ("HOURS|TIME|N", Kind::Plain),
        "0",
        "what is kept: hours, a time such as 30m, or revisions; 0 is off",
    ),
    flag(
        "heartbeat-interval",
        Topic::Tuning,
        MILLISECONDS,
        "100",
        "milliseconds between the leader's heartbeats",
    ),
    flag(
        "election-timeout",
        Topic::Tuning,
        MILLISECONDS,
        "1000",
        "milliseconds of a follower's patience; at least 5 heartbeats, at most 50000",
    ),
    flag(
        "snapshot-count",
        Topic::Tuning,
        NUMBER,
        "10000",
        "applied entries between two snapshots of the log",
    ),
    flag(
        "max-snapshots",
        Topic::Tuning,
        NUMBER,
        "5",
        "snapshot files kept; 0 keeps all",
    ),
    flag(
        "max-wals",
        Topic::Tuning,
        NUMBER,
        "5",
        "log files kept; 0 keeps all",
    ),
    flag(
        "backend-batch-interval",
        Topic::Tuning,
        ("TIME", Kind::Duration),
        "0",
        "longest wait before changes go to the database file; 0 is 100ms",
    ),
    flag(
        "backend-batch-limit",
        Topic::Tuning,
        NUMBER,
        "0",
        "most changes before they go to the database file; 0 is 10000",
    ),
    flag(
        "log-level",
        Topic::Monitoring,
        ("LEVEL", Kind::Plain),
        "info",
        "debug, info, warn, error, dpanic, panic or fatal",
    ),
    flag(
        "log-format",
        Topic::Monitoring,
        ("json|text", Kind::Plain),
        "json",
        "one JSON object per line, or text to read (also called console)",
    ),
    flag(
        "listen-metrics-urls",
        Topic::Monitoring,
        URLS,
        "",
        "further addresses that serve /metrics and health only",
    ),
    flag(
        "config-file",
        Topic::Start,
        ("FILE", Kind::Plain),
        "",
        "YAML or JSON with these flags as keys; all other flags and variables are then ignored",
    ),
    flag(
        "version",
        Topic::Start,
        SWITCH,
        "",
        "print versions and exit",
    ),
    flag("help", Topic::Start, SWITCH, "", "print this text and exit"),
];

/// The flag called `name`.
pub(super) fn find(name: &str) -> Option<&'static Flag> {
    FLAGS.iter().find(|flag| flag.name == name)
}

/// etcd's settings that would leave the server less protected, or make another cluster than the
/// operator wants, if we ignored them. They are refused wherever they are set.
const NEEDED: &[&str] = &[
    "auto-tls",
    "cert-file",
    "client-cert-allowed-hostname",
    "client-cert-auth",
    "client-cert-file",
    "client-crl-file",
    "client-key-file",
    "client-transport-security",
    "discovery",
    "discovery-config",
    "discovery-endpoints",
    "discovery-srv",
    "discovery-srv-name",
    "discovery-token",
    "force-new-cluster",
    "host-whitelist",
    "key-file",
    "listen-client-http-urls",
    "peer-auto-tls",
    "peer-cert-allowed-cn",
    "peer-cert-allowed-hostname",
    "peer-cert-file",
    "peer-client-cert-auth",
    "peer-client-cert-file",
    "peer-client-key-file",
    "peer-crl-file",
    "peer-key-file",
    "peer-transport-security",
    "peer-trusted-ca-file",
    "trusted-ca-file",
];

/// etcd's settings whose absence at most costs a convenience. As variables and keys they are
/// ignored with a warning, so that files written for etcd keep working.
const DISPENSABLE: &[&str] = &[
    "auth-token",
    "auth-token-ttl",
    "backend-bbolt-freelist-type",
    "bcrypt-cost",
    "bootstrap-defrag-threshold-megabytes",
    "cipher-suites",
    "compact-hash-check-time",
    "compaction-batch-limit",
    "compaction-sleep-interval",
    "corrupt-check-time",
    "cors",
    "distributed-tracing-address",
    "distributed-tracing-instance-id",
    "distributed-tracing-sampling-rate",
    "distributed-tracing-service-name",
    "downgrade-check-time",
    "enable-distributed-tracing",
    "enable-grpc-gateway",
    "enable-log-rotation",
    "enable-pprof",
    "feature-gates",
    "grpc-keepalive-interval",
    "grpc-keepalive-min-time",
    "grpc-keepalive-timeout",
    "initial-election-tick-advance",
    "log-outputs",
    "log-rotation-config-json",
    "logger",
    "max-concurrent-streams",
    "max-learners",
    "memory-mlock",
    "metrics",
    "peer-skip-client-san-verification",
    "pre-vote",
    "raft-read-timeout",
    "raft-write-timeout",
    "self-signed-cert-validity",
    "snapshot-catchup-entries",
    "socket-options",
    "socket-reuse-address",
    "socket-reuse-port",
    "strict-reconfig-check",
    "tls-max-version",
    "tls-min-version",
    "unsafe-no-fsync",
    "v2-deprecation",
    "warning-apply-duration",
    "warning-unary-request-duration",
    "watch-progress-notify-interval",
];

/// What a name means that is no flag of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Foreign {
    /// etcd has it, and ignoring it would be dangerous.
    Needed,
    /// etcd has it, and it can be ignored.
    Dispensable,
    /// Nobody has it.
    Unknown,
}

/// Sorts a name that [`find`] does not find.
pub(super) fn foreign(name: &str) -> Foreign {
    if NEEDED.contains(&name) {
        Foreign::Needed
    } else if DISPENSABLE.contains(&name) {
        Foreign::Dispensable
    } else {
        Foreign::Unknown
    }
}

/// The flag whose name is nearest to `typed`, if one is near enough to be meant.
pub(super) fn nearest(typed: &str) -> Option<&'static str> {
    let typed = typed.to_lowercase().replace('_', "-");
    let near_enough = (typed.chars().count() / 3).clamp(1, 4);
    FLAGS
        .iter()
        .map(|flag| (edit_distance(&typed, flag.name), flag.name))
        .min()
        .filter(|(distance, _)| *distance <= near_enough)
        .map(|(_, name)| name)
}

/// How many letters must be added, removed or changed to make `a` into `b`.
fn edit_distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut previous: Vec<usize> = (0..=b.len()).collect();
    for (i, letter) in a.chars().enumerate() {
        let mut current = Vec::with_capacity(b.len() + 1);
        current.push(i + 1);
        for (j, other) in b.iter().enumerate() {
            let changed = previous[j] + usize::from(letter != *other);
            current.push(changed.min(previous[j + 1] + 1).min(current[j] + 1));
        }
        previous = current;
    }
    previous[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_of_the_finger_finds_the_flag() {
        assert_eq!(nearest("data-dri"), Some("data-dir"));
        assert_eq!(nearest("quota-backend-byte"), Some("quota-backend-bytes"));
        assert_eq!(nearest("listen_client_url"), Some("listen-client-urls"));
        assert_eq!(nearest("Name"), Some("name"));
        assert_eq!(nearest("frobnicate"), None);
    }

    #[test]
    fn no_flag_is_both_known_and_foreign() {
        for name in NEEDED.iter().chain(DISPENSABLE) {
            assert!(find(name).is_none(), "{name} is listed as foreign");
        }
    }
}
