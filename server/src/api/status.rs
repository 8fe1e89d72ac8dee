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
    /// Peer URLs that nobody can dial, or none.
    MemberUrls,
    /// A learner must have nearly all of the log before it gets a vote.
    LearnerNotReady,
    /// A cluster that loses this vote has no quorum of members that have started.
    NotEnoughStarted,
    /// This member has lost too many others.
    Unhealthy,
    /// A learner does not do this.
    Learner,
    /// Leadership cannot go to whoever is no voting member.
    Transferee,
    /// Only the leader can give leadership away.
    NotLeader,
    /// A version must read `X.Y` or `X.Y.Z`.
    DowngradeFormat,
    /// A cluster can only go back by one minor version.
    DowngradeTarget,
    /// A downgrade is under way already.
    DowngradeInProgress,
    /// The cluster has not decided on a version yet.
    NoClusterVersion,
    /// A number that stands for nothing.
    UnknownAction,
}

impl From<BadRequest> for Status {
    fn from(bad: BadRequest) -> Status {
        use Code::{FailedPrecondition, InvalidArgument, Unavailable, Unknown};
        let (code, text) = match bad {
            BadRequest::EmptyKey => (InvalidArgument, "etcdserver: key is not provided"),
            BadRequest::ValueProvided => (InvalidArgument, "etcdserver: value is provided"),
            BadRequest::LeaseProvided => (InvalidArgument, "etcdserver: lease is provided"),
            BadRequest::TooManyOperations => (
                InvalidArgument,
                "etcdserver: too many operations in txn request",
            ),
            BadRequest::DuplicateKey => (
                InvalidArgument,
                "etcdserver: duplicate key given in txn request",
            ),
            BadRequest::InvalidSortOption => (InvalidArgument, "etcdserver: invalid sort option"),
            BadRequest::EmptyOperation => (InvalidArgument, "etcdserver: key not found"),
            BadRequest::MemberUrls => {
                (InvalidArgument, "etcdserver: given member URLs are invalid")
            }
            BadRequest::LearnerNotReady => (
                FailedPrecondition,
                "etcdserver: can only promote a learner member which is in sync with leader",
            ),
            // etcd's own table has another code for this text, but this one is on the wire.
            BadRequest::NotEnoughStarted => (
                Unknown,
                "etcdserver: re-configuration failed due to not enough started members",
            ),
            BadRequest::Learner => (
                FailedPrecondition,
                "etcdserver: rpc not supported for learner",
            ),
            BadRequest::Unhealthy => (Unavailable, "etcdserver: unhealthy cluster"),
            BadRequest::Transferee => (FailedPrecondition, "etcdserver: bad leader transferee"),
            BadRequest::NotLeader => (FailedPrecondition, "etcdserver: not leader"),
            BadRequest::DowngradeFormat => (
                InvalidArgument,
                "etcdserver: wrong downgrade target version format",
            ),
            BadRequest::DowngradeTarget => (
                InvalidArgument,
                "etcdserver: invalid downgrade target version",
            ),
            BadRequest::DowngradeInProgress => (
                FailedPrecondition,
                "etcdserver: cluster has a downgrade job in progress",
            ),
            BadRequest::NoClusterVersion => (
                FailedPrecondition,
                "etcdserver: cluster version not found during downgrade",
            ),
            BadRequest::UnknownAction => (Unknown, "etcdserver: unknown method"),
        };
        Status::new(code, text)
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
        Refusal::UserEmpty => (Code::InvalidArgument, "etcdserver: user name is empty"),
        Refusal::UserNotFound => (Code::FailedPrecondition, "etcdserver: user name not found"),
        Refusal::UserExists => (
            Code::FailedPrecondition,
            "etcdserver: user name already exists",
        ),
        Refusal::RoleEmpty => (Code::InvalidArgument, "etcdserver: role name is empty"),
        Refusal::RoleNotFound => (Code::FailedPrecondition, "etcdserver: role name not found"),
        Refusal::RoleExists => (
            Code::FailedPrecondition,
            "etcdserver: role name already exists",
        ),
        Refusal::RoleNotGranted => (
            Code::FailedPrecondition,
            "etcdserver: role is not granted to the user",
        ),
        Refusal::PermissionNotGiven => (Code::InvalidArgument, "etcdserver: permission not given"),
        Refusal::PermissionNotGranted => (
            Code::FailedPrecondition,
            "etcdserver: permission is not granted to the role",
        ),
        Refusal::PermissionDenied => (Code::PermissionDenied, "etcdserver: permission denied"),
        Refusal::AuthOldRevision => (
            Code::InvalidArgument,
            "etcdserver: revision of auth store is old",
        ),
        Refusal::AuthFailed => (
            Code::InvalidArgument,
            "etcdserver: authentication failed, invalid user ID or password",
        ),
        Refusal::AuthNotEnabled => (
            Code::FailedPrecondition,
            "etcdserver: authentication is not enabled",
        ),
        Refusal::InvalidAuthMgmt => (Code::InvalidArgument, "etcdserver: invalid auth management"),
        Refusal::NoRootUser => (
            Code::FailedPrecondition,
            "etcdserver: root user does not exist",
        ),
        Refusal::NoRootRole => (
            Code::FailedPrecondition,
            "etcdserver: root user does not have root role",
        ),
        Refusal::LeaseExists => (Code::FailedPrecondition, "etcdserver: lease already exists"),
        Refusal::LeaseTtlTooLarge => (Code::OutOfRange, "etcdserver: too large lease TTL"),
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
        Refusal::TooManyLearners => (
            Code::FailedPrecondition,
            "etcdserver: too many learner members in cluster",
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
            NoAnswer::LeaderFailed => (
                Code::Unavailable,
                "etcdserver: request timed out, possibly due to previous leader failure",
            ),
            NoAnswer::TransferTooLong => (
                Code::Unknown,
                "etcdserver: request timed out, leader transfer took too long",
            ),
            NoAnswer::Stopped => (Code::Unavailable, "etcdserver: server stopped"),
            NoAnswer::NotAppliedInTime => (
                Code::Unavailable,
                "etcdserver: request timed out, waiting for the applied index took too long",
            ),
        };
        Status::new(code, text)
    }
}
