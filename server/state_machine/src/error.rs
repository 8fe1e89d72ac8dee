//! Refusals and faults.

/// A correct answer that is not what the caller hoped for. Every member refuses alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The revision lies before the last compaction.
    #[error("required revision has been compacted")]
    Compacted,
    /// The revision lies beyond the current one.
    #[error("required revision is a future revision")]
    FutureRevision,
    /// A put that keeps value or lease needs a key that is there.
    #[error("key not found")]
    KeyNotFound,
    /// No such lease.
    #[error("lease not found")]
    LeaseNotFound,
    /// There is a lease of this id already.
    #[error("lease exists")]
    LeaseExists,
    /// A lease may live for [`LEASE_TTL_MAX`](crate::LEASE_TTL_MAX) seconds at most.
    #[error("time to live of the lease is too large")]
    LeaseTtlTooLarge,
    /// Whoever asks is nobody, or gave no name.
    #[error("user name is empty")]
    UserEmpty,
    /// No such user.
    #[error("user not found")]
    UserNotFound,
    /// There is a user of this name.
    #[error("user exists")]
    UserExists,
    /// A role needs a name.
    #[error("role name is empty")]
    RoleEmpty,
    /// No such role.
    #[error("role not found")]
    RoleNotFound,
    /// There is a role of this name.
    #[error("role exists")]
    RoleExists,
    /// The user does not have the role.
    #[error("role is not granted")]
    RoleNotGranted,
    /// A permission was to be granted, but none was named.
    #[error("permission is not given")]
    PermissionNotGiven,
    /// The role does not have the permission.
    #[error("permission is not granted")]
    PermissionNotGranted,
    /// Not for this user.
    #[error("permission denied")]
    PermissionDenied,
    /// Users and roles have changed since the user was let in.
    #[error("authorization has changed")]
    AuthOldRevision,
    /// No such user, or another password.
    #[error("authentication failed")]
    AuthFailed,
    /// Authorization is off.
    #[error("authorization is off")]
    AuthNotEnabled,
    /// It would take root away, or permit a range that is none.
    #[error("invalid change of authorization")]
    InvalidAuthMgmt,
    /// Authorization needs a user root.
    #[error("no user root")]
    NoRootUser,
    /// Authorization needs a user root with the role root.
    #[error("the user root does not have the role root")]
    NoRootRole,
    /// The database has reached its quota.
    #[error("database space exceeded")]
    NoSpace,
    /// Data of members differ.
    #[error("corrupt cluster")]
    Corrupt,
    /// The member is there already.
    #[error("member ID already exists")]
    MemberExists,
    /// No such member, or it was removed.
    #[error("member not found")]
    MemberNotFound,
    /// Only a learner can be promoted.
    #[error("member is not a learner")]
    MemberNotLearner,
    /// The cluster has as many learners as it may have.
    #[error("too many learners")]
    TooManyLearners,
    /// Another member has one of these peer URLs.
    #[error("peer URL exists")]
    PeerUrlExists,
}

impl From<mvcc::Refusal> for Refusal {
    fn from(refusal: mvcc::Refusal) -> Refusal {
        match refusal {
            mvcc::Refusal::Compacted { .. } => Refusal::Compacted,
            mvcc::Refusal::FutureRevision { .. } => Refusal::FutureRevision,
        }
    }
}

/// The member cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// The key space cannot be read.
    #[error(transparent)]
    Mvcc(#[from] mvcc::Fault),
    /// The database file cannot be read.
    #[error(transparent)]
    Storage(#[from] storage::Fault),
    /// A record of the database has no meaning.
    #[error("bucket {bucket}, key {key}: {what}; restore this member from a backup or replace it")]
    Record {
        /// Which bucket.
        bucket: String,
        /// The record's key, printable.
        key: String,
        /// What is wrong with it.
        what: String,
    },
    /// An entry of the log cannot be carried out.
    #[error("entry {index} of the log cannot be applied: {source}")]
    Entry {
        /// Its index.
        index: u64,
        /// Why.
        source: crate::CommandError,
    },
    /// A leader's database does not belong to the snapshot that it came with.
    #[error(
        "the database of a snapshot at entry {index} holds entries up to {applied}; \
         replace this member, or its leader if that sends such snapshots to others too"
    )]
    Ahead {
        /// The last entry in the database.
        applied: u64,
        /// The entry that the snapshot names.
        index: u64,
    },
}

impl Fault {
    pub(crate) fn record(bucket: &str, key: &[u8], what: &dyn std::fmt::Display) -> Fault {
        Fault::Record {
            bucket: bucket.to_owned(),
            key: key.escape_ascii().to_string(),
            what: what.to_string(),
        }
    }
}

/// Why something asked for did not happen: an answer, or the end of this member.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// An answer.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The end.
    #[error(transparent)]
    Fault(#[from] Fault),
}

impl From<mvcc::ReadError> for ApplyError {
    fn from(error: mvcc::ReadError) -> ApplyError {
        match error {
            mvcc::ReadError::Refused(refusal) => ApplyError::Refused(refusal.into()),
            mvcc::ReadError::Fault(fault) => ApplyError::Fault(fault.into()),
        }
    }
}

impl From<mvcc::Fault> for ApplyError {
    fn from(fault: mvcc::Fault) -> ApplyError {
        ApplyError::Fault(fault.into())
    }
}
