//! Keys through time: revisions, ranges, compaction.
//!
//! The writing side is [`Store`], owned by one thread; [`Change`] is one write transaction.
//! Readers on any thread hold a [`View`]. Nothing here waits, asks for the time, or starts a
//! thread: when to commit and when to go on with a compaction is the owner's decision.

mod range;
mod record;
mod refusal;
mod revision;

// Which keys exist, and where their values stand.
mod history;
mod key_block;
mod key_index;

// Reading and writing.
mod bump;
mod change;
mod compaction;
mod hash;
mod recent;
mod restore;
mod state;
mod store;
mod view;

pub use bump::{bump, last_recorded};
pub use change::{Change, Changed, Event, EventKind, PutAnswer, Removed};
pub use compaction::CompactionState;
pub use hash::KeyHash;
pub use key_block::KEY_BYTES_MAX;
pub use range::{Content, Filters, KeyRange, Order, RangeAnswer, RangeQuery, SortBy};
pub use record::{KeyValue, LeaseId, Malformed};
pub use refusal::{Fault, ReadError, Refusal};
pub use revision::{Position, RECORD_KEY_BYTES, RecordKey, Revision, SUB_MAX, TOMBSTONE_KEY_BYTES};
pub use store::{BATCH_BYTES, BATCH_OPERATIONS, Opened, RECENT_BYTES_MAX, Store};
pub use view::View;
