//! What members do for one another: reads, snapshots, handing over.

use consensus::{
    ConfState, Envelope, EnvelopeKind, Index, NodeId, ReadContext, ReadReady, Role, SnapshotMark,
    Term,
};

use crate::member::{Disk, Member, text};

const IDS: [u64; 3] = [1, 2, 3];

/// Three members, of which the first leads and has committed in its term.
fn company() -> [Member; 3] {
    let mut members = IDS.map(|id| Member::start(id, 5, Disk::bootstrapped(&IDS)));
    members.iter_mut().for_each(Member::settle);
    members[0].node.campaign();
    deliver(&mut members, |_| true);
    assert_eq!(members[0].node.status().role, Role::Leader);
    members
}

/// Carries all messages that `passes` lets through to where they belong, until there are none.
fn deliver(members: &mut [Member; 3], passes: impl Fn(&Envelope) -> bool) {
    loop {
        members.iter_mut().for_each(Member::settle);
        let sent = members
            .iter_mut()
            .flat_map(|member| std::mem::take(&mut member.outbox));
        let sent: Vec<Envelope> = sent.filter(&passes).collect();
        if sent.is_empty() {
            break;
        }
        for envelope in sent {
            step(members, &envelope);
        }
    }
}

/// Over the wire, as between real members.
fn step(members: &mut [Member; 3], envelope: &Envelope) {
    let envelope = Envelope::decode(envelope.encode()).expect("we wrote it");
    let to = envelope.to().0 as usize - 1;
    members[to].node.step(envelope).expect("it makes sense");
}

#[test]
fn a_follower_learns_from_the_leader_up_to_where_it_must_read() {
    let mut members = company();
    members[0].node.propose(text("a")).expect("it leads");
    deliver(&mut members, |_| true);
    let commit = members[0].node.status().commit;
    members[1]
        .node
        .read(ReadContext(9))
        .expect("there is a leader");
    deliver(&mut members, |_| true);
    let expected = ReadReady {
        context: ReadContext(9),
        index: commit,
    };
    assert_eq!(members[1].reads, [expected]);
    assert!(members[0].reads.is_empty() && members[2].reads.is_empty());
}

/// [L2] A late answer to the first use of a context must not confirm what was asked between its two uses.
#[test]
fn a_context_that_a_member_uses_twice_confirms_nothing_too_early() {
    let mut members = company();
    let again = ReadContext(0xA);
    let is_answer_of_3 = |envelope: &Envelope| envelope.from() == NodeId(3);

    // 1. The follower 2 asks; its own answer confirms, that of 3 is still under way.
    members[1].node.read(again).expect("there is a leader");
    let mut late = Vec::new();
    loop {
        members.iter_mut().for_each(Member::settle);
        let sent = members
            .iter_mut()
            .flat_map(|member| std::mem::take(&mut member.outbox));
        let (held, passing): (Vec<_>, Vec<_>) = sent.partition(is_answer_of_3);
        late.extend(held);
        if passing.is_empty() {
            break;
        }
        for envelope in passing {
            step(&mut members, &envelope);
        }
    }
    assert_eq!(members[1].reads.len(), 1);

    // 2. The leader is cut off; 2 leads and commits more.
    let cut = |envelope: &Envelope| envelope.from() != NodeId(1) && envelope.to() != NodeId(1);
    while members[1..]
        .iter()
        .all(|member| member.node.status().role != Role::Leader)
    {
        members[1].node.tick();
        members[2].node.tick();
        deliver(&mut members, cut);
    }
    members[2].node.transfer_leader(NodeId(2));
    deliver(&mut members, cut);
    assert_eq!(members[1].node.status().role, Role::Leader);
    members[1].node.propose(text("x=2")).expect("it leads");
    deliver(&mut members, cut);

    // 3. The old leader wakes: it asks for a read of its own, then 2's old question comes once more, then
    //    the late answer of 3.
    members[0]
        .node
        .read(ReadContext(0xB))
        .expect("it thinks that it leads");
    let repeated = Envelope::decode(question(2, 1, again)).expect("a message");
    members[0].node.step(repeated).expect("it makes sense");
    members[0].settle();
    for envelope in late {
        step(&mut members, &envelope);
    }
    members[0].settle();
    assert!(members[0].reads.is_empty(), "{:?}", members[0].reads);
}

/// `MsgReadIndex` as bytes: type 15, to, from, term 0, one entry with the context as its data.
fn question(from: u8, to: u8, context: ReadContext) -> bytes::Bytes {
    let mut bytes = vec![0x08, 15, 0x10, to, 0x18, from, 0x20, 0, 0x3a, 10, 0x22, 8];
    bytes.extend(context.0.to_be_bytes());
    bytes.into()
}

#[test]
fn who_is_far_behind_is_sent_the_state_and_goes_on_from_there() {
    let mut members = company();
    let without_3 = |envelope: &Envelope| envelope.to() != NodeId(3);
    for number in 0..20 {
        members[0]
            .node
            .propose(text(format!("{number}")))
            .expect("it leads");
        deliver(&mut members, without_3);
    }
    let applied = members[0].node.status().applied;
    members[0].node.compact_log(applied);

    // The leader decides on a snapshot, and its shell puts in the state of then.
    let mark = SnapshotMark {
        index: applied,
        term: members[0].node.status().term,
        conf_state: ConfState {
            voters: IDS.map(NodeId).to_vec(),
            learners: vec![],
        },
    };
    members[0].node.propose(text("later")).expect("it leads");
    let mut snapshots = 0;
    for _ in 0..40 {
        members[0].node.tick();
        members.iter_mut().for_each(Member::settle);
        let sent: Vec<Envelope> = members
            .iter_mut()
            .flat_map(|member| std::mem::take(&mut member.outbox))
            .collect();
        for mut envelope in sent {
            if envelope.kind() == EnvelopeKind::Snapshot {
                snapshots += 1;
                assert_eq!(envelope.snapshot_index(), Some(applied));
                envelope = envelope.with_snapshot(&mark, text("state"));
                step(&mut members, &envelope);
                members[0].node.report_snapshot(NodeId(3), true);
            } else {
                step(&mut members, &envelope);
            }
        }
    }
    assert_eq!(snapshots, 1);
    let (mark_taken, data) = members[2].snapshot.take().expect("it was delivered");
    assert_eq!((mark_taken, data), (mark, text("state")));
    let (leader, laggard) = (members[0].node.status(), members[2].node.status());
    assert_eq!(laggard.applied, leader.applied);
    assert!(leader.applied > applied);
    assert_eq!(
        members[2].applied.last().map(|entry| &entry.data),
        Some(&text("later"))
    );
}

/// Found by the simulation: the raft crate looked for entries that the state had taken the place of.
#[test]
fn who_has_not_applied_a_state_yet_does_not_stand_for_election() {
    let mut members = company();
    let without_3 = |envelope: &Envelope| envelope.to() != NodeId(3);
    for _ in 0..5 {
        members[0].node.propose(text("a")).expect("it leads");
        deliver(&mut members, without_3);
    }
    let status = members[0].node.status();
    members[0].node.compact_log(status.applied);
    let mark = SnapshotMark {
        index: status.applied,
        term: status.term,
        conf_state: ConfState {
            voters: IDS.map(NodeId).to_vec(),
            learners: vec![],
        },
    };
    let mut message = None;
    while message.is_none() {
        members[0].node.tick();
        members.iter_mut().for_each(Member::settle);
        let sent: Vec<Envelope> = members
            .iter_mut()
            .flat_map(|member| std::mem::take(&mut member.outbox))
            .collect();
        for envelope in sent {
            match envelope.kind() {
                EnvelopeKind::Snapshot => message = Some(envelope),
                _ => step(&mut members, &envelope),
            }
        }
    }
    let message = message
        .expect("it was sent")
        .with_snapshot(&mark, text("state"));
    step(&mut members, &message);
    let laggard = &mut members[2];
    let work = laggard.node.work().expect("a snapshot to save");
    assert!(work.snapshot.is_some());
    laggard.node.persisted(work.number);
    laggard.node.campaign();
    for _ in 0..40 {
        laggard.node.tick();
    }
    assert_eq!(laggard.node.status().role, Role::Follower);
    laggard.node.applied(mark.index);
    laggard.node.campaign();
    assert_ne!(laggard.node.status().role, Role::Follower);
}

#[test]
fn entries_behind_a_snapshot_under_way_are_kept() {
    let mut members = company();
    let without_3 = |envelope: &Envelope| envelope.to() != NodeId(3);
    members[0].node.propose(text("a")).expect("it leads");
    deliver(&mut members, without_3);
    let applied = members[0].node.status().applied;
    members[0].node.compact_log(applied);
    // 3 still answers heartbeats, so it is sent a snapshot, which takes its time.
    for _ in 0..5 {
        members[0].node.tick();
        deliver(&mut members, |envelope| {
            envelope.kind() == EnvelopeKind::Other
        });
    }
    let large = "x".repeat(1 << 20);
    for _ in 0..80 {
        members[0]
            .node
            .propose(text(large.clone()))
            .expect("it leads");
        deliver(&mut members, without_3);
    }
    assert_eq!(members[0].node.status().first_index, Index(applied.0 + 1));
}

#[test]
fn leadership_is_handed_over_on_request() {
    let mut members = company();
    members[0].node.transfer_leader(NodeId(2));
    deliver(&mut members, |_| true);
    assert_eq!(members[1].node.status().role, Role::Leader);
    assert_eq!(members[0].node.status().leader, Some(NodeId(2)));
    assert_eq!(members[0].node.status().term, Term(3));
    let progress = members[1].node.progress();
    assert_eq!(progress.len(), 3);
    assert!(members[0].node.progress().is_empty());
}
