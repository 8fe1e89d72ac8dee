//! The JSON gateway: gRPC for those who have only HTTP/1 and JSON. Requests are translated by the
//! description of their message, handed to the very service that gRPC clients call, and its answers are
//! translated back.

mod messages;
mod paths;
mod websocket;

use std::convert::Infallible;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{
    AUTHORIZATION, CONTENT_TYPE, HeaderName, SEC_WEBSOCKET_PROTOCOL, UPGRADE, WWW_AUTHENTICATE,
};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Body, Frame, Incoming};
use prost_reflect::MethodDescriptor;
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};
use tower_service::Service;

use super::BoxError;
use super::call::{self, CallBody, Source};
use super::client_certificate::ClientCertificate;
use super::pages::Pages;
use messages::Frames;

/// Bytes of JSON in one request. Base64 makes a request longer by a third, and field names a little.
const JSON_BYTES_MAX: usize = 64 << 20;
/// Messages of a stream that wait for the other side.
const MESSAGES_WAITING_MAX: usize = 16;
/// Headers of HTTP itself, which reach a service under a name of their own.
const STANDARD: [&str; 30] = [
    "accept",
    "accept-charset",
    "accept-language",
    "accept-ranges",
    "age",
    "allow",
    "cache-control",
    "content-type",
    "cookie",
    "date",
    "expect",
    "from",
    "host",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-schedule-tag-match",
    "if-unmodified-since",
    "max-forwards",
    "origin",
    "pragma",
    "referer",
    "te",
    "trailer",
    "upgrade",
    "user-agent",
    "vary",
    "via",
    "warning",
    "content-encoding",
];
/// How much of a request that is refused unread is read nevertheless, and for how long.
const DRAINED_BYTES_MAX: usize = 64 << 10;
const DRAINING_MAX: Duration = Duration::from_secs(1);
const METADATA_PREFIX: &str = "grpc-metadata-";

/// The body of an answer.
pub(super) type GatewayBody = UnsyncBoxBody<Bytes, BoxError>;

/// Whether a path is the gateway's.
pub(super) fn is_ours(path: &str) -> bool {
    path.starts_with("/v3/") || path.starts_with("/v3beta/")
}

/// Answers a request.
pub(super) async fn serve<G, B>(
    grpc: G,
    pages: &dyn Pages,
    mut request: Request<Incoming>,
) -> Response<GatewayBody>
where
    G: Service<Request<CallBody>, Response = Response<B>, Error = Infallible> + Send + 'static,
    G::Future: Send,
    B: Body<Data = Bytes> + Unpin + Send + 'static,
    B::Error: Into<BoxError> + Send + Sync,
{
    let (service, method) = match permitted(&request, pages) {
        Ok(found) => found,
        Err(response) => {
            // Some clients take an answer before they have sent everything for a broken connection.
            let rest =
                http_body_util::Limited::new(request.into_body(), DRAINED_BYTES_MAX).collect();
            drop(tokio::time::timeout(DRAINING_MAX, rest).await);
            return *response;
        }
    };
    let upgrades = websocket::is_asked_for(request.headers());
    let method = messages::method(service, method);
    if upgrades {
        let upgrade = hyper::upgrade::on(&mut request);
        let (head, _) = request.into_parts();
        let call = Call::new(&head, method);
        return websocket::serve(grpc, pages, call, &head, upgrade).await;
    }
    let (head, body) = request.into_parts();
    let call = Call::new(&head, method);
    if call.method.is_client_streaming() {
        let (sender, frames) = mpsc::channel(MESSAGES_WAITING_MAX);
        let kind = call.method.input();
        tokio::spawn(translate_all(body, kind, sender));
        return call.answer(grpc, pages, stream_of(frames)).await;
    }
    let json = match http_body_util::Limited::new(body, JSON_BYTES_MAX)
        .collect()
        .await
    {
        Ok(json) => json.to_bytes(),
        Err(error) => {
            let status = Status::invalid_argument(error.to_string());
            return refused(&status, StatusCode::BAD_REQUEST);
        }
    };
    match messages::to_frame(&json, true, &call.method.input()) {
        Ok(frame) => {
            let (frame, _) = frame.expect("all of it is there");
            call.answer(
                grpc,
                pages,
                Full::new(frame)
                    .map_err(|never| match never {})
                    .boxed_unsync(),
            )
            .await
        }
        Err(text) => refused(&Status::invalid_argument(text), StatusCode::BAD_REQUEST),
    }
}

/// Service and method that a request is for, or the answer to one that is for none.
fn permitted(
    request: &Request<Incoming>,
    pages: &dyn Pages,
) -> Result<(&'static str, &'static str), Box<Response<GatewayBody>>> {
    if pages.is_auth_enabled() && has_common_name(request) {
        let text = "CommonName of client sending a request against gateway will be ignored and not \
                    used as expected";
        return Err(Box::new(plain(StatusCode::BAD_REQUEST, text)));
    }
    let path = request.uri().path().replacen("/v3beta/", "/v3/", 1);
    let found = paths::find(&path).ok_or_else(|| {
        let status = Status::not_found("Not Found");
        Box::new(refused(&status, StatusCode::NOT_FOUND))
    })?;
    if request.method() != Method::POST && !websocket::is_asked_for(request.headers()) {
        let status = Status::unimplemented("Method Not Allowed");
        return Err(Box::new(refused(&status, StatusCode::NOT_IMPLEMENTED)));
    }
    Ok(found)
}

/// Reads the first JSON value of a request of `service/method` as the gateway does: its gRPC frame and
/// how many bytes it took, or `None` if it is not complete.
///
/// # Errors
/// Why it is no such request.
pub fn gateway_frame(
    service: &str,
    method: &str,
    json: &[u8],
    is_all: bool,
) -> Result<Option<(Bytes, usize)>, String> {
    messages::to_frame(json, is_all, &messages::method(service, method).input())
}

/// A call on its way.
struct Call {
    method: MethodDescriptor,
    metadata: HeaderMap,
    timeout: Option<Duration>,
}

impl Call {
    fn new(head: &http::request::Parts, method: MethodDescriptor) -> Call {
        Call {
            method,
            metadata: metadata(&head.headers),
            timeout: head.headers.get("grpc-timeout").and_then(timeout),
        }
    }

    /// Calls the service; its answers frame by frame.
    async fn send<G, B>(
        &self,
        mut grpc: G,
        pages: &dyn Pages,
        body: UnsyncBoxBody<Bytes, BoxError>,
    ) -> Response<call::CallResponse<B>>
    where
        G: Service<Request<CallBody>, Response = Response<B>, Error = Infallible>,
        B: Body<Data = Bytes> + Unpin,
    {
        let path = format!(
            "/{}/{}",
            self.method.parent_service().full_name(),
            self.method.name()
        );
        let mut request = Request::new(Source::Gateway(body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = path.parse().expect("names make a path");
        *request.headers_mut() = self.metadata.clone();
        let content_type = HeaderValue::from_static("application/grpc");
        request.headers_mut().insert(CONTENT_TYPE, content_type);
        let (request, begun) = call::begin(request, pages);
        let Ok(()) = std::future::poll_fn(|context| grpc.poll_ready(context)).await;
        let Ok(response) = grpc.call(request).await;
        begun.answered(response)
    }

    async fn answer<G, B>(
        self,
        grpc: G,
        pages: &dyn Pages,
        body: UnsyncBoxBody<Bytes, BoxError>,
    ) -> Response<GatewayBody>
    where
        G: Service<Request<CallBody>, Response = Response<B>, Error = Infallible> + Send + 'static,
        G::Future: Send,
        B: Body<Data = Bytes> + Unpin + Send + 'static,
        B::Error: Into<BoxError> + Send + Sync,
    {
        let started = async {
            let mut answers = Answers::new(self.send(grpc, pages, body).await);
            let first = answers.next().await;
            (answers, first)
        };
        let (answers, first) = match self.timeout {
            None => started.await,
            Some(limit) => match tokio::time::timeout(limit, started).await {
                Ok(started) => started,
                Err(_) => {
                    let status = Status::deadline_exceeded("context deadline exceeded");
                    return refused(&status, StatusCode::GATEWAY_TIMEOUT);
                }
            },
        };
        let kind = self.method.output();
        let is_stream = self.method.is_server_streaming();
        let json = match first {
            Some(Ok(message)) => messages::to_json(message, &kind).map_err(Status::internal),
            Some(Err(status)) => Err(status),
            None if is_stream => Ok(Vec::new()),
            None => Err(Status::internal("the service said nothing")),
        };
        match json {
            Err(status) if is_stream => {
                let code = http_status(status.code());
                let line = [error_line(&status), b"\n".to_vec()].concat();
                answered(
                    code,
                    Full::new(Bytes::from(line))
                        .map_err(|never| match never {})
                        .boxed_unsync(),
                    Some(&status),
                )
            }
            Err(status) => refused(&status, http_status(status.code())),
            Ok(json) if is_stream => {
                let (sender, lines) = mpsc::channel(MESSAGES_WAITING_MAX);
                tokio::spawn(async move {
                    // The receiver is here; later ones may go with the client.
                    if !json.is_empty() && sender.send(result_line(&json)).await.is_ok() {
                        send_lines(answers, kind, sender).await;
                    }
                });
                answered(StatusCode::OK, stream_of(lines), None)
            }
            Ok(json) => answered(
                StatusCode::OK,
                Full::new(Bytes::from(json))
                    .map_err(|never| match never {})
                    .boxed_unsync(),
                None,
            ),
        }
    }
}

/// The messages of an answer, and how it ended if that was not well.
struct Answers<B> {
    body: call::CallResponse<B>,
    frames: Frames,
    /// What the header says of a call that was refused at once.
    refused: Option<Status>,
}

impl<B: Body<Data = Bytes> + Unpin> Answers<B>
where
    B::Error: Into<BoxError>,
{
    fn new(response: Response<call::CallResponse<B>>) -> Answers<B> {
        let (head, body) = response.into_parts();
        Answers {
            body,
            frames: Frames::default(),
            refused: bad_status(&head.headers),
        }
    }

    async fn next(&mut self) -> Option<Result<Bytes, Status>> {
        if let Some(status) = self.refused.take() {
            return Some(Err(status));
        }
        loop {
            if let Some(message) = self.frames.next() {
                return Some(Ok(message));
            }
            match self.body.frame().await? {
                Err(error) => {
                    let error: BoxError = error.into();
                    return Some(Err(Status::unknown(error.to_string())));
                }
                Ok(frame) => match frame.into_data() {
                    Ok(data) => self.frames.push(&data),
                    Err(frame) => {
                        let trailers = frame.into_trailers().ok()?;
                        return bad_status(&trailers).map(Err);
                    }
                },
            }
        }
    }
}

fn bad_status(headers: &HeaderMap) -> Option<Status> {
    Status::from_header_map(headers).filter(|status| status.code() != Code::Ok)
}

/// Sends all further messages as lines of a stream.
async fn send_lines<B: Body<Data = Bytes> + Unpin>(
    mut answers: Answers<B>,
    kind: prost_reflect::MessageDescriptor,
    lines: mpsc::Sender<Bytes>,
) where
    B::Error: Into<BoxError>,
{
    loop {
        let answer = tokio::select! {
            answer = answers.next() => answer,
            () = lines.closed() => return,
        };
        let json = match answer {
            None => return,
            Some(Ok(message)) => messages::to_json(message, &kind).map_err(Status::internal),
            Some(Err(status)) => Err(status),
        };
        let (line, done) = match json {
            Ok(json) => (result_line(&json), false),
            Err(status) => ([error_line(&status), b"\n".to_vec()].concat().into(), true),
        };
        if lines.send(line).await.is_err() || done {
            return;
        }
    }
}

fn result_line(json: &[u8]) -> Bytes {
    [&b"{\"result\":"[..], json, b"}\n"].concat().into()
}

fn error_line(status: &Status) -> Vec<u8> {
    [&b"{\"error\":"[..], &error_json(status), b"}"].concat()
}

fn error_json(status: &Status) -> Vec<u8> {
    let json = serde_json::json!({ "code": status.code() as i32, "message": status.message() });
    json.to_string().into_bytes()
}

/// Translates JSON values of a body as they come; the end of the body ends the messages.
async fn translate_all(
    mut body: Incoming,
    kind: prost_reflect::MessageDescriptor,
    frames: mpsc::Sender<Bytes>,
) {
    let mut json = BytesMut::new();
    loop {
        let is_all = match body.frame().await {
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref() {
                    json.extend_from_slice(data);
                }
                false
            }
            Some(Err(_)) => return,
            None => true,
        };
        while let Ok(Some((frame, taken))) =
            messages::to_frame(&json, is_all && !is_blank(&json), &kind)
        {
            let _ = json.split_to(taken);
            if frames.send(frame).await.is_err() {
                return;
            }
        }
        if is_all || json.len() > JSON_BYTES_MAX {
            return;
        }
    }
}

fn is_blank(json: &[u8]) -> bool {
    json.iter().all(u8::is_ascii_whitespace)
}

fn stream_of(pieces: mpsc::Receiver<Bytes>) -> UnsyncBoxBody<Bytes, BoxError> {
    let frames = ReceiverStream::new(pieces).map(|piece| Ok(Frame::data(piece)));
    BodyExt::boxed_unsync(StreamBody::new(frames))
}

fn answered(
    status: StatusCode,
    body: GatewayBody,
    refusal: Option<&Status>,
) -> Response<GatewayBody> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    let metadata = HeaderName::from_static("grpc-metadata-content-type");
    headers.insert(metadata, HeaderValue::from_static("application/grpc"));
    if let Some(status) = refusal
        && status.code() == Code::Unauthenticated
        && let Ok(text) = HeaderValue::from_str(status.message())
    {
        headers.insert(WWW_AUTHENTICATE, text);
    }
    response
}

fn refused(status: &Status, code: StatusCode) -> Response<GatewayBody> {
    let body = Full::new(Bytes::from(error_json(status)));
    answered(
        code,
        body.map_err(|never| match never {}).boxed_unsync(),
        Some(status),
    )
}

fn plain(code: StatusCode, text: &str) -> Response<GatewayBody> {
    let body = Full::new(Bytes::from(format!("{text}\n")));
    let mut response = Response::new(body.map_err(|never| match never {}).boxed_unsync());
    *response.status_mut() = code;
    let content_type = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response
}

fn has_common_name(request: &Request<Incoming>) -> bool {
    let certificate = request.extensions().get::<ClientCertificate>();
    certificate.is_some_and(|certificate| !certificate.common_name.is_empty())
}

/// What the service is told of the request's headers.
fn metadata(headers: &HeaderMap) -> HeaderMap {
    let mut metadata = HeaderMap::new();
    for (name, value) in headers {
        let name = name.as_str();
        if name == AUTHORIZATION {
            metadata.append(AUTHORIZATION, value.clone());
        }
        let told = match name.strip_prefix(METADATA_PREFIX) {
            Some(own) => own.to_owned(),
            None if STANDARD.contains(&name) => format!("grpcgateway-{name}"),
            None => continue,
        };
        // The call's own headers are not the client's to set.
        let is_own =
            ["te", "content-type", "grpc-timeout", "grpc-encoding"].contains(&told.as_str());
        if let Ok(told) = HeaderName::try_from(told)
            && !is_own
        {
            metadata.append(told, value.clone());
        }
    }
    if metadata.get(AUTHORIZATION).is_none()
        && let Some(token) = websocket::token(headers)
    {
        metadata.insert(AUTHORIZATION, token);
    }
    metadata
}

/// A time as gRPC writes it: digits and a unit.
fn timeout(value: &HeaderValue) -> Option<Duration> {
    let text = value.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let number: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(number.saturating_mul(3600))),
        "M" => Some(Duration::from_secs(number.saturating_mul(60))),
        "S" => Some(Duration::from_secs(number)),
        "m" => Some(Duration::from_millis(number)),
        "u" => Some(Duration::from_micros(number)),
        "n" => Some(Duration::from_nanos(number)),
        _ => None,
    }
}

/// gRPC's codes as HTTP's.
fn http_status(code: Code) -> StatusCode {
    match code {
        Code::Ok => StatusCode::OK,
        Code::InvalidArgument | Code::FailedPrecondition | Code::OutOfRange => {
            StatusCode::BAD_REQUEST
        }
        Code::Unauthenticated => StatusCode::UNAUTHORIZED,
        Code::PermissionDenied => StatusCode::FORBIDDEN,
        Code::NotFound => StatusCode::NOT_FOUND,
        Code::AlreadyExists | Code::Aborted => StatusCode::CONFLICT,
        Code::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
        // Not in the registry, but what everybody calls "client closed request".
        Code::Cancelled => StatusCode::from_u16(499).expect("a valid code"),
        Code::Unknown | Code::Internal | Code::DataLoss => StatusCode::INTERNAL_SERVER_ERROR,
        Code::Unimplemented => StatusCode::NOT_IMPLEMENTED,
        Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        Code::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// [HT-9]
    #[test]
    fn headers_reach_the_service_under_its_names() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("authorization", "Bearer t"),
            ("grpc-metadata-hasleader", "true"),
            ("grpc-metadata-te", "x"),
            ("accept", "*/*"),
            ("x-other", "1"),
        ] {
            headers.insert(name, HeaderValue::from_static(value));
        }
        let told = metadata(&headers);
        assert_eq!(told.get("authorization").expect("told"), "Bearer t");
        assert_eq!(told.get("hasleader").expect("told"), "true");
        assert_eq!(told.get("grpcgateway-accept").expect("told"), "*/*");
        assert_eq!(told.len(), 3);
        let of = |text| timeout(&HeaderValue::from_static(text));
        assert_eq!(of("5S"), Some(Duration::from_secs(5)));
        assert_eq!(of("10m"), Some(Duration::from_millis(10)));
        assert_eq!((of(""), of("S"), of("5")), (None, None, None));
    }
}
