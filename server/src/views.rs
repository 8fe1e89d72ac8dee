//! What readers read: the newest applied state, immutable, swapped in whole after each batch.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use arc_swap::{ArcSwap, Guard};
use consensus::{Index, Role};
use mvcc::View;
use state_machine::{Alarms, Auth, Downgrade, Leases, Members, Position, StateMachine};
use tokio::sync::watch;

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
    /// Index of the last entry applied, for those who wait for one.
    applied: watch::Sender<u64>,
}

impl Views {
    /// Begins with the state found at start.
    pub fn new(state: State) -> Views {
        Views {
            applied: watch::Sender::new(state.applied.index),
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

    /// Waits for a state that has applied `index`.
    pub(crate) async fn applied(&self, index: Index) -> Arc<State> {
        let state = self.load();
        if state.applied.index >= index.0 {
            return Guard::into_inner(state);
        }
        drop(state);
        let mut applied = self.applied.subscribe();
        // The sender is here, so it cannot be gone.
        let _ = applied.wait_for(|applied| *applied >= index.0).await;
        self.load_full()
    }

    pub(crate) fn publish(&self, state: State) {
        let applied = state.applied.index;
        self.latest.store(Arc::new(state));
        self.applied.send_if_modified(|before| {
            let is_new = *before != applied;
            *before = applied;
            is_new
        });
    }
}

/// Where consensus stands, as `raft_thread` last saw it. Each number is current by itself; readers
/// that need several at one moment must not combine them.
#[derive(Default)]
pub struct ConsensusState {
    term: AtomicU64,
    commit: AtomicU64,
    leads_alone: AtomicBool,
    leader: AtomicU64,
    leaders: watch::Sender<u64>,
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

    /// Whether this member leads and nobody else has a vote, so that nobody else could.
    pub fn leads_alone(&self) -> bool {
        self.leads_alone.load(Ordering::Acquire)
    }

    /// Follows the leader: its id, 0 for none.
    pub(crate) fn leaders(&self) -> watch::Receiver<u64> {
        self.leaders.subscribe()
    }

    pub(crate) fn store(&self, status: &consensus::Status) {
        let leads_alone = status.role == Role::Leader && status.voters == [status.id];
        self.term.store(status.term.0, Ordering::Release);
        self.commit.store(status.commit.0, Ordering::Release);
        self.leads_alone.store(leads_alone, Ordering::Release);
        let leader = status.leader.map_or(0, |id| id.0);
        self.leader.store(leader, Ordering::Release);
        self.leaders.send_if_modified(|before| {
            let has_changed = *before != leader;
            *before = leader;
            has_changed
        });
    }
}
