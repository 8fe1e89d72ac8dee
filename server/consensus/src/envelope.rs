//! Messages between members, closed to the shell, and the checks that each must pass before the raft
//! crate sees it: that crate panics on several messages that a broken member could send.

use bytes::Bytes;
use raft::eraftpb::{self, EntryType, MessageType};
use thiserror::Error;

use crate::log::{INDEX_MAX, Index, Term, unveil, veil};
use crate::members::{ConfState, ConfigurationChange, NodeId};
use crate::node::ENTRY_BYTES_MAX;

/// A message from one member to another.
#[derive(Clone, Debug, PartialEq)]
pub struct Envelope(eraftpb::Message);

impl Envelope {
    /// The member that wrote it.
    pub fn from(&self) -> NodeId {
        NodeId(self.0.from)
    }

    /// The member it is for.
    pub fn to(&self) -> NodeId {
        NodeId(self.0.to)
    }

    /// A message as it came in, not checked yet.
    pub(crate) fn received(message: eraftpb::Message) -> Envelope {
        Envelope(message)
    }

    pub(crate) fn message(&self) -> &eraftpb::Message {
        &self.0
    }

    pub(crate) fn message_mut(&mut self) -> &mut eraftpb::Message {
        &mut self.0
    }

    /// Closes an outgoing message. What the raft crate adds to etcd's fields is taken out: etcd's
    /// members neither send nor expect it.
    pub(crate) fn seal(mut message: eraftpb::Message) -> Envelope {
        message.commit_term = 0;
        message.priority = 0;
        message.deprecated_priority = 0;
        if !matches!(
            message.msg_type,
            MessageType::MsgAppend | MessageType::MsgHeartbeat
        ) {
            message.commit = 0;
        }
        message.entries.iter_mut().for_each(unveil);
        Envelope(message)
    }

    /// Opens an incoming message for the raft crate.
    pub(crate) fn open(self, receiver: &Receiver) -> Result<eraftpb::Message, EnvelopeRefusal> {
        let mut message = self.0;
        check(&message, receiver)?;
        if message.msg_type == MessageType::MsgPropose {
            message.entries.iter_mut().for_each(veil);
        }
        Ok(message)
    }
}

/// What the checks need to know about the member that received a message.
pub(crate) struct Receiver {
    pub(crate) id: NodeId,
    pub(crate) term: Term,
    pub(crate) last_index: Index,
    pub(crate) committed: (Index, Term),
}

/// Why a message was not taken in. Nothing has changed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum EnvelopeRefusal {
    /// It belongs to somebody else.
    #[error("message is for member {to}, this is member {id}")]
    NotForUs {
        /// Whom it names.
        to: NodeId,
        /// Who received it.
        id: NodeId,
    },
    /// No member can have sent it.
    #[error("message names {0} as its sender")]
    Sender(NodeId),
    /// It answers a question that was never asked of its sender.
    #[error("message is an answer of {0}, which is no member")]
    NoMember(NodeId),
    /// A kind that members do not send to each other.
    #[error("messages of type {0} are not taken from other members")]
    Kind(i32),
    /// It contradicts itself or the log of its receiver.
    #[error("message of {from}: {reason}")]
    Impossible {
        /// Who sent it.
        from: NodeId,
        /// What cannot be.
        reason: String,
    },
}

fn check(message: &eraftpb::Message, receiver: &Receiver) -> Result<(), EnvelopeRefusal> {
    let (from, to) = (NodeId(message.from), NodeId(message.to));
    if to != receiver.id {
        return Err(EnvelopeRefusal::NotForUs {
            to,
            id: receiver.id,
        });
    }
    if !from.is_valid() || from == receiver.id {
        return Err(EnvelopeRefusal::Sender(from));
    }
    let reason = impossible_numbers(message).or_else(|| match message.msg_type {
        MessageType::MsgPropose => impossible_proposal(message),
        MessageType::MsgSnapshot => impossible_snapshot(message, receiver),
        MessageType::MsgReadIndex | MessageType::MsgReadIndexResp => {
            let count = message.entries.len();
            (count != 1).then(|| format!("a read with {count} contexts"))
        }
        MessageType::MsgAppend => impossible_append(message),
        MessageType::MsgHeartbeat => (message.commit > receiver.last_index.0).then(|| {
            format!(
                "heartbeat commits {}, the log ends at {}",
                message.commit, receiver.last_index
            )
        }),
        MessageType::MsgAppendResponse => {
            let beyond = message.term == receiver.term.0 && message.index > receiver.last_index.0;
            beyond.then(|| {
                format!(
                    "it has entry {}, the log ends at {}",
                    message.index, receiver.last_index
                )
            })
        }
        _ => None,
    });
    if let Some(reason) = reason {
        return Err(EnvelopeRefusal::Impossible { from, reason });
    }
    match message.msg_type {
        MessageType::MsgPropose
        | MessageType::MsgAppend
        | MessageType::MsgAppendResponse
        | MessageType::MsgRequestVote
        | MessageType::MsgRequestVoteResponse
        | MessageType::MsgRequestPreVote
        | MessageType::MsgRequestPreVoteResponse
        | MessageType::MsgHeartbeat
        | MessageType::MsgHeartbeatResponse
        | MessageType::MsgSnapshot
        | MessageType::MsgReadIndex
        | MessageType::MsgReadIndexResp
        | MessageType::MsgTransferLeader
        | MessageType::MsgTimeoutNow => Ok(()),
        other => Err(EnvelopeRefusal::Kind(other as i32)),
    }
}

fn impossible_numbers(message: &eraftpb::Message) -> Option<String> {
    let numbers = [
        ("term", message.term),
        ("log term", message.log_term),
        ("index", message.index),
        ("commit", message.commit),
        ("reject hint", message.reject_hint),
    ];
    if let Some((name, value)) = numbers.into_iter().find(|(_, value)| *value >= INDEX_MAX) {
        return Some(format!("{name} {value} is out of range"));
    }
    // The raft crate takes term 0 for a message of its own; only what any leader may answer has none.
    let without_term = matches!(
        message.msg_type,
        MessageType::MsgPropose | MessageType::MsgReadIndex
    );
    ((message.term == 0) != without_term).then(|| format!("term {}", message.term))
}

fn impossible_proposal(message: &eraftpb::Message) -> Option<String> {
    if message.entries.is_empty() {
        return Some("a proposal without entries".to_owned());
    }
    message
        .entries
        .iter()
        .find_map(|entry| match entry.entry_type {
            _ if !entry.context.is_empty() => Some("an entry with a context".to_owned()),
            _ if entry.data.len() > ENTRY_BYTES_MAX => Some("a proposal is too large".to_owned()),
            EntryType::EntryNormal => None,
            EntryType::EntryConfChange => change_fault(&entry.data),
            EntryType::EntryConfChangeV2 => Some("a joint configuration change".to_owned()),
        })
}

fn impossible_snapshot(message: &eraftpb::Message, receiver: &Receiver) -> Option<String> {
    let Some(snapshot) = &message.snapshot.as_ref() else {
        return Some("a snapshot of nothing".to_owned());
    };
    let metadata = snapshot.get_metadata();
    let (index, term) = (metadata.index, metadata.term);
    if index == 0 || index >= INDEX_MAX || term == 0 || term > message.term {
        return Some(format!(
            "a snapshot at entry {index} of term {term} in a message of term {}",
            message.term
        ));
    }
    let (committed, committed_term) = receiver.committed;
    if index == committed.0 && term != committed_term.0 {
        return Some(format!(
            "a snapshot at entry {index} of term {term}, which was committed in term {committed_term}"
        ));
    }
    let members = metadata.get_conf_state();
    let is_joint = !members.voters_outgoing.is_empty()
        || !members.learners_next.is_empty()
        || members.auto_leave;
    if is_joint || members.voters.is_empty() {
        return Some("a snapshot whose members are joint or without a voter".to_owned());
    }
    ConfState::from_raft(members).fault()
}

fn change_fault(data: &Bytes) -> Option<String> {
    ConfigurationChange::decode(data)
        .err()
        .map(|fault| fault.to_string())
}

fn impossible_append(message: &eraftpb::Message) -> Option<String> {
    if message.log_term > message.term {
        return Some(format!(
            "log term {} above term {}",
            message.log_term, message.term
        ));
    }
    // Beyond its end the raft crate's log has term 0, which would match anything.
    if (message.log_term == 0) != (message.index == 0) {
        return Some(format!(
            "entry {} of term {}",
            message.index, message.log_term
        ));
    }
    let (mut index, mut term) = (message.index, message.log_term);
    for entry in message.entries.iter() {
        if !entry.context.is_empty() {
            return Some(format!("entry {} has a context", entry.index));
        }
        if entry.index != index + 1 {
            return Some(format!("entry {} follows entry {index}", entry.index));
        }
        if entry.term < term || entry.term > message.term {
            return Some(format!(
                "entry {} of term {} follows term {term} in a message of term {}",
                entry.index, entry.term, message.term
            ));
        }
        (index, term) = (entry.index, entry.term);
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::log::{Entry, EntryKind, HardState};
    use crate::members::ConfState;
    use crate::node::{Initial, Node, Options, SnapshotMark};

    /// A member of three with entries 4 and 5 after a snapshot at 3; 4 is committed.
    fn node() -> Node {
        let voters = vec![NodeId(1), NodeId(2), NodeId(3)];
        let entry = |index| Entry {
            kind: EntryKind::Normal,
            term: Term(2),
            index: Index(index),
            data: Bytes::from_static(b"x"),
        };
        let options = Options {
            id: NodeId(1),
            election_ticks: 10,
            heartbeat_ticks: 1,
            seed: 0,
            applied: Index(4),
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
                    voters,
                    learners: vec![],
                },
            },
            entries: vec![entry(4), entry(5)],
        };
        Node::new(&options, initial).unwrap()
    }

    fn message(kind: MessageType) -> eraftpb::Message {
        eraftpb::Message {
            msg_type: kind,
            from: 2,
            to: 1,
            term: if kind == MessageType::MsgPropose {
                0
            } else {
                2
            },
            ..Default::default()
        }
    }

    fn raft_entry(index: u64, term: u64) -> eraftpb::Entry {
        eraftpb::Entry {
            index,
            term,
            ..Default::default()
        }
    }

    #[test]
    fn messages_that_would_break_the_raft_crate_are_refused() {
        type Spoil = fn(&mut eraftpb::Message);
        let cases: [(MessageType, Spoil, &str); 14] = [
            (
                MessageType::MsgHeartbeat,
                |m| m.commit = 6,
                "heartbeat commits 6",
            ),
            (MessageType::MsgHeartbeat, |m| m.term = 0, "term 0"),
            (MessageType::MsgPropose, |_| {}, "without entries"),
            (MessageType::MsgPropose, |m| m.term = 2, "term 2"),
            (
                MessageType::MsgAppend,
                |m| m.index = u64::MAX,
                "out of range",
            ),
            (MessageType::MsgAppend, |m| m.index = 9, "entry 9 of term 0"),
            (MessageType::MsgAppend, |m| m.log_term = 3, "above term"),
            (
                MessageType::MsgAppend,
                |m| m.entries = vec![raft_entry(9, 2)].into(),
                "follows",
            ),
            (
                MessageType::MsgAppend,
                |m| m.entries = vec![raft_entry(1, 3)].into(),
                "of term 3",
            ),
            (
                MessageType::MsgAppendResponse,
                |m| m.index = 6,
                "the log ends at 5",
            ),
            (MessageType::MsgSnapshot, |_| {}, "of nothing"),
            (MessageType::MsgReadIndex, |_| {}, "term 2"),
            (MessageType::MsgReadIndexResp, |_| {}, "0 contexts"),
            (MessageType::MsgHup, |_| {}, "type 0"),
        ];
        for (kind, spoil, expected) in cases {
            let mut spoiled = message(kind);
            spoil(&mut spoiled);
            let refusal = node().step(Envelope(spoiled)).unwrap_err().to_string();
            assert!(refusal.contains(expected), "{kind:?}: {refusal}");
        }
    }

    #[test]
    fn messages_for_or_from_the_wrong_member_are_refused() {
        let mut wrong = message(MessageType::MsgHeartbeat);
        wrong.to = 3;
        let refusal = EnvelopeRefusal::NotForUs {
            to: NodeId(3),
            id: NodeId(1),
        };
        assert_eq!(node().step(Envelope(wrong)), Err(refusal));
        for from in [0, 1, u64::MAX] {
            let mut wrong = message(MessageType::MsgHeartbeat);
            wrong.from = from;
            let refusal = EnvelopeRefusal::Sender(NodeId(from));
            assert_eq!(node().step(Envelope(wrong)), Err(refusal));
        }
        let mut stranger = message(MessageType::MsgAppendResponse);
        stranger.from = 9;
        let refusal = EnvelopeRefusal::NoMember(NodeId(9));
        assert_eq!(node().step(Envelope(stranger)), Err(refusal));
    }

    #[test]
    fn a_forwarded_change_of_members_keeps_etcds_bytes() {
        let mut node = node();
        let mut heartbeat = message(MessageType::MsgHeartbeat);
        heartbeat.commit = 5;
        node.step(Envelope(heartbeat)).unwrap();
        let data = Bytes::from_static(&[0x08, 5, 0x10, 3, 0x18, 4]);
        let change = ConfigurationChange::decode(&data).unwrap();
        node.propose_configuration(&change).unwrap();
        let work = node.work().unwrap();
        let mut sent = work.messages.iter().chain(&work.messages_after_sync);
        let forwarded = sent
            .find(|sent| sent.0.msg_type == MessageType::MsgPropose)
            .unwrap();
        assert_eq!(forwarded.to(), NodeId(2));
        assert_eq!(forwarded.0.entries[0].data, data);
        assert!(forwarded.0.entries[0].context.is_empty());
    }

    fn small_or_odd() -> impl Strategy<Value = u64> {
        prop_oneof![8 => 0..9u64, 1 => Just(u64::MAX), 1 => Just(INDEX_MAX - 1), 1 => any::<u64>()]
    }

    prop_compose! {
        fn any_entry()(
            kind in 0..3u8, term in small_or_odd(), index in small_or_odd(),
            data in prop::collection::vec(any::<u8>(), 0..12),
        ) -> eraftpb::Entry {
            let entry_type = match kind {
                0 => EntryType::EntryNormal,
                1 => EntryType::EntryConfChange,
                _ => EntryType::EntryConfChangeV2,
            };
            eraftpb::Entry { entry_type, term, index, data: data.into(), ..Default::default() }
        }
    }

    prop_compose! {
        fn any_message()(
            kind in 0..19i32, from in 0..5u64, numbers in prop::array::uniform5(small_or_odd()),
            reject in any::<bool>(), mut entries in prop::collection::vec(any_entry(), 0..4),
            contiguous in prop::bool::weighted(0.7), context in prop::collection::vec(any::<u8>(), 0..9),
            snapshot in any_snapshot(),
        ) -> eraftpb::Message {
            let [term, log_term, index, commit, reject_hint] = numbers;
            if contiguous {
                for (step, entry) in entries.iter_mut().enumerate() {
                    entry.index = index.wrapping_add(step as u64 + 1);
                    entry.term = log_term;
                }
            }
            let mut message = eraftpb::Message {
                msg_type: protobuf_kind(kind), from, to: 1, term, log_term, index, commit,
                reject_hint, reject, entries: entries.into(), context: context.into(),
                ..Default::default()
            };
            if message.msg_type == MessageType::MsgSnapshot {
                message.set_snapshot(snapshot);
            }
            message
        }
    }

    prop_compose! {
        fn any_snapshot()(
            index in small_or_odd(), term in small_or_odd(),
            voters in prop::collection::vec(0..5u64, 0..5), learners in prop::collection::vec(0..7u64, 0..2),
        ) -> eraftpb::Snapshot {
            let mut snapshot = eraftpb::Snapshot::default();
            let metadata = snapshot.mut_metadata();
            (metadata.index, metadata.term) = (index, term);
            let mut members = eraftpb::ConfState::default();
            members.set_voters(voters);
            members.set_learners(learners);
            metadata.set_conf_state(members);
            snapshot
        }
    }

    fn protobuf_kind(number: i32) -> MessageType {
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
        KINDS[number as usize]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(3_000))]
        #[test]
        fn no_sequence_of_messages_causes_a_panic(
            messages in prop::collection::vec(any_message(), 1..30),
            pace in prop::collection::vec(0..4u8, 30),
        ) {
            let mut node = node();
            for (message, pace) in messages.into_iter().zip(pace) {
                let _ = node.step(Envelope(message));
                match pace {
                    0 => node.tick(),
                    1 => node.campaign(),
                    2 => { let _ = node.propose(Bytes::from_static(b"p")); }
                    _ => {}
                }
                while let Some(work) = node.work() {
                    node.persisted(work.number);
                    if let Some(snapshot) = work.snapshot {
                        node.applied(snapshot.mark.index);
                    }
                    if let Some(last) = work.committed.last() {
                        node.applied(last.index);
                    }
                }
            }
        }
    }
}
