//! One write transaction.

use bytes::Bytes;

use crate::range::{KeyRange, RangeAnswer, RangeQuery};
use crate::record::{Fields, KeyValue, LeaseId, NewRecord};
use crate::refusal::{Fault, ReadError};
use crate::revision::{Position, RecordKey, Revision};
use crate::state::KEY_BUCKET;
use crate::store::Store;

/// A write transaction. Its changes share one revision and see each other; a transaction that
/// changes nothing has none.
///
/// There is no way back: whoever opens one has checked everything before the first change. A
/// transaction with changes must be finished; dropping it is a mistake and panics.
pub struct Change<'a> {
    store: &'a mut Store,
    events: Vec<Event>,
}

/// What happened to one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Where in history it stands.
    pub position: Position,
    /// Put or deleted.
    pub kind: EventKind,
    /// The pair after the change. Of a deleted key: the key and `mod_revision`, all else empty.
    pub pair: KeyValue,
}

/// Kind of an [`Event`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventKind {
    /// The key got a value.
    Put,
    /// The key ended.
    Delete,
}

/// What a put did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PutAnswer {
    /// Where the value before stands, for [`Change::pair`]; `None` when the key is new.
    pub previous: Option<Position>,
    /// The revision that created the key.
    pub create_revision: Revision,
    /// Number of changes since then, this one included.
    pub version: i64,
}

/// A key that a deletion removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Removed {
    /// The key.
    pub key: Bytes,
    /// Where its last value stands, for [`Change::pair`].
    pub previous: Position,
}

/// A finished transaction that changed something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changed {
    /// The revision that it made.
    pub revision: Revision,
    /// Its changes in order.
    pub events: Vec<Event>,
}

impl<'a> Change<'a> {
    pub(crate) fn new(store: &'a mut Store) -> Change<'a> {
        Change {
            store,
            events: Vec::new(),
        }
    }

    /// The revision that a read of now sees: the new one once something was changed, the store's
    /// until then.
    pub fn revision(&self) -> Revision {
        match self.events.is_empty() {
            true => self.store.revision(),
            false => self.new_revision(),
        }
    }

    /// Whether nothing was changed so far.
    pub fn is_empty(&self) -> bool {
        self.events.is_empty()
    }

    /// Gives `key` a value and hangs it on a lease, or on none. A key is never empty: callers
    /// refuse that first.
    pub fn put(&mut self, key: &[u8], value: &[u8], lease: Option<LeaseId>) -> PutAnswer {
        let position = self.next_position();
        let outcome = self.store.state.index.put(key, position);
        let fields = Fields {
            key,
            value,
            create_revision: outcome.created,
            mod_revision: position.revision,
            version: outcome.version,
            lease,
        };
        let at = RecordKey::live(position);
        self.add(at, NewRecord::live(at, &fields));
        PutAnswer {
            previous: outcome.previous.map(|life| life.position),
            create_revision: outcome.created,
            version: outcome.version,
        }
    }

    /// Ends all keys of a range; they come back in the order of keys.
    pub fn delete_range(&mut self, range: &KeyRange) -> Vec<Removed> {
        let keys = self.store.state.keys(range, self.revision());
        let mut removed = Vec::with_capacity(keys.len());
        for (key, previous) in keys {
            let position = self.next_position();
            self.store.state.index.tombstone(&key, position);
            let at = RecordKey::tombstone(position);
            let record = NewRecord::tombstone(at, &key);
            removed.push(Removed {
                key: record.pair.key_bytes(),
                previous,
            });
            self.add(at, record);
        }
        removed
    }

    /// Answers a range, with this transaction's own changes when it asks for the current
    /// revision. Revisions are checked as in [`View::range`](crate::View::range); a transaction
    /// that must not fail half-way has checked before.
    ///
    /// # Errors
    /// As [`View::range`](crate::View::range).
    pub fn range(&self, query: &RangeQuery) -> Result<RangeAnswer, ReadError> {
        self.store.state.range(query, self.revision())
    }

    /// The pair of `key` as this transaction sees it.
    ///
    /// # Errors
    /// When the record cannot be read.
    pub fn get(&self, key: &[u8]) -> Result<Option<KeyValue>, Fault> {
        self.store.state.get(key, self.revision())
    }

    /// Whether `key` exists as this transaction sees it. Reads no record.
    pub fn exists(&self, key: &[u8]) -> bool {
        self.store.exists(key)
    }

    /// The oldest revision that can be read; `None` when nothing was ever compacted.
    pub fn compact_revision(&self) -> Option<Revision> {
        self.store.compact_revision()
    }

    /// The pair at a place that [`PutAnswer`] or [`Removed`] named.
    ///
    /// # Errors
    /// When the record cannot be read.
    pub fn pair(&self, position: Position) -> Result<KeyValue, Fault> {
        self.store.state.pair(position)
    }

    /// Ends the transaction: what it made, or `None` when it changed nothing.
    pub fn finish(mut self) -> Option<Changed> {
        let events = std::mem::take(&mut self.events);
        if events.is_empty() {
            return None;
        }
        let revision = self.new_revision();
        self.store.state.revision = revision;
        Some(Changed { revision, events })
    }

    fn new_revision(&self) -> Revision {
        self.store.revision().next()
    }

    fn next_position(&self) -> Position {
        let sub = u32::try_from(self.events.len()).expect("fewer changes than SUB_MAX");
        Position {
            revision: self.new_revision(),
            sub,
        }
    }

    fn add(&mut self, at: RecordKey, record: NewRecord) {
        let NewRecord { stored_key, pair } = record;
        self.store
            .batch
            .put(KEY_BUCKET, stored_key, pair.record().clone());
        self.store.state.recent.push(at, pair.record().clone());
        self.events.push(Event::new(at, pair));
    }
}

impl Drop for Change<'_> {
    fn drop(&mut self) {
        assert!(
            self.events.is_empty() || std::thread::panicking(),
            "a write transaction with changes was dropped before it was finished"
        );
    }
}

impl Event {
    /// Whether the event began the life of its key.
    pub fn is_creation(&self) -> bool {
        self.kind == EventKind::Put
            && self.pair.create_revision == self.pair.mod_revision
            && self.pair.version == 1
    }

    fn new(at: RecordKey, pair: KeyValue) -> Event {
        let kind = if at.tombstone {
            EventKind::Delete
        } else {
            EventKind::Put
        };
        Event {
            position: at.position,
            kind,
            pair,
        }
    }

    pub(crate) fn from_record(at: RecordKey, record: Bytes) -> Result<Event, Fault> {
        let position = at.position;
        let mut pair =
            KeyValue::decode(record).map_err(|source| Fault::Record { position, source })?;
        if at.tombstone {
            pair.mod_revision = position.revision;
        }
        Ok(Event::new(at, pair))
    }
}
