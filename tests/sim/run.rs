//! One run: trouble, then calm, in which all must come right within a bounded time.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;

use consensus::NodeId;

use crate::clients::{Call, check_content, read_all};
use crate::member::Failure;
use crate::scenario::{MILLISECOND, Micros, SECOND, Scenario};
use crate::world::{Event, World};

/// How long the members may take to come right: crashed ones start, a leader is elected, snapshots are sent.
const RECOVERY_MAX: Micros = 25 * SECOND;
/// How often they are asked whether they have.
const LOOK: Micros = 100 * MILLISECOND;
/// Clients go on for so long after the last fault.
const AFTERMATH: Micros = SECOND;

/// Digests of the end stand apart from those on the way.
const AT_THE_END: u64 = 1 << 40;

/// What a run that went well was like.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Report {
    pub(crate) simulated: Micros,
    pub(crate) entries: u64,
    pub(crate) elections: u64,
    pub(crate) writes: u64,
    pub(crate) reads: u64,
    pub(crate) events: u64,
    pub(crate) starts: u64,
    /// Stands for everything that happened.
    pub(crate) fingerprint: u64,
}

/// A run and its story, if that was wanted.
pub(crate) struct Ran {
    /// What it was like, or which promise was broken.
    pub(crate) outcome: Result<Report, Failure>,
    pub(crate) trace: Vec<String>,
}

thread_local! {
    /// Whether a panic on this thread is told by [`Ran::outcome`] and by nobody else.
    static IS_PANIC_TAKEN: Cell<bool> = const { Cell::new(false) };
}

/// Runs a scenario. A panic of the code under test is a broken promise too.
pub(crate) fn run(scenario: &Scenario, is_traced: bool) -> Ran {
    take_panics();
    let mut trace = Vec::new();
    IS_PANIC_TAKEN.set(true);
    let ran = catch_unwind(AssertUnwindSafe(|| {
        let mut world = World::new(scenario.clone(), is_traced)?;
        let result = live_through(&mut world);
        trace = std::mem::take(&mut world.trace.lines);
        if result.is_err() {
            trace.extend(world.describe());
        }
        result
    }));
    IS_PANIC_TAKEN.set(false);
    let outcome = ran.unwrap_or_else(|panic| Err(panic_text(&*panic)));
    Ran { outcome, trace }
}

/// Other tests run on other threads; their panics are told as ever.
fn take_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if !IS_PANIC_TAKEN.get() {
                usual(panic);
            }
        }));
    });
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied());
    format!("panic: {}", text.unwrap_or("without a text"))
}

fn live_through(world: &mut World) -> Result<Report, Failure> {
    world.run_until(world.scenario.trouble)?;
    world.calm_down();
    world.run_until(world.now + AFTERMATH)?;
    world.is_busy = false;
    world.await_health(world.now + RECOVERY_MAX)?;
    world.check_all()?;
    if world.scenario.ends_dark {
        world.turn_dark();
        world.await_health(world.now + RECOVERY_MAX)?;
        world.check_all()?;
    }
    Ok(world.report())
}

impl World {
    /// [L4] Every member of the cluster answers a read, has all that is committed, and so do the watchers.
    fn await_health(&mut self, deadline: Micros) -> Result<(), Failure> {
        let mut unwell = String::new();
        let mut reads = 0;
        while self.now < deadline {
            self.run_until(self.now + LOOK)?;
            self.switch_on_and_off();
            unwell = match self.unwell() {
                Some(what) => what,
                None if reads < self.configured().len() as u64 => {
                    self.read_through(reads as usize);
                    reads += 1;
                    continue;
                }
                None => return Ok(()),
            };
        }
        Err(format!("the members did not come right: {unwell}"))
    }

    /// Its operator switches off whoever was not added, or was removed without learning of it, and switches
    /// on whoever was added late.
    fn switch_on_and_off(&mut self) {
        let members = self.configured();
        if members.is_empty() {
            return;
        }
        let ids: Vec<u64> = self.hosts.keys().copied().collect();
        for id in ids {
            match (members.contains(&id), self.who(id)) {
                (false, Some(_)) => self.switch_off(id),
                (true, None) => self.after(0, Event::Start(id)),
                _ => {}
            }
        }
    }

    /// Ids of the members, as the leader knows them.
    pub(crate) fn configured(&self) -> Vec<u64> {
        let leader = self.leader().and_then(|id| self.hosts[&id].member.as_ref());
        leader.map_or_else(Vec::new, |leader| {
            let status = leader.node.status();
            let all = status.voters.iter().chain(&status.learners);
            all.map(|NodeId(id)| *id).collect()
        })
    }

    /// The first thing that is not as it should be.
    fn unwell(&self) -> Option<String> {
        let Some(leader) = self.leader() else {
            return Some("nobody leads".to_owned());
        };
        let all = self.model.last_index();
        let led = self.hosts[&leader].member.as_ref()?.node.status();
        if led.commit.0 != all || led.last_index.0 != all {
            return Some(format!("leader {leader} has {led:?}, {all} are committed"));
        }
        for id in self.configured() {
            let Some(member) = self.hosts.get(&id).and_then(|host| host.member.as_ref()) else {
                return Some(format!("{id} does not run"));
            };
            let status = member.node.status();
            if status.applied.0 != all || member.applier.published_index != all {
                return Some(format!("{id} lags: {status:?}, {all} are committed"));
            }
            if (&status.voters, &status.learners) != (&led.voters, &led.learners) {
                return Some(format!("{id} and {leader} differ: {status:?}, {led:?}"));
            }
        }
        if let Some(client) = self.clients.clients.iter().find(|c| c.waits_for.is_some()) {
            return Some(format!("request {:x?} waits", client.waits_for));
        }
        let late = self
            .watchers
            .iter()
            .find(|watcher| !watcher.is_up_to_date(&self.model));
        late.map(|watcher| {
            format!(
                "watcher {} at {} is not up to date",
                watcher.id, watcher.next
            )
        })
    }

    /// A linearizable read through one of the members.
    fn read_through(&mut self, which: usize) {
        let members = self.configured();
        let client = &mut self.clients.clients[0];
        client.host = members[which];
        let request = self.clients.open(0, self.now);
        self.call_host(0, request, Call::Read);
    }

    /// [D2] Only what was synced is left; everything that was answered must be in it.
    fn turn_dark(&mut self) {
        self.note(|| "all lose power".to_owned());
        for id in self.running() {
            let host = self.hosts.get_mut(&id).expect("a host");
            host.lose_what_is_unsynced();
            self.after(0, Event::Start(id));
        }
    }

    /// What must be so once all is well: the same everywhere, all that was committed, in sound files.
    fn check_all(&mut self) -> Result<(), Failure> {
        let all_applied = AT_THE_END + self.model.last_index();
        for id in self.configured() {
            let member = self.hosts[&id].member.as_ref().expect("it runs");
            let answer = read_all(&member.applier.view)?;
            if answer.revision.0 != self.model.revision() {
                return Err(format!("member {id} ends at revision {}", answer.revision));
            }
            check_content(&answer, &self.model)?;
            let digest = member.applier.digest()?;
            self.checks.compare_digest(id, all_applied, digest)?;
            storage::check(member.applier.committed()).map_err(|fault| fault.to_string())?;
        }
        Ok(())
    }

    fn report(&self) -> Report {
        Report {
            simulated: self.now,
            entries: self.model.last_index(),
            elections: self.checks.elections() as u64,
            writes: self.clients.answered,
            reads: self.clients.reads,
            events: self.watchers.iter().map(|watcher| watcher.events).sum(),
            starts: self.hosts.values().map(|host| host.life).sum(),
            fingerprint: self.trace.fingerprint,
        }
    }

    /// Where all stand, for whoever looks for a cause.
    pub(crate) fn describe(&self) -> Vec<String> {
        let describe = |host: &crate::host::Host| match &host.member {
            None => format!("{}: down", host.id),
            Some(member) => format!(
                "{}: published {}, {:?}",
                host.id,
                member.applier.published_index,
                member.node.status()
            ),
        };
        let mut lines = vec![format!(
            "at {:.6} with {} entries, revision {}:",
            self.now as f64 / 1e6,
            self.model.last_index(),
            self.model.revision()
        )];
        lines.extend(self.hosts.values().map(describe));
        lines
    }
}
