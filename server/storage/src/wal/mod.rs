//! The write-ahead log, in etcd's format.
//!
//! A log is a folder of segments. A segment is a run of frames, a frame holds a record, and one CRC
//! runs through the records of all segments. [`Log`] appends and recovers; [`Records`] only looks.

mod entry;
mod filling;
mod log;
mod protobuf;
mod record;
mod records;
mod recovered;
mod repair;
mod segment;

pub use entry::{
    ClusterId, ConfState, Entry, EntryKind, HardState, Index, Metadata, NodeId, SnapshotMark, Term,
};
pub use filling::Preparation;
pub use log::{Log, Options};
pub use record::Record;
pub use records::{Found, Located, Records, valid_snapshots};
pub use recovered::{Recovered, SnapshotPoint, read};

pub(crate) use protobuf::{Fields, Malformed, put_bytes, put_number};
pub(crate) use segment::parse_hex;

#[cfg(test)]
mod tests;
