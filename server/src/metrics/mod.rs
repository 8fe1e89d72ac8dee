//! Numbers for alerts and dashboards, under etcd's names.

mod calls;
mod catalog;
mod exposition;
mod lease;
mod peer;
mod process;
mod watch;

pub use calls::{CallMetrics, GrpcMetrics};
pub use catalog::{
    DiskMetrics, HealthEndpoint, Metrics, MvccMetrics, NetworkMetrics, ServerMetrics,
};
pub use lease::LeaseMetrics;
pub use peer::PeerMetrics;
pub use watch::WatchMetrics;
