use std::fmt;
use std::path::PathBuf;

/// Where a setting came from, named in every refusal about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// Typed on the command line.
    Flag,
    /// The environment variable `ETCD_…`.
    Environment,
    /// The configuration file.
    File {
        /// The file, as it was named.
        path: PathBuf,
        /// The line of the value, counted from 1.
        line: u64,
    },
}

/// Why the server does not start: the setting, its value and what is allowed. The binary prints
/// it to standard error and ends with [`Refusal::EXIT_CODE`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Refusal(String);

impl Refusal {
    /// The exit code of a process that was started with settings that cannot be right.
    pub const EXIT_CODE: u8 = 2;

    /// A refusal that concerns no single setting.
    pub(super) fn new(text: impl Into<String>) -> Refusal {
        Refusal(text.into())
    }

    /// Refuses the `value` of the flag called `name`, wherever it was set.
    pub(super) fn of_value(
        source: &Source,
        name: &str,
        value: &str,
        reason: impl fmt::Display,
    ) -> Refusal {
        Refusal(match source {
            Source::Flag => format!("--{name}={value}: {reason}"),
            Source::Environment => format!("{}={value}: {reason}", environment_name(name)),
            Source::File { path, line } => {
                format!("{}:{line}: {name}: {value}: {reason}", path.display())
            }
        })
    }
}

/// `ETCD_QUOTA_BACKEND_BYTES` for `quota-backend-bytes`.
pub(super) fn environment_name(flag: &str) -> String {
    format!("ETCD_{}", flag.to_uppercase().replace('-', "_"))
}
