//! The gateway over a WebSocket: each text message in is a JSON value, each one out a line of the
//! answer.

use std::convert::Infallible;

use bytes::Bytes;
use http::header::{CONNECTION, COOKIE, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper::body::Body;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::sync::mpsc;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;
use tower_service::Service;

use super::{
    BoxError, Call, CallBody, GatewayBody, MESSAGES_WAITING_MAX, Pages, SEC_WEBSOCKET_PROTOCOL,
    UPGRADE, messages, plain, send_lines, stream_of,
};

/// Whether a request wants to go on as a WebSocket.
pub(super) fn is_asked_for(headers: &HeaderMap) -> bool {
    let is = |name, value: &str| {
        let header = headers.get(name).and_then(|header| header.to_str().ok());
        header.is_some_and(|header| header.to_ascii_lowercase().contains(value))
    };
    is(UPGRADE, "websocket") && is(CONNECTION, "upgrade")
}

/// A token that a browser could not put into a header of its own.
pub(super) fn token(headers: &HeaderMap) -> Option<HeaderValue> {
    let protocol = headers.get(SEC_WEBSOCKET_PROTOCOL);
    let in_protocol = protocol
        .and_then(|value| value.to_str().ok()?.strip_prefix("Bearer, "))
        .map(str::to_owned);
    let in_cookie = || {
        let cookies = headers.get(COOKIE)?.to_str().ok()?;
        let mut cookies = cookies.split(';').map(str::trim);
        cookies.find_map(|cookie| cookie.strip_prefix("token=").map(str::to_owned))
    };
    let token = in_protocol.or_else(in_cookie)?;
    HeaderValue::from_str(&format!("Bearer {token}")).ok()
}

/// Takes the connection over.
pub(super) async fn serve<G, B>(
    grpc: G,
    pages: &dyn Pages,
    call: Call,
    head: &http::request::Parts,
    upgrade: OnUpgrade,
) -> Response<GatewayBody>
where
    G: Service<Request<CallBody>, Response = Response<B>, Error = Infallible> + Send + 'static,
    G::Future: Send,
    B: Body<Data = Bytes> + Unpin + Send + 'static,
    B::Error: Into<BoxError> + Send + Sync,
{
    let Some(key) = head.headers.get(SEC_WEBSOCKET_KEY) else {
        return plain(
            StatusCode::BAD_REQUEST,
            "the header Sec-WebSocket-Key is missing",
        );
    };
    let accept = derive_accept_key(key.as_bytes());
    let (requests, frames) = mpsc::channel(MESSAGES_WAITING_MAX);
    let (input, output) = (call.method.input(), call.method.output());
    let answers = super::Answers::new(call.send(grpc, pages, stream_of(frames)).await);
    tokio::spawn(async move {
        // A client that goes before the upgrade has nothing to be told.
        let Ok(upgraded) = upgrade.await else {
            return;
        };
        let socket =
            WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, None).await;
        converse(socket, input, output, answers, requests).await;
    });
    let mut response = Response::new(Empty::new().map_err(|never| match never {}).boxed_unsync());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    if let Ok(accept) = HeaderValue::from_str(&accept) {
        headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
    }
    if head.headers.contains_key(SEC_WEBSOCKET_PROTOCOL) {
        headers.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static("Bearer"));
    }
    response
}

async fn converse<S, B>(
    mut socket: WebSocketStream<S>,
    input: prost_reflect::MessageDescriptor,
    output: prost_reflect::MessageDescriptor,
    answers: super::Answers<B>,
    requests: mpsc::Sender<Bytes>,
) where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
    B: Body<Data = Bytes> + Unpin + Send + 'static,
    B::Error: Into<BoxError> + Send + Sync,
{
    use futures_util::{SinkExt, StreamExt};
    let (sender, mut lines) = mpsc::channel(MESSAGES_WAITING_MAX);
    tokio::spawn(send_lines(answers, output, sender));
    loop {
        let line: Option<Bytes> = tokio::select! {
            line = lines.recv() => line,
            message = socket.next() => match message {
                Some(Ok(Message::Text(text))) => {
                    match messages::to_frame(text.as_bytes(), true, &input) {
                        Ok(frame) => {
                            let (frame, _) = frame.expect("all of it is there");
                            if requests.send(frame).await.is_err() {
                                return;
                            }
                            continue;
                        }
                        Err(text) => {
                            let status = tonic::Status::invalid_argument(text);
                            Some(super::error_line(&status).into())
                        }
                    }
                }
                Some(Ok(Message::Close(_)) | Err(_)) | None => return,
                Some(Ok(_)) => continue,
            },
        };
        let Some(line) = line else {
            // The client may be gone already.
            let _ = socket.close(None).await;
            return;
        };
        let text = String::from_utf8_lossy(line.trim_ascii_end()).into_owned();
        if socket.send(Message::text(text)).await.is_err() {
            return;
        }
    }
}
