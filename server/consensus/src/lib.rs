//! Agrees on one order of commands.
//!
//! A pure, synchronous core around the `raft` crate: no threads, files, sockets or clocks, and none
//! of that crate's types leave it. The shell calls [`Node::tick`], [`Node::propose`] and
//! [`Node::step`], takes a [`Work`] from [`Node::work`], carries it out and reports back:
//!
//! 1. send `work.messages`;
//! 2. hand `work.committed` to the state machine (those entries are durable already);
//! 3. note `work.snapshot` in the log, append `work.entries` and `work.hard_state` to the log, and sync if `work.must_sync`;
//! 4. call [`Node::persisted`] with `work.number`, and only then let `work.snapshot` take effect;
//! 5. send `work.messages_after_sync`;
//! 6. ask for work again: what step 4 committed comes with it.
//!
//! Proposals may be made and further work taken while an earlier one is still being written.

mod envelope;
mod log;
mod members;
mod node;
mod reads;
mod wire;
mod work;

pub use envelope::{Envelope, EnvelopeRefusal};
pub use log::{
    Entry, EntryKind, HardState, INDEX_MAX, Index, LOG_BYTES_KEPT, LOG_BYTES_KEPT_FOR_LAGGARDS,
    Term,
};
pub use members::{
    ConfState, ConfigurationChange, ConfigurationChangeKind, MalformedChange, NodeId,
};
pub use node::{
    ConsensusError, ENTRY_BYTES_MAX, Initial, Node, Options, ProposeError, ReadError, SnapshotMark,
    UNAPPLIED_BYTES_MAX, UNAPPLIED_ENTRIES_MAX,
};
pub use wire::{
    AppendReader, AppendWriter, EnvelopeKind, Frame, MESSAGE_BYTES_MAX, MalformedMessage,
    read_sized, write_sized, write_sized_heartbeat,
};
pub use work::{
    Progress, ReadContext, ReadReady, Role, SnapshotReceived, Status, Work, WorkNumber,
};
