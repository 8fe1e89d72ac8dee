//! The database file against a naive model: one ordered map for each bucket.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use proptest::prelude::*;
use storage::disk::real::RealDisk;
use storage::{Batch, Committed, Copy, Fault, Store, Sweep, check, read_only};

const BUCKETS: [&str; 3] = ["key", "lease", "meta"];

type Model = BTreeMap<&'static str, BTreeMap<Bytes, Bytes>>;

struct Home {
    folder: tempfile::TempDir,
    disk: Arc<RealDisk>,
}

impl Home {
    fn new() -> Home {
        Home {
            folder: tempfile::tempdir().expect("a folder"),
            disk: Arc::new(RealDisk),
        }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("db")
    }

    fn create(&self) -> Store {
        Store::create(self.disk.clone(), &self.path()).expect("created")
    }

    fn open(&self) -> Result<Store, Fault> {
        Store::open(self.disk.clone(), &self.path())
    }
}

/// Everything in the file equals the model, by walking and by looking up, and the file is sound.
fn compare(committed: &Committed, model: &Model) {
    check(committed).expect("a sound file");
    for (name, pairs) in model {
        let bucket = committed.bucket(name).expect("readable").expect("there");
        let found: Vec<_> = bucket
            .range(&[])
            .expect("readable")
            .map(Result::unwrap)
            .collect();
        let expected: Vec<_> = pairs.iter().map(|(k, v)| (k.clone(), v.clone())).collect();
        assert_eq!(found, expected, "bucket {name}");
        assert_eq!(bucket.last().expect("readable"), expected.last().cloned());
        for (key, value) in &expected {
            assert_eq!(bucket.get(key).expect("readable").as_ref(), Some(value));
        }
        if let Some((key, _)) = expected.get(expected.len() / 2) {
            let from: Vec<_> = bucket
                .range(key)
                .expect("readable")
                .map(Result::unwrap)
                .collect();
            assert_eq!(from, expected[expected.len() / 2..]);
        }
        assert_eq!(bucket.get(b"\xff\xffabsent").expect("readable"), None);
    }
}

#[derive(Debug, Clone)]
enum Step {
    Put {
        bucket: usize,
        key: u16,
        size: usize,
    },
    Delete {
        bucket: usize,
        key: u16,
    },
    DeleteBelow {
        bucket: usize,
        key: u16,
    },
    Commit,
    HoldReader,
    DropReader,
    Reopen,
    Rewrite,
    Sweep {
        dense: bool,
        pages: u64,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let bucket = 0..BUCKETS.len();
    let size = prop_oneof![8 => 0..200usize, 3 => 1000..5000usize, 1 => 20_000..90_000usize];
    prop_oneof![
        30 => (bucket.clone(), any::<u16>(), size)
            .prop_map(|(bucket, key, size)| Step::Put { bucket, key, size }),
        10 => (bucket.clone(), any::<u16>()).prop_map(|(bucket, key)| Step::Delete { bucket, key }),
        2 => (bucket, any::<u16>()).prop_map(|(bucket, key)| Step::DeleteBelow { bucket, key }),
        6 => Just(Step::Commit),
        2 => Just(Step::HoldReader),
        2 => Just(Step::DropReader),
        1 => Just(Step::Reopen),
        1 => Just(Step::Rewrite),
        3 => (any::<bool>(), 1..40u64).prop_map(|(dense, pages)| Step::Sweep { dense, pages }),
    ]
}

fn name(key: u16) -> Bytes {
    // Long and short keys, in an order unlike that of the numbers.
    let text = format!("{:x}", key.reverse_bits());
    Bytes::from(text.repeat(1 + usize::from(key % 7) * 5))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// [D15], [D16]: with readers of old states, and with batches that are given up; the whole file is
    /// checked after each commit.
    #[test]
    fn the_file_holds_what_was_committed(steps in prop::collection::vec(step(), 1..400)) {
        let home = Home::new();
        let mut store = Some(home.create());
        let mut batch = Batch::new();
        let mut model = Model::new();
        let mut durable = Model::new();
        let mut readers: Vec<(Committed, Model)> = Vec::new();
        for (number, step) in steps.into_iter().enumerate() {
            match step {
                Step::Put { bucket, key, size } => {
                    let value = Bytes::from(vec![u8::try_from(number % 251).unwrap(); size]);
                    batch.put(BUCKETS[bucket], name(key), value.clone());
                    model.entry(BUCKETS[bucket]).or_default().insert(name(key), value);
                }
                Step::Delete { bucket, key } => {
                    batch.delete(BUCKETS[bucket], name(key));
                    model.entry(BUCKETS[bucket]).or_default().remove(&name(key));
                }
                Step::DeleteBelow { bucket, key } => {
                    let pairs = model.entry(BUCKETS[bucket]).or_default();
                    batch.create_bucket(BUCKETS[bucket]);
                    let rest = pairs.split_off(&name(key));
                    for key in pairs.keys() {
                        batch.delete(BUCKETS[bucket], key.clone());
                    }
                    *pairs = rest;
                }
                Step::Commit => {
                    let committed =
                        store.as_mut().unwrap().commit(std::mem::take(&mut batch)).unwrap();
                    durable.clone_from(&model);
                    compare(&committed, &durable);
                }
                Step::HoldReader => {
                    readers.push((store.as_ref().unwrap().committed().clone(), durable.clone()));
                }
                Step::DropReader => drop(readers.pop()),
                Step::Reopen => {
                    // What was not committed is gone, as after a crash.
                    drop(store.take());
                    batch = Batch::new();
                    model.clone_from(&durable);
                    // Readers of an earlier opening are not known to the next one.
                    readers.clear();
                    let reopened = home.open().unwrap();
                    compare(reopened.committed(), &durable);
                    store = Some(reopened);
                }
                Step::Sweep { dense, pages } => {
                    let store = store.as_mut().unwrap();
                    let mut sweep = Sweep::new(store.committed(), dense);
                    while !sweep.is_done() {
                        let committed = store.sweep(&mut sweep, pages).unwrap();
                        compare(&committed, &durable);
                    }
                }
                Step::Rewrite => {
                    let committed = store.as_mut().unwrap().rewrite().unwrap();
                    compare(&committed, &durable);
                }
            }
            for (reader, model) in &readers {
                compare(reader, model);
            }
        }
    }
}

#[test]
fn space_that_was_given_up_is_used_again() {
    let home = Home::new();
    let mut store = home.create();
    let mut sizes = Vec::new();
    for round in 0..50u8 {
        let mut batch = Batch::new();
        for key in 0..200u16 {
            batch.put(
                "key",
                Bytes::copy_from_slice(&key.to_be_bytes()),
                vec![round; 500].into(),
            );
        }
        sizes.push(store.commit(batch).expect("committed").size());
    }
    assert_eq!(
        sizes[5..].iter().max(),
        sizes[5..].iter().min(),
        "{sizes:?}"
    );
}

#[test]
fn a_rewritten_file_holds_no_free_pages_to_speak_of() {
    let home = Home::new();
    let mut store = home.create();
    let mut batch = Batch::new();
    for key in 0..20_000u32 {
        batch.put(
            "key",
            Bytes::copy_from_slice(&key.to_be_bytes()),
            vec![7; 100].into(),
        );
    }
    store.commit(batch).expect("committed");
    let mut batch = Batch::new();
    for key in 0..19_000u32 {
        batch.delete("key", Bytes::copy_from_slice(&key.to_be_bytes()));
    }
    let before = store.commit(batch).expect("committed");
    let after = store.rewrite().expect("rewritten");
    assert!(
        after.size() * 10 < before.size(),
        "{} of {}",
        after.size(),
        before.size()
    );
    check(&before).expect("a reader of the old file is not disturbed");
    assert_eq!(
        after
            .bucket("key")
            .unwrap()
            .unwrap()
            .range(&[])
            .unwrap()
            .count(),
        1000
    );
}

#[test]
fn a_second_opening_is_refused_while_the_first_lives() {
    let home = Home::new();
    let store = home.create();
    assert!(matches!(home.open(), Err(Fault::Locked { .. })));
    assert!(matches!(
        read_only(&*home.disk, &home.path()),
        Err(Fault::Locked { .. })
    ));
    drop(store);
    home.open().expect("free again");
}

#[test]
fn a_damaged_file_is_refused_and_left_as_it_was() {
    let home = Home::new();
    let mut store = home.create();
    let mut batch = Batch::new();
    for key in 0..2_000u32 {
        batch.put(
            "key",
            Bytes::copy_from_slice(&key.to_be_bytes()),
            vec![7; 100].into(),
        );
    }
    store.commit(batch).expect("committed");
    drop(store);
    let sound = std::fs::read(home.path()).expect("read");
    let pages = sound.len() / 4096;
    for (what, offset, byte) in [
        ("page number", 5 * 4096, 0xAA_u8),
        ("page flags", 5 * 4096 + 8, 0x77),
        ("page overflow", 5 * 4096 + 14, 0xFF),
    ] {
        let mut damaged = sound.clone();
        damaged[offset] ^= byte;
        std::fs::write(home.path(), &damaged).expect("written");
        let refused = home
            .open()
            .err()
            .unwrap_or_else(|| panic!("{what} of {pages} pages"));
        let text = refused.to_string();
        assert!(text.contains("db is damaged: page 5"), "{what}: {text}");
        assert_eq!(std::fs::read(home.path()).expect("read"), damaged, "{what}");
    }
    let mut no_meta = sound.clone();
    no_meta[20] ^= 1;
    no_meta[4096 + 20] ^= 1;
    std::fs::write(home.path(), &no_meta).expect("written");
    assert!(
        home.open()
            .err()
            .expect("refused")
            .to_string()
            .contains("meta pages")
    );
    let mut cut = sound;
    cut.truncate(3 * 4096);
    std::fs::write(home.path(), &cut).expect("written");
    assert!(home.open().is_err());
}

/// Keys and values of many sizes, of which every `keep`th stays, some rounds long, as after compactions.
fn file_with_holes(store: &mut Store, sizes: &[usize], keep: u32) -> Model {
    let mut pairs = BTreeMap::new();
    let keys = if sizes.iter().max() > Some(&10_000) {
        500
    } else {
        2_000
    };
    for round in 0..6u32 {
        let mut batch = Batch::new();
        for number in 0..keys {
            let key = Bytes::copy_from_slice(&(round * 10_000 + number).to_be_bytes());
            let size = sizes[(number as usize * 7) % sizes.len()];
            let value = Bytes::from(vec![u8::try_from(number % 251).unwrap(); size]);
            batch.put("key", key.clone(), value.clone());
            pairs.insert(key, value);
        }
        store.commit(batch).expect("committed");
    }
    let mut batch = Batch::new();
    let gone: Vec<Bytes> = (0..)
        .zip(pairs.keys())
        .filter(|(n, _)| n % keep != 0)
        .map(|(_, key)| key.clone())
        .collect();
    for key in gone {
        pairs.remove(&key);
        batch.delete("key", key);
    }
    store.commit(batch).expect("committed");
    Model::from([("key", pairs)])
}

/// Sweeps once; all that a step writes stays near what it may.
fn sweep(store: &mut Store, dense: bool, model: &Model) {
    let mut sweep = Sweep::new(store.committed(), dense);
    let mut steps = 0;
    while !sweep.is_done() {
        let committed = store.sweep(&mut sweep, 64).expect("committed");
        steps += 1;
        if steps % 16 == 0 {
            compare(&committed, model);
        }
        assert!(steps < 10_000, "a sweep does not end: {sweep:?}");
    }
    compare(store.committed(), model);
}

#[test]
fn a_sweep_brings_the_file_down_to_what_is_in_use() {
    for (sizes, keep) in [
        (&[50usize, 300, 700][..], 5),
        (&[500], 2),
        (&[50, 3_000, 20_000], 4),
        (&[10, 100_000], 3),
    ] {
        let home = Home::new();
        let mut store = home.create();
        let model = file_with_holes(&mut store, sizes, keep);
        let before = store.committed().size();
        let used = store.committed().size_in_use();
        sweep(&mut store, false, &model);
        let after = store.committed().size();
        assert!(
            before > used * 3 / 2,
            "there is nothing to give back: {before}, {used}"
        );
        let room = used + used / 20 + (1 << 20);
        assert!(
            after <= room,
            "{sizes:?}: {before} became {after}, {used} are in use"
        );
        let on_disk = std::fs::metadata(home.path()).expect("there").len();
        assert!(
            on_disk <= after + (33 << 20),
            "{on_disk} bytes of file for {after}"
        );
        drop(store);
        let reopened = home.open().expect("sound");
        compare(reopened.committed(), &model);
    }
}

#[test]
fn a_dense_sweep_leaves_little_that_a_new_file_would_save() {
    let home = Home::new();
    let mut store = home.create();
    // One of three stays: leaves a third full, which no ordinary commit joins.
    let model = file_with_holes(&mut store, &[300], 3);
    sweep(&mut store, true, &model);
    sweep(&mut store, false, &model);
    let swept = store.committed().size();
    let anew = store.rewrite().expect("rewritten").size();
    assert!(
        swept <= anew + anew / 8,
        "{swept} swept, {anew} written anew"
    );
}

#[test]
fn nothing_that_a_reader_sees_is_moved_over_or_cut_off() {
    let home = Home::new();
    let mut store = home.create();
    let model = file_with_holes(&mut store, &[300], 5);
    let reader = store.committed().clone();
    sweep(&mut store, false, &model);
    compare(&reader, &model);
    assert_eq!(
        store.committed().size(),
        reader.size(),
        "the reader looks at the end"
    );
    drop(reader);
    sweep(&mut store, false, &model);
    assert!(store.committed().size() < store.committed().size_in_use() * 11 / 10);
}

#[test]
fn a_copy_of_a_committed_state_is_a_sound_file() {
    let home = Home::new();
    let mut store = home.create();
    for round in 0..5u8 {
        let mut batch = Batch::new();
        for key in 0..300u16 {
            batch.put(
                "key",
                Bytes::copy_from_slice(&key.to_be_bytes()),
                vec![round; 700].into(),
            );
        }
        store.commit(batch).expect("committed");
    }
    let committed = store.committed().clone();
    let mut reading = Copy::of(&committed).expect("sound");
    let mut copy = Vec::new();
    loop {
        // [D16] What the copy holds does not change with what is written meanwhile.
        let mut batch = Batch::new();
        batch.put(
            "key",
            Bytes::from(vec![9, u8::try_from(copy.len() / 32_768).unwrap()]),
            vec![7; 30_000].into(),
        );
        let piece = reading.read(32_768).expect("readable");
        let before = piece.to_vec();
        store.commit(batch).expect("committed");
        assert_eq!(before, piece, "a piece changed after it was read");
        if piece.is_empty() {
            break;
        }
        copy.extend_from_slice(&piece);
    }
    assert_eq!(copy.len() as u64, committed.size());
    assert_eq!(reading.size(), committed.size());
    let path = home.folder.path().join("copy");
    std::fs::write(&path, &copy).expect("written");
    let (copied, _lock) = read_only(&*home.disk, &path).expect("sound");
    let model = Model::from([(
        "key",
        (0..300u16)
            .map(|k| {
                (
                    Bytes::copy_from_slice(&k.to_be_bytes()),
                    vec![4; 700].into(),
                )
            })
            .collect(),
    )]);
    compare(&copied, &model);
}
