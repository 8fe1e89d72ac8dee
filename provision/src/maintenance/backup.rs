//! Snapshots of the database as files.
//!
//! A snapshot is the database followed by the SHA-256 of it (32 bytes), as etcd streams it. It is
//! written to `NAME.part`, checked, synced and only then renamed, so a name without `.part` is a
//! whole backup. Beside it lies `NAME.json` with what is known of it.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::MaintenanceError;
use super::backup_name::{BackupName, rfc3339};
use super::retention::to_prune;
use crate::host::{Ownership, clock, file_error, replace_file, sync_parent};
use crate::member::Client;
use crate::spec::{ByteSize, Retention};
use crate::state::Sha256Hex;

/// The hash at the end of a snapshot.
const TRAILER_BYTES: usize = 32;
/// A database is whole pages of at least this size, so a snapshot ends 32 bytes after one.
const PAGE_ALIGNMENT: u64 = 512;
/// Room beyond the database's size that a backup asks for.
const SPARE_ROOM: ByteSize = ByteSize::from_mib(16);

/// A backup that was just made.
#[derive(Clone, Debug)]
pub(crate) struct Created {
    pub(crate) path: PathBuf,
    pub(crate) info: BackupInfo,
    pub(crate) took: Duration,
}

/// What is known of a backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct BackupInfo {
    pub(crate) name: String,
    /// RFC 3339, UTC.
    pub(crate) time: String,
    /// Of the file, with its trailer.
    pub(crate) size: u64,
    /// The member had at least this revision when the snapshot was taken.
    pub(crate) revision: u64,
    /// Of the database without the trailer; absent when the file beside it is missing.
    pub(crate) sha256: Option<Sha256Hex>,
    pub(crate) cluster_id: Option<String>,
    pub(crate) member_id: Option<String>,
    pub(crate) server_version: Option<String>,
}

/// Saves a snapshot of the member into `folder`.
///
/// # Errors
/// When there is no room, the member does not deliver, or what it delivers is not whole. Then
/// nothing but the old backups lies in the folder.
pub(crate) fn create(
    client: &mut Client,
    folder: &Path,
    limit: Duration,
) -> Result<Created, MaintenanceError> {
    let began = clock::now();
    let status = client.status()?;
    remove_leftovers(folder)?;
    check_room(folder, status.size)?;
    let name = BackupName {
        unix_seconds: clock::unix_seconds(),
        revision: u64::try_from(status.revision).unwrap_or(0),
    };
    let path = folder.join(name.to_string());
    let part = folder.join(format!("{name}.part"));
    let (size, sha256) = match stream(client, &part, limit) {
        Ok(whole) => whole,
        Err(error) => {
            // What went wrong is told; a leftover is removed by the next run.
            let _ = std::fs::remove_file(&part);
            return Err(error);
        }
    };
    let info = BackupInfo {
        name: name.to_string(),
        time: rfc3339(name.unix_seconds),
        size,
        revision: name.revision,
        sha256: Some(sha256),
        cluster_id: Some(format!("{:x}", status.cluster_id)),
        member_id: Some(format!("{:x}", status.member_id)),
        server_version: Some(status.version),
    };
    let mut text = serde_json::to_vec_pretty(&info).expect("strings and numbers serialize");
    text.push(b'\n');
    replace_file(
        &beside(&path),
        &text,
        Ownership {
            ids: None,
            mode: 0o600,
        },
    )?;
    std::fs::rename(&part, &path).map_err(file_error("rename to", path.display()))?;
    sync_parent(&path)?;
    Ok(Created {
        path,
        info,
        took: began.elapsed(),
    })
}

/// Writes the stream to `part`, synced; returns its size and the hash of the database in it.
fn stream(
    client: &mut Client,
    part: &Path,
    limit: Duration,
) -> Result<(u64, Sha256Hex), MaintenanceError> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(part)
        .map_err(file_error("make", part.display()))?;
    let mut check = TrailerCheck::default();
    let mut remaining = None;
    client.snapshot(limit, |piece, left| {
        check.update(piece);
        remaining = Some(left);
        file.write_all(piece)
    })?;
    if let Some(left @ 1..) = remaining {
        return Err(MaintenanceError::NotWhole(format!(
            "{left} bytes are missing at its end"
        )));
    }
    let whole = check.finish().map_err(MaintenanceError::NotWhole)?;
    sync(&file, part)?;
    Ok(whole)
}

fn sync(file: &File, path: &Path) -> Result<(), MaintenanceError> {
    Ok(file
        .sync_all()
        .map_err(file_error("sync", path.display()))?)
}

/// Hashes a stream but for its last 32 bytes, and compares them with the hash.
#[derive(Default)]
struct TrailerCheck {
    hasher: Sha256,
    /// The last bytes so far, at most a trailer's length: they may be the trailer.
    tail: Vec<u8>,
    size: u64,
}

impl TrailerCheck {
    fn update(&mut self, piece: &[u8]) {
        self.size += u64::try_from(piece.len()).expect("a piece is far below 2^64 bytes");
        self.tail.extend_from_slice(piece);
        let ready = self.tail.len().saturating_sub(TRAILER_BYTES);
        self.hasher.update(&self.tail[..ready]);
        self.tail.drain(..ready);
    }

    fn finish(self) -> Result<(u64, Sha256Hex), String> {
        let trailer = u64::try_from(TRAILER_BYTES).expect("32 fits");
        if self.size <= trailer || self.size % PAGE_ALIGNMENT != trailer {
            return Err(format!(
                "{} bytes are not whole pages and a hash",
                self.size
            ));
        }
        let found = Sha256Hex::from_digest(&self.hasher.finalize());
        let expected = Sha256Hex::from_digest(&self.tail);
        if found != expected {
            let (found, expected) = (found.as_str(), expected.as_str());
            return Err(format!("its SHA-256 is {found}, its end says {expected}"));
        }
        Ok((self.size, found))
    }
}

fn check_room(folder: &Path, size: ByteSize) -> Result<(), MaintenanceError> {
    let found = nix::sys::statvfs::statvfs(folder)
        .map_err(|errno| file_error("look at", folder.display())(errno.into()))?;
    let available = ByteSize::from_bytes(
        found
            .blocks_available()
            .saturating_mul(found.fragment_size()),
    );
    let needed = size.plus(SPARE_ROOM);
    if available < needed {
        return Err(MaintenanceError::NoRoom {
            folder: folder.display().to_string(),
            available: available.rounded(),
            needed: needed.rounded(),
        });
    }
    Ok(())
}

/// The whole backups in `folder`, oldest first.
///
/// # Errors
/// When the folder cannot be read.
pub(crate) fn list(folder: &Path) -> Result<Vec<BackupInfo>, MaintenanceError> {
    let names: BTreeSet<BackupName> = file_names(folder)?
        .iter()
        .filter_map(|name| BackupName::parse(name))
        .collect();
    names.into_iter().map(|name| info(folder, name)).collect()
}

fn info(folder: &Path, name: BackupName) -> Result<BackupInfo, MaintenanceError> {
    let path = folder.join(name.to_string());
    let size = std::fs::metadata(&path)
        .map_err(file_error("look at", path.display()))?
        .len();
    // The file beside it is a convenience; a backup without one is listed by its name.
    let beside = std::fs::read(beside(&path)).ok();
    let known = beside.and_then(|bytes| serde_json::from_slice::<BackupInfo>(&bytes).ok());
    let (sha256, cluster_id, member_id, server_version) = match known {
        Some(known) => (
            known.sha256,
            known.cluster_id,
            known.member_id,
            known.server_version,
        ),
        None => (None, None, None, None),
    };
    Ok(BackupInfo {
        name: name.to_string(),
        time: rfc3339(name.unix_seconds),
        size,
        revision: name.revision,
        sha256,
        cluster_id,
        member_id,
        server_version,
    })
}

/// Removes the backups that `retention` does not keep, oldest first; never the newest. With
/// `dry_run` only names them.
///
/// # Errors
/// When the folder cannot be read or a file cannot be removed.
pub(crate) fn prune(
    folder: &Path,
    retention: Retention,
    dry_run: bool,
) -> Result<Vec<String>, MaintenanceError> {
    let names: BTreeSet<BackupName> = file_names(folder)?
        .iter()
        .filter_map(|name| BackupName::parse(name))
        .collect();
    let times = names.iter().map(|name| name.unix_seconds).collect();
    let pruned = to_prune(&times, retention);
    let mut removed = Vec::new();
    for name in names
        .iter()
        .filter(|name| pruned.contains(&name.unix_seconds))
    {
        let path = folder.join(name.to_string());
        if !dry_run {
            std::fs::remove_file(&path).map_err(file_error("remove", path.display()))?;
            remove_if_there(&beside(&path))?;
        }
        removed.push(name.to_string());
    }
    if !removed.is_empty() && !dry_run {
        sync_parent(&folder.join("any"))?;
    }
    Ok(removed)
}

/// Parts of backups that were cut off. The caller holds the lock, so nobody is writing one.
fn remove_leftovers(folder: &Path) -> Result<(), MaintenanceError> {
    for name in file_names(folder)? {
        let ours = name
            .strip_suffix(".part")
            .and_then(BackupName::parse)
            .is_some();
        let alone = name
            .strip_suffix(".json")
            .is_some_and(|of| BackupName::parse(of).is_some() && !folder.join(of).exists());
        if ours || alone {
            remove_if_there(&folder.join(name))?;
        }
    }
    Ok(())
}

fn remove_if_there(path: &Path) -> Result<(), MaintenanceError> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(file_error("remove", path.display())(error).into())
        }
        _ => Ok(()),
    }
}

fn file_names(folder: &Path) -> Result<Vec<String>, MaintenanceError> {
    let entries = std::fs::read_dir(folder).map_err(file_error("read", folder.display()))?;
    // A name that is not UTF-8 is not ours.
    Ok(entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .collect())
}

fn beside(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!("{name}.json"))
}

#[cfg(test)]
mod tests;
