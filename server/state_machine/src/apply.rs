//! The state that every member has alike, and what a committed entry does to it.

use std::sync::Arc;

use bytes::Bytes;
use mvcc::{Changed, KeyRange, LeaseId, Revision, Store, View};
use serde::{Deserialize, Serialize};
use storage::{Batch, Committed};

use crate::alarm::{AlarmKind, Alarms};
use crate::answer::Answer;
use crate::auth::{Auth, AuthChange};
use crate::command::{
    AlarmRequest, AuthRequest, Command, Identity, Operation, Request, RequestId, Txn,
};
use crate::error::{ApplyError, Fault, Refusal};
use crate::kv::Writer;
use crate::lease::{LeaseChange, Leases};
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

/// Consensus' configuration as a committed state records it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct RecordedConfiguration {
    /// Who votes.
    #[serde(default)]
    pub voters: Vec<MemberId>,
    /// Who learns.
    #[serde(default)]
    pub learners: Vec<MemberId>,
}

/// The record of consensus' configuration, with etcd's names.
#[derive(Serialize)]
struct Configuration<'a> {
    voters: &'a [MemberId],
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    learners: &'a [MemberId],
    auto_leave: bool,
}

/// A downgrade of the cluster; its JSON, with etcd's names, is the record.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct Downgrade {
    /// The version that the cluster goes back to, `X.Y.0`; empty when none is under way.
    pub target_version: String,
    /// Whether one is under way.
    pub enabled: bool,
}

impl Downgrade {
    fn load(committed: &Committed) -> Result<Downgrade, Fault> {
        let record = match committed.bucket(schema::CLUSTER)? {
            Some(bucket) => bucket.get(schema::DOWNGRADE)?,
            None => None,
        };
        let Some(record) = record else {
            return Ok(Downgrade::default());
        };
        serde_json::from_slice(&record)
            .map_err(|error| Fault::record(schema::CLUSTER, schema::DOWNGRADE, &error))
    }
}

/// What all members of a cluster must be set to alike, as with etcd.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Leases live this many seconds at least.
    pub lease_ttl_min: i64,
    /// Whether a lease's checkpoints outlive a restart in a cluster older than 3.6, too.
    pub persist_lease_checkpoints: bool,
    /// How many learners the cluster may have at a time; alike on all members.
    pub learners_max: usize,
}

/// The operations that take time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AppliedOperation {
    /// A put outside of a transaction.
    Put,
    /// A deletion outside of a transaction.
    DeleteRange,
    /// A transaction.
    Txn,
    /// A compaction.
    Compaction,
}

impl AppliedOperation {
    fn of(request: &Request) -> Option<AppliedOperation> {
        match request {
            Request::Put(_) => Some(AppliedOperation::Put),
            Request::DeleteRange(_) => Some(AppliedOperation::DeleteRange),
            Request::Txn(_) => Some(AppliedOperation::Txn),
            Request::Compact(_) => Some(AppliedOperation::Compaction),
            _ => None,
        }
    }
}

/// What applying an entry brought.
#[derive(Debug)]
pub struct Applied {
    /// Who may be waiting for it.
    pub id: RequestId,
    /// What was done, if it is worth to be timed.
    pub operation: Option<AppliedOperation>,
    /// The answer.
    pub result: Result<Answer, Refusal>,
    /// The store's revision afterwards.
    pub revision: Revision,
}

/// The replicated state: key space, leases, members, alarms, cluster version.
///
/// Changes stand in memory until [`StateMachine::take_batch`] hands them, together with the index
/// that they reach up to, to one commit of the storage. A crash in between loses only what the log
/// still has.
pub struct StateMachine {
    settings: Settings,
    store: Store,
    /// What happened to keys since it was last asked for.
    changes: Vec<Changed>,
    auth: Arc<Auth>,
    /// What became of tokens since it was last asked for.
    auth_changes: Vec<AuthChange>,
    leases: Leases,
    /// What became of leases since it was last asked for.
    lease_changes: Vec<LeaseChange>,
    members: Arc<Members>,
    alarms: Arc<Alarms>,
    downgrade: Arc<Downgrade>,
    applied: Position,
    /// The position that the last batch carried.
    saved: Position,
}

impl StateMachine {
    /// Reads a committed state, which has all of [`schema::ALL_BUCKETS`] or none.
    pub fn open(committed: Committed, settings: Settings) -> Result<StateMachine, Fault> {
        let applied = read_position(&committed)?;
        let mut members = Members::load(&committed)?;
        members.set_learners_max(settings.learners_max);
        let members = Arc::new(members);
        let alarms = Arc::new(Alarms::load(&committed)?);
        let auth = Arc::new(Auth::load(&committed)?);
        let downgrade = Arc::new(Downgrade::load(&committed)?);
        let mut leases = Leases::load(&committed, settings.lease_ttl_min)?;
        let mut missing = Vec::new();
        for name in schema::ALL_BUCKETS {
            if committed.bucket(name).map_err(Fault::from)?.is_none() {
                missing.push(name);
            }
        }
        let opened = Store::open(committed).map_err(Fault::from)?;
        for (key, lease) in opened.attached {
            leases.attach(&key, Some(lease));
        }
        let mut store = opened.store;
        for name in missing {
            store.batch_mut().create_bucket(name);
        }
        Ok(StateMachine {
            settings,
            store,
            changes: Vec::new(),
            auth,
            auth_changes: Vec::new(),
            leases,
            lease_changes: Vec::new(),
            members,
            alarms,
            downgrade,
            applied,
            saved: applied,
        })
    }

    /// The state includes everything up to `position`, as the snapshot says that brought it.
    ///
    /// # Errors
    /// If it holds later entries.
    pub fn set_applied(&mut self, position: Position) -> Result<(), Fault> {
        if self.applied.index > position.index {
            return Err(Fault::Ahead {
                applied: self.applied.index,
                index: position.index,
            });
        }
        self.applied = position;
        Ok(())
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

    /// The downgrade under way, if any.
    pub fn downgrade(&self) -> Arc<Downgrade> {
        self.downgrade.clone()
    }

    /// Users and roles.
    pub fn auth(&self) -> Arc<Auth> {
        self.auth.clone()
    }

    /// What became of tokens since the last call, in order.
    pub fn take_auth_changes(&mut self) -> Vec<AuthChange> {
        std::mem::take(&mut self.auth_changes)
    }

    /// All leases.
    pub fn leases(&self) -> &Leases {
        &self.leases
    }

    /// What happened to keys since the last call, a revision after the other.
    pub fn take_changes(&mut self) -> Vec<Changed> {
        std::mem::take(&mut self.changes)
    }

    /// What became of leases since the last call, in order.
    pub fn take_lease_changes(&mut self) -> Vec<LeaseChange> {
        std::mem::take(&mut self.lease_changes)
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
        let operation = AppliedOperation::of(&command.request);
        let result = match self.carry_out(command.request, command.identity.as_ref()) {
            Ok(answer) => Ok(answer),
            Err(ApplyError::Refused(refusal)) => Err(refusal),
            Err(ApplyError::Fault(fault)) => return Err(fault),
        };
        Ok(Some(Applied {
            id: command.id,
            operation,
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
        let key = Bytes::from_static(schema::CONF_STATE);
        self.store
            .batch_mut()
            .put(schema::META, key, configuration(voters, learners));
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

    fn carry_out(
        &mut self,
        request: Request,
        identity: Option<&Identity>,
    ) -> Result<Answer, ApplyError> {
        self.check_alarms(&request)?;
        self.check_permission(&request, identity)?;
        match request {
            Request::Nothing => Ok(Answer::Done),
            Request::Put(put) => self.change(|writer| kv::put(writer, &put).map(Answer::Put)),
            Request::DeleteRange(delete) => {
                self.change(|writer| kv::delete_range(writer, &delete).map(Answer::DeleteRange))
            }
            Request::Txn(txn) => self.change(|writer| txn::apply(writer, &txn).map(Answer::Txn)),
            // etcd counts a store that was never compacted as compacted at -1.
            Request::Compact(revision) if revision < Revision(0) => Err(Refusal::Compacted.into()),
            Request::Compact(revision) => {
                self.store
                    .schedule_compaction(revision)
                    .map_err(Refusal::from)?;
                Ok(Answer::Done)
            }
            Request::Alarm(alarm) => Ok(self.alarm(alarm)),
            Request::LeaseGrant { id, ttl } => {
                let ttl_min = self.settings.lease_ttl_min;
                let batch = self.store.batch_mut();
                let ttl = self.leases.grant(id, ttl, ttl_min, batch)?;
                self.lease_changes.push(LeaseChange::Granted { id, ttl });
                Ok(Answer::LeaseGranted(ttl))
            }
            // The most frequent of these, and it changes nothing that readers would need a copy of.
            Request::Auth(AuthRequest::Authenticate { name, token }) => {
                let index = self.applied.index;
                let change = self.auth.let_in(name, token, index)?;
                self.auth_changes.push(change);
                Ok(Answer::Authenticated { index })
            }
            Request::Auth(request) => {
                let index = self.applied.index;
                let auth = Arc::make_mut(&mut self.auth);
                let changes = &mut self.auth_changes;
                auth.apply(request, index, self.store.batch_mut(), changes)?;
                Ok(Answer::Done)
            }
            Request::LeaseRevoke(id) => self.revoke(id),
            Request::LeaseCheckpoint(leases) => {
                self.checkpoint(&leases);
                Ok(Answer::Done)
            }
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
                let downgrade = Downgrade {
                    target_version: version,
                    enabled,
                };
                let key = Bytes::from_static(schema::DOWNGRADE);
                self.store
                    .batch_mut()
                    .put(schema::CLUSTER, key, go_json(&downgrade).into());
                self.downgrade = Arc::new(downgrade);
                Ok(Answer::Done)
            }
        }
    }

    /// One write transaction. What is refused is refused before anything was changed.
    fn change(
        &mut self,
        act: impl FnOnce(&mut Writer<'_>) -> Result<Answer, ApplyError>,
    ) -> Result<Answer, ApplyError> {
        let mut writer = Writer {
            change: self.store.change(),
            leases: &mut self.leases,
        };
        let answer = act(&mut writer)?;
        self.changes.extend(writer.change.finish());
        Ok(answer)
    }

    /// Deletes the keys of a lease as one revision, then the lease.
    fn revoke(&mut self, id: LeaseId) -> Result<Answer, ApplyError> {
        let lease = self.leases.get(id).ok_or(Refusal::LeaseNotFound)?;
        let keys: Vec<Bytes> = lease.keys().cloned().collect();
        self.change(|writer| {
            for key in keys {
                writer.delete(&KeyRange::Single(key));
            }
            Ok(Answer::Done)
        })?;
        self.leases.remove(id, self.store.batch_mut());
        self.lease_changes.push(LeaseChange::Revoked(id));
        Ok(Answer::Done)
    }

    fn checkpoint(&mut self, leases: &[(LeaseId, i64)]) {
        let durably =
            self.settings.persist_lease_checkpoints || self.members.is_version_since(3, 6);
        for &(id, remaining) in leases {
            let batch = durably.then(|| self.store.batch_mut());
            self.leases.checkpoint(id, remaining, batch);
            self.lease_changes
                .push(LeaseChange::Checkpointed { id, remaining });
        }
    }

    /// Users and roles may have changed since the member that took a request has checked it.
    fn check_permission(
        &self,
        request: &Request,
        identity: Option<&Identity>,
    ) -> Result<(), Refusal> {
        let (auth, leases) = (&self.auth, &self.leases);
        match request {
            Request::Put(put) => auth.check_put(identity, leases, put),
            Request::DeleteRange(delete) => {
                auth.check_delete(identity, &delete.keys, delete.previous)
            }
            Request::Txn(txn) => auth.check_txn(identity, leases, txn),
            Request::LeaseRevoke(id) => auth.check_lease(identity, leases, *id),
            Request::Auth(AuthRequest::Authenticate { .. }) => Ok(()),
            Request::Auth(_) => auth.check_root(identity),
            _ => Ok(()),
        }
    }

    fn check_alarms(&self, request: &Request) -> Result<(), Refusal> {
        let changes_keys = matches!(
            request,
            Request::Put(_) | Request::DeleteRange(_) | Request::Txn(_)
        );
        let else_stopped = matches!(
            request,
            Request::Compact(_) | Request::LeaseGrant { .. } | Request::LeaseRevoke(_)
        );
        if (changes_keys || else_stopped) && self.alarms.any(AlarmKind::Corrupt) {
            return Err(Refusal::Corrupt);
        }
        let grows = match request {
            Request::Put(_) | Request::LeaseGrant { .. } => true,
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

/// The record of consensus' configuration.
pub(crate) fn configuration(voters: &[MemberId], learners: &[MemberId]) -> Bytes {
    let configuration = Configuration {
        voters,
        learners,
        auto_leave: false,
    };
    go_json(&configuration).into()
}

/// Consensus' configuration at [`read_position`]; `None` when nobody has recorded one, as etcd before 3.5.
pub fn read_configuration(committed: &Committed) -> Result<Option<RecordedConfiguration>, Fault> {
    let record = match committed.bucket(schema::META)? {
        Some(meta) => meta.get(schema::CONF_STATE)?,
        None => None,
    };
    let Some(record) = record else {
        return Ok(None);
    };
    serde_json::from_slice(&record)
        .map(Some)
        .map_err(|error| Fault::record(schema::META, schema::CONF_STATE, &error))
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
