//! Power is lost at every call of a workload; what was synced is always found.

use super::*;
use crate::disk::simulated::{FailedSync, PowerLoss};

/// What the log was told, record by record, and how much of it was synced.
#[derive(Default)]
struct Told {
    /// Whether the log was created.
    created: bool,
    records: Vec<Record>,
    synced: usize,
    /// A point that is marked, durably, and committed.
    start: SnapshotPoint,
}

impl Told {
    fn tell(&mut self, entries: &[Entry], state: Option<HardState>) {
        self.records
            .extend(entries.iter().cloned().map(Record::Entry));
        self.records.extend(state.map(Record::State));
    }

    /// Term of a committed entry.
    fn term_of(&self, index: Index) -> u64 {
        let newest = self.records.iter().rev().find_map(|record| match record {
            Record::Entry(entry) if entry.index == index => Some(entry.term.0),
            _ => None,
        });
        newest.expect("it was appended")
    }

    /// Entries behind `start` and state after each number of records that may have survived.
    fn possible(&self, start: SnapshotPoint) -> Vec<(Vec<Entry>, HardState)> {
        let mut now = (Vec::<Entry>::new(), HardState::default());
        let mut possible = Vec::new();
        for (number, record) in (1..).zip([None].into_iter().chain(self.records.iter().map(Some))) {
            match record {
                Some(Record::Entry(entry)) => {
                    now.0.retain(|older| older.index < entry.index);
                    now.0.push(entry.clone());
                }
                Some(Record::State(state)) => now.1 = *state,
                _ => {}
            }
            if number > self.synced {
                let behind = now.0.iter().filter(|entry| entry.index > start.index);
                possible.push((behind.cloned().collect(), now.1));
            }
        }
        possible
    }
}

/// The same numbers for the same seed.
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

/// Appends batches at random, with segment cuts, states without a sync, replaced entries, snapshots and
/// purges, until the end or a fault.
fn work(disk: &SimulatedDisk, seed: u64, told: &mut Told) -> Result<(), Fault> {
    let mut chance = Chance(seed);
    let mut log = create(disk, SMALL)?;
    told.created = true;
    let (mut last, mut promise) = (0, HardState::default());
    for _ in 0..40 {
        match chance.below(10) {
            // A new leader replaces what is not committed.
            0 => {
                last = promise.commit.0 + chance.below(last - promise.commit.0 + 1);
                promise.term.0 += 1;
                promise.vote = NodeId(chance.below(3));
            }
            // A commit alone, not synced.
            1 | 2 => {
                promise.commit.0 += chance.below(last - promise.commit.0 + 1);
                promise.term.0 = promise.term.0.max(1);
                told.tell(&[], Some(promise));
                log.append(&[], Some(&promise))?;
                continue;
            }
            3 if promise.commit.0 > told.start.index.0 => {
                log.sync()?;
                told.synced = told.records.len();
                let mark = mark(told.term_of(promise.commit), promise.commit.0);
                log.save_snapshot(&mark)?;
                told.start = SnapshotPoint {
                    index: mark.index,
                    term: mark.term,
                };
                log.release_to(mark.index);
                log.purge(2)?;
                continue;
            }
            _ => {}
        }
        promise.term.0 = promise.term.0.max(1);
        let count = 1 + chance.below(4);
        let mut new_entry = |index| {
            let size = [0, 30, 300, 1700][chance.below(4) as usize];
            let byte = chance.below(4) as u8;
            entry(promise.term.0, index, vec![byte; size])
        };
        let entries: Vec<_> = (last + 1..=last + count).map(&mut new_entry).collect();
        last += count;
        let with_state = chance.below(4) > 0;
        if with_state {
            promise.commit.0 += chance.below(last - promise.commit.0 + 1);
        }
        let state = with_state.then_some(promise);
        told.tell(&entries, state);
        log.append(&entries, state.as_ref())?;
        if chance.below(5) > 0 {
            log.sync()?;
            told.synced = told.records.len();
        }
    }
    Ok(())
}

/// Opens what a crash left, compares it with what was told, and goes on writing.
fn check_found(found: &SimulatedDisk, told: &Told, context: &str) {
    if !Log::exists(found, dir()).unwrap() {
        assert!(!told.created, "{context}: the log is gone");
        create(found, SMALL).unwrap();
        return;
    }
    let possible = told.possible(told.start);
    let seen = read(found, dir(), told.start).unwrap_or_else(|fault| panic!("{context}: {fault}"));
    assert_eq!(found.calls(), 0, "reading changes nothing");
    let marks = valid_snapshots(found, dir()).unwrap();
    assert!(
        marks.iter().any(|mark| mark.index == told.start.index),
        "{context}"
    );
    let (mut log, recovered) =
        open_behind(found, told.start, SMALL).unwrap_or_else(|fault| panic!("{context}: {fault}"));
    assert_eq!(recovered.entries, seen.entries, "{context}");
    assert!(
        possible.contains(&(recovered.entries.clone(), recovered.hard_state)),
        "{context}: {} records of {} were synced, found entries {:?} and {:?}",
        told.synced,
        told.records.len(),
        indices(&recovered),
        recovered.hard_state,
    );
    // What was recovered is durable, and so is what comes next.
    let next = log.last_index().0.max(told.start.index.0) + 1;
    let mut expected = recovered.entries.clone();
    for index in next..next + 3 {
        let entry = entry(99, index, vec![9; 700]);
        log.append(
            std::slice::from_ref(&entry),
            Some(&state(99, recovered.hard_state.commit.0)),
        )
        .unwrap();
        log.sync().unwrap();
        expected.push(entry);
    }
    let again = found.crash(PowerLoss::NothingKept);
    assert_eq!(
        read(&again, dir(), told.start).unwrap().entries,
        expected,
        "{context}"
    );
}

/// Loses power in the middle of opening, then opens again.
fn check_crash_in_recovery(found: &SimulatedDisk, told: &Told, seed: u64, context: &str) {
    if !Log::exists(found, dir()).unwrap() {
        return;
    }
    let seen = read(found, dir(), told.start).unwrap();
    let mut call = 0;
    loop {
        call += 1;
        let copy = found.crash(PowerLoss::AllKept);
        copy.stop_at(call);
        if open_behind(&copy, told.start, SMALL).is_ok() {
            return;
        }
        let again = copy.crash(PowerLoss::Random(seed));
        let (_, recovered) = open_behind(&again, told.start, SMALL)
            .unwrap_or_else(|fault| panic!("{context}, then call {call} of recovery: {fault}"));
        assert_eq!(
            recovered.entries, seen.entries,
            "{context}, then call {call} of recovery"
        );
        assert_eq!(recovered.hard_state, seen.hard_state);
    }
}

/// [D2], [D12]: all that was synced is found, and what a torn end left behind is not read as records later.
#[test]
fn what_was_synced_survives_a_crash_at_every_call() {
    let mut points = 0;
    for seed in 0..6 {
        let disk = new_disk();
        let before = disk.calls();
        work(&disk, seed, &mut Told::default()).unwrap();
        for call in before + 1..=disk.calls() + 1 {
            let disk = new_disk();
            disk.stop_at(call);
            let mut told = Told::default();
            let _ = work(&disk, seed, &mut told);
            let losses = [
                PowerLoss::NothingKept,
                PowerLoss::AllKept,
                PowerLoss::LastWriteTorn(call),
            ]
            .into_iter()
            .chain((0..8).map(|number| PowerLoss::Random(call * 8 + number)));
            for loss in losses {
                let context = format!("seed {seed}, call {call}, {loss:?}");
                let found = disk.crash(loss);
                if matches!(loss, PowerLoss::Random(number) if number % 8 == 0) {
                    check_crash_in_recovery(&found, &told, call, &context);
                }
                check_found(&found, &told, &context);
                points += 1;
            }
        }
    }
    assert!(points > 5_000);
}

/// A killed process finds all that it wrote, whether it synced it or not, and a torn batch never.
#[test]
fn a_kill_at_every_call_loses_nothing_that_was_appended() {
    let disk = new_disk();
    let before = disk.calls();
    work(&disk, 3, &mut Told::default()).unwrap();
    for call in before + 1..=disk.calls() {
        let disk = new_disk();
        disk.stop_at(call);
        let mut told = Told::default();
        let _ = work(&disk, 3, &mut told);
        disk.resume();
        check_found(
            &disk.crash(PowerLoss::AllKept),
            &told,
            &format!("kill at call {call}"),
        );
    }
}

/// [D14]: after a failed sync the log refuses to go on, and what a restart trusts is really on the disk.
#[test]
fn a_failed_sync_stops_the_log_and_a_restart_syncs_what_it_trusts() {
    let disk = new_disk();
    let before = disk.syncs();
    work(&disk, 1, &mut Told::default()).unwrap();
    for sync in before + 1..=disk.syncs() {
        for failed in [FailedSync::DataWait, FailedSync::DataLost] {
            let disk = new_disk();
            disk.fail_sync(sync, failed);
            let mut told = Told::default();
            let fault = work(&disk, 1, &mut told).expect_err("a failed sync is reported");
            assert!(fault.to_string().contains("sync"), "{fault}");
            if !told.created {
                continue;
            }
            disk.resume();
            let (_, recovered) = open_behind(&disk, told.start, SMALL).unwrap();
            let expected = (recovered.entries.clone(), recovered.hard_state);
            assert!(told.possible(told.start).contains(&expected), "sync {sync}");
            let found = disk.crash(PowerLoss::NothingKept);
            let again = read(&found, dir(), told.start).unwrap();
            assert_eq!(
                (again.entries, again.hard_state),
                expected,
                "sync {sync} {failed:?}"
            );
        }
    }
}

#[test]
fn a_log_that_failed_once_refuses_all_further_work() {
    let disk = new_disk();
    let mut log = create(&disk, LARGE).unwrap();
    append_one(&mut log, 1, 10);
    log.append(&[entry(1, 2, &b"x"[..])], None).unwrap();
    disk.fail_sync(disk.syncs() + 1, FailedSync::DataLost);
    assert!(log.sync().is_err());
    let calls = disk.calls();
    assert!(log.sync().is_err());
    assert!(log.append(&[entry(1, 3, &b"x"[..])], None).is_err());
    assert!(log.append(&[], None).is_err());
    assert!(log.save_snapshot(&mark(1, 1)).is_err());
    assert_eq!(disk.calls(), calls, "nothing more is written");
}

/// [D19]: wherever the disk is full, the log stops, and starts again once there is space.
#[test]
fn a_full_disk_at_every_write_loses_nothing_that_was_synced() {
    let disk = new_disk();
    let before = disk.writes();
    work(&disk, 2, &mut Told::default()).unwrap();
    for write in before + 1..=disk.writes() {
        let disk = new_disk();
        disk.no_space_from(write);
        let mut told = Told::default();
        let worked = work(&disk, 2, &mut told);
        assert!(
            worked.is_err() || write + 3 > disk.writes(),
            "write {write} needed no space"
        );
        disk.resume();
        let found = disk.crash(PowerLoss::AllKept);
        check_found(&found, &told, &format!("full from write {write} on"));
    }
}
