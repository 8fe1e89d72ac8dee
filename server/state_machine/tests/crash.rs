//! Power lost while entries are applied and committed: what is found is what some number of entries makes,
//! that number stands beside it, and the log carries it on to the same end.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use mvcc::CompactionState;
use prost::Message;
use proto::etcdserverpb::request_op::Request as Op;
use proto::etcdserverpb::{
    CompactionRequest, DeleteRangeRequest, InternalRaftRequest, LeaseGrantRequest,
    LeaseRevokeRequest, PutRequest, RequestOp, TxnRequest,
};
use state_machine::{
    Member, MemberChange, MemberId, Position, Settings, StateMachine, read_position, schema,
};
use storage::disk::simulated::{PowerLoss, SimulatedDisk};
use storage::{Batch, Committed, Fault, Store, check};

const DB: &str = "/db";
const SETTINGS: Settings = Settings {
    lease_ttl_min: 2,
    persist_lease_checkpoints: false,
    learners_max: 1,
};
const TERM: u64 = 2;

/// An entry of the log.
#[derive(Clone)]
enum Entry {
    Command(Bytes),
    Change(MemberChange),
}

/// All buckets with all that is in them.
type Content = BTreeMap<Bytes, Vec<(Bytes, Bytes)>>;

fn content(committed: &Committed) -> Content {
    check(committed).expect("a sound file");
    let names = committed.bucket_names().expect("readable");
    let pairs = |name: &Bytes| {
        let name = std::str::from_utf8(name).expect("text");
        let bucket = committed.bucket(name).expect("readable").expect("there");
        let pairs = bucket.range(&[]).expect("readable");
        pairs.collect::<Result<_, _>>().expect("readable")
    };
    names
        .into_iter()
        .map(|name| (name.clone(), pairs(&name)))
        .collect()
}

/// A machine whose batches are made durable later than they are taken, as on a member.
struct Home {
    store: Store,
    machine: StateMachine,
}

impl Home {
    fn create(disk: &SimulatedDisk) -> Result<Home, Fault> {
        Ok(Home::of(Store::create(
            Arc::new(disk.clone()),
            Path::new(DB),
        )?))
    }

    fn open(disk: &SimulatedDisk) -> Result<Home, Fault> {
        Ok(Home::of(Store::open(
            Arc::new(disk.clone()),
            Path::new(DB),
        )?))
    }

    fn of(store: Store) -> Home {
        let machine = StateMachine::open(store.committed().clone(), SETTINGS).expect("sound");
        Home { store, machine }
    }

    fn apply(&mut self, index: u64, entry: &Entry) {
        let position = Position { index, term: TERM };
        let is_new = index > self.machine.applied().index;
        match entry {
            Entry::Command(data) => {
                let applied = self.machine.apply(position, data).expect("no fault");
                assert_eq!(applied.is_some(), is_new);
            }
            Entry::Change(change) => {
                let result = self.machine.apply_member_change(position, change.clone());
                if is_new && result.is_ok() {
                    // Consensus carries the same change out, or none when it is refused.
                    let members = self.machine.members();
                    let ids = |learner| {
                        let members = members.iter().filter(move |it| it.learner == learner);
                        members.map(|member| member.id).collect::<Vec<_>>()
                    };
                    self.machine.set_configuration(&ids(false), &ids(true));
                }
            }
        }
    }

    fn commit(&mut self, batch: Batch) -> Result<(), Fault> {
        let committed = self.store.commit(batch)?;
        let told = self.machine.store().batch_committed(committed);
        told.expect("readable");
        Ok(())
    }

    /// Lets compactions come to their end, and everything be durable.
    fn settle(&mut self) -> Content {
        loop {
            let batch = self.machine.take_batch();
            self.commit(batch).expect("the disk works");
            while self.machine.store().compaction_state() == CompactionState::Runs {
                self.machine.store().compact_step(2).expect("readable");
            }
            if !self.machine.has_batch() {
                return content(self.store.committed());
            }
        }
    }
}

/// How a run commits.
#[derive(Clone, Copy, Debug)]
struct Timing {
    /// A batch is taken after so many entries.
    entries: u64,
    /// It becomes durable when so many further ones were applied.
    lag: u64,
}

/// Applies and commits until the end or a fault; returns the index of the last entry that was told to be
/// durable, and whether the file was.
fn run(disk: &SimulatedDisk, entries: &[Entry], timing: Timing) -> (Option<u64>, bool) {
    let Ok(mut home) = Home::create(disk) else {
        return (None, false);
    };
    let (mut durable, mut under_way) = (0, None);
    for (index, entry) in (1..).zip(entries) {
        home.apply(index, entry);
        if under_way.is_none() && index % timing.entries == 0 {
            under_way = Some((index, home.machine.take_batch()));
        }
        let is_due = |(taken, _): &mut (u64, Batch)| index >= *taken + timing.lag;
        if let Some((taken, batch)) = under_way.take_if(is_due) {
            if home.commit(batch).is_err() {
                return (Some(durable), false);
            }
            durable = taken;
        }
    }
    (Some(durable), true)
}

/// Stops at each call of the disk, with several timings. `found` looks at each state that is found.
fn crash_at_every_call(entries: &[Entry], found: impl Fn(&Committed, &str)) {
    // What each number of entries makes, committed one by one; and all of them, settled.
    let disk = SimulatedDisk::new();
    let mut home = Home::create(&disk).expect("the disk works");
    let mut states = vec![content(home.store.committed())];
    for (index, entry) in (1..).zip(entries) {
        home.apply(index, entry);
        let batch = home.machine.take_batch();
        home.commit(batch).expect("the disk works");
        states.push(content(home.store.committed()));
    }
    let end = home.settle();

    let mut positions = BTreeSet::new();
    for (entries_taken, lag) in [(1, 0), (1, 2), (2, 1), (3, 0), (5, 3)] {
        let timing = Timing {
            entries: entries_taken,
            lag,
        };
        for stop in 1.. {
            let disk = SimulatedDisk::new();
            disk.stop_at(stop);
            let (durable, is_whole) = run(&disk, entries, timing);
            for loss in [
                PowerLoss::NothingKept,
                PowerLoss::AllKept,
                PowerLoss::Random(stop),
                PowerLoss::LastWriteTorn(stop),
            ] {
                let Some(durable) = durable else {
                    continue;
                };
                let what = format!("{timing:?}, call {stop}, {loss:?}");
                let disk = disk.crash(loss);
                let mut home = Home::open(&disk).unwrap_or_else(|fault| panic!("{what}: {fault}"));
                let committed = home.store.committed().clone();
                let position = read_position(&committed).expect("readable");
                assert!(position.index >= durable, "{what}: {position:?}");
                let expected = &states[position.index as usize];
                assert_eq!(&content(&committed), expected, "{what}: {position:?}");
                assert_eq!(home.machine.applied(), position);
                found(&committed, &what);
                positions.insert(position.index);
                for (index, entry) in (1..).zip(entries) {
                    home.apply(index, entry);
                }
                assert_eq!(home.settle(), end, "{what}: after the whole log");
            }
            if is_whole {
                break;
            }
        }
    }
    let all = 0..=entries.len() as u64;
    assert!(positions.iter().copied().eq(all), "{positions:?}");
}

fn command(request: &InternalRaftRequest) -> Entry {
    Entry::Command(request.encode_to_vec().into())
}

fn put(key: &str, lease: i64) -> PutRequest {
    PutRequest {
        key: key.to_owned().into(),
        value: vec![b'v'; 900].into(),
        lease,
        ..PutRequest::default()
    }
}

fn delete(key: &str) -> DeleteRangeRequest {
    DeleteRangeRequest {
        key: key.to_owned().into(),
        ..DeleteRangeRequest::default()
    }
}

fn put_entry(key: &str, lease: i64) -> Entry {
    command(&InternalRaftRequest {
        put: Some(put(key, lease)),
        ..Default::default()
    })
}

/// [D1] The index of the last entry is committed with what it stands for: whenever the timer lets a batch
/// go, and wherever the disk stops, no entry is skipped and none is applied twice.
#[test]
fn a_crash_while_entries_are_applied_skips_none_and_repeats_none() {
    let grant = LeaseGrantRequest { id: 7, ttl: 60 };
    let txn = TxnRequest {
        success: ["a", "b", "c"]
            .map(|key| RequestOp {
                request: Some(Op::RequestPut(put(key, 0))),
            })
            .to_vec(),
        ..TxnRequest::default()
    };
    let compaction = CompactionRequest {
        revision: 4,
        physical: false,
    };
    let entries = [
        put_entry("a", 0),
        put_entry("b", 0),
        command(&InternalRaftRequest {
            lease_grant: Some(grant),
            ..Default::default()
        }),
        put_entry("leased", 7),
        put_entry("a", 0),
        command(&InternalRaftRequest {
            txn: Some(txn),
            ..Default::default()
        }),
        command(&InternalRaftRequest {
            delete_range: Some(delete("b")),
            ..Default::default()
        }),
        command(&InternalRaftRequest {
            compaction: Some(compaction),
            ..Default::default()
        }),
        put_entry("b", 0),
        command(&InternalRaftRequest {
            lease_revoke: Some(LeaseRevokeRequest { id: 7 }),
            ..Default::default()
        }),
        // Refused, but applied all the same.
        put_entry("c", 99),
        put_entry("c", 0),
        put_entry("d", 0),
        put_entry("e", 0),
        put_entry("f", 0),
    ];
    crash_at_every_call(&entries, |_, _| ());
}

/// [D18] Members and consensus' configuration are the same two lists after any crash, whatever changed
/// last; who left stays away.
#[test]
fn members_and_configuration_are_the_same_after_a_crash_at_any_change() {
    let member = |id, learner| Member {
        id: MemberId(id),
        peer_urls: vec![format!("http://{id}:2380")],
        learner,
        name: String::new(),
        client_urls: Vec::new(),
    };
    let moved = Member {
        peer_urls: vec!["http://elsewhere:2380".to_owned()],
        ..member(2, false)
    };
    let entries = [
        MemberChange::Add(member(1, false)),
        MemberChange::Add(member(2, true)),
        MemberChange::Promote(MemberId(2)),
        MemberChange::Update(moved),
        MemberChange::Add(member(3, true)),
        // Refused: there is one learner already.
        MemberChange::Add(member(4, true)),
        MemberChange::Remove(MemberId(2)),
        MemberChange::Promote(MemberId(3)),
        // Refused: it was removed.
        MemberChange::Add(member(2, false)),
        MemberChange::Remove(MemberId(1)),
    ]
    .map(Entry::Change);
    crash_at_every_call(&entries, |committed, what| {
        let machine = StateMachine::open(committed.clone(), SETTINGS).expect("sound");
        let members = machine.members();
        let ids = |learner| {
            let members = members.iter().filter(move |it| it.learner == learner);
            members.map(|member| member.id.0).collect::<Vec<_>>()
        };
        let meta = committed.bucket(schema::META).expect("readable");
        let record = meta.and_then(|meta| meta.get(schema::CONF_STATE).expect("readable"));
        let record = record.map_or(serde_json::json!({}), |record| {
            serde_json::from_slice(&record).expect("JSON")
        });
        let listed = |name: &str| -> Vec<u64> {
            let ids = record.get(name).and_then(|ids| ids.as_array());
            let ids = ids.into_iter().flatten();
            ids.map(|id| id.as_u64().expect("an id")).collect()
        };
        assert_eq!(listed("voters"), ids(false), "{what}");
        assert_eq!(listed("learners"), ids(true), "{what}");
        for gone in [1, 2].map(MemberId) {
            let is_both = members.is_removed(gone) && members.get(gone).is_some();
            assert!(!is_both, "{what}: {gone}");
        }
    });
}
