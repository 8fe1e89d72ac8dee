//! The lease service.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use mvcc::LeaseId;
use proto::etcdserverpb::lease_server;
use proto::etcdserverpb::{
    InternalRaftRequest, LeaseGrantRequest, LeaseGrantResponse, LeaseKeepAliveRequest,
    LeaseKeepAliveResponse, LeaseLeasesRequest, LeaseLeasesResponse, LeaseRevokeRequest,
    LeaseRevokeResponse, LeaseStatus, LeaseTimeToLiveRequest, LeaseTimeToLiveResponse,
};
use state_machine::Answer;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming, async_trait};

use super::caller::Caller;
use super::kv::mixed_up;
use super::member::Member;
use crate::lessor::{self, Renewal};
use crate::requests::NoAnswer;

/// What a lease costs of the quota: etcd's estimate of its record.
const LEASE_COST: u64 = 64;
/// Answers of one stream that wait for a slow client, which then waits with its next renewals.
const ANSWERS_WAITING_MAX: usize = 16;
/// How long an answer about leases waits until everything committed is applied; etcd's value.
const APPLY_WAIT: Duration = Duration::from_secs(1);

/// The service of one member.
#[derive(Clone)]
pub(super) struct Lease {
    member: Arc<Member>,
}

impl Lease {
    /// The service of this member.
    pub(super) fn new(member: Arc<Member>) -> Lease {
        Lease { member }
    }

    /// Seconds that a lease has after its renewal: 0 when there is no such lease any more.
    async fn renew(&self, caller: &Caller, id: LeaseId) -> Result<i64, Status> {
        let state = self.member.state();
        caller.require_user(&state)?;
        caller.require_lease_write(&state, id)?;
        match self.member.keeps_leases() {
            true => self.member.renew_here(id).await,
            false => self.member.renew_elsewhere(id).await,
        }
    }

    /// Answers each renewal of a stream in turn, until it ends or one fails.
    async fn keep_alive(
        self,
        head: Request<()>,
        mut requests: Streaming<LeaseKeepAliveRequest>,
        answers: mpsc::Sender<Result<LeaseKeepAliveResponse, Status>>,
    ) {
        loop {
            let request = match requests.message().await {
                Ok(Some(request)) => request,
                Ok(None) => return,
                Err(status) => {
                    let _ = answers.send(Err(status)).await;
                    return;
                }
            };
            let header = self.member.header(self.member.state().view.revision());
            let renewed = match self.member.caller(&head) {
                Ok(caller) => self.renew(&caller, LeaseId(request.id)).await,
                Err(status) => Err(status),
            };
            let answer = renewed.map(|ttl| LeaseKeepAliveResponse {
                header,
                id: request.id,
                ttl,
            });
            let failed = answer.is_err();
            if answers.send(answer).await.is_err() || failed {
                return;
            }
        }
    }
}

/// The part of a leader.
impl Member {
    /// Seconds that a lease has after its renewal: 0 when there is no such lease any more.
    pub(crate) async fn renew_here(&self, id: LeaseId) -> Result<i64, Status> {
        let mut caught_up = false;
        loop {
            if !self.keeps_leases() {
                return Err(not_primary());
            }
            match self.lessor.renew(id) {
                Renewal::Renewed(ttl) => return Ok(ttl),
                Renewal::Checkpointed => lessor::checkpoint(self, &[(id, 0)]).await,
                // Its sender goes without a word only when this member stops to lead, which the
                // next round tells.
                Renewal::Expired(gone) => drop(gone.await),
                Renewal::Unknown if caught_up => return Ok(0),
                Renewal::Unknown => {
                    self.catch_up().await?;
                    caught_up = true;
                }
                Renewal::NotPrimary => return Err(not_primary()),
            }
        }
    }

    /// Seconds that a lease has left, and those it was granted; `None` if there is no such lease.
    pub(crate) async fn time_to_live_here(
        &self,
        id: LeaseId,
    ) -> Result<Option<(i64, i64)>, Status> {
        if !self.keeps_leases() {
            return Err(not_primary());
        }
        self.catch_up().await?;
        Ok(self.lessor.time_to_live(id))
    }

    /// The keys that hang on a lease.
    pub(crate) fn keys_of_lease(&self, id: LeaseId) -> Vec<Bytes> {
        let state = self.state();
        let lease = state.leases.get(id);
        lease.map_or_else(Vec::new, |lease| lease.keys().cloned().collect())
    }

    /// Waits until everything that is committed by now is applied.
    async fn catch_up(&self) -> Result<(), Status> {
        if self.state().applied.index >= self.commit_index() {
            return Ok(());
        }
        match tokio::time::timeout(APPLY_WAIT, self.answers()).await {
            Ok(true) => Ok(()),
            _ => Err(NoAnswer::NotAppliedInTime.into()),
        }
    }
}

fn not_primary() -> Status {
    Status::unknown("not a primary lessor")
}

#[async_trait]
impl lease_server::Lease for Lease {
    async fn lease_grant(
        &self,
        request: Request<LeaseGrantRequest>,
    ) -> Result<Response<LeaseGrantResponse>, Status> {
        self.member.check_quota(LEASE_COST).await?;
        let caller = self.member.caller(&request)?;
        let mut grant = request.into_inner();
        caller.require_user(&self.member.state())?;
        while grant.id == 0 {
            grant.id = self.member.requests.new_lease_id();
        }
        let id = grant.id;
        let request = InternalRaftRequest {
            lease_grant: Some(grant),
            ..Default::default()
        };
        match self
            .member
            .submit_growing(&caller, LEASE_COST, request)
            .await?
        {
            (Answer::LeaseGranted(ttl), revision) => Ok(Response::new(LeaseGrantResponse {
                header: self.member.header(revision),
                id,
                ttl,
                error: String::new(),
            })),
            (other, _) => Err(mixed_up(&other)),
        }
    }

    async fn lease_revoke(
        &self,
        request: Request<LeaseRevokeRequest>,
    ) -> Result<Response<LeaseRevokeResponse>, Status> {
        let caller = self.member.caller(&request)?;
        caller.require_user(&self.member.state())?;
        let request = InternalRaftRequest {
            lease_revoke: Some(request.into_inner()),
            ..Default::default()
        };
        let (_, revision) = self.member.submit(&caller, request).await?;
        let header = self.member.header(revision);
        Ok(Response::new(LeaseRevokeResponse { header }))
    }

    type LeaseKeepAliveStream = ReceiverStream<Result<LeaseKeepAliveResponse, Status>>;

    async fn lease_keep_alive(
        &self,
        request: Request<Streaming<LeaseKeepAliveRequest>>,
    ) -> Result<Response<Self::LeaseKeepAliveStream>, Status> {
        let (metadata, extensions, requests) = request.into_parts();
        let head = Request::from_parts(metadata, extensions, ());
        let (sender, receiver) = mpsc::channel(ANSWERS_WAITING_MAX);
        tokio::spawn(self.clone().keep_alive(head, requests, sender));
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn lease_time_to_live(
        &self,
        request: Request<LeaseTimeToLiveRequest>,
    ) -> Result<Response<LeaseTimeToLiveResponse>, Status> {
        let caller = self.member.caller(&request)?;
        let request = request.into_inner();
        caller.require_user(&self.member.state())?;
        let id = LeaseId(request.id);
        if request.keys {
            caller.require_lease_read(&self.member.state(), id)?;
        }
        let found = match self.member.keeps_leases() {
            true => {
                let found = self.member.time_to_live_here(id).await?;
                let keys = || match request.keys {
                    true => self.member.keys_of_lease(id),
                    false => Vec::new(),
                };
                found.map(|(ttl, granted_ttl)| (ttl, granted_ttl, keys()))
            }
            false => self.member.time_to_live_elsewhere(id, request.keys).await?,
        };
        // Keys may have been attached meanwhile.
        let state = self.member.state();
        if request.keys {
            caller.require_lease_read(&state, id)?;
        }
        let (ttl, granted_ttl, keys) = found.unwrap_or((-1, 0, Vec::new()));
        Ok(Response::new(LeaseTimeToLiveResponse {
            header: self.member.header(state.view.revision()),
            id: request.id,
            ttl,
            granted_ttl,
            keys,
        }))
    }

    async fn lease_leases(
        &self,
        request: Request<LeaseLeasesRequest>,
    ) -> Result<Response<LeaseLeasesResponse>, Status> {
        let caller = self.member.caller(&request)?;
        let state = self.member.state();
        caller.require_user(&state)?;
        for (id, _) in state.leases.iter() {
            caller.require_lease_read(&state, id)?;
        }
        let leases = self.member.lessor.by_remaining_time();
        let leases = leases.into_iter().map(|id| LeaseStatus { id: id.0 });
        Ok(Response::new(LeaseLeasesResponse {
            header: self.member.header(state.view.revision()),
            leases: leases.collect(),
        }))
    }
}
