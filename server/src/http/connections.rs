use std::sync::Arc;

use nix::sys::resource::{Resource, getrlimit};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Files that the member needs for itself: log, snapshots, database, other members.
const RESERVED_FILES: u64 = 150;
/// A connection costs some tens of kilobytes; more of them than this are no clients of ours.
const CONNECTIONS_MAX: u64 = 65_536;

/// The limit of open files leaves none for clients.
#[derive(Debug, thiserror::Error)]
#[error(
    "file descriptor limit of the process is too low: {limit}, of which the server itself needs \
     {RESERVED_FILES}; set it higher, with LimitNOFILE= in a systemd unit or with ulimit -n"
)]
pub struct TooFewFiles {
    limit: u64,
}

/// The connections that all listeners together may hold. A client beyond them waits in the
/// kernel's queue until another one leaves.
#[derive(Debug, Clone)]
pub struct ConnectionSlots(Arc<Semaphore>);

impl ConnectionSlots {
    /// As many as the process' limit of open files allows, less those that it needs for itself.
    ///
    /// # Errors
    /// The limit leaves no connection.
    pub fn of_process() -> Result<ConnectionSlots, TooFewFiles> {
        let limit = getrlimit(Resource::RLIMIT_NOFILE).map_or(u64::MAX, |(soft, _)| soft);
        match limit.saturating_sub(RESERVED_FILES).min(CONNECTIONS_MAX) {
            0 => Err(TooFewFiles { limit }),
            slots => Ok(ConnectionSlots::new(slots as usize)),
        }
    }

    /// This many.
    pub fn new(slots: usize) -> ConnectionSlots {
        ConnectionSlots(Arc::new(Semaphore::new(slots)))
    }

    /// Waits for a free slot, and holds it until the answer is dropped.
    pub(super) async fn take(&self) -> OwnedSemaphorePermit {
        self.0
            .clone()
            .acquire_owned()
            .await
            .expect("nobody closes the semaphore")
    }
}
