//! What one committed command does, the same on every member.
//!
//! Nothing outside the log decides the effect of an entry: no clock, no chance, and no setting but
//! [`Settings`], which all members of a cluster have alike.

mod alarm;
mod answer;
mod apply;
mod auth;
mod command;
mod error;
mod kv;
mod lease;
mod members;
mod new_cluster;
pub mod schema;
mod txn;

pub use alarm::{Alarm, AlarmKind, Alarms};
pub use answer::{Answer, DeleteRangeAnswer, OperationAnswer, PutAnswer, TxnAnswer};
pub use apply::{
    Applied, AppliedOperation, Downgrade, Position, RecordedConfiguration, Settings, StateMachine,
    read_configuration, read_position,
};
pub use auth::{Auth, AuthChange, NewPassword, PasswordCheck, ROOT, Role, User};
pub use command::{
    AlarmRequest, AuthRequest, Command, CommandError, Compare, DeleteRange, Identity, Operand,
    Operation, Permission, PermissionKind, Put, PutLease, Relation, Request, RequestId, Txn,
    TxnRange, key_range, member_change, range_query,
};
pub use error::{ApplyError, Fault, Refusal};
pub use lease::{LEASE_TTL_MAX, Lease, LeaseChange, Leases};
pub use members::{Member, MemberChange, MemberId, Members, go_json};
pub use new_cluster::NewCluster;
pub use txn::read as read_txn;
