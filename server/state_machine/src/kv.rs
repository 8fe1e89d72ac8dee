//! Puts and deletions.

use bytes::{BufMut, BytesMut};
use mvcc::{Change, KeyRange};

use crate::answer::{DeleteRangeAnswer, PutAnswer};
use crate::command::{DeleteRange, Put, PutLease};
use crate::error::{ApplyError, Refusal};

/// Sets a key, or refuses before anything is changed.
pub(crate) fn put(change: &mut Change<'_>, put: &Put) -> Result<PutAnswer, ApplyError> {
    check_lease(put)?;
    let previous = match put.previous || needs_previous(put) {
        true => change.get(&put.key)?,
        false => None,
    };
    if needs_previous(put) && previous.is_none() {
        return Err(Refusal::KeyNotFound.into());
    }
    let kept = previous.as_ref();
    let value = match &put.value {
        Some(value) => value,
        None => kept.expect("checked above").value(),
    };
    let lease = match put.lease {
        PutLease::None => None,
        PutLease::Keep => kept.expect("checked above").lease,
        PutLease::Lease(id) => Some(id),
    };
    change.put(&put.key, value, lease);
    Ok(PutAnswer {
        previous: previous.filter(|_| put.previous),
    })
}

/// Deletes the keys of a range.
pub(crate) fn delete_range(
    change: &mut Change<'_>,
    delete: &DeleteRange,
) -> Result<DeleteRangeAnswer, ApplyError> {
    let removed = change.delete_range(&delete.keys);
    let deleted = removed.len() as u64;
    let previous = match delete.previous {
        true => removed
            .iter()
            .map(|key| change.pair(key.previous))
            .collect::<Result<_, _>>()?,
        false => Vec::new(),
    };
    Ok(DeleteRangeAnswer { deleted, previous })
}

/// Whether a put is refused for its lease. This version grants none, so none can be named.
pub(crate) fn check_lease(put: &Put) -> Result<(), Refusal> {
    match put.lease {
        PutLease::Lease(_) => Err(Refusal::LeaseNotFound),
        PutLease::None | PutLease::Keep => Ok(()),
    }
}

/// Whether a put keeps something of the pair that is there, and so needs one.
pub(crate) fn needs_previous(put: &Put) -> bool {
    put.value.is_none() || put.lease == PutLease::Keep
}

/// What is left of a range behind `key`, which belongs to it.
pub(crate) fn after(keys: &KeyRange, key: &[u8]) -> KeyRange {
    let mut next = BytesMut::with_capacity(key.len() + 1);
    next.put_slice(key);
    next.put_u8(0);
    let from = next.freeze();
    match keys {
        KeyRange::Single(_) => KeyRange::Range {
            from: from.clone(),
            to: from,
        },
        KeyRange::Range { to, .. } => KeyRange::Range {
            from,
            to: to.clone(),
        },
        KeyRange::From(_) | KeyRange::All => KeyRange::From(from),
    }
}
