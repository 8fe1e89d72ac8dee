//! A database that a leader has sent, `<index as 16 hex digits>.snap.db`, beside the member's own.
//!
//! The order in which it takes effect, with what a crash in between leaves:
//!
//! 1. it is received as `tmp…`, synced and renamed: an orphan, which goes when the member has passed it;
//! 2. a raft snapshot with its index is saved, then marked in the log: from here on the log begins
//!    behind entries that the own database may lack;
//! 3. it is renamed over the own database. [`adopt`] makes up for that at the next start.

use std::path::Path;

use state_machine::read_position;
use storage::disk::{Disk, Lock, Open};
use storage::wal::Index;
use storage::{Fault, read_only};

use crate::data_dir::{Paths, StartError};

const SUFFIX: &str = ".snap.db";
/// Files that were being written when the member stopped.
const UNFINISHED_PREFIX: &str = "tmp";

/// The file's name.
pub fn file_name(index: Index) -> String {
    format!("{:016x}{SUFFIX}", index.0)
}

fn index_of(name: &str) -> Option<Index> {
    let digits = name.strip_suffix(SUFFIX)?;
    let index = u64::from_str_radix(digits, 16).ok()?;
    (file_name(Index(index)) == name).then_some(Index(index))
}

/// Puts the database that was received with the snapshot at `index` in the place of the member's own,
/// if that lacks entries before it. Returns whether it did.
///
/// # Errors
/// When the disk fails, the file is no whole database, or another process uses the member's own.
pub(crate) fn adopt(disk: &dyn Disk, paths: &Paths, index: Index) -> Result<bool, StartError> {
    let received = paths.snap.join(file_name(index));
    let exists = |path: &Path| disk.exists(path).map_err(Fault::io("look for", path));
    if index.0 == 0 || !exists(&received)? {
        return Ok(false);
    }
    if exists(&paths.db)? && position(disk, &paths.db)? >= index.0 {
        return Ok(false);
    }
    let holds = position(disk, &received)?;
    if holds < index.0 {
        return Err(StartError::Refused {
            path: received,
            what: format!(
                "it was received with the snapshot at entry {}, but holds entries up to {holds}; \
                 remove this member from the cluster and add it again with an empty data directory",
                index.0
            ),
        });
    }
    let _lock = match exists(&paths.db)? {
        true => Some(lock(disk, &paths.db)?),
        false => None,
    };
    disk.rename(&received, &paths.db)
        .map_err(Fault::io("rename", &received))?;
    disk.sync_dir(&paths.snap)
        .map_err(Fault::io("sync", &paths.snap))?;
    Ok(true)
}

/// The last entry that the database at `path` holds.
fn position(disk: &dyn Disk, path: &Path) -> Result<u64, StartError> {
    let (committed, _lock) = read_only(disk, path)?;
    let position = read_position(&committed).map_err(|source| StartError::Database {
        path: path.to_owned(),
        source,
    })?;
    Ok(position.index)
}

fn lock(
    disk: &dyn Disk,
    path: &Path,
) -> Result<std::sync::Arc<dyn storage::disk::File>, StartError> {
    let file = disk
        .open(path, Open::Write)
        .map_err(Fault::io("open", path))?;
    match file
        .lock(Lock::Exclusive)
        .map_err(Fault::io("lock", path))?
    {
        true => Ok(file),
        false => Err(StartError::Storage(Fault::Locked {
            path: path.to_owned(),
        })),
    }
}

/// Removes what no start can need any more: databases received with a snapshot that the member's own
/// has reached, and files that were never finished. The member must be the only user of its folder.
///
/// # Errors
/// When the disk fails.
pub(crate) fn clean(disk: &dyn Disk, paths: &Paths, applied: u64) -> Result<(), Fault> {
    let names = disk
        .list(&paths.snap)
        .map_err(Fault::io("list", &paths.snap))?;
    let is_old = |name: &&String| {
        let passed = index_of(name).is_some_and(|index| index.0 <= applied);
        passed || name.starts_with(UNFINISHED_PREFIX)
    };
    let mut removed = false;
    for name in names.iter().filter(is_old) {
        let path = paths.snap.join(name);
        disk.remove(&path).map_err(Fault::io("remove", &path))?;
        tracing::info!(path = %path.display(), "removed a file that is not needed any more");
        removed = true;
    }
    match removed {
        true => disk
            .sync_dir(&paths.snap)
            .map_err(Fault::io("sync", &paths.snap)),
        false => Ok(()),
    }
}
