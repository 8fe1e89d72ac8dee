//! The state that every member has alike, and what a committed entry does to it.

use std::sync::Arc;

use bytes::Bytes;
use mvcc::{Revision, Store, View};
use serde::Serialize;
use storage::{Batch, Committed};

use crate::alarm::{AlarmKind, Alarms};
use crate::answer::Answer;
use crate::command::{AlarmRequest, Command, Operation, Request, RequestId, Txn};
use crate::error::{ApplyError, Fault, Refusal};
use crate::members::{MemberChange, MemberId, Members, go_json};
use crate::{kv, schema, txn};

/// Where in the log an entry stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Position {
    /// Its index.
    pub index: u64,
    /// Its term.
    pub term: u64,
}

/// The record of consensus' configuration, with etcd's names.
#[derive(Serialize)]
struct Configuration<'a> {
    voters: &'a [MemberId],
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    learners: &'a [MemberId],
    auto_leave: bool,
}

/// The record of a downgrade, with etcd's names.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct Downgrade {
    target_version: String,
    enabled: bool,
}

/// What applying an entry brought.
#[derive(Debug)]
pub struct Applied {
    /// Who may be waiting for it.
    pub id: RequestId,
    /// The answer.
    pub result: Result<Answer, Refusal>,
    /// The store's revision afterwards.
    pub revision: Revision,
}

/// Why a database is not opened. Nothing in it was changed.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// It cannot be read.
    #[error(transparent)]
    Fault(#[from] Fault),
    /// It holds what this version does not carry out, and would wrongly leave undone.
    #[error("the database {0}; go on with etcd on this data directory")]
    Unsupported(&'static str),
}

/// The replicated state: key space, members, alarms, cluster version.
///
/// Changes stand in memory until [`StateMachine::take_batch`] hands them, together with the index
/// that they reach up to, to one commit of the storage. A crash in between loses only what the log
/// still has.
pub struct StateMachine {
    store: Store,
    members: Arc<Members>,
    alarms: Arc<Alarms>,
    applied: Position,
    /// The position that the last batch carried.
    saved: Position,
}

impl StateMachine {
    /// Reads a committed state, which has all of [`schema::ALL_BUCKETS`] or none.
    pub fn open(committed: Committed) -> Result<StateMachine, OpenError> {
        refuse_unsupported(&committed)?;
        let applied = read_position(&committed)?;
        let members = Arc::new(Members::load(&committed)?);
        let alarms = Arc::new(Alarms::load(&committed)?);
        let mut missing = Vec::new();
        for name in schema::ALL_BUCKETS {
            if committed.bucket(name).map_err(Fault::from)?.is_none() {
                missing.push(name);
            }
        }
        let opened = Store::open(committed).map_err(Fault::from)?;
        if !opened.attached.is_empty() {
            return Err(OpenError::Unsupported(LEASES));
        }
        let mut store = opened.store;
        for name in missing {
            store.batch_mut().create_bucket(name);
        }
        Ok(StateMachine {
            store,
            members,
            alarms,
            applied,
            saved: applied,
        })
    }

    /// The position of the last applied entry.
    pub fn applied(&self) -> Position {
        self.applied
    }

    /// Who belongs to the cluster.
    pub fn members(&self) -> Arc<Members> {
        self.members.clone()
    }

    /// The active alarms.
    pub fn alarms(&self) -> Arc<Alarms> {
        self.alarms.clone()
    }

    /// The key space, for compaction and commits.
    pub fn store(&mut self) -> &mut Store {
        &mut self.store
    }

    /// What readers may see: everything applied so far.
    pub fn view(&self) -> View {
        self.store.view()
    }

    /// Applies the data of the normal entry at `position`. Entries come in order; one that was
    /// applied before is passed over with `None`.
    pub fn apply(&mut self, position: Position, data: &Bytes) -> Result<Option<Applied>, Fault> {
        if position.index <= self.applied.index {
            return Ok(None);
        }
        let command = Command::decode(data).map_err(|source| Fault::Entry {
            index: position.index,
            source,
        })?;
        self.applied = position;
        let result = match self.carry_out(command.request) {
            Ok(answer) => Ok(answer),
            Err(ApplyError::Refused(refusal)) => Err(refusal),
            Err(ApplyError::Fault(fault)) => return Err(fault),
        };
        Ok(Some(Applied {
            id: command.id,
            result,
            revision: self.store.revision(),
        }))
    }

    /// Applies the configuration change at `position`. On a refusal nothing changes but the
    /// position, and consensus must be told that the change is void.
    pub fn apply_member_change(
        &mut self,
        position: Position,
        change: MemberChange,
    ) -> Result<(), Refusal> {
        if position.index <= self.applied.index {
            return Ok(());
        }
        self.applied = position;
        self.members.check(&change)?;
        Arc::make_mut(&mut self.members).apply(change, self.store.batch_mut());
        Ok(())
    }

    /// Records consensus' configuration, after each change of it.
    pub fn set_configuration(&mut self, voters: &[MemberId], learners: &[MemberId]) {
        let configuration = Configuration {
            voters,
            learners,
            auto_leave: false,
        };
        let key = Bytes::from_static(schema::CONF_STATE);
        self.store
            .batch_mut()
            .put(schema::META, key, go_json(&configuration).into());
    }

    /// Whether [`StateMachine::take_batch`] would hand out anything.
    pub fn has_batch(&self) -> bool {
        !self.store.batch().is_empty() || self.applied != self.saved
    }

    /// All changes since the last call, with the position that they reach up to, for one commit.
    /// What it makes goes to [`Store::batch_committed`].
    pub fn take_batch(&mut self) -> Batch {
        let batch = self.store.batch_mut();
        if self.applied.index > 0 {
            for (key, value) in [
                (schema::CONSISTENT_INDEX, self.applied.index),
                (schema::TERM, self.applied.term),
            ] {
                batch.put(
                    schema::META,
                    Bytes::from_static(key),
                    schema::encode_u64(value),
                );
            }
        }
        self.saved = self.applied;
        self.store.take_batch()
    }

    fn carry_out(&mut self, request: Request) -> Result<Answer, ApplyError> {
        self.check_alarms(&request)?;
        match request {
            Request::Nothing => Ok(Answer::Done),
            Request::Put(put) => self.change(|change| kv::put(change, &put).map(Answer::Put)),
            Request::DeleteRange(delete) => {
                self.change(|change| kv::delete_range(change, &delete).map(Answer::DeleteRange))
            }
            Request::Txn(txn) => self.change(|change| txn::apply(change, &txn).map(Answer::Txn)),
            // etcd counts a store that was never compacted as compacted at -1.
            Request::Compact(revision) if revision < Revision(0) => Err(Refusal::Compacted.into()),
            Request::Compact(revision) => {
                self.store
                    .schedule_compaction(revision)
                    .map_err(Refusal::from)?;
                Ok(Answer::Done)
            }
            Request::Alarm(alarm) => Ok(self.alarm(alarm)),
            Request::SetClusterVersion(version) => {
                Arc::make_mut(&mut self.members).set_version(version, self.store.batch_mut());
                Ok(Answer::Done)
            }
            Request::SetMemberAttributes {
                id,
                name,
                client_urls,
            } => {
                let batch = self.store.batch_mut();
                Arc::make_mut(&mut self.members).set_attributes(id, name, client_urls, batch);
                Ok(Answer::Done)
            }
            Request::SetDowngrade { enabled, version } => {
                let record = Downgrade {
                    target_version: version,
                    enabled,
                };
                let key = Bytes::from_static(schema::DOWNGRADE);
                self.store
                    .batch_mut()
                    .put(schema::CLUSTER, key, go_json(&record).into());
                Ok(Answer::Done)
            }
        }
    }

    /// One write transaction. What is refused is refused before anything was changed.
    fn change(
        &mut self,
        act: impl FnOnce(&mut mvcc::Change<'_>) -> Result<Answer, ApplyError>,
    ) -> Result<Answer, ApplyError> {
        let mut change = self.store.change();
        let answer = act(&mut change)?;
        change.finish();
        Ok(answer)
    }

    fn check_alarms(&self, request: &Request) -> Result<(), Refusal> {
        let changes_keys = matches!(
            request,
            Request::Put(_) | Request::DeleteRange(_) | Request::Txn(_)
        );
        let compacts = matches!(request, Request::Compact(_));
        if (changes_keys || compacts) && self.alarms.any(AlarmKind::Corrupt) {
            return Err(Refusal::Corrupt);
        }
        let grows = match request {
            Request::Put(_) => true,
            Request::Txn(txn) => has_put(txn),
            _ => false,
        };
        if grows && self.alarms.any(AlarmKind::NoSpace) {
            return Err(Refusal::NoSpace);
        }
        Ok(())
    }

    fn alarm(&mut self, request: AlarmRequest) -> Answer {
        let batch = self.store.batch_mut();
        Answer::Alarms(match request {
            AlarmRequest::Nothing => Vec::new(),
            AlarmRequest::List(kind) => {
                let wanted = |alarm: &crate::Alarm| kind.is_none_or(|kind| alarm.kind == kind);
                self.alarms.iter().filter(wanted).collect()
            }
            AlarmRequest::Activate(alarm) => {
                Arc::make_mut(&mut self.alarms).activate(alarm, batch);
                vec![alarm]
            }
            AlarmRequest::Deactivate(alarm) => {
                match Arc::make_mut(&mut self.alarms).deactivate(alarm, batch) {
                    true => vec![alarm],
                    false => Vec::new(),
                }
            }
        })
    }
}

fn has_put(txn: &Txn) -> bool {
    txn.success
        .iter()
        .chain(&txn.failure)
        .any(|operation| match operation {
            Operation::Put(_) => true,
            Operation::Txn(txn) => has_put(txn),
            Operation::Range(_) | Operation::DeleteRange(_) => false,
        })
}

/// The position that a committed state says it holds.
pub fn read_position(committed: &Committed) -> Result<Position, Fault> {
    let Some(meta) = committed.bucket(schema::META)? else {
        return Ok(Position::default());
    };
    let number = |key: &[u8]| match meta.get(key)? {
        None => Ok(0),
        Some(value) => schema::decode_u64(&value)
            .ok_or_else(|| Fault::record(schema::META, key, &"not a number of eight bytes")),
    };
    Ok(Position {
        index: number(schema::CONSISTENT_INDEX)?,
        term: number(schema::TERM)?,
    })
}

const LEASES: &str = "holds leases, which this version of holdfast would never let expire";

fn refuse_unsupported(committed: &Committed) -> Result<(), OpenError> {
    let first = |name: &str| -> Result<bool, Fault> {
        match committed.bucket(name)? {
            Some(bucket) => Ok(bucket.last()?.is_some()),
            None => Ok(false),
        }
    };
    if first(schema::LEASE)? {
        return Err(OpenError::Unsupported(LEASES));
    }
    let auth = committed.bucket(schema::AUTH).map_err(Fault::from)?;
    let enabled = match auth {
        Some(bucket) => bucket.get(schema::AUTH_ENABLED).map_err(Fault::from)?,
        None => None,
    };
    if enabled.is_some_and(|value| value.first() == Some(&1)) {
        return Err(OpenError::Unsupported(
            "has authorization switched on, which this version of holdfast would not enforce",
        ));
    }
    Ok(())
}
