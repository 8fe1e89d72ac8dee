//! A member alone loses power again and again, at any moment, with any part of what it had not
//! synced: nothing that was delivered is ever lost or changed.

use consensus::{Entry, Role};

use crate::member::{Dice, Disk, Member, text};

const SEEDS: u64 = 300;
const STEPS: u64 = 200;

#[test]
fn what_was_delivered_survives_every_crash() {
    let mut crashes = 0;
    for seed in 0..SEEDS {
        crashes += live_and_crash(seed);
    }
    assert!(crashes > SEEDS, "the runs hardly crashed: {crashes}");
}

fn live_and_crash(seed: u64) -> u64 {
    let mut dice = Dice::new(seed);
    let mut member = Member::start(1, seed, Disk::bootstrapped(&[1]));
    let mut delivered: Vec<Entry> = Vec::new();
    let mut crashes = 0;
    for step in 0..STEPS {
        match dice.below(8) {
            0 | 1 => {
                // Refused while there is no leader.
                let _ = member.node.propose(text(format!("{seed}/{step}")));
            }
            2 | 3 => {
                member.take_work();
            }
            4 | 5 => {
                member.finish_write();
            }
            6 => member.node.tick(),
            _ if dice.one_in(2) => member.node.campaign(),
            _ => {
                remember(&mut delivered, &member, seed);
                let unsynced = member.disk.unsynced() as u64;
                member.disk.lose(dice.below(unsynced + 1) as usize);
                member = Member::start(1, seed, member.disk);
                crashes += 1;
            }
        }
    }
    member.settle();
    member.node.campaign();
    member.settle();
    assert_eq!(member.node.status().role, Role::Leader, "seed {seed}");
    remember(&mut delivered, &member, seed);
    let status = member.node.status();
    assert_eq!(delivered.len() as u64, status.commit.0, "seed {seed}");
    crashes
}

/// Everything is delivered anew after a start; it must be what was delivered before.
fn remember(delivered: &mut Vec<Entry>, member: &Member, seed: u64) {
    let common = delivered.len().min(member.applied.len());
    assert_eq!(delivered[..common], member.applied[..common], "seed {seed}");
    if member.applied.len() > common {
        delivered.extend_from_slice(&member.applied[common..]);
    }
}
