//! Reads: what single questions answer, and what a view promises.

use std::num::NonZeroUsize;

use bytes::Bytes;
use mvcc::{
    Content, EventKind, KeyRange, LeaseId, Order, RangeQuery, ReadError, Refusal, Revision, SortBy,
    Store, View,
};
use storage::Batch;

use crate::setup::{Member, history_from, pairs_at, single};

#[test]
fn a_fresh_store_is_at_revision_one_and_stays_there_until_something_changes() {
    let mut member = Member::new();
    assert_eq!(member.store.revision(), Revision(1));
    assert_eq!(member.delete("nothing"), None);
    assert_eq!(member.store.revision(), Revision(1));
    assert_eq!(member.put("a", "1"), Revision(2));
    let member = member.restart();
    assert_eq!(member.store.revision(), Revision(2));
    assert_eq!(member.stored(), ["2_0"]);
}

#[test]
fn a_transaction_is_one_revision_and_sees_its_own_changes() {
    let mut member = Member::new();
    member.put("a", "1");
    let mut change = member.store.change();
    assert_eq!(change.revision(), Revision(2));
    let put = change.put(b"b", b"1", Some(LeaseId(7)));
    assert_eq!(
        (put.previous, put.create_revision, put.version),
        (None, Revision(3), 1)
    );
    let put = change.put(b"a", b"2", None);
    assert_eq!((put.create_revision, put.version), (Revision(2), 2));
    let previous = change.pair(put.previous.expect("a existed")).unwrap();
    assert_eq!(previous.value(), b"1");
    let answer = change.range(&RangeQuery::new(KeyRange::All)).unwrap();
    assert_eq!((answer.count, answer.revision), (2, Revision(3)));
    let removed = change.delete_range(&KeyRange::From("b".into()));
    assert_eq!(removed.len(), 1);
    assert_eq!(
        change.pair(removed[0].previous).unwrap().lease,
        Some(LeaseId(7))
    );
    assert!(change.get(b"b").unwrap().is_none());
    // The state before the transaction can still be asked for by its revision.
    let before = RangeQuery {
        revision: Some(Revision(2)),
        ..RangeQuery::new(KeyRange::All)
    };
    assert_eq!(change.range(&before).unwrap().pairs[0].value(), b"1");
    let changed = change.finish().expect("it changed something");
    assert_eq!(changed.revision, Revision(3));
    let kinds: Vec<_> = changed
        .events
        .iter()
        .map(|event| (event.position.sub, event.kind))
        .collect();
    assert_eq!(
        kinds,
        [
            (0, EventKind::Put),
            (1, EventKind::Put),
            (2, EventKind::Delete)
        ]
    );
    assert!(changed.events[0].is_creation() && !changed.events[1].is_creation());
    let view = member.store.view();
    let previous = view
        .previous(&changed.events[1])
        .unwrap()
        .expect("a existed");
    assert_eq!(
        (previous.value(), previous.mod_revision),
        (&b"1"[..], Revision(2))
    );
}

#[test]
fn a_limit_without_an_order_sorts_only_the_first_keys() {
    let mut member = Member::new();
    for (key, value) in [("a", "9"), ("b", "8"), ("c", "7"), ("d", "0")] {
        member.put(key, value);
    }
    let ask = |order, content| {
        let query = RangeQuery {
            limit: NonZeroUsize::new(2),
            sort_by: SortBy::Value,
            order,
            content,
            ..RangeQuery::new(KeyRange::All)
        };
        let answer = member.store.range(&query).unwrap();
        assert_eq!((answer.count, answer.more), (4, true));
        let key = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        answer
            .pairs
            .iter()
            .map(|pair| format!("{}{}", key(pair.key()), key(pair.value())))
            .collect::<Vec<_>>()
    };
    assert_eq!(ask(Order::Unspecified, Content::Pairs), ["c7", "b8"]);
    assert_eq!(ask(Order::Ascending, Content::Pairs), ["d0", "c7"]);
    assert_eq!(ask(Order::Descending, Content::Pairs), ["a9", "b8"]);
    assert_eq!(ask(Order::Descending, Content::KeysOnly), ["a", "b"]);
}

#[test]
fn an_inverted_range_selects_nothing() {
    let mut member = Member::new();
    member.put("m", "1");
    for (from, to) in [("z", "a"), ("m", "m"), ("n", "")] {
        let keys = KeyRange::Range {
            from: from.into(),
            to: to.into(),
        };
        let answer = member.store.range(&RangeQuery::new(keys.clone())).unwrap();
        assert_eq!(
            (answer.count, answer.pairs.len(), answer.more),
            (0, 0, false)
        );
        let mut change = member.store.change();
        assert!(change.delete_range(&keys).is_empty());
        assert!(change.finish().is_none());
    }
}

/// [D21] etcd #17230, #17247: the buffer in front of the file showed a deleted key, or an event twice.
/// Whatever the point between commits, reads and history are the same.
#[test]
fn d21_reads_and_history_are_the_same_at_every_point_between_commits() {
    for commit_at in 0..=12 {
        let mut member = Member::new();
        let mut views: Vec<View> = Vec::new();
        for step in 0..12 {
            if step == commit_at {
                member.commit();
            }
            match step % 3 {
                2 => drop(member.delete("k")),
                _ => drop(member.put("k", &step.to_string())),
            }
            views.push(member.store.view());
        }
        if commit_at == 12 {
            member.commit();
            views.push(member.store.view());
        }
        for view in &views {
            let last = view.revision().0;
            for revision in 2..=last {
                let step = revision - 2;
                let expected = (step % 3 != 2).then(|| format!("k={step}"));
                assert_eq!(pairs_at(view, Revision(revision)), Vec::from_iter(expected));
                let told = history_from(view, Revision(revision));
                assert_eq!(told.len() as i64, last - revision + 1);
                assert!(told[0].ends_with(&format!("@{revision}")), "{told:?}");
            }
        }
    }
}

#[test]
fn a_view_taken_while_a_batch_is_committed_sees_one_state() {
    let mut member = Member::new();
    member.put("a", "1");
    let batch = member.store.take_batch();
    member.put("a", "2");
    let view = member.store.view();
    drop(batch);
    assert_eq!(pairs_at(&view, Revision(2)), ["a=1"]);
    assert_eq!(pairs_at(&view, Revision(3)), ["a=2"]);
    assert_eq!(
        history_from(&view, Revision(1)),
        ["put a=1 @2", "put a=2 @3"]
    );
}

#[test]
fn views_are_read_on_many_threads_while_the_owner_writes_commits_and_compacts() {
    let mut member = Member::new();
    for key in 0..100 {
        member.put(&format!("key-{key:03}"), "0");
    }
    let (senders, readers): (Vec<_>, Vec<_>) = (0..3)
        .map(|_| {
            let (sender, views) = std::sync::mpsc::channel::<View>();
            let reader = std::thread::spawn(move || {
                let mut read = 0;
                for view in views {
                    let answer = view.range(&RangeQuery::new(KeyRange::All)).unwrap();
                    assert_eq!((answer.count, answer.pairs.len()), (100, 100));
                    let newest = answer.pairs.iter().map(|pair| pair.mod_revision).max();
                    assert_eq!(newest, Some(view.revision()));
                    let sum: i64 = answer.pairs.iter().map(|pair| pair.version).sum();
                    assert_eq!(sum, view.revision().0 - 1);
                    read += 1;
                }
                read
            });
            (sender, reader)
        })
        .unzip();
    for step in 0..600 {
        let revision = member.put(&format!("key-{:03}", step * 37 % 100), &step.to_string());
        if step % 50 == 17 {
            member.commit();
        }
        if step % 100 == 60 {
            member.store.schedule_compaction(revision).unwrap();
        }
        if member.store.compact_step(20).unwrap() == mvcc::CompactionState::WaitsForCommit {
            member.commit();
        }
        for sender in &senders {
            sender.send(member.store.view()).unwrap();
        }
    }
    drop(senders);
    assert!(
        readers
            .into_iter()
            .all(|reader| reader.join().unwrap() == 600)
    );
}

/// `etcdutl snapshot restore --bump-revision` leaves one record of no bytes.
#[test]
fn a_record_without_bytes_counts_for_the_revision_and_hides_from_clients() {
    let mut member = Member::new();
    member.put("a", "1");
    let key = b"\0\0\0\0\0\0\x03\xe8_\0\0\0\0\0\0\0\0";
    member
        .store
        .batch_mut()
        .put("key", Bytes::from_static(key), Bytes::new());
    let mut member = member.restart();
    assert_eq!(member.store.revision(), Revision(1000));
    assert_eq!(pairs_at(&member.store.view(), Revision(1000)), ["a=1"]);
    assert!(member.store.view().hash(None).is_ok());
    assert_eq!(member.put("b", "1"), Revision(1001));
    member.compact(Revision(1001));
    member.commit();
    assert_eq!(member.stored(), ["2_0", "1000_0", "1001_0"]);
    assert_eq!(
        pairs_at(&member.restart().store.view(), Revision(1001)),
        ["a=1", "b=1"]
    );
}

#[test]
fn the_leases_of_keys_come_back_with_the_store() {
    let mut member = Member::new();
    let put = |member: &mut Member, key: &str, lease: i64| {
        let mut change = member.store.change();
        change.put(
            key.as_bytes(),
            b"v",
            Some(lease).filter(|id| *id != 0).map(LeaseId),
        );
        change.finish();
    };
    put(&mut member, "stays", 5);
    put(&mut member, "moves", 5);
    put(&mut member, "moves", -6);
    put(&mut member, "lets-go", 5);
    put(&mut member, "lets-go", 0);
    put(&mut member, "ends", 5);
    member.delete("ends");
    let member = member.restart();
    assert_eq!(
        member.attached,
        [
            (Bytes::from("moves"), LeaseId(-6)),
            (Bytes::from("stays"), LeaseId(5))
        ]
    );
}

#[test]
fn entries_that_no_correct_writer_leaves_are_refused_by_name() {
    let long = b"\0\0\0\0\0\0\0\x02_\0\0\0\0\0\0\0\0";
    let cases: [(&'static str, &'static [u8], &'static [u8], &str); 5] = [
        (
            "key",
            b"odd",
            b"",
            "bucket key holds the entry odd, which is no revision",
        ),
        (
            "key",
            long,
            b"\x0a\x09short",
            "the record at revision 2_0 cannot be read",
        ),
        (
            "meta",
            b"scheduledCompactRev",
            b"x",
            "entry scheduledCompactRev, which does not hold",
        ),
        (
            "meta",
            b"finishedCompactRev",
            b"",
            "entry finishedCompactRev, which does not hold",
        ),
        (
            "key",
            b"\xff\0\0\0\0\0\0\x02_\0\0\0\0\0\0\0\0",
            b"",
            "which is no revision",
        ),
    ];
    for (bucket, key, value, expected) in cases {
        let mut member = Member::new();
        let mut batch = Batch::new();
        batch.put(bucket, Bytes::from_static(key), Bytes::from_static(value));
        *member.store.batch_mut() = batch;
        member.commit();
        match Store::open(member.store.committed().clone()) {
            Err(fault) => assert!(fault.to_string().contains(expected), "{fault}"),
            Ok(_) => panic!("{expected}: was accepted"),
        }
    }
}

#[test]
fn refusals_have_the_texts_that_clients_know() {
    let mut member = Member::new();
    for value in 0..5 {
        member.put("a", &value.to_string());
    }
    member.compact(Revision(4));
    let view = member.store.view();
    let ask = |revision| {
        let query = RangeQuery {
            revision: Some(Revision(revision)),
            ..RangeQuery::new(single("a"))
        };
        view.range(&query).map(|answer| answer.count)
    };
    assert_eq!(ask(4).unwrap(), 1);
    let refused = ask(3).unwrap_err();
    assert!(matches!(
        refused,
        ReadError::Refused(Refusal::Compacted { .. })
    ));
    assert_eq!(
        refused.to_string(),
        "mvcc: required revision has been compacted"
    );
    let refused = ask(7).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "mvcc: required revision is a future revision"
    );
    assert!(view.history(Revision(3)).is_err());
    assert_eq!(view.history(Revision(99)).unwrap().count(), 0);
}

#[test]
#[should_panic(expected = "dropped before it was finished")]
fn a_transaction_with_changes_must_be_finished() {
    let mut member = Member::new();
    member.store.change().put(b"k", b"v", None);
}

/// The index is built in chunks, so keys and their histories must come together across chunks.
#[test]
fn a_store_with_more_records_than_one_chunk_comes_back_as_it_was() {
    let mut member = Member::new();
    for revision in 0..3_000_usize {
        let mut change = member.store.change();
        for place in 0..50 {
            let key = format!(
                "/registry/{:05}",
                (revision * 7919 + place * 104_729) % 20_011
            );
            match (revision + place) % 5 {
                0 => drop(change.delete_range(&single(&key))),
                _ => drop(change.put(key.as_bytes(), b"", None)),
            }
        }
        change.finish();
    }
    member.commit();
    let live = member.store.view();
    let restored = member.crash();
    let view = restored.store.view();
    assert_eq!(view.revision(), live.revision());
    for revision in (2..=live.revision().0).step_by(211) {
        assert_eq!(
            pairs_at(&view, Revision(revision)),
            pairs_at(&live, Revision(revision))
        );
    }
    assert_eq!(view.hash(None).unwrap(), live.hash(None).unwrap());
}
