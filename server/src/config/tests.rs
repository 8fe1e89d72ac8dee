//! Every flag: what it accepts and what it refuses, as flag, variable and key.

use std::ffi::OsString;
use std::io;
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::*;
use crate::http::TlsSettings;
use crate::space_return;

/// Runs with `arguments`, `environment` and, at any path, a file with this content.
fn run(
    arguments: &[&str],
    environment: &[(&str, &str)],
    file: Option<&str>,
) -> Result<Invocation, String> {
    let arguments: Vec<OsString> = arguments.iter().map(OsString::from).collect();
    let environment: Vec<(OsString, OsString)> = environment
        .iter()
        .map(|(name, value)| (name.into(), value.into()))
        .collect();
    let read = |_: &Path| {
        file.map(str::to_owned)
            .ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
    };
    Config::from_sources(&arguments, &environment, read).map_err(|refusal| refusal.to_string())
}

fn config(invocation: Result<Invocation, String>) -> Config {
    match invocation {
        Ok(Invocation::Serve(config)) => *config,
        other => panic!("expected settings, got {other:?}"),
    }
}

fn with_flags(arguments: &[&str]) -> Config {
    config(run(arguments, &[], None))
}

fn with_file(text: &str) -> Config {
    config(run(&["--config-file", "f.yml"], &[], Some(text)))
}

fn count(number: u64) -> NonZeroU64 {
    NonZeroU64::new(number).expect("not zero")
}

fn client_url(text: &str) -> ClientUrl {
    ClientUrl::to_advertise(text).expect("valid")
}

fn peer_url(text: &str) -> PeerUrl {
    PeerUrl::to_advertise(text).expect("valid")
}

fn check_bootstrap(config: &Config) -> Result<usize, String> {
    let advertised = &config.initial_advertise_peer_urls;
    check_own_member(&config.name, advertised, &config.initial_cluster)
        .map_err(|refusal| refusal.to_string())
}

#[test]
fn without_settings_etcds_defaults_hold() {
    let config = with_flags(&[]);
    let expected = Config {
        name: "default".into(),
        data_dir: "default.etcd".into(),
        wal_dir: None,
        listen_client_urls: vec![client_url("http://localhost:2379")],
        advertise_client_urls: vec![client_url("http://localhost:2379")],
        listen_peer_urls: vec![peer_url("http://localhost:2380")],
        initial_advertise_peer_urls: vec![peer_url("http://localhost:2380")],
        initial_cluster: vec![InitialMember {
            name: "default".into(),
            peer_urls: vec![peer_url("http://localhost:2380")],
        }],
        initial_cluster_state: InitialClusterState::New,
        initial_cluster_token: "etcd-cluster".into(),
        discovery_srv: None,
        strict_reconfig_check: true,
        max_learners: 1,
        force_new_cluster: false,
        corruption_checks: CorruptionChecks {
            at_start: false,
            interval: None,
            compactions: None,
        },
        quota: Quota::Bytes(2_147_483_648),
        max_request_bytes: 1_572_864,
        max_txn_ops: 128,
        auto_compaction: AutoCompaction::Off,
        tls: None,
        peer_tls: None,
        peer_skip_client_san_verification: false,
        cors: vec!["*".into()],
        host_whitelist: vec!["*".into()],
        listen_client_http_urls: Vec::new(),
        enable_grpc_gateway: true,
        max_concurrent_streams: u32::MAX,
        grpc_keepalive_interval: Duration::from_secs(7200),
        grpc_keepalive_timeout: Duration::from_secs(20),
        warning_apply_duration: Duration::from_millis(100),
        warning_unary_request_duration: Duration::from_millis(300),
        lease_checkpoint: false,
        lease_checkpoint_persist: false,
        auth_token: crate::auth::TokenSetting::Simple(Duration::from_secs(300)),
        bcrypt_cost: 10,
        watch_progress_notify_interval: Duration::from_secs(600),
        heartbeat_interval: Duration::from_millis(100),
        election_timeout: Duration::from_millis(1000),
        snapshot_count: count(10_000),
        snapshot_catchup_entries: 5000,
        max_snapshots: KeepFiles::Newest(count(5)),
        max_wals: KeepFiles::Newest(count(5)),
        backend_batch_interval: Duration::from_millis(100),
        backend_batch_limit: count(10_000),
        space_return: space_return::Pace {
            enabled: true,
            pages: 256,
            disk_percent: 20,
        },
        nospace_auto_disarm: false,
        log_level: LogLevel::Info,
        log_format: LogFormat::Json,
        listen_metrics_urls: Vec::new(),
        notes: vec![
            Note::DefaultName,
            Note::DefaultDataDir {
                path: "default.etcd".into(),
            },
        ],
    };
    assert_eq!(config, expected);
    assert_eq!(config.wal_path(), PathBuf::from("default.etcd/member/wal"));
    assert_eq!(check_bootstrap(&config), Ok(0));
}

/// A value of a flag, and how the settings then differ from the defaults.
type Accepted = (&'static str, &'static str, fn(&mut Config));

const ACCEPTED: &[Accepted] = &[
    ("data-dir", "/d", |c| {
        c.data_dir = "/d".into();
        c.notes
            .retain(|note| !matches!(note, Note::DefaultDataDir { .. }));
    }),
    (
        "auth-token",
        "jwt,sign-method=HS256,priv-key=f,ttl=10m",
        |c| {
            c.auth_token = crate::auth::TokenSetting::Jwt(crate::auth::JwtOptions {
                method: "HS256".into(),
                public_key: None,
                private_key: Some("f".into()),
                lifetime: Duration::from_secs(600),
            });
        },
    ),
    ("auth-token-ttl", "60", |c| {
        c.auth_token = crate::auth::TokenSetting::Simple(Duration::from_secs(60));
    }),
    ("auto-tls", "true", |c| {
        c.tls = Some(ListenTls::SelfSigned(1));
    }),
    ("bcrypt-cost", "12", |c| c.bcrypt_cost = 12),
    ("cors", "http://a, http://b", |c| {
        c.cors = vec!["http://a".into(), "http://b".into()];
    }),
    ("enable-grpc-gateway", "false", |c| {
        c.enable_grpc_gateway = false;
    }),
    (
        "feature-gates",
        "LeaseCheckpoint=true,AllAlpha=false",
        |c| c.lease_checkpoint = true,
    ),
    ("grpc-keepalive-interval", "1m", |c| {
        c.grpc_keepalive_interval = Duration::from_secs(60);
    }),
    ("grpc-keepalive-timeout", "5s", |c| {
        c.grpc_keepalive_timeout = Duration::from_secs(5);
    }),
    ("host-whitelist", "a", |c| {
        c.host_whitelist = vec!["a".into()];
    }),
    ("listen-client-http-urls", "http://127.0.0.1:9", |c| {
        c.listen_client_http_urls = vec![client_url("http://127.0.0.1:9")];
    }),
    ("max-concurrent-streams", "100", |c| {
        c.max_concurrent_streams = 100;
    }),
    ("warning-apply-duration", "1s", |c| {
        c.warning_apply_duration = Duration::from_secs(1);
    }),
    ("warning-unary-request-duration", "1s", |c| {
        c.warning_unary_request_duration = Duration::from_secs(1);
    }),
    ("watch-progress-notify-interval", "5s", |c| {
        c.watch_progress_notify_interval = Duration::from_secs(5);
    }),
    ("wal-dir", "/w", |c| c.wal_dir = Some("/w".into())),
    ("advertise-client-urls", "http://h:1", |c| {
        c.advertise_client_urls = vec![client_url("http://h:1")];
    }),
    (
        "listen-peer-urls",
        "http://10.0.0.1:1,http://[::1]:2",
        |c| {
            c.listen_peer_urls = vec![peer_url("http://10.0.0.1:1"), peer_url("http://[::1]:2")];
        },
    ),
    (
        "initial-advertise-peer-urls",
        "http://h:2,http://h:1",
        |c| {
            c.initial_advertise_peer_urls = vec![peer_url("http://h:1"), peer_url("http://h:2")];
            c.initial_cluster[0].peer_urls = c.initial_advertise_peer_urls.clone();
        },
    ),
    ("initial-cluster", "a=http://h:2,a=http://h:1", |c| {
        c.initial_cluster = vec![InitialMember {
            name: "a".into(),
            peer_urls: vec![peer_url("http://h:1"), peer_url("http://h:2")],
        }];
    }),
    (
        "initial-cluster",
        "a=http://h:1,b=https://h:2,c=http://h:3",
        |c| {
            let member = |name: &str, url: &str| InitialMember {
                name: name.into(),
                peer_urls: vec![peer_url(url)],
            };
            c.initial_cluster = vec![
                member("a", "http://h:1"),
                member("b", "https://h:2"),
                member("c", "http://h:3"),
            ];
        },
    ),
    ("discovery-srv", "example.com", |c| {
        c.discovery_srv = Some(DiscoverySrv {
            domain: "example.com".into(),
            suffix: None,
        });
    }),
    ("strict-reconfig-check", "false", |c| {
        c.strict_reconfig_check = false;
    }),
    ("max-learners", "3", |c| c.max_learners = 3),
    ("force-new-cluster", "true", |c| c.force_new_cluster = true),
    ("corrupt-check-time", "0", |_| {}),
    ("corrupt-check-time", "4h", |c| {
        c.corruption_checks.interval = Some(Duration::from_secs(4 * 3600));
    }),
    ("compact-hash-check-time", "5m", |_| {}),
    ("feature-gates", "CompactHashCheck=true", |c| {
        c.corruption_checks.compactions = Some(Duration::from_secs(60));
    }),
    ("feature-gates", "InitialCorruptCheck=true", |c| {
        c.corruption_checks.at_start = true;
    }),
    ("peer-auto-tls", "true", |c| {
        c.peer_tls = Some(ListenTls::SelfSigned(1));
    }),
    ("peer-skip-client-san-verification", "true", |c| {
        c.peer_skip_client_san_verification = true;
    }),
    ("space-return", "false", |c| c.space_return.enabled = false),
    ("space-return-pages", "1000", |c| {
        c.space_return.pages = 1000;
    }),
    ("space-return-disk-share", "100", |c| {
        c.space_return.disk_percent = 100;
    }),
    ("nospace-auto-disarm", "true", |c| {
        c.nospace_auto_disarm = true;
    }),
    ("initial-cluster-state", "new", |_| {}),
    ("initial-cluster-state", "existing", |c| {
        c.initial_cluster_state = InitialClusterState::Existing;
    }),
    ("initial-cluster-token", "t", |c| {
        c.initial_cluster_token = "t".into();
    }),
    ("quota-backend-bytes", "0", |_| {}),
    ("quota-backend-bytes", "-1", |c| c.quota = Quota::Unlimited),
    ("quota-backend-bytes", "8589934592", |c| {
        c.quota = Quota::Bytes(8 << 30);
    }),
    ("quota-backend-bytes", "0x10", |c| {
        c.quota = Quota::Bytes(16);
    }),
    ("quota-backend-bytes", "8589934593", |c| {
        c.quota = Quota::Bytes((8 << 30) + 1);
        c.notes.push(Note::QuotaAboveMaximum {
            bytes: (8 << 30) + 1,
            recommended: 8 << 30,
        });
    }),
    ("max-request-bytes", "10485761", |c| {
        c.max_request_bytes = 10_485_761;
        c.notes.push(Note::RequestLimitAboveRecommended {
            bytes: 10_485_761,
            recommended: 10_485_760,
        });
    }),
    ("max-txn-ops", "1_000", |c| c.max_txn_ops = 1000),
    ("auto-compaction-mode", "periodic", |_| {}),
    ("auto-compaction-mode", "revision", |_| {}),
    ("auto-compaction-retention", "0", |_| {}),
    ("auto-compaction-retention", "8", |c| {
        c.auto_compaction = AutoCompaction::Periodic(Duration::from_secs(8 * 3600));
    }),
    ("auto-compaction-retention", "1h30m", |c| {
        c.auto_compaction = AutoCompaction::Periodic(Duration::from_secs(5400));
    }),
    ("heartbeat-interval", "200", |c| {
        c.heartbeat_interval = Duration::from_millis(200);
    }),
    ("election-timeout", "50000", |c| {
        c.election_timeout = Duration::from_secs(50);
    }),
    ("election-timeout", "500", |c| {
        c.election_timeout = Duration::from_millis(500);
    }),
    ("snapshot-count", "0", |_| {}),
    ("snapshot-count", "7", |c| c.snapshot_count = count(7)),
    ("snapshot-catchup-entries", "5", |c| {
        c.snapshot_catchup_entries = 5;
    }),
    ("max-snapshots", "0", |c| c.max_snapshots = KeepFiles::All),
    ("max-wals", "1", |c| {
        c.max_wals = KeepFiles::Newest(count(1));
    }),
    ("backend-batch-interval", "0", |_| {}),
    ("backend-batch-interval", "20ms", |c| {
        c.backend_batch_interval = Duration::from_millis(20);
    }),
    ("backend-batch-limit", "9", |c| {
        c.backend_batch_limit = count(9);
    }),
    ("log-level", "debug", |c| c.log_level = LogLevel::Debug),
    ("log-level", "warn", |c| c.log_level = LogLevel::Warn),
    ("log-level", "fatal", |c| c.log_level = LogLevel::Error),
    ("log-format", "json", |_| {}),
    ("log-format", "console", |c| c.log_format = LogFormat::Text),
    ("log-format", "text", |c| c.log_format = LogFormat::Text),
    ("listen-metrics-urls", "http://127.0.0.1:2381", |c| {
        c.listen_metrics_urls = vec![MetricsUrl::to_listen("http://127.0.0.1:2381").expect("ok")];
    }),
];

#[test]
fn every_setting_means_the_same_as_flag_variable_and_key() {
    for (name, value, change) in ACCEPTED {
        let mut expected = with_flags(&[]);
        change(&mut expected);
        let case = format!("{name}={value}");

        assert_eq!(
            with_flags(&[&format!("--{name}={value}")]),
            expected,
            "--{case}"
        );
        assert_eq!(
            with_flags(&apart(name, value)),
            expected,
            "--{name} {value}"
        );
        assert_eq!(
            with_flags(&[&format!("-{name}={value}")]),
            expected,
            "-{case}"
        );

        let variable = refusal::environment_name(name);
        let mut by_variable = config(run(&[], &[(&variable, value)], None));
        let used = Note::VariableUsed {
            name: variable,
            value: (*value).into(),
        };
        assert_eq!(by_variable.notes.remove(0), used);
        assert_eq!(by_variable, expected, "variable {case}");

        let mut by_key = with_file(&format!("{name}: \"{value}\"\n"));
        assert_eq!(
            by_key.notes.remove(0),
            Note::FileLoaded {
                path: "f.yml".into()
            }
        );
        assert_eq!(by_key, expected, "key {case}");
    }
}

/// Flag and value as two arguments, unless the flag's name alone is true.
fn apart(name: &str, value: &str) -> Vec<&'static str> {
    let flag = flags::find(name).expect("a flag of ours");
    let argument = match flag.kind {
        flags::Kind::Boolean => vec![format!("--{name}={value}")],
        _ => vec![format!("--{name}"), value.to_owned()],
    };
    argument.into_iter().map(|text| &*text.leak()).collect()
}

/// Values out of range, with a part of the refusal that tells what is allowed.
const REFUSED: &[(&str, &str, &str)] = &[
    ("name", "a=b", "without '='"),
    (
        "listen-client-urls",
        "http://0.0.0.0:2379",
        "--advertise-client-urls is required",
    ),
    (
        "listen-metrics-urls",
        "https://127.0.0.1:2381",
        "there is no certificate",
    ),
    (
        "listen-client-http-urls",
        "http://example.com:1",
        "expected IP in URL",
    ),
    ("grpc-keepalive-timeout", "soon", "expected a time"),
    ("warning-apply-duration", "soon", "expected a time"),
    ("warning-unary-request-duration", "soon", "expected a time"),
    ("auto-tls", "perhaps", "expected true or false"),
    ("key-file", "k", "KeyFile and CertFile must both be present"),
    ("auth-token", "bearer", "auth: invalid auth options"),
    ("auth-token-ttl", "0", "from 1 to"),
    ("bcrypt-cost", "x", "whole number"),
    ("tls-min-version", "TLS1.1", "expected TLS1.2 or TLS1.3"),
    ("self-signed-cert-validity", "0", "should be greater than 0"),
    (
        "cert-file",
        "c",
        "KeyFile and CertFile must both be present",
    ),
    ("enable-grpc-gateway", "perhaps", "expected true or false"),
    ("max-concurrent-streams", "0", "from 1 to"),
    ("grpc-keepalive-interval", "soon", "expected a time"),
    (
        "feature-gates",
        "Nonsense=true",
        "unrecognized feature gate: Nonsense",
    ),
    (
        "feature-gates",
        "LeaseCheckpoint",
        "missing bool value for LeaseCheckpoint",
    ),
    (
        "feature-gates",
        "LeaseCheckpointPersist=true",
        "requires enabling feature gate LeaseCheckpoint",
    ),
    ("watch-progress-notify-interval", "often", "expected a time"),
    ("advertise-client-urls", "h:2379", "URL scheme must be http"),
    (
        "listen-peer-urls",
        "http://example.com:2380",
        "expected IP in URL for binding",
    ),
    (
        "listen-peer-urls",
        "unix://a:1",
        "Unix sockets come with a later version",
    ),
    (
        "listen-peer-urls",
        "http://10.0.0.1:1,http://10.0.0.1:1",
        "listed twice",
    ),
    ("initial-advertise-peer-urls", "http://h", "host:port"),
    (
        "initial-advertise-peer-urls",
        "http://h:1/p",
        "must not contain a path",
    ),
    ("initial-cluster", "http://h:1", "expected NAME=URL"),
    (
        "initial-cluster",
        "a=http://h:1,a=http://h:1",
        "has duplicate url",
    ),
    (
        "initial-cluster",
        "a=http://h:1,b=http://h:1",
        "initial cluster a=http://h:1,b=http://h:1 has duplicate url",
    ),
    ("discovery-srv", "a/b", "expected a part of a DNS name"),
    ("discovery-srv-name", "x", "needs --discovery-srv"),
    ("strict-reconfig-check", "perhaps", "expected true or false"),
    ("max-learners", "-1", "expected a whole number from 0 to"),
    ("force-new-cluster", "perhaps", "expected true or false"),
    ("corrupt-check-time", "often", "expected a time"),
    (
        "compact-hash-check-time",
        "0s",
        "--compact-hash-check-time must be >0 (set to 0s)",
    ),
    (
        "listen-peer-urls",
        "https://127.0.0.1:2380",
        "KeyFile and CertFile are not presented: set --peer-cert-file",
    ),
    (
        "peer-cert-file",
        "c",
        "KeyFile and CertFile must both be present; set --peer-cert-file and --peer-key-file",
    ),
    (
        "peer-key-file",
        "k",
        "KeyFile and CertFile must both be present",
    ),
    (
        "peer-client-cert-file",
        "c",
        "set --peer-client-cert-file and --peer-client-key-file",
    ),
    (
        "peer-client-key-file",
        "k",
        "KeyFile and CertFile must both be present",
    ),
    ("peer-auto-tls", "perhaps", "expected true or false"),
    (
        "peer-skip-client-san-verification",
        "perhaps",
        "expected true or false",
    ),
    ("initial-cluster-state", "foo", "expected new or existing"),
    ("space-return", "maybe", "expected true or false"),
    (
        "space-return-pages",
        "0",
        "expected a whole number from 1 to",
    ),
    (
        "space-return-disk-share",
        "101",
        "expected a whole number from 1 to 100",
    ),
    ("nospace-auto-disarm", "maybe", "expected true or false"),
    (
        "quota-backend-bytes",
        "abc",
        "expected a whole number of bytes",
    ),
    (
        "quota-backend-bytes",
        "9223372036854775808",
        "expected a whole number of bytes",
    ),
    (
        "max-request-bytes",
        "0",
        "expected a whole number from 1 to",
    ),
    (
        "max-request-bytes",
        "4294967296",
        "expected a whole number from 1 to",
    ),
    ("max-txn-ops", "-1", "expected a whole number from 1 to"),
    ("max-txn-ops", "1.5", "expected a whole number from 1 to"),
    (
        "auto-compaction-mode",
        "foo",
        "unknown auto-compaction-mode \"foo\"",
    ),
    (
        "auto-compaction-retention",
        "foo",
        "time: invalid duration \"foo\"",
    ),
    (
        "auto-compaction-retention",
        "-1",
        "time: missing unit in duration \"-1\"",
    ),
    ("auto-compaction-retention", "999999999", "expected at most"),
    (
        "heartbeat-interval",
        "0",
        "--heartbeat-interval must be >0 (set to 0ms)",
    ),
    (
        "heartbeat-interval",
        "300",
        "--election-timeout[1000ms] should be at least as 5 times as --heartbeat-interval[300ms]",
    ),
    (
        "election-timeout",
        "0",
        "--election-timeout must be >0 (set to 0ms)",
    ),
    ("election-timeout", "499", "should be at least as 5 times"),
    (
        "election-timeout",
        "50001",
        "--election-timeout[50001ms] is too long, and should be set less than 50000ms",
    ),
    ("snapshot-count", "-1", "expected a whole number from 0 to"),
    (
        "snapshot-catchup-entries",
        "0",
        "expected a whole number from 1 to",
    ),
    ("max-snapshots", "many", "expected a whole number from 0 to"),
    (
        "max-wals",
        "4294967296",
        "expected a whole number from 0 to",
    ),
    ("backend-batch-interval", "10", "missing unit"),
    ("backend-batch-interval", "61s", "expected at most 60s"),
    (
        "backend-batch-limit",
        "-5",
        "expected a whole number from 0 to",
    ),
    ("log-level", "loud", "unrecognized level: \"loud\""),
    ("log-format", "xml", "supported values json, console, text"),
    (
        "listen-metrics-urls",
        "127.0.0.1:2381",
        "URL scheme must be http",
    ),
];

#[test]
fn a_value_out_of_range_is_refused_with_its_name_and_what_is_allowed() {
    for (name, value, allowed) in REFUSED {
        let variable = refusal::environment_name(name);
        let cases = [
            (
                format!("--{name}={value}: "),
                run(&apart(name, value), &[], None),
            ),
            (
                format!("{variable}={value}: "),
                run(&[], &[(&variable, value)], None),
            ),
            (
                format!("f.yml:2: {name}: {value}: "),
                run(
                    &["-config-file=f.yml"],
                    &[],
                    Some(&format!("# first\n{name}: \"{value}\"\n")),
                ),
            ),
        ];
        for (start, result) in cases {
            let text = result.expect_err(name);
            assert!(
                text.starts_with(&start),
                "{text:?} does not start with {start:?}"
            );
            assert!(
                text.contains(allowed),
                "{text:?} does not contain {allowed:?}"
            );
        }
    }
}

#[test]
fn every_flag_has_a_good_and_a_bad_value_in_these_tables() {
    let anything_goes = [
        "data-dir",
        "wal-dir",
        "initial-cluster-token",
        "cors",
        "host-whitelist",
        "cipher-suites",
        "client-cert-allowed-hostname",
        "client-cert-auth",
        "client-crl-file",
        "peer-cert-allowed-cn",
        "peer-cert-allowed-hostname",
        "peer-client-cert-auth",
        "peer-crl-file",
        "peer-trusted-ca-file",
        "tls-max-version",
        "trusted-ca-file",
    ];
    let tested_apart = [
        "name",
        "listen-client-urls",
        // Together in `certificates_are_set_by_flags_or_together_in_the_file`, and by `tests/it/tls.rs`.
        "cert-file",
        "cipher-suites",
        "client-cert-allowed-hostname",
        "client-cert-auth",
        "client-crl-file",
        "key-file",
        // Together in `members_certificates_are_set_by_flags_or_together_in_the_file`.
        "peer-cert-allowed-cn",
        "peer-cert-allowed-hostname",
        "peer-cert-file",
        "peer-client-cert-auth",
        "peer-client-cert-file",
        "peer-client-key-file",
        "peer-crl-file",
        "peer-key-file",
        "peer-trusted-ca-file",
        // In `members_are_named_by_a_list_or_by_dns`.
        "discovery-srv-name",
        "self-signed-cert-validity",
        "tls-max-version",
        "tls-min-version",
        "trusted-ca-file",
    ];
    for flag in flags::FLAGS {
        if flag.kind == flags::Kind::Switch || flag.name == "config-file" {
            continue;
        }
        let accepted = ACCEPTED.iter().any(|(name, ..)| *name == flag.name);
        let refused = REFUSED.iter().any(|(name, ..)| *name == flag.name);
        assert!(
            accepted || tested_apart.contains(&flag.name),
            "no good value of {}",
            flag.name
        );
        assert!(
            refused || anything_goes.contains(&flag.name),
            "no bad value of {}",
            flag.name
        );
    }
}

#[test]
fn a_name_names_the_data_and_the_initial_member() {
    let config = with_flags(&["--name", "m1"]);
    assert_eq!(config.data_dir, PathBuf::from("m1.etcd"));
    assert_eq!(config.initial_cluster[0].name, "m1");
    assert_eq!(
        config.notes,
        [Note::DefaultDataDir {
            path: "m1.etcd".into()
        }]
    );
    assert!(
        with_flags(&["--name=default"])
            .notes
            .contains(&Note::DefaultName)
    );
}

#[test]
fn clients_are_told_urls_when_the_listeners_are_set() {
    let config = with_flags(&[
        "--listen-client-urls=http://0.0.0.0:2379,http://127.0.0.1:4001",
        "--advertise-client-urls=http://example.com:2379",
    ]);
    assert_eq!(config.listen_client_urls.len(), 2);
    assert_eq!(
        config.advertise_client_urls,
        [client_url("http://example.com:2379")]
    );
}

#[test]
fn the_last_of_several_flags_counts() {
    assert_eq!(
        with_flags(&["--max-txn-ops=1", "--max-txn-ops=2"]).max_txn_ops,
        2
    );
}

#[test]
fn an_empty_value_counts_as_unset() {
    let config = config(run(&["--wal-dir="], &[("ETCD_MAX_TXN_OPS", "")], None));
    assert_eq!((config.wal_dir, config.max_txn_ops), (None, 128));
}

#[test]
fn flag_and_variable_of_the_same_name_are_refused() {
    let text = run(&["--name=a"], &[("ETCD_NAME", "a")], None).expect_err("conflict");
    assert!(text.contains("ETCD_NAME is shadowed"), "{text}");
    assert!(text.contains("--name"), "{text}");
}

#[test]
fn a_file_excludes_flags_and_variables() {
    let file = Some("name: of-file\n");
    let arguments = ["--config-file=f.yml", "--name=of-flag", "--max-txn-ops=3"];
    let environment = [
        ("ETCD_NAME", "of-variable"),
        ("ETCD_MAX_TXN_OPS", "4"),
        ("ETCD_CERT_FILE", "c"),
    ];
    let config_of_file = config(run(&arguments, &environment, file));
    assert_eq!(
        (config_of_file.name.as_str(), config_of_file.max_txn_ops),
        ("of-file", 128)
    );

    let named_by_variable = config(run(&[], &[("ETCD_CONFIG_FILE", "f.yml")], file));
    assert_eq!(named_by_variable.name, "of-file");
}

#[test]
fn a_missing_or_broken_file_is_refused_with_its_name() {
    let text = run(&["--config-file=f.yml"], &[], None).expect_err("missing");
    assert!(
        text.starts_with("cannot read --config-file f.yml: "),
        "{text}"
    );
    let text = run(&["--config-file=f.yml"], &[], Some("name: [\n")).expect_err("broken");
    assert!(text.starts_with("f.yml:"), "{text}");
    let text = run(&["--config-file=f.yml"], &[], Some("- a\n")).expect_err("a list");
    assert!(text.starts_with("f.yml:1: not a YAML mapping"), "{text}");
    let twice = Some("name: a\nname: b\n");
    run(&["--config-file=f.yml"], &[], twice).expect_err("set twice");
}

#[test]
fn a_file_may_write_values_as_etcd_does_and_as_people_do() {
    let config = with_file(
        "name: m\n\
         data-dir: /d\n\
         listen-client-urls: http://0.0.0.0:2379, http://127.0.0.1:4001\n\
         advertise-client-urls: [http://a:1, http://b:1]\n\
         backend-batch-interval: 20000000\n\
         auto-compaction-retention: 5\n\
         wal-dir:\n\
         heartbeat-interval: 50\n\
         max-txn-ops: null\n",
    );
    assert_eq!(config.listen_client_urls.len(), 2);
    assert_eq!(config.advertise_client_urls.len(), 2);
    assert_eq!(config.backend_batch_interval, Duration::from_millis(20));
    assert_eq!(
        config.auto_compaction,
        AutoCompaction::Periodic(Duration::from_secs(5 * 3600))
    );
    assert_eq!(config.heartbeat_interval, Duration::from_millis(50));
    assert_eq!((config.wal_dir, config.max_txn_ops), (None, 128));
    assert_eq!(with_file("{\"name\": \"json\"}").name, "json");
    assert_eq!(with_file("").name, "default");
    let text = run(&["--config-file=f"], &[], Some("max-txn-ops: true\n")).expect_err("boolean");
    assert!(
        text.starts_with("f:1: max-txn-ops: true: expected"),
        "{text}"
    );
    let text = run(&["--config-file=f"], &[], Some("name: {a: b}\n")).expect_err("mapping");
    assert!(
        text.starts_with("f:1: name: {a: b}: expected one value"),
        "{text}"
    );
}

#[test]
fn unknown_keys_are_noted_with_their_line() {
    let config = with_file("name: m\ndata-dir: d\nproxy: 'on'\nlogger: zap\n");
    let ignored = |key: &str, line| Note::KeyIgnored {
        key: key.into(),
        source: Source::File {
            path: "f.yml".into(),
            line,
        },
    };
    assert_eq!(
        config.notes[1..],
        [ignored("proxy", 3), ignored("logger", 4)]
    );
}

#[test]
fn settings_of_etcd_that_would_make_another_cluster_are_refused_unless_blank() {
    let text = run(
        &["--config-file=f"],
        &[],
        Some("discovery: http://example.com/token\n"),
    );
    let text = text.expect_err("another cluster");
    assert!(
        text.contains("discovery") && text.contains("unsafe"),
        "{text}"
    );
    with_file("discovery:\ndiscovery-token: ''\n");
    let text = run(&[], &[("ETCD_DISCOVERY_TOKEN", "t")], None).expect_err("another cluster");
    assert!(text.starts_with("ETCD_DISCOVERY_TOKEN=t: "), "{text}");
    let text = run(&["--discovery-token=t"], &[], None).expect_err("not ours");
    let expected =
        "flag provided but not defined: --discovery-token; etcd has it, this version does not";
    assert_eq!(text, expected);
}

#[test]
fn members_are_named_by_a_list_or_by_dns() {
    let config = with_flags(&["--discovery-srv=example.com", "--discovery-srv-name=east"]);
    let expected = DiscoverySrv {
        domain: "example.com".into(),
        suffix: Some("east".into()),
    };
    assert_eq!(config.discovery_srv, Some(expected));
    let both = ["--discovery-srv=a.b", "--initial-cluster=a=http://h:1"];
    let text = run(&both, &[], None).expect_err("two sources");
    let expected = "--discovery-srv=a.b: multiple discovery or bootstrap flags are set. Choose one \
                    of \"initial-cluster\" or \"discovery-srv\"";
    assert_eq!(text, expected);
}

#[test]
fn settings_of_etcd_that_change_nothing_are_accepted_and_told() {
    let config = with_flags(&[
        "--name=m",
        "--data-dir=d",
        "--logger",
        "zap",
        "--pre-vote",
        "--peer-trusted-ca-file=p",
    ]);
    let ignored = |name: &str| Note::FlagIgnored { name: name.into() };
    let expected = [
        ignored("--logger"),
        ignored("--pre-vote"),
        // Without a certificate nothing here speaks TLS.
        ignored("--peer-trusted-ca-file"),
    ];
    assert_eq!(config.notes, expected);
}

#[test]
fn older_names_of_settings_count_and_are_told() {
    let flags = [
        "--name=m",
        "--data-dir=d",
        "--experimental-watch-progress-notify-interval=5s",
        "--experimental-enable-lease-checkpoint",
    ];
    let config = with_flags(&flags);
    assert_eq!(
        config.watch_progress_notify_interval,
        Duration::from_secs(5)
    );
    assert!(config.lease_checkpoint);
    let renamed = |old: &str| Note::Renamed {
        old: old.into(),
        new: "--watch-progress-notify-interval".into(),
    };
    let flag = "--experimental-watch-progress-notify-interval";
    assert_eq!(config.notes, [renamed(flag)]);
    let variables = [
        ("ETCD_EXPERIMENTAL_WATCH_PROGRESS_NOTIFY_INTERVAL", "5s"),
        ("ETCD_EXPERIMENTAL_ENABLE_LEASE_CHECKPOINT", "true"),
    ];
    let config = self::config(run(&["--name=m", "--data-dir=d"], &variables, None));
    assert_eq!(
        config.watch_progress_notify_interval,
        Duration::from_secs(5)
    );
    assert!(config.lease_checkpoint);
    let file = "experimental-watch-progress-notify-interval: 5s\n\
                experimental-enable-lease-checkpoint: true\n";
    let config = with_file(file);
    assert_eq!(
        config.watch_progress_notify_interval,
        Duration::from_secs(5)
    );
    assert!(config.lease_checkpoint);
}

#[test]
fn certificates_are_set_by_flags_or_together_in_the_file() {
    let expected = TlsSettings {
        certificate: "c".into(),
        key: "k".into(),
        authorities: Some("ca".into()),
        client_auth: true,
        cipher_suites: vec!["TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256".into()],
        only_1_3: true,
        ..TlsSettings::default()
    };
    let flags = [
        "--listen-client-urls=https://127.0.0.1:1",
        "--advertise-client-urls=https://127.0.0.1:1",
        "--cert-file=c",
        "--key-file=k",
        "--trusted-ca-file=ca",
        "--client-cert-auth",
        "--cipher-suites=TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,TLS_RSA_WITH_AES_128_CBC_SHA",
        "--tls-min-version=TLS1.3",
    ];
    let config = with_flags(&flags);
    assert_eq!(config.tls, Some(ListenTls::Files(expected.clone())));
    let name = "TLS_RSA_WITH_AES_128_CBC_SHA".to_owned();
    assert!(config.notes.contains(&Note::CipherSuiteUnknown { name }));
    let file = "listen-client-urls: https://127.0.0.1:1\n\
                advertise-client-urls: https://127.0.0.1:1\n\
                client-transport-security:\n  cert-file: c\n  key-file: k\n  \
                trusted-ca-file: ca\n  client-cert-auth: true\n  auto-tls: false\n\
                cipher-suites: [TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256]\n\
                tls-min-version: TLS1.3\n";
    assert_eq!(with_file(file).tls, Some(ListenTls::Files(expected)));
    let text = run(
        &["--cert-file=c", "--key-file=k", "--client-cert-auth"],
        &[],
        None,
    );
    assert!(
        text.expect_err("no authority")
            .contains("--trusted-ca-file")
    );
}

#[test]
fn members_certificates_are_set_by_flags_or_together_in_the_file() {
    let expected = TlsSettings {
        certificate: "c".into(),
        key: "k".into(),
        authorities: Some("ca".into()),
        client_auth: true,
        allowed_common_names: vec!["a".into(), "b".into()],
        dialing_pair: Some(("dc".into(), "dk".into())),
        ..TlsSettings::default()
    };
    let flags = [
        "--listen-peer-urls=https://127.0.0.1:1",
        "--peer-cert-file=c",
        "--peer-key-file=k",
        "--peer-client-cert-file=dc",
        "--peer-client-key-file=dk",
        "--peer-trusted-ca-file=ca",
        "--peer-client-cert-auth",
        "--peer-cert-allowed-cn=a,b",
    ];
    let config = with_flags(&flags);
    assert_eq!(config.peer_tls, Some(ListenTls::Files(expected.clone())));
    assert_eq!(config.tls, None);
    let file = "listen-peer-urls: https://127.0.0.1:1\n\
                peer-transport-security:\n  cert-file: c\n  key-file: k\n  \
                client-cert-file: dc\n  client-key-file: dk\n  trusted-ca-file: ca\n  \
                client-cert-auth: true\n  allowed-cn: [a, b]\n  auto-tls: false\n  \
                skip-client-san-verification: true\n";
    let config = with_file(file);
    assert_eq!(config.peer_tls, Some(ListenTls::Files(expected.clone())));
    assert!(config.peer_skip_client_san_verification);

    // Authorities alone ask for certificates, too; revocations and host names as for clients.
    let flags = [
        "--peer-cert-file=c",
        "--peer-key-file=k",
        "--peer-trusted-ca-file=ca",
        "--peer-crl-file=r",
        "--peer-cert-allowed-hostname=h",
    ];
    let config = with_flags(&flags);
    let expected = TlsSettings {
        revocations: Some("r".into()),
        allowed_hostnames: vec!["h".into()],
        allowed_common_names: Vec::new(),
        dialing_pair: None,
        ..expected
    };
    assert_eq!(config.peer_tls, Some(ListenTls::Files(expected)));
    assert!(config.notes.contains(&Note::CertificateUnused {
        url: "http://localhost:2380".into()
    }));

    let text = run(
        &[
            "--peer-cert-file=c",
            "--peer-key-file=k",
            "--peer-client-cert-auth",
        ],
        &[],
        None,
    );
    assert!(
        text.expect_err("no authority")
            .contains("--peer-trusted-ca-file")
    );
    let text = run(
        &["--peer-cert-allowed-cn=a", "--peer-cert-allowed-hostname=b"],
        &[],
        None,
    );
    assert!(
        text.expect_err("both")
            .contains("AllowedCNs and AllowedHostnames are mutually exclusive")
    );
}

#[test]
fn older_names_of_the_comparisons_of_members_count() {
    let config = with_flags(&[
        "--experimental-initial-corrupt-check",
        "--experimental-corrupt-check-time=240m",
        "--experimental-compact-hash-check-enabled=true",
        "--experimental-compact-hash-check-time=5m",
        "--experimental-peer-skip-client-san-verification",
    ]);
    let expected = CorruptionChecks {
        at_start: true,
        interval: Some(Duration::from_secs(4 * 3600)),
        compactions: Some(Duration::from_secs(300)),
    };
    assert_eq!(config.corruption_checks, expected);
    assert!(config.peer_skip_client_san_verification);
}

#[test]
fn unknown_flags_are_refused_with_the_nearest_known_one() {
    let refusal = |argument: &str| run(&[argument], &[], None).expect_err(argument);
    assert_eq!(
        refusal("--data-dri=x"),
        "flag provided but not defined: --data-dri; did you mean --data-dir?"
    );
    assert_eq!(
        refusal("-frobnicate"),
        "flag provided but not defined: --frobnicate; --help lists the flags"
    );
    assert!(refusal("serve").contains("\"serve\" is not a valid flag"));
    assert!(refusal("--").contains("is not a valid flag"));
    assert!(refusal("---name=a").contains("is not a valid flag"));
    assert_eq!(refusal("--name"), "flag needs an argument: --name");
}

#[test]
fn unknown_variables_are_noted_and_foreign_ones_ignored() {
    let environment = [
        ("ETCD_FROBNICATE", "1"),
        ("ETCDCTL_API", "3"),
        ("ETCD_VERSION", "3"),
        ("HOME", "/"),
    ];
    let config = config(run(&["--name=m", "--data-dir=d"], &environment, None));
    let unknown = Note::VariableUnknown {
        name: "ETCD_FROBNICATE".into(),
    };
    let special = Note::VariableSpecial {
        name: "ETCD_VERSION".into(),
    };
    assert_eq!(config.notes, [unknown, special]);
}

#[test]
fn a_variable_is_known_by_its_exact_name() {
    let environment = [("ETCD_data_dir", "x"), ("ETCD_MAX-WALS", "1")];
    let config = config(run(&["--name=m", "--data-dir=d"], &environment, None));
    assert_eq!(config.data_dir, PathBuf::from("d"));
    assert!(matches!(config.notes[0], Note::VariableUnknown { .. }));
    assert!(matches!(config.notes[1], Note::VariableUnknown { .. }));
}

#[test]
fn help_and_version_are_printed_whatever_else_is_set() {
    for argument in ["--help", "-h", "-help", "--help=true"] {
        let printed = run(&[argument, "--nonsense"], &[("ETCD_NAME", "=")], None);
        assert!(matches!(printed, Ok(Invocation::Print(text)) if text.contains("--data-dir")));
    }
    let printed = run(&["--version"], &[], None);
    assert!(matches!(printed, Ok(Invocation::Print(text)) if text.contains(ETCD_VERSION)));
    assert!(
        with_flags(&["--version=false"])
            .notes
            .contains(&Note::DefaultName)
    );
    let text = run(&["--version=perhaps"], &[], None).expect_err("no boolean");
    assert_eq!(text, "--version=perhaps: expected true or false");
}

#[test]
fn revisions_are_kept_in_revision_mode() {
    let with = |retention: &str| {
        let retention = format!("--auto-compaction-retention={retention}");
        run(&["--auto-compaction-mode=revision", &retention], &[], None)
    };
    assert_eq!(
        config(with("1000")).auto_compaction,
        AutoCompaction::Revisions(count(1000))
    );
    assert_eq!(config(with("0")).auto_compaction, AutoCompaction::Off);
    let text = with("1h").expect_err("a time");
    assert!(text.contains("error parsing CompactionRetention"), "{text}");
}

#[test]
fn bootstrap_settings_must_agree() {
    let refusal =
        |arguments: &[&str]| check_bootstrap(&with_flags(arguments)).expect_err("disagree");
    let text = refusal(&["--name=a", "--initial-cluster=b=http://localhost:2380"]);
    assert!(text.contains("couldn't find local name \"a\""), "{text}");
    let text = refusal(&["--initial-cluster=default=http://h:1"]);
    assert!(
        text.contains(
            "--initial-cluster has http://h:1 but missing from \
             --initial-advertise-peer-urls=http://localhost:2380"
        ),
        "{text}"
    );
    let text = refusal(&[
        "--initial-cluster=default=http://h:1",
        "--initial-advertise-peer-urls=http://h:1,http://h:2",
    ]);
    assert!(
        text.contains("--initial-advertise-peer-urls has http://h:2"),
        "{text}"
    );
    let agreed = with_flags(&[
        "--name=a",
        "--initial-cluster=b=http://h:3,a=http://h:2,a=http://h:1",
        "--initial-advertise-peer-urls=http://h:1,http://h:2",
    ]);
    assert_eq!(check_bootstrap(&agreed), Ok(1));
}

#[test]
fn what_is_not_utf_8_is_refused() {
    use std::os::unix::ffi::OsStringExt;
    let broken = OsString::from_vec(vec![b'-', b'-', 0xff]);
    let refusal = Config::from_process(std::slice::from_ref(&broken), &[]).expect_err("not UTF-8");
    assert!(refusal.to_string().contains("not UTF-8"));
    let refusal = Config::from_process(&[], &[("ETCD_NAME".into(), broken)]).expect_err("value");
    assert_eq!(refusal.to_string(), "the value of ETCD_NAME is not UTF-8");
}

#[test]
fn a_real_file_is_read_and_a_huge_one_is_not() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let path = folder.path().join("holdfast.yml");
    std::fs::write(&path, "name: real\n").expect("write");
    let argument = OsString::from(format!("--config-file={}", path.display()));
    let invocation = Config::from_process(std::slice::from_ref(&argument), &[]);
    assert_eq!(
        config(invocation.map_err(|refusal| refusal.to_string())).name,
        "real"
    );
    let file = std::fs::File::create(&path).expect("create");
    file.set_len(file::FILE_BYTES_MAX + 1).expect("grow");
    let refusal = Config::from_process(&[argument], &[]).expect_err("too large");
    assert!(refusal.to_string().contains("larger than"), "{refusal}");
}
