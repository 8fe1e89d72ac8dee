//! Starting: a new cluster, and states that no correct log leaves behind.

use consensus::{
    ConfState, ConsensusError, Entry, EntryKind, HardState, Index, Initial, Node, NodeId, Role,
    SnapshotMark, Term,
};

use crate::member::{Disk, Member, options, text};

#[test]
fn a_new_cluster_of_one_delivers_its_member_and_leads_in_term_2() {
    let mut member = Member::start(1, 0, Disk::bootstrapped(&[1]));
    assert_eq!(member.node.status().voters, []);
    member.settle();
    assert_eq!(member.applied.len(), 1);
    assert_eq!(member.members.voters, [NodeId(1)]);

    member.node.campaign();
    member.settle();
    let status = member.node.status();
    assert_eq!((status.role, status.term), (Role::Leader, Term(2)));
    assert_eq!(
        (status.leader, status.vote),
        (Some(NodeId(1)), Some(NodeId(1)))
    );
    assert_eq!((status.commit, status.applied), (Index(2), Index(2)));
    assert!(
        member.applied[1].data.is_empty(),
        "a term opens with an empty entry"
    );

    member.node.propose(text("first")).unwrap();
    member.settle();
    let last = member.applied.last().unwrap();
    assert_eq!(
        (last.index, last.term, &last.data),
        (Index(3), Term(2), &text("first"))
    );
}

#[test]
fn a_sole_voter_is_elected_by_its_ticks_too() {
    let mut member = Member::start(1, 0, Disk::bootstrapped(&[1]));
    member.settle();
    for _ in 0..20 {
        member.node.tick();
        member.settle();
    }
    assert_eq!(member.node.status().role, Role::Leader);
}

#[test]
fn who_is_in_no_configuration_never_stands_for_election() {
    let mut node = Node::new(&options(1, 0), Initial::default()).unwrap();
    node.campaign();
    for _ in 0..100 {
        node.tick();
    }
    assert_eq!(node.status().role, Role::Follower);
    assert_eq!(node.status().term, Term(0));
    assert!(node.work().is_none());
}

#[test]
fn no_election_while_configuration_changes_wait_to_be_applied() {
    let mut node = Node::new(&options(1, 0), Disk::bootstrapped(&[1]).initial()).unwrap();
    node.campaign();
    assert_eq!(node.status().role, Role::Follower);
}

#[test]
fn a_commit_index_behind_the_applied_index_is_raised() {
    // A power loss may take the commit index, which is never synced for its own sake.
    let mut start = options(1, 0);
    start.applied = Index(3);
    let mut initial = sound();
    initial.hard_state.commit = Index(2);
    let node = Node::new(&start, initial).unwrap();
    assert_eq!(node.status().commit, Index(3));
    assert_eq!(node.status().applied, Index(3));
}

#[test]
fn a_hard_state_torn_off_the_last_entries_does_not_give_the_term_twice() {
    let mut initial = sound();
    initial.hard_state.term = Term(1);
    initial.hard_state.vote = 1;
    let status = Node::new(&applied_2(), initial).unwrap().status();
    assert_eq!((status.term, status.vote), (Term(3), None));
}

#[test]
fn contradictory_states_are_refused() {
    type Spoil = fn(&mut Initial);
    type Expected = fn(&ConsensusError) -> bool;
    let refused = |spoil: Spoil| {
        let mut initial = sound();
        spoil(&mut initial);
        Node::new(&applied_2(), initial).err()
    };
    assert!(refused(|_| {}).is_none());
    let cases: [(Spoil, Expected); 9] = [
        (
            |i| i.entries[1].index = Index(5),
            |e| matches!(e, ConsensusError::Gap { .. }),
        ),
        (
            |i| i.entries[0].index = Index(4),
            |e| matches!(e, ConsensusError::Gap { .. }),
        ),
        (
            |i| i.entries[0].term = Term(9),
            |e| matches!(e, ConsensusError::EntryTerm { .. }),
        ),
        (
            |i| i.entries[1].term = Term(u64::MAX),
            |e| matches!(e, ConsensusError::EntryTerm { .. }),
        ),
        (
            |i| i.hard_state.commit = Index(5),
            |e| matches!(e, ConsensusError::Commit { .. }),
        ),
        (
            |i| i.hard_state.commit = Index(1),
            |e| matches!(e, ConsensusError::Commit { .. }),
        ),
        (
            |i| i.hard_state.term = Term(u64::MAX),
            |e| matches!(e, ConsensusError::OutOfRange { .. }),
        ),
        (
            |i| i.snapshot.conf_state.voters.clear(),
            |e| matches!(e, ConsensusError::Members { .. }),
        ),
        (
            |i| i.snapshot.conf_state.learners.push(NodeId(1)),
            |e| matches!(e, ConsensusError::Members { .. }),
        ),
    ];
    for (number, (spoil, expected)) in cases.into_iter().enumerate() {
        let found = refused(spoil);
        assert!(
            found.as_ref().is_some_and(expected),
            "case {number}: {found:?}"
        );
    }
}

#[test]
fn an_applied_index_outside_the_log_is_refused() {
    for applied in [Index(1), Index(5), Index(u64::MAX)] {
        let mut start = options(1, 0);
        start.applied = applied;
        let found = Node::new(&start, sound()).err();
        assert!(
            matches!(found, Some(ConsensusError::Applied { .. })),
            "{applied}: {found:?}"
        );
    }
}

#[test]
fn a_configuration_change_is_never_skipped() {
    let mut start = options(1, 0);
    start.applied = Index(1);
    let found = Node::new(&start, Disk::bootstrapped(&[1]).initial()).err();
    assert!(
        matches!(found, Some(ConsensusError::SkippedConfiguration { .. })),
        "{found:?}"
    );
}

#[test]
fn reserved_ids_and_impossible_intervals_are_refused() {
    for id in [0, u64::MAX, u64::MAX - 1] {
        let found = Node::new(&options(id, 0), Initial::default()).err();
        assert!(
            matches!(found, Some(ConsensusError::ReservedId(_))),
            "{id}: {found:?}"
        );
    }
    for (election, heartbeat) in [(1, 1), (10, 0), (0, 0), (3, 5)] {
        let mut start = options(1, 0);
        (start.election_ticks, start.heartbeat_ticks) = (election, heartbeat);
        let found = Node::new(&start, Initial::default()).err();
        assert!(
            matches!(found, Some(ConsensusError::Ticks { .. })),
            "{election}/{heartbeat}"
        );
    }
}

fn applied_2() -> consensus::Options {
    let mut start = options(1, 0);
    start.applied = Index(2);
    start
}

/// A snapshot at 2, entries 3 and 4, of which 3 is committed.
fn sound() -> Initial {
    let entry = |index, term| Entry {
        kind: EntryKind::Normal,
        term: Term(term),
        index: Index(index),
        data: text("x"),
    };
    let conf_state = ConfState {
        voters: vec![NodeId(1)],
        learners: vec![],
    };
    Initial {
        hard_state: HardState {
            term: Term(3),
            vote: 1,
            commit: Index(3),
        },
        snapshot: SnapshotMark {
            index: Index(2),
            term: Term(2),
            conf_state,
        },
        entries: vec![entry(3, 2), entry(4, 3)],
    }
}
