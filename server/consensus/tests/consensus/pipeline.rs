//! Proposals, their order, what waits for the disk, and the bounds.

use bytes::Bytes;
use consensus::{
    ConfigurationChangeKind, ENTRY_BYTES_MAX, Index, Node, NodeId, ProposeError, ReadContext,
    ReadError, ReadReady, Role, UNAPPLIED_ENTRIES_MAX,
};

use crate::member::{Disk, Member, change, options, text};

#[test]
fn nothing_is_delivered_before_it_is_durable() {
    let mut member = Member::alone();
    member.node.propose(text("a")).unwrap();
    member.node.propose(text("b")).unwrap();
    let work = member.node.work().unwrap();
    assert!(work.must_sync);
    assert_eq!(work.entries.len(), 2, "all that waits comes at once");
    assert_eq!(work.committed, []);
    assert_eq!(
        member.node.work(),
        None,
        "an unfinished write commits nothing"
    );

    member.node.persisted(work.number);
    let next = member.node.work().unwrap();
    assert_eq!(next.committed, work.entries);
    assert!(!next.must_sync, "a commit index alone need not be synced");
    assert_eq!(next.hard_state.unwrap().commit, work.entries[1].index);
}

#[test]
fn works_may_overlap_and_are_delivered_in_order() {
    let mut member = Member::alone();
    let mut works = Vec::new();
    for round in 0..3 {
        member.node.propose(text(format!("{round}"))).unwrap();
        works.push(member.node.work().unwrap());
    }
    member.node.persisted(works[0].number);
    assert_eq!(member.node.work().unwrap().committed, works[0].entries);
    // The third one durable means the second one too.
    member.node.persisted(works[2].number);
    let committed = member.node.work().unwrap().committed;
    assert_eq!(
        committed,
        [works[1].entries.clone(), works[2].entries.clone()].concat()
    );
}

#[test]
fn data_is_shared_and_never_copied() {
    let mut member = Member::alone();
    let data = Bytes::from(vec![7u8; 1 << 20]);
    member.node.propose(data.clone()).unwrap();
    let work = member.node.work().unwrap();
    assert_eq!(work.entries[0].data.as_ptr(), data.as_ptr());
    member.node.persisted(work.number);
    assert_eq!(
        member.node.work().unwrap().committed[0].data.as_ptr(),
        data.as_ptr()
    );
}

#[test]
fn a_proposal_that_cannot_be_delivered_is_refused_at_once() {
    let mut idle = Node::new(&options(1, 0), Disk::bootstrapped(&[1]).initial()).unwrap();
    assert_eq!(idle.propose(text("x")), Err(ProposeError::NoLeader));

    let mut member = Member::alone();
    assert_eq!(member.node.propose(Bytes::new()), Err(ProposeError::Empty));
    let bytes = ENTRY_BYTES_MAX + 1;
    let large = Bytes::from(vec![0; bytes]);
    assert_eq!(
        member.node.propose(large),
        Err(ProposeError::TooLarge { bytes })
    );
    let stranger = change(ConfigurationChangeKind::AddNode, u64::MAX);
    let refused = member.node.propose_configuration(&stranger);
    assert_eq!(refused, Err(ProposeError::ReservedId(NodeId(u64::MAX))));
}

#[test]
fn proposals_wait_for_a_state_machine_that_lags() {
    let mut member = Member::alone();
    let mut last = Index(0);
    for round in 0..=UNAPPLIED_ENTRIES_MAX {
        member.node.propose(text(format!("{round}"))).unwrap();
        let work = member.node.work().unwrap();
        member.node.persisted(work.number);
        last = work.entries[0].index;
    }
    while let Some(work) = member.node.work() {
        member.node.persisted(work.number);
    }
    let entries = UNAPPLIED_ENTRIES_MAX + 1;
    assert_eq!(
        member.node.propose(text("x")),
        Err(ProposeError::TooManyUnapplied { entries })
    );
    member.node.applied(last);
    assert_eq!(member.node.propose(text("x")), Ok(()));
}

#[test]
fn memory_is_bounded_by_bytes_that_wait() {
    let mut member = Member::alone();
    let data = Bytes::from(vec![0u8; ENTRY_BYTES_MAX]);
    let refused = (0..100).find_map(|_| member.node.propose(data.clone()).err());
    assert!(
        matches!(refused, Some(ProposeError::TooMuchUnapplied { .. })),
        "{refused:?}"
    );
    member.settle();
    assert_eq!(member.node.propose(text("x")), Ok(()));
}

#[test]
fn a_member_alone_keeps_no_applied_entries_in_memory() {
    let mut member = Member::alone();
    for round in 0..1_000 {
        member.node.propose(text(format!("{round}"))).unwrap();
    }
    member.settle();
    let status = member.node.status();
    assert_eq!(status.applied, status.last_index);
    assert_eq!(
        (status.log_bytes, status.first_index.0),
        (0, status.last_index.0 + 1)
    );
    member.node.propose(text("after")).unwrap();
    member.settle();
    assert_eq!(member.applied.last().unwrap().data, text("after"));
}

#[test]
fn only_applied_entries_can_be_compacted() {
    let mut member = Member::start(1, 0, Disk::bootstrapped(&[1, 2]));
    member.settle();
    assert_eq!(member.node.status().first_index, Index(1));
    assert_eq!(member.node.compact_log(Index(1)), Index(1));
    assert_eq!(member.node.status().first_index, Index(2));
    assert_eq!(member.node.compact_log(Index(100)), Index(2));
    assert_eq!(member.node.compact_log(Index(0)), Index(2));
}

#[test]
fn a_read_names_the_commit_index_and_answers_with_its_own_context() {
    let mut member = Member::alone();
    member.node.propose(text("a")).unwrap();
    member.settle();
    let commit = member.node.status().commit;
    member.node.read(ReadContext(77)).unwrap();
    let work = member.node.work().unwrap();
    assert_eq!(
        work.reads,
        [ReadReady {
            context: ReadContext(77),
            index: commit
        }]
    );
}

#[test]
fn a_new_leader_answers_no_read_before_it_committed_in_its_term() {
    let mut member = Member::start(1, 0, Disk::bootstrapped(&[1]));
    member.settle();
    assert_eq!(member.node.read(ReadContext(1)), Err(ReadError::NoLeader));
    member.node.campaign();
    assert_eq!(member.node.status().role, Role::Leader);
    assert_eq!(
        member.node.read(ReadContext(2)),
        Err(ReadError::NothingCommitted)
    );
    member.settle();
    assert_eq!(member.node.read(ReadContext(3)), Ok(()));
}

#[test]
fn one_configuration_change_at_a_time() {
    let mut member = Member::alone();
    let learner = change(ConfigurationChangeKind::AddLearnerNode, 2);
    member.node.propose_configuration(&learner).unwrap();
    let second = member.node.propose_configuration(&learner);
    assert_eq!(second, Err(ProposeError::ConfigurationPending));
    member.settle();
    assert_eq!(member.members.learners, [NodeId(2)]);
    let update = change(ConfigurationChangeKind::UpdateNode, 2);
    member.node.propose_configuration(&update).unwrap();
    member.settle();
    assert_eq!(
        member.members.learners,
        [NodeId(2)],
        "an update leaves the members as they are"
    );
    assert_eq!(member.members.voters, [NodeId(1)]);
}

#[test]
fn the_last_voter_cannot_be_removed_and_a_rejected_change_has_no_effect() {
    let mut member = Member::alone();
    let removal = change(ConfigurationChangeKind::RemoveNode, 1);
    assert!(member.node.apply_configuration(Some(&removal)).is_err());
    let members = member.node.apply_configuration(None).unwrap();
    assert_eq!(members.voters, [NodeId(1)]);
    let nobody = change(ConfigurationChangeKind::AddNode, 0);
    assert_eq!(
        member.node.apply_configuration(Some(&nobody)).unwrap(),
        members
    );
    assert_eq!(member.node.propose(text("x")), Ok(()));
}
