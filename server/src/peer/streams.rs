//! The two streams between members. Whoever wants messages dials; the other side writes.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use consensus::{
    AppendReader, AppendWriter, Envelope, Frame, MalformedMessage, read_sized, write_sized,
    write_sized_heartbeat,
};
use futures_util::stream;
use http::header::HOST;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Incoming;
use hyper::client::conn::http1::SendRequest;
use tokio::sync::mpsc;

use super::connect::authority;
use super::transport::{Peer, Shared};
use super::{
    BoxBody, BoxError, CLUSTER_ID, MIN_CLUSTER, MIN_CLUSTER_VERSION, PEER_URLS, RAFT_TO,
    SERVER_FROM, SERVER_VERSION, whole,
};
use crate::config::ETCD_VERSION;

/// Messages that wait for a stream; etcd's value.
const WAITING_MAX: usize = 4096;
/// Bytes of messages written together.
const TOGETHER_BYTES_MAX: usize = 1 << 20;
/// A silent stream shows that it lives this often; etcd's value.
const SIGN_OF_LIFE: Duration = Duration::from_millis(1667);
/// A stream is dead when it is silent for so long; etcd's value.
const SILENCE_MAX: Duration = Duration::from_secs(5);
/// Between two tries to dial; etcd's value.
const REDIAL: Duration = Duration::from_millis(100);

/// Which of the two streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Entries of the leader.
    Appends,
    /// Everything else.
    Messages,
}

impl Kind {
    /// How its path begins.
    pub(super) fn path(self) -> &'static str {
        match self {
            Kind::Appends => "/raft/stream/msgapp/",
            Kind::Messages => "/raft/stream/message/",
        }
    }
}

/// Where messages for a stream go that another member has dialed, if it has.
#[derive(Default)]
pub(super) struct Outlet(Mutex<Option<mpsc::Sender<Envelope>>>);

impl Outlet {
    /// The way into the stream, if there is one.
    pub(super) fn sender(&self) -> Option<mpsc::Sender<Envelope>> {
        let attached = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        attached.clone().filter(|sender| !sender.is_closed())
    }

    /// Puts a stream in the place of the one before.
    fn attach(&self) -> mpsc::Receiver<Envelope> {
        let (sender, receiver) = mpsc::channel(WAITING_MAX);
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(sender);
        receiver
    }

    /// Ends the stream.
    pub(super) fn close(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

/// The body of a stream that `peer` has dialed: what is sent to it, until it is replaced or breaks.
pub(super) fn write(shared: Arc<Shared>, peer: &Arc<Peer>, kind: Kind) -> BoxBody {
    let messages = match kind {
        Kind::Appends => peer.appends.attach(),
        Kind::Messages => peer.messages.attach(),
    };
    let writer = Writer {
        kind,
        appends: AppendWriter::default(),
        messages,
    };
    let id = peer.id;
    let frames = stream::unfold(writer, move |mut writer| {
        let shared = shared.clone();
        async move {
            let bytes = writer.next().await?;
            shared.settings.metrics.peers.sent(id, bytes.len());
            Some((Ok::<_, BoxError>(hyper::body::Frame::data(bytes)), writer))
        }
    });
    StreamBody::new(frames).boxed_unsync()
}

struct Writer {
    kind: Kind,
    appends: AppendWriter,
    messages: mpsc::Receiver<Envelope>,
}

impl Writer {
    /// What waits, or after a while of silence a sign of life; `None` at the end.
    async fn next(&mut self) -> Option<Bytes> {
        let mut out = BytesMut::new();
        match tokio::time::timeout(SIGN_OF_LIFE, self.messages.recv()).await {
            Ok(None) => return None,
            Ok(first) => {
                let mut next = first;
                while let Some(envelope) = next {
                    match self.kind {
                        Kind::Appends => self.appends.write(&envelope, &mut out),
                        Kind::Messages => write_sized(&envelope, &mut out),
                    }
                    next = match out.len() < TOGETHER_BYTES_MAX {
                        true => self.messages.try_recv().ok(),
                        false => None,
                    };
                }
            }
            Err(_) => match self.kind {
                Kind::Appends => AppendWriter::write_heartbeat(&mut out),
                Kind::Messages => write_sized_heartbeat(&mut out),
            },
        }
        Some(out.freeze())
    }
}

/// Dials a stream and takes in its messages, again and again.
pub(super) async fn read(shared: Arc<Shared>, peer: Arc<Peer>, kind: Kind) {
    let mut told = String::new();
    loop {
        let begun = tokio::time::Instant::now();
        let Some(url) = peer.url() else {
            tokio::time::sleep(REDIAL).await;
            continue;
        };
        let mut has_run = false;
        let ended = match shared.dialer.connect(&url).await {
            Ok(connection) => match dial(&shared, &peer, kind, &url, connection).await {
                Ok(body) => {
                    has_run = true;
                    take_in(&shared, &peer, kind, body).await
                }
                Err(why) => why,
            },
            Err(error) => {
                if error.is_refused && kind == Kind::Messages {
                    shared.doors.gone(peer.id);
                }
                error.to_string()
            }
        };
        if kind == Kind::Messages {
            shared.set_active(&peer, false, &ended);
        }
        tracing::debug!(peer = %peer.id, ?kind, url, why = ended, "a stream has ended");
        if !has_run {
            if kind == Kind::Messages && told != ended {
                tracing::warn!(peer = %peer.id, url, why = ended, "cannot reach a peer");
                told = ended;
            }
            peer.failed_at(&url);
        }
        // After a stream that has lasted, whether the member has gone should be known at once.
        tokio::time::sleep_until(begun + REDIAL).await;
    }
}

async fn dial(
    shared: &Shared,
    peer: &Peer,
    kind: Kind,
    url: &str,
    mut connection: SendRequest<BoxBody>,
) -> Result<Incoming, String> {
    let settings = &shared.settings;
    let path = format!("{}{}", kind.path(), settings.id);
    let request = headers(shared, Request::get(path), url)
        .header(RAFT_TO, peer.id.to_string())
        .body(whole(Bytes::new()))
        .map_err(|error| error.to_string())?;
    let answered = tokio::time::timeout(SILENCE_MAX, connection.send_request(request)).await;
    let response = answered
        .map_err(|_| "no answer".to_owned())?
        .map_err(|error| error.to_string())?;
    match response.status() {
        StatusCode::OK => Ok(response.into_body()),
        StatusCode::GONE => {
            shared.doors.removed();
            Err("it says that this member was removed".to_owned())
        }
        status => Err(told(status, response).await),
    }
}

/// What a status and its text say.
pub(super) async fn told(status: StatusCode, response: Response<Incoming>) -> String {
    const TEXT_BYTES_MAX: usize = 1024;
    let body = http_body_util::Limited::new(response.into_body(), TEXT_BYTES_MAX);
    let text = match body.collect().await {
        Ok(text) => String::from_utf8_lossy(&text.to_bytes()).trim().to_owned(),
        Err(_) => String::new(),
    };
    format!("it answered {status}: {text}")
}

/// What every raft request says about its sender.
pub(super) fn headers(
    shared: &Shared,
    request: http::request::Builder,
    url: &str,
) -> http::request::Builder {
    let settings = &shared.settings;
    request
        .header(HOST, authority(url))
        .header(SERVER_FROM, settings.id.to_string())
        .header(SERVER_VERSION, ETCD_VERSION)
        .header(MIN_CLUSTER_VERSION, MIN_CLUSTER)
        .header(CLUSTER_ID, format!("{:x}", settings.cluster))
        .header(PEER_URLS, settings.peer_urls.join(","))
}

/// Takes in all messages of a stream; why it has ended.
async fn take_in(shared: &Shared, peer: &Peer, kind: Kind, mut body: Incoming) -> String {
    if kind == Kind::Messages {
        shared.set_active(peer, true, "");
    }
    let mut appends = AppendReader::new(peer.id, shared.settings.id);
    let mut received = BytesMut::new();
    loop {
        let bytes = match tokio::time::timeout(SILENCE_MAX, body.frame()).await {
            Err(_) => return "it has been silent".to_owned(),
            Ok(None) => return "it has closed the stream".to_owned(),
            Ok(Some(Err(error))) => return error.to_string(),
            Ok(Some(Ok(frame))) => frame.into_data().unwrap_or_default(),
        };
        shared.settings.metrics.peers.received(peer.id, bytes.len());
        received.extend_from_slice(&bytes);
        loop {
            let read: Result<_, MalformedMessage> = match kind {
                Kind::Appends => appends.read(&mut received),
                Kind::Messages => read_sized(&mut received),
            };
            match read {
                Ok(None) => break,
                Ok(Some(Frame::Heartbeat)) => {}
                Ok(Some(Frame::Envelope(envelope))) => shared.doors.step(envelope),
                Err(error) => {
                    shared.settings.metrics.peers.malformed(peer.id);
                    tracing::warn!(peer = %peer.id, %error, "a stream makes no sense; dialing anew");
                    return error.to_string();
                }
            }
        }
    }
}
