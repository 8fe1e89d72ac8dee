//! What a seed decides before anything happens: the cluster, its load, and what befalls it.

use holdfast_tests::dice::Dice;

use crate::planted::Bug;

/// Time in microseconds of the false clock.
pub(crate) type Micros = u64;

pub(crate) const MILLISECOND: Micros = 1_000;
pub(crate) const SECOND: Micros = 1_000_000;

/// Time of one tick by a clock that goes right; etcd's value.
pub(crate) const TICK: Micros = 100 * MILLISECOND;

/// One kind of misfortune.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// A host loses power; what was not synced is lost, kept or torn.
    PowerLoss,
    /// A host loses power in the middle of one of its next calls of the disk.
    PowerLossAtCall,
    /// A host loses power soon after it has come to a moment at which much is under way.
    PowerLossAtMoment,
    /// All hosts lose power at once.
    Blackout,
    /// A process ends at once; its disk keeps what was written.
    Kill,
    /// A sync fails once, which ends the process.
    FailedSync,
    /// A process stands still while its messages gather.
    Pause,
    /// A host's disk is slow for a while.
    SlowDisk,
    /// Two groups of hosts cannot reach each other for a while.
    Partition,
    /// Messages from one host to another are lost for a while.
    OneWayCut,
    /// Messages of one host take long for a while, each another time.
    SlowLinks,
    /// Somebody throws writes at a host and waits for nothing: a log that nobody else has may grow.
    Flood,
    /// Leadership is handed over.
    HandOver,
    /// Somebody is added, promoted or removed; also where that makes no sense.
    Membership,
}

/// A moment at which something is under way that a crash must not spoil.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Moment {
    /// A vote or a term is written, and not synced.
    VoteWritten,
    /// Entries are written, and not synced.
    EntriesWritten,
    /// A leader's database was received; consensus does not know yet.
    DatabaseReceived,
    /// The disk is busy with a commit, or with the change to a leader's database.
    JobBegun,
}

pub(crate) const MOMENTS: [Moment; 4] = [
    Moment::VoteWritten,
    Moment::EntriesWritten,
    Moment::DatabaseReceived,
    Moment::JobBegun,
];

const ALL_FAULTS: [Fault; 14] = [
    Fault::PowerLoss,
    Fault::PowerLossAtCall,
    Fault::PowerLossAtMoment,
    Fault::Blackout,
    Fault::Kill,
    Fault::FailedSync,
    Fault::Pause,
    Fault::SlowDisk,
    Fault::Partition,
    Fault::OneWayCut,
    Fault::SlowLinks,
    Fault::Flood,
    Fault::HandOver,
    Fault::Membership,
];

/// A run, as its seed has drawn it.
#[derive(Clone, Debug)]
pub(crate) struct Scenario {
    /// Makes the run.
    pub(crate) seed: u64,
    /// A mistake that the simulated shell makes on purpose.
    pub(crate) bug: Option<Bug>,
    /// Members of the first hour.
    pub(crate) members: u64,
    /// How long faults go on.
    pub(crate) trouble: Micros,
    /// Which kinds of them there are.
    pub(crate) faults: Vec<Fault>,
    /// Mean time between two.
    pub(crate) fault_gap: Micros,
    /// Messages lost in a thousand.
    pub(crate) lost_permille: u64,
    /// Messages doubled in a thousand.
    pub(crate) doubled_permille: u64,
    /// Longest usual delay of a message.
    pub(crate) delay: Micros,
    /// Messages in a thousand that take up to 1.5 seconds.
    pub(crate) late_permille: u64,
    /// Clocks go at 0.9 to 1.1 of their rate.
    pub(crate) clocks_differ: bool,
    /// Longest usual time of a sync.
    pub(crate) sync_time: Micros,
    /// Longest usual time until applying goes on.
    pub(crate) apply_time: Micros,
    /// Longest time that a change waits for its commit.
    pub(crate) commit_interval: Micros,
    /// Applied entries between two raft snapshots.
    pub(crate) snapshot_count: u64,
    /// Entries kept in memory behind a raft snapshot.
    pub(crate) catch_up: u64,
    /// Keys or records in a step of a compaction.
    pub(crate) compaction_step: usize,
    /// Ticks without a leader before an election: 10 with etcd's settings; with few of them elections collide.
    pub(crate) election_ticks: usize,
    /// Bytes of a log segment.
    pub(crate) segment_size: u64,
    /// Deliveries that wait for one watcher.
    pub(crate) watch_queue: usize,
    /// Revisions that a watcher reads from history in one step.
    pub(crate) watch_step: i64,
    /// How many clients there are.
    pub(crate) clients: usize,
    /// How many watchers.
    pub(crate) watchers: usize,
    /// Mean pause of a client between two requests.
    pub(crate) client_gap: Micros,
    /// How many keys they use.
    pub(crate) keys: u64,
    /// One request in so many is a compaction; 0 for none.
    pub(crate) compaction_odds: u64,
    /// Whether space is given back while in use.
    pub(crate) sweeps: bool,
    /// Whether all lose power once more when all is well, with everything that was not synced.
    pub(crate) ends_dark: bool,
}

impl Scenario {
    /// The run of a seed.
    pub(crate) fn draw(seed: u64, bug: Option<Bug>) -> Scenario {
        let mut dice = Dice::new(seed ^ 0x5eed);
        let dice = &mut dice;
        Scenario {
            seed,
            bug,
            members: dice.pick(&[3, 3, 3, 3, 3, 3, 4, 5, 5, 7]),
            trouble: dice.pick(&[6, 8, 10, 14]) * SECOND,
            faults: faults(dice),
            fault_gap: dice.pick(&[200, 400, 700]) * MILLISECOND,
            lost_permille: dice.pick(&[0, 0, 10, 50, 150]),
            doubled_permille: dice.pick(&[0, 0, 10, 100]),
            delay: dice.pick(&[1, 2, 10, 50]) * MILLISECOND,
            late_permille: dice.pick(&[0, 0, 10, 100]),
            clocks_differ: dice.one_in(2),
            sync_time: dice.pick(&[200, 1_000, 5_000, 20_000]),
            apply_time: dice.pick(&[100, 1_000, 20_000, 100_000]),
            commit_interval: dice.pick(&[10, 50, 100, 400]) * MILLISECOND,
            snapshot_count: dice.pick(&[10, 10, 50, 100, 1000]),
            catch_up: dice.pick(&[0, 2, 10, 100]),
            compaction_step: dice.pick(&[3, 10, 100, 500]),
            election_ticks: dice.pick(&[10, 10, 5, 3]),
            segment_size: dice.pick(&[4, 8, 32, 64]) << 10,
            watch_queue: dice.pick(&[1, 3, 128]),
            watch_step: dice.pick(&[1, 7, 1000]),
            clients: dice.pick(&[2, 4, 6]),
            watchers: dice.pick(&[1, 2, 3]),
            client_gap: dice.pick(&[10, 30, 60]) * MILLISECOND,
            keys: dice.pick(&[2, 6, 30]),
            compaction_odds: dice.pick(&[0, 20, 60]),
            sweeps: dice.one_in(3),
            ends_dark: dice.one_in(3),
        }
    }
}

/// Few kinds for most seeds, so that one does not hide what another brings out; all for some.
fn faults(dice: &mut Dice) -> Vec<Fault> {
    if dice.one_in(6) {
        return ALL_FAULTS.to_vec();
    }
    let count = 1 + dice.below(3);
    let mut chosen = Vec::new();
    for _ in 0..count {
        let fault = dice.pick(&ALL_FAULTS);
        if !chosen.contains(&fault) {
            chosen.push(fault);
        }
    }
    chosen
}
