//! Hashes of the records, against values that etcd members gave.

use bytes::BytesMut;
use mvcc::{CompactionState, KeyHash, ReadError, RecordKey, Refusal, Revision};

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

/// Choices that a seed decides (splitmix64).
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let word = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (word ^ (word >> 31)) % limit
    }
}

/// Compares all hashes that both can give for the same two revisions; returns how many.
fn compare(one: &Member, other: &Member, revisions: &[i64], when: &str) -> u64 {
    let mut compared = 0;
    for at in revisions {
        let at = Some(Revision(*at));
        let (Ok(one), Ok(other)) = (one.store.view().hash(at), other.store.view().hash(at)) else {
            continue;
        };
        if one.compact_revision == other.compact_revision {
            assert_eq!(one.hash, other.hash, "{when}, {at:?}");
            compared += 1;
        }
    }
    compared
}

/// [D20] Members that are alike never differ, however far each has got with a compaction, whenever each
/// commits and starts again.
#[test]
fn alike_members_have_the_same_hashes_through_ten_thousand_compactions() {
    const COMPACTIONS: u64 = 10_000;
    let mut dice = Dice(20);
    let mut members = [Member::new(), Member::new()];
    let (mut compacted, mut revision, mut compared, mut while_running) = (0, 1, 0, 0);
    for round in 0..COMPACTIONS {
        for _ in 0..=dice.below(4) {
            let key = format!("key-{}", dice.below(8));
            let is_delete = dice.below(4) == 0;
            for member in &mut members {
                match is_delete {
                    true => drop(member.delete(&key)),
                    false => drop(member.put(&key, &round.to_string())),
                }
            }
            revision = members[0].store.revision().0;
        }
        let at = revision - dice.below(2) as i64;
        if at <= compacted {
            continue;
        }
        for member in &mut members {
            member.store.schedule_compaction(Revision(at)).unwrap();
        }
        let revisions = [compacted, at, revision];
        compacted = at;
        // One goes on at a time, and sometimes neither to the end.
        let steps = dice.below(12);
        for _ in 0..steps {
            let member = &mut members[dice.below(2) as usize];
            let entries = 1 + dice.below(6) as usize;
            if member.store.compact_step(entries).unwrap() == CompactionState::WaitsForCommit
                || dice.below(8) == 0
            {
                member.commit();
            }
            let running = members.iter().map(|member| member.store.compaction_state());
            let is_running = running
                .filter(|state| *state == CompactionState::Runs)
                .count()
                == 1;
            while_running += u64::from(is_running);
        }
        let when = format!("compaction {round} at {at}");
        let [one, other] = &members;
        compared += compare(one, other, &revisions, &when);
        if dice.below(4) == 0 {
            members[dice.below(2) as usize].finish_compaction(10);
        }
        if dice.below(100) == 0 {
            let [one, other] = members;
            members = match dice.below(2) {
                0 => [one.restart(), other],
                _ => [one, other.restart()],
            };
        }
    }
    assert!(compared > COMPACTIONS, "{compared}");
    assert!(while_running > COMPACTIONS / 10, "{while_running}");
}

/// [D20] One bit that differs, in any record that counts, shows; of three members the one that has it.
#[test]
fn a_flipped_bit_on_one_member_shows_in_its_hash_alone() {
    let make = || {
        let mut member = Member::new();
        member.put("old", "and still there");
        for round in 0..3 {
            for key in 0..4 {
                member.put(&format!("key-{key}"), &round.to_string());
            }
        }
        member.compact(Revision(6));
        member.commit();
        member
    };
    let (sound, another) = (make(), make());
    let revision = sound.store.revision().0;
    assert_eq!(hash(&sound, revision), hash(&another, revision));
    // What the next compaction would delete of what the last one has left does not count.
    let counts = |key: &[u8]| {
        let at = RecordKey::decode(key).expect("a record's key").position;
        at.revision == Revision(2) || at.revision > Revision(6)
    };
    let mut flipped = 0;
    for (key, record) in sound.entries().iter().filter(|(key, _)| counts(key)) {
        for bit in 0..record.len() * 8 {
            let mut changed = BytesMut::from(&record[..]);
            changed[bit / 8] ^= 1 << (bit % 8);
            let mut member = make();
            let batch = member.store.batch_mut();
            batch.put("key", key.clone(), changed.freeze());
            member.commit();
            // A record that is none any more is found, too.
            if let Ok(found) = member.store.view().hash(Some(Revision(revision))) {
                let expected = hash(&sound, revision);
                assert_ne!(found.hash, expected.hash, "bit {bit} of {key:?}");
            }
            flipped += 1;
        }
    }
    assert!(flipped > 500, "{flipped}");
}
