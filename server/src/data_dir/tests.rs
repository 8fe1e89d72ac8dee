//! Directories as they are made, and as a power loss or another server leaves them.

use bytes::Bytes;
use prost::Message;
use proto::etcdserverpb::{InternalRaftRequest, PutRequest};
use state_machine::{MemberChange, Position, member_change};
use storage::disk::Open;
use storage::disk::simulated::{PowerLoss, SimulatedDisk};
use storage::wal::{Index, NodeId, Record, Term};

use super::*;
use crate::bootstrap::tests::{Fake, config};

const EXISTING: &str = "--initial-cluster-state=existing";
const FORCE: &str = "--force-new-cluster";
/// The member that these directories belong to, and the other two of a new cluster, as
/// `bootstrap::tests` has them from etcd.
const OWN: u64 = 8_665_890_131_966_107_680;
const OTHERS: [u64; 2] = [6_444_467_272_944_729_417, 17_163_953_333_949_424_206];

fn open_on(disk: &SimulatedDisk, flags: &[&str], ask: &Fake) -> Result<Opened, StartError> {
    let disk: Arc<dyn Disk> = Arc::new(disk.clone());
    open(&config(flags), &disk, ask)
}

fn reopen_on(disk: &SimulatedDisk, flags: &[&str]) -> Result<Opened, StartError> {
    open_on(disk, flags, &Fake::silent())
}

fn refusal(opened: Result<Opened, StartError>) -> String {
    match opened {
        Ok(_) => panic!("it starts"),
        Err(error) => error.to_string(),
    }
}

/// A disk with the directory of a member of three, stopped right after it was made.
fn new_member() -> SimulatedDisk {
    let disk = SimulatedDisk::new();
    drop(open_on(&disk, &[], &Fake::silent()).unwrap());
    disk
}

fn paths() -> Paths {
    Paths::of(&config(&[]))
}

/// Applies what stands in the log up to `last`, and commits it.
fn apply_to(opened: &mut Opened, last: u64) {
    for entry in &opened.initial.entries {
        let position = Position {
            index: entry.index.0,
            term: entry.term.0,
        };
        if position.index > last {
            break;
        }
        match entry.kind {
            EntryKind::ConfigurationChange => {
                let change = ConfigurationChange::decode(&entry.data).unwrap();
                let context = change.context.unwrap_or_default();
                let change = member_change(change.kind as i32, change.node_id.0, &context);
                opened
                    .machine
                    .apply_member_change(position, change.unwrap())
                    .unwrap();
            }
            _ => drop(opened.machine.apply(position, &entry.data).unwrap()),
        }
    }
    let batch = opened.machine.take_batch();
    opened.store.commit(batch).unwrap();
}

/// A start that applies entries up to `last` and stops.
fn drop_applied(disk: &SimulatedDisk, last: u64) {
    let mut opened = reopen_on(disk, &[]).unwrap();
    apply_to(&mut opened, last);
}

fn put(index: u64, term: u64) -> wal::Entry {
    let request = InternalRaftRequest {
        id: index,
        put: Some(PutRequest {
            key: b"k".to_vec().into(),
            value: vec![b'v'; 100].into(),
            ..PutRequest::default()
        }),
        ..InternalRaftRequest::default()
    };
    wal::Entry {
        kind: wal::EntryKind::Normal,
        term: Term(term),
        index: Index(index),
        data: request.encode_to_vec().into(),
    }
}

fn state(commit: u64) -> wal::HardState {
    wal::HardState {
        term: Term(2),
        vote: NodeId(OWN),
        commit: Index(commit),
    }
}

/// The first three entries are the members, four to ten are puts, of which eight are committed.
fn worked_member() -> SimulatedDisk {
    let disk = new_member();
    let mut opened = reopen_on(&disk, &[]).unwrap();
    let entries: Vec<wal::Entry> = (4..=10).map(|index| put(index, 2)).collect();
    opened.log.append(&entries, Some(&state(8))).unwrap();
    opened.log.sync().unwrap();
    drop(opened);
    disk
}

fn same_start(opened: &Opened, expected: &Opened) {
    assert_eq!(opened.identity, expected.identity);
    assert_eq!(opened.initial.hard_state, expected.initial.hard_state);
    assert_eq!(opened.initial.snapshot, expected.initial.snapshot);
    assert_eq!(opened.initial.entries, expected.initial.entries);
}

/// The running checksum in the last record covers everything before it.
#[test]
fn the_log_of_a_new_member_of_three_is_that_of_etcd_byte_for_byte() {
    let disk = new_member();
    let name = "0000000000000000-0000000000000000.wal";
    let file = disk.open(&paths().wal.join(name), Open::Read).unwrap();
    let expected: [u8; 32] = [
        0x0f, 0, 0, 0, 0, 0, 0, 0x81, 0x08, 0x03, 0x10, 0xfa, 0xb8, 0xd4, 0x06, 0x1a, 0x06, 0x08,
        0x01, 0x10, 0x00, 0x18, 0x03, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    ];
    let mut found = [0; 32];
    file.read_at(&mut found, 0x1b8).unwrap();
    assert_eq!(found, expected);
}

#[test]
fn a_member_of_three_is_opened_again_as_it_was_left() {
    let disk = SimulatedDisk::new();
    let made = open_on(&disk, &[], &Fake::silent()).unwrap();
    assert!(made.new);
    assert_eq!(made.remotes, []);
    assert_eq!(made.initial.hard_state.commit.0, 3);
    // Flags of the beginning do not count any more.
    drop(made.log);
    drop(made.store);
    let again = reopen_on(&disk, &[EXISTING]).unwrap();
    assert!(!again.new);
    assert_eq!(again.identity, made.identity);
    assert_eq!(again.initial.entries, made.initial.entries);
    assert_eq!(again.initial.hard_state, made.initial.hard_state);
}

#[test]
fn a_member_that_joins_begins_with_an_empty_log_and_knows_the_others() {
    let disk = SimulatedDisk::new();
    let made = open_on(&disk, &[EXISTING], &Fake::running_cluster()).unwrap();
    assert_eq!(made.identity.member, MemberId(7));
    assert_eq!(made.identity.cluster, ClusterId(0xabc));
    let remotes: Vec<u64> = made.remotes.iter().map(|member| member.id.0).collect();
    assert_eq!(remotes, [2, 3]);
    assert_eq!(made.initial.entries, []);
    assert_eq!(made.initial.hard_state, consensus::HardState::default());
    drop((made.log, made.store));
    let again = reopen_on(&disk, &[]).unwrap();
    assert_eq!(again.identity, made.identity);
    assert_eq!(again.initial.entries, []);
}

#[test]
fn a_stop_while_a_directory_is_made_leaves_one_that_is_begun_again_or_is_whole() {
    for (flags, ask) in [
        (&[][..], Fake::silent()),
        (&[EXISTING], Fake::running_cluster()),
    ] {
        let whole = open_on(&SimulatedDisk::new(), flags, &ask).unwrap();
        let mut call = 0;
        loop {
            call += 1;
            let disk = SimulatedDisk::new();
            disk.stop_at(call);
            let made = open_on(&disk, flags, &ask);
            for loss in [PowerLoss::NothingKept, PowerLoss::AllKept]
                .into_iter()
                .chain((0..3).map(PowerLoss::Random))
            {
                let found = disk.crash(loss);
                let has_log = wal::Log::exists(&found, &paths().wal).unwrap();
                assert!(has_log || made.is_err(), "call {call}, {loss:?}");
                let opened = open_on(&found, flags, &ask).unwrap();
                assert_eq!(opened.new, !has_log);
                same_start(&opened, &whole);
            }
            if made.is_ok() {
                break;
            }
        }
        assert!(call > 10);
    }
}

#[test]
fn a_member_that_joined_may_stop_before_it_learns_of_itself() {
    let disk = SimulatedDisk::new();
    let mut opened = open_on(&disk, &[EXISTING], &Fake::running_cluster()).unwrap();
    let first = Member {
        id: MemberId(2),
        peer_urls: vec!["http://127.0.0.1:31002".to_owned()],
        learner: false,
        name: String::new(),
        client_urls: Vec::new(),
    };
    let entries: Vec<wal::Entry> = bootstrap::bootstrap_entries(vec![first])
        .iter()
        .map(to_log_entry)
        .chain([put(2, 1)])
        .collect();
    opened.log.append(&entries, Some(&state(2))).unwrap();
    opened.log.sync().unwrap();
    opened.initial.entries = entries.iter().map(from_log_entry).collect();
    apply_to(&mut opened, 2);
    drop(opened);
    let opened = reopen_on(&disk, &[]).unwrap();
    assert!(opened.machine.members().get(MemberId(2)).is_some());
    assert!(opened.machine.members().get(MemberId(7)).is_none());
}

#[test]
fn a_database_of_another_cluster_is_refused() {
    let disk = worked_member();
    let mut opened = reopen_on(&disk, &[]).unwrap();
    let position = Position { index: 5, term: 2 };
    let change = MemberChange::Add(Member {
        id: MemberId(99),
        peer_urls: vec!["http://x:1".to_owned()],
        learner: false,
        name: String::new(),
        client_urls: Vec::new(),
    });
    opened
        .machine
        .apply_member_change(position, change)
        .unwrap();
    let batch = opened.machine.take_batch();
    opened.store.commit(batch).unwrap();
    drop(opened);
    let text = refusal(reopen_on(&disk, &[]));
    assert!(text.contains("they belong to different clusters"), "{text}");
}

#[test]
fn what_cannot_be_decoded_is_refused() {
    let check = |kind: wal::EntryKind, data: &'static [u8], expected: &str| {
        let disk = new_member();
        let mut opened = reopen_on(&disk, &[]).unwrap();
        let entry = wal::Entry {
            kind,
            term: Term(1),
            index: Index(4),
            data: Bytes::from_static(data),
        };
        opened.log.append(&[entry], None).unwrap();
        opened.log.sync().unwrap();
        drop(opened);
        let text = refusal(reopen_on(&disk, &[]));
        assert!(text.contains(expected), "{text}");
    };
    let unknown = "entry 4 of the log: it holds";
    check(wal::EntryKind::Normal, &[0x0a], unknown);
    check(wal::EntryKind::ConfChange, &[0x0a], unknown);
    check(wal::EntryKind::ConfChangeV2, &[], unknown);
}

#[test]
fn a_forced_new_cluster_is_one_of_this_member_with_what_was_agreed_on() {
    let disk = worked_member();
    let opened = reopen_on(&disk, &[FORCE]).unwrap();
    let kinds: Vec<(u64, EntryKind)> = opened
        .initial
        .entries
        .iter()
        .map(|entry| (entry.index.0, entry.kind))
        .collect();
    assert_eq!(kinds.len(), 10);
    let removals: Vec<u64> = opened.initial.entries[8..]
        .iter()
        .map(|entry| {
            let change = ConfigurationChange::decode(&entry.data).unwrap();
            assert_eq!(change.kind, consensus::ConfigurationChangeKind::RemoveNode);
            change.node_id.0
        })
        .collect();
    assert_eq!(removals, OTHERS);
    assert_eq!(opened.initial.hard_state.commit.0, 10);
    assert_eq!(opened.initial.hard_state.term.0, 2);
    let options = consensus::Options {
        id: opened.identity.node(),
        election_ticks: 10,
        heartbeat_ticks: 1,
        seed: 1,
        applied: consensus::Index(0),
    };
    consensus::Node::new(&options, opened.initial.clone()).unwrap();

    // The state machine follows, and the next start finds the same, forced or not.
    let mut opened = opened;
    apply_to(&mut opened, 10);
    let members: Vec<u64> = opened
        .machine
        .members()
        .iter()
        .map(|member| member.id.0)
        .collect();
    assert_eq!(members, [OWN]);
    let initial = opened.initial.clone();
    drop(opened);
    for flags in [&[FORCE][..], &[]] {
        let again = reopen_on(&disk, flags).unwrap();
        assert_eq!(again.initial.entries, initial.entries);
        assert_eq!(again.initial.hard_state, initial.hard_state);
    }
}

#[test]
fn a_stop_while_a_new_cluster_is_forced_is_made_up_for_by_the_next_start() {
    let expected = reopen_on(&worked_member(), &[FORCE]).unwrap();
    let mut call = 0;
    loop {
        call += 1;
        let disk = worked_member();
        disk.stop_at(disk.calls() + call);
        let done = reopen_on(&disk, &[FORCE]).is_ok();
        for loss in (0..4).map(PowerLoss::Random) {
            let opened = reopen_on(&disk.crash(loss), &[FORCE]).unwrap();
            assert_eq!(opened.initial.entries, expected.initial.entries);
            assert_eq!(opened.initial.hard_state, expected.initial.hard_state);
        }
        if done {
            break;
        }
    }
}

#[test]
fn a_member_that_was_removed_cannot_force_a_new_cluster() {
    let disk = worked_member();
    drop_applied(&disk, 3);
    let mut opened = reopen_on(&disk, &[]).unwrap();
    let position = Position { index: 4, term: 2 };
    let removal = MemberChange::Remove(MemberId(OWN));
    opened
        .machine
        .apply_member_change(position, removal)
        .unwrap();
    let batch = opened.machine.take_batch();
    opened.store.commit(batch).unwrap();
    drop(opened);
    let text = refusal(reopen_on(&disk, &[FORCE]));
    assert!(text.contains("was removed from its cluster"), "{text}");
    // Without that it starts, to be told by the others.
    reopen_on(&disk, &[]).unwrap();
}

/// The steps of taking over a database that a leader has sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Received {
    Unfinished,
    Database,
    Snapshot,
    Mark,
    Commit,
    Renamed,
}

/// A member that has applied entry 8 and goes through the steps up to `step` with a snapshot at 50.
fn receiving(step: Received) -> SimulatedDisk {
    let disk = worked_member();
    let mut opened = reopen_on(&disk, &[]).unwrap();
    apply_to(&mut opened, 8);
    let snap = paths().snap;

    // 1. The database, which is what this member's will be at entry 50.
    let received = snap.join(match step {
        Received::Unfinished => "tmp123".to_owned(),
        _ => received_database::file_name(Index(50)),
    });
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let mut store = Store::create(shared, &received).unwrap();
    let mut machine = open_machine(&config(&[]), &store).unwrap();
    for entry in &opened.initial.entries[..3] {
        let change = ConfigurationChange::decode(&entry.data).unwrap();
        let change = member_change(0, change.node_id.0, &change.context.unwrap()).unwrap();
        let position = Position {
            index: entry.index.0,
            term: 1,
        };
        machine.apply_member_change(position, change).unwrap();
    }
    machine
        .apply(Position { index: 50, term: 2 }, &put(50, 2).data)
        .unwrap();
    store.commit(machine.take_batch()).unwrap();
    drop(store);
    disk.sync_dir(&snap).unwrap();

    // 2. The raft snapshot, its mark, and the state after it.
    let mut voters = vec![NodeId(OWN), NodeId(OTHERS[0]), NodeId(OTHERS[1])];
    voters.sort();
    let snapshot = RaftSnapshot {
        index: Index(50),
        term: Term(2),
        conf_state: wal::ConfState {
            voters,
            ..wal::ConfState::default()
        },
        data: machine.members().to_v2_tree(50),
    };
    if step >= Received::Snapshot {
        snapshot.save(&disk, &snap).unwrap();
    }
    if step >= Received::Mark {
        opened.log.save_snapshot(&snapshot.mark()).unwrap();
    }
    if step >= Received::Commit {
        opened.log.append(&[], Some(&state(50))).unwrap();
        opened.log.sync().unwrap();
    }
    drop(opened);

    // 3. The name.
    if step >= Received::Renamed {
        disk.rename(&received, &paths().db).unwrap();
        disk.sync_dir(&snap).unwrap();
    }
    disk
}

/// [D10]
#[test]
fn a_database_that_a_leader_sent_takes_effect_at_a_start_once_the_log_names_it() {
    for step in [
        Received::Unfinished,
        Received::Database,
        Received::Snapshot,
        Received::Mark,
        Received::Commit,
        Received::Renamed,
    ] {
        let disk = receiving(step);
        let opened = reopen_on(&disk, &[]).unwrap();
        let expected = if step >= Received::Commit { 50 } else { 8 };
        assert_eq!(opened.machine.applied().index, expected, "{step:?}");
        let begins = if step >= Received::Commit { 50 } else { 0 };
        assert_eq!(opened.initial.snapshot.index.0, begins, "{step:?}");
        let received = paths().snap.join(received_database::file_name(Index(50)));
        let orphan = step > Received::Unfinished && step < Received::Commit;
        assert_eq!(disk.exists(&received).unwrap(), orphan, "{step:?}");
        assert!(!disk.exists(&paths().snap.join("tmp123")).unwrap());
    }
}

#[test]
fn a_stop_while_a_received_database_is_taken_over_changes_nothing_for_the_next_start() {
    let mut call = 0;
    loop {
        call += 1;
        let disk = receiving(Received::Commit);
        disk.stop_at(disk.calls() + call);
        let done = reopen_on(&disk, &[]).is_ok();
        for loss in (0..4).map(PowerLoss::Random) {
            let opened = reopen_on(&disk.crash(loss), &[]).unwrap();
            assert_eq!(opened.machine.applied().index, 50);
            assert_eq!(opened.initial.snapshot.index.0, 50);
        }
        if done {
            break;
        }
    }
    assert!(call > 2);
}

#[test]
fn a_received_database_that_is_not_whole_is_refused_and_the_own_one_stays() {
    let received = paths().snap.join(received_database::file_name(Index(50)));
    let disk = receiving(Received::Commit);
    let file = disk.open(&received, Open::Write).unwrap();
    file.set_size(100).unwrap();
    drop(file);
    let text = refusal(reopen_on(&disk, &[]));
    assert!(text.contains("0000000000000032.snap.db"), "{text}");
    let (own, _lock) = storage::read_only(&disk, &paths().db).unwrap();
    assert_eq!(read_position(&own).unwrap().index, 8);

    // Missing, or older than its name: refused as well.
    let disk = receiving(Received::Commit);
    disk.remove(&received).unwrap();
    let text = refusal(reopen_on(&disk, &[]));
    assert!(
        text.contains("holds entries up to 8, but the log begins behind snapshot 50"),
        "{text}"
    );
    let disk = receiving(Received::Commit);
    disk.remove(&received).unwrap();
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    drop(Store::create(shared, &received).unwrap());
    let text = refusal(reopen_on(&disk, &[]));
    assert!(text.contains("holds entries up to 0"), "{text}");
}

#[test]
fn received_databases_go_when_the_own_one_has_passed_them() {
    let disk = worked_member();
    drop_applied(&disk, 8);
    let names = [
        "0000000000000007.snap.db",
        "0000000000000008.snap.db",
        "0000000000000009.snap.db",
        "9.snap.db",
        "tmp0815",
        "unknown",
    ];
    for name in names {
        disk.open(&paths().snap.join(name), Open::Create).unwrap();
    }
    drop(reopen_on(&disk, &[]).unwrap());
    let left: Vec<String> = disk
        .list(&paths().snap)
        .unwrap()
        .into_iter()
        .filter(|name| names.contains(&&name[..]))
        .collect();
    assert_eq!(left, ["0000000000000009.snap.db", "9.snap.db", "unknown"]);
}

/// `snapshot restore` makes directories of several members, whose log begins with the members and a
/// snapshot that covers them.
#[test]
fn a_directory_of_several_members_that_was_restored_is_opened() {
    let disk = SimulatedDisk::new();
    let beginning = bootstrap::begin(&config(&[]), &Fake::silent()).unwrap();
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    for folder in ["/data", "/data/member", "/data/member/snap"] {
        disk.create_dir(Path::new(folder)).unwrap();
    }
    let members = bootstrap::first_members(&config(&[]).initial_cluster, "tok1");
    let cluster = state_machine::NewCluster::new(members);
    let mut store = Store::create(shared, &paths().db).unwrap();
    let batch = cluster.changes(store.committed()).unwrap();
    store.commit(batch).unwrap();
    drop(store);
    let voters: Vec<NodeId> = cluster
        .members()
        .iter()
        .map(|member| NodeId(member.id.0))
        .collect();
    let snapshot = RaftSnapshot {
        index: Index(3),
        term: Term(1),
        conf_state: wal::ConfState {
            voters: voters.clone(),
            ..wal::ConfState::default()
        },
        data: cluster.v2_tree(),
    };
    snapshot.save(&disk, &paths().snap).unwrap();
    let hard_state = wal::HardState {
        term: Term(1),
        vote: voters[0],
        commit: Index(3),
    };
    let records: Vec<Record> = beginning
        .entries
        .iter()
        .map(|entry| Record::Entry(to_log_entry(entry)))
        .chain([Record::State(hard_state), Record::Snapshot(snapshot.mark())])
        .collect();
    let metadata = wal::Metadata {
        node_id: NodeId(beginning.identity.member.0),
        cluster_id: wal::ClusterId(beginning.identity.cluster.0),
    };
    wal::Log::make(
        &disk,
        &paths().wal,
        metadata,
        &records,
        wal::Options::default(),
    )
    .unwrap();

    let opened = reopen_on(&disk, &[]).unwrap();
    assert_eq!(opened.identity, beginning.identity);
    assert_eq!(opened.initial.snapshot.conf_state.voters.len(), 3);
    assert_eq!(opened.initial.entries, []);
    drop(opened);
    let alone = reopen_on(&disk, &[FORCE]).unwrap();
    assert_eq!(alone.initial.entries.len(), 2);
    assert_eq!(alone.initial.hard_state.commit.0, 5);
}
