//! The bytes are etcd's.

use proptest::prelude::*;

use super::*;
use crate::wal::record::Encoder;

fn bytes_of(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> = hex
        .bytes()
        .filter(|byte| !byte.is_ascii_whitespace())
        .collect();
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    digits.chunks(2).map(byte).collect()
}

#[test]
fn a_new_log_starts_with_the_bytes_that_etcd_writes() {
    let disk = new_disk();
    create(&disk, LARGE).unwrap();
    let golden = bytes_of(
        "0400000000000084 08041000 00000000
         1f00000000000081 08011096 8a92a20f 1a15 08bbe2ab898190d4c452 1082c3ffe2e59df896e501 00
         0e00000000000082 080510fa c8d9c809 1a04 08001000 0000",
    );
    let (name, bytes) = &segments_of(&disk)[0];
    assert_eq!(name, "0000000000000000-0000000000000000.wal");
    assert_eq!(bytes[..golden.len()], golden);
    assert!(bytes[golden.len()..].iter().all(|byte| *byte == 0));
    assert_eq!(bytes.len() as u64, LARGE.segment_size);
}

#[test]
fn the_default_segment_is_as_large_as_that_of_etcd() {
    assert_eq!(Options::default().segment_size, 64_000_000);
}

/// Payloads as gogo writes them: every number, lists not packed, absent data absent.
#[test]
fn payloads_have_all_scalar_fields() {
    let payload = |record: Record| {
        let mut encoder = Encoder::new(0);
        encoder.put_record(&record);
        let (data, _) = encoder.frames.split_at(encoder.frames.len());
        let start = data.windows(1).position(|byte| byte == [0x1a]).unwrap() + 2;
        data[start..start + usize::from(data[start - 1])].to_vec()
    };
    let check = |record: Record, hex: &str| assert_eq!(payload(record), bytes_of(hex));
    check(
        Record::Entry(entry(2, 3, &b"x"[..])),
        "08 00 10 02 18 03 22 01 78",
    );
    check(
        Record::Entry(entry(2, 300, &b""[..])),
        "08 00 10 02 18 ac 02",
    );
    check(Record::State(HardState::default()), "08 00 10 00 18 00");
    let conf_state = ConfState {
        voters: vec![NodeId(1), NodeId(2)],
        learners: vec![NodeId(3)],
        voters_outgoing: vec![NodeId(4)],
        learners_next: vec![NodeId(5)],
        auto_leave: true,
    };
    let mark = SnapshotMark {
        index: Index(9),
        term: Term(4),
        conf_state: Some(conf_state),
    };
    check(
        Record::Snapshot(mark),
        "08 09 10 04 1a 0c 08 01 08 02 10 03 18 04 20 05 28 01",
    );
    let mark = SnapshotMark {
        conf_state: Some(ConfState::default()),
        ..SnapshotMark::default()
    };
    check(Record::Snapshot(mark), "08 00 10 00 1a 02 28 00");
}

/// etcd 3.7 leaves out zeros; lists may be packed; later versions may add fields.
#[test]
fn payloads_of_other_versions_are_understood() {
    let decoded = Entry::decode(&bytes_of("10 02 18 03 22 01 78")).unwrap();
    assert_eq!(decoded, entry(2, 3, &b"x"[..]));
    let expected = ConfState {
        voters: vec![NodeId(1), NodeId(300)],
        learners: vec![NodeId(3)],
        ..ConfState::default()
    };
    for hex in [
        "0a 03 01 ac 02 12 01 03",
        "08 01 08 ac 02 10 03 28 00 f2 3f 02 78 78 f8 3f 01",
    ] {
        assert_eq!(ConfState::decode(&bytes_of(hex)).unwrap(), expected);
    }
    assert_eq!(SnapshotMark::decode(&[]).unwrap(), SnapshotMark::default());
    assert!(Entry::decode(&bytes_of("08 07")).is_err());
    assert!(Entry::decode(&bytes_of("22 7f 01")).is_err());
    assert!(ConfState::decode(&bytes_of("ff ff ff ff ff ff ff ff ff ff 01")).is_err());
}

fn conf_state() -> impl Strategy<Value = ConfState> {
    let list = || prop::collection::vec(any::<u64>().prop_map(NodeId), 0..4);
    (list(), list(), list(), list(), any::<bool>()).prop_map(
        |(voters, learners, voters_outgoing, learners_next, auto_leave)| ConfState {
            voters,
            learners,
            voters_outgoing,
            learners_next,
            auto_leave,
        },
    )
}

fn record() -> impl Strategy<Value = Record> {
    let kind = prop_oneof![
        Just(EntryKind::Normal),
        Just(EntryKind::ConfChange),
        Just(EntryKind::ConfChangeV2)
    ];
    let data = prop::collection::vec(any::<u8>(), 0..1500);
    prop_oneof![
        (kind, any::<u64>(), any::<u64>(), data).prop_map(|(kind, term, index, data)| {
            Record::Entry(Entry {
                kind,
                term: Term(term),
                index: Index(index),
                data: data.into(),
            })
        }),
        (any::<u64>(), any::<u64>(), any::<u64>()).prop_map(|(term, vote, commit)| {
            Record::State(HardState {
                term: Term(term),
                vote: NodeId(vote),
                commit: Index(commit),
            })
        }),
        (any::<u64>(), any::<u64>(), prop::option::of(conf_state())).prop_map(
            |(index, term, conf_state)| {
                Record::Snapshot(SnapshotMark {
                    index: Index(index),
                    term: Term(term),
                    conf_state,
                })
            }
        ),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn what_is_written_is_read_again(records in prop::collection::vec(record(), 0..12)) {
        let disk = new_disk();
        Log::create(Arc::new(disk.clone()), dir(), METADATA, &records, LARGE).unwrap();
        let found: Vec<_> = all_records(&disk)
            .into_iter()
            .map(|located| match located.found {
                Found::Record { record, .. } => record,
                Found::Torn(how) => panic!("{how}"),
            })
            .collect();
        let head =
            [Record::Crc(0), Record::Metadata(METADATA), Record::Snapshot(SnapshotMark::default())];
        prop_assert_eq!(&found[..3], &head[..]);
        prop_assert_eq!(&found[3..], &records[..]);
    }
}
