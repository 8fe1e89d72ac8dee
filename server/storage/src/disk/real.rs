//! The machine's own file system.

use std::fs::{self, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, FcntlArg, fallocate, fcntl};
use nix::libc;

use super::map::Map;
use super::{Disk, File, Lock, Open};

/// Mode of every file: nobody but the server's user reads keys and values.
const FILE_MODE: u32 = 0o600;
/// Mode of every folder, for the same reason.
const FOLDER_MODE: u32 = 0o700;

/// The machine's file system.
#[derive(Debug, Clone, Copy, Default)]
pub struct RealDisk;

impl Disk for RealDisk {
    fn open(&self, path: &Path, how: Open) -> io::Result<Arc<dyn File>> {
        let mut options = OpenOptions::new();
        options.read(true).mode(FILE_MODE);
        match how {
            Open::Read => {}
            Open::Write => {
                options.write(true);
            }
            Open::Create => {
                options.write(true).create_new(true);
            }
        }
        Ok(Arc::new(RealFile {
            file: options.open(path)?,
        }))
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        fs::DirBuilder::new().mode(FOLDER_MODE).create(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        fs::remove_dir_all(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        fs::File::open(path)?.sync_all()
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(path)? {
            // A name that is not UTF-8 is none of ours; it is shown as well as it can be.
            names.push(entry?.file_name().to_string_lossy().into_owned());
        }
        names.sort_unstable();
        Ok(names)
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        path.try_exists()
    }
}

struct RealFile {
    file: fs::File,
}

impl File for RealFile {
    fn size(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn set_size(&self, size: u64) -> io::Result<()> {
        self.file.set_len(size)
    }

    fn allocate(&self, size: u64) -> io::Result<()> {
        let length = i64::try_from(size).map_err(|_| io::Error::from(Errno::EFBIG))?;
        loop {
            match fallocate(&self.file, FallocateFlags::empty(), 0, length) {
                Ok(()) => return Ok(()),
                Err(Errno::EINTR) => {}
                // This file system reserves nothing; the size is what readers rely on.
                Err(Errno::EOPNOTSUPP | Errno::ENOSYS) => {
                    return if self.size()? < size {
                        self.set_size(size)
                    } else {
                        Ok(())
                    };
                }
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_exact_at(buffer, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.file.write_all_at(bytes, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn map(&self, size: u64) -> io::Result<Arc<Map>> {
        Map::of(&self.file, size).map(Arc::new)
    }

    fn lock(&self, lock: Lock) -> io::Result<bool> {
        let taken = match lock {
            Lock::Exclusive => self.file.try_lock(),
            Lock::Shared => self.file.try_lock_shared(),
            Lock::OpenFileDescription => return lock_open_file_description(&self.file),
        };
        match taken {
            Ok(()) => Ok(true),
            Err(TryLockError::WouldBlock) => Ok(false),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }
}

fn lock_open_file_description(file: &fs::File) -> io::Result<bool> {
    let whole_file = libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    match fcntl(file, FcntlArg::F_OFD_SETLK(&whole_file)) {
        Ok(_) => Ok(true),
        Err(Errno::EAGAIN | Errno::EACCES) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn files_and_folders_are_private_to_their_owner() {
        let folder = tempfile::tempdir().unwrap();
        let inner = folder.path().join("inner");
        RealDisk.create_dir(&inner).unwrap();
        RealDisk.open(&inner.join("file"), Open::Create).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&inner) & 0o077, 0);
        assert_eq!(mode(&inner.join("file")) & 0o177, 0);
        assert!(RealDisk.open(&inner.join("file"), Open::Create).is_err());
        assert!(RealDisk.create_dir(&inner).is_err());
    }

    #[test]
    fn each_kind_of_lock_keeps_its_own_kind_out_until_the_file_is_closed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        RealDisk.open(&path, Open::Create).unwrap();
        let open = || RealDisk.open(&path, Open::Write).unwrap();
        for (held, wanted, free) in [
            (Lock::Exclusive, Lock::Exclusive, false),
            (Lock::Exclusive, Lock::Shared, false),
            (Lock::Shared, Lock::Shared, true),
            (Lock::Shared, Lock::Exclusive, false),
            (Lock::OpenFileDescription, Lock::OpenFileDescription, false),
            (Lock::OpenFileDescription, Lock::Exclusive, true),
        ] {
            let (first, second) = (open(), open());
            assert!(first.lock(held).unwrap());
            assert_eq!(
                second.lock(wanted).unwrap(),
                free,
                "{wanted:?} beside {held:?}"
            );
            drop(first);
            assert!(second.lock(wanted).unwrap(), "{wanted:?} after {held:?}");
        }
    }

    #[test]
    fn allocated_bytes_read_as_zero_and_nothing_is_cut() {
        let folder = tempfile::tempdir().unwrap();
        let file = RealDisk
            .open(&folder.path().join("file"), Open::Create)
            .unwrap();
        file.write_at(b"abc", 0).unwrap();
        file.allocate(10_000).unwrap();
        file.allocate(5_000).unwrap();
        assert_eq!(file.size().unwrap(), 10_000);
        let mut bytes = vec![1; 10_000];
        file.read_at(&mut bytes, 0).unwrap();
        assert_eq!(&bytes[..3], b"abc");
        assert!(bytes[3..].iter().all(|byte| *byte == 0));
        let beyond = file.read_at(&mut bytes, 1).unwrap_err();
        assert_eq!(beyond.kind(), io::ErrorKind::UnexpectedEof);
    }
}
