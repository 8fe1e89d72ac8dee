//! Who watches what: watchers with the same interest form a group, whatever stream they belong to, so
//! that an event is matched and encoded once for all of them.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use bytes::Bytes;
use mvcc::{Changed, Event, EventKind, Fault, KeyRange, Revision, View};

use super::event::{self, Encoded};
use super::key_index::KeyIndex;
use super::queue::{Delivery, Mark, Queue};
use crate::metrics::WatchMetrics;

/// Names a stream as long as it is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct StreamId(u64);

/// What a watcher wants to be told.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Interest {
    /// About which keys.
    pub(crate) keys: KeyRange,
    /// About puts, too.
    pub(crate) puts: bool,
    /// About deletions, too.
    pub(crate) deletes: bool,
    /// With the pair before each change.
    pub(crate) previous: bool,
    /// In several responses if one would be too large.
    pub(crate) fragment: bool,
}

impl Interest {
    /// Whether an event is among what is wanted.
    pub(crate) fn wants(&self, event: &Event) -> bool {
        match event.kind {
            EventKind::Put => self.puts,
            EventKind::Delete => self.deletes,
        }
    }
}

/// Watchers of one interest.
struct Group {
    interest: Interest,
    /// Those of each stream that begin at the same revision; 0 for those that have begun.
    members: BTreeMap<(StreamId, Revision), Arc<[i64]>>,
}

struct Stream {
    queue: Arc<Queue>,
    /// Marks that wait until everything up to a revision was delivered.
    marks: Vec<(Revision, Mark)>,
}

type GroupId = usize;

/// All groups, by their keys.
pub(super) struct Groups {
    /// Everything up to here was delivered.
    revision: Revision,
    groups: Vec<Option<Group>>,
    free: Vec<GroupId>,
    by_interest: HashMap<Interest, GroupId>,
    by_key: KeyIndex,
    streams: HashMap<StreamId, Stream>,
    next_stream: u64,
    has_marks: bool,
}

impl Groups {
    pub(super) fn new(revision: Revision) -> Groups {
        Groups {
            revision,
            groups: Vec::new(),
            free: Vec::new(),
            by_interest: HashMap::new(),
            by_key: KeyIndex::default(),
            streams: HashMap::new(),
            next_stream: 0,
            has_marks: false,
        }
    }

    pub(super) fn open(&mut self) -> (StreamId, Arc<Queue>) {
        let id = StreamId(self.next_stream);
        self.next_stream += 1;
        let queue = Arc::new(Queue::default());
        let stream = Stream {
            queue: queue.clone(),
            marks: Vec::new(),
        };
        self.streams.insert(id, stream);
        (id, queue)
    }

    pub(super) fn close<'i>(
        &mut self,
        stream: StreamId,
        interests: impl Iterator<Item = &'i Interest>,
    ) {
        self.leave_all(stream, interests);
        self.streams.remove(&stream);
    }

    /// All watchers of a stream with one of these interests leave.
    pub(super) fn leave_all<'i>(
        &mut self,
        stream: StreamId,
        interests: impl Iterator<Item = &'i Interest>,
    ) {
        for interest in interests {
            // The interest of several watchers leaves with the first.
            let Some(&group) = self.by_interest.get(interest) else {
                continue;
            };
            let members = &mut self.groups[group].as_mut().expect("listed").members;
            members.retain(|(other, _), _| *other != stream);
            if members.is_empty() {
                self.drop_group(group);
            }
        }
    }

    pub(super) fn join(
        &mut self,
        stream: StreamId,
        id: i64,
        interest: &Interest,
        from: Revision,
    ) -> bool {
        if from <= self.revision {
            return false;
        }
        let from = match from > self.revision.next() {
            true => from,
            false => Revision(0),
        };
        let group = self.group_of(interest);
        let members = &mut self.groups[group].as_mut().expect("just found").members;
        let ids = members
            .entry((stream, from))
            .or_insert_with(|| Arc::new([]));
        *ids = ids.iter().copied().chain([id]).collect();
        true
    }

    /// The revision up to which deliveries may have been made to the watcher.
    pub(super) fn leave(&mut self, stream: StreamId, id: i64, interest: &Interest) -> Revision {
        let last = self.revision;
        let Some(&group) = self.by_interest.get(interest) else {
            return last;
        };
        let members = &mut self.groups[group].as_mut().expect("listed").members;
        let of_stream = (stream, Revision(0))..=(stream, Revision(i64::MAX));
        let place = members
            .range(of_stream)
            .find(|(_, ids)| ids.contains(&id))
            .map(|(place, _)| *place);
        let Some(place) = place else {
            return last;
        };
        let left: Arc<[i64]> = members[&place]
            .iter()
            .copied()
            .filter(|other| *other != id)
            .collect();
        match left.is_empty() {
            true => members.remove(&place),
            false => members.insert(place, left),
        };
        if members.is_empty() {
            self.drop_group(group);
        }
        last
    }

    pub(super) fn mark(&mut self, stream: StreamId, revision: Revision, mark: Mark) {
        let Some(found) = self.streams.get_mut(&stream) else {
            return;
        };
        if revision <= self.revision {
            let delivery = Delivery::Mark(self.revision, mark);
            found.queue.push(self.revision.next(), delivery);
        } else {
            found.marks.push((revision, mark));
            self.has_marks = true;
        }
    }

    /// Puts what a revision changed into the queues of those who want it.
    pub(super) fn deliver(&mut self, view: &View, changed: &Changed, metrics: &WatchMetrics) {
        let revision = changed.revision;
        debug_assert!(revision > self.revision);
        let mut encoder = Encoder::new(view, changed);
        for (group, events) in self.matching(changed) {
            let group = self.groups[group].as_ref().expect("listed");
            let encoded = match encoder.encode(&events, group.interest.previous) {
                Ok(encoded) => encoded,
                Err(fault) => {
                    // Its streams meet the same fault in history, and end with it.
                    tracing::error!(%fault, "cannot read the pair before an event");
                    for (stream, _) in group.members.keys() {
                        self.streams[stream].queue.lose(revision);
                    }
                    continue;
                }
            };
            for ((stream, from), ids) in &group.members {
                if *from > revision {
                    continue;
                }
                metrics.events.inc_by((events.len() * ids.len()) as u64);
                let delivery = Delivery::Events {
                    revision,
                    encoded: encoded.clone(),
                    ids: ids.clone(),
                    fragment: group.interest.fragment,
                };
                self.streams[stream].queue.push(revision, delivery);
            }
        }
        self.revision = revision;
        self.deliver_marks();
    }

    /// What happened from revision `from` to `to` was not taken in: all streams read it themselves.
    pub(super) fn lose(&mut self, from: Revision, to: Revision) {
        self.revision = to;
        for stream in self.streams.values() {
            stream.queue.lose(from);
        }
        self.deliver_marks();
    }

    pub(super) fn stop(&mut self) {
        for stream in self.streams.values() {
            stream.queue.stop();
        }
    }

    fn deliver_marks(&mut self) {
        if !self.has_marks {
            return;
        }
        self.has_marks = false;
        for stream in self.streams.values_mut() {
            for (_, mark) in stream.marks.extract_if(.., |(at, _)| *at <= self.revision) {
                let delivery = Delivery::Mark(self.revision, mark);
                stream.queue.push(self.revision.next(), delivery);
            }
            self.has_marks |= !stream.marks.is_empty();
        }
    }

    /// The groups that want something of a revision, and which of its events.
    fn matching(&self, changed: &Changed) -> Vec<(GroupId, Vec<usize>)> {
        let mut found: BTreeMap<GroupId, Vec<usize>> = BTreeMap::new();
        for (place, event) in changed.events.iter().enumerate() {
            self.by_key.find(&event.pair.key_bytes(), |group| {
                let interest = &self.groups[group].as_ref().expect("listed").interest;
                if interest.wants(event) {
                    found.entry(group).or_default().push(place);
                }
            });
        }
        found.into_iter().collect()
    }

    fn group_of(&mut self, interest: &Interest) -> GroupId {
        if let Some(&group) = self.by_interest.get(interest) {
            return group;
        }
        let new = Some(Group {
            interest: interest.clone(),
            members: BTreeMap::new(),
        });
        let group = match self.free.pop() {
            Some(group) => {
                self.groups[group] = new;
                group
            }
            None => {
                self.groups.push(new);
                self.groups.len() - 1
            }
        };
        self.by_interest.insert(interest.clone(), group);
        self.by_key.insert(&interest.keys, group);
        group
    }

    fn drop_group(&mut self, group: GroupId) {
        let Group { interest, .. } = self.groups[group].take().expect("listed");
        self.free.push(group);
        self.by_interest.remove(&interest);
        self.by_key.remove(&interest.keys, group);
    }
}

/// Encodes the events of one revision, each form of each at most once.
struct Encoder<'a> {
    view: &'a View,
    changed: &'a Changed,
    /// By event, without and with the pair before.
    events: Vec<[Option<Bytes>; 2]>,
    /// All events, without and with: what nearly every group gets.
    all: [Option<Encoded>; 2],
}

impl<'a> Encoder<'a> {
    fn new(view: &'a View, changed: &'a Changed) -> Encoder<'a> {
        Encoder {
            view,
            changed,
            events: vec![[None, None]; changed.events.len()],
            all: [None, None],
        }
    }

    fn encode(&mut self, places: &[usize], previous: bool) -> Result<Encoded, Fault> {
        if places.len() < self.events.len() {
            return Ok(Encoded::new(self.events(places, previous)?));
        }
        if self.all[usize::from(previous)].is_none() {
            let encoded = Encoded::new(self.events(places, previous)?);
            self.all[usize::from(previous)] = Some(encoded);
        }
        Ok(self.all[usize::from(previous)].clone().expect("just made"))
    }

    fn events(&mut self, places: &[usize], previous: bool) -> Result<Arc<[Bytes]>, Fault> {
        let mut encoded = Vec::with_capacity(places.len());
        for &place in places {
            let form = &mut self.events[place][usize::from(previous)];
            let bytes = match form {
                Some(bytes) => bytes.clone(),
                None => {
                    let event = &self.changed.events[place];
                    let bytes = event::encode_with(event, previous, self.view)?;
                    form.insert(bytes).clone()
                }
            };
            encoded.push(bytes);
        }
        Ok(encoded.into())
    }
}
