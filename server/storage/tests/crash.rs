//! Power lost at every call of the disk: what is found is a committed state, never an older one than
//! the last that was acknowledged, and the file is sound.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use storage::disk::Disk;
use storage::disk::simulated::{FailedSync, PowerLoss, SimulatedDisk};
use storage::{Batch, Committed, Fault, Store, Sweep, check};

const DB: &str = "/db";
/// Commits of one workload.
const COMMITS: usize = 14;
/// Crash points of a run that is no soak, or a few more.
const CRASHES: u32 = 50_000;

type Model = BTreeMap<Bytes, Bytes>;

/// Small steps of a fixed pseudo-random walk, the same for each run.
struct Walk(u64);

impl Walk {
    fn next(&mut self, below: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % below
    }

    /// A batch of puts and deletes, carried out on the model too.
    fn batch(&mut self, model: &mut Model) -> Batch {
        let mut batch = Batch::new();
        for _ in 0..self.next(30) + 1 {
            let key = Bytes::from(format!("{:05}", self.next(200)));
            if self.next(4) == 0 {
                batch.delete("key", key.clone());
                model.remove(&key);
            } else {
                let size = if self.next(10) == 0 {
                    9000
                } else {
                    self.next(600)
                };
                let value =
                    vec![u8::try_from(self.next(256)).unwrap(); usize::try_from(size).unwrap()];
                batch.put("key", key.clone(), value.clone().into());
                model.insert(key, value.into());
            }
        }
        batch
    }
}

/// What a run left: the state after each commit, and how many were acknowledged.
struct Run {
    states: Vec<Model>,
    acknowledged: usize,
    /// What ended it early.
    fault: Option<String>,
}

/// Commits until the end or the first fault; rewrites the file half-way, gives space back now and then.
fn run(disk: &SimulatedDisk, seed: u64) -> Run {
    let mut run = Run {
        states: vec![Model::new()],
        acknowledged: 0,
        fault: None,
    };
    let worked = work(disk, seed, &mut run);
    run.fault = worked.err().map(|fault| fault.to_string());
    run
}

fn work(disk: &SimulatedDisk, seed: u64, run: &mut Run) -> Result<(), Fault> {
    let mut walk = Walk(seed);
    let mut model = Model::new();
    let disk: Arc<dyn Disk> = Arc::new(disk.clone());
    let mut store = Store::create(disk, Path::new(DB))?;
    for number in 0..COMMITS {
        let batch = walk.batch(&mut model);
        run.states.push(model.clone());
        store.commit(batch)?;
        run.acknowledged = run.states.len() - 1;
        if number == COMMITS / 2 {
            store.rewrite()?;
        }
        // [D3] Space comes back between commits, which changes no content.
        if number % 3 == 2 {
            sweep(&mut store, number % 2 == 0)?;
        }
    }
    Ok(())
}

fn sweep(store: &mut Store, dense: bool) -> Result<(), Fault> {
    let mut sweep = Sweep::new(store.committed(), dense);
    while !sweep.is_done() {
        store.sweep(&mut sweep, 4)?;
    }
    Ok(())
}

fn content(committed: &Committed) -> Model {
    check(committed).expect("a sound file");
    match committed.bucket("key").expect("readable") {
        None => Model::new(),
        Some(bucket) => bucket
            .range(&[])
            .expect("readable")
            .map(Result::unwrap)
            .collect(),
    }
}

/// Opens what power loss left and compares it with the states that may be found; then goes on.
fn recover(found: &SimulatedDisk, run: &Run, what: &str) {
    if !found.exists(Path::new(DB)).expect("the disk works again") {
        assert_eq!(run.acknowledged, 0, "{what}: the file is gone");
        return;
    }
    let disk: Arc<dyn Disk> = Arc::new(found.clone());
    let mut store = match Store::open(disk, Path::new(DB)) {
        Ok(store) => store,
        Err(fault @ Fault::Damaged { .. }) => {
            // A file whose making was cut short; the member starts anew without its log.
            assert_eq!(run.acknowledged, 0, "{what}: {fault}");
            return;
        }
        Err(fault) => panic!("{what}: {fault}"),
    };
    let state = content(store.committed());
    let possible = &run.states[run.acknowledged..];
    assert!(
        possible.contains(&state),
        "{what}: neither the last state nor the one under way"
    );
    let mut batch = Batch::new();
    batch.put("key", "after".into(), "crash".into());
    let mut expected = state;
    expected.insert("after".into(), "crash".into());
    for _ in 0..3 {
        let committed = store.commit(batch.clone()).expect("the disk works again");
        assert_eq!(content(&committed), expected, "{what}: after going on");
    }
}

/// `SOAK_SECONDS` goes on with further seeds for so long, from `SOAK_SEED` on.
#[test]
#[expect(
    clippy::disallowed_methods,
    reason = "a soak lasts for a time; no result depends on it"
)]
#[expect(clippy::print_stdout, reason = "tells how much was tried")]
fn a_crash_at_any_call_leaves_a_committed_state() {
    let number = |name| {
        std::env::var(name)
            .ok()
            .map(|text| text.parse().expect("a number"))
    };
    let first: u64 = number("SOAK_SEED").unwrap_or(1);
    let seconds: Option<u64> = number("SOAK_SECONDS");
    let started = Instant::now();
    let mut crashes = 0;
    for seed in first.. {
        let enough = match seconds {
            Some(seconds) => started.elapsed().as_secs() >= seconds,
            None => crashes > CRASHES,
        };
        if enough {
            let rate = f64::from(crashes) / started.elapsed().as_secs_f64();
            println!(
                "{crashes} crash points, {rate:.0} a second, seeds {first} to {}",
                seed - 1
            );
            return;
        }
        let whole = SimulatedDisk::new();
        run(&whole, seed);
        let calls = whole.calls();
        for stop in 0..=calls {
            let disk = SimulatedDisk::new();
            disk.stop_at(stop);
            let left = run(&disk, seed);
            let losses = [
                PowerLoss::NothingKept,
                PowerLoss::AllKept,
                PowerLoss::Random(stop),
                PowerLoss::Random(stop + 1_000_000),
                PowerLoss::Random(stop + 2_000_000),
                PowerLoss::LastWriteTorn(stop),
            ];
            for loss in losses {
                let what = format!("seed {seed}, stopped at call {stop} of {calls}, {loss:?}");
                recover(&disk.crash(loss), &left, &what);
                crashes += 1;
            }
        }
    }
}

/// [D14]
#[test]
fn a_failed_sync_is_told_and_nothing_is_acknowledged_after_it() {
    let whole = SimulatedDisk::new();
    run(&whole, 7);
    for (number, outcome) in
        (1..40).flat_map(|n| [(n, FailedSync::DataWait), (n, FailedSync::DataLost)])
    {
        let disk = SimulatedDisk::new();
        disk.fail_sync(number, outcome);
        let left = run(&disk, 7);
        for loss in [
            PowerLoss::NothingKept,
            PowerLoss::AllKept,
            PowerLoss::Random(number),
        ] {
            let what = format!("sync {number} failed, {outcome:?}, {loss:?}");
            recover(&disk.crash(loss), &left, &what);
        }
    }
}

/// [D19] Wherever the disk is full, it is told, and what was acknowledged is found and read; with space
/// again the store goes on.
#[test]
fn a_full_disk_at_every_write_is_told_and_loses_nothing() {
    const SEEDS: [u64; 8] = [1, 2, 3, 4, 5, 6, 7, 8];
    let mut points = 0;
    for seed in SEEDS {
        let whole = SimulatedDisk::new();
        run(&whole, seed);
        for write in 1..=whole.writes() {
            let disk = SimulatedDisk::new();
            disk.no_space_from(write);
            let left = run(&disk, seed);
            let what = format!("seed {seed}, full from write {write} of {}", whole.writes());
            let fault = left.fault.as_deref().unwrap_or("none");
            assert!(fault.contains("No space left on device"), "{what}: {fault}");
            for loss in [
                PowerLoss::NothingKept,
                PowerLoss::Random(write),
                PowerLoss::LastWriteTorn(write),
            ] {
                recover(&disk.crash(loss), &left, &format!("{what}, {loss:?}"));
            }
            read_while_full(&disk, &left, &what);
            disk.resume();
            recover(&disk, &left, &format!("{what}, started again"));
            points += 1;
        }
    }
    assert!(points > 500, "{points}");
}

fn read_while_full(disk: &SimulatedDisk, run: &Run, what: &str) {
    if run.acknowledged == 0 {
        return;
    }
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let store = Store::open(shared, Path::new(DB));
    let store = store.unwrap_or_else(|fault| panic!("{what}: {fault}"));
    let possible = &run.states[run.acknowledged..];
    let state = content(store.committed());
    assert!(possible.contains(&state), "{what}, while it is full");
}
