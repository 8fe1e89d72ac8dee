//! What becomes of messages on their way: lost, late, doubled, or out of order.

use std::collections::BTreeSet;

use holdfast_tests::dice::Dice;

use crate::scenario::{MILLISECOND, Micros, Scenario};

/// Late messages take up to this long: longer than an election, or the retry of a read.
const LATE_MAX: Micros = 1_500 * MILLISECOND;
/// A snapshot takes so many times longer than another message.
const SNAPSHOT_FACTOR: Micros = 20;
/// A snapshot that takes longer is given up by its sender.
const SNAPSHOT_MAX: Micros = 4_000 * MILLISECOND;

pub(crate) struct Network {
    lost_permille: u64,
    doubled_permille: u64,
    late_permille: u64,
    delay: Micros,
    /// Pairs (from, to) between which nothing comes through.
    cuts: BTreeSet<(u64, u64)>,
    /// Hosts whose messages all are late.
    slow: BTreeSet<u64>,
}

impl Network {
    pub(crate) fn new(scenario: &Scenario) -> Network {
        Network {
            lost_permille: scenario.lost_permille,
            doubled_permille: scenario.doubled_permille,
            late_permille: scenario.late_permille,
            delay: scenario.delay,
            cuts: BTreeSet::new(),
            slow: BTreeSet::new(),
        }
    }

    pub(crate) fn cut(&mut self, from: u64, to: u64) {
        self.cuts.insert((from, to));
    }

    pub(crate) fn slow_down(&mut self, from: u64) {
        self.slow.insert(from);
    }

    pub(crate) fn heal(&mut self) {
        self.cuts.clear();
        self.slow.clear();
    }

    /// No more faults.
    pub(crate) fn calm_down(&mut self) {
        self.heal();
        (
            self.lost_permille,
            self.doubled_permille,
            self.late_permille,
        ) = (0, 0, 0);
    }

    pub(crate) fn is_cut(&self, from: u64, to: u64) -> bool {
        self.cuts.contains(&(from, to))
    }

    /// After which times the copies of a message arrive.
    pub(crate) fn carry(&self, from: u64, to: u64, dice: &mut Dice) -> Vec<Micros> {
        if self.is_cut(from, to) || dice.below(1000) < self.lost_permille {
            return Vec::new();
        }
        let copies = if dice.below(1000) < self.doubled_permille {
            2
        } else {
            1
        };
        (0..copies).map(|_| self.delay(from, dice)).collect()
    }

    /// After which time a snapshot arrives; it comes by a connection of its own, once or not at all.
    pub(crate) fn carry_snapshot(&self, from: u64, to: u64, dice: &mut Dice) -> Option<Micros> {
        let is_lost = self.is_cut(from, to) || dice.below(1000) < 2 * self.lost_permille;
        (!is_lost).then(|| (SNAPSHOT_FACTOR * self.delay(from, dice)).min(SNAPSHOT_MAX))
    }

    fn delay(&self, from: u64, dice: &mut Dice) -> Micros {
        match self.slow.contains(&from) || dice.below(1000) < self.late_permille {
            true => dice.below(LATE_MAX),
            false => 100 + dice.below(self.delay),
        }
    }
}
