//! What can go wrong between us and the disk.

use std::io;
use std::path::{Path, PathBuf};

/// The disk failed, or holds bytes that cannot be right. Whoever gets one stops; nobody retries a
/// sync or guesses at damaged bytes.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// An operation of the operating system failed.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried, as in "sync" or "open".
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The operating system's answer.
        source: io::Error,
    },
    /// The file holds bytes that no correct writer leaves behind.
    #[error("{} is damaged: {what}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where in the file and what is wrong, as in "page 17: key 3 is not above key 2".
        what: String,
    },
    /// Another process holds the file's lock.
    #[error("{} is in use by another process; stop the server that runs on this data directory", path.display())]
    Locked {
        /// The file.
        path: PathBuf,
    },
}

impl Fault {
    /// Names the operation and the file of an operating system error, for `map_err`.
    pub fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Fault {
        let path = path.to_owned();
        move |source| Fault::Io {
            action,
            path,
            source,
        }
    }

    /// Damage in the file at `path`.
    pub fn damaged(path: &Path, what: impl Into<String>) -> Fault {
        Fault::Damaged {
            path: path.to_owned(),
            what: what.into(),
        }
    }
}
