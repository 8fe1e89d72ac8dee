//! The election service.

use std::sync::Arc;

use bytes::Bytes;
use proto::etcdserverpb::request_op::Request as Operation;
use proto::etcdserverpb::{
    DeleteRangeRequest, PutRequest, ResponseHeader, TxnRequest, WatchCreateRequest,
};
use proto::mvccpb::KeyValue;
use proto::mvccpb::event::EventType;
use proto::v3electionpb::election_server;
use proto::v3electionpb::{
    CampaignRequest, CampaignResponse, LeaderKey, LeaderRequest, LeaderResponse, ProclaimRequest,
    ProclaimResponse, ResignRequest, ResignResponse,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, async_trait};

use super::member::Member;
use super::ownership::{Call, is_created_at, keys_under, operation};

/// Leaders that wait for a slow observer; it is told no others meanwhile.
const LEADERS_WAITING_MAX: usize = 16;

/// The service of one member.
pub(super) struct Election {
    member: Arc<Member>,
}

impl Election {
    /// The service of this member.
    pub(super) fn new(member: Arc<Member>) -> Election {
        Election { member }
    }
}

/// Whoever observes has gone.
struct Gone;

#[async_trait]
impl election_server::Election for Election {
    async fn campaign(
        &self,
        request: Request<CampaignRequest>,
    ) -> Result<Response<CampaignResponse>, Status> {
        let (call, request) = Call::of(&self.member, request);
        let value = request.value.clone();
        let place = call.enter(&request.name, request.lease, value).await?;
        let leader = LeaderKey {
            name: request.name.clone(),
            key: place.key.clone(),
            rev: place.revision,
            lease: place.lease,
        };
        let other_value = |pair: &KeyValue| pair.value != request.value;
        if place.found.as_ref().is_some_and(other_value) {
            proclaim(&call, &leader, request.value.clone()).await?;
        }
        call.wait_for_turn(&request.name, place.revision).await?;
        let header = place.header;
        place.keep();
        let leader = Some(leader);
        Ok(Response::new(CampaignResponse { header, leader }))
    }

    async fn proclaim(
        &self,
        request: Request<ProclaimRequest>,
    ) -> Result<Response<ProclaimResponse>, Status> {
        let (call, request) = Call::of(&self.member, request);
        let leader = given(request.leader)?;
        let header = proclaim(&call, &leader, request.value).await?;
        Ok(Response::new(ProclaimResponse { header }))
    }

    async fn leader(
        &self,
        request: Request<LeaderRequest>,
    ) -> Result<Response<LeaderResponse>, Status> {
        let (call, request) = Call::of(&self.member, request);
        let mut found = call.first(&request.name).await?;
        match found.kvs.pop() {
            None => Err(Status::unknown("election: no leader")),
            kv => Ok(Response::new(LeaderResponse {
                header: found.header,
                kv,
            })),
        }
    }

    type ObserveStream = ReceiverStream<Result<LeaderResponse, Status>>;

    async fn observe(
        &self,
        request: Request<LeaderRequest>,
    ) -> Result<Response<Self::ObserveStream>, Status> {
        let (call, request) = Call::of(&self.member, request);
        let (sender, receiver) = mpsc::channel(LEADERS_WAITING_MAX);
        tokio::spawn(async move {
            let observed = tokio::select! {
                () = sender.closed() => return,
                observed = observe(&call, &request.name, &sender) => observed,
            };
            if let Err(status) = observed {
                // Whoever observes may have gone.
                let _ = sender.send(Err(status)).await;
            }
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn resign(
        &self,
        request: Request<ResignRequest>,
    ) -> Result<Response<ResignResponse>, Status> {
        let (call, request) = Call::of(&self.member, request);
        let leader = given(request.leader)?;
        let delete = DeleteRangeRequest {
            key: leader.key.clone(),
            ..Default::default()
        };
        let txn = call.txn(TxnRequest {
            compare: vec![is_created_at(leader.key, leader.rev)],
            success: vec![operation(Operation::RequestDeleteRange(delete))],
            failure: Vec::new(),
        });
        let header = txn.await?.header;
        Ok(Response::new(ResignResponse { header }))
    }
}

fn given(leader: Option<LeaderKey>) -> Result<LeaderKey, Status> {
    leader.ok_or_else(|| Status::unknown("\"leader\" field must be provided"))
}

async fn proclaim(
    call: &Call,
    leader: &LeaderKey,
    value: Bytes,
) -> Result<Option<ResponseHeader>, Status> {
    let put = PutRequest {
        key: leader.key.clone(),
        value,
        lease: leader.lease,
        ..Default::default()
    };
    let txn = call.txn(TxnRequest {
        compare: vec![is_created_at(leader.key.clone(), leader.rev)],
        success: vec![operation(Operation::RequestPut(put))],
        failure: Vec::new(),
    });
    let answer = txn.await?;
    match answer.succeeded {
        true => Ok(answer.header),
        false => Err(Status::unknown("election: not leader")),
    }
}

type Observer = mpsc::Sender<Result<LeaderResponse, Status>>;

/// Tells of every leader and every value of theirs, until the observer goes or a watch is lost.
async fn observe(call: &Call, name: &[u8], observer: &Observer) -> Result<(), Status> {
    loop {
        let mut found = call.first(name).await?;
        let now = found.header.map_or(0, |header| header.revision);
        let leader = match found.kvs.pop() {
            Some(kv) => Some((found.header, kv)),
            None => first_to_come(call, name, now).await?,
        };
        let Some((header, kv)) = leader else {
            return Ok(());
        };
        let revision = header.map_or(0, |header| header.revision);
        let key = kv.key.clone();
        let told = observer.send(Ok(LeaderResponse {
            header,
            kv: Some(kv),
        }));
        if told.await.is_err() {
            return Ok(());
        }
        match follow(call, key, revision + 1, observer).await? {
            Ok(true) => {}
            Ok(false) | Err(Gone) => return Ok(()),
        }
    }
}

/// The first key that somebody puts under a name; `None` if the watch is lost.
async fn first_to_come(
    call: &Call,
    name: &[u8],
    from: i64,
) -> Result<Option<(Option<ResponseHeader>, KeyValue)>, Status> {
    let (key, range_end) = keys_under(name);
    let mut watch = call.watch(WatchCreateRequest {
        key,
        range_end,
        start_revision: from,
        ..Default::default()
    });
    while let Some(response) = watch.next().await? {
        if response.canceled {
            return Ok(None);
        }
        for event in response.events {
            if event.r#type() == EventType::Put
                && let Some(kv) = event.kv
            {
                let header = response.header.map(|header| ResponseHeader {
                    revision: kv.mod_revision,
                    ..header
                });
                return Ok(Some((header, kv)));
            }
        }
    }
    Ok(None)
}

/// Tells of the values of one leader; true when its key has ended, false when the watch is lost.
async fn follow(
    call: &Call,
    key: Bytes,
    from: i64,
    observer: &Observer,
) -> Result<Result<bool, Gone>, Status> {
    let mut watch = call.watch(WatchCreateRequest {
        key,
        start_revision: from,
        ..Default::default()
    });
    while let Some(response) = watch.next().await? {
        if response.canceled {
            return Ok(Ok(false));
        }
        for event in response.events {
            if event.r#type() == EventType::Delete {
                return Ok(Ok(true));
            }
            let told = observer.send(Ok(LeaderResponse {
                header: response.header,
                kv: event.kv,
            }));
            if told.await.is_err() {
                return Ok(Err(Gone));
            }
        }
    }
    Ok(Ok(false))
}
