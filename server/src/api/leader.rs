//! What only the leader can answer, asked of it by another member: about the time of leases, and for
//! promotions. All other requests reach the leader through the log.

use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use mvcc::LeaseId;
use prost::Message;
use proto::etcdserverpb::{LeaseKeepAliveRequest, LeaseKeepAliveResponse, LeaseTimeToLiveRequest};
use proto::leasepb::{LeaseInternalRequest, LeaseInternalResponse};
use state_machine::{MemberId, Refusal};
use tonic::Status;

use super::member::Member;
use super::status::{BadRequest, of_refusal};
use crate::peer::Question;
use crate::requests::NoAnswer;

/// Between two tries to reach a leader; etcd's value.
const RETRY: Duration = Duration::from_millis(50);
const PROTOBUF: &str = "application/protobuf";

/// The leader's word, or why there is none.
enum Reply {
    Ok(Bytes),
    /// A status that settles the matter, with its text.
    Refused(StatusCode, String),
}

impl Member {
    /// Whole seconds that the leader gives a lease; 0 if there is none.
    pub(crate) async fn renew_elsewhere(&self, id: LeaseId) -> Result<i64, Status> {
        let question = Question {
            path: "/leases".to_owned(),
            content_type: PROTOBUF,
            authorization: None,
            body: LeaseKeepAliveRequest { id: id.0 }.encode_to_vec().into(),
        };
        match self.ask_leader(&question).await? {
            Reply::Ok(body) => Ok(decoded::<LeaseKeepAliveResponse>(body)?.ttl),
            Reply::Refused(StatusCode::NOT_FOUND, _) => Ok(0),
            Reply::Refused(StatusCode::REQUEST_TIMEOUT, _) => {
                Err(NoAnswer::NotAppliedInTime.into())
            }
            Reply::Refused(_, text) => Err(Status::unknown(text)),
        }
    }

    /// What the leader knows of a lease's time: seconds left, seconds granted, keys. `None` if there is no
    /// such lease.
    pub(crate) async fn time_to_live_elsewhere(
        &self,
        id: LeaseId,
        keys: bool,
    ) -> Result<Option<(i64, i64, Vec<Bytes>)>, Status> {
        let asked = LeaseTimeToLiveRequest { id: id.0, keys };
        let request = LeaseInternalRequest {
            lease_time_to_live_request: Some(asked),
        };
        let question = Question {
            path: "/leases/internal".to_owned(),
            content_type: PROTOBUF,
            authorization: None,
            body: request.encode_to_vec().into(),
        };
        match self.ask_leader(&question).await? {
            Reply::Ok(body) => {
                let answer = decoded::<LeaseInternalResponse>(body)?;
                let answer = answer.lease_time_to_live_response;
                let answer = answer.ok_or_else(|| Status::unknown("an empty answer"))?;
                Ok(Some((answer.ttl, answer.granted_ttl, answer.keys)))
            }
            Reply::Refused(StatusCode::NOT_FOUND, _) => Ok(None),
            Reply::Refused(StatusCode::REQUEST_TIMEOUT, _) => {
                Err(NoAnswer::NotAppliedInTime.into())
            }
            Reply::Refused(_, text) => Err(Status::unknown(text)),
        }
    }

    /// Has the leader give a learner a vote. `token` shows who asks.
    pub(crate) async fn promote_elsewhere(
        &self,
        id: MemberId,
        token: Option<&str>,
    ) -> Result<(), Status> {
        let question = Question {
            path: format!("/members/promote/{}", id.0),
            content_type: "",
            authorization: token.map(str::to_owned),
            body: Bytes::new(),
        };
        match self.ask_leader(&question).await? {
            Reply::Ok(_) => Ok(()),
            Reply::Refused(StatusCode::NOT_FOUND, _) => Err(of_refusal(Refusal::MemberNotFound)),
            Reply::Refused(StatusCode::PRECONDITION_FAILED, text) => Err(match text.trim() {
                "etcdserver: can only promote a learner member which is in sync with leader" => {
                    BadRequest::LearnerNotReady.into()
                }
                _ => of_refusal(Refusal::MemberNotLearner),
            }),
            Reply::Refused(_, text) => Err(Status::unknown(text)),
        }
    }

    /// Asks whoever leads, URL after URL and leader after leader, until one answers or time is up.
    async fn ask_leader(&self, question: &Question) -> Result<Reply, Status> {
        let mut leaders = self.consensus.leaders();
        let asked = async {
            loop {
                leaders.mark_unchanged();
                for url in self.leader_urls() {
                    let answered = tokio::select! {
                        answered = self.peer_client.ask(&url, question) => answered,
                        // It may stand still for ever; another leads now.
                        _ = leaders.changed() => break,
                    };
                    let Ok((status, body)) = answered else {
                        continue;
                    };
                    let text = || String::from_utf8_lossy(&body).trim().to_owned();
                    match status {
                        StatusCode::OK => return Reply::Ok(body),
                        StatusCode::NOT_FOUND
                        | StatusCode::REQUEST_TIMEOUT
                        | StatusCode::PRECONDITION_FAILED => return Reply::Refused(status, text()),
                        // It may just have lost its leadership.
                        _ => {}
                    }
                }
                tokio::time::sleep(RETRY).await;
            }
        };
        let answered = tokio::time::timeout(self.requests.timeout(), asked).await;
        answered.map_err(|_| NoAnswer::TimedOut.into())
    }

    fn leader_urls(&self) -> Vec<String> {
        let state = self.state();
        let leader = state.members.get(MemberId(self.leader()));
        leader.map_or_else(Vec::new, |leader| leader.peer_urls.clone())
    }
}

fn decoded<M: Message + Default>(body: Bytes) -> Result<M, Status> {
    M::decode(body).map_err(|error| Status::unknown(format!("the leader's answer: {error}")))
}
