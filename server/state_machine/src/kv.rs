//! Puts and deletions.

use bytes::{BufMut, Bytes, BytesMut};
use mvcc::{Change, KeyRange, LeaseId, Removed};

use crate::answer::{DeleteRangeAnswer, PutAnswer};
use crate::command::{DeleteRange, Put, PutLease};
use crate::error::{ApplyError, Refusal};
use crate::lease::Leases;

/// One write transaction: keys, and which leases they hang on.
pub(crate) struct Writer<'a> {
    pub(crate) change: Change<'a>,
    pub(crate) leases: &'a mut Leases,
}

impl Writer<'_> {
    fn put(&mut self, key: &Bytes, value: &[u8], lease: Option<LeaseId>) {
        self.change.put(key, value, lease);
        self.leases.attach(key, lease);
    }

    /// Deletes the keys of a range; where their last values stand.
    pub(crate) fn delete(&mut self, keys: &KeyRange) -> Vec<Removed> {
        let removed = self.change.delete_range(keys);
        for key in &removed {
            self.leases.detach(&key.key);
        }
        removed
    }
}

/// Sets a key, or refuses before anything is changed.
pub(crate) fn put(writer: &mut Writer<'_>, put: &Put) -> Result<PutAnswer, ApplyError> {
    check_lease(put, |id| writer.leases.get(id).is_some())?;
    let previous = match put.previous || needs_previous(put) {
        true => writer.change.get(&put.key)?,
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
    writer.put(&put.key, value, lease);
    Ok(PutAnswer {
        previous: previous.filter(|_| put.previous),
    })
}

/// Deletes the keys of a range.
pub(crate) fn delete_range(
    writer: &mut Writer<'_>,
    delete: &DeleteRange,
) -> Result<DeleteRangeAnswer, ApplyError> {
    let removed = writer.delete(&delete.keys);
    let deleted = removed.len() as u64;
    let previous = match delete.previous {
        true => removed
            .iter()
            .map(|key| writer.change.pair(key.previous))
            .collect::<Result<_, _>>()?,
        false => Vec::new(),
    };
    Ok(DeleteRangeAnswer { deleted, previous })
}

/// Refuses a put that names a lease which there is not.
pub(crate) fn check_lease(put: &Put, exists: impl Fn(LeaseId) -> bool) -> Result<(), Refusal> {
    match put.lease {
        PutLease::Lease(id) if !exists(id) => Err(Refusal::LeaseNotFound),
        _ => Ok(()),
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
