//! The writing side.
//!
//! One thread owns the [`Store`]. Changes live in memory at once and gather in a batch; from time
//! to time the owner takes the batch, lets it be committed on another thread, and brings the new
//! state of the file back:
//!
//! ```text
//! change ... change   take_batch ─► storage commit ─► batch_committed
//!                     change ... change               (goes on meanwhile)
//! ```

use std::sync::Arc;

use bytes::Bytes;
use storage::{Batch, Committed};

use crate::change::Change;
use crate::compaction::{Compaction, FINISHED_MARK, META_BUCKET, SCHEDULED_MARK};
use crate::range::{RangeAnswer, RangeQuery};
use crate::recent::Recent;
use crate::record::{KeyValue, LeaseId};
use crate::refusal::{Fault, ReadError};
use crate::restore::{read_mark, restore};
use crate::revision::Revision;
use crate::state::{KEY_BUCKET, State};
use crate::view::View;

/// Operations in a batch that are worth a commit at once. etcd commits at the same number.
pub const BATCH_OPERATIONS: usize = 10_000;

/// Bytes in a batch that are worth a commit at once: writing them takes some tens of
/// milliseconds on a slow disk.
pub const BATCH_BYTES: usize = 16 << 20;

/// Bytes of records not yet committed at which the owner must wait for the commit under way
/// before it makes further changes. Room for the batch under way and the one that gathers
/// meanwhile, many times over.
pub const RECENT_BYTES_MAX: usize = 256 << 20;

/// Keys through time: the writing side. See the head of this file.
pub struct Store {
    pub(crate) state: State,
    pub(crate) batch: Batch,
    pub(crate) batches: Batches,
    pub(crate) compaction: Compaction,
}

/// Which batch is where.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Batches {
    /// Number of the batch that gathers.
    pub(crate) gathering: u64,
    /// The last revision of the batch that is being committed.
    under_way: Option<Revision>,
}

impl Batches {
    /// Number of the last batch that is durable.
    pub(crate) fn durable(self) -> u64 {
        self.gathering - if self.under_way.is_some() { 2 } else { 1 }
    }
}

/// A store just opened.
pub struct Opened {
    /// The store.
    pub store: Store,
    /// The keys that hang on a lease.
    pub attached: Vec<(Bytes, LeaseId)>,
}

impl Store {
    /// Reads the history that the file holds. A compaction that was scheduled but not finished
    /// goes on: see [`Store::compaction_state`]. Buckets that are missing come with the first
    /// batch.
    ///
    /// # Errors
    /// When the file cannot be read or holds what no correct writer leaves.
    pub fn open(committed: Committed) -> Result<Opened, Fault> {
        let mut batch = Batch::new();
        let records = committed.bucket(KEY_BUCKET)?;
        let meta = committed.bucket(META_BUCKET)?;
        for (name, bucket) in [(KEY_BUCKET, &records), (META_BUCKET, &meta)] {
            if bucket.is_none() {
                batch.create_bucket(name);
            }
        }
        let scheduled = read_mark(meta.as_ref(), SCHEDULED_MARK)?;
        let finished = read_mark(meta.as_ref(), FINISHED_MARK)?;
        let restored = restore(records.as_ref())?;
        let compacted = scheduled.max(finished);
        let marks = compacted.unwrap_or(Revision::FIRST);
        let revision = restored.last.max(Revision::FIRST).max(marks);
        let state = State {
            index: restored.index,
            recent: Recent::default(),
            committed,
            records,
            committed_revision: revision,
            revision,
            compacted,
            hashes: Arc::default(),
        };
        let store = Store {
            state,
            batch,
            batches: Batches {
                gathering: 1,
                under_way: None,
            },
            compaction: Compaction::resume(scheduled, finished),
        };
        Ok(Opened {
            store,
            attached: restored.attached.into_iter().collect(),
        })
    }

    /// The revision of the last change.
    pub fn revision(&self) -> Revision {
        self.state.revision
    }

    /// The oldest revision that can be read; `None` when nothing was ever compacted.
    pub fn compact_revision(&self) -> Option<Revision> {
        self.state.compacted
    }

    /// The state of now, for readers.
    pub fn view(&self) -> View {
        View {
            state: Arc::new(self.state.clone()),
        }
    }

    /// Begins a write transaction.
    pub fn change(&mut self) -> Change<'_> {
        Change::new(self)
    }

    /// Answers a range from the state of now, as a view would; it spares the owner the view.
    ///
    /// # Errors
    /// As [`View::range`].
    pub fn range(&self, query: &RangeQuery) -> Result<RangeAnswer, ReadError> {
        self.state.range(query, self.state.revision)
    }

    /// The pair of `key` as it is now.
    ///
    /// # Errors
    /// When the record cannot be read.
    pub fn get(&self, key: &[u8]) -> Result<Option<KeyValue>, Fault> {
        self.state.get(key, self.state.revision)
    }

    /// Whether `key` exists now. Reads no record.
    pub fn exists(&self, key: &[u8]) -> bool {
        self.state.index.life(key).is_some()
    }

    /// The committed file beneath.
    pub fn committed(&self) -> &Committed {
        &self.state.committed
    }

    /// The batch that gathers, so that what else belongs to the same commit goes into it.
    pub fn batch_mut(&mut self) -> &mut Batch {
        &mut self.batch
    }

    /// The batch that gathers.
    pub fn batch(&self) -> &Batch {
        &self.batch
    }

    /// Whether the batch is large enough to be committed without waiting for the timer.
    pub fn wants_commit(&self) -> bool {
        self.batch.operations() >= BATCH_OPERATIONS || self.batch.bytes() >= BATCH_BYTES
    }

    /// Bytes of records that no commit has made durable yet. At [`RECENT_BYTES_MAX`] the owner
    /// waits for the commit under way.
    pub fn recent_bytes(&self) -> usize {
        self.state.recent.bytes()
    }

    /// Bytes of memory that the key index takes. Walks all of it.
    pub fn index_bytes(&self) -> usize {
        self.state.index.heap_bytes()
    }

    /// Hands out the batch to be committed. One is under way at a time:
    /// [`Store::batch_committed`] comes before the next.
    pub fn take_batch(&mut self) -> Batch {
        assert!(
            self.batches.under_way.is_none(),
            "two batches under way at once"
        );
        self.batches.under_way = Some(self.state.revision);
        self.batches.gathering += 1;
        std::mem::take(&mut self.batch)
    }

    /// Takes the state of the file with the batch that [`Store::take_batch`] handed out.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn batch_committed(&mut self, committed: Committed) -> Result<(), Fault> {
        let revision = self
            .batches
            .under_way
            .take()
            .expect("a batch was handed out");
        self.state.set_committed(committed, revision)?;
        self.compaction.committed(self.batches.durable());
        Ok(())
    }

    /// Takes a state of the file with the same content in other pages, as after it was rewritten.
    /// No batch may be under way.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn file_rewritten(&mut self, committed: Committed) -> Result<(), Fault> {
        assert!(
            self.batches.under_way.is_none(),
            "the file is rewritten between commits"
        );
        let revision = self.state.committed_revision;
        self.state.set_committed(committed, revision)
    }
}
