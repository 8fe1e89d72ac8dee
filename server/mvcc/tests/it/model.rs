//! The store against one map per revision.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;

use bytes::Bytes;
use mvcc::{
    CompactionState, Content, EventKind, Filters, KeyRange, KeyValue, LeaseId, Order, RangeQuery,
    ReadError, RecordKey, Refusal, Revision, SortBy, View,
};
use proptest::prelude::*;

use crate::setup::Member;

/// A pair as the model knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Pair {
    value: Vec<u8>,
    create: i64,
    modified: i64,
    version: i64,
    lease: i64,
}

type Map = BTreeMap<Vec<u8>, Pair>;

/// Pairs, count, and whether there are more.
type Answer = (Vec<(Vec<u8>, Pair)>, u64, bool);

/// What the store should know.
#[derive(Debug, Clone)]
struct Model {
    /// The map as of each revision.
    maps: Vec<Map>,
    /// Changes of each revision: the key, and the pair unless it was deleted.
    changes: Vec<Vec<(Vec<u8>, Option<Pair>)>>,
    compacted: Option<i64>,
}

#[derive(Debug, Clone)]
enum Operation {
    Put {
        key: Vec<u8>,
        value: Vec<u8>,
        lease: i64,
    },
    Delete(KeyRange),
}

#[derive(Debug, Clone)]
enum Step {
    Transaction(Vec<Operation>),
    Query(Box<RangeQuery>, i64),
    KeepView,
    Commit,
    CommitAround(Vec<Operation>),
    Compact { back: i64 },
    CompactSteps { count: usize, entries: usize },
    Restart,
    Crash,
}

impl Model {
    fn new() -> Model {
        Model {
            maps: vec![Map::new(); 2],
            changes: vec![vec![]; 2],
            compacted: None,
        }
    }

    fn revision(&self) -> i64 {
        self.maps.len() as i64 - 1
    }

    fn apply(&mut self, operations: &[Operation]) {
        let next = self.revision() + 1;
        let mut map = self.maps[self.revision() as usize].clone();
        let mut changes = Vec::new();
        for operation in operations {
            match operation {
                Operation::Put { key, value, lease } => {
                    let before = map.get(key);
                    let pair = Pair {
                        value: value.clone(),
                        create: before.map_or(next, |pair| pair.create),
                        modified: next,
                        version: before.map_or(1, |pair| pair.version + 1),
                        lease: *lease,
                    };
                    map.insert(key.clone(), pair.clone());
                    changes.push((key.clone(), Some(pair)));
                }
                Operation::Delete(range) => {
                    let keys: Vec<_> = map
                        .keys()
                        .filter(|key| range.contains(key))
                        .cloned()
                        .collect();
                    for key in keys {
                        map.remove(&key);
                        changes.push((key, None));
                    }
                }
            }
        }
        if !changes.is_empty() {
            self.maps.push(map);
            self.changes.push(changes);
        }
    }

    fn answer(&self, query: &RangeQuery) -> Result<Answer, Refusal> {
        let current = self.revision();
        let at = query.revision.map_or(current, |revision| revision.0);
        if at > current {
            return Err(Refusal::FutureRevision {
                current: Revision(current),
            });
        }
        if let Some(compacted) = self.compacted.filter(|compacted| at < *compacted) {
            return Err(Refusal::Compacted {
                oldest: Revision(compacted),
            });
        }
        let all = self.maps[at as usize]
            .iter()
            .filter(|(key, _)| query.keys.contains(key));
        let mut pairs: Vec<_> = all.map(|(key, pair)| (key.clone(), pair.clone())).collect();
        let count = pairs.len() as u64;
        if query.content == Content::CountOnly {
            return Ok((vec![], count, false));
        }
        let limit = query.limit.map_or(usize::MAX, |limit| limit.get());
        let filters = &query.filters;
        if query.order == Order::Unspecified && !filters.is_set() {
            pairs.truncate(limit.saturating_add(1));
        }
        pairs.retain(|(_, pair)| {
            filters
                .mod_revision_min
                .is_none_or(|min| pair.modified >= min.0)
                && filters
                    .mod_revision_max
                    .is_none_or(|max| pair.modified <= max.0)
                && filters
                    .create_revision_min
                    .is_none_or(|min| pair.create >= min.0)
                && filters
                    .create_revision_max
                    .is_none_or(|max| pair.create <= max.0)
        });
        pairs.sort_by(|left, right| match query.sort_by {
            SortBy::Key => left.0.cmp(&right.0),
            SortBy::Version => left.1.version.cmp(&right.1.version),
            SortBy::CreateRevision => left.1.create.cmp(&right.1.create),
            SortBy::ModRevision => left.1.modified.cmp(&right.1.modified),
            SortBy::Value => left.1.value.cmp(&right.1.value),
        });
        if query.order == Order::Descending {
            pairs.reverse();
        }
        let more = pairs.len() > limit;
        pairs.truncate(limit);
        if query.content == Content::KeysOnly {
            pairs.iter_mut().for_each(|(_, pair)| pair.value.clear());
        }
        Ok((pairs, count, more))
    }
}

fn told(pair: &KeyValue) -> (Vec<u8>, Pair) {
    let told = Pair {
        value: pair.value().to_vec(),
        create: pair.create_revision.0,
        modified: pair.mod_revision.0,
        version: pair.version,
        lease: pair.lease.map_or(0, |lease| lease.0),
    };
    (pair.key().to_vec(), told)
}

fn sort_value(query: &RangeQuery, pair: &(Vec<u8>, Pair)) -> (Vec<u8>, i64) {
    match query.sort_by {
        SortBy::Key => (pair.0.clone(), 0),
        SortBy::Value => (pair.1.value.clone(), 0),
        SortBy::Version => (vec![], pair.1.version),
        SortBy::CreateRevision => (vec![], pair.1.create),
        SortBy::ModRevision => (vec![], pair.1.modified),
    }
}

fn check_query(view: &View, model: &Model, query: &RangeQuery) {
    let answer = match (view.range(query), model.answer(query)) {
        (Err(ReadError::Refused(refusal)), expected) => {
            assert_eq!(Err(refusal), expected);
            return;
        }
        (answer, expected) => (answer.unwrap(), expected.unwrap()),
    };
    let (answer, (pairs, count, more)) = answer;
    assert_eq!((answer.count, answer.more), (count, more), "{query:?}");
    assert_eq!(answer.revision.0, model.revision());
    let found: Vec<_> = answer.pairs.iter().map(told).collect();
    // Where sort keys are equal any order is right, and so is any choice at the limit.
    let keys = |list: &[_]| {
        list.iter()
            .map(|pair| sort_value(query, pair))
            .collect::<Vec<_>>()
    };
    assert_eq!(keys(&found), keys(&pairs), "{query:?}");
    if query.limit.is_none() || query.sort_by == SortBy::Key {
        let sorted = |mut list: Vec<(Vec<u8>, Pair)>| {
            list.sort_by(|left, right| left.0.cmp(&right.0));
            list
        };
        assert_eq!(sorted(found), sorted(pairs), "{query:?}");
    }
}

/// Everything that can still be read is what the model says.
fn check_view(view: &View, model: &Model) {
    assert_eq!(view.revision().0, model.revision());
    assert_eq!(
        view.compact_revision().map(|revision| revision.0),
        model.compacted
    );
    let oldest = model.compacted.unwrap_or(0).max(1);
    for at in oldest..=model.revision() {
        let query = RangeQuery {
            revision: Some(Revision(at)),
            ..RangeQuery::new(KeyRange::All)
        };
        check_query(view, model, &query);
    }
    let mut told_history = Vec::new();
    for event in view.history(Revision(oldest)).unwrap() {
        let event = event.unwrap();
        let at = event.position.revision.0;
        assert_eq!(event.pair.mod_revision.0, at);
        let (key, pair) = told(&event.pair);
        let before = model.maps[at as usize - 1].get(&key);
        if at > oldest {
            let creation = event.is_creation();
            let previous = view.previous(&event).unwrap().map(|pair| told(&pair).1);
            assert_eq!(previous.as_ref(), before.filter(|_| !creation));
        }
        told_history.push((at, key, (event.kind == EventKind::Put).then_some(pair)));
    }
    let expected = (oldest..=model.revision()).flat_map(|at| {
        model.changes[at as usize]
            .iter()
            .map(move |(key, pair)| (at, key.clone(), pair.clone()))
    });
    // At the compacted revision itself only what a reader or watcher there needs is left.
    let above = |list: Vec<(i64, Vec<u8>, Option<Pair>)>| {
        list.into_iter()
            .filter(|change| Some(change.0) != model.compacted)
            .collect::<Vec<_>>()
    };
    assert_eq!(above(told_history), above(expected.collect()));
}

/// Applies to the store, checking what each operation tells on the way.
fn transact(member: &mut Member, model: &mut Model, operations: &[Operation]) {
    let mut change = member.store.change();
    for (done, operation) in operations.iter().enumerate() {
        let mut inside = model.clone();
        inside.apply(&operations[..done]);
        let map = &inside.maps[inside.revision() as usize];
        assert_eq!(change.revision().0, inside.revision());
        match operation {
            Operation::Put { key, value, lease } => {
                let lease = Some(*lease).filter(|id| *id != 0).map(LeaseId);
                let put = change.put(key, value, lease);
                let previous = put.previous.map(|at| told(&change.pair(at).unwrap()).1);
                assert_eq!(previous.as_ref(), map.get(key));
                assert_eq!(
                    change.get(key).unwrap().map(|pair| pair.version),
                    Some(put.version)
                );
            }
            Operation::Delete(range) => {
                let removed: Vec<_> = change
                    .delete_range(range)
                    .into_iter()
                    .map(|removed| told(&change.pair(removed.previous).unwrap()))
                    .collect();
                let expected: Vec<_> = map
                    .iter()
                    .filter(|(key, _)| range.contains(key))
                    .map(|(key, pair)| (key.clone(), pair.clone()))
                    .collect();
                assert_eq!(removed, expected);
            }
        }
    }
    let changed = change.finish();
    model.apply(operations);
    match changed {
        None => assert_eq!(member.store.revision().0, model.revision()),
        Some(changed) => {
            assert_eq!(changed.revision.0, model.revision());
            assert_eq!(
                changed.events.len(),
                model.changes[changed.revision.0 as usize].len()
            );
        }
    }
}

fn run(steps: Vec<Step>) {
    let mut member = Member::new();
    let mut model = Model::new();
    let mut durable = model.clone();
    let mut kept: Vec<(View, Model)> = Vec::new();
    for step in steps {
        match step {
            Step::Transaction(operations) => transact(&mut member, &mut model, &operations),
            Step::Query(query, back) => {
                let revision = (back >= -1).then(|| Revision(model.revision() - back));
                let query = RangeQuery { revision, ..*query };
                if query.revision.is_none_or(|revision| revision.0 > 0) {
                    check_query(&member.store.view(), &model, &query);
                }
            }
            Step::KeepView => kept.push((member.store.view(), model.clone())),
            Step::Commit => {
                member.commit();
                durable = model.clone();
            }
            Step::CommitAround(operations) => {
                durable = model.clone();
                member.commit_around(|member| transact(member, &mut model, &operations));
            }
            Step::Compact { back } => {
                let at = model.revision() - back;
                let refused = model.compacted.is_some_and(|compacted| at <= compacted);
                if at >= 0 {
                    assert_eq!(
                        member.store.schedule_compaction(Revision(at)).is_err(),
                        refused || at > model.revision()
                    );
                    if !refused && at <= model.revision() {
                        model.compacted = Some(at);
                    }
                }
            }
            Step::CompactSteps { count, entries } => {
                for _ in 0..count {
                    if member.store.compact_step(entries).unwrap()
                        == CompactionState::WaitsForCommit
                    {
                        member.commit();
                        durable = model.clone();
                    }
                }
            }
            Step::Restart => {
                member = member.restart();
                durable = model.clone();
                check_view(&member.store.view(), &model);
            }
            Step::Crash => {
                member = member.crash();
                model = durable.clone();
                check_view(&member.store.view(), &model);
            }
        }
        assert_eq!(member.store.revision().0, model.revision());
    }
    check_view(&member.store.view(), &model);
    kept.push((member.store.view(), model.clone()));
    member.finish_compaction(3);
    check_hashes_and_restart(member, &model);
    for (view, model) in &kept {
        check_view(view, model);
    }
}

/// Once compacted, what is stored is exactly what the rule leaves, and hashes come out the same
/// after a start.
fn check_hashes_and_restart(member: Member, model: &Model) {
    let hashes = |member: &Member| -> Vec<_> {
        let oldest = model.compacted.unwrap_or(0) + 1;
        (oldest..=model.revision())
            .map(|at| member.store.view().hash(Some(Revision(at))).unwrap())
            .collect()
    };
    let before = hashes(&member);
    let member = member.restart();
    for hash in &before {
        assert_eq!(
            hash.hash,
            expected_hash(&member, model, hash.revision.0),
            "{hash:?}"
        );
    }
    assert_eq!(hashes(&member), before);
    check_view(&member.store.view(), model);
    assert_eq!(member.stored(), expected_records(model));
    let leases: Vec<_> = model.maps[model.revision() as usize]
        .iter()
        .filter(|(_, pair)| pair.lease != 0)
        .map(|(key, pair)| (Bytes::copy_from_slice(key), LeaseId(pair.lease)))
        .collect();
    assert_eq!(member.attached, leases);
}

/// The hash by its definition, over the records that are left of a finished compaction.
fn expected_hash(member: &Member, model: &Model, at: i64) -> u32 {
    let compacted = model.compacted.unwrap_or(-1);
    let mut newest: BTreeMap<&[u8], (i64, u32, bool)> = BTreeMap::new();
    for (revision, changes) in (0..).zip(&model.changes).take(at as usize + 1) {
        for (sub, (key, pair)) in (0..).zip(changes) {
            newest.insert(key, (revision, sub, pair.is_some()));
        }
    }
    let keep: Vec<_> = newest.into_values().filter(|(_, _, live)| *live).collect();
    let mut hash = crc32c::crc32c(b"key");
    for (stored, record) in member.entries() {
        let key = RecordKey::decode(&stored).expect("a record's key");
        let revision = key.position.revision.0;
        let kept = keep.contains(&(revision, key.position.sub, true));
        let skipped = revision > at
            || (revision <= compacted && !keep.is_empty() && !kept)
            || (revision == compacted && key.tombstone);
        if !skipped {
            hash = crc32c::crc32c_append(hash, &stored);
            hash = crc32c::crc32c_append(hash, &record);
        }
    }
    hash
}

fn expected_records(model: &Model) -> Vec<String> {
    let compacted = model.compacted.unwrap_or(-1);
    let mut records = Vec::new();
    let mut newest: BTreeMap<&[u8], (i64, usize)> = BTreeMap::new();
    for (at, changes) in model
        .changes
        .iter()
        .enumerate()
        .take((compacted + 1) as usize)
    {
        for (sub, (key, _)) in changes.iter().enumerate() {
            newest.insert(key, (at as i64, sub));
        }
    }
    for (at, changes) in model.changes.iter().enumerate() {
        let at = at as i64;
        for (sub, (key, pair)) in changes.iter().enumerate() {
            let last = newest.get(&key[..]) == Some(&(at, sub));
            let stays = match pair {
                None => at >= compacted,
                Some(_) => at > compacted || last,
            };
            if stays {
                records.push(format!(
                    "{at}_{sub}{}",
                    if pair.is_none() { "t" } else { "" }
                ));
            }
        }
    }
    records
}

fn key() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        (0..12_u8).prop_map(|number| format!("k{number:02}").into_bytes()),
        prop::collection::vec(0_u8..3, 1..4),
    ]
}

fn range() -> impl Strategy<Value = KeyRange> {
    let bytes = || key().prop_map(Bytes::from);
    prop_oneof![
        6 => bytes().prop_map(KeyRange::Single),
        4 => (bytes(), bytes()).prop_map(|(from, to)| KeyRange::Range { from, to }),
        1 => bytes().prop_map(KeyRange::From),
        1 => Just(KeyRange::All),
    ]
}

fn operation() -> impl Strategy<Value = Operation> {
    let value = prop_oneof![
        10 => prop::collection::vec(any::<u8>(), 0..5),
        1 => (1..20_000_usize).prop_map(|length| vec![7; length]),
    ];
    prop_oneof![
        4 => (key(), value, prop_oneof![3 => Just(0), 1 => -2..3_i64])
            .prop_map(|(key, value, lease)| Operation::Put { key, value, lease }),
        1 => range().prop_map(Operation::Delete),
    ]
}

fn query() -> impl Strategy<Value = RangeQuery> {
    let bound = || prop::option::weighted(0.15, (-1..30_i64).prop_map(Revision));
    let filters =
        (bound(), bound(), bound(), bound()).prop_map(|(min, max, create_min, create_max)| {
            Filters {
                mod_revision_min: min,
                mod_revision_max: max,
                create_revision_min: create_min,
                create_revision_max: create_max,
            }
        });
    let sort_by = prop_oneof![
        2 => Just(SortBy::Key),
        1 => Just(SortBy::Version),
        1 => Just(SortBy::CreateRevision),
        1 => Just(SortBy::ModRevision),
        1 => Just(SortBy::Value),
    ];
    let order = prop_oneof![
        Just(Order::Unspecified),
        Just(Order::Ascending),
        Just(Order::Descending)
    ];
    let content = prop_oneof![
        3 => Just(Content::Pairs),
        1 => Just(Content::KeysOnly),
        1 => Just(Content::CountOnly)
    ];
    let keys = prop_oneof![1 => range(), 1 => Just(KeyRange::All)];
    let limit = prop::option::of(1..6_usize);
    (keys, limit, content, filters, sort_by, order).prop_map(
        |(keys, limit, content, filters, sort_by, order)| RangeQuery {
            keys,
            revision: None,
            limit: limit.and_then(NonZeroUsize::new),
            content,
            filters,
            sort_by,
            order,
        },
    )
}

fn step() -> impl Strategy<Value = Step> {
    let transaction = || prop::collection::vec(operation(), 0..5);
    prop_oneof![
        12 => transaction().prop_map(Step::Transaction),
        12 => (query(), -3..12_i64).prop_map(|(query, back)| Step::Query(Box::new(query), back)),
        1 => Just(Step::KeepView),
        3 => Just(Step::Commit),
        2 => transaction().prop_map(Step::CommitAround),
        2 => (-1..10_i64).prop_map(|back| Step::Compact { back }),
        3 => (1..8_usize, 1..12_usize)
            .prop_map(|(count, entries)| Step::CompactSteps { count, entries }),
        1 => Just(Step::Restart),
        1 => Just(Step::Crash),
    ]
}

proptest! {
    #[test]
    fn the_store_answers_like_one_map_per_revision(
        steps in prop::collection::vec(step(), 1..80)
    ) {
        run(steps);
    }
}
