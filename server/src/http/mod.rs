//! One listener for gRPC and for the pages that people and load balancers read.

mod call;
mod connections;
mod pages;
mod serve;

pub use call::{CallBody, CallResponse};
pub use connections::{ConnectionSlots, TooFewFiles};
pub use pages::{Alarms, Check, Pages, Versions};
pub use serve::{serve, serve_metrics};

#[cfg(test)]
mod tests;
