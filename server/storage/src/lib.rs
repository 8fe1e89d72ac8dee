//! Bytes that survive a crash: the database file in bbolt's format, the write-ahead log and raft
//! snapshot files in etcd's, and the disk beneath them.

pub mod disk;
mod fault;
pub mod raft_snapshot;
pub mod wal;

// The database file.
mod batch;
mod check;
mod copy;
mod free_list;
pub mod page;
mod reader;
mod recover;
mod rewrite;
mod sweep;
mod writer;

pub use batch::Batch;
pub use check::{Summary, check, check_unread, describe_page};
pub use copy::Copy;
pub use fault::Fault;
pub use reader::{Bucket, Committed, Range};
pub use sweep::Sweep;
pub use writer::{PAGE_SIZE, Store, read_only};
