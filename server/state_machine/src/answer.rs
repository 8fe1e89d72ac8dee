//! What a request brings back.

use mvcc::{KeyValue, RangeAnswer, Revision};

use crate::alarm::Alarm;

/// What a committed request brings back to whoever waits for it.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// That it is done.
    Done,
    /// Of a put.
    Put(PutAnswer),
    /// Of a deletion.
    DeleteRange(DeleteRangeAnswer),
    /// Of a transaction.
    Txn(TxnAnswer),
    /// Of a granted lease: its time to live in seconds.
    LeaseGranted(i64),
    /// A user was let in by the entry of this index.
    Authenticated {
        /// The index.
        index: u64,
    },
    /// The alarms that were asked for, raised or cleared.
    Alarms(Vec<Alarm>),
}

/// What a put brings back.
#[derive(Debug, Clone, PartialEq)]
pub struct PutAnswer {
    /// The pair as it was, if that was asked for and there was one.
    pub previous: Option<KeyValue>,
}

/// What a deletion brings back.
#[derive(Debug, Clone, PartialEq)]
pub struct DeleteRangeAnswer {
    /// Number of keys that are gone.
    pub deleted: u64,
    /// The pairs as they were, if that was asked for, by key.
    pub previous: Vec<KeyValue>,
}

/// What a transaction brings back.
#[derive(Debug, Clone, PartialEq)]
pub struct TxnAnswer {
    /// Whether its compares held.
    pub succeeded: bool,
    /// One for each operation of the list that was done, in order.
    pub operations: Vec<OperationAnswer>,
}

/// What one operation of a transaction brings back.
#[derive(Debug, Clone, PartialEq)]
pub enum OperationAnswer {
    /// Of a read; the answer's own revision is the one of its header.
    Range(RangeAnswer),
    /// Of a put, and the revision that it made.
    Put(PutAnswer, Revision),
    /// Of a deletion, and the store's revision after it.
    DeleteRange(DeleteRangeAnswer, Revision),
    /// Of a transaction inside.
    Txn(TxnAnswer),
}
