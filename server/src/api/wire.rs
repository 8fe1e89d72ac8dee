//! Our answers as messages of the wire.

use mvcc::{KeyValue, RangeAnswer, Revision};
use proto::etcdserverpb::response_op::Response;
use proto::etcdserverpb::{
    DeleteRangeResponse, PutResponse, RangeResponse, ResponseHeader, ResponseOp, TxnResponse,
};
use proto::mvccpb;
use state_machine::{DeleteRangeAnswer, OperationAnswer, PutAnswer, TxnAnswer};

pub(super) fn pair(pair: &KeyValue) -> mvccpb::KeyValue {
    mvccpb::KeyValue {
        key: pair.key_bytes(),
        create_revision: pair.create_revision.0,
        mod_revision: pair.mod_revision.0,
        version: pair.version,
        value: pair.value_bytes(),
        lease: pair.lease.map_or(0, |lease| lease.0),
    }
}

pub(super) fn range(answer: &RangeAnswer, header: Option<ResponseHeader>) -> RangeResponse {
    RangeResponse {
        header,
        kvs: answer.pairs.iter().map(pair).collect(),
        more: answer.more,
        count: i64::try_from(answer.count).expect("fewer keys than 2^63"),
    }
}

pub(super) fn put(answer: &PutAnswer, header: Option<ResponseHeader>) -> PutResponse {
    PutResponse {
        header,
        prev_kv: answer.previous.as_ref().map(pair),
    }
}

pub(super) fn delete_range(
    answer: &DeleteRangeAnswer,
    header: Option<ResponseHeader>,
) -> DeleteRangeResponse {
    DeleteRangeResponse {
        header,
        deleted: i64::try_from(answer.deleted).expect("fewer keys than 2^63"),
        prev_kvs: answer.previous.iter().map(pair).collect(),
    }
}

pub(super) fn txn(answer: &TxnAnswer, header: Option<ResponseHeader>) -> TxnResponse {
    let responses = answer.operations.iter().map(operation).collect();
    TxnResponse {
        header,
        succeeded: answer.succeeded,
        responses,
    }
}

/// Headers inside a transaction hold a revision only, those of a nested one not even that.
fn operation(answer: &OperationAnswer) -> ResponseOp {
    let at = |revision: &Revision| {
        Some(ResponseHeader {
            revision: revision.0,
            ..ResponseHeader::default()
        })
    };
    let response = match answer {
        OperationAnswer::Range(answer) => {
            Response::ResponseRange(range(answer, at(&answer.revision)))
        }
        OperationAnswer::Put(answer, revision) => Response::ResponsePut(put(answer, at(revision))),
        OperationAnswer::DeleteRange(answer, revision) => {
            Response::ResponseDeleteRange(delete_range(answer, at(revision)))
        }
        OperationAnswer::Txn(answer) => {
            Response::ResponseTxn(txn(answer, Some(ResponseHeader::default())))
        }
    };
    ResponseOp {
        response: Some(response),
    }
}
