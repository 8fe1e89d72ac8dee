//! What clients call: one file per service.
//!
//! Unknown services and methods answer `Unimplemented`.

mod auth;
mod caller;
pub mod check;
mod cluster;
mod election;
mod health;
mod kv;
mod leader;
mod lease;
mod lock;
mod maintenance;
mod member;
mod ownership;
mod range_stream;
pub mod status;
mod until_no_leader;
mod watch;
mod wire;

use std::convert::Infallible;
use std::future::{Future, ready};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::{HeaderMap, Request, Response};
use proto::etcdserverpb::auth_server::AuthServer;
use proto::etcdserverpb::cluster_server::ClusterServer;
use proto::etcdserverpb::kv_server::KvServer;
use proto::etcdserverpb::lease_server::LeaseServer;
use proto::etcdserverpb::maintenance_server::MaintenanceServer;
use proto::grpc::health::v1::health_server::HealthServer;
use proto::v3electionpb::election_server::ElectionServer;
use proto::v3lockpb::lock_server::LockServer;
use tonic::codec::CompressionEncoding::Gzip;
use tonic::{Status, body::Body};
use tower_service::Service;

pub(crate) use caller::Caller;
pub(crate) use member::HashKv;
pub use member::{Limits, Member};

use crate::http::CallBody;
use crate::requests::NoAnswer;
use status::BadRequest;
use until_no_leader::UntilNoLeader;

/// What a client may send beside the request itself: etcd's allowance.
pub(crate) const MESSAGE_OVERHEAD: usize = 512 << 10;

/// Hands each gRPC call to its service.
#[derive(Clone)]
pub struct Api {
    kv: KvServer<kv::Kv>,
    lease: LeaseServer<lease::Lease>,
    auth: AuthServer<auth::AuthService>,
    lock: LockServer<lock::Lock>,
    election: ElectionServer<election::Election>,
    member: Arc<Member>,
    maintenance: MaintenanceServer<maintenance::Maintenance>,
    cluster: ClusterServer<cluster::Cluster>,
    health: HealthServer<health::Health>,
}

impl Api {
    /// All services of one member.
    pub fn new(member: Arc<Member>) -> Api {
        let received_max = member.limits().request_bytes + MESSAGE_OVERHEAD;
        Api {
            kv: KvServer::new(kv::Kv::new(member.clone()))
                .max_decoding_message_size(received_max)
                .accept_compressed(Gzip)
                .max_encoding_message_size(usize::MAX),
            lease: LeaseServer::new(lease::Lease::new(member.clone()))
                .max_decoding_message_size(received_max)
                .accept_compressed(Gzip)
                .max_encoding_message_size(usize::MAX),
            maintenance: MaintenanceServer::new(maintenance::Maintenance::new(member.clone()))
                .max_decoding_message_size(received_max)
                .accept_compressed(Gzip),
            cluster: ClusterServer::new(cluster::Cluster::new(member.clone()))
                .max_decoding_message_size(received_max)
                .accept_compressed(Gzip),
            auth: AuthServer::new(auth::AuthService::new(member.clone()))
                .max_decoding_message_size(received_max)
                .accept_compressed(Gzip),
            lock: LockServer::new(lock::Lock::new(member.clone()))
                .max_decoding_message_size(received_max)
                .accept_compressed(Gzip),
            election: ElectionServer::new(election::Election::new(member.clone()))
                .max_decoding_message_size(received_max)
                .accept_compressed(Gzip),
            health: HealthServer::new(health::Health),
            member,
        }
    }
}

type Answer = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

impl Service<Request<CallBody>> for Api {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Answer;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<CallBody>) -> Answer {
        let path = request.uri().path().to_owned();
        let (service, method) = path
            .trim_start_matches('/')
            .split_once('/')
            .unwrap_or((&path, ""));
        let admitted = known(service, method)
            .and_then(|()| self.admit(request.headers()))
            .and_then(|()| self.check_learner(service, method));
        if let Err(status) = admitted {
            return refuse(status);
        }
        let leaders = wants_leader(request.headers()).then(|| self.member.consensus.leaders());
        let is_stream = matches!(
            method,
            "Watch" | "LeaseKeepAlive" | "Snapshot" | "Observe" | "RangeStream"
        );
        let answer = self.dispatch(service, request);
        match leaders.filter(|_| is_stream) {
            None => answer,
            Some(leaders) => {
                let election_timeout = self.member.limits().election_timeout;
                Box::pin(async move {
                    let response = answer.await?;
                    Ok(UntilNoLeader::wrap(response, leaders, election_timeout))
                })
            }
        }
    }
}

fn wants_leader(headers: &HeaderMap) -> bool {
    headers
        .get("hasleader")
        .is_some_and(|value| value == "true")
}

impl Api {
    fn dispatch(&mut self, service: &str, request: Request<CallBody>) -> Answer {
        match service {
            "etcdserverpb.KV" => self.kv.call(request),
            "etcdserverpb.Watch" => {
                let response = watch::serve(self.member.clone(), request);
                Box::pin(ready(Ok(response)))
            }
            "etcdserverpb.Lease" => self.lease.call(request),
            "etcdserverpb.Maintenance" => self.maintenance.call(request),
            "etcdserverpb.Cluster" => self.cluster.call(request),
            "etcdserverpb.Auth" => self.auth.call(request),
            "v3lockpb.Lock" => self.lock.call(request),
            "v3electionpb.Election" => self.election.call(request),
            "grpc.health.v1.Health" => self.health.call(request),
            _ => unreachable!("known above"),
        }
    }
}

impl Api {
    /// A learner is not there for clients; of reads, [`kv`] lets those pass that ask for no more than it
    /// has.
    fn check_learner(&self, service: &str, method: &str) -> Result<(), Status> {
        let is_served = matches!(
            (service, method),
            ("etcdserverpb.Maintenance", "Status" | "Snapshot") | ("etcdserverpb.KV", "Range")
        );
        match self.member.is_learner() && !is_served {
            true => Err(BadRequest::Learner.into()),
            false => Ok(()),
        }
    }

    /// Refuses a call for what its metadata say.
    fn admit(&self, headers: &HeaderMap) -> Result<(), Status> {
        if let Some(version) = headers.get("client-api-version")
            && std::str::from_utf8(version.as_bytes()).is_err()
        {
            let text = "etcdserver: invalid client api version";
            return Err(Status::invalid_argument(text));
        }
        if wants_leader(headers) && self.member.leader() == 0 {
            return Err(NoAnswer::NoLeader.into());
        }
        match headers.get("grpc-encoding") {
            Some(encoding) if encoding != "identity" && encoding != "gzip" => {
                let name = String::from_utf8_lossy(encoding.as_bytes());
                Err(Status::unimplemented(format!(
                    "grpc: Decompressor is not installed for grpc-encoding {name:?}"
                )))
            }
            _ => Ok(()),
        }
    }
}

/// Passes the methods that there are, and refuses others in the words of etcd's library.
fn known(service: &str, method: &str) -> Result<(), Status> {
    let methods: &[&str] = match service {
        "etcdserverpb.KV" => &[
            "Range",
            "RangeStream",
            "Put",
            "DeleteRange",
            "Txn",
            "Compact",
        ],
        "etcdserverpb.Watch" => &["Watch"],
        "etcdserverpb.Lease" => &[
            "LeaseGrant",
            "LeaseRevoke",
            "LeaseKeepAlive",
            "LeaseTimeToLive",
            "LeaseLeases",
        ],
        "etcdserverpb.Maintenance" => &[
            "Alarm",
            "Status",
            "Defragment",
            "Hash",
            "HashKV",
            "Snapshot",
            "MoveLeader",
            "Downgrade",
        ],
        "etcdserverpb.Cluster" => &[
            "MemberAdd",
            "MemberRemove",
            "MemberUpdate",
            "MemberList",
            "MemberPromote",
        ],
        "etcdserverpb.Auth" => &[
            "AuthEnable",
            "AuthDisable",
            "AuthStatus",
            "Authenticate",
            "UserAdd",
            "UserGet",
            "UserList",
            "UserDelete",
            "UserChangePassword",
            "UserGrantRole",
            "UserRevokeRole",
            "RoleAdd",
            "RoleGet",
            "RoleList",
            "RoleDelete",
            "RoleGrantPermission",
            "RoleRevokePermission",
        ],
        "v3lockpb.Lock" => &["Lock", "Unlock"],
        "v3electionpb.Election" => &["Campaign", "Proclaim", "Leader", "Observe", "Resign"],
        "grpc.health.v1.Health" => &["Check", "List", "Watch"],
        _ => return Err(Status::unimplemented(format!("unknown service {service}"))),
    };
    match methods.contains(&method) {
        true => Ok(()),
        false => Err(Status::unimplemented(format!(
            "unknown method {method} for service {service}"
        ))),
    }
}

fn refuse(status: Status) -> Answer {
    Box::pin(ready(Ok(status.into_http())))
}
