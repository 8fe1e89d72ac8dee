//! A host: its disk, its clock, and the member that runs on it, if one does.

use std::sync::Arc;

use holdfast_tests::dice::Dice;
use storage::disk::Disk;
use storage::disk::simulated::{PowerLoss, SimulatedDisk};

use crate::directory::{self, Life};
use crate::member::{Failure, Member};
use crate::scenario::{Micros, Moment, Scenario, TICK};

pub(crate) struct Host {
    pub(crate) id: u64,
    pub(crate) disk: SimulatedDisk,
    pub(crate) member: Option<Member>,
    /// How many members have run here.
    pub(crate) life: u64,
    /// Time between two ticks, by the world's clock.
    pub(crate) tick: Micros,
    pub(crate) paused_until: Micros,
    pub(crate) sync_time: Micros,
    pub(crate) apply_time: Micros,
    /// Whether its disk may lose power in a call, or fail in a sync.
    pub(crate) is_fault_arranged: bool,
    /// It loses power soon after this.
    pub(crate) awaited: Option<Moment>,
    pub(crate) is_turn_due: bool,
    pub(crate) is_apply_due: bool,
    /// Its member knows that it was removed, and never starts again.
    pub(crate) is_removed: bool,
    /// What this life has shown, for what must never fall.
    pub(crate) seen: Seen,
}

#[derive(Clone, Copy, Default)]
pub(crate) struct Seen {
    pub(crate) commit: u64,
    pub(crate) revision: i64,
    pub(crate) term: u64,
}

impl Host {
    pub(crate) fn new(
        id: u64,
        joins: bool,
        scenario: &Scenario,
        dice: &mut Dice,
    ) -> Result<Host, Failure> {
        let disk = SimulatedDisk::new();
        let shared: Arc<dyn Disk> = Arc::new(disk.clone());
        directory::create(&shared, id, joins, scenario)?;
        let rate = match scenario.clocks_differ {
            true => 90 + dice.below(21),
            false => 100,
        };
        Ok(Host {
            id,
            disk,
            member: None,
            life: 0,
            tick: TICK * 100 / rate,
            paused_until: 0,
            sync_time: scenario.sync_time,
            apply_time: scenario.apply_time,
            is_fault_arranged: false,
            awaited: None,
            is_turn_due: false,
            is_apply_due: false,
            is_removed: false,
            seen: Seen::default(),
        })
    }

    pub(crate) fn is_running(&self) -> bool {
        self.member.is_some()
    }

    pub(crate) fn start(&mut self, scenario: &Scenario) -> Result<(), Failure> {
        self.life += 1;
        let life = Life {
            id: self.id,
            number: self.life,
        };
        let disk: Arc<dyn Disk> = Arc::new(self.disk.clone());
        let member = directory::open(disk, life, scenario)?;
        (self.is_turn_due, self.is_apply_due) = (false, false);
        self.seen = Seen::default();
        self.member = Some(member);
        Ok(())
    }

    /// The process is gone; the disk has all that was written, synced or not.
    pub(crate) fn kill(&mut self) {
        self.member = None;
        self.is_fault_arranged = false;
        self.disk.resume();
    }

    /// Power is gone, and with it all that was not synced.
    pub(crate) fn lose_what_is_unsynced(&mut self) {
        self.member = None;
        self.is_fault_arranged = false;
        self.disk = self.disk.crash(PowerLoss::NothingKept);
    }

    /// Power is gone, and with it some of what was not synced.
    pub(crate) fn lose_power(&mut self, dice: &mut Dice) {
        self.member = None;
        self.is_fault_arranged = false;
        let loss = match dice.below(4) {
            0 => PowerLoss::NothingKept,
            1 => PowerLoss::AllKept,
            2 => PowerLoss::LastWriteTorn(dice.word()),
            _ => PowerLoss::Random(dice.word()),
        };
        self.disk = self.disk.crash(loss);
    }
}
