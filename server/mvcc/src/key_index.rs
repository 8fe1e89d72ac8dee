//! Which keys exist, and where in history their values stand. It lives in memory only and is
//! rebuilt from the records when the store opens.
//!
//! A B+tree whose nodes are shared: a clone costs one reference count and never changes again,
//! because whoever changes a node that others hold copies it first. Each node's parent knows a
//! summary of what lies below, which is what makes counting cheap:
//!
//! - `live`: keys that exist now, so a count at the current revision adds up one path on each
//!   side of the range;
//! - `newest`: the last revision that changed anything below. At a revision not before it the
//!   subtree looked as it does now, so counting a little in the past walks only what changed since;
//! - `spare`: changes that a compaction may forget, so it passes by whatever has none.

use std::iter::Peekable;
use std::ops::ControlFlow;
use std::sync::Arc;

use crate::history::{Change, History, Life};
use crate::key_block::{KeyBlock, KeyParts, separator};
use crate::range::KeyRange;
use crate::revision::{Position, Revision};

/// Most keys in a leaf. A leaf that readers hold is copied when it changes: 32 keys of usual
/// length are about 2 KiB. At a million keys 64 or 128 saved four to six bytes a key and made puts
/// no cheaper (`examples/costs.rs`).
const LEAF_KEYS_MAX: usize = 32;

/// Most children of an inner node. Copying one touches the reference count of every child, so it
/// is narrower than a leaf.
const CHILDREN_MAX: usize = 16;

/// Most bytes of keys in a node that could still be split: without it 32 keys of 1 MiB would be
/// copied whenever one of them changes.
const NODE_KEY_BYTES_MAX: usize = 16 << 10;

/// A node that holds less than this share of its maximum is joined with a neighbour, if both
/// together leave room for as much again.
const JOIN_DIVISOR: usize = 4;

/// The index. A clone is a snapshot.
#[derive(Debug, Clone, Default)]
pub(crate) struct KeyIndex {
    root: Arc<Node>,
    summary: Summary,
}

#[derive(Debug, Clone)]
enum Node {
    Leaf(Leaf),
    Inner(Inner),
}

#[derive(Debug, Clone, Default)]
struct Leaf {
    keys: KeyBlock,
    histories: Vec<History>,
}

/// `bounds[i]` parts the keys of child `i` from those of child `i + 1`, which are not below it.
#[derive(Debug, Clone)]
struct Inner {
    bounds: KeyBlock,
    children: Vec<Child>,
}

#[derive(Debug, Clone)]
struct Child {
    node: Arc<Node>,
    summary: Summary,
}

/// What a parent knows of a subtree; see the head of this file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Summary {
    live: u64,
    newest: Revision,
    spare: u64,
}

/// What a put did to its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PutOutcome {
    /// The key as it lived before.
    pub(crate) previous: Option<Life>,
    pub(crate) created: Revision,
    pub(crate) version: i64,
}

/// A record met while the store opens.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Restored {
    pub(crate) change: Change,
    pub(crate) created: Revision,
    pub(crate) version: i64,
}

/// Direction of a walk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Towards {
    Greater,
    Smaller,
}

impl KeyIndex {
    /// Number of keys that exist now, the empty key included.
    pub(crate) fn live(&self) -> u64 {
        self.summary.live
    }

    /// The key as it lives now.
    pub(crate) fn life(&self, key: &[u8]) -> Option<Life> {
        self.history(key)?.life()
    }

    /// Where the value of `key` at `revision` stands.
    pub(crate) fn get(&self, key: &[u8], revision: Revision) -> Option<Position> {
        self.history(key)?.at(revision)
    }

    /// The last change of `key` up to and including `revision`.
    pub(crate) fn last_change(&self, key: &[u8], revision: Revision) -> Option<Change> {
        self.history(key)?.last_change(revision)
    }

    /// Number of keys in `range` that existed at `revision`.
    pub(crate) fn count(&self, range: &KeyRange, revision: Revision) -> u64 {
        if let KeyRange::Single(key) = range {
            return u64::from(self.get(key, revision).is_some());
        }
        let bounds = Bounds::of(range);
        if bounds.is_empty() {
            return 0;
        }
        self.root.count(bounds, revision, self.summary)
    }

    /// Number of all keys that existed at `revision`, the empty key included.
    pub(crate) fn count_all(&self, revision: Revision) -> u64 {
        self.root.count(
            Bounds {
                from: None,
                to: None,
            },
            revision,
            self.summary,
        )
    }

    /// Shows the keys in `range` that existed at `revision`, in order, until `visit` breaks.
    pub(crate) fn walk(
        &self,
        range: &KeyRange,
        revision: Revision,
        towards: Towards,
        mut visit: impl FnMut(KeyParts<'_>, Position) -> ControlFlow<()>,
    ) {
        let bounds = Bounds::of(range);
        if !bounds.is_empty() {
            // A break only means that the caller has enough.
            let _ = self.root.walk(bounds, revision, towards, &mut visit);
        }
    }

    /// Gives `key` a new value at `position`, which is later than everything before.
    pub(crate) fn put(&mut self, key: &[u8], position: Position) -> PutOutcome {
        let mut outcome = PutOutcome {
            previous: None,
            created: position.revision,
            version: 1,
        };
        self.update(key, |existing| {
            if let Some(life) = existing.as_ref().and_then(|history| history.life()) {
                outcome = PutOutcome {
                    previous: Some(life),
                    created: life.created,
                    version: life.version.saturating_add(1),
                };
            }
            Restored {
                change: Change::new(position, false),
                created: outcome.created,
                version: outcome.version,
            }
        });
        outcome
    }

    /// Ends `key`, which must exist, at `position`.
    pub(crate) fn tombstone(&mut self, key: &[u8], position: Position) {
        self.update(key, |existing| {
            assert!(
                existing.is_some_and(History::is_live),
                "only a key that exists is deleted"
            );
            Restored {
                change: Change::new(position, true),
                created: Revision(0),
                version: 0,
            }
        });
    }

    /// Adds records of the file, which come sorted by key, those of one key by position, and are
    /// all later than what the index knows. Builds every node anew, well filled, freeing the old
    /// ones on the way.
    pub(crate) fn merge<'a>(&mut self, records: impl Iterator<Item = (&'a [u8], Restored)>) {
        let mut records = records.peekable();
        let mut packer = Packer::default();
        let old = std::mem::take(self);
        Node::drain(old.root, &mut Vec::new(), &mut |key, mut history| {
            while let Some((new, record)) = records.next_if(|(new, _)| *new < key) {
                packer.push(new, new_history(new, record, &mut records));
            }
            while let Some((_, record)) = records.next_if(|(new, _)| *new == key) {
                history.push(record.change, record.created, record.version);
            }
            packer.push(key, history);
        });
        while let Some((new, record)) = records.next() {
            packer.push(new, new_history(new, record, &mut records));
        }
        *self = packer.finish();
    }

    /// Forgets, among at most `keys_max` keys (or subtrees with nothing to forget) from `from` on,
    /// what a compaction at `at` forgets. Returns the key to go on from, `None` at the end.
    pub(crate) fn compact(
        &mut self,
        from: &[u8],
        at: Revision,
        keys_max: usize,
    ) -> Option<Vec<u8>> {
        let mut step = CompactStep {
            at,
            left: keys_max.max(1),
            resume: None,
        };
        compact_node(&mut self.root, from, &mut self.summary, &mut step);
        self.drop_thin_root();
        step.resume
    }

    /// Bytes of memory that the index takes.
    pub(crate) fn heap_bytes(&self) -> usize {
        self.root.heap_bytes()
    }

    fn history(&self, key: &[u8]) -> Option<&History> {
        let mut node = &self.root;
        loop {
            match &**node {
                Node::Inner(inner) => node = &inner.children[inner.bounds.count_up_to(key)].node,
                Node::Leaf(leaf) => {
                    let place = leaf.keys.search(key).ok()?;
                    return Some(&leaf.histories[place]);
                }
            }
        }
    }

    fn update(&mut self, key: &[u8], change: impl FnOnce(Option<&History>) -> Restored) {
        let (summary, split) = update_node(&mut self.root, self.summary, key, change);
        self.summary = summary;
        if let Some(split) = split {
            let left = Child {
                node: std::mem::take(&mut self.root),
                summary: split.left,
            };
            let mut bounds = KeyBlock::default();
            bounds.insert(0, &split.bound);
            let children = vec![left, split.right];
            self.root = Arc::new(Node::Inner(Inner { bounds, children }));
        }
    }

    fn drop_thin_root(&mut self) {
        while let Node::Inner(inner) = &*self.root {
            match &inner.children[..] {
                [] => self.root = Arc::default(),
                [only] => self.root = only.node.clone(),
                _ => break,
            }
        }
    }
}

impl Default for Node {
    fn default() -> Node {
        Node::Leaf(Leaf::default())
    }
}

/// Both ends of a range; `None` is open.
#[derive(Debug, Clone, Copy)]
struct Bounds<'a> {
    from: Option<&'a [u8]>,
    to: Option<End<'a>>,
}

#[derive(Debug, Clone, Copy)]
enum End<'a> {
    Before(&'a [u8]),
    With(&'a [u8]),
}

impl<'a> Bounds<'a> {
    fn of(range: &'a KeyRange) -> Bounds<'a> {
        match range {
            KeyRange::Single(key) => Bounds {
                from: Some(key),
                to: Some(End::With(key)),
            },
            KeyRange::Range { from, to } => Bounds {
                from: Some(from),
                to: Some(End::Before(to)),
            },
            KeyRange::From(from) => Bounds {
                from: Some(from),
                to: None,
            },
            KeyRange::All => Bounds {
                from: Some(b"\0"),
                to: None,
            },
        }
    }

    fn is_empty(self) -> bool {
        match (self.from, self.to) {
            (Some(from), Some(End::Before(to))) => from >= to,
            (Some(from), Some(End::With(to))) => from > to,
            _ => false,
        }
    }

    fn is_open(self) -> bool {
        self.from.is_none() && self.to.is_none()
    }

    /// First and last child (inclusive) that may hold keys of the range.
    fn children(self, bounds: &KeyBlock) -> (usize, usize) {
        let first = self.from.map_or(0, |key| bounds.count_up_to(key));
        let last = match self.to {
            None => bounds.len(),
            Some(End::With(key)) => bounds.count_up_to(key),
            Some(End::Before(key)) => match bounds.search(key) {
                Ok(place) | Err(place) => place,
            },
        };
        (first, last.max(first))
    }

    /// Keys of a leaf in the range, from the first up to but without the second place.
    fn places(self, keys: &KeyBlock) -> (usize, usize) {
        let first = self
            .from
            .map_or(0, |key| keys.search(key).unwrap_or_else(|place| place));
        let end = match self.to {
            None => keys.len(),
            Some(End::With(key)) => keys.count_up_to(key),
            Some(End::Before(key)) => keys.search(key).unwrap_or_else(|place| place),
        };
        (first, end.max(first))
    }

    /// The range as child `at` needs it, which lies strictly inside unless it is an end.
    fn for_child(self, at: usize, first: usize, last: usize) -> Bounds<'a> {
        Bounds {
            from: self.from.filter(|_| at == first),
            to: self.to.filter(|_| at == last),
        }
    }
}

impl Node {
    fn count(&self, bounds: Bounds<'_>, revision: Revision, summary: Summary) -> u64 {
        if bounds.is_open() && summary.newest <= revision {
            return summary.live;
        }
        match self {
            Node::Inner(inner) => {
                let (first, last) = bounds.children(&inner.bounds);
                (first..=last)
                    .map(|at| {
                        let child = &inner.children[at];
                        child
                            .node
                            .count(bounds.for_child(at, first, last), revision, child.summary)
                    })
                    .sum()
            }
            Node::Leaf(leaf) => {
                let (first, end) = bounds.places(&leaf.keys);
                let histories = &leaf.histories[first..end];
                histories
                    .iter()
                    .filter(|history| history.at(revision).is_some())
                    .count() as u64
            }
        }
    }

    fn walk(
        &self,
        bounds: Bounds<'_>,
        revision: Revision,
        towards: Towards,
        visit: &mut impl FnMut(KeyParts<'_>, Position) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        match self {
            Node::Inner(inner) => {
                let (first, last) = bounds.children(&inner.bounds);
                let mut enter = |at: usize| {
                    let child = &inner.children[at];
                    if child.summary.live == 0 && child.summary.newest <= revision {
                        return ControlFlow::Continue(());
                    }
                    child
                        .node
                        .walk(bounds.for_child(at, first, last), revision, towards, visit)
                };
                match towards {
                    Towards::Greater => (first..=last).try_for_each(&mut enter),
                    Towards::Smaller => (first..=last).rev().try_for_each(&mut enter),
                }
            }
            Node::Leaf(leaf) => {
                let (first, end) = bounds.places(&leaf.keys);
                let mut show = |at: usize| match leaf.histories[at].at(revision) {
                    Some(position) => visit(leaf.keys.key(at), position),
                    None => ControlFlow::Continue(()),
                };
                match towards {
                    Towards::Greater => (first..end).try_for_each(&mut show),
                    Towards::Smaller => (first..end).rev().try_for_each(&mut show),
                }
            }
        }
    }

    fn summary(&self) -> Summary {
        match self {
            Node::Inner(inner) => {
                let children = inner.children.iter().map(|child| child.summary);
                children.fold(Summary::default(), Summary::with)
            }
            Node::Leaf(leaf) => leaf
                .histories
                .iter()
                .map(Summary::of)
                .fold(Summary::default(), Summary::with),
        }
    }

    fn keys(&self) -> &KeyBlock {
        match self {
            Node::Inner(inner) => &inner.bounds,
            Node::Leaf(leaf) => &leaf.keys,
        }
    }

    /// Entries, as they are counted against the node's maximum.
    fn len(&self) -> usize {
        match self {
            Node::Inner(inner) => inner.children.len(),
            Node::Leaf(leaf) => leaf.histories.len(),
        }
    }

    fn len_max(&self) -> usize {
        match self {
            Node::Inner(_) => CHILDREN_MAX,
            Node::Leaf(_) => LEAF_KEYS_MAX,
        }
    }

    fn is_too_large(&self) -> bool {
        // Both halves of a split inner node need two children.
        let splittable = match self {
            Node::Inner(_) => self.len() >= 4,
            Node::Leaf(_) => self.len() >= 2,
        };
        splittable && (self.len() > self.len_max() || self.keys().bytes() > NODE_KEY_BYTES_MAX)
    }

    /// Moves the upper entries into a new node; the key that parts both.
    fn split(&mut self, at: usize) -> (Vec<u8>, Node) {
        match self {
            Node::Leaf(leaf) => {
                let last = leaf.keys.key(at - 1).to_vec();
                let keys = leaf.keys.split_off(at);
                let bound = separator(&last, &keys.key(0).to_vec()).to_vec();
                leaf.keys.shrink();
                let histories = leaf.histories.split_off(at);
                leaf.histories.shrink_to_fit();
                (bound, Node::Leaf(Leaf { keys, histories }))
            }
            Node::Inner(inner) => {
                let bounds = inner.bounds.split_off(at);
                let bound = inner.bounds.key(at - 1).to_vec();
                inner.bounds.retain(|place| place != at - 1);
                let children = inner.children.split_off(at);
                (bound, Node::Inner(Inner { bounds, children }))
            }
        }
    }

    /// Hands all keys out in order, freeing the nodes on the way.
    fn drain(node: Arc<Node>, key: &mut Vec<u8>, take: &mut impl FnMut(&[u8], History)) {
        match Arc::unwrap_or_clone(node) {
            Node::Inner(inner) => {
                inner
                    .children
                    .into_iter()
                    .for_each(|child| Node::drain(child.node, key, take));
            }
            Node::Leaf(leaf) => {
                for (place, history) in leaf.histories.into_iter().enumerate() {
                    leaf.keys.key(place).copy_to(key);
                    take(key, history);
                }
            }
        }
    }

    fn heap_bytes(&self) -> usize {
        let own = size_of::<Node>() + 2 * size_of::<usize>() + self.keys().heap_bytes();
        own + match self {
            Node::Inner(inner) => {
                inner.children.capacity() * size_of::<Child>()
                    + inner
                        .children
                        .iter()
                        .map(|child| child.node.heap_bytes())
                        .sum::<usize>()
            }
            Node::Leaf(leaf) => {
                leaf.histories.capacity() * size_of::<History>()
                    + leaf
                        .histories
                        .iter()
                        .map(History::heap_bytes)
                        .sum::<usize>()
            }
        }
    }
}

impl Summary {
    fn of(history: &History) -> Summary {
        Summary {
            live: u64::from(history.is_live()),
            newest: history.newest().position().revision,
            spare: history.spare(),
        }
    }

    fn with(self, other: Summary) -> Summary {
        Summary {
            live: self.live + other.live,
            newest: self.newest.max(other.newest),
            spare: self.spare + other.spare,
        }
    }

    /// This summary after a part of it changed from `before` to `after`.
    fn replace(self, before: Summary, after: Summary) -> Summary {
        Summary {
            live: self.live + after.live - before.live,
            newest: self.newest.max(after.newest),
            spare: self.spare + after.spare - before.spare,
        }
    }
}

/// A node that became two.
struct Split {
    left: Summary,
    bound: Vec<u8>,
    right: Child,
}

/// Changes the history of `key` below `node`; the subtree's summary afterwards, both halves of a
/// split taken together.
fn update_node(
    node: &mut Arc<Node>,
    summary: Summary,
    key: &[u8],
    change: impl FnOnce(Option<&History>) -> Restored,
) -> (Summary, Option<Split>) {
    let node = Arc::make_mut(node);
    let summary = match node {
        Node::Leaf(leaf) => leaf.update(key, summary, change),
        Node::Inner(inner) => {
            let at = inner.bounds.count_up_to(key);
            let child = &mut inner.children[at];
            let before = child.summary;
            let (after, split) = update_node(&mut child.node, before, key, change);
            child.summary = after;
            if let Some(split) = split {
                child.summary = split.left;
                inner.bounds.insert(at, &split.bound);
                inner.children.insert(at + 1, split.right);
            }
            summary.replace(before, after)
        }
    };
    if !node.is_too_large() {
        return (summary, None);
    }
    // Keys that arrive in ascending order would leave half-full nodes behind.
    let at = if node.keys().count_up_to(key) >= node.keys().len() {
        (node.len() * 7 / 8).clamp(1, node.len() - 1)
    } else {
        node.len() / 2
    };
    let at = if matches!(node, Node::Inner(_)) {
        at.clamp(2, node.len() - 2)
    } else {
        at
    };
    let (bound, right) = node.split(at);
    let right = Child {
        summary: right.summary(),
        node: Arc::new(right),
    };
    (
        summary,
        Some(Split {
            left: node.summary(),
            bound,
            right,
        }),
    )
}

impl Leaf {
    fn update(
        &mut self,
        key: &[u8],
        summary: Summary,
        change: impl FnOnce(Option<&History>) -> Restored,
    ) -> Summary {
        match self.keys.search(key) {
            Ok(place) => {
                let history = &mut self.histories[place];
                let before = Summary::of(history);
                let Restored {
                    change,
                    created,
                    version,
                } = change(Some(history));
                history.push(change, created, version);
                summary.replace(before, Summary::of(history))
            }
            Err(place) => {
                let Restored {
                    change,
                    created,
                    version,
                } = change(None);
                let history = History::new(change, created, version);
                let after = Summary::of(&history);
                self.keys.insert(place, key);
                self.histories.insert(place, history);
                summary.with(after)
            }
        }
    }
}

struct CompactStep {
    at: Revision,
    left: usize,
    resume: Option<Vec<u8>>,
}

/// Compacts below `node` from `from` on until the step's keys are used up.
fn compact_node(node: &mut Arc<Node>, from: &[u8], summary: &mut Summary, step: &mut CompactStep) {
    match &**node {
        Node::Leaf(leaf) => compact_leaf_if_needed(node, leaf_places(leaf, from), summary, step),
        Node::Inner(inner) => {
            let first = inner.bounds.count_up_to(from);
            compact_children(node, first, from, summary, step);
        }
    }
}

fn leaf_places(leaf: &Leaf, from: &[u8]) -> usize {
    leaf.keys.search(from).unwrap_or_else(|place| place)
}

fn compact_leaf_if_needed(
    node: &mut Arc<Node>,
    first: usize,
    summary: &mut Summary,
    step: &mut CompactStep,
) {
    let Node::Leaf(leaf) = &**node else {
        unreachable!("called for leaves")
    };
    let end = leaf.histories.len().min(first.saturating_add(step.left));
    step.left -= end - first;
    if end < leaf.histories.len() {
        step.resume = Some(leaf.keys.key(end).to_vec());
    }
    let at = step.at;
    if !leaf.histories[first..end]
        .iter()
        .any(|history| history.can_compact(at))
    {
        return;
    }
    let Node::Leaf(leaf) = Arc::make_mut(node) else {
        unreachable!("called for leaves")
    };
    let mut stays = vec![true; leaf.histories.len()];
    for (place, history) in leaf.histories.iter_mut().enumerate().take(end).skip(first) {
        stays[place] = history.compact(at);
    }
    if stays.contains(&false) {
        leaf.keys.retain(|place| stays[place]);
        let mut place = 0;
        leaf.histories.retain(|_| {
            place += 1;
            stays[place - 1]
        });
        leaf.histories.shrink_to_fit();
    }
    let newest = summary.newest;
    *summary = Summary {
        newest,
        ..node.summary()
    };
}

fn compact_children(
    node: &mut Arc<Node>,
    first: usize,
    from: &[u8],
    summary: &mut Summary,
    step: &mut CompactStep,
) {
    let mut changed = false;
    let Node::Inner(inner) = &**node else {
        unreachable!("called for inner nodes")
    };
    for at in first..inner.children.len() {
        let Node::Inner(inner) = &**node else {
            unreachable!("called for inner nodes")
        };
        if step.left == 0 {
            step.resume
                .get_or_insert_with(|| inner.bounds.key(at - 1).to_vec());
            break;
        }
        let child = &inner.children[at];
        if child.summary.spare == 0 {
            step.left -= 1;
            continue;
        }
        // The path is copied before it is known whether anything changes; a subtree with
        // something to spare mostly does.
        let Node::Inner(inner) = Arc::make_mut(node) else {
            unreachable!("an inner node")
        };
        let child = &mut inner.children[at];
        let from = if at == first { from } else { b"" };
        compact_node(&mut child.node, from, &mut child.summary, step);
        changed = true;
        if step.resume.is_some() {
            break;
        }
    }
    if !changed {
        return;
    }
    let Node::Inner(inner) = Arc::make_mut(node) else {
        unreachable!("an inner node")
    };
    inner.mend();
    let newest = summary.newest;
    *summary = Summary {
        newest,
        ..node.summary()
    };
}

impl Inner {
    /// Drops children without keys and joins thin ones with their neighbour.
    fn mend(&mut self) {
        let mut at = 0;
        while at < self.children.len() && self.children.len() > 1 {
            if self.children[at].node.is_hollow() {
                self.children.remove(at);
                let bound = at.saturating_sub(1);
                self.bounds.retain(|place| place != bound);
            } else if at + 1 < self.children.len() && self.can_join(at) {
                self.join(at);
            } else {
                at += 1;
            }
        }
    }

    fn can_join(&self, at: usize) -> bool {
        let (left, right) = (&*self.children[at].node, &*self.children[at + 1].node);
        let thin = left.len_max() / JOIN_DIVISOR;
        let bytes = left.keys().bytes() + right.keys().bytes() + self.bounds.bytes();
        // The joined block may lose its prefix, which then stands before every key.
        let spread = bytes.saturating_mul(2);
        (left.len() < thin || right.len() < thin)
            && left.len() + right.len() <= left.len_max() * 3 / 4
            && spread <= NODE_KEY_BYTES_MAX
    }

    /// Moves all of child `at + 1` into child `at`.
    fn join(&mut self, at: usize) {
        let right = self.children.remove(at + 1);
        let bound = self.bounds.key(at).to_vec();
        self.bounds.retain(|place| place != at);
        let left = &mut self.children[at];
        match (Arc::make_mut(&mut left.node), &*right.node) {
            (Node::Leaf(left), Node::Leaf(right)) => {
                left.keys.append(&right.keys);
                left.histories.extend(right.histories.iter().cloned());
            }
            (Node::Inner(left), Node::Inner(right)) => {
                left.bounds.insert(left.bounds.len(), &bound);
                left.bounds.append(&right.bounds);
                left.children.extend(right.children.iter().cloned());
            }
            _ => unreachable!("neighbours have the same height"),
        }
        left.summary = left.summary.with(right.summary);
    }
}

impl Node {
    /// Whether no key lies below.
    fn is_hollow(&self) -> bool {
        match self {
            Node::Leaf(leaf) => leaf.histories.is_empty(),
            Node::Inner(inner) => match &inner.children[..] {
                [] => true,
                [only] => only.node.is_hollow(),
                _ => false,
            },
        }
    }
}

/// The history of a key that begins with `first`, and takes what follows of the same key.
fn new_history<'a>(
    key: &[u8],
    first: Restored,
    records: &mut Peekable<impl Iterator<Item = (&'a [u8], Restored)>>,
) -> History {
    let mut history = History::new(first.change, first.created, first.version);
    while let Some((_, record)) = records.next_if(|(new, _)| *new == key) {
        history.push(record.change, record.created, record.version);
    }
    history
}

/// Builds a tree of well-filled nodes from keys in ascending order.
#[derive(Default)]
struct Packer {
    /// Finished leaves, each with the bound that parts it from the one before.
    leaves: Vec<(Vec<u8>, Child)>,
    leaf: Leaf,
    /// The last key of the leaf before the one that is being filled.
    last_key: Vec<u8>,
}

impl Packer {
    /// Share of a node's maximum that is filled, so that the first change does not split it.
    fn fill(len_max: usize) -> usize {
        len_max * 9 / 10
    }

    fn push(&mut self, key: &[u8], history: History) {
        let full = self.leaf.histories.len() >= Packer::fill(LEAF_KEYS_MAX)
            || self.leaf.keys.bytes() + key.len() > NODE_KEY_BYTES_MAX;
        if full && !self.leaf.histories.is_empty() {
            self.finish_leaf();
        }
        let place = self.leaf.keys.len();
        self.leaf.keys.insert(place, key);
        self.leaf.histories.push(history);
    }

    fn finish_leaf(&mut self) {
        let mut leaf = std::mem::take(&mut self.leaf);
        let Some(last) = leaf.keys.len().checked_sub(1) else {
            return;
        };
        leaf.keys.shrink();
        leaf.histories.shrink_to_fit();
        let bound = match self.leaves.is_empty() {
            true => Vec::new(),
            false => separator(&self.last_key, &leaf.keys.key(0).to_vec()).to_vec(),
        };
        leaf.keys.key(last).copy_to(&mut self.last_key);
        let node = Node::Leaf(leaf);
        self.leaves.push((
            bound,
            Child {
                summary: node.summary(),
                node: Arc::new(node),
            },
        ));
    }

    fn finish(mut self) -> KeyIndex {
        self.finish_leaf();
        let mut level = self.leaves;
        while level.len() > 1 {
            level = Packer::level_above(level);
        }
        match level.pop() {
            Some((_, Child { node, summary })) => KeyIndex {
                root: node,
                summary,
            },
            None => KeyIndex::default(),
        }
    }

    fn level_above(below: Vec<(Vec<u8>, Child)>) -> Vec<(Vec<u8>, Child)> {
        let fill = Packer::fill(CHILDREN_MAX);
        // Nodes of even size, so that the last one is not thin.
        let nodes = below.len().div_ceil(fill);
        let mut above = Vec::with_capacity(nodes);
        let mut left = below.len();
        let mut below = below.into_iter();
        for node in 0..nodes {
            let children_in_node = left.div_ceil(nodes - node);
            left -= children_in_node;
            let mut own_bound = Vec::new();
            let mut bounds = KeyBlock::default();
            let mut children = Vec::with_capacity(children_in_node);
            for (place, (bound, child)) in below.by_ref().take(children_in_node).enumerate() {
                match place {
                    0 => own_bound = bound,
                    _ => bounds.insert(place - 1, &bound),
                }
                children.push(child);
            }
            bounds.shrink();
            let node = Node::Inner(Inner { bounds, children });
            above.push((
                own_bound,
                Child {
                    summary: node.summary(),
                    node: Arc::new(node),
                },
            ));
        }
        above
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;

    /// One map of living keys for each revision.
    type Model = Vec<BTreeMap<Vec<u8>, Position>>;

    impl KeyIndex {
        /// Every summary, bound and size is what it must be; returns the keys in order.
        fn check(&self) -> Vec<Vec<u8>> {
            let mut keys = Vec::new();
            let mut depths = Vec::new();
            check_node(&self.root, self.summary, 0, &mut depths, &mut keys);
            assert!(
                depths.windows(2).all(|pair| pair[0] == pair[1]),
                "leaves of unequal depth"
            );
            assert!(
                keys.is_sorted_by(|left, right| left < right),
                "keys out of order"
            );
            keys
        }
    }

    fn check_node(
        node: &Node,
        summary: Summary,
        depth: usize,
        depths: &mut Vec<usize>,
        keys: &mut Vec<Vec<u8>>,
    ) {
        let own = node.summary();
        // After a compaction `newest` may name a change that is forgotten; never one too early.
        assert_eq!((own.live, own.spare), (summary.live, summary.spare));
        assert!(own.newest <= summary.newest);
        match node {
            Node::Leaf(leaf) => {
                depths.push(depth);
                assert_eq!(leaf.keys.len(), leaf.histories.len());
                assert!(leaf.histories.len() <= LEAF_KEYS_MAX);
                keys.extend((0..leaf.keys.len()).map(|place| leaf.keys.key(place).to_vec()));
            }
            Node::Inner(inner) => {
                assert_eq!(inner.bounds.len() + 1, inner.children.len());
                assert!(inner.children.len() <= CHILDREN_MAX);
                for (at, child) in inner.children.iter().enumerate() {
                    let start = keys.len();
                    check_node(&child.node, child.summary, depth + 1, depths, keys);
                    let inside = &keys[start..];
                    if at > 0 {
                        let bound = inner.bounds.key(at - 1).to_vec();
                        assert!(inside.iter().all(|key| *key >= bound));
                    }
                    if at < inner.bounds.len() {
                        let bound = inner.bounds.key(at).to_vec();
                        assert!(inside.iter().all(|key| *key < bound));
                    }
                }
            }
        }
    }

    fn key() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![
            prop::collection::vec(0_u8..4, 1..5),
            (0..600_u32).prop_map(|number| format!("/registry/pods/{number:05}").into_bytes()),
            (0..40_usize).prop_map(|length| vec![b'x'; length * 1000 + 1]),
        ]
    }

    fn range() -> impl Strategy<Value = KeyRange> {
        let bytes = || key().prop_map(Bytes::from);
        prop_oneof![
            bytes().prop_map(KeyRange::Single),
            (bytes(), bytes()).prop_map(|(from, to)| KeyRange::Range { from, to }),
            bytes().prop_map(KeyRange::From),
            Just(KeyRange::All),
        ]
    }

    #[derive(Debug, Clone)]
    enum Step {
        Put(Vec<u8>),
        Delete(Vec<u8>),
        DeleteRange(KeyRange),
        Compact { back: i64, keys_max: usize },
        Snapshot,
        Rebuild,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            20 => key().prop_map(Step::Put),
            6 => key().prop_map(Step::Delete),
            1 => range().prop_map(Step::DeleteRange),
            1 => (0..60_i64, 1..90_usize)
                .prop_map(|(back, keys_max)| Step::Compact { back, keys_max }),
            1 => Just(Step::Snapshot),
            1 => Just(Step::Rebuild),
        ]
    }

    fn listed(
        index: &KeyIndex,
        range: &KeyRange,
        revision: Revision,
        towards: Towards,
    ) -> Vec<(Vec<u8>, Position)> {
        let mut found = Vec::new();
        index.walk(range, revision, towards, |key, position| {
            found.push((key.to_vec(), position));
            ControlFlow::Continue(())
        });
        found
    }

    fn compare(index: &KeyIndex, model: &Model, from: i64, ranges: &[KeyRange]) {
        index.check();
        for (revision, map) in model.iter().enumerate().skip(from as usize) {
            let revision = Revision(revision as i64);
            assert_eq!(index.count_all(revision), map.len() as u64);
            for range in ranges {
                let mut expected: Vec<_> = map
                    .iter()
                    .filter(|(key, _)| range.contains(key))
                    .map(|(key, position)| (key.clone(), *position))
                    .collect();
                assert_eq!(index.count(range, revision), expected.len() as u64);
                assert_eq!(listed(index, range, revision, Towards::Greater), expected);
                expected.reverse();
                assert_eq!(listed(index, range, revision, Towards::Smaller), expected);
            }
        }
    }

    proptest! {
        #[test]
        fn the_index_answers_like_one_map_per_revision(
            steps in prop::collection::vec(step(), 1..400),
            ranges in prop::collection::vec(range(), 3),
        ) {
            let mut index = KeyIndex::default();
            let mut model: Model = vec![BTreeMap::new(); 2];
            let mut compacted = 0;
            let mut snapshots = Vec::new();
            for step in steps {
                let current = model.len() as i64 - 1;
                let next = Position::first(Revision(current + 1));
                let mut map = model[current as usize].clone();
                match step {
                    Step::Put(key) => {
                        let outcome = index.put(&key, next);
                        prop_assert_eq!(
                            outcome.previous.map(|life| life.position),
                            map.insert(key, next)
                        );
                        model.push(map);
                    }
                    Step::Delete(key) if map.contains_key(&key) => {
                        index.tombstone(&key, next);
                        map.remove(&key);
                        model.push(map);
                    }
                    Step::Delete(key) => prop_assert!(index.life(&key).is_none()),
                    Step::DeleteRange(range) => {
                        let found = listed(&index, &range, Revision(current), Towards::Greater);
                        for (sub, (key, _)) in found.iter().enumerate() {
                            index.tombstone(key, Position { sub: sub as u32, ..next });
                            map.remove(key);
                        }
                        if !found.is_empty() {
                            model.push(map);
                        }
                    }
                    Step::Compact { back, keys_max } => {
                        compacted = compacted.max(current - back);
                        let at = Revision(compacted);
                        let mut from = Some(Vec::new());
                        while let Some(key) = from {
                            from = index.compact(&key, at, keys_max);
                            prop_assert!(from.as_ref().is_none_or(|next| *next > key));
                        }
                    }
                    Step::Snapshot => snapshots.push((index.clone(), model.clone(), compacted)),
                    Step::Rebuild => {
                        let before = index.check();
                        index.merge(std::iter::empty());
                        prop_assert_eq!(index.check(), before);
                    }
                }
            }
            compare(&index, &model, compacted.max(0), &ranges);
            for (snapshot, model, compacted) in snapshots.iter().rev().take(3) {
                compare(snapshot, model, (*compacted).max(0), &ranges);
            }
        }
    }

    proptest! {
        #[test]
        fn an_index_merged_from_sorted_runs_equals_one_that_grew(
            puts in prop::collection::vec((key(), any::<bool>()), 1..300),
            run_length in 1..200_usize,
            ranges in prop::collection::vec(range(), 3),
        ) {
            let mut grown = KeyIndex::default();
            let mut model: Model = vec![BTreeMap::new(); 2];
            let mut records = Vec::new();
            for (key, delete) in puts {
                let mut map = model.last().expect("never empty").clone();
                let position = Position::first(Revision(model.len() as i64));
                let (created, version) = match delete && map.remove(&key).is_some() {
                    true => {
                        grown.tombstone(&key, position);
                        (Revision(0), 0)
                    }
                    false => {
                        let outcome = grown.put(&key, position);
                        map.insert(key.clone(), position);
                        (outcome.created, outcome.version)
                    }
                };
                let change = Change::new(position, version == 0);
                records.push((key, Restored { change, created, version }));
                model.push(map);
            }
            let mut merged = KeyIndex::default();
            for run in records.chunks(run_length) {
                let mut run = run.to_vec();
                run.sort_by(|left, right| left.0.cmp(&right.0));
                merged.merge(run.iter().map(|(key, record)| (&key[..], *record)));
            }
            prop_assert_eq!(merged.check(), grown.check());
            prop_assert_eq!(merged.summary, grown.summary);
            compare(&merged, &model, 0, &ranges);
            for (key, _) in &records {
                prop_assert_eq!(merged.life(key), grown.life(key));
            }
        }
    }

    #[test]
    fn compacting_all_deleted_keys_leaves_an_empty_tree() {
        let mut index = KeyIndex::default();
        let keys: Vec<_> = (0..5000_u32)
            .map(|number| format!("{:08x}", number * 77_777))
            .collect();
        let mut revision = 2;
        for key in &keys {
            index.put(key.as_bytes(), Position::first(Revision(revision)));
            revision += 1;
        }
        let full = index.heap_bytes();
        for (sub, key) in keys.iter().enumerate() {
            let position = Position {
                revision: Revision(revision),
                sub: sub as u32,
            };
            index.tombstone(key.as_bytes(), position);
        }
        let mut from = Some(Vec::new());
        let mut steps = 0;
        while let Some(key) = from {
            from = index.compact(&key, Revision(revision + 1), 100);
            index.check();
            steps += 1;
        }
        assert_eq!(
            (index.check().len(), index.live(), index.summary.spare),
            (0, 0, 0)
        );
        assert!(steps >= keys.len() / 100, "{steps} steps");
        assert!(index.heap_bytes() < full / 100);
    }
}
