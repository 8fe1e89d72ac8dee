//! The maintenance service.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use mvcc::Revision;
use proto::etcdserverpb::alarm_request::AlarmAction;
use proto::etcdserverpb::downgrade_request::DowngradeAction;
use proto::etcdserverpb::maintenance_server;
use proto::etcdserverpb::{
    AlarmMember, AlarmRequest, AlarmResponse, DefragmentRequest, DefragmentResponse, DowngradeInfo,
    DowngradeRequest, DowngradeResponse, HashKvRequest, HashKvResponse, HashRequest, HashResponse,
    InternalRaftRequest, MoveLeaderRequest, MoveLeaderResponse, SnapshotRequest, SnapshotResponse,
    StatusRequest, StatusResponse,
};
use proto::membershippb::DowngradeInfoSetRequest;
use sha2::{Digest, Sha256};
use state_machine::{Answer, MemberId, schema};
use storage::{Committed, Copy, Fault};
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, async_trait};

use super::caller::Caller;
use super::member::Member;
use super::status::BadRequest;
use crate::apply_thread::Input;
use crate::clock;
use crate::config::ETCD_VERSION;
use crate::requests::NoAnswer;

/// Bytes of a snapshot in one message; etcd's value.
const BLOB_SIZE: usize = 32_768;
/// Messages of a snapshot that wait for a slow client.
const BLOBS_WAITING_MAX: usize = 16;
/// What a snapshot reads of the disk at most, so that writes keep their share.
const SNAPSHOT_BYTES_PER_SECOND: f64 = 256.0 * 1024.0 * 1024.0;
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

    /// The version, `X.Y.0`, that the cluster can go back to, if it is the one that was asked for.
    async fn downgrade_target(&self, text: &str) -> Result<String, Status> {
        let (major, minor) = parse_version(text).ok_or(BadRequest::DowngradeFormat)?;
        let state = self.member.linearizable_state().await?;
        let version = state.members.version_numbers();
        let version = version.ok_or(BadRequest::NoClusterVersion)?;
        if (major, minor + 1) != version {
            return Err(BadRequest::DowngradeTarget.into());
        }
        if state.downgrade.enabled {
            return Err(BadRequest::DowngradeInProgress.into());
        }
        Ok(format!("{major}.{minor}.0"))
    }

    async fn set_downgrade(
        &self,
        caller: &Caller,
        enabled: bool,
        ver: String,
    ) -> Result<(), Status> {
        let request = InternalRaftRequest {
            downgrade_info_set: Some(DowngradeInfoSetRequest { enabled, ver }),
            ..Default::default()
        };
        self.member.submit(caller, request).await?;
        Ok(())
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
        let caller = self.member.caller(&request)?;
        let alarm = request.into_inner();
        let state = self.member.state();
        match alarm.action() {
            AlarmAction::Get => caller.require_user(&state)?,
            AlarmAction::Activate | AlarmAction::Deactivate => caller.require_root(&state)?,
        }
        let alarm = Some(alarm);
        let request = InternalRaftRequest {
            alarm,
            ..Default::default()
        };
        let (answer, revision) = self.member.submit(&caller, request).await?;
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

    async fn status(
        &self,
        request: Request<StatusRequest>,
    ) -> Result<Response<StatusResponse>, Status> {
        let caller = self.member.caller(&request)?;
        let state = self.member.state();
        caller.require_user(&state)?;
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
            downgrade_info: Some(DowngradeInfo {
                enabled: state.downgrade.enabled,
                target_version: state.downgrade.target_version.clone(),
            }),
        }))
    }

    async fn defragment(
        &self,
        request: Request<DefragmentRequest>,
    ) -> Result<Response<DefragmentResponse>, Status> {
        let caller = self.member.caller(&request)?;
        caller.require_root(&self.member.state())?;
        let before = self.member.state().size;
        let (sender, done) = oneshot::channel();
        self.member.ask_apply(Input::Shrink(sender))?;
        done.await.map_err(|_| NoAnswer::Stopped)?;
        let after = self.member.state().size;
        tracing::info!(
            size_before = before,
            size_after = after,
            "finished defragmenting"
        );
        Ok(Response::new(DefragmentResponse { header: None }))
    }

    async fn hash(&self, request: Request<HashRequest>) -> Result<Response<HashResponse>, Status> {
        let caller = self.member.caller(&request)?;
        caller.require_root(&self.member.state())?;
        let committed = self.flush().await?;
        let hash = tokio::task::spawn_blocking(move || database_hash(&committed))
            .await
            .map_err(|error| Status::internal(error.to_string()))?
            .map_err(|fault| Status::data_loss(fault.to_string()))?;
        let header = self.member.header(self.member.state().view.revision());
        Ok(Response::new(HashResponse { header, hash }))
    }

    async fn hash_kv(
        &self,
        request: Request<HashKvRequest>,
    ) -> Result<Response<HashKvResponse>, Status> {
        let caller = self.member.caller(&request)?;
        let revision = request.into_inner().revision;
        let state = self.member.state();
        caller.require_root(&state)?;
        let hash = self.member.hash_kv(Revision(revision)).await?;
        Ok(Response::new(HashKvResponse {
            header: self.member.header(hash.current),
            hash: hash.hash,
            compact_revision: hash.compact_revision,
            hash_revision: hash.revision.0,
        }))
    }

    type SnapshotStream = ReceiverStream<Result<SnapshotResponse, Status>>;

    async fn snapshot(
        &self,
        request: Request<SnapshotRequest>,
    ) -> Result<Response<Self::SnapshotStream>, Status> {
        let caller = self.member.caller(&request)?;
        caller.require_root(&self.member.state())?;
        let committed = self.flush().await?;
        let (sender, receiver) = mpsc::channel(BLOBS_WAITING_MAX);
        let metrics = self.member.metrics.clone();
        tokio::task::spawn_blocking(move || {
            let started = clock::monotonic();
            send_snapshot(&committed, &sender);
            let took = (clock::monotonic() - started).as_secs_f64();
            metrics.disk.backend_snapshot_duration.observe(took);
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn move_leader(
        &self,
        request: Request<MoveLeaderRequest>,
    ) -> Result<Response<MoveLeaderResponse>, Status> {
        let caller = self.member.caller(&request)?;
        let target = MemberId(request.into_inner().target_id);
        let state = self.member.state();
        caller.require_root(&state)?;
        if self.member.leader() != self.member.identity().member.0 {
            return Err(BadRequest::NotLeader.into());
        }
        match state.members.get(target) {
            Some(member) if !member.learner => {
                self.member.hand_over(target).await?;
                Ok(Response::new(MoveLeaderResponse { header: None }))
            }
            _ => Err(BadRequest::Transferee.into()),
        }
    }

    async fn downgrade(
        &self,
        request: Request<DowngradeRequest>,
    ) -> Result<Response<DowngradeResponse>, Status> {
        let caller = self.member.caller(&request)?;
        let request = request.into_inner();
        caller.require_root(&self.member.state())?;
        match request.action() {
            _ if DowngradeAction::try_from(request.action).is_err() => {
                return Err(BadRequest::UnknownAction.into());
            }
            DowngradeAction::Validate => drop(self.downgrade_target(&request.version).await?),
            DowngradeAction::Enable => {
                let target = self.downgrade_target(&request.version).await?;
                self.set_downgrade(&caller, true, target).await?;
            }
            DowngradeAction::Cancel if self.member.state().downgrade.enabled => {
                self.set_downgrade(&caller, false, String::new()).await?;
            }
            DowngradeAction::Cancel => {}
        }
        let state = self.member.state();
        let version = state.members.version_numbers();
        Ok(Response::new(DowngradeResponse {
            header: self.member.header(state.view.revision()),
            version: version.map_or_else(String::new, |(major, minor)| format!("{major}.{minor}")),
        }))
    }
}

/// Sends the file in pieces, then its SHA-256. Ends early when the client has gone.
fn send_snapshot(committed: &Committed, client: &mpsc::Sender<Result<SnapshotResponse, Status>>) {
    if let Err(fault) = send_pieces(committed, client) {
        tracing::error!(%fault, "cannot read the database for a snapshot");
        let _ = client.blocking_send(Err(Status::data_loss(fault.to_string())));
    }
}

fn send_pieces(
    committed: &Committed,
    client: &mpsc::Sender<Result<SnapshotResponse, Status>>,
) -> Result<(), Fault> {
    let started = clock::monotonic();
    let mut copy = Copy::of(committed)?;
    let mut rest = copy.size();
    let mut hash = Sha256::new();
    while rest > 0 {
        let blob = copy.read(BLOB_SIZE)?;
        hash.update(&blob);
        rest -= blob.len() as u64;
        let message = SnapshotResponse {
            remaining_bytes: rest,
            blob,
            ..Default::default()
        };
        if client.blocking_send(Ok(message)).is_err() {
            return Ok(());
        }
        let due = (copy.size() - rest) as f64 / SNAPSHOT_BYTES_PER_SECOND;
        std::thread::sleep(
            Duration::from_secs_f64(due).saturating_sub(clock::monotonic() - started),
        );
    }
    let blob = Bytes::copy_from_slice(&hash.finalize());
    // A client that has gone by now has no use for it.
    let _ = client.blocking_send(Ok(SnapshotResponse {
        blob,
        ..Default::default()
    }));
    Ok(())
}

fn to_i64(size: u64) -> i64 {
    i64::try_from(size).expect("no file is larger than 2^63 bytes")
}

/// Major and minor number of `X.Y` or `X.Y.Z`.
fn parse_version(text: &str) -> Option<(u64, u64)> {
    let numbers: Result<Vec<u64>, _> = text.split('.').map(str::parse).collect();
    match numbers.ok()?[..] {
        [major, minor] | [major, minor, _] => Some((major, minor)),
        _ => None,
    }
}

/// CRC-32C over the names and records of all buckets, without what differs between equal members.
fn database_hash(committed: &Committed) -> Result<u32, storage::Fault> {
    let mut hash = 0;
    for name in committed.bucket_names()? {
        let Some(bucket) = std::str::from_utf8(&name)
            .ok()
            .map(|name| committed.bucket(name))
        else {
            continue;
        };
        hash = crc32c::crc32c_append(hash, &name);
        let is_meta = name == schema::META.as_bytes();
        for record in bucket?.expect("it was listed").range(&[])? {
            let (key, value) = record?;
            let left_out = [
                schema::CONSISTENT_INDEX,
                schema::TERM,
                schema::STORAGE_VERSION,
            ];
            if is_meta && left_out.contains(&&key[..]) {
                continue;
            }
            hash = crc32c::crc32c_append(hash, &key);
            hash = crc32c::crc32c_append(hash, &value);
        }
    }
    Ok(hash)
}
