//! One command at a time: a file lock that dies with its process.

use std::fs::{File, OpenOptions, TryLockError};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use super::{HostError, file_error};

/// Held while it lives.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
}

/// Takes the lock at `path`, or says that somebody else has it.
///
/// # Errors
/// When the file cannot be opened or locked for another reason.
pub(crate) fn try_lock(path: &Path) -> Result<Option<Lock>, HostError> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o640)
        .open(path)
        .map_err(file_error("open the lock", path.display()))?;
    hold(file, path)
}

/// Takes the lock of a folder itself, or says that somebody else has it.
///
/// # Errors
/// When the folder cannot be opened or locked for another reason.
pub(crate) fn try_lock_folder(path: &Path) -> Result<Option<Lock>, HostError> {
    let folder = File::open(path).map_err(file_error("open", path.display()))?;
    hold(folder, path)
}

fn hold(file: File, path: &Path) -> Result<Option<Lock>, HostError> {
    match file.try_lock() {
        Ok(()) => Ok(Some(Lock { _file: file })),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(file_error("take the lock", path.display())(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_held_once_and_free_again_when_dropped() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let path = folder.path().join("lock");
        let first = try_lock(&path).expect("lock");
        assert!(first.is_some());
        assert!(try_lock(&path).expect("lock").is_none());
        drop(first);
        assert!(try_lock(&path).expect("lock").is_some());
        let first = try_lock_folder(folder.path()).expect("lock");
        assert!(first.is_some());
        assert!(try_lock_folder(folder.path()).expect("lock").is_none());
    }
}
