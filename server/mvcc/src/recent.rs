//! Records that the committed file does not hold yet.
//!
//! The writer appends to segments of fixed size whose slots are set once. Readers hold the
//! segments and a length: whatever the writer does later, they see the records up to there.
//! Committed records go a segment at a time, as soon as a segment holds nothing newer.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;

use crate::revision::{Position, RecordKey, Revision};

/// Records in a segment. One segment takes 64 KiB without its records, and publishing a view
/// copies nothing but a pointer unless a segment was added.
const SEGMENT_RECORDS: usize = 1024;

/// A record with its key.
#[derive(Debug, Clone)]
pub(crate) struct RecentRecord {
    pub(crate) key: RecordKey,
    pub(crate) record: Bytes,
}

/// The records from the first segment that is still needed up to a certain one. A clone is a
/// snapshot.
#[derive(Debug, Clone, Default)]
pub(crate) struct Recent {
    segments: Arc<Vec<Arc<Segment>>>,
    /// Records in all segments together.
    length: usize,
    bytes: usize,
}

#[derive(Debug)]
struct Segment {
    slots: Box<[OnceLock<RecentRecord>]>,
}

impl Recent {
    /// Bytes of the records that are held, with their keys.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The record at `position`.
    pub(crate) fn get(&self, position: Position) -> Option<&RecentRecord> {
        let at = self.first_from(position);
        let found = self.record(at)?;
        (found.key.position == position).then_some(found)
    }

    /// The records from `position` on, in order.
    pub(crate) fn from(&self, position: Position) -> impl Iterator<Item = &RecentRecord> {
        (self.first_from(position)..self.length).map_while(|at| self.record(at))
    }

    /// Appends a record later than all others.
    pub(crate) fn push(&mut self, key: RecordKey, record: Bytes) {
        debug_assert!(
            self.length == 0
                || self
                    .record(self.length - 1)
                    .is_some_and(|last| last.key.position < key.position)
        );
        if self.length == self.segments.len() * SEGMENT_RECORDS {
            let slots = (0..SEGMENT_RECORDS).map(|_| OnceLock::new()).collect();
            Arc::make_mut(&mut self.segments).push(Arc::new(Segment { slots }));
        }
        self.bytes += held_bytes(&record);
        let segment = &self.segments[self.length / SEGMENT_RECORDS];
        let slot = &segment.slots[self.length % SEGMENT_RECORDS];
        assert!(
            slot.set(RecentRecord { key, record }).is_ok(),
            "a slot is set once"
        );
        self.length += 1;
    }

    /// Lets go of segments that hold nothing newer than `revision`.
    pub(crate) fn drop_up_to(&mut self, revision: Revision) {
        if self.record_is_old(self.length.checked_sub(1), revision) {
            *self = Recent::default();
            return;
        }
        let full = self.length / SEGMENT_RECORDS;
        let old = (0..full)
            .take_while(|segment| {
                self.record_is_old(Some((segment + 1) * SEGMENT_RECORDS - 1), revision)
            })
            .count();
        if old == 0 {
            return;
        }
        let segments = Arc::make_mut(&mut self.segments);
        for segment in segments.drain(..old) {
            let records = segment.slots.iter().filter_map(OnceLock::get);
            self.bytes -= records
                .map(|record| held_bytes(&record.record))
                .sum::<usize>();
        }
        self.length -= old * SEGMENT_RECORDS;
    }

    fn record_is_old(&self, at: Option<usize>, revision: Revision) -> bool {
        at.and_then(|at| self.record(at))
            .is_some_and(|record| record.key.position.revision <= revision)
    }

    fn record(&self, at: usize) -> Option<&RecentRecord> {
        if at >= self.length {
            return None;
        }
        self.segments[at / SEGMENT_RECORDS].slots[at % SEGMENT_RECORDS].get()
    }

    /// The place of the first record that is not before `position`.
    fn first_from(&self, position: Position) -> usize {
        let (mut low, mut high) = (0, self.length);
        while low < high {
            let middle = (low + high) / 2;
            match self.record(middle) {
                Some(record) if record.key.position < position => low = middle + 1,
                _ => high = middle,
            }
        }
        low
    }
}

fn held_bytes(record: &Bytes) -> usize {
    record.len() + crate::revision::TOMBSTONE_KEY_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn position(number: usize) -> Position {
        Position {
            revision: Revision(2 + number as i64 / 3),
            sub: (number % 3) as u32,
        }
    }

    fn record(number: usize) -> Bytes {
        Bytes::from(number.to_string())
    }

    proptest! {
        #[test]
        fn snapshots_keep_what_they_saw_while_the_buffer_moves_on(
            rounds in prop::collection::vec((0_usize..1500, 0_usize..4000), 1..8)
        ) {
            let mut recent = Recent::default();
            let mut written = 0;
            let mut dropped_up_to = Revision(0);
            let mut snapshots = Vec::new();
            for (more, drop_at) in rounds {
                for number in written..written + more {
                    recent.push(RecordKey::live(position(number)), record(number));
                }
                written += more;
                snapshots.push((recent.clone(), written, dropped_up_to));
                dropped_up_to = dropped_up_to.max(position(drop_at.min(written)).revision);
                recent.drop_up_to(dropped_up_to);
                snapshots.push((recent.clone(), written, dropped_up_to));
            }
            for (snapshot, length, dropped) in snapshots {
                for number in 0..written + 3 {
                    let found = snapshot.get(position(number));
                    if number >= length {
                        prop_assert!(found.is_none());
                    } else if position(number).revision > dropped {
                        prop_assert_eq!(&found.expect("still held").record, &record(number));
                    }
                }
                let held: Vec<_> = snapshot.from(position(0)).collect();
                let bytes: usize = held.iter().map(|record| held_bytes(&record.record)).sum();
                prop_assert_eq!(snapshot.bytes(), bytes);
                prop_assert!(held.is_sorted_by_key(|record| record.key.position));
            }
        }
    }
}
