//! Raising the revision of a file that becomes a new cluster's.
//!
//! Clients of the old cluster may have seen revisions that the backup lacks. So that none of them comes
//! again with another content, the file gets an empty record far above, as etcd's own tool writes it.
//! A compaction scheduled there tells whoever watches from an old revision that the history is gone.

use bytes::Bytes;
use storage::{Batch, Committed};

use crate::compaction::{META_BUCKET, SCHEDULED_MARK};
use crate::refusal::Fault;
use crate::revision::{Position, RecordKey, Revision, encode_mark};
use crate::state::{KEY_BUCKET, decode_record_key};

/// The revision of the newest record of a file; 0 when there is none.
///
/// # Errors
/// When the file cannot be read, or the record's key is no revision.
pub fn last_recorded(committed: &Committed) -> Result<Revision, Fault> {
    let Some(records) = committed.bucket(KEY_BUCKET)? else {
        return Ok(Revision(0));
    };
    match records.last()? {
        Some((key, _)) => Ok(decode_record_key(&key)?.position.revision),
        None => Ok(Revision(0)),
    }
}

/// Makes `revision`, which must be above all others, the current one and schedules a compaction there.
pub fn bump(revision: Revision, batch: &mut Batch) {
    let (key, length) = RecordKey::live(Position::first(revision)).encode();
    batch.put(
        KEY_BUCKET,
        Bytes::copy_from_slice(&key[..length]),
        Bytes::new(),
    );
    let mark = Bytes::copy_from_slice(&encode_mark(revision));
    batch.put(
        META_BUCKET,
        Bytes::from_static(SCHEDULED_MARK.as_bytes()),
        mark,
    );
}
