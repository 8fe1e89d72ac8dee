//! The maintenance service.

use std::sync::Arc;

use bytes::Bytes;
use mvcc::Revision;
use proto::etcdserverpb::maintenance_server;
use proto::etcdserverpb::{
    AlarmMember, AlarmRequest, AlarmResponse, DefragmentRequest, DefragmentResponse, DowngradeInfo,
    DowngradeRequest, DowngradeResponse, HashKvRequest, HashKvResponse, HashRequest, HashResponse,
    InternalRaftRequest, MoveLeaderRequest, MoveLeaderResponse, SnapshotRequest, SnapshotResponse,
    StatusRequest, StatusResponse,
};
use sha2::{Digest, Sha256};
use state_machine::Answer;
use storage::Committed;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, async_trait};

use super::kv::of_apply_error;
use super::member::Member;
use crate::apply_thread::Input;
use crate::config::ETCD_VERSION;
use crate::requests::NoAnswer;

/// Bytes of a snapshot in one message; etcd's value.
const BLOB_SIZE: usize = 32_768;
/// Messages of a snapshot that wait for a slow client.
const BLOBS_WAITING_MAX: usize = 16;
/// Quota that etcd reports when none was set.
const QUOTA_DEFAULT: i64 = 2 << 30;

/// The service of one member.
pub(super) struct Maintenance {
    member: Arc<Member>,
}

impl Maintenance {
    /// The service of this member.
    pub(super) fn new(member: Arc<Member>) -> Maintenance {
        Maintenance { member }
    }

    /// The committed state that holds everything applied by now.
    async fn flush(&self) -> Result<Committed, Status> {
        let (sender, committed) = oneshot::channel();
        self.member.ask_apply(Input::Flush(sender))?;
        committed.await.map_err(|_| NoAnswer::Stopped.into())
    }
}

#[async_trait]
impl maintenance_server::Maintenance for Maintenance {
    async fn alarm(
        &self,
        request: Request<AlarmRequest>,
    ) -> Result<Response<AlarmResponse>, Status> {
        let alarm = Some(request.into_inner());
        let request = InternalRaftRequest {
            alarm,
            ..Default::default()
        };
        let (answer, revision) = self.member.submit(request).await?;
        let alarms = match answer {
            Answer::Alarms(alarms) => alarms,
            _ => Vec::new(),
        };
        let alarms = alarms.iter().map(|alarm| AlarmMember {
            member_id: alarm.member.0,
            alarm: alarm.kind.to_wire(),
        });
        let header = self.member.header(revision);
        Ok(Response::new(AlarmResponse {
            header,
            alarms: alarms.collect(),
        }))
    }

    async fn status(&self, _: Request<StatusRequest>) -> Result<Response<StatusResponse>, Status> {
        let state = self.member.state();
        let leader = self.member.consensus.leader();
        let mut errors = Vec::new();
        if leader == 0 {
            errors.push("etcdserver: no leader".to_owned());
        }
        errors.extend(
            state
                .alarms
                .iter()
                .map(|alarm| format!("memberID:{} alarm:{} ", alarm.member.0, alarm.kind.name())),
        );
        let version = state.members.version().unwrap_or_default();
        Ok(Response::new(StatusResponse {
            header: self.member.header(state.view.revision()),
            version: ETCD_VERSION.to_owned(),
            db_size: to_i64(state.size),
            leader,
            raft_index: self.member.consensus.commit(),
            raft_term: self.member.consensus.term(),
            raft_applied_index: state.applied.index,
            errors,
            db_size_in_use: to_i64(state.size_in_use),
            is_learner: false,
            storage_version: version.to_owned(),
            db_size_quota: self.member.limits.quota.map_or(QUOTA_DEFAULT, to_i64),
            downgrade_info: Some(DowngradeInfo::default()),
        }))
    }

    async fn defragment(
        &self,
        _: Request<DefragmentRequest>,
    ) -> Result<Response<DefragmentResponse>, Status> {
        let before = self.member.state().size;
        let (sender, done) = oneshot::channel();
        self.member.ask_apply(Input::Rewrite(sender))?;
        done.await.map_err(|_| NoAnswer::Stopped)?;
        let after = self.member.state().size;
        tracing::info!(
            size_before = before,
            size_after = after,
            "finished defragmenting"
        );
        Ok(Response::new(DefragmentResponse { header: None }))
    }

    async fn hash(&self, _: Request<HashRequest>) -> Result<Response<HashResponse>, Status> {
        Err(not_yet("Hash"))
    }

    async fn hash_kv(
        &self,
        request: Request<HashKvRequest>,
    ) -> Result<Response<HashKvResponse>, Status> {
        let revision = request.into_inner().revision;
        let view = self.member.state().view.clone();
        let current = view.revision();
        let asked = (revision != 0).then_some(Revision(revision));
        let hash = tokio::task::spawn_blocking(move || view.hash(asked))
            .await
            .map_err(|error| Status::internal(error.to_string()))?
            .map_err(|error| of_apply_error(error.into()))?;
        Ok(Response::new(HashKvResponse {
            header: self.member.header(current),
            hash: hash.hash,
            compact_revision: hash.compact_revision.map_or(-1, |revision| revision.0),
            hash_revision: hash.revision.0,
        }))
    }

    type SnapshotStream = ReceiverStream<Result<SnapshotResponse, Status>>;

    async fn snapshot(
        &self,
        _: Request<SnapshotRequest>,
    ) -> Result<Response<Self::SnapshotStream>, Status> {
        let committed = self.flush().await?;
        let (sender, receiver) = mpsc::channel(BLOBS_WAITING_MAX);
        tokio::task::spawn_blocking(move || send_snapshot(&committed, &sender));
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn move_leader(
        &self,
        _: Request<MoveLeaderRequest>,
    ) -> Result<Response<MoveLeaderResponse>, Status> {
        Err(not_yet("MoveLeader"))
    }

    async fn downgrade(
        &self,
        _: Request<DowngradeRequest>,
    ) -> Result<Response<DowngradeResponse>, Status> {
        Err(not_yet("Downgrade"))
    }
}

/// Sends the file in pieces, then its SHA-256. Ends early when the client has gone.
fn send_snapshot(committed: &Committed, client: &mpsc::Sender<Result<SnapshotResponse, Status>>) {
    let size = committed.size();
    let mut offset = 0;
    let mut hash = Sha256::new();
    loop {
        let message = match committed.copy_at(offset, BLOB_SIZE) {
            Ok(blob) if blob.is_empty() => break,
            Ok(blob) => {
                hash.update(&blob);
                offset += blob.len() as u64;
                Ok(SnapshotResponse {
                    remaining_bytes: size - offset,
                    blob,
                    ..Default::default()
                })
            }
            Err(fault) => {
                tracing::error!(%fault, "cannot read the database for a snapshot");
                Err(Status::data_loss(fault.to_string()))
            }
        };
        let failed = message.is_err();
        if client.blocking_send(message).is_err() || failed {
            return;
        }
    }
    let blob = Bytes::copy_from_slice(&hash.finalize());
    // A client that has gone by now has no use for it.
    let _ = client.blocking_send(Ok(SnapshotResponse {
        blob,
        ..Default::default()
    }));
}

fn to_i64(size: u64) -> i64 {
    i64::try_from(size).expect("no file is larger than 2^63 bytes")
}

fn not_yet(method: &str) -> Status {
    Status::unimplemented(format!("holdfast: {method} is not part of this version"))
}
