//! Torn writes are repaired, damage is refused, and neither makes the reader panic.

use proptest::prelude::*;

use super::*;
use crate::wal::record::FRAME_HEAD_SIZE;

/// A log of one segment with batches of one entry and one state each, and where each frame ends.
fn log_of(sizes: &[usize], commit: impl Fn(u64) -> u64) -> (Vec<u8>, Vec<(u64, Record)>) {
    let disk = new_disk();
    let mut log = create(&disk, LARGE).unwrap();
    for (index, size) in (1..).zip(sizes) {
        let entries = [entry(1, index, vec![index as u8; *size])];
        log.append(&entries, Some(&state(1, commit(index))))
            .unwrap();
        log.sync().unwrap();
    }
    drop(log);
    let ends = all_records(&disk)
        .into_iter()
        .map(|located| match located.found {
            Found::Record { record, size, .. } => (located.offset + size, record),
            Found::Torn(how) => panic!("{how}"),
        });
    let ends: Vec<_> = ends.collect();
    let (_, mut bytes) = segments_of(&disk).remove(0);
    bytes.truncate(ends.last().unwrap().0 as usize);
    (bytes, ends)
}

fn first_segment(bytes: Vec<u8>) -> SimulatedDisk {
    disk_with(&[("0000000000000000-0000000000000000.wal".to_owned(), bytes)])
}

fn entries_until(ends: &[(u64, Record)], cut: usize) -> Vec<u64> {
    let whole = ends.iter().filter(|(end, _)| *end as usize <= cut);
    whole
        .filter_map(|(_, record)| match record {
            Record::Entry(entry) => Some(entry.index.0),
            _ => None,
        })
        .collect()
}

/// [D11], [D12]: whatever the byte at which the file ends, it opens with all whole records, and what is
/// written next stands alone.
#[test]
fn a_log_cut_at_any_byte_opens_with_the_records_before() {
    let (bytes, ends) = log_of(&[3, 700, 40, 1200, 9], |_| 0);
    let head = ends[2].0 as usize;
    for cut in 0..=bytes.len() {
        let disk = first_segment(bytes[..cut].to_vec());
        if cut < head {
            assert!(
                matches!(open(&disk, LARGE), Err(Fault::Damaged { .. })),
                "cut at {cut}"
            );
            continue;
        }
        let expected = entries_until(&ends, cut);
        let seen = read(&disk, dir(), SnapshotPoint::default()).unwrap();
        assert_eq!(disk.calls(), 0, "reading changes nothing");
        assert_eq!(indices(&seen), expected, "cut at {cut}");
        let (mut log, recovered) = open(&disk, LARGE).unwrap();
        assert_eq!(indices(&recovered), expected, "cut at {cut}");
        let whole = ends.iter().any(|(end, _)| *end as usize == cut);
        assert_eq!(recovered.repaired.is_some(), !whole, "cut at {cut}");
        if let Some(copy) = &recovered.repaired {
            assert_eq!(read_file(&disk, copy), bytes[..cut]);
        }
        let next = expected.last().copied().unwrap_or(0) + 1;
        append_one(&mut log, next, 1);
        drop(log);
        let (_, again) = open(&disk, LARGE).unwrap();
        assert_eq!(
            indices(&again),
            (1..=next).collect::<Vec<_>>(),
            "cut at {cut}"
        );
        assert_eq!(again.repaired, None);
    }
}

/// [D11], [D13]: a zeroed sector of the newest batch is a torn write; of an older one it is damage.
#[test]
fn a_zeroed_sector_is_repaired_in_the_newest_batch_and_refused_before() {
    let (bytes, ends) = log_of(&[2000; 6], |index| index - 1);
    let head = ends[2].0 as usize;
    let entry_end = |index: usize| ends[2 * index + 1].0 as usize;
    let batch_end = |index: usize| ends[2 * index + 2].0 as usize;
    let (mut repaired, mut refused) = (0, 0);
    for sector in head.div_ceil(512)..bytes.len().div_ceil(512) {
        let start = sector * 512;
        let end = (start + 512).min(bytes.len());
        let mut damaged = bytes.clone();
        damaged[start..end].fill(0);
        damaged.resize(LARGE.segment_size as usize, 0);
        let disk = first_segment(damaged);
        let opened = open(&disk, LARGE);
        if start >= batch_end(5) {
            let (_, recovered) = opened.unwrap();
            assert_eq!(
                recovered.entries.len(),
                if start >= entry_end(6) { 6 } else { 5 }
            );
            repaired += 1;
        } else if end <= entry_end(4) {
            let fault = opened.err().expect("a lost part of the disk").to_string();
            assert!(fault.contains("synced later"), "sector {sector}: {fault}");
            refused += 1;
        }
    }
    assert!(
        repaired >= 3 && refused >= 12,
        "{repaired} repaired, {refused} refused"
    );
}

/// A record that starts with its sector shows as the end of the log when that sector is lost; only what
/// stands behind tells.
#[test]
fn a_lost_sector_at_the_start_of_a_record_is_no_clean_end() {
    let starts_a_sector = |size: &usize| log_of(&[*size], |_| 1).0.len().is_multiple_of(512);
    let first = (300..900)
        .find(starts_a_sector)
        .expect("frames end at every multiple of 8");
    let lose = |sizes: &[usize]| {
        let (mut bytes, ends) = log_of(sizes, |index| index);
        let start = ends[4].0 as usize;
        assert_eq!(start % 512, 0);
        bytes[start..start + 512].fill(0);
        first_segment(bytes)
    };
    let disk = lose(&[first, 2000]);
    let (mut log, recovered) = open(&disk, LARGE).unwrap();
    assert_eq!(indices(&recovered), [1]);
    assert!(recovered.repaired.is_some());
    append_one(&mut log, 2, 600);
    drop(log);
    assert_eq!(indices(&open(&disk, LARGE).unwrap().1), [1, 2]);

    let fault = open(&lose(&[first, 2000, 2000, 2000]), LARGE)
        .err()
        .expect("synced")
        .to_string();
    assert!(fault.contains("synced later"), "{fault}");
}

#[test]
fn damage_inside_a_sector_is_refused() {
    let (bytes, ends) = log_of(&[2000; 3], |_| 0);
    let last_start = ends[5].0 as usize + FRAME_HEAD_SIZE as usize;
    for place in [ends[2].0 as usize + 100, last_start + 600] {
        let mut flipped = bytes.clone();
        flipped[place] ^= 0x10;
        let disk = first_segment(flipped);
        let fault = open(&disk, LARGE).err().expect("a flipped bit").to_string();
        assert!(fault.contains("CRC"), "{fault}");
        let mut zeroed = bytes.clone();
        let inside = place.next_multiple_of(512) + 50;
        zeroed[inside..inside + 400].fill(0);
        assert!(matches!(
            open(&first_segment(zeroed), LARGE),
            Err(Fault::Damaged { .. })
        ));
    }
}

/// A length field whose padding was damaged once led the reader to the wrong place, where damage looked
/// like a torn write.
#[test]
fn a_frame_with_a_wrong_padding_is_refused() {
    let (bytes, ends) = log_of(&[3, 700, 40], |_| 0);
    for (start, _) in &ends[..ends.len() - 1] {
        let top = *start as usize + 7;
        for wrong in (0..=255).filter(|wrong| *wrong != bytes[top]) {
            let mut damaged = bytes.clone();
            damaged[top] = wrong;
            assert!(matches!(
                open(&first_segment(damaged), LARGE),
                Err(Fault::Damaged { .. })
            ));
        }
    }
}

/// [D13]: the state before the cut says that the lost entry was committed.
#[test]
fn a_log_that_ends_before_its_own_commit_is_refused() {
    let disk = new_disk();
    let mut log = create(&disk, LARGE).unwrap();
    append_one(&mut log, 1, 10);
    log.append(&[], Some(&state(1, 5))).unwrap();
    drop(log);
    let fault = open(&disk, LARGE).err().unwrap().to_string();
    assert!(fault.contains("entry 5 was committed"), "{fault}");
}

/// [D13]: a torn record in a segment that another one follows was synced.
#[test]
fn only_the_newest_segment_is_repaired() {
    let disk = new_disk();
    let mut log = create(&disk, SMALL).unwrap();
    for index in 1..=30 {
        append_one(&mut log, index, 500);
    }
    drop(log);
    let segments = segments_of(&disk);
    let cut = |number: usize, by: usize| {
        let mut segments = segments.clone();
        let length = segments[number].1.len();
        segments[number].1.truncate(length - by);
        disk_with(&segments)
    };
    for by in [1, 9, 300, 2000] {
        assert!(matches!(
            open(&cut(1, by), SMALL),
            Err(Fault::Damaged { .. })
        ));
    }
    let mut gap = segments.clone();
    gap.remove(1);
    let fault = open(&disk_with(&gap), SMALL).err().unwrap().to_string();
    assert!(fault.contains("is missing"), "{fault}");
}

#[test]
fn a_segment_of_another_member_is_refused() {
    let of = |node_id: u64| {
        let disk = new_disk();
        let metadata = Metadata {
            node_id: NodeId(node_id),
            ..METADATA
        };
        let mut log = Log::create(Arc::new(disk.clone()), dir(), metadata, &[], SMALL).unwrap();
        for index in 1..=12 {
            append_one(&mut log, index, 500);
        }
        drop(log);
        segments_of(&disk)
    };
    let (mut ours, theirs) = (of(1), of(2));
    ours[1] = theirs[1].clone();
    let fault = open(&disk_with(&ours), SMALL).err().unwrap().to_string();
    assert!(
        fault.contains("CRC") || fault.contains("another member"),
        "{fault}"
    );
}

#[test]
fn an_empty_folder_and_an_empty_segment_are_refused() {
    let disk = new_disk();
    disk.create_dir(dir()).unwrap();
    assert!(
        open(&disk, SMALL)
            .err()
            .unwrap()
            .to_string()
            .contains("no log segment")
    );
    for bytes in [Vec::new(), vec![0; 4096]] {
        let fault = open(&first_segment(bytes), SMALL)
            .err()
            .unwrap()
            .to_string();
        assert!(fault.contains("no record"), "{fault}");
    }
}

#[test]
fn a_torn_end_is_shown_to_those_who_only_look() {
    let (mut bytes, ends) = log_of(&[100, 200], |_| 0);
    bytes.truncate(bytes.len() - 3);
    let found = all_records(&first_segment(bytes));
    assert_eq!(found.len(), ends.len());
    assert!(matches!(found.last().unwrap().found, Found::Torn(_)));
}

/// Reads whatever this is in every way; only the absence of a panic counts.
fn read_in_every_way(bytes: Vec<u8>) {
    let disk = first_segment(bytes);
    if let Ok(records) = Records::open(&disk, dir()) {
        for located in records.flatten() {
            assert!(located.offset % 8 == 0);
        }
    }
    let _ = valid_snapshots(&disk, dir());
    let seen = read(&disk, dir(), SnapshotPoint::default());
    assert_eq!(disk.calls(), 0);
    match open(&disk, LARGE) {
        Ok((_, recovered)) => assert_eq!(recovered.entries, seen.unwrap().entries),
        Err(_) => assert!(seen.is_err()),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn garbage_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..3000)) {
        read_in_every_way(bytes);
    }

    #[test]
    fn a_damaged_log_never_panics(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        keep in any::<prop::sample::Index>(),
    ) {
        let (mut bytes, _) = log_of(&[3, 700, 40], |index| index - 1);
        for (place, byte) in changes {
            let place = place.index(bytes.len());
            bytes[place] = byte;
        }
        bytes.truncate(keep.index(bytes.len()) + 1);
        read_in_every_way(bytes);
    }
}
