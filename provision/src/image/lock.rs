use std::fs::{File, TryLockError};
use std::path::Path;

use super::fault::{ImageError, file};

/// Keeps a folder for one run; free again when dropped, or when the process ends.
pub(super) struct FolderLock {
    _file: File,
}

impl FolderLock {
    /// Makes the folder and takes its lock, or says who else uses it.
    pub(super) fn take(folder: &Path) -> Result<Self, ImageError> {
        std::fs::create_dir_all(folder).map_err(file("create", folder))?;
        let path = folder.join("lock");
        let lock = File::create(&path).map_err(file("create", &path))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { _file: lock }),
            Err(TryLockError::WouldBlock) => Err(ImageError::Busy { path }),
            Err(TryLockError::Error(error)) => Err(file("lock", &path)(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_belongs_to_one_run_at_a_time() {
        let folder = tempfile::tempdir().expect("a folder can be made");
        let first = FolderLock::take(folder.path()).expect("it is free");
        assert!(matches!(
            FolderLock::take(folder.path()),
            Err(ImageError::Busy { .. })
        ));
        drop(first);
        FolderLock::take(folder.path()).expect("it is free again");
    }
}
