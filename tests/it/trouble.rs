//! Clusters in trouble: members die, stand still, are cut off in one direction or both, and come back, while
//! clients go on. What the clients were told must fit the one history that all members tell afterwards.
//!
//! `TROUBLE_SECONDS` sets how long each test goes on, `TEST_SEED` the choices. The network has no delay or
//! loss beyond that: not every kernel has the means, and members that stand still show the same.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use holdfast_tests::client::Client;
use holdfast_tests::cluster::{Cluster, Surroundings, retry};
use holdfast_tests::dice::{self, Dice};
use holdfast_tests::file_system::FileSystem;
use holdfast_tests::history::{self, Action, Answer, Call, Change};
use holdfast_tests::member::Product;
use holdfast_tests::network::Network;
use holdfast_tests::tools::EtcdVersion;
use holdfast_tests::watching::Watching;
use nix::sys::signal::Signal;
use proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use proto::etcdserverpb::request_op::Request as Operation;
use proto::etcdserverpb::{
    Compare, PutRequest, RangeRequest, RequestOp, TxnRequest, WatchCreateRequest,
};
use tokio::time::Instant;

const OURS: Product = Product::Holdfast;
const ETCD: Product = Product::Etcd(EtcdVersion::V3_5);
const SECONDS_DEFAULT: u64 = 60;
const CLIENTS: u64 = 6;
const KEYS: u64 = 8;
/// Longer than an election, shorter than the patience of a server.
const PATIENCE: Duration = Duration::from_millis(1500);
/// The last fault may have left members that need an election, and snapshots.
const CALM: Duration = Duration::from_secs(2);

#[test]
fn three_of_ours_tell_the_truth_in_trouble() {
    in_trouble([OURS, OURS, OURS], 1);
}

#[test]
fn ours_and_etcds_tell_the_truth_in_trouble() {
    in_trouble([OURS, ETCD, OURS], 2);
}

fn in_trouble(products: [Product; 3], default_seed: u64) {
    let seed = dice::seed(default_seed);
    let made = Network::new(products.len());
    let Some(network) = FileSystem::or_pass_over(made, "a cluster in trouble") else {
        return;
    };
    let run = || {
        network.enter();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        runtime.block_on(trouble(products, seed, &network));
    };
    // The thread is in another network from then on.
    std::thread::scope(|scope| {
        let done = scope.spawn(run).join();
        if let Err(panic) = done {
            std::panic::resume_unwind(panic);
        }
    });
}

#[expect(clippy::print_stdout, reason = "what ran, for whoever reads the log")]
async fn trouble(products: [Product; 3], seed: u64, network: &Network) {
    let seconds = std::env::var("TROUBLE_SECONDS").map_or(SECONDS_DEFAULT, |seconds| {
        seconds.parse().expect("TROUBLE_SECONDS is a number")
    });
    let flags = [
        "--snapshot-count",
        "200",
        "--experimental-snapshot-catchup-entries",
        "50",
    ];
    let surroundings = Surroundings {
        network: Some(network),
        https: false,
    };
    let mut cluster = Cluster::start_in(&products, &flags, surroundings).await;
    let mut dice = Dice::new(seed);
    let stop = Arc::new(AtomicBool::new(false));
    let start = Instant::now();
    let urls: Vec<String> = cluster.members.iter().map(|member| member.url()).collect();
    let clients: Vec<_> = (0..CLIENTS)
        .map(|number| {
            let dice = Dice::new(seed ^ (number + 1) << 32);
            tokio::spawn(go_on(number, urls.clone(), dice, start, stop.clone()))
        })
        .collect();
    let watcher = tokio::spawn(watch(urls.clone(), stop.clone()));

    let mut faults = 0;
    while start.elapsed() < Duration::from_secs(seconds) {
        one_fault(&mut cluster, network, &mut dice).await;
        faults += 1;
        tokio::time::sleep(Duration::from_millis(dice.below(1500))).await;
    }
    tokio::time::sleep(CALM).await;
    cluster.wait_until_ready().await;
    stop.store(true, Ordering::Relaxed);
    let mut calls = Vec::new();
    for client in clients {
        calls.extend(client.await.expect("no panic"));
    }
    let last = retry(async || cluster.members[0].client().put("last", "last").await).await;
    let last = last.header.expect("a header").revision;
    cluster.same_hash().await;

    // What all members tell afterwards.
    let history = tell(&cluster.members[0].client(), last).await;
    for member in &cluster.members[1..] {
        assert_eq!(
            tell(&member.client(), last).await,
            history,
            "TEST_SEED={seed}"
        );
    }
    let checked = history::check(&calls, &history[..history.len() - 1]);
    checked.unwrap_or_else(|what| panic!("TEST_SEED={seed}: {what}"));
    let seen = watcher.await.expect("no panic");
    assert!(
        history.starts_with(&seen),
        "TEST_SEED={seed}: a watcher has seen something else"
    );
    let answered = calls.iter().filter(|call| call.answer.is_some()).count();
    println!(
        "{products:?}, seed {seed}: {faults} faults, {} calls, {answered} answered, {} changes, {} seen",
        calls.len(),
        history.len(),
        seen.len()
    );
    assert!(answered > 200, "hardly anything was answered: {answered}");
}

/// One thing goes wrong for a while.
async fn one_fault(cluster: &mut Cluster, network: &Network, dice: &mut Dice) {
    let victim = match dice.below(2) {
        0 => cluster.leader_place().await,
        _ => dice.below(3) as usize,
    };
    let a_while = Duration::from_millis(300 + dice.below(2500));
    match dice.below(6) {
        0 | 1 => {
            cluster.members[victim].end_at_once();
            tokio::time::sleep(a_while).await;
            cluster.members[victim].launch();
        }
        2 => {
            cluster.members[victim].signal(Signal::SIGSTOP);
            tokio::time::sleep(a_while).await;
            cluster.members[victim].signal(Signal::SIGCONT);
        }
        3 => {
            network.isolate(victim);
            tokio::time::sleep(a_while).await;
            network.mend();
        }
        4 => {
            network.cut(victim, (victim + 1) % 3);
            tokio::time::sleep(a_while).await;
            network.mend();
        }
        _ => {
            cluster.members[victim].terminate();
            tokio::time::sleep(a_while / 4).await;
            cluster.members[victim].launch();
        }
    }
}

/// A client that asks one member after the other, whatever happens.
async fn go_on(
    number: u64,
    urls: Vec<String>,
    mut dice: Dice,
    start: Instant,
    stop: Arc<AtomicBool>,
) -> Vec<Call> {
    let clients: Vec<Client> = urls
        .iter()
        .map(|url| Client::with_patience(url, PATIENCE))
        .collect();
    let mut calls = Vec::new();
    let mut seen = vec![0; KEYS as usize];
    while !stop.load(Ordering::Relaxed) {
        let place = dice.below(KEYS);
        let key = format!("k{place}");
        let value = format!("{number}/{}", calls.len());
        let action = match dice.below(5) {
            0 | 1 => Action::Put { key, value },
            2 => Action::Swap {
                key,
                seen: seen[place as usize],
                value,
            },
            _ => Action::Get { key },
        };
        let client = &clients[dice.below(clients.len() as u64) as usize];
        let begin = start.elapsed();
        let answer = call(client, &action).await;
        let end = answer.as_ref().map(|_| start.elapsed());
        match (&action, &answer) {
            (Action::Get { .. }, Some(answer)) => {
                let found = answer.found.as_ref();
                seen[place as usize] = found.map_or(0, |(_, revision)| *revision);
            }
            (_, Some(answer)) if answer.done => seen[place as usize] = answer.revision,
            _ => {}
        }
        if answer.is_none() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        calls.push(Call {
            begin,
            end,
            action,
            answer,
        });
        tokio::time::sleep(Duration::from_millis(dice.below(20))).await;
    }
    calls
}

async fn call(client: &Client, action: &Action) -> Option<Answer> {
    let answered = async {
        match action {
            Action::Put { key, value } => {
                let put = client.put(key.clone(), value.clone()).await.ok()?;
                Some(Answer {
                    revision: put.header?.revision,
                    done: true,
                    found: None,
                })
            }
            Action::Swap { key, seen, value } => swap(client, key, *seen, value).await,
            Action::Get { key } => {
                let request = RangeRequest {
                    key: key.clone().into(),
                    ..Default::default()
                };
                let range = client.range(request).await.ok()?;
                let found = range.kvs.into_iter().next();
                Some(Answer {
                    revision: range.header?.revision,
                    done: true,
                    found: found.map(|pair| (text(&pair.value), pair.mod_revision)),
                })
            }
        }
    };
    tokio::time::timeout(PATIENCE, answered)
        .await
        .ok()
        .flatten()
}

async fn swap(client: &Client, key: &str, seen: i64, value: &str) -> Option<Answer> {
    let compare = Compare {
        key: key.to_owned().into(),
        result: CompareResult::Equal.into(),
        target: CompareTarget::Mod.into(),
        target_union: Some(TargetUnion::ModRevision(seen)),
        ..Default::default()
    };
    let put = PutRequest {
        key: key.to_owned().into(),
        value: value.to_owned().into(),
        ..Default::default()
    };
    let request = TxnRequest {
        compare: vec![compare],
        success: vec![RequestOp {
            request: Some(Operation::RequestPut(put)),
        }],
        failure: vec![],
    };
    let answer = client.kv.clone().txn(request).await.ok()?.into_inner();
    Some(Answer {
        revision: answer.header?.revision,
        done: answer.succeeded,
        found: None,
    })
}

/// Follows all changes through one member after the other, each from where the one before ended.
async fn watch(urls: Vec<String>, stop: Arc<AtomicBool>) -> Vec<Change> {
    let mut seen: Vec<Change> = Vec::new();
    let mut member = 0;
    while !stop.load(Ordering::Relaxed) {
        member = (member + 1) % urls.len();
        let client = Client::new(&urls[member]);
        let from = seen.last().map_or(1, |change| change.revision + 1);
        let following = follow(&client, from, &mut seen);
        // Until it ends, or for a while.
        let _ = tokio::time::timeout(Duration::from_secs(7), following).await;
    }
    seen
}

async fn follow(client: &Client, from: i64, seen: &mut Vec<Change>) -> Option<()> {
    let mut watching = Watching::try_open(client, everything(from)).await.ok()?;
    loop {
        let answer = watching.next_or_end().await.ok()??;
        for event in answer.events {
            let pair = event.kv?;
            seen.push(Change {
                revision: pair.mod_revision,
                key: text(&pair.key),
                value: text(&pair.value),
            });
        }
    }
}

/// The history that a member tells.
async fn tell(client: &Client, last: i64) -> Vec<Change> {
    let mut told = Vec::new();
    let telling = async {
        while told
            .last()
            .is_none_or(|change: &Change| change.revision < last)
        {
            let from = told.last().map_or(1, |change| change.revision + 1);
            let following = follow(client, from, &mut told);
            let _ = tokio::time::timeout(Duration::from_millis(500), following).await;
        }
    };
    let told_in_time = tokio::time::timeout(Duration::from_secs(60), telling).await;
    assert!(told_in_time.is_ok(), "a member does not tell its history");
    told
}

fn everything(from: i64) -> WatchCreateRequest {
    WatchCreateRequest {
        key: b"\0".to_vec().into(),
        range_end: b"\0".to_vec().into(),
        start_revision: from,
        ..Default::default()
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
