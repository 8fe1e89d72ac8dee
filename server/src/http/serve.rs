//! Accepts connections and hands each request to gRPC or to the pages.

use std::convert::Infallible;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST, ORIGIN};
use http::{HeaderMap, HeaderValue, Method, Request, Response};
use http_body_util::Full;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tower_service::Service;

use super::BoxError;
use super::call::{self, CallBody, CallResponse, Source};
use super::connections::ConnectionSlots;
use super::gateway::{self, GatewayBody};
use super::pages::{self, Audience, Pages};
use super::tls::Tls;

/// What a client may send on one stream before we read it: a large value in one flight.
const STREAM_WINDOW_BYTES: u32 = 4 << 20;
/// What a client may send on all streams of a connection before we read it.
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;
/// Answers that wait in memory for a slow client, per stream.
const SEND_BUFFER_BYTES: usize = 1 << 20;
/// Calls at once on one connection, whatever is set: each costs a task and its buffers.
const CONCURRENT_STREAMS_MAX: u32 = 65_536;
/// Headers of one request: tokens are the largest.
const HEADER_BYTES_MAX: u32 = 64 << 10;
/// How long a client may take to say anything at all, and over its HTTP/1 headers.
const FIRST_BYTES_TIMEOUT: Duration = Duration::from_secs(30);
/// Calls that run when the server stops have this long to end; streams never end by themselves.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(3);
/// A listener that cannot accept, usually for want of files, tries again after this.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// Where and how to listen.
pub struct Listening {
    /// The socket.
    pub listener: TcpListener,
    /// TLS, unless it is plain.
    pub tls: Option<Arc<Tls>>,
    /// Connections that may still be taken.
    pub slots: ConnectionSlots,
    /// What connections may do.
    pub limits: ConnectionLimits,
}

/// What a connection may do, as the operator has set it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnectionLimits {
    /// Calls at once.
    pub streams: u32,
    /// After so much silence a client is asked for life; zero for never.
    pub keepalive_interval: Duration,
    /// How long it may take to answer.
    pub keepalive_timeout: Duration,
}

/// What a listener serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Serves {
    /// Calls, pages and the gateway.
    All,
    /// gRPC's calls only.
    Calls,
    /// Pages and the gateway only.
    Pages,
}

/// What requests of browsers and scripts must fulfil.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// What is served.
    pub serves: Serves,
    /// Origins whose pages may read answers; `*` is any.
    pub origins: Vec<String>,
    /// Host names by which a plain listener may be called; `*` is any.
    pub hosts: Vec<String>,
    /// Whether there is a JSON gateway.
    pub gateway: bool,
}

/// Serves clients until `shutdown` ends and the calls that run then are done, or three seconds
/// later. Requests of type `application/grpc` go to `grpc`, all others to the gateway or to `pages`.
pub async fn serve<G, B>(
    listening: Listening,
    grpc: G,
    pages: Arc<dyn Pages>,
    policy: Policy,
    shutdown: impl Future<Output = ()>,
) where
    G: Service<Request<CallBody>, Response = Response<B>, Error = Infallible>
        + Clone
        + Send
        + 'static,
    G::Future: Send,
    B: Body<Data = Bytes> + Unpin + Send + 'static,
    B::Error: Into<BoxError> + Send + Sync,
{
    let policy = Arc::new(policy);
    let is_plain = listening.tls.is_none();
    accept_all(listening, shutdown, move |request| {
        let (grpc, pages, policy) = (grpc.clone(), pages.clone(), policy.clone());
        client_request(grpc, pages, policy, is_plain, request)
    })
    .await;
}

/// Serves metrics and health, and nothing else, until `shutdown` ends.
pub async fn serve_metrics(
    listening: Listening,
    pages: Arc<dyn Pages>,
    shutdown: impl Future<Output = ()>,
) {
    accept_all(listening, shutdown, move |request| {
        let pages = pages.clone();
        async move { page::<Full<Bytes>>(&*pages, Audience::Monitoring, &request).await }
    })
    .await;
}

async fn client_request<G, B>(
    mut grpc: G,
    pages: Arc<dyn Pages>,
    policy: Arc<Policy>,
    is_plain: bool,
    request: Request<Incoming>,
) -> Response<Answer<B>>
where
    G: Service<Request<CallBody>, Response = Response<B>, Error = Infallible> + Send + 'static,
    G::Future: Send,
    B: Body<Data = Bytes> + Unpin + Send + 'static,
    B::Error: Into<BoxError> + Send + Sync,
{
    if policy.serves == Serves::Pages || !is_grpc(request.headers()) {
        return browser_request(grpc, &*pages, &policy, is_plain, request).await;
    }
    let (request, begun) = call::begin(request.map(Source::Client), &*pages);
    let Ok(()) = std::future::poll_fn(|context| grpc.poll_ready(context)).await;
    let Ok(response) = grpc.call(request).await;
    begun.answered(response).map(Answer::Call)
}

/// Whatever is no call of gRPC.
async fn browser_request<G, B>(
    grpc: G,
    pages: &dyn Pages,
    policy: &Policy,
    is_plain: bool,
    request: Request<Incoming>,
) -> Response<Answer<B>>
where
    G: Service<Request<CallBody>, Response = Response<B>, Error = Infallible> + Send + 'static,
    G::Future: Send,
    B: Body<Data = Bytes> + Unpin + Send + 'static,
    B::Error: Into<BoxError> + Send + Sync,
{
    if policy.serves == Serves::Calls {
        return pages::not_found().map(|body| Answer::Page(Full::new(body)));
    }
    if is_plain && !policy.allows_host(&request) {
        let host = host_of(&request).unwrap_or_default();
        return pages::misdirected(&host).map(|body| Answer::Page(Full::new(body)));
    }
    let origin = policy.allowed_origin(request.headers());
    let mut response = if request.method() == Method::OPTIONS {
        Response::new(Answer::Page(Full::default()))
    } else if policy.gateway && gateway::is_ours(request.uri().path()) {
        gateway::serve(grpc, pages, request)
            .await
            .map(Answer::Gateway)
    } else {
        page(pages, Audience::Clients, &request).await
    };
    if let Some(origin) = origin {
        pages::allow_origin(response.headers_mut(), origin);
    }
    response
}

impl Policy {
    fn allows_host(&self, request: &Request<Incoming>) -> bool {
        let is_listed = |host: &str| self.hosts.iter().any(|allowed| allowed == host);
        is_listed("*") || host_of(request).is_some_and(|host| is_listed(&host))
    }

    /// What to tell a browser about the origin of the page that asks.
    fn allowed_origin(&self, headers: &HeaderMap) -> Option<HeaderValue> {
        if self.origins.iter().any(|origin| origin == "*") {
            return Some(HeaderValue::from_static("*"));
        }
        let origin = headers.get(ORIGIN)?;
        let is_listed = self
            .origins
            .iter()
            .any(|allowed| allowed.as_bytes() == origin.as_bytes());
        is_listed.then(|| origin.clone())
    }
}

/// The name by which the server was called, without the port.
fn host_of(request: &Request<Incoming>) -> Option<String> {
    let header = request
        .headers()
        .get(HOST)
        .and_then(|host| host.to_str().ok());
    let authority = request.uri().authority().map(http::uri::Authority::as_str);
    let host = header.or(authority)?;
    let parsed: http::uri::Authority = host.parse().ok()?;
    Some(parsed.host().trim_matches(['[', ']']).to_owned())
}

fn is_grpc(headers: &HeaderMap) -> bool {
    headers
        .get(CONTENT_TYPE)
        .is_some_and(|content_type| content_type.as_bytes().starts_with(b"application/grpc"))
}

async fn page<B>(
    pages: &dyn Pages,
    audience: Audience,
    request: &Request<Incoming>,
) -> Response<Answer<B>> {
    let page = pages::answer(pages, audience, request.method(), request.uri()).await;
    page.map(|body| Answer::Page(Full::new(body)))
}

/// Accepts connections, each served by a task of its own, until `shutdown` ends; then waits for
/// the tasks, and ends those that take too long.
pub(crate) async fn accept_all<H, R, B>(
    listening: Listening,
    shutdown: impl Future<Output = ()>,
    handle: H,
) where
    H: Fn(Request<Incoming>) -> R + Clone + Send + 'static,
    R: Future<Output = Response<B>> + Send + 'static,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let Listening {
        listener,
        tls,
        slots,
        limits,
    } = listening;
    let (stop, stopped) = watch::channel(false);
    let mut tasks = JoinSet::new();
    let mut shutdown = pin!(shutdown);
    loop {
        while tasks.try_join_next().is_some() {}
        let next = async {
            let slot = slots.take().await;
            (slot, listener.accept().await)
        };
        tokio::select! {
            () = &mut shutdown => break,
            (slot, accepted) = next => match accepted {
                Ok((stream, _)) => {
                    let served =
                        serve_socket(stream, tls.clone(), limits, stopped.clone(), handle.clone());
                    tasks.spawn(async move {
                        served.await;
                        drop(slot);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection; trying again");
                    tokio::time::sleep(ACCEPT_RETRY).await;
                }
            }
        }
    }
    drop(listener);
    let _ = stop.send(true);
    let drained = timeout(DRAIN_TIMEOUT, async {
        while tasks.join_next().await.is_some() {}
    });
    if drained.await.is_err() {
        tracing::info!(
            connections = tasks.len(),
            "ending connections that did not end in time"
        );
        tasks.shutdown().await;
    }
}

/// Serves one connection, through TLS if that is set.
async fn serve_socket<H, R, B>(
    stream: TcpStream,
    tls: Option<Arc<Tls>>,
    limits: ConnectionLimits,
    mut stop: watch::Receiver<bool>,
    handle: H,
) where
    H: Fn(Request<Incoming>) -> R,
    R: Future<Output = Response<B>> + Send + 'static,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "cannot turn off delays of a connection");
    }
    tokio::select! {
        spoke = timeout(FIRST_BYTES_TIMEOUT, stream.readable()) => if spoke.is_err() { return },
        () = stopped(&mut stop) => return,
    }
    let Some(tls) = tls else {
        return serve_connection(stream, limits, stop, handle).await;
    };
    let stream = tokio::select! {
        shaken = timeout(FIRST_BYTES_TIMEOUT, tls.acceptor().accept(stream)) => match shaken {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => {
                tracing::warn!(%error, "rejected connection");
                return;
            }
            Err(_) => return,
        },
        () = stopped(&mut stop) => return,
    };
    let client = match tls.client(stream.get_ref().1.peer_certificates()) {
        Ok(client) => client,
        Err(error) => {
            tracing::warn!(error, "rejected connection");
            return;
        }
    };
    serve_connection(
        stream,
        limits,
        stop,
        move |mut request: Request<Incoming>| {
            if let Some(client) = &client {
                request.extensions_mut().insert(client.clone());
            }
            handle(request)
        },
    )
    .await;
}

/// Serves the requests of one connection, HTTP/1 or HTTP/2 as its first bytes say.
async fn serve_connection<S, H, R, B>(
    stream: S,
    limits: ConnectionLimits,
    mut stop: watch::Receiver<bool>,
    handle: H,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    H: Fn(Request<Incoming>) -> R,
    R: Future<Output = Response<B>> + Send + 'static,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let service = service_fn(move |request| {
        let response = handle(request);
        async move { Ok::<_, Infallible>(response.await) }
    });
    let builder = builder(limits);
    let mut connection =
        pin!(builder.serve_connection_with_upgrades(TokioIo::new(stream), service));
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stopped(&mut stop) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended badly");
    }
}

/// Waits until the listener stops.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    // An error means that the listener is gone, which is a stop too.
    let _ = stop.wait_for(|stop| *stop).await;
}

fn builder(limits: ConnectionLimits) -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(FIRST_BYTES_TIMEOUT)
        .max_buf_size(HEADER_BYTES_MAX as usize);
    builder
        .http2()
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_send_buf_size(SEND_BUFFER_BYTES)
        .max_concurrent_streams(limits.streams.min(CONCURRENT_STREAMS_MAX))
        .max_header_list_size(HEADER_BYTES_MAX)
        .keep_alive_interval(
            (!limits.keepalive_interval.is_zero()).then_some(limits.keepalive_interval),
        )
        .keep_alive_timeout(limits.keepalive_timeout);
    builder
}

/// The body of an answer.
enum Answer<B> {
    Call(CallResponse<B>),
    Gateway(GatewayBody),
    Page(Full<Bytes>),
}

impl<B> Body for Answer<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self.get_mut() {
            Answer::Call(body) => Pin::new(body).poll_frame(context).map_err(Into::into),
            Answer::Gateway(body) => Pin::new(body).poll_frame(context),
            Answer::Page(body) => Pin::new(body)
                .poll_frame(context)
                .map_err(|never| match never {}),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Answer::Call(body) => body.is_end_stream(),
            Answer::Gateway(body) => body.is_end_stream(),
            Answer::Page(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Answer::Call(body) => body.size_hint(),
            Answer::Gateway(body) => body.size_hint(),
            Answer::Page(body) => body.size_hint(),
        }
    }
}
