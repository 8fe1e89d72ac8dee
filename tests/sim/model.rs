//! What must be: the log that all agree on, and the keys that it makes, by a way of thinking that has nothing
//! in common with the server's: every version of every key, side by side.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use consensus::{Entry, EntryKind};
use mvcc::{EventKind, KeyValue};
use state_machine::{
    Answer, Command, Compare, Operand, Operation, OperationAnswer, Put, PutLease, Refusal, Request,
    Txn,
};

/// One version of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Version {
    pub(crate) revision: i64,
    /// `None` when it was deleted.
    pub(crate) value: Option<Bytes>,
    pub(crate) created: i64,
    pub(crate) version: i64,
    pub(crate) lease: i64,
}

/// What came of a request, as far as it is compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Done,
    Put {
        previous: Option<Bytes>,
    },
    Deleted(u64),
    Txn {
        succeeded: bool,
        put_revisions: Vec<i64>,
    },
    Refused(Refusal),
}

/// What came of a request, and the revision after it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Effect {
    pub(crate) outcome: Outcome,
    pub(crate) revision: i64,
    /// Whether it made that revision.
    pub(crate) changed: bool,
}

#[derive(Default)]
pub(crate) struct Model {
    /// Entries in order of their index, from 1 on, as the first member to commit them saw them.
    log: Vec<Entry>,
    /// The revision after each of them.
    revisions: Vec<i64>,
    keys: BTreeMap<Bytes, Vec<Version>>,
    /// Keys that each revision changed, in order; the first is revision 2.
    changes: Vec<Vec<Bytes>>,
    compacted: i64,
    leases: BTreeSet<i64>,
    effects: BTreeMap<u64, Effect>,
}

impl Model {
    /// Takes entries that a member holds for committed.
    ///
    /// # Errors
    /// When another member has committed something else there.
    pub(crate) fn commit(&mut self, id: u64, entries: &[Entry]) -> Result<(), String> {
        for entry in entries {
            let place = entry.index.0 as usize - 1;
            match self.log.get(place) {
                Some(agreed) if agreed == entry => {}
                Some(agreed) => {
                    return Err(format!(
                        "member {id} has committed another entry {} (term {}) than was agreed on (term {})",
                        entry.index, entry.term, agreed.term
                    ));
                }
                None if place > self.log.len() => {
                    return Err(format!("member {id} skips to entry {}", entry.index));
                }
                None => {
                    self.apply(entry)?;
                    self.log.push(entry.clone());
                    self.revisions.push(self.revision());
                }
            }
        }
        Ok(())
    }

    pub(crate) fn revision(&self) -> i64 {
        self.changes.len() as i64 + 1
    }

    pub(crate) fn last_index(&self) -> u64 {
        self.log.len() as u64
    }

    /// The revision after the entry at an index.
    pub(crate) fn revision_at(&self, index: u64) -> Option<i64> {
        match index {
            0 => Some(1),
            _ => self.revisions.get(index as usize - 1).copied(),
        }
    }

    pub(crate) fn compacted(&self) -> i64 {
        self.compacted
    }

    /// What came of a request; `None` as long as it is not committed.
    pub(crate) fn effect(&self, request: u64) -> Option<&Effect> {
        self.effects.get(&request)
    }

    /// All keys with their versions at a revision.
    pub(crate) fn at(&self, revision: i64) -> impl Iterator<Item = (&Bytes, &Version)> {
        self.keys.iter().filter_map(move |(key, versions)| {
            let behind = versions.partition_point(|version| version.revision <= revision);
            let version = &versions[behind.checked_sub(1)?];
            version.value.is_some().then_some((key, version))
        })
    }

    /// The changes from a revision on: revision, key and version.
    pub(crate) fn history(&self, from: i64) -> impl Iterator<Item = (i64, &Bytes, &Version)> {
        let first = (from - 2).max(0) as usize;
        let later = self.changes.iter().enumerate().skip(first);
        later.flat_map(move |(place, keys)| {
            let revision = place as i64 + 2;
            keys.iter()
                .map(move |key| (revision, key, self.version(key, revision)))
        })
    }

    fn version(&self, key: &Bytes, revision: i64) -> &Version {
        let versions = &self.keys[key];
        let found = versions.binary_search_by_key(&revision, |version| version.revision);
        &versions[found.expect("it was changed then")]
    }

    fn current(&self, key: &Bytes) -> Option<&Version> {
        let last = self.keys.get(key)?.last()?;
        last.value.is_some().then_some(last)
    }

    fn apply(&mut self, entry: &Entry) -> Result<(), String> {
        if entry.kind != EntryKind::Normal {
            return Ok(());
        }
        let command = Command::decode(&entry.data).map_err(|error| error.to_string())?;
        let before = self.revision();
        let outcome = self.carry_out(&command.request);
        let effect = Effect {
            outcome: outcome.unwrap_or_else(Outcome::Refused),
            revision: self.revision(),
            changed: self.revision() > before,
        };
        // A request may be in the log only once: nobody proposes it again.
        if command.id.0 != 0 && self.effects.insert(command.id.0, effect).is_some() {
            return Err(format!("request {:x} is in the log twice", command.id.0));
        }
        Ok(())
    }

    fn carry_out(&mut self, request: &Request) -> Result<Outcome, Refusal> {
        let mut changes = Vec::new();
        let outcome = match request {
            Request::Put(put) => self.put(put, &mut changes),
            Request::DeleteRange(delete) => {
                let keys: Vec<Bytes> = self.keys.keys().cloned().collect();
                let gone = keys.into_iter().filter(|key| delete.keys.contains(key));
                Ok(Outcome::Deleted(self.delete(gone, &mut changes)))
            }
            Request::Txn(txn) => self.txn(txn, &mut changes),
            Request::Compact(revision) => self.compact(revision.0),
            Request::LeaseGrant { id, .. } => match self.leases.insert(id.0) {
                true => Ok(Outcome::Done),
                false => Err(Refusal::LeaseExists),
            },
            Request::LeaseRevoke(id) if !self.leases.remove(&id.0) => Err(Refusal::LeaseNotFound),
            Request::LeaseRevoke(id) => {
                let hangs = |key: &Bytes| self.current(key).is_some_and(|now| now.lease == id.0);
                let keys: Vec<Bytes> = self.keys.keys().filter(|key| hangs(key)).cloned().collect();
                self.delete(keys.into_iter(), &mut changes);
                Ok(Outcome::Done)
            }
            _ => Ok(Outcome::Done),
        };
        if !changes.is_empty() {
            self.changes.push(changes);
        }
        outcome
    }

    fn put(&mut self, put: &Put, changes: &mut Vec<Bytes>) -> Result<Outcome, Refusal> {
        let lease = match put.lease {
            PutLease::Lease(id) if !self.leases.contains(&id.0) => {
                return Err(Refusal::LeaseNotFound);
            }
            PutLease::Lease(id) => id.0,
            PutLease::None | PutLease::Keep => 0,
        };
        let revision = self.revision() + 1;
        let before = self.current(&put.key).cloned();
        let version = Version {
            revision,
            value: put.value.clone(),
            created: before.as_ref().map_or(revision, |before| before.created),
            version: before.as_ref().map_or(1, |before| before.version + 1),
            lease,
        };
        self.keys.entry(put.key.clone()).or_default().push(version);
        changes.push(put.key.clone());
        let previous = before.and_then(|before| before.value);
        Ok(Outcome::Put {
            previous: previous.filter(|_| put.previous),
        })
    }

    fn delete(&mut self, keys: impl Iterator<Item = Bytes>, changes: &mut Vec<Bytes>) -> u64 {
        let revision = self.revision() + 1;
        let mut deleted = 0;
        for key in keys {
            if self.current(&key).is_none() {
                continue;
            }
            let gone = Version {
                revision,
                value: None,
                created: 0,
                version: 0,
                lease: 0,
            };
            self.keys.entry(key.clone()).or_default().push(gone);
            changes.push(key);
            deleted += 1;
        }
        deleted
    }

    /// The simulation's transactions: compares of revisions, then puts of different keys.
    fn txn(&mut self, txn: &Txn, changes: &mut Vec<Bytes>) -> Result<Outcome, Refusal> {
        let succeeded = txn.compares.iter().all(|compare| self.holds(compare));
        let list = match succeeded {
            true => &txn.success,
            false => &txn.failure,
        };
        let mut put_revisions = Vec::new();
        for operation in list {
            let Operation::Put(put) = operation else {
                unreachable!("no other operations are sent");
            };
            self.put(put, changes)?;
            put_revisions.push(self.revision() + 1);
        }
        Ok(Outcome::Txn {
            succeeded,
            put_revisions,
        })
    }

    fn holds(&self, compare: &Compare) -> bool {
        let (mvcc::KeyRange::Single(key), Operand::ModRevision(wanted)) =
            (&compare.keys, &compare.operand)
        else {
            unreachable!("no other compares are sent");
        };
        self.current(key).map_or(0, |now| now.revision) == *wanted
    }

    fn compact(&mut self, at: i64) -> Result<Outcome, Refusal> {
        if at <= self.compacted {
            return Err(Refusal::Compacted);
        }
        if at > self.revision() {
            return Err(Refusal::FutureRevision);
        }
        self.compacted = at;
        Ok(Outcome::Done)
    }
}

/// A member's answer in the model's words.
pub(crate) fn outcome_of(result: &Result<Answer, Refusal>) -> Outcome {
    match result {
        Err(refusal) => Outcome::Refused(*refusal),
        Ok(Answer::Put(put)) => Outcome::Put {
            previous: put.previous.as_ref().map(KeyValue::value_bytes),
        },
        Ok(Answer::DeleteRange(delete)) => Outcome::Deleted(delete.deleted),
        Ok(Answer::Txn(txn)) => Outcome::Txn {
            succeeded: txn.succeeded,
            put_revisions: txn
                .operations
                .iter()
                .filter_map(|operation| match operation {
                    OperationAnswer::Put(_, revision) => Some(revision.0),
                    _ => None,
                })
                .collect(),
        },
        Ok(_) => Outcome::Done,
    }
}

/// Whether a pair is this version of that key.
pub(crate) fn is_same(pair: &KeyValue, key: &Bytes, version: &Version) -> bool {
    pair.key() == key
        && Some(pair.value()) == version.value.as_deref()
        && pair.create_revision.0 == version.created
        && pair.mod_revision.0 == version.revision
        && pair.version == version.version
        && pair.lease.map_or(0, |lease| lease.0) == version.lease
}

/// Whether an event is this change.
pub(crate) fn is_same_event(
    event: &mvcc::Event,
    (revision, key, version): (i64, &Bytes, &Version),
) -> bool {
    let is_deletion = event.kind == EventKind::Delete;
    event.position.revision.0 == revision
        && event.pair.key() == key
        && match &version.value {
            None => is_deletion && event.pair.mod_revision.0 == revision,
            Some(_) => !is_deletion && is_same(&event.pair, key, version),
        }
}
