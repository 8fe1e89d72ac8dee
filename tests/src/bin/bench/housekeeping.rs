//! What clients notice while a server keeps house: compaction, the return of space, a backup; and what a
//! start takes. Each phase runs beside the same small load of puts and gets, which also runs alone before.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use holdfast_tests::client::Client;
use holdfast_tests::folder::Folder;
use holdfast_tests::member::{Member, Product};
use holdfast_tests::tools::EtcdVersion;
use proto::etcdserverpb::{
    CompactionRequest, DefragmentRequest, PutRequest, RangeRequest, SnapshotRequest,
};

/// Bytes of a value of those that fill the file.
const VALUE_BYTES: usize = 4_096;
/// One of so many revisions stays.
const ROUNDS: u64 = 8;
/// Puts under way at once while the file is filled.
const FILLED_AT_ONCE: usize = 256;
/// Callers of each kind beside a phase.
const CALLERS: usize = 8;
/// Pause of such a caller between two calls: the load is to show latency, not to use the host up.
const CALLER_PAUSE: Duration = Duration::from_millis(5);
/// The load alone.
const ALONE: Duration = Duration::from_secs(10);

/// Latencies of the load beside a phase.
struct Noticed {
    took: Duration,
    puts: Vec<Duration>,
    gets: Vec<Duration>,
}

/// Fills a file with `mebibytes` of history on each server, then keeps house; after that starts them with
/// `keys` small keys.
pub(crate) async fn run(mebibytes: u64, keys: u64) {
    let ours = Product::subject();
    let theirs = Product::Etcd(EtcdVersion::V3_5);
    print_head();
    for (product, extra, by_itself) in [
        (theirs, None, false),
        (ours, Some("--space-return=false"), false),
        (ours, None, true),
    ] {
        let mut flags = vec![
            "--quota-backend-bytes",
            "17179869184",
            "--log-level",
            "warn",
        ];
        flags.extend(extra);
        let member = Member::start_on(product, Folder::new(), &flags).await;
        keep_house(&member, mebibytes, by_itself).await;
    }
    for product in [theirs, ours] {
        start_up(product, keys).await;
    }
}

async fn keep_house(member: &Member, mebibytes: u64, by_itself: bool) {
    let client = member.client();
    let keys = (mebibytes << 20) / VALUE_BYTES as u64 / ROUNDS;
    for round in 0..ROUNDS {
        fill(&client, keys, |number| {
            (format!("fill/{number:08}"), vec![round as u8; VALUE_BYTES])
        })
        .await;
    }
    let label = if by_itself { "by itself" } else { "" };
    let alone = beside(member, tokio::time::sleep(ALONE)).await;
    print_phase(member, label, "load alone", &alone).await;

    let newest = client.put("newest", "").await.expect("a put");
    let revision = newest.header.expect("a header").revision;
    let compaction = async {
        let request = CompactionRequest {
            revision,
            physical: true,
        };
        client.kv.clone().compact(request).await.expect("compacted");
        while by_itself && !is_small(&client).await {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let compacted = beside(member, compaction).await;
    let what = if by_itself {
        "compaction, space return"
    } else {
        "compaction"
    };
    print_phase(member, label, what, &compacted).await;
    if by_itself {
        return;
    }
    let snapshot = async {
        let mut stream = client
            .maintenance
            .clone()
            .snapshot(SnapshotRequest {})
            .await
            .expect("a snapshot")
            .into_inner();
        while stream.message().await.expect("a piece").is_some() {}
    };
    let noticed = beside(member, snapshot).await;
    print_phase(member, label, "snapshot", &noticed).await;
    let defragmentation = async {
        client
            .maintenance
            .clone()
            .defragment(DefragmentRequest {})
            .await
            .expect("defragmented");
    };
    let noticed = beside(member, defragmentation).await;
    print_phase(member, label, "defragmentation", &noticed).await;
}

async fn is_small(client: &Client) -> bool {
    let status = client.status().await;
    status.db_size <= status.db_size_in_use * 115 / 100
}

/// How long a start takes until the first linearizable read, and what the server holds then.
#[expect(clippy::print_stdout, reason = "a program that reports figures")]
#[expect(
    clippy::disallowed_methods,
    reason = "measures time, decides nothing else by it"
)]
async fn start_up(product: Product, keys: u64) {
    let flags = [
        "--quota-backend-bytes",
        "17179869184",
        "--log-level",
        "warn",
    ];
    let member = Member::start_on(product, Folder::new(), &flags).await;
    fill(&member.client(), keys, |number| {
        (format!("key/{number:09}"), vec![b'v'; 100])
    })
    .await;
    let filled = member.resident();
    let size = member.client().status().await.db_size;
    let folder = member.stop();
    let start = Instant::now();
    let member = Member::start_on(product, folder, &flags).await;
    assert!(member.client().answers().await, "a linearizable read");
    let took = start.elapsed();
    println!(
        "{:<14} start with {keys} keys: {:.2} s to the first read; resident {} MiB (before the restart {} MiB); file {} MiB",
        format!("{product:?}"),
        took.as_secs_f64(),
        member.resident() >> 20,
        filled >> 20,
        size >> 20,
    );
}

/// Puts so many pairs, whatever it takes.
pub(crate) async fn fill(client: &Client, keys: u64, pair: impl Fn(u64) -> (String, Vec<u8>)) {
    let mut running = tokio::task::JoinSet::new();
    for number in 0..keys {
        if running.len() >= FILLED_AT_ONCE {
            running.join_next().await.expect("some").expect("no panic");
        }
        let (key, value) = pair(number);
        let client = client.clone();
        running.spawn(async move {
            // etcd asks for patience when too much waits.
            let put = PutRequest {
                key: key.into(),
                value: value.into(),
                ..Default::default()
            };
            while client.kv.clone().put(put.clone()).await.is_err() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
    }
    running.join_all().await;
}

/// Runs the load until `phase` is over.
#[expect(
    clippy::disallowed_methods,
    reason = "measures time, decides nothing else by it"
)]
async fn beside(member: &Member, phase: impl Future<Output = ()>) -> Noticed {
    let stop = Arc::new(AtomicBool::new(false));
    let callers: Vec<_> = (0..2 * CALLERS)
        .map(|caller| tokio::spawn(call(member.client(), caller, stop.clone())))
        .collect();
    let start = Instant::now();
    phase.await;
    let took = start.elapsed();
    stop.store(true, Ordering::Relaxed);
    let mut noticed = Noticed {
        took,
        puts: Vec::new(),
        gets: Vec::new(),
    };
    for (caller, running) in callers.into_iter().enumerate() {
        let latencies = running.await.expect("a caller ends");
        let list = if caller.is_multiple_of(2) {
            &mut noticed.puts
        } else {
            &mut noticed.gets
        };
        list.extend(latencies);
    }
    noticed.puts.sort_unstable();
    noticed.gets.sort_unstable();
    noticed
}

#[expect(
    clippy::disallowed_methods,
    reason = "measures time, decides nothing else by it"
)]
async fn call(client: Client, caller: usize, stop: Arc<AtomicBool>) -> Vec<Duration> {
    let mut latencies = Vec::new();
    let mut number = caller as u64;
    while !stop.load(Ordering::Relaxed) {
        let start = Instant::now();
        if caller.is_multiple_of(2) {
            let _ = client
                .put(format!("load/{}", number % 1000), vec![b'l'; 100])
                .await;
        } else {
            let request = RangeRequest {
                key: format!("fill/{:08}", number % 1000).into(),
                ..Default::default()
            };
            let _ = client.range(request).await;
        }
        latencies.push(start.elapsed());
        number += 17;
        tokio::time::sleep(CALLER_PAUSE).await;
    }
    latencies
}

#[expect(clippy::print_stdout, reason = "a program that reports figures")]
fn print_head() {
    println!(
        "{:<14} {:<10} {:<26} {:>7} | put {:>7} {:>8} {:>8} | get {:>7} {:>8} {:>8} | {:>8} {:>8}",
        "server",
        "",
        "phase",
        "s",
        "p50 ms",
        "p99 ms",
        "max ms",
        "p50 ms",
        "p99 ms",
        "max ms",
        "file MiB",
        "RSS MiB"
    );
}

#[expect(clippy::print_stdout, reason = "a program that reports figures")]
async fn print_phase(member: &Member, label: &str, phase: &str, noticed: &Noticed) {
    let at = |list: &[Duration], part: f64| {
        let index = ((list.len().saturating_sub(1)) as f64 * part) as usize;
        list.get(index)
            .map_or(0.0, |latency| latency.as_secs_f64() * 1e3)
    };
    let (puts, gets) = (&noticed.puts, &noticed.gets);
    println!(
        "{:<14} {label:<10} {phase:<26} {:>7.2} |     {:>7.2} {:>8.2} {:>8.2} |     {:>7.2} {:>8.2} {:>8.2} | {:>8} {:>8}",
        format!("{:?}", member.product()),
        noticed.took.as_secs_f64(),
        at(puts, 0.5),
        at(puts, 0.99),
        at(puts, 1.0),
        at(gets, 0.5),
        at(gets, 0.99),
        at(gets, 1.0),
        member.client().status().await.db_size >> 20,
        member.resident() >> 20,
    );
}
