//! What one committed command does, the same on every member.
//!
//! Nothing outside the log decides the effect of an entry: no clock, no chance, no local setting.

mod alarm;
mod answer;
mod apply;
mod command;
mod error;
mod kv;
mod members;
pub mod schema;
mod txn;

pub use alarm::{Alarm, AlarmKind, Alarms};
pub use answer::{Answer, DeleteRangeAnswer, OperationAnswer, PutAnswer, TxnAnswer};
pub use apply::{Applied, OpenError, Position, StateMachine, read_position};
pub use command::{
    AlarmRequest, Command, CommandError, Compare, DeleteRange, Operand, Operation, Put, PutLease,
    Relation, Request, RequestId, Txn, TxnRange, key_range, member_change, range_query,
};
pub use error::{ApplyError, Fault, Refusal};
pub use members::{Member, MemberChange, MemberId, Members};
pub use txn::read as read_txn;
