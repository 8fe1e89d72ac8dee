//! Leases: keys that end together.
//!
//! A lease is granted, checkpointed and revoked through the log, the same on every member. When one
//! has run out is not decided here but by the leader's clock, which then has it revoked. Which keys
//! hang on a lease stands in the keys' own records only; the rest is a record per lease in bucket
//! [`schema::LEASE`]: id in 8 bytes, big endian, and `leasepb.Lease`.

use bytes::Bytes;
use mvcc::LeaseId;
use prost::Message;
use proto::leasepb;
use rpds::{HashTrieMapSync, RedBlackTreeSetSync};
use storage::{Batch, Committed};

use crate::error::{Fault, Refusal};
use crate::schema;

/// Longest time to live that can be granted, in seconds: etcd's limit, some 285 years.
pub const LEASE_TTL_MAX: i64 = 9_000_000_000;

/// One lease.
#[derive(Debug, Clone)]
pub struct Lease {
    /// Seconds that it lives without being renewed.
    pub ttl: i64,
    /// Seconds that were left at the last checkpoint; `None` when there was none since a renewal.
    pub remaining: Option<i64>,
    keys: RedBlackTreeSetSync<Bytes>,
}

impl Lease {
    /// The keys that hang on it, in order.
    pub fn keys(&self) -> impl Iterator<Item = &Bytes> {
        self.keys.iter()
    }

    fn to_record(&self, id: LeaseId) -> Bytes {
        let record = leasepb::Lease {
            id: id.0,
            ttl: self.ttl,
            remaining_ttl: self.remaining.unwrap_or(0),
        };
        record.encode_to_vec().into()
    }
}

/// What became of a lease, told to whoever watches the clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeaseChange {
    /// It lives from now on.
    Granted {
        /// Which.
        id: LeaseId,
        /// Its time to live in seconds.
        ttl: i64,
    },
    /// What it has left, in seconds; 0 for its whole time to live.
    Checkpointed {
        /// Which.
        id: LeaseId,
        /// Seconds.
        remaining: i64,
    },
    /// It is gone, and its keys with it.
    Revoked(LeaseId),
}

/// All leases and what hangs on them. A clone is cheap and stays as it is.
#[derive(Debug, Clone, Default)]
pub struct Leases {
    by_id: HashTrieMapSync<LeaseId, Lease>,
    /// Which lease a key hangs on.
    holders: HashTrieMapSync<Bytes, LeaseId>,
}

impl Leases {
    /// Reads the records. Those that live less than `ttl_min` seconds live as long as that.
    pub(crate) fn load(committed: &Committed, ttl_min: i64) -> Result<Leases, Fault> {
        let mut leases = Leases::default();
        let Some(bucket) = committed.bucket(schema::LEASE)? else {
            return Ok(leases);
        };
        for record in bucket.range(&[])? {
            let (key, value) = record?;
            let malformed = |what: &dyn std::fmt::Display| Fault::record(schema::LEASE, &key, what);
            let id = schema::decode_u64(&key).ok_or_else(|| malformed(&"no id of eight bytes"))?;
            let record = leasepb::Lease::decode(value).map_err(|error| malformed(&error))?;
            let lease = Lease {
                ttl: record.ttl.max(ttl_min),
                remaining: (record.remaining_ttl > 0).then_some(record.remaining_ttl),
                keys: RedBlackTreeSetSync::default(),
            };
            leases.by_id.insert_mut(LeaseId(id.cast_signed()), lease);
        }
        Ok(leases)
    }

    /// The lease of this id.
    pub fn get(&self, id: LeaseId) -> Option<&Lease> {
        self.by_id.get(&id)
    }

    /// All of them, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (LeaseId, &Lease)> {
        self.by_id.iter().map(|(id, lease)| (*id, lease))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.by_id.size()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    /// Adds a lease of at least `ttl_min` seconds; its time to live.
    pub(crate) fn grant(
        &mut self,
        id: LeaseId,
        ttl: i64,
        ttl_min: i64,
        batch: &mut Batch,
    ) -> Result<i64, Refusal> {
        if id.0 == 0 {
            return Err(Refusal::LeaseNotFound);
        }
        if ttl > LEASE_TTL_MAX {
            return Err(Refusal::LeaseTtlTooLarge);
        }
        if self.by_id.contains_key(&id) {
            return Err(Refusal::LeaseExists);
        }
        let lease = Lease {
            ttl: ttl.max(ttl_min),
            remaining: None,
            keys: RedBlackTreeSetSync::default(),
        };
        let ttl = lease.ttl;
        batch.put(schema::LEASE, record_key(id), lease.to_record(id));
        self.by_id.insert_mut(id, lease);
        Ok(ttl)
    }

    /// Ends a lease that no key hangs on any more.
    pub(crate) fn remove(&mut self, id: LeaseId, batch: &mut Batch) {
        if let Some(lease) = self.by_id.get(&id) {
            assert!(lease.keys.is_empty(), "a lease ends after its keys");
            self.by_id.remove_mut(&id);
            batch.delete(schema::LEASE, record_key(id));
        }
    }

    /// Notes how many seconds a lease has left, 0 for all of them; durably if `batch` is given.
    pub(crate) fn checkpoint(&mut self, id: LeaseId, remaining: i64, batch: Option<&mut Batch>) {
        let Some(lease) = self.by_id.get_mut(&id) else {
            return;
        };
        lease.remaining = (remaining > 0).then_some(remaining);
        if let Some(batch) = batch {
            batch.put(schema::LEASE, record_key(id), lease.to_record(id));
        }
    }

    /// Hangs a key on a lease that exists, or on none, whatever it hung on before.
    pub(crate) fn attach(&mut self, key: &Bytes, lease: Option<LeaseId>) {
        self.detach(key);
        let Some(id) = lease else {
            return;
        };
        // A database of a cluster that was damaged may name leases that are gone; etcd passes over
        // them too.
        if let Some(lease) = self.by_id.get_mut(&id) {
            lease.keys.insert_mut(key.clone());
            self.holders.insert_mut(key.clone(), id);
        }
    }

    /// Takes a key off its lease, if it hangs on one.
    pub(crate) fn detach(&mut self, key: &Bytes) {
        if self.holders.is_empty() {
            return;
        }
        let Some(id) = self.holders.get(key).copied() else {
            return;
        };
        self.holders.remove_mut(key);
        if let Some(lease) = self.by_id.get_mut(&id) {
            lease.keys.remove_mut(key);
        }
    }
}

fn record_key(id: LeaseId) -> Bytes {
    schema::encode_u64(id.0.cast_unsigned())
}
