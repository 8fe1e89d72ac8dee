//! How long a synced write takes: writes as the server's log makes them, into zero-filled space.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::time::Duration;

use nix::fcntl::OFlag;

use crate::host::clock;

/// One run is no verdict: others' work on the same disk moves the result tenfold.
const ROUNDS: usize = 3;
/// What an append of etcd's log weighs on average; the size that its own advice measures with.
const WRITE_BYTES: usize = 2300;
/// Writes of one round: enough for a p99 that one outlier does not move.
const WRITES_MAX: usize = 3_000;
/// One round ends after this time on a slow disk, so that three end within ten seconds.
const ROUND_LIMIT: Duration = Duration::from_secs(3);

/// One round's result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Round {
    pub(crate) writes: usize,
    pub(crate) p50: Duration,
    pub(crate) p99: Duration,
    pub(crate) max: Duration,
    pub(crate) total: Duration,
}

/// Measures in the folder that `path` lies in, or will be made in. Leaves nothing behind: the file
/// has no name at any time.
///
/// # Errors
/// When no file can be made there.
pub(crate) fn probe(path: &Path) -> std::io::Result<Vec<Round>> {
    let folder = super::device::existing_ancestor(path);
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .mode(0o600)
        .custom_flags(OFlag::O_TMPFILE.bits())
        .open(folder)?;
    let zeroes = vec![0; 1 << 20];
    for mebibyte in 0..(WRITE_BYTES * WRITES_MAX).div_ceil(zeroes.len()) {
        file.write_all_at(&zeroes, to_offset(mebibyte * zeroes.len()))?;
    }
    file.sync_all()?;
    (0..ROUNDS).map(|_| round(&file)).collect()
}

fn round(file: &File) -> std::io::Result<Round> {
    let payload = [0x5a; WRITE_BYTES];
    let mut times = Vec::with_capacity(WRITES_MAX);
    let began = clock::now();
    while times.len() < WRITES_MAX && began.elapsed() < ROUND_LIMIT {
        let before = clock::now();
        file.write_all_at(&payload, to_offset(times.len() * WRITE_BYTES))?;
        file.sync_data()?;
        times.push(before.elapsed());
    }
    Ok(summary(times))
}

fn to_offset(bytes: usize) -> u64 {
    u64::try_from(bytes).expect("a few mebibytes fit")
}

fn summary(mut times: Vec<Duration>) -> Round {
    times.sort();
    let at =
        |share: usize| times.get((times.len() * share / 100).min(times.len().saturating_sub(1)));
    let at = |share| at(share).copied().unwrap_or_default();
    Round {
        writes: times.len(),
        p50: at(50),
        p99: at(99),
        max: times.last().copied().unwrap_or_default(),
        total: times.iter().sum(),
    }
}

/// The round whose p99 lies in the middle.
pub(crate) fn median(rounds: &[Round]) -> Option<Round> {
    let mut rounds = rounds.to_vec();
    rounds.sort_by_key(|round| round.p99);
    rounds.get(rounds.len() / 2).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_come_from_the_sorted_times() {
        let times = (1..=200).rev().map(Duration::from_millis).collect();
        let round = summary(times);
        assert_eq!(round.writes, 200);
        assert_eq!(round.p50, Duration::from_millis(101));
        assert_eq!(round.p99, Duration::from_millis(199));
        assert_eq!(round.max, Duration::from_millis(200));
        assert_eq!(summary(Vec::new()).p99, Duration::ZERO);
    }

    #[test]
    fn the_median_is_neither_the_best_nor_the_worst_round() {
        let round = |p99| Round {
            writes: 1,
            p50: Duration::ZERO,
            p99: Duration::from_millis(p99),
            max: Duration::ZERO,
            total: Duration::ZERO,
        };
        let median = median(&[round(50), round(1), round(7)]).expect("three rounds");
        assert_eq!(median.p99, Duration::from_millis(7));
    }

    #[test]
    fn a_probe_measures_every_round_and_leaves_no_file() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let rounds = probe(&folder.path().join("not/there/yet")).expect("probe");
        assert_eq!(rounds.len(), ROUNDS);
        assert!(
            rounds
                .iter()
                .all(|round| round.writes > 0 && round.p99 <= round.max)
        );
        assert_eq!(std::fs::read_dir(folder.path()).expect("folder").count(), 0);
    }
}
