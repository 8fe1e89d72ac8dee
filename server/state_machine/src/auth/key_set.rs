//! Keys that somebody may touch: intervals without gaps or overlaps, so that one look decides.

use bytes::{BufMut, Bytes, BytesMut};
use mvcc::KeyRange;

/// A set of keys.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct KeySet {
    /// Ascending; between any two lies a key that is not in the set.
    intervals: Vec<(Bytes, Edge)>,
}

/// The first key behind an interval.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Edge {
    Key(Bytes),
    Infinity,
}

impl KeySet {
    /// The union of some ranges.
    pub(super) fn new(ranges: impl Iterator<Item = KeyRange>) -> KeySet {
        let mut intervals: Vec<(Bytes, Edge)> = ranges
            .map(|range| interval(&range))
            .filter(|(from, to)| Edge::Key(from.clone()) < *to)
            .collect();
        intervals.sort_unstable();
        let mut merged: Vec<(Bytes, Edge)> = Vec::with_capacity(intervals.len());
        for (from, to) in intervals {
            match merged.last_mut() {
                Some((_, end)) if Edge::Key(from.clone()) <= *end => {
                    if to > *end {
                        *end = to;
                    }
                }
                _ => merged.push((from, to)),
            }
        }
        KeySet { intervals: merged }
    }

    /// Whether every key of a range is in the set.
    pub(super) fn covers(&self, range: &KeyRange) -> bool {
        let (from, to) = interval(range);
        let after = self.intervals.partition_point(|(start, _)| *start <= from);
        match after.checked_sub(1) {
            Some(place) => {
                let (_, end) = &self.intervals[place];
                Edge::Key(from) < *end && to <= *end
            }
            None => false,
        }
    }
}

fn interval(range: &KeyRange) -> (Bytes, Edge) {
    match range {
        KeyRange::Single(key) => (key.clone(), Edge::Key(successor(key))),
        KeyRange::Range { from, to } => (from.clone(), Edge::Key(to.clone())),
        KeyRange::From(from) => (from.clone(), Edge::Infinity),
        KeyRange::All => (Bytes::from_static(b"\0"), Edge::Infinity),
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

    /// Keys of one or two bytes out of four.
    fn keys() -> Vec<Bytes> {
        let one = (0..4u8).map(|a| Bytes::from(vec![a]));
        let two = (0..4u8).flat_map(|a| (0..4u8).map(move |b| Bytes::from(vec![a, b])));
        one.chain(two).collect()
    }

    fn range() -> impl Strategy<Value = KeyRange> {
        let key = || prop::sample::select(keys());
        prop_oneof![
            key().prop_map(KeyRange::Single),
            (key(), key()).prop_map(|(from, to)| KeyRange::Range { from, to }),
            key().prop_map(KeyRange::From),
            Just(KeyRange::All),
        ]
    }

    /// [AU-14]
    #[test]
    fn a_range_is_covered_without_gap_or_not_at_all() {
        let range = |from: &'static str, to: &'static str| KeyRange::Range {
            from: from.into(),
            to: to.into(),
        };
        let set = KeySet::new([range("a", "c"), range("c", "f"), range("g", "i")].into_iter());
        assert!(set.covers(&range("b", "f")));
        assert!(!set.covers(&range("b", "h")));
        assert!(!set.covers(&KeyRange::From("a".into())));
        assert!(!set.covers(&KeyRange::Single("f".into())));
        let open = KeySet::new([range("a", "c"), KeyRange::From("b".into())].into_iter());
        assert!(open.covers(&KeyRange::From("a".into())));
        assert!(!open.covers(&KeyRange::All));
        assert!(KeySet::new([KeyRange::All].into_iter()).covers(&KeyRange::All));
    }

    proptest! {
        #[test]
        fn covers_what_the_ranges_together_hold(
            ranges in prop::collection::vec(range(), 0..6),
            asked in range(),
        ) {
            let set = KeySet::new(ranges.clone().into_iter());
            let single = |key: &Bytes| KeyRange::Single(key.clone());
            for key in keys() {
                let held = ranges.iter().any(|range| range.contains(&key));
                prop_assert_eq!(set.covers(&single(&key)), held, "{:?}", key);
            }
            if set.covers(&asked) {
                for key in keys().iter().filter(|key| asked.contains(key)) {
                    prop_assert!(set.covers(&single(key)), "{:?}", key);
                }
            }
        }
    }
}
