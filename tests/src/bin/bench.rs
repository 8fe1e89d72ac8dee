//! Compares holdfast with real etcd on this host: both run at once, and the loads take turns between
//! them, so that whatever else the host does meets both alike. The client runs here too; the figure to
//! trust is the server's processor time per operation.
//!
//!     cargo build --release -p holdfast && cargo run --release -p holdfast-tests --bin bench
//!
//! Options: `--seconds N` for each load, round and server (default 5), `--rounds N` (default 3),
//! `--only TEXT` for the loads whose name holds TEXT.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use holdfast_tests::client::Client;
use holdfast_tests::folder::Folder;
use holdfast_tests::member::{Member, Product};
use holdfast_tests::tools::EtcdVersion;
use proto::etcdserverpb::RangeRequest;

/// Calls share this many connections at most, as those of real clients do.
const CONNECTIONS_MAX: usize = 8;
/// Keys that puts go round over.
const KEYS: u64 = 100_000;
/// Keys that are read.
const KEYS_READ: u64 = 1_000;

/// One kind of call, and how many are under way at once.
struct Load {
    name: &'static str,
    in_flight: usize,
    call: Call,
}

#[derive(Clone, Copy)]
enum Call {
    Put { bytes: usize },
    Get,
}

const LOADS: [Load; 4] = [
    Load {
        name: "put 100 B, 64 in flight",
        in_flight: 64,
        call: Call::Put { bytes: 100 },
    },
    Load {
        name: "put 1 KiB, 512 in flight",
        in_flight: 512,
        call: Call::Put { bytes: 1024 },
    },
    Load {
        name: "linearizable get, 64 in flight",
        in_flight: 64,
        call: Call::Get,
    },
    Load {
        name: "put 100 B, one client",
        in_flight: 1,
        call: Call::Put { bytes: 100 },
    },
];

struct Options {
    seconds: u64,
    rounds: usize,
    only: String,
}

/// What one load did to one server, over all rounds.
#[derive(Default)]
struct Measured {
    operations: u64,
    time: Duration,
    server_time: Duration,
    latencies: Vec<Duration>,
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
#[expect(clippy::print_stdout, reason = "a program that reports figures")]
async fn main() {
    let options = Options::from_arguments(std::env::args().skip(1));
    let flags = ["--quota-backend-bytes", "8589934592", "--log-level", "warn"];
    let mut members = Vec::new();
    for product in [Product::subject(), Product::Etcd(EtcdVersion::V3_5)] {
        let member = Member::start_on(product, Folder::new(), &flags).await;
        for key in 0..KEYS_READ {
            member
                .client()
                .put(read_key(key), vec![b'v'; 100])
                .await
                .expect("a put");
        }
        members.push(member);
    }
    println!(
        "{:<32} {:<18} {:>10} {:>12} {:>9} {:>9}",
        "load", "server", "ops/s", "CPU us/op", "p50 ms", "p99 ms"
    );
    for load in LOADS
        .iter()
        .filter(|load| load.name.contains(&options.only))
    {
        let mut measured = [Measured::default(), Measured::default()];
        for round in 0..options.rounds {
            for turn in 0..members.len() {
                // Who comes first changes from round to round.
                let which = (turn + round) % members.len();
                run(load, &members[which], options.seconds, &mut measured[which]).await;
            }
        }
        report(load, &members, &mut measured);
    }
}

impl Options {
    fn from_arguments(mut arguments: impl Iterator<Item = String>) -> Options {
        let mut options = Options {
            seconds: 5,
            rounds: 3,
            only: String::new(),
        };
        while let Some(name) = arguments.next() {
            let value = arguments
                .next()
                .unwrap_or_else(|| panic!("{name} needs a value"));
            let number = || {
                value
                    .parse()
                    .unwrap_or_else(|_| panic!("{name} needs a number"))
            };
            match &name[..] {
                "--seconds" => options.seconds = number(),
                "--rounds" => options.rounds = number() as usize,
                "--only" => options.only = value,
                _ => panic!("unknown option {name}; known are --seconds, --rounds, --only"),
            }
        }
        options
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "measures time, decides nothing else by it"
)]
async fn run(load: &Load, member: &Member, seconds: u64, measured: &mut Measured) {
    let connections = load.in_flight.min(CONNECTIONS_MAX);
    let clients: Vec<Client> = (0..connections).map(|_| member.client()).collect();
    for client in &clients {
        assert!(
            client.answers().await,
            "a connection before the clock starts"
        );
    }
    let next = Arc::new(AtomicU64::new(0));
    let server_before = member.cpu_time();
    let start = Instant::now();
    let end = start + Duration::from_secs(seconds);
    let callers: Vec<_> = (0..load.in_flight)
        .map(|caller| {
            let client = clients[caller % connections].clone();
            tokio::spawn(call_until(end, client, load.call, next.clone()))
        })
        .collect();
    for caller in callers {
        measured
            .latencies
            .extend(caller.await.expect("a caller ends"));
    }
    measured.time += start.elapsed();
    measured.server_time += member.cpu_time() - server_before;
    measured.operations = measured.latencies.len() as u64;
}

#[expect(
    clippy::disallowed_methods,
    reason = "measures time, decides nothing else by it"
)]
async fn call_until(
    end: Instant,
    client: Client,
    call: Call,
    next: Arc<AtomicU64>,
) -> Vec<Duration> {
    let value = match call {
        Call::Put { bytes } => Bytes::from(vec![b'v'; bytes]),
        Call::Get => Bytes::new(),
    };
    let mut latencies = Vec::new();
    let mut start = Instant::now();
    while start < end {
        let number = next.fetch_add(1, Ordering::Relaxed);
        match call {
            Call::Put { .. } => {
                let key = format!("put/{:08}", number % KEYS);
                client.put(key, value.clone()).await.expect("a put");
            }
            Call::Get => {
                let key = read_key(number % KEYS_READ).into();
                let request = RangeRequest {
                    key,
                    ..Default::default()
                };
                let found = client.range(request).await.expect("a get");
                assert_eq!(found.kvs.len(), 1, "every key that is read exists");
            }
        }
        let done = Instant::now();
        latencies.push(done - start);
        start = done;
    }
    latencies
}

fn read_key(number: u64) -> String {
    format!("get/{number:08}")
}

#[expect(clippy::print_stdout, reason = "a program that reports figures")]
fn report(load: &Load, members: &[Member], measured: &mut [Measured; 2]) {
    for (member, measured) in members.iter().zip(measured.iter_mut()) {
        measured.latencies.sort_unstable();
        println!(
            "{:<32} {:<18} {:>10.0} {:>12.1} {:>9.3} {:>9.3}",
            load.name,
            format!("{:?}", member.product()),
            measured.rate(),
            measured.server_microseconds(),
            measured.percentile(50),
            measured.percentile(99),
        );
    }
    let [ours, theirs] = measured;
    println!(
        "{:<32} {:<18} {:>10.2} {:>12.2} {:>9.2} {:>9.2}",
        "",
        "first / second",
        ours.rate() / theirs.rate(),
        ours.server_microseconds() / theirs.server_microseconds(),
        ours.percentile(50) / theirs.percentile(50),
        ours.percentile(99) / theirs.percentile(99),
    );
}

impl Measured {
    fn rate(&self) -> f64 {
        self.operations as f64 / self.time.as_secs_f64()
    }

    fn server_microseconds(&self) -> f64 {
        self.server_time.as_secs_f64() * 1e6 / self.operations as f64
    }

    /// In milliseconds; the latencies must be sorted.
    fn percentile(&self, percent: usize) -> f64 {
        let last = self.latencies.len().saturating_sub(1);
        let found = self.latencies.get(last * percent / 100);
        found.map_or(0.0, |latency| latency.as_secs_f64() * 1e3)
    }
}
