/// The version of this program, printed by `--version` and in logs.
pub const HOLDFAST_VERSION: &str = env!("CARGO_PKG_VERSION");

/// The release of etcd whose behaviour we keep and which we report to clients and peers: members
/// of 3.5, 3.6 and 3.7 accept a 3.6.
pub const ETCD_VERSION: &str = "3.6.12";

/// The cluster version that a new cluster begins with. An etcd of 3.5 opens a data directory only up
/// to this level, so a cluster stays there until somebody raises it: nothing that this version does
/// needs more, and the way back stays open.
pub const CLUSTER_VERSION: &str = "3.5.0";
