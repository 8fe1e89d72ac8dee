//! Clusters of three: calls through the leader, through followers and through all; what travels between
//! the members for a put; how long writes stop when a leader is killed; how long a new member takes to
//! have everything.

use std::time::{Duration, Instant};

use holdfast_tests::client::Client;
use holdfast_tests::cluster::{Cluster, retry};
use holdfast_tests::http;
use holdfast_tests::member::{Member, Product};
use holdfast_tests::tools::EtcdVersion;

use crate::calls::Call;
use crate::housekeeping::fill;
use crate::measured::{self, Measured};
use crate::{CONNECTIONS_MAX, Options, calls_until, connect};

/// Leaders killed one after the other.
const FAILOVERS: usize = 20;
/// Bytes of a value of those that a new member must get.
const VALUE_BYTES: usize = 64 << 10;

/// Whom callers ask.
#[derive(Clone, Copy)]
enum Through {
    Leader,
    Followers,
    All,
}

const LOADS: [(&str, usize, Through, Call); 8] = [
    (
        "3 members: put, one client",
        1,
        Through::All,
        Call::Put { bytes: 100 },
    ),
    (
        "3 members: put, 64 in flight",
        64,
        Through::All,
        Call::Put { bytes: 100 },
    ),
    (
        "3 members: put 1 KiB, 512",
        512,
        Through::All,
        Call::Put { bytes: 1024 },
    ),
    (
        "3 members: put 1 KiB, 1000",
        1000,
        Through::All,
        Call::Put { bytes: 1024 },
    ),
    (
        "3 members: get, leader, 64",
        64,
        Through::Leader,
        Call::Get {
            serializable: false,
        },
    ),
    (
        "3 members: get, followers, 64",
        64,
        Through::Followers,
        Call::Get {
            serializable: false,
        },
    ),
    (
        "3 members: serializable get, 64",
        64,
        Through::All,
        Call::Get { serializable: true },
    ),
    (
        "3 members: update (get, txn), 64",
        64,
        Through::All,
        Call::Update,
    ),
];

/// Measures both products in turns.
pub(crate) async fn run(options: &Options) {
    let products = [Product::subject(), Product::Etcd(EtcdVersion::V3_5)];
    let flags = ["--quota-backend-bytes", "8589934592", "--log-level", "warn"];
    let mut clusters = Vec::new();
    for product in products {
        let cluster = Cluster::start(&[product; 3], &flags).await;
        Call::prepare(&cluster.leader().await.client()).await;
        clusters.push(cluster);
    }
    measured::print_head();
    let loads = LOADS
        .iter()
        .filter(|(name, ..)| name.contains(&options.only));
    for (name, in_flight, through, call) in loads {
        let mut measured = [Measured::default(), Measured::default()];
        for round in 0..options.rounds {
            for turn in 0..clusters.len() {
                let which = (turn + round) % clusters.len();
                let load = (*in_flight, *through, *call);
                one_turn(
                    &clusters[which],
                    load,
                    options.seconds,
                    &mut measured[which],
                )
                .await;
            }
        }
        measured::print_load(name, &products, &mut measured);
    }
    for cluster in &mut clusters {
        between(cluster).await;
        failover(cluster).await;
        catch_up(cluster, options.cluster).await;
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "measures time, decides nothing else by it"
)]
async fn one_turn(
    cluster: &Cluster,
    (in_flight, through, call): (usize, Through, Call),
    seconds: u64,
    measured: &mut Measured,
) {
    let leader = cluster.leader_place().await;
    let asked = cluster
        .members
        .iter()
        .enumerate()
        .filter(|(place, _)| match through {
            Through::Leader => *place == leader,
            Through::Followers => *place != leader,
            Through::All => true,
        });
    let mut clients = Vec::new();
    for (_, member) in asked {
        clients.extend(connect(member, in_flight.min(CONNECTIONS_MAX)).await);
    }
    // One client is a client of the leader.
    if in_flight == 1 {
        clients = connect(&cluster.members[leader], 1).await;
    }
    let before = cpu_time(cluster);
    let start = Instant::now();
    let end = start + Duration::from_secs(seconds);
    let latencies = calls_until(end, &clients, in_flight, call).await;
    measured.latencies.extend(latencies);
    measured.time += start.elapsed();
    measured.server_time += cpu_time(cluster) - before;
    measured.resident = cluster.members.iter().map(Member::resident).sum();
}

fn cpu_time(cluster: &Cluster) -> Duration {
    cluster.members.iter().map(Member::cpu_time).sum()
}

/// Bytes that members send each other for a put.
#[expect(clippy::print_stdout, reason = "a program that reports figures")]
async fn between(cluster: &Cluster) {
    for in_flight in [1, 64] {
        let leader = cluster.leader().await;
        let clients = connect(leader, in_flight.min(CONNECTIONS_MAX)).await;
        let before = sent_bytes(cluster);
        let mut puts = 0;
        for _ in 0..20 {
            let calls = (0..in_flight).map(|caller| {
                let client = clients[caller % clients.len()].clone();
                tokio::spawn(async move {
                    for _ in 0..20 {
                        let value = vec![b'v'; 100];
                        client.put("between", value).await.expect("a put");
                    }
                })
            });
            for call in calls.collect::<Vec<_>>() {
                call.await.expect("no panic");
                puts += 20;
            }
        }
        let bytes = sent_bytes(cluster) - before;
        println!(
            "{:<34} {:<18} {:>10.0} bytes between members for a put",
            format!("3 members: put, {in_flight} in flight"),
            format!("{:?}", leader.product()),
            bytes / f64::from(puts)
        );
    }
}

fn sent_bytes(cluster: &Cluster) -> f64 {
    let mut sum = 0.0;
    for member in &cluster.members {
        let page = http::request("GET", &member.endpoint(), "/metrics").body;
        let lines = page.lines();
        sum += lines
            .filter(|line| line.starts_with("etcd_network_peer_sent_bytes_total{"))
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .sum::<f64>();
    }
    sum
}

/// From the kill of a leader to the next acknowledged write.
#[expect(clippy::print_stdout, reason = "a program that reports figures")]
#[expect(
    clippy::disallowed_methods,
    reason = "measures time, decides nothing else by it"
)]
async fn failover(cluster: &mut Cluster) {
    let mut times = Vec::new();
    for round in 0..FAILOVERS {
        let place = cluster.leader_place().await;
        let other = cluster.members[(place + 1) % 3].client();
        let third = cluster.members[(place + 2) % 3].client();
        other.put("before", "x").await.expect("a put");
        third.put("before", "x").await.expect("a put");
        cluster.members[place].end_at_once();
        let start = Instant::now();
        let again = |client: Client| async move {
            retry(async || client.put("after", format!("{round}")).await).await;
        };
        tokio::select! {
            () = again(other) => {}
            () = again(third) => {}
        }
        times.push(start.elapsed());
        cluster.members[place].launch();
        cluster.wait_until_ready().await;
    }
    times.sort_unstable();
    let milliseconds = |time: Duration| time.as_secs_f64() * 1e3;
    println!(
        "{:<34} {:<18} median {:.0} ms, best {:.0} ms, worst {:.0} ms (election timeout 200 ms)",
        "3 members: leader killed",
        format!("{:?}", cluster.members[0].product()),
        milliseconds(times[times.len() / 2]),
        milliseconds(times[0]),
        milliseconds(times[times.len() - 1]),
    );
}

/// From the start of a new member until it has everything.
#[expect(clippy::print_stdout, reason = "a program that reports figures")]
#[expect(
    clippy::disallowed_methods,
    reason = "measures time, decides nothing else by it"
)]
async fn catch_up(cluster: &mut Cluster, mebibytes: u64) {
    let client = cluster.leader().await.client();
    let count = (mebibytes << 20) / VALUE_BYTES as u64;
    fill(&client, count, |number| {
        (format!("bulk/{number:08}"), vec![number as u8; VALUE_BYTES])
    })
    .await;
    let product = cluster.members[0].product();
    let before = cpu_time(cluster);
    let start = Instant::now();
    cluster.join(product).await;
    let took = start.elapsed();
    let added = cluster.members.last().expect("the new one");
    println!(
        "{:<34} {:<18} {:.1} s for {mebibytes} MiB, processor time {:.1} s of the others, {:.1} s of its own",
        "4th member: start to vote",
        format!("{product:?}"),
        took.as_secs_f64(),
        (cpu_time(cluster) - added.cpu_time() - before).as_secs_f64(),
        added.cpu_time().as_secs_f64(),
    );
}
