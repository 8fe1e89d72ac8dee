//! The declarative file as it is typed: every key optional, every value of a type with its unit.

use std::fmt;

use serde::{Deserialize, Serialize};
use toml::Spanned;

use super::{AbsolutePath, ByteSize, Calendar, ClusterToken, HttpUrl, MemberName, TimeSpan};

/// How strict the checks are, and which defaults hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Profile {
    /// A machine to try things on: no check fails, only warns.
    Dev,
    /// A machine that people depend on.
    Prod,
}

/// What the server logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LogLevel {
    Debug,
    Info,
    Warn,
    Error,
}

/// How the server's log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LogFormat {
    /// One JSON object a line.
    Json,
    /// Readable text, fit for the journal.
    Text,
}

/// Which history the server keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum CompactionMode {
    Periodic,
    Revision,
    Off,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TypedSpec {
    pub(crate) schema: Option<Spanned<u64>>,
    pub(crate) profile: Option<Profile>,
    #[serde(default)]
    pub(crate) node: TypedNode,
    #[serde(default)]
    pub(crate) cluster: TypedCluster,
    #[serde(default)]
    pub(crate) listen: TypedListen,
    #[serde(default)]
    pub(crate) storage: TypedStorage,
    #[serde(default)]
    pub(crate) timing: TypedTiming,
    #[serde(default)]
    pub(crate) limits: TypedLimits,
    #[serde(default)]
    pub(crate) log: TypedLog,
    #[serde(default)]
    pub(crate) defrag: TypedDefrag,
    #[serde(default)]
    pub(crate) backup: TypedBackup,
    #[serde(default)]
    pub(crate) resources: TypedResources,
    #[serde(default)]
    pub(crate) preflight: TypedPreflight,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TypedNode {
    pub(crate) name: Option<MemberName>,
    pub(crate) data_dir: Option<Spanned<AbsolutePath>>,
    pub(crate) wal_dir: Option<Spanned<AbsolutePath>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TypedCluster {
    pub(crate) token: Option<ClusterToken>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TypedListen {
    pub(crate) client: Option<Spanned<Vec<HttpUrl>>>,
    pub(crate) peer: Option<Spanned<Vec<HttpUrl>>>,
    pub(crate) metrics: Option<Spanned<Vec<HttpUrl>>>,
    pub(crate) advertise_client: Option<Spanned<Vec<HttpUrl>>>,
    pub(crate) advertise_peer: Option<Spanned<Vec<HttpUrl>>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TypedStorage {
    pub(crate) quota: Option<Spanned<ByteSize>>,
    pub(crate) compaction: Option<Spanned<TypedCompaction>>,
    pub(crate) snapshot_count: Option<Spanned<u64>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TypedCompaction {
    pub(crate) mode: Option<CompactionMode>,
    pub(crate) retention: Option<TimeSpan>,
    pub(crate) revisions: Option<u64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TypedTiming {
    pub(crate) heartbeat: Option<Spanned<TimeSpan>>,
    pub(crate) election: Option<Spanned<TimeSpan>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TypedLimits {
    pub(crate) request: Option<Spanned<ByteSize>>,
    pub(crate) operations_per_txn: Option<Spanned<u64>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TypedLog {
    pub(crate) level: Option<LogLevel>,
    pub(crate) format: Option<LogFormat>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TypedDefrag {
    pub(crate) enabled: Option<bool>,
    pub(crate) on_calendar: Option<Calendar>,
    pub(crate) jitter: Option<TimeSpan>,
    pub(crate) min_size: Option<ByteSize>,
    pub(crate) min_fragmentation: Option<Spanned<f64>>,
    pub(crate) min_free: Option<ByteSize>,
    pub(crate) min_interval: Option<TimeSpan>,
    pub(crate) max_pause: Option<TimeSpan>,
    pub(crate) timeout: Option<Spanned<TimeSpan>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TypedBackup {
    pub(crate) enabled: Option<bool>,
    pub(crate) on_calendar: Option<Calendar>,
    pub(crate) jitter: Option<TimeSpan>,
    pub(crate) dir: Option<Spanned<AbsolutePath>>,
    pub(crate) retention: Option<Spanned<TypedRetention>>,
    pub(crate) timeout: Option<Spanned<TimeSpan>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TypedRetention {
    pub(crate) hourly: Option<u32>,
    pub(crate) daily: Option<u32>,
    pub(crate) weekly: Option<u32>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TypedResources {
    pub(crate) nofile: Option<Spanned<u64>>,
    pub(crate) memory_low: Option<ByteSize>,
    pub(crate) oom_score_adjust: Option<Spanned<i64>>,
    pub(crate) nice: Option<Spanned<i64>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TypedPreflight {
    pub(crate) fsync_p99_warn: Option<Spanned<TimeSpan>>,
    pub(crate) fsync_p99_fail: Option<Spanned<TimeSpan>>,
    #[serde(default)]
    pub(crate) skip: Vec<TypedSkip>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TypedSkip {
    pub(crate) name: Spanned<String>,
    pub(crate) reason: Spanned<String>,
}

impl fmt::Display for Profile {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Profile::Dev => "dev",
            Profile::Prod => "prod",
        })
    }
}

impl fmt::Display for LogLevel {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            LogLevel::Debug => "debug",
            LogLevel::Info => "info",
            LogLevel::Warn => "warn",
            LogLevel::Error => "error",
        })
    }
}

impl fmt::Display for LogFormat {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            LogFormat::Json => "json",
            LogFormat::Text => "text",
        })
    }
}
