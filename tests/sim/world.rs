//! The world of one run: its clock, what happens when, and who is told of it.

use std::collections::BTreeMap;

use bytes::Bytes;
use consensus::Envelope;
use holdfast_tests::dice::Dice;
use storage::Committed;

use crate::applier::Digest;
use crate::checks::Checks;
use crate::clients::{Call, Clients, PATIENCE};
use crate::directory;
use crate::host::Host;
use crate::member::{Effect, Failure, Input, Member};
use crate::model::Model;
use crate::network::Network;
use crate::scenario::{MILLISECOND, Micros, Moment, Scenario};
use crate::watchers::Watcher;

/// How `raftpb.Message` begins when it is a proposal (type 2). One that arrived twice would take effect
/// twice, so the transport must never send it again; see `peer/posts.rs` of the server.
const PROPOSAL: [u8; 2] = [0x08, 2];

/// Names a member's life on a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Who {
    pub(crate) id: u64,
    pub(crate) life: u64,
}

/// Something that happens at a time.
pub(crate) enum Event {
    Tick(Who),
    Turn(Who),
    Synced(Who),
    Apply {
        who: Who,
        timer: bool,
    },
    JobDone(Who),
    Deliver {
        to: u64,
        message: Bytes,
    },
    DeliverSnapshot {
        from: Who,
        message: Envelope,
        database: Committed,
    },
    SnapshotSent {
        who: Who,
        to: u64,
        success: bool,
    },
    Call {
        who: Who,
        request: u64,
        call: Call,
    },
    Client(usize),
    ClientTimeout(usize, u64),
    Watcher(usize),
    Start(u64),
    Fault,
    Heal,
    HealHost(u64),
    LosePower(Who),
}

pub(crate) struct World {
    pub(crate) scenario: Scenario,
    pub(crate) now: Micros,
    pub(crate) dice: Dice,
    events: BTreeMap<(Micros, u64), Event>,
    next_event: u64,
    pub(crate) hosts: BTreeMap<u64, Host>,
    pub(crate) network: Network,
    pub(crate) model: Model,
    pub(crate) clients: Clients,
    pub(crate) watchers: Vec<Watcher>,
    pub(crate) checks: Checks,
    /// Whether clients begin requests.
    pub(crate) is_busy: bool,
    pub(crate) is_calm: bool,
    /// Initial members whose removal was asked for.
    pub(crate) removals: Vec<u64>,
    pub(crate) trace: Trace,
}

/// What happened, for a reader, if there is one.
#[derive(Default)]
pub(crate) struct Trace {
    pub(crate) is_on: bool,
    pub(crate) lines: Vec<String>,
    /// Changes with everything that happens.
    pub(crate) fingerprint: u64,
}

impl World {
    pub(crate) fn new(scenario: Scenario, is_traced: bool) -> Result<World, Failure> {
        let mut dice = Dice::new(scenario.seed);
        let mut hosts = BTreeMap::new();
        for id in 1..=scenario.members {
            hosts.insert(id, Host::new(id, false, &scenario, &mut dice)?);
        }
        let mut world = World {
            now: 0,
            dice,
            events: BTreeMap::new(),
            next_event: 0,
            hosts,
            network: Network::new(&scenario),
            model: Model::default(),
            clients: Clients::new(&scenario),
            watchers: Watcher::all(&scenario),
            checks: Checks::default(),
            is_busy: true,
            is_calm: false,
            removals: Vec::new(),
            trace: Trace {
                is_on: is_traced,
                ..Trace::default()
            },
            scenario,
        };
        world.begin();
        Ok(world)
    }

    fn begin(&mut self) {
        for id in 1..=self.scenario.members {
            self.after(0, Event::Start(id));
        }
        for who in 0..self.scenario.clients {
            self.after(MILLISECOND, Event::Client(who));
        }
        for watcher in 0..self.watchers.len() {
            self.after(MILLISECOND, Event::Watcher(watcher));
        }
        self.after(self.scenario.fault_gap, Event::Fault);
    }

    pub(crate) fn after(&mut self, wait: Micros, event: Event) {
        self.next_event += 1;
        self.events
            .insert((self.now + wait, self.next_event), event);
    }

    /// A time around `mean`.
    pub(crate) fn around(&mut self, mean: Micros) -> Micros {
        1 + self.dice.below(2 * mean.max(1))
    }

    /// Lets things happen until a time.
    pub(crate) fn run_until(&mut self, end: Micros) -> Result<(), Failure> {
        while let Some(first) = self.events.first_entry() {
            if first.key().0 > end {
                break;
            }
            let (time, _) = *first.key();
            let event = first.remove();
            self.now = time;
            self.happen(event)?;
        }
        self.now = self.now.max(end);
        Ok(())
    }

    fn happen(&mut self, event: Event) -> Result<(), Failure> {
        if let Some(wake) = self.paused_until(&event) {
            let late = self.dice.below(20 * MILLISECOND);
            self.after(wake - self.now + late, event);
            return Ok(());
        }
        match event {
            Event::Tick(who) => self.tick(who),
            Event::Turn(who) => {
                if let Some(host) = self.host_mut(who) {
                    host.is_turn_due = false;
                }
                self.with(who, Member::turn)
            }
            Event::Synced(who) => self.with(who, Member::synced),
            Event::Apply { who, timer } => {
                if let Some(host) = self.host_mut(who).filter(|_| !timer) {
                    host.is_apply_due = false;
                }
                self.with(who, Member::apply)
            }
            Event::JobDone(who) => self.with(who, Member::job_done),
            Event::Deliver { to, message } => self.deliver(to, message),
            Event::DeliverSnapshot {
                from,
                message,
                database,
            } => self.deliver_snapshot(from, message, &database),
            Event::SnapshotSent { who, to, success } => self.with(who, |member, _| {
                member.ask(Input::SnapshotSent(consensus::NodeId(to), success));
                Ok(())
            }),
            Event::Call { who, request, call } => self.call(who, request, call),
            Event::Client(who) => self.client_turn(who),
            Event::ClientTimeout(who, request) => self.client_timeout(who, request),
            Event::Watcher(watcher) => self.watcher_turn(watcher),
            Event::Start(id) => self.start(id),
            Event::Fault => self.fault(),
            Event::Heal => {
                self.note(|| "the network is whole".to_owned());
                self.network.heal();
                Ok(())
            }
            Event::LosePower(who) => {
                if self.host_mut(who).is_some() {
                    self.note(|| format!("{} loses power", who.id));
                    self.lose_power(who.id);
                }
                Ok(())
            }
            Event::HealHost(id) => {
                self.heal_host(id);
                Ok(())
            }
        }
    }

    /// A paused host does nothing; what comes for it waits in its sockets.
    fn paused_until(&self, event: &Event) -> Option<Micros> {
        let id = match event {
            Event::Tick(who) | Event::Turn(who) | Event::Synced(who) | Event::JobDone(who) => {
                who.id
            }
            Event::Apply { who, .. }
            | Event::Call { who, .. }
            | Event::SnapshotSent { who, .. } => who.id,
            Event::Deliver { to, .. } => *to,
            Event::DeliverSnapshot { message, .. } => message.to().0,
            _ => return None,
        };
        let wake = self.hosts.get(&id)?.paused_until;
        (wake > self.now).then_some(wake)
    }

    fn host_mut(&mut self, who: Who) -> Option<&mut Host> {
        self.hosts
            .get_mut(&who.id)
            .filter(|host| host.life == who.life && host.is_running())
    }

    /// Lets a member do something, then carries out what it asks for, and looks at what it shows.
    pub(crate) fn with(
        &mut self,
        who: Who,
        act: impl FnOnce(&mut Member, Micros) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let now = self.now;
        let Some(host) = self.host_mut(who) else {
            return Ok(());
        };
        let member = host.member.as_mut().expect("it runs");
        if let Err(failure) = act(member, now) {
            return self.member_failed(who.id, &failure);
        }
        self.carry_out(who)?;
        self.look_at(who.id)
    }

    fn carry_out(&mut self, who: Who) -> Result<(), Failure> {
        while let Some(host) = self.host_mut(who) {
            let member = host.member.as_mut().expect("it runs");
            if member.effects.is_empty() {
                break;
            }
            for effect in std::mem::take(&mut member.effects) {
                self.carry_out_one(who, effect)?;
            }
        }
        Ok(())
    }

    fn carry_out_one(&mut self, who: Who, effect: Effect) -> Result<(), Failure> {
        match effect {
            Effect::Send(envelopes) => self.send(envelopes),
            Effect::SendSnapshot(message, database) => self.send_snapshot(who, message, database),
            Effect::SyncBegun(moment) => {
                self.disk_is_busy(who, Event::Synced(who));
                self.moment_has_come(who, moment);
            }
            Effect::JobBegun => {
                self.disk_is_busy(who, Event::JobDone(who));
                self.moment_has_come(who, Moment::JobBegun);
            }
            Effect::Turn => self.turn_soon(who),
            Effect::ApplySoon => self.apply_soon(who),
            Effect::ApplyAt(time) => {
                let wait = time.saturating_sub(self.now);
                self.after(wait, Event::Apply { who, timer: true });
            }
            Effect::Committed(entries) => self.model.commit(who.id, &entries)?,
            Effect::Answered(answered) => return self.answered(who, &answered),
            Effect::Refused(request) => self.client_is_free(Clients::of(request), request),
            Effect::ReadReady(read) => return self.read(who, read, true),
            Effect::Digest(index, digest) => return self.compare(who.id, index, digest),
            Effect::SaveSnapshotEarly(snapshot) => {
                if let Some(member) = self.member_of(who) {
                    member.ask(Input::SaveSnapshot(snapshot));
                }
            }
            Effect::Removed => {
                self.note(|| format!("{} knows that it was removed", who.id));
                let host = self.host_mut(who).expect("it runs");
                host.is_removed = true;
                self.switch_off(who.id);
            }
        }
        Ok(())
    }

    pub(crate) fn member_of(&mut self, who: Who) -> Option<&mut Member> {
        self.host_mut(who)?.member.as_mut()
    }

    fn compare(&mut self, id: u64, index: u64, digest: Digest) -> Result<(), Failure> {
        self.checks.compare_digest(id, index, digest)
    }

    fn look_at(&mut self, id: u64) -> Result<(), Failure> {
        let host = self.hosts.get_mut(&id).expect("a host");
        let shown = self.checks.look_at(host, &self.model)?;
        self.trace.fingerprint = (self.trace.fingerprint ^ shown.mixed ^ self.now)
            .wrapping_mul(0x9e37_79b9_7f4a_7c15)
            .rotate_left(23);
        if let Some(term) = shown.new_leader_of {
            self.note(|| format!("{id} leads term {term}"));
        }
        Ok(())
    }

    // What follows is for members that may have learnt in the same moment that they were removed.

    fn disk_is_busy(&mut self, who: Who, until: Event) {
        let mean = self.hosts[&who.id].sync_time;
        let time = self.around(mean / 2);
        self.after(time, until);
    }

    fn turn_soon(&mut self, who: Who) {
        let Some(host) = self.host_mut(who) else {
            return;
        };
        if !std::mem::replace(&mut host.is_turn_due, true) {
            let wait = self.around(50);
            self.after(wait, Event::Turn(who));
        }
    }

    fn apply_soon(&mut self, who: Who) {
        let Some(host) = self.host_mut(who) else {
            return;
        };
        let mean = host.apply_time / 2;
        if !std::mem::replace(&mut host.is_apply_due, true) {
            let wait = self.around(mean);
            self.after(wait, Event::Apply { who, timer: false });
        }
    }

    fn moment_has_come(&mut self, who: Who, moment: Moment) {
        let time = self.scenario.sync_time + self.scenario.apply_time;
        let Some(host) = self.host_mut(who) else {
            return;
        };
        if host.awaited.take_if(|awaited| *awaited == moment).is_some() {
            let wait = self.around(time / 2);
            self.note(|| format!("{} has come to {moment:?}", who.id));
            self.after(wait, Event::LosePower(who));
        }
    }

    fn tick(&mut self, who: Who) -> Result<(), Failure> {
        let Some(host) = self.host_mut(who) else {
            return Ok(());
        };
        let tick = host.tick;
        self.after(tick, Event::Tick(who));
        self.with(who, Member::tick)
    }

    fn send(&mut self, envelopes: Vec<Envelope>) {
        for envelope in envelopes {
            let (from, to) = (envelope.from().0, envelope.to().0);
            let message = envelope.encode();
            let mut arrivals = self.network.carry(from, to, &mut self.dice);
            if message.starts_with(&PROPOSAL) {
                arrivals.truncate(1);
            }
            for wait in arrivals {
                let message = message.clone();
                self.after(wait, Event::Deliver { to, message });
            }
        }
    }

    fn deliver(&mut self, to: u64, message: Bytes) -> Result<(), Failure> {
        let Some(who) = self.who(to) else {
            return Ok(());
        };
        let envelope = Envelope::decode(message).map_err(|error| error.to_string())?;
        self.with(who, |member, _| {
            member.ask(Input::Step(envelope));
            Ok(())
        })
    }

    fn send_snapshot(&mut self, from: Who, message: Envelope, database: Committed) {
        let to = message.to().0;
        let index = message.snapshot_index();
        self.note(|| format!("{} sends {to} a snapshot at {index:?}", from.id));
        let carried = self.network.carry_snapshot(from.id, to, &mut self.dice);
        match carried {
            Some(wait) => {
                let event = Event::DeliverSnapshot {
                    from,
                    message,
                    database,
                };
                self.after(wait, event);
            }
            None => self.tell_sender(from, to, false),
        }
    }

    fn tell_sender(&mut self, who: Who, to: u64, success: bool) {
        let wait = self.around(5 * MILLISECOND);
        self.after(wait, Event::SnapshotSent { who, to, success });
    }

    /// The database is stored first, then consensus is told of it. A sender that is gone has not sent all.
    fn deliver_snapshot(
        &mut self,
        from: Who,
        message: Envelope,
        database: &Committed,
    ) -> Result<(), Failure> {
        let to = message.to().0;
        let is_sent = self.host_mut(from).is_some() && !self.network.is_cut(from.id, to);
        let Some(who) = self.who(to).filter(|_| is_sent) else {
            self.tell_sender(from, to, false);
            return Ok(());
        };
        let index = message.snapshot_index().expect("it brings a snapshot");
        self.note(|| format!("{to} receives a snapshot at {index}"));
        self.with(who, |member, _| {
            directory::receive(&member.place, index, database)?;
            member.ask(Input::Step(message));
            Ok(())
        })?;
        self.moment_has_come(who, Moment::DatabaseReceived);
        let is_running = self.host_mut(who).is_some();
        self.tell_sender(from, to, is_running);
        Ok(())
    }

    /// The life that runs on a host now.
    pub(crate) fn who(&self, id: u64) -> Option<Who> {
        let host = self.hosts.get(&id).filter(|host| host.is_running())?;
        Some(Who {
            id,
            life: host.life,
        })
    }

    pub(crate) fn running(&self) -> Vec<u64> {
        let running = self.hosts.values().filter(|host| host.is_running());
        running.map(|host| host.id).collect()
    }

    fn start(&mut self, id: u64) -> Result<(), Failure> {
        let host = self.hosts.get_mut(&id).expect("a host");
        if host.is_running() || host.is_removed {
            return Ok(());
        }
        let started = host.start(&self.scenario);
        let who = Who {
            id,
            life: host.life,
        };
        if let Err(failure) = started {
            return self.member_failed(id, &failure);
        }
        self.note(|| format!("{id} starts"));
        let tick = self.hosts[&id].tick;
        let first = self.around(tick / 2);
        self.after(first, Event::Tick(who));
        self.turn_soon(who);
        Ok(())
    }

    /// A member has ended by itself: as it must after a fault of the disk, else by a mistake.
    fn member_failed(&mut self, id: u64, failure: &str) -> Result<(), Failure> {
        let host = self.hosts.get_mut(&id).expect("a host");
        if host.is_fault_arranged && failure.contains("power lost") {
            host.lose_power(&mut self.dice);
        } else if host.is_fault_arranged && failure.contains("os error 5") {
            host.kill();
        } else {
            return Err(format!("member {id} stopped: {failure}"));
        }
        self.note(|| format!("{id} goes down: {failure}"));
        self.went_down(id);
        Ok(())
    }

    /// After its host went down, for whatever reason.
    pub(crate) fn went_down(&mut self, id: u64) {
        self.connections_break(id);
        let down = self.dice.pick(&[20, 300, 800]);
        let wait = self.around(down * MILLISECOND);
        self.after(wait, Event::Start(id));
    }

    fn connections_break(&mut self, id: u64) {
        for who in 0..self.clients.clients.len() {
            let client = &self.clients.clients[who];
            if client.host == id
                && let Some(request) = client.waits_for
            {
                self.client_is_free(who, request);
            }
        }
    }

    pub(crate) fn switch_off(&mut self, id: u64) {
        let host = self.hosts.get_mut(&id).expect("a host");
        host.kill();
        self.connections_break(id);
    }

    pub(crate) fn note(&mut self, line: impl FnOnce() -> String) {
        if self.trace.is_on {
            let line = format!("{:>10.6}  {}", self.now as f64 / 1e6, line());
            self.trace.lines.push(line);
        }
    }

    fn client_turn(&mut self, who: usize) -> Result<(), Failure> {
        if !self.is_busy || self.clients.clients[who].waits_for.is_some() {
            return Ok(());
        }
        if self.dice.one_in(30) {
            let hosts: Vec<u64> = self.hosts.keys().copied().collect();
            self.clients.give_up(who, &mut self.dice, &hosts);
        }
        let (request, call) = self.clients.begin(who, self.now, &mut self.dice);
        self.call_host(who, request, call);
        Ok(())
    }

    pub(crate) fn call_host(&mut self, client: usize, request: u64, call: Call) {
        match self.who(self.clients.clients[client].host) {
            None => self.client_is_free(client, request),
            Some(who) => {
                let wait = self.around(MILLISECOND);
                self.after(wait, Event::Call { who, request, call });
                self.after(PATIENCE, Event::ClientTimeout(client, request));
            }
        }
    }

    fn call(&mut self, who: Who, request: u64, call: Call) -> Result<(), Failure> {
        match call {
            Call::Write(data) => self.with(who, |member, _| {
                member.waiting.insert(request);
                member.ask(Input::Propose { id: request, data });
                Ok(())
            }),
            Call::Read => self.with(who, |member, _| {
                member.ask(Input::Read(request));
                Ok(())
            }),
            Call::SerializableRead => self.read(who, request, false),
        }
    }

    fn client_timeout(&mut self, who: usize, request: u64) -> Result<(), Failure> {
        if self.clients.clients[who].waits_for == Some(request) {
            let host = self.clients.clients[who].host;
            self.note(|| format!("request {request:x} to {host} has no answer"));
            if let Some(member) = self.who(host).and_then(|who| self.member_of(who)) {
                member.waiting.remove(&request);
            }
            self.client_is_free(who, request);
        }
        Ok(())
    }

    /// The client turns to somebody else, after a while.
    fn client_is_free(&mut self, who: usize, request: u64) {
        if self.clients.clients[who].waits_for == Some(request) {
            let hosts: Vec<u64> = self.hosts.keys().copied().collect();
            self.clients.give_up(who, &mut self.dice, &hosts);
            let wait = self.around(self.scenario.client_gap * 2);
            self.after(wait, Event::Client(who));
        }
    }

    fn answered(&mut self, who: Who, answered: &crate::applier::Answered) -> Result<(), Failure> {
        let Some(member) = self.member_of(who) else {
            return Ok(());
        };
        // Every member applies the request; only the one that was asked answers.
        if !member.waiting.remove(&answered.id) {
            return Ok(());
        }
        self.clients.answer(answered, &self.model)?;
        self.next_call(Clients::of(answered.id));
        Ok(())
    }

    fn read(&mut self, who: Who, read: u64, is_linearizable: bool) -> Result<(), Failure> {
        let Some(member) = self.host_mut(who).and_then(|host| host.member.as_ref()) else {
            return Ok(());
        };
        let view = member.applier.view.clone();
        self.clients
            .answer_read(read, is_linearizable, &view, &self.model)?;
        self.next_call(Clients::of(read));
        Ok(())
    }

    fn next_call(&mut self, client: usize) {
        if self.clients.clients[client].waits_for.is_none() {
            let wait = self.around(self.scenario.client_gap);
            self.after(wait, Event::Client(client));
        }
    }

    fn watcher_turn(&mut self, number: usize) -> Result<(), Failure> {
        let pause = if self.dice.one_in(20) && !self.is_calm {
            1000
        } else {
            20
        };
        let wait = self.around(pause * MILLISECOND);
        self.after(wait, Event::Watcher(number));
        let watcher = &mut self.watchers[number];
        let host = watcher.at.and_then(|(id, life)| {
            let host = self.hosts.get_mut(&id)?;
            (host.life == life && host.is_running() && host.paused_until <= self.now)
                .then_some(host)
        });
        let Some(host) = host else {
            self.watch_elsewhere(number);
            return Ok(());
        };
        let applier = &mut host.member.as_mut().expect("it runs").applier;
        let view = applier.view.clone();
        let told = applier.watches.tell(number, &view)?;
        watcher.take_all(told, &self.model)
    }

    fn watch_elsewhere(&mut self, number: usize) {
        let running = self.running();
        if running.is_empty() {
            return;
        }
        let id = self.dice.pick(&running);
        let host = self.hosts.get_mut(&id).expect("it runs");
        let watcher = &mut self.watchers[number];
        if let Some((old, life)) = watcher.at.take()
            && old == id
            && life == host.life
        {
            // The same member, which was only paused: a new watch takes the place of the old one.
            host.member
                .as_mut()
                .expect("it runs")
                .applier
                .watches
                .close(number);
        }
        let from = watcher.resume();
        let member = host.member.as_mut().expect("it runs");
        member
            .applier
            .watches
            .open(number, watcher.keys.clone(), from);
        watcher.at = Some((id, host.life));
    }
}
