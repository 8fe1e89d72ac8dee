//! The tests: many seeds, the same seed twice, and mistakes that must be found.

use std::time::Instant;

use crate::planted::Bug;
use crate::run::{Ran, Report, run};
use crate::scenario::Scenario;

/// Seeds of a run that is no soak.
const SEEDS: u64 = 2_000;
/// Seeds within which a planted mistake must be found.
const SEEDS_TO_FIND: u64 = 1_000;
/// Lines of the story of a seed that failed.
const LINES_TOLD: usize = 120;

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().expect("a number"))
}

/// The mistake that `SIM_BUG` names, if it does.
fn wanted_bug() -> Option<Bug> {
    let wanted = std::env::var("SIM_BUG").ok()?;
    let named = Bug::ALL
        .into_iter()
        .find(|bug| wanted == format!("{bug:?}"));
    Some(named.unwrap_or_else(|| panic!("SIM_BUG is none of {:?}", Bug::ALL)))
}

/// Tells a seed's story and fails.
#[expect(clippy::print_stdout, reason = "the story of a failure")]
fn tell(scenario: &Scenario) -> ! {
    let seed = scenario.seed;
    println!("{scenario:?}");
    let Ran { outcome, trace } = run(scenario, true);
    for line in &trace[trace.len().saturating_sub(LINES_TOLD)..] {
        println!("{line}");
    }
    let what = outcome.err();
    panic!("seed {seed}: {what:?}; replay with SIM_SEED={seed}");
}

#[derive(Default)]
struct Sum {
    seeds: u64,
    simulated: u64,
    report: Report,
}

impl Sum {
    fn add(&mut self, report: &Report) {
        self.seeds += 1;
        self.simulated += report.simulated / 1_000_000;
        let sum = &mut self.report;
        sum.entries += report.entries;
        sum.elections += report.elections;
        sum.writes += report.writes;
        sum.reads += report.reads;
        sum.events += report.events;
        sum.starts += report.starts;
    }

    #[expect(clippy::print_stdout, reason = "tells how much was tried")]
    fn tell(&self, started: Instant) {
        let seconds = started.elapsed().as_secs_f64();
        println!(
            "{} seeds, {:.1} a second, {:.0} times real time: {} entries, {} elections, {} starts, \
             {} writes and {} reads answered, {} events told",
            self.seeds,
            self.seeds as f64 / seconds,
            self.simulated as f64 / seconds,
            self.report.entries,
            self.report.elections,
            self.report.starts,
            self.report.writes,
            self.report.reads,
            self.report.events,
        );
    }
}

/// What in it shows which of etcd's old troubles:
/// - crashes at every moment, of one or of all, also without a word of what was not synced: [D1] [D2] [D4]
///   [D10] [D14] [M5] [M6]; in compactions of a few keys a step [D5]; in sweeps [D3];
/// - databases that are read for others while their owner goes on committing [D16];
/// - members added, promoted and removed, whether that makes sense or not [D18] [M2];
/// - reads through anybody, with leaders that are paused, cut off, slow or new: [L1] [L2] [L3] [L4] [L5] [M8];
/// - watchers with short queues, from the future on, through installed states and compactions, with progress
///   told in between: [W1] [W2] [W3] [W4] [W6].
#[test]
#[expect(
    clippy::disallowed_methods,
    reason = "a soak lasts for a time, and the rate is told; no result depends on it"
)]
fn promises_hold_whatever_befalls_the_members() {
    if number("SIM_SEED").is_some() {
        return;
    }
    let first = number("SOAK_SEED").unwrap_or(1);
    let (count, seconds) = (number("SIM_SEEDS").unwrap_or(SEEDS), number("SOAK_SECONDS"));
    let started = Instant::now();
    let mut sum = Sum::default();
    for seed in first.. {
        let is_enough = match seconds {
            Some(seconds) => started.elapsed().as_secs() >= seconds,
            None => sum.seeds >= count,
        };
        if is_enough {
            break;
        }
        let scenario = Scenario::draw(seed, None);
        match run(&scenario, false).outcome {
            Ok(report) => sum.add(&report),
            Err(_) => tell(&scenario),
        }
    }
    sum.tell(started);
}

/// `SIM_SEED=n`, and `SIM_BUG=name` for a planted mistake: what happens, line by line.
#[test]
#[expect(clippy::print_stdout, reason = "the story of a seed")]
fn one_seed_is_told() {
    let Some(seed) = number("SIM_SEED") else {
        return;
    };
    let scenario = Scenario::draw(seed, wanted_bug());
    let Ran { outcome, trace } = run(&scenario, true);
    println!("{scenario:?}");
    trace.iter().for_each(|line| println!("{line}"));
    match outcome {
        Ok(report) => println!("{report:?}"),
        Err(what) => panic!("seed {seed}: {what}"),
    }
}

#[test]
fn a_seed_gives_the_same_run_again() {
    for seed in 1..=20 {
        let scenario = Scenario::draw(seed, None);
        let (first, second) = (run(&scenario, false), run(&scenario, true));
        assert_eq!(first.outcome, second.outcome, "seed {seed}");
        let different = run(&Scenario::draw(seed + 1000, None), false);
        assert_ne!(first.outcome, different.outcome, "seed {seed}");
    }
}

#[test]
#[expect(clippy::print_stdout, reason = "tells how soon each was found")]
fn planted_mistakes_are_found() {
    if number("SIM_SEED").is_some() {
        return;
    }
    let bugs = wanted_bug().map_or(Bug::ALL.to_vec(), |bug| vec![bug]);
    let mut missed = Vec::new();
    for bug in bugs {
        let found = (1..=SEEDS_TO_FIND).find_map(|seed| {
            let outcome = run(&Scenario::draw(seed, Some(bug)), false).outcome;
            outcome.err().map(|what| (seed, what))
        });
        match found {
            Some((seed, what)) => println!("{bug:?}: after {seed} seeds: {what}"),
            None => missed.push(bug),
        }
    }
    assert!(missed.is_empty(), "not found: {missed:?}");
}
