//! An etcd-compatible replicated key-value store: the shell around the cores, which waits and
//! touches the outside.

pub mod config;

// From the first to the last moment of a member.
pub mod data_dir;
pub mod identity;
pub mod node;
pub mod publish;
pub mod serve;

// The threads, and the doors between them and the calls.
pub mod apply_thread;
pub mod commit_thread;
pub mod raft_thread;
pub mod requests;
pub mod views;

// What clients and operators see.
pub mod api;
pub mod auto_compaction;
pub mod http;
pub mod inspect;
pub mod member_pages;
pub mod metrics;

// The doors to the outside.
pub mod clock;
pub mod logging;
pub mod random;
pub mod service_notify;
