//! The listeners as clients see them, over real connections.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use proto::grpc::health::v1::health_client::HealthClient;
use proto::grpc::health::v1::health_server::{Health, HealthServer};
use proto::grpc::health::v1::{
    HealthCheckRequest, HealthCheckResponse, HealthListRequest, HealthListResponse,
    health_check_response::ServingStatus,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinHandle;
use tokio_stream::Stream;

use super::*;
use crate::metrics::Metrics;

/// Nothing here takes long; a test that waits this long for something has failed.
const DEADLINE: Duration = Duration::from_secs(20);

/// A member whose state the test sets.
#[derive(Default)]
struct Member {
    metrics: Metrics,
    leaderless: AtomicBool,
    learner: AtomicBool,
    no_space: AtomicBool,
    corrupt: AtomicBool,
    unreadable: AtomicBool,
    no_quorum: AtomicBool,
    unversioned: AtomicBool,
}

impl Pages for Member {
    fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    fn refresh_metrics(&self) {
        self.metrics
            .server
            .has_leader
            .set(i64::from(self.has_leader()));
    }

    fn has_leader(&self) -> bool {
        !self.leaderless.load(Ordering::Relaxed)
    }

    fn call_limits(&self) -> CallLimits {
        CallLimits {
            message_bytes: 4 << 20,
            slow: Duration::from_millis(300),
        }
    }

    fn is_auth_enabled(&self) -> bool {
        false
    }

    fn variables(&self) -> String {
        "{}".to_owned()
    }

    fn is_learner(&self) -> bool {
        self.learner.load(Ordering::Relaxed)
    }

    fn alarms(&self) -> Alarms {
        Alarms {
            no_space: self.no_space.load(Ordering::Relaxed),
            corrupt: self.corrupt.load(Ordering::Relaxed),
        }
    }

    fn serializable_read(&self) -> Check<'_> {
        let broken = self.unreadable.load(Ordering::Relaxed);
        Box::pin(async move {
            if broken {
                Err("disk \"gone\"".to_owned())
            } else {
                Ok(())
            }
        })
    }

    fn linearizable_read(&self) -> Check<'_> {
        let broken = self.no_quorum.load(Ordering::Relaxed);
        Box::pin(async move {
            tokio::task::yield_now().await;
            if broken {
                Err("etcdserver: request timed out".to_owned())
            } else {
                Ok(())
            }
        })
    }

    fn versions(&self) -> Versions {
        if self.unversioned.load(Ordering::Relaxed) {
            return Versions::default();
        }
        Versions {
            cluster: Some("3.6.0".into()),
            storage: Some("3.6.0".into()),
        }
    }
}

/// A health service that knows one name, and one call that does not end by itself.
#[derive(Default)]
struct Echo {
    entered: Arc<Notify>,
}

type Answers = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, tonic::Status>> + Send>>;

#[tonic::async_trait]
impl Health for Echo {
    async fn check(
        &self,
        request: tonic::Request<HealthCheckRequest>,
    ) -> Result<tonic::Response<HealthCheckResponse>, tonic::Status> {
        match request.into_inner().service.as_str() {
            "" => Ok(tonic::Response::new(serving())),
            "stuck" => {
                self.entered.notify_one();
                std::future::pending().await
            }
            _ => Err(tonic::Status::not_found("unknown service")),
        }
    }

    async fn list(
        &self,
        _: tonic::Request<HealthListRequest>,
    ) -> Result<tonic::Response<HealthListResponse>, tonic::Status> {
        Ok(tonic::Response::new(HealthListResponse::default()))
    }

    type WatchStream = Answers;

    async fn watch(
        &self,
        _: tonic::Request<HealthCheckRequest>,
    ) -> Result<tonic::Response<Answers>, tonic::Status> {
        let answers = tokio_stream::iter([Ok(serving()), Ok(serving()), Ok(serving())]);
        Ok(tonic::Response::new(Box::pin(answers)))
    }
}

fn serving() -> HealthCheckResponse {
    HealthCheckResponse {
        status: ServingStatus::Serving as i32,
    }
}

/// A running listener. Dropping `stop` stops it too.
struct Running {
    address: SocketAddr,
    member: Arc<Member>,
    entered: Arc<Notify>,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

fn listening(listener: TcpListener, slots: usize) -> Listening {
    Listening {
        listener,
        tls: None,
        slots: ConnectionSlots::new(slots),
        limits: ConnectionLimits {
            streams: 1000,
            keepalive_interval: Duration::ZERO,
            keepalive_timeout: Duration::from_secs(20),
        },
    }
}

fn everything() -> Policy {
    Policy {
        serves: Serves::All,
        origins: vec!["*".to_owned()],
        hosts: vec!["*".to_owned()],
        gateway: false,
    }
}

async fn clients(slots: usize) -> Running {
    let echo = Echo::default();
    let entered = echo.entered.clone();
    let service = HealthServer::new(echo);
    start(entered, |listener, member, shutdown| {
        tokio::spawn(serve(
            listening(listener, slots),
            service,
            member,
            everything(),
            shutdown,
        ))
    })
    .await
}

async fn monitoring() -> Running {
    start(Arc::default(), |listener, member, shutdown| {
        tokio::spawn(serve_metrics(listening(listener, 8), member, shutdown))
    })
    .await
}

async fn start(
    entered: Arc<Notify>,
    serve: impl FnOnce(
        TcpListener,
        Arc<Member>,
        Pin<Box<dyn Future<Output = ()> + Send>>,
    ) -> JoinHandle<()>,
) -> Running {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let address = listener.local_addr().expect("address");
    let member = Arc::new(Member::default());
    let (stop, stopped) = oneshot::channel::<()>();
    let shutdown = Box::pin(async move {
        let _ = stopped.await;
    });
    let task = serve(listener, member.clone(), shutdown);
    Running {
        address,
        member,
        entered,
        stop,
        task,
    }
}

impl Running {
    async fn request(&self, method: Method, path: &str) -> Response<Bytes> {
        within(async {
            let stream = TcpStream::connect(self.address).await.expect("connect");
            let (mut sender, connection) =
                hyper::client::conn::http1::handshake(TokioIo::new(stream))
                    .await
                    .expect("hello");
            tokio::spawn(connection);
            let request = Request::builder()
                .method(method)
                .uri(path)
                .header("host", "holdfast.test")
                .body(Empty::<Bytes>::new())
                .expect("a request");
            let (parts, body) = sender
                .send_request(request)
                .await
                .expect("an answer")
                .into_parts();
            Response::from_parts(parts, body.collect().await.expect("a body").to_bytes())
        })
        .await
    }

    /// Status and body of a GET.
    async fn get(&self, path: &str) -> (u16, String) {
        let response = self.request(Method::GET, path).await;
        let body = String::from_utf8(response.body().to_vec()).expect("UTF-8");
        (response.status().as_u16(), body)
    }

    async fn health_client(&self) -> HealthClient<Http2> {
        let origin = format!("http://{}", self.address).parse().expect("URL");
        HealthClient::with_origin(Http2::connect(self.address).await, origin)
    }

    async fn stop(self) {
        let _ = self.stop.send(());
        within(self.task).await.expect("the listener ends");
    }
}

async fn within<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(DEADLINE, future)
        .await
        .expect("within the deadline")
}

/// One HTTP/2 connection as a tower service.
#[derive(Clone)]
struct Http2(hyper::client::conn::http2::SendRequest<tonic::body::Body>);

impl Http2 {
    async fn connect(address: SocketAddr) -> Http2 {
        let stream = TcpStream::connect(address).await.expect("connect");
        let (sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
                .await
                .expect("hello");
        tokio::spawn(connection);
        Http2(sender)
    }
}

impl tower_service::Service<Request<tonic::body::Body>> for Http2 {
    type Response = Response<hyper::body::Incoming>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, hyper::Error>> + Send>>;

    fn poll_ready(
        &mut self,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Result<(), hyper::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: Request<tonic::body::Body>) -> Self::Future {
        Box::pin(self.0.send_request(request))
    }
}

fn ask(service: &str) -> HealthCheckRequest {
    HealthCheckRequest {
        service: service.into(),
    }
}

fn set(state: &AtomicBool) {
    state.store(true, Ordering::Relaxed);
}

#[tokio::test]
async fn the_version_is_told_without_a_line_break() {
    let server = clients(8).await;
    let response = server.request(Method::GET, "/version").await;
    assert_eq!(response.headers()["content-type"], "application/json");
    assert_eq!(
        response.body(),
        "{\"etcdserver\":\"3.6.12\",\"etcdcluster\":\"3.6.0\",\"storage\":\"3.6.0\"}"
    );
    set(&server.member.unversioned);
    let (_, body) = server.get("/version").await;
    assert!(
        body.contains("\"etcdcluster\":\"not_decided\",\"storage\":\"unknown\""),
        "{body}"
    );
    server.stop().await;
}

#[tokio::test]
async fn health_tells_the_first_reason() {
    let server = clients(8).await;
    let healthy = (200, "{\"health\":\"true\",\"reason\":\"\"}".to_owned());
    let unhealthy = |reason: &str| {
        (
            503,
            format!("{{\"health\":\"false\",\"reason\":\"{reason}\"}}\n"),
        )
    };
    assert_eq!(server.get("/health").await, healthy);

    set(&server.member.no_quorum);
    assert_eq!(
        server.get("/health").await,
        unhealthy("RANGE ERROR:etcdserver: request timed out")
    );
    assert_eq!(server.get("/health?serializable=true").await, healthy);

    set(&server.member.unreadable);
    assert_eq!(
        server.get("/health?serializable=true").await,
        unhealthy("RANGE ERROR:disk \\\"gone\\\"")
    );

    set(&server.member.leaderless);
    assert_eq!(server.get("/health").await, unhealthy("RAFT NO LEADER"));

    set(&server.member.corrupt);
    assert_eq!(server.get("/health").await, unhealthy("ALARM CORRUPT"));
    set(&server.member.no_space);
    assert_eq!(server.get("/health").await, unhealthy("ALARM NOSPACE"));
    assert_eq!(
        server.get("/health?exclude=NOSPACE").await,
        unhealthy("ALARM CORRUPT")
    );
    let both = "/health?exclude=NOSPACE&exclude=CORRUPT";
    assert_eq!(server.get(both).await, unhealthy("RAFT NO LEADER"));

    let response = server.request(Method::GET, "/health").await;
    assert_eq!(
        response.headers()["content-type"],
        "text/plain; charset=utf-8"
    );
    assert_eq!(response.headers()["x-content-type-options"], "nosniff");
    let counts = &server.member.metrics.server;
    assert_eq!(
        (counts.health_success.get(), counts.health_failures.get()),
        (2, 8)
    );
    server.stop().await;
}

#[tokio::test]
async fn livez_and_readyz_run_their_checks() {
    let server = clients(8).await;
    let ok = (200, "ok\n".to_owned());
    assert_eq!(server.get("/livez").await, ok);
    assert_eq!(server.get("/readyz").await, ok);
    assert_eq!(
        server.get("/livez?verbose").await,
        (200, "[+]serializable_read ok\nok\n".into())
    );
    assert_eq!(
        server
            .get("/readyz?verbose=1&exclude=non_learner&exclude=nonsense")
            .await
            .1,
        "[+]data_corruption ok\n[+]serializable_read ok\n[+]linearizable_read ok\nok\n"
    );
    assert_eq!(
        server.get("/readyz/linearizable_read?verbose").await.1,
        "[+]linearizable_read ok\nok\n"
    );
    assert_eq!(server.get("/livez/linearizable_read").await.0, 404);
    assert_eq!(server.get("/readyz/").await.0, 404);

    set(&server.member.no_space);
    assert_eq!(server.get("/readyz").await, ok);
    for state in [
        &server.member.corrupt,
        &server.member.no_quorum,
        &server.member.learner,
    ] {
        set(state);
    }
    assert_eq!(server.get("/livez").await, ok);
    assert_eq!(
        server.get("/readyz").await,
        (
            503,
            "[-]data_corruption failed: alarm activated: CORRUPT\n\
             [+]serializable_read ok\n\
             [-]linearizable_read failed: etcdserver: request timed out\n\
             [-]non_learner failed: not supported for learner\n\n"
                .to_owned()
        )
    );
    assert_eq!(
        server
            .get("/readyz?exclude=data_corruption&exclude=linearizable_read&exclude=non_learner")
            .await,
        ok
    );
    // A path of one check runs it, whatever is excluded.
    assert_eq!(
        server
            .get("/readyz/data_corruption?exclude=data_corruption")
            .await
            .0,
        503
    );
    server.stop().await;
}

#[tokio::test]
async fn metrics_are_text_and_fresh() {
    let server = clients(8).await;
    server.get("/readyz").await;
    let response = server.request(Method::POST, "/metrics").await;
    assert_eq!(
        response.headers()["content-type"],
        "text/plain; version=0.0.4; charset=utf-8"
    );
    let text = String::from_utf8(response.body().to_vec()).expect("UTF-8");
    for line in [
        "etcd_server_has_leader 1",
        "etcd_server_healthcheck{type=\"readyz\",name=\"data_corruption\"} 1",
    ] {
        assert!(
            text.lines().any(|other| other == line),
            "{line} in:\n{text}"
        );
    }
    server.stop().await;
}

#[tokio::test]
async fn other_paths_and_methods_are_refused_as_go_does() {
    let server = clients(8).await;
    for path in ["/", "/nothing", "/health/", "/v3/kv/range", "/metrics/x"] {
        assert_eq!(
            server.get(path).await,
            (404, "404 page not found\n".into()),
            "{path}"
        );
    }
    for path in ["/health", "/version", "/livez", "/readyz/non_learner"] {
        let response = server.request(Method::POST, path).await;
        assert_eq!(response.status(), StatusCode::METHOD_NOT_ALLOWED, "{path}");
        assert_eq!(response.headers()["allow"], "GET");
        assert_eq!(response.body(), "Method Not Allowed\n");
    }
    assert_eq!(server.request(Method::HEAD, "/health").await.status(), 405);
    server.stop().await;
}

#[tokio::test]
async fn browsers_of_other_origins_may_ask_a_client_listener() {
    let server = clients(8).await;
    let response = server.request(Method::OPTIONS, "/any/path").await;
    assert_eq!(
        (response.status(), response.body()),
        (StatusCode::OK, &Bytes::new())
    );
    for path in ["/health", "/nothing"] {
        let response = server.request(Method::GET, path).await;
        assert_eq!(response.headers()["access-control-allow-origin"], "*");
        assert_eq!(
            response.headers()["access-control-allow-methods"],
            "POST, GET, OPTIONS, PUT, DELETE"
        );
    }
    server.stop().await;
}

/// [HT-18]
#[tokio::test]
async fn a_metrics_listener_serves_metrics_and_health_only() {
    let server = monitoring().await;
    for path in [
        "/metrics",
        "/health",
        "/livez",
        "/readyz",
        "/readyz/non_learner",
    ] {
        assert_eq!(server.get(path).await.0, 200, "{path}");
    }
    assert_eq!(server.get("/version").await.0, 404);
    assert_eq!(
        server.request(Method::OPTIONS, "/health").await.status(),
        405
    );
    let response = server.request(Method::GET, "/health").await;
    assert!(
        !response
            .headers()
            .contains_key("access-control-allow-origin")
    );
    server.stop().await;
}

#[tokio::test]
async fn one_port_takes_grpc_and_pages_over_http_2() {
    let server = clients(8).await;
    let mut client = server.health_client().await;
    let answer = within(client.check(ask(""))).await.expect("serving");
    assert_eq!(answer.into_inner(), serving());
    let status = within(client.check(ask("other")))
        .await
        .expect_err("unknown");
    assert_eq!(
        (status.code(), status.message()),
        (tonic::Code::NotFound, "unknown service")
    );

    let Http2(mut sender) = Http2::connect(server.address).await;
    let request = Request::get(format!("http://{}/version", server.address))
        .body(tonic::body::Body::empty())
        .expect("a request");
    let response = within(sender.send_request(request))
        .await
        .expect("an answer");
    assert_eq!(response.headers()["content-type"], "application/json");
    server.stop().await;
}

#[tokio::test]
async fn calls_are_counted_by_method_code_message_and_byte() {
    let server = clients(8).await;
    let mut client = server.health_client().await;
    within(client.check(ask(""))).await.expect("serving");
    within(client.check(ask("other")))
        .await
        .expect_err("unknown");
    let mut stream = within(client.watch(ask("")))
        .await
        .expect("a stream")
        .into_inner();
    while within(stream.message()).await.expect("a message").is_some() {}
    drop(stream);
    let check = "grpc_type=\"unary\",grpc_service=\"grpc.health.v1.Health\",grpc_method=\"Check\"";
    let watch =
        "grpc_type=\"server_stream\",grpc_service=\"grpc.health.v1.Health\",grpc_method=\"Watch\"";
    // `status: SERVING` takes two bytes, `service: "other"` seven.
    wait_for_lines(
        &server,
        &[
            format!("grpc_server_started_total{{{check}}} 2"),
            format!("grpc_server_handled_total{{{check},grpc_code=\"OK\"}} 1"),
            format!("grpc_server_handled_total{{{check},grpc_code=\"NotFound\"}} 1"),
            format!("grpc_server_msg_received_total{{{check}}} 2"),
            format!("grpc_server_msg_sent_total{{{check}}} 1"),
            format!("grpc_server_handled_total{{{watch},grpc_code=\"OK\"}} 1"),
            format!("grpc_server_msg_sent_total{{{watch}}} 3"),
            "etcd_network_client_grpc_sent_bytes_total 8".to_owned(),
            "etcd_network_client_grpc_received_bytes_total 7".to_owned(),
            "etcd_server_client_requests_total{type=\"unary\",client_api_version=\"unknown\"} 2"
                .to_owned(),
        ],
    )
    .await;
    server.stop().await;
}

/// A client may have its answer before the server has dropped its side of the call.
async fn wait_for_lines(server: &Running, lines: &[String]) {
    let mut text = String::new();
    let all = async {
        loop {
            text = server.member.metrics.text();
            if lines
                .iter()
                .all(|line| text.lines().any(|other| other == line))
            {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    if tokio::time::timeout(DEADLINE, all).await.is_err() {
        panic!("not all of {lines:#?} in:\n{text}");
    }
}

#[tokio::test]
async fn a_call_whose_client_leaves_counts_as_canceled() {
    let server = clients(8).await;
    let mut client = server.health_client().await;
    let call = tokio::spawn(async move { client.check(ask("stuck")).await });
    within(server.entered.notified()).await;
    call.abort();
    let check = "grpc_type=\"unary\",grpc_service=\"grpc.health.v1.Health\",grpc_method=\"Check\"";
    let line = format!("grpc_server_handled_total{{{check},grpc_code=\"Canceled\"}} 1");
    wait_for_lines(&server, &[line]).await;
    server.stop().await;
}

#[tokio::test]
async fn a_stop_ends_idle_connections_and_calls_that_hang() {
    let server = clients(8).await;
    let mut silent = TcpStream::connect(server.address).await.expect("connect");
    let mut client = server.health_client().await;
    let call = tokio::spawn(async move { client.check(ask("stuck")).await });
    within(server.entered.notified()).await;
    let address = server.address;
    server.stop().await;
    assert!(within(call).await.expect("the task ends").is_err());
    let mut rest = Vec::new();
    let _ = within(silent.read_to_end(&mut rest)).await;
    assert!(rest.is_empty());
    assert!(
        TcpStream::connect(address).await.is_err(),
        "the port is closed"
    );
}

#[tokio::test]
async fn a_client_beyond_the_limit_waits_for_a_slot() {
    let server = clients(1).await;
    let mut first = TcpStream::connect(server.address).await.expect("connect");
    first
        .write_all(b"GET /version HTTP/1.1\r\nhost: h\r\n\r\n")
        .await
        .expect("write");
    let mut byte = [0];
    within(first.read_exact(&mut byte))
        .await
        .expect("an answer");

    let mut second = TcpStream::connect(server.address).await.expect("connect");
    second
        .write_all(b"GET /version HTTP/1.1\r\nhost: h\r\n\r\n")
        .await
        .expect("write");
    let pages_served = tokio::time::timeout(Duration::from_millis(50), second.read(&mut byte));
    assert!(pages_served.await.is_err(), "the second client must wait");
    drop(first);
    within(second.read_exact(&mut byte))
        .await
        .expect("an answer");
    server.stop().await;
}

#[tokio::test]
async fn oversized_headers_are_refused_and_the_server_goes_on() {
    let server = clients(8).await;
    let mut stream = TcpStream::connect(server.address).await.expect("connect");
    let head = format!(
        "GET /version HTTP/1.1\r\nhost: h\r\nx: {}\r\n\r\n",
        "y".repeat(200_000)
    );
    // The server may close before it has read everything.
    let _ = within(stream.write_all(head.as_bytes())).await;
    let mut answer = Vec::new();
    let _ = within(stream.read_to_end(&mut answer)).await;
    assert!(
        !answer.starts_with(b"HTTP/1.1 200"),
        "{}",
        String::from_utf8_lossy(&answer)
    );
    assert_eq!(server.get("/livez").await.0, 200);
    server.stop().await;
}

#[tokio::test]
async fn nonsense_bytes_do_not_disturb_others() {
    let server = clients(8).await;
    let mut stream = TcpStream::connect(server.address).await.expect("connect");
    within(stream.write_all(&[0xff; 64])).await.expect("write");
    let mut answer = Vec::new();
    let _ = within(stream.read_to_end(&mut answer)).await;
    assert_eq!(server.get("/livez").await.0, 200);
    server.stop().await;
}

#[tokio::test]
async fn a_message_larger_than_a_frame_passes() {
    let server = clients(8).await;
    let mut client = server.health_client().await;
    let status = within(client.check(ask(&"x".repeat(3 << 20))))
        .await
        .expect_err("unknown");
    assert_eq!(status.code(), tonic::Code::NotFound, "{status}");
    server.stop().await;
}
