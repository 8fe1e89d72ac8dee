//! What is checked of a request before anything else sees it.
//!
//! The order of the checks is etcd's: a request with several faults is refused for the same one.

use std::collections::BTreeSet;

use bytes::Bytes;
use proto::etcdserverpb::request_op::Request;
use proto::etcdserverpb::{DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest};

use super::status::BadRequest;

/// Operations in all lists of a transaction together; etcd bounds each list only, so that nesting
/// lets them multiply.
const OPERATIONS_MAX: usize = 10_000;
/// Transactions inside transactions.
const DEPTH_MAX: usize = 64;
/// Greatest numbers of `RangeRequest.sort_order` and `sort_target`.
const SORT_ORDER_MAX: i32 = 2;
const SORT_TARGET_MAX: i32 = 4;

/// Checks a range.
pub fn range(request: &RangeRequest) -> Result<(), BadRequest> {
    if request.key.is_empty() {
        return Err(BadRequest::EmptyKey);
    }
    let sorted = (0..=SORT_ORDER_MAX).contains(&request.sort_order)
        && (0..=SORT_TARGET_MAX).contains(&request.sort_target);
    if sorted {
        Ok(())
    } else {
        Err(BadRequest::InvalidSortOption)
    }
}

/// Checks a put.
pub fn put(request: &PutRequest) -> Result<(), BadRequest> {
    if request.key.is_empty() {
        return Err(BadRequest::EmptyKey);
    }
    if request.ignore_value && !request.value.is_empty() {
        return Err(BadRequest::ValueProvided);
    }
    if request.ignore_lease && request.lease != 0 {
        return Err(BadRequest::LeaseProvided);
    }
    Ok(())
}

/// Checks a deletion.
pub fn delete_range(request: &DeleteRangeRequest) -> Result<(), BadRequest> {
    if request.key.is_empty() {
        Err(BadRequest::EmptyKey)
    } else {
        Ok(())
    }
}

/// Checks a transaction, `operations_max` bounding each of its lists.
pub fn txn(request: &TxnRequest, operations_max: usize) -> Result<(), BadRequest> {
    let mut total = 0;
    lists(request, operations_max, 0, &mut total)?;
    overlap(&request.success)?;
    overlap(&request.failure)?;
    Ok(())
}

fn lists(
    request: &TxnRequest,
    operations_max: usize,
    depth: usize,
    total: &mut usize,
) -> Result<(), BadRequest> {
    let longest = request
        .compare
        .len()
        .max(request.success.len())
        .max(request.failure.len());
    *total += request.success.len() + request.failure.len();
    if longest > operations_max || *total > OPERATIONS_MAX || depth > DEPTH_MAX {
        return Err(BadRequest::TooManyOperations);
    }
    if request.compare.iter().any(|compare| compare.key.is_empty()) {
        return Err(BadRequest::EmptyKey);
    }
    for operation in request.success.iter().chain(&request.failure) {
        match &operation.request {
            Some(Request::RequestRange(request)) => range(request)?,
            Some(Request::RequestPut(request)) => put(request)?,
            Some(Request::RequestDeleteRange(request)) => delete_range(request)?,
            Some(Request::RequestTxn(request)) => {
                lists(request, operations_max - longest, depth + 1, total)?;
            }
            None => return Err(BadRequest::EmptyOperation),
        }
    }
    Ok(())
}

/// What one list of operations, with all inside, puts and deletes.
#[derive(Default)]
struct Touched {
    puts: BTreeSet<Bytes>,
    deletes: Vec<(Bytes, Bytes)>,
}

impl Touched {
    fn deletes(&self, key: &Bytes) -> bool {
        self.deletes.iter().any(|(from, end)| match end.is_empty() {
            true => from == key,
            false => from <= key && key < end,
        })
    }
}

/// Refuses a list of operations that puts a key twice, or puts and deletes it, whichever paths are
/// taken.
fn overlap(operations: &[RequestOp]) -> Result<Touched, BadRequest> {
    let mut touched = Touched::default();
    for operation in operations {
        if let Some(Request::RequestDeleteRange(delete)) = &operation.request {
            touched
                .deletes
                .push((delete.key.clone(), delete.range_end.clone()));
        }
    }
    for operation in operations {
        let Some(Request::RequestTxn(txn)) = &operation.request else {
            continue;
        };
        let success = overlap(&txn.success)?;
        let failure = overlap(&txn.failure)?;
        let taken = |key: &Bytes| touched.puts.contains(key) || touched.deletes(key);
        if success.puts.iter().any(taken) {
            return Err(BadRequest::DuplicateKey);
        }
        // Only one of the two lists is done, so both may put the same key.
        let taken_twice = |key: &Bytes| {
            touched.deletes(key) || touched.puts.contains(key) && !success.puts.contains(key)
        };
        if failure.puts.iter().any(taken_twice) {
            return Err(BadRequest::DuplicateKey);
        }
        touched.puts.extend(success.puts);
        touched.puts.extend(failure.puts);
        touched.deletes.extend(success.deletes);
        touched.deletes.extend(failure.deletes);
    }
    for operation in operations {
        let Some(Request::RequestPut(put)) = &operation.request else {
            continue;
        };
        if touched.deletes(&put.key) || !touched.puts.insert(put.key.clone()) {
            return Err(BadRequest::DuplicateKey);
        }
    }
    Ok(touched)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn op(request: Request) -> RequestOp {
        RequestOp {
            request: Some(request),
        }
    }

    fn put_op(key: &str) -> RequestOp {
        op(Request::RequestPut(PutRequest {
            key: key.to_owned().into(),
            ..Default::default()
        }))
    }

    fn delete_op(key: &str, end: &str) -> RequestOp {
        op(Request::RequestDeleteRange(DeleteRangeRequest {
            key: key.to_owned().into(),
            range_end: end.to_owned().into(),
            ..Default::default()
        }))
    }

    fn txn_op(success: Vec<RequestOp>, failure: Vec<RequestOp>) -> RequestOp {
        op(Request::RequestTxn(TxnRequest {
            success,
            failure,
            ..Default::default()
        }))
    }

    #[test]
    fn keys_touched_twice_are_found_as_etcd_finds_them() {
        let duplicate = Err(BadRequest::DuplicateKey);
        let cases = [
            (vec![put_op("a"), put_op("b")], Ok(())),
            (vec![put_op("a"), put_op("a")], duplicate),
            (vec![put_op("a"), delete_op("a", "")], duplicate),
            (vec![put_op("b"), delete_op("a", "c")], duplicate),
            (vec![put_op("c"), delete_op("a", "c")], Ok(())),
            // A deletion up to the end covers nothing in this check.
            (vec![put_op("b"), delete_op("a", "\0")], Ok(())),
            (vec![delete_op("a", "c"), delete_op("b", "d")], Ok(())),
            (vec![txn_op(vec![put_op("a")], vec![put_op("a")])], Ok(())),
            (
                vec![txn_op(vec![put_op("a")], vec![]), put_op("a")],
                duplicate,
            ),
            (
                vec![
                    txn_op(vec![put_op("a")], vec![]),
                    txn_op(vec![], vec![put_op("a")]),
                ],
                duplicate,
            ),
            (
                vec![
                    txn_op(vec![put_op("a")], vec![]),
                    txn_op(vec![delete_op("a", "")], vec![]),
                ],
                Ok(()),
            ),
            (
                vec![
                    txn_op(vec![delete_op("a", "")], vec![]),
                    txn_op(vec![put_op("a")], vec![]),
                ],
                duplicate,
            ),
        ];
        for (number, (success, expected)) in cases.into_iter().enumerate() {
            let request = TxnRequest {
                success,
                ..Default::default()
            };
            assert_eq!(txn(&request, 128), expected, "case {number}");
        }
    }

    #[test]
    fn nested_lists_share_what_the_outer_ones_leave() {
        let nested = |inner: usize| TxnRequest {
            success: vec![
                put_op("x"),
                txn_op((0..inner).map(|n| put_op(&n.to_string())).collect(), vec![]),
            ],
            ..Default::default()
        };
        assert_eq!(txn(&nested(8), 10), Ok(()));
        assert_eq!(txn(&nested(9), 10), Err(BadRequest::TooManyOperations));
    }
}
