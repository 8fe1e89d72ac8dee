//! One watch stream: its watchers, and what each of them was told.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use mvcc::Revision;
use proto::etcdserverpb::watch_create_request::FilterType;
use proto::etcdserverpb::watch_request::RequestUnion;
use proto::etcdserverpb::{ResponseHeader, WatchCreateRequest, WatchRequest, WatchResponse};
use state_machine::key_range;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Status};

use super::catch_up::{self, Behind, Step};
use super::frames::Frames;
use super::{super::MESSAGE_OVERHEAD, Piece};
use crate::api::member::Member;
use crate::api::status::of_refusal;
use crate::random;
use crate::requests::NoAnswer;
use crate::watch::{Delivery, Encoded, Interest, Mark, Queue, StreamId, is_empty_range};

/// The id of responses that speak of the stream as a whole, or of a watcher that never was.
const NO_WATCHER: i64 = -1;

/// The client is gone, or was told how its stream ended.
struct Ended;

/// The stream's task.
pub(super) struct Session {
    member: Arc<Member>,
    /// Metadata and certificate of the call.
    head: Request<()>,
    stream: StreamId,
    queue: Arc<Queue>,
    watchers: BTreeMap<i64, Watcher>,
    next_id: i64,
    /// How many watchers are fed from history.
    behind: usize,
    /// How many want to be told how far they are.
    notified: usize,
    /// Deliveries up to here may be for watchers that have left.
    left_at: Revision,
    frames: Frames,
    client: mpsc::Sender<Piece>,
}

struct Watcher {
    interest: Arc<Interest>,
    /// Its first revision.
    start: Revision,
    phase: Phase,
    progress_notify: bool,
    /// Whether it was told nothing since the last tick.
    silent: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Deliveries come from this revision on.
    Joined(Revision),
    /// It is fed from history, from this revision on.
    Behind(Revision),
    /// Its next revision was compacted away; the client has not taken note of it yet.
    Compacted,
}

impl Session {
    pub(super) fn new(
        member: Arc<Member>,
        head: Request<()>,
        client: mpsc::Sender<Piece>,
    ) -> Session {
        let (stream, queue) = member.watches.open();
        Session {
            member,
            head,
            stream,
            queue,
            watchers: BTreeMap::new(),
            next_id: 0,
            behind: 0,
            notified: 0,
            left_at: Revision(0),
            frames: Frames::default(),
            client,
        }
    }

    /// Serves the stream until the client goes, or something ends it.
    pub(super) async fn run(mut self, requests: impl Stream<Item = Result<WatchRequest, Status>>) {
        let mut requests = pin!(requests);
        let mut ticks = ticks(self.member.limits().progress_interval);
        let mut half_closed = false;
        let mut step: Option<JoinHandle<Result<Step, mvcc::Fault>>> = None;
        loop {
            if step.is_none() && self.behind > 0 {
                step = Some(self.begin_step());
            }
            let stepped = async {
                match &mut step {
                    Some(step) => step.await,
                    None => std::future::pending().await,
                }
            };
            let done = tokio::select! {
                () = self.client.closed() => return,
                request = requests.next(), if !half_closed => match request {
                    Some(Ok(request)) => self.handle(request),
                    Some(Err(status)) => Err(status),
                    None => {
                        half_closed = true;
                        Ok(())
                    }
                },
                delivery = self.queue.next() => self.deliver(delivery),
                found = stepped => {
                    step = None;
                    match found {
                        Ok(Ok(found)) => {
                            self.take_step(found);
                            Ok(())
                        }
                        Ok(Err(fault)) => {
                            tracing::error!(%fault, "cannot read history for a watcher");
                            Err(Status::data_loss(fault.to_string()))
                        }
                        Err(error) => Err(Status::internal(error.to_string())),
                    }
                }
                _ = ticks.tick(), if self.notified > 0 => {
                    let revision = self.member.state().view.revision();
                    self.member.watches.mark(self.stream, revision, Mark::Tick);
                    Ok(())
                }
            };
            let done = done.and_then(|()| self.deliver_waiting());
            if self.flush().await.is_err() {
                return;
            }
            if let Err(status) = done {
                // A client that is gone has no use for it.
                let _ = self.client.send(Piece::End(status)).await;
                return;
            }
        }
    }

    /// Delivers what waits already, until there is enough to be sent.
    fn deliver_waiting(&mut self) -> Result<(), Status> {
        while !self.frames.is_full()
            && let Some(delivery) = self.queue.try_next()
        {
            self.deliver(delivery)?;
        }
        Ok(())
    }

    async fn flush(&mut self) -> Result<(), Ended> {
        for piece in self.frames.take() {
            let sent = self.client.send(Piece::Data(piece)).await;
            sent.map_err(|_| Ended)?;
        }
        Ok(())
    }

    fn handle(&mut self, request: WatchRequest) -> Result<(), Status> {
        match request.request_union {
            Some(RequestUnion::CreateRequest(request)) => self.create(&request),
            Some(RequestUnion::CancelRequest(request)) => self.cancel(request.watch_id),
            Some(RequestUnion::ProgressRequest(_)) => {
                let revision = self.member.state().view.revision();
                self.member.watches.mark(self.stream, revision, Mark::Asked);
            }
            None => {}
        }
        Ok(())
    }

    fn create(&mut self, request: &WatchCreateRequest) {
        let state = self.member.state();
        let revision = state.view.revision();
        let mut response = WatchResponse {
            header: Some(self.header(revision)),
            watch_id: NO_WATCHER,
            created: true,
            ..Default::default()
        };
        let start = Revision(request.start_revision);
        let (id, interest) = match self.check(request, &state) {
            Ok(checked) => checked,
            Err(reason) => {
                response.canceled = true;
                response.cancel_reason = reason;
                self.frames.control(&response);
                return;
            }
        };
        response.watch_id = id;
        self.frames.control(&response);
        let next = match start {
            Revision(0) => revision.next(),
            start => start,
        };
        let watcher = Watcher {
            interest: Arc::new(interest),
            start,
            phase: Phase::Behind(next),
            progress_notify: request.progress_notify,
            silent: true,
        };
        self.notified += usize::from(watcher.progress_notify);
        self.behind += 1;
        self.watchers.insert(id, watcher);
        self.member.metrics().watch.watchers.inc();
        self.member.metrics().watch.slow.inc();
        if next > revision {
            self.join(id, next);
        }
    }

    /// The id and interest of a watcher that may be created, or the reason why it may not.
    fn check(
        &mut self,
        request: &WatchCreateRequest,
        state: &crate::views::State,
    ) -> Result<(i64, Interest), String> {
        if request.start_revision < 0 {
            let status = of_refusal(state_machine::Refusal::Compacted);
            return Err(status.message().to_owned());
        }
        let key = match request.key.is_empty() {
            true => bytes::Bytes::from_static(b"\0"),
            false => request.key.clone(),
        };
        let allowed = self
            .member
            .caller(&self.head)
            .and_then(|caller| caller.require_read(state, &key, &request.range_end));
        allowed.map_err(|status| {
            let (code, message) = (status.code(), status.message());
            format!("rpc error: code = {code:?} desc = {message}")
        })?;
        let keys = key_range(key, request.range_end.clone());
        if is_empty_range(&keys) {
            return Err("mvcc: watcher range is empty".to_owned());
        }
        let id = match request.watch_id {
            0 => {
                while self.watchers.contains_key(&self.next_id) {
                    self.next_id += 1;
                }
                self.next_id += 1;
                self.next_id - 1
            }
            id if self.watchers.contains_key(&id) => {
                return Err("mvcc: duplicate watch ID provided on the WatchStream".to_owned());
            }
            id => id,
        };
        let filtered = |kind: FilterType| request.filters.contains(&kind.into());
        let interest = Interest {
            keys,
            puts: !filtered(FilterType::Noput),
            deletes: !filtered(FilterType::Nodelete),
            previous: request.prev_kv,
            fragment: request.fragment,
        };
        Ok((id, interest))
    }

    fn cancel(&mut self, id: i64) {
        let Some(watcher) = self.watchers.remove(&id) else {
            return;
        };
        self.notified -= usize::from(watcher.progress_notify);
        self.member.metrics().watch.watchers.dec();
        match watcher.phase {
            Phase::Joined(_) => {
                let watches = &self.member.watches;
                self.left_at = watches.leave(self.stream, id, &watcher.interest);
            }
            Phase::Behind(_) => self.no_longer_behind(1),
            Phase::Compacted => {}
        }
        let revision = self.member.state().view.revision();
        self.frames.control(&WatchResponse {
            header: Some(self.header(revision)),
            watch_id: id,
            canceled: true,
            ..Default::default()
        });
    }

    fn deliver(&mut self, delivery: Delivery) -> Result<(), Status> {
        match delivery {
            Delivery::Events {
                revision,
                encoded,
                ids,
                fragment,
            } => self.events(revision, &encoded, &ids, fragment),
            Delivery::Mark(revision, Mark::Asked) => self.tell_progress(revision),
            Delivery::Mark(revision, Mark::Tick) => self.tell_silent_ones(revision),
            Delivery::Lost(from) => self.fall_behind(from),
            Delivery::Stop => return Err(NoAnswer::Stopped.into()),
        }
        Ok(())
    }

    fn events(&mut self, revision: Revision, encoded: &Encoded, ids: &[i64], fragment: bool) {
        let header = self.header(revision);
        let part_bytes_max = fragment.then(|| self.part_bytes_max());
        if revision > self.left_at && self.notified == 0 {
            let ids = ids.iter().copied();
            self.frames.events(&header, ids, encoded, part_bytes_max);
            return;
        }
        let watchers = &mut self.watchers;
        let ids = ids.iter().copied().filter(|id| match watchers.get_mut(id) {
            Some(watcher) if watcher.is_joined_at(revision) => {
                watcher.silent = false;
                true
            }
            // It has left, or is another one by the same id.
            _ => false,
        });
        self.frames.events(&header, ids, encoded, part_bytes_max);
    }

    /// Etcd's answer to a progress request: one for all, when all are that far.
    fn tell_progress(&mut self, revision: Revision) {
        let all_there = self
            .watchers
            .values()
            .all(|watcher| watcher.is_joined_at(revision) && watcher.start <= revision);
        if all_there && !self.watchers.is_empty() {
            self.progress(NO_WATCHER, revision);
        }
    }

    fn tell_silent_ones(&mut self, revision: Revision) {
        let mut silent = Vec::new();
        for (id, watcher) in &mut self.watchers {
            let is_there = watcher.is_joined_at(revision) && watcher.start <= revision;
            if watcher.progress_notify && watcher.silent && is_there {
                silent.push(*id);
            }
            watcher.silent = true;
        }
        for id in silent {
            self.progress(id, revision);
        }
    }

    fn progress(&mut self, watch_id: i64, revision: Revision) {
        self.frames.control(&WatchResponse {
            header: Some(self.header(revision)),
            watch_id,
            ..Default::default()
        });
    }

    /// Deliveries from `from` on did not fit: everybody reads on in history from there.
    fn fall_behind(&mut self, from: Revision) {
        let joined = self.watchers.values().filter(|watcher| watcher.is_joined());
        let interests = joined.map(|watcher| &*watcher.interest);
        self.member.watches.leave_all(self.stream, interests);
        self.queue.resume();
        let mut fallen = 0;
        for watcher in self.watchers.values_mut() {
            if let Phase::Joined(first) = watcher.phase {
                watcher.phase = Phase::Behind(from.max(first));
                fallen += 1;
            }
        }
        self.behind += fallen;
        self.member.metrics().watch.slow.inc_by(to_gauge(fallen));
        tracing::debug!(watchers = fallen, from = from.0, "a watch stream is slow");
    }

    fn begin_step(&self) -> JoinHandle<Result<Step, mvcc::Fault>> {
        let behind = |(id, watcher): (&i64, &Watcher)| match watcher.phase {
            Phase::Behind(next) => Some(Behind {
                id: *id,
                interest: watcher.interest.clone(),
                next,
            }),
            Phase::Joined(_) | Phase::Compacted => None,
        };
        let behind: Vec<Behind> = self.watchers.iter().filter_map(behind).collect();
        let state = self.member.state();
        tokio::task::spawn_blocking(move || catch_up::step(&state, behind))
    }

    /// Tells what a step has found, and lets those join who are no longer behind.
    fn take_step(&mut self, step: Step) {
        for told in step.compacted {
            if self.behind_still(&told).is_none() {
                continue;
            }
            let watcher = self.watchers.get_mut(&told.id).expect("just found");
            watcher.phase = Phase::Compacted;
            self.no_longer_behind(1);
            self.frames.control(&WatchResponse {
                header: Some(self.header(Revision(0))),
                watch_id: told.id,
                canceled: true,
                compact_revision: step.compact_revision.0,
                ..Default::default()
            });
        }
        let header = self.header(step.revision);
        let part_bytes_max = self.part_bytes_max();
        for (told, encoded) in step.told {
            let Some(watcher) = self.behind_still(&told) else {
                continue;
            };
            let next = step.up_to.next().max(told.next);
            watcher.phase = Phase::Behind(next);
            if !encoded.events.is_empty() {
                watcher.silent = false;
                let events = encoded.events.len() as u64;
                self.member.metrics().watch.events.inc_by(events);
                let id = std::iter::once(told.id);
                let part_bytes_max = told.interest.fragment.then_some(part_bytes_max);
                self.frames.events(&header, id, &encoded, part_bytes_max);
            }
            if next > step.revision {
                self.join(told.id, next);
            }
        }
    }

    /// The watcher that a step was begun for, unless it is gone; another one may have its id by now.
    fn behind_still(&mut self, told: &Behind) -> Option<&mut Watcher> {
        let watcher = self.watchers.get_mut(&told.id)?;
        let same = Arc::ptr_eq(&watcher.interest, &told.interest);
        (same && watcher.phase == Phase::Behind(told.next)).then_some(watcher)
    }

    /// Has deliveries come from `next` on, if none of those was made yet.
    fn join(&mut self, id: i64, next: Revision) {
        let watcher = self.watchers.get_mut(&id).expect("it is one of ours");
        let watches = &self.member.watches;
        if watches.join(self.stream, id, &watcher.interest, next) {
            watcher.phase = Phase::Joined(next);
            self.no_longer_behind(1);
        }
    }

    fn no_longer_behind(&mut self, watchers: usize) {
        self.behind -= watchers;
        self.member.metrics().watch.slow.dec_by(to_gauge(watchers));
    }

    fn header(&self, revision: Revision) -> ResponseHeader {
        self.member.header(revision).unwrap_or_default()
    }

    fn part_bytes_max(&self) -> usize {
        self.member.limits().request_bytes + MESSAGE_OVERHEAD
    }
}

impl Watcher {
    fn is_joined(&self) -> bool {
        matches!(self.phase, Phase::Joined(_))
    }

    /// Whether it has been told everything up to `revision` by deliveries.
    fn is_joined_at(&self, revision: Revision) -> bool {
        matches!(self.phase, Phase::Joined(first) if first <= revision.next())
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let metrics = &self.member.metrics().watch;
        metrics.watchers.dec_by(to_gauge(self.watchers.len()));
        metrics.slow.dec_by(to_gauge(self.behind));
        let interests = self.watchers.values().map(|watcher| &*watcher.interest);
        self.member.watches.close(self.stream, interests);
    }
}

fn to_gauge(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// Ticks a little slower than asked, each stream in its own way, so that not all tick at once.
fn ticks(interval: Duration) -> Interval {
    let tenths = random::seed() % 1000;
    let period = interval + interval / 10 * u32::try_from(tenths).unwrap_or(0) / 1000;
    let mut ticks = interval_at(Instant::now() + period, period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}
