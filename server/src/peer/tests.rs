//! Two transports, each with the other member's listener, and answers to odd requests.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use consensus::{ConfState, Envelope, EnvelopeKind, NodeId, SnapshotMark, write_sized};
use http::{Request, Response};
use http_body_util::BodyExt;
use storage::disk::real::RealDisk;
use tokio::net::TcpListener;
use tokio::sync::{Notify, watch};

use super::*;
use crate::http::{ConnectionLimits, ConnectionSlots, Listening};

const CLUSTER: u64 = 0xabc;
const PATIENCE: Duration = Duration::from_secs(20);

/// What came in.
#[derive(Default)]
struct Inbox {
    stepped: Mutex<Vec<Envelope>>,
    unreachable: Mutex<Vec<NodeId>>,
    snapshots: Mutex<Vec<(NodeId, bool)>>,
    removed: Mutex<Vec<NodeId>>,
    told_removed: Mutex<bool>,
    changed: Notify,
}

impl Inbox {
    /// Waits for a state.
    async fn until(&self, what: &str, is_so: impl Fn(&Inbox) -> bool) {
        let waiting = async {
            loop {
                let changed = self.changed.notified();
                if is_so(self) {
                    return;
                }
                let _ = tokio::time::timeout(Duration::from_millis(100), changed).await;
            }
        };
        let waited = tokio::time::timeout(PATIENCE, waiting).await;
        assert!(waited.is_ok(), "{what}");
    }
}

impl Doors for Inbox {
    fn step(&self, envelope: Envelope) {
        self.stepped.lock().unwrap().push(envelope);
        self.changed.notify_waiters();
    }

    fn unreachable(&self, id: NodeId) {
        self.unreachable.lock().unwrap().push(id);
    }

    fn gone(&self, _: NodeId) {}

    fn snapshot_sent(&self, id: NodeId, success: bool) {
        self.snapshots.lock().unwrap().push((id, success));
        self.changed.notify_waiters();
    }

    fn removed(&self) {
        *self.told_removed.lock().unwrap() = true;
    }

    fn is_removed(&self, id: NodeId) -> bool {
        self.removed.lock().unwrap().contains(&id)
    }

    fn answer(&self, request: Request<Bytes>) -> BoxFuture<'_, Response<Bytes>> {
        let path = request.uri().path().to_owned();
        Box::pin(async move { Response::new(path.into()) })
    }
}

/// A member as far as others see it.
struct Side {
    id: NodeId,
    url: String,
    transport: Transport,
    inbox: Arc<Inbox>,
    stop: watch::Sender<bool>,
    served: tokio::task::JoinHandle<()>,
    folder: tempfile::TempDir,
}

impl Side {
    async fn start(id: u64) -> Side {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Side::start_on(id, listener)
    }

    fn start_on(id: u64, listener: TcpListener) -> Side {
        let url = format!("http://{}", listener.local_addr().unwrap());
        let folder = tempfile::tempdir().unwrap();
        let inbox = Arc::new(Inbox::default());
        let settings = Settings {
            id: NodeId(id),
            cluster: CLUSTER,
            peer_urls: vec![url.clone()],
            tls: None,
            dial_timeout: Duration::from_secs(2),
            snapshot_folder: folder.path().to_owned(),
            disk: Arc::new(RealDisk),
            metrics: Arc::new(Metrics::new()),
        };
        let runtime = tokio::runtime::Handle::current();
        let transport = Transport::start(settings, inbox.clone(), runtime);
        let (stop, mut stopped) = watch::channel(false);
        let listening = Listening {
            listener,
            tls: None,
            slots: ConnectionSlots::new(100),
            limits: ConnectionLimits {
                streams: 10,
                keepalive_interval: Duration::ZERO,
                keepalive_timeout: Duration::from_secs(5),
            },
        };
        let served = tokio::spawn(serve(listening, transport.clone(), async move {
            let _ = stopped.wait_for(|stop| *stop).await;
        }));
        Side {
            id: NodeId(id),
            url,
            transport,
            inbox,
            stop,
            served,
            folder,
        }
    }

    fn meets(&self, other: &Side) {
        self.transport
            .add_peer(other.id, std::slice::from_ref(&other.url));
    }

    async fn end(self) {
        self.transport.stop();
        let _ = self.stop.send(true);
        self.served.await.unwrap();
    }

    async fn request(&self, request: Request<BoxBody>) -> (u16, String) {
        let dialer = connect::Dialer::new(None, PATIENCE);
        let mut connection = dialer.connect(&self.url).await.unwrap();
        let response = connection.send_request(request).await.unwrap();
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8_lossy(&body).into_owned())
    }
}

/// `MsgHeartbeat` as bytes, with `number` as its commit index, to tell messages apart.
fn heartbeat(from: u64, to: u64, number: u8) -> Envelope {
    let bytes = [
        8, 8, 0x10, to as u8, 0x18, from as u8, 0x20, 1, 0x40, number,
    ];
    Envelope::decode(Bytes::copy_from_slice(&bytes)).unwrap()
}

/// `MsgApp` of one entry behind `index`.
fn append(from: u64, to: u64, index: u8) -> Envelope {
    let entry = [0x10, 1, 0x18, index + 1, 0x22, 1, b'x'];
    let mut bytes = vec![
        8, 3, 0x10, to as u8, 0x18, from as u8, 0x20, 1, 0x28, 1, 0x30, index,
    ];
    bytes.extend([0x3a, entry.len() as u8]);
    bytes.extend(entry);
    Envelope::decode(bytes.into()).unwrap()
}

async fn two() -> (Side, Side) {
    let (one, two) = (Side::start(1).await, Side::start(2).await);
    one.meets(&two);
    two.meets(&one);
    for (side, other) in [(&one, &two), (&two, &one)] {
        let is_active = |_: &Inbox| side.transport.active_for(other.id).is_some();
        side.inbox.until("a stream", is_active).await;
    }
    (one, two)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_of_each_kind_arrive_in_order() {
    let (one, two) = two().await;
    for number in 1..100 {
        one.transport
            .send(vec![append(1, 2, number), heartbeat(1, 2, number)]);
        two.transport.send(vec![heartbeat(2, 1, number)]);
    }
    two.inbox
        .until("all arrive", |inbox| {
            inbox.stepped.lock().unwrap().len() == 198
        })
        .await;
    one.inbox
        .until("all arrive", |inbox| {
            inbox.stepped.lock().unwrap().len() == 99
        })
        .await;
    let stepped = two.inbox.stepped.lock().unwrap().clone();
    let (appends, others): (Vec<_>, Vec<_>) = stepped
        .into_iter()
        .partition(|envelope| envelope.kind() == EnvelopeKind::Append);
    let sent: Vec<_> = (1..100).map(|number| append(1, 2, number)).collect();
    assert_eq!(appends, sent);
    let sent: Vec<_> = (1..100).map(|number| heartbeat(1, 2, number)).collect();
    assert_eq!(others, sent);
    one.end().await;
    two.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_comes_back_is_dialed_again() {
    let (one, two) = two().await;
    let address = two.url.trim_start_matches("http://").to_owned();
    two.end().await;
    one.inbox
        .until("it is missed", |_| {
            one.transport.active_for(NodeId(2)).is_none()
        })
        .await;
    one.transport.send(vec![heartbeat(1, 2, 1)]);
    one.inbox
        .until("the loss is told", |inbox| {
            inbox.unreachable.lock().unwrap().contains(&NodeId(2))
        })
        .await;

    let back = Side::start_on(2, TcpListener::bind(address).await.unwrap());
    back.meets(&one);
    one.inbox
        .until("it is back", |_| {
            one.transport.active_for(NodeId(2)).is_some()
        })
        .await;
    let arrived = |inbox: &Inbox| {
        // What went by the broken stream is lost; consensus sends again, and so does this.
        one.transport.send(vec![heartbeat(1, 2, 2)]);
        !inbox.stepped.lock().unwrap().is_empty()
    };
    back.inbox.until("a message arrives", arrived).await;
    one.end().await;
    back.end().await;
}

/// [M1] Whoever was removed is told so, and nobody else.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removed_member_is_told() {
    let (one, two) = two().await;
    one.inbox.removed.lock().unwrap().push(NodeId(2));
    one.transport.remove_peer(NodeId(2));
    two.inbox
        .until("it is told", |inbox| *inbox.told_removed.lock().unwrap())
        .await;
    assert!(!*one.inbox.told_removed.lock().unwrap());
    one.end().await;
    two.end().await;
}

/// [M1] The answers of etcd 3.5.30 to the same requests.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn odd_requests_get_etcds_answers() {
    let (one, two) = two().await;
    let check = async |method: &str,
                       path: &str,
                       change: &[(&str, &str)],
                       body: Bytes,
                       expected: (u16, &str)| {
        let mut request = Request::builder().method(method).uri(path);
        let mut headers = vec![
            ("host", "x"),
            ("x-server-from", "2"),
            ("x-server-version", "3.5.30"),
            ("x-min-cluster-version", "3.0.0"),
            ("x-etcd-cluster-id", "abc"),
            ("x-raft-to", "1"),
        ];
        headers.retain(|(name, _)| !change.iter().any(|(changed, _)| changed == name));
        for (name, value) in headers.into_iter().chain(change.iter().copied()) {
            if !value.is_empty() {
                request = request.header(name, value);
            }
        }
        let (status, text) = one.request(request.body(whole(body)).unwrap()).await;
        assert_eq!(
            (status, text.trim_end()),
            expected,
            "{method} {path} {change:?}"
        );
    };
    let nothing = Bytes::new();
    let good = heartbeat(2, 1, 1).encode();
    let wrong = heartbeat(2, 3, 1).encode();
    let raft = "/raft";
    check(
        "GET",
        raft,
        &[],
        nothing.clone(),
        (405, "Method Not Allowed"),
    )
    .await;
    check(
        "POST",
        raft,
        &[("x-server-version", "2.3.0")],
        good.clone(),
        (412, "incompatible version"),
    )
    .await;
    check(
        "POST",
        raft,
        &[("x-server-version", "")],
        good.clone(),
        (412, "incompatible version"),
    )
    .await;
    check(
        "POST",
        raft,
        &[("x-min-cluster-version", "9.0.0")],
        good.clone(),
        (412, "incompatible version"),
    )
    .await;
    check(
        "POST",
        raft,
        &[("x-etcd-cluster-id", "abd")],
        good.clone(),
        (412, "cluster ID mismatch"),
    )
    .await;
    check(
        "POST",
        raft,
        &[],
        Bytes::from_static(b"\xff\xff"),
        (400, "error unmarshalling raft message"),
    )
    .await;
    check(
        "POST",
        raft,
        &[],
        wrong,
        (500, "error processing raft message"),
    )
    .await;
    check("POST", raft, &[], good, (204, "")).await;
    let stream = "/raft/stream/";
    check(
        "POST",
        &format!("{stream}message/2"),
        &[],
        nothing.clone(),
        (405, "Method Not Allowed"),
    )
    .await;
    check(
        "GET",
        &format!("{stream}other/2"),
        &[],
        nothing.clone(),
        (404, "invalid path"),
    )
    .await;
    check(
        "GET",
        &format!("{stream}message/x"),
        &[],
        nothing.clone(),
        (404, "invalid from"),
    )
    .await;
    check(
        "GET",
        &format!("{stream}msgapp/7"),
        &[],
        nothing.clone(),
        (404, "error sender not found"),
    )
    .await;
    check(
        "GET",
        &format!("{stream}message/2"),
        &[("x-raft-to", "5")],
        nothing.clone(),
        (412, "to field mismatch"),
    )
    .await;
    let snapshot = "/raft/snapshot";
    check(
        "POST",
        snapshot,
        &[],
        nothing.clone(),
        (400, "failed to decode raft message (EOF)"),
    )
    .await;
    let mut no_snapshot = BytesMut::new();
    write_sized(&heartbeat(2, 1, 1), &mut no_snapshot);
    check(
        "POST",
        snapshot,
        &[],
        no_snapshot.freeze(),
        (400, "wrong raft message type"),
    )
    .await;
    check("GET", "/members", &[], nothing, (200, "/members")).await;
    one.inbox.removed.lock().unwrap().push(NodeId(7));
    check(
        "GET",
        &format!("{stream}msgapp/7"),
        &[],
        Bytes::new(),
        (410, "removed member"),
    )
    .await;
    one.end().await;
    two.end().await;
}

/// [M5] A database arrives whole, or not at all.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_is_stored_before_its_message_counts() {
    let (one, two) = two().await;
    let source = tempfile::tempdir().unwrap();
    let store = database(&source.path().join("db"));
    let mark = SnapshotMark {
        index: consensus::Index(9),
        term: consensus::Term(1),
        conf_state: ConfState {
            voters: vec![NodeId(1), NodeId(2)],
            learners: vec![],
        },
    };
    // `MsgSnap` from 1 to 2 in term 1.
    let bytes = Bytes::from_static(&[8, 7, 0x10, 2, 0x18, 1, 0x20, 1]);
    let envelope = Envelope::decode(bytes).unwrap();
    let envelope = envelope.with_snapshot(&mark, Bytes::from_static(b"tree"));
    one.transport
        .send_snapshot(envelope.clone(), store.committed().clone());
    one.inbox
        .until("it is sent", |inbox| {
            inbox.snapshots.lock().unwrap().contains(&(NodeId(2), true))
        })
        .await;
    assert_eq!(
        *two.inbox.stepped.lock().unwrap(),
        std::slice::from_ref(&envelope)
    );
    let received = two.folder.path().join("0000000000000009.snap.db");
    let size = std::fs::metadata(&received).unwrap().len();
    assert_eq!(size, store.committed().size());
    storage::Store::open(Arc::new(RealDisk), &received).unwrap();

    // The connection breaks in the middle.
    let mut head = BytesMut::new();
    write_sized(
        &envelope.with_snapshot(
            &SnapshotMark {
                index: consensus::Index(10),
                ..mark
            },
            Bytes::new(),
        ),
        &mut head,
    );
    let pieces = futures_util::stream::iter([
        Ok(hyper::body::Frame::data(head.freeze())),
        Ok(hyper::body::Frame::data(Bytes::from(vec![7; 3 << 20]))),
        Err(BoxError::from("broken")),
    ]);
    let request = Request::post("/raft/snapshot")
        .header("host", "x")
        .header("x-server-version", "3.5.30")
        .header("x-min-cluster-version", "3.0.0")
        .header("x-etcd-cluster-id", "abc")
        .body(http_body_util::StreamBody::new(pieces).boxed_unsync())
        .unwrap();
    let dialer = connect::Dialer::new(None, PATIENCE);
    let mut connection = dialer.connect(&two.url).await.unwrap();
    assert!(connection.send_request(request).await.is_err());
    two.inbox
        .until("nothing is left of it", |_| {
            names(two.folder.path()) == ["0000000000000009.snap.db"]
        })
        .await;
    assert_eq!(two.inbox.stepped.lock().unwrap().len(), 1);
    one.end().await;
    two.end().await;
}

fn database(path: &Path) -> storage::Store {
    let mut store = storage::Store::create(Arc::new(RealDisk), path).unwrap();
    let mut batch = storage::Batch::new();
    batch.create_bucket("key");
    for number in 0..1000_u32 {
        let key = Bytes::copy_from_slice(&number.to_be_bytes());
        batch.put("key", key, Bytes::from(vec![1; 5000]));
    }
    store.commit(batch).unwrap();
    store
}

fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.collect()
}
