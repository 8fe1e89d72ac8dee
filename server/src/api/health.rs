//! gRPC's own health service: the server as a whole serves as soon as it listens.

use std::collections::HashMap;

use proto::grpc::health::v1::health_check_response::ServingStatus;
use proto::grpc::health::v1::{
    HealthCheckRequest, HealthCheckResponse, HealthListRequest, HealthListResponse, health_server,
};
use tokio_stream::{Once, Pending, StreamExt, once, pending};
use tonic::{Request, Response, Status, async_trait};

/// The service.
pub(super) struct Health;

const SERVING: HealthCheckResponse = HealthCheckResponse {
    status: ServingStatus::Serving as i32,
};
const UNKNOWN: HealthCheckResponse = HealthCheckResponse {
    status: ServingStatus::ServiceUnknown as i32,
};

type Change = Result<HealthCheckResponse, Status>;

#[async_trait]
impl health_server::Health for Health {
    type WatchStream = tokio_stream::adapters::Chain<Once<Change>, Pending<Change>>;

    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        match &*request.into_inner().service {
            "" => Ok(Response::new(SERVING)),
            _ => Err(Status::not_found("unknown service")),
        }
    }

    async fn list(
        &self,
        _: Request<HealthListRequest>,
    ) -> Result<Response<HealthListResponse>, Status> {
        let statuses = HashMap::from([(String::new(), SERVING)]);
        Ok(Response::new(HealthListResponse { statuses }))
    }

    /// The state never changes while there is anybody to answer.
    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let status = if request.into_inner().service.is_empty() {
            SERVING
        } else {
            UNKNOWN
        };
        Ok(Response::new(once(Ok(status)).chain(pending())))
    }
}
