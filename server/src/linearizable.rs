//! Waiting for a linearizable state: everything that anybody was answered before the wait began is in it.
//!
//! All reads that wait together share one question to the leader, which `raft_thread` asks; a question
//! that is under way is not joined, since it may be about an earlier moment. Whoever is alone in having a
//! vote asks nobody.

use std::time::{Duration, Instant};

use consensus::{Index, Node, ReadContext, ReadReady};
use tokio::sync::oneshot;

use crate::clock;

/// A question without an answer for so long is asked again; etcd's value.
const ASK_AGAIN: Duration = Duration::from_millis(500);

/// Takes the index that a state must have applied.
pub type Waiting = oneshot::Sender<Index>;

/// The reads that wait in `raft_thread`.
pub struct Reads {
    /// No two questions of a cluster have the same context: it holds the member and its start.
    next_context: u64,
    /// For the next question.
    waiting: Vec<Waiting>,
    asked: Option<Asked>,
}

struct Asked {
    context: ReadContext,
    waiting: Vec<Waiting>,
    again: Instant,
}

impl Reads {
    /// `first_context` comes from [`crate::requests::first_request_id`].
    pub fn new(first_context: u64) -> Reads {
        Reads {
            next_context: first_context,
            waiting: Vec::new(),
            asked: None,
        }
    }

    /// Takes in a read for the next question.
    pub fn wait(&mut self, waiting: Waiting) {
        self.waiting.push(waiting);
    }

    /// Asks for all that wait, unless a question is under way.
    pub fn ask(&mut self, node: &mut Node) {
        if self.asked.is_some() || self.waiting.is_empty() {
            return;
        }
        self.waiting.retain(|waiting| !waiting.is_closed());
        let context = ReadContext(self.next_context);
        self.next_context += 1;
        // Without a leader, or one that has committed, they wait on.
        if node.read(context).is_ok() {
            self.asked = Some(Asked {
                context,
                waiting: std::mem::take(&mut self.waiting),
                again: clock::monotonic() + ASK_AGAIN,
            });
        }
    }

    /// Answers those whose question is answered.
    pub fn answer(&mut self, ready: &[ReadReady]) {
        for ready in ready {
            let Some(asked) = self.asked.take_if(|asked| asked.context == ready.context) else {
                // A question that was given up meanwhile.
                continue;
            };
            for waiting in asked.waiting {
                // Whoever waited may have gone meanwhile.
                let _ = waiting.send(ready.index);
            }
        }
    }

    /// Gives a question up that nobody answers; [`Reads::ask`] asks a new one.
    pub fn tick(&mut self) {
        let now = clock::monotonic();
        if self.asked.as_ref().is_some_and(|asked| asked.again <= now) {
            self.give_up();
        }
    }

    /// The leader has changed: nobody answers what the old one was asked.
    pub fn give_up(&mut self) {
        if let Some(asked) = self.asked.take() {
            self.waiting.extend(asked.waiting);
        }
    }
}
