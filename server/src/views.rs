//! What readers read: the newest applied state, immutable, swapped in whole after each batch.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::{ArcSwap, Guard};
use mvcc::View;
use state_machine::{Alarms, Auth, Downgrade, Leases, Members, Position, StateMachine};

/// Everything that a reader may see of one moment.
pub struct State {
    /// The key space.
    pub view: View,
    /// The last entry that is in it.
    pub applied: Position,
    /// Users and roles.
    pub auth: Arc<Auth>,
    /// All leases.
    pub leases: Leases,
    /// Who belongs to the cluster.
    pub members: Arc<Members>,
    /// The active alarms.
    pub alarms: Arc<Alarms>,
    /// The downgrade under way, if any.
    pub downgrade: Arc<Downgrade>,
    /// Bytes of the database's pages as of its last commit.
    pub size: u64,
    /// Bytes of those pages that hold something.
    pub size_in_use: u64,
}

impl State {
    /// The state of now.
    pub(crate) fn of(machine: &mut StateMachine) -> State {
        let view = machine.view();
        State {
            applied: machine.applied(),
            auth: machine.auth(),
            leases: machine.leases().clone(),
            members: machine.members(),
            alarms: machine.alarms(),
            downgrade: machine.downgrade(),
            size: view.committed().size(),
            size_in_use: view.committed().size_in_use(),
            view,
        }
    }
}

/// The latest [`State`]. `apply_thread` alone stores, everybody loads without waiting.
pub struct Views {
    latest: ArcSwap<State>,
}

impl Views {
    /// Begins with the state found at start.
    pub fn new(state: State) -> Views {
        Views {
            latest: ArcSwap::from_pointee(state),
        }
    }

    /// The latest state, for a short look.
    pub fn load(&self) -> Guard<Arc<State>> {
        self.latest.load()
    }

    /// The latest state, to be kept for longer.
    pub fn load_full(&self) -> Arc<State> {
        self.latest.load_full()
    }

    pub(crate) fn publish(&self, state: State) {
        self.latest.store(Arc::new(state));
    }
}

/// Where consensus stands, as `raft_thread` last saw it. Each number is current by itself; readers
/// that need several at one moment must not combine them.
#[derive(Default)]
pub struct ConsensusState {
    term: AtomicU64,
    leader: AtomicU64,
    commit: AtomicU64,
}

impl ConsensusState {
    /// The current term.
    pub fn term(&self) -> u64 {
        self.term.load(Ordering::Acquire)
    }

    /// The leader of that term, 0 if none is known.
    pub fn leader(&self) -> u64 {
        self.leader.load(Ordering::Acquire)
    }

    /// The highest committed index.
    pub fn commit(&self) -> u64 {
        self.commit.load(Ordering::Acquire)
    }

    pub(crate) fn store(&self, status: &consensus::Status) {
        self.term.store(status.term.0, Ordering::Release);
        self.commit.store(status.commit.0, Ordering::Release);
        self.leader
            .store(status.leader.map_or(0, |id| id.0), Ordering::Release);
    }
}
