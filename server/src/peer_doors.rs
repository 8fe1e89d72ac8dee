//! What messages and questions of other members lead to in this one.

use std::sync::mpsc::SyncSender;
use std::sync::{Arc, OnceLock, Weak};

use bytes::Bytes;
use consensus::{Envelope, NodeId};
use http::header::{ALLOW, AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use mvcc::{LeaseId, Revision};
use prost::Message;
use proto::etcdserverpb::{
    LeaseKeepAliveRequest, LeaseKeepAliveResponse, LeaseTimeToLiveResponse, ResponseHeader,
};
use proto::leasepb::{LeaseInternalRequest, LeaseInternalResponse};
use serde_json::json;
use state_machine::MemberId;
use tokio::sync::mpsc::UnboundedSender;
use tonic::{Code, Status};

use crate::api::Member;
use crate::config::ETCD_VERSION;
use crate::node::Failure;
use crate::peer::{BoxFuture, CLUSTER_ID, Doors};
use crate::raft_thread::Input;
use crate::views::Views;

/// The doors of one member.
pub struct PeerDoors {
    /// To `raft_thread`.
    pub raft: SyncSender<Input>,
    /// Is told when this member was removed.
    pub failure: UnboundedSender<Failure>,
    /// Who the members are.
    pub views: Arc<Views>,
    /// The member, once it is whole; it holds the transport, which holds these doors.
    pub member: OnceLock<Weak<Member>>,
}

impl PeerDoors {
    /// What finds no room is lost, as on the network.
    fn give(&self, input: Input) {
        let _ = self.raft.try_send(input);
    }

    async fn page(&self, request: Request<Bytes>) -> Result<Response<Bytes>, Refused> {
        let path = request.uri().path().to_owned();
        let member = self.member.get().and_then(Weak::upgrade);
        let member = member.ok_or(Refused::text(StatusCode::SERVICE_UNAVAILABLE, "starting"))?;
        if let Some(id) = path.strip_prefix("/members/promote/") {
            method(&request, &Method::POST, Some("POST"))?;
            return promote(&member, id, &request).await;
        }
        match path.as_str() {
            "/version" => {
                method(&request, &Method::GET, Some("GET"))?;
                Ok(version(&member))
            }
            "/members" => {
                method(&request, &Method::GET, Some("GET"))?;
                Ok(json_page(member.members_json()))
            }
            "/downgrade/enabled" => {
                method(&request, &Method::GET, Some("GET"))?;
                let state = member.linearizable_state().await?;
                let enabled = state.downgrade.enabled.to_string();
                Ok(page("text/plain", enabled.into()))
            }
            "/members/hashkv" => {
                method(&request, &Method::GET, Some("GET"))?;
                hash_kv(&member, &request).await
            }
            "/leases" => {
                method(&request, &Method::POST, None)?;
                renew(&member, request.into_body()).await
            }
            "/leases/internal" => {
                method(&request, &Method::POST, None)?;
                time_to_live(&member, request.into_body()).await
            }
            _ => Err(Refused::text(StatusCode::NOT_FOUND, "404 page not found")),
        }
    }
}

impl Doors for PeerDoors {
    fn step(&self, envelope: Envelope) {
        self.give(Input::Step(envelope));
    }

    fn unreachable(&self, id: NodeId) {
        self.give(Input::Unreachable(id));
    }

    fn gone(&self, id: NodeId) {
        self.give(Input::Gone(id));
    }

    fn snapshot_sent(&self, id: NodeId, success: bool) {
        // Without this the leader would wait for ever; raft_thread always empties its queue.
        let _ = self.raft.send(Input::SnapshotSent(id, success));
    }

    fn removed(&self) {
        // Whoever listened is gone only when the member stops anyway.
        let _ = self.failure.send(Failure::Removed);
    }

    fn is_removed(&self, id: NodeId) -> bool {
        self.views.load().members.is_removed(MemberId(id.0))
    }

    fn answer(&self, request: Request<Bytes>) -> BoxFuture<'_, Response<Bytes>> {
        Box::pin(async {
            let mut response = match self.page(request).await {
                Ok(response) => response,
                Err(refused) => refused.into_response(),
            };
            let member = self.member.get().and_then(Weak::upgrade);
            if let Some(member) = member {
                let cluster = format!("{:x}", member.identity().cluster.0);
                let cluster = HeaderValue::try_from(cluster).expect("digits");
                response.headers_mut().insert(CLUSTER_ID, cluster);
            }
            response
        })
    }
}

/// An answer that is none.
struct Refused {
    status: StatusCode,
    text: String,
    allow: Option<&'static str>,
}

impl Refused {
    fn text(status: StatusCode, text: impl Into<String>) -> Refused {
        Refused {
            status,
            text: text.into(),
            allow: None,
        }
    }

    fn into_response(self) -> Response<Bytes> {
        let mut response = page(
            "text/plain; charset=utf-8",
            format!("{}\n", self.text).into(),
        );
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(
            "x-content-type-options",
            HeaderValue::from_static("nosniff"),
        );
        if let Some(allow) = self.allow {
            headers.insert(ALLOW, HeaderValue::from_static(allow));
        }
        response
    }
}

impl From<Status> for Refused {
    fn from(status: Status) -> Refused {
        let text = status.message();
        let code = match status.code() {
            Code::NotFound => StatusCode::NOT_FOUND,
            Code::Unavailable if text.contains("applied index") => {
                let text = "waiting for node to catch up its applied index has timed out";
                return Refused::text(StatusCode::REQUEST_TIMEOUT, text);
            }
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Refused::text(code, text)
    }
}

fn method(
    request: &Request<Bytes>,
    wanted: &Method,
    allow: Option<&'static str>,
) -> Result<(), Refused> {
    let is_wanted = request.method() == wanted;
    match is_wanted || *wanted == Method::GET && *request.method() == Method::HEAD {
        true => Ok(()),
        false => Err(Refused {
            allow,
            ..Refused::text(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed")
        }),
    }
}

fn page(content_type: &'static str, body: Bytes) -> Response<Bytes> {
    let mut response = Response::new(body);
    let content_type = HeaderValue::from_static(content_type);
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response
}

fn json_page(body: Vec<u8>) -> Response<Bytes> {
    page("application/json", body.into())
}

fn version(member: &Member) -> Response<Bytes> {
    let cluster = member.cluster_version();
    let versions = json!({
        "etcdserver": ETCD_VERSION,
        "etcdcluster": cluster.as_deref().unwrap_or("not_decided"),
        "storage": cluster.as_deref().unwrap_or("unknown"),
    });
    json_page(versions.to_string().into_bytes())
}

async fn promote(
    member: &Arc<Member>,
    id: &str,
    request: &Request<Bytes>,
) -> Result<Response<Bytes>, Refused> {
    let Ok(id) = id.parse() else {
        let text = format!("member {id} not found in cluster");
        return Err(Refused::text(StatusCode::NOT_FOUND, text));
    };
    let token = request.headers().get(AUTHORIZATION);
    let token = token.and_then(|token| token.to_str().ok());
    match member.promote_for_peer(MemberId(id), token).await {
        Ok(members) => Ok(json_page(members)),
        Err(status) => Err(match (status.code(), status.message()) {
            (Code::NotFound, _) => Refused::text(StatusCode::NOT_FOUND, "membership: ID not found"),
            (Code::FailedPrecondition, "etcdserver: can only promote a learner member") => {
                let text = "membership: can only promote a learner member";
                Refused::text(StatusCode::PRECONDITION_FAILED, text)
            }
            (Code::FailedPrecondition, text) => {
                Refused::text(StatusCode::PRECONDITION_FAILED, text)
            }
            _ => {
                let text = r#"{"message":"Internal Server Error"}"#;
                Refused::text(StatusCode::INTERNAL_SERVER_ERROR, text)
            }
        }),
    }
}

async fn renew(member: &Member, body: Bytes) -> Result<Response<Bytes>, Refused> {
    let request = LeaseKeepAliveRequest::decode(body).map_err(|_| malformed())?;
    let ttl = member.renew_here(LeaseId(request.id)).await?;
    if ttl == 0 {
        return Err(Refused::text(StatusCode::NOT_FOUND, "lease not found"));
    }
    let answer = LeaseKeepAliveResponse {
        header: None,
        id: request.id,
        ttl,
    };
    Ok(page("application/protobuf", answer.encode_to_vec().into()))
}

async fn time_to_live(member: &Member, body: Bytes) -> Result<Response<Bytes>, Refused> {
    let request = LeaseInternalRequest::decode(body).map_err(|_| malformed())?;
    let asked = request.lease_time_to_live_request.ok_or_else(malformed)?;
    let id = LeaseId(asked.id);
    let Some((ttl, granted_ttl)) = member.time_to_live_here(id).await? else {
        return Err(Refused::text(StatusCode::NOT_FOUND, "lease not found"));
    };
    let keys = match asked.keys {
        true => member.keys_of_lease(id),
        false => Vec::new(),
    };
    let answer = LeaseInternalResponse {
        lease_time_to_live_response: Some(LeaseTimeToLiveResponse {
            header: Some(ResponseHeader::default()),
            id: asked.id,
            ttl,
            granted_ttl,
            keys,
        }),
    };
    Ok(page("application/protobuf", answer.encode_to_vec().into()))
}

fn malformed() -> Refused {
    Refused::text(StatusCode::BAD_REQUEST, "error unmarshalling request")
}

async fn hash_kv(member: &Member, request: &Request<Bytes>) -> Result<Response<Bytes>, Refused> {
    #[derive(serde::Deserialize)]
    struct Asked {
        #[serde(default)]
        revision: i64,
    }
    let own = format!("{:x}", member.identity().cluster.0);
    if request
        .headers()
        .get(CLUSTER_ID)
        .is_some_and(|cluster| cluster.as_bytes() != own.as_bytes())
    {
        let text = "cluster ID mismatch";
        return Err(Refused::text(StatusCode::PRECONDITION_FAILED, text));
    }
    let asked: Asked = serde_json::from_slice(request.body()).map_err(|_| malformed())?;
    let hash = member.hash_kv(Revision(asked.revision)).await;
    let hash = hash.map_err(|status| {
        let text = status.message().replacen("etcdserver: ", "", 1);
        Refused::text(StatusCode::BAD_REQUEST, text)
    })?;
    let mut answer = json!({
        "header": { "revision": hash.current.0 },
        "hash": hash.hash,
    });
    // Zeros are absent, as in etcd.
    for (name, value) in [
        ("compact_revision", hash.compact_revision),
        ("hash_revision", hash.revision.0),
    ] {
        if value != 0 {
            answer[name] = value.into();
        }
    }
    Ok(json_page(answer.to_string().into_bytes()))
}
