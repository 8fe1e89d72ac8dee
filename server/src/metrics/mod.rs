//! Numbers for alerts and dashboards, under etcd's names.

mod calls;
mod catalog;
mod exposition;
mod process;

pub use calls::{CallMetrics, GrpcMetrics};
pub use catalog::{
    AppliedOperation, DiskMetrics, HealthEndpoint, Metrics, MvccMetrics, NetworkMetrics,
    ServerMetrics,
};
