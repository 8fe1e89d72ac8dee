//! Clusters of three: of ours, and of ours and etcd's in one.

use std::time::Duration;

use holdfast_tests::cluster::{Cluster, Surroundings, retry};
use holdfast_tests::curl::try_curl;
use holdfast_tests::etcdctl::etcdctl;
use holdfast_tests::member::Product;
use holdfast_tests::tools::EtcdVersion;
use serde_json::Value;

use crate::tls::Certificates;
use proto::etcdserverpb::{
    CompactionRequest, LeaseGrantRequest, LeaseKeepAliveRequest, LeaseRevokeRequest,
    LeaseTimeToLiveRequest, MemberAddRequest, MemberRemoveRequest, MoveLeaderRequest, PutRequest,
    RangeRequest,
};

const OURS: Product = Product::Holdfast;
const ETCD: Product = Product::Etcd(EtcdVersion::V3_5);
/// So that a raft snapshot is soon needed.
const SMALL_LOG: [&str; 4] = [
    "--snapshot-count",
    "50",
    "--experimental-snapshot-catchup-entries",
    "10",
];

/// [KV-50]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_of_ours_agree_whoever_is_asked_and_whoever_dies() {
    all_is_well([OURS, OURS, OURS]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_of_ours_and_an_etcd_agree_whoever_is_asked_and_whoever_dies() {
    all_is_well([OURS, OURS, ETCD]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_ours_and_two_etcds_agree_whoever_is_asked_and_whoever_dies() {
    all_is_well([OURS, ETCD, ETCD]).await;
}

async fn all_is_well(products: [Product; 3]) {
    let mut cluster = Cluster::start(&products, &[]).await;
    // 1. Whoever takes a write, everybody reads it at once.
    for (number, client) in cluster.clients().iter().enumerate() {
        for round in 0..10 {
            let (key, value) = (format!("key{number}"), format!("value{round}"));
            client.put(key.clone(), value.clone()).await.expect("a put");
            for other in cluster.clients() {
                assert_eq!(other.value_of(&key).await, Some(value.clone().into()));
            }
        }
    }
    cluster.same_hash().await;

    // 2. The leader dies; the others go on, and it catches up.
    for round in 0..3 {
        let place = cluster.leader_place().await;
        cluster.members[place].end_at_once();
        let client = cluster.members[(place + 1) % 3].client();
        let key = format!("after{round}");
        retry(async || client.put(key.clone(), "x").await).await;
        cluster.members[place].launch();
        cluster.wait_until_ready().await;
        cluster.same_hash().await;
    }

    // 3. Leadership goes from one to the next.
    for place in 0..3 {
        let target = cluster.members[place].client().status().await;
        let target = target.header.expect("a header").member_id;
        let leader = cluster.leader().await.client();
        let moved = MoveLeaderRequest { target_id: target };
        leader
            .maintenance
            .clone()
            .move_leader(moved)
            .await
            .expect("it leads");
        assert_eq!(cluster.leader_place().await, place);
        for client in cluster.clients() {
            retry(async || client.put("moved", format!("{place}")).await).await;
        }
    }
    cluster.same_hash().await;

    // 4. A leader that is told to stop hands over first.
    let place = cluster.leader_place().await;
    cluster.members[place].terminate();
    let client = cluster.members[(place + 1) % 3].client();
    client
        .put("without a gap", "x")
        .await
        .expect("somebody leads already");
    cluster.members[place].launch();
    cluster.wait_until_ready().await;
    cluster.same_hash().await;
}

/// [LE-9]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leases_are_kept_through_every_member() {
    for products in [[OURS, OURS, OURS], [OURS, ETCD, OURS]] {
        let cluster = Cluster::start(&products, &[]).await;
        let clients = cluster.clients();
        let granted = LeaseGrantRequest { ttl: 3, id: 77 };
        clients[0]
            .lease
            .clone()
            .lease_grant(granted)
            .await
            .expect("a lease");
        let put = PutRequest {
            key: "leased".into(),
            lease: 77,
            ..Default::default()
        };
        clients[1].kv.clone().put(put).await.expect("a put");
        // Longer than it would live.
        for round in 0..8 {
            let client = &clients[round % 3];
            let renewals = tokio_stream::iter([LeaseKeepAliveRequest { id: 77 }]);
            let answers = client.lease.clone().lease_keep_alive(renewals).await;
            let mut answers = answers.expect("a stream").into_inner();
            let answer = answers.message().await.expect("an answer").expect("one");
            assert_eq!(answer.ttl, 3, "through {products:?} {}", round % 3);
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        for client in &clients {
            let asked = LeaseTimeToLiveRequest { id: 77, keys: true };
            let left = client.lease.clone().lease_time_to_live(asked).await;
            let left = left.expect("it lives").into_inner();
            assert!(left.ttl >= 1 && left.granted_ttl == 3, "{left:?}");
            assert_eq!(left.keys, ["leased"]);
            let unknown = LeaseTimeToLiveRequest {
                id: 78,
                keys: false,
            };
            let none = client.lease.clone().lease_time_to_live(unknown).await;
            assert_eq!(none.expect("an answer").into_inner().ttl, -1);
        }
        // It runs out when nobody renews it.
        let gone = async || {
            let left = clients[2].value_of("leased").await;
            match left {
                None => Ok(()),
                Some(_) => Err(tonic::Status::unknown("still there")),
            }
        };
        retry(gone).await;
        cluster.same_hash().await;
        let revoked = LeaseRevokeRequest { id: 77 };
        let revoked = clients[2].lease.clone().lease_revoke(revoked).await;
        let text = revoked.expect_err("it is gone").message().to_owned();
        assert_eq!(text, "etcdserver: requested lease not found");
    }
}

/// [M5] Members that need the leader's state, again and again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_was_away_for_long_is_sent_the_state() {
    for products in [[OURS, OURS, OURS], [ETCD, ETCD, OURS], [OURS, OURS, ETCD]] {
        let mut cluster = Cluster::start(&products, &SMALL_LOG).await;
        for round in 0..3 {
            let away = 2;
            cluster.members[away].end_at_once();
            let client = cluster.members[round % 2].client();
            let mut revision = 0;
            for number in 0..300 {
                let key = format!("key{}", number % 100);
                let value = format!("{round} {number}");
                let put = retry(async || client.put(key.clone(), value.clone()).await).await;
                revision = put.header.expect("a header").revision;
            }
            let compaction = CompactionRequest {
                revision: revision - 50,
                physical: true,
            };
            client
                .kv
                .clone()
                .compact(compaction)
                .await
                .expect("a compaction");
            cluster.members[away].launch();
            cluster.wait_until_ready().await;
            let value = cluster.members[away].client().value_of("key99").await;
            assert_eq!(value, Some(format!("{round} 299").into()), "{products:?}");
            cluster.same_hash().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_etcds_become_three_of_ours_and_back_one_by_one() {
    let mut cluster = Cluster::start(&[ETCD, ETCD, ETCD], &SMALL_LOG).await;
    for number in 0..200 {
        let client = cluster.leader().await.client();
        client
            .put(format!("key{number}"), "x")
            .await
            .expect("a put");
    }
    for product in [OURS, OURS, OURS, ETCD, ETCD, ETCD] {
        cluster.join(product).await;
        cluster.same_hash().await;
        leave(&mut cluster).await;
        let client = cluster.leader().await.client();
        client.put("still", "works").await.expect("a put");
        cluster.same_hash().await;
    }
    let client = cluster.leader().await.client();
    assert_eq!(client.everything().await.kvs.len(), 201);
}

/// The member that has been there longest is removed, and ends by itself.
async fn leave(cluster: &mut Cluster) {
    let mut leaving = cluster.members.remove(0);
    let status = leaving.client().status().await;
    let id = status.header.expect("a header").member_id;
    let client = cluster.members[0].client();
    let removal = MemberRemoveRequest { id };
    let mut calls = client.cluster.clone();
    retry(async || calls.member_remove(removal).await).await;
    leaving.wait_for_end(20);
    if leaving.product() == OURS {
        let log = leaving.log();
        assert!(
            log.contains("permanently removed from the cluster"),
            "{log}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_show_each_other_certificates() {
    let certificates = Certificates::new();
    certificates.issue("peer", "ca", "peer");
    let [certificate, key, authority] =
        ["peer.crt", "peer.key", "ca.crt"].map(|name| certificates.path(name));
    let flags = [
        "--peer-cert-file",
        &certificate,
        "--peer-key-file",
        &key,
        "--peer-trusted-ca-file",
        &authority,
        "--peer-client-cert-auth",
    ];
    let surroundings = Surroundings {
        https: true,
        ..Surroundings::default()
    };
    let cluster = Cluster::start_in(&[OURS, ETCD, OURS], &flags, surroundings).await;
    everybody_writes(&cluster).await;
    for member in &cluster.members {
        let url = format!("https://{}/members", member.folder().peer_endpoint());
        let of_stranger = try_curl(&["--http1.1", "--cacert", &authority, &url]);
        assert!(
            of_stranger.is_none(),
            "{:?} lets a stranger in",
            member.product()
        );
        let known = [
            "--http1.1",
            "--cacert",
            &authority,
            "--cert",
            &certificate,
            "--key",
            &key,
            &url,
        ];
        let listed = try_curl(&known).expect("a member is let in");
        assert!(listed.text().contains("\"n3\""), "{}", listed.text());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_may_make_certificates_by_themselves() {
    let surroundings = Surroundings {
        https: true,
        ..Surroundings::default()
    };
    let cluster = Cluster::start_in(&[OURS, ETCD, OURS], &["--peer-auto-tls"], surroundings).await;
    everybody_writes(&cluster).await;
}

async fn everybody_writes(cluster: &Cluster) {
    for (number, client) in cluster.clients().iter().enumerate() {
        client.put(format!("{number}"), "x").await.expect("a put");
    }
    for client in cluster.clients() {
        assert_eq!(client.everything().await.kvs.len(), 3);
    }
    cluster.same_hash().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcdctl_runs_a_cluster() {
    let mut cluster = Cluster::start(&[OURS, OURS, OURS], &[]).await;
    let endpoints: Vec<String> = cluster
        .members
        .iter()
        .map(|member| member.endpoint())
        .collect();
    let all = endpoints.join(",");
    // Members trust a connection only after some seconds.
    let mut calls = cluster.members[0].client().cluster;
    let try_out = MemberAddRequest {
        peer_urls: vec!["http://127.0.0.1:3".to_owned()],
        is_learner: true,
    };
    let added = retry(async || calls.clone().member_add(try_out.clone()).await).await;
    let id = added.into_inner().member.expect("the new one").id;
    let removed = calls.member_remove(MemberRemoveRequest { id }).await;
    removed.expect("a learner can always go");
    for version in [EtcdVersion::V3_4, EtcdVersion::V3_5] {
        let say = |line: &str| etcdctl(version, &endpoints[0], line.split(' '));
        let json = |line: &str| -> Value {
            // With --cluster, etcdctl 3.4 names a server in a way that HTTP/2 forbids, and h2 refuses.
            let text = match version {
                EtcdVersion::V3_4 => etcdctl(version, &all, format!("{line} -w json").split(' ')),
                EtcdVersion::V3_5 => say(&format!("{line} --cluster -w json")),
            };
            serde_json::from_str(&text).expect("JSON")
        };
        assert_eq!(say("put k v").trim(), "OK");
        let health = json("endpoint health");
        let healthy = health.as_array().expect("a list").iter();
        assert_eq!(healthy.filter(|one| one["health"] == true).count(), 3);
        let status = json("endpoint status");
        let leaders: Vec<u64> = status
            .as_array()
            .expect("a list")
            .iter()
            .filter_map(|one| one["Status"]["leader"].as_u64())
            .collect();
        assert_eq!(leaders.len(), 3);
        assert!(leaders.iter().all(|leader| *leader == leaders[0]));
        let hashes = json("endpoint hashkv");
        let hashes: Vec<&Value> = hashes
            .as_array()
            .expect("a list")
            .iter()
            .map(|one| &one["HashKV"]["hash"])
            .collect();
        assert!(
            hashes.len() == 3 && hashes.iter().all(|hash| *hash == hashes[0]),
            "{hashes:?}"
        );

        // Leadership, to the one after the leader.
        let list = || -> Value { serde_json::from_str(&say("member list -w json")).expect("JSON") };
        let members = list();
        let members = members["members"].as_array().expect("a list");
        let next = members
            .iter()
            .find(|member| member["ID"].as_u64() != Some(leaders[0]));
        let next = next
            .and_then(|member| member["ID"].as_u64())
            .expect("another");
        let moved = etcdctl(version, &all, ["move-leader", &format!("{next:x}")]);
        assert!(moved.contains("Leadership transferred"), "{moved}");
        assert_eq!(cluster.leader().await.client().status().await.leader, next);

        // A member more, and away again. Its id comes from URL and second, and never comes back.
        let url = match version {
            EtcdVersion::V3_4 => "http://127.0.0.1:4",
            EtcdVersion::V3_5 => "http://127.0.0.1:5",
        };
        let added = say(&format!("member add n9 --learner --peer-urls {url}"));
        assert!(
            added.contains(&format!("n9={url}")) && added.contains("n3=http://"),
            "{added}"
        );
        let listed = list();
        let listed = listed["members"].as_array().expect("a list");
        let new = listed
            .iter()
            .find(|member| member["isLearner"] == Value::Bool(true));
        let new = new
            .and_then(|member| member["ID"].as_u64())
            .expect("the learner");
        say(&format!(
            "member update {new:x} --peer-urls http://127.0.0.1:2"
        ));
        let removed = say(&format!("member remove {new:x}"));
        assert!(removed.contains("removed from cluster"), "{removed}");
        assert_eq!(say("del k").trim(), "1");
    }
    cluster.wait_until_ready().await;
    cluster.same_hash().await;
}

/// [KV-47], [KV-48]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_quorum_calls_end_with_their_time() {
    let mut cluster = Cluster::start(&[OURS, OURS, OURS], &[]).await;
    let client = cluster.members[0].client();
    client.put("k", "v").await.expect("a put");
    for place in [1, 2] {
        cluster.members[place].end_at_once();
    }
    let request = RangeRequest {
        key: "k".into(),
        ..Default::default()
    };
    let (read, written) = tokio::join!(client.range(request.clone()), client.put("k", "w"));
    for refused in [read.map(drop), written.map(drop)] {
        let status = refused.expect_err("nobody can confirm it");
        assert_eq!(status.code(), tonic::Code::Unavailable, "{status:?}");
        assert!(
            status
                .message()
                .starts_with("etcdserver: request timed out"),
            "{status:?}"
        );
    }
    let serializable = RangeRequest {
        serializable: true,
        ..request
    };
    let found = client.range(serializable).await.expect("what it has").kvs;
    assert_eq!(found[0].value, "v");
}
