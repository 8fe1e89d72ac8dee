//! What tests of whole servers borrow: the binaries, running members, clients, and real etcd's tools.
//!
//! `cargo build -p holdfast` and `tests/tools/install-etcd` must have run; what is missing is an
//! error that names the command. With `TEST_SUBJECT=etcd-3.5` real etcd takes the place of holdfast,
//! which shows whether a failure lies in the server or in the test.

pub mod acknowledged;
pub mod calls;
pub mod client;
pub mod cluster;
pub mod curl;
pub mod dice;
pub mod etcdctl;
pub mod file_system;
pub mod folder;
pub mod history;
pub mod http;
pub mod member;
pub mod network;
pub mod offline_tool;
pub mod tools;
pub mod watching;
