//! Finds by a key who is interested in it.

use std::collections::HashMap;

use bytes::{BufMut, Bytes, BytesMut};
use interavl::IntervalTree;
use mvcc::KeyRange;

/// Numbers by the ranges of keys that they stand for. Those of a single key cost nothing when another
/// key is looked for.
#[derive(Debug, Default)]
pub(crate) struct KeyIndex {
    singles: HashMap<Bytes, Vec<usize>>,
    ranges: IntervalTree<Edge, Vec<usize>>,
}

/// Where a range begins or ends.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Edge {
    Key(Bytes),
    Infinity,
}

impl KeyIndex {
    /// Adds a number under a range, which must not be empty.
    pub(crate) fn insert(&mut self, keys: &KeyRange, number: usize) {
        match keys {
            KeyRange::Single(key) => self.singles.entry(key.clone()).or_default().push(number),
            range => {
                let edges = edges(range);
                match self.ranges.get_mut(&edges) {
                    Some(numbers) => numbers.push(number),
                    None => drop(self.ranges.insert(edges, vec![number])),
                }
            }
        }
    }

    /// Takes a number away that was added under this range.
    pub(crate) fn remove(&mut self, keys: &KeyRange, number: usize) {
        match keys {
            KeyRange::Single(key) => {
                let numbers = self.singles.get_mut(key).expect("it was added");
                numbers.retain(|other| *other != number);
                if numbers.is_empty() {
                    self.singles.remove(key);
                }
            }
            range => {
                let edges = edges(range);
                let numbers = self.ranges.get_mut(&edges).expect("it was added");
                numbers.retain(|other| *other != number);
                if numbers.is_empty() {
                    self.ranges.remove(&edges);
                }
            }
        }
    }

    /// Every number whose range holds `key`.
    pub(crate) fn find(&self, key: &Bytes, mut found: impl FnMut(usize)) {
        for number in self.singles.get(key).into_iter().flatten() {
            found(*number);
        }
        if self.ranges.max_interval_end().is_none() {
            return;
        }
        let point = Edge::Key(key.clone())..Edge::Key(successor(key));
        for (_, numbers) in self.ranges.iter_overlaps(&point) {
            numbers.iter().for_each(|number| found(*number));
        }
    }
}

fn edges(keys: &KeyRange) -> std::ops::Range<Edge> {
    match keys {
        KeyRange::Single(key) => Edge::Key(key.clone())..Edge::Key(successor(key)),
        KeyRange::Range { from, to } => Edge::Key(from.clone())..Edge::Key(to.clone()),
        KeyRange::From(from) => Edge::Key(from.clone())..Edge::Infinity,
        KeyRange::All => Edge::Key(Bytes::new())..Edge::Infinity,
    }
}

/// The next key in byte order.
fn successor(key: &[u8]) -> Bytes {
    let mut next = BytesMut::with_capacity(key.len() + 1);
    next.put_slice(key);
    next.put_u8(0);
    next.freeze()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::watch::is_empty_range;

    fn key() -> impl Strategy<Value = Bytes> {
        prop::collection::vec(0..3u8, 1..4).prop_map(Bytes::from)
    }

    fn range() -> impl Strategy<Value = KeyRange> {
        prop_oneof![
            key().prop_map(KeyRange::Single),
            (key(), key())
                .prop_map(|(from, to)| KeyRange::Range { from, to })
                .prop_filter("holds a key", |range| !is_empty_range(range)),
            key().prop_map(KeyRange::From),
            Just(KeyRange::All),
        ]
    }

    proptest! {
        #[test]
        fn finds_what_a_look_at_every_range_finds(
            ranges in prop::collection::vec(range(), 0..40),
            gone in prop::collection::vec(any::<prop::sample::Index>(), 0..20),
            keys in prop::collection::vec(key(), 1..10),
        ) {
            let mut index = KeyIndex::default();
            let mut live: Vec<(usize, KeyRange)> = ranges.into_iter().enumerate().collect();
            for (number, range) in &live {
                index.insert(range, *number);
            }
            for at in gone {
                if !live.is_empty() {
                    let (number, range) = live.remove(at.index(live.len()));
                    index.remove(&range, number);
                }
            }
            for key in keys {
                let mut found = Vec::new();
                index.find(&key, |number| found.push(number));
                found.sort_unstable();
                let expected: Vec<usize> = live
                    .iter()
                    .filter(|(_, range)| range.contains(&key))
                    .map(|(number, _)| *number)
                    .collect();
                prop_assert_eq!(found, expected);
            }
        }
    }
}
