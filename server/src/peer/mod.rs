//! From member to member: etcd's peer protocol, over HTTP/1.1.
//!
//! ```text
//! raft_thread ──messages──> transport ─┬─ stream "msgappv2": entries ──┐
//!                                      ├─ stream "message": the rest ──┤──> other member
//!                                      ├─ posts, while no stream is up ┤
//!                                      └─ a post for each snapshot ────┘
//! ```
//!
//! Each member dials both streams to every other one, and writes on those that the others dialed
//! (`streams.rs`, `listener.rs`). What cannot be sent is dropped and reported: consensus sends it again.
//! Nothing here blocks `raft_thread`.

mod ask;
mod client;
mod connect;
mod listener;
mod posts;
mod streams;
mod transport;

#[cfg(test)]
mod tests;

use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use consensus::{Envelope, NodeId};
use http::{Request, Response};
use storage::disk::Disk;

pub use ask::Asker;
pub use client::{PeerClient, Question};
pub use listener::serve;
pub use transport::Transport;

use crate::config::ListenTls;
use crate::metrics::Metrics;

/// What the transport needs to know.
#[derive(Clone)]
pub struct Settings {
    /// This member.
    pub id: NodeId,
    /// Its cluster.
    pub cluster: u64,
    /// Where others reach it, as it tells them.
    pub peer_urls: Vec<String>,
    /// How https is spoken.
    pub tls: Option<ListenTls>,
    /// How long dialing may take.
    pub dial_timeout: Duration,
    /// Where databases lie that leaders send.
    pub snapshot_folder: PathBuf,
    /// Their disk.
    pub disk: Arc<dyn Disk>,
    /// Counts what happens.
    pub metrics: Arc<Metrics>,
}

/// What messages and questions of other members lead to.
pub trait Doors: Send + Sync + 'static {
    /// A message came in. Must not wait; what finds no room may be dropped.
    fn step(&self, envelope: Envelope);
    /// A message to this member was lost.
    fn unreachable(&self, id: NodeId);
    /// The host of this member says that nobody listens there.
    fn gone(&self, id: NodeId);
    /// A snapshot was taken in by this member, or was not.
    fn snapshot_sent(&self, id: NodeId, success: bool);
    /// Another member says that this one was removed.
    fn removed(&self);
    /// Whether this member was removed.
    fn is_removed(&self, id: NodeId) -> bool;
    /// Answers what is no message: the pages that members read of each other.
    fn answer(&self, request: Request<Bytes>) -> BoxFuture<'_, Response<Bytes>>;
}

/// An answer that is not there yet.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// The header that names the cluster.
pub const CLUSTER_ID: &str = "x-etcd-cluster-id";
const SERVER_FROM: &str = "x-server-from";
const SERVER_VERSION: &str = "x-server-version";
const MIN_CLUSTER_VERSION: &str = "x-min-cluster-version";
const PEER_URLS: &str = "x-peerurls";
const RAFT_TO: &str = "x-raft-to";
/// The oldest cluster that we take part in.
const MIN_CLUSTER: &str = "3.0.0";

/// What a body that is read or written can fail with.
type BoxError = Box<dyn std::error::Error + Send + Sync>;
/// A body of any kind.
type BoxBody = http_body_util::combinators::UnsyncBoxBody<Bytes, BoxError>;

fn whole(bytes: impl Into<Bytes>) -> BoxBody {
    use http_body_util::BodyExt;
    let body = http_body_util::Full::new(bytes.into());
    body.map_err(|never| match never {}).boxed_unsync()
}
