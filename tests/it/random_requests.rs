//! Some thousands of random requests, odd ones included, to the server under test and to real etcd.

use std::collections::HashSet;

use bytes::Bytes;
use holdfast_tests::dice::{self, Dice};
use proto::etcdserverpb::compare::TargetUnion;
use proto::etcdserverpb::request_op::Request as Operation;
use proto::etcdserverpb::{
    CompactionRequest, Compare, DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest,
};

use crate::conversation::{Answer, Pair, Request};

const REQUESTS: usize = 4_000;
/// Transactions inside transactions.
const DEPTH_MAX: u32 = 3;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_requests_are_answered_as_etcd_answers_them() {
    let seed = dice::seed(20_261_125);
    let mut dice = Dice::new(seed);
    let mut pair = Pair::start().await;
    let (mut revision, mut refused) = (1, 0);
    // Where etcd must not compact, see the rules of KV: at 0 it spoils its hashes, and at a revision
    // that removed a key and put it again it loses the key and ends.
    let mut spoiled = HashSet::from([0]);
    for number in 0..REQUESTS {
        let mut request = any_request(&mut dice, revision);
        if let Request::Compact(compaction) = &mut request {
            while spoiled.contains(&compaction.revision) {
                compaction.revision -= 1;
            }
        }
        let answer = match pair.ask(&request).await {
            Ok(answer) => answer,
            Err(difference) => panic!("request {number} of TEST_SEED={seed}: {difference}"),
        };
        refused += usize::from(answer.refusal().is_some());
        revision = revision_of(&answer).unwrap_or(revision);
        if matches!(&request, Request::Txn(txn) if removes(txn)) {
            spoiled.insert(revision);
        }
    }
    assert!(
        refused > REQUESTS / 20,
        "hardly anything was refused: {refused}"
    );
    assert!(
        revision > REQUESTS as i64 / 10,
        "hardly anything was changed: {revision}"
    );
    let hashes = pair.ask(&Request::HashKv(0)).await;
    assert!(hashes.is_ok(), "TEST_SEED={seed}: {hashes:?}");
}

fn revision_of(answer: &Answer) -> Option<i64> {
    let header = match answer {
        Answer::Range(found) => &found.header,
        Answer::Put(found) => &found.header,
        Answer::DeleteRange(found) => &found.header,
        Answer::Txn(found) => &found.header,
        Answer::Compact(found) => &found.header,
        Answer::HashKv(found) => &found.header,
        Answer::Refused { .. } => return None,
    };
    header.as_ref().map(|header| header.revision)
}

fn any_request(dice: &mut Dice, revision: i64) -> Request {
    match dice.below(100) {
        0..30 => Request::Put(any_put(dice)),
        30..42 => Request::DeleteRange(any_delete(dice)),
        42..65 => Request::Range(any_range(dice, revision)),
        65..96 => {
            let mut txn = any_txn(dice, revision, DEPTH_MAX);
            if removes(&txn) {
                keep_nothing(&mut txn);
            }
            Request::Txn(txn)
        }
        96..98 => Request::HashKv(some_revision(dice, revision).max(0)),
        _ => {
            let compacted = revision - dice.between(-1, 60);
            Request::Compact(CompactionRequest {
                revision: compacted,
                // Deletion in the background would race with the hashes.
                physical: true,
            })
        }
    }
}

fn any_put(dice: &mut Dice) -> PutRequest {
    let ignore_value = dice.one_in(8);
    PutRequest {
        key: any_key(dice),
        value: if ignore_value && !dice.one_in(4) {
            Bytes::new()
        } else {
            any_value(dice)
        },
        lease: if dice.one_in(20) {
            dice.pick(&[1, -1, i64::MAX])
        } else {
            0
        },
        prev_kv: dice.one_in(3),
        ignore_value,
        ignore_lease: dice.one_in(8),
    }
}

fn any_delete(dice: &mut Dice) -> DeleteRangeRequest {
    let (key, range_end) = any_interval(dice);
    DeleteRangeRequest {
        key,
        range_end,
        prev_kv: dice.one_in(2),
    }
}

fn any_range(dice: &mut Dice, revision: i64) -> RangeRequest {
    let (key, range_end) = any_interval(dice);
    let filter = |dice: &mut Dice| {
        if dice.one_in(10) {
            some_revision(dice, revision)
        } else {
            0
        }
    };
    RangeRequest {
        key,
        range_end,
        limit: if dice.one_in(2) {
            dice.between(-1, 6)
        } else {
            0
        },
        revision: if dice.one_in(3) {
            some_revision(dice, revision)
        } else {
            0
        },
        sort_order: dice.between(0, 2) as i32,
        sort_target: if dice.one_in(3) {
            dice.between(0, 4) as i32
        } else {
            0
        },
        serializable: dice.one_in(4),
        keys_only: dice.one_in(5),
        count_only: dice.one_in(8),
        min_mod_revision: filter(dice),
        max_mod_revision: filter(dice),
        min_create_revision: filter(dice),
        max_create_revision: filter(dice),
    }
}

fn any_txn(dice: &mut Dice, revision: i64, depth: u32) -> TxnRequest {
    let compares = dice.below(3);
    TxnRequest {
        compare: (0..compares).map(|_| any_compare(dice, revision)).collect(),
        success: any_operations(dice, revision, depth),
        failure: any_operations(dice, revision, depth),
    }
}

/// A txn that removes a key and then puts it with its old value or lease ends etcd itself, whose check
/// sees the key still there; the rules of KV have a test that it does not end holdfast.
fn keep_nothing(txn: &mut TxnRequest) {
    for operation in txn.success.iter_mut().chain(&mut txn.failure) {
        match &mut operation.request {
            Some(Operation::RequestPut(put)) => {
                (put.ignore_value, put.ignore_lease) = (false, false);
            }
            Some(Operation::RequestTxn(txn)) => keep_nothing(txn),
            _ => {}
        }
    }
}

fn removes(txn: &TxnRequest) -> bool {
    txn.success
        .iter()
        .chain(&txn.failure)
        .any(|operation| match &operation.request {
            Some(Operation::RequestDeleteRange(_)) => true,
            Some(Operation::RequestTxn(txn)) => removes(txn),
            _ => false,
        })
}

fn any_operations(dice: &mut Dice, revision: i64, depth: u32) -> Vec<RequestOp> {
    let count = dice.below(4);
    (0..count)
        .map(|_| any_operation(dice, revision, depth))
        .collect()
}

fn any_operation(dice: &mut Dice, revision: i64, depth: u32) -> RequestOp {
    let request = match dice.below(20) {
        0..8 => Operation::RequestPut(any_put(dice)),
        8..11 => Operation::RequestDeleteRange(any_delete(dice)),
        11..16 => Operation::RequestRange(any_range(dice, revision)),
        _ if depth > 0 => Operation::RequestTxn(any_txn(dice, revision, depth - 1)),
        _ => return RequestOp { request: None },
    };
    RequestOp {
        request: Some(request),
    }
}

fn any_compare(dice: &mut Dice, revision: i64) -> Compare {
    let union = match dice.below(7) {
        0 => None,
        1 => Some(TargetUnion::CreateRevision(some_revision(dice, revision))),
        2 => Some(TargetUnion::ModRevision(some_revision(dice, revision))),
        3 => Some(TargetUnion::Value(any_value(dice))),
        4 => Some(TargetUnion::Lease(dice.between(-1, 1))),
        _ => Some(TargetUnion::Version(dice.between(0, 3))),
    };
    let fitting = match &union {
        None | Some(TargetUnion::Version(_)) => 0,
        Some(TargetUnion::CreateRevision(_)) => 1,
        Some(TargetUnion::ModRevision(_)) => 2,
        Some(TargetUnion::Value(_)) => 3,
        Some(TargetUnion::Lease(_)) => 4,
    };
    let (key, range_end) = any_interval(dice);
    Compare {
        result: if dice.one_in(20) {
            9
        } else {
            dice.between(0, 3) as i32
        },
        target: if dice.one_in(6) {
            dice.between(0, 5) as i32
        } else {
            fitting
        },
        key,
        target_union: union,
        range_end: if dice.one_in(3) {
            range_end
        } else {
            Bytes::new()
        },
    }
}

/// Mostly near the newest one; sometimes none, or one that cannot be.
fn some_revision(dice: &mut Dice, newest: i64) -> i64 {
    match dice.below(12) {
        0 => 0,
        1 => dice.pick(&[-1, i64::MIN, i64::MAX, newest + 1]),
        2 => dice.between(1, newest),
        _ => (newest - dice.between(0, 20)).max(1),
    }
}

fn any_interval(dice: &mut Dice) -> (Bytes, Bytes) {
    let key = any_key(dice);
    let range_end = match dice.below(6) {
        0 | 1 => Bytes::new(),
        2 => Bytes::from_static(b"\0"),
        3 => [&key[..], b"\xff"].concat().into(),
        _ => any_key(dice),
    };
    (key, range_end)
}

fn any_key(dice: &mut Dice) -> Bytes {
    let keys: [&'static [u8]; 16] = [
        b"a",
        b"b",
        b"c",
        b"d",
        b"aa",
        b"ab",
        b"b\0",
        b"ba",
        b"\0",
        b"\0\0",
        b"\xff",
        b"\xff\xff",
        b"k/1",
        b"k/2",
        b"k/10",
        b"k/",
    ];
    if dice.one_in(60) {
        Bytes::new()
    } else {
        Bytes::from_static(dice.pick(&keys))
    }
}

fn any_value(dice: &mut Dice) -> Bytes {
    match dice.below(10) {
        0 => Bytes::new(),
        1 => vec![b'v'; dice.below(5_000) as usize].into(),
        _ => format!("{}", dice.below(30)).into(),
    }
}
