//! The clocks of the leases: when each runs out, unless it is renewed.
//!
//! Only the leader's clocks count. They are not in the log, so a new leader gives every lease the
//! time that is left by its last checkpoint, or all of it, and an election on top. A lease that has
//! run out still lives until its revocation went through the log like any other request. All clocks
//! stand in one ordered set that is looked at twice a second: no lease has a timer of its own.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use mvcc::LeaseId;
use proto::etcdserverpb::{
    InternalRaftRequest, LeaseCheckpoint, LeaseCheckpointRequest, LeaseRevokeRequest,
};
use state_machine::{LeaseChange, Leases};
use tokio::sync::oneshot;

use crate::api::Member;
use crate::clock;
use crate::metrics::Metrics;

/// How often the leader looks for leases that have run out; etcd's value, as all of these.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);
/// Leases revoked after one look.
const REVOKED_AT_ONCE_MAX: usize = 500;
/// Revocations that wait for the log together.
const REVOCATIONS_IN_FLIGHT: usize = 16;
/// From this many leases on a new leader keeps them from running out all at once.
const SPREAD_FROM: usize = 1000;
/// Leases that a new leader lets run out within a second then.
const SPREAD_PER_SECOND: u32 = 750;
/// Time between two checkpoints of a lease.
const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(5 * 60);
/// Leases in one checkpoint.
const CHECKPOINT_LEASES_MAX: usize = 1000;

/// How long leases live, by the clock of this member.
pub struct Lessor {
    pace: LessorPace,
    /// [`Clocks::leads_in`] for a look without the lock, 0 for none.
    leads_in: AtomicU64,
    clocks: Mutex<Clocks>,
    metrics: Arc<Metrics>,
}

/// Times that a lessor goes by.
#[derive(Debug, Clone, Copy)]
pub struct LessorPace {
    /// What a new leader adds to every lease: nobody could renew meanwhile.
    pub election_timeout: Duration,
    /// When to try again to revoke a lease.
    pub retry: Duration,
    /// Whether checkpoints are written at all.
    pub checkpoints: bool,
}

/// What came of a renewal.
#[derive(Debug)]
pub enum Renewal {
    /// The lease has its whole time again, in seconds.
    Renewed(i64),
    /// A checkpoint says that it has less, which must be taken back first.
    Checkpointed,
    /// It has run out; a message comes when it is gone.
    Expired(oneshot::Receiver<()>),
    /// There is none of this id.
    Unknown,
    /// This member does not lead.
    NotPrimary,
}

#[derive(Default)]
struct Clocks {
    /// The term in which this member leads, so that its clocks count.
    leads_in: Option<u64>,
    leases: HashMap<LeaseId, Clock>,
    /// When to look at which lease, soonest first. Empty while this member does not lead.
    looks: BTreeSet<(Instant, LeaseId)>,
    /// Who waits for the end of an expired lease.
    waiting: HashMap<LeaseId, Vec<oneshot::Sender<()>>>,
    checkpointed_at: Option<Instant>,
}

struct Clock {
    ttl: i64,
    /// As of the last checkpoint.
    remaining: Option<i64>,
    /// Set while this member leads.
    expiry: Option<Instant>,
    /// Its place in [`Clocks::looks`]: when it runs out, or after that, when to revoke it again.
    look: Option<Instant>,
}

impl Lessor {
    /// Begins with the leases that there are, of which none runs out before this member leads.
    pub fn new(leases: &Leases, pace: LessorPace, metrics: Arc<Metrics>) -> Lessor {
        let clocks = Clocks {
            leases: of_leases(leases),
            ..Clocks::default()
        };
        Lessor {
            pace,
            leads_in: AtomicU64::new(0),
            clocks: Mutex::new(clocks),
            metrics,
        }
    }

    /// The leases are these now: a leader has sent its state, so this member does not lead.
    pub(crate) fn start_over(&self, leases: &Leases) {
        let mut clocks = self.lock();
        clocks.stop_leading();
        self.leads_in.store(0, Ordering::Release);
        clocks.leases = of_leases(leases);
    }

    /// Takes in what the log has done to leases.
    pub(crate) fn follow(&self, changes: Vec<LeaseChange>) {
        if changes.is_empty() {
            return;
        }
        let now = clock::monotonic();
        let mut clocks = self.lock();
        for change in changes {
            match change {
                LeaseChange::Granted { id, ttl } => {
                    self.metrics.lease.granted.inc();
                    self.metrics.lease.ttl.observe(seconds(ttl).as_secs_f64());
                    clocks.grant(id, ttl, now);
                }
                LeaseChange::Checkpointed { id, remaining } => {
                    if let Some(clock) = clocks.leases.get_mut(&id) {
                        clock.remaining = (remaining > 0).then_some(remaining);
                    }
                }
                LeaseChange::Revoked(id) => {
                    self.metrics.lease.revoked.inc();
                    clocks.end(id);
                }
            }
        }
    }

    /// Starts the clocks when this member begins to lead in `term`.
    pub(crate) fn lead(&self, term: u64) {
        if self.leads_in.load(Ordering::Acquire) == term {
            return;
        }
        let mut clocks = self.lock();
        if clocks.leads_in != Some(term) {
            clocks.lead(term, clock::monotonic() + self.pace.election_timeout);
            self.leads_in.store(term, Ordering::Release);
        }
    }

    /// Whether its clocks count.
    pub(crate) fn leads(&self) -> bool {
        self.leads_in.load(Ordering::Acquire) != 0
    }

    /// Stops the clocks: another member's count, or nobody's.
    pub(crate) fn stop_leading(&self) {
        if self.leads() {
            let mut clocks = self.lock();
            clocks.stop_leading();
            self.leads_in.store(0, Ordering::Release);
        }
    }

    /// Gives a lease its whole time again.
    pub(crate) fn renew(&self, id: LeaseId) -> Renewal {
        let renewal = self.lock().renew(id, clock::monotonic());
        if matches!(renewal, Renewal::Renewed(_)) {
            self.metrics.lease.renewed.inc();
        }
        renewal
    }

    /// Whole seconds that a lease has left, below 0 if it has run out before, and those that it was
    /// granted. `None` when there is none of this id, or when this member does not lead.
    pub(crate) fn time_to_live(&self, id: LeaseId) -> Option<(i64, i64)> {
        let clocks = self.lock();
        let clock = clocks.leases.get(&id)?;
        let left = signed_seconds_until(clock.expiry?, clock::monotonic());
        Some((left, clock.ttl))
    }

    /// All leases, those that run out first in front; in no order while this member does not lead.
    pub(crate) fn by_remaining_time(&self) -> Vec<LeaseId> {
        let clocks = self.lock();
        let mut leases: Vec<_> = clocks
            .leases
            .iter()
            .map(|(id, clock)| (clock.expiry, *id))
            .collect();
        leases.sort_unstable();
        leases.into_iter().map(|(_, id)| id).collect()
    }

    fn expired(&self) -> Vec<LeaseId> {
        self.lock().expired(clock::monotonic(), self.pace.retry)
    }

    fn checkpoints(&self) -> Vec<(LeaseId, i64)> {
        match self.pace.checkpoints {
            true => self.lock().checkpoints(clock::monotonic()),
            false => Vec::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Clocks> {
        // A panic elsewhere ends the member; until then the clocks are whole between any two calls.
        self.clocks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn of_leases(leases: &Leases) -> HashMap<LeaseId, Clock> {
    let clock = |lease: &state_machine::Lease| Clock {
        ttl: lease.ttl,
        remaining: lease.remaining,
        expiry: None,
        look: None,
    };
    leases
        .iter()
        .map(|(id, lease)| (id, clock(lease)))
        .collect()
}

impl Clocks {
    fn grant(&mut self, id: LeaseId, ttl: i64, now: Instant) {
        let clock = Clock {
            ttl,
            remaining: None,
            expiry: None,
            look: None,
        };
        self.leases.insert(id, clock);
        if self.leads_in.is_some() {
            self.set_expiry(id, now + seconds(ttl));
        }
    }

    fn end(&mut self, id: LeaseId) {
        let Some(clock) = self.leases.remove(&id) else {
            return;
        };
        if let Some(look) = clock.look {
            self.looks.remove(&(look, id));
        }
        for waiting in self.waiting.remove(&id).unwrap_or_default() {
            // Whoever waited may have gone meanwhile.
            let _ = waiting.send(());
        }
    }

    fn lead(&mut self, term: u64, start: Instant) {
        self.stop_leading();
        self.leads_in = Some(term);
        let mut expiries: Vec<(Instant, LeaseId)> = self
            .leases
            .iter()
            .map(|(id, clock)| (start + seconds(clock.remaining.unwrap_or(clock.ttl)), *id))
            .collect();
        if expiries.len() >= SPREAD_FROM {
            spread(&mut expiries);
        }
        for (expiry, id) in expiries {
            self.set_expiry(id, expiry);
        }
    }

    fn stop_leading(&mut self) {
        if self.leads_in.take().is_none() {
            return;
        }
        self.looks.clear();
        for clock in self.leases.values_mut() {
            clock.expiry = None;
            clock.look = None;
        }
        // Those who wait ask again, and are told that this member does not lead.
        self.waiting.clear();
    }

    fn renew(&mut self, id: LeaseId, now: Instant) -> Renewal {
        if self.leads_in.is_none() {
            return Renewal::NotPrimary;
        }
        let Some(clock) = self.leases.get(&id) else {
            return Renewal::Unknown;
        };
        let ttl = clock.ttl;
        if clock.expiry.is_some_and(|expiry| expiry <= now) {
            let (sender, gone) = oneshot::channel();
            self.waiting.entry(id).or_default().push(sender);
            return Renewal::Expired(gone);
        }
        if clock.remaining.is_some() {
            return Renewal::Checkpointed;
        }
        self.set_expiry(id, now + seconds(ttl));
        Renewal::Renewed(ttl)
    }

    /// The leases that have run out, first those that did so first, except those which were handed
    /// out within the last `retry`.
    fn expired(&mut self, now: Instant, retry: Duration) -> Vec<LeaseId> {
        let mut expired = Vec::new();
        while expired.len() < REVOKED_AT_ONCE_MAX {
            match self.looks.first() {
                Some(&(look, id)) if look <= now => {
                    self.set_look(id, now + retry);
                    expired.push(id);
                }
                _ => break,
            }
        }
        expired
    }

    /// What each lease has left that would outlive a whole interval, once an interval.
    fn checkpoints(&mut self, now: Instant) -> Vec<(LeaseId, i64)> {
        if self.leads_in.is_none() {
            self.checkpointed_at = None;
            return Vec::new();
        }
        let since = *self.checkpointed_at.get_or_insert(now);
        if now - since < CHECKPOINT_INTERVAL {
            return Vec::new();
        }
        self.checkpointed_at = Some(now);
        let long = self
            .looks
            .range((now + CHECKPOINT_INTERVAL, LeaseId(i64::MAX))..);
        long.map(|(expiry, id)| {
            let left = (*expiry - now).as_secs_f64().ceil();
            #[expect(
                clippy::cast_possible_truncation,
                reason = "LEASE_TTL_MAX is far smaller"
            )]
            (*id, left as i64)
        })
        .collect()
    }

    fn set_expiry(&mut self, id: LeaseId, expiry: Instant) {
        if let Some(clock) = self.leases.get_mut(&id) {
            clock.expiry = Some(expiry);
        }
        self.set_look(id, expiry);
    }

    fn set_look(&mut self, id: LeaseId, look: Instant) {
        let Some(clock) = self.leases.get_mut(&id) else {
            return;
        };
        if let Some(old) = clock.look.replace(look) {
            self.looks.remove(&(old, id));
        }
        self.looks.insert((look, id));
    }
}

/// Seconds that a lease lives at least: longer than an election may take, as etcd computes it.
pub(crate) fn ttl_min(heartbeat_interval: Duration, election_timeout: Duration) -> i64 {
    let heartbeat = heartbeat_interval.as_millis().max(1);
    let election_ticks = election_timeout.as_millis() / heartbeat;
    let milliseconds = 3 * election_ticks / 2 * heartbeat;
    i64::try_from(milliseconds.div_ceil(1000)).unwrap_or(i64::MAX)
}

/// Moves expiries back so far that not too many fall within one second.
fn spread(expiries: &mut [(Instant, LeaseId)]) {
    let step = Duration::from_secs(1) / SPREAD_PER_SECOND;
    expiries.sort_unstable();
    let mut earliest = None;
    for (expiry, _) in expiries {
        *expiry = (*expiry).max(earliest.unwrap_or(*expiry));
        earliest = Some(*expiry + step);
    }
}

fn seconds(ttl: i64) -> Duration {
    Duration::from_secs(u64::try_from(ttl).unwrap_or(0))
}

fn signed_seconds_until(moment: Instant, now: Instant) -> i64 {
    let whole = |duration: Duration| i64::try_from(duration.as_secs()).unwrap_or(i64::MAX);
    match moment.checked_duration_since(now) {
        Some(left) => whole(left),
        None => -whole(now - moment),
    }
}

/// Has leases revoked that have run out, as long as this member leads, until it is dropped.
pub async fn run(member: Arc<Member>) {
    loop {
        tokio::time::sleep(LOOK_INTERVAL).await;
        if !member.keeps_leases() {
            continue;
        }
        let expired = member.lessor.expired();
        if !expired.is_empty() {
            tokio::spawn(revoke(member.clone(), expired));
        }
        let checkpoints = member.lessor.checkpoints();
        for checkpoints in checkpoints.chunks(CHECKPOINT_LEASES_MAX) {
            checkpoint(&member, checkpoints).await;
        }
    }
}

async fn revoke(member: Arc<Member>, leases: Vec<LeaseId>) {
    for leases in leases.chunks(REVOCATIONS_IN_FLIGHT) {
        // It may revoke whatever hangs on the lease.
        let own = member.state().auth.root_identity();
        let begun: Vec<_> = leases
            .iter()
            .map(|id| (id, member.requests.begin(own.as_ref(), revocation(*id))))
            .collect();
        for (id, begun) in begun {
            let result = match begun {
                Ok(pending) => pending.answer().await,
                Err(reason) => Err(reason),
            };
            match result {
                Ok(_) => {
                    member.metrics.lease.expired.inc();
                    tracing::debug!(lease = format!("{:016x}", id.0), "a lease has run out");
                }
                Err(reason) => tracing::warn!(
                    lease = format!("{:016x}", id.0),
                    ?reason,
                    "cannot revoke a lease that has run out; trying again"
                ),
            }
        }
    }
}

fn revocation(id: LeaseId) -> InternalRaftRequest {
    InternalRaftRequest {
        lease_revoke: Some(LeaseRevokeRequest { id: id.0 }),
        ..Default::default()
    }
}

/// Writes down what leases have left; 0 takes a checkpoint back.
pub(crate) async fn checkpoint(member: &Member, leases: &[(LeaseId, i64)]) {
    let checkpoints = leases.iter().map(|&(id, remaining)| LeaseCheckpoint {
        id: id.0,
        remaining_ttl: remaining,
    });
    let request = InternalRaftRequest {
        lease_checkpoint: Some(LeaseCheckpointRequest {
            checkpoints: checkpoints.collect(),
        }),
        ..Default::default()
    };
    if let Err(reason) = member.requests.submit(None, request).await {
        tracing::warn!(?reason, "cannot write a checkpoint of leases");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RETRY: Duration = Duration::from_secs(7);

    fn leading(leases: &[(i64, i64)], now: Instant) -> Clocks {
        let mut clocks = Clocks::default();
        for &(id, ttl) in leases {
            clocks.grant(LeaseId(id), ttl, now);
        }
        clocks.lead(1, now);
        clocks
    }

    fn ids(leases: Vec<LeaseId>) -> Vec<i64> {
        leases.into_iter().map(|id| id.0).collect()
    }

    /// [LE-1]
    #[test]
    fn the_shortest_time_to_live_outlives_an_election() {
        let of = |heartbeat, election| {
            ttl_min(
                Duration::from_millis(heartbeat),
                Duration::from_millis(election),
            )
        };
        assert_eq!(of(100, 1000), 2);
        assert_eq!(of(20, 200), 1);
        assert_eq!(of(300, 1000), 2);
        assert_eq!(of(500, 5000), 8);
    }

    /// [LE-4], [E4]
    #[test]
    fn leases_are_handed_out_in_the_order_in_which_they_ran_out_and_again_after_a_while() {
        let now = clock::monotonic();
        let after = |seconds| now + Duration::from_secs(seconds);
        let mut clocks = leading(&[(1, 30), (2, 10), (3, 20)], now);
        assert!(clocks.expired(after(9), RETRY).is_empty());
        assert_eq!(ids(clocks.expired(after(20), RETRY)), [2, 3]);
        assert!(clocks.expired(after(26), RETRY).is_empty());
        clocks.end(LeaseId(2));
        assert_eq!(ids(clocks.expired(after(40), RETRY)), [3, 1]);
        clocks.end(LeaseId(1));
        clocks.end(LeaseId(3));
        assert!(clocks.leases.is_empty() && clocks.looks.is_empty());
    }

    /// [LE-4]
    #[test]
    fn no_more_than_five_hundred_are_handed_out_at_once() {
        let now = clock::monotonic();
        let leases: Vec<(i64, i64)> = (1..=900).map(|id| (id, 2)).collect();
        let mut clocks = leading(&leases, now);
        let later = now + Duration::from_secs(3);
        assert_eq!(clocks.expired(later, RETRY).len(), REVOKED_AT_ONCE_MAX);
        assert_eq!(clocks.expired(later, RETRY).len(), 400);
        assert_eq!(clocks.expired(later, RETRY).len(), 0);
    }

    /// [LE-5]
    #[test]
    fn a_renewal_gives_the_whole_time_again_but_not_to_what_has_run_out() {
        let now = clock::monotonic();
        let after = |seconds| now + Duration::from_secs(seconds);
        let mut clocks = leading(&[(1, 10)], now);
        assert!(matches!(
            clocks.renew(LeaseId(1), after(9)),
            Renewal::Renewed(10)
        ));
        assert!(clocks.expired(after(18), RETRY).is_empty());
        let Renewal::Expired(mut gone) = clocks.renew(LeaseId(1), after(19)) else {
            panic!("it has run out");
        };
        assert!(gone.try_recv().is_err());
        clocks.end(LeaseId(1));
        assert!(gone.try_recv().is_ok());
        assert!(matches!(
            clocks.renew(LeaseId(1), after(19)),
            Renewal::Unknown
        ));
    }

    /// [LE-11]
    #[test]
    fn a_new_leader_starts_from_the_last_checkpoint_and_an_old_one_stops() {
        let now = clock::monotonic();
        let after = |seconds| now + Duration::from_secs(seconds);
        let mut clocks = leading(&[(1, 100), (2, 100)], now);
        clocks.leases.get_mut(&LeaseId(2)).unwrap().remaining = Some(40);
        clocks.stop_leading();
        assert!(clocks.expired(after(1000), RETRY).is_empty());
        assert!(matches!(clocks.renew(LeaseId(1), now), Renewal::NotPrimary));
        clocks.lead(2, after(500));
        assert_eq!(ids(clocks.expired(after(540), RETRY)), [2]);
        assert_eq!(
            ids(clocks.expired(after(600), Duration::from_secs(1000))),
            [2, 1]
        );
    }

    /// [LE-11]
    #[test]
    fn a_new_leader_spreads_many_leases_to_at_most_750_a_second() {
        let now = clock::monotonic();
        let leases: Vec<(i64, i64)> = (1..=3000).map(|id| (id, 5)).collect();
        let clocks = leading(&leases, now);
        let expiries: Vec<Instant> = clocks.looks.iter().map(|(expiry, _)| *expiry).collect();
        for (place, expiry) in expiries.iter().enumerate() {
            assert!(*expiry >= now + Duration::from_secs(5));
            let within = expiries[place..]
                .iter()
                .take_while(|other| **other - *expiry < Duration::from_secs(1));
            assert!(within.count() <= 751);
        }
        let few = leading(&[(1, 5), (2, 5)], now);
        let five = now + Duration::from_secs(5);
        assert!(few.looks.iter().all(|(expiry, _)| *expiry == five));
    }

    /// [LE-12]
    #[test]
    fn long_leases_are_checkpointed_once_an_interval_and_a_renewal_takes_it_back_first() {
        let now = clock::monotonic();
        let mut clocks = leading(&[(1, 60), (2, 3600)], now);
        assert_eq!(clocks.checkpoints(now), []);
        let later = now + CHECKPOINT_INTERVAL;
        assert_eq!(clocks.checkpoints(later), [(LeaseId(2), 3300)]);
        assert_eq!(clocks.checkpoints(later), []);
        clocks.leases.get_mut(&LeaseId(2)).unwrap().remaining = Some(3300);
        assert!(matches!(
            clocks.renew(LeaseId(2), later),
            Renewal::Checkpointed
        ));
    }

    /// [LE-6]
    #[test]
    fn seconds_left_are_cut_toward_zero() {
        let now = clock::monotonic();
        let half = Duration::from_millis(1500);
        assert_eq!(signed_seconds_until(now + half, now), 1);
        assert_eq!(signed_seconds_until(now, now + half), -1);
    }
}
