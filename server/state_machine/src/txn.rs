//! Transactions: which list is done, whether it may be, and doing it.
//!
//! Everything is decided before anything is changed: the compares of the transaction and of those
//! inside it, on the taken path, see the state before; then every operation of that path is checked;
//! then all are carried out, in order, as one revision.

use std::cmp::Ordering;
use std::num::NonZeroUsize;

use mvcc::{KeyRange, KeyValue, LeaseId, RangeAnswer, RangeQuery, ReadError, Revision, View};

use crate::answer::{OperationAnswer, TxnAnswer};
use crate::command::{Compare, Operand, Operation, Put, Relation, Txn, TxnRange};
use crate::error::{ApplyError, Refusal};
use crate::kv::{self, Writer};

/// Pairs that a compare of a range looks at in one go, so that memory stays bounded however many
/// keys there are.
const COMPARE_PAGE: NonZeroUsize = NonZeroUsize::new(1000).expect("not zero");

/// A state of the key space that can be read.
pub(crate) trait Reader {
    fn range(&self, query: &RangeQuery) -> Result<RangeAnswer, ReadError>;
    /// Whether a key exists.
    fn exists(&self, key: &[u8]) -> Result<bool, ReadError>;
    /// The current revision.
    fn revision(&self) -> Revision;
    /// The revision of the last compaction, if there was one.
    fn compact_revision(&self) -> Option<Revision>;
    /// Whether there is a lease for a put to name.
    fn has_lease(&self, id: LeaseId) -> bool;
}

impl Reader for View {
    fn range(&self, query: &RangeQuery) -> Result<RangeAnswer, ReadError> {
        View::range(self, query)
    }

    fn exists(&self, key: &[u8]) -> Result<bool, ReadError> {
        Ok(self.get(key, None)?.is_some())
    }

    fn revision(&self) -> Revision {
        View::revision(self)
    }

    fn compact_revision(&self) -> Option<Revision> {
        View::compact_revision(self)
    }

    fn has_lease(&self, _: LeaseId) -> bool {
        unreachable!("transactions of reads put nothing")
    }
}

impl Reader for Writer<'_> {
    fn range(&self, query: &RangeQuery) -> Result<RangeAnswer, ReadError> {
        self.change.range(query)
    }

    fn exists(&self, key: &[u8]) -> Result<bool, ReadError> {
        Ok(self.change.exists(key))
    }

    fn revision(&self) -> Revision {
        self.change.revision()
    }

    fn compact_revision(&self) -> Option<Revision> {
        self.change.compact_revision()
    }

    fn has_lease(&self, id: LeaseId) -> bool {
        self.leases.get(id).is_some()
    }
}

/// The operations that a transaction will do.
struct Path<'t> {
    succeeded: bool,
    steps: Vec<Step<'t>>,
}

enum Step<'t> {
    Plain(&'t Operation),
    Txn(Path<'t>),
}

/// Does a transaction that only reads, in one state of the key space.
pub fn read(view: &View, txn: &Txn) -> Result<TxnAnswer, ApplyError> {
    let path = choose(view, txn)?;
    check(view, &path, &mut Vec::new())?;
    let mut operations = Vec::with_capacity(path.steps.len());
    for step in &path.steps {
        match step {
            Step::Plain(Operation::Range(range)) => {
                operations.push(OperationAnswer::Range(view.range(&range.query)?));
            }
            _ => unreachable!("only transactions of reads are read"),
        }
    }
    Ok(TxnAnswer {
        succeeded: path.succeeded,
        operations,
    })
}

/// Does a transaction as part of `writer`.
pub(crate) fn apply(writer: &mut Writer<'_>, txn: &Txn) -> Result<TxnAnswer, ApplyError> {
    let path = choose(writer, txn)?;
    check(writer, &path, &mut Vec::new())?;
    execute(writer, path)
}

fn choose<'t>(state: &impl Reader, txn: &'t Txn) -> Result<Path<'t>, ApplyError> {
    let mut succeeded = true;
    for compare in &txn.compares {
        if !holds(state, compare)? {
            succeeded = false;
            break;
        }
    }
    let operations = if succeeded {
        &txn.success
    } else {
        &txn.failure
    };
    let steps = operations
        .iter()
        .map(|operation| match operation {
            Operation::Txn(txn) => choose(state, txn).map(Step::Txn),
            plain => Ok(Step::Plain(plain)),
        })
        .collect::<Result<_, _>>()?;
    Ok(Path { succeeded, steps })
}

/// What the operations of a path do to keys before the next one is looked at.
enum Effect<'t> {
    Put(&'t [u8]),
    Delete(&'t KeyRange),
}

fn check<'t>(
    state: &impl Reader,
    path: &Path<'t>,
    before: &mut Vec<Effect<'t>>,
) -> Result<(), ApplyError> {
    for step in &path.steps {
        match step {
            Step::Txn(path) => check(state, path, before)?,
            Step::Plain(Operation::Range(range)) => check_range(state, range)?,
            Step::Plain(Operation::Put(put)) => {
                check_put(state, put, before)?;
                before.push(Effect::Put(&put.key));
            }
            Step::Plain(Operation::DeleteRange(delete)) => {
                before.push(Effect::Delete(&delete.keys));
            }
            Step::Plain(Operation::Txn(_)) => unreachable!("a path of its own"),
        }
    }
    Ok(())
}

fn check_range(state: &impl Reader, range: &TxnRange) -> Result<(), ApplyError> {
    let revision = Revision(range.revision);
    if revision > state.revision() {
        return Err(Refusal::FutureRevision.into());
    }
    // A store that was never compacted counts as compacted at -1.
    if range.revision != 0 && revision < state.compact_revision().unwrap_or(Revision(-1)) {
        return Err(Refusal::Compacted.into());
    }
    Ok(())
}

/// A put that keeps value or lease needs a pair that was there before the transaction, and that no
/// operation before it removes: etcd, which asks the first only, would panic over the second.
fn check_put(state: &impl Reader, put: &Put, before: &[Effect<'_>]) -> Result<(), ApplyError> {
    kv::check_lease(put, |id| state.has_lease(id))?;
    if !kv::needs_previous(put) {
        return Ok(());
    }
    let last = before.iter().rev().find(|effect| match effect {
        Effect::Put(key) => *key == put.key,
        Effect::Delete(keys) => keys.contains(&put.key),
    });
    let removed = matches!(last, Some(Effect::Delete(_)));
    match removed || !state.exists(&put.key)? {
        true => Err(Refusal::KeyNotFound.into()),
        false => Ok(()),
    }
}

fn execute(writer: &mut Writer<'_>, path: Path<'_>) -> Result<TxnAnswer, ApplyError> {
    let succeeded = path.succeeded;
    let mut operations = Vec::with_capacity(path.steps.len());
    for step in path.steps {
        operations.push(match step {
            Step::Txn(path) => OperationAnswer::Txn(execute(writer, path)?),
            Step::Plain(Operation::Range(range)) => {
                OperationAnswer::Range(writer.change.range(&range.query)?)
            }
            Step::Plain(Operation::Put(put)) => {
                let answer = kv::put(writer, put)?;
                OperationAnswer::Put(answer, writer.change.revision())
            }
            Step::Plain(Operation::DeleteRange(delete)) => {
                let answer = kv::delete_range(writer, delete)?;
                OperationAnswer::DeleteRange(answer, writer.change.revision())
            }
            Step::Plain(Operation::Txn(_)) => unreachable!("a path of its own"),
        });
    }
    Ok(TxnAnswer {
        succeeded,
        operations,
    })
}

/// Whether all keys of a range meet a condition, a page of them at a time.
fn holds(state: &impl Reader, compare: &Compare) -> Result<bool, ApplyError> {
    let mut query = RangeQuery::new(compare.keys.clone());
    query.limit = Some(COMPARE_PAGE);
    let mut first = true;
    loop {
        let answer = state.range(&query)?;
        if first && answer.pairs.is_empty() {
            // A value that is not there is neither equal nor unequal to anything.
            return Ok(!matches!(compare.operand, Operand::Value(_))
                && related(compare.relation, ordering(None, &compare.operand)));
        }
        let all = answer
            .pairs
            .iter()
            .all(|pair| related(compare.relation, ordering(Some(pair), &compare.operand)));
        if !all || !answer.more {
            return Ok(all);
        }
        first = false;
        let last = answer
            .pairs
            .last()
            .expect("a limit of more than nothing cut something off");
        query.keys = kv::after(&query.keys, last.key());
    }
}

/// How a field of a pair relates to an operand; a missing pair's numbers are 0.
fn ordering(pair: Option<&KeyValue>, operand: &Operand) -> Ordering {
    let number = |field: fn(&KeyValue) -> i64, wanted: &i64| pair.map_or(0, field).cmp(wanted);
    match operand {
        Operand::Version(wanted) => number(|pair| pair.version, wanted),
        Operand::CreateRevision(wanted) => number(|pair| pair.create_revision.0, wanted),
        Operand::ModRevision(wanted) => number(|pair| pair.mod_revision.0, wanted),
        Operand::Lease(wanted) => number(|pair| pair.lease.map_or(0, |lease| lease.0), wanted),
        Operand::Value(wanted) => pair.map_or(&[][..], KeyValue::value).cmp(wanted),
        Operand::Unknown => Ordering::Equal,
    }
}

fn related(relation: Relation, ordering: Ordering) -> bool {
    match relation {
        Relation::Equal => ordering.is_eq(),
        Relation::NotEqual => ordering.is_ne(),
        Relation::Greater => ordering.is_gt(),
        Relation::Less => ordering.is_lt(),
        Relation::Any => true,
    }
}
