//! The key-value service.

use std::sync::Arc;

use proto::etcdserverpb::kv_server;
use proto::etcdserverpb::request_op::Request as Operation;
use proto::etcdserverpb::{
    CompactionRequest, CompactionResponse, DeleteRangeRequest, DeleteRangeResponse,
    InternalRaftRequest, PutRequest, PutResponse, RangeRequest, RangeResponse, RangeStreamResponse,
    RequestOp, TxnRequest, TxnResponse,
};
use state_machine::{Answer, ApplyError, Txn, range_query, read_txn};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, async_trait};

use super::caller::Caller;
use super::member::Member;
use super::status::BadRequest;
use super::{check, range_stream, status, wire};
use crate::clock;

/// What a put costs of the quota beside its key and value: etcd's estimate of a record's overhead.
const PUT_OVERHEAD: u64 = 256;

/// Pieces of a range that wait for a slow client.
const PIECES_WAITING_MAX: usize = 2;

/// The service of one member.
pub(super) struct Kv {
    member: Arc<Member>,
}

impl Kv {
    /// The service of this member.
    pub(super) fn new(member: Arc<Member>) -> Kv {
        Kv { member }
    }

    async fn read_txn(&self, caller: &Caller, request: TxnRequest) -> Result<TxnResponse, Status> {
        let operations = request.success.iter().chain(&request.failure);
        let serializable = operations
            .clone()
            .all(|operation| match &operation.request {
                Some(Operation::RequestRange(range)) => range.serializable,
                _ => false,
            });
        let state = match serializable {
            true => self.member.state(),
            false => self.member.linearizable_state().await?,
        };
        let txn =
            Txn::try_from(request).map_err(|error| Status::invalid_argument(error.to_string()))?;
        caller.require_txn(&state, &txn)?;
        let answer = read_txn(&state.view, &txn).map_err(of_apply_error)?;
        Ok(wire::txn(
            &answer,
            self.member.header(state.view.revision()),
        ))
    }
}

#[async_trait]
impl kv_server::Kv for Kv {
    async fn range(
        &self,
        request: Request<RangeRequest>,
    ) -> Result<Response<RangeResponse>, Status> {
        check::range(request.get_ref())?;
        let caller = self.member.caller(&request)?;
        let request = request.into_inner();
        let state = match request.serializable {
            true => self.member.state(),
            false if self.member.is_learner() => return Err(BadRequest::Learner.into()),
            false => self.member.linearizable_state().await?,
        };
        caller.require_read(&state, &request.key, &request.range_end)?;
        self.member.metrics.mvcc.range.inc();
        let started = clock::monotonic();
        let answer = state.view.range(&range_query(request));
        let took = (clock::monotonic() - started).as_secs_f64();
        let metric = self.member.metrics.server.range_duration(answer.is_ok());
        metric.observe(took);
        let answer = answer.map_err(|error| of_apply_error(error.into()))?;
        let header = self.member.header(answer.revision);
        Ok(Response::new(wire::range(&answer, header)))
    }

    type RangeStreamStream = ReceiverStream<Result<RangeStreamResponse, Status>>;

    async fn range_stream(
        &self,
        request: Request<RangeRequest>,
    ) -> Result<Response<Self::RangeStreamStream>, Status> {
        check::range(request.get_ref())?;
        range_stream::check(request.get_ref())?;
        let caller = self.member.caller(&request)?;
        let request = request.into_inner();
        let state = match request.serializable {
            true => self.member.state(),
            false => self.member.linearizable_state().await?,
        };
        self.member.metrics.mvcc.range.inc();
        let (sender, receiver) = mpsc::channel(PIECES_WAITING_MAX);
        let member = self.member.clone();
        tokio::spawn(range_stream::send(member, caller, state, request, sender));
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn put(&self, request: Request<PutRequest>) -> Result<Response<PutResponse>, Status> {
        let cost = put_cost(request.get_ref());
        self.member.check_quota(cost).await?;
        check::put(request.get_ref())?;
        let caller = self.member.caller(&request)?;
        let request = request.into_inner();
        self.member.metrics.mvcc.put.inc();
        let request = InternalRaftRequest {
            put: Some(request),
            ..Default::default()
        };
        match self.member.submit_growing(&caller, cost, request).await? {
            (Answer::Put(answer), revision) => Ok(Response::new(wire::put(
                &answer,
                self.member.header(revision),
            ))),
            (other, _) => Err(mixed_up(&other)),
        }
    }

    async fn delete_range(
        &self,
        request: Request<DeleteRangeRequest>,
    ) -> Result<Response<DeleteRangeResponse>, Status> {
        check::delete_range(request.get_ref())?;
        let caller = self.member.caller(&request)?;
        let request = request.into_inner();
        self.member.metrics.mvcc.delete.inc();
        let request = InternalRaftRequest {
            delete_range: Some(request),
            ..Default::default()
        };
        match self.member.submit(&caller, request).await? {
            (Answer::DeleteRange(answer), revision) => Ok(Response::new(wire::delete_range(
                &answer,
                self.member.header(revision),
            ))),
            (other, _) => Err(mixed_up(&other)),
        }
    }

    async fn txn(&self, request: Request<TxnRequest>) -> Result<Response<TxnResponse>, Status> {
        let cost = txn_cost(request.get_ref());
        self.member.check_quota(cost).await?;
        check::txn(request.get_ref(), self.member.limits.txn_operations)?;
        let caller = self.member.caller(&request)?;
        let request = request.into_inner();
        self.member.metrics.mvcc.txn.inc();
        if is_read_only(&request) {
            return self.read_txn(&caller, request).await.map(Response::new);
        }
        let request = InternalRaftRequest {
            txn: Some(request),
            ..Default::default()
        };
        match self.member.submit_growing(&caller, cost, request).await? {
            (Answer::Txn(answer), revision) => Ok(Response::new(wire::txn(
                &answer,
                self.member.header(revision),
            ))),
            (other, _) => Err(mixed_up(&other)),
        }
    }

    async fn compact(
        &self,
        request: Request<CompactionRequest>,
    ) -> Result<Response<CompactionResponse>, Status> {
        let caller = self.member.caller(&request)?;
        caller.require_root(&self.member.state())?;
        let revision = self.member.compact(&caller, request.into_inner()).await?;
        Ok(Response::new(CompactionResponse {
            header: self.member.header(revision),
        }))
    }
}

fn is_read_only(request: &TxnRequest) -> bool {
    request
        .success
        .iter()
        .chain(&request.failure)
        .all(|operation| matches!(operation.request, Some(Operation::RequestRange(_))))
}

fn put_cost(request: &PutRequest) -> u64 {
    PUT_OVERHEAD + request.key.len() as u64 + request.value.len() as u64
}

fn txn_cost(request: &TxnRequest) -> u64 {
    let cost = |operations: &[RequestOp]| -> u64 {
        operations
            .iter()
            .map(|operation| match &operation.request {
                Some(Operation::RequestPut(put)) => put_cost(put),
                Some(Operation::RequestTxn(txn)) => txn_cost(txn),
                _ => 0,
            })
            .sum()
    };
    cost(&request.success).max(cost(&request.failure))
}

/// A fault while reading is told to the caller; whoever writes will find it too, and stop.
pub(super) fn of_apply_error(error: ApplyError) -> Status {
    match error {
        ApplyError::Refused(refusal) => status::of_refusal(refusal),
        ApplyError::Fault(fault) => {
            tracing::error!(%fault, "cannot read the database");
            Status::data_loss(fault.to_string())
        }
    }
}

pub(super) fn mixed_up(answer: &Answer) -> Status {
    tracing::error!(?answer, "a request got the answer of another one");
    Status::internal("holdfast: a request got the answer of another one")
}
