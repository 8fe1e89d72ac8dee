//! Clients made from our own description of the wire format.

use std::time::Duration;

use bytes::Bytes;
use proto::etcdserverpb::auth_client::AuthClient;
use proto::etcdserverpb::cluster_client::ClusterClient;
use proto::etcdserverpb::kv_client::KvClient;
use proto::etcdserverpb::lease_client::LeaseClient;
use proto::etcdserverpb::maintenance_client::MaintenanceClient;
use proto::etcdserverpb::watch_client::WatchClient;
use proto::etcdserverpb::{
    HashKvRequest, HashKvResponse, PutRequest, PutResponse, RangeRequest, RangeResponse,
    StatusRequest, StatusResponse,
};
use proto::v3electionpb::election_client::ElectionClient;
use proto::v3lockpb::lock_client::LockClient;
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

/// No call of a test takes this long unless the server hangs.
const CALL_SECONDS_MAX: u64 = 30;
/// Larger than any answer of a test.
const MESSAGE_BYTES_MAX: usize = 512 * 1024 * 1024;

/// The services of one member over one connection, made on first use and again when it breaks.
#[derive(Clone, Debug)]
pub struct Client {
    /// The connection.
    pub channel: Channel,
    /// Keys.
    pub kv: KvClient<Channel>,
    /// Leases.
    pub lease: LeaseClient<Channel>,
    /// Events.
    pub watch: WatchClient<Channel>,
    /// Locks.
    pub lock: LockClient<Channel>,
    /// Elections.
    pub election: ElectionClient<Channel>,
    /// Users and roles.
    pub auth: AuthClient<Channel>,
    /// Status, hashes, backups.
    pub maintenance: MaintenanceClient<Channel>,
    /// Members.
    pub cluster: ClusterClient<Channel>,
}

impl Client {
    /// For a member at `url`.
    ///
    /// # Panics
    /// If `url` is none.
    pub fn new(url: &str) -> Client {
        Client::with_patience(url, Duration::from_secs(CALL_SECONDS_MAX))
    }

    /// For a member at `url` whose answers are given up after so long.
    ///
    /// # Panics
    /// If `url` is none.
    pub fn with_patience(url: &str, patience: Duration) -> Client {
        let endpoint = Endpoint::from_shared(url.to_owned()).expect("a URL");
        let channel = endpoint
            .timeout(patience)
            .connect_timeout(patience)
            .connect_lazy();
        Client {
            channel: channel.clone(),
            kv: KvClient::new(channel.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX),
            lease: LeaseClient::new(channel.clone()),
            watch: WatchClient::new(channel.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX),
            lock: LockClient::new(channel.clone()),
            election: ElectionClient::new(channel.clone()),
            auth: AuthClient::new(channel.clone()),
            maintenance: MaintenanceClient::new(channel.clone()),
            cluster: ClusterClient::new(channel),
        }
    }

    /// Whether the member serves linearizable reads, if only to those whom it knows.
    pub async fn answers(&self) -> bool {
        let request = RangeRequest {
            key: Bytes::from_static(b"\0"),
            ..Default::default()
        };
        match self.range(request).await {
            Ok(_) => true,
            Err(status) => status.message() == "etcdserver: user name is empty",
        }
    }

    /// A Range as it is.
    ///
    /// # Errors
    /// The server's refusal.
    pub async fn range(&self, request: RangeRequest) -> Result<RangeResponse, Status> {
        Ok(self.kv.clone().range(request).await?.into_inner())
    }

    /// A plain put.
    ///
    /// # Errors
    /// The server's refusal.
    pub async fn put(
        &self,
        key: impl Into<Bytes>,
        value: impl Into<Bytes>,
    ) -> Result<PutResponse, Status> {
        let (key, value) = (key.into(), value.into());
        let request = PutRequest {
            key,
            value,
            ..Default::default()
        };
        Ok(self.kv.clone().put(request).await?.into_inner())
    }

    /// Every key at the newest revision.
    ///
    /// # Panics
    /// If the member does not answer.
    pub async fn everything(&self) -> RangeResponse {
        let zero = Bytes::from_static(b"\0");
        let request = RangeRequest {
            key: zero.clone(),
            range_end: zero,
            ..Default::default()
        };
        self.range(request).await.expect("every key can be read")
    }

    /// The hash by which members are compared, at `revision` (0: the newest).
    ///
    /// # Panics
    /// If the member does not answer.
    pub async fn hash_kv(&self, revision: i64) -> HashKvResponse {
        let answer = self
            .maintenance
            .clone()
            .hash_kv(HashKvRequest { revision })
            .await;
        answer.expect("a hash at a readable revision").into_inner()
    }

    /// The value of a key, linearizably.
    ///
    /// # Panics
    /// If the member does not answer.
    pub async fn value_of(&self, key: &str) -> Option<Bytes> {
        let request = RangeRequest {
            key: Bytes::from(key.to_owned()),
            ..Default::default()
        };
        let answer = self.range(request).await.expect("a range");
        answer.kvs.into_iter().next().map(|pair| pair.value)
    }

    /// What the member says about itself.
    ///
    /// # Panics
    /// If the member does not answer.
    pub async fn status(&self) -> StatusResponse {
        let status = self.try_status().await;
        status.expect("a running member tells its status")
    }

    /// What the member says about itself, if it answers.
    ///
    /// # Errors
    /// That of the call.
    pub async fn try_status(&self) -> Result<StatusResponse, Status> {
        let answer = self.maintenance.clone().status(StatusRequest {}).await;
        Ok(answer?.into_inner())
    }
}
