//! Accepts connections and hands each request to gRPC or to the pages.

use std::convert::Infallible;
use std::error::Error;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, Request, Response};
use http_body_util::Full;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tower_service::Service;

use super::call::{self, CallBody, CallResponse};
use super::connections::ConnectionSlots;
use super::pages::{self, Audience, Pages};

/// What a client may send on one stream before we read it: a large value in one flight.
const STREAM_WINDOW_BYTES: u32 = 4 << 20;
/// What a client may send on all streams of a connection before we read it.
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;
/// Answers that wait in memory for a slow client, per stream.
const SEND_BUFFER_BYTES: usize = 1 << 20;
/// Calls at once on one connection. etcd allows 4294967295; each costs a task and its buffers.
const CONCURRENT_STREAMS_MAX: u32 = 65_536;
/// Headers of one request: tokens are the largest.
const HEADER_BYTES_MAX: u32 = 64 << 10;
/// How long a client may take to say anything at all, and over its HTTP/1 headers.
const FIRST_BYTES_TIMEOUT: Duration = Duration::from_secs(30);
/// etcd's default of --grpc-keepalive-interval: silent connections are asked for life.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(2 * 60 * 60);
/// etcd's default of --grpc-keepalive-timeout.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(20);
/// Calls that run when the server stops have this long to end; streams never end by themselves.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(3);
/// A listener that cannot accept, usually for want of files, tries again after this.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

type BoxError = Box<dyn Error + Send + Sync>;

/// Serves clients until `shutdown` ends and the calls that run then are done, or three seconds
/// later. Requests of type `application/grpc` go to `grpc`, all others to `pages`.
pub async fn serve<G, B>(
    listener: TcpListener,
    grpc: G,
    pages: Arc<dyn Pages>,
    slots: ConnectionSlots,
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
    accept_all(listener, slots, shutdown, move |stream, stop| {
        let (grpc, pages) = (grpc.clone(), pages.clone());
        serve_connection(stream, stop, move |request| {
            client_request(grpc.clone(), pages.clone(), request)
        })
    })
    .await;
}

/// Serves metrics and health, and nothing else, until `shutdown` ends.
pub async fn serve_metrics(
    listener: TcpListener,
    pages: Arc<dyn Pages>,
    slots: ConnectionSlots,
    shutdown: impl Future<Output = ()>,
) {
    accept_all(listener, slots, shutdown, move |stream, stop| {
        let pages = pages.clone();
        serve_connection(stream, stop, move |request| {
            let pages = pages.clone();
            async move { page::<Full<Bytes>>(&*pages, Audience::Monitoring, &request).await }
        })
    })
    .await;
}

async fn client_request<G, B>(
    mut grpc: G,
    pages: Arc<dyn Pages>,
    request: Request<Incoming>,
) -> Response<Answer<B>>
where
    G: Service<Request<CallBody>, Response = Response<B>, Error = Infallible>,
    B: Body<Data = Bytes> + Unpin,
{
    if !is_grpc(request.headers()) {
        return page(&*pages, Audience::Clients, &request).await;
    }
    let (request, begun) = call::begin(request, &*pages);
    let Ok(()) = std::future::poll_fn(|context| grpc.poll_ready(context)).await;
    let Ok(response) = grpc.call(request).await;
    begun.answered(response).map(Answer::Call)
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
async fn accept_all<F, C>(
    listener: TcpListener,
    slots: ConnectionSlots,
    shutdown: impl Future<Output = ()>,
    connection: F,
) where
    F: Fn(TcpStream, watch::Receiver<bool>) -> C,
    C: Future<Output = ()> + Send + 'static,
{
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
                    let served = connection(stream, stopped.clone());
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

/// Serves the requests of one connection, HTTP/1 or HTTP/2 as its first bytes say.
async fn serve_connection<H, R, B>(stream: TcpStream, mut stop: watch::Receiver<bool>, handle: H)
where
    H: Fn(Request<Incoming>) -> R,
    R: Future<Output = Response<Answer<B>>> + Send + 'static,
    B: Body<Data = Bytes> + Unpin + Send + 'static,
    B::Error: Into<BoxError> + Send + Sync,
{
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "cannot turn off delays of a connection");
    }
    tokio::select! {
        spoke = timeout(FIRST_BYTES_TIMEOUT, stream.readable()) => if spoke.is_err() { return },
        () = stopped(&mut stop) => return,
    }
    let service = service_fn(move |request| {
        let response = handle(request);
        async move { Ok::<_, Infallible>(response.await) }
    });
    let builder = builder();
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
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

fn builder() -> Builder<TokioExecutor> {
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
        .max_concurrent_streams(CONCURRENT_STREAMS_MAX)
        .max_header_list_size(HEADER_BYTES_MAX)
        .keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT);
    builder
}

/// The body of an answer.
enum Answer<B> {
    Call(CallResponse<B>),
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
            Answer::Page(body) => Pin::new(body)
                .poll_frame(context)
                .map_err(|never| match never {}),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Answer::Call(body) => body.is_end_stream(),
            Answer::Page(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Answer::Call(body) => body.size_hint(),
            Answer::Page(body) => body.size_hint(),
        }
    }
}
