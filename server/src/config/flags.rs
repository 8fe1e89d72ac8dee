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
    Security,
    Tuning,
    Monitoring,
    Start,
}

impl Topic {
    pub(super) const ALL: [(Topic, &'static str); 8] = [
        (Topic::Member, "This member"),
        (Topic::Cluster, "The cluster it belongs to"),
        (Topic::Limits, "Limits"),
        (Topic::Compaction, "Compaction of old revisions"),
        (Topic::Security, "Users and certificates"),
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
    /// True or false; on a command line the name alone is true.
    Boolean,
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
const BOOLEAN: (&str, Kind) = ("BOOL", Kind::Boolean);
const FILE: (&str, Kind) = ("FILE", Kind::Plain);
const TIME: (&str, Kind) = ("TIME", Kind::Duration);
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
        "listen-client-http-urls",
        Topic::Member,
        URLS,
        "",
        "addresses for HTTP alone; the client URLs then serve gRPC alone",
    ),
    flag(
        "advertise-client-urls",
        Topic::Member,
        URLS,
        "http://localhost:2379",
        "URLs that clients are told; required with --listen-client-urls",
    ),
    flag(
        "enable-grpc-gateway",
        Topic::Member,
        BOOLEAN,
        "true",
        "serve JSON over HTTP below /v3/",
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
        "all members of the cluster, with this one",
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
        "discovery-srv",
        Topic::Cluster,
        ("DOMAIN", Kind::Plain),
        "",
        "domain whose SRV records name all members, instead of --initial-cluster",
    ),
    flag(
        "discovery-srv-name",
        Topic::Cluster,
        ("TEXT", Kind::Plain),
        "",
        "follows etcd-server in the records' names: _etcd-server-TEXT._tcp",
    ),
    flag(
        "strict-reconfig-check",
        Topic::Cluster,
        BOOLEAN,
        "true",
        "refuse changes of members that would cost the quorum",
    ),
    flag(
        "max-learners",
        Topic::Cluster,
        NUMBER,
        "1",
        "learners at a time; the same on all members",
    ),
    flag(
        "force-new-cluster",
        Topic::Cluster,
        BOOLEAN,
        "false",
        "last resort: drop all other members from this one's data and go on alone",
    ),
    flag(
        "quota-backend-bytes",
        Topic::Limits,
        ("BYTES", Kind::Plain),
        "0",
        "size of the database that stops writes; 0 is 2 GiB, negative is no limit",
    ),
    flag(
        "nospace-auto-disarm",
        Topic::Limits,
        BOOLEAN,
        "false",
        "end the alarm NOSPACE when the database is below its quota again",
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
        "max-concurrent-streams",
        Topic::Limits,
        NUMBER,
        "4294967295",
        "calls at once on one connection",
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
        "cert-file",
        Topic::Security,
        FILE,
        "",
        "certificate for https, with those up to an authority, in PEM",
    ),
    flag(
        "key-file",
        Topic::Security,
        FILE,
        "",
        "key of --cert-file, in PEM",
    ),
    flag(
        "client-cert-auth",
        Topic::Security,
        BOOLEAN,
        "false",
        "clients must show a certificate; its common name is a user",
    ),
    flag(
        "trusted-ca-file",
        Topic::Security,
        FILE,
        "",
        "authorities of clients' certificates, in PEM",
    ),
    flag(
        "client-crl-file",
        Topic::Security,
        FILE,
        "",
        "revoked certificates of clients",
    ),
    flag(
        "client-cert-allowed-hostname",
        Topic::Security,
        ("NAME,…", Kind::List),
        "",
        "names of which a client's certificate must bear one",
    ),
    flag(
        "auto-tls",
        Topic::Security,
        BOOLEAN,
        "false",
        "make a certificate for https that is signed by itself",
    ),
    flag(
        "self-signed-cert-validity",
        Topic::Security,
        ("YEARS", Kind::Plain),
        "1",
        "years that such a certificate holds",
    ),
    flag(
        "peer-cert-file",
        Topic::Security,
        FILE,
        "",
        "certificate for https between members, with those up to an authority, in PEM",
    ),
    flag(
        "peer-key-file",
        Topic::Security,
        FILE,
        "",
        "key of --peer-cert-file, in PEM",
    ),
    flag(
        "peer-client-cert-file",
        Topic::Security,
        FILE,
        "",
        "certificate to show when dialing members, instead of --peer-cert-file",
    ),
    flag(
        "peer-client-key-file",
        Topic::Security,
        FILE,
        "",
        "key of --peer-client-cert-file, in PEM",
    ),
    flag(
        "peer-client-cert-auth",
        Topic::Security,
        BOOLEAN,
        "false",
        "members that dial must show a certificate",
    ),
    flag(
        "peer-trusted-ca-file",
        Topic::Security,
        FILE,
        "",
        "authorities of members' certificates, in PEM",
    ),
    flag(
        "peer-crl-file",
        Topic::Security,
        FILE,
        "",
        "revoked certificates of members",
    ),
    flag(
        "peer-cert-allowed-cn",
        Topic::Security,
        ("NAME,…", Kind::List),
        "",
        "common names of which a dialing member's certificate must bear one",
    ),
    flag(
        "peer-cert-allowed-hostname",
        Topic::Security,
        ("NAME,…", Kind::List),
        "",
        "host names of which a dialing member's certificate must bear one",
    ),
    flag(
        "peer-skip-client-san-verification",
        Topic::Security,
        BOOLEAN,
        "false",
        "do not compare a dialing member's address with its certificate",
    ),
    flag(
        "peer-auto-tls",
        Topic::Security,
        BOOLEAN,
        "false",
        "make a certificate for https between members that is signed by itself",
    ),
    flag(
        "cipher-suites",
        Topic::Security,
        ("NAME,…", Kind::List),
        "",
        "cipher suites of TLS 1.2",
    ),
    flag(
        "tls-min-version",
        Topic::Security,
        ("TLS1.2|TLS1.3", Kind::Plain),
        "TLS1.2",
        "oldest version of TLS",
    ),
    flag(
        "tls-max-version",
        Topic::Security,
        ("TLS1.2|TLS1.3", Kind::Plain),
        "",
        "newest version of TLS",
    ),
    flag(
        "cors",
        Topic::Security,
        ("ORIGIN,…", Kind::List),
        "*",
        "origins whose pages may call from a browser",
    ),
    flag(
        "host-whitelist",
        Topic::Security,
        ("NAME,…", Kind::List),
        "*",
        "host names by which http listeners may be called",
    ),
    flag(
        "auth-token",
        Topic::Security,
        ("KIND", Kind::Plain),
        "simple",
        "tokens of users: simple, or jwt,pub-key=F,priv-key=F,sign-method=RS256,ttl=10m",
    ),
    flag(
        "auth-token-ttl",
        Topic::Security,
        ("SECONDS", Kind::Plain),
        "300",
        "seconds that a simple token counts after its last use",
    ),
    flag(
        "bcrypt-cost",
        Topic::Security,
        NUMBER,
        "10",
        "cost of hashing a password, 4 to 31; each step doubles it",
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
        "snapshot-catchup-entries",
        Topic::Tuning,
        NUMBER,
        "5000",
        "entries kept in memory behind such a snapshot, for members that lag",
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
        "space-return",
        Topic::Tuning,
        BOOLEAN,
        "true",
        "give free space of the database file back while it is in use",
    ),
    flag(
        "space-return-pages",
        Topic::Tuning,
        NUMBER,
        "256",
        "pages that one commit moves for that",
    ),
    flag(
        "space-return-disk-share",
        Topic::Tuning,
        ("PERCENT", Kind::Plain),
        "20",
        "part of the time that such commits take at most",
    ),
    flag(
        "watch-progress-notify-interval",
        Topic::Tuning,
        ("TIME", Kind::Duration),
        "0",
        "how often silent watchers are told how far they are; 0 is 10m",
    ),
    flag(
        "grpc-keepalive-interval",
        Topic::Tuning,
        TIME,
        "2h",
        "silent clients are asked for life after this; 0 is never",
    ),
    flag(
        "grpc-keepalive-timeout",
        Topic::Tuning,
        TIME,
        "20s",
        "how long they may take to answer",
    ),
    flag(
        "feature-gates",
        Topic::Tuning,
        ("NAME=BOOL,…", Kind::List),
        "",
        "CompactHashCheck, InitialCorruptCheck, LeaseCheckpoint[Persist]; no others",
    ),
    flag(
        "corrupt-check-time",
        Topic::Monitoring,
        TIME,
        "0",
        "how often the leader compares the members' data; 0 is never",
    ),
    flag(
        "compact-hash-check-time",
        Topic::Monitoring,
        TIME,
        "1m",
        "how often it compares hashes of compactions, with the gate CompactHashCheck",
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
        "warning-apply-duration",
        Topic::Monitoring,
        TIME,
        "100ms",
        "applying a request longer than this is logged",
    ),
    flag(
        "warning-unary-request-duration",
        Topic::Monitoring,
        TIME,
        "300ms",
        "answering a request later than this is logged",
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

/// etcd's settings that would make another cluster than the operator wants if we ignored them. They
/// are refused wherever they are set.
const NEEDED: &[&str] = &[
    "discovery",
    "discovery-config",
    "discovery-endpoints",
    "discovery-token",
];

/// etcd's settings that change nothing here, so that files, units and manifests written for etcd keep
/// working: accepted with a warning. First those with a value, then those that are on or off.
const IGNORED: &[&str] = &[
    "backend-bbolt-freelist-type",
    "bootstrap-defrag-threshold-megabytes",
    "client-cert-file",
    "client-key-file",
    "compaction-batch-limit",
    "compaction-sleep-interval",
    "discovery-cacert",
    "discovery-cert",
    "discovery-dial-timeout",
    "discovery-fallback",
    "discovery-keepalive-time",
    "discovery-keepalive-timeout",
    "discovery-key",
    "discovery-password",
    "discovery-proxy",
    "discovery-request-timeout",
    "discovery-user",
    "distributed-tracing-address",
    "distributed-tracing-instance-id",
    "distributed-tracing-sampling-rate",
    "distributed-tracing-service-name",
    "downgrade-check-time",
    "grpc-keepalive-min-time",
    "log-output",
    "log-outputs",
    "log-package-levels",
    "log-rotation-config-json",
    "logger",
    "metrics",
    "next-cluster-version-compatible",
    "proxy",
    "proxy-dial-timeout",
    "proxy-failure-wait",
    "proxy-read-timeout",
    "proxy-refresh-interval",
    "proxy-write-timeout",
    "raft-read-timeout",
    "raft-write-timeout",
    "socket-options",
    "v2-deprecation",
];

const IGNORED_BOOLEANS: &[&str] = &[
    "cluster-active-size",
    "cluster-remove-delay",
    "cluster-sync-interval",
    "config",
    "debug",
    "discovery-insecure-skip-tls-verify",
    "discovery-insecure-transport",
    "enable-distributed-tracing",
    "enable-log-rotation",
    "enable-pprof",
    "enable-v2",
    "experimental-enable-v2v3",
    "force",
    "initial-election-tick-advance",
    "max-result-buffer",
    "max-retry-attempts",
    "memory-mlock",
    "peer-election-timeout",
    "peer-heartbeat-interval",
    "pre-vote",
    "retry-interval",
    "snapshot",
    "socket-reuse-address",
    "socket-reuse-port",
    "unsafe-no-fsync",
    "v",
    "vv",
];

/// Feature gates that etcd's older flags stand for.
const GATES: &[(&str, &str)] = &[
    (
        "experimental-compact-hash-check-enabled",
        "CompactHashCheck",
    ),
    ("experimental-enable-lease-checkpoint", "LeaseCheckpoint"),
    (
        "experimental-enable-lease-checkpoint-persist",
        "LeaseCheckpointPersist",
    ),
    ("experimental-initial-corrupt-check", "InitialCorruptCheck"),
    (
        "experimental-stop-grpc-service-on-defrag",
        "StopGRPCServiceOnDefrag",
    ),
    (
        "experimental-txn-mode-write-with-shared-buffer",
        "TxnModeWriteWithSharedBuffer",
    ),
];

/// The feature gate that an older flag stands for.
pub(super) fn gate(name: &str) -> Option<&'static str> {
    GATES
        .iter()
        .find(|(old, _)| *old == name)
        .map(|(_, gate)| *gate)
}

/// The name that an older one has now.
pub(super) fn renamed(name: &str) -> Option<&str> {
    let new = name.strip_prefix("experimental-")?;
    let is_known = find(new).is_some() || IGNORED.contains(&new) || IGNORED_BOOLEANS.contains(&new);
    is_known.then_some(new)
}

/// What a name means that is no flag of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Foreign {
    /// etcd has it, and ignoring it would be dangerous.
    Needed,
    /// etcd has it with a value, and it changes nothing here.
    Ignored,
    /// etcd has it as on or off, and it changes nothing here.
    IgnoredBoolean,
    /// Nobody has it.
    Unknown,
}

/// Sorts a name that [`find`] does not find.
pub(super) fn foreign(name: &str) -> Foreign {
    if NEEDED.contains(&name) {
        Foreign::Needed
    } else if IGNORED.contains(&name) {
        Foreign::Ignored
    } else if IGNORED_BOOLEANS.contains(&name) {
        Foreign::IgnoredBoolean
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
        for name in NEEDED.iter().chain(IGNORED).chain(IGNORED_BOOLEANS) {
            assert!(find(name).is_none(), "{name} is listed as foreign");
        }
    }
}
