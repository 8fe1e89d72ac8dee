//! The same requests to the server under test and to real etcd, and what counts as the same answer.

use bytes::Bytes;
use holdfast_tests::client::Client;
use holdfast_tests::folder::Folder;
use holdfast_tests::member::{Member, Product};
use holdfast_tests::tools::EtcdVersion;
use proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use proto::etcdserverpb::request_op::Request as Operation;
use proto::etcdserverpb::response_op::Response as Outcome;
use proto::etcdserverpb::{
    CompactionRequest, CompactionResponse, DeleteRangeRequest, DeleteRangeResponse, HashKvRequest,
    HashKvResponse, PutRequest, PutResponse, RangeRequest, RangeResponse, RequestOp,
    ResponseHeader, ResponseOp, TxnRequest, TxnResponse,
};
use proto::mvccpb::KeyValue;
use tonic::Status;

/// What may be asked of both.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Request {
    Range(RangeRequest),
    Put(PutRequest),
    DeleteRange(DeleteRangeRequest),
    Txn(TxnRequest),
    Compact(CompactionRequest),
    HashKv(i64),
}

/// What was answered, without what legitimately differs between two clusters.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Answer {
    Range(RangeResponse),
    Put(PutResponse),
    DeleteRange(DeleteRangeResponse),
    Txn(TxnResponse),
    Compact(CompactionResponse),
    HashKv(HashKvResponse),
    Refused { code: tonic::Code, message: String },
}

impl Answer {
    /// The text of a refusal.
    pub(crate) fn refusal(&self) -> Option<&str> {
        match self {
            Answer::Refused { message, .. } => Some(message),
            _ => None,
        }
    }
}

impl Request {
    async fn send(&self, client: &Client) -> Answer {
        let mut kv = client.kv.clone();
        let answer = match self.clone() {
            Request::Range(request) => kv
                .range(request)
                .await
                .map(|a| Answer::Range(a.into_inner())),
            Request::Put(request) => kv.put(request).await.map(|a| Answer::Put(a.into_inner())),
            Request::DeleteRange(request) => kv
                .delete_range(request)
                .await
                .map(|a| Answer::DeleteRange(a.into_inner())),
            Request::Txn(request) => kv.txn(request).await.map(|a| Answer::Txn(a.into_inner())),
            Request::Compact(request) => kv
                .compact(request)
                .await
                .map(|a| Answer::Compact(a.into_inner())),
            Request::HashKv(revision) => {
                let request = HashKvRequest { revision };
                let answer = client.maintenance.clone().hash_kv(request).await;
                answer.map(|a| Answer::HashKv(a.into_inner()))
            }
        };
        answer.unwrap_or_else(|status| refused(&status))
    }
}

fn refused(status: &Status) -> Answer {
    Answer::Refused {
        code: status.code(),
        message: status.message().to_owned(),
    }
}

/// The server under test beside real etcd, both fresh, in step with each other.
pub(crate) struct Pair {
    ours: Member,
    theirs: Member,
    our_client: Client,
    their_client: Client,
    transcript: Vec<String>,
}

/// How much of the conversation is printed when the answers part.
const TRANSCRIPT_LINES_SHOWN: usize = 40;

impl Pair {
    pub(crate) async fn start() -> Pair {
        let ours = Member::start_on(Product::subject(), Folder::new(), &[]).await;
        let theirs = Member::start(Product::Etcd(EtcdVersion::V3_5)).await;
        Pair {
            our_client: ours.client(),
            their_client: theirs.client(),
            ours,
            theirs,
            transcript: Vec::new(),
        }
    }

    /// Asks both; `Err` holds what differs, with the conversation that led to it.
    pub(crate) async fn ask(&mut self, request: &Request) -> Result<Answer, String> {
        let (ours, theirs) = tokio::join!(
            request.send(&self.our_client),
            request.send(&self.their_client)
        );
        for (answer, member) in [(&ours, &self.ours), (&theirs, &self.theirs)] {
            let gone = matches!(
                answer,
                Answer::Refused {
                    code: tonic::Code::Unavailable,
                    ..
                }
            );
            // Two that are gone would agree from here on.
            assert!(
                !gone,
                "{:?} does not answer {request:?}: {answer:?}",
                member.product()
            );
        }
        let ours = comparable(request, ours);
        let theirs = comparable(request, theirs);
        self.transcript
            .push(format!("{request:?}\n      -> {theirs:?}"));
        let explained = || explained_difference(request, &ours, &theirs).is_some();
        if ours == theirs || explained() {
            return Ok(ours);
        }
        let skipped = self.transcript.len().saturating_sub(TRANSCRIPT_LINES_SHOWN);
        Err(format!(
            "conversation ({skipped} requests before it are left out):\n{}\n  \
             {:?} answered\n      -> {ours:?}\n  {:?} answered\n      -> {theirs:?}",
            self.transcript[skipped..].join("\n"),
            self.ours.product(),
            self.theirs.product(),
        ))
    }

    /// The newest revision, which must be the same on both.
    pub(crate) async fn revision(&self) -> i64 {
        let (ours, theirs) = self.revisions().await;
        assert_eq!(ours, theirs, "the two have lost step");
        ours
    }

    /// Deletes every key and brings both to the same revision, so that one difference is not followed
    /// by others that it caused.
    pub(crate) async fn fall_into_step(&mut self) {
        self.transcript.clear();
        let (ours, theirs) = self.revisions().await;
        let behind = if ours < theirs {
            &self.our_client
        } else {
            &self.their_client
        };
        for _ in 0..ours.abs_diff(theirs) {
            behind.put("step", "").await.expect("a put");
        }
        for client in [&self.our_client, &self.their_client] {
            client.put("step", "").await.expect("a put");
            let zero = Bytes::from_static(b"\0");
            let all = DeleteRangeRequest {
                key: zero.clone(),
                range_end: zero,
                prev_kv: false,
            };
            client.kv.clone().delete_range(all).await.expect("a delete");
        }
    }

    async fn revisions(&self) -> (i64, i64) {
        let of = |found: RangeResponse| found.header.map_or(0, |header| header.revision);
        let ours = of(self.our_client.everything().await);
        let theirs = of(self.their_client.everything().await);
        (ours, theirs)
    }
}

/// The only places where holdfast may answer differently from etcd 3.5, each with its reason.
fn explained_difference(request: &Request, ours: &Answer, theirs: &Answer) -> Option<&'static str> {
    let sorts_oddly = ours.refusal() == Some("etcdserver: invalid sort option");
    if sorts_oddly && has_invalid_sort(request) {
        return Some("KV-8: etcd checks sort options from 3.6 on, whose level we report");
    }
    let either = [ours.refusal(), theirs.refusal()];
    if matches!(request, Request::Txn(_))
        && either
            .iter()
            .all(|refusal| refusal.is_some_and(|text| FOUND_BEFORE_APPLYING.contains(&text)))
    {
        return Some(
            "KV-37: which of several faults is named. etcd 3.5 looks at all puts first; 3.6 takes \
             the operations in order, and 3.7 a put's lease before its key, as holdfast does",
        );
    }
    if let (Request::HashKv(_), Answer::HashKv(ours), Answer::HashKv(theirs)) =
        (request, ours, theirs)
    {
        let without = HashKvResponse {
            hash_revision: 0,
            ..*ours
        };
        if without == *theirs {
            return Some("MT-21: hash_revision exists from 3.6 on");
        }
    }
    None
}

/// Refusals of a txn after its compares and before its first change.
const FOUND_BEFORE_APPLYING: [&str; 4] = [
    "etcdserver: key not found",
    "etcdserver: requested lease not found",
    "etcdserver: mvcc: required revision has been compacted",
    "etcdserver: mvcc: required revision is a future revision",
];

fn has_invalid_sort(request: &Request) -> bool {
    let invalid = |range: &RangeRequest| {
        SortOrder::try_from(range.sort_order).is_err()
            || SortTarget::try_from(range.sort_target).is_err()
    };
    fn any(txn: &TxnRequest, invalid: &dyn Fn(&RangeRequest) -> bool) -> bool {
        txn.success
            .iter()
            .chain(&txn.failure)
            .any(|operation| match &operation.request {
                Some(Operation::RequestRange(range)) => invalid(range),
                Some(Operation::RequestTxn(txn)) => any(txn, invalid),
                _ => false,
            })
    }
    match request {
        Request::Range(range) => invalid(range),
        Request::Txn(txn) => any(txn, &invalid),
        _ => false,
    }
}

fn comparable(request: &Request, mut answer: Answer) -> Answer {
    match (request, &mut answer) {
        (Request::Range(request), Answer::Range(found)) => comparable_range(request, found),
        (Request::Txn(request), Answer::Txn(found)) => comparable_txn(request, found),
        (_, Answer::Put(found)) => comparable_header(&mut found.header),
        (_, Answer::DeleteRange(found)) => comparable_header(&mut found.header),
        (_, Answer::Compact(found)) => comparable_header(&mut found.header),
        (_, Answer::HashKv(found)) => comparable_header(&mut found.header),
        _ => {}
    }
    answer
}

fn comparable_header(header: &mut Option<ResponseHeader>) {
    if let Some(header) = header {
        // Zero stays zero: where etcd leaves a field out, it must be left out.
        header.cluster_id = header.cluster_id.min(1);
        header.member_id = header.member_id.min(1);
        header.raft_term = header.raft_term.min(1);
    }
}

fn comparable_txn(request: &TxnRequest, found: &mut TxnResponse) {
    comparable_header(&mut found.header);
    let branch = if found.succeeded {
        &request.success
    } else {
        &request.failure
    };
    for (RequestOp { request }, ResponseOp { response }) in branch.iter().zip(&mut found.responses)
    {
        match (request, response) {
            (Some(Operation::RequestRange(asked)), Some(Outcome::ResponseRange(found))) => {
                comparable_range(asked, found);
            }
            (Some(Operation::RequestTxn(asked)), Some(Outcome::ResponseTxn(found))) => {
                comparable_txn(asked, found);
            }
            (_, Some(Outcome::ResponsePut(found))) => comparable_header(&mut found.header),
            (_, Some(Outcome::ResponseDeleteRange(found))) => comparable_header(&mut found.header),
            _ => {}
        }
    }
}

/// KV-14: the order among equal sort keys is unspecified, and with a limit so is which of them are
/// shown. Then only the sequence of sort keys counts.
fn comparable_range(request: &RangeRequest, found: &mut RangeResponse) {
    comparable_header(&mut found.header);
    let Ok(target) = SortTarget::try_from(request.sort_target) else {
        return;
    };
    if target == SortTarget::Key {
        return;
    }
    assert_sorted(request, target, &found.kvs);
    if request.limit > 0 {
        found.kvs = found
            .kvs
            .iter()
            .map(|pair| only_sort_key(target, pair))
            .collect();
    } else {
        found.kvs.sort_by(|one, other| one.key.cmp(&other.key));
    }
}

fn assert_sorted(request: &RangeRequest, target: SortTarget, pairs: &[KeyValue]) {
    // Values are blanked after sorting by them.
    if request.keys_only && target == SortTarget::Value {
        return;
    }
    let Ok(order) = SortOrder::try_from(request.sort_order) else {
        return;
    };
    let falls = order == SortOrder::Descend;
    let in_order = pairs.windows(2).all(|pair| {
        let (one, other) = (sort_key(target, &pair[0]), sort_key(target, &pair[1]));
        if falls { one >= other } else { one <= other }
    });
    assert!(in_order, "{request:?} is out of order: {pairs:?}");
}

fn sort_key(target: SortTarget, pair: &KeyValue) -> (i64, Bytes) {
    match target {
        SortTarget::Key => (0, pair.key.clone()),
        SortTarget::Version => (pair.version, Bytes::new()),
        SortTarget::Create => (pair.create_revision, Bytes::new()),
        SortTarget::Mod => (pair.mod_revision, Bytes::new()),
        SortTarget::Value => (0, pair.value.clone()),
    }
}

fn only_sort_key(target: SortTarget, pair: &KeyValue) -> KeyValue {
    let mut only = KeyValue::default();
    match target {
        SortTarget::Key => only.key = pair.key.clone(),
        SortTarget::Version => only.version = pair.version,
        SortTarget::Create => only.create_revision = pair.create_revision,
        SortTarget::Mod => only.mod_revision = pair.mod_revision,
        SortTarget::Value => only.value = pair.value.clone(),
    }
    only
}
