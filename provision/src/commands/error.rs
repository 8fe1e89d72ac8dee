//! Why a command ended without having done its work, and which exit code says so.

use crate::exit_code::Exit;
use crate::facts::FactsError;
use crate::host::{ApplyError, HostError};
use crate::maintenance::MaintenanceError;
use crate::member::MemberError;
use crate::render::RenderError;
use crate::spec::ConfigError;

/// Why a command ended without having done its work.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CommandError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("cannot read the configuration {path}: {source}{hint}")]
    ConfigNotRead {
        path: String,
        source: std::io::Error,
        hint: &'static str,
    },
    #[error(transparent)]
    Render(#[from] RenderError),
    #[error(transparent)]
    Host(#[from] HostError),
    #[error(transparent)]
    Facts(#[from] FactsError),
    #[error(transparent)]
    Apply(#[from] ApplyError),
    #[error(transparent)]
    Member(#[from] MemberError),
    #[error(transparent)]
    Maintenance(#[from] MaintenanceError),
    #[error("another provision command is changing this host; wait until it has ended (lock: {0})")]
    Locked(String),
    #[error("{0}")]
    Usage(String),
}

impl CommandError {
    /// The exit code that tells this error to scripts.
    pub(crate) fn exit(&self) -> Exit {
        match self {
            CommandError::Config(_)
            | CommandError::ConfigNotRead { .. }
            | CommandError::Render(_)
            | CommandError::Usage(_) => Exit::BadConfiguration,
            CommandError::Host(HostError::NotServing(_)) => Exit::Unhealthy,
            CommandError::Apply(ApplyError::PartlyDone(_)) => Exit::PartlyDone,
            CommandError::Locked(_) => Exit::Deferred,
            CommandError::Member(MemberError::Unreachable { .. }) => Exit::Unhealthy,
            CommandError::Maintenance(error) => error.exit(),
            CommandError::Host(_)
            | CommandError::Facts(_)
            | CommandError::Apply(_)
            | CommandError::Member(_) => Exit::Failed,
        }
    }
}
