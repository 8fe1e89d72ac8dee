//! Messages as etcd's members write them: `raftpb.Message` (proto2), field for field.
//!
//! ```text
//!  1 type    2 to     3 from      4 term    5 logTerm   6 index   7 entries
//!  8 commit  9 snapshot  10 reject  11 rejectHint  12 context
//! Entry:    1 type   2 term   3 index   4 data
//! Snapshot: 1 data   2 metadata { 1 conf_state, 2 index, 3 term }
//! ```
//!
//! etcd up to 3.6 writes zeros, later versions leave them out, and all read both. Fields 13 and up mean
//! something else in the raft crate than in etcd; they are neither written nor read.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use prost::Message as _;
use raft::eraftpb::{self, EntryType, MessageType};
use thiserror::Error;

use crate::envelope::Envelope;
use crate::log::{Index, Term};
use crate::members::NodeId;
use crate::node::SnapshotMark;

/// Largest message that is taken in; etcd's value.
pub const MESSAGE_BYTES_MAX: u64 = 512 << 20;

#[derive(Clone, PartialEq, prost::Message)]
struct Message {
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
    entries: Vec<Entry>,
    #[prost(uint64, optional, tag = "8")]
    commit: Option<u64>,
    #[prost(message, optional, tag = "9")]
    snapshot: Option<Snapshot>,
    #[prost(bool, optional, tag = "10")]
    reject: Option<bool>,
    #[prost(uint64, optional, tag = "11")]
    reject_hint: Option<u64>,
    #[prost(bytes = "bytes", optional, tag = "12")]
    context: Option<Bytes>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Entry {
    #[prost(int32, optional, tag = "1")]
    kind: Option<i32>,
    #[prost(uint64, optional, tag = "2")]
    term: Option<u64>,
    #[prost(uint64, optional, tag = "3")]
    index: Option<u64>,
    #[prost(bytes = "bytes", optional, tag = "4")]
    data: Option<Bytes>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Snapshot {
    #[prost(bytes = "bytes", optional, tag = "1")]
    data: Option<Bytes>,
    #[prost(message, optional, tag = "2")]
    metadata: Option<SnapshotMetadata>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct SnapshotMetadata {
    #[prost(message, optional, tag = "1")]
    conf_state: Option<ConfState>,
    #[prost(uint64, optional, tag = "2")]
    index: Option<u64>,
    #[prost(uint64, optional, tag = "3")]
    term: Option<u64>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ConfState {
    #[prost(uint64, repeated, packed = "false", tag = "1")]
    voters: Vec<u64>,
    #[prost(uint64, repeated, packed = "false", tag = "2")]
    learners: Vec<u64>,
    #[prost(uint64, repeated, packed = "false", tag = "3")]
    voters_outgoing: Vec<u64>,
    #[prost(uint64, repeated, packed = "false", tag = "4")]
    learners_next: Vec<u64>,
    #[prost(bool, optional, tag = "5")]
    auto_leave: Option<bool>,
}

/// Why bytes are no message.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum MalformedMessage {
    /// They do not have the form.
    #[error("not a raft message: {0}")]
    Form(String),
    /// A type that does not exist.
    #[error("a raft message of unknown type {0}")]
    Kind(i32),
    /// An entry of a type that does not exist.
    #[error("an entry of unknown type {0}")]
    EntryKind(i32),
    /// More than [`MESSAGE_BYTES_MAX`].
    #[error("a raft message of {0} bytes is larger than the limit of {MESSAGE_BYTES_MAX}")]
    TooLarge(u64),
    /// A frame that streams do not have.
    #[error("a frame of unknown type {0}")]
    Frame(u8),
    /// On the stream for entries.
    #[error("a message of type {0} on the stream for entries")]
    NotAppend(i32),
}

impl Envelope {
    /// The message as another member reads it.
    pub fn encode(&self) -> Bytes {
        to_wire(self.message()).encode_to_vec().into()
    }

    /// Reads what another member wrote. Whether it makes sense is found out in
    /// [`crate::Node::step`].
    ///
    /// # Errors
    /// If the bytes are no message.
    pub fn decode(bytes: Bytes) -> Result<Envelope, MalformedMessage> {
        let message =
            Message::decode(bytes).map_err(|error| MalformedMessage::Form(error.to_string()))?;
        Ok(Envelope::received(from_wire(message)?))
    }
}

fn to_wire(message: &eraftpb::Message) -> Message {
    let number = |value: u64| (value != 0).then_some(value);
    Message {
        kind: Some(message.msg_type as i32),
        to: Some(message.to),
        from: Some(message.from),
        term: Some(message.term),
        log_term: number(message.log_term),
        index: number(message.index),
        entries: message.entries.iter().map(entry_to_wire).collect(),
        commit: number(message.commit),
        snapshot: message.snapshot.as_ref().map(snapshot_to_wire),
        reject: message.reject.then_some(true),
        reject_hint: number(message.reject_hint),
        context: (!message.context.is_empty()).then(|| message.context.clone()),
    }
}

fn entry_to_wire(entry: &eraftpb::Entry) -> Entry {
    Entry {
        kind: Some(entry.entry_type as i32),
        term: Some(entry.term),
        index: Some(entry.index),
        data: (!entry.data.is_empty()).then(|| entry.data.clone()),
    }
}

fn snapshot_to_wire(snapshot: &eraftpb::Snapshot) -> Snapshot {
    let metadata = snapshot.get_metadata();
    let conf_state = metadata.get_conf_state();
    Snapshot {
        data: Some(snapshot.data.clone()),
        metadata: Some(SnapshotMetadata {
            conf_state: Some(ConfState {
                voters: conf_state.voters.clone(),
                learners: conf_state.learners.clone(),
                auto_leave: Some(false),
                ..ConfState::default()
            }),
            index: Some(metadata.index),
            term: Some(metadata.term),
        }),
    }
}

fn from_wire(message: Message) -> Result<eraftpb::Message, MalformedMessage> {
    let entries: Result<Vec<_>, _> = message.entries.into_iter().map(entry_from_wire).collect();
    let mut read = eraftpb::Message {
        msg_type: kind_from_wire(message.kind.unwrap_or(0))?,
        to: message.to.unwrap_or(0),
        from: message.from.unwrap_or(0),
        term: message.term.unwrap_or(0),
        log_term: message.log_term.unwrap_or(0),
        index: message.index.unwrap_or(0),
        entries: entries?.into(),
        commit: message.commit.unwrap_or(0),
        reject: message.reject.unwrap_or(false),
        reject_hint: message.reject_hint.unwrap_or(0),
        context: message.context.unwrap_or_default(),
        ..Default::default()
    };
    // etcd 3.5 writes an empty one into every message.
    if let Some(snapshot) = message.snapshot.map(snapshot_from_wire)
        && snapshot.get_metadata().index != 0
    {
        read.set_snapshot(snapshot);
    }
    Ok(read)
}

fn entry_from_wire(entry: Entry) -> Result<eraftpb::Entry, MalformedMessage> {
    let kind = entry.kind.unwrap_or(0);
    Ok(eraftpb::Entry {
        entry_type: match kind {
            0 => EntryType::EntryNormal,
            1 => EntryType::EntryConfChange,
            2 => EntryType::EntryConfChangeV2,
            _ => return Err(MalformedMessage::EntryKind(kind)),
        },
        term: entry.term.unwrap_or(0),
        index: entry.index.unwrap_or(0),
        data: entry.data.unwrap_or_default(),
        ..Default::default()
    })
}

fn snapshot_from_wire(snapshot: Snapshot) -> eraftpb::Snapshot {
    let metadata = snapshot.metadata.unwrap_or_default();
    let conf_state = metadata.conf_state.unwrap_or_default();
    let mut members = eraftpb::ConfState::default();
    members.set_voters(conf_state.voters);
    members.set_learners(conf_state.learners);
    members.set_voters_outgoing(conf_state.voters_outgoing);
    members.set_learners_next(conf_state.learners_next);
    members.set_auto_leave(conf_state.auto_leave.unwrap_or(false));
    let mut read = eraftpb::Snapshot {
        data: snapshot.data.unwrap_or_default(),
        ..Default::default()
    };
    let mark = read.mut_metadata();
    mark.index = metadata.index.unwrap_or(0);
    mark.term = metadata.term.unwrap_or(0);
    mark.set_conf_state(members);
    read
}

/// Both sides number the types alike; etcd has some more, which never leave a member.
fn kind_from_wire(number: i32) -> Result<MessageType, MalformedMessage> {
    const KINDS: [MessageType; 19] = [
        MessageType::MsgHup,
        MessageType::MsgBeat,
        MessageType::MsgPropose,
        MessageType::MsgAppend,
        MessageType::MsgAppendResponse,
        MessageType::MsgRequestVote,
        MessageType::MsgRequestVoteResponse,
        MessageType::MsgSnapshot,
        MessageType::MsgHeartbeat,
        MessageType::MsgHeartbeatResponse,
        MessageType::MsgUnreachable,
        MessageType::MsgSnapStatus,
        MessageType::MsgCheckQuorum,
        MessageType::MsgTransferLeader,
        MessageType::MsgTimeoutNow,
        MessageType::MsgReadIndex,
        MessageType::MsgReadIndexResp,
        MessageType::MsgRequestPreVote,
        MessageType::MsgRequestPreVoteResponse,
    ];
    usize::try_from(number)
        .ok()
        .and_then(|number| KINDS.get(number).copied())
        .ok_or(MalformedMessage::Kind(number))
}

const FRAME_HEARTBEAT: u8 = 0;
const FRAME_ENTRIES: u8 = 1;
const FRAME_MESSAGE: u8 = 2;

/// Writes the stream for entries, etcd's "msgappv2". One for each connection.
///
/// ```text
/// 0                                                     the connection lives
/// 1  u64 count  count x (u64 size, Entry)  u64 commit    follows the frame before
/// 2  u64 size  Message                                   a whole message
/// ```
///
/// Numbers are big-endian. Both ends remember term and index of the last entry, so that most messages need
/// no more than their entries.
#[derive(Debug, Default)]
pub struct AppendWriter {
    term: u64,
    index: u64,
}

impl AppendWriter {
    /// Writes a message with entries.
    ///
    /// # Panics
    /// If [`Envelope::is_append`] says that it is another one.
    pub fn write(&mut self, envelope: &Envelope, out: &mut BytesMut) {
        assert!(envelope.is_append(), "only entries go this way");
        let message = envelope.message();
        let follows = message.index == self.index
            && message.log_term == self.term
            && message.term == self.term;
        if follows {
            out.put_u8(FRAME_ENTRIES);
            out.put_u64(message.entries.len() as u64);
            for entry in message.entries.iter().map(entry_to_wire) {
                out.put_u64(entry.encoded_len() as u64);
                entry.encode(out).expect("the buffer grows");
            }
            out.put_u64(message.commit);
            self.index = self.index.saturating_add(message.entries.len() as u64);
        } else {
            let message = to_wire(message);
            out.put_u8(FRAME_MESSAGE);
            out.put_u64(message.encoded_len() as u64);
            message.encode(out).expect("the buffer grows");
            (self.term, self.index) = end_of(envelope);
        }
    }

    /// Writes that the connection lives.
    pub fn write_heartbeat(out: &mut BytesMut) {
        out.put_u8(FRAME_HEARTBEAT);
    }
}

/// Where the next message of the same term begins.
fn end_of(envelope: &Envelope) -> (u64, u64) {
    let message = envelope.message();
    let last = message.entries.last().map(|entry| entry.index);
    (message.term, last.unwrap_or(message.index))
}

/// What was read from a stream.
#[derive(Debug, PartialEq)]
pub enum Frame {
    /// The connection lives.
    Heartbeat,
    /// A message.
    Envelope(Envelope),
}

/// Reads what an [`AppendWriter`] or etcd wrote. One for each connection.
#[derive(Debug)]
pub struct AppendReader {
    from: NodeId,
    to: NodeId,
    term: u64,
    index: u64,
}

impl AppendReader {
    /// For the connection on which `from` sends to `to`.
    pub fn new(from: NodeId, to: NodeId) -> AppendReader {
        AppendReader {
            from,
            to,
            term: 0,
            index: 0,
        }
    }

    /// Takes the next frame off the front of `received`; `None` as long as it is not whole.
    ///
    /// # Errors
    /// If the bytes are no frame; the connection is of no use then.
    pub fn read(&mut self, received: &mut BytesMut) -> Result<Option<Frame>, MalformedMessage> {
        match received.first() {
            None => Ok(None),
            Some(&FRAME_HEARTBEAT) => {
                received.advance(1);
                Ok(Some(Frame::Heartbeat))
            }
            Some(&FRAME_ENTRIES) => self.read_entries(received),
            Some(&FRAME_MESSAGE) => {
                let Some(body) = sized(received, 1)? else {
                    return Ok(None);
                };
                received.advance(1);
                received.advance(size_of::<u64>());
                let envelope = Envelope::decode(received.split_to(body).freeze())?;
                if !envelope.is_append() {
                    return Err(MalformedMessage::NotAppend(
                        envelope.message().msg_type as i32,
                    ));
                }
                (self.term, self.index) = end_of(&envelope);
                Ok(Some(Frame::Envelope(envelope)))
            }
            Some(&other) => Err(MalformedMessage::Frame(other)),
        }
    }

    fn read_entries(&mut self, received: &mut BytesMut) -> Result<Option<Frame>, MalformedMessage> {
        // First see whether all is there, so that nothing is decoded twice.
        let mut at = 1;
        let Some(count) = number(received, at) else {
            return Ok(None);
        };
        at += size_of::<u64>();
        for _ in 0..count {
            let Some(size) = sized(received, at)? else {
                return Ok(None);
            };
            at += size_of::<u64>() + size;
            if at as u64 > MESSAGE_BYTES_MAX {
                return Err(MalformedMessage::TooLarge(at as u64));
            }
        }
        let Some(commit) = number(received, at) else {
            return Ok(None);
        };
        let mut frame = received.split_to(at + size_of::<u64>()).freeze();
        frame.advance(1 + size_of::<u64>());
        let mut entries = Vec::new();
        for _ in 0..count {
            let size = frame.get_u64() as usize;
            let entry = Entry::decode(frame.split_to(size))
                .map_err(|error| MalformedMessage::Form(error.to_string()))?;
            entries.push(entry_from_wire(entry)?);
        }
        let message = eraftpb::Message {
            msg_type: MessageType::MsgAppend,
            from: self.from.0,
            to: self.to.0,
            term: self.term,
            log_term: self.term,
            index: self.index,
            entries: entries.into(),
            commit,
            ..Default::default()
        };
        self.index = self.index.saturating_add(count);
        Ok(Some(Frame::Envelope(Envelope::received(message))))
    }
}

/// Writes a message as the stream "message" and the head of a snapshot have it: `u64 size, Message`.
pub fn write_sized(envelope: &Envelope, out: &mut BytesMut) {
    let message = to_wire(envelope.message());
    out.put_u64(message.encoded_len() as u64);
    message.encode(out).expect("the buffer grows");
}

/// Writes the message with which the stream "message" shows that it lives: a heartbeat of nobody.
pub fn write_sized_heartbeat(out: &mut BytesMut) {
    let message = Message {
        kind: Some(MessageType::MsgHeartbeat as i32),
        to: Some(0),
        from: Some(0),
        ..Message::default()
    };
    out.put_u64(message.encoded_len() as u64);
    message.encode(out).expect("the buffer grows");
}

/// Takes the next message off the front of what was received on the stream "message"; `None` as long as
/// it is not whole.
///
/// # Errors
/// If the bytes are no message; the connection is of no use then.
pub fn read_sized(received: &mut BytesMut) -> Result<Option<Frame>, MalformedMessage> {
    let Some(body) = sized(received, 0)? else {
        return Ok(None);
    };
    received.advance(size_of::<u64>());
    let envelope = Envelope::decode(received.split_to(body).freeze())?;
    let message = envelope.message();
    let is_sign_of_life = message.msg_type == MessageType::MsgHeartbeat && message.from == 0;
    Ok(Some(match is_sign_of_life {
        true => Frame::Heartbeat,
        false => Frame::Envelope(envelope),
    }))
}

/// The size at `at`, if the bytes that it counts are there too.
fn sized(received: &[u8], at: usize) -> Result<Option<usize>, MalformedMessage> {
    let Some(size) = number(received, at) else {
        return Ok(None);
    };
    if size > MESSAGE_BYTES_MAX {
        return Err(MalformedMessage::TooLarge(size));
    }
    let end = at + size_of::<u64>() + size as usize;
    Ok((received.len() >= end).then_some(size as usize))
}

fn number(received: &[u8], at: usize) -> Option<u64> {
    let bytes = received.get(at..at + size_of::<u64>())?;
    Some(u64::from_be_bytes(
        bytes.try_into().expect("as many as were asked for"),
    ))
}

/// What a message is about, for whoever must choose its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EnvelopeKind {
    /// Entries from the leader.
    Append,
    /// The answer to them.
    AppendResponse,
    /// The leader's state in place of entries that it no longer has.
    Snapshot,
    /// All others.
    Other,
}

impl Envelope {
    /// Whether it carries entries from the leader, possibly none, and so may go through an
    /// [`AppendWriter`].
    pub fn is_append(&self) -> bool {
        self.kind() == EnvelopeKind::Append
    }

    /// What it is about.
    pub fn kind(&self) -> EnvelopeKind {
        match self.message().msg_type {
            MessageType::MsgAppend => EnvelopeKind::Append,
            MessageType::MsgAppendResponse => EnvelopeKind::AppendResponse,
            MessageType::MsgSnapshot => EnvelopeKind::Snapshot,
            _ => EnvelopeKind::Other,
        }
    }

    /// The index of the state that it brings, if it brings one.
    pub fn snapshot_index(&self) -> Option<Index> {
        let snapshot = self.message().snapshot.as_ref()?;
        Some(Index(snapshot.get_metadata().index))
    }

    /// The same message with another state: a snapshot is made when it is sent, which is later than
    /// when it is decided on. `data` is opaque here (etcd: the old store, as JSON).
    pub fn with_snapshot(mut self, mark: &SnapshotMark, data: Bytes) -> Envelope {
        let mut snapshot = eraftpb::Snapshot {
            data,
            ..Default::default()
        };
        let metadata = snapshot.mut_metadata();
        metadata.index = mark.index.0;
        metadata.term = mark.term.0;
        metadata.set_conf_state(mark.conf_state.to_raft());
        self.message_mut().set_snapshot(snapshot);
        self
    }

    /// Bytes of the entries that it carries.
    pub fn entry_bytes(&self) -> usize {
        self.message()
            .entries
            .iter()
            .map(|entry| entry.data.len())
            .sum()
    }

    /// Its sender's term; 0 in proposals and questions for reads.
    pub fn term(&self) -> Term {
        Term(self.message().term)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn hex(text: &str) -> Bytes {
        let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
        let byte = |pair: &[u8]| {
            let pair = std::str::from_utf8(pair).expect("digits");
            u8::from_str_radix(pair, 16).expect("digits")
        };
        digits.chunks(2).map(byte).collect()
    }

    /// Bytes that etcd 3.5.30 sent.
    #[test]
    fn etcds_sign_of_life_on_the_message_stream_is_read() {
        let sent = "000000000000001e 0808 1000 1800 2000 2800 3000 4000
            4a0a12080a0228001000180050005800";
        let mut received = BytesMut::from(&hex(sent)[..]);
        assert_eq!(read_sized(&mut received), Ok(Some(Frame::Heartbeat)));
        assert!(received.is_empty());
    }

    /// Bytes that etcd 3.5.30 sent after a full message at index 9 that carried entry 10.
    #[test]
    fn commits_and_entries_of_etcd_follow_the_message_before() {
        let mut first = eraftpb::Message {
            msg_type: MessageType::MsgAppend,
            from: 2,
            to: 1,
            term: 4,
            log_term: 4,
            index: 9,
            commit: 9,
            ..Default::default()
        };
        first.entries = vec![entry(4, 10, b"put")].into();
        let first = Envelope::received(first);
        let mut sent = BytesMut::new();
        AppendWriter::default().write(&first, &mut sent);
        assert_eq!(sent[0], FRAME_MESSAGE);
        sent.extend_from_slice(&hex("01 0000000000000000 000000000000000a"));

        let mut reader = AppendReader::new(NodeId(2), NodeId(1));
        assert_eq!(reader.read(&mut sent), Ok(Some(Frame::Envelope(first))));
        let Ok(Some(Frame::Envelope(commit))) = reader.read(&mut sent) else {
            panic!("a frame");
        };
        let commit = commit.message();
        assert_eq!((commit.index, commit.term, commit.commit), (10, 4, 10));
        assert!(sent.is_empty());
    }

    #[test]
    fn impossible_sizes_are_refused_before_anything_is_read() {
        let mut huge = BytesMut::from(&hex("ffffffffffffffff")[..]);
        assert_eq!(
            read_sized(&mut huge),
            Err(MalformedMessage::TooLarge(u64::MAX))
        );
        let mut reader = AppendReader::new(NodeId(2), NodeId(1));
        let mut unknown = BytesMut::from(&[9][..]);
        assert_eq!(reader.read(&mut unknown), Err(MalformedMessage::Frame(9)));
    }

    fn entry(term: u64, index: u64, data: &'static [u8]) -> eraftpb::Entry {
        eraftpb::Entry {
            term,
            index,
            data: Bytes::from_static(data),
            ..Default::default()
        }
    }

    prop_compose! {
        /// Messages as one leader sends them to one follower: mostly one after the other.
        fn appends()(
            steps in prop::collection::vec((0..3u64, 0..4u64, 0..3u64, any::<bool>()), 1..20),
        ) -> Vec<Envelope> {
            let (mut term, mut index, mut sent) = (1, 0, Vec::new());
            for (raise, count, back, jump) in steps {
                term += raise / 2;
                if jump {
                    index = index.max(back) - back;
                }
                let log_term = if index == 0 { 0 } else { term };
                let entries: Vec<_> =
                    (1..=count).map(|step| entry(term, index + step, b"x")).collect();
                let message = eraftpb::Message {
                    msg_type: MessageType::MsgAppend,
                    from: 2, to: 1, term, log_term, index, commit: index,
                    entries: entries.into(),
                    ..Default::default()
                };
                index += count;
                sent.push(Envelope::received(message));
            }
            sent
        }
    }

    proptest! {
        #[test]
        fn what_a_writer_wrote_is_read_in_pieces_of_any_size(
            sent in appends(), piece in 1..40usize,
        ) {
            let (mut writer, mut bytes) = (AppendWriter::default(), BytesMut::new());
            for envelope in &sent {
                writer.write(envelope, &mut bytes);
                AppendWriter::write_heartbeat(&mut bytes);
            }
            let mut reader = AppendReader::new(NodeId(2), NodeId(1));
            let (mut received, mut read) = (BytesMut::new(), Vec::new());
            for piece in bytes.chunks(piece) {
                received.extend_from_slice(piece);
                while let Some(frame) = reader.read(&mut received).expect("whole frames") {
                    if let Frame::Envelope(envelope) = frame {
                        read.push(envelope);
                    }
                }
            }
            prop_assert_eq!(read, sent);
            prop_assert!(received.is_empty());
        }

        #[test]
        fn no_bytes_cause_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Envelope::decode(bytes.clone().into());
            let mut received = BytesMut::from(&bytes[..]);
            while let Ok(Some(_)) = read_sized(&mut received) {}
            let mut received = BytesMut::from(&bytes[..]);
            let mut reader = AppendReader::new(NodeId(2), NodeId(1));
            while let Ok(Some(_)) = reader.read(&mut received) {}
        }
    }
}
