//! Everything that is known at one moment, and how questions are answered from it.

use std::cmp::Ordering;
use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;
use storage::{Bucket, Committed};

use crate::hash::KeyHash;
use crate::key_block::KeyParts;
use crate::key_index::{KeyIndex, Towards};
use crate::range::{Content, Filters, KeyRange, Order, RangeAnswer, RangeQuery, SortBy};
use crate::recent::Recent;
use crate::record::KeyValue;
use crate::refusal::{Fault, ReadError, Refusal};
use crate::revision::{Position, RECORD_KEY_BYTES, RecordKey, Revision};

/// The bucket of the records.
pub(crate) const KEY_BUCKET: &str = "key";

/// A clone is a snapshot: all parts are shared and none of them changes in place.
#[derive(Clone)]
pub(crate) struct State {
    pub(crate) index: KeyIndex,
    pub(crate) recent: Recent,
    pub(crate) committed: Committed,
    pub(crate) records: Option<Bucket>,
    /// The records up to here are in `records`, the later ones in `recent`.
    pub(crate) committed_revision: Revision,
    pub(crate) revision: Revision,
    pub(crate) compacted: Option<Revision>,
    /// Hashes that compactions left, by ascending revision.
    pub(crate) hashes: Arc<Vec<KeyHash>>,
}

impl State {
    pub(crate) fn set_committed(
        &mut self,
        committed: Committed,
        revision: Revision,
    ) -> Result<(), Fault> {
        self.records = committed.bucket(KEY_BUCKET)?;
        self.committed = committed;
        self.committed_revision = revision;
        self.recent.drop_up_to(revision);
        Ok(())
    }

    /// The revision that a question means, if it can be read while `current` is the current one.
    pub(crate) fn readable(
        &self,
        asked: Option<Revision>,
        current: Revision,
    ) -> Result<Revision, Refusal> {
        let revision = asked.unwrap_or(current);
        if revision > current {
            return Err(Refusal::FutureRevision { current });
        }
        match self.compacted {
            Some(oldest) if revision < oldest => Err(Refusal::Compacted { oldest }),
            _ => Ok(revision),
        }
    }

    pub(crate) fn get(&self, key: &[u8], revision: Revision) -> Result<Option<KeyValue>, Fault> {
        self.index
            .get(key, revision)
            .map(|position| self.pair(position))
            .transpose()
    }

    /// The pair whose record stands at `position`, which the index named.
    pub(crate) fn pair(&self, position: Position) -> Result<KeyValue, Fault> {
        let record = if position.revision > self.committed_revision {
            self.recent.get(position).map(|found| found.record.clone())
        } else {
            let (key, _) = RecordKey::live(position).encode();
            match &self.records {
                Some(records) => records.get(&key[..RECORD_KEY_BYTES])?,
                None => None,
            }
        };
        let record = record.ok_or(Fault::Missing { position })?;
        KeyValue::decode(record).map_err(|source| Fault::Record { position, source })
    }

    pub(crate) fn range(
        &self,
        query: &RangeQuery,
        current: Revision,
    ) -> Result<RangeAnswer, ReadError> {
        let at = self.readable(query.revision, current)?;
        let count = self.index.count(&query.keys, at);
        let mut answer = RangeAnswer {
            pairs: Vec::new(),
            count,
            more: false,
            revision: current,
        };
        if query.content == Content::CountOnly || count == 0 {
            return Ok(answer);
        }
        (answer.pairs, answer.more) = match Plan::of(query) {
            Plan::FirstByKey(towards) => self.first_by_key(query, at, towards, count)?,
            Plan::SortFirstByKey => self.sort_first_by_key(query, at, count)?,
            Plan::SortAll => self.sort_all(query, at, count)?,
        };
        if query.content == Content::KeysOnly {
            answer
                .pairs
                .iter_mut()
                .for_each(|pair| *pair = pair.without_value());
        }
        Ok(answer)
    }

    /// The answer stands in the order of the keys, so no more is read than goes into it.
    fn first_by_key(
        &self,
        query: &RangeQuery,
        at: Revision,
        towards: Towards,
        count: u64,
    ) -> Result<(Vec<KeyValue>, bool), Fault> {
        let limit = query.limit.map_or(usize::MAX, |limit| limit.get());
        if !query.filters.is_set() {
            let positions = self.positions(&query.keys, at, towards, limit.min(as_usize(count)));
            return Ok((self.pairs(&positions)?, count > limit as u64));
        }
        let mut positions = self.positions(&query.keys, at, towards, as_usize(count));
        positions.retain(|position| admits_change(&query.filters, *position));
        let mut pairs = Vec::new();
        for position in positions {
            let pair = self.pair(position)?;
            if !query.filters.admit(&pair) {
                continue;
            }
            if pairs.len() == limit {
                return Ok((pairs, true));
            }
            pairs.push(pair);
        }
        Ok((pairs, false))
    }

    /// As etcd does it when no order is asked for: takes one pair more than the limit by key,
    /// sorts those, cuts the last.
    fn sort_first_by_key(
        &self,
        query: &RangeQuery,
        at: Revision,
        count: u64,
    ) -> Result<(Vec<KeyValue>, bool), Fault> {
        let limit = query.limit.map_or(usize::MAX, |limit| limit.get());
        let taken = limit.saturating_add(1).min(as_usize(count));
        let positions = self.positions(&query.keys, at, Towards::Greater, taken);
        let mut pairs = self.pairs(&positions)?;
        sort(&mut pairs, query.sort_by, Order::Ascending);
        pairs.truncate(limit);
        Ok((pairs, count > limit as u64))
    }

    fn sort_all(
        &self,
        query: &RangeQuery,
        at: Revision,
        count: u64,
    ) -> Result<(Vec<KeyValue>, bool), Fault> {
        let limit = query.limit.map_or(usize::MAX, |limit| limit.get());
        let mut positions = self.positions(&query.keys, at, Towards::Greater, as_usize(count));
        positions.retain(|position| admits_change(&query.filters, *position));
        let mut pairs = self.pairs(&positions)?;
        pairs.retain(|pair| query.filters.admit(pair));
        sort(&mut pairs, query.sort_by, query.order);
        let more = pairs.len() > limit;
        pairs.truncate(limit);
        Ok((pairs, more))
    }

    /// Where the first values of a range stand, `most` of them at most.
    fn positions(
        &self,
        keys: &KeyRange,
        at: Revision,
        towards: Towards,
        most: usize,
    ) -> Vec<Position> {
        if most == 0 {
            return Vec::new();
        }
        let mut positions = Vec::with_capacity(most);
        self.index.walk(keys, at, towards, |_, position| {
            positions.push(position);
            match positions.len() < most {
                true => ControlFlow::Continue(()),
                false => ControlFlow::Break(()),
            }
        });
        positions
    }

    fn pairs(&self, positions: &[Position]) -> Result<Vec<KeyValue>, Fault> {
        positions
            .iter()
            .map(|position| self.pair(*position))
            .collect()
    }

    /// The keys of a range as of `revision`, each with the place of its value.
    pub(crate) fn keys(&self, range: &KeyRange, revision: Revision) -> Vec<(Vec<u8>, Position)> {
        let mut keys = Vec::new();
        self.index.walk(
            range,
            revision,
            Towards::Greater,
            |key: KeyParts<'_>, position| {
                keys.push((key.to_vec(), position));
                ControlFlow::Continue(())
            },
        );
        keys
    }

    /// All records from `from` on that still exist, in order: first the committed ones, then the
    /// recent ones.
    pub(crate) fn records_from(
        &self,
        from: Position,
    ) -> Result<impl Iterator<Item = Result<(RecordKey, Bytes), Fault>> + '_, Fault> {
        let (start, _) = RecordKey::live(from).encode();
        let committed = match &self.records {
            Some(records) if from.revision <= self.committed_revision => {
                Some(records.range(&start[..RECORD_KEY_BYTES])?)
            }
            _ => None,
        };
        let committed = committed.into_iter().flatten().map(|entry| {
            let (key, record) = entry?;
            Ok((decode_record_key(&key)?, record))
        });
        let first_recent = from.max(Position::first(self.committed_revision.next()));
        let recent = self.recent.from(first_recent);
        Ok(committed.chain(recent.map(|found| Ok((found.key, found.record.clone())))))
    }
}

/// Reads a key of bucket `key`.
pub(crate) fn decode_record_key(key: &[u8]) -> Result<RecordKey, Fault> {
    RecordKey::decode(key).ok_or_else(|| Fault::Entry {
        bucket: KEY_BUCKET,
        entry: key.escape_ascii().to_string(),
        what: "is no revision",
    })
}

/// How much of a range must be read to answer.
enum Plan {
    FirstByKey(Towards),
    SortFirstByKey,
    SortAll,
}

impl Plan {
    fn of(query: &RangeQuery) -> Plan {
        match (query.sort_by, query.order) {
            (SortBy::Key, Order::Descending) => Plan::FirstByKey(Towards::Smaller),
            (SortBy::Key, _) => Plan::FirstByKey(Towards::Greater),
            (_, Order::Unspecified) if query.limit.is_some() && !query.filters.is_set() => {
                Plan::SortFirstByKey
            }
            _ => Plan::SortAll,
        }
    }
}

/// Whether the filters on the last change admit a pair, which shows before it is read.
fn admits_change(filters: &Filters, position: Position) -> bool {
    filters
        .mod_revision_min
        .is_none_or(|min| position.revision >= min)
        && filters
            .mod_revision_max
            .is_none_or(|max| position.revision <= max)
}

fn sort(pairs: &mut [KeyValue], by: SortBy, order: Order) {
    let compare = |left: &KeyValue, right: &KeyValue| -> Ordering {
        match by {
            SortBy::Key => left.key().cmp(right.key()),
            SortBy::Version => left.version.cmp(&right.version),
            SortBy::CreateRevision => left.create_revision.cmp(&right.create_revision),
            SortBy::ModRevision => left.mod_revision.cmp(&right.mod_revision),
            SortBy::Value => left.value().cmp(right.value()),
        }
    };
    match order {
        Order::Descending => pairs.sort_by(|left, right| compare(right, left)),
        _ => pairs.sort_by(compare),
    }
}

fn as_usize(count: u64) -> usize {
    usize::try_from(count).expect("the keys of an index fit in memory")
}
