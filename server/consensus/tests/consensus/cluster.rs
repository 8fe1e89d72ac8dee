//! Three members in one thread, with messages lost, delayed and reordered, slow disks and crashes.

use std::collections::HashMap;

use consensus::{ConfigurationChangeKind, Envelope, NodeId, Role, Term};

use crate::member::{Dice, Disk, Member, change, text};

const IDS: [u64; 3] = [1, 2, 3];
const SEEDS: u64 = 60;
const STEPS: u64 = 3_000;
/// Far more than elections need once faults have ended.
const CALM_TICKS: usize = 400;

#[test]
fn members_agree_whatever_is_lost_delayed_or_crashed() {
    let (mut elections, mut delivered) = (0, 0);
    for seed in 0..SEEDS {
        let mut cluster = Cluster::new(seed);
        cluster.suffer();
        cluster.calm_down();
        elections += cluster.leaders.len();
        delivered += cluster.agreed.len();
    }
    assert!(
        elections > SEEDS as usize,
        "hardly a change of leader: {elections}"
    );
    assert!(
        delivered > 50 * SEEDS as usize,
        "hardly anything was agreed on: {delivered}"
    );
}

#[test]
fn the_same_seed_gives_the_same_elections() {
    let run = |seed| {
        let mut cluster = Cluster::new(seed);
        cluster.suffer();
        let mut leaders: Vec<(Term, NodeId)> = cluster.leaders.into_iter().collect();
        leaders.sort();
        (leaders, cluster.agreed)
    };
    for seed in 0..5 {
        assert_eq!(run(seed), run(seed), "seed {seed}");
    }
    assert_ne!(run(1).0, run(2).0, "different seeds should differ");
}

#[test]
fn who_is_left_alone_leads_only_once_its_log_is_durable() {
    let mut members = [1, 2].map(|id| Member::start(id, 0, Disk::bootstrapped(&[1, 2])));
    for member in &mut members {
        member.settle();
    }
    let [stays, leaves] = &mut members;
    leaves.node.campaign();
    exchange_until_quiet(leaves, stays);
    assert_eq!(leaves.node.status().role, Role::Leader);

    let removal = change(ConfigurationChangeKind::RemoveNode, 2);
    leaves.node.propose_configuration(&removal).unwrap();
    leaves.take_work();
    leaves.finish_write();
    exchange(leaves, stays);
    stays.settle();
    // The leader's own removal is committed by this answer; one more entry goes out with the news.
    exchange(stays, leaves);
    leaves.node.propose(text("y")).unwrap();
    let news = leaves.node.work().unwrap().messages;
    for envelope in news {
        stays.node.step(envelope).unwrap();
    }
    stays.take_work();
    assert_eq!(stays.members.voters, [NodeId(1)]);
    let status = stays.node.status();
    assert!(status.persisted < status.last_index);

    for _ in 0..30 {
        stays.node.tick();
    }
    stays.node.campaign();
    assert_eq!(stays.node.status().role, Role::Follower);
    stays.settle();
    stays.node.campaign();
    stays.settle();
    assert_eq!(stays.node.status().role, Role::Leader);
    assert_eq!(stays.applied[stays.applied.len() - 2].data, text("y"));
}

fn exchange(from: &mut Member, to: &mut Member) {
    for envelope in std::mem::take(&mut from.outbox) {
        to.node.step(envelope).unwrap();
    }
}

fn exchange_until_quiet(one: &mut Member, other: &mut Member) {
    loop {
        one.settle();
        other.settle();
        if one.outbox.is_empty() && other.outbox.is_empty() {
            break;
        }
        exchange(one, other);
        exchange(other, one);
    }
}

struct Cluster {
    seed: u64,
    dice: Dice,
    members: Vec<Member>,
    wire: Vec<Envelope>,
    leaders: HashMap<Term, NodeId>,
    /// Data of the entries, in order, as the first member to apply them saw them.
    agreed: Vec<(Term, bytes::Bytes)>,
    proposals: u64,
}

impl Cluster {
    fn new(seed: u64) -> Cluster {
        let start = |id: &u64| Member::start(*id, seed, Disk::bootstrapped(&IDS));
        Cluster {
            seed,
            dice: Dice::new(seed),
            members: IDS.iter().map(start).collect(),
            wire: Vec::new(),
            leaders: HashMap::new(),
            agreed: Vec::new(),
            proposals: 0,
        }
    }

    fn suffer(&mut self) {
        for _ in 0..STEPS {
            let who = self.dice.below(IDS.len() as u64) as usize;
            match self.dice.below(16) {
                0..=2 => self.members[who].node.tick(),
                3..=5 => {
                    self.members[who].take_work();
                }
                6..=8 => {
                    self.members[who].finish_write();
                }
                9 => self.propose(who),
                10 if self.dice.one_in(20) => self.crash(who),
                11 if self.dice.one_in(4) => {
                    let lost = self.dice.below(self.wire.len() as u64 + 1) as usize;
                    self.wire.truncate(lost);
                }
                _ => self.deliver_one(),
            }
            self.collect();
            self.check();
        }
    }

    /// No more faults: a leader must come forth and everything proposed to it be agreed on by all.
    fn calm_down(&mut self) {
        for _ in 0..CALM_TICKS {
            for member in &mut self.members {
                member.node.tick();
            }
            self.run_until_quiet();
        }
        let leader = self.members.iter().position(is_leader);
        let leader = leader.unwrap_or_else(|| panic!("seed {}: nobody leads", self.seed));
        self.members[leader].node.propose(text("last")).unwrap();
        self.run_until_quiet();
        self.members[leader].node.tick();
        self.run_until_quiet();
        for member in &self.members {
            assert_eq!(
                member.applied.len(),
                self.agreed.len(),
                "seed {}",
                self.seed
            );
        }
        assert_eq!(
            self.agreed.last().unwrap().1,
            text("last"),
            "seed {}",
            self.seed
        );
    }

    fn run_until_quiet(&mut self) {
        loop {
            for member in &mut self.members {
                member.settle();
            }
            self.collect();
            self.check();
            if self.wire.is_empty() {
                break;
            }
            while !self.wire.is_empty() {
                self.deliver_one();
            }
        }
    }

    fn propose(&mut self, who: usize) {
        self.proposals += 1;
        let data = text(format!("{}", self.proposals));
        // Refused while no leader is known.
        let _ = self.members[who].node.propose(data);
    }

    fn crash(&mut self, who: usize) {
        let mut disk = self.members[who].disk.clone();
        disk.lose(self.dice.below(disk.unsynced() as u64 + 1) as usize);
        self.members[who] = Member::start(IDS[who], self.seed, disk);
    }

    fn deliver_one(&mut self) {
        if self.wire.is_empty() {
            return;
        }
        let which = self.dice.below(self.wire.len().min(4) as u64) as usize;
        let envelope = self.wire.remove(which);
        let to = envelope.to();
        let receiver = IDS
            .iter()
            .position(|id| NodeId(*id) == to)
            .expect("only members are named");
        // A member that starts anew does not know the others until it applied its log.
        let _ = self.members[receiver].node.step(envelope);
    }

    fn collect(&mut self) {
        for member in &mut self.members {
            self.wire.append(&mut member.outbox);
        }
    }

    fn check(&mut self) {
        for member in &self.members {
            let status = member.node.status();
            if status.role == Role::Leader {
                let leader = *self.leaders.entry(status.term).or_insert(status.id);
                assert_eq!(
                    leader, status.id,
                    "seed {}: two leaders in one term",
                    self.seed
                );
            }
            // Only what is new needs a look; the rest was compared when it was applied.
            let known = self.agreed.len().min(member.applied.len());
            if let Some(last) = member.applied[..known].last() {
                let (term, data) = &self.agreed[known - 1];
                assert_eq!((last.term, &last.data), (*term, data), "seed {}", self.seed);
            }
            for entry in &member.applied[known..] {
                assert_eq!(
                    entry.index.0,
                    self.agreed.len() as u64 + 1,
                    "seed {}",
                    self.seed
                );
                self.agreed.push((entry.term, entry.data.clone()));
            }
        }
    }
}

fn is_leader(member: &Member) -> bool {
    member.node.status().role == Role::Leader
}
