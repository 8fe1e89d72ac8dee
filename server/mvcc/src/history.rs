//! What happened to one key, as far as the index must know it.
//!
//! Example: put (2), put (3), delete (4), put twice in later revisions (6, 9) gives
//!
//! ```text
//! newest   9_0   created 6, version 2
//! older    2_0  3_0  4_0t  6_0                 ascending, t marks a tombstone
//! ```
//!
//! Compacting at 5 leaves `older = 6_0`; at 4 it leaves `4_0t 6_0`, since a tombstone exactly at
//! the compaction's revision stays, for watchers that start there.

use std::sync::Arc;

use crate::revision::{Position, Revision, SUB_MAX};

/// Most changes in one piece of a key's past. A piece that readers hold is copied before the
/// next change of the key; 64 changes are 1 KiB.
const PIECE_LENGTH: usize = 64;

/// One change in 16 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Change {
    revision: Revision,
    /// The place in the revision, and the tombstone flag in the top bit.
    place: u32,
}

const TOMBSTONE: u32 = 1 << 31;

impl Change {
    pub(crate) fn new(position: Position, tombstone: bool) -> Change {
        assert!(
            position.sub <= SUB_MAX,
            "a transaction makes less than 2^31 changes"
        );
        let flag = if tombstone { TOMBSTONE } else { 0 };
        Change {
            revision: position.revision,
            place: position.sub | flag,
        }
    }

    pub(crate) fn position(self) -> Position {
        Position {
            revision: self.revision,
            sub: self.place & SUB_MAX,
        }
    }

    pub(crate) fn tombstone(self) -> bool {
        self.place & TOMBSTONE != 0
    }

    fn live(self) -> Option<Position> {
        (!self.tombstone()).then(|| self.position())
    }
}

/// All changes of a key that are still remembered; there is at least one.
#[derive(Debug, Clone)]
pub(crate) struct History {
    /// The newest change, taken apart so that `older_length` fills the gap of its alignment.
    newest_revision: Revision,
    newest_place: u32,
    /// Changes in `older`.
    older_length: u32,
    /// Revision of creation of the living key.
    created: Revision,
    version: i64,
    older: Option<Arc<Piece>>,
}

/// Consecutive changes of one key, never none, and those before them.
#[derive(Debug, Clone)]
struct Piece {
    changes: Vec<Change>,
    before: Option<Arc<Piece>>,
}

/// A living key's own numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Life {
    pub(crate) position: Position,
    pub(crate) created: Revision,
    pub(crate) version: i64,
}

impl History {
    /// A key that was never seen before.
    pub(crate) fn new(newest: Change, created: Revision, version: i64) -> History {
        History {
            newest_revision: newest.revision,
            newest_place: newest.place,
            older_length: 0,
            created,
            version,
            older: None,
        }
    }

    pub(crate) fn newest(&self) -> Change {
        Change {
            revision: self.newest_revision,
            place: self.newest_place,
        }
    }

    pub(crate) fn is_live(&self) -> bool {
        !self.newest().tombstone()
    }

    /// The key as it lives now.
    pub(crate) fn life(&self) -> Option<Life> {
        let position = self.newest().live()?;
        Some(Life {
            position,
            created: self.created,
            version: self.version,
        })
    }

    /// Number of changes that a compaction may one day forget: all but the value of now.
    pub(crate) fn spare(&self) -> u64 {
        u64::from(self.older_length) + u64::from(!self.is_live())
    }

    /// The key's last change up to and including `revision`.
    pub(crate) fn last_change(&self, revision: Revision) -> Option<Change> {
        if self.newest_revision <= revision {
            return Some(self.newest());
        }
        let mut piece = self.older.as_ref();
        while let Some(at) = piece {
            if at.changes[0].revision <= revision {
                let end = at
                    .changes
                    .partition_point(|change| change.revision <= revision);
                return Some(at.changes[end - 1]);
            }
            piece = at.before.as_ref();
        }
        None
    }

    /// Where the value of the key at `revision` stands.
    pub(crate) fn at(&self, revision: Revision) -> Option<Position> {
        self.last_change(revision)?.live()
    }

    /// Adds a change, which must be later than all others.
    pub(crate) fn push(&mut self, change: Change, created: Revision, version: i64) {
        assert!(
            change.position() > self.newest().position(),
            "a key's changes ascend"
        );
        let newest = self.newest();
        match &mut self.older {
            Some(piece) if piece.changes.len() < PIECE_LENGTH => {
                Arc::make_mut(piece).changes.push(newest);
            }
            older => {
                let piece = Piece {
                    changes: vec![newest],
                    before: older.take(),
                };
                *older = Some(Arc::new(piece));
            }
        }
        self.older_length += 1;
        self.newest_revision = change.revision;
        self.newest_place = change.place;
        self.created = created;
        self.version = version;
    }

    /// Whether [`History::compact`] would change anything.
    pub(crate) fn can_compact(&self, at: Revision) -> bool {
        self.is_gone(at) || self.stays_below(at) != self.older_length
    }

    /// Forgets what nobody may ask for once `at` is the oldest readable revision; false when
    /// nothing of the key stays.
    pub(crate) fn compact(&mut self, at: Revision) -> bool {
        if self.is_gone(at) {
            return false;
        }
        let stays = self.stays_below(at);
        if stays != self.older_length {
            self.keep_last(stays);
        }
        true
    }

    fn is_gone(&self, at: Revision) -> bool {
        self.newest().tombstone() && self.newest_revision < at
    }

    /// Number of changes in `older`, counted from the latest, that stay when compacted at `at`:
    /// those above it and the last one before them, unless that is a tombstone below `at`.
    fn stays_below(&self, at: Revision) -> u32 {
        let mut stays = 0;
        let mut piece = self.older.as_ref().filter(|_| self.newest_revision > at);
        while let Some(current) = piece {
            let above = current
                .changes
                .partition_point(|change| change.revision <= at);
            stays += current.changes.len() - above;
            if let Some(last) = current.changes[..above].last() {
                stays += usize::from(!last.tombstone() || last.revision == at);
                break;
            }
            piece = current.before.as_ref();
        }
        u32::try_from(stays).expect("not more than older_length")
    }

    fn keep_last(&mut self, count: u32) {
        let mut left = count as usize;
        let mut rebuilt: Vec<Vec<Change>> = Vec::new();
        let mut piece = self.older.as_ref();
        while let Some(current) = piece.filter(|_| left > 0) {
            let taken = left.min(current.changes.len());
            rebuilt.push(current.changes[current.changes.len() - taken..].to_vec());
            left -= taken;
            piece = current.before.as_ref();
        }
        self.older = rebuilt.into_iter().rev().fold(None, |before, changes| {
            Some(Arc::new(Piece { changes, before }))
        });
        self.older_length = count;
    }

    /// Bytes of memory beyond the struct itself; a piece that others hold too is counted whole.
    pub(crate) fn heap_bytes(&self) -> usize {
        let mut bytes = 0;
        let mut piece = self.older.as_ref();
        while let Some(current) = piece {
            bytes += size_of::<Piece>() + 2 * size_of::<usize>();
            bytes += current.changes.capacity() * size_of::<Change>();
            piece = current.before.as_ref();
        }
        bytes
    }
}

/// Whether the record of `change` stays on disk when compacted at `at`; `last` is the key's last
/// change up to `at`, as the index knows it. The last one is what readers at `at` see. A tombstone
/// exactly at `at` is an event that a watcher starting there must get, even if the same transaction
/// put the key anew; the index need not remember that one.
pub(crate) fn record_stays(change: Change, last: Option<Change>, at: Revision) -> bool {
    change.revision > at
        || match change.tombstone() {
            true => change.revision == at,
            false => last == Some(change),
        }
}

impl Drop for Piece {
    /// A key changed a million times has a long chain of pieces; freeing it piece by piece from
    /// the head would recurse as deep.
    fn drop(&mut self) {
        let mut next = self.before.take();
        while let Some(piece) = next {
            next = Arc::into_inner(piece).and_then(|mut piece| piece.before.take());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn build(changes: &[(i64, u32, bool)]) -> Option<(History, Vec<Change>)> {
        let list: Vec<Change> = changes
            .iter()
            .map(|&(revision, sub, tombstone)| {
                Change::new(
                    Position {
                        revision: Revision(revision),
                        sub,
                    },
                    tombstone,
                )
            })
            .collect();
        let (first, rest) = list.split_first()?;
        let mut history = History::new(*first, first.revision, 1);
        for change in rest {
            history.push(*change, change.revision, 1);
        }
        Some((history, list))
    }

    fn all(history: &History) -> Vec<Change> {
        let mut pieces = Vec::new();
        let mut piece = history.older.as_ref();
        while let Some(current) = piece {
            pieces.push(current.changes.clone());
            piece = current.before.as_ref();
        }
        pieces
            .into_iter()
            .rev()
            .flatten()
            .chain([history.newest()])
            .collect()
    }

    #[test]
    fn a_key_takes_forty_bytes_in_a_node() {
        assert_eq!(size_of::<History>(), 40);
    }

    #[test]
    fn a_key_changed_a_million_times_is_freed_without_recursion() {
        let position = |revision| Position::first(Revision(revision));
        let mut history = History::new(Change::new(position(1), false), Revision(1), 1);
        for revision in 2..1_000_000 {
            history.push(
                Change::new(position(revision), false),
                Revision(1),
                revision,
            );
        }
        assert_eq!(history.at(Revision(4_711)), Some(position(4_711)));
        let snapshot = history.clone();
        drop(history);
        drop(snapshot);
    }

    proptest! {
        #[test]
        fn history_answers_and_compacts_like_a_plain_list(
            steps in prop::collection::vec((0_i64..3, any::<bool>()), 1..200),
            compactions in prop::collection::vec(0_i64..300, 0..3),
        ) {
            let (mut revision, mut sub) = (1, 0);
            let changes: Vec<_> = steps.iter().map(|&(gap, tombstone)| {
                sub = if gap == 0 { sub + 1 } else { 0 };
                revision += gap;
                (revision, sub, tombstone)
            }).collect();
            let (mut history, mut list) = build(&changes).expect("not empty");
            let before = history.clone();
            for at in compactions.into_iter().map(Revision) {
                let last = list.iter().rev().find(|change| change.revision <= at).copied();
                let stays: Vec<_> = list
                    .iter()
                    .copied()
                    .filter(|change| change.position() >= last.map_or(change.position(), Change::position))
                    .filter(|change| record_stays(*change, last, at))
                    .collect();
                prop_assert_eq!(history.can_compact(at), stays != list);
                prop_assert_eq!(history.compact(at), !stays.is_empty());
                list = stays;
                if list.is_empty() {
                    break;
                }
                prop_assert_eq!(&all(&history), &list);
                prop_assert_eq!(history.spare() as usize,
                    list.len() - usize::from(history.is_live()));
                prop_assert!(!history.can_compact(at));
            }
            for asked in (0..revision + 2).map(Revision) {
                if let Some(last) = list.iter().rev().find(|change| change.revision <= asked) {
                    prop_assert_eq!(history.last_change(asked), Some(*last));
                } else if !list.is_empty() {
                    prop_assert_eq!(history.last_change(asked), None);
                }
            }
            let untouched: Vec<_> = all(&before).iter().map(|change| change.position()).collect();
            prop_assert_eq!(untouched.len(), changes.len());
        }
    }
}
