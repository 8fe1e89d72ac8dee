//! Bytes that survive a crash: the database file in bbolt's format, the write-ahead log and raft
//! snapshot files in etcd's, and the disk beneath them.

pub mod disk;
mod fault;

pub use fault::Fault;
