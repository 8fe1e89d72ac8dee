//! Refusals as gRPC codes and etcd's own texts, which clients match on.

use state_machine::Refusal;
use tonic::{Code, Status};

use crate::requests::NoAnswer;

/// A request that is refused before it gets anywhere, for what it says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BadRequest {
    /// A key must have one byte at least.
    EmptyKey,
    /// Keeping the value and giving one exclude each other.
    ValueProvided,
    /// Keeping the lease and giving one exclude each other.
    LeaseProvided,
    /// A transaction has more operations than are allowed.
    TooManyOperations,
    /// A transaction sets a key twice, or sets and deletes it.
    DuplicateKey,
    /// An unknown sort order or target.
    InvalidSortOption,
    /// An operation of a transaction is empty.
    EmptyOperation,
}

impl From<BadRequest> for Status {
    fn from(bad: BadRequest) -> Status {
        let text = match bad {
            BadRequest::EmptyKey => "etcdserver: key is not provided",
            BadRequest::ValueProvided => "etcdserver: value is provided",
            BadRequest::LeaseProvided => "etcdserver: lease is provided",
            BadRequest::TooManyOperations => "etcdserver: too many operations in txn request",
            BadRequest::DuplicateKey => "etcdserver: duplicate key given in txn request",
            BadRequest::InvalidSortOption => "etcdserver: invalid sort option",
            BadRequest::EmptyOperation => "etcdserver: key not found",
        };
        Status::new(Code::InvalidArgument, text)
    }
}

/// What the caller is told of a refusal of the state machine.
pub fn of_refusal(refusal: Refusal) -> Status {
    let (code, text) = match refusal {
        Refusal::Compacted => (
            Code::OutOfRange,
            "etcdserver: mvcc: required revision has been compacted",
        ),
        Refusal::FutureRevision => (
            Code::OutOfRange,
            "etcdserver: mvcc: required revision is a future revision",
        ),
        Refusal::KeyNotFound => (Code::InvalidArgument, "etcdserver: key not found"),
        Refusal::LeaseNotFound => (Code::NotFound, "etcdserver: requested lease not found"),
        Refusal::NoSpace => (
            Code::ResourceExhausted,
            "etcdserver: mvcc: database space exceeded",
        ),
        Refusal::Corrupt => (Code::DataLoss, "etcdserver: corrupt cluster"),
        Refusal::MemberExists => (
            Code::FailedPrecondition,
            "etcdserver: member ID already exist",
        ),
        Refusal::MemberNotFound => (Code::NotFound, "etcdserver: member not found"),
        Refusal::MemberNotLearner => (
            Code::FailedPrecondition,
            "etcdserver: can only promote a learner member",
        ),
        Refusal::PeerUrlExists => (
            Code::FailedPrecondition,
            "etcdserver: Peer URLs already exists",
        ),
    };
    Status::new(code, text)
}

impl From<NoAnswer> for Status {
    fn from(reason: NoAnswer) -> Status {
        let (code, text) = match reason {
            NoAnswer::TooLarge => (Code::InvalidArgument, "etcdserver: request is too large"),
            // etcd's own table has another code for this text, but this one is on the wire.
            NoAnswer::TooManyRequests => (Code::Unknown, "etcdserver: too many requests"),
            NoAnswer::NoLeader => (Code::Unavailable, "etcdserver: no leader"),
            NoAnswer::TimedOut => (Code::Unavailable, "etcdserver: request timed out"),
            NoAnswer::Stopped => (Code::Unavailable, "etcdserver: server stopped"),
        };
        Status::new(code, text)
    }
}
