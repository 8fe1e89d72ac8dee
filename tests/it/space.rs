//! Space of the database file comes back by itself, while clients go on: what the product is for.

use std::time::Duration;

use bytes::Bytes;
use holdfast_tests::client::Client;
use holdfast_tests::folder::Folder;
use holdfast_tests::http;
use holdfast_tests::member::{Member, Product};
use holdfast_tests::tools::EtcdVersion;
use holdfast_tests::watching::{Watching, watch};
use proto::etcdserverpb::{
    AlarmRequest, CompactionRequest, DefragmentRequest, PutRequest, StatusResponse,
};

const KEYS: u32 = 2_000;
const VALUE_BYTES: usize = 4_000;
/// Calls in flight while data are made.
const IN_FLIGHT: usize = 64;

fn key(number: u32) -> String {
    format!("k/{number:08}")
}

fn value(number: u32, round: u32) -> Bytes {
    let mut value = format!("{number} {round} ").into_bytes();
    value.resize(VALUE_BYTES, b'.');
    value.into()
}

/// Writes every key once a round.
async fn write(client: &Client, rounds: std::ops::Range<u32>) {
    for round in rounds {
        let mut running = tokio::task::JoinSet::new();
        for number in 0..KEYS {
            if running.len() == IN_FLIGHT {
                running.join_next().await.expect("some").expect("no panic");
            }
            let mut kv = client.kv.clone();
            running.spawn(async move {
                let put = PutRequest {
                    key: key(number).into(),
                    value: value(number, round),
                    ..Default::default()
                };
                kv.put(put).await.expect("a put");
            });
        }
        running.join_all().await;
    }
}

async fn compact(client: &Client) {
    let revision = client.everything().await.header.expect("a header").revision;
    let request = CompactionRequest {
        revision,
        physical: true,
    };
    client.kv.clone().compact(request).await.expect("compacted");
}

/// Waits until the database is at most this much larger than what it holds.
async fn wait_until_small(client: &Client, percent: i64) -> StatusResponse {
    let started = tokio::time::Instant::now();
    loop {
        let status = client.status().await;
        if status.db_size <= status.db_size_in_use * (100 + percent) / 100 {
            return status;
        }
        let waited = started.elapsed().as_secs();
        assert!(waited < 60, "the file stays large: {status:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn metric(member: &Member, name: &str) -> f64 {
    let page = http::request("GET", &member.endpoint(), "/metrics");
    let line = page
        .body
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    let value = line.unwrap_or_else(|| panic!("no metric {name}"));
    value.parse().expect("a number")
}

/// All keys with the values of a round.
async fn compare(client: &Client, round: u32) {
    let found = client.everything().await.kvs;
    assert_eq!(found.len(), KEYS as usize);
    for (number, pair) in (0..).zip(found) {
        assert_eq!(pair.key, key(number));
        assert_eq!(pair.value, value(number, round), "{}", key(number));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_file_shrinks_by_itself_after_a_compaction() {
    let member = Member::start(Product::Holdfast).await;
    let client = member.client();
    write(&client, 0..6).await;
    let large = client.status().await.db_size;
    // A watcher that begins in the past, and one that waits, keep nothing for long.
    let mut watching = Watching::open(&client, watch("k/", "k0", 0)).await;
    watching.created().await;
    compact(&client).await;
    let status = wait_until_small(&client, 15).await;
    assert!(
        status.db_size < large / 3,
        "{large} became {}",
        status.db_size
    );
    let on_disk = std::fs::metadata(member.folder().database());
    let on_disk = on_disk.expect("there").len();
    assert!(on_disk < large as u64, "{on_disk} bytes on disk");
    assert!(metric(&member, "holdfast_space_return_moved_pages_total") > 0.0);
    assert!(metric(&member, "holdfast_space_return_cut_bytes_total") >= (large / 2) as f64);
    assert!(metric(&member, "holdfast_space_return_bytes_to_go") < (large / 8) as f64);
    compare(&client, 5).await;
    let hash = client.hash_kv(0).await;

    // What is left is a sound file that etcd opens, with the same content.
    let folder = member.stop();
    let etcd = Member::start_on(Product::Etcd(EtcdVersion::V3_5), folder, &[]).await;
    assert_eq!(etcd.client().hash_kv(0).await.hash, hash.hash);
    compare(&etcd.client(), 5).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn space_comes_back_under_load_and_nothing_acknowledged_is_lost() {
    let member = Member::start(Product::Holdfast).await;
    let client = member.client();
    write(&client, 0..4).await;
    let mut sizes = Vec::new();
    for round in 4..8 {
        compact(&client).await;
        let writer = client.clone();
        let writing = tokio::spawn(async move { write(&writer, round..round + 1).await });
        let request = DefragmentRequest {};
        let mut maintenance = client.maintenance.clone();
        maintenance.defragment(request).await.expect("defragmented");
        writing.await.expect("no panic");
        sizes.push(client.status().await.db_size);
    }
    compare(&client, 7).await;
    // [D3]
    let folder = member.kill();
    let member = Member::start_on(Product::Holdfast, folder, &[]).await;
    compare(&member.client(), 7).await;
    let live = i64::from(KEYS) * 4_096;
    assert!(sizes.iter().all(|size| *size < 8 * live), "{sizes:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_of_defragment_returns_when_the_file_is_small() {
    let flags = ["--space-return=false"];
    let member = Member::start_on(Product::Holdfast, Folder::new(), &flags).await;
    let client = member.client();
    write(&client, 0..4).await;
    let large = client.status().await.db_size;
    compact(&client).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let unchanged = client.status().await;
    assert!(
        unchanged.db_size > large * 9 / 10,
        "it was switched off: {unchanged:?}"
    );
    let mut maintenance = client.maintenance.clone();
    maintenance
        .defragment(DefragmentRequest {})
        .await
        .expect("defragmented");
    let status = client.status().await;
    assert!(
        status.db_size <= status.db_size_in_use * 11 / 10,
        "{status:?}"
    );
    assert!(
        status.db_size < large / 2,
        "{large} became {}",
        status.db_size
    );
    compare(&client, 3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_alarm_ends_by_itself_once_there_is_space_if_that_is_wanted() {
    for wanted in [true, false] {
        let quota = (30 << 20).to_string();
        let disarm = format!("--nospace-auto-disarm={wanted}");
        let flags = ["--quota-backend-bytes", quota.as_str(), disarm.as_str()];
        let member = Member::start_on(Product::Holdfast, Folder::new(), &flags).await;
        let client = member.client();
        let full = loop {
            let put = PutRequest {
                key: "big".into(),
                value: vec![7; 1_000_000].into(),
                ..Default::default()
            };
            if let Err(status) = client.kv.clone().put(put).await {
                break status;
            }
        };
        assert_eq!(full.message(), "etcdserver: mvcc: database space exceeded");
        compact(&client).await;
        wait_until_small(&client, 60).await;
        let alarms = async || {
            let answer = client
                .maintenance
                .clone()
                .alarm(AlarmRequest::default())
                .await;
            answer.expect("alarms").into_inner().alarms
        };
        let started = tokio::time::Instant::now();
        while wanted && !alarms().await.is_empty() {
            assert!(started.elapsed().as_secs() < 30, "the alarm stays");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        if wanted {
            client.put("again", "1").await.expect("a put");
            assert!(metric(&member, "holdfast_nospace_alarms_cleared_total") >= 1.0);
            assert!(member.log().contains("the alarm NOSPACE was cleared"));
        } else {
            tokio::time::sleep(Duration::from_secs(3)).await;
            assert_eq!(alarms().await.len(), 1, "nobody has cleared it");
        }
    }
}
