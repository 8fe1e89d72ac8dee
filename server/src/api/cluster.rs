//! The cluster service: who belongs to the cluster, and changes of that.
//!
//! A change is checked twice: here, whether the cluster as it is now would bear it, and when it is
//! applied, whether it fits the members as they are then.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use consensus::{ConfigurationChange, ConfigurationChangeKind, NodeId};
use proto::etcdserverpb::cluster_server;
use proto::etcdserverpb::{
    Member as MemberMessage, MemberAddRequest, MemberAddResponse, MemberListRequest,
    MemberListResponse, MemberPromoteRequest, MemberPromoteResponse, MemberRemoveRequest,
    MemberRemoveResponse, MemberUpdateRequest, MemberUpdateResponse, ResponseHeader,
};
use state_machine::{Member, MemberChange, MemberId, Members, Refusal};
use tonic::{Request, Response, Status, async_trait};

use super::member::Member as Served;
use super::status::{BadRequest, of_refusal};
use crate::clock;
use crate::config::PeerUrl;
use crate::identity::member_id;
use crate::requests::NoAnswer;

/// A connection counts once it has lasted so long; etcd's value.
const HEALTHY_AFTER: Duration = Duration::from_secs(5);

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

/// Whether so many members carry a cluster of so many votes.
fn is_quorum(members: usize, voters: usize) -> bool {
    members > voters / 2
}

/// What counts for whether a change is safe.
struct Strength {
    voters: usize,
    /// Voters that have ever started.
    started: usize,
    /// Voters that this member has been connected to for a while, and itself.
    connected: usize,
}

impl Strength {
    fn of(member: &Served) -> Strength {
        let state = member.state();
        let voters = || state.members.iter().filter(|member| !member.learner);
        Strength {
            voters: voters().count(),
            started: voters().filter(|voter| !voter.name.is_empty()).count(),
            connected: voters()
                .filter(|voter| is_connected(member, voter.id))
                .count(),
        }
    }

    /// The new member may never start, and must not take the quorum away then.
    fn check_add_voter(&self) -> Result<(), BadRequest> {
        let is_second = self.started == 1 && self.voters == 1;
        if !is_second && !is_quorum(self.started, self.voters + 1) {
            return Err(BadRequest::NotEnoughStarted);
        }
        if self.voters > 1 && !is_quorum(self.connected, self.voters + 1) {
            return Err(BadRequest::Unhealthy);
        }
        Ok(())
    }

    /// A learner takes no part in a quorum. etcd asks for as much as for a voter.
    fn check_add_learner(&self) -> Result<(), BadRequest> {
        match is_quorum(self.connected, self.voters) {
            true => Ok(()),
            false => Err(BadRequest::Unhealthy),
        }
    }

    fn check_promote(&self) -> Result<(), BadRequest> {
        match is_quorum(self.started + 1, self.voters + 1) {
            true => Ok(()),
            false => Err(BadRequest::NotEnoughStarted),
        }
    }

    /// `leaving` is no learner; it may also be nobody.
    fn check_remove(&self, leaving: Option<&Member>, is_connected: bool) -> Result<(), BadRequest> {
        let is_started = leaving.is_some_and(|member| !member.name.is_empty());
        let others = self.voters - usize::from(leaving.is_some());
        if !is_quorum(self.started - usize::from(is_started), others) {
            return Err(BadRequest::NotEnoughStarted);
        }
        if is_connected && self.connected - 1 < 1 + (self.voters - 1) / 2 {
            return Err(BadRequest::Unhealthy);
        }
        Ok(())
    }
}

/// Whether this member can rely on its connection to another.
fn is_connected(member: &Served, id: MemberId) -> bool {
    let for_long = |time: Duration| time >= HEALTHY_AFTER;
    id == member.identity().member
        || member
            .transport
            .active_for(NodeId(id.0))
            .is_some_and(for_long)
}

#[async_trait]
impl cluster_server::Cluster for Cluster {
    async fn member_list(
        &self,
        request: Request<MemberListRequest>,
    ) -> Result<Response<MemberListResponse>, Status> {
        let caller = self.member.caller(&request)?;
        let state = match request.into_inner().linearizable {
            true => self.member.linearizable_state().await?,
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
        self.check_strength(|strength| match added.learner {
            true => strength.check_add_learner(),
            false => strength.check_add_voter(),
        })?;
        let kind = match added.learner {
            true => ConfigurationChangeKind::AddLearnerNode,
            false => ConfigurationChangeKind::AddNode,
        };
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
        let leaving = state.members.get(id);
        if !leaving.is_some_and(|member| member.learner) {
            let is_connected = leaving.is_some() && is_connected(&self.member, id);
            self.check_strength(|strength| strength.check_remove(leaving, is_connected))?;
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
        let id = MemberId(request.get_ref().id);
        caller.require_root(&self.member.state())?;
        let members = match self.member.leads() {
            true => self.promote_here(id).await?,
            false => {
                let token = request.metadata().get("token");
                let token = token.and_then(|token| token.to_str().ok());
                self.member.promote_elsewhere(id, token).await?;
                messages(&self.member.state().members)
            }
        };
        Ok(Response::new(MemberPromoteResponse {
            header: self.header(),
            members,
        }))
    }
}

impl Cluster {
    fn check_strength(
        &self,
        check: impl FnOnce(&Strength) -> Result<(), BadRequest>,
    ) -> Result<(), Status> {
        match self.member.limits().strict_reconfiguration {
            true => Ok(check(&Strength::of(&self.member))?),
            false => Ok(()),
        }
    }

    /// Gives a learner a vote, if it has nearly all that the leader has.
    async fn promote_here(&self, id: MemberId) -> Result<Vec<MemberMessage>, Status> {
        let progress = self.member.progress().await?;
        let matched = |id: u64| {
            let of = progress.iter().find(|progress| progress.id.0 == id);
            of.map(|progress| progress.matched.0)
        };
        let own = matched(self.member.identity().member.0);
        let (Some(learner), Some(own)) = (matched(id.0), own) else {
            return Err(of_refusal(Refusal::MemberNotFound));
        };
        let promotion = MemberChange::Promote(id);
        self.member
            .state()
            .members
            .check(&promotion)
            .map_err(of_refusal)?;
        if learner * 10 < own * 9 {
            return Err(BadRequest::LearnerNotReady.into());
        }
        self.check_strength(Strength::check_promote)?;
        let context = format!(r#"{{"id":{},"peerURLs":null,"isPromote":true}}"#, id.0);
        self.change(ConfigurationChangeKind::AddNode, id, Some(context))
            .await
    }
}

impl Served {
    /// The members after a promotion that another member asked this one for, as the JSON that members
    /// tell each other. `token` shows for whom; the other member has checked what that one may do.
    pub(crate) async fn promote_for_peer(
        self: &Arc<Self>,
        id: MemberId,
        token: Option<&str>,
    ) -> Result<Vec<u8>, Status> {
        let mut request = Request::new(());
        if let Some(token) = token.and_then(|token| token.parse().ok()) {
            request.metadata_mut().insert("token", token);
            self.caller(&request)?.require_root(&self.state())?;
        }
        if !self.leads() {
            return Err(NoAnswer::NoLeader.into());
        }
        Cluster::new(self.clone()).promote_here(id).await?;
        Ok(self.members_json())
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
