//! The lock service.

use std::sync::Arc;

use bytes::Bytes;
use proto::etcdserverpb::RangeRequest;
use proto::v3lockpb::lock_server;
use proto::v3lockpb::{LockRequest, LockResponse, UnlockRequest, UnlockResponse};
use tonic::{Request, Response, Status, async_trait};

use super::member::Member;
use super::ownership::Call;

/// The service of one member.
pub(super) struct Lock {
    member: Arc<Member>,
}

impl Lock {
    /// The service of this member.
    pub(super) fn new(member: Arc<Member>) -> Lock {
        Lock { member }
    }
}

#[async_trait]
impl lock_server::Lock for Lock {
    async fn lock(&self, request: Request<LockRequest>) -> Result<Response<LockResponse>, Status> {
        let (call, request) = Call::of(&self.member, request);
        let place = call
            .enter(&request.name, request.lease, Bytes::new())
            .await?;
        let owner = call.first(&request.name).await?.kvs.pop();
        if owner.is_some_and(|owner| owner.create_revision != place.revision) {
            call.wait_for_turn(&request.name, place.revision).await?;
            let still_there = call.range(RangeRequest {
                key: place.key.clone(),
                ..Default::default()
            });
            let still_there = still_there.await?;
            if still_there.kvs.is_empty() {
                return Err(Status::unknown("mutex: session is expired"));
            }
            let (header, key) = (still_there.header, place.key.clone());
            place.keep();
            return Ok(Response::new(LockResponse { header, key }));
        }
        let (header, key) = (place.header, place.key.clone());
        place.keep();
        Ok(Response::new(LockResponse { header, key }))
    }

    async fn unlock(
        &self,
        request: Request<UnlockRequest>,
    ) -> Result<Response<UnlockResponse>, Status> {
        let (call, request) = Call::of(&self.member, request);
        let header = call.delete(request.key).await?.header;
        Ok(Response::new(UnlockResponse { header }))
    }
}
