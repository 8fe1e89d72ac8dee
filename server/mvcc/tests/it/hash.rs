//! Hashes of the records, against values that etcd members gave.

use mvcc::{KeyHash, ReadError, Refusal, Revision};

use crate::setup::Member;

fn hash(member: &Member, revision: i64) -> KeyHash {
    let asked = (revision != 0).then_some(Revision(revision));
    member.store.view().hash(asked).unwrap()
}

fn expect(hash: u32, compact_revision: i64, revision: i64) -> KeyHash {
    let compact_revision = (compact_revision >= 0).then_some(Revision(compact_revision));
    KeyHash {
        hash,
        compact_revision,
        revision: Revision(revision),
    }
}

/// [MT-18], [MT-19], [MT-20]
#[test]
fn hashes_equal_those_of_etcd() {
    let mut member = Member::new();
    assert_eq!(hash(&member, 1), expect(1_084_519_789, -1, 1));
    member.put("foo", "bar");
    assert_eq!(hash(&member, 2), expect(3_305_255_506, -1, 2));
    member.delete("foo");
    member.put("a", "b");
    assert_eq!(hash(&member, 4), expect(2_444_303_953, -1, 4));
    assert_eq!(hash(&member, 2), expect(3_305_255_506, -1, 2));
    member.commit();
    assert_eq!(hash(&member, 0), expect(2_444_303_953, -1, 4));
    member.compact(Revision(3));
    assert_eq!(hash(&member, 3), expect(2_489_925_301, -1, 3));
    assert_eq!(hash(&member, 4), expect(3_485_514_286, 3, 4));
}

#[test]
fn a_hash_does_not_depend_on_how_far_a_compaction_got() {
    let mut member = Member::new();
    for round in 0..20 {
        for key in 0..10 {
            member.put(&format!("key-{key}"), &round.to_string());
        }
        member.delete(&format!("key-{}", round % 10));
    }
    member.commit();
    let current = member.store.revision();
    member.compact(Revision(40));
    member.store.schedule_compaction(Revision(150)).unwrap();
    let expected: Vec<_> = (150..=current.0).map(|at| hash(&member, at)).collect();
    member.commit();
    let mut steps = 0;
    while member.store.compact_step(7).unwrap() == mvcc::CompactionState::Runs {
        if steps % 3 == 0 {
            member.commit();
        }
        let now: Vec<_> = (150..=current.0).map(|at| hash(&member, at)).collect();
        assert_eq!(now, expected, "after {steps} steps");
        steps += 1;
    }
    assert!(steps > 10);
    // At the compaction's own revision the hash that it left is the answer from now on.
    assert_eq!(hash(&member, 150).compact_revision, Some(Revision(40)));
    let restarted = member.restart();
    let now: Vec<_> = (150..=current.0).map(|at| hash(&restarted, at)).collect();
    assert_eq!(now, expected);
}

/// [MT-17]
#[test]
fn hashes_before_the_compaction_or_in_the_future_are_refused() {
    let mut member = Member::new();
    for value in 0..5 {
        member.put("k", &value.to_string());
    }
    member.compact(Revision(4));
    let view = member.store.view();
    let refused = |revision| match view.hash(Some(Revision(revision))) {
        Err(ReadError::Refused(refusal)) => refusal,
        other => panic!("{other:?}"),
    };
    assert_eq!(
        refused(3),
        Refusal::Compacted {
            oldest: Revision(4)
        }
    );
    assert_eq!(
        refused(7),
        Refusal::FutureRevision {
            current: Revision(6)
        }
    );
    assert!(view.hash(Some(Revision(4))).is_ok());
}

/// [MT-22]
#[test]
fn ten_hashes_of_compactions_are_remembered() {
    let mut member = Member::new();
    member.put("k", "v");
    for round in 0..15 {
        let revision = member.put("k", &round.to_string());
        member.put("k", "later");
        member.compact(revision);
    }
    // Only the last one is not compacted by now, so the others come from memory.
    let found = (0..40).filter(|at| member.store.view().hash(Some(Revision(*at))).is_ok());
    let found: Vec<_> = found.collect();
    assert_eq!(found.len(), 11, "{found:?}");
}
