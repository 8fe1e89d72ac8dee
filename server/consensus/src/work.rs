//! What a node asks of its shell, and what it says about itself.

use bytes::Bytes;

use crate::envelope::Envelope;
use crate::log::{Entry, HardState, Index, Term};
use crate::members::NodeId;
use crate::node::SnapshotMark;

/// Numbers the works of one node in the order in which they must be persisted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WorkNumber(pub(crate) u64);

/// What must happen next outside the core. See the crate's description for the order.
#[derive(Debug, PartialEq)]
pub struct Work {
    /// To be given to [`crate::Node::persisted`] once this work is durable.
    pub number: WorkNumber,
    /// May leave at once, while the disk works.
    pub messages: Vec<Envelope>,
    /// A state that takes the place of the log and of what was applied; its content came with the message
    /// that named it. To be noted in the log before `entries`, and to be applied before any later
    /// `committed`.
    pub snapshot: Option<SnapshotReceived>,
    /// To be appended to the log, in this order; the first one may replace a tail of the log that
    /// another leader never committed.
    pub entries: Vec<Entry>,
    /// To be stored in the log after `entries`.
    pub hard_state: Option<HardState>,
    /// Whether `entries` and `hard_state` must be synced before `persisted` is called. False when at
    /// most the commit index moved, which every later election finds out again.
    pub must_sync: bool,
    /// Must not leave before this work is durable.
    pub messages_after_sync: Vec<Envelope>,
    /// Entries to be applied, in order; durable here and on a quorum already.
    pub committed: Vec<Entry>,
    /// Reads that may be answered once the index they name has been applied.
    pub reads: Vec<ReadReady>,
}

/// A leader's state in place of its log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotReceived {
    /// Which entries it holds, and the members then.
    pub mark: SnapshotMark,
    /// What came with it, opaque here.
    pub data: Bytes,
}

/// Names one request for a linearizable read. The shell must never use a value twice, not even for
/// another attempt at the same read or after a restart: a late answer to the first would confirm the
/// second at too old an index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ReadContext(pub u64);

/// The answer to one [`ReadContext`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadReady {
    /// The request that is answered.
    pub context: ReadContext,
    /// The read is linearizable on a state that has applied this index.
    pub index: Index,
}

/// What a node is in its term.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// Follows a leader or waits for one.
    Follower,
    /// Asks whether an election could be won, without raising the term.
    PreCandidate,
    /// Stands for election.
    Candidate,
    /// Leads.
    Leader,
}

/// What a node says about itself at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// Its own id.
    pub id: NodeId,
    /// Its role in `term`.
    pub role: Role,
    /// Its current term.
    pub term: Term,
    /// Whom it voted for in `term`.
    pub vote: Option<NodeId>,
    /// The leader it knows of in `term`.
    pub leader: Option<NodeId>,
    /// Highest index known to be committed.
    pub commit: Index,
    /// Highest index reported by [`crate::Node::applied`].
    pub applied: Index,
    /// Highest index reported durable by [`crate::Node::persisted`].
    pub persisted: Index,
    /// Index of the last entry, durable or not.
    pub last_index: Index,
    /// Index of the first entry still held in memory; one above the last if there is none.
    pub first_index: Index,
    /// Bytes of the entries held in memory.
    pub log_bytes: usize,
    /// Voting members, ascending.
    pub voters: Vec<NodeId>,
    /// Members that receive the log without a vote, ascending.
    pub learners: Vec<NodeId>,
    /// Whom a leader hands over to just now.
    pub transferee: Option<NodeId>,
}

/// How far a leader knows one member to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// The member; the leader itself too.
    pub id: NodeId,
    /// Its log agrees with the leader's up to here.
    pub matched: Index,
    /// Whether it has answered within the last election timeout.
    pub is_active: bool,
}
