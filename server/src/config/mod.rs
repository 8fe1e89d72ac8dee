//! What the operator asked for: flags, `ETCD_*` variables or one file become a [`Config`].
//!
//! `typed` collects what was typed, `checked` decides what it means. Neither touches the process:
//! arguments and environment come in as data, so that every rule can be tested.

mod address;
mod checked;
mod duration;
mod file;
mod flags;
mod help;
mod note;
mod refusal;
mod typed;
mod version;

pub use address::{AddressError, ClientUrl, MetricsUrl, PeerUrl};
pub use checked::{
    AutoCompaction, Config, CorruptionChecks, DiscoverySrv, InitialClusterState, InitialMember,
    Invocation, KeepFiles, ListenTls, LogFormat, LogLevel, Quota, check_own_member, own_place,
};
pub use note::Note;
pub use refusal::{Refusal, Source};
pub use version::{CLUSTER_VERSION, ETCD_VERSION, HOLDFAST_VERSION};

#[cfg(test)]
mod tests;
