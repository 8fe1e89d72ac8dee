//! What a committed entry of the log asks for.
//!
//! The log holds exactly etcd's requests, so that members of either product apply alike. Here they
//! become types that say what they mean: zero values that stand for "none" end in this file.

use std::num::NonZeroUsize;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use mvcc::{Content, Filters, KeyRange, LeaseId, Order, RangeQuery, Revision, SortBy};
use prost::Message;
use proto::authpb;
use proto::etcdserverpb as wire;

use crate::alarm::{Alarm, AlarmKind};
use crate::auth::NewPassword;
use crate::members::{Member, MemberChange, MemberId};

/// Names a proposal, so that the member that made it finds out who waits for the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId(pub u64);

/// A user, and the state of authorization in which a member took that one's request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The user's name.
    pub user: String,
    /// Revision of users and roles then.
    pub auth_revision: u64,
}

/// One request of the log.
#[derive(Debug, Clone, PartialEq)]
pub struct Command {
    /// Who waits for the answer, if anybody does.
    pub id: RequestId,
    /// On whose behalf, as far as the member that took the request knew.
    pub identity: Option<Identity>,
    /// What is to be done.
    pub request: Request,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq)]
pub enum Request {
    /// Nothing: a new leader's first entry, or a question that only its asker needs answered.
    Nothing,
    /// Set a key.
    Put(Put),
    /// Delete keys.
    DeleteRange(DeleteRange),
    /// Compare, then do one of two lists.
    Txn(Txn),
    /// Forget history before a revision.
    Compact(Revision),
    /// Raise or clear an alarm, or list them.
    Alarm(AlarmRequest),
    /// Grant a lease.
    LeaseGrant {
        /// Its id; 0 is none.
        id: LeaseId,
        /// Its time to live in seconds, as it was asked for.
        ttl: i64,
    },
    /// End a lease and delete its keys.
    LeaseRevoke(LeaseId),
    /// Note how many seconds leases have left, 0 for all of them.
    LeaseCheckpoint(Vec<(LeaseId, i64)>),
    /// Something about users and roles.
    Auth(AuthRequest),
    /// The version that all members share.
    SetClusterVersion(String),
    /// A member has started.
    SetMemberAttributes {
        /// Which.
        id: MemberId,
        /// Its name.
        name: String,
        /// Where clients reach it.
        client_urls: Vec<String>,
    },
    /// The state of a downgrade, in the form of its record.
    SetDowngrade {
        /// Whether one is under way.
        enabled: bool,
        /// Its target, `X.Y.0`, or empty.
        version: String,
    },
}

/// Set a key.
#[derive(Debug, Clone, PartialEq)]
pub struct Put {
    /// The key, one byte at least.
    pub key: Bytes,
    /// The value; `None` keeps the one that is there.
    pub value: Option<Bytes>,
    /// Which lease the key hangs on afterwards.
    pub lease: PutLease,
    /// Whether the caller wants to see the pair as it was.
    pub previous: bool,
}

/// Which lease a key hangs on after a put.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PutLease {
    /// None.
    None,
    /// The one that it hangs on already.
    Keep,
    /// This one.
    Lease(LeaseId),
}

/// Delete keys.
#[derive(Debug, Clone, PartialEq)]
pub struct DeleteRange {
    /// Which.
    pub keys: KeyRange,
    /// Whether the caller wants to see the pairs as they were.
    pub previous: bool,
}

/// Compare, then do one of two lists.
#[derive(Debug, Clone, PartialEq)]
pub struct Txn {
    /// All must hold for `success`; none holds always.
    pub compares: Vec<Compare>,
    /// What to do when they hold.
    pub success: Vec<Operation>,
    /// What to do when they do not.
    pub failure: Vec<Operation>,
}

/// One step of a [`Txn`].
#[derive(Debug, Clone, PartialEq)]
pub enum Operation {
    /// Read keys.
    Range(TxnRange),
    /// Set a key.
    Put(Put),
    /// Delete keys.
    DeleteRange(DeleteRange),
    /// A transaction inside.
    Txn(Txn),
}

/// A read inside a [`Txn`].
#[derive(Debug, Clone, PartialEq)]
pub struct TxnRange {
    /// What is read.
    pub query: RangeQuery,
    /// The revision as it was asked for. A negative one reads the current state as 0 does, but
    /// counts as compacted as soon as anything was compacted.
    pub revision: i64,
}

/// A condition that every key of a range must meet.
#[derive(Debug, Clone, PartialEq)]
pub struct Compare {
    /// Which keys.
    pub keys: KeyRange,
    /// How the field must relate to the operand.
    pub relation: Relation,
    /// Which field, and what it is compared with.
    pub operand: Operand,
}

/// How a field must relate to an operand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Relation {
    /// The same.
    Equal,
    /// Greater.
    Greater,
    /// Less.
    Less,
    /// Not the same.
    NotEqual,
    /// Anything will do: etcd takes numbers that it does not know for this.
    Any,
}

/// Which field is compared, with what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operand {
    /// Number of changes since creation; 0 for a key that is not there.
    Version(i64),
    /// Revision of creation; 0 for a key that is not there.
    CreateRevision(i64),
    /// Revision of the last change; 0 for a key that is not there.
    ModRevision(i64),
    /// The value; a key that is not there never meets the condition.
    Value(Bytes),
    /// The lease, 0 for none.
    Lease(i64),
    /// A field that etcd does not know counts as equal.
    Unknown,
}

/// A change of users and roles, or a user who comes in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AuthRequest {
    /// Permissions count from now on.
    Enable,
    /// They no longer do.
    Disable,
    /// A user has shown a password.
    Authenticate {
        /// Who.
        name: String,
        /// First part of a simple token, or empty for another kind.
        token: String,
    },
    /// A new user.
    UserAdd {
        /// Its name.
        name: String,
        /// Its password.
        hash: NewPassword,
        /// Whether it comes in without one, by certificate.
        no_password: bool,
    },
    /// A user leaves.
    UserDelete(String),
    /// A user gets another password.
    UserChangePassword {
        /// Its name.
        name: String,
        /// Its password.
        hash: NewPassword,
    },
    /// A user gets a role.
    UserGrantRole {
        /// The user.
        name: String,
        /// The role.
        role: String,
    },
    /// A user loses a role.
    UserRevokeRole {
        /// The user.
        name: String,
        /// The role.
        role: String,
    },
    /// A new role.
    RoleAdd(String),
    /// A role ends; all who have it lose it.
    RoleDelete(String),
    /// A role permits something.
    RoleGrantPermission {
        /// The role.
        role: String,
        /// What it permits.
        permission: Option<Permission>,
    },
    /// A role no longer permits something.
    RoleRevokePermission {
        /// The role.
        role: String,
        /// The permission's key.
        key: Bytes,
        /// The permission's range end.
        range_end: Bytes,
    },
}

/// What a role permits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Permission {
    /// Reading or writing.
    pub kind: PermissionKind,
    /// The key, or the first one.
    pub key: Bytes,
    /// The end of the range in the wire's form, empty for a single key.
    pub range_end: Bytes,
}

/// Reading or writing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PermissionKind {
    /// Reading.
    Read,
    /// Writing.
    Write,
    /// Both.
    ReadWrite,
}

impl Permission {
    /// The keys that it is about.
    pub fn keys(&self) -> KeyRange {
        key_range(self.key.clone(), self.range_end.clone())
    }

    /// Whether it is about any key at all, as etcd sees it.
    pub(crate) fn is_valid(&self) -> bool {
        let is_single = self.range_end.is_empty();
        let is_open = &self.range_end[..] == b"\0";
        !self.key.is_empty() && (is_single || is_open || self.key < self.range_end)
    }
}

impl From<authpb::Permission> for Permission {
    fn from(permission: authpb::Permission) -> Permission {
        Permission {
            kind: match permission.perm_type {
                1 => PermissionKind::Write,
                2 => PermissionKind::ReadWrite,
                _ => PermissionKind::Read,
            },
            key: permission.key,
            range_end: permission.range_end,
        }
    }
}

impl From<&Permission> for authpb::Permission {
    fn from(permission: &Permission) -> authpb::Permission {
        authpb::Permission {
            perm_type: match permission.kind {
                PermissionKind::Read => 0,
                PermissionKind::Write => 1,
                PermissionKind::ReadWrite => 2,
            },
            key: permission.key.clone(),
            range_end: permission.range_end.clone(),
        }
    }
}

/// Raise or clear an alarm, or list them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AlarmRequest {
    /// Those of one kind, or all.
    List(Option<AlarmKind>),
    /// Raise it.
    Activate(Alarm),
    /// Clear exactly this one.
    Deactivate(Alarm),
    /// Change nothing and list nothing: an alarm of no kind, or an unknown action.
    Nothing,
}

/// Why an entry of the log cannot be carried out here.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum CommandError {
    /// The bytes are no request.
    #[error("it holds no request of etcd's: {0}")]
    Malformed(String),
    /// A request that this version does not carry out.
    #[error(
        "it holds a request of kind {0}, which this version of holdfast does not carry out; go on with etcd on this data directory"
    )]
    Unsupported(&'static str),
}

impl Command {
    /// Reads the data of a normal entry.
    pub fn decode(data: &Bytes) -> Result<Command, CommandError> {
        if data.is_empty() {
            return Ok(Command {
                id: RequestId(0),
                identity: None,
                request: Request::Nothing,
            });
        }
        let malformed = |error: prost::DecodeError| CommandError::Malformed(error.to_string());
        if is_v2_request(data) {
            let request = wire::Request::decode(data.clone()).map_err(malformed)?;
            return Ok(Command {
                id: RequestId(request.id.unwrap_or_default()),
                identity: None,
                request: request_from_v2(&request)?,
            });
        }
        let message = wire::InternalRaftRequest::decode(data.clone()).map_err(malformed)?;
        let header_id = message.header.as_ref().map_or(0, |header| header.id);
        let id = RequestId(if message.id != 0 {
            message.id
        } else {
            header_id
        });
        let identity = message
            .header
            .as_ref()
            // A certificate without a common name makes a user without a name, who may do nothing.
            .filter(|header| !header.username.is_empty() || header.auth_revision > 0)
            .map(|header| Identity {
                user: header.username.clone(),
                auth_revision: header.auth_revision,
            });
        Ok(Command {
            id,
            identity,
            request: request_from(message)?,
        })
    }
}

/// Requests of etcd's old API, which releases up to 3.5 log to publish a member and the cluster
/// version, have their method in field 2, where newer ones have a message that is never used.
fn is_v2_request(data: &Bytes) -> bool {
    wire::Request::decode(data.clone())
        .is_ok_and(|request| request.method.as_deref() == Some("PUT"))
}

fn request_from_v2(request: &wire::Request) -> Result<Request, CommandError> {
    let path = request.path.as_deref().unwrap_or_default();
    let value = request.val.as_deref().unwrap_or_default();
    if path == "/0/version" {
        return Ok(Request::SetClusterVersion(value.to_owned()));
    }
    let member = path
        .strip_prefix("/0/members/")
        .and_then(|rest| rest.strip_suffix("/attributes"))
        .and_then(|id| u64::from_str_radix(id, 16).ok());
    let Some(id) = member else {
        return Err(CommandError::Unsupported("v2"));
    };
    #[derive(serde::Deserialize)]
    struct Attributes {
        #[serde(default)]
        name: String,
        #[serde(rename = "clientURLs", default)]
        client_urls: Vec<String>,
    }
    let attributes: Attributes = serde_json::from_str(value).map_err(|error| {
        CommandError::Malformed(format!("attributes of member {id:x}: {error}"))
    })?;
    Ok(Request::SetMemberAttributes {
        id: MemberId(id),
        name: attributes.name,
        client_urls: attributes.client_urls,
    })
}

fn request_from(message: wire::InternalRaftRequest) -> Result<Request, CommandError> {
    if let Some(put) = message.put {
        return Ok(Request::Put(put.into()));
    }
    if let Some(txn) = message.txn {
        return Ok(Request::Txn(Txn::try_from(txn)?));
    }
    if let Some(delete) = message.delete_range {
        return Ok(Request::DeleteRange(delete.into()));
    }
    if let Some(compaction) = message.compaction {
        return Ok(Request::Compact(Revision(compaction.revision)));
    }
    if let Some(alarm) = message.alarm {
        return Ok(Request::Alarm(alarm.into()));
    }
    if let Some(grant) = message.lease_grant {
        return Ok(Request::LeaseGrant {
            id: LeaseId(grant.id),
            ttl: grant.ttl,
        });
    }
    if let Some(revoke) = message.lease_revoke {
        return Ok(Request::LeaseRevoke(LeaseId(revoke.id)));
    }
    if let Some(checkpoint) = message.lease_checkpoint {
        let leases = checkpoint.checkpoints.iter();
        return Ok(Request::LeaseCheckpoint(
            leases
                .map(|lease| (LeaseId(lease.id), lease.remaining_ttl))
                .collect(),
        ));
    }
    if let Some(version) = message.cluster_version_set {
        return Ok(Request::SetClusterVersion(version.ver));
    }
    if let Some(set) = message.cluster_member_attr_set {
        let attributes = set.member_attributes.unwrap_or_default();
        return Ok(Request::SetMemberAttributes {
            id: MemberId(set.member_id),
            name: attributes.name,
            client_urls: attributes.client_urls,
        });
    }
    if let Some(downgrade) = message.downgrade_info_set {
        return Ok(Request::SetDowngrade {
            enabled: downgrade.enabled,
            version: downgrade.ver,
        });
    }
    let questions = [
        message.range.is_some(),
        message.auth_status.is_some(),
        message.auth_user_get.is_some(),
        message.auth_user_list.is_some(),
        message.auth_role_get.is_some(),
        message.auth_role_list.is_some(),
        message.downgrade_version_test.is_some(),
    ];
    if questions.contains(&true) {
        return Ok(Request::Nothing);
    }
    match auth_request_from(message)? {
        Some(request) => Ok(Request::Auth(request)),
        None => Err(CommandError::Malformed(
            "no request field is set".to_owned(),
        )),
    }
}

fn auth_request_from(
    message: wire::InternalRaftRequest,
) -> Result<Option<AuthRequest>, CommandError> {
    if message.auth_enable.is_some() {
        return Ok(Some(AuthRequest::Enable));
    }
    if message.auth_disable.is_some() {
        return Ok(Some(AuthRequest::Disable));
    }
    if let Some(request) = message.authenticate {
        return Ok(Some(AuthRequest::Authenticate {
            name: request.name,
            token: request.simple_token,
        }));
    }
    if let Some(add) = message.auth_user_add {
        let no_password = add.options.is_some_and(|options| options.no_password);
        let hash = match no_password {
            true => NewPassword::Hash(String::new()),
            false => new_password(add.hashed_password, add.password)?,
        };
        return Ok(Some(AuthRequest::UserAdd {
            name: add.name,
            hash,
            no_password,
        }));
    }
    if let Some(delete) = message.auth_user_delete {
        return Ok(Some(AuthRequest::UserDelete(delete.name)));
    }
    if let Some(change) = message.auth_user_change_password {
        return Ok(Some(AuthRequest::UserChangePassword {
            name: change.name,
            hash: new_password(change.hashed_password, change.password)?,
        }));
    }
    if let Some(grant) = message.auth_user_grant_role {
        return Ok(Some(AuthRequest::UserGrantRole {
            name: grant.user,
            role: grant.role,
        }));
    }
    if let Some(revoke) = message.auth_user_revoke_role {
        return Ok(Some(AuthRequest::UserRevokeRole {
            name: revoke.name,
            role: revoke.role,
        }));
    }
    if let Some(add) = message.auth_role_add {
        return Ok(Some(AuthRequest::RoleAdd(add.name)));
    }
    if let Some(delete) = message.auth_role_delete {
        return Ok(Some(AuthRequest::RoleDelete(delete.role)));
    }
    if let Some(grant) = message.auth_role_grant_permission {
        return Ok(Some(AuthRequest::RoleGrantPermission {
            role: grant.name,
            permission: grant.perm.map(Permission::from),
        }));
    }
    if let Some(revoke) = message.auth_role_revoke_permission {
        return Ok(Some(AuthRequest::RoleRevokePermission {
            role: revoke.role,
            key: revoke.key,
            range_end: revoke.range_end,
        }));
    }
    Ok(None)
}

/// A hash travels in base64; whoever took the request has checked that.
fn new_password(hashed: String, plain: String) -> Result<NewPassword, CommandError> {
    if hashed.is_empty() && !plain.is_empty() {
        return Ok(NewPassword::Plain(plain));
    }
    let malformed = |what: &dyn std::fmt::Display| {
        CommandError::Malformed(format!("a password's hash: {what}"))
    };
    let hash = STANDARD.decode(hashed).map_err(|error| malformed(&error))?;
    let hash = String::from_utf8(hash).map_err(|error| malformed(&error))?;
    Ok(NewPassword::Hash(hash))
}

/// The keys that etcd means by a key and a range end.
pub fn key_range(key: Bytes, range_end: Bytes) -> KeyRange {
    match &range_end[..] {
        b"" => KeyRange::Single(key),
        b"\0" if &key[..] == b"\0" => KeyRange::All,
        b"\0" => KeyRange::From(key),
        _ => KeyRange::Range {
            from: key,
            to: range_end,
        },
    }
}

impl From<wire::PutRequest> for Put {
    fn from(put: wire::PutRequest) -> Put {
        let lease = match put.lease {
            _ if put.ignore_lease => PutLease::Keep,
            0 => PutLease::None,
            id => PutLease::Lease(LeaseId(id)),
        };
        let value = (!put.ignore_value).then_some(put.value);
        Put {
            key: put.key,
            value,
            lease,
            previous: put.prev_kv,
        }
    }
}

impl From<wire::DeleteRangeRequest> for DeleteRange {
    fn from(delete: wire::DeleteRangeRequest) -> DeleteRange {
        DeleteRange {
            keys: key_range(delete.key, delete.range_end),
            previous: delete.prev_kv,
        }
    }
}

/// A range request as a question; sort order and target must be known ones, which whoever takes
/// requests from clients has checked.
pub fn range_query(range: wire::RangeRequest) -> RangeQuery {
    let bound = |revision: i64| (revision != 0).then_some(Revision(revision));
    let content = match (range.count_only, range.keys_only) {
        (true, _) => Content::CountOnly,
        (false, true) => Content::KeysOnly,
        (false, false) => Content::Pairs,
    };
    RangeQuery {
        keys: key_range(range.key, range.range_end),
        revision: (range.revision > 0).then_some(Revision(range.revision)),
        limit: usize::try_from(range.limit)
            .ok()
            .and_then(NonZeroUsize::new),
        content,
        filters: Filters {
            mod_revision_min: bound(range.min_mod_revision),
            mod_revision_max: bound(range.max_mod_revision),
            create_revision_min: bound(range.min_create_revision),
            create_revision_max: bound(range.max_create_revision),
        },
        sort_by: match range.sort_target {
            1 => SortBy::Version,
            2 => SortBy::CreateRevision,
            3 => SortBy::ModRevision,
            4 => SortBy::Value,
            _ => SortBy::Key,
        },
        order: match range.sort_order {
            1 => Order::Ascending,
            2 => Order::Descending,
            _ => Order::Unspecified,
        },
    }
}

impl TryFrom<wire::TxnRequest> for Txn {
    type Error = CommandError;

    fn try_from(txn: wire::TxnRequest) -> Result<Txn, CommandError> {
        let operations = |list: Vec<wire::RequestOp>| {
            list.into_iter()
                .map(operation)
                .collect::<Result<Vec<_>, _>>()
        };
        Ok(Txn {
            compares: txn.compare.into_iter().map(Compare::from).collect(),
            success: operations(txn.success)?,
            failure: operations(txn.failure)?,
        })
    }
}

fn operation(operation: wire::RequestOp) -> Result<Operation, CommandError> {
    use wire::request_op::Request::{RequestDeleteRange, RequestPut, RequestRange, RequestTxn};
    match operation.request {
        Some(RequestRange(range)) => {
            let revision = range.revision;
            Ok(Operation::Range(TxnRange {
                query: range_query(range),
                revision,
            }))
        }
        Some(RequestPut(put)) => Ok(Operation::Put(put.into())),
        Some(RequestDeleteRange(delete)) => Ok(Operation::DeleteRange(delete.into())),
        Some(RequestTxn(txn)) => Txn::try_from(txn).map(Operation::Txn),
        None => Err(CommandError::Malformed(
            "an operation of a transaction is empty".to_owned(),
        )),
    }
}

impl From<wire::Compare> for Compare {
    fn from(compare: wire::Compare) -> Compare {
        use wire::compare::TargetUnion;
        let number = |wanted: fn(&TargetUnion) -> Option<i64>| {
            compare
                .target_union
                .as_ref()
                .and_then(wanted)
                .unwrap_or_default()
        };
        let operand = match compare.target {
            0 => Operand::Version(number(|operand| match operand {
                TargetUnion::Version(version) => Some(*version),
                _ => None,
            })),
            1 => Operand::CreateRevision(number(|operand| match operand {
                TargetUnion::CreateRevision(revision) => Some(*revision),
                _ => None,
            })),
            2 => Operand::ModRevision(number(|operand| match operand {
                TargetUnion::ModRevision(revision) => Some(*revision),
                _ => None,
            })),
            3 => Operand::Value(match &compare.target_union {
                Some(TargetUnion::Value(value)) => value.clone(),
                _ => Bytes::new(),
            }),
            4 => Operand::Lease(number(|operand| match operand {
                TargetUnion::Lease(lease) => Some(*lease),
                _ => None,
            })),
            _ => Operand::Unknown,
        };
        let relation = match compare.result {
            0 => Relation::Equal,
            1 => Relation::Greater,
            2 => Relation::Less,
            3 => Relation::NotEqual,
            _ => Relation::Any,
        };
        Compare {
            keys: key_range(compare.key, compare.range_end),
            relation,
            operand,
        }
    }
}

impl From<wire::AlarmRequest> for AlarmRequest {
    fn from(request: wire::AlarmRequest) -> AlarmRequest {
        let kind = AlarmKind::from_wire(request.alarm);
        let alarm = kind.map(|kind| Alarm {
            member: MemberId(request.member_id),
            kind,
        });
        match (request.action, alarm) {
            (0, _) if request.alarm == 0 => AlarmRequest::List(None),
            (0, _) if kind.is_some() => AlarmRequest::List(kind),
            (1, Some(alarm)) => AlarmRequest::Activate(alarm),
            (2, Some(alarm)) => AlarmRequest::Deactivate(alarm),
            _ => AlarmRequest::Nothing,
        }
    }
}

/// The member change that a configuration change of the log describes. `kind` is etcd's number:
/// 0 add or promote, 1 remove, 2 update, 3 add a learner.
pub fn member_change(
    kind: i32,
    node_id: u64,
    context: &[u8],
) -> Result<MemberChange, CommandError> {
    #[derive(serde::Deserialize)]
    struct Context {
        #[serde(flatten)]
        member: Member,
        #[serde(rename = "isPromote", default)]
        promote: bool,
    }
    if kind == 1 {
        return Ok(MemberChange::Remove(MemberId(node_id)));
    }
    let context: Context = serde_json::from_slice(context).map_err(|error| {
        CommandError::Malformed(format!(
            "configuration change of member {node_id:x}: {error}"
        ))
    })?;
    if context.member.id.0 != node_id {
        let id = context.member.id;
        return Err(CommandError::Malformed(format!(
            "a configuration change names both member {node_id:x} and member {id}"
        )));
    }
    match kind {
        0 if context.promote => Ok(MemberChange::Promote(context.member.id)),
        0 | 3 => Ok(MemberChange::Add(context.member)),
        2 => Ok(MemberChange::Update(context.member)),
        _ => Err(CommandError::Malformed(format!(
            "configuration change of kind {kind}"
        ))),
    }
}
