//! Which backups go. Pure.

use std::collections::BTreeSet;

use crate::spec::Retention;

const HOUR: u64 = 3600;
const DAY: u64 = 24 * HOUR;
const WEEK: u64 = 7 * DAY;
/// 1970 began on a Thursday; weeks begin on Mondays.
const MONDAY_SHIFT: u64 = 3 * DAY;

/// The times of `backups` (seconds since 1970) that `retention` does not keep.
///
/// Of each class the newest backup of each of the last so many hours, days or weeks *that have
/// one* stays, so a host that was off for a month does not lose its old backups at its first new
/// one. The newest of all always stays.
pub(super) fn to_prune(backups: &BTreeSet<u64>, retention: Retention) -> BTreeSet<u64> {
    let mut kept: BTreeSet<u64> = backups.last().copied().into_iter().collect();
    keep_class(backups, retention.hourly, |time| time / HOUR, &mut kept);
    keep_class(backups, retention.daily, |time| time / DAY, &mut kept);
    keep_class(
        backups,
        retention.weekly,
        |time| (time + MONDAY_SHIFT) / WEEK,
        &mut kept,
    );
    backups.difference(&kept).copied().collect()
}

fn keep_class(
    backups: &BTreeSet<u64>,
    count: u32,
    period: impl Fn(u64) -> u64,
    kept: &mut BTreeSet<u64>,
) {
    let mut left = count;
    let mut last_period = None;
    for time in backups.iter().rev() {
        if left == 0 {
            return;
        }
        if last_period != Some(period(*time)) {
            last_period = Some(period(*time));
            kept.insert(*time);
            left -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[track_caller]
    fn check(backups: &[u64], retention: (u32, u32, u32), kept: &[u64]) {
        let (hourly, daily, weekly) = retention;
        let backups: BTreeSet<u64> = backups.iter().copied().collect();
        let pruned = to_prune(
            &backups,
            Retention {
                hourly,
                daily,
                weekly,
            },
        );
        let left: Vec<u64> = backups.difference(&pruned).copied().collect();
        assert_eq!(left, kept);
    }

    #[test]
    fn the_newest_of_each_period_stays() {
        let day = |day: u64, hour: u64| day * DAY + hour * HOUR;
        check(
            &[day(0, 1), day(0, 2), day(1, 1), day(1, 2)],
            (0, 2, 0),
            &[day(0, 2), day(1, 2)],
        );
        check(
            &[day(0, 1), day(0, 2), day(1, 1), day(1, 2)],
            (2, 0, 0),
            &[day(1, 1), day(1, 2)],
        );
        // Day 3 is a Sunday, day 4 a Monday.
        check(
            &[day(2, 0), day(3, 0), day(4, 0), day(5, 0)],
            (0, 0, 2),
            &[day(3, 0), day(5, 0)],
        );
        check(&[], (1, 1, 1), &[]);
    }

    #[test]
    fn a_pause_of_months_costs_no_old_backup() {
        check(&[0, DAY, 90 * DAY], (0, 3, 0), &[0, DAY, 90 * DAY]);
    }

    proptest! {
        #[test]
        fn the_newest_always_stays_and_pruning_twice_is_pruning_once(
            backups in proptest::collection::btree_set(0..100 * DAY, 0..60),
            hourly in 0..30u32, daily in 0..10u32, weekly in 0..6u32,
        ) {
            let retention = Retention { hourly, daily, weekly };
            let pruned = to_prune(&backups, retention);
            let left: BTreeSet<u64> = backups.difference(&pruned).copied().collect();
            prop_assert_eq!(left.last(), backups.last());
            let bound = usize::try_from((hourly + daily + weekly).max(1)).expect("small");
            prop_assert!(left.len() <= bound);
            prop_assert_eq!(to_prune(&left, retention), BTreeSet::new());
        }
    }
}
