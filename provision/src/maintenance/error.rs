//! Why maintenance was not done.

use crate::exit_code::Exit;
use crate::host::HostError;
use crate::member::MemberError;

/// Why maintenance was not done.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MaintenanceError {
    #[error(transparent)]
    Member(#[from] MemberError),
    #[error(transparent)]
    Host(#[from] HostError),
    #[error("the history {path} is damaged ({cause}); remove it: the next run writes it anew")]
    DamagedHistory {
        path: String,
        cause: serde_json::Error,
    },
    #[error(
        "no room for a backup in {folder}: {available} free, about {needed} needed; make room or choose another backup.dir"
    )]
    NoRoom {
        folder: String,
        available: String,
        needed: String,
    },
    #[error("the snapshot did not arrive whole: {0}; no backup was made, the old ones are kept")]
    NotWhole(String),
    #[error(
        "the member at {url} is not fit for this: {why}; look at provision status and the server's log"
    )]
    Unfit { url: String, why: String },
}

impl MaintenanceError {
    pub(crate) fn exit(&self) -> Exit {
        match self {
            MaintenanceError::Member(MemberError::Unreachable { .. })
            | MaintenanceError::Unfit { .. } => Exit::Unhealthy,
            MaintenanceError::NotWhole(_) => Exit::VerificationFailed,
            MaintenanceError::Member(_)
            | MaintenanceError::Host(_)
            | MaintenanceError::DamagedHistory { .. }
            | MaintenanceError::NoRoom { .. } => Exit::Failed,
        }
    }
}
