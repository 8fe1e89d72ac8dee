//! The cluster service. Changes of members come with clusters of several.

use std::sync::Arc;

use proto::etcdserverpb::cluster_server;
use proto::etcdserverpb::{
    Member as MemberMessage, MemberAddRequest, MemberAddResponse, MemberListRequest,
    MemberListResponse, MemberPromoteRequest, MemberPromoteResponse, MemberRemoveRequest,
    MemberRemoveResponse, MemberUpdateRequest, MemberUpdateResponse,
};
use tonic::{Request, Response, Status, async_trait};

use super::member::Member;

/// The service of one member.
pub(super) struct Cluster {
    member: Arc<Member>,
}

impl Cluster {
    /// The service of this member.
    pub(super) fn new(member: Arc<Member>) -> Cluster {
        Cluster { member }
    }
}

fn not_yet(method: &str) -> Status {
    Status::unimplemented(format!(
        "holdfast: {method} is not part of this version, which runs clusters of one member"
    ))
}

#[async_trait]
impl cluster_server::Cluster for Cluster {
    async fn member_list(
        &self,
        request: Request<MemberListRequest>,
    ) -> Result<Response<MemberListResponse>, Status> {
        let state = match request.into_inner().linearizable {
            true => self.member.linearizable_state()?,
            false => self.member.state(),
        };
        let members = state.members.iter().map(|member| MemberMessage {
            id: member.id.0,
            name: member.name.clone(),
            peer_urls: member.peer_urls.clone(),
            client_urls: member.client_urls.clone(),
            is_learner: member.learner,
        });
        // Answers about members carry no revision.
        let header = self.member.header(mvcc::Revision(0));
        Ok(Response::new(MemberListResponse {
            header,
            members: members.collect(),
        }))
    }

    async fn member_add(
        &self,
        _: Request<MemberAddRequest>,
    ) -> Result<Response<MemberAddResponse>, Status> {
        Err(not_yet("MemberAdd"))
    }

    async fn member_remove(
        &self,
        _: Request<MemberRemoveRequest>,
    ) -> Result<Response<MemberRemoveResponse>, Status> {
        Err(not_yet("MemberRemove"))
    }

    async fn member_update(
        &self,
        _: Request<MemberUpdateRequest>,
    ) -> Result<Response<MemberUpdateResponse>, Status> {
        Err(not_yet("MemberUpdate"))
    }

    async fn member_promote(
        &self,
        _: Request<MemberPromoteRequest>,
    ) -> Result<Response<MemberPromoteResponse>, Status> {
        Err(not_yet("MemberPromote"))
    }
}
