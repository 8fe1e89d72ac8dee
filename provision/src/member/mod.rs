//! Talks to a running member: its health page, and the gRPC calls that maintenance needs.

mod client;
mod health;

pub(crate) use client::{Alarm, Client, MemberError, MemberStatus};
pub(crate) use health::health;
