//! When free space of the database file is given back, and how much at a time.
//!
//! A sweep (see `storage::Sweep`) begins by itself once enough of the file is free, and goes on one small commit
//! at a time whenever `commit_thread` has nothing else to do. After each it rests, so that all of them take
//! no more than their share of the disk's time. A call of Defragment runs sweeps until nothing is to be gained.

use std::sync::Arc;
use std::time::{Duration, Instant};

use storage::{Committed, Sweep};
use tokio::sync::oneshot;

use crate::metrics::Metrics;

/// Free bytes for which no sweep begins by itself.
const FREE_BYTES_MIN: u64 = 4 << 20;
/// No sweep begins by itself before this part of the file is free.
const FREE_PART: u64 = 8;
/// A sweep that gains less than this part of the file was the last one.
const GAIN_PART: u64 = 64;
/// Sweeps for one call of Defragment at most.
const ASKED_SWEEPS_MAX: u32 = 6;
/// When a sweep has gained next to nothing (a client may read an old state for long), the next one waits so long.
const RETRY: Duration = Duration::from_secs(60);
/// What a call of Defragment uses at least: somebody waits for it.
const ASKED: Pace = Pace {
    enabled: true,
    pages: 256,
    disk_percent: 50,
};

/// How much a sweep may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// Whether sweeps begin by themselves.
    pub enabled: bool,
    /// Pages that one commit writes, about.
    pub pages: u64,
    /// The part of the time, in percent, that commits of a sweep take at most; not 0.
    pub disk_percent: u32,
}

/// What gives space back; belongs to `apply_thread`.
pub struct SpaceReturn {
    pace: Pace,
    metrics: Arc<Metrics>,
    /// The sweep under way while `commit_thread` does not have it, and when it goes on.
    sweep: Option<(Sweep, Instant)>,
    /// Whether `commit_thread` has it.
    out: bool,
    /// The file's size when the sweep began.
    size_before: u64,
    /// The newest size.
    size: u64,
    /// No sweep begins by itself before this time, unless clearly more is free than this.
    rest: Option<(Instant, u64)>,
    /// Who asked and waits for the next run.
    asking: Vec<oneshot::Sender<()>>,
    /// Whom the sweep under way is for, since when, and how many sweeps they have had.
    serving: Option<Serving>,
}

struct Serving {
    waiting: Vec<oneshot::Sender<()>>,
    since: Instant,
    sweeps: u32,
}

impl SpaceReturn {
    /// Nothing under way.
    pub fn new(pace: Pace, metrics: Arc<Metrics>) -> SpaceReturn {
        SpaceReturn {
            pace,
            metrics,
            sweep: None,
            out: false,
            size_before: 0,
            size: 0,
            rest: None,
            asking: Vec::new(),
            serving: None,
        }
    }

    /// Makes the file as small as it can be; `waiting` is told when it is.
    pub fn ask(&mut self, waiting: oneshot::Sender<()>) {
        self.asking.push(waiting);
        self.metrics.disk.defrag_inflight.set(1);
        // A sweep that began by itself would only be in the way.
        self.sweep = self.sweep.take().filter(|_| self.serving.is_some());
    }

    /// When [`SpaceReturn::take`] has something to do, if nothing else happens.
    pub fn next_due(&self, now: Instant) -> Option<Instant> {
        match &self.sweep {
            _ if self.out => None,
            Some((_, due)) => Some(*due),
            None if !self.asking.is_empty() => Some(now),
            None => self.rest.map(|(until, _)| until),
        }
    }

    /// The sweep that is to be carried on now, with the pages of its next commit.
    pub fn take(&mut self, now: Instant, committed: &Committed) -> Option<(Sweep, u64)> {
        self.note_size(committed);
        let due = match self.sweep.take() {
            Some((sweep, due)) if due <= now => Some(sweep),
            Some(later) => {
                self.sweep = Some(later);
                None
            }
            None => self.begin(now, committed),
        };
        self.out = due.is_some();
        let pages = match self.serving {
            Some(_) => self.pace.pages.max(ASKED.pages),
            None => self.pace.pages,
        };
        due.map(|sweep| (sweep, pages))
    }

    fn begin(&mut self, now: Instant, committed: &Committed) -> Option<Sweep> {
        if self.serving.is_none() && !self.asking.is_empty() {
            self.serving = Some(Serving {
                waiting: std::mem::take(&mut self.asking),
                since: now,
                sweeps: 0,
            });
            self.size_before = self.size;
            // Packing leaves anew is worth reading the whole file only when somebody asks for it.
            return Some(Sweep::new(committed, true));
        }
        let free = committed.size() - committed.size_in_use();
        let enough = FREE_BYTES_MIN.max(self.size / FREE_PART);
        self.rest = self
            .rest
            .filter(|(until, before)| now < *until && free < before + enough);
        if !self.pace.enabled || self.rest.is_some() || free < enough {
            return None;
        }
        self.size_before = self.size;
        tracing::debug!(size = self.size, free, "gives space back");
        Some(Sweep::new(committed, false))
    }

    /// Takes back a sweep whose commit took some time.
    pub fn give(&mut self, now: Instant, sweep: Sweep, took: Duration, committed: &Committed) {
        self.out = false;
        self.note_size(committed);
        if self.serving.is_none() && !self.asking.is_empty() {
            return;
        }
        if !sweep.is_done() {
            let percent = match self.serving {
                Some(_) => self.pace.disk_percent.max(ASKED.disk_percent),
                None => self.pace.disk_percent,
            };
            let rest = took * 100 / percent - took;
            self.sweep = Some((sweep, now + rest));
            return;
        }
        let gained = self.size_before.saturating_sub(self.size);
        let worthwhile = gained > self.size / GAIN_PART;
        if gained > 0 {
            tracing::info!(
                size_before = self.size_before,
                size = self.size,
                moved_pages = sweep.moved_pages(),
                "gave space of the database back"
            );
        }
        self.size_before = self.size;
        if let Some(serving) = &mut self.serving {
            serving.sweeps += 1;
            // The first one packs, which needs room of its own; only those after it cut.
            if (worthwhile || serving.sweeps < 2) && serving.sweeps < ASKED_SWEEPS_MAX {
                self.sweep = Some((Sweep::new(committed, false), now));
                return;
            }
            let serving = self.serving.take().expect("looked at just now");
            for waiting in serving.waiting {
                // Whoever asked may have gone.
                let _ = waiting.send(());
            }
            let took = (now - serving.since).as_secs_f64();
            self.metrics.disk.backend_defrag_duration.observe(took);
            let inflight = i64::from(!self.asking.is_empty());
            self.metrics.disk.defrag_inflight.set(inflight);
        }
        if !worthwhile {
            let free = committed.size() - committed.size_in_use();
            self.rest = Some((now + RETRY, free));
        }
    }

    /// The database is another one now: what was under way is void, and whoever waits goes on to wait.
    pub fn start_over(&mut self) {
        self.sweep = None;
        self.rest = None;
        if let Some(serving) = self.serving.take() {
            self.asking.extend(serving.waiting);
        }
    }

    /// Counts moved pages.
    pub fn moved(&self, pages: u64) {
        self.metrics.space.moved_pages.inc_by(pages);
    }

    fn note_size(&mut self, committed: &Committed) {
        let size = committed.size();
        let cut = self.size.saturating_sub(size);
        self.metrics.space.cut_bytes.inc_by(cut);
        self.size = size;
        let free = size - committed.size_in_use();
        let to_go = i64::try_from(free).expect("no file is that large");
        self.metrics.space.bytes_to_go.set(to_go);
    }
}
