//! Loads of single calls: each caller makes one after the other.

use bytes::Bytes;
use holdfast_tests::client::Client;
use proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use proto::etcdserverpb::request_op::Request as Operation;
use proto::etcdserverpb::{
    Compare, LeaseGrantRequest, LeaseRevokeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest,
};

/// Keys that puts go round over.
const KEYS_PUT: u64 = 100_000;
/// Keys that are read one by one.
const KEYS_READ: u64 = 1_000;
/// Keys that are read as one list.
const KEYS_LISTED: u64 = 10_000;
/// Bytes of a value of theirs: an object of Kubernetes, on the small side.
const LISTED_BYTES: usize = 512;
/// Puts under way at once while the keys that are read are made.
const PREPARED_AT_ONCE: u64 = 64;

/// What a caller does again and again.
#[derive(Clone, Copy)]
pub(crate) enum Call {
    /// Puts a value of so many bytes.
    Put { bytes: usize },
    /// Reads one key.
    Get { serializable: bool },
    /// Reads so many keys at once.
    List { keys: i64 },
    /// Makes a key unless it is there, as Kubernetes creates an object.
    Create,
    /// Puts a key if it is as it was read, as Kubernetes updates an object.
    Update,
    /// Grants a lease, hangs a key on it, and revokes it.
    Lease,
}

impl Call {
    /// Makes the keys that are read.
    pub(crate) async fn prepare(client: &Client) {
        let value = |bytes| Bytes::from(vec![b'v'; bytes]);
        let read = (0..KEYS_READ).map(|number| (read_key(number), value(100)));
        let listed = (0..KEYS_LISTED).map(|number| (listed_key(number), value(LISTED_BYTES)));
        let mut puts = tokio::task::JoinSet::new();
        for (key, value) in read.chain(listed) {
            if puts.len() as u64 >= PREPARED_AT_ONCE {
                puts.join_next()
                    .await
                    .expect("not empty")
                    .expect("no panic");
            }
            let client = client.clone();
            puts.spawn(async move { drop(client.put(key, value).await.expect("a put")) });
        }
        while let Some(done) = puts.join_next().await {
            done.expect("no panic");
        }
    }

    /// Does it once; `number` is another one each time.
    pub(crate) async fn make(self, client: &Client, number: u64) {
        match self {
            Call::Put { bytes } => {
                let key = format!("put/{:08}", number % KEYS_PUT);
                client.put(key, vec![b'v'; bytes]).await.expect("a put");
            }
            Call::Get { serializable } => {
                let request = RangeRequest {
                    key: read_key(number % KEYS_READ).into(),
                    serializable,
                    ..Default::default()
                };
                let found = client.range(request).await.expect("a get");
                assert_eq!(found.kvs.len(), 1, "every key that is read exists");
            }
            Call::List { keys } => {
                let request = RangeRequest {
                    key: "list/".into(),
                    range_end: "list0".into(),
                    limit: keys,
                    ..Default::default()
                };
                let found = client.range(request).await.expect("a list");
                assert_eq!(
                    found.kvs.len() as i64,
                    keys,
                    "every key that is listed exists"
                );
            }
            Call::Create => {
                let key = format!("create/{}/{number:08}", std::process::id());
                txn(client, key.into(), 0, vec![]).await;
            }
            Call::Update => update(client, number).await,
            Call::Lease => churn(client, number).await,
        }
    }
}

/// Puts `key` if its last change is that of `revision`; whether it was.
async fn txn(client: &Client, key: Bytes, revision: i64, failure: Vec<RequestOp>) -> bool {
    let put = PutRequest {
        key: key.clone(),
        value: vec![b'v'; LISTED_BYTES].into(),
        ..Default::default()
    };
    let request = TxnRequest {
        compare: vec![Compare {
            key,
            result: CompareResult::Equal.into(),
            target: CompareTarget::Mod.into(),
            target_union: Some(TargetUnion::ModRevision(revision)),
            range_end: Bytes::new(),
        }],
        success: vec![RequestOp {
            request: Some(Operation::RequestPut(put)),
        }],
        failure,
    };
    let answer = client.kv.clone().txn(request).await.expect("a txn");
    answer.into_inner().succeeded
}

async fn update(client: &Client, number: u64) {
    let key = Bytes::from(listed_key(number % KEYS_LISTED));
    let get = RangeRequest {
        key: key.clone(),
        ..Default::default()
    };
    let found = client.range(get.clone()).await.expect("a get");
    let read_again = RequestOp {
        request: Some(Operation::RequestRange(get)),
    };
    txn(client, key, found.kvs[0].mod_revision, vec![read_again]).await;
}

async fn churn(client: &Client, number: u64) {
    let mut leases = client.lease.clone();
    let request = LeaseGrantRequest { ttl: 60, id: 0 };
    let granted = leases.lease_grant(request).await.expect("a lease");
    let id = granted.into_inner().id;
    let put = PutRequest {
        key: format!("lease/{number:08}").into(),
        value: Bytes::from_static(b"v"),
        lease: id,
        ..Default::default()
    };
    client.kv.clone().put(put).await.expect("a put");
    let request = LeaseRevokeRequest { id };
    leases.lease_revoke(request).await.expect("revoked");
}

fn read_key(number: u64) -> String {
    format!("get/{number:08}")
}

fn listed_key(number: u64) -> String {
    format!("list/{number:08}")
}
