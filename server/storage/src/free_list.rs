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

    /// Takes `count` neighbouring pages, the lowest ones for a single page so that the end of the
    /// file empties, the closest fit for more. `None` when no run is long enough.
    pub(crate) fn take(&mut self, count: u64) -> Option<PageNumber> {
        let (first, length) = match count {
            1 => self
                .runs
                .first_key_value()
                .map(|(first, length)| (*first, *length))?,
            _ => self
                .by_length
                .range((count, 0)..)
                .next()
                .map(|(length, first)| (*first, *length))?,
        };
        self.remove(first, length);
        if length > count {
            self.add(first + count, length - count);
        }
        self.free -= count;
        Some(PageNumber(first))
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

    #[test]
    fn pages_wait_until_both_metas_and_all_readers_have_moved_on() {
        let mut list = FreeList::default();
        list.give_up(5, PageNumber(10), 2);
        list.release(6, u64::MAX);
        assert_eq!(list.take(1), None, "the older meta page still names them");
        list.release(7, 4);
        assert_eq!(list.take(1), None, "a reader of state 4 still sees them");
        list.release(7, 5);
        assert_eq!(list.take(1), Some(PageNumber(10)));
        assert_eq!(list.pages(), 1);
    }

    #[test]
    fn neighbours_join_and_the_closest_fit_is_taken() {
        let mut list = FreeList::default();
        for (first, count) in [(10, 1), (12, 1), (20, 5), (11, 1), (30, 4)] {
            list.give_up(1, PageNumber(first), count);
        }
        list.release(3, u64::MAX);
        assert_eq!(list.take(3), Some(PageNumber(10)));
        assert_eq!(list.take(4), Some(PageNumber(30)));
        assert_eq!(list.take(6), None);
        assert_eq!(list.take(1), Some(PageNumber(20)));
        assert_eq!(list.pages(), 4);
    }
}
