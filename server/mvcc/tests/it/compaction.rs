//! Compaction: what stays, what goes, and what a crash in the middle leaves.

use bytes::Bytes;
use mvcc::{
    CompactionState, KeyRange, LeaseId, Position, RangeQuery, ReadError, RecordKey, Refusal,
    Revision,
};

use crate::setup::{Member, history_from, pairs_at, single};

#[test]
fn compaction_keeps_the_newest_of_each_key_and_a_tombstone_at_its_revision() {
    let mut member = Member::new();
    member.put("a", "1"); // 2
    member.put("a", "2"); // 3
    member.put("gone", "x"); // 4
    member.delete("gone"); // 5
    member.put("b", "1"); // 6
    member.delete("b"); // 7
    member.put("a", "3"); // 8
    member.compact(Revision(7));
    member.commit();
    assert_eq!(member.stored(), ["3_0", "7_0t", "8_0"]);
    let view = member.store.view();
    assert_eq!(pairs_at(&view, Revision(7)), ["a=2"]);
    assert_eq!(pairs_at(&view, Revision(8)), ["a=3"]);
    member.compact(Revision(8));
    member.commit();
    assert_eq!(member.stored(), ["8_0"]);
}

#[test]
fn compactions_that_cannot_be_are_refused_and_change_nothing() {
    let mut member = Member::new();
    member.put("a", "1");
    let future = member.store.schedule_compaction(Revision(3));
    assert_eq!(
        future,
        Err(Refusal::FutureRevision {
            current: Revision(2)
        })
    );
    assert_eq!(member.store.compact_revision(), None);
    // Nothing was ever compacted, so 0 is taken once.
    member.compact(Revision(0));
    let again = member.store.schedule_compaction(Revision(0));
    assert_eq!(
        again,
        Err(Refusal::Compacted {
            oldest: Revision(0)
        })
    );
    member.compact(Revision(2));
    let again = member.store.schedule_compaction(Revision(1));
    assert_eq!(
        again,
        Err(Refusal::Compacted {
            oldest: Revision(2)
        })
    );
    assert_eq!(pairs_at(&member.store.view(), Revision(2)), ["a=1"]);
}

#[test]
fn nothing_is_deleted_before_the_mark_is_durable() {
    let mut member = Member::new();
    member.put("a", "1");
    member.put("a", "2");
    member.commit();
    member.store.schedule_compaction(Revision(3)).unwrap();
    assert_eq!(
        member.store.compaction_state(),
        CompactionState::WaitsForCommit
    );
    for _ in 0..3 {
        assert_eq!(
            member.store.compact_step(100).unwrap(),
            CompactionState::WaitsForCommit
        );
    }
    // A batch that was under way before the mark gathered does not count.
    let mut member = Member::new();
    member.put("a", "1");
    member.put("a", "2");
    let early = member.store.take_batch();
    member.store.schedule_compaction(Revision(3)).unwrap();
    drop(early);
    assert_eq!(
        member.store.compact_step(100).unwrap(),
        CompactionState::WaitsForCommit
    );
}

#[test]
fn reads_below_the_compaction_are_refused_at_once_and_those_begun_before_go_on() {
    let mut member = Member::new();
    for value in 1..6 {
        member.put("a", &value.to_string());
    }
    member.commit();
    let before = member.store.view();
    let reading = before.history(Revision(2)).unwrap();
    member.store.schedule_compaction(Revision(5)).unwrap();
    let query = RangeQuery {
        revision: Some(Revision(4)),
        ..RangeQuery::new(single("a"))
    };
    let refused = member.store.view().range(&query);
    assert!(matches!(
        refused,
        Err(ReadError::Refused(Refusal::Compacted {
            oldest: Revision(5)
        }))
    ));
    member.finish_compaction(1);
    member.commit();
    member.commit();
    assert_eq!(member.stored(), ["5_0", "6_0"]);
    assert_eq!(reading.map(Result::unwrap).count(), 5);
    for (revision, value) in (2..7).zip(1..) {
        assert_eq!(
            pairs_at(&before, Revision(revision)),
            [format!("a={value}")]
        );
    }
}

/// [D5] etcd #17780: the last batch of a compaction was empty, a crash came before "finished" was
/// stored, and the current revision fell below the compaction.
#[test]
fn d5_the_revision_never_falls_below_a_compaction() {
    for crash_after in 0..40 {
        let mut member = Member::new();
        for key in 0..12 {
            member.put(&format!("key-{key:02}"), "x");
        }
        let mut change = member.store.change();
        change.delete_range(&KeyRange::All);
        let deleted = change.finish().expect("keys were deleted").revision;
        member.commit();
        // At the deletion, its tombstones stay; above it, which a later key makes, all go.
        for at in [deleted, deleted.next()] {
            if at > member.store.revision() {
                member.put("last", "x");
                member.delete("last");
            }
            member.store.schedule_compaction(at).unwrap();
            for _ in 0..crash_after {
                if member.store.compact_step(10).unwrap() != CompactionState::Runs {
                    member.commit();
                }
            }
            let durable = member.mark("scheduledCompactRev").is_some();
            member = member.crash();
            if durable {
                assert!(member.store.revision() >= deleted, "{crash_after} steps");
                assert!(member.store.compact_revision() <= Some(member.store.revision()));
            }
            member.finish_compaction(10);
            member = member.restart();
            assert_eq!(member.store.compaction_state(), CompactionState::Idle);
            if at > member.store.revision() || !durable {
                break;
            }
            assert_eq!(member.store.compact_revision(), Some(at));
            assert_eq!(
                member.mark("finishedCompactRev"),
                member.mark("scheduledCompactRev")
            );
        }
        let revision = member.store.revision();
        assert_eq!(member.put("next", "x"), revision.next());
    }
}

/// [D5] The same with a file of a release that deleted tombstones exactly at the compaction too: then
/// no record holds the revision, and only the marks do.
#[test]
fn d5_the_marks_alone_hold_the_revision_up() {
    for finished in [false, true] {
        let mut member = Member::new();
        member.put("a", "1"); // 2
        member.delete("a"); // 3
        member.commit();
        member.store.schedule_compaction(Revision(3)).unwrap();
        if finished {
            member.finish_compaction(10);
        }
        for key in [
            RecordKey::live(Position::first(Revision(2))),
            RecordKey::tombstone(Position::first(Revision(3))),
        ] {
            let (key, length) = key.encode();
            member
                .store
                .batch_mut()
                .delete("key", Bytes::copy_from_slice(&key[..length]));
        }
        let mut member = member.restart();
        assert!(member.stored().is_empty());
        assert_eq!(member.store.revision(), Revision(3));
        assert_eq!(member.store.compact_revision(), Some(Revision(3)));
        member.finish_compaction(10);
        let mut member = member.restart();
        assert_eq!(
            member.mark("finishedCompactRev"),
            member.mark("scheduledCompactRev")
        );
        assert_eq!(member.put("a", "2"), Revision(4));
    }
}

/// [D6] etcd #18667, #18799, #21432: a read at a compacted or future revision inside a transaction must
/// be refusable before any effect, and answer the same whether or not deletion got that far.
#[test]
fn d6_reads_in_a_transaction_answer_the_same_however_far_the_compaction_got() {
    let mut member = Member::new();
    for value in 0..30 {
        member.put(&format!("key-{:02}", value % 7), &value.to_string());
    }
    member.commit();
    member.store.schedule_compaction(Revision(20)).unwrap();
    let query = |at| RangeQuery {
        revision: Some(Revision(at)),
        ..RangeQuery::new(KeyRange::All)
    };
    let ask = |member: &mut Member| {
        let change = member.store.change();
        let told: Vec<_> = (1..=33)
            .map(|at| match change.range(&query(at)) {
                Ok(answer) => Ok((answer.pairs, answer.count)),
                Err(ReadError::Refused(refusal)) => Err(refusal),
                Err(ReadError::Fault(fault)) => panic!("{fault}"),
            })
            .collect();
        assert!(change.finish().is_none());
        told
    };
    let expected = ask(&mut member);
    assert_eq!(expected.iter().filter(|answer| answer.is_ok()).count(), 12);
    member.commit();
    let mut steps = 0;
    while member.store.compact_step(3).unwrap() == CompactionState::Runs {
        if steps % 2 == 0 {
            member.commit();
        }
        assert_eq!(ask(&mut member), expected);
        steps += 1;
    }
    let mut member = member.restart();
    assert_eq!(ask(&mut member), expected);
}

/// [W4] etcd #18089: the deletion exactly at the compaction's revision was lost to watchers.
#[test]
fn w4_a_watcher_from_the_compaction_gets_the_deletion_there() {
    let mut member = Member::new();
    for value in ["1", "2", "3"] {
        member.put("k", value);
    }
    member.delete("k"); // 5
    member.put("k", "new"); // 6
    member.compact(Revision(5));
    for _ in 0..2 {
        let told = history_from(&member.store.view(), Revision(5));
        assert_eq!(told, ["delete k @5", "put k=new @6"]);
        let view = member.store.view();
        let event = view
            .history(Revision(5))
            .unwrap()
            .next()
            .expect("two events")
            .unwrap();
        assert_eq!(
            view.previous(&event).unwrap(),
            None,
            "revision 4 is compacted"
        );
        member = member.restart();
    }
    assert_eq!(member.stored(), ["5_0t", "6_0"]);
}

/// [W5] etcd #19179: the same, when the creation went in an earlier batch and the process died before
/// the compaction was finished.
#[test]
fn w5_a_deletion_at_the_compaction_survives_a_crash_between_its_batches() {
    for crash_after in 0..40 {
        let mut member = Member::new();
        for key in 0..60 {
            member.put(&format!("key-{key:02}"), "x"); // 2 to 61
        }
        for key in 0..60 {
            member.delete(&format!("key-{key:02}")); // 62 to 121
        }
        member.commit();
        member.store.schedule_compaction(Revision(121)).unwrap();
        member.commit();
        for _ in 0..crash_after {
            member.store.compact_step(5).unwrap();
            member.commit();
        }
        let mut member = member.crash();
        assert_eq!(member.store.revision(), Revision(121));
        assert_eq!(
            history_from(&member.store.view(), Revision(121)),
            ["delete key-59 @121"]
        );
        member.finish_compaction(5);
        let member = member.restart();
        assert_eq!(member.stored(), ["121_0t"]);
        assert_eq!(
            history_from(&member.store.view(), Revision(121)),
            ["delete key-59 @121"]
        );
    }
}

#[test]
fn a_compaction_scheduled_during_another_follows_it() {
    let mut member = Member::new();
    for value in 0..50 {
        member.put(&format!("key-{}", value % 5), &value.to_string());
    }
    member.commit();
    member.store.schedule_compaction(Revision(20)).unwrap();
    member.commit();
    member.store.compact_step(3).unwrap();
    member.store.schedule_compaction(Revision(30)).unwrap();
    member.store.schedule_compaction(Revision(40)).unwrap();
    assert_eq!(member.store.compact_revision(), Some(Revision(40)));
    member.finish_compaction(3);
    assert_eq!(
        member.store.compaction_finished(),
        Some(Revision(20)),
        "40 is not durable yet"
    );
    member.commit();
    assert_eq!(member.store.compaction_finished(), Some(Revision(40)));
    // 40 was scheduled while 20 ran, so it leaves no hash to compare: this one is of now.
    let compacted = |at| {
        let hash = member.store.view().hash(Some(Revision(at)));
        hash.unwrap().compact_revision
    };
    assert_eq!((compacted(20), compacted(40)), (None, Some(Revision(40))));
    let expected: Vec<_> = (36..=51).map(|revision| format!("{revision}_0")).collect();
    assert_eq!(member.stored(), expected);
}

/// A transaction may delete a key as part of an open range and put it again. etcd loses the new
/// value when it is compacted exactly there; it must stay, and so must the deletion.
#[test]
fn a_key_deleted_and_put_in_the_compacted_revision_lives_on() {
    let mut member = Member::new();
    member.put("k", "old"); // 2
    let mut change = member.store.change();
    change.delete_range(&KeyRange::All);
    change.put(b"k", b"new", None);
    change.finish();
    member.compact(Revision(3));
    for _ in 0..2 {
        assert_eq!(pairs_at(&member.store.view(), Revision(3)), ["k=new"]);
        assert_eq!(
            history_from(&member.store.view(), Revision(3)),
            ["delete k @3", "put k=new @3"]
        );
        member = member.restart();
    }
    assert_eq!(member.stored(), ["3_0t", "3_1"]);
}

/// The keys of leases stand in memory from the start on. As pieces of the file they kept the whole state of
/// the start from being used anew, and the file grew with every commit.
#[test]
fn leased_keys_do_not_keep_the_pages_of_the_start() {
    let mut member = Member::new();
    let mut change = member.store.change();
    change.put(b"leased", b"", Some(LeaseId(7)));
    change.finish();
    member = member.restart();
    assert_eq!(member.attached.len(), 1);
    let mut sizes = Vec::new();
    for _ in 0..2 {
        for _ in 0..50 {
            let revision = member.put("k", "value");
            member.compact(revision);
            member.commit();
        }
        sizes.push(member.store.committed().size());
    }
    assert_eq!(
        sizes[0], sizes[1],
        "the same content needs more and more pages"
    );
}
