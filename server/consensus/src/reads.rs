//! Who asked for which linearizable read.
//!
//! The raft crate keeps the reads of a leader by their contexts and confirms a context together with all
//! that came before it. Were one used twice, an answer to its first use would confirm the second at too
//! old an index. Members of etcd up to 3.5.27 and 3.6.8 do use theirs again, so a leader gives every
//! question a context of its own and puts the asker's back into the answer.

use std::collections::HashMap;

use bytes::Bytes;
use raft::eraftpb;

use crate::log::Index;
use crate::work::{ReadContext, ReadReady};

/// Questions of other members that wait for a confirmation. Each asks one at a time, and asks again when
/// no answer comes; more are dropped.
const QUESTIONS_MAX: usize = 4096;

/// The reads under way, and those that are confirmed.
#[derive(Debug, Default)]
pub(crate) struct Reads {
    next: u64,
    /// Questions of the leader's present term, by the contexts given to them.
    asked: HashMap<u64, Asker>,
    led_term: Option<u64>,
    ready: Vec<ReadReady>,
}

#[derive(Debug)]
enum Asker {
    Shell(ReadContext),
    Member(Bytes),
}

impl Reads {
    /// Forgets what was asked in another term than the one that this member leads now, if it leads.
    /// The raft crate has forgotten it too.
    pub(crate) fn lead(&mut self, term: Option<u64>) {
        if self.led_term != term {
            self.asked.clear();
            self.led_term = term;
        }
    }

    /// The context under which a leader keeps a question of its own shell.
    pub(crate) fn ask(&mut self, context: ReadContext) -> Vec<u8> {
        self.enter(Asker::Shell(context))
    }

    /// Gives the question of another member the context under which a leader keeps it; false if it must
    /// be dropped.
    pub(crate) fn rename(&mut self, question: &mut eraftpb::Message) -> bool {
        if self.asked.len() >= QUESTIONS_MAX {
            return false;
        }
        let [entry] = &mut *question.entries else {
            return false;
        };
        let original = std::mem::take(&mut entry.data);
        entry.data = self.enter(Asker::Member(original)).into();
        true
    }

    /// Puts the asker's context back into an answer; false if nobody asked.
    pub(crate) fn restore(&mut self, answer: &mut eraftpb::Message) -> bool {
        let [entry] = &mut *answer.entries else {
            return false;
        };
        match number(&entry.data).and_then(|context| self.asked.remove(&context)) {
            Some(Asker::Member(original)) => {
                entry.data = original;
                true
            }
            _ => false,
        }
    }

    /// Takes in what the raft crate has confirmed while this member led `self.led_term`, or what its
    /// leader has told it.
    pub(crate) fn confirm(&mut self, confirmed: Vec<raft::ReadState>) {
        for state in confirmed {
            let Some(context) = number(&state.request_ctx) else {
                continue;
            };
            let context = match self.led_term {
                None => Some(ReadContext(context)),
                Some(_) => match self.asked.remove(&context) {
                    Some(Asker::Shell(context)) => Some(context),
                    _ => None,
                },
            };
            self.ready.extend(context.map(|context| ReadReady {
                context,
                index: Index(state.index),
            }));
        }
    }

    pub(crate) fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    pub(crate) fn take_ready(&mut self) -> Vec<ReadReady> {
        std::mem::take(&mut self.ready)
    }

    fn enter(&mut self, asker: Asker) -> Vec<u8> {
        self.next += 1;
        self.asked.insert(self.next, asker);
        self.next.to_be_bytes().to_vec()
    }
}

fn number(context: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(context.try_into().ok()?))
}
