//! Sound inputs, which the changed ones are made of.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use consensus::{
    AppendWriter, ConfigurationChange, ConfigurationChangeKind, Envelope, NodeId, write_sized,
    write_sized_heartbeat,
};
use prost::Message;
use proto::etcdserverpb::request_op::Request as Operation;
use proto::etcdserverpb::{
    AuthUserAddRequest, Compare, DeleteRangeRequest, InternalRaftRequest, LeaseGrantRequest,
    PutRequest, RequestOp, TxnRequest,
};
use state_machine::{Settings, StateMachine};
use storage::Store;
use storage::disk::real::RealDisk;
use storage::raft_snapshot::RaftSnapshot;
use storage::wal;

use crate::dice::INPUT_BYTES_MAX;

pub(crate) const PAGE_BYTES: usize = 4096;

pub(crate) const SETTINGS: Settings = Settings {
    lease_ttl_min: 1,
    persist_lease_checkpoints: false,
    learners_max: 1,
};

/// Segments as small as they can be, so that a few entries fill several.
pub(crate) const LOG_OPTIONS: wal::Options = wal::Options {
    segment_size: 1024,
    zeros_ahead: 0,
    preparation: wal::Preparation::Inline,
};

/// Entries of the log.
pub(crate) fn requests() -> Vec<Vec<u8>> {
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

/// A change of the members.
pub(crate) fn change() -> ConfigurationChange {
    ConfigurationChange {
        id: 7,
        kind: ConfigurationChangeKind::AddLearnerNode,
        node_id: NodeId(5),
        context: Some(r#"{"id":5,"peerURLs":["http://a:1"],"isLearner":true}"#.into()),
    }
}

/// A database with some keys, made at `path`.
pub(crate) fn database(path: &Path) -> Vec<u8> {
    let mut store = Store::create(Arc::new(RealDisk), path).expect("made");
    let mut machine = StateMachine::open(store.committed().clone(), SETTINGS).expect("empty");
    for (index, request) in (1..).zip(requests().into_iter().cycle().take(40)) {
        let position = state_machine::Position { index, term: 1 };
        machine.apply(position, &request.into()).expect("sound");
    }
    store.commit(machine.take_batch()).expect("committed");
    drop(store);
    let mut bytes = fs::read(path).expect("readable");
    // The file grew ahead of what is in it.
    let used = bytes
        .iter()
        .rposition(|byte| *byte != 0)
        .expect("not empty");
    bytes.truncate((used + 1).next_multiple_of(PAGE_BYTES));
    assert!(bytes.len() <= INPUT_BYTES_MAX, "{} bytes", bytes.len());
    bytes
}

/// The segments of a log made in `folder`, with their names.
pub(crate) fn log(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let metadata = wal::Metadata {
        node_id: wal::NodeId(1),
        cluster_id: wal::ClusterId(2),
    };
    let disk = Arc::new(RealDisk);
    let mut log = wal::Log::create(disk, folder, metadata, &[], LOG_OPTIONS).expect("made");
    for (index, data) in (1..80).zip(requests().into_iter().cycle()) {
        let entry = wal::Entry {
            kind: wal::EntryKind::Normal,
            term: wal::Term(1),
            index: wal::Index(index),
            data: data.into(),
        };
        let state = wal::HardState {
            term: wal::Term(1),
            vote: wal::NodeId(1),
            commit: wal::Index(index / 2),
        };
        log.append(&[entry], Some(&state)).expect("appended");
        if index == 60 {
            log.save_snapshot(&state_at(9).mark()).expect("marked");
        }
    }
    log.sync().expect("synced");
    drop(log);
    let segments = files(folder, "wal");
    assert!(segments.len() > 2, "{} segments", segments.len());
    segments
}

/// The files with such an ending, in the order of their names.
fn files(folder: &Path, ending: &str) -> Vec<(String, Vec<u8>)> {
    let files = fs::read_dir(folder).expect("readable");
    let mut files: Vec<_> = files
        .map(|file| file.expect("readable").path())
        .filter(|path| path.extension() == Some(ending.as_ref()))
        .map(|path| {
            let name = path.file_name().expect("a name").to_str().expect("text");
            (name.to_owned(), fs::read(&path).expect("readable"))
        })
        .collect();
    files.sort();
    files
}

fn state_at(index: u64) -> RaftSnapshot {
    RaftSnapshot {
        index: wal::Index(index),
        term: wal::Term(1),
        conf_state: wal::ConfState {
            voters: vec![wal::NodeId(1)],
            ..wal::ConfState::default()
        },
        data: Bytes::from_static(b"{}"),
    }
}

/// Two raft snapshots, made in `folder`, with their names.
pub(crate) fn snapshots(folder: &Path) -> Vec<(String, Vec<u8>)> {
    fs::create_dir_all(folder).expect("made");
    for index in [9, 12] {
        state_at(index).save(&RealDisk, folder).expect("saved");
    }
    files(folder, "snap")
}

/// `raftpb.Message`, as far as it is needed here.
#[derive(Clone, PartialEq, prost::Message)]
struct PeerMessage {
    #[prost(int32, optional, tag = "1")]
    kind: Option<i32>,
    #[prost(uint64, optional, tag = "2")]
    to: Option<u64>,
    #[prost(uint64, optional, tag = "3")]
    from: Option<u64>,
    #[prost(uint64, optional, tag = "4")]
    term: Option<u64>,
    #[prost(uint64, optional, tag = "5")]
    log_term: Option<u64>,
    #[prost(uint64, optional, tag = "6")]
    index: Option<u64>,
    #[prost(message, repeated, tag = "7")]
    entries: Vec<PeerEntry>,
    #[prost(uint64, optional, tag = "8")]
    commit: Option<u64>,
    /// With the same fields as the content of a raft snapshot's file.
    #[prost(bytes = "vec", optional, tag = "9")]
    snapshot: Option<Vec<u8>>,
    #[prost(bool, optional, tag = "10")]
    reject: Option<bool>,
    #[prost(uint64, optional, tag = "11")]
    reject_hint: Option<u64>,
    #[prost(bytes = "vec", optional, tag = "12")]
    context: Option<Vec<u8>>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct PeerEntry {
    #[prost(int32, optional, tag = "1")]
    kind: Option<i32>,
    #[prost(uint64, optional, tag = "2")]
    term: Option<u64>,
    #[prost(uint64, optional, tag = "3")]
    index: Option<u64>,
    #[prost(bytes = "vec", optional, tag = "4")]
    data: Option<Vec<u8>>,
}

const APPEND: i32 = 3;
const APPEND_RESPONSE: i32 = 4;
const VOTE: i32 = 5;
const SNAPSHOT: i32 = 7;
const HEARTBEAT: i32 = 8;

/// Entries behind `index` from member 2 to member 1.
fn append(index: u64, count: u64) -> PeerMessage {
    let entries = (index + 1..=index + count).zip(requests().into_iter().cycle());
    PeerMessage {
        kind: Some(APPEND),
        to: Some(1),
        from: Some(2),
        term: Some(2),
        log_term: Some(2),
        index: Some(index),
        entries: entries
            .map(|(index, data)| PeerEntry {
                kind: Some(0),
                term: Some(2),
                index: Some(index),
                data: Some(data),
            })
            .collect(),
        commit: Some(4),
        ..PeerMessage::default()
    }
}

/// Messages of members; `snapshot` is the content of a raft snapshot's file.
pub(crate) fn peer_messages(snapshot: &[u8]) -> Vec<Vec<u8>> {
    let of_kind = |kind| PeerMessage {
        kind: Some(kind),
        entries: Vec::new(),
        ..append(5, 0)
    };
    let messages = [
        append(5, 3),
        of_kind(HEARTBEAT),
        PeerMessage {
            reject: Some(true),
            reject_hint: Some(3),
            context: Some(b"read".to_vec()),
            ..of_kind(APPEND_RESPONSE)
        },
        PeerMessage {
            term: Some(3),
            ..of_kind(VOTE)
        },
        PeerMessage {
            snapshot: Some(snapshot.to_vec()),
            ..of_kind(SNAPSHOT)
        },
    ];
    messages.iter().map(Message::encode_to_vec).collect()
}

/// Streams for entries: whole messages, those that follow, signs of life.
pub(crate) fn append_streams() -> Vec<Vec<u8>> {
    let mut stream = BytesMut::new();
    let mut writer = AppendWriter::default();
    for (index, count) in [(5, 3), (8, 2), (10, 1), (7, 2)] {
        let message = append(index, count).encode_to_vec();
        let envelope = Envelope::decode(message.into()).expect("sound");
        writer.write(&envelope, &mut stream);
        AppendWriter::write_heartbeat(&mut stream);
    }
    vec![stream.to_vec()]
}

/// Streams of all other messages.
pub(crate) fn message_streams(snapshot: &[u8]) -> Vec<Vec<u8>> {
    let mut stream = BytesMut::new();
    for message in peer_messages(snapshot) {
        let envelope = Envelope::decode(message.into()).expect("sound");
        write_sized(&envelope, &mut stream);
        write_sized_heartbeat(&mut stream);
    }
    vec![stream.to_vec()]
}
