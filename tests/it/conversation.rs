//! The same requests to the server under test and to real etcd, and what counts as the same answer.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use bytes::Bytes;
use holdfast_tests::calls::{call, with_token};
use holdfast_tests::client::Client;
use holdfast_tests::folder::Folder;
use holdfast_tests::member::{Member, Product};
use holdfast_tests::tools::EtcdVersion;
use holdfast_tests::watching::{Watching, watch};
use proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use proto::etcdserverpb::request_op::Request as Operation;
use proto::etcdserverpb::response_op::Response as Outcome;
use proto::etcdserverpb::{
    CompactionRequest, CompactionResponse, DeleteRangeRequest, DeleteRangeResponse, HashKvRequest,
    HashKvResponse, LeaseTimeToLiveRequest, PutRequest, PutResponse, RangeRequest, RangeResponse,
    RequestOp, ResponseHeader, ResponseOp, TxnRequest, TxnResponse, WatchCreateRequest,
    WatchResponse,
};
use proto::mvccpb::KeyValue;
use serde_json::Value;
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
    /// Any other unary call: its path and its encoded message.
    Call(&'static str, Bytes),
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
    Told(Value),
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
    async fn send(&self, client: &Client, token: &str) -> Answer {
        let mut kv = client.kv.clone();
        let answer = match self.clone() {
            Request::Range(request) => kv
                .range(with_token(request, token))
                .await
                .map(|a| Answer::Range(a.into_inner())),
            Request::Put(request) => kv
                .put(with_token(request, token))
                .await
                .map(|a| Answer::Put(a.into_inner())),
            Request::DeleteRange(request) => kv
                .delete_range(with_token(request, token))
                .await
                .map(|a| Answer::DeleteRange(a.into_inner())),
            Request::Txn(request) => kv
                .txn(with_token(request, token))
                .await
                .map(|a| Answer::Txn(a.into_inner())),
            Request::Compact(request) => kv
                .compact(with_token(request, token))
                .await
                .map(|a| Answer::Compact(a.into_inner())),
            Request::HashKv(revision) => {
                let request = with_token(HashKvRequest { revision }, token);
                let answer = client.maintenance.clone().hash_kv(request).await;
                answer.map(|a| Answer::HashKv(a.into_inner()))
            }
            Request::Call(path, message) => {
                call(client, path, message, token).await.map(Answer::Told)
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
    /// By user: the tokens that each side has given.
    tokens: HashMap<String, [String; 2]>,
    /// A watch stream on each side.
    watching: Option<[Observed; 2]>,
    transcript: Vec<String>,
}

/// How much of the conversation is printed when the answers part.
const TRANSCRIPT_LINES_SHOWN: usize = 40;

impl Pair {
    pub(crate) async fn start() -> Pair {
        // Nobody pulls a plug here, and disks are slow; hashing passwords is, too.
        let flags = ["--unsafe-no-fsync", "--bcrypt-cost", "4"];
        let ours = Member::start_on(Product::subject(), Folder::new(), &flags).await;
        let theirs = Product::Etcd(EtcdVersion::V3_5);
        let theirs = Member::start_on(theirs, Folder::new(), &flags).await;
        Pair {
            our_client: ours.client(),
            their_client: theirs.client(),
            ours,
            theirs,
            tokens: HashMap::new(),
            watching: None,
            transcript: Vec::new(),
        }
    }

    /// Asks both; `Err` holds what differs, with the conversation that led to it.
    pub(crate) async fn ask(&mut self, request: &Request) -> Result<Answer, String> {
        self.ask_as("", request).await
    }

    /// As [`Pair::ask`], on behalf of a user whom both have let in.
    pub(crate) async fn ask_as(&mut self, user: &str, request: &Request) -> Result<Answer, String> {
        let tokens = self.tokens.get(user).cloned().unwrap_or_default();
        let (ours, theirs) = tokio::join!(
            request.send(&self.our_client, &tokens[0]),
            request.send(&self.their_client, &tokens[1])
        );
        let own_token = |answer: &Answer| match answer {
            Answer::Told(told) => told.get("token").and_then(Value::as_str).map(str::to_owned),
            _ => None,
        };
        if let (Some(own), Some(other)) = (own_token(&ours), own_token(&theirs)) {
            self.tokens.insert("latest".to_owned(), [own, other]);
        }
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
            .push(format!("{user:?} asks {request:?}\n      -> {theirs:?}"));
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
    let refusals = [ours.refusal(), theirs.refusal()];
    if let (Request::HashKv(_), [Some(own), Some(other)]) = (request, refusals)
        && own.strip_prefix("etcdserver: ") == other.strip_prefix("auth: ")
    {
        return Some("AU-18: etcd 3.5 refuses maintenance in the words of its inner layer");
    }
    if let Request::Call(path, _) = request {
        let asks_root = [
            "etcdserverpb.Auth/AuthStatus",
            "etcdserverpb.Maintenance/Alarm",
        ];
        if asks_root.contains(path) && theirs.refusal().is_some() {
            return Some("AU-18: etcd 3.5 asks for root where any user, or anybody, will do");
        }
        if *path == "etcdserverpb.Auth/RoleGet" && ours.refusal().is_none() {
            return Some("AU-3: 3.5 does not tell what the role root permits");
        }
    }
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
        (Request::Call(path, _), Answer::Told(told)) => comparable_call(path, told),
        _ => {}
    }
    answer
}

/// What two servers may tell differently: who they are, what time it is, and the order of what has
/// none.
fn comparable_call(path: &str, told: &mut Value) {
    if let Some(Value::Object(header)) = told.get_mut("header") {
        for name in ["cluster_id", "member_id", "raft_term"] {
            header.remove(name);
        }
    }
    let Value::Object(told) = told else {
        return;
    };
    if told.contains_key("token") {
        told.insert("token".to_owned(), Value::from("a token"));
    }
    match path {
        "etcdserverpb.Lease/LeaseTimeToLive" => {
            // A second may pass between the two.
            if told.get("TTL").is_some_and(|ttl| ttl != "-1") {
                told.remove("TTL");
            }
            sort(told.get_mut("keys"));
        }
        "etcdserverpb.Lease/LeaseLeases" => sort(told.get_mut("leases")),
        "etcdserverpb.Cluster/MemberList" => {
            let members = told.get_mut("members").and_then(Value::as_array_mut);
            for member in members
                .into_iter()
                .flatten()
                .filter_map(Value::as_object_mut)
            {
                for name in ["ID", "clientURLs", "peerURLs"] {
                    member.remove(name);
                }
            }
        }
        _ => {}
    }
}

fn sort(list: Option<&mut Value>) {
    if let Some(list) = list.and_then(Value::as_array_mut) {
        list.sort_by_key(ToString::to_string);
    }
}

/// Whether an answer tells how far all watchers are, and nothing else.
fn is_progress(answer: &WatchResponse) -> bool {
    answer.watch_id == -1 && !answer.created && answer.events.is_empty()
}

/// A watch stream, and what each watcher was told since it was last asked.
struct Observed {
    stream: Watching,
    told: BTreeMap<i64, Vec<String>>,
    /// Watchers that were created and not called off.
    live: BTreeSet<i64>,
    /// Those that lost their revision; the answer to our taking note of that comes at any time.
    compacted: BTreeSet<i64>,
}

/// The watcher that is always there.
const ALWAYS: i64 = 1_000_000;

impl Observed {
    async fn open(client: &Client) -> Observed {
        let first = WatchCreateRequest {
            watch_id: ALWAYS,
            ..watch("always", "", 0)
        };
        Observed {
            stream: Watching::open(client, first).await,
            told: BTreeMap::new(),
            live: BTreeSet::new(),
            compacted: BTreeSet::new(),
        }
    }

    fn note(&mut self, answer: &WatchResponse) {
        // One more than was waited for says nothing new.
        if is_progress(answer) {
            return;
        }
        if answer.canceled && self.compacted.remove(&answer.watch_id) {
            return;
        }
        match (answer.created, answer.canceled) {
            (true, false) => drop(self.live.insert(answer.watch_id)),
            (false, true) => drop(self.live.remove(&answer.watch_id)),
            _ => {}
        }
        let told = self.told.entry(answer.watch_id).or_default();
        if answer.created || answer.canceled {
            told.push(format!(
                "created {} canceled {} compact_revision {} reason {:?}",
                answer.created, answer.canceled, answer.compact_revision, answer.cancel_reason
            ));
        }
        told.extend(answer.events.iter().map(|event| format!("{event:?}")));
        if answer.compact_revision > 0 {
            // Until the client has taken note there is no progress to be told.
            self.compacted.insert(answer.watch_id);
            self.stream.cancel(answer.watch_id);
        }
    }

    /// Calls a watcher off, if there is one of this id, and waits until that is done: etcd may tell of
    /// later things before.
    async fn cancel(&mut self, id: i64) {
        self.stream.cancel(id);
        while self.live.contains(&id) {
            let answer = self.stream.next().await;
            self.note(&answer);
        }
    }

    /// Takes in everything up to a revision.
    async fn settle(&mut self, revision: i64) {
        let started = tokio::time::Instant::now();
        loop {
            assert!(
                started.elapsed().as_secs() < 60,
                "no progress to {revision}; told before: {:#?}",
                self.told
            );
            self.stream.ask_progress();
            while let Some(answer) = self.stream.next_within(Duration::from_millis(50)).await {
                self.note(&answer);
                let header = answer.header.as_ref();
                if is_progress(&answer) && header.is_some_and(|it| it.revision >= revision) {
                    return;
                }
            }
        }
    }
}

impl Pair {
    /// Opens a watch stream to each, while everybody may.
    pub(crate) async fn begin_to_watch(&mut self) {
        let (ours, theirs) = tokio::join!(
            Observed::open(&self.our_client),
            Observed::open(&self.their_client)
        );
        self.watching = Some([ours, theirs]);
    }

    /// Has both watch, and waits until both have said what becomes of it: etcd may tell of later things
    /// before.
    pub(crate) async fn watch(&mut self, create: &WatchCreateRequest) {
        self.transcript.push(format!("watch {create:?}"));
        for observed in self.watching.iter_mut().flatten() {
            observed.stream.create(create.clone());
            loop {
                let answer = observed.stream.next().await;
                observed.note(&answer);
                if answer.created {
                    break;
                }
            }
        }
    }

    /// Calls a watcher off; everything up to `revision` is told before.
    pub(crate) async fn cancel(&mut self, id: i64, revision: i64) -> Result<(), String> {
        self.compare_watchers(revision).await?;
        self.transcript.push(format!("cancel {id}"));
        for observed in self.watching.iter_mut().flatten() {
            observed.cancel(id).await;
        }
        Ok(())
    }

    /// Compares what all watchers were told up to `revision`.
    pub(crate) async fn compare_watchers(&mut self, revision: i64) -> Result<(), String> {
        let Some([ours, theirs]) = &mut self.watching else {
            return Ok(());
        };
        tokio::join!(ours.settle(revision), theirs.settle(revision));
        let (ours, theirs) = (
            std::mem::take(&mut ours.told),
            std::mem::take(&mut theirs.told),
        );
        if ours == theirs {
            return Ok(());
        }
        let ids: BTreeSet<&i64> = ours.keys().chain(theirs.keys()).collect();
        let differ = ids.into_iter().find(|id| ours.get(id) != theirs.get(id));
        let id = differ.expect("they differ");
        let skipped = self.transcript.len().saturating_sub(TRANSCRIPT_LINES_SHOWN);
        Err(format!(
            "conversation ({skipped} requests before it are left out):\n{}\n  watcher {id} of \
             {:?} was told\n      {:#?}\n  and of {:?}\n      {:#?}",
            self.transcript[skipped..].join("\n"),
            self.ours.product(),
            ours.get(id),
            self.theirs.product(),
            theirs.get(id),
        ))
    }

    /// Waits until a lease has ended on both sides.
    pub(crate) async fn wait_for_end_of_lease(&self, id: i64, user: &str) -> Result<(), String> {
        let tokens = self.tokens.get(user).cloned().unwrap_or_default();
        let started = tokio::time::Instant::now();
        for (client, token) in [&self.our_client, &self.their_client]
            .into_iter()
            .zip(tokens)
        {
            loop {
                let request = LeaseTimeToLiveRequest { id, keys: false };
                let mut lease = client.lease.clone();
                let told = lease.lease_time_to_live(with_token(request, &token)).await;
                if told.is_ok_and(|told| told.get_ref().ttl == -1) {
                    break;
                }
                if started.elapsed().as_secs() > 30 {
                    return Err(format!("lease {id} does not end"));
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
        Ok(())
    }

    /// Remembers the tokens that were given last as those of a user.
    pub(crate) fn is_let_in(&mut self, user: &str) {
        if let Some(tokens) = self.tokens.remove("latest") {
            self.tokens.insert(user.to_owned(), tokens);
        }
    }
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
