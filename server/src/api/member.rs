//! What all services share: the member that they speak for.

use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::Duration;

use mvcc::Revision;
use proto::etcdserverpb::alarm_request::AlarmAction;
use proto::etcdserverpb::{AlarmRequest, CompactionRequest, InternalRaftRequest, ResponseHeader};
use state_machine::{Alarm, AlarmKind, Answer, Applied};
use tokio::sync::oneshot;
use tonic::Status;

use super::caller::Caller;
use super::status;
use crate::apply_thread;
use crate::auth::Tokens;
use crate::identity::Identity;
use crate::lessor::Lessor;
use crate::metrics::Metrics;
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
    /// How often a watcher that wants to know is told how far it is.
    pub progress_interval: Duration,
}

/// Doors to the threads of this member, and who it is.
pub struct Member {
    pub(crate) identity: Identity,
    pub(crate) views: Arc<Views>,
    pub(crate) consensus: Arc<ConsensusState>,
    pub(crate) requests: Arc<Requests>,
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
    /// In a cluster of one voter no other leader can have answered one, and this member publishes a
    /// state before it answers. So its newest state will do, without a wait, once it leads and has
    /// applied an entry of its own term: then everything of earlier terms is applied too, also what
    /// came out of the log after a restart.
    pub(crate) fn linearizable_state(&self) -> Result<Arc<State>, Status> {
        let state = self.state();
        match self.consensus.leader() != 0 && state.applied.term == self.consensus.term() {
            true => Ok(state),
            false => Err(NoAnswer::NoLeader.into()),
        }
    }

    /// Whether it is this member's clock that leases go by, which it sees to.
    pub(crate) fn keeps_leases(&self) -> bool {
        match self.linearizable_state() {
            Ok(state) => self.lessor.lead(state.applied.term),
            Err(_) => self.lessor.stop_leading(),
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
