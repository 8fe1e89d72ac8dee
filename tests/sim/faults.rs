//! Misfortunes, drawn one after the other while the trouble lasts.

use consensus::{ConfigurationChangeKind, NodeId};
use storage::disk::simulated::FailedSync;

use crate::directory::change_of;
use crate::host::Host;
use crate::member::{Failure, Input};
use crate::scenario::{Fault, MILLISECOND, MOMENTS, Micros};
use crate::world::{Event, World};

/// Calls of the disk after which power is lost.
const CALLS_MAX: u64 = 40;
/// Syncs after which one fails.
const SYNCS_MAX: u64 = 10;
/// Writes thrown at once.
const FLOOD: u64 = 15;
/// Hosts that may ever be.
const HOSTS_MAX: u64 = 9;
/// A slow disk takes up to this long for a sync.
const SLOW_SYNC: Micros = 800 * MILLISECOND;

impl World {
    pub(crate) fn fault(&mut self) -> Result<(), Failure> {
        if self.is_calm {
            return Ok(());
        }
        let wait = self.around(self.scenario.fault_gap);
        self.after(wait, Event::Fault);
        let fault = self.dice.pick(&self.scenario.faults);
        let running = self.running();
        if running.is_empty() {
            return Ok(());
        }
        let id = self.dice.pick(&running);
        self.note(|| format!("{fault:?} ({id})"));
        match fault {
            Fault::PowerLoss => self.lose_power(id),
            Fault::PowerLossAtCall => self.arrange_power_loss(id),
            Fault::PowerLossAtMoment => {
                let moment = self.dice.pick(&MOMENTS);
                self.host(id).awaited = Some(moment);
            }
            Fault::Blackout => running.into_iter().for_each(|id| self.lose_power(id)),
            Fault::Kill => {
                self.host(id).kill();
                self.went_down(id);
            }
            Fault::FailedSync => self.arrange_failed_sync(id),
            Fault::Pause => {
                let pause = self.around(1_500 * MILLISECOND);
                self.host(id).paused_until = self.now + pause;
            }
            Fault::SlowDisk => {
                self.host(id).sync_time = SLOW_SYNC;
                let wait = self.around(2_000 * MILLISECOND);
                self.after(wait, Event::HealHost(id));
            }
            Fault::Partition => self.partition(),
            Fault::OneWayCut => self.cut_one_way(),
            Fault::SlowLinks => {
                let leader = self.leader().filter(|_| self.dice.one_in(2));
                self.network.slow_down(leader.unwrap_or(id));
                self.heal_later();
            }
            Fault::Flood => return self.flood(),
            Fault::HandOver => return self.hand_over(),
            Fault::Membership => return self.change_members(),
        }
        Ok(())
    }

    fn host(&mut self, id: u64) -> &mut Host {
        self.hosts.get_mut(&id).expect("a host")
    }

    pub(crate) fn lose_power(&mut self, id: u64) {
        let host = self.hosts.get_mut(&id).expect("a host");
        host.lose_power(&mut self.dice);
        self.went_down(id);
    }

    /// Also while it starts: recovery must survive a crash.
    fn arrange_power_loss(&mut self, id: u64) {
        if self.dice.one_in(4) {
            self.lose_power(id);
        }
        let calls = 1 + self.dice.below(CALLS_MAX);
        let host = self.host(id);
        host.is_fault_arranged = true;
        host.disk.stop_at(host.disk.calls() + calls);
    }

    fn arrange_failed_sync(&mut self, id: u64) {
        let after = 1 + self.dice.below(SYNCS_MAX);
        let failed = match self.dice.one_in(2) {
            true => FailedSync::DataWait,
            false => FailedSync::DataLost,
        };
        let host = self.host(id);
        host.is_fault_arranged = true;
        host.disk.fail_sync(host.disk.syncs() + after, failed);
    }

    /// Often a leader is alone on its side.
    fn partition(&mut self) {
        let alone = self.leader().filter(|_| self.dice.one_in(2));
        let sides: Vec<(u64, bool)> = self
            .hosts
            .keys()
            .copied()
            .collect::<Vec<_>>()
            .into_iter()
            .map(|id| (id, alone.map_or(self.dice.one_in(2), |alone| alone == id)))
            .collect();
        for (from, one) in &sides {
            for (to, other) in &sides {
                if one != other {
                    self.network.cut(*from, *to);
                }
            }
        }
        self.heal_later();
    }

    fn cut_one_way(&mut self) {
        let ids: Vec<u64> = self.hosts.keys().copied().collect();
        let (from, to) = (self.dice.pick(&ids), self.dice.pick(&ids));
        self.network.cut(from, to);
        self.heal_later();
    }

    fn heal_later(&mut self) {
        let wait = self.around(1_500 * MILLISECOND);
        self.after(wait, Event::Heal);
    }

    pub(crate) fn heal_host(&mut self, id: u64) {
        let sync_time = self.scenario.sync_time;
        self.host(id).sync_time = sync_time;
    }

    /// Mostly at somebody who thinks that it leads, maybe of an old term.
    fn flood(&mut self) -> Result<(), Failure> {
        let members = self.hosts.values().filter_map(|host| host.member.as_ref());
        let leads = members.filter(|member| member.is_leader());
        let leaders: Vec<u64> = leads.map(|member| member.place.id).collect();
        let at = match leaders.is_empty() {
            true => self.dice.pick(&self.running()),
            false => self.dice.pick(&leaders),
        };
        let writes: Vec<Input> = (0..FLOOD).map(|_| self.clients.thrown_write()).collect();
        let who = self.who(at).expect("it runs");
        self.with(who, |member, _| {
            writes.into_iter().for_each(|write| member.ask(write));
            Ok(())
        })
    }

    fn hand_over(&mut self) -> Result<(), Failure> {
        let ids: Vec<u64> = self.hosts.keys().copied().collect();
        let to = self.dice.pick(&ids);
        let Some(who) = self.leader().and_then(|id| self.who(id)) else {
            return Ok(());
        };
        self.with(who, |member, _| {
            member.ask(Input::HandOver(NodeId(to)));
            Ok(())
        })
    }

    /// The one of the newest term that thinks that it leads.
    pub(crate) fn leader(&self) -> Option<u64> {
        let members = self.hosts.values().filter_map(|host| host.member.as_ref());
        members
            .filter(|member| member.is_leader())
            .max_by_key(|member| member.node.status().term)
            .map(|member| member.place.id)
    }

    /// Asks any member to put a change of the members into the log. Nobody checks whether it makes sense; but
    /// two of the first members always stay.
    fn change_members(&mut self) -> Result<(), Failure> {
        let new_id = self.hosts.keys().max().expect("a host") + 1;
        let any_id = 1 + self.dice.below(new_id);
        let change = match self.dice.below(6) {
            0 | 1 if new_id <= HOSTS_MAX => {
                self.add_host(new_id)?;
                change_of(ConfigurationChangeKind::AddLearnerNode, new_id, false)
            }
            2 if new_id <= HOSTS_MAX => {
                self.add_host(new_id)?;
                change_of(ConfigurationChangeKind::AddNode, new_id, false)
            }
            3 if self.may_remove(any_id) => {
                change_of(ConfigurationChangeKind::RemoveNode, any_id, false)
            }
            _ => change_of(ConfigurationChangeKind::AddNode, any_id, true),
        };
        let running = self.running();
        let asked = self.dice.pick(&running);
        self.note(|| {
            format!(
                "{asked} is asked for {:?} of {}",
                change.kind, change.node_id
            )
        });
        let who = self.who(asked).expect("it runs");
        self.with(who, |member, _| {
            member.ask(Input::ProposeConfiguration(change));
            Ok(())
        })
    }

    fn may_remove(&mut self, id: u64) -> bool {
        if id > self.scenario.members || self.removals.contains(&id) {
            return true;
        }
        let may = self.removals.len() as u64 + 2 < self.scenario.members;
        if may {
            self.removals.push(id);
        }
        may
    }

    fn add_host(&mut self, id: u64) -> Result<(), Failure> {
        let host = Host::new(id, true, &self.scenario, &mut self.dice)?;
        self.hosts.insert(id, host);
        let wait = self.around(300 * MILLISECOND);
        self.after(wait, Event::Start(id));
        Ok(())
    }

    /// No more faults: all is mended.
    pub(crate) fn calm_down(&mut self) {
        self.note(|| "no more faults".to_owned());
        self.is_calm = true;
        self.network.calm_down();
        let ids: Vec<u64> = self.hosts.keys().copied().collect();
        for id in ids {
            self.heal_host(id);
            let host = self.host(id);
            host.paused_until = 0;
            host.awaited = None;
            host.is_fault_arranged = false;
            host.disk.resume();
            if !host.is_running() {
                self.after(0, Event::Start(id));
            }
        }
    }
}
