//! Why a question gets no answer.

use crate::record::Malformed;
use crate::revision::{Position, Revision};

/// A correct answer that is not what the caller hoped for. The texts are etcd's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The revision lies before the last compaction, or was compacted already.
    #[error("mvcc: required revision has been compacted")]
    Compacted {
        /// The oldest revision that can still be read.
        oldest: Revision,
    },
    /// The revision lies beyond the current one.
    #[error("mvcc: required revision is a future revision")]
    FutureRevision {
        /// The current revision.
        current: Revision,
    },
}

/// The store cannot go on: the file cannot be read, or holds what no correct writer leaves.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// The storage failed.
    #[error(transparent)]
    Storage(#[from] storage::Fault),
    /// A key of bucket `key` or a compaction mark of bucket `meta` has no meaning.
    #[error(
        "bucket {bucket} holds the entry {entry}, which {what}; \
         restore this member from a backup or replace it"
    )]
    Entry {
        /// The bucket.
        bucket: &'static str,
        /// The entry's key, printable.
        entry: String,
        /// What is wrong with it.
        what: &'static str,
    },
    /// A record of bucket `key` is not what etcd writes.
    #[error(
        "the record at revision {position} cannot be read: {source}; \
         restore this member from a backup or replace it"
    )]
    Record {
        /// Where in history the record stands.
        position: Position,
        /// What is wrong with it.
        source: Malformed,
    },
    /// The index names a record that is not there.
    #[error(
        "the record at revision {position} is missing; \
         restore this member from a backup or replace it"
    )]
    Missing {
        /// Where in history the record should stand.
        position: Position,
    },
}

/// Why a read has no answer.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The question cannot be answered.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The store failed.
    #[error(transparent)]
    Fault(#[from] Fault),
}

impl From<storage::Fault> for ReadError {
    fn from(fault: storage::Fault) -> ReadError {
        ReadError::Fault(fault.into())
    }
}
