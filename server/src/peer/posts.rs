//! What is posted to other members: messages while no stream is up, snapshots, and the question whether
//! they live.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use consensus::{Envelope, write_sized};
use futures_util::stream;
use http::header::{CONTENT_TYPE, HOST};
use http::{Request, StatusCode};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use hyper::client::conn::http1::SendRequest;
use storage::{Committed, Copy};
use tokio::sync::{Mutex, mpsc};

use super::connect::authority;
use super::streams::{headers, told};
use super::transport::{Peer, Shared};
use super::{BoxBody, BoxError, whole};
use crate::clock;

/// How long a post may take; etcd's value for connections.
const POST_TIMEOUT: Duration = Duration::from_secs(5);
/// Between two probes; etcd's value.
const PROBE_INTERVAL: Duration = Duration::from_secs(4);
/// Snapshots under way at a time; etcd's value.
pub(super) const SNAPSHOTS_MAX: usize = 16;
/// A snapshot is sent in pieces of this size, of which few wait for the connection.
const PIECE_BYTES: usize = 1 << 20;
const PIECES_WAITING_MAX: usize = 4;
/// A snapshot takes no more than this of disk and network, in bytes a second.
const SNAPSHOT_PACE: u64 = 256 << 20;

/// Posts messages, one after the other.
pub(super) async fn post(
    shared: Arc<Shared>,
    peer: Arc<Peer>,
    waiting: Arc<Mutex<mpsc::Receiver<Envelope>>>,
) {
    let mut connection = None;
    loop {
        let envelope = waiting.lock().await.recv().await;
        let Some(envelope) = envelope else {
            return;
        };
        let Some(url) = peer.url() else {
            continue;
        };
        let sent = post_one(&shared, &mut connection, &url, &envelope);
        let sent = tokio::time::timeout(POST_TIMEOUT, sent).await;
        if let Err(why) = sent.unwrap_or_else(|_| Err("no answer".to_owned())) {
            connection = None;
            tracing::debug!(peer = %peer.id, url, why, "cannot post a message");
            shared.settings.metrics.peers.lost(peer.id);
            peer.failed_at(&url);
            shared.doors.unreachable(peer.id);
        }
    }
}

async fn post_one(
    shared: &Shared,
    connection: &mut Option<SendRequest<BoxBody>>,
    url: &str,
    envelope: &Envelope,
) -> Result<(), String> {
    let mut open = match connection.take() {
        Some(open) if !open.is_closed() => open,
        _ => {
            let connected = shared.dialer.connect(url).await;
            connected.map_err(|error| error.to_string())?
        }
    };
    let body = envelope.encode();
    shared
        .settings
        .metrics
        .peers
        .sent(envelope.to(), body.len());
    let request = headers(shared, Request::post("/raft"), url)
        .header(CONTENT_TYPE, "application/protobuf")
        .body(whole(body))
        .map_err(|error| error.to_string())?;
    let response = open.send_request(request).await;
    let response = response.map_err(|error| error.to_string())?;
    match response.status() {
        StatusCode::NO_CONTENT => {
            *connection = Some(open);
            Ok(())
        }
        status => {
            note_removal(shared, status);
            Err(told(status, response).await)
        }
    }
}

/// etcd's way to say of a post's sender that it is no member any more.
fn note_removal(shared: &Shared, status: StatusCode) {
    if status == StatusCode::FORBIDDEN {
        shared.doors.removed();
    }
}

/// Sends a snapshot, and reports how that went.
pub(super) async fn send_snapshot(
    shared: Arc<Shared>,
    peer: Arc<Peer>,
    envelope: Envelope,
    database: Committed,
) {
    let index = envelope.snapshot_index().map_or(0, |index| index.0);
    let size = database.size();
    tracing::info!(peer = %peer.id, index, size, "sending a snapshot");
    let started = clock::monotonic();
    let url = peer.url().unwrap_or_default();
    let sent = post_snapshot(&shared, &url, &envelope, database).await;
    let took = clock::monotonic() - started;
    shared
        .settings
        .metrics
        .peers
        .snapshot_sent(peer.id, sent.is_ok(), took);
    match &sent {
        Ok(()) => tracing::info!(peer = %peer.id, index, ?took, "sent a snapshot"),
        Err(why) => {
            tracing::warn!(peer = %peer.id, index, url, why, "cannot send a snapshot");
            peer.failed_at(&url);
            shared.doors.unreachable(peer.id);
        }
    }
    shared.doors.snapshot_sent(peer.id, sent.is_ok());
}

async fn post_snapshot(
    shared: &Shared,
    url: &str,
    envelope: &Envelope,
    database: Committed,
) -> Result<(), String> {
    let Ok(_turn) = shared.snapshots().try_acquire_owned() else {
        return Err("too many snapshots are being sent".to_owned());
    };
    let connected = shared.dialer.connect(url).await;
    let mut connection = connected.map_err(|error| error.to_string())?;
    let mut head = BytesMut::new();
    write_sized(envelope, &mut head);
    let (pieces, receiver) = mpsc::channel(PIECES_WAITING_MAX);
    let read = tokio::task::spawn_blocking(move || read_pieces(&database, head.freeze(), &pieces));
    let body = stream::unfold(receiver, |mut receiver| async {
        let piece: Result<Bytes, BoxError> = receiver.recv().await?;
        Some((piece.map(Frame::data), receiver))
    });
    let request = headers(shared, Request::post("/raft/snapshot"), url)
        .header(CONTENT_TYPE, "application/octet-stream")
        .body(StreamBody::new(body).boxed_unsync())
        .map_err(|error| error.to_string())?;
    let response = connection.send_request(request).await;
    drop(read);
    let response = response.map_err(|error| error.to_string())?;
    match response.status() {
        StatusCode::NO_CONTENT => Ok(()),
        status => {
            note_removal(shared, status);
            Err(told(status, response).await)
        }
    }
}

/// Reads the database piece by piece, at a pace that leaves the disk to others, until nobody takes the
/// pieces any more.
fn read_pieces(database: &Committed, head: Bytes, pieces: &mpsc::Sender<Result<Bytes, BoxError>>) {
    if pieces.blocking_send(Ok(head)).is_err() {
        return;
    }
    let mut copy = match Copy::of(database) {
        Ok(copy) => copy,
        Err(fault) => return drop(pieces.blocking_send(Err(fault.into()))),
    };
    let started = clock::monotonic();
    let mut sent = 0;
    loop {
        let piece = match copy.read(PIECE_BYTES) {
            Ok(piece) if piece.is_empty() => return,
            // A copy, so that pages are read from the disk here and not where streams are written.
            Ok(piece) => Bytes::copy_from_slice(&piece),
            Err(fault) => return drop(pieces.blocking_send(Err(fault.into()))),
        };
        sent += piece.len() as u64;
        if pieces.blocking_send(Ok(piece)).is_err() {
            return;
        }
        let due = started + Duration::from_micros(sent * 1_000_000 / SNAPSHOT_PACE);
        std::thread::sleep(due.saturating_duration_since(clock::monotonic()));
    }
}

/// Asks a member again and again whether it lives, to know how long the way takes.
pub(super) async fn probe(shared: Arc<Shared>, peer: Arc<Peer>) {
    loop {
        tokio::time::sleep(PROBE_INTERVAL).await;
        let Some(url) = peer.url() else {
            continue;
        };
        let Ok(mut connection) = shared.dialer.connect(&url).await else {
            continue;
        };
        let request = Request::get("/raft/probing")
            .header(HOST, authority(&url))
            .body(whole(Bytes::new()));
        let Ok(request) = request else {
            continue;
        };
        let started = clock::monotonic();
        let answered = tokio::time::timeout(POST_TIMEOUT, connection.send_request(request)).await;
        if let Ok(Ok(response)) = answered
            && response.status().is_success()
        {
            let took = clock::monotonic() - started;
            shared.settings.metrics.peers.round_trip(peer.id, took);
        }
    }
}
