//! Numbers that order the history: revisions and the positions of changes inside them.

use std::fmt;

/// A revision of the store: one write transaction that changed something. Read from a request it
/// may be any number; of a change that happened it is never negative.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Revision(pub i64);

impl Revision {
    /// The revision of a store that nothing was ever written to.
    pub const FIRST: Revision = Revision(1);

    /// The revision after this one.
    pub fn next(self) -> Revision {
        Revision(self.0 + 1)
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

/// Where one change stands in history: its revision, and its place among that revision's changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// The revision that made the change.
    pub revision: Revision,
    /// The place in that revision, counted from 0 in order of execution.
    pub sub: u32,
}

impl Position {
    /// The position of the first change of `revision`.
    pub fn first(revision: Revision) -> Position {
        Position { revision, sub: 0 }
    }
}

impl fmt::Display for Position {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}_{}", self.revision, self.sub)
    }
}

/// Greatest place inside a revision. The index keeps the place in 31 bits; a transaction is
/// bounded far below that by the size of a request and the number of live keys.
pub const SUB_MAX: u32 = (1 << 31) - 1;

/// Length in bytes of a live record's key in bucket `key`.
pub const RECORD_KEY_BYTES: usize = 17;

/// Length in bytes of a tombstone's key in bucket `key`.
pub const TOMBSTONE_KEY_BYTES: usize = 18;

const SEPARATOR: u8 = b'_';
const TOMBSTONE_MARK: u8 = b't';

/// The key of a record in bucket `key`, as etcd stores it:
///
/// ```text
/// 0               8   9              17  (18)
/// +---------------+---+---------------+---+
/// | revision, BE  | _ | sub, BE       | t |   the mark `t` stands on tombstones only
/// +---------------+---+---------------+---+
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RecordKey {
    /// Where the change stands in history.
    pub position: Position,
    /// Whether the change deleted its key.
    pub tombstone: bool,
}

impl RecordKey {
    /// The key of a change that wrote a value.
    pub fn live(position: Position) -> RecordKey {
        RecordKey {
            position,
            tombstone: false,
        }
    }

    /// The key of a change that deleted.
    pub fn tombstone(position: Position) -> RecordKey {
        RecordKey {
            position,
            tombstone: true,
        }
    }

    /// Writes the stored form into a buffer and returns it with the number of bytes that count.
    pub fn encode(self) -> ([u8; TOMBSTONE_KEY_BYTES], usize) {
        let mut bytes = [0; TOMBSTONE_KEY_BYTES];
        bytes[..8].copy_from_slice(&self.position.revision.0.to_be_bytes());
        bytes[8] = SEPARATOR;
        bytes[9..17].copy_from_slice(&i64::from(self.position.sub).to_be_bytes());
        bytes[17] = TOMBSTONE_MARK;
        (
            bytes,
            if self.tombstone {
                TOMBSTONE_KEY_BYTES
            } else {
                RECORD_KEY_BYTES
            },
        )
    }

    /// Reads the stored form; `None` when the bytes are not one, or hold a place beyond
    /// [`SUB_MAX`].
    pub fn decode(bytes: &[u8]) -> Option<RecordKey> {
        let tombstone = match bytes.len() {
            RECORD_KEY_BYTES => false,
            TOMBSTONE_KEY_BYTES if bytes[17] == TOMBSTONE_MARK => true,
            _ => return None,
        };
        let revision = i64::from_be_bytes(bytes[..8].try_into().ok()?);
        let sub = i64::from_be_bytes(bytes[9..17].try_into().ok()?);
        let sub = u32::try_from(sub).ok().filter(|sub| *sub <= SUB_MAX)?;
        if bytes[8] != SEPARATOR || revision < 0 {
            return None;
        }
        Some(RecordKey {
            position: Position {
                revision: Revision(revision),
                sub,
            },
            tombstone,
        })
    }
}

/// The stored form of a compaction mark in bucket `meta`: the key of a live record at place 0.
pub(crate) fn encode_mark(revision: Revision) -> [u8; RECORD_KEY_BYTES] {
    let (bytes, _) = RecordKey::live(Position::first(revision)).encode();
    let mut mark = [0; RECORD_KEY_BYTES];
    mark.copy_from_slice(&bytes[..RECORD_KEY_BYTES]);
    mark
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_record_key_has_the_bytes_that_etcd_stores() {
        let position = Position {
            revision: Revision(2),
            sub: 0,
        };
        let (bytes, length) = RecordKey::live(position).encode();
        assert_eq!(&bytes[..length], b"\0\0\0\0\0\0\0\x02_\0\0\0\0\0\0\0\0");
        let (bytes, length) = RecordKey::tombstone(position).encode();
        assert_eq!(&bytes[..length], b"\0\0\0\0\0\0\0\x02_\0\0\0\0\0\0\0\0t");
    }

    #[test]
    fn bytes_that_are_no_record_key_are_told_apart() {
        let good = b"\0\0\0\0\0\0\0\x02_\0\0\0\0\0\0\0\x01t";
        assert!(RecordKey::decode(good).is_some());
        assert!(RecordKey::decode(&good[..17]).is_some());
        assert!(RecordKey::decode(&good[..16]).is_none());
        assert!(RecordKey::decode(b"").is_none());
        assert!(RecordKey::decode(b"\0\0\0\0\0\0\0\x02x\0\0\0\0\0\0\0\x01").is_none());
        assert!(RecordKey::decode(b"\0\0\0\0\0\0\0\x02_\0\0\0\0\0\0\0\x01x").is_none());
        assert!(RecordKey::decode(b"\xff\0\0\0\0\0\0\x02_\0\0\0\0\0\0\0\x01").is_none());
        assert!(RecordKey::decode(b"\0\0\0\0\0\0\0\x02_\0\0\0\0\xff\0\0\x01").is_none());
    }

    proptest! {
        #[test]
        fn record_keys_sort_by_position_and_read_back(
            left in (0..i64::MAX, 0..=SUB_MAX, any::<bool>()),
            right in (0..i64::MAX, 0..=SUB_MAX, any::<bool>()),
        ) {
            let key = |(revision, sub, tombstone)| RecordKey {
                position: Position { revision: Revision(revision), sub },
                tombstone,
            };
            let (left, right) = (key(left), key(right));
            let (left_bytes, left_length) = left.encode();
            let (right_bytes, right_length) = right.encode();
            prop_assert_eq!(RecordKey::decode(&left_bytes[..left_length]), Some(left));
            prop_assert_eq!(
                left_bytes[..left_length].cmp(&right_bytes[..right_length]),
                left.cmp(&right)
            );
        }
    }
}
