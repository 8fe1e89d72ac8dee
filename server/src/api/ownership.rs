//! Who owns a name: the key under it that was created first. Lock and Election are built on it, as thin
//! layers over the other services of this member, called with the client's own metadata.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use proto::etcdserverpb::kv_server::Kv as _;
use proto::etcdserverpb::lease_server::Lease as _;
use proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use proto::etcdserverpb::request_op::Request as Operation;
use proto::etcdserverpb::response_op::Response as Outcome;
use proto::etcdserverpb::{
    Compare, DeleteRangeRequest, DeleteRangeResponse, LeaseGrantRequest, PutRequest, RangeRequest,
    RangeResponse, RequestOp, ResponseHeader, TxnRequest, TxnResponse, WatchCreateRequest,
};
use proto::mvccpb::KeyValue;
use proto::mvccpb::event::EventType;
use tonic::{Code, Extensions, Request, Status};

use super::kv::Kv;
use super::lease::Lease;
use super::member::Member;
use super::watch::InProcess;

/// Seconds that a lease lives which a call was not given.
const LEASE_TTL: i64 = 60;

/// A call whose client wants to own a name, or to know who does.
#[derive(Clone)]
pub(super) struct Call {
    member: Arc<Member>,
    metadata: tonic::metadata::MetadataMap,
    extensions: Extensions,
}

/// A key that waits for its turn.
pub(super) struct Place {
    /// The key.
    pub(super) key: Bytes,
    /// The revision that created it.
    pub(super) revision: i64,
    /// The lease that it hangs on.
    pub(super) lease: i64,
    /// The header of the transaction that found or made it.
    pub(super) header: Option<ResponseHeader>,
    /// The pair, if it was there before.
    pub(super) found: Option<KeyValue>,
    /// Takes the key away if the call is given up.
    guard: Guard,
}

/// Deletes a key when it is dropped.
struct Guard(Option<(Call, Bytes)>);

impl Call {
    /// Takes a call apart.
    pub(super) fn of<T>(member: &Arc<Member>, request: Request<T>) -> (Call, T) {
        let (metadata, extensions, message) = request.into_parts();
        let call = Call {
            member: member.clone(),
            metadata,
            extensions,
        };
        (call, message)
    }

    /// A call of another service on the client's behalf.
    fn with<T>(&self, message: T) -> Request<T> {
        Request::from_parts(self.metadata.clone(), self.extensions.clone(), message)
    }

    pub(super) async fn range(&self, request: RangeRequest) -> Result<RangeResponse, Status> {
        let answer = Kv::new(self.member.clone()).range(self.with(request)).await;
        Ok(answer.map_err(outward)?.into_inner())
    }

    pub(super) async fn txn(&self, request: TxnRequest) -> Result<TxnResponse, Status> {
        let answer = Kv::new(self.member.clone()).txn(self.with(request)).await;
        Ok(answer.map_err(outward)?.into_inner())
    }

    pub(super) async fn delete(&self, key: Bytes) -> Result<DeleteRangeResponse, Status> {
        let request = DeleteRangeRequest {
            key,
            ..Default::default()
        };
        let kv = Kv::new(self.member.clone());
        let answer = kv.delete_range(self.with(request)).await;
        Ok(answer.map_err(outward)?.into_inner())
    }

    pub(super) fn watch(&self, create: WatchCreateRequest) -> InProcess {
        InProcess::open(self.member.clone(), self.with(()), create)
    }

    /// The pair of the key that was created first under a name.
    pub(super) async fn first(&self, name: &[u8]) -> Result<RangeResponse, Status> {
        self.range(first_under(name)).await
    }

    /// Takes a place in the queue for a name, or finds the one that the lease has there.
    pub(super) async fn enter(
        &self,
        name: &[u8],
        lease: i64,
        value: Bytes,
    ) -> Result<Place, Status> {
        let lease = match lease {
            0 => self.grant().await?,
            lease => lease,
        };
        let key = ownership_key(name, lease);
        let put = PutRequest {
            key: key.clone(),
            value,
            lease,
            ..Default::default()
        };
        let get = RangeRequest {
            key: key.clone(),
            ..Default::default()
        };
        let guard = Guard(Some((self.clone(), key.clone())));
        let txn = self.txn(TxnRequest {
            compare: vec![is_created_at(key.clone(), 0)],
            success: vec![operation(Operation::RequestPut(put))],
            failure: vec![operation(Operation::RequestRange(get))],
        });
        let mut answer = match txn.await {
            Ok(answer) => answer,
            Err(status) => {
                guard.keep();
                return Err(status);
            }
        };
        let revision = answer.header.as_ref().map_or(0, |header| header.revision);
        let found = match answer
            .responses
            .pop()
            .and_then(|response| response.response)
        {
            Some(Outcome::ResponseRange(mut found)) => found.kvs.pop(),
            _ => None,
        };
        Ok(Place {
            key,
            revision: found.as_ref().map_or(revision, |pair| pair.create_revision),
            lease,
            header: answer.header,
            found,
            guard,
        })
    }

    async fn grant(&self) -> Result<i64, Status> {
        let request = LeaseGrantRequest {
            ttl: LEASE_TTL,
            id: 0,
        };
        let leases = Lease::new(self.member.clone());
        let answer = leases.lease_grant(self.with(request)).await;
        Ok(answer.map_err(outward)?.into_inner().id)
    }

    /// Waits until no key under a name is older than the one created at `revision`.
    pub(super) async fn wait_for_turn(&self, name: &[u8], revision: i64) -> Result<(), Status> {
        loop {
            let before = RangeRequest {
                sort_order: SortOrder::Descend.into(),
                max_create_revision: revision - 1,
                ..first_under(name)
            };
            let mut answer = self.range(before).await?;
            let Some(last) = answer.kvs.pop() else {
                return Ok(());
            };
            let now = answer.header.map_or(0, |header| header.revision);
            self.wait_for_end(last.key, now).await?;
        }
    }

    async fn wait_for_end(&self, key: Bytes, from: i64) -> Result<(), Status> {
        let mut watch = self.watch(WatchCreateRequest {
            key,
            start_revision: from,
            ..Default::default()
        });
        loop {
            let Some(response) = watch.next().await.map_err(outward)? else {
                return Err(Status::unknown("lost watcher waiting for delete"));
            };
            if response.canceled {
                // What was to be watched is compacted: whoever waits looks again.
                return match response.cancel_reason.is_empty() {
                    true => Ok(()),
                    false => Err(Status::unknown(response.cancel_reason)),
                };
            }
            let ended = |event: &proto::mvccpb::Event| event.r#type() == EventType::Delete;
            if response.events.iter().any(ended) {
                return Ok(());
            }
        }
    }
}

impl Place {
    /// The key stays, however the call ends.
    pub(super) fn keep(self) {
        self.guard.keep();
    }
}

impl Guard {
    fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some((call, key)) = self.0.take() {
            tokio::spawn(async move {
                if let Err(status) = call.delete(key).await {
                    tracing::warn!(
                        error = status.message(),
                        "cannot give up a place in a queue; its lease will"
                    );
                }
            });
        }
    }
}

/// The key by which a lease queues for a name.
fn ownership_key(name: &[u8], lease: i64) -> Bytes {
    let sign = if lease < 0 { "-" } else { "" };
    let mut key = prefix(name);
    key.put_slice(format!("{sign}{:x}", lease.unsigned_abs()).as_bytes());
    key.freeze()
}

fn prefix(name: &[u8]) -> BytesMut {
    let mut prefix = BytesMut::from(name);
    prefix.put_u8(b'/');
    prefix
}

/// The keys under a name, in the wire's form.
pub(super) fn keys_under(name: &[u8]) -> (Bytes, Bytes) {
    let mut end = BytesMut::from(name);
    end.put_u8(b'/' + 1);
    (prefix(name).freeze(), end.freeze())
}

fn first_under(name: &[u8]) -> RangeRequest {
    let (key, range_end) = keys_under(name);
    RangeRequest {
        key,
        range_end,
        limit: 1,
        sort_order: SortOrder::Ascend.into(),
        sort_target: SortTarget::Create.into(),
        ..Default::default()
    }
}

/// The condition that a key was created at a revision, 0 meaning that it is not there.
pub(super) fn is_created_at(key: Bytes, revision: i64) -> Compare {
    Compare {
        result: CompareResult::Equal.into(),
        target: CompareTarget::Create.into(),
        key,
        range_end: Bytes::new(),
        target_union: Some(TargetUnion::CreateRevision(revision)),
    }
}

pub(super) fn operation(operation: Operation) -> RequestOp {
    RequestOp {
        request: Some(operation),
    }
}

/// etcd's own refusals lose their code on the way through these services.
fn outward(status: Status) -> Status {
    match status.message().starts_with("etcdserver: ") {
        true => Status::new(Code::Unknown, status.message()),
        false => status,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// [LO-1]
    #[test]
    fn keys_of_owners_hold_the_lease_in_hexadecimal() {
        assert_eq!(ownership_key(b"name", 0x1f), "name/1f");
        assert_eq!(ownership_key(b"name", -0x1f), "name/-1f");
        let (key, end) = keys_under(b"name");
        assert_eq!((&key[..], &end[..]), (&b"name/"[..], &b"name0"[..]));
    }
}
