//! Prints what one proposal costs the core of a member alone: propose, take work, report it durable,
//! take what became committed, apply.
//!
//!     cargo run --release -p consensus --example propose_cost

use bytes::Bytes;
use consensus::{
    ConfigurationChange, ConfigurationChangeKind, Entry, EntryKind, HardState, Index, Initial,
    Node, NodeId, Options, SnapshotMark, Term,
};

const PROPOSALS: u64 = 2_000_000;

#[expect(clippy::print_stdout, reason = "a program that reports figures")]
fn main() {
    for batch in [1, 64, 512] {
        for bytes in [100, 1024] {
            println!(
                "batch {batch:>3}, {bytes:>4} bytes: {:>5.0} ns per proposal",
                cost(batch, bytes)
            );
        }
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "measures time, decides nothing by it"
)]
fn cost(batch: u64, bytes: usize) -> f64 {
    let mut node = leader();
    let data = Bytes::from(vec![b'v'; bytes]);
    let start = std::time::Instant::now();
    for _ in 0..PROPOSALS / batch {
        for _ in 0..batch {
            node.propose(data.clone())
                .expect("a leader takes proposals");
        }
        work_through(&mut node);
    }
    start.elapsed().as_nanos() as f64 / (PROPOSALS / batch * batch) as f64
}

fn work_through(node: &mut Node) {
    while let Some(work) = node.work() {
        for entry in work.committed.iter() {
            if entry.kind == EntryKind::ConfigurationChange {
                let change = ConfigurationChange::decode(&entry.data).expect("encoded here");
                node.apply_configuration(Some(&change))
                    .expect("adds a voter");
            }
        }
        if let Some(last) = work.committed.last() {
            node.applied(last.index);
        }
        node.persisted(work.number);
    }
}

fn leader() -> Node {
    let id = NodeId(1);
    let kind = ConfigurationChangeKind::AddNode;
    let change = ConfigurationChange {
        id: 0,
        kind,
        node_id: id,
        context: None,
    };
    let first = Entry {
        kind: EntryKind::ConfigurationChange,
        term: Term(1),
        index: Index(1),
        data: change.encode(),
    };
    let initial = Initial {
        hard_state: HardState {
            term: Term(1),
            vote: 0,
            commit: Index(1),
        },
        snapshot: SnapshotMark::default(),
        entries: vec![first],
    };
    let options = Options {
        id,
        election_ticks: 10,
        heartbeat_ticks: 1,
        seed: 0,
        applied: Index(0),
    };
    let mut node = Node::new(&options, initial).expect("a sound start");
    work_through(&mut node);
    node.campaign();
    work_through(&mut node);
    node
}
