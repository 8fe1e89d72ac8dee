//! One member's part in the agreement.
//!
//! What this file adds to the raft crate: starting states are checked instead of trusted, elections
//! draw their timeouts from a seed, nothing is delivered before it is durable here, and the calls
//! on which the crate would panic are refused or held back.

use bytes::Bytes;
use raft::eraftpb::{self, EntryType, MessageType};
use raft::{INVALID_ID, ProgressState, RawNode, SnapshotStatus, StateRole};
use slog::Logger;
use thiserror::Error;

use crate::envelope::{Envelope, EnvelopeRefusal, Receiver};
use crate::log::{
    Entry, EntryKind, HardState, INDEX_MAX, Index, LOG_BYTES_KEPT, LOG_BYTES_KEPT_FOR_LAGGARDS,
    Log, Term, veil,
};
use crate::members::{ConfState, ConfigurationChange, NodeId};
use crate::reads::Reads;
use crate::work::{Progress, ReadContext, Role, SnapshotReceived, Status, Work, WorkNumber};

/// Largest entry that may be proposed: a segment of the log on disk is about as large, and request
/// limits lie far below.
pub const ENTRY_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Proposals are refused while more committed entries than this wait to be applied, as in etcd.
pub const UNAPPLIED_ENTRIES_MAX: u64 = 5_000;

/// Proposals are refused while the entries that are not applied yet, committed or not, take more
/// memory than this. Without it a stalled disk or a lost quorum would let the log grow for ever.
pub const UNAPPLIED_BYTES_MAX: usize = 512 * 1024 * 1024;

/// Entries of one message to another member; etcd's value.
const MESSAGE_BYTES_MAX: u64 = 1024 * 1024;

/// Messages on their way to one member without an answer; etcd's value.
const MESSAGES_IN_FLIGHT_MAX: usize = 512;

/// Committed entries of one [`Work`]: bounds what a restart with a long log hands out at once.
const COMMITTED_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// Ticks within which an election begins when the leader's process has ended.
const GONE_TICKS_MAX: usize = 3;

/// Above every index: no entry is needed.
const INDEX_NEVER: Index = Index(u64::MAX);

/// How a node behaves.
#[derive(Clone, Debug)]
pub struct Options {
    /// Own id.
    pub id: NodeId,
    /// Ticks without a leader before an election; each is drawn from this up to its double.
    pub election_ticks: usize,
    /// Ticks between a leader's heartbeats.
    pub heartbeat_ticks: usize,
    /// Makes elections replay: with the same seed and the same calls they come out the same.
    pub seed: u64,
    /// Entries up to here have had their effect and are not delivered again. At least the snapshot's
    /// index; with [`Node::new`] no configuration change may stand in between.
    pub applied: Index,
}

/// The state that a log starts from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SnapshotMark {
    /// Last entry that the snapshot contains; 0 if there is none.
    pub index: Index,
    /// Term of that entry.
    pub term: Term,
    /// Members at that entry; empty only if there is no snapshot.
    pub conf_state: ConfState,
}

/// What was found on disk.
#[derive(Clone, Debug, Default)]
pub struct Initial {
    /// The last one stored.
    pub hard_state: HardState,
    /// Where `entries` begin.
    pub snapshot: SnapshotMark,
    /// All entries after the snapshot.
    pub entries: Vec<Entry>,
}

/// One member's part in the agreement. The crate's description tells how to drive it.
pub struct Node {
    raw: RawNode<Log>,
    reads: Reads,
    seed: u64,
    election_ticks: usize,
    /// The members as of the last applied entry. Those of the raft crate are ahead of them from the moment in
    /// which it takes in a leader's state until that is applied.
    members: ConfState,
}

impl Node {
    /// Starts from what was found on disk.
    ///
    /// A commit index below `options.applied` is raised to it, and a term below that of the last
    /// entry likewise: the log's last write may have been torn between entries and hard state.
    ///
    /// # Errors
    /// If the parts contradict each other; nothing is guessed.
    pub fn new(options: &Options, initial: Initial) -> Result<Node, ConsensusError> {
        check_options(options)?;
        check_initial(options, &initial)?;
        check_skipped(options, &initial)?;
        let members = initial.snapshot.conf_state.clone();
        Node::start(options, initial, &members)
    }

    /// Starts as [`Node::new`] does, with the members as they were at `options.applied`. An entry that
    /// changed them before is not looked at again: whether it was carried out or was void was decided when
    /// it was applied, on a state that is no more.
    ///
    /// # Errors
    /// As [`Node::new`].
    pub fn resume(
        options: &Options,
        initial: Initial,
        members: &ConfState,
    ) -> Result<Node, ConsensusError> {
        check_options(options)?;
        check_initial(options, &initial)?;
        check_members(options.applied, members)?;
        Node::start(options, initial, members)
    }

    /// Starts from parts that were checked.
    fn start(
        options: &Options,
        initial: Initial,
        members: &ConfState,
    ) -> Result<Node, ConsensusError> {
        let Initial {
            hard_state,
            snapshot,
            entries,
        } = initial;
        let mut hard_state = hard_state;
        hard_state.commit = hard_state.commit.max(options.applied);
        let last_term = entries.last().map_or(snapshot.term, |entry| entry.term);
        if last_term > hard_state.term {
            hard_state.term = last_term;
            hard_state.vote = INVALID_ID;
        }
        let state = raft::RaftState::new(hard_state.to_raft(), members.to_raft());
        let log = Log::new(
            (snapshot.index, snapshot.term),
            entries,
            state,
            options.applied,
        );
        let quiet = Logger::root(slog::Discard, slog::o!());
        let raw = RawNode::new(&raft_config(options), log, &quiet)
            .map_err(|fault| ConsensusError::Refused(fault.to_string()))?;
        let mut node = Node {
            raw,
            reads: Reads::default(),
            seed: options.seed,
            election_ticks: options.election_ticks,
            members: members.clone(),
        };
        node.draw_election_timeout();
        Ok(node)
    }

    /// One tick of the clock has passed.
    pub fn tick(&mut self) {
        if self.raw.raft.state != StateRole::Leader && self.must_not_stand() {
            return;
        }
        self.raw.tick();
        self.draw_election_timeout();
    }

    /// Stands for election now instead of waiting for the timeout. Without effect on a leader, on
    /// who has no vote, and while a leader's state or committed configuration changes wait to be applied.
    pub fn campaign(&mut self) {
        if !self.raw.raft.promotable() || self.must_not_stand() {
            return;
        }
        // An error means that the call came at a wrong moment; the timeout will come again.
        let _ = self.raw.campaign();
        self.draw_election_timeout();
    }

    /// Proposes one command. It may still be lost; only its delivery in [`Work::committed`] tells.
    ///
    /// # Errors
    /// If it certainly will not be delivered.
    pub fn propose(&mut self, data: Bytes) -> Result<(), ProposeError> {
        self.propose_entry(EntryType::EntryNormal, data)
    }

    /// Proposes a change of the members. At most one may be on its way at a time.
    ///
    /// # Errors
    /// If it certainly will not be delivered.
    pub fn propose_configuration(
        &mut self,
        change: &ConfigurationChange,
    ) -> Result<(), ProposeError> {
        if !change.node_id.is_valid() {
            return Err(ProposeError::ReservedId(change.node_id));
        }
        if self.raw.raft.state == StateRole::Leader && self.raw.raft.has_pending_conf() {
            return Err(ProposeError::ConfigurationPending);
        }
        self.propose_entry(EntryType::EntryConfChange, change.encode())
    }

    /// Takes note of a configuration entry that is being applied: `None` if it was found to be
    /// invalid and has no effect. Returns the members after it.
    ///
    /// # Errors
    /// If the change would leave no voter; the members stay as they are.
    pub fn apply_configuration(
        &mut self,
        change: Option<&ConfigurationChange>,
    ) -> Result<ConfState, ConsensusError> {
        let change = change.filter(|change| change.node_id.is_valid());
        if let Some(change) = change.filter(|_| self.awaits_state()) {
            // The state that was taken in has this change, and maybe others behind it.
            self.members = self.members.after(change);
            return Ok(self.members.clone());
        }
        let Some(change) = change.and_then(ConfigurationChange::to_raft) else {
            return Ok(self.members.clone());
        };
        self.raw
            .apply_conf_change(&change)
            .map_err(|fault| ConsensusError::Refused(fault.to_string()))?;
        let raft = &mut self.raw.raft;
        if raft.state == StateRole::Leader && !raft.promotable() {
            // The crate would go on leading and fail when its own writes become durable.
            let term = raft.term;
            raft.become_follower(term, INVALID_ID);
        }
        self.draw_election_timeout();
        // The change may have left this member alone, which confirms what waits.
        self.confirm_reads();
        let members = self.conf_state();
        self.raw.mut_store().set_conf_state(members.clone());
        self.members = members.clone();
        Ok(members)
    }

    /// Takes in a message of another member.
    ///
    /// # Errors
    /// If it is not for this member, or no correct member can have sent it. A proposal that cannot be
    /// carried out now is dropped without an error, as if it had been lost on the way.
    pub fn step(&mut self, envelope: Envelope) -> Result<(), EnvelopeRefusal> {
        let from = envelope.from();
        let raft = &self.raw.raft;
        let committed = raft.raft_log.committed;
        let committed_term = raft.raft_log.term(committed).unwrap_or(0);
        let mut message = envelope.open(&Receiver {
            id: NodeId(raft.id),
            term: Term(raft.term),
            last_index: Index(raft.raft_log.last_index()),
            committed: (Index(committed), Term(committed_term)),
        })?;
        let is_dropped = match message.msg_type {
            MessageType::MsgTimeoutNow => self.must_not_stand(),
            // Only a leader is asked this; the crate would panic on passing it on.
            MessageType::MsgTransferLeader => self.led_term().is_none(),
            _ => false,
        };
        if is_dropped {
            return Ok(());
        }
        self.reads.lead(self.led_term());
        if message.msg_type == MessageType::MsgReadIndex
            && self.led_term().is_some()
            && !self.reads.rename(&mut message)
        {
            return Ok(());
        }
        let stepped = self.raw.step(message);
        self.draw_election_timeout();
        self.confirm_reads();
        match stepped {
            Err(raft::Error::StepPeerNotFound) => Err(EnvelopeRefusal::NoMember(from)),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// Asks for the index up to which a linearizable read must see the log; who does not lead asks the
    /// leader. The answer comes in [`Work::reads`], or never: if a message is lost or leadership changes
    /// meanwhile. Then ask again, with another context.
    ///
    /// # Errors
    /// If nobody can be asked now.
    pub fn read(&mut self, context: ReadContext) -> Result<(), ReadError> {
        self.reads.lead(self.led_term());
        let raft = &self.raw.raft;
        if raft.leader_id == INVALID_ID {
            return Err(ReadError::NoLeader);
        }
        let context = match raft.state == StateRole::Leader {
            true if !raft.commit_to_current_term() => return Err(ReadError::NothingCommitted),
            true => self.reads.ask(context),
            false => context.0.to_be_bytes().to_vec(),
        };
        self.raw.read_index(context);
        self.confirm_reads();
        Ok(())
    }

    /// Hands leadership over as soon as `to` has the whole log; proposals are dropped until then, at most
    /// for an election timeout. Without effect unless this member leads and `to` is another voter.
    pub fn transfer_leader(&mut self, to: NodeId) {
        if to.is_valid() {
            self.raw.transfer_leader(to.0);
        }
    }

    /// A message to `id` could not be delivered: a leader sends it less for a while.
    pub fn report_unreachable(&mut self, id: NodeId) {
        self.raw.report_unreachable(id.0);
    }

    /// The process of `id` has ended, as its host says: who follows it stands for election within a few
    /// ticks instead of waiting for the timeout. If that is wrong nothing is lost: no other member that
    /// still hears of the leader supports the election.
    pub fn report_gone(&mut self, id: NodeId) {
        let raft = &mut self.raw.raft;
        if raft.state != StateRole::Follower || raft.leader_id != id.0 {
            return;
        }
        // Members that learn it at the same moment should not stand at the same moment.
        let draw = scramble(self.seed ^ scramble(raft.id) ^ scramble(raft.term));
        let patience = (draw % GONE_TICKS_MAX as u64) as usize;
        let timeout = raft.randomized_election_timeout();
        let elapsed = timeout.saturating_sub(1 + patience);
        raft.election_elapsed = raft.election_elapsed.max(elapsed).max(self.election_ticks);
    }

    /// A snapshot for `id` was taken in, or was not.
    pub fn report_snapshot(&mut self, id: NodeId, success: bool) {
        let status = match success {
            true => SnapshotStatus::Finish,
            false => SnapshotStatus::Failure,
        };
        self.raw.report_snapshot(id.0, status);
    }

    /// How far the members are, as a leader knows it; empty for others.
    pub fn progress(&self) -> Vec<Progress> {
        if self.led_term().is_none() {
            return Vec::new();
        }
        let prs = self.raw.raft.prs().iter();
        prs.map(|(&id, progress)| Progress {
            id: NodeId(id),
            matched: Index(progress.matched),
            is_active: id == self.raw.raft.id || progress.recent_active,
        })
        .collect()
    }

    /// What must be done next; `None` if nothing waits.
    pub fn work(&mut self) -> Option<Work> {
        if !self.raw.has_ready() && !self.reads.has_ready() {
            return None;
        }
        let mut ready = self.raw.ready();
        let snapshot = (!ready.snapshot().is_empty()).then(|| snapshot_received(ready.snapshot()));
        let number = WorkNumber(ready.number());
        let entries: Vec<Entry> = ready
            .take_entries()
            .into_iter()
            .map(Entry::from_raft)
            .collect();
        let work = Work {
            number,
            messages: self.seal_all(ready.take_messages()),
            hard_state: ready.hs().map(HardState::from_raft),
            must_sync: ready.must_sync(),
            messages_after_sync: self.seal_all(ready.take_persisted_messages()),
            committed: ready
                .take_committed_entries()
                .into_iter()
                .map(Entry::from_raft)
                .collect(),
            reads: self.reads.take_ready(),
            snapshot,
            entries,
        };
        if let Some(snapshot) = &work.snapshot {
            self.raw.mut_store().restore(&snapshot.mark);
        }
        self.raw.mut_store().append(work.entries.clone());
        self.raw.advance_append_async(ready);
        Some(work)
    }

    /// This work and all earlier ones are durable. What became committed by that comes with the next
    /// [`Node::work`].
    pub fn persisted(&mut self, number: WorkNumber) {
        self.raw.on_persist_ready(number.0);
    }

    /// Everything up to `index` has had its effect. Old entries may leave memory.
    ///
    /// # Panics
    /// If `index` was never delivered, or lies below one reported before.
    pub fn applied(&mut self, index: Index) {
        let alone = self.leads_alone();
        let needed = self.needed_above();
        let awaited = self.awaits_state();
        self.raw.advance_apply_to(index.0);
        if awaited && !self.awaits_state() {
            self.members = self.conf_state();
        }
        let log = self.raw.mut_store();
        log.advance_applied(index);
        match alone {
            true => log.compact_to_budget(0, INDEX_NEVER, 0),
            false => log.compact_to_budget(LOG_BYTES_KEPT, needed, LOG_BYTES_KEPT_FOR_LAGGARDS),
        }
    }

    /// Drops entries up to `upto` from memory, as far as they are applied; returns the last index
    /// that is gone. A member that needs them then needs a snapshot.
    pub fn compact_log(&mut self, upto: Index) -> Index {
        self.raw.mut_store().compact(upto)
    }

    /// What the node is and where it stands.
    pub fn status(&self) -> Status {
        let raft = &self.raw.raft;
        let ConfState { voters, learners } = self.conf_state();
        Status {
            id: NodeId(raft.id),
            role: match raft.state {
                StateRole::Follower => Role::Follower,
                StateRole::PreCandidate => Role::PreCandidate,
                StateRole::Candidate => Role::Candidate,
                StateRole::Leader => Role::Leader,
            },
            term: Term(raft.term),
            vote: NodeId::from_raft(raft.vote),
            leader: NodeId::from_raft(raft.leader_id),
            commit: Index(raft.raft_log.committed),
            applied: Index(raft.raft_log.applied),
            persisted: Index(raft.raft_log.persisted),
            last_index: Index(raft.raft_log.last_index()),
            first_index: self.raw.store().first_held(),
            log_bytes: self.raw.store().bytes(),
            voters,
            learners,
            transferee: raft.lead_transferee.and_then(NodeId::from_raft),
        }
    }

    fn propose_entry(&mut self, kind: EntryType, data: Bytes) -> Result<(), ProposeError> {
        self.check_proposal(&data)?;
        let mut entry = eraftpb::Entry {
            entry_type: kind,
            data,
            ..Default::default()
        };
        veil(&mut entry);
        let message = eraftpb::Message {
            msg_type: MessageType::MsgPropose,
            from: self.raw.raft.id,
            entries: vec![entry].into(),
            ..Default::default()
        };
        self.raw
            .raft
            .step(message)
            .map_err(|_| ProposeError::Dropped)
    }

    fn check_proposal(&self, data: &Bytes) -> Result<(), ProposeError> {
        let raft = &self.raw.raft;
        if data.is_empty() {
            return Err(ProposeError::Empty);
        }
        if data.len() > ENTRY_BYTES_MAX {
            return Err(ProposeError::TooLarge { bytes: data.len() });
        }
        if raft.leader_id == INVALID_ID {
            return Err(ProposeError::NoLeader);
        }
        let waiting = raft.raft_log.committed - raft.raft_log.applied;
        if waiting > UNAPPLIED_ENTRIES_MAX {
            return Err(ProposeError::TooManyUnapplied { entries: waiting });
        }
        // Entries that wait for the next work are not in the log yet.
        let bytes = self.raw.store().unapplied_bytes() + raft.raft_log.unstable.entries_size;
        if bytes > UNAPPLIED_BYTES_MAX {
            return Err(ProposeError::TooMuchUnapplied { bytes });
        }
        Ok(())
    }

    /// Whether an election now would be won on the spot, with entries that are not durable yet: the
    /// only voter asks nobody. It has to wait until its disk is done.
    fn would_lead_unwritten(&self) -> bool {
        let raft = &self.raw.raft;
        raft.promotable()
            && raft.prs().is_singleton()
            && raft.raft_log.persisted < raft.raft_log.last_index()
    }

    /// Whether a leader's state was taken in and is not applied yet. The raft crate would look for changes of
    /// the members in entries that are in that state, and fail because they are not in the log.
    fn awaits_state(&self) -> bool {
        let log = &self.raw.raft.raft_log;
        log.unstable.snapshot.is_some() || self.raw.store().first_held().0 > log.applied + 1
    }

    fn must_not_stand(&self) -> bool {
        self.would_lead_unwritten() || self.awaits_state()
    }

    /// Only a leader knows that no other members follow in entries that are not applied yet.
    fn leads_alone(&self) -> bool {
        let raft = &self.raw.raft;
        raft.state == StateRole::Leader && raft.prs().iter().nth(1).is_none()
    }

    /// The term that this member leads, if it leads.
    fn led_term(&self) -> Option<u64> {
        let raft = &self.raw.raft;
        (raft.state == StateRole::Leader).then_some(raft.term)
    }

    /// Entries above this are still needed by a member that answers.
    fn needed_above(&self) -> Index {
        if self.led_term().is_none() {
            return INDEX_NEVER;
        }
        let active = self.raw.raft.prs().iter();
        active
            .filter(|(_, progress)| progress.recent_active)
            .map(|(_, progress)| match progress.state {
                ProgressState::Snapshot => progress.pending_snapshot,
                ProgressState::Probe | ProgressState::Replicate => progress.matched,
            })
            .min()
            .map_or(INDEX_NEVER, Index)
    }

    fn confirm_reads(&mut self) {
        self.reads.lead(self.led_term());
        let confirmed = std::mem::take(&mut self.raw.raft.read_states);
        self.reads.confirm(confirmed);
    }

    fn seal_all(&mut self, messages: Vec<eraftpb::Message>) -> Vec<Envelope> {
        let mut sealed = Vec::with_capacity(messages.len());
        for mut message in messages {
            let is_sent = message.msg_type != MessageType::MsgReadIndexResp
                || self.reads.restore(&mut message);
            if is_sent {
                sealed.push(Envelope::seal(message));
            }
        }
        sealed
    }

    fn conf_state(&self) -> ConfState {
        ConfState::from_raft(&self.raw.raft.prs().conf().to_conf_state())
    }

    /// The raft crate draws timeouts from the thread's random source whenever it changes role or
    /// term; this puts a reproducible draw in its place.
    fn draw_election_timeout(&mut self) {
        let raft = &mut self.raw.raft;
        let draw = [raft.id, raft.term, raft.state as u64]
            .into_iter()
            .fold(self.seed, |state, word| scramble(state ^ scramble(word)));
        let extra = (draw % self.election_ticks as u64) as usize;
        raft.set_randomized_election_timeout(self.election_ticks + extra);
    }
}

/// The finalizer of splitmix64.
fn scramble(word: u64) -> u64 {
    let word = word.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

fn snapshot_received(snapshot: &eraftpb::Snapshot) -> SnapshotReceived {
    let metadata = snapshot.get_metadata();
    SnapshotReceived {
        mark: SnapshotMark {
            index: Index(metadata.index),
            term: Term(metadata.term),
            conf_state: ConfState::from_raft(metadata.get_conf_state()),
        },
        data: snapshot.data.clone(),
    }
}

fn raft_config(options: &Options) -> raft::Config {
    raft::Config {
        id: options.id.0,
        election_tick: options.election_ticks,
        heartbeat_tick: options.heartbeat_ticks,
        min_election_tick: options.election_ticks,
        max_election_tick: 2 * options.election_ticks,
        applied: options.applied.0,
        max_size_per_msg: MESSAGE_BYTES_MAX,
        max_inflight_msgs: MESSAGES_IN_FLIGHT_MAX,
        max_committed_size_per_ready: COMMITTED_BYTES_MAX,
        check_quorum: true,
        pre_vote: true,
        batch_append: true,
        ..Default::default()
    }
}

fn check_options(options: &Options) -> Result<(), ConsensusError> {
    if !options.id.is_valid() {
        return Err(ConsensusError::ReservedId(options.id));
    }
    let (election, heartbeat) = (options.election_ticks, options.heartbeat_ticks);
    if heartbeat == 0 || election <= heartbeat || election > u32::MAX as usize {
        return Err(ConsensusError::Ticks {
            election,
            heartbeat,
        });
    }
    Ok(())
}

fn check_initial(options: &Options, initial: &Initial) -> Result<(), ConsensusError> {
    let Initial {
        hard_state,
        snapshot,
        entries,
    } = initial;
    check_members(snapshot.index, &snapshot.conf_state)?;
    let (mut index, mut term) = (snapshot.index, snapshot.term);
    for entry in entries {
        if entry.index.0 != index.0 + 1 {
            return Err(ConsensusError::Gap {
                after: index,
                found: entry.index,
            });
        }
        if entry.term < term || entry.index.0 >= INDEX_MAX || entry.term.0 >= INDEX_MAX {
            return Err(ConsensusError::EntryTerm {
                index: entry.index,
                term: entry.term,
            });
        }
        (index, term) = (entry.index, entry.term);
    }
    let last = index;
    if hard_state.term.0 >= INDEX_MAX || snapshot.index.0 >= INDEX_MAX {
        return Err(ConsensusError::OutOfRange {
            term: hard_state.term,
            index: snapshot.index,
        });
    }
    let commit = hard_state.commit;
    if commit < snapshot.index || commit > last {
        return Err(ConsensusError::Commit {
            commit,
            snapshot: snapshot.index,
            last,
        });
    }
    let applied = options.applied;
    if applied < snapshot.index || applied > last {
        return Err(ConsensusError::Applied {
            applied,
            snapshot: snapshot.index,
            last,
        });
    }
    Ok(())
}

fn check_members(index: Index, members: &ConfState) -> Result<(), ConsensusError> {
    if let Some(reason) = members.fault() {
        return Err(ConsensusError::Members { index, reason });
    }
    if index > Index(0) && members.voters.is_empty() {
        let reason = "it names no voter".to_owned();
        return Err(ConsensusError::Members { index, reason });
    }
    Ok(())
}

/// Without the members at the applied index they must come out of entries that are still delivered.
fn check_skipped(options: &Options, initial: &Initial) -> Result<(), ConsensusError> {
    let applied = options.applied;
    let mut skipped = initial
        .entries
        .iter()
        .take_while(|entry| entry.index <= applied);
    match skipped.find(|entry| entry.kind != EntryKind::Normal) {
        Some(entry) => Err(ConsensusError::SkippedConfiguration {
            index: entry.index,
            applied,
        }),
        None => Ok(()),
    }
}

/// Why a node cannot start, or a configuration not be taken.
#[derive(Debug, Error)]
pub enum ConsensusError {
    /// No member may have this id.
    #[error("member id {0} is reserved")]
    ReservedId(NodeId),
    /// The intervals do not fit each other.
    #[error(
        "an election after {election} ticks does not fit heartbeats every {heartbeat} ticks; \
         heartbeats need at least 1 tick, elections more than heartbeats"
    )]
    Ticks {
        /// Ticks to an election.
        election: usize,
        /// Ticks to a heartbeat.
        heartbeat: usize,
    },
    /// The members stored with a state are impossible.
    #[error("the configuration stored with the state at index {index} is impossible: {reason}")]
    Members {
        /// Last entry in that state.
        index: Index,
        /// What is wrong.
        reason: String,
    },
    /// Entries are missing or repeated.
    #[error("the log is not contiguous: entry {found} follows entry {after}")]
    Gap {
        /// The last good index.
        after: Index,
        /// What came next.
        found: Index,
    },
    /// Terms never fall along a log.
    #[error("entry {index} has the impossible term {term}")]
    EntryTerm {
        /// Index of the entry.
        index: Index,
        /// Its term.
        term: Term,
    },
    /// A number that no log reaches.
    #[error("term {term} or snapshot index {index} is out of range")]
    OutOfRange {
        /// Term of the hard state.
        term: Term,
        /// Index of the snapshot.
        index: Index,
    },
    /// Committed entries are missing.
    #[error(
        "commit index {commit} lies outside the log, which holds {snapshot} (snapshot) to {last}; \
         part of the log is missing: restore this member from its peers or from a backup"
    )]
    Commit {
        /// Commit index of the hard state.
        commit: Index,
        /// Index of the snapshot.
        snapshot: Index,
        /// Index of the last entry.
        last: Index,
    },
    /// The state machine and the log do not belong together.
    #[error(
        "the state machine has applied index {applied}, the log holds {snapshot} (snapshot) to \
         {last}; database and log do not belong together, or part of one is missing"
    )]
    Applied {
        /// Index that the state machine has applied.
        applied: Index,
        /// Index of the snapshot.
        snapshot: Index,
        /// Index of the last entry.
        last: Index,
    },
    /// The members at the applied index would be unknown.
    #[error("entry {index} changes the members but would be skipped, since {applied} is applied")]
    SkippedConfiguration {
        /// Index of the entry.
        index: Index,
        /// The applied index.
        applied: Index,
    },
    /// The raft crate's own refusal.
    #[error("{0}")]
    Refused(String),
}

/// Why a proposal was not taken.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ProposeError {
    /// There is nobody to decide.
    #[error("no leader is known; try again")]
    NoLeader,
    /// The leader is handing over or has been removed.
    #[error("the proposal was dropped; try again")]
    Dropped,
    /// Empty data would look like the entry with which a leader opens its term.
    #[error("a proposal must hold data")]
    Empty,
    /// Larger than [`ENTRY_BYTES_MAX`].
    #[error("a proposal of {bytes} bytes is larger than the limit of {ENTRY_BYTES_MAX}")]
    TooLarge {
        /// Its size.
        bytes: usize,
    },
    /// Applying lags by more than [`UNAPPLIED_ENTRIES_MAX`].
    #[error("{entries} committed entries wait to be applied; try again later")]
    TooManyUnapplied {
        /// How many.
        entries: u64,
    },
    /// The log holds more than [`UNAPPLIED_BYTES_MAX`] that cannot be let go.
    #[error("{bytes} bytes wait to be committed and applied; try again later")]
    TooMuchUnapplied {
        /// How many.
        bytes: usize,
    },
    /// Another change of the members may still be on its way.
    #[error("another change of the members is not applied yet; try again")]
    ConfigurationPending,
    /// No member may have this id.
    #[error("member id {0} is reserved")]
    ReservedId(NodeId),
}

/// Why a linearizable read cannot be prepared here and now.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ReadError {
    /// Only the leader knows, and there is none.
    #[error("no leader is known; try again")]
    NoLeader,
    /// A new leader learns what is committed from the first entry of its own term.
    #[error("the leader has not committed an entry of its term yet; try again")]
    NothingCommitted,
}
