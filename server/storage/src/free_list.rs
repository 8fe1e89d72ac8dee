//! Which pages hold nothing, and from when on they may be written again.
//!
//! Invariants:
//! - a page is in at most one of: the trees of either meta page, the tree of an open reader, free;
//! - a page that transaction F gave up is free for transaction N only when N >= F + 2, for then
//!   both meta pages name trees without it, and when no reader looks at a state before F.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::page::PageNumber;

/// Free pages as runs of neighbours, and pages that become free once nobody can see them.
#[derive(Debug, Default, Clone)]
pub(crate) struct FreeList {
    /// First page of a run and its length; runs never touch each other.
    runs: BTreeMap<u64, u64>,
    /// The same runs as (length, first page), to find the smallest that fits.
    by_length: BTreeSet<(u64, u64)>,
    /// Pages given up by a transaction: (transaction, first page, length), oldest first.
    pending: VecDeque<(u64, u64, u64)>,
    free: u64,
    waiting: u64,
}

impl FreeList {
    /// Pages that hold nothing, whether they may be written yet or not.
    pub(crate) fn pages(&self) -> u64 {
        self.free + self.waiting
    }

    /// Says that `transaction` no longer uses `count` pages from `first` on.
    pub(crate) fn give_up(&mut self, transaction: u64, first: PageNumber, count: u64) {
        debug_assert!(self.pending.back().is_none_or(|last| last.0 <= transaction));
        self.pending.push_back((transaction, first.0, count));
        self.waiting += count;
    }

    /// Frees what `transaction`, about to begin, may overwrite, given the oldest state that a
    /// reader still looks at.
    pub(crate) fn release(&mut self, transaction: u64, oldest_reader: u64) {
        while let Some((given_up, first, count)) = self.pending.front().copied() {
            if given_up + 2 > transaction || oldest_reader < given_up {
                break;
            }
            self.pending.pop_front();
            self.waiting -= count;
            self.free += count;
            self.insert(first, count);
        }
    }

    /// Takes `count` neighbouring pages below page `limit` out of the shortest run that has so many, the lowest
    /// of these, so that long runs stay whole for large nodes. `None` when no run is long enough.
    pub(crate) fn take_below(&mut self, count: u64, limit: u64) -> Option<PageNumber> {
        let mut at_least = count;
        let (length, first) = loop {
            // The lowest run of the next length; lengths are few.
            let (length, first) = *self.by_length.range((at_least, 0)..).next()?;
            if first + count <= limit {
                break (length, first);
            }
            at_least = length + 1;
        };
        self.remove(first, length);
        if length > count {
            self.add(first + count, length - count);
        }
        self.free -= count;
        Some(PageNumber(first))
    }

    /// Forgets the free pages at the end of a file of `high_water` pages, down to page `at_least`; how many pages
    /// are left.
    pub(crate) fn cut(&mut self, high_water: u64, at_least: u64) -> u64 {
        match self
            .runs
            .last_key_value()
            .map(|(first, length)| (*first, *length))
        {
            Some((first, length)) if first + length == high_water && high_water > at_least => {
                self.remove(first, length);
                let left = at_least.max(first);
                if left > first {
                    self.add(first, left - first);
                }
                self.free -= high_water - left;
                left
            }
            _ => high_water,
        }
    }

    fn insert(&mut self, first: u64, count: u64) {
        let (mut start, mut length) = (first, count);
        if let Some((before, before_length)) = self
            .runs
            .range(..first)
            .next_back()
            .map(|run| (*run.0, *run.1))
        {
            assert!(
                before + before_length <= first,
                "page {first} is freed twice"
            );
            if before + before_length == first {
                self.remove(before, before_length);
                (start, length) = (before, length + before_length);
            }
        }
        if let Some((after, after_length)) = self.runs.range(first..).next().map(|r| (*r.0, *r.1)) {
            assert!(first + count <= after, "page {after} is freed twice");
            if first + count == after {
                self.remove(after, after_length);
                length += after_length;
            }
        }
        self.add(start, length);
    }

    fn add(&mut self, first: u64, length: u64) {
        self.runs.insert(first, length);
        self.by_length.insert((length, first));
    }

    fn remove(&mut self, first: u64, length: u64) {
        self.runs.remove(&first);
        self.by_length.remove(&(length, first));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(list: &mut FreeList, count: u64) -> Option<PageNumber> {
        list.take_below(count, u64::MAX)
    }

    #[test]
    fn pages_wait_until_both_metas_and_all_readers_have_moved_on() {
        let mut list = FreeList::default();
        list.give_up(5, PageNumber(10), 2);
        list.release(6, u64::MAX);
        assert_eq!(
            take(&mut list, 1),
            None,
            "the older meta page still names them"
        );
        list.release(7, 4);
        assert_eq!(
            take(&mut list, 1),
            None,
            "a reader of state 4 still sees them"
        );
        list.release(7, 5);
        assert_eq!(take(&mut list, 1), Some(PageNumber(10)));
        assert_eq!(list.pages(), 1);
    }

    #[test]
    fn the_end_is_cut_and_low_places_are_found() {
        let mut list = FreeList::default();
        for (first, count) in [(10, 3), (20, 2), (40, 4), (90, 10)] {
            list.give_up(1, PageNumber(first), count);
        }
        list.release(3, u64::MAX);
        assert_eq!(list.take_below(2, 12), Some(PageNumber(10)));
        assert_eq!(list.take_below(2, 21), None, "20 and 21 reach page 21");
        assert_eq!(list.take_below(2, 22), Some(PageNumber(20)));
        assert_eq!(list.take_below(1, 13), Some(PageNumber(12)));
        assert_eq!(list.take_below(1, 40), None);
        assert_eq!(list.take_below(1, 41), Some(PageNumber(40)));
        assert_eq!(list.cut(101, 4), 101, "page 100 is in use");
        assert_eq!(list.cut(100, 95), 95);
        assert_eq!((list.cut(95, 4), list.pages()), (90, 3));
    }

    #[test]
    fn neighbours_join_and_the_closest_fit_is_taken() {
        let mut list = FreeList::default();
        for (first, count) in [(10, 1), (12, 1), (20, 5), (11, 1), (30, 4)] {
            list.give_up(1, PageNumber(first), count);
        }
        list.release(3, u64::MAX);
        assert_eq!(take(&mut list, 3), Some(PageNumber(10)));
        assert_eq!(take(&mut list, 4), Some(PageNumber(30)));
        assert_eq!(take(&mut list, 6), None);
        assert_eq!(take(&mut list, 1), Some(PageNumber(20)));
        assert_eq!(list.pages(), 4);
    }
}
