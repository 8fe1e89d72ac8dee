//! Raft snapshot files: `<term %016x>-<index %016x>.snap`.
//!
//! The keys and values stand in the database file; a raft snapshot says up to which entry, and who the
//! members were. What else it holds (etcd's tree of members, as JSON) is opaque here.
//!
//! A file is `snappb.Snapshot {1 crc, 2 data}`: the CRC-32C of the data, and the data, which are
//! `raftpb.Snapshot {1 data, 2 metadata {1 conf_state, 2 index, 3 term}}`. Numbers are written also
//! when they are zero, as etcd up to 3.6 does.

use std::path::{Path, PathBuf};

use bytes::Bytes;

use crate::Fault;
use crate::disk::{Disk, Open};
use crate::wal::{
    ConfState, Fields, Index, Malformed, SnapshotMark, Term, parse_hex, put_bytes, put_number,
};

/// A larger file is none of ours: etcd takes no larger message from another member, and the tree of
/// members is some kilobytes. Without a bound a file's size would decide how much memory is asked for.
const FILE_BYTES_MAX: u64 = 512 << 20;

/// A raft snapshot.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RaftSnapshot {
    /// The last entry that it holds.
    pub index: Index,
    /// That entry's term.
    pub term: Term,
    /// The members at that entry; raft restarts from them.
    pub conf_state: ConfState,
    /// etcd's tree of members.
    pub data: Bytes,
}

/// Name of a snapshot file. The order is that of age.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct RaftSnapshotName {
    /// The term of the last entry.
    pub term: Term,
    /// The last entry.
    pub index: Index,
}

/// What [`load_newest`] found.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Loaded {
    /// The newest snapshot that can be read.
    pub snapshot: Option<RaftSnapshot>,
    /// Newer ones that cannot be read, and why; [`set_aside`] renames one.
    pub unreadable: Vec<(PathBuf, String)>,
}

impl RaftSnapshot {
    /// The log's mark for this snapshot.
    pub fn mark(&self) -> SnapshotMark {
        let conf_state = Some(self.conf_state.clone());
        SnapshotMark {
            index: self.index,
            term: self.term,
            conf_state,
        }
    }

    /// The file's name.
    pub fn name(&self) -> RaftSnapshotName {
        RaftSnapshotName {
            term: self.term,
            index: self.index,
        }
    }

    /// Writes the file into the folder `dir`, durably and whole: a crash leaves all of it or nothing
    /// under its name.
    ///
    /// # Errors
    /// When the disk fails; nothing is left under the final name then.
    pub fn save(&self, disk: &dyn Disk, dir: &Path) -> Result<PathBuf, Fault> {
        let path = dir.join(self.name().file_name());
        // etcd, too, removes names with this prefix when it starts.
        let aside = dir.join(format!("tmp-{}", self.name().file_name()));
        if disk.exists(&aside).map_err(Fault::io("look for", &aside))? {
            disk.remove(&aside).map_err(Fault::io("remove", &aside))?;
        }
        let file = disk
            .open(&aside, Open::Create)
            .map_err(Fault::io("create", &aside))?;
        let written = file
            .write_at(&self.encode(), 0)
            .map_err(Fault::io("write", &aside));
        if let Err(fault) = written.and_then(|()| file.sync().map_err(Fault::io("sync", &aside))) {
            // The first fault is the one to report; what is left is removed at the next start.
            let _ = disk.remove(&aside);
            return Err(fault);
        }
        disk.rename(&aside, &path)
            .map_err(Fault::io("rename", &aside))?;
        disk.sync_dir(dir).map_err(Fault::io("sync", dir))?;
        Ok(path)
    }

    fn encode(&self) -> Vec<u8> {
        let mut conf_state = Vec::new();
        self.conf_state.encode(&mut conf_state);
        let mut metadata = Vec::new();
        put_bytes(&mut metadata, 1, &conf_state);
        put_number(&mut metadata, 2, self.index.0);
        put_number(&mut metadata, 3, self.term.0);
        let mut snapshot = Vec::new();
        if !self.data.is_empty() {
            put_bytes(&mut snapshot, 1, &self.data);
        }
        put_bytes(&mut snapshot, 2, &metadata);
        let mut file = Vec::new();
        put_number(&mut file, 1, u64::from(crc32c::crc32c(&snapshot)));
        put_bytes(&mut file, 2, &snapshot);
        file
    }

    fn decode(file: &[u8]) -> Result<RaftSnapshot, String> {
        let (crc, snapshot) = decode_frame(file).map_err(|malformed| malformed.to_string())?;
        if crc == 0 || snapshot.is_empty() {
            return Err("the file is empty".to_owned());
        }
        let found = u64::from(crc32c::crc32c(snapshot));
        if found != crc {
            return Err(format!("its CRC is {found:08x}, it says {crc:08x}"));
        }
        decode_snapshot(snapshot).map_err(|malformed| malformed.to_string())
    }
}

fn decode_frame(file: &[u8]) -> Result<(u64, &[u8]), Malformed> {
    let (mut crc, mut snapshot) = (0, &[][..]);
    for field in Fields::of(file) {
        match field? {
            (1, value) => crc = value.number()?,
            (2, value) => snapshot = value.bytes()?,
            _ => {}
        }
    }
    Ok((crc, snapshot))
}

fn decode_snapshot(message: &[u8]) -> Result<RaftSnapshot, Malformed> {
    let mut snapshot = RaftSnapshot::default();
    for field in Fields::of(message) {
        match field? {
            (1, value) => snapshot.data = Bytes::copy_from_slice(value.bytes()?),
            (2, value) => {
                for field in Fields::of(value.bytes()?) {
                    match field? {
                        (1, value) => snapshot.conf_state = ConfState::decode(value.bytes()?)?,
                        (2, value) => snapshot.index = Index(value.number()?),
                        (3, value) => snapshot.term = Term(value.number()?),
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    Ok(snapshot)
}

impl RaftSnapshotName {
    /// The name in the folder.
    pub fn file_name(&self) -> String {
        format!("{:016x}-{:016x}.snap", self.term.0, self.index.0)
    }

    fn parse(name: &str) -> Option<RaftSnapshotName> {
        let (term, index) = name.strip_suffix(".snap")?.split_once('-')?;
        Some(RaftSnapshotName {
            term: Term(parse_hex(term)?),
            index: Index(parse_hex(index)?),
        })
    }
}

/// The snapshot files in the folder `dir`, oldest first.
///
/// # Errors
/// When the folder cannot be read.
pub fn list(disk: &dyn Disk, dir: &Path) -> Result<Vec<RaftSnapshotName>, Fault> {
    let names = disk.list(dir).map_err(Fault::io("list", dir))?;
    let mut snapshots: Vec<_> = names
        .iter()
        .filter_map(|name| RaftSnapshotName::parse(name))
        .collect();
    snapshots.sort_unstable();
    Ok(snapshots)
}

/// Reads one file. Changes nothing.
///
/// # Errors
/// [`Fault::Damaged`] when it is not what its name says.
pub fn load(disk: &dyn Disk, dir: &Path, name: RaftSnapshotName) -> Result<RaftSnapshot, Fault> {
    let path = dir.join(name.file_name());
    let file = disk
        .open(&path, Open::Read)
        .map_err(Fault::io("open", &path))?;
    let size = file.size().map_err(Fault::io("measure", &path))?;
    if size > FILE_BYTES_MAX {
        return Err(Fault::damaged(
            &path,
            format!("{size} bytes are no raft snapshot"),
        ));
    }
    let mut bytes = vec![0; size as usize];
    file.read_at(&mut bytes, 0)
        .map_err(Fault::io("read", &path))?;
    let snapshot = RaftSnapshot::decode(&bytes).map_err(|what| Fault::damaged(&path, what))?;
    if snapshot.name() != name {
        let what = format!("it holds the snapshot {}", snapshot.name().file_name());
        return Err(Fault::damaged(&path, what));
    }
    Ok(snapshot)
}

/// Reads the newest snapshot that has one of `marks` (those of [`crate::wal::valid_snapshots`]) and
/// can be read. Changes nothing.
///
/// # Errors
/// When the disk fails. A damaged file is no error: it is listed, and the next older one is tried.
pub fn load_newest(disk: &dyn Disk, dir: &Path, marks: &[SnapshotMark]) -> Result<Loaded, Fault> {
    let mut loaded = Loaded::default();
    let marked = |name: &RaftSnapshotName| {
        marks
            .iter()
            .any(|mark| (mark.term, mark.index) == (name.term, name.index))
    };
    for name in list(disk, dir)?.into_iter().rev().filter(marked) {
        match load(disk, dir, name) {
            Ok(snapshot) => {
                loaded.snapshot = Some(snapshot);
                break;
            }
            Err(Fault::Damaged { path, what }) => loaded.unreadable.push((path, what)),
            Err(fault) => return Err(fault),
        }
    }
    Ok(loaded)
}

/// Renames a file that cannot be read to `<name>.broken`. Only a server that goes on to write does so.
///
/// # Errors
/// When the disk fails.
pub fn set_aside(disk: &dyn Disk, path: &Path) -> Result<PathBuf, Fault> {
    let mut broken = path.as_os_str().to_owned();
    broken.push(".broken");
    let broken = PathBuf::from(broken);
    disk.rename(path, &broken)
        .map_err(Fault::io("rename", path))?;
    let dir = path.parent().unwrap_or(Path::new("."));
    disk.sync_dir(dir).map_err(Fault::io("sync", dir))?;
    Ok(broken)
}

/// Removes the oldest files until `keep` are left; 0 keeps all.
///
/// # Errors
/// When the disk fails.
pub fn purge(disk: &dyn Disk, dir: &Path, keep: usize) -> Result<Vec<PathBuf>, Fault> {
    let mut removed = Vec::new();
    let names = if keep == 0 {
        Vec::new()
    } else {
        list(disk, dir)?
    };
    let too_many = names.len().saturating_sub(keep);
    for name in &names[..too_many] {
        let path = dir.join(name.file_name());
        disk.remove(&path).map_err(Fault::io("remove", &path))?;
        removed.push(path);
    }
    if !removed.is_empty() {
        disk.sync_dir(dir).map_err(Fault::io("sync", dir))?;
    }
    Ok(removed)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::disk::simulated::{FailedSync, PowerLoss, SimulatedDisk};
    use crate::wal::NodeId;

    const DIR: &str = "/snap";

    fn dir() -> &'static Path {
        Path::new(DIR)
    }

    fn new_disk() -> SimulatedDisk {
        let disk = SimulatedDisk::new();
        disk.create_dir(dir()).unwrap();
        disk.sync_dir(Path::new("/")).unwrap();
        disk
    }

    fn snapshot(term: u64, index: u64) -> RaftSnapshot {
        RaftSnapshot {
            index: Index(index),
            term: Term(term),
            conf_state: ConfState {
                voters: vec![NodeId(1), NodeId(2)],
                ..ConfState::default()
            },
            data: Bytes::from(format!("tree at {index}").repeat(100)),
        }
    }

    fn put_file(disk: &SimulatedDisk, name: &str, bytes: &[u8]) {
        disk.open(&dir().join(name), Open::Create)
            .unwrap()
            .write_at(bytes, 0)
            .unwrap();
    }

    #[test]
    fn the_file_has_the_form_that_etcd_writes() {
        let snapshot = RaftSnapshot {
            index: Index(0x1a),
            term: Term(2),
            conf_state: ConfState {
                voters: vec![NodeId(5)],
                ..ConfState::default()
            },
            data: Bytes::from_static(b"{}"),
        };
        let inner: &[u8] = &[
            0x0a, 2, b'{', b'}', 0x12, 10, 0x0a, 4, 8, 5, 0x28, 0, 0x10, 0x1a, 0x18, 2,
        ];
        let file = snapshot.encode();
        assert_eq!(&file[file.len() - inner.len()..], inner);
        assert_eq!(file[0], 8);
        assert_eq!(file[file.len() - inner.len() - 2..][..2], [0x12, 16]);
        assert_eq!(
            snapshot.name().file_name(),
            "0000000000000002-000000000000001a.snap"
        );
    }

    #[test]
    fn the_newest_marked_snapshot_that_can_be_read_is_loaded() {
        let disk = new_disk();
        let snapshots = [
            snapshot(1, 10),
            snapshot(1, 20),
            snapshot(2, 30),
            snapshot(2, 40),
        ];
        for snapshot in &snapshots {
            snapshot.save(&disk, dir()).unwrap();
        }
        let marks: Vec<_> = snapshots[..3].iter().map(RaftSnapshot::mark).collect();
        let newest = |disk: &SimulatedDisk| load_newest(disk, dir(), &marks).unwrap();
        assert_eq!(
            newest(&disk).snapshot.as_ref(),
            Some(&snapshots[2]),
            "40 has no mark"
        );

        let path = dir().join(snapshots[2].name().file_name());
        disk.open(&path, Open::Write)
            .unwrap()
            .write_at(b"x", 100)
            .unwrap();
        let calls = disk.calls();
        let loaded = newest(&disk);
        assert_eq!(loaded.snapshot.as_ref(), Some(&snapshots[1]));
        assert_eq!(loaded.unreadable[0].0, path);
        assert_eq!(disk.calls(), calls, "loading changes nothing");
        set_aside(&disk, &path).unwrap();
        assert_eq!(newest(&disk).unreadable, []);
        assert_eq!(load_newest(&disk, dir(), &[]).unwrap(), Loaded::default());
    }

    #[test]
    fn files_that_are_no_snapshots_are_unreadable_or_passed_over() {
        let disk = new_disk();
        let name = |index| snapshot(1, index).name().file_name();
        put_file(&disk, &name(1), b"");
        put_file(&disk, &name(2), &[8, 0, 0x12, 0]);
        put_file(&disk, &name(3), &snapshot(1, 4).encode());
        put_file(&disk, &name(4), &snapshot(1, 4).encode()[..50]);
        put_file(&disk, "db", b"database");
        put_file(&disk, "0000000000000001.snap.db", b"database");
        put_file(&disk, "1-1.snap", b"");
        let marks: Vec<_> = (1..5).map(|index| snapshot(1, index).mark()).collect();
        let loaded = load_newest(&disk, dir(), &marks).unwrap();
        assert_eq!((loaded.snapshot, loaded.unreadable.len()), (None, 4));
    }

    #[test]
    fn purge_keeps_the_newest() {
        let disk = new_disk();
        for index in 1..=7 {
            snapshot(1, index).save(&disk, dir()).unwrap();
        }
        assert_eq!(purge(&disk, dir(), 0).unwrap().len(), 0);
        assert_eq!(purge(&disk, dir(), 5).unwrap().len(), 2);
        let left: Vec<_> = list(&disk, dir())
            .unwrap()
            .iter()
            .map(|name| name.index.0)
            .collect();
        assert_eq!(left, [3, 4, 5, 6, 7]);
    }

    /// [D10]
    #[test]
    fn a_crash_at_any_call_leaves_the_old_snapshot_and_the_new_one_whole_or_not_at_all() {
        let (old, new) = (snapshot(1, 10), snapshot(1, 20));
        let marks = [old.mark(), new.mark()];
        let mut call = 0;
        loop {
            call += 1;
            let disk = new_disk();
            old.save(&disk, dir()).unwrap();
            disk.stop_at(disk.calls() + call);
            let saved = new.save(&disk, dir()).is_ok();
            for loss in (0..40).map(PowerLoss::Random) {
                let found = disk.crash(loss);
                let loaded = load_newest(&found, dir(), &marks).unwrap();
                assert_eq!(loaded.unreadable, []);
                let newest = loaded.snapshot.unwrap();
                assert!(
                    newest == new || newest == old && !saved,
                    "call {call}, {loss:?}"
                );
                new.save(&found, dir()).unwrap();
            }
            if saved {
                break;
            }
        }
        assert!(call > 4);
    }

    #[test]
    fn a_failed_save_leaves_nothing_under_the_name() {
        let disk = new_disk();
        disk.no_space_from(disk.writes() + 1);
        assert!(snapshot(1, 1).save(&disk, dir()).is_err());
        disk.resume();
        disk.fail_sync(disk.syncs() + 1, FailedSync::DataLost);
        assert!(snapshot(1, 1).save(&disk, dir()).is_err());
        assert_eq!(disk.list(dir()).unwrap(), Vec::<String>::new());
        snapshot(1, 1).save(&disk, dir()).unwrap();
    }

    proptest! {
        #[test]
        fn garbage_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(RaftSnapshot::decode(&bytes).is_err());
        }

        #[test]
        fn what_is_written_is_read_again(
            index in any::<u64>(),
            term in any::<u64>(),
            voters in prop::collection::vec(any::<u64>().prop_map(NodeId), 0..4),
            auto_leave in any::<bool>(),
            data in prop::collection::vec(any::<u8>(), 0..300),
        ) {
            let conf_state = ConfState { voters, auto_leave, ..ConfState::default() };
            let data = data.into();
            let snapshot = RaftSnapshot { index: Index(index), term: Term(term), conf_state, data };
            prop_assert_eq!(RaftSnapshot::decode(&snapshot.encode()).unwrap(), snapshot);
        }
    }
}
