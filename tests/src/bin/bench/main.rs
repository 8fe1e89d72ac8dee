//! Compares holdfast with real etcd on this host: both run at once, and the loads take turns between
//! them, so that whatever else the host does meets both alike. The client runs here too; the figure to
//! trust is the server's processor time per operation. Of the watch loads, an operation is an event
//! that has reached its watcher.
//!
//!     cargo build --release -p holdfast && cargo run --release -p holdfast-tests --bin bench
//!
//! Options: `--seconds N` for each load, round and server (default 5), `--rounds N` (default 3),
//! `--only TEXT` for the loads whose name holds TEXT, `--housekeeping MIB` (default 1024, 0 for none) for
//! compaction, the return of space and backups of a database with so much history, `--keys N` (default
//! 1000000) for a start with so many; `--cluster MIB` (default 1024, 0 for none) for clusters of three, to
//! which a new member is added when they hold so much.

mod calls;
mod cluster;
mod fan_out;
mod housekeeping;
mod measured;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use holdfast_tests::client::Client;
use holdfast_tests::folder::Folder;
use holdfast_tests::member::{Member, Product};
use holdfast_tests::tools::EtcdVersion;

use crate::calls::Call;
use crate::fan_out::FanOut;
use crate::measured::Measured;

/// Calls share this many connections at most, as those of real clients do.
const CONNECTIONS_MAX: usize = 8;

/// What is done to both servers.
enum Load {
    /// Calls, so many under way at once.
    Calls(&'static str, usize, Call),
    /// Puts of a key with so many watchers.
    Watch(&'static str, usize),
}

const LOADS: [Load; 13] = [
    Load::Calls("put 100 B, one client", 1, Call::Put { bytes: 100 }),
    Load::Calls("put 100 B, 64 in flight", 64, Call::Put { bytes: 100 }),
    Load::Calls("put 1 KiB, 512 in flight", 512, Call::Put { bytes: 1024 }),
    Load::Calls(
        "linearizable get, 64 in flight",
        64,
        Call::Get {
            serializable: false,
        },
    ),
    Load::Calls(
        "serializable get, 64 in flight",
        64,
        Call::Get { serializable: true },
    ),
    Load::Calls("list of 500, 8 in flight", 8, Call::List { keys: 500 }),
    Load::Calls(
        "list of 10,000, 2 in flight",
        2,
        Call::List { keys: 10_000 },
    ),
    Load::Calls("create (txn), 64 in flight", 64, Call::Create),
    Load::Calls("update (get, txn), 64 in flight", 64, Call::Update),
    Load::Calls("lease (grant, put, revoke), 64", 64, Call::Lease),
    Load::Watch("events to 1 watcher", 1),
    Load::Watch("events to 100 watchers", 100),
    Load::Watch("events to 10,000 watchers", 10_000),
];

struct Options {
    seconds: u64,
    rounds: usize,
    only: String,
    mebibytes: u64,
    keys: u64,
    cluster: u64,
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let options = Options::from_arguments(std::env::args().skip(1));
    if options.mebibytes > 0 {
        housekeeping::run(options.mebibytes, options.keys).await;
    }
    let flags = ["--quota-backend-bytes", "8589934592", "--log-level", "warn"];
    let mut members = Vec::new();
    let products = [Product::subject(), Product::Etcd(EtcdVersion::V3_5)];
    for product in products {
        let member = Member::start_on(product, Folder::new(), &flags).await;
        Call::prepare(&member.client()).await;
        members.push(member);
    }
    measured::print_head();
    for load in LOADS
        .iter()
        .filter(|load| load.name().contains(&options.only))
    {
        let mut measured = [Measured::default(), Measured::default()];
        for round in 0..options.rounds {
            for turn in 0..members.len() {
                // Who comes first changes from round to round.
                let which = (turn + round) % members.len();
                run(load, &members[which], options.seconds, &mut measured[which]).await;
            }
        }
        measured::print_load(load.name(), &products, &mut measured);
    }
    drop(members);
    if options.cluster > 0 {
        cluster::run(&options).await;
    }
}

impl Options {
    fn from_arguments(mut arguments: impl Iterator<Item = String>) -> Options {
        let mut options = Options {
            seconds: 5,
            rounds: 3,
            only: String::new(),
            mebibytes: 1024,
            keys: 1_000_000,
            cluster: 1024,
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
                "--housekeeping" => options.mebibytes = number(),
                "--keys" => options.keys = number(),
                "--cluster" => options.cluster = number(),
                "--only" => options.only = value,
                _ => panic!(
                    "unknown option {name}; known are --seconds, --rounds, --only, --housekeeping, --keys, --cluster"
                ),
            }
        }
        options
    }
}

impl Load {
    fn name(&self) -> &'static str {
        match self {
            Load::Calls(name, ..) | Load::Watch(name, _) => name,
        }
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "measures time, decides nothing else by it"
)]
async fn run(load: &Load, member: &Member, seconds: u64, measured: &mut Measured) {
    let duration = Duration::from_secs(seconds);
    match load {
        Load::Calls(_, in_flight, call) => {
            let clients = connect(member, (*in_flight).min(CONNECTIONS_MAX)).await;
            let before = member.cpu_time();
            let start = Instant::now();
            let latencies = calls_until(start + duration, &clients, *in_flight, *call).await;
            measured.latencies.extend(latencies);
            measured.time += start.elapsed();
            measured.server_time += member.cpu_time() - before;
        }
        Load::Watch(_, watchers) => {
            let mut watchers = FanOut::open(member, *watchers).await;
            let before = member.cpu_time();
            let start = Instant::now();
            let latencies = watchers.run_until(start + duration, member).await;
            measured.latencies.extend(latencies);
            measured.time += start.elapsed();
            measured.server_time += member.cpu_time() - before;
        }
    }
    measured.resident = member.resident();
}

async fn connect(member: &Member, count: usize) -> Vec<Client> {
    let clients: Vec<Client> = (0..count).map(|_| member.client()).collect();
    for client in &clients {
        assert!(
            client.answers().await,
            "a connection before the clock starts"
        );
    }
    clients
}

async fn calls_until(
    end: Instant,
    clients: &[Client],
    in_flight: usize,
    call: Call,
) -> Vec<Duration> {
    // Keys that are made must be new ones in every round.
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let callers: Vec<_> = (0..in_flight)
        .map(|caller| {
            let client = clients[caller % clients.len()].clone();
            tokio::spawn(call_until(end, client, call, &NEXT))
        })
        .collect();
    let mut latencies = Vec::new();
    for caller in callers {
        latencies.extend(caller.await.expect("a caller ends"));
    }
    latencies
}

#[expect(
    clippy::disallowed_methods,
    reason = "measures time, decides nothing else by it"
)]
async fn call_until(
    end: Instant,
    client: Client,
    call: Call,
    next: &'static AtomicU64,
) -> Vec<Duration> {
    let mut latencies = Vec::new();
    let mut start = Instant::now();
    while start < end {
        let number = next.fetch_add(1, Ordering::Relaxed);
        call.make(&client, number).await;
        let done = Instant::now();
        latencies.push(done - start);
        start = done;
    }
    latencies
}
