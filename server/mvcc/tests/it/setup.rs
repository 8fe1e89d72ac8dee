//! A store on a file of the simulated disk, and the owner's part: committing, compacting,
//! stopping and starting.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use mvcc::{
    CompactionState, Event, EventKind, KeyRange, LeaseId, RangeQuery, Revision, Store, View,
};
use storage::disk::simulated::{PowerLoss, SimulatedDisk};

pub(crate) struct Member {
    disk: Arc<SimulatedDisk>,
    file: storage::Store,
    pub(crate) store: Store,
    pub(crate) attached: Vec<(Bytes, LeaseId)>,
}

const FILE: &str = "/db";

impl Member {
    pub(crate) fn new() -> Member {
        let disk = Arc::new(SimulatedDisk::new());
        let file = storage::Store::create(disk.clone(), Path::new(FILE)).unwrap();
        Member::open(disk, file)
    }

    fn open(disk: Arc<SimulatedDisk>, file: storage::Store) -> Member {
        let opened = Store::open(file.committed().clone()).unwrap();
        let mut attached = opened.attached;
        attached.sort();
        Member {
            disk,
            file,
            store: opened.store,
            attached,
        }
    }

    /// Commits the batch that gathers.
    pub(crate) fn commit(&mut self) {
        let batch = self.store.take_batch();
        let committed = self.file.commit(batch).unwrap();
        self.store.batch_committed(committed).unwrap();
    }

    /// Commits the batch that gathers, while `meanwhile` goes on.
    pub(crate) fn commit_around(&mut self, meanwhile: impl FnOnce(&mut Member)) {
        let batch = self.store.take_batch();
        meanwhile(self);
        let committed = self.file.commit(batch).unwrap();
        self.store.batch_committed(committed).unwrap();
    }

    /// Loses power and starts again: what was not committed is gone.
    pub(crate) fn crash(self) -> Member {
        let disk = Arc::new(self.disk.crash(PowerLoss::NothingKept));
        let file = storage::Store::open(disk.clone(), Path::new(FILE)).unwrap();
        storage::check(file.committed()).unwrap();
        Member::open(disk, file)
    }

    /// Commits and starts again.
    pub(crate) fn restart(mut self) -> Member {
        self.commit();
        self.crash()
    }

    pub(crate) fn put(&mut self, key: &str, value: &str) -> Revision {
        let mut change = self.store.change();
        change.put(key.as_bytes(), value.as_bytes(), None);
        change.finish().expect("a put changes something").revision
    }

    pub(crate) fn delete(&mut self, key: &str) -> Option<Revision> {
        let mut change = self.store.change();
        change.delete_range(&single(key));
        change.finish().map(|changed| changed.revision)
    }

    /// Carries compactions to their end, committing when that is asked for.
    pub(crate) fn finish_compaction(&mut self, step: usize) {
        loop {
            match self.store.compact_step(step).unwrap() {
                CompactionState::Idle => break,
                CompactionState::WaitsForCommit => self.commit(),
                CompactionState::Runs => {}
            }
        }
    }

    pub(crate) fn compact(&mut self, at: Revision) {
        self.store.schedule_compaction(at).unwrap();
        self.finish_compaction(10);
    }

    /// The positions of all records in the file.
    pub(crate) fn stored(&self) -> Vec<String> {
        let entries = self.entries();
        let list = entries.iter().map(|(key, _)| {
            let key = mvcc::RecordKey::decode(key).expect("a record's key");
            format!("{}{}", key.position, if key.tombstone { "t" } else { "" })
        });
        list.collect()
    }

    /// The records in the file, as they are stored.
    pub(crate) fn entries(&self) -> Vec<(Bytes, Bytes)> {
        let records = self
            .file
            .committed()
            .bucket("key")
            .unwrap()
            .expect("the bucket exists");
        records.range(b"").unwrap().map(Result::unwrap).collect()
    }

    pub(crate) fn mark(&self, name: &str) -> Option<Bytes> {
        let meta = self
            .file
            .committed()
            .bucket("meta")
            .unwrap()
            .expect("the bucket exists");
        meta.get(name.as_bytes()).unwrap()
    }
}

pub(crate) fn single(key: &str) -> KeyRange {
    KeyRange::Single(Bytes::copy_from_slice(key.as_bytes()))
}

/// `key=value` of every pair at a revision.
pub(crate) fn pairs_at(view: &View, revision: Revision) -> Vec<String> {
    let query = RangeQuery {
        revision: Some(revision),
        ..RangeQuery::new(KeyRange::All)
    };
    let answer = view.range(&query).unwrap();
    assert_eq!(answer.count, answer.pairs.len() as u64);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    answer
        .pairs
        .iter()
        .map(|pair| format!("{}={}", text(pair.key()), text(pair.value())))
        .collect()
}

/// Every change from a revision on, as `put k=v @5` or `delete k @6`.
pub(crate) fn history_from(view: &View, revision: Revision) -> Vec<String> {
    view.history(revision)
        .unwrap()
        .map(|event| told(&event.unwrap()))
        .collect()
}

fn told(event: &Event) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (key, at) = (text(event.pair.key()), event.pair.mod_revision);
    match event.kind {
        EventKind::Put => format!("put {key}={} @{at}", text(event.pair.value())),
        EventKind::Delete => format!("delete {key} @{at}"),
    }
}
