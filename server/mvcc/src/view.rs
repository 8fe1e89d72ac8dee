//! What readers read.

use std::sync::Arc;

use storage::Committed;

use crate::change::Event;
use crate::hash::{self, KeyHash};
use crate::range::{KeyRange, RangeAnswer, RangeQuery};
use crate::record::KeyValue;
use crate::refusal::{Fault, ReadError};
use crate::revision::{Position, Revision};
use crate::state::State;

/// The store as it was when the view was taken: immutable, cheap to clone, readable from any
/// thread, whatever is written, committed or compacted meanwhile.
///
/// As long as a clone lives, the file's pages that it needs are not used anew. Whoever keeps a
/// view for long keeps space from returning.
#[derive(Clone)]
pub struct View {
    pub(crate) state: Arc<State>,
}

impl View {
    /// The revision of the last change.
    pub fn revision(&self) -> Revision {
        self.state.revision
    }

    /// The oldest revision that can be read; `None` when nothing was ever compacted.
    pub fn compact_revision(&self) -> Option<Revision> {
        self.state.compacted
    }

    /// The committed file beneath, for its other buckets and for backups.
    pub fn committed(&self) -> &Committed {
        &self.state.committed
    }

    /// The last revision that [`View::committed`] holds.
    pub fn committed_revision(&self) -> Revision {
        self.state.committed_revision
    }

    /// Number of keys that exist.
    pub fn live_keys(&self) -> u64 {
        self.state.index.live()
    }

    /// Answers a range.
    ///
    /// # Errors
    /// A refusal when the revision lies before the last compaction or beyond the current one; a
    /// fault when a record cannot be read.
    pub fn range(&self, query: &RangeQuery) -> Result<RangeAnswer, ReadError> {
        self.state.range(query, self.state.revision)
    }

    /// Number of keys in `keys` at a revision, `None` being the current one. Its cost does not
    /// depend on the number of keys, but on how many changed since that revision.
    ///
    /// # Errors
    /// As [`View::range`].
    pub fn count(&self, keys: &KeyRange, revision: Option<Revision>) -> Result<u64, ReadError> {
        let revision = self.state.readable(revision, self.state.revision)?;
        Ok(self.state.index.count(keys, revision))
    }

    /// The pair of `key` at a revision, `None` being the current one.
    ///
    /// # Errors
    /// As [`View::range`].
    pub fn get(
        &self,
        key: &[u8],
        revision: Option<Revision>,
    ) -> Result<Option<KeyValue>, ReadError> {
        let revision = self.state.readable(revision, self.state.revision)?;
        Ok(self.state.get(key, revision)?)
    }

    /// The changes from revision `from` on, in order, as watchers get them. At the compacted
    /// revision and before it only what compaction left is there.
    ///
    /// # Errors
    /// A refusal when `from` lies before the last compaction. A revision that has not happened
    /// yet yields nothing.
    pub fn history(
        &self,
        from: Revision,
    ) -> Result<impl Iterator<Item = Result<Event, Fault>> + '_, ReadError> {
        self.state
            .readable(Some(from.min(self.state.revision)), self.state.revision)?;
        let records = self.state.records_from(Position::first(from))?;
        Ok(records.map(|record| {
            let (key, record) = record?;
            Event::from_record(key, record)
        }))
    }

    /// The pair before an event: as of the revision before it. `None` when the event created the
    /// key, or when that revision can no longer be read.
    ///
    /// # Errors
    /// When the record cannot be read.
    pub fn previous(&self, event: &Event) -> Result<Option<KeyValue>, Fault> {
        let before = Revision(event.position.revision.0 - 1);
        if event.is_creation()
            || self
                .state
                .readable(Some(before), self.state.revision)
                .is_err()
        {
            return Ok(None);
        }
        self.state.get(event.pair.key(), before)
    }

    /// The hash over all records up to a revision that members compare with each other; `None` is
    /// the current revision. It reads every record unless a compaction left the answer, so it
    /// belongs on a thread of its own.
    ///
    /// # Errors
    /// As [`View::range`].
    pub fn hash(&self, revision: Option<Revision>) -> Result<KeyHash, ReadError> {
        hash::hash(&self.state, revision)
    }

    /// The hashes that finished compactions have left, the oldest first.
    pub fn compaction_hashes(&self) -> &[KeyHash] {
        &self.state.hashes
    }
}
