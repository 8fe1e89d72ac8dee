//! The rules of Watch, put to the server under test and to real etcd alike.

use std::collections::BTreeSet;
use std::time::Duration;

use holdfast_tests::client::Client;
use holdfast_tests::dice::{self, Dice};
use holdfast_tests::folder::Folder;
use holdfast_tests::http;
use holdfast_tests::member::{Member, Product};
use holdfast_tests::tools::EtcdVersion;
use holdfast_tests::watching::{Watching, watch};
use proto::etcdserverpb::request_op::Request as Operation;
use proto::etcdserverpb::watch_create_request::FilterType;
use proto::etcdserverpb::{
    CompactionRequest, DeleteRangeRequest, LeaseGrantRequest, LeaseRevokeRequest, PutRequest,
    RangeRequest, RequestOp, TxnRequest, WatchCreateRequest, WatchResponse,
};
use proto::mvccpb::event::EventType;

const COMPACTED: &str = "etcdserver: mvcc: required revision has been compacted";
/// Long enough for an answer that must not come to have come.
const SILENCE: Duration = Duration::from_millis(300);

fn both() -> [Product; 2] {
    [Product::subject(), Product::Etcd(EtcdVersion::V3_5)]
}

async fn put(client: &Client, key: &str, value: &str) -> i64 {
    let answer = client.put(key.to_owned(), value.to_owned()).await;
    answer.expect("a put").header.expect("a header").revision
}

async fn delete(client: &Client, key: &str, range_end: &str) -> i64 {
    let request = DeleteRangeRequest {
        key: key.to_owned().into(),
        range_end: range_end.to_owned().into(),
        prev_kv: false,
    };
    let answer = client.kv.clone().delete_range(request).await;
    answer
        .expect("a delete")
        .into_inner()
        .header
        .expect("a header")
        .revision
}

async fn compact(client: &Client, revision: i64) {
    let request = CompactionRequest {
        revision,
        physical: true,
    };
    client
        .kv
        .clone()
        .compact(request)
        .await
        .expect("a compaction");
}

async fn txn(client: &Client, operations: Vec<Operation>) -> i64 {
    let success = operations.into_iter().map(|operation| RequestOp {
        request: Some(operation),
    });
    let request = TxnRequest {
        success: success.collect(),
        ..Default::default()
    };
    let answer = client.kv.clone().txn(request).await;
    answer
        .expect("a txn")
        .into_inner()
        .header
        .expect("a header")
        .revision
}

fn op_put(key: &str, value: &str) -> Operation {
    Operation::RequestPut(PutRequest {
        key: key.to_owned().into(),
        value: value.to_owned().into(),
        ..Default::default()
    })
}

fn op_delete(key: &str) -> Operation {
    Operation::RequestDeleteRange(DeleteRangeRequest {
        key: key.to_owned().into(),
        ..Default::default()
    })
}

fn revision(answer: &WatchResponse) -> i64 {
    answer.header.as_ref().expect("a header").revision
}

/// Each event as text: `PUT key=value@mod v version` or `DELETE key@mod`, and `<previous value`.
fn events(answer: &WatchResponse) -> Vec<String> {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("text");
    let event = |event: &proto::mvccpb::Event| {
        let kv = event.kv.as_ref().expect("a pair");
        let key = text(&kv.key);
        let what = match event.r#type() {
            EventType::Put => {
                format!(
                    "PUT {key}={}@{} v{}",
                    text(&kv.value),
                    kv.mod_revision,
                    kv.version
                )
            }
            EventType::Delete => {
                assert_eq!((kv.create_revision, kv.version, kv.value.len()), (0, 0, 0));
                format!("DELETE {key}@{}", kv.mod_revision)
            }
        };
        match &event.prev_kv {
            Some(previous) => format!(
                "{what} <{}@{}",
                text(&previous.value),
                previous.mod_revision
            ),
            None => what,
        }
    };
    answer.events.iter().map(event).collect()
}

/// [WA-1], [WA-2], [WA-3], [WA-8], [WA-11], [W8]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watchers_of_a_stream_have_ids_of_their_own() {
    for product in both() {
        let member = Member::start(product).await;
        let client = member.client();
        let mut stream = Watching::open(&client, watch("a", "", 0)).await;
        let created = stream.next().await;
        assert!(
            created.created && !created.canceled,
            "{product:?}: {created:?}"
        );
        assert_eq!(
            (created.watch_id, revision(&created)),
            (0, 1),
            "{product:?}"
        );
        let with_id = |watch_id| WatchCreateRequest {
            watch_id,
            ..watch("a", "", 0)
        };
        let mut ids = Vec::new();
        for watch_id in [0, 7, 0, 2, 0, 0, -3] {
            stream.create(with_id(watch_id));
            ids.push(stream.created().await.watch_id);
        }
        assert_eq!(ids, [1, 7, 2, -1, 3, 4, -3], "{product:?}");
        stream.send(None);
        stream.cancel(99);
        put(&client, "b", "1").await;
        stream.cancel(7);
        let canceled = stream.next().await;
        assert_eq!(
            (canceled.watch_id, canceled.canceled),
            (7, true),
            "{product:?}"
        );
        assert_eq!(revision(&canceled), 2, "{product:?}");
        assert_eq!(canceled.cancel_reason, "", "{product:?}");
        put(&client, "a", "1").await;
        let mut told = Vec::new();
        for _ in 0..6 {
            let answer = stream.next().await;
            assert_eq!(events(&answer), ["PUT a=1@3 v1"], "{product:?}");
            told.push(answer.watch_id);
        }
        told.sort_unstable();
        assert_eq!(told, [-3, 0, 1, 2, 3, 4], "{product:?}");
        assert!(stream.is_silent(SILENCE).await, "{product:?}");
    }
}

/// [WA-4], [WA-5], [W8]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watcher_that_cannot_be_is_refused_and_the_stream_goes_on() {
    for product in both() {
        let member = Member::start(product).await;
        let client = member.client();
        let mut stream = Watching::open(&client, watch("a", "", 0)).await;
        stream.created().await;
        let duplicate = WatchCreateRequest {
            watch_id: 5,
            ..watch("a", "", 0)
        };
        stream.create(duplicate.clone());
        stream.created().await;
        stream.create(duplicate);
        stream.create(watch("b", "a", 0));
        stream.create(watch("b", "b", 0));
        let mut reasons = Vec::new();
        for _ in 0..3 {
            let refused = stream.created().await;
            assert!(refused.canceled, "{product:?}: {refused:?}");
            assert_eq!(
                (refused.watch_id, revision(&refused)),
                (-1, 1),
                "{product:?}"
            );
            reasons.push(refused.cancel_reason);
        }
        let empty = "mvcc: watcher range is empty";
        let taken = "mvcc: duplicate watch ID provided on the WatchStream";
        assert_eq!(reasons, [taken, empty, empty], "{product:?}");
        stream.create(watch("a", "", -1));
        let refused = stream.created().await;
        assert_eq!(
            (refused.watch_id, refused.compact_revision),
            (-1, 0),
            "{product:?}"
        );
        assert_eq!(refused.cancel_reason, COMPACTED, "{product:?}");
        stream.create(watch("b", "\0", 0));
        assert!(!stream.created().await.canceled, "{product:?}");
        put(&client, "c", "1").await;
        assert_eq!(
            events(&stream.next().await),
            ["PUT c=1@2 v1"],
            "{product:?}"
        );
    }
}

/// [W8] The first watcher has the id 0, which is also what a request says that asks for any; it is called
/// off like all others, once, and its id does not come back by itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_watcher_with_the_id_zero_is_called_off_like_others() {
    for product in both() {
        let member = Member::start(product).await;
        let client = member.client();
        let mut stream = Watching::open(&client, watch("a", "", 0)).await;
        assert_eq!(stream.created().await.watch_id, 0, "{product:?}");
        stream.create(watch("a", "", 0));
        assert_eq!(stream.created().await.watch_id, 1, "{product:?}");
        for _ in 0..2 {
            stream.cancel(0);
        }
        let canceled = stream.next().await;
        let told = (canceled.watch_id, canceled.canceled, canceled.created);
        assert_eq!(told, (0, true, false), "{product:?}");
        put(&client, "a", "1").await;
        let told = stream.next().await;
        assert_eq!((told.watch_id, told.canceled), (1, false), "{product:?}");
        assert_eq!(events(&told), ["PUT a=1@2 v1"], "{product:?}");
        stream.create(watch("a", "", 0));
        assert_eq!(stream.created().await.watch_id, 2, "{product:?}");
        assert!(stream.is_silent(SILENCE).await, "{product:?}");
    }
}

/// [W8] A revision below 0 is compacted for ever, whether anything was compacted or not; calling off the
/// watcher that never was does nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watcher_from_a_negative_revision_is_refused() {
    for product in both() {
        let member = Member::start(product).await;
        let client = member.client();
        put(&client, "a", "1").await;
        let mut stream = Watching::open(&client, watch("a", "", 0)).await;
        assert_eq!(stream.created().await.watch_id, 0, "{product:?}");
        for start in [-1, -2, i64::MIN] {
            stream.create(watch("a", "", start));
            let refused = stream.created().await;
            let told = (refused.watch_id, refused.canceled, refused.compact_revision);
            assert_eq!(told, (-1, true, 0), "{product:?}, {start}");
            assert_eq!(refused.cancel_reason, COMPACTED, "{product:?}, {start}");
            stream.cancel(-1);
        }
        put(&client, "a", "2").await;
        let told = stream.next().await;
        assert_eq!((told.watch_id, told.canceled), (0, false), "{product:?}");
        assert_eq!(events(&told), ["PUT a=2@3 v2"], "{product:?}");
        assert!(stream.is_silent(SILENCE).await, "{product:?}");
    }
}

/// [WA-1], [WA-6], [WA-16]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watchers_begin_where_they_are_asked_to() {
    for product in both() {
        let member = Member::start(product).await;
        let client = member.client();
        for (key, value) in [("a", "1"), ("b", "1"), ("a", "2"), ("c", "1")] {
            put(&client, key, value).await;
        }
        delete(&client, "a", "").await;
        let mut stream = Watching::open(&client, watch("a", "", 2)).await;
        stream.created().await;
        let history = stream.next().await;
        let expected = ["PUT a=1@2 v1", "PUT a=2@4 v2", "DELETE a@6"];
        assert_eq!(events(&history), expected, "{product:?}");
        assert!(revision(&history) >= 6, "{product:?}");
        // The empty key with the open end is everything.
        stream.create(watch("", "\0", 5));
        stream.created().await;
        let history = stream.next().await;
        assert_eq!(
            events(&history),
            ["PUT c=1@5 v1", "DELETE a@6"],
            "{product:?}"
        );
        // A revision to come, and only then.
        stream.create(watch("z", "", 8));
        let created = stream.created().await;
        assert_eq!(revision(&created), 6, "{product:?}");
        put(&client, "z", "1").await;
        put(&client, "z", "2").await;
        let mut of_future = Vec::new();
        let mut of_all = Vec::new();
        for _ in 0..3 {
            let answer = stream.next().await;
            match answer.watch_id {
                1 => of_all.extend(events(&answer)),
                2 => of_future.extend(events(&answer)),
                other => panic!("{product:?}: watcher {other}"),
            }
        }
        assert_eq!(of_future, ["PUT z=2@8 v2"], "{product:?}");
        assert_eq!(of_all, ["PUT z=1@7 v1", "PUT z=2@8 v2"], "{product:?}");
    }
}

/// [WA-7], [WA-14], [WA-15], [WA-16]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_say_what_happened_and_what_was_before() {
    for product in both() {
        let member = Member::start(product).await;
        let client = member.client();
        let filtered = |filter: FilterType| WatchCreateRequest {
            filters: vec![filter.into(), 9],
            prev_kv: true,
            ..watch("a", "c", 0)
        };
        let mut stream = Watching::open(&client, filtered(FilterType::Noput)).await;
        stream.created().await;
        stream.create(filtered(FilterType::Nodelete));
        stream.created().await;
        stream.create(WatchCreateRequest {
            prev_kv: true,
            ..watch("a", "c", 0)
        });
        stream.created().await;
        put(&client, "a", "1").await;
        txn(
            &client,
            vec![op_put("a", "2"), op_put("b", "1"), op_put("x", "1")],
        )
        .await;
        txn(&client, vec![op_delete("a"), op_put("b", "2")]).await;
        delete(&client, "x", "").await;
        let mut told: [Vec<String>; 3] = Default::default();
        for _ in 0..7 {
            let answer = stream.next().await;
            let of = usize::try_from(answer.watch_id).expect("0, 1 or 2");
            told[of].push(format!(
                "{}: {}",
                revision(&answer),
                events(&answer).join(", ")
            ));
        }
        assert_eq!(told[0], ["4: DELETE a@4 <2@3"], "{product:?}");
        let puts = [
            "2: PUT a=1@2 v1",
            "3: PUT a=2@3 v2 <1@2, PUT b=1@3 v1",
            "4: PUT b=2@4 v2 <1@3",
        ];
        assert_eq!(told[1], puts, "{product:?}");
        let all = [
            "2: PUT a=1@2 v1",
            "3: PUT a=2@3 v2 <1@2, PUT b=1@3 v1",
            "4: DELETE a@4 <2@3, PUT b=2@4 v2 <1@3",
        ];
        assert_eq!(told[2], all, "{product:?}");
        assert!(stream.is_silent(SILENCE).await, "{product:?}");
    }
}

/// [WA-14], [LE-3]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_end_of_a_lease_is_an_event() {
    for product in both() {
        let member = Member::start(product).await;
        let client = member.client();
        let grant = LeaseGrantRequest { id: 7, ttl: 60 };
        client
            .lease
            .clone()
            .lease_grant(grant)
            .await
            .expect("granted");
        for key in ["b", "a"] {
            let request = PutRequest {
                key: key.into(),
                lease: 7,
                ..Default::default()
            };
            client.kv.clone().put(request).await.expect("a put");
        }
        let mut stream = Watching::open(&client, watch("a", "z", 0)).await;
        stream.created().await;
        let revoke = LeaseRevokeRequest { id: 7 };
        client
            .lease
            .clone()
            .lease_revoke(revoke)
            .await
            .expect("revoked");
        let ended = stream.next().await;
        assert_eq!(events(&ended), ["DELETE a@4", "DELETE b@4"], "{product:?}");
    }
}

/// [WA-9], [WA-10], [WA-11], [WA-15]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_compacted_away_cancels_a_watcher() {
    for product in both() {
        let member = Member::start(product).await;
        let client = member.client();
        for number in 0..6 {
            put(&client, "a", &number.to_string()).await;
        }
        compact(&client, 5).await;
        let mut stream = Watching::open(&client, watch("a", "", 4)).await;
        assert!(!stream.created().await.canceled, "{product:?}");
        let canceled = stream.next().await;
        assert!(
            canceled.canceled && canceled.watch_id == 0,
            "{product:?}: {canceled:?}"
        );
        assert_eq!(canceled.compact_revision, 5, "{product:?}");
        assert_eq!(
            (revision(&canceled), canceled.cancel_reason.as_str()),
            (0, ""),
            "{product:?}"
        );
        // The id stays taken until the client has taken note.
        stream.create(WatchCreateRequest {
            watch_id: 3,
            prev_kv: true,
            ..watch("a", "", 5)
        });
        stream.created().await;
        let history = stream.next().await;
        let expected = ["PUT a=3@5 v4", "PUT a=4@6 v5 <3@5", "PUT a=5@7 v6 <4@6"];
        assert_eq!(events(&history), expected, "{product:?}");
        stream.ask_progress();
        assert!(stream.is_silent(SILENCE).await, "{product:?}");
        stream.cancel(0);
        let taken_note = stream.next().await;
        assert!(
            taken_note.canceled && taken_note.watch_id == 0,
            "{product:?}"
        );
        assert_eq!(revision(&taken_note), 7, "{product:?}");
        stream.ask_progress();
        let progress = stream.next().await;
        assert_eq!(
            (progress.watch_id, revision(&progress)),
            (-1, 7),
            "{product:?}"
        );
    }
}

/// [WA-12], [WA-17], [WA-19]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn progress_is_told_when_everybody_is_that_far() {
    for product in both() {
        let member = Member::start(product).await;
        let client = member.client();
        put(&client, "other", "1").await;
        let mut stream = Watching::open(&client, watch("a", "", 0)).await;
        stream.created().await;
        for round in 0..50 {
            let at = put(&client, "a", "v").await;
            let last = put(&client, "other", "v").await;
            stream.ask_progress();
            let event = stream.next().await;
            assert_eq!(revision(&event), at, "{product:?}, round {round}");
            let progress = stream.next().await;
            assert_eq!(progress.watch_id, -1, "{product:?}: {progress:?}");
            assert!(progress.events.is_empty(), "{product:?}");
            assert_eq!(revision(&progress), last, "{product:?}, round {round}");
        }
        stream.create(watch("a", "", 1000));
        stream.created().await;
        stream.ask_progress();
        assert!(stream.is_silent(SILENCE).await, "{product:?}");
        stream.half_close();
        put(&client, "a", "last").await;
        assert_eq!(stream.next().await.events.len(), 1, "{product:?}");
    }
}

/// [WA-13]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_ends_with_its_member() {
    let member = Member::start(Product::Holdfast).await;
    let client = member.client();
    let mut stream = Watching::open(&client, watch("a", "", 0)).await;
    stream.created().await;
    member.stop();
    stream.try_next().await.expect_err("the member is gone");
}

/// [WA-21]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_responses_come_in_parts_if_the_client_wants_that() {
    for product in both() {
        let flags = ["--max-request-bytes", "100000"];
        let member = Member::start_on(product, Folder::new(), &flags).await;
        let client = member.client();
        let value = "v".repeat(90_000);
        for number in 0..20 {
            put(&client, &format!("a{number:02}"), &value).await;
        }
        for fragment in [true, false] {
            let request = WatchCreateRequest {
                fragment,
                ..watch("a", "b", 2)
            };
            let mut stream = Watching::open(&client, request).await;
            stream.created().await;
            let mut parts = Vec::new();
            let mut told = 0;
            while told < 20 {
                let answer = stream.next().await;
                told += answer.events.len();
                parts.push((answer.events.len(), answer.fragment));
            }
            if fragment {
                assert_eq!(
                    parts,
                    [(6, true), (6, true), (6, true), (2, false)],
                    "{product:?}"
                );
            } else {
                assert_eq!(parts, [(20, false)], "{product:?}");
            }
        }
    }
}

/// [WA-18], [W7]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silent_watchers_are_told_from_time_to_time_how_far_they_are() {
    for (product, flag) in [
        (Product::subject(), "--watch-progress-notify-interval"),
        (
            Product::Etcd(EtcdVersion::V3_5),
            "--experimental-watch-progress-notify-interval",
        ),
    ] {
        let member = Member::start_on(product, Folder::new(), &[flag, "1s"]).await;
        let client = member.client();
        put(&client, "other", "1").await;
        let notified = WatchCreateRequest {
            progress_notify: true,
            ..watch("a", "", 0)
        };
        let mut stream = Watching::open(&client, notified).await;
        stream.created().await;
        stream.create(watch("b", "", 0));
        stream.created().await;
        for _ in 0..2 {
            let progress = stream.next().await;
            assert_eq!(
                (progress.watch_id, revision(&progress)),
                (0, 2),
                "{product:?}"
            );
            assert!(progress.events.is_empty(), "{product:?}");
        }
    }
}

/// [WA-16], [WA-20], [WA-22]: a client that does not read for a while, many that do, writers and
/// compaction: everybody gets every event once and in order, or is told what was compacted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_event_is_lost_or_doubled_however_slow_a_client_is() {
    const WRITES: i64 = 6000;
    const VALUE_BYTES: usize = 2000;
    let member = Member::start(Product::subject()).await;
    let client = member.client();
    let mut slow = Watching::open(&client, watch("key", "kez", 0)).await;
    slow.created().await;
    for id in 1..20 {
        slow.create(watch(&format!("key{}", id % 10), "", 0));
        slow.created().await;
    }
    let fast = {
        let client = member.client();
        let mut fast = Watching::open(&client, watch("key", "kez", 0)).await;
        fast.created().await;
        tokio::spawn(async move { all_events(&mut fast, WRITES).await })
    };
    let late = {
        let client = member.client();
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(200)).await;
            let mut late = Watching::open(&client, watch("key", "kez", 2)).await;
            late.created().await;
            all_events(&mut late, WRITES).await
        })
    };
    let value = "v".repeat(VALUE_BYTES);
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..4 {
        let (client, value) = (member.client(), value.clone());
        writers.spawn(async move {
            for number in 0..WRITES / 4 {
                put(&client, &format!("key{}", (number + writer) % 10), &value).await;
            }
        });
    }
    while let Some(done) = writers.join_next().await {
        done.expect("no panic");
    }
    let expected: Vec<i64> = (2..WRITES + 2).collect();
    assert_eq!(fast.await.expect("no panic"), expected);
    assert_eq!(late.await.expect("no panic"), expected);
    // The one that has not read yet was fed from history since its queue was full.
    let mut of_all = Vec::new();
    let mut of_one: Vec<Vec<i64>> = vec![Vec::new(); 20];
    while of_all.len() < expected.len()
        || of_one[1..].iter().map(Vec::len).sum::<usize>()
            < 2 * expected.len() - expected.len() / 10
    {
        let answer = slow.next().await;
        for event in &answer.events {
            let kv = event.kv.as_ref().expect("a pair");
            match answer.watch_id {
                0 => of_all.push(kv.mod_revision),
                id => {
                    assert_eq!(kv.key, format!("key{}", id % 10));
                    of_one[usize::try_from(id).expect("small")].push(kv.mod_revision);
                }
            }
        }
    }
    assert_eq!(of_all, expected);
    for (id, told) in of_one.iter().enumerate() {
        assert!(told.is_sorted_by(|a, b| a < b), "watcher {id}: {told:?}");
        let twin = if id < 10 { id + 10 } else { id - 10 };
        assert!(
            id % 10 == 0 || *told == of_one[twin],
            "two watchers of one key"
        );
    }
}

async fn all_events(stream: &mut Watching, count: i64) -> Vec<i64> {
    let mut told = Vec::new();
    while (told.len() as i64) < count {
        let answer = stream.next().await;
        told.extend(
            answer
                .events
                .iter()
                .map(|event| event.kv.as_ref().expect("a pair").mod_revision),
        );
    }
    told
}

/// [W1] Whatever is asked and whenever it is read, progress at a revision comes when every event up to it
/// was sent, and none of them follows.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn progress_never_overtakes_an_event_of_its_stream() {
    const WATCHERS: usize = 20;
    const WRITES: i64 = 4000;
    let flags = ["--watch-progress-notify-interval", "100ms"];
    let member = Member::start_on(Product::Holdfast, Folder::new(), &flags).await;
    let client = member.client();
    let notified = WatchCreateRequest {
        progress_notify: true,
        ..watch("key", "kez", 0)
    };
    let mut stream = Watching::open(&client, notified.clone()).await;
    stream.created().await;
    for _ in 1..WATCHERS {
        stream.create(notified.clone());
        stream.created().await;
    }
    let writer = {
        let client = member.client();
        tokio::spawn(async move {
            for number in 0..WRITES {
                put(&client, &format!("key{}", number % 10), &"v".repeat(500)).await;
            }
        })
    };
    let mut told = [1; WATCHERS];
    let (mut asked, mut timed) = (0, 0);
    for number in 0.. {
        if number % 20 == 0 {
            stream.ask_progress();
        }
        if number % 2000 == 100 {
            // Much waits for this client by then.
            tokio::time::sleep(Duration::from_millis(400)).await;
        }
        let answer = stream.next().await;
        let revision = revision(&answer);
        for event in &answer.events {
            let told = &mut told[usize::try_from(answer.watch_id).expect("a watcher")];
            *told += 1;
            assert_eq!(event.kv.as_ref().expect("a pair").mod_revision, *told);
        }
        if answer.events.is_empty() && answer.watch_id == -1 {
            assert_eq!(told, [revision; WATCHERS]);
            asked += 1;
        } else if answer.events.is_empty() {
            let told = told[usize::try_from(answer.watch_id).expect("a watcher")];
            assert_eq!(told, revision);
            timed += 1;
        }
        if told == [WRITES + 1; WATCHERS] && timed > 0 && asked > 0 {
            break;
        }
    }
    writer.await.expect("no panic");
}

/// [W3] A watcher that is too slow for what is compacted gets all events up to some revision, and then is
/// told; it never gets later ones with some missing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_watcher_is_told_that_its_next_events_were_compacted() {
    const WRITES: usize = 12_000;
    let member = Member::start(Product::Holdfast).await;
    let client = member.client();
    let mut slow = Watching::open(&member.client(), watch("key", "kez", 0)).await;
    slow.created().await;
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..8 {
        let client = client.clone();
        writers.spawn(async move {
            for _ in 0..WRITES / 8 {
                put(&client, &format!("key{writer}"), &"v".repeat(4000)).await;
            }
        });
    }
    writers.join_all().await;
    let newest = WRITES as i64 + 1;
    compact(&client, newest).await;
    let mut last = 1;
    let canceled = loop {
        let answer = slow.next().await;
        if answer.canceled {
            break answer;
        }
        for event in answer.events {
            last += 1;
            assert_eq!(event.kv.expect("a pair").mod_revision, last);
        }
    };
    assert!(last < newest - 1, "it was not slow");
    assert_eq!(canceled.compact_revision, newest);
}

/// [W9] Very many watchers behind a compaction: each is told once, and then they are gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_thousand_compacted_watchers_are_told_once_each() {
    const WATCHERS: i64 = 2000;
    let member = Member::start(Product::Holdfast).await;
    let client = member.client();
    for number in 0..10 {
        put(&client, "a", &number.to_string()).await;
    }
    compact(&client, 8).await;
    let mut stream = Watching::open(&client, watch("a", "", 3)).await;
    for _ in 1..WATCHERS {
        stream.create(watch("a", "", 3));
    }
    let mut told = Vec::new();
    while told.len() < WATCHERS as usize {
        let answer = stream.next().await;
        if answer.created {
            assert!(!answer.canceled);
            continue;
        }
        assert!(answer.canceled, "{answer:?}");
        assert_eq!(answer.compact_revision, 8);
        told.push(answer.watch_id);
    }
    told.sort_unstable();
    assert!(told.iter().copied().eq(0..WATCHERS), "one each");
    assert!(stream.is_silent(SILENCE).await);
    drop(stream);
    wait_until_no_watchers(&member).await;
}

/// [W11] Large answers do not hold up the events on the same connection.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_reads_do_not_starve_a_watcher_on_their_connection() {
    let member = Member::start(Product::subject()).await;
    let client = member.client();
    client.put("large", vec![7; 1 << 20]).await.expect("a put");
    let mut stream = Watching::open(&client, watch("key", "", 0)).await;
    stream.created().await;
    let mut readers = tokio::task::JoinSet::new();
    for _ in 0..16 {
        let client = client.clone();
        readers.spawn(async move {
            loop {
                let request = RangeRequest {
                    key: "large".into(),
                    ..Default::default()
                };
                let found = client.range(request).await.expect("an answer");
                assert_eq!(found.kvs[0].value.len(), 1 << 20);
            }
        });
    }
    let writer = member.client();
    for round in 0..20 {
        tokio::time::sleep(Duration::from_millis(50)).await;
        let at = put(&writer, "key", "v").await;
        let answer = stream.next_within(Duration::from_secs(1)).await;
        let answer = answer.unwrap_or_else(|| panic!("no event in time, round {round}"));
        assert_eq!(revision(&answer), at);
    }
    assert!(readers.try_join_next().is_none(), "the readers go on");
}

/// Waits until the metrics say that nobody watches.
async fn wait_until_no_watchers(member: &Member) {
    let names = [
        "etcd_debugging_mvcc_watcher_total 0",
        "etcd_debugging_mvcc_watch_stream_total 0",
        "etcd_debugging_mvcc_slow_watcher_total 0",
    ];
    for attempt in 0.. {
        let page = http::request("GET", &member.endpoint(), "/metrics").body;
        if names
            .iter()
            .all(|name| page.lines().any(|line| line == *name))
        {
            return;
        }
        assert!(attempt < 100, "{page}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// The gauges that count watchers and their streams.
fn watch_gauges(member: &Member) -> Vec<(String, i64)> {
    let page = http::request("GET", &member.endpoint(), "/metrics").body;
    let is_gauge = |name: &str| {
        name.starts_with("etcd_debugging_mvcc_")
            && (name.ends_with("watcher_total") || name.ends_with("watch_stream_total"))
    };
    let lines = page.lines().filter_map(|line| line.split_once(' '));
    let gauges = lines.filter(|(name, _)| is_gauge(name));
    let gauges: Vec<_> = gauges
        .map(|(name, value)| (name.to_owned(), value.parse().expect("a whole number")))
        .collect();
    assert_eq!(gauges.len(), 3, "{gauges:?}");
    gauges
}

/// [W10] A hundred thousand watchers come and go in every order, beside writes and compactions: each is
/// told once when it is called off, none stays behind, and no gauge falls below zero or counts too many.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_thousand_watchers_come_and_go_in_every_order() {
    const STREAMS: u64 = 200;
    const AT_A_TIME: usize = 8;
    let seed = dice::seed(10);
    let mut dice = Dice::new(seed);
    let member = Member::start(Product::Holdfast).await;
    let (stop, stopped) = tokio::sync::oneshot::channel();
    let writer = tokio::spawn(write_and_compact(member.client(), stopped));
    let mut streams = tokio::task::JoinSet::new();
    for number in 0..STREAMS {
        let dice = Dice::new(dice.word());
        streams.spawn(come_and_go(member.client(), dice));
        while streams.len() >= AT_A_TIME || (number + 1 == STREAMS && !streams.is_empty()) {
            let ended = streams.join_next().await.expect("some are left");
            ended.unwrap_or_else(|panic| panic!("TEST_SEED={seed}: {panic}"));
            for (name, value) in watch_gauges(&member) {
                // Those that were dropped may still be counted, but no more than ever were.
                let range = 0..=STREAMS as i64 * WATCHERS_OF_A_STREAM;
                assert!(range.contains(&value), "TEST_SEED={seed}: {name} {value}");
            }
        }
    }
    stop.send(()).expect("the writer goes on");
    writer.await.expect("no panic");
    wait_until_no_watchers(&member).await;
    // Whoever comes now is alone, and told.
    let client = member.client();
    let mut stream = Watching::open(&client, watch("key0", "", 0)).await;
    stream.created().await;
    let at = put(&client, "key0", "last").await;
    assert_eq!(revision(&stream.next().await), at);
}

const WATCHERS_OF_A_STREAM: i64 = 500;

/// Puts and compacts until it is told to stop.
async fn write_and_compact(client: Client, mut stopped: tokio::sync::oneshot::Receiver<()>) {
    let mut number = 0;
    while stopped.try_recv().is_err() {
        let at = put(&client, &format!("key{}", number % 5), "v").await;
        number += 1;
        if number % 100 == 0 {
            compact(&client, at - 50).await;
        }
    }
}

/// Opens a stream with many watchers, from the past, now or the future, and ends them in one of many ways.
async fn come_and_go(client: Client, mut dice: Dice) {
    let some = |dice: &mut Dice| {
        let key = format!("key{}", dice.below(5));
        let start = dice.pick(&[0, 0, 0, 1, 1 << 40]);
        watch(&key, "", start)
    };
    let mut stream = Watching::open(&client, some(&mut dice)).await;
    for _ in 1..WATCHERS_OF_A_STREAM {
        stream.create(some(&mut dice));
    }
    let mut order: Vec<i64> = (0..WATCHERS_OF_A_STREAM).collect();
    match dice.below(7) {
        // At once, most of them before they are created.
        0 => return,
        1 => return stream.half_close(),
        // In the order in which they came, or the other way round, or in none.
        2 => {}
        3 => order.reverse(),
        _ => {
            for at in (1..order.len()).rev() {
                order.swap(at, dice.below(at as u64 + 1) as usize);
            }
        }
    }
    let mut told = Told::default();
    if dice.one_in(2) {
        while told.created < WATCHERS_OF_A_STREAM {
            told.note(&stream.next().await);
        }
    }
    if dice.one_in(3) {
        order.truncate(order.len() / 2);
        order.iter().for_each(|id| stream.cancel(*id));
        return;
    }
    order.iter().for_each(|id| stream.cancel(*id));
    while told.created < WATCHERS_OF_A_STREAM || told.called_off.len() < order.len() {
        told.note(&stream.next().await);
    }
}

/// What the watchers of a stream were told.
#[derive(Default)]
struct Told {
    created: i64,
    /// These may still be called off, [WA-10].
    compacted: BTreeSet<i64>,
    called_off: BTreeSet<i64>,
}

impl Told {
    fn note(&mut self, answer: &WatchResponse) {
        let id = answer.watch_id;
        self.created += i64::from(answer.created);
        let ended = match answer.compact_revision {
            0 => &mut self.called_off,
            _ => &mut self.compacted,
        };
        if answer.canceled {
            assert!(ended.insert(id), "twice: {answer:?}");
        } else if !answer.events.is_empty() {
            let is_ended = self.called_off.contains(&id) || self.compacted.contains(&id);
            assert!(!is_ended, "after its end: {answer:?}");
        }
    }
}

/// [W10] Ten thousand watchers on one connection, on one key and on keys of their own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_watchers_share_a_connection() {
    const WATCHERS: i64 = 10_000;
    let member = Member::start(Product::subject()).await;
    let client = member.client();
    let mut stream = Watching::open(&client, watch("shared", "", 0)).await;
    for id in 1..WATCHERS {
        match id % 2 {
            0 => stream.create(watch("shared", "", 0)),
            _ => stream.create(watch(&format!("own{id}"), "", 0)),
        }
    }
    for _ in 0..WATCHERS {
        assert!(!stream.created().await.canceled);
    }
    put(&client, "shared", "1").await;
    let mut told: Vec<i64> = Vec::new();
    while told.len() < (WATCHERS / 2) as usize {
        let answer = stream.next().await;
        assert_eq!(events(&answer), ["PUT shared=1@2 v1"]);
        told.push(answer.watch_id);
    }
    told.sort_unstable();
    assert!(told.iter().copied().eq((0..WATCHERS).step_by(2)));
    for id in [1, 4999, 9999] {
        put(&client, &format!("own{id}"), "1").await;
        assert_eq!(stream.next().await.watch_id, id);
    }
    for id in 0..WATCHERS {
        stream.cancel(id);
    }
    for _ in 0..WATCHERS {
        assert!(stream.next().await.canceled);
    }
    put(&client, "shared", "2").await;
    assert!(stream.is_silent(SILENCE).await);
    drop(stream);
    if member.product() == Product::Holdfast {
        wait_until_no_watchers(&member).await;
    }
}
