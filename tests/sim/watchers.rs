//! Who watches the cluster from outside, and what they are owed: every event once and in order, and none
//! behind a progress that speaks of it; through crashes, other hosts and a leader's state.

use bytes::Bytes;
use mvcc::{KeyRange, Revision};

use crate::model::{Model, is_same_event};
use crate::scenario::Scenario;
use crate::watches::{Told, WatcherId};

/// One watcher and where it watches.
pub(crate) struct Watcher {
    pub(crate) id: WatcherId,
    pub(crate) keys: KeyRange,
    /// The host and the life of its member.
    pub(crate) at: Option<(u64, u64)>,
    /// The first revision that it was not told of entirely.
    pub(crate) next: i64,
    /// Events of revision `next` that it was told.
    told_of_next: usize,
    /// Everything up to here was told, as a member said.
    progress: i64,
    pub(crate) events: u64,
}

impl Watcher {
    /// Some watch all keys, some a part; some begin in the future [W6].
    pub(crate) fn all(scenario: &Scenario) -> Vec<Watcher> {
        let keys = [
            KeyRange::All,
            KeyRange::Range {
                from: "k1".into(),
                to: "k3".into(),
            },
            KeyRange::Single(Bytes::from_static(b"k0")),
        ];
        let watcher = |id: usize| Watcher {
            id,
            keys: keys[id % keys.len()].clone(),
            at: None,
            next: if id == 1 { 20 } else { 2 },
            told_of_next: 0,
            progress: 0,
            events: 0,
        };
        (0..scenario.watchers).map(watcher).collect()
    }

    /// Where to go on after its member was lost: a revision is never told in part.
    pub(crate) fn resume(&mut self) -> Revision {
        if self.told_of_next > 0 {
            (self.next, self.told_of_next) = (self.next + 1, 0);
        }
        Revision(self.next)
    }

    /// Takes one response; it must not end within a revision.
    ///
    /// # Errors
    /// When that breaks a promise.
    pub(crate) fn take_all(&mut self, told: Vec<Told>, model: &Model) -> Result<(), String> {
        for told in told {
            self.take(told, model)?;
        }
        let rest = model
            .history(self.next)
            .filter(|(_, key, _)| self.keys.contains(key))
            .nth(self.told_of_next);
        match rest {
            Some((revision, ..)) if revision == self.next && self.told_of_next > 0 => Err(format!(
                "watcher {} was told of revision {revision} in part",
                self.id
            )),
            _ => Ok(()),
        }
    }

    fn take(&mut self, told: Told, model: &Model) -> Result<(), String> {
        match told {
            Told::Event(event) => self.take_event(&event, model),
            Told::Progress(revision) => self.take_progress(revision.0, model),
            Told::Compacted(oldest) => self.take_compaction(oldest.0, model),
        }
    }

    fn take_event(&mut self, event: &mvcc::Event, model: &Model) -> Result<(), String> {
        let expected = model
            .history(self.next)
            .filter(|(_, key, _)| self.keys.contains(key))
            .nth(self.told_of_next);
        let revision = event.position.revision.0;
        let key = event.pair.key().escape_ascii().to_string();
        match expected {
            Some(expected) if is_same_event(event, expected) => {}
            Some((expected, ..)) => {
                return Err(format!(
                    "watcher {} was told of {key} at {revision}, the next event is at {expected}",
                    self.id
                ));
            }
            None => {
                return Err(format!(
                    "watcher {} was told of {key} at {revision}, but nothing happened since {}",
                    self.id, self.next
                ));
            }
        }
        if revision <= self.progress {
            return Err(format!(
                "watcher {} was told of revision {revision} after progress {}",
                self.id, self.progress
            ));
        }
        match revision > self.next {
            true => (self.next, self.told_of_next) = (revision, 1),
            false => self.told_of_next += 1,
        }
        self.events += 1;
        Ok(())
    }

    fn take_progress(&mut self, revision: i64, model: &Model) -> Result<(), String> {
        let missed = model
            .history(self.next)
            .filter(|(_, key, _)| self.keys.contains(key))
            .nth(self.told_of_next)
            .filter(|(missed, ..)| *missed <= revision);
        if let Some((missed, key, _)) = missed {
            return Err(format!(
                "watcher {} was told of progress {revision} without {} at {missed}",
                self.id,
                key.escape_ascii()
            ));
        }
        self.progress = self.progress.max(revision);
        if revision >= self.next {
            (self.next, self.told_of_next) = (revision + 1, 0);
        }
        Ok(())
    }

    /// [W3] What is gone may only be what was compacted, and the watcher is told so.
    fn take_compaction(&mut self, oldest: i64, model: &Model) -> Result<(), String> {
        if oldest > model.compacted() || oldest <= self.next {
            return Err(format!(
                "watcher {} at {} was told that history begins at {oldest}, the model says {}",
                self.id,
                self.next,
                model.compacted()
            ));
        }
        (self.next, self.told_of_next) = (oldest, 0);
        self.at = None;
        Ok(())
    }

    /// Whether it knows of all that happened.
    pub(crate) fn is_up_to_date(&self, model: &Model) -> bool {
        model
            .history(self.next)
            .filter(|(_, key, _)| self.keys.contains(key))
            .nth(self.told_of_next)
            .is_none()
    }
}
