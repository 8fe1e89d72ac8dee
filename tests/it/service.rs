//! Life under a service manager: readiness, stopping, and the pages that operators look at.

use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

use holdfast_tests::folder::Folder;
use holdfast_tests::http::request;
use holdfast_tests::member::{Member, Product};
use serde_json::Value;

/// A message of the service protocol comes within this, or never.
const NOTIFY_TIME_MAX: Duration = Duration::from_secs(60);
/// A clean stop, as promised to operators.
const STOP_TIME_MAX: Duration = Duration::from_secs(5);
const NOTIFY_BYTES_MAX: usize = 4096;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_service_manager_hears_what_happens_and_when_it_is_ready() {
    let folder = Folder::new();
    let path = folder.beside("notify");
    let socket = UnixDatagram::bind(&path).expect("a socket");
    socket
        .set_read_timeout(Some(NOTIFY_TIME_MAX))
        .expect("a time-out");
    let environment = [("NOTIFY_SOCKET", path.to_str().expect("text"))];
    let mut member = Member::spawn_in(Product::subject(), folder, &[], &environment);
    let before = until(&socket, "READY=1");
    assert!(
        member.client().answers().await,
        "ready means that it serves"
    );
    if member.product() == Product::Holdfast {
        let status = before.iter().any(|line| line.starts_with("STATUS="));
        assert!(status, "no STATUS before READY: {before:?}");
        let status = member.terminate();
        assert!(status.success(), "{status}");
        until(&socket, "STOPPING=1");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[expect(
    clippy::disallowed_methods,
    reason = "the stop is promised within seconds"
)]
async fn sigterm_under_load_stops_within_seconds_and_loses_nothing() {
    let mut member = Member::start(Product::Holdfast).await;
    let writer = tokio::spawn({
        let client = member.client();
        async move {
            let mut acknowledged = 0u64;
            while client.put(format!("{acknowledged:08}"), "x").await.is_ok() {
                acknowledged += 1;
            }
            acknowledged
        }
    });
    let looks = member.client();
    while looks.everything().await.count < 100 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let start = Instant::now();
    let status = member.terminate();
    let took = start.elapsed();
    assert!(status.success(), "{status}");
    assert!(took < STOP_TIME_MAX, "took {took:?}");
    let acknowledged = writer.await.expect("the writer ends");
    let again = Member::start_on(Product::Holdfast, member.into_folder(), &[]).await;
    let found = again.client().everything().await.count as u64;
    // The last one may have been written without an answer.
    assert!(
        (acknowledged..=acknowledged + 1).contains(&found),
        "{found} of {acknowledged}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_pages_answer_as_etcds_do() {
    let member = Member::start(Product::subject()).await;
    let endpoint = member.endpoint();
    for path in [
        "/health",
        "/health?serializable=true",
        "/health?exclude=NOSPACE",
    ] {
        let page = request("GET", &endpoint, path);
        assert_eq!(
            (page.status, &page.body[..]),
            (200, r#"{"health":"true","reason":""}"#),
            "{path}"
        );
    }
    for path in [
        "/livez",
        "/readyz",
        "/livez/serializable_read",
        "/readyz/linearizable_read",
    ] {
        let page = request("GET", &endpoint, path);
        assert_eq!((page.status, &page.body[..]), (200, "ok\n"), "{path}");
    }
    let page = request("GET", &endpoint, "/readyz?verbose");
    assert_eq!(page.status, 200);
    for check in ["data_corruption", "serializable_read", "linearizable_read"] {
        assert!(
            page.body.contains(&format!("[+]{check} ok\n")),
            "{}",
            page.body
        );
    }
    let page = request("POST", &endpoint, "/health");
    assert_eq!((page.status, &page.body[..]), (405, "Method Not Allowed\n"));
    assert!(
        page.head.to_ascii_lowercase().contains("allow: get"),
        "{}",
        page.head
    );
    let page = request("GET", &endpoint, "/nothing");
    assert_eq!(
        (page.status, page.body.trim_end()),
        (404, "404 page not found")
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_version_page_names_server_and_cluster() {
    let member = Member::start(Product::subject()).await;
    let page = request("GET", &member.endpoint(), "/version");
    assert_eq!(page.status, 200);
    let json: Value = serde_json::from_str(&page.body).expect("JSON");
    let server = json["etcdserver"].as_str().expect("a server version");
    assert_eq!(server, member.client().status().await.version);
    assert_eq!(server.split('.').count(), 3, "{server}");
    assert!(json["etcdcluster"].is_string(), "{}", page.body);
    if member.product() == Product::Holdfast {
        assert!(server.starts_with("3.6."), "{server}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metrics_have_the_names_that_dashboards_and_alerts_ask_for() {
    let folder = Folder::new();
    let metrics = format!("http://127.0.0.1:{}", holdfast_tests::member::free_port());
    let flags = ["--listen-metrics-urls", &metrics];
    let member = Member::start_on(Product::subject(), folder, &flags).await;
    for number in 0..10 {
        member
            .client()
            .put(format!("{number}"), "x")
            .await
            .expect("a put");
    }
    let endpoint = metrics.strip_prefix("http://").expect("as made above");
    for endpoint in [&member.endpoint(), endpoint] {
        let page = request("GET", endpoint, "/metrics");
        assert_eq!(page.status, 200);
        for name in METRICS {
            let found = page.body.lines().any(|line| {
                line.strip_prefix(name)
                    .is_some_and(|rest| rest.starts_with(['{', ' ']))
            });
            assert!(found, "{name} is missing at {endpoint}");
        }
        let leader = page
            .body
            .lines()
            .find(|line| line.starts_with("etcd_server_has_leader "));
        assert_eq!(leader, Some("etcd_server_has_leader 1"));
    }
    assert_eq!(request("GET", endpoint, "/health").status, 200);
    assert_eq!(
        request("GET", endpoint, "/version").status,
        404,
        "not on the metrics listener"
    );
}

const METRICS: [&str; 15] = [
    "etcd_server_has_leader",
    "etcd_server_is_leader",
    "etcd_server_leader_changes_seen_total",
    "etcd_server_proposals_committed_total",
    "etcd_server_proposals_applied_total",
    "etcd_server_proposals_pending",
    "etcd_server_proposals_failed_total",
    "etcd_disk_wal_fsync_duration_seconds_bucket",
    "etcd_disk_backend_commit_duration_seconds_bucket",
    "etcd_mvcc_db_total_size_in_bytes",
    "etcd_mvcc_db_total_size_in_use_in_bytes",
    "etcd_server_quota_backend_bytes",
    "grpc_server_handled_total",
    "process_resident_memory_bytes",
    "process_open_fds",
];

/// Reads messages until a line arrives; returns all lines before it.
fn until(socket: &UnixDatagram, wanted: &str) -> Vec<String> {
    let mut before = Vec::new();
    let mut buffer = [0; NOTIFY_BYTES_MAX];
    loop {
        let length = socket.recv(&mut buffer);
        let length = length.unwrap_or_else(|error| panic!("no {wanted} after {before:?}: {error}"));
        for line in String::from_utf8_lossy(&buffer[..length]).lines() {
            if line == wanted {
                return before;
            }
            before.push(line.to_owned());
        }
    }
}
