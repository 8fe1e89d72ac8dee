//! An etcd-compatible replicated key-value store: the shell around the cores, which waits and
//! touches the outside.

pub mod config;

// The tools beside the server.
pub mod commands;

// From the first to the last moment of a member.
pub mod bootstrap;
pub mod data_dir;
pub mod identity;
pub mod node;
pub mod publish;
pub mod received_database;
pub mod relief;
pub mod serve;

// The threads, and the doors between them and the calls.
pub mod apply_thread;
pub mod commit_thread;
pub mod doubtful;
pub mod lessor;
pub mod linearizable;
pub mod peer_doors;
pub mod raft_thread;
pub mod requests;
pub mod views;
pub mod watch;

// From member to member.
pub mod cluster_version;
pub mod corruption;
pub mod peer;

// What clients and operators see.
pub mod api;
pub mod auth;
pub mod auto_compaction;
pub mod http;
pub mod member_pages;
pub mod metrics;

// The doors to the outside.
pub mod clock;
pub mod logging;
pub mod random;
pub mod service_notify;
pub mod space_return;
