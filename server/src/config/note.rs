use std::path::PathBuf;

use super::refusal::Source;

/// What the operator should know about the settings although they are good enough to start. Notes
/// are collected while there is no log yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Note {
    /// A variable of the environment counts.
    VariableUsed {
        /// Its full name.
        name: String,
        /// Its value.
        value: String,
    },
    /// A variable begins like ours but has no effect.
    VariableUnknown {
        /// Its full name.
        name: String,
    },
    /// A variable of the environment stands for something that cannot be set.
    VariableSpecial {
        /// Its full name.
        name: String,
    },
    /// A file holds all settings.
    FileLoaded {
        /// The file.
        path: PathBuf,
    },
    /// A key of the file has no effect.
    KeyIgnored {
        /// The key.
        key: String,
        /// The place of its value.
        source: Source,
    },
    /// Nobody named this member.
    DefaultName,
    /// Nobody said where the data goes.
    DefaultDataDir {
        /// Where it goes.
        path: PathBuf,
    },
    /// Databases larger than this are slow to copy and to start.
    QuotaAboveMaximum {
        /// The quota in bytes.
        bytes: u64,
        /// The largest recommended quota in bytes.
        recommended: u64,
    },
    /// Requests larger than this stall the others.
    RequestLimitAboveRecommended {
        /// The limit in bytes.
        bytes: u64,
        /// The largest recommended limit in bytes.
        recommended: u64,
    },
}

impl Note {
    /// Tells it through the log, in etcd's words.
    pub fn log(&self) {
        match self {
            Note::VariableUsed { name, value } => tracing::info!(
                "variable-name" = name,
                "variable-value" = value,
                "recognized and used environment variable"
            ),
            Note::VariableUnknown { name } => {
                tracing::warn!(
                    "environment-variable" = name,
                    "unrecognized environment variable"
                );
            }
            Note::VariableSpecial { name } => tracing::warn!(
                "environment-variable" = name,
                "cannot set special environment variable"
            ),
            Note::FileLoaded { path } => tracing::info!(
                path = %path.display(),
                "loaded server configuration, other configuration command line flags and \
                 environment variables will be ignored if provided"
            ),
            Note::KeyIgnored { key, source } => {
                let line = if let Source::File { line, .. } = source {
                    *line
                } else {
                    0
                };
                tracing::warn!(key, line, "the configuration file has a key without effect");
            }
            Note::DefaultName => tracing::warn!(
                "it isn't recommended to use default name, please set a value for --name"
            ),
            Note::DefaultDataDir { path } => tracing::warn!(
                "data-dir" = %path.display(),
                "'data-dir' was empty; using default"
            ),
            Note::QuotaAboveMaximum { bytes, recommended } => tracing::warn!(
                "quota-size-bytes" = bytes,
                "quota-maximum-size-bytes" = recommended,
                "quota exceeds the maximum value"
            ),
            Note::RequestLimitAboveRecommended { bytes, recommended } => tracing::warn!(
                "max-request-bytes" = bytes,
                "recommended-request-bytes" = recommended,
                "exceeded recommended request limit"
            ),
        }
    }
}
