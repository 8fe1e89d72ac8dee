//! Owns the database file: makes batches of changes durable while new ones are applied.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender};

use storage::{Batch, Committed, Fault, Store};

use crate::apply_thread;
use crate::clock;
use crate::metrics::Metrics;

/// What `apply_thread` hands over, one at a time.
pub enum Job {
    /// Make these changes durable.
    Commit(Batch),
    /// Write the file anew, as small as it can be.
    Rewrite,
}

/// The thread's state.
pub struct CommitThread {
    /// The database file.
    pub store: Store,
    /// What to do.
    pub jobs: Receiver<Job>,
    /// Takes the outcome of each job.
    pub outcomes: Sender<Result<Committed, Fault>>,
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
            let (outcome, histogram) = match job {
                Job::Commit(batch) => (
                    self.store.commit(batch),
                    &self.metrics.disk.backend_commit_duration,
                ),
                Job::Rewrite => (
                    self.store.rewrite(),
                    &self.metrics.disk.backend_defrag_duration,
                ),
            };
            histogram.observe((clock::monotonic() - started).as_secs_f64());
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
