//! A range in pieces, so that a long list needs little memory on either side.

use std::num::NonZeroUsize;
use std::sync::Arc;

use mvcc::{Content, KeyRange, RangeAnswer, RangeQuery, Revision};
use prost::Message;
use proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use proto::etcdserverpb::{RangeRequest, RangeStreamResponse};
use state_machine::range_query;
use tokio::sync::mpsc;
use tonic::Status;

use super::caller::Caller;
use super::kv::of_apply_error;
use super::member::Member;
use super::wire;
use crate::views::State;

/// Keys in the first piece; later ones follow the size of those before. etcd's value.
const FIRST_KEYS: usize = 10;

/// What cannot be answered in pieces.
pub(super) fn check(request: &RangeRequest) -> Result<(), Status> {
    let by_key = request.sort_order() == SortOrder::None
        || request.sort_order() == SortOrder::Ascend && request.sort_target() == SortTarget::Key;
    if !by_key {
        return Err(Status::unimplemented(
            "RangeStream does not support custom sort orders",
        ));
    }
    if range_query(request.clone()).filters.is_set() {
        return Err(Status::unimplemented(
            "RangeStream does not support revision filters",
        ));
    }
    Ok(())
}

/// Reads a range piece by piece, all at the revision of `state`, and sends each one.
pub(super) async fn send(
    member: Arc<Member>,
    caller: Caller,
    state: Arc<State>,
    request: RangeRequest,
    client: mpsc::Sender<Result<RangeStreamResponse, Status>>,
) {
    let mut pieces = Pieces::new(&member, &state, request);
    drop(state);
    loop {
        // What a client is sent later must still be there, and still be for its eyes.
        let state = member.state();
        let piece = pieces.next(&member, &caller, &state);
        drop(state);
        let done = pieces.done || piece.is_err();
        if client.send(piece).await.is_err() || done {
            return;
        }
    }
}

struct Pieces {
    request: RangeRequest,
    /// What is left to be read.
    query: RangeQuery,
    /// Revision of the store when the first piece was read.
    revision: Revision,
    limit: Option<usize>,
    keys: usize,
    size_aim: usize,
    done: bool,
}

impl Pieces {
    fn new(member: &Member, state: &State, request: RangeRequest) -> Pieces {
        let revision = state.view.revision();
        let mut query = range_query(request.clone());
        query.revision.get_or_insert(revision);
        query.sort_by = mvcc::SortBy::Key;
        Pieces {
            request,
            limit: query.limit.map(NonZeroUsize::get),
            query,
            revision,
            keys: FIRST_KEYS,
            size_aim: member.limits().request_bytes,
            done: false,
        }
    }

    fn next(
        &mut self,
        member: &Member,
        caller: &Caller,
        state: &State,
    ) -> Result<RangeStreamResponse, Status> {
        caller.require_read(state, &self.request.key, &self.request.range_end)?;
        let keys = self.limit.map_or(self.keys, |left| self.keys.min(left));
        self.query.limit = NonZeroUsize::new(keys);
        let answer = state.view.range(&self.query);
        let answer = answer.map_err(|error| of_apply_error(error.into()))?;
        self.limit = self.limit.map(|left| left - answer.pairs.len());
        let is_last = !answer.more
            || self.limit == Some(0)
            || matches!(self.query.content, Content::CountOnly);
        let mut response = wire::range(&answer, None);
        if is_last {
            self.done = true;
            response.header = member.header(self.revision);
            response.count = self.count(state)?;
        } else {
            response.more = false;
            response.count = 0;
            self.go_on_behind(&answer);
        }
        let response = RangeStreamResponse {
            range_response: Some(response),
        };
        let bytes = response.encoded_len();
        if bytes < self.size_aim / 2 {
            self.keys = self.keys.saturating_mul(2);
        } else if bytes > self.size_aim * 2 {
            self.keys = (self.keys / 2).max(1);
        }
        Ok(response)
    }

    /// All keys of the range, those of the other pieces too.
    fn count(&self, state: &State) -> Result<i64, Status> {
        let whole = range_query(self.request.clone());
        let count = state.view.count(&whole.keys, self.query.revision);
        let count = count.map_err(|error| of_apply_error(error.into()))?;
        Ok(i64::try_from(count).expect("fewer keys than 2^63"))
    }

    fn go_on_behind(&mut self, answer: &RangeAnswer) {
        let last = answer.pairs.last().expect("there are more behind it");
        let mut from = last.key().to_vec();
        from.push(0);
        let from = from.into();
        self.query.keys = match &self.query.keys {
            KeyRange::Range { to, .. } => KeyRange::Range {
                from,
                to: to.clone(),
            },
            KeyRange::Single(_) => unreachable!("there is nothing behind a single key"),
            KeyRange::From(_) | KeyRange::All => KeyRange::From(from),
        };
    }
}
