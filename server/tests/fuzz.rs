//! Every decoder gets bytes that nobody meant: sound ones that were cut, changed and mixed at random. It
//! may refuse them; it must not panic, hang, or ask for memory without bound.
//!
//! `FUZZ_SECONDS` is the time for all targets together, `FUZZ_SEED` the beginning of the dice;
//! `make fuzz` gives more of both. The input of a panic is printed in hexadecimal.

use std::cell::RefCell;
use std::ffi::OsString;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use consensus::{ConfigurationChange, ConfigurationChangeKind, NodeId};
use holdfast::config::Config;
use holdfast::http::gateway_frame;
use mvcc::KeyValue;
use prost::Message;
use proto::etcdserverpb::request_op::Request as Operation;
use proto::etcdserverpb::{
    AuthUserAddRequest, Compare, DeleteRangeRequest, InternalRaftRequest, LeaseGrantRequest,
    PutRequest, RequestOp, TxnRequest,
};
use state_machine::{Command, Settings, StateMachine};
use storage::disk::real::RealDisk;
use storage::raft_snapshot::{self, RaftSnapshot};
use storage::{Store, check, wal};

/// Time for all targets in a run of the tests.
const SECONDS: u64 = 20;
/// Bytes of an input; what is read from files is larger.
const INPUT_BYTES_MAX: usize = 64 << 10;
const PAGE_BYTES: usize = 4096;

type Read = dyn Fn(&[u8]);

/// What gets bytes, and sound ones to begin with.
struct Target {
    name: &'static str,
    seeds: Vec<Vec<u8>>,
    read: Box<Read>,
}

/// Choices that a seed decides (splitmix64).
struct Dice(u64);

impl Dice {
    fn word(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let word = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.word() % limit.max(1) as u64).expect("small")
    }
}

#[test]
#[expect(
    clippy::disallowed_methods,
    reason = "the time that is given decides how much is tried"
)]
fn nothing_that_comes_from_outside_brings_a_decoder_down() {
    let number = |name, default| match std::env::var(name) {
        Ok(text) => text
            .parse()
            .unwrap_or_else(|_| panic!("{name} is no number")),
        Err(_) => default,
    };
    let seconds: u64 = number("FUZZ_SECONDS", SECONDS);
    let mut dice = Dice(number("FUZZ_SEED", 20_261_126));
    let targets = targets();
    let share = Duration::from_millis(seconds * 1000 / targets.len() as u64);
    for target in &targets {
        let begun = Instant::now();
        let mut tried = 0u64;
        while begun.elapsed() < share {
            let input = changed(&target.seeds, &mut dice);
            if catch_unwind(AssertUnwindSafe(|| (target.read)(&input))).is_err() {
                let hexadecimal: String = input.iter().map(|byte| format!("{byte:02x}")).collect();
                panic!("{} panics over {hexadecimal}", target.name);
            }
            tried += 1;
        }
        assert!(tried > 10, "{}: only {tried} inputs", target.name);
    }
}

/// One of the sound inputs, with a few changes.
fn changed(seeds: &[Vec<u8>], dice: &mut Dice) -> Vec<u8> {
    let mut bytes = seeds[dice.below(seeds.len())].clone();
    for _ in 0..=dice.below(6) {
        let at = dice.below(bytes.len() + 1);
        match dice.below(9) {
            0 => bytes.truncate(at),
            1 => bytes.insert(at, dice.word() as u8),
            2 if !bytes.is_empty() => drop(bytes.remove(at % bytes.len())),
            3 if !bytes.is_empty() => {
                let at = at % bytes.len();
                bytes[at] ^= 1 << dice.below(8);
            }
            4 if !bytes.is_empty() => {
                let at = at % bytes.len();
                bytes[at] = [0, 1, 0x7f, 0x80, 0xff][dice.below(5)];
            }
            5 => {
                // A number of eight bytes, as lengths and offsets are.
                let word = [0, 1, u64::MAX, 1 << 63, 1 << 31, dice.word()][dice.below(6)];
                for (byte, new) in bytes.iter_mut().skip(at).zip(word.to_le_bytes()) {
                    *byte = new;
                }
            }
            6 => {
                let other = &seeds[dice.below(seeds.len())];
                let from = dice.below(other.len() + 1);
                bytes.truncate(at);
                bytes.extend_from_slice(&other[from..]);
            }
            7 if at < bytes.len() => {
                let length = dice.below(64).min(bytes.len() - at);
                let part = bytes[at..at + length].to_vec();
                bytes.splice(at..at, part);
            }
            _ => {
                let length = dice.below(20);
                bytes.extend((0..length).map(|_| dice.word() as u8));
            }
        }
    }
    bytes
}

fn targets() -> Vec<Target> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let database = sound_database(&folder.path().join("db"));
    let log = sound_log(&folder.path().join("wal"));
    let snapshot = sound_snapshot(folder.path());
    let work = folder.path().to_owned();
    // The folder lives as long as the process; the last target owns it.
    let keep = RefCell::new(Some(folder));
    let at = move |name: &str| work.join(name);
    let (db, wal_dir, snap, yaml) = (at("f-db"), at("f-wal"), at("f-snap"), at("f.yml"));
    vec![
        Target {
            name: "an entry of the log",
            seeds: requests(),
            read: Box::new(|bytes| {
                let _ = Command::decode(&Bytes::copy_from_slice(bytes));
            }),
        },
        Target {
            name: "a record of a key",
            seeds: vec![
                b"\x0a\x03foo\x10\x02\x18\x02\x20\x01\x2a\x03bar\x30\x07".to_vec(),
                b"\x0a\x03foo".to_vec(),
            ],
            read: Box::new(|bytes| {
                let _ = KeyValue::decode(Bytes::copy_from_slice(bytes));
            }),
        },
        Target {
            name: "a change of the members",
            seeds: vec![change().encode().to_vec()],
            read: Box::new(|bytes| {
                if let Ok(change) = ConfigurationChange::decode(&Bytes::copy_from_slice(bytes)) {
                    let context = change.context.unwrap_or_default();
                    let kind = change.kind as i32;
                    let _ = state_machine::member_change(kind, change.node_id.0, &context);
                }
            }),
        },
        Target {
            name: "a request of the JSON gateway",
            seeds: vec![
                br#"{"compare":[{"key":"YQ==","target":"VERSION","version":"3"}],"success":[{"request_put":{"key":"YQ==","value":"Yg==","lease":"7"}}]}"#.to_vec(),
                br#"{"success":[{"request_txn":{"success":[{"request_range":{"key":"AA==","range_end":"AA==","limit":1}}]}}]}"#.to_vec(),
                br#"{"success":[{"requestDeleteRange":{"key":"_-8","prevKv":true}}],"failure":null}"#.to_vec(),
            ],
            read: Box::new(|bytes| {
                let _ = gateway_frame("etcdserverpb.KV", "Txn", bytes, true);
                let _ = gateway_frame("etcdserverpb.KV", "Txn", bytes, false);
            }),
        },
        Target {
            name: "a configuration file",
            seeds: vec![
                b"name: m\nlisten-client-urls: [http://127.0.0.1:1]\nadvertise-client-urls: http://127.0.0.1:1\nquota-backend-bytes: 5\n".to_vec(),
                b"client-transport-security:\n  cert-file: a\n  key-file: b\nfeature-gates: LeaseCheckpoint=true\n".to_vec(),
                br#"{"name": "m", "auto-compaction-retention": "1h", "max-txn-ops": 5}"#.to_vec(),
            ],
            read: Box::new(move |bytes| {
                std::fs::write(&yaml, bytes).expect("written");
                let argument = OsString::from(format!("--config-file={}", yaml.display()));
                let _ = Config::from_process(&[argument], &[]);
            }),
        },
        Target {
            name: "a raft snapshot",
            seeds: vec![snapshot],
            read: Box::new(move |bytes| {
                let name = sound_name();
                std::fs::create_dir_all(&snap).expect("made");
                std::fs::write(snap.join(name.file_name()), bytes).expect("written");
                let _ = raft_snapshot::load(&RealDisk, &snap, name);
            }),
        },
        Target {
            name: "a segment of the log",
            seeds: vec![log],
            read: Box::new(move |bytes| {
                let _ = std::fs::remove_dir_all(&wal_dir);
                std::fs::create_dir_all(&wal_dir).expect("made");
                let file = wal_dir.join("0000000000000000-0000000000000000.wal");
                std::fs::write(file, bytes).expect("written");
                let start = wal::SnapshotPoint::default();
                let _ = wal::valid_snapshots(&RealDisk, &wal_dir);
                let _ = wal::read(&RealDisk, &wal_dir, start);
            }),
        },
        Target {
            name: "a database",
            seeds: vec![database],
            read: Box::new(move |bytes| {
                let _kept = keep.borrow();
                std::fs::write(&db, bytes).expect("written");
                let Ok(store) = Store::open(Arc::new(RealDisk), &db) else {
                    return;
                };
                let committed = store.committed().clone();
                let settings = Settings {
                    lease_ttl_min: 1,
                    persist_lease_checkpoints: false,
                    learners_max: 1,
                };
                let _ = check(&committed);
                let _ = StateMachine::open(committed, settings);
            }),
        },
    ]
}

fn requests() -> Vec<Vec<u8>> {
    let put = PutRequest {
        key: "key".into(),
        value: "value".into(),
        lease: 7,
        ..Default::default()
    };
    let op = |operation| RequestOp {
        request: Some(operation),
    };
    let txn = TxnRequest {
        compare: vec![Compare::default()],
        success: vec![
            op(Operation::RequestPut(put.clone())),
            op(Operation::RequestTxn(TxnRequest::default())),
        ],
        failure: vec![op(Operation::RequestDeleteRange(
            DeleteRangeRequest::default(),
        ))],
    };
    let requests = [
        InternalRaftRequest {
            put: Some(put),
            ..Default::default()
        },
        InternalRaftRequest {
            txn: Some(txn),
            ..Default::default()
        },
        InternalRaftRequest {
            lease_grant: Some(LeaseGrantRequest { ttl: 5, id: 7 }),
            ..Default::default()
        },
        InternalRaftRequest {
            auth_user_add: Some(AuthUserAddRequest {
                name: "u".to_owned(),
                hashed_password: "aGFzaA==".to_owned(),
                ..Default::default()
            }),
            ..Default::default()
        },
    ];
    requests.iter().map(Message::encode_to_vec).collect()
}

fn change() -> ConfigurationChange {
    ConfigurationChange {
        id: 7,
        kind: ConfigurationChangeKind::AddLearnerNode,
        node_id: NodeId(5),
        context: Some(r#"{"id":5,"peerURLs":["http://a:1"],"isLearner":true}"#.into()),
    }
}

fn sound_database(path: &Path) -> Vec<u8> {
    let mut store = Store::create(Arc::new(RealDisk), path).expect("made");
    let settings = Settings {
        lease_ttl_min: 1,
        persist_lease_checkpoints: false,
        learners_max: 1,
    };
    let mut machine = StateMachine::open(store.committed().clone(), settings).expect("empty");
    for (index, request) in (1..).zip(requests().into_iter().cycle().take(40)) {
        let position = state_machine::Position { index, term: 1 };
        machine.apply(position, &request.into()).expect("sound");
    }
    store.commit(machine.take_batch()).expect("committed");
    drop(store);
    let bytes = std::fs::read(path).expect("readable");
    assert_eq!(bytes.len() % PAGE_BYTES, 0);
    bytes[..bytes.len().min(INPUT_BYTES_MAX)].to_vec()
}

fn sound_log(folder: &Path) -> Vec<u8> {
    std::fs::create_dir_all(folder.parent().expect("below another")).expect("made");
    let metadata = wal::Metadata {
        node_id: wal::NodeId(1),
        cluster_id: wal::ClusterId(2),
    };
    let disk = Arc::new(RealDisk);
    let mut log =
        wal::Log::create(disk, folder, metadata, &[], wal::Options::default()).expect("made");
    let entries: Vec<wal::Entry> = (1..20)
        .zip(requests().into_iter().cycle())
        .map(|(index, data)| wal::Entry {
            kind: wal::EntryKind::Normal,
            term: wal::Term(1),
            index: wal::Index(index),
            data: data.into(),
        })
        .collect();
    let state = wal::HardState {
        term: wal::Term(1),
        vote: wal::NodeId(1),
        commit: wal::Index(10),
    };
    log.append(&entries, Some(&state)).expect("appended");
    log.sync().expect("synced");
    let mut files = std::fs::read_dir(folder).expect("readable");
    let file = files
        .find_map(|file| {
            Some(file.ok()?.path()).filter(|path| path.extension() == Some("wal".as_ref()))
        })
        .expect("a segment");
    let bytes = std::fs::read(file).expect("readable");
    bytes[..INPUT_BYTES_MAX].to_vec()
}

fn sound_state() -> RaftSnapshot {
    RaftSnapshot {
        index: wal::Index(9),
        term: wal::Term(2),
        conf_state: wal::ConfState {
            voters: vec![wal::NodeId(1)],
            ..wal::ConfState::default()
        },
        data: Bytes::from_static(b"{}"),
    }
}

fn sound_name() -> raft_snapshot::RaftSnapshotName {
    sound_state().name()
}

fn sound_snapshot(folder: &Path) -> Vec<u8> {
    let path = sound_state().save(&RealDisk, folder).expect("saved");
    std::fs::read(path).expect("readable")
}
