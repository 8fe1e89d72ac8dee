//! Alarms, the quota, status and defragmentation, and what stands in the headers of answers, on the
//! server under test and on real etcd alike.

use holdfast_tests::calls::call;
use holdfast_tests::client::Client;
use holdfast_tests::folder::Folder;
use holdfast_tests::member::{Member, Product};
use holdfast_tests::tools::EtcdVersion;
use prost::Message;
use proto::etcdserverpb::request_op::Request as Operation;
use proto::etcdserverpb::{
    AlarmRequest, AlarmResponse, CompactionRequest, DeleteRangeRequest, LeaseGrantRequest,
    LeaseRevokeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest,
};
use tonic::{Code, Status};

const NO_SPACE: &str = "etcdserver: mvcc: database space exceeded";
const CORRUPT: &str = "etcdserver: corrupt cluster";
/// The alarms' numbers on the wire.
const NOSPACE_ALARM: i32 = 1;
const CORRUPT_ALARM: i32 = 2;
const GET: i32 = 0;
const ACTIVATE: i32 = 1;
const DEACTIVATE: i32 = 2;

fn both() -> [Product; 2] {
    [Product::subject(), Product::Etcd(EtcdVersion::V3_5)]
}

async fn alarm(client: &Client, action: i32, member_id: u64, alarm: i32) -> Vec<(u64, i32)> {
    let request = AlarmRequest {
        action,
        member_id,
        alarm,
    };
    let answer = client.maintenance.clone().alarm(request).await;
    let answer: AlarmResponse = answer.expect("an answer").into_inner();
    let alarms = answer.alarms.iter();
    alarms.map(|alarm| (alarm.member_id, alarm.alarm)).collect()
}

/// One request of each kind that an alarm may stop, and what is said to it.
async fn ask_all(client: &Client) -> Vec<(&'static str, String)> {
    fn said<T>(answer: Result<T, Status>) -> String {
        match answer {
            Ok(_) => "ok".to_owned(),
            Err(status) => status.message().to_owned(),
        }
    }
    let op = |operation| RequestOp {
        request: Some(operation),
    };
    let txn = |operation| TxnRequest {
        success: vec![op(operation)],
        ..Default::default()
    };
    let put = PutRequest {
        key: "a".into(),
        ..Default::default()
    };
    let delete = DeleteRangeRequest {
        key: "nothing".into(),
        ..Default::default()
    };
    let range = RangeRequest {
        key: "a".into(),
        ..Default::default()
    };
    let mut kv = client.kv.clone();
    let mut lease = client.lease.clone();
    let grant = LeaseGrantRequest { id: 0, ttl: 100 };
    let revoke = LeaseRevokeRequest { id: 99 };
    let compact = CompactionRequest {
        revision: 1_000_000,
        physical: false,
    };
    vec![
        ("put", said(kv.put(put.clone()).await)),
        ("delete", said(kv.delete_range(delete.clone()).await)),
        ("range", said(kv.range(range.clone()).await)),
        (
            "txn of a put",
            said(kv.txn(txn(Operation::RequestPut(put))).await),
        ),
        (
            "txn of a delete",
            said(kv.txn(txn(Operation::RequestDeleteRange(delete))).await),
        ),
        (
            "txn of a range",
            said(kv.txn(txn(Operation::RequestRange(range))).await),
        ),
        ("grant", said(lease.lease_grant(grant).await)),
        ("revoke", said(lease.lease_revoke(revoke).await)),
        ("compact", said(kv.compact(compact).await)),
    ]
}

/// [MT-1], [MT-2], [MT-3], [ERR-1]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn alarms_stop_what_they_must_until_they_are_cleared() {
    let no_lease = "etcdserver: requested lease not found";
    let future = "etcdserver: mvcc: required revision is a future revision";
    for product in both() {
        let member = Member::start(product).await;
        let client = member.client();
        let expect = async |refused: &[(&str, &str)]| {
            for (what, answer) in ask_all(&client).await {
                let usual = match what {
                    "revoke" => no_lease,
                    "compact" => future,
                    _ => "ok",
                };
                let alarmed = refused.iter().find(|(name, _)| *name == what);
                let expected = alarmed.map_or(usual, |(_, text)| text);
                assert_eq!(answer, expected, "{product:?}: {what}");
            }
        };
        expect(&[]).await;
        assert_eq!(alarm(&client, ACTIVATE, 5, 0).await, [], "{product:?}");
        let raised = [(5, NOSPACE_ALARM)];
        assert_eq!(
            alarm(&client, ACTIVATE, 5, NOSPACE_ALARM).await,
            raised,
            "{product:?}"
        );
        assert_eq!(
            alarm(&client, ACTIVATE, 5, NOSPACE_ALARM).await,
            raised,
            "{product:?}"
        );
        assert_eq!(alarm(&client, GET, 0, 0).await, raised, "{product:?}");
        assert_eq!(
            alarm(&client, GET, 77, NOSPACE_ALARM).await,
            raised,
            "{product:?}"
        );
        assert_eq!(
            alarm(&client, GET, 0, CORRUPT_ALARM).await,
            [],
            "{product:?}"
        );
        let full = [
            ("put", NO_SPACE),
            ("txn of a put", NO_SPACE),
            ("grant", NO_SPACE),
        ];
        expect(&full).await;
        assert_eq!(
            alarm(&client, DEACTIVATE, 0, NOSPACE_ALARM).await,
            [],
            "{product:?}"
        );
        if product != Product::Holdfast {
            // With the end of one alarm etcd 3.5 forgets what others stop.
            alarm(&client, DEACTIVATE, 5, NOSPACE_ALARM).await;
        }
        alarm(&client, ACTIVATE, 6, CORRUPT_ALARM).await;
        let corrupt = [
            "put",
            "delete",
            "txn of a put",
            "txn of a delete",
            "grant",
            "revoke",
            "compact",
        ];
        expect(&corrupt.map(|what| (what, CORRUPT))).await;
        assert_eq!(
            alarm(&client, DEACTIVATE, 6, CORRUPT_ALARM).await,
            [(6, CORRUPT_ALARM)]
        );
        if product == Product::Holdfast {
            expect(&full).await;
            let cleared = alarm(&client, DEACTIVATE, 5, NOSPACE_ALARM).await;
            assert_eq!(cleared, raised);
        }
        expect(&[]).await;
    }
}

/// [MT-9], [MT-10], [KV-28]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_reaches_its_quota_raises_the_alarm_by_itself() {
    for product in both() {
        let quota = ["--quota-backend-bytes", "1000000"];
        let member = Member::start_on(product, Folder::new(), &quota).await;
        let client = member.client();
        let mut writes = 0;
        let refused = loop {
            match client.put(format!("key{writes}"), vec![b'v'; 20_000]).await {
                Ok(_) => writes += 1,
                Err(status) => break status,
            }
            assert!(writes < 2_000, "{product:?}: the quota does not count");
            // The size is that of the file, which follows a little later.
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        };
        assert_eq!(
            (refused.code(), refused.message()),
            (Code::ResourceExhausted, NO_SPACE)
        );
        let alarms = alarm(&client, GET, 0, 0).await;
        let own = client
            .everything()
            .await
            .header
            .expect("a header")
            .member_id;
        assert_eq!(alarms, [(own, NOSPACE_ALARM)], "{product:?}");
        // The check comes before all others, and deletions still work.
        let empty = client
            .put("", vec![b'v'; 20_000])
            .await
            .expect_err("no key");
        assert_eq!(empty.message(), NO_SPACE, "{product:?}");
        let all = DeleteRangeRequest {
            key: "key".into(),
            range_end: "kez".into(),
            prev_kv: false,
        };
        let deleted = client.kv.clone().delete_range(all).await.expect("a delete");
        assert!(deleted.get_ref().deleted > 10, "{product:?}");
    }
}

/// [MT-11], [MT-12]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn status_tells_how_a_member_is() {
    for product in both() {
        let member = Member::start(product).await;
        let client = member.client();
        client.put("a", "1").await.expect("a put");
        let status = client.status().await;
        let header = status.header.expect("a header");
        assert_eq!(
            (header.revision, header.member_id),
            (2, status.leader),
            "{product:?}"
        );
        assert!(
            status.version.starts_with("3."),
            "{product:?}: {}",
            status.version
        );
        assert!(status.db_size >= status.db_size_in_use && status.db_size_in_use > 0);
        assert!(status.raft_applied_index > 0 && status.raft_index >= status.raft_applied_index);
        assert_eq!(
            (status.raft_term, status.is_learner),
            (header.raft_term, false)
        );
        assert!(status.errors.is_empty(), "{product:?}");
        alarm(&client, ACTIVATE, 5, NOSPACE_ALARM).await;
        let errors = client.status().await.errors;
        assert_eq!(errors.len(), 1, "{product:?}");
        assert_eq!(
            errors[0].trim_end(),
            "memberID:5 alarm:NOSPACE",
            "{product:?}"
        );
        let answer = call(
            &client,
            "etcdserverpb.Maintenance/Defragment",
            bytes::Bytes::new(),
            "",
        );
        assert_eq!(
            answer.await.expect("done"),
            serde_json::json!({}),
            "{product:?}: no header"
        );
    }
}

/// [KV-6], [KV-17], [KV-44]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn headers_tell_the_revision_that_an_answer_is_of() {
    for product in both() {
        let member = Member::start(product).await;
        let client = member.client();
        let revision = async |path: &str, message: Vec<u8>| {
            let answer = call(&client, path, message.into(), "").await;
            let answer = answer.unwrap_or_else(|status| panic!("{product:?}, {path}: {status:?}"));
            let header = &answer["header"];
            let has_ids = header["cluster_id"].is_string() && header["member_id"].is_string();
            assert!(
                has_ids && header["raft_term"].is_string(),
                "{product:?}, {path}: {answer}"
            );
            header["revision"]
                .as_str()
                .map_or(0, |text| text.parse().expect("a number"))
        };
        let put = |key: &str| PutRequest {
            key: key.to_owned().into(),
            ..Default::default()
        };
        let delete = |key: &str| DeleteRangeRequest {
            key: key.to_owned().into(),
            ..Default::default()
        };
        let old = RangeRequest {
            key: "a".into(),
            revision: 2,
            ..Default::default()
        };
        let txn = TxnRequest {
            success: vec![RequestOp {
                request: Some(Operation::RequestPut(put("b"))),
            }],
            ..Default::default()
        };
        let compaction = CompactionRequest {
            revision: 2,
            physical: false,
        };
        let grant = LeaseGrantRequest { id: 7, ttl: 100 };
        let revoke = LeaseRevokeRequest { id: 7 };
        let steps: Vec<(&str, Vec<u8>, i64)> = vec![
            ("etcdserverpb.KV/Put", put("a").encode_to_vec(), 2),
            ("etcdserverpb.KV/Put", put("a").encode_to_vec(), 3),
            ("etcdserverpb.KV/Range", old.encode_to_vec(), 3),
            (
                "etcdserverpb.KV/DeleteRange",
                delete("nothing").encode_to_vec(),
                3,
            ),
            (
                "etcdserverpb.KV/Txn",
                TxnRequest::default().encode_to_vec(),
                3,
            ),
            ("etcdserverpb.KV/Txn", txn.encode_to_vec(), 4),
            (
                "etcdserverpb.KV/DeleteRange",
                delete("b").encode_to_vec(),
                5,
            ),
            ("etcdserverpb.KV/Compact", compaction.encode_to_vec(), 5),
            ("etcdserverpb.Lease/LeaseGrant", grant.encode_to_vec(), 5),
            (
                "etcdserverpb.Lease/LeaseTimeToLive",
                revoke.encode_to_vec(),
                5,
            ),
            ("etcdserverpb.Lease/LeaseLeases", Vec::new(), 5),
            ("etcdserverpb.Lease/LeaseRevoke", revoke.encode_to_vec(), 5),
            ("etcdserverpb.Cluster/MemberList", Vec::new(), 0),
            ("etcdserverpb.Maintenance/Alarm", Vec::new(), 5),
            ("etcdserverpb.Maintenance/Status", Vec::new(), 5),
            ("etcdserverpb.Maintenance/Hash", Vec::new(), 5),
            ("etcdserverpb.Maintenance/HashKV", Vec::new(), 5),
            ("etcdserverpb.Auth/AuthStatus", Vec::new(), 5),
        ];
        for (path, message, expected) in steps {
            assert_eq!(
                revision(path, message).await,
                expected,
                "{product:?}, {path}"
            );
        }
    }
}

/// [GR-7]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_health_service_knows_the_whole_server_only() {
    use proto::grpc::health::v1::HealthCheckRequest;
    for product in both() {
        let member = Member::start(product).await;
        let client = member.client();
        let ask = async |service: &str| {
            let service = service.to_owned();
            let request = HealthCheckRequest { service }.encode_to_vec();
            call(&client, "grpc.health.v1.Health/Check", request.into(), "").await
        };
        assert_eq!(
            ask("").await.expect("healthy")["status"],
            "SERVING",
            "{product:?}"
        );
        let refused = ask("etcdserverpb.KV").await.expect_err("no such service");
        let expected = (Code::NotFound, "unknown service");
        assert_eq!((refused.code(), refused.message()), expected, "{product:?}");
    }
}
