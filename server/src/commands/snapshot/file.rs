//! The file of a backup: a whole database, then the SHA-256 of it.
//!
//! ```text
//! 0                            pages × page size    + 32
//! +----------------------------+---------------------+
//! | the database               | SHA-256 of it       |
//! +----------------------------+---------------------+
//! ```
//!
//! A page is a multiple of 512 bytes, so a file ends with a hash when its size is 32 beyond one.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sha2::{Digest, Sha256};
use storage::Fault;
use storage::disk::{Disk, File, Open};

use crate::commands::Failure;

pub(super) const HASH_BYTES: usize = 32;
const SECTOR_BYTES: u64 = 512;
/// How much is read at once.
const READ_BYTES: u64 = 1 << 20;
/// Nobody but the owner reads a backup: it holds all keys.
const MODE: u32 = 0o600;

/// What to do about a backup that cannot be used.
pub(super) const ADVICE: &str =
    "nothing was changed; fetch it anew with `holdfast snapshot save`, or take an older one";

/// A backup that is there.
pub(super) struct SnapshotFile {
    path: PathBuf,
    file: Arc<dyn File>,
    size: u64,
}

impl SnapshotFile {
    pub(super) fn open(disk: &dyn Disk, path: &Path) -> Result<SnapshotFile, Failure> {
        let file = disk
            .open(path, Open::Read)
            .map_err(Fault::io("open", path))?;
        let size = file.size().map_err(Fault::io("measure", path))?;
        Ok(SnapshotFile {
            path: path.to_owned(),
            file,
            size,
        })
    }

    pub(super) fn has_hash(&self) -> bool {
        self.size % SECTOR_BYTES == HASH_BYTES as u64
    }

    /// Bytes before the hash.
    pub(super) fn database_bytes(&self) -> u64 {
        match self.has_hash() {
            true => self.size - HASH_BYTES as u64,
            false => self.size,
        }
    }

    /// Compares the hash at its end with the database.
    pub(super) fn check_hash(&self) -> Result<(), Failure> {
        let path = self.path.display();
        if !self.has_hash() {
            return Err(Failure::of_data(format!(
                "{path} has no hash at its end: either it was cut off, or it is a database copied from a \
                 data directory; for such a copy add --skip-hash-check; else {ADVICE}"
            )));
        }
        let mut hash = Sha256::new();
        self.read(|_, piece| {
            hash.update(piece);
            Ok(())
        })?;
        let mut expected = [0; HASH_BYTES];
        let offset = self.database_bytes();
        self.file
            .read_at(&mut expected, offset)
            .map_err(Fault::io("read", &self.path))?;
        let found = hash.finalize();
        match found[..] == expected {
            true => Ok(()),
            false => Err(Failure::of_data(format!(
                "{path} is damaged or cut off: its SHA-256 is {}, and at offset {offset} it says {}; \
                 {ADVICE}",
                hex(&found),
                hex(&expected)
            ))),
        }
    }

    /// Hands out the bytes before the hash, piece by piece with their offsets.
    pub(super) fn read(
        &self,
        mut take: impl FnMut(u64, &[u8]) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        let (mut offset, end) = (0, self.database_bytes());
        let mut piece = Vec::new();
        while offset < end {
            piece.resize(READ_BYTES.min(end - offset) as usize, 0);
            self.file
                .read_at(&mut piece, offset)
                .map_err(Fault::io("read", &self.path))?;
            take(offset, &piece)?;
            offset += piece.len() as u64;
        }
        Ok(())
    }
}

/// A backup in the making, under a name beside the final one.
pub(super) struct NewSnapshot {
    target: PathBuf,
    part: PathBuf,
    file: fs::File,
    hash: Sha256,
    /// The last bytes: those that may be the hash.
    tail: Vec<u8>,
    size: u64,
    whole: bool,
}

impl NewSnapshot {
    pub(super) fn create(target: &Path) -> Result<NewSnapshot, Failure> {
        let mut part = target.as_os_str().to_owned();
        part.push(".part");
        let part = PathBuf::from(part);
        let file = open_part(&part).map_err(Fault::io("create", &part))?;
        let file = file.ok_or_else(|| {
            Failure::of_surroundings(format!(
                "{} is being written by another process; wait for its end, or save to another file",
                part.display()
            ))
        })?;
        Ok(NewSnapshot {
            target: target.to_owned(),
            part,
            file,
            hash: Sha256::new(),
            tail: Vec::new(),
            size: 0,
            whole: false,
        })
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.file
            .write_all(bytes)
            .map_err(Fault::io("write", &self.part))?;
        self.size += bytes.len() as u64;
        self.tail.extend_from_slice(bytes);
        let known = self.tail.len().saturating_sub(HASH_BYTES);
        self.hash.update(&self.tail[..known]);
        self.tail.drain(..known);
        Ok(())
    }

    /// Checks that it is whole, and gives it its name, durably. Returns its size.
    pub(super) fn finish(mut self) -> Result<u64, Failure> {
        let hash = std::mem::take(&mut self.hash).finalize();
        if self.size % SECTOR_BYTES != HASH_BYTES as u64 || hash[..] != self.tail {
            return Err(Failure::of_surroundings(format!(
                "the snapshot ended early or was changed on its way: {} bytes came with SHA-256 {}, and \
                 the last {} of them say {}; {} was not written; try again",
                self.size,
                hex(&hash),
                self.tail.len(),
                hex(&self.tail),
                self.target.display()
            )));
        }
        self.file
            .sync_all()
            .map_err(Fault::io("sync", &self.part))?;
        fs::rename(&self.part, &self.target).map_err(Fault::io("rename", &self.part))?;
        self.whole = true;
        let folder = folder_of(&self.target);
        fs::File::open(&folder)
            .and_then(|folder| folder.sync_all())
            .map_err(Fault::io("sync", &folder))?;
        Ok(self.size)
    }
}

impl Drop for NewSnapshot {
    fn drop(&mut self) {
        if !self.whole {
            // What stays behind is overwritten by the next attempt.
            let _ = fs::remove_file(&self.part);
        }
    }
}

/// Opens the file for ourselves alone, empty; `None` when another process writes it.
fn open_part(path: &Path) -> io::Result<Option<fs::File>> {
    let mut options = OpenOptions::new();
    let options = options.write(true).create(true).truncate(false).mode(MODE);
    loop {
        let file = options.open(path)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => return Ok(None),
            Err(fs::TryLockError::Error(error)) => return Err(error),
        }
        // Whoever held the lock may have given the file its final name meanwhile.
        let is_same = fs::metadata(path).is_ok_and(|found| {
            file.metadata()
                .is_ok_and(|own| (own.dev(), own.ino()) == (found.dev(), found.ino()))
        });
        if is_same {
            file.set_len(0)?;
            file.set_permissions(fs::Permissions::from_mode(MODE))?;
            return Ok(Some(file));
        }
    }
}

/// The folder that a file lies in.
pub(super) fn folder_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn save(target: &Path, pieces: &[&[u8]]) -> Result<u64, Failure> {
        let mut new = NewSnapshot::create(target)?;
        for piece in pieces {
            new.write(piece)?;
        }
        new.finish()
    }

    #[test]
    fn only_a_whole_snapshot_gets_the_name() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("backup");
        fs::write(&target, "the one before").unwrap();
        let database = vec![7; 4096];
        let hash = Sha256::digest(&database);
        let names = || fs::read_dir(folder.path()).unwrap().count();

        assert!(save(&target, &[]).is_err());
        assert!(save(&target, &[&database]).is_err());
        assert!(save(&target, &[&database, &hash[..31]]).is_err());
        assert!(save(&target, &[&database[..4095], &hash]).is_err());
        let mut flipped = database.clone();
        flipped[100] ^= 1;
        assert!(save(&target, &[&flipped, &hash]).is_err());
        assert_eq!(fs::read(&target).unwrap(), b"the one before");
        assert_eq!(names(), 1, "nothing stays beside it");

        // However it is cut into pieces.
        save(
            &target,
            &[&database[..1], &database[1..], &hash[..5], &hash[5..]],
        )
        .unwrap();
        assert_eq!(fs::metadata(&target).unwrap().len(), 4096 + 32);
        assert_eq!(fs::metadata(&target).unwrap().mode() & 0o777, 0o600);
        assert_eq!(names(), 1);
    }

    #[test]
    fn two_do_not_write_one_file() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("backup");
        let first = NewSnapshot::create(&target).unwrap();
        assert!(NewSnapshot::create(&target).is_err());
        drop(first);
        drop(NewSnapshot::create(&target).unwrap());
    }
}
