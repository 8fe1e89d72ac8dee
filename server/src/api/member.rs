//! What all services share: the member that they speak for.

use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::Duration;

use consensus::{NodeId, Progress};
use mvcc::Revision;
use proto::etcdserverpb::alarm_request::AlarmAction;
use proto::etcdserverpb::{AlarmRequest, CompactionRequest, InternalRaftRequest, ResponseHeader};
use state_machine::{Alarm, AlarmKind, Answer, Applied, MemberId};
use tokio::sync::oneshot;
use tonic::Status;

use super::caller::Caller;
use super::status;
use crate::apply_thread;
use crate::auth::Tokens;
use crate::identity::Identity;
use crate::lessor::Lessor;
use crate::metrics::Metrics;
use crate::peer::{PeerClient, Transport};
use crate::raft_thread;
use crate::requests::{NoAnswer, Requests};
use crate::views::{ConsensusState, State, Views};
use crate::watch::Watches;

/// Limits that an operator sets.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Database size in bytes at which writes are refused; `None` for no limit.
    pub quota: Option<u64>,
    /// Bytes of one request.
    pub request_bytes: usize,
    /// Operations in one list of a transaction.
    pub txn_operations: usize,
    /// Answering a call later than this is worth a line in the log.
    pub slow_request: Duration,
    /// Cost of hashing a password.
    pub bcrypt_cost: u32,
    /// Whether changes of the members are refused that the cluster might not survive.
    pub strict_reconfiguration: bool,
    /// How long followers wait for their leader before they elect another.
    pub election_timeout: Duration,
    /// How often a watcher that wants to know is told how far it is.
    pub progress_interval: Duration,
}

/// The hash of a history, by which members are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct HashKv {
    /// The newest revision.
    pub(crate) current: Revision,
    /// The revision up to which it is.
    pub(crate) revision: Revision,
    /// The hash.
    pub(crate) hash: u32,
    /// The revision of the last compaction, -1 for none.
    pub(crate) compact_revision: i64,
}

/// Doors to the threads of this member, and who it is.
pub struct Member {
    pub(crate) identity: Identity,
    pub(crate) views: Arc<Views>,
    pub(crate) consensus: Arc<ConsensusState>,
    pub(crate) requests: Arc<Requests>,
    pub(crate) transport: Transport,
    pub(crate) peer_client: Arc<PeerClient>,
    pub(crate) apply: Sender<apply_thread::Input>,
    pub(crate) lessor: Arc<Lessor>,
    pub(crate) watches: Arc<Watches>,
    pub(crate) tokens: Arc<Tokens>,
    pub(crate) limits: Limits,
    pub(crate) metrics: Arc<Metrics>,
}

impl Member {
    /// Who it is.
    pub fn identity(&self) -> Identity {
        self.identity
    }

    /// Carries messages to the other members.
    pub(crate) fn transport(&self) -> &Transport {
        &self.transport
    }

    /// Asks other members.
    pub(crate) fn peer_client(&self) -> &PeerClient {
        &self.peer_client
    }

    /// The operator's limits.
    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// Counts what happens.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// The leader's id, 0 if none is known.
    pub fn leader(&self) -> u64 {
        self.consensus.leader()
    }

    /// The highest committed index.
    pub fn commit_index(&self) -> u64 {
        self.consensus.commit()
    }

    /// Requests that wait for their answer.
    pub fn pending_requests(&self) -> usize {
        self.requests.pending()
    }

    /// The newest applied state, whatever other members have.
    pub(crate) fn state(&self) -> Arc<State> {
        self.views.load_full()
    }

    /// A state that has every write that was answered before this call.
    ///
    /// A leader that alone has a vote publishes a state before it answers, and nobody else can have
    /// answered anything. So its newest state will do, without a wait, once it has applied an entry of
    /// its own term: then everything of earlier terms is applied too, also what came out of the log
    /// after a restart. Others find out from a quorum how far the log is committed, and wait until
    /// that is applied here.
    pub(crate) async fn linearizable_state(&self) -> Result<Arc<State>, Status> {
        if self.consensus.leads_alone() {
            let state = self.state();
            if state.applied.term == self.consensus.term() {
                return Ok(state);
            }
        }
        let confirmed = async {
            let index = self.requests.ask_read()?.await;
            Ok::<_, NoAnswer>(
                self.views
                    .applied(index.map_err(|_| NoAnswer::Stopped)?)
                    .await,
            )
        };
        match tokio::time::timeout(self.requests.timeout(), confirmed).await {
            Ok(Ok(state)) => Ok(state),
            Ok(Err(reason)) => Err(reason.into()),
            Err(_) => {
                self.metrics.server.read_indexes_failed.inc();
                Err(NoAnswer::TimedOut.into())
            }
        }
    }

    /// Whether this member has no vote.
    pub(crate) fn is_learner(&self) -> bool {
        let own = self.identity.member;
        let state = self.views.load();
        state.members.get(own).is_some_and(|own| own.learner)
    }

    /// Whether this member leads and has applied all that was committed before.
    pub(crate) fn leads(&self) -> bool {
        self.consensus.leader() == self.identity.member.0
            && self.state().applied.term == self.consensus.term()
    }

    /// The version on which the members have agreed.
    pub(crate) fn cluster_version(&self) -> Option<String> {
        self.views.load().members.version().map(str::to_owned)
    }

    /// The members, as members tell each other about them.
    pub(crate) fn members_json(&self) -> Vec<u8> {
        self.views.load().members.to_json()
    }

    /// The hash of the history up to a revision, 0 for the newest.
    pub(crate) async fn hash_kv(&self, revision: Revision) -> Result<HashKv, Status> {
        let view = self.state().view.clone();
        let current = view.revision();
        let asked = (revision != Revision(0)).then_some(revision);
        let hash = tokio::task::spawn_blocking(move || view.hash(asked))
            .await
            .map_err(|error| Status::internal(error.to_string()))?
            .map_err(|error| super::kv::of_apply_error(error.into()))?;
        Ok(HashKv {
            current,
            revision: hash.revision,
            hash: hash.hash,
            compact_revision: hash.compact_revision.map_or(-1, |revision| revision.0),
        })
    }

    /// How far the members are, if this one leads.
    pub(crate) async fn progress(&self) -> Result<Vec<Progress>, NoAnswer> {
        let (reply, progress) = oneshot::channel();
        self.requests.give(raft_thread::Input::Progress(reply))?;
        progress.await.map_err(|_| NoAnswer::Stopped)
    }

    /// Hands leadership over, and waits until this member sees the other lead.
    pub(crate) async fn hand_over(&self, to: MemberId) -> Result<(), NoAnswer> {
        let mut leaders = self.consensus.leaders();
        self.requests
            .give(raft_thread::Input::HandOver(NodeId(to.0)))?;
        let handed = leaders.wait_for(|leader| *leader == to.0);
        match tokio::time::timeout(self.requests.timeout(), handed).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(NoAnswer::Stopped),
            Err(_) => Err(NoAnswer::TransferTooLong),
        }
    }

    /// Before a leader stops, another member takes over, so that there is no gap.
    pub(crate) async fn hand_over_to_anybody(&self) {
        let own = self.identity.member;
        if self.consensus.leader() != own.0 || self.consensus.leads_alone() {
            return;
        }
        let state = self.state();
        let others = state
            .members
            .iter()
            .filter(|member| !member.learner && member.id != own);
        let longest = others
            .filter_map(|member| Some((self.transport.active_for(NodeId(member.id.0))?, member.id)))
            .max();
        let Some((_, to)) = longest else {
            return;
        };
        match self.hand_over(to).await {
            Ok(()) => tracing::info!(%to, "handed leadership over"),
            Err(reason) => tracing::warn!(%to, ?reason, "cannot hand leadership over"),
        }
    }

    /// Whether it is this member's clock that leases go by, which it sees to.
    pub(crate) fn keeps_leases(&self) -> bool {
        match self.leads() {
            true => self.lessor.lead(self.consensus.term()),
            false => self.lessor.stop_leading(),
        }
        self.lessor.leads()
    }

    /// The header of an answer that reflects `revision`.
    pub(crate) fn header(&self, revision: Revision) -> Option<ResponseHeader> {
        Some(ResponseHeader {
            cluster_id: self.identity.cluster.0,
            member_id: self.identity.member.0,
            revision: revision.0,
            raft_term: self.consensus.term(),
        })
    }

    /// Puts a request into the log; its answer, and the revision after it.
    pub(crate) async fn submit(
        &self,
        caller: &Caller,
        request: InternalRaftRequest,
    ) -> Result<(Answer, Revision), Status> {
        let Applied {
            result, revision, ..
        } = self.requests.submit(caller.identity(), request).await?;
        Ok((result.map_err(status::of_refusal)?, revision))
    }

    /// As [`Member::submit`], for what [`Member::check_quota`] let pass with the same `cost`. If other
    /// writes have taken the space meanwhile, the change stands, but whoever asked is told and the
    /// alarm is raised.
    pub(crate) async fn submit_growing(
        &self,
        caller: &Caller,
        cost: u64,
        request: InternalRaftRequest,
    ) -> Result<(Answer, Revision), Status> {
        let answer = self.submit(caller, request).await?;
        self.check_quota(cost).await?;
        Ok(answer)
    }

    /// Refuses what would grow the database beyond its quota by `cost` bytes, and raises the alarm.
    pub(crate) async fn check_quota(&self, cost: u64) -> Result<(), Status> {
        let full = self
            .limits
            .quota
            .is_some_and(|quota| cost > 0 && self.views.load().size + cost >= quota);
        if !full {
            return Ok(());
        }
        let alarm = Alarm {
            member: self.identity.member,
            kind: AlarmKind::NoSpace,
        };
        if !self
            .views
            .load()
            .alarms
            .iter()
            .any(|active| active == alarm)
        {
            tracing::warn!(
                quota = self.limits.quota,
                size = self.views.load().size,
                "the database has reached its quota: writes are refused until space is made by \
                 compaction and defragmentation and the alarm is disarmed"
            );
            let alarm = AlarmRequest {
                action: AlarmAction::Activate.into(),
                member_id: alarm.member.0,
                alarm: alarm.kind.to_wire(),
            };
            let request = InternalRaftRequest {
                alarm: Some(alarm),
                ..Default::default()
            };
            self.submit(&Caller::member(), request).await?;
        }
        Err(status::of_refusal(state_machine::Refusal::NoSpace))
    }

    /// Makes `revision` the oldest that can be read; the store's revision then.
    pub(crate) async fn compact(
        &self,
        caller: &Caller,
        request: CompactionRequest,
    ) -> Result<Revision, Status> {
        let physical = request.physical;
        let at = Revision(request.revision);
        let log_request = InternalRaftRequest {
            compaction: Some(request),
            ..Default::default()
        };
        let (_, revision) = self.submit(caller, log_request).await?;
        if physical {
            let (sender, done) = oneshot::channel();
            self.ask_apply(apply_thread::Input::AwaitCompaction(at, sender))?;
            done.await.map_err(|_| NoAnswer::Stopped)?;
        }
        Ok(revision)
    }

    /// Whether the threads of this member work.
    pub async fn answers(&self) -> bool {
        self.requests.ping().await
    }

    pub(crate) fn ask_apply(&self, input: apply_thread::Input) -> Result<(), Status> {
        self.apply.send(input).map_err(|_| NoAnswer::Stopped.into())
    }
}
