//! Waiting for a linearizable state: as `server/src/linearizable.rs`, on the false clock.

use consensus::{Index, Node, ReadContext, ReadReady, Role};

use crate::planted::Bug;
use crate::scenario::{MILLISECOND, Micros};

/// A question without an answer for so long is asked again.
const ASK_AGAIN: Micros = 500 * MILLISECOND;

/// Names a read of a client.
pub(crate) type ReadId = u64;

pub(crate) struct Reads {
    next_context: u64,
    waiting: Vec<ReadId>,
    asked: Option<Asked>,
    bug: Option<Bug>,
}

struct Asked {
    context: ReadContext,
    waiting: Vec<ReadId>,
    again: Micros,
}

impl Reads {
    pub(crate) fn new(first_context: u64, bug: Option<Bug>) -> Reads {
        Reads {
            next_context: first_context,
            waiting: Vec::new(),
            asked: None,
            bug,
        }
    }

    pub(crate) fn wait(&mut self, read: ReadId) {
        self.waiting.push(read);
    }

    /// Asks for all that wait, unless a question is under way. What is answered at once only by mistake.
    pub(crate) fn ask(&mut self, node: &mut Node, now: Micros) -> Vec<(ReadId, Index)> {
        if self.asked.is_some() || self.waiting.is_empty() {
            return Vec::new();
        }
        if self.bug == Some(Bug::ReadWithoutQuorum) && node.status().role == Role::Leader {
            let commit = node.status().commit;
            return self.waiting.drain(..).map(|read| (read, commit)).collect();
        }
        let context = ReadContext(self.next_context);
        if self.bug != Some(Bug::ReadContextUsedTwice) {
            self.next_context += 1;
        }
        if node.read(context).is_ok() {
            self.asked = Some(Asked {
                context,
                waiting: std::mem::take(&mut self.waiting),
                again: now + ASK_AGAIN,
            });
        }
        Vec::new()
    }

    /// The reads whose question is answered.
    pub(crate) fn answer(&mut self, ready: &[ReadReady]) -> Vec<(ReadId, Index)> {
        let mut answered = Vec::new();
        for ready in ready {
            if let Some(asked) = self.asked.take_if(|asked| asked.context == ready.context) {
                if self.bug == Some(Bug::ReadContextUsedTwice) {
                    self.next_context += 1;
                }
                answered.extend(asked.waiting.into_iter().map(|read| (read, ready.index)));
            }
        }
        answered
    }

    pub(crate) fn tick(&mut self, now: Micros) {
        if self.asked.as_ref().is_some_and(|asked| asked.again <= now) {
            self.give_up();
        }
    }

    pub(crate) fn give_up(&mut self) {
        if let Some(asked) = self.asked.take() {
            self.waiting.extend(asked.waiting);
        }
    }
}
