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
    /// A setting of etcd's that changes nothing here.
    FlagIgnored {
        /// Flag or variable.
        name: String,
    },
    /// A setting has another name by now.
    Renamed {
        /// The name that was used: of a flag, variable or key.
        old: String,
        /// The flag of now.
        new: String,
    },
    /// A cipher suite that is not among ours.
    CipherSuiteUnknown {
        /// Its name.
        name: String,
    },
    /// Certificates are there, but a URL does without.
    CertificateUnused {
        /// The URL.
        url: String,
    },
    /// A value outside of its bounds was replaced.
    Adjusted {
        /// The flag's name.
        name: &'static str,
        /// What was typed.
        typed: String,
        /// What counts instead.
        used: String,
    },
    /// An option within `--auth-token` that nobody knows.
    TokenOptionUnknown {
        /// Its name.
        name: String,
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
            Note::FlagIgnored { name } => tracing::warn!(
                "flag-name" = name,
                "a setting of etcd changes nothing here - ignoring"
            ),
            Note::Renamed { old, new } => {
                tracing::warn!(old, new, "a setting is deprecated under its old name");
            }
            Note::CipherSuiteUnknown { name } => tracing::warn!(
                "cipher-suite" = name,
                "a cipher suite is not part of this version - ignoring"
            ),
            Note::CertificateUnused { url } => tracing::warn!(
                url,
                "the scheme is http although certificates are set; this URL is served without them"
            ),
            Note::Adjusted { name, typed, used } => tracing::warn!(
                "flag-name" = name,
                typed,
                used,
                "a setting is outside of its bounds; using another value"
            ),
            Note::TokenOptionUnknown { name } => {
                tracing::warn!(option = name, "unknown option of --auth-token");
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
