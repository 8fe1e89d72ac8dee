use proptest::prelude::*;

use super::*;

const FILE: &str = "/folder/file";

fn disk_with_file() -> (SimulatedDisk, Arc<dyn File>) {
    let disk = SimulatedDisk::new();
    disk.create_dir(Path::new("/folder")).unwrap();
    disk.sync_dir(Path::new("/")).unwrap();
    let file = disk.open(Path::new(FILE), Open::Create).unwrap();
    disk.sync_dir(Path::new("/folder")).unwrap();
    (disk, file)
}

fn content(disk: &SimulatedDisk, path: &str) -> Vec<u8> {
    let file = disk.open(Path::new(path), Open::Read).unwrap();
    let mut bytes = vec![0; file.size().unwrap() as usize];
    file.read_at(&mut bytes, 0).unwrap();
    bytes
}

fn losses() -> impl Iterator<Item = PowerLoss> {
    [
        PowerLoss::NothingKept,
        PowerLoss::AllKept,
        PowerLoss::LastWriteTorn(7),
    ]
    .into_iter()
    .chain((0..200).map(PowerLoss::Random))
}

#[derive(Debug, Clone)]
enum Step {
    Write { offset: usize, bytes: Vec<u8> },
    Resize(usize),
    Sync,
}

/// Some steps lie close together, so that they share sectors; some far apart.
fn step() -> impl Strategy<Value = Step> {
    let bytes = (any::<u8>(), 1..2000_usize).prop_map(|(byte, length)| vec![byte; length]);
    prop_oneof![
        4 => (0..6000_usize, bytes).prop_map(|(offset, bytes)| Step::Write { offset, bytes }),
        1 => (0..9000_usize).prop_map(Step::Resize),
        2 => Just(Step::Sync),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn what_was_synced_and_not_touched_since_is_always_found(
        steps in prop::collection::vec(step(), 1..30),
        seed in any::<u64>(),
    ) {
        let (disk, file) = disk_with_file();
        let mut now: Vec<u8> = Vec::new();
        let mut synced = now.clone();
        let mut sizes = vec![0];
        let mut touched = [false; 16_000];
        for step in steps {
            match step {
                Step::Write { offset, bytes } => {
                    file.write_at(&bytes, offset as u64).unwrap();
                    let end = offset + bytes.len();
                    now.resize(now.len().max(end), 0);
                    now[offset..end].copy_from_slice(&bytes);
                    touched[offset..end].fill(true);
                    sizes.push(now.len());
                }
                Step::Resize(size) => {
                    file.set_size(size as u64).unwrap();
                    now.resize(size, 0);
                    touched[size..].fill(true);
                    sizes.push(size);
                }
                Step::Sync => {
                    file.sync().unwrap();
                    synced.clone_from(&now);
                    sizes = vec![now.len()];
                    touched.fill(false);
                }
            }
            prop_assert_eq!(content(&disk, FILE), now.clone());
        }
        prop_assert_eq!(content(&disk.crash(PowerLoss::NothingKept), FILE), synced.clone());
        prop_assert_eq!(content(&disk.crash(PowerLoss::AllKept), FILE), now);
        let crashed = disk.crash(PowerLoss::Random(seed));
        let found = content(&crashed, FILE);
        prop_assert_eq!(&found, &content(&disk.crash(PowerLoss::Random(seed)), FILE));
        prop_assert!(sizes.contains(&found.len()));
        for (place, byte) in found.iter().enumerate().filter(|(place, _)| !touched[*place]) {
            prop_assert_eq!(*byte, synced.get(place).copied().unwrap_or(0), "byte {}", place);
        }
        // What is found after a crash is all durable.
        prop_assert_eq!(content(&crashed.crash(PowerLoss::NothingKept), FILE), found);
    }
}

#[test]
fn an_unsynced_write_is_kept_lost_or_torn_at_sectors() {
    let (disk, file) = disk_with_file();
    file.set_size(2048).unwrap();
    file.sync().unwrap();
    file.write_at(&[7; 1024], 256).unwrap();
    let mut seen = std::collections::BTreeSet::new();
    for loss in losses() {
        let found = content(&disk.crash(loss), FILE);
        let sectors = [&found[256..512], &found[512..1024], &found[1024..1280]];
        for sector in sectors {
            assert!(
                sector.iter().all(|byte| *byte == sector[0]),
                "half a sector written"
            );
        }
        seen.insert(sectors.map(|sector| sector[0]));
    }
    assert_eq!(seen.len(), 8, "all combinations of three sectors: {seen:?}");
}

#[test]
fn a_file_may_grow_without_its_data() {
    let (disk, file) = disk_with_file();
    file.write_at(&[1; 512], 0).unwrap();
    let found: Vec<_> = losses()
        .map(|loss| content(&disk.crash(loss), FILE))
        .collect();
    assert!(found.contains(&Vec::new()));
    assert!(found.contains(&vec![0; 512]));
    assert!(found.contains(&vec![1; 512]));
}

#[test]
fn names_are_durable_once_their_folder_is_synced_and_only_then() {
    let (disk, file) = disk_with_file();
    file.write_at(b"old", 0).unwrap();
    file.sync().unwrap();
    let new = disk.open(Path::new("/folder/new"), Open::Create).unwrap();
    new.write_at(b"new", 0).unwrap();
    new.sync().unwrap();
    disk.rename(Path::new("/folder/new"), Path::new(FILE))
        .unwrap();
    let mut seen = std::collections::BTreeSet::new();
    for loss in losses() {
        let found = disk.crash(loss);
        seen.insert((
            content(&found, FILE),
            found.list(Path::new("/folder")).unwrap(),
        ));
    }
    let names = |names: &[&str]| {
        names
            .iter()
            .map(|name| (*name).to_owned())
            .collect::<Vec<_>>()
    };
    let expected = [
        (b"old".to_vec(), names(&["file"])),
        (b"old".to_vec(), names(&["file", "new"])),
        (b"new".to_vec(), names(&["file"])),
    ];
    assert_eq!(seen, expected.into_iter().collect());

    disk.sync_dir(Path::new("/folder")).unwrap();
    for loss in losses() {
        let found = disk.crash(loss);
        assert_eq!(content(&found, FILE), b"new");
        assert_eq!(found.list(Path::new("/folder")).unwrap(), ["file"]);
    }
    disk.remove(Path::new(FILE)).unwrap();
    let left: Vec<_> = losses()
        .map(|loss| disk.crash(loss).exists(Path::new(FILE)).unwrap())
        .collect();
    assert!(left.contains(&true) && left.contains(&false));
}

#[test]
fn a_folder_that_was_renamed_keeps_what_was_synced_in_it() {
    let (disk, _file) = disk_with_file();
    disk.rename(Path::new("/folder"), Path::new("/moved"))
        .unwrap();
    for loss in losses() {
        let found = disk.crash(loss);
        let old = found.exists(Path::new("/folder/file")).unwrap();
        let new = found.exists(Path::new("/moved/file")).unwrap();
        assert!(old != new);
    }
    disk.remove_dir(Path::new("/moved")).unwrap();
    disk.sync_dir(Path::new("/")).unwrap();
    for loss in losses() {
        assert_eq!(
            disk.crash(loss).list(Path::new("/")).unwrap(),
            Vec::<String>::new()
        );
    }
}

#[test]
fn after_the_stop_every_call_fails_and_the_stopped_call_may_have_happened() {
    let (disk, file) = disk_with_file();
    file.set_size(3).unwrap();
    file.sync().unwrap();
    disk.stop_at(disk.calls() + 2);
    file.write_at(b"abc", 0).unwrap();
    assert!(file.write_at(b"xyz", 0).is_err());
    assert!(file.sync().is_err());
    assert!(file.read_at(&mut [0], 0).is_err());
    assert!(disk.sync_dir(Path::new("/")).is_err());
    assert!(disk.open(Path::new(FILE), Open::Read).is_err());
    let found: Vec<_> = losses()
        .map(|loss| content(&disk.crash(loss), FILE))
        .collect();
    for possible in [&b"\0\0\0"[..], b"abc", b"xyz"] {
        assert!(
            found.iter().any(|bytes| bytes == possible),
            "{possible:?} never found"
        );
    }
}

#[test]
fn a_killed_process_finds_all_that_it_wrote() {
    let (disk, file) = disk_with_file();
    file.write_at(b"abc", 0).unwrap();
    assert!(file.lock(Lock::Exclusive).unwrap());
    disk.stop_at(disk.calls() + 1);
    assert!(file.sync().is_err());
    drop(file);
    disk.resume();
    assert_eq!(content(&disk, FILE), b"abc");
    let again = disk.open(Path::new(FILE), Open::Write).unwrap();
    assert!(again.lock(Lock::Exclusive).unwrap());
}

#[test]
fn a_failed_sync_is_reported_once_and_may_lose_data() {
    for (failed, durable) in [
        (FailedSync::DataLost, &b""[..]),
        (FailedSync::DataWait, b"abc"),
    ] {
        let (disk, file) = disk_with_file();
        file.write_at(b"abc", 0).unwrap();
        disk.fail_sync(disk.syncs() + 1, failed);
        assert_eq!(
            file.sync().unwrap_err().raw_os_error(),
            Some(Errno::EIO as i32)
        );
        file.sync().unwrap();
        assert_eq!(content(&disk, FILE), b"abc");
        assert_eq!(content(&disk.crash(PowerLoss::NothingKept), FILE), durable);
    }
}

#[test]
fn a_full_disk_refuses_writes_until_there_is_space() {
    let (disk, file) = disk_with_file();
    disk.no_space_from(disk.writes() + 2);
    file.write_at(b"ab", 0).unwrap();
    let full = |result: io::Result<()>| result.unwrap_err().kind() == io::ErrorKind::StorageFull;
    assert!(full(file.write_at(b"cd", 2)));
    assert!(full(file.allocate(100)));
    disk.resume();
    file.allocate(100).unwrap();
    file.write_at(b"cd", 2).unwrap();
    assert_eq!(&content(&disk, FILE)[..5], b"abcd\0");
}

#[test]
fn a_map_shows_what_is_written_and_outlives_growth() {
    let (disk, file) = disk_with_file();
    file.write_at(b"abc", 0).unwrap();
    let map = file.map(1 << 20).unwrap();
    assert_eq!(map.bytes(0, 3), Some(&b"abc"[..]));
    file.write_at(b"far", 500_000).unwrap();
    assert_eq!(map.bytes(500_000, 3), Some(&b"far"[..]));
    let found = disk.crash(PowerLoss::AllKept);
    let map = found
        .open(Path::new(FILE), Open::Read)
        .unwrap()
        .map(1 << 20)
        .unwrap();
    assert_eq!(map.bytes(500_000, 3), Some(&b"far"[..]));
}

#[test]
fn locks_of_one_kind_exclude_each_other() {
    let (disk, file) = disk_with_file();
    let other = disk.open(Path::new(FILE), Open::Write).unwrap();
    assert!(file.lock(Lock::OpenFileDescription).unwrap());
    assert!(!other.lock(Lock::OpenFileDescription).unwrap());
    assert!(other.lock(Lock::Shared).unwrap());
    assert!(!file.lock(Lock::Exclusive).unwrap());
    drop(other);
    assert!(file.lock(Lock::Exclusive).unwrap());
}
