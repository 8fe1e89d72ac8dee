mod crash;
mod damage;
mod format;
mod keeping;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use super::*;
use crate::Fault;
use crate::disk::simulated::SimulatedDisk;
use crate::disk::{Disk, Open};

const DIR: &str = "/member/wal";

const METADATA: Metadata = Metadata {
    node_id: NodeId(0x5289_5080_112a_f13b),
    cluster_id: ClusterId(0xe52d_e0ee_5c5f_e182),
};

/// Segments small enough to be cut often.
const SMALL: Options = Options {
    segment_size: 4096,
    zeros_ahead: 2048,
    preparation: Preparation::Inline,
};

/// Segments that are never cut in a test.
const LARGE: Options = Options {
    segment_size: 1 << 20,
    zeros_ahead: 4096,
    preparation: Preparation::Inline,
};

fn dir() -> &'static Path {
    Path::new(DIR)
}

fn new_disk() -> SimulatedDisk {
    let disk = SimulatedDisk::new();
    disk.create_dir(Path::new("/member")).unwrap();
    disk.sync_dir(Path::new("/")).unwrap();
    disk
}

fn create(disk: &SimulatedDisk, options: Options) -> Result<Log, Fault> {
    Log::create(Arc::new(disk.clone()), dir(), METADATA, &[], options)
}

fn open(disk: &SimulatedDisk, options: Options) -> Result<(Log, Recovered), Fault> {
    open_behind(disk, SnapshotPoint::default(), options)
}

fn open_behind(
    disk: &SimulatedDisk,
    start: SnapshotPoint,
    options: Options,
) -> Result<(Log, Recovered), Fault> {
    let calls = disk.calls();
    let opened = Log::open(Arc::new(disk.clone()), dir(), start, options);
    if let Err(Fault::Damaged { .. }) = opened {
        assert_eq!(disk.calls(), calls, "a refusal changes nothing");
    }
    opened
}

fn entry(term: u64, index: u64, data: impl Into<Bytes>) -> Entry {
    Entry {
        kind: EntryKind::Normal,
        term: Term(term),
        index: Index(index),
        data: data.into(),
    }
}

fn state(term: u64, commit: u64) -> HardState {
    HardState {
        term: Term(term),
        vote: NodeId(7),
        commit: Index(commit),
    }
}

fn mark(term: u64, index: u64) -> SnapshotMark {
    let conf_state = ConfState {
        voters: vec![METADATA.node_id],
        ..ConfState::default()
    };
    SnapshotMark {
        index: Index(index),
        term: Term(term),
        conf_state: Some(conf_state),
    }
}

/// Appends one synced batch: entry `index`, and a state that commits the one before.
fn append_one(log: &mut Log, index: u64, size: usize) {
    let entries = [entry(1, index, vec![index as u8 | 1; size])];
    log.append(&entries, Some(&state(1, index - 1))).unwrap();
    log.sync().unwrap();
}

fn indices(recovered: &Recovered) -> Vec<u64> {
    recovered
        .entries
        .iter()
        .map(|entry| entry.index.0)
        .collect()
}

fn read_file(disk: &SimulatedDisk, path: &Path) -> Vec<u8> {
    let file = disk.open(path, Open::Read).unwrap();
    let mut bytes = vec![0; file.size().unwrap() as usize];
    file.read_at(&mut bytes, 0).unwrap();
    bytes
}

/// A disk with a log of the given segments.
fn disk_with(segments: &[(String, Vec<u8>)]) -> SimulatedDisk {
    let disk = new_disk();
    disk.create_dir(dir()).unwrap();
    for (name, bytes) in segments {
        disk.open(&dir().join(name), Open::Create)
            .unwrap()
            .write_at(bytes, 0)
            .unwrap();
    }
    // Nothing to count yet: what follows is the log's own doing.
    disk.crash(crate::disk::simulated::PowerLoss::AllKept)
}

fn segments_of(disk: &SimulatedDisk) -> Vec<(String, Vec<u8>)> {
    let names = disk
        .list(dir())
        .unwrap()
        .into_iter()
        .filter(|name| name.ends_with(".wal"));
    names
        .map(|name| (name.clone(), read_file(disk, &dir().join(name))))
        .collect()
}

fn all_records(disk: &SimulatedDisk) -> Vec<Located> {
    Records::open(disk, dir())
        .unwrap()
        .collect::<Result<_, _>>()
        .unwrap()
}
