//! Who waits for which answer.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use consensus::{ConfigurationChange, Index};
use prost::Message;
use proto::etcdserverpb::{InternalRaftRequest, RequestHeader};
use state_machine::{Applied, Identity, RequestId};
use tokio::sync::oneshot;

use crate::raft_thread::Input;

/// Proposals that wait to be taken by `raft_thread`. It takes all that wait at once, so a full
/// queue means that the disk has not kept up for thousands of requests; more would only wait longer.
pub const QUEUE_LENGTH_MAX: usize = 8192;

/// Why a request has no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoAnswer {
    /// Its encoded form is larger than the limit.
    TooLarge,
    /// Too many requests wait already.
    TooManyRequests,
    /// No leader took it.
    NoLeader,
    /// It was not applied in time; it may still be.
    TimedOut,
    /// The leader that had it is gone, and the new one has begun without it; it may still come through.
    LeaderFailed,
    /// Another member did not take leadership over in time.
    TransferTooLong,
    /// The member stops.
    Stopped,
    /// What is committed was not applied in time.
    NotAppliedInTime,
}

/// Takes requests to the log and answers back. One for the whole member, shared by all handlers.
pub struct Requests {
    next_id: AtomicU64,
    waiting: Mutex<HashMap<RequestId, oneshot::Sender<Result<Applied, NoAnswer>>>>,
    pending: AtomicUsize,
    raft: SyncSender<Input>,
    timeout: Duration,
    size_max: usize,
}

impl Requests {
    /// `first_id` comes from [`first_request_id`]; `size_max` bounds a request's encoded bytes.
    pub fn new(
        raft: SyncSender<Input>,
        first_id: u64,
        timeout: Duration,
        size_max: usize,
    ) -> Requests {
        Requests {
            next_id: AtomicU64::new(first_id),
            waiting: Mutex::default(),
            pending: AtomicUsize::new(0),
            raft,
            timeout,
            size_max,
        }
    }

    /// Puts a request into the log and waits until it is applied here.
    pub async fn submit(
        &self,
        caller: Option<&Identity>,
        request: InternalRaftRequest,
    ) -> Result<Applied, NoAnswer> {
        self.begin(caller, request)?.answer().await
    }

    /// Puts a request into the log, behind those that were begun before.
    pub fn begin(
        &self,
        caller: Option<&Identity>,
        mut request: InternalRaftRequest,
    ) -> Result<Pending<'_>, NoAnswer> {
        let id = RequestId(self.next_id.fetch_add(1, Ordering::Relaxed));
        request.header = Some(RequestHeader {
            id: id.0,
            username: caller.map_or_else(String::new, |caller| caller.user.clone()),
            auth_revision: caller.map_or(0, |caller| caller.auth_revision),
        });
        let data = Bytes::from(request.encode_to_vec());
        if data.len() > self.size_max {
            return Err(NoAnswer::TooLarge);
        }
        self.send(id, Input::Propose { id, data })
    }

    /// Puts a change of the members into the log and waits until it is applied here, however long
    /// that takes: only the caller knows when to give up. `change` gets its id here.
    pub(crate) async fn submit_change(
        &self,
        mut change: ConfigurationChange,
    ) -> Result<Applied, NoAnswer> {
        let id = RequestId(self.next_id.fetch_add(1, Ordering::Relaxed));
        change.id = id.0;
        let pending = self.send(id, Input::ProposeConfiguration { id, change })?;
        pending.receiver.await.unwrap_or(Err(NoAnswer::Stopped))
    }

    fn send(&self, id: RequestId, input: Input) -> Result<Pending<'_>, NoAnswer> {
        let (sender, receiver) = oneshot::channel();
        let place = self.enter(id, sender);
        self.give(input)?;
        Ok(Pending { place, receiver })
    }

    /// A lease id of the same scheme as the ids of requests, positive.
    pub(crate) fn new_lease_id(&self) -> i64 {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        (id & (u64::MAX >> 1)).cast_signed()
    }

    /// How long an answer is waited for.
    pub(crate) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Whether `raft_thread` and `apply_thread` both work. Writes nothing.
    pub async fn ping(&self) -> bool {
        let (reply, answered) = oneshot::channel();
        self.raft.try_send(Input::Ping(reply)).is_ok()
            && tokio::time::timeout(self.timeout, answered)
                .await
                .is_ok_and(|answer| answer.is_ok())
    }

    /// Number of requests that wait for an answer.
    pub fn pending(&self) -> usize {
        self.pending.load(Ordering::Relaxed)
    }

    /// Whether somebody still waits for this one's answer.
    pub(crate) fn is_waiting(&self, id: RequestId) -> bool {
        self.lock().contains_key(&id)
    }

    /// Asks what a linearizable read must see: a state that has applied the index that comes. Nothing
    /// comes while there is no leader.
    pub(crate) fn ask_read(&self) -> Result<oneshot::Receiver<Index>, NoAnswer> {
        let (sender, receiver) = oneshot::channel();
        self.give(Input::Read(sender))?;
        Ok(receiver)
    }

    /// Gives `raft_thread` something to do.
    pub(crate) fn give(&self, input: Input) -> Result<(), NoAnswer> {
        self.raft.try_send(input).map_err(|error| match error {
            TrySendError::Full(_) => NoAnswer::TooManyRequests,
            TrySendError::Disconnected(_) => NoAnswer::Stopped,
        })
    }

    pub(crate) fn answer(&self, applied: Applied) {
        if let Some(waiting) = self.lock().remove(&applied.id) {
            // Whoever waited may have gone meanwhile.
            let _ = waiting.send(Ok(applied));
        }
    }

    pub(crate) fn refuse(&self, id: RequestId, reason: NoAnswer) {
        if let Some(waiting) = self.lock().remove(&id) {
            let _ = waiting.send(Err(reason));
        }
    }

    /// Tells all who wait that nothing will come any more.
    pub(crate) fn stop(&self) {
        self.lock().clear();
    }

    fn enter(
        &self,
        id: RequestId,
        sender: oneshot::Sender<Result<Applied, NoAnswer>>,
    ) -> Place<'_> {
        self.pending.fetch_add(1, Ordering::Relaxed);
        self.lock().insert(id, sender);
        Place { requests: self, id }
    }

    fn lock(
        &self,
    ) -> std::sync::MutexGuard<'_, HashMap<RequestId, oneshot::Sender<Result<Applied, NoAnswer>>>>
    {
        // The map is whole between any two calls, so a panic elsewhere does not spoil it.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A request on its way through the log.
pub struct Pending<'r> {
    place: Place<'r>,
    receiver: oneshot::Receiver<Result<Applied, NoAnswer>>,
}

impl Pending<'_> {
    /// Waits until it is applied here.
    pub async fn answer(self) -> Result<Applied, NoAnswer> {
        match tokio::time::timeout(self.place.requests.timeout, self.receiver).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(NoAnswer::Stopped),
            Err(_) => Err(NoAnswer::TimedOut),
        }
    }
}

/// A place in the table of those who wait, given up however the wait ends.
struct Place<'r> {
    requests: &'r Requests,
    id: RequestId,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.requests.lock().remove(&self.id);
        self.requests.pending.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The first of a member's request ids since its start: low bits of the member's id, time of the
/// start, and room to count, as etcd makes them, so that no two members or starts share one.
pub fn first_request_id(member: u64, unix_milliseconds: u64) -> u64 {
    let start = unix_milliseconds & ((1 << 40) - 1);
    ((member & 0xFFFF) << 48) | (start << 8) | 1
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, sync_channel};

    use mvcc::Revision;
    use state_machine::Answer;

    use super::*;

    fn requests(length: usize, timeout: Duration) -> (Requests, Receiver<Input>) {
        let (sender, receiver) = sync_channel(length);
        (
            Requests::new(sender, first_request_id(0xABCDE, 12), timeout, 100),
            receiver,
        )
    }

    #[tokio::test]
    async fn each_request_gets_its_own_answer() {
        let (requests, raft) = requests(8, Duration::from_secs(60));
        let answer = async {
            let Input::Propose { id, .. } = raft.try_recv().expect("proposed") else {
                panic!("another input");
            };
            let applied = Applied {
                id,
                operation: None,
                result: Ok(Answer::Done),
                revision: Revision(7),
            };
            requests.answer(applied);
        };
        let (applied, ()) = tokio::join!(
            requests.submit(None, InternalRaftRequest::default()),
            answer
        );
        assert_eq!(applied.expect("answered").revision, Revision(7));
        assert_eq!(requests.pending(), 0);
    }

    /// [KV-46], [KV-47]
    #[tokio::test]
    async fn whoever_gives_up_leaves_no_place_behind() {
        let (requests, _raft) = requests(1, Duration::from_millis(1));
        let first = requests.submit(None, InternalRaftRequest::default()).await;
        assert_eq!(first.err(), Some(NoAnswer::TimedOut));
        let second = requests.submit(None, InternalRaftRequest::default()).await;
        assert_eq!(second.err(), Some(NoAnswer::TooManyRequests));
        assert_eq!(requests.pending(), 0);
        assert!(requests.lock().is_empty());
    }

    /// [ERR-5]
    #[tokio::test]
    async fn whoever_waits_when_the_member_stops_is_told() {
        let (requests, _raft) = requests(1, Duration::from_secs(60));
        let (answer, ()) = tokio::join!(
            requests.submit(None, InternalRaftRequest::default()),
            async { requests.stop() }
        );
        assert_eq!(answer.err(), Some(NoAnswer::Stopped));
    }

    #[tokio::test]
    async fn a_request_above_the_limit_is_not_proposed() {
        let (requests, raft) = requests(1, Duration::from_secs(60));
        let put = proto::etcdserverpb::PutRequest {
            key: Bytes::from(vec![1; 200]),
            ..Default::default()
        };
        let large = InternalRaftRequest {
            put: Some(put),
            ..Default::default()
        };
        assert_eq!(
            requests.submit(None, large).await.err(),
            Some(NoAnswer::TooLarge)
        );
        assert!(raft.try_recv().is_err());
    }

    #[test]
    fn request_ids_hold_member_start_and_count() {
        assert_eq!(first_request_id(0x1_ABCD, 0x1_2345), 0xABCD_0000_0123_4501);
    }
}
