//! What this member answers to others: posted messages, snapshots, dialed streams. Checks and answers are
//! those of etcd, in its order.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use consensus::{Envelope, EnvelopeKind, NodeId};
use http::header::{ALLOW, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use storage::disk::{Disk, File, Open};

use super::streams::{self, Kind};
use super::transport::{Shared, Transport};
use super::{
    BoxBody, BoxError, CLUSTER_ID, MIN_CLUSTER_VERSION, PEER_URLS, RAFT_TO, SERVER_FROM,
    SERVER_VERSION, whole,
};
use crate::config::ETCD_VERSION;
use crate::http::{Listening, accept_all};
use crate::received_database;

/// Largest posted message; entries of other members may be larger than requests here.
const POST_BYTES_MAX: usize = 512 << 20;
/// Largest message before a snapshot's database; etcd's value.
const SNAPSHOT_MESSAGE_BYTES_MAX: u64 = 64 << 20;
/// A received database is written in pieces of about this size.
const PIECE_BYTES: usize = 1 << 20;
/// A posted message must be here within this time.
const MESSAGE_TIMEOUT: Duration = Duration::from_secs(30);
/// A sender of a snapshot that is silent for so long has gone.
const SILENCE_MAX: Duration = Duration::from_secs(30);
/// Largest question that is no message.
const QUESTION_BYTES_MAX: usize = 64 << 10;
/// Members of older versions are not understood.
const VERSION_MIN: (u64, u64) = (3, 0);

/// Serves the other members until `shutdown` ends.
pub async fn serve(listening: Listening, transport: Transport, shutdown: impl Future<Output = ()>) {
    let shared = transport.shared.clone();
    accept_all(listening, shutdown, move |request| {
        answer(shared.clone(), transport.clone(), request)
    })
    .await;
}

async fn answer(
    shared: Arc<Shared>,
    transport: Transport,
    request: Request<Incoming>,
) -> Response<BoxBody> {
    let path = request.uri().path();
    let is_raft = ["/raft", "/raft/"].contains(&path)
        || path.starts_with("/raft/stream/")
        || path == "/raft/snapshot";
    let (allowed, is_get) = match path {
        _ if path.starts_with("/raft/stream/") => ("GET", true),
        _ if is_raft => ("POST", false),
        "/raft/probing" => return probing(),
        _ => return pages(&shared, request).await,
    };
    if (request.method() == Method::GET) != is_get || !is_get && request.method() != Method::POST {
        let mut refused = text(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed");
        let allowed = HeaderValue::from_static(allowed);
        refused.headers_mut().insert(ALLOW, allowed);
        return refused;
    }
    let mut response = match check(&shared, request.headers()) {
        Err(why) => text(StatusCode::PRECONDITION_FAILED, why),
        Ok(()) if is_get => stream(&shared, &transport, &request),
        Ok(()) => {
            remember(&transport, request.headers());
            match path {
                "/raft/snapshot" => snapshot(&shared, request).await,
                _ => message(&shared, request).await,
            }
        }
    };
    let headers = response.headers_mut();
    let cluster = format!("{:x}", shared.settings.cluster);
    headers.insert(CLUSTER_ID, HeaderValue::try_from(cluster).expect("digits"));
    if is_get {
        headers.insert(SERVER_VERSION, HeaderValue::from_static(ETCD_VERSION));
    }
    response
}

async fn pages(shared: &Shared, request: Request<Incoming>) -> Response<BoxBody> {
    let (head, body) = request.into_parts();
    let Ok(body) = Limited::new(body, QUESTION_BYTES_MAX).collect().await else {
        return text(StatusCode::PAYLOAD_TOO_LARGE, "request body too large");
    };
    let request = Request::from_parts(head, body.to_bytes());
    shared.doors.answer(request).await.map(whole)
}

fn probing() -> Response<BoxBody> {
    let now = crate::clock::rfc3339();
    let mut response = Response::new(whole(format!("{{\"OK\":true,\"Now\":\"{now}\"}}\n")));
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(CONTENT_TYPE, json);
    response
}

/// Whether a sender belongs to this cluster and speaks as we do.
fn check(shared: &Shared, headers: &HeaderMap) -> Result<(), &'static str> {
    let version = |name: &str| {
        let text = value(headers, name).unwrap_or("2.0.0");
        let mut numbers = text.split('.').map(str::parse::<u64>);
        match (numbers.next(), numbers.next()) {
            (Some(Ok(major)), Some(Ok(minor))) => (major, minor),
            _ => (0, 0),
        }
    };
    let mut own = ETCD_VERSION.split('.').filter_map(|part| part.parse().ok());
    let own: (u64, u64) = (own.next().unwrap_or(0), own.next().unwrap_or(0));
    if version(SERVER_VERSION) < VERSION_MIN || version(MIN_CLUSTER_VERSION) > own {
        return Err("incompatible version");
    }
    let cluster = format!("{:x}", shared.settings.cluster);
    match value(headers, CLUSTER_ID) == Some(&cluster) {
        true => Ok(()),
        false => Err("cluster ID mismatch"),
    }
}

fn value<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    headers.get(name)?.to_str().ok()
}

/// A sender that is no member, as far as is known here, says where it is reached: answers need that.
fn remember(transport: &Transport, headers: &HeaderMap) {
    let from = value(headers, SERVER_FROM).and_then(|from| u64::from_str_radix(from, 16).ok());
    let urls = value(headers, PEER_URLS).unwrap_or_default();
    if let Some(from) = from
        && !urls.is_empty()
        && !transport.shared.doors.is_removed(NodeId(from))
    {
        let urls: Vec<String> = urls.split(',').map(str::to_owned).collect();
        transport.add_remote(NodeId(from), &urls);
    }
}

fn stream(
    shared: &Arc<Shared>,
    transport: &Transport,
    request: &Request<Incoming>,
) -> Response<BoxBody> {
    let path = request.uri().path();
    let known = [Kind::Appends, Kind::Messages];
    let Some((kind, from)) = known
        .into_iter()
        .find_map(|kind| Some((kind, path.strip_prefix(kind.path())?)))
    else {
        return text(StatusCode::NOT_FOUND, "invalid path");
    };
    let Ok(from) = u64::from_str_radix(from, 16) else {
        return text(StatusCode::NOT_FOUND, "invalid from");
    };
    let from = NodeId(from);
    if shared.doors.is_removed(from) {
        return text(StatusCode::GONE, "removed member");
    }
    let Some(peer) = shared.find(from).filter(|peer| !peer.is_remote()) else {
        remember(transport, request.headers());
        return text(StatusCode::NOT_FOUND, "error sender not found");
    };
    let own = shared.settings.id.to_string();
    if value(request.headers(), RAFT_TO) != Some(&own) {
        return text(StatusCode::PRECONDITION_FAILED, "to field mismatch");
    }
    Response::new(streams::write(shared.clone(), &peer, kind))
}

async fn message(shared: &Shared, request: Request<Incoming>) -> Response<BoxBody> {
    let bad = |what| text(StatusCode::BAD_REQUEST, what);
    let body = Limited::new(request.into_body(), POST_BYTES_MAX);
    let Ok(Ok(body)) = tokio::time::timeout(MESSAGE_TIMEOUT, body.collect()).await else {
        return bad("error reading raft message");
    };
    let body = body.to_bytes();
    let length = body.len();
    let Ok(envelope) = Envelope::decode(body) else {
        return bad("error unmarshalling raft message");
    };
    if let Some(peer) = shared.find(envelope.from()) {
        shared.settings.metrics.peers.received(peer.id, length);
    }
    match is_welcome(shared, &envelope) {
        true => {
            shared.doors.step(envelope);
            no_content()
        }
        false => text(
            StatusCode::INTERNAL_SERVER_ERROR,
            "error processing raft message",
        ),
    }
}

fn is_welcome(shared: &Shared, envelope: &Envelope) -> bool {
    envelope.to() == shared.settings.id && !shared.doors.is_removed(envelope.from())
}

/// Stores a leader's database beside our own, durably, before its message counts.
async fn snapshot(shared: &Shared, request: Request<Incoming>) -> Response<BoxBody> {
    let mut body = request.into_body();
    let (envelope, rest) = match read_head(&mut body).await {
        Ok(read) => read,
        Err(why) => {
            let what = format!("failed to decode raft message ({why})");
            return text(StatusCode::BAD_REQUEST, &what);
        }
    };
    let (EnvelopeKind::Snapshot, Some(index)) = (envelope.kind(), envelope.snapshot_index()) else {
        return text(StatusCode::BAD_REQUEST, "wrong raft message type");
    };
    let from = envelope.from();
    if !is_welcome(shared, &envelope) {
        let what = "failed to process raft message (it is not for this member)";
        return text(StatusCode::INTERNAL_SERVER_ERROR, what);
    }
    tracing::info!(%from, index = index.0, "receiving a snapshot");
    let started = crate::clock::monotonic();
    let settings = &shared.settings;
    let name = received_database::file_name(storage::wal::Index(index.0));
    let received = settings.snapshot_folder.join(name);
    let stored = store(&settings.disk, &received, rest, body).await;
    let took = crate::clock::monotonic() - started;
    if let Some(peer) = shared.find(from) {
        let metrics = &settings.metrics.peers;
        metrics.snapshot_received(peer.id, stored.is_ok(), took);
    }
    match stored {
        Ok(size) => {
            tracing::info!(%from, index = index.0, size, ?took, "stored the database of a snapshot");
            shared.doors.step(envelope);
            no_content()
        }
        Err(why) => {
            tracing::warn!(%from, index = index.0, %why, "cannot store the database of a snapshot");
            let what = format!("failed to save KV snapshot ({why})");
            text(StatusCode::INTERNAL_SERVER_ERROR, &what)
        }
    }
}

/// The message in front of a database, and what came of the database with it.
async fn read_head(body: &mut Incoming) -> Result<(Envelope, BytesMut), String> {
    let mut received = BytesMut::new();
    loop {
        if received.len() >= size_of::<u64>() {
            let size = u64::from_be_bytes(received[..8].try_into().expect("eight bytes"));
            if size > SNAPSHOT_MESSAGE_BYTES_MAX {
                return Err(format!(
                    "its length is {size}, the limit {SNAPSHOT_MESSAGE_BYTES_MAX}"
                ));
            }
            let end = size_of::<u64>() + size as usize;
            if received.len() >= end {
                received.advance(size_of::<u64>());
                let message = received.split_to(size as usize).freeze();
                let envelope = Envelope::decode(message).map_err(|error| error.to_string())?;
                return Ok((envelope, received));
            }
        }
        let next = tokio::time::timeout(SILENCE_MAX, body.frame()).await;
        match next.map_err(|_| "nothing more came".to_owned())? {
            None => return Err("EOF".to_owned()),
            Some(Err(error)) => return Err(error.to_string()),
            Some(Ok(frame)) => received.extend_from_slice(&frame.into_data().unwrap_or_default()),
        }
    }
}

/// Writes a database under another name, makes it durable, and gives it its name; its size.
async fn store(
    disk: &Arc<dyn Disk>,
    path: &Path,
    first: BytesMut,
    mut body: Incoming,
) -> Result<u64, BoxError> {
    let mut receiving = Receiving::begin(disk.clone(), path).await?;
    let mut piece = first;
    loop {
        let frame = match tokio::time::timeout(SILENCE_MAX, body.frame()).await? {
            None => break,
            Some(frame) => frame?,
        };
        piece.extend_from_slice(&frame.into_data().unwrap_or_default());
        if piece.len() >= PIECE_BYTES {
            receiving = receiving.write(piece.split().freeze()).await?;
        }
    }
    receiving = receiving.write(piece.freeze()).await?;
    receiving.finish(path.to_owned()).await
}

/// A database that is being received. What is not finished is removed.
struct Receiving {
    disk: Arc<dyn Disk>,
    file: Arc<dyn File>,
    aside: PathBuf,
    size: u64,
    is_finished: bool,
}

impl Receiving {
    async fn begin(disk: Arc<dyn Disk>, path: &Path) -> Result<Receiving, BoxError> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        // A restart removes files with such names.
        let name = format!("tmp{}", NEXT.fetch_add(1, Ordering::Relaxed));
        let aside = path.with_file_name(name);
        blocking(move || {
            let file = disk.open(&aside, Open::Create)?;
            Ok(Receiving {
                disk,
                file,
                aside,
                size: 0,
                is_finished: false,
            })
        })
        .await
    }

    async fn write(mut self, piece: Bytes) -> Result<Receiving, BoxError> {
        blocking(move || {
            self.file.write_at(&piece, self.size)?;
            self.size += piece.len() as u64;
            Ok(self)
        })
        .await
    }

    async fn finish(mut self, path: PathBuf) -> Result<u64, BoxError> {
        blocking(move || {
            self.file.sync()?;
            self.disk.rename(&self.aside, &path)?;
            self.is_finished = true;
            self.disk
                .sync_dir(path.parent().unwrap_or(Path::new(".")))?;
            Ok(self.size)
        })
        .await
    }
}

impl Drop for Receiving {
    fn drop(&mut self) {
        if !self.is_finished {
            // A restart removes what cannot be removed now.
            let _ = self.disk.remove(&self.aside);
        }
    }
}

/// Does what waits for the disk where it keeps no connection waiting.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> Result<T, BoxError> {
    Ok(tokio::task::spawn_blocking(work).await??)
}

fn no_content() -> Response<BoxBody> {
    let mut response = Response::new(whole(Bytes::new()));
    *response.status_mut() = StatusCode::NO_CONTENT;
    response
}

/// An error as Go's HTTP server words it.
fn text(status: StatusCode, what: &str) -> Response<BoxBody> {
    let mut response = Response::new(whole(format!("{what}\n")));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    let plain = HeaderValue::from_static("text/plain; charset=utf-8");
    headers.insert(CONTENT_TYPE, plain);
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}
