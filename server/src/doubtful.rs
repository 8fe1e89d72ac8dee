//! Proposals that may have been lost with a leader.
//!
//! Whatever a leader has been given and the others have is in the log before the first entry of the next
//! leader. A proposal that is not applied here when that entry is was most probably lost, and it is told so
//! at once; etcd lets it wait for its timeout. It may still come through, if the message was under way to the old
//! leader and is passed on by it: whoever is told does not know what became of it.

use std::collections::VecDeque;

use consensus::{Entry, Index, Term};
use state_machine::RequestId;

/// Proposals remembered before those are dropped that nobody waits for any more.
const REMEMBERED_MAX: usize = 16_384;

/// The proposals of this member that may still be under way.
#[derive(Debug, Default)]
pub struct Doubtful {
    /// Those given to the present leader.
    given: VecDeque<RequestId>,
    /// Those given to leaders before.
    doubtful: Vec<RequestId>,
    /// The term that has begun without them, and its first entry once that is committed.
    term: Term,
    begins: Option<Index>,
}

impl Doubtful {
    /// A proposal was given to the present leader.
    pub fn given(&mut self, id: RequestId, is_waiting: impl Fn(RequestId) -> bool) {
        if self.given.len() >= REMEMBERED_MAX {
            self.given.retain(|id| is_waiting(*id));
        }
        self.given.push_back(id);
    }

    /// There is another leader, in `term`.
    pub fn leader_changed(&mut self, term: Term) {
        self.doubtful.extend(self.given.drain(..));
        self.term = term;
        self.begins = None;
    }

    /// These entries are committed.
    pub fn committed(&mut self, entries: &[Entry]) {
        if self.begins.is_none() && !self.doubtful.is_empty() {
            let first = entries.iter().find(|entry| entry.term >= self.term);
            self.begins = first.map(|entry| entry.index);
        }
    }

    /// Everything up to `applied` is applied and answered: the proposals of which nothing will come.
    pub fn lost(&mut self, applied: Index) -> Vec<RequestId> {
        match self.begins {
            Some(begins) if begins <= applied => {
                self.begins = None;
                std::mem::take(&mut self.doubtful)
            }
            _ => Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use consensus::EntryKind;

    use super::*;

    fn entry(index: u64, term: u64) -> Entry {
        Entry {
            kind: EntryKind::Normal,
            term: Term(term),
            index: Index(index),
            data: Bytes::new(),
        }
    }

    #[test]
    fn what_the_next_leader_begins_without_is_told() {
        let mut doubtful = Doubtful::default();
        doubtful.given(RequestId(1), |_| true);
        doubtful.given(RequestId(2), |_| true);
        doubtful.committed(&[entry(5, 1)]);
        assert!(doubtful.lost(Index(5)).is_empty(), "the leader is the same");
        doubtful.leader_changed(Term(2));
        doubtful.given(RequestId(3), |_| true);
        doubtful.committed(&[entry(6, 1)]);
        assert!(
            doubtful.lost(Index(6)).is_empty(),
            "the new one has not begun"
        );
        doubtful.committed(&[entry(7, 1), entry(8, 2), entry(9, 2)]);
        assert!(
            doubtful.lost(Index(7)).is_empty(),
            "its beginning is not applied"
        );
        assert_eq!(doubtful.lost(Index(8)), [RequestId(1), RequestId(2)]);
        assert!(doubtful.lost(Index(9)).is_empty());
    }

    #[test]
    fn no_more_is_remembered_than_waits() {
        let mut doubtful = Doubtful::default();
        for id in 0..100_000 {
            doubtful.given(RequestId(id), |id| id.0 % 1000 == 0);
        }
        assert!(doubtful.given.len() <= REMEMBERED_MAX);
    }
}
