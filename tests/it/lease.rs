//! The rules of leases, put to the server under test and to real etcd alike.

use std::time::Duration;

use holdfast_tests::client::Client;
use holdfast_tests::folder::Folder;
use holdfast_tests::http::request;
use holdfast_tests::member::{Member, Product};
use holdfast_tests::tools::EtcdVersion;
use proto::etcdserverpb::{
    LeaseGrantRequest, LeaseGrantResponse, LeaseKeepAliveRequest, LeaseKeepAliveResponse,
    LeaseLeasesRequest, LeaseRevokeRequest, LeaseTimeToLiveRequest, LeaseTimeToLiveResponse,
    PutRequest,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{Code, Status, Streaming};

/// The shortest time to live that the timeouts of a test's members allow.
const TTL_MIN: i64 = 1;
/// Time to live, a look every half second, and room for a slow machine.
const EXPIRY_SECONDS_MAX: u64 = 40;

fn both() -> [Product; 2] {
    [Product::subject(), Product::Etcd(EtcdVersion::V3_5)]
}

async fn grant(client: &Client, id: i64, ttl: i64) -> Result<LeaseGrantResponse, Status> {
    let request = LeaseGrantRequest { id, ttl };
    let answer = client.lease.clone().lease_grant(request).await?;
    Ok(answer.into_inner())
}

async fn revoke(client: &Client, id: i64) -> Result<i64, Status> {
    let request = LeaseRevokeRequest { id };
    let answer = client.lease.clone().lease_revoke(request).await?;
    Ok(answer.into_inner().header.expect("a header").revision)
}

async fn time_to_live(client: &Client, id: i64) -> LeaseTimeToLiveResponse {
    let request = LeaseTimeToLiveRequest { id, keys: true };
    let answer = client.lease.clone().lease_time_to_live(request).await;
    answer.expect("an answer").into_inner()
}

async fn leases(client: &Client) -> Vec<i64> {
    let answer = client
        .lease
        .clone()
        .lease_leases(LeaseLeasesRequest {})
        .await;
    let leases = answer.expect("an answer").into_inner().leases;
    leases.into_iter().map(|lease| lease.id).collect()
}

async fn put_on(client: &Client, key: &str, lease: i64) -> Result<i64, Status> {
    let request = PutRequest {
        key: key.to_owned().into(),
        lease,
        ..Default::default()
    };
    let answer = client.kv.clone().put(request).await?.into_inner();
    Ok(answer.header.expect("a header").revision)
}

async fn keys(client: &Client) -> Vec<String> {
    let text = |key: &[u8]| String::from_utf8(key.to_vec()).expect("text");
    let found = client.everything().await.kvs;
    found.iter().map(|pair| text(&pair.key)).collect()
}

/// A stream of renewals and their answers.
struct Renewals {
    requests: mpsc::UnboundedSender<LeaseKeepAliveRequest>,
    answers: Streaming<LeaseKeepAliveResponse>,
}

impl Renewals {
    /// Opens the stream with a first renewal: etcd says nothing, not even that there is a stream,
    /// before it answers one.
    async fn open(client: &Client, first: i64) -> Renewals {
        let (requests, receiver) = mpsc::unbounded_channel();
        let first = LeaseKeepAliveRequest { id: first };
        requests.send(first).expect("the receiver is here");
        let stream = UnboundedReceiverStream::new(receiver);
        let answers = client.lease.clone().lease_keep_alive(stream).await;
        Renewals {
            requests,
            answers: answers.expect("a stream").into_inner(),
        }
    }

    fn ask(&self, id: i64) {
        self.requests
            .send(LeaseKeepAliveRequest { id })
            .expect("the stream is open");
    }

    async fn answer(&mut self) -> LeaseKeepAliveResponse {
        self.answers
            .message()
            .await
            .expect("no error")
            .expect("the stream goes on")
    }
}

fn assert_refused<T: std::fmt::Debug>(result: Result<T, Status>, code: Code, text: &str) {
    let status = result.expect_err("a refusal");
    assert_eq!((status.code(), status.message()), (code, text));
}

/// [LE-1], [LE-2], [LE-10]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_grant_checks_id_and_time_to_live() {
    for product in both() {
        let member = Member::start(product).await;
        let client = member.client();
        let granted = grant(&client, 77, 100).await.expect("granted");
        assert_eq!((granted.id, granted.ttl), (77, 100), "{product:?}");
        let header = granted.header.expect("a header");
        assert_eq!(header.revision, 1, "{product:?}: a lease makes no revision");
        assert_refused(
            grant(&client, 77, 100).await,
            Code::FailedPrecondition,
            "etcdserver: lease already exists",
        );
        assert_refused(
            grant(&client, 78, 9_000_000_001).await,
            Code::OutOfRange,
            "etcdserver: too large lease TTL",
        );
        let longest = grant(&client, 78, 9_000_000_000).await.expect("granted");
        assert_eq!(longest.ttl, 9_000_000_000, "{product:?}");
        for ttl in [0, -5, TTL_MIN] {
            let chosen = grant(&client, 0, ttl).await.expect("granted");
            assert!(chosen.id > 0, "{product:?}: {}", chosen.id);
            assert_eq!(chosen.ttl, TTL_MIN, "{product:?}");
        }
        let negative = grant(&client, -4, 60).await.expect("granted");
        assert_eq!(negative.id, -4, "{product:?}");
    }
}

/// [LE-3], [KV-5], [KV-23]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revocation_deletes_the_keys_in_one_revision() {
    for product in both() {
        let member = Member::start(product).await;
        let client = member.client();
        assert_refused(
            revoke(&client, 5).await,
            Code::NotFound,
            "etcdserver: requested lease not found",
        );
        assert_refused(
            put_on(&client, "k", 5).await,
            Code::NotFound,
            "etcdserver: requested lease not found",
        );
        grant(&client, 5, 100).await.expect("granted");
        assert_eq!(revoke(&client, 5).await.expect("revoked"), 1, "{product:?}");
        grant(&client, 5, 100).await.expect("granted");
        for key in ["b", "a", "c"] {
            put_on(&client, key, 5).await.expect("a lease there is");
        }
        client.put("c", "without").await.expect("a put");
        let before = client.put("d", "").await.expect("a put");
        let before = before.header.expect("a header").revision;
        let after = revoke(&client, 5).await.expect("revoked");
        assert_eq!(after, before + 1, "{product:?}");
        assert_eq!(keys(&client).await, ["c", "d"], "{product:?}");
        assert!(leases(&client).await.is_empty(), "{product:?}");
    }
}

/// [LE-6], [LE-7], [LE-8]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_left_of_a_lease_is_told_with_its_keys() {
    for product in both() {
        let member = Member::start(product).await;
        let client = member.client();
        let unknown = time_to_live(&client, 5).await;
        assert_eq!((unknown.ttl, unknown.granted_ttl), (-1, 0), "{product:?}");
        assert_eq!(unknown.id, 5, "{product:?}");
        for (id, ttl) in [(1, 300), (2, 100), (3, 200)] {
            grant(&client, id, ttl).await.expect("granted");
        }
        put_on(&client, "a", 2).await.expect("a lease there is");
        put_on(&client, "b", 2).await.expect("a lease there is");
        let mut told = time_to_live(&client, 2).await;
        assert!((90..100).contains(&told.ttl), "{product:?}: {}", told.ttl);
        assert_eq!(told.granted_ttl, 100, "{product:?}");
        told.keys.sort();
        assert_eq!(told.keys, ["a", "b"], "{product:?}");
        assert_eq!(told.header.expect("a header").revision, 3, "{product:?}");
        assert_eq!(leases(&client).await, [2, 3, 1], "{product:?}");
    }
}

/// [LE-5]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn renewals_are_answered_in_order_and_end_with_the_client() {
    for product in both() {
        let member = Member::start(product).await;
        let client = member.client();
        grant(&client, 1, 50).await.expect("granted");
        grant(&client, 2, 60).await.expect("granted");
        client.put("a", "").await.expect("a put");
        let mut renewals = Renewals::open(&client, 2).await;
        for id in [9, 1, 2] {
            renewals.ask(id);
        }
        let mut told = Vec::new();
        for _ in 0..4 {
            let answer = renewals.answer().await;
            assert_eq!(answer.header.expect("a header").revision, 2, "{product:?}");
            told.push((answer.id, answer.ttl));
        }
        assert_eq!(told, [(2, 60), (9, 0), (1, 50), (2, 60)], "{product:?}");
        drop(renewals.requests);
        let end = renewals.answers.message().await.expect("ended well");
        assert_eq!(end, None, "{product:?}");
    }
}

/// [LE-4], [LE-5]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leases_run_out_in_order_unless_they_are_renewed() {
    for product in both() {
        let member = Member::start(product).await;
        let client = member.client();
        for (id, ttl) in [(1, 9), (2, 3), (3, 6), (4, 4)] {
            grant(&client, id, ttl).await.expect("granted");
            put_on(&client, &format!("key-{id}"), id)
                .await
                .expect("a lease there is");
        }
        let mut renewals = Renewals::open(&client, 4).await;
        assert_eq!(renewals.answer().await.ttl, 4, "{product:?}");
        let started = tokio::time::Instant::now();
        let mut ended: Vec<i64> = Vec::new();
        while ended.len() < 3 {
            assert!(
                started.elapsed() < Duration::from_secs(EXPIRY_SECONDS_MAX),
                "{ended:?}"
            );
            renewals.ask(4);
            assert_eq!(renewals.answer().await.ttl, 4, "{product:?}");
            tokio::time::sleep(Duration::from_millis(200)).await;
            let left = keys(&client).await;
            let gone = [1, 2, 3]
                .into_iter()
                .filter(|id| !ended.contains(id) && !left.contains(&format!("key-{id}")));
            let gone: Vec<i64> = gone.collect();
            ended.extend(gone);
        }
        assert_eq!(ended, [2, 3, 1], "{product:?}");
        assert_eq!(keys(&client).await, ["key-4"], "{product:?}");
        // Each lease made one revision of its own: four puts, three ends.
        let revision = client.everything().await.header.expect("a header").revision;
        assert_eq!(revision, 8, "{product:?}");
        let told = time_to_live(&client, 1).await;
        assert_eq!(told.ttl, -1, "{product:?}");
        renewals.ask(1);
        assert_eq!(renewals.answer().await.ttl, 0, "{product:?}");
    }
}

/// [LE-11], [LE-13]: after a restart every lease has its whole time again, and runs out all the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leases_outlive_a_restart_and_run_out_after_it() {
    for product in both() {
        let member = Member::start(product).await;
        let client = member.client();
        grant(&client, 1, 5).await.expect("granted");
        grant(&client, 2, 1000).await.expect("granted");
        put_on(&client, "short", 1).await.expect("a lease there is");
        put_on(&client, "long", 2).await.expect("a lease there is");
        let folder = member.kill();
        let member = Member::start_on(product, folder, &[]).await;
        let client = member.client();
        assert_eq!(keys(&client).await, ["long", "short"], "{product:?}");
        let told = time_to_live(&client, 2).await;
        assert_eq!(told.granted_ttl, 1000, "{product:?}");
        assert!(told.ttl > 900, "{product:?}: {}", told.ttl);
        assert_eq!(told.keys, ["long"], "{product:?}");
        let started = tokio::time::Instant::now();
        while keys(&client).await.len() > 1 {
            assert!(started.elapsed() < Duration::from_secs(EXPIRY_SECONDS_MAX));
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        assert_eq!(leases(&client).await, [2], "{product:?}");
    }
}

/// [LE-13]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leases_move_with_the_data_directory_both_ways() {
    let ours = Product::Holdfast;
    let theirs = Product::Etcd(EtcdVersion::V3_5);
    for (from, to) in [(ours, theirs), (theirs, ours)] {
        let member = Member::start(from).await;
        let client = member.client();
        grant(&client, 3, 600).await.expect("granted");
        grant(&client, 4, 2).await.expect("granted");
        put_on(&client, "a", 3).await.expect("a lease there is");
        put_on(&client, "b", 4).await.expect("a lease there is");
        let folder = member.stop();
        let member = Member::start_on(to, folder, &[]).await;
        let client = member.client();
        let told = time_to_live(&client, 3).await;
        assert_eq!((told.granted_ttl, told.keys.len()), (600, 1), "{to:?}");
        let started = tokio::time::Instant::now();
        while keys(&client).await != ["a"] {
            assert!(
                started.elapsed() < Duration::from_secs(EXPIRY_SECONDS_MAX),
                "{to:?}"
            );
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        revoke(&client, 3).await.expect("revoked");
        assert!(keys(&client).await.is_empty(), "{to:?}");
    }
}

/// A hundred thousand leases cost memory and nothing else: no timer, no thread, no work while they
/// only live.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_thousand_leases_live_and_end() {
    const LEASES: i64 = 100_000;
    const AT_ONCE: i64 = 200;
    let member = Member::start_on(Product::subject(), Folder::new(), &[]).await;
    let client = member.client();
    let ask_all = async |first: i64, ttl: Option<i64>| {
        let mut calls = tokio::task::JoinSet::new();
        for id in first..first + AT_ONCE {
            let client = client.clone();
            calls.spawn(async move {
                match ttl {
                    Some(ttl) => drop(grant(&client, id, ttl).await.expect("granted")),
                    None => drop(revoke(&client, id).await.expect("revoked")),
                }
            });
        }
        while let Some(done) = calls.join_next().await {
            done.expect("no panic");
        }
    };
    for first in (1..LEASES).step_by(AT_ONCE as usize) {
        ask_all(first, Some(3600)).await;
    }
    assert_eq!(leases(&client).await.len(), LEASES as usize);
    let before = member.cpu_time();
    tokio::time::sleep(Duration::from_secs(2)).await;
    let idle = member.cpu_time() - before;
    assert!(
        idle < Duration::from_secs(1),
        "leases that only live cost {idle:?} in two seconds"
    );
    for first in (1..LEASES / 10).step_by(AT_ONCE as usize) {
        ask_all(first, None).await;
    }
    assert_eq!(leases(&client).await.len(), (LEASES - LEASES / 10) as usize);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_happens_to_leases_is_counted() {
    for product in both() {
        let member = Member::start(product).await;
        let client = member.client();
        grant(&client, 1, 100).await.expect("granted");
        grant(&client, 2, 2).await.expect("granted");
        grant(&client, 3, 5).await.expect("granted");
        revoke(&client, 3).await.expect("revoked");
        let mut renewals = Renewals::open(&client, 1).await;
        renewals.answer().await;
        let started = tokio::time::Instant::now();
        while leases(&client).await.len() > 1 {
            assert!(
                started.elapsed() < Duration::from_secs(EXPIRY_SECONDS_MAX),
                "{product:?}"
            );
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        let metrics = request("GET", &member.endpoint(), "/metrics").body;
        for line in [
            "etcd_debugging_lease_granted_total 3",
            "etcd_debugging_lease_revoked_total 2",
            "etcd_debugging_lease_renewed_total 1",
            "etcd_debugging_server_lease_expired_total 1",
            "etcd_debugging_lease_ttl_total_bucket{le=\"2\"} 1",
            "etcd_debugging_lease_ttl_total_count 3",
        ] {
            assert!(
                metrics.lines().any(|other| other == line),
                "{product:?}: no {line}"
            );
        }
    }
}
