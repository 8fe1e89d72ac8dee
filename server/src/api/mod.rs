//! What clients call: one file per service.
//!
//! Services that this version does not have answer `Unimplemented`, as any unknown service does.

pub mod check;
mod cluster;
mod health;
mod kv;
mod maintenance;
mod member;
pub mod status;
mod wire;

use std::convert::Infallible;
use std::future::{Future, ready};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::{Request, Response};
use proto::etcdserverpb::cluster_server::ClusterServer;
use proto::etcdserverpb::kv_server::KvServer;
use proto::etcdserverpb::maintenance_server::MaintenanceServer;
use proto::grpc::health::v1::health_server::HealthServer;
use tonic::{Status, body::Body};
use tower_service::Service;

pub use member::{Limits, Member};

use crate::http::CallBody;

/// What a client may send beside the request itself: etcd's allowance.
const MESSAGE_OVERHEAD: usize = 512 << 10;

/// Hands each gRPC call to its service.
#[derive(Clone)]
pub struct Api {
    kv: KvServer<kv::Kv>,
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
                .max_encoding_message_size(usize::MAX),
            maintenance: MaintenanceServer::new(maintenance::Maintenance::new(member.clone()))
                .max_decoding_message_size(received_max),
            cluster: ClusterServer::new(cluster::Cluster::new(member))
                .max_decoding_message_size(received_max),
            health: HealthServer::new(health::Health),
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
        let path = request.uri().path();
        let (service, method) = path
            .trim_start_matches('/')
            .split_once('/')
            .unwrap_or((path, ""));
        match service {
            "etcdserverpb.KV" if kv::has(method) => self.kv.call(request),
            "etcdserverpb.Maintenance" => self.maintenance.call(request),
            "etcdserverpb.Cluster" => self.cluster.call(request),
            "grpc.health.v1.Health" => self.health.call(request),
            "etcdserverpb.KV" => unimplemented(&format!(
                "unknown method {method} for service etcdserverpb.KV"
            )),
            _ => unimplemented(&format!("unknown service {service}")),
        }
    }
}

fn unimplemented(text: &str) -> Answer {
    Box::pin(ready(Ok(Status::unimplemented(text).into_http())))
}
