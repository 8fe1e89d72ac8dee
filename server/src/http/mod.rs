//! One listener for gRPC and for the pages that people and load balancers read.

mod call;
mod client_certificate;
mod connections;
mod gateway;
mod pages;
mod serve;
mod tls;

pub use call::{CallBody, CallResponse};
pub use client_certificate::ClientCertificate;
pub use connections::{ConnectionSlots, TooFewFiles};
pub use gateway::gateway_frame;
pub use pages::{Alarms, CallLimits, Check, Pages, Versions};
pub(crate) use serve::accept_all;
pub use serve::{ConnectionLimits, Listening, Policy, Serves, serve, serve_metrics};
pub(crate) use tls::suite;
pub use tls::{Tls, TlsError, TlsSettings, self_signed};

/// What a body that is read can fail with.
type BoxError = Box<dyn std::error::Error + Send + Sync>;

#[cfg(test)]
mod tests;
