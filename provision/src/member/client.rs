//! The gRPC calls of maintenance, as plain blocking calls.

use std::future::Future;
use std::time::Duration;

use bytes::Bytes;
use proto::etcdserverpb::maintenance_client::MaintenanceClient;
use proto::etcdserverpb::{
    AlarmRequest, AlarmType, DefragmentRequest, SnapshotRequest, StatusRequest, alarm_request,
};
use tonic::transport::{Channel, Endpoint};

use crate::spec::{ByteSize, HttpUrl};

/// A connection to the same host is made at once or not at all.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// Calls that only look; the server answers from memory.
const LOOK_LIMIT: Duration = Duration::from_secs(10);

/// A connection to one member.
#[derive(Debug)]
pub(crate) struct Client {
    runtime: tokio::runtime::Runtime,
    maintenance: MaintenanceClient<Channel>,
    url: String,
}

/// What a member says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MemberStatus {
    pub(crate) version: String,
    pub(crate) cluster_id: u64,
    pub(crate) member_id: u64,
    pub(crate) revision: i64,
    /// Of the database file.
    pub(crate) size: ByteSize,
    /// Of the part of the file that holds something.
    pub(crate) in_use: ByteSize,
    /// Absent: the member does not tell (etcd before 3.6).
    pub(crate) quota: Option<ByteSize>,
    /// Absent: nobody leads.
    pub(crate) leader_id: Option<u64>,
    pub(crate) is_learner: bool,
    pub(crate) term: u64,
    pub(crate) applied_index: u64,
    pub(crate) errors: Vec<String>,
}

/// An alarm that is raised in the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Alarm {
    NoSpace,
    Corrupt,
    Unknown(i32),
}

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MemberError {
    #[error("cannot start the client: {0}")]
    Runtime(std::io::Error),
    #[error("no member answers at {url}: {cause}")]
    Unreachable { url: String, cause: String },
    #[error("{call} at {url} was refused: {message} ({code})")]
    Refused {
        call: &'static str,
        url: String,
        code: tonic::Code,
        message: String,
    },
    #[error("{call} at {url} did not end within {} s", .limit.as_secs())]
    TimedOut {
        call: &'static str,
        url: String,
        limit: Duration,
    },
    #[error("{0}")]
    Sink(#[from] std::io::Error),
}

impl Client {
    /// Connects to a member.
    ///
    /// # Errors
    /// When nothing answers.
    pub(crate) fn connect(url: &HttpUrl) -> Result<Client, MemberError> {
        let url = url.to_string();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(MemberError::Runtime)?;
        let unreachable = |cause: &dyn std::error::Error| MemberError::Unreachable {
            url: url.clone(),
            cause: root_cause(cause),
        };
        let endpoint = Endpoint::from_shared(url.clone())
            .map_err(|error| unreachable(&error))?
            .connect_timeout(CONNECT_LIMIT);
        let channel = runtime
            .block_on(endpoint.connect())
            .map_err(|error| unreachable(&error))?;
        Ok(Client {
            runtime,
            maintenance: MaintenanceClient::new(channel),
            url,
        })
    }

    /// Asks the member for its state.
    ///
    /// # Errors
    /// When the call fails.
    pub(crate) fn status(&mut self) -> Result<MemberStatus, MemberError> {
        let mut maintenance = self.maintenance.clone();
        let answer = self.call("Maintenance.Status", LOOK_LIMIT, async move {
            maintenance.status(StatusRequest {}).await
        })?;
        let header = answer.header.unwrap_or_default();
        Ok(MemberStatus {
            version: answer.version,
            cluster_id: header.cluster_id,
            member_id: header.member_id,
            revision: header.revision,
            size: size(answer.db_size),
            in_use: size(answer.db_size_in_use),
            quota: (answer.db_size_quota > 0).then(|| size(answer.db_size_quota)),
            leader_id: (answer.leader != 0).then_some(answer.leader),
            is_learner: answer.is_learner,
            term: answer.raft_term,
            applied_index: answer.raft_applied_index,
            errors: answer.errors,
        })
    }

    /// Asks for the alarms of the cluster.
    ///
    /// # Errors
    /// When the call fails; a server may not have it.
    pub(crate) fn alarms(&mut self) -> Result<Vec<Alarm>, MemberError> {
        let mut maintenance = self.maintenance.clone();
        let request = AlarmRequest {
            action: alarm_request::AlarmAction::Get.into(),
            member_id: 0,
            alarm: AlarmType::None.into(),
        };
        let answer = self.call("Maintenance.Alarm", LOOK_LIMIT, async move {
            maintenance.alarm(request).await
        })?;
        let kind = |alarm: i32| match AlarmType::try_from(alarm) {
            Ok(AlarmType::Nospace) => Alarm::NoSpace,
            Ok(AlarmType::Corrupt) => Alarm::Corrupt,
            _ => Alarm::Unknown(alarm),
        };
        Ok(answer
            .alarms
            .iter()
            .map(|member| kind(member.alarm))
            .collect())
    }

    /// Makes the member give free space back; returns when it has.
    ///
    /// # Errors
    /// When the call fails or takes longer than `limit`.
    pub(crate) fn defragment(&mut self, limit: Duration) -> Result<(), MemberError> {
        let mut maintenance = self.maintenance.clone();
        self.call("Maintenance.Defragment", limit, async move {
            maintenance.defragment(DefragmentRequest {}).await
        })?;
        Ok(())
    }

    /// Streams the database; `sink` gets each piece and how many bytes are still to come.
    ///
    /// # Errors
    /// When the call or the sink fails, or it takes longer than `limit`.
    pub(crate) fn snapshot(
        &mut self,
        limit: Duration,
        mut sink: impl FnMut(&Bytes, u64) -> std::io::Result<()>,
    ) -> Result<(), MemberError> {
        const CALL: &str = "Maintenance.Snapshot";
        let mut maintenance = self.maintenance.clone();
        let url = self.url.clone();
        let refused = |status: tonic::Status| refusal(CALL, &url, &status);
        let streaming = async {
            let answer = maintenance
                .snapshot(SnapshotRequest {})
                .await
                .map_err(refused)?;
            let mut pieces = answer.into_inner();
            while let Some(piece) = pieces.message().await.map_err(refused)? {
                sink(&piece.blob, piece.remaining_bytes)?;
            }
            Ok(())
        };
        let ended = self
            .runtime
            .block_on(async { tokio::time::timeout(limit, streaming).await });
        ended.unwrap_or_else(|_| {
            Err(MemberError::TimedOut {
                call: CALL,
                url: self.url.clone(),
                limit,
            })
        })
    }

    fn call<T>(
        &mut self,
        call: &'static str,
        limit: Duration,
        future: impl Future<Output = Result<tonic::Response<T>, tonic::Status>>,
    ) -> Result<T, MemberError> {
        let ended = self
            .runtime
            .block_on(async { tokio::time::timeout(limit, future).await });
        match ended {
            Ok(Ok(answer)) => Ok(answer.into_inner()),
            Ok(Err(status)) => Err(refusal(call, &self.url, &status)),
            Err(_) => Err(MemberError::TimedOut {
                call,
                url: self.url.clone(),
                limit,
            }),
        }
    }
}

fn refusal(call: &'static str, url: &str, status: &tonic::Status) -> MemberError {
    MemberError::Refused {
        call,
        url: url.to_owned(),
        code: status.code(),
        message: status.message().to_owned(),
    }
}

/// Sizes come signed; none is below zero.
fn size(bytes: i64) -> ByteSize {
    ByteSize::from_bytes(u64::try_from(bytes).unwrap_or(0))
}

/// The innermost error: "connection refused" says more than "transport error".
fn root_cause(error: &dyn std::error::Error) -> String {
    let mut deepest = error;
    while let Some(source) = deepest.source() {
        deepest = source;
    }
    deepest.to_string()
}
