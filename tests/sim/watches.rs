//! Who watches at one member: what `server/src/watch` and `server/src/api/watch` do, for a few watchers.
//!
//! A watcher that has joined gets what is published through its queue. One that is behind, or whose queue
//! was full, reads history in steps and joins again at the first revision that was not published yet.

use std::collections::{BTreeMap, VecDeque};

use mvcc::{Changed, Event, KeyRange, ReadError, Revision, View};

use crate::planted::Bug;
use crate::scenario::Scenario;

/// Names a watcher; they outlive members.
pub(crate) type WatcherId = usize;

/// Something for a watcher's client.
pub(crate) enum Told {
    Event(Event),
    /// All up to this revision was told.
    Progress(Revision),
    /// What it wants next is gone; this is the oldest that is not.
    Compacted(Revision),
}

pub(crate) struct Watches {
    /// Everything up to here was published.
    revision: Revision,
    watches: BTreeMap<WatcherId, Watch>,
    queue_length: usize,
    step: i64,
    bug: Option<Bug>,
}

struct Watch {
    keys: KeyRange,
    /// The first revision that was not put into the queue, or not read from history.
    next: Revision,
    joined: bool,
    queue: VecDeque<Event>,
}

impl Watches {
    pub(crate) fn new(scenario: &Scenario, revision: Revision) -> Watches {
        Watches {
            revision,
            watches: BTreeMap::new(),
            queue_length: scenario.watch_queue,
            step: scenario.watch_step,
            bug: scenario.bug,
        }
    }

    pub(crate) fn open(&mut self, id: WatcherId, keys: KeyRange, from: Revision) {
        let watch = Watch {
            keys,
            next: from,
            joined: false,
            queue: VecDeque::new(),
        };
        self.watches.insert(id, watch);
    }

    pub(crate) fn close(&mut self, id: WatcherId) {
        self.watches.remove(&id);
    }

    pub(crate) fn publish(&mut self, changes: Vec<Changed>) {
        for changed in changes {
            for watch in self.watches.values_mut().filter(|watch| watch.joined) {
                watch.deliver(&changed, self.queue_length, self.bug);
            }
            self.revision = changed.revision;
        }
    }

    /// What happened behind `seen` and up to `revision` was not published: it is in history.
    pub(crate) fn skip_to(&mut self, seen: Revision, revision: Revision) {
        self.revision = revision;
        if self.bug == Some(Bug::WatchNotMoved) {
            return;
        }
        for watch in self.watches.values_mut().filter(|watch| watch.joined) {
            watch.joined = false;
            watch.next = watch.next.max(seen.next());
        }
    }

    /// The next thing that a watcher is told; it reads history in steps when there is nothing else.
    pub(crate) fn tell(&mut self, id: WatcherId, view: &View) -> Result<Vec<Told>, String> {
        let Some(watch) = self.watches.get_mut(&id) else {
            return Ok(Vec::new());
        };
        if self.bug == Some(Bug::ProgressEarly) && !watch.queue.is_empty() {
            let mut told = vec![Told::Progress(self.revision)];
            told.extend(watch.queue.drain(..).map(Told::Event));
            return Ok(told);
        }
        if !watch.queue.is_empty() {
            return Ok(watch.queue.drain(..).map(Told::Event).collect());
        }
        if watch.joined {
            let told = Revision(watch.next.0 - 1).min(self.revision);
            return Ok(vec![Told::Progress(told)]);
        }
        if watch.next > self.revision {
            watch.joined = true;
            return Ok(Vec::new());
        }
        watch.catch_up(view, self.step)
    }
}

impl Watch {
    fn deliver(&mut self, changed: &Changed, queue_length: usize, bug: Option<Bug>) {
        if changed.revision < self.next {
            return;
        }
        let wanted: Vec<&Event> = changed
            .events
            .iter()
            .filter(|event| self.keys.contains(event.pair.key()))
            .collect();
        let is_full = !wanted.is_empty() && self.queue.len() >= queue_length;
        if is_full {
            self.joined = false;
            self.next = changed.revision;
            if bug == Some(Bug::SlowWatcherMisses) {
                self.next = changed.revision.next();
            }
            return;
        }
        self.queue.extend(wanted.into_iter().cloned());
        self.next = changed.revision.next();
    }

    fn catch_up(&mut self, view: &View, step: i64) -> Result<Vec<Told>, String> {
        if let Some(oldest) = view.compact_revision().filter(|oldest| self.next < *oldest) {
            return Ok(vec![Told::Compacted(oldest)]);
        }
        let last = Revision(self.next.0.saturating_add(step - 1)).min(view.revision());
        let history = match view.history(self.next) {
            Ok(history) => history,
            Err(ReadError::Fault(fault)) => return Err(fault.to_string()),
            Err(ReadError::Refused(_)) => return Err("history was refused".to_owned()),
        };
        let mut told = Vec::new();
        for event in history {
            let event = event.map_err(|fault| fault.to_string())?;
            if event.position.revision > last {
                break;
            }
            if self.keys.contains(event.pair.key()) {
                told.push(Told::Event(event));
            }
        }
        self.next = last.next();
        Ok(told)
    }
}
