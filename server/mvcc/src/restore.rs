//! Building the key index from the records, when a store opens.
//!
//! Records stand in the file by revision, so their keys come in no order, and each would have to
//! be looked up in an index far larger than the processor's caches. So they are gathered into
//! chunks, each sorted by key, and the index is built anew from itself and the chunk, in one pass
//! over both. Chunks grow with the index, so that the number of passes stays small.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::panic::resume_unwind;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread;

use bytes::Bytes;
use storage::Bucket;

use crate::compaction::META_BUCKET;
use crate::history::Change;
use crate::key_block::KEY_BYTES_MAX;
use crate::key_index::{KeyIndex, Restored};
use crate::record::{KeyValue, LeaseId, Malformed};
use crate::refusal::Fault;
use crate::revision::{Position, RecordKey, Revision};
use crate::state::{KEY_BUCKET, decode_record_key};

/// Records in the first chunk: about 10 MiB with keys of usual length.
const CHUNK_RECORDS_MIN: u64 = 1 << 17;

/// Records in a chunk at most: about 80 MiB, which are free again when the store is open.
const CHUNK_RECORDS_MAX: u64 = 1 << 20;

/// Bytes of keys in a chunk, beyond the last key. Offsets of keys have 32 bits.
const CHUNK_KEY_BYTES: usize = 256 << 20;

/// What the records of a file say.
pub(crate) struct RestoredHistory {
    pub(crate) index: KeyIndex,
    /// Revision of the last record, 0 when there is none.
    pub(crate) last: Revision,
    /// The leases of keys whose newest record is no tombstone.
    pub(crate) attached: HashMap<Bytes, LeaseId>,
}

/// Reads all records. One thread reads and gathers while another sorts and merges.
pub(crate) fn restore(records: Option<&Bucket>) -> Result<RestoredHistory, Fault> {
    let Some(records) = records else {
        return Ok(RestoredHistory {
            index: KeyIndex::default(),
            last: Revision(0),
            attached: HashMap::new(),
        });
    };
    thread::scope(|scope| {
        // A full chunk waits for the one before it, so two of them stand in memory.
        let (full, chunks) = sync_channel::<Chunk>(0);
        let merging = scope.spawn(move || {
            let mut index = KeyIndex::default();
            for chunk in chunks {
                chunk.move_into(&mut index);
            }
            index
        });
        let read = read(records, &full);
        drop(full);
        let index = match merging.join() {
            Ok(index) => index,
            Err(panic) => resume_unwind(panic),
        };
        let (last, attached) = read?;
        Ok(RestoredHistory {
            index,
            last,
            attached,
        })
    })
}

type Attached = HashMap<Bytes, LeaseId>;

fn read(records: &Bucket, full: &SyncSender<Chunk>) -> Result<(Revision, Attached), Fault> {
    let mut attached = HashMap::new();
    let mut chunk = Chunk::default();
    let mut gathered = 0;
    let mut last = None;
    for entry in records.range(b"")? {
        let (stored_key, record) = entry?;
        let at = decode_record_key(&stored_key)?;
        check_order(last, at.position)?;
        last = Some(at.position);
        let pair = decode(at.position, record)?;
        attach(&mut attached, at, &pair);
        chunk.push(at, &pair);
        if chunk.is_full(gathered) {
            gathered += chunk.records.len() as u64;
            // Whoever merges ends early by a panic only, which is passed on.
            let _ = full.send(std::mem::take(&mut chunk));
        }
    }
    let _ = full.send(chunk);
    let last = last.map_or(Revision(0), |position: Position| position.revision);
    Ok((last, attached))
}

fn attach(attached: &mut Attached, at: RecordKey, pair: &KeyValue) {
    match pair.lease.filter(|_| !at.tombstone) {
        // A copy: a piece of the file would keep all pages of this state from being used anew, for as long as
        // the key hangs on its lease.
        Some(lease) => drop(attached.insert(Bytes::copy_from_slice(pair.key()), lease)),
        None if attached.is_empty() => {}
        None => drop(attached.remove(pair.key())),
    }
}

/// A live record and a tombstone may not share a position, though both keys could be stored.
fn check_order(last: Option<Position>, position: Position) -> Result<(), Fault> {
    if last < Some(position) {
        return Ok(());
    }
    Err(Fault::Entry {
        bucket: KEY_BUCKET,
        entry: position.to_string(),
        what: "is there twice",
    })
}

fn decode(position: Position, record: Bytes) -> Result<KeyValue, Fault> {
    let fault = |source| Fault::Record { position, source };
    let pair = KeyValue::decode(record).map_err(fault)?;
    match pair.key().len() <= KEY_BYTES_MAX {
        true => Ok(pair),
        false => Err(fault(Malformed(
            "the key is longer than any request could carry",
        ))),
    }
}

/// Records that the index does not know yet.
#[derive(Default)]
struct Chunk {
    keys: Vec<u8>,
    records: Vec<Gathered>,
}

struct Gathered {
    start: u32,
    end: u32,
    record: Restored,
}

impl Chunk {
    fn push(&mut self, at: RecordKey, pair: &KeyValue) {
        let start = self.offset();
        self.keys.extend_from_slice(pair.key());
        let record = Restored {
            change: Change::new(at.position, at.tombstone),
            created: pair.create_revision,
            version: pair.version,
        };
        self.records.push(Gathered {
            start,
            end: self.offset(),
            record,
        });
    }

    fn offset(&self) -> u32 {
        u32::try_from(self.keys.len()).expect("bounded by CHUNK_KEY_BYTES and KEY_BYTES_MAX")
    }

    /// Whether it is time to merge it, after `before` records were.
    fn is_full(&self, before: u64) -> bool {
        let most = (before / 2).clamp(CHUNK_RECORDS_MIN, CHUNK_RECORDS_MAX);
        self.records.len() as u64 >= most || self.keys.len() >= CHUNK_KEY_BYTES
    }

    fn key(&self, gathered: &Gathered) -> &[u8] {
        &self.keys[gathered.start as usize..gathered.end as usize]
    }

    fn move_into(self, index: &mut KeyIndex) {
        if self.records.is_empty() {
            return;
        }
        let sorted = self.sorted();
        index.merge(sorted.iter().map(|place| {
            let gathered = &self.records[*place as usize];
            (self.key(gathered), gathered.record)
        }));
    }

    /// Places of the records by key, those of one key by position.
    fn sorted(&self) -> Vec<u32> {
        let shared = self.shared_prefix();
        let mut order: Vec<(u64, u32)> = (0..)
            .zip(&self.records)
            .map(|(place, gathered)| (leading_number(&self.key(gathered)[shared..]), place))
            .collect();
        // Equal numbers say nothing yet: what is behind the eight bytes, or whether the zeros
        // belong to the key. Records were gathered in order of position.
        order.sort_unstable_by(|left, right| {
            left.0.cmp(&right.0).then_with(|| {
                let key = |place: u32| self.key(&self.records[place as usize]);
                let keys: Ordering = key(left.1).cmp(key(right.1));
                keys.then(left.1.cmp(&right.1))
            })
        });
        order.into_iter().map(|(_, place)| place).collect()
    }

    /// Number of bytes that all keys begin with.
    fn shared_prefix(&self) -> usize {
        let Some(first) = self.records.first() else {
            return 0;
        };
        let first = self.key(first);
        self.records.iter().fold(first.len(), |shared, gathered| {
            let key = self.key(gathered);
            match key.starts_with(&first[..shared]) {
                true => shared,
                false => key
                    .iter()
                    .zip(first)
                    .take_while(|(left, right)| left == right)
                    .count(),
            }
        })
    }
}

/// The first eight bytes as a number that sorts as they do.
fn leading_number(bytes: &[u8]) -> u64 {
    let mut leading = [0; 8];
    let length = bytes.len().min(8);
    leading[..length].copy_from_slice(&bytes[..length]);
    u64::from_be_bytes(leading)
}

/// Reads a compaction mark.
pub(crate) fn read_mark(
    meta: Option<&Bucket>,
    name: &'static str,
) -> Result<Option<Revision>, Fault> {
    let Some(meta) = meta else { return Ok(None) };
    let Some(mark) = meta.get(name.as_bytes())? else {
        return Ok(None);
    };
    match RecordKey::decode(&mark) {
        Some(key) => Ok(Some(key.position.revision)),
        None => Err(Fault::Entry {
            bucket: META_BUCKET,
            entry: name.to_owned(),
            what: "does not hold a revision",
        }),
    }
}
