//! The cluster service, as a cluster of one voter answers it. A second voter is refused as long as
//! members do not talk to each other: it could never be reached, and without it nothing could be
//! decided any more.

use std::sync::Arc;

use bytes::Bytes;
use consensus::{ConfigurationChange, ConfigurationChangeKind, NodeId};
use proto::etcdserverpb::cluster_server;
use proto::etcdserverpb::{
    Member as MemberMessage, MemberAddRequest, MemberAddResponse, MemberListRequest,
    MemberListResponse, MemberPromoteRequest, MemberPromoteResponse, MemberRemoveRequest,
    MemberRemoveResponse, MemberUpdateRequest, MemberUpdateResponse, ResponseHeader,
};
use state_machine::{Member, MemberChange, MemberId, Members};
use tonic::{Request, Response, Status, async_trait};

use super::member::Member as Served;
use super::status::{BadRequest, of_refusal};
use crate::clock;
use crate::config::PeerUrl;
use crate::identity::member_id;

/// The service of one member.
pub(super) struct Cluster {
    member: Arc<Served>,
}

impl Cluster {
    /// The service of this member.
    pub(super) fn new(member: Arc<Served>) -> Cluster {
        Cluster { member }
    }

    /// Puts a change into the log; the members after it.
    async fn change(
        &self,
        kind: ConfigurationChangeKind,
        id: MemberId,
        context: Option<String>,
    ) -> Result<Vec<MemberMessage>, Status> {
        let change = ConfigurationChange {
            // Given by whoever sends it.
            id: 0,
            kind,
            node_id: NodeId(id.0),
            context: context.map(Bytes::from),
        };
        let applied = self.member.requests.submit_change(change).await?;
        applied.result.map_err(of_refusal)?;
        Ok(messages(&self.member.state().members))
    }

    /// Answers about members carry no revision.
    fn header(&self) -> Option<ResponseHeader> {
        self.member.header(mvcc::Revision(0))
    }
}

fn messages(members: &Members) -> Vec<MemberMessage> {
    members.iter().map(message).collect()
}

fn message(member: &Member) -> MemberMessage {
    MemberMessage {
        id: member.id.0,
        name: member.name.clone(),
        peer_urls: member.peer_urls.clone(),
        client_urls: member.client_urls.clone(),
        is_learner: member.learner,
    }
}

/// Whether so many members that have started carry a cluster of so many votes.
fn is_quorum(started: usize, voters: usize) -> bool {
    started > voters / 2
}

fn is_started_voter(member: &&Member) -> bool {
    !member.learner && !member.name.is_empty()
}

#[async_trait]
impl cluster_server::Cluster for Cluster {
    async fn member_list(
        &self,
        request: Request<MemberListRequest>,
    ) -> Result<Response<MemberListResponse>, Status> {
        let caller = self.member.caller(&request)?;
        let state = match request.into_inner().linearizable {
            true => self.member.linearizable_state()?,
            false => self.member.state(),
        };
        caller.require_user(&state)?;
        Ok(Response::new(MemberListResponse {
            header: self.header(),
            members: messages(&state.members),
        }))
    }

    async fn member_add(
        &self,
        request: Request<MemberAddRequest>,
    ) -> Result<Response<MemberAddResponse>, Status> {
        let mut peer_urls = peer_urls(&request.get_ref().peer_urls)?;
        let caller = self.member.caller(&request)?;
        let request = request.into_inner();
        caller.require_root(&self.member.state())?;
        peer_urls.sort_unstable();
        let seconds = clock::since_unix_epoch().as_secs();
        let added = Member {
            id: member_id(&peer_urls, &seconds.to_string()),
            peer_urls,
            learner: request.is_learner,
            name: String::new(),
            client_urls: Vec::new(),
        };
        let change = MemberChange::Add(added.clone());
        self.member
            .state()
            .members
            .check(&change)
            .map_err(of_refusal)?;
        if !added.learner {
            return Err(Status::unimplemented(
                "holdfast: this version runs clusters of one voting member, and a second one that \
                 it cannot reach would leave it without a quorum; nothing was changed",
            ));
        }
        let kind = ConfigurationChangeKind::AddLearnerNode;
        let context = serde_json::to_string(&added).expect("a member is plain data");
        let members = self.change(kind, added.id, Some(context)).await?;
        Ok(Response::new(MemberAddResponse {
            header: self.header(),
            member: Some(message(&added)),
            members,
        }))
    }

    async fn member_remove(
        &self,
        request: Request<MemberRemoveRequest>,
    ) -> Result<Response<MemberRemoveResponse>, Status> {
        let caller = self.member.caller(&request)?;
        let id = MemberId(request.into_inner().id);
        let state = self.member.state();
        caller.require_root(&state)?;
        if !state.members.get(id).is_some_and(|member| member.learner) {
            let others = || {
                let voters = state.members.iter().filter(|member| !member.learner);
                voters.filter(|member| member.id != id)
            };
            let started = others().filter(is_started_voter).count();
            if !is_quorum(started, others().count()) {
                return Err(BadRequest::NotEnoughStarted.into());
            }
        }
        let kind = ConfigurationChangeKind::RemoveNode;
        let members = self.change(kind, id, None).await?;
        Ok(Response::new(MemberRemoveResponse {
            header: self.header(),
            members,
        }))
    }

    async fn member_update(
        &self,
        request: Request<MemberUpdateRequest>,
    ) -> Result<Response<MemberUpdateResponse>, Status> {
        let caller = self.member.caller(&request)?;
        let request = request.into_inner();
        caller.require_root(&self.member.state())?;
        let updated = Member {
            id: MemberId(request.id),
            peer_urls: request.peer_urls,
            learner: false,
            name: String::new(),
            client_urls: Vec::new(),
        };
        let kind = ConfigurationChangeKind::UpdateNode;
        let context = serde_json::to_string(&updated).expect("a member is plain data");
        let members = self.change(kind, updated.id, Some(context)).await?;
        Ok(Response::new(MemberUpdateResponse {
            header: self.header(),
            members,
        }))
    }

    async fn member_promote(
        &self,
        request: Request<MemberPromoteRequest>,
    ) -> Result<Response<MemberPromoteResponse>, Status> {
        let caller = self.member.caller(&request)?;
        let change = MemberChange::Promote(MemberId(request.into_inner().id));
        let state = self.member.linearizable_state()?;
        caller.require_root(&state)?;
        state.members.check(&change).map_err(of_refusal)?;
        // No learner has got any of the log yet.
        Err(BadRequest::LearnerNotReady.into())
    }
}

/// Peer URLs as they are kept: trimmed.
fn peer_urls(urls: &[String]) -> Result<Vec<String>, Status> {
    let parsed = urls.iter().map(|url| PeerUrl::to_advertise(url));
    match parsed
        .map(|url| url.map(|url| url.to_string()))
        .collect::<Result<Vec<_>, _>>()
    {
        Ok(urls) if !urls.is_empty() => Ok(urls),
        _ => Err(BadRequest::MemberUrls.into()),
    }
}
