//! The hash over the records that members compare: CRC-32C of the bucket's name, then the key and
//! value of each record in order, as far as they count.

use crate::history::{Change, record_stays};
use crate::record::KeyValue;
use crate::refusal::{Fault, ReadError};
use crate::revision::{Position, RecordKey, Revision};
use crate::state::{KEY_BUCKET, State};

/// Hashes of finished compactions that are remembered: those of the greatest revisions. etcd
/// keeps as many, and members compare the ones that both still have.
pub(crate) const HASHES_MAX: usize = 10;

/// A hash and what it stands for. Only hashes with both revisions equal can be compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyHash {
    /// CRC-32C over the records.
    pub hash: u32,
    /// The compaction before it was taken; `None` when there was none.
    pub compact_revision: Option<Revision>,
    /// The revision up to which records count.
    pub revision: Revision,
}

/// Answers a request for a hash.
pub(crate) fn hash(state: &State, asked: Option<Revision>) -> Result<KeyHash, ReadError> {
    let cached = state
        .hashes
        .iter()
        .find(|hash| Some(hash.revision) == asked);
    if let Some(cached) = cached {
        return Ok(*cached);
    }
    let revision = state.readable(asked, state.revision)?;
    let mut digest = Digest::new(state.compacted, state.index.count_all(revision) > 0);
    for record in state.records_from(Position::first(Revision(0)))? {
        let (key, record) = record?;
        if key.position.revision > revision {
            break;
        }
        digest.add(key, &record, |any_stays| {
            let change = Change::new(key.position, key.tombstone);
            let pair = KeyValue::decode(record.clone()).map_err(|source| Fault::Record {
                position: key.position,
                source,
            })?;
            let stays_at = |at| record_stays(change, state.index.last_change(pair.key(), at), at);
            match (any_stays, state.compacted) {
                // What the last compaction deletes does not count, whether or not it got there.
                (false, Some(compacted)) => Ok(stays_at(compacted)),
                _ => Ok(!key.tombstone && stays_at(revision)),
            }
        })?;
    }
    Ok(digest.finish(revision))
}

/// A hash in the making.
#[derive(Debug, Clone)]
pub(crate) struct Digest {
    hash: u32,
    compacted: Option<Revision>,
    /// Whether any record outlives a compaction at the hash's revision. If none does, etcd
    /// leaves out none of the records that the last compaction left.
    any_stays: bool,
}

impl Digest {
    pub(crate) fn new(compacted: Option<Revision>, any_stays: bool) -> Digest {
        Digest {
            hash: crc32c::crc32c(KEY_BUCKET.as_bytes()),
            compacted,
            any_stays,
        }
    }

    /// Adds the next record if it counts. `counts` is asked only about records that the last
    /// compaction reached. Told that any record outlives a compaction at the hash's revision, it
    /// says whether this one does; else whether it outlives the last compaction.
    pub(crate) fn add(
        &mut self,
        key: RecordKey,
        record: &[u8],
        counts: impl FnOnce(bool) -> Result<bool, Fault>,
    ) -> Result<(), Fault> {
        if let Some(compacted) = self.compacted
            && key.position.revision <= compacted
        {
            let tombstone_there = key.tombstone && key.position.revision == compacted;
            if tombstone_there || !counts(self.any_stays)? {
                return Ok(());
            }
        }
        let (key, length) = key.encode();
        self.hash = crc32c::crc32c_append(self.hash, &key[..length]);
        self.hash = crc32c::crc32c_append(self.hash, record);
        Ok(())
    }

    pub(crate) fn finish(self, revision: Revision) -> KeyHash {
        KeyHash {
            hash: self.hash,
            compact_revision: self.compacted,
            revision,
        }
    }
}
