//! What reads bytes from outside.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use consensus::{
    AppendReader, ConfState, ConfigurationChange, Entry, EntryKind, Envelope, Frame, HardState,
    Index, Initial, MalformedMessage, Node, NodeId, Options, SnapshotMark, Term, read_sized,
};
use holdfast::commands::{HashCheck, check_backup};
use holdfast::config::Config;
use holdfast::http::gateway_frame;
use mvcc::KeyValue;
use state_machine::{Command, StateMachine};
use storage::disk::real::RealDisk;
use storage::raft_snapshot::{self, RaftSnapshotName};
use storage::{Fault, Store, check, wal};
use tempfile::TempDir;

use crate::framing::{
    frame_backup, frame_database, frame_log, frame_snapshot, pack_folder, unframe_log,
    unframe_snapshot, unpack_folder,
};
use crate::sound::{self, LOG_OPTIONS, PAGE_BYTES, SETTINGS};

/// Reads an input; false when it refuses it.
type Read = dyn Fn(&[u8]) -> bool;

/// What gets bytes, and sound ones to begin with.
pub(crate) struct Target {
    pub(crate) name: &'static str,
    pub(crate) sound: Vec<Vec<u8>>,
    /// Bytes of memory for each byte of an input.
    pub(crate) memory_per_byte: usize,
    pub(crate) read: Box<Read>,
}

/// Enough for most decoders.
const MEMORY_PER_BYTE: usize = 16;
/// An empty part of a message takes two bytes, and in memory as much as one with all its fields.
const MEMORY_PER_BYTE_OF_PARTS: usize = 300;

impl Target {
    fn new(
        name: &'static str,
        sound: Vec<Vec<u8>>,
        read: impl Fn(&[u8]) -> bool + 'static,
    ) -> Target {
        Target {
            name,
            sound,
            memory_per_byte: MEMORY_PER_BYTE,
            read: Box::new(read),
        }
    }

    fn of_parts(self) -> Target {
        Target {
            memory_per_byte: MEMORY_PER_BYTE_OF_PARTS,
            ..self
        }
    }
}

/// All of them, and the folder that their files are in.
pub(crate) fn targets() -> (Vec<Target>, Place) {
    let place = Place::new();
    let mut targets = messages();
    targets.extend(peer_messages(&place));
    targets.extend(texts(&place));
    targets.extend(raft_snapshots(&place));
    targets.extend(logs(&place));
    targets.extend(databases(&place));
    (targets, place)
}

/// A folder for all files, for as long as this lives.
pub(crate) struct Place(TempDir);

impl Place {
    fn new() -> Place {
        // In memory where that is possible: what is synced has no use here.
        let folder = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir());
        Place(folder.expect("a temporary folder"))
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
}

fn messages() -> Vec<Target> {
    vec![
        Target::new("an entry of the log", sound::requests(), |bytes| {
            Command::decode(&Bytes::copy_from_slice(bytes)).is_ok()
        })
        .of_parts(),
        Target::new(
            "a record of a key",
            vec![
                b"\x0a\x03foo\x10\x02\x18\x02\x20\x01\x2a\x03bar\x30\x07".to_vec(),
                b"\x0a\x03foo".to_vec(),
            ],
            |bytes| KeyValue::decode(Bytes::copy_from_slice(bytes)).is_ok(),
        ),
        Target::new(
            "a change of the members",
            vec![sound::change().encode().to_vec()],
            |bytes| {
                let Ok(change) = ConfigurationChange::decode(&Bytes::copy_from_slice(bytes)) else {
                    return false;
                };
                let context = change.context.unwrap_or_default();
                state_machine::member_change(change.kind as i32, change.node_id.0, &context).is_ok()
            },
        ),
    ]
}

fn peer_messages(place: &Place) -> Vec<Target> {
    let (_, file) = sound::snapshots(&place.at("s-peer")).swap_remove(0);
    let snapshot = unframe_snapshot(&file);
    let append_reader = || {
        let mut reader = AppendReader::new(NodeId(2), NodeId(1));
        move |received: &mut BytesMut| reader.read(received)
    };
    vec![
        Target::new(
            "a message of a member",
            sound::peer_messages(&snapshot),
            |bytes| {
                let Ok(envelope) = Envelope::decode(Bytes::copy_from_slice(bytes)) else {
                    return false;
                };
                let encoded = envelope.encode();
                let again = Envelope::decode(encoded.clone()).expect("our own form");
                assert_eq!(again.encode(), encoded);
                step(envelope)
            },
        )
        .of_parts(),
        Target::new(
            "the stream for entries",
            sound::append_streams(),
            move |bytes| read_stream(bytes, append_reader),
        )
        .of_parts(),
        Target::new(
            "the stream of messages",
            sound::message_streams(&snapshot),
            |bytes| read_stream(bytes, || read_sized),
        )
        .of_parts(),
    ]
}

/// Hands a message to a member of three with entries 4 to 8 after a snapshot at 3; returns whether it
/// takes it.
fn step(envelope: Envelope) -> bool {
    let entry = |index| Entry {
        kind: EntryKind::Normal,
        term: Term(2),
        index: Index(index),
        data: Bytes::from_static(b"x"),
    };
    let initial = Initial {
        hard_state: HardState {
            term: Term(2),
            vote: 0,
            commit: Index(4),
        },
        snapshot: SnapshotMark {
            index: Index(3),
            term: Term(1),
            conf_state: ConfState {
                voters: vec![NodeId(1), NodeId(2), NodeId(3)],
                learners: vec![],
            },
        },
        entries: (4..9).map(entry).collect(),
    };
    let options = Options {
        id: NodeId(1),
        election_ticks: 10,
        heartbeat_ticks: 1,
        seed: 0,
        applied: Index(4),
    };
    let mut node = Node::new(&options, initial).expect("sound");
    let is_taken = node.step(envelope).is_ok();
    while let Some(work) = node.work() {
        node.persisted(work.number);
        if let Some(snapshot) = work.snapshot {
            node.applied(snapshot.mark.index);
        }
        if let Some(last) = work.committed.last() {
            node.applied(last.index);
        }
    }
    is_taken
}

/// Reads a stream that comes in one piece, and in two: the frames are the same.
fn read_stream<R>(bytes: &[u8], new_reader: impl Fn() -> R) -> bool
where
    R: FnMut(&mut BytesMut) -> Result<Option<Frame>, MalformedMessage>,
{
    // Their number and a checksum of them, so that the test itself holds little.
    let read = |pieces: [&[u8]; 2]| {
        let (mut reader, mut received) = (new_reader(), BytesMut::new());
        let (mut count, mut sum) = (0, 0);
        for piece in pieces {
            received.extend_from_slice(piece);
            loop {
                match reader(&mut received) {
                    Ok(Some(Frame::Heartbeat)) => sum = crc32c::crc32c_append(sum, b"lives"),
                    Ok(Some(Frame::Envelope(envelope))) => {
                        sum = crc32c::crc32c_append(sum, &envelope.encode());
                    }
                    Ok(None) => break,
                    Err(_) => return (count, sum, false),
                }
                count += 1;
            }
        }
        (count, sum, true)
    };
    let middle = bytes.len() * usize::from(bytes.last().copied().unwrap_or(0)) / 256;
    let whole = read([bytes, &[]]);
    assert_eq!(whole, read([&bytes[..middle], &bytes[middle..]]));
    whole.2
}

fn texts(place: &Place) -> Vec<Target> {
    let file = place.at("config.yml");
    vec![
        Target::new(
            "a request of the JSON gateway",
            vec![
                br#"{"compare":[{"key":"YQ==","target":"VERSION","version":"3"}],"success":[{"request_put":{"key":"YQ==","value":"Yg==","lease":"7"}}]}"#.to_vec(),
                br#"{"success":[{"request_txn":{"success":[{"request_range":{"key":"AA==","range_end":"AA==","limit":1}}]}}]}"#.to_vec(),
                br#"{"success":[{"requestDeleteRange":{"key":"_-8","prevKv":true}}],"failure":null}"#.to_vec(),
            ],
            |bytes| {
                let _ = gateway_frame("etcdserverpb.KV", "Txn", bytes, false);
                gateway_frame("etcdserverpb.KV", "Txn", bytes, true).is_ok()
            },
        )
        .of_parts(),
        Target::new(
            "a configuration file",
            vec![
                b"name: m\nlisten-client-urls: http://127.0.0.1:1\nadvertise-client-urls: http://127.0.0.1:1\nquota-backend-bytes: 5\n".to_vec(),
                br#"{"name": "m", "auto-compaction-retention": "1h", "max-txn-ops": 5}"#.to_vec(),
            ],
            move |bytes| {
                fs::write(&file, bytes).expect("written");
                let argument = OsString::from(format!("--config-file={}", file.display()));
                Config::from_process(&[argument], &[]).is_ok()
            },
        ),
    ]
}

fn raft_snapshots(place: &Place) -> Vec<Target> {
    let sound = sound::snapshots(&place.at("s-snap"));
    let in_folder = |frame: fn(&[u8]) -> Vec<u8>| {
        let folder = place.at("f-snap");
        move |packed: &[u8]| {
            let has_folders = unpack_folder(&folder, packed, frame);
            read_snapshots(&folder, has_folders)
        }
    };
    let pack = |content: fn(&[u8]) -> Vec<u8>| {
        let odd = [
            "db",
            "1-1.snap",
            "tmp-0000000000000001-0000000000000009.snap",
        ];
        let odd = odd.map(|name| (name, b"database".to_vec()));
        let files = sound
            .iter()
            .map(|(name, file)| (name.as_str(), content(file)));
        vec![pack_folder(files.chain(odd))]
    };
    vec![
        Target::new(
            "a folder of raft snapshots",
            pack(<[u8]>::to_vec),
            in_folder(<[u8]>::to_vec),
        ),
        Target::new(
            "a folder of raft snapshots with right checksums",
            pack(unframe_snapshot),
            in_folder(frame_snapshot),
        ),
    ]
}

/// Reads what a start reads, puts aside what cannot be read, and looks again.
fn read_snapshots(folder: &Path, has_folders: bool) -> bool {
    let marks: Vec<_> = (0..3)
        .flat_map(|term| (0..20).map(move |index| (term, index)))
        .map(|(term, index)| wal::SnapshotMark {
            index: wal::Index(index),
            term: wal::Term(term),
            conf_state: None,
        })
        .collect();
    let loaded = raft_snapshot::load_newest(&RealDisk, folder, &marks);
    let Some(loaded) = unless_folder(loaded, has_folders) else {
        return false;
    };
    for (path, _) in &loaded.unreadable {
        if unless_folder(raft_snapshot::set_aside(&RealDisk, path), has_folders).is_none() {
            return false;
        }
    }
    let again = raft_snapshot::load_newest(&RealDisk, folder, &marks).expect("as before");
    assert_eq!(again.unreadable, []);
    assert_eq!(again.snapshot, loaded.snapshot);
    let Some(snapshot) = loaded.snapshot else {
        return false;
    };
    if unless_folder(snapshot.save(&RealDisk, folder), has_folders).is_none() {
        return false;
    }
    let name: RaftSnapshotName = snapshot.name();
    let saved = raft_snapshot::load(&RealDisk, folder, name).expect("our own form");
    assert_eq!(saved, snapshot);
    true
}

/// What came out, if anything did. A folder with a name of ours is a fault of the disk; there must be
/// no other.
fn unless_folder<T>(result: Result<T, Fault>, has_folders: bool) -> Option<T> {
    match result {
        Err(Fault::Io { .. }) if has_folders => None,
        result => Some(result.expect("the disk works")),
    }
}

fn logs(place: &Place) -> Vec<Target> {
    let sound = sound::log(&place.at("s-wal"));
    let segment = sound[0].1.clone();
    let pack = |content: fn(&[u8]) -> Vec<u8>| {
        let odd = [
            "0.tmp",
            "x.wal",
            "0000000000000000-0000000000000000.wal.broken",
        ];
        let odd = odd.map(|name| (name, b"odd".to_vec()));
        let files = sound
            .iter()
            .map(|(name, file)| (name.as_str(), content(file)));
        vec![pack_folder(files.chain(odd))]
    };
    let raw = place.at("f-wal");
    let framed = raw.clone();
    let alone = raw.clone();
    vec![
        Target::new("a segment of the log", vec![segment], move |bytes| {
            let _ = fs::remove_dir_all(&alone);
            fs::create_dir_all(&alone).expect("made");
            let file = alone.join("0000000000000000-0000000000000000.wal");
            fs::write(file, bytes).expect("written");
            read_log(&alone, false)
        }),
        Target::new("a folder of the log", pack(<[u8]>::to_vec), move |packed| {
            let has_folders = unpack_folder(&raw, packed, <[u8]>::to_vec);
            read_log(&raw, has_folders)
        }),
        Target::new(
            "a folder of the log with right checksums",
            pack(unframe_log),
            move |packed| {
                let mut crc = 0;
                let has_folders =
                    unpack_folder(&framed, packed, |records| frame_log(records, &mut crc));
                read_log(&framed, has_folders)
            },
        ),
    ]
}

/// Reads a log as the tools and as a start do, from its beginning and behind its newest mark. Whatever is
/// opened can be written on, and what was written is found.
fn read_log(folder: &Path, has_folders: bool) -> bool {
    if let Ok(records) = wal::Records::open(&RealDisk, folder) {
        records.for_each(drop);
    }
    let marks = wal::valid_snapshots(&RealDisk, folder).unwrap_or_default();
    let newest = marks.last().map(|mark| wal::SnapshotPoint {
        index: mark.index,
        term: mark.term,
    });
    let mut is_taken = false;
    for start in newest.into_iter().chain([wal::SnapshotPoint::default()]) {
        let seen = wal::read(&RealDisk, folder, start);
        let opened = wal::Log::open(Arc::new(RealDisk), folder, start, LOG_OPTIONS);
        let (seen, (mut log, found)) = match (seen, opened) {
            (Ok(seen), Ok(opened)) => (seen, opened),
            (Err(_), Err(_)) => continue,
            (Ok(_), Err(Fault::Io { .. })) if has_folders => continue,
            (seen, opened) => panic!("read {:?}, open {:?}", seen.err(), opened.err()),
        };
        is_taken = true;
        assert_eq!(found.entries, seen.entries);
        assert_eq!(found.hard_state, seen.hard_state);
        let Some(next) = log.last_index().0.checked_add(1) else {
            continue;
        };
        let entry = wal::Entry {
            kind: wal::EntryKind::Normal,
            term: wal::Term(9),
            index: wal::Index(next),
            data: Bytes::from_static(b"further"),
        };
        let appended = log.append(std::slice::from_ref(&entry), None);
        if unless_folder(appended, has_folders).is_none() {
            continue;
        }
        log.sync().expect("synced");
        drop(log);
        let further = wal::read(&RealDisk, folder, start).expect("what was just written");
        assert_eq!(further.entries.last(), Some(&entry));
    }
    is_taken
}

fn databases(place: &Place) -> Vec<Target> {
    let sound = sound::database(&place.at("s-db"));
    let path = place.at("f-db");
    let (raw, framed) = (path.clone(), path.clone());
    let (backup, framed_backup) = (path.clone(), path);
    vec![
        Target::new("a database", vec![sound.clone()], move |bytes| {
            open_database(&raw, bytes)
        }),
        Target::new(
            "a database with right checksums",
            vec![sound.clone()],
            move |bytes| open_database(&framed, &frame_database(bytes.to_vec(), PAGE_BYTES)),
        ),
        Target::new(
            "a backup",
            vec![frame_backup(sound.clone())],
            move |bytes| {
                fs::write(&backup, bytes).expect("written");
                let _ = check_backup(&RealDisk, &backup, HashCheck::Skipped);
                check_backup(&RealDisk, &backup, HashCheck::Required).is_ok()
            },
        ),
        Target::new("a backup with right checksums", vec![sound], move |bytes| {
            let bytes = frame_backup(frame_database(bytes.to_vec(), PAGE_BYTES));
            fs::write(&framed_backup, bytes).expect("written");
            check_backup(&RealDisk, &framed_backup, HashCheck::Required).is_ok()
        }),
    ]
}

fn open_database(path: &Path, bytes: &[u8]) -> bool {
    fs::write(path, bytes).expect("written");
    let Ok(store) = Store::open(Arc::new(RealDisk), path) else {
        return false;
    };
    let committed = store.committed().clone();
    let is_sound = check(&committed).is_ok();
    StateMachine::open(committed, SETTINGS).is_ok() && is_sound
}
