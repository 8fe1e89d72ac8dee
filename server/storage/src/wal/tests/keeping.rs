//! What the log keeps, through restarts and segments.

use super::*;
use crate::disk::real::RealDisk;

#[test]
fn entries_and_state_come_back() {
    let disk = new_disk();
    assert!(!Log::exists(&disk, dir()).unwrap());
    let mut log = create(&disk, LARGE).unwrap();
    assert!(Log::exists(&disk, dir()).unwrap());
    let entries = [
        entry(1, 1, &b"a"[..]),
        entry(1, 2, &b""[..]),
        entry(2, 3, &b"c"[..]),
    ];
    log.append(&entries[..2], Some(&state(1, 0))).unwrap();
    log.append(&entries[2..], Some(&state(2, 2))).unwrap();
    log.sync().unwrap();
    drop(log);
    let (log, recovered) = open(&disk, LARGE).unwrap();
    assert_eq!(recovered.metadata, METADATA);
    assert_eq!(recovered.entries, entries);
    assert_eq!(recovered.hard_state, state(2, 2));
    assert_eq!(recovered.repaired, None);
    assert_eq!(
        (log.last_index(), log.hard_state()),
        (Index(3), state(2, 2))
    );
    assert_eq!(
        read(&disk, dir(), SnapshotPoint::default()).unwrap(),
        recovered
    );
}

#[test]
fn what_must_be_durable_asks_for_a_sync_and_a_commit_does_not() {
    let disk = new_disk();
    let mut log = create(&disk, LARGE).unwrap();
    let mut needed = |entries: &[Entry], state: HardState| {
        log.append(entries, Some(&state)).unwrap();
        let needed = log.sync_needed();
        log.sync().unwrap();
        assert!(!log.sync_needed());
        needed
    };
    assert!(needed(&[], state(1, 0)));
    assert!(needed(&[entry(1, 1, &b"a"[..])], state(1, 0)));
    assert!(!needed(&[], state(1, 1)));
    assert!(needed(
        &[],
        HardState {
            vote: NodeId(8),
            ..state(1, 1)
        }
    ));
    assert!(needed(
        &[],
        HardState {
            vote: NodeId(8),
            ..state(2, 1)
        }
    ));
    assert!(!needed(
        &[],
        HardState {
            vote: NodeId(8),
            ..state(2, 1)
        }
    ));
}

#[test]
fn a_later_leader_replaces_entries() {
    let disk = new_disk();
    let mut log = create(&disk, LARGE).unwrap();
    for index in 1..=5 {
        log.append(&[entry(1, index, &b"old"[..])], Some(&state(1, 2)))
            .unwrap();
    }
    log.append(&[entry(2, 3, &b"new"[..])], Some(&state(2, 2)))
        .unwrap();
    drop(log);
    let (_, recovered) = open(&disk, LARGE).unwrap();
    assert_eq!(indices(&recovered), [1, 2, 3]);
    assert_eq!(recovered.entries[2], entry(2, 3, &b"new"[..]));
}

/// Found by fuzzing, and so in etcd too: a leader replaced entries up to the one that a snapshot then
/// covered, and the start from it brought back what had followed the old ones.
#[test]
fn what_followed_replaced_entries_does_not_follow_the_snapshot_that_covers_them() {
    let disk = new_disk();
    let mut log = create(&disk, LARGE).unwrap();
    let old: Vec<_> = (1..6).map(|index| entry(1, index, &b"old"[..])).collect();
    log.append(&old, Some(&state(1, 1))).unwrap();
    let new = [entry(2, 2, &b"new"[..]), entry(2, 3, &b"new"[..])];
    log.append(&new, Some(&state(2, 3))).unwrap();
    log.sync().unwrap();
    log.save_snapshot(&mark(2, 3)).unwrap();
    drop(log);
    let start = SnapshotPoint {
        index: Index(3),
        term: Term(2),
    };
    let (log, recovered) = open_behind(&disk, start, LARGE).unwrap();
    assert_eq!(recovered.entries, []);
    assert_eq!(log.last_index(), Index(3));
}

#[test]
fn reading_starts_behind_a_marked_snapshot() {
    let disk = new_disk();
    let mut log = create(&disk, SMALL).unwrap();
    for index in 1..=30 {
        append_one(&mut log, index, 400);
        if index % 10 == 0 {
            log.save_snapshot(&mark(1, index)).unwrap();
        }
    }
    assert!(segments_of(&disk).len() > 3);
    drop(log);
    // The newest state commits entry 29 only.
    let valid = valid_snapshots(&disk, dir()).unwrap();
    assert_eq!(valid, [SnapshotMark::default(), mark(1, 10), mark(1, 20)]);
    let start = SnapshotPoint {
        index: Index(20),
        term: Term(1),
    };
    let (log, recovered) = open_behind(&disk, start, SMALL).unwrap();
    assert_eq!(indices(&recovered), (21..=30).collect::<Vec<_>>());
    drop(log);
    let refused = |index, term, reason: &str| {
        let start = SnapshotPoint {
            index: Index(index),
            term: Term(term),
        };
        let fault = open_behind(&disk, start, SMALL)
            .err()
            .expect("must be refused")
            .to_string();
        assert!(fault.contains(reason), "{fault}");
    };
    refused(15, 1, "snapshot not found");
    refused(20, 2, "term");
}

#[test]
fn a_snapshot_from_the_leader_may_lie_beyond_the_last_entry() {
    let disk = new_disk();
    let mut log = create(&disk, SMALL).unwrap();
    append_one(&mut log, 1, 10);
    log.save_snapshot(&mark(3, 100)).unwrap();
    log.append(&[], Some(&state(3, 100))).unwrap();
    for index in 101..=130 {
        log.append(&[entry(3, index, vec![1; 300])], Some(&state(3, index - 1)))
            .unwrap();
    }
    drop(log);
    let start = SnapshotPoint {
        index: Index(100),
        term: Term(3),
    };
    assert!(
        valid_snapshots(&disk, dir())
            .unwrap()
            .contains(&mark(3, 100))
    );
    let (_, recovered) = open_behind(&disk, start, SMALL).unwrap();
    assert_eq!(indices(&recovered), (101..=130).collect::<Vec<_>>());
    let fault = open(&disk, SMALL).err().unwrap().to_string();
    assert!(fault.contains("entry 101 follows entry 1"), "{fault}");
}

#[test]
fn segments_carry_on_numbers_names_and_the_running_crc() {
    let disk = new_disk();
    let mut log = create(&disk, SMALL).unwrap();
    for index in 1..=40 {
        append_one(&mut log, index, 500);
    }
    drop(log);
    // A restart in between changes nothing.
    let (mut log, _) = open(&disk, SMALL).unwrap();
    for index in 41..=60 {
        append_one(&mut log, index, 500);
    }
    drop(log);
    let segments = segments_of(&disk);
    assert!(segments.len() > 5);
    let records = all_records(&disk);
    for (number, (name, bytes)) in segments.iter().enumerate() {
        let name = segment::SegmentName::parse(name).unwrap();
        assert_eq!(name.sequence, number as u64);
        let here: Vec<_> = records
            .iter()
            .filter(|located| located.file.ends_with(name.file_name()))
            .map(|located| match &located.found {
                Found::Record { record, size, .. } => (record, located.offset + size),
                Found::Torn(how) => panic!("{how}"),
            })
            .collect();
        assert!(matches!(here[0].0, Record::Crc(crc) if number == 0 || *crc != 0));
        assert_eq!(*here[1].0, Record::Metadata(METADATA));
        if number > 0 {
            assert!(matches!(here[2].0, Record::State(_)));
            assert!(matches!(here[3].0, Record::Entry(entry) if entry.index == name.index));
        }
        if number + 1 < segments.len() {
            assert_eq!(
                here.last().unwrap().1,
                bytes.len() as u64,
                "a full segment has no tail"
            );
        } else {
            assert!(bytes.len() as u64 >= SMALL.segment_size);
        }
    }
    assert_eq!(
        indices(&open(&disk, SMALL).unwrap().1),
        (1..=60).collect::<Vec<_>>()
    );
}

#[test]
fn a_new_log_holds_its_first_records_from_the_start() {
    let disk = new_disk();
    let first = [
        Record::Entry(entry(1, 1, &b"member"[..])),
        Record::State(state(1, 1)),
        Record::Snapshot(mark(1, 1)),
    ];
    let log = Log::create(Arc::new(disk.clone()), dir(), METADATA, &first, LARGE).unwrap();
    assert_eq!(
        (log.last_index(), log.hard_state()),
        (Index(1), state(1, 1))
    );
    drop(log);
    let (mut log, recovered) = open(&disk, LARGE).unwrap();
    assert_eq!(indices(&recovered), [1]);
    assert_eq!(
        valid_snapshots(&disk, dir()).unwrap().last(),
        Some(&mark(1, 1))
    );
    append_one(&mut log, 2, 10);
}

#[test]
fn a_folder_with_files_in_it_is_not_replaced() {
    let disk = new_disk();
    disk.create_dir(dir()).unwrap();
    disk.open(&dir().join("letter"), Open::Create).unwrap();
    let fault = create(&disk, LARGE).err().unwrap().to_string();
    assert!(fault.contains("letter"), "{fault}");
    disk.remove(&dir().join("letter")).unwrap();
    create(&disk, LARGE).unwrap();
}

#[test]
fn two_servers_cannot_have_one_log() {
    let disk = new_disk();
    let log = create(&disk, LARGE).unwrap();
    assert!(matches!(open(&disk, LARGE), Err(Fault::Locked { .. })));
    drop(log);
    let (_log, _) = open(&disk, LARGE).unwrap();
    assert!(matches!(open(&disk, LARGE), Err(Fault::Locked { .. })));
    read(&disk, dir(), SnapshotPoint::default()).unwrap();
}

#[test]
fn purge_removes_the_oldest_segments_that_no_start_needs() {
    let disk = new_disk();
    let mut log = create(&disk, SMALL).unwrap();
    for index in 1..=60 {
        append_one(&mut log, index, 500);
    }
    log.save_snapshot(&mark(1, 50)).unwrap();
    let count = segments_of(&disk).len();
    assert_eq!(log.purge(2).unwrap(), Vec::<PathBuf>::new(), "all are held");
    log.release_to(Index(50));
    assert_eq!(log.purge(0).unwrap(), Vec::<PathBuf>::new(), "0 keeps all");
    assert_eq!(log.purge(count - 1).unwrap().len(), 1);
    let removed = log.purge(1).unwrap();
    assert!(!removed.is_empty());
    append_one(&mut log, 61, 500);
    drop(log);
    let start = SnapshotPoint {
        index: Index(50),
        term: Term(1),
    };
    assert_eq!(valid_snapshots(&disk, dir()).unwrap(), [mark(1, 50)]);
    let (_, recovered) = open_behind(&disk, start, SMALL).unwrap();
    assert_eq!(indices(&recovered), (51..=61).collect::<Vec<_>>());
    let fault = open(&disk, SMALL).err().unwrap().to_string();
    assert!(fault.contains("lacks what follows snapshot 0"), "{fault}");
}

#[test]
fn a_batch_larger_than_what_may_be_unsynced_is_whole() {
    let disk = new_disk();
    let mut log = create(&disk, LARGE).unwrap();
    let large = vec![7; 20 << 20];
    log.append(
        &[entry(1, 1, large.clone()), entry(1, 2, large)],
        Some(&state(1, 0)),
    )
    .unwrap();
    log.sync().unwrap();
    drop(log);
    let (_, recovered) = open(&disk, LARGE).unwrap();
    assert_eq!(indices(&recovered), [1, 2]);
    assert_eq!(recovered.entries[1].data.len(), 20 << 20);
}

/// The thread that writes zeros ahead never harms what the log writes, wherever it has got to.
#[test]
fn a_real_log_with_its_thread_keeps_all_that_is_appended() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("wal");
    let disk: Arc<dyn Disk> = Arc::new(RealDisk);
    let options = Options {
        segment_size: 1 << 20,
        zeros_ahead: 512 << 10,
        preparation: Preparation::Background,
    };
    let mut log = Log::create(Arc::clone(&disk), &dir, METADATA, &[], options).unwrap();
    let mut index = 0;
    for round in 0..4 {
        for size in (1..6000).step_by(41) {
            index += 1;
            let entry = entry(1, index, vec![index as u8; size]);
            log.append(&[entry], Some(&state(1, index - 1))).unwrap();
            if index % 16 == round {
                log.sync().unwrap();
            }
        }
        drop(log);
        let (opened, recovered) =
            Log::open(Arc::clone(&disk), &dir, SnapshotPoint::default(), options).unwrap();
        log = opened;
        assert_eq!(recovered.repaired, None);
        assert_eq!(recovered.entries.len() as u64, index);
        for (number, entry) in (1..).zip(&recovered.entries) {
            assert_eq!(entry.index.0, number);
            assert!(entry.data.iter().all(|byte| *byte == number as u8));
        }
    }
}

/// A member with entries 1 to 5 of term 1, of which a later leader committed none behind 2, is sent that
/// leader's snapshot at 4: what the log holds behind 4 does not follow it.
#[test]
fn entries_of_a_log_that_a_snapshot_replaced_do_not_come_back() {
    let disk = new_disk();
    let mut log = create(&disk, LARGE).unwrap();
    let entries: Vec<Entry> = (1..=5).map(|index| entry(1, index, "x")).collect();
    log.append(&entries, Some(&state(1, 2))).unwrap();
    log.save_snapshot(&mark(3, 4)).unwrap();
    log.append(&[], Some(&state(3, 4))).unwrap();
    log.sync().unwrap();
    drop(log);
    let start = SnapshotPoint {
        index: Index(4),
        term: Term(3),
    };
    let (mut log, recovered) = open_behind(&disk, start, LARGE).unwrap();
    assert_eq!(indices(&recovered), []);
    log.append(&[entry(3, 5, "y")], None).unwrap();
    log.sync().unwrap();
    drop(log);
    let (_, recovered) = open_behind(&disk, start, LARGE).unwrap();
    assert_eq!(recovered.entries, [entry(3, 5, "y")]);
}

/// A later leader overwrote entries from before the snapshot on; the old ones behind it are gone.
#[test]
fn entries_overwritten_from_before_the_snapshot_on_do_not_come_back() {
    let disk = new_disk();
    let mut log = create(&disk, LARGE).unwrap();
    let entries: Vec<Entry> = (1..=5).map(|index| entry(1, index, "x")).collect();
    log.append(&entries, Some(&state(1, 2))).unwrap();
    log.append(&[entry(2, 3, "y"), entry(2, 4, "y")], Some(&state(2, 4)))
        .unwrap();
    log.save_snapshot(&mark(2, 4)).unwrap();
    drop(log);
    let start = SnapshotPoint {
        index: Index(4),
        term: Term(2),
    };
    let (_, recovered) = open_behind(&disk, start, LARGE).unwrap();
    assert_eq!(indices(&recovered), []);
}
