//! Owns the database file: makes batches of changes durable while new ones are applied.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender};
use std::time::Duration;

use storage::{Batch, Committed, Fault, Store, Sweep};

use crate::apply_thread;
use crate::clock;
use crate::metrics::Metrics;

/// What `apply_thread` hands over, one at a time.
pub enum Job {
    /// Make these changes durable.
    Commit(Batch),
    /// Carry a sweep on by a commit that writes about so many pages.
    Sweep(Sweep, u64),
    /// Go on with another database, which a leader has sent: this file, whose name it loses.
    Replace(PathBuf),
}

/// What became of a job.
pub struct Done {
    /// The newest durable state.
    pub committed: Committed,
    /// The sweep that was carried on.
    pub sweep: Option<Sweep>,
    /// How long the disk was busy with it.
    pub took: Duration,
}

/// The thread's state.
pub struct CommitThread {
    /// The database file.
    pub store: Store,
    /// What to do.
    pub jobs: Receiver<Job>,
    /// Takes the outcome of each job.
    pub outcomes: Sender<Result<Done, Fault>>,
    /// Is told that an outcome is there.
    pub apply: Sender<apply_thread::Input>,
    /// Counts what happens.
    pub metrics: Arc<Metrics>,
}

impl CommitThread {
    /// Works until nobody can hand over a job any more.
    pub fn run(mut self) {
        while let Ok(job) = self.jobs.recv() {
            let started = clock::monotonic();
            let (outcome, sweep) = match job {
                Job::Commit(batch) => (self.store.commit(batch), None),
                Job::Sweep(mut sweep, pages) => (self.store.sweep(&mut sweep, pages), Some(sweep)),
                Job::Replace(path) => (self.store.replace(&path), None),
            };
            let took = clock::monotonic() - started;
            let metric = &self.metrics.disk.backend_commit_duration;
            metric.observe(took.as_secs_f64());
            let outcome = outcome.map(|committed| Done {
                committed,
                sweep,
                took,
            });
            let failed = outcome.is_err();
            // When nobody listens any more the member stops, and the log has what is lost here.
            let _ = self.outcomes.send(outcome);
            let _ = self.apply.send(apply_thread::Input::Wake);
            if failed {
                return;
            }
        }
    }
}
