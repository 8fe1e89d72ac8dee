//! The rules of Lock and Election, put to the server under test and to real etcd alike.

use std::time::Duration;

use bytes::Bytes;
use holdfast_tests::client::Client;
use holdfast_tests::member::{Member, Product};
use holdfast_tests::tools::EtcdVersion;
use proto::etcdserverpb::{LeaseGrantRequest, LeaseTimeToLiveRequest};
use proto::v3electionpb::{
    CampaignRequest, CampaignResponse, LeaderKey, LeaderRequest, LeaderResponse, ProclaimRequest,
    ResignRequest,
};
use proto::v3lockpb::{LockRequest, LockResponse, UnlockRequest};
use tokio::time::timeout;
use tonic::{Code, Status};

/// Long enough for a call that must wait to have returned.
const SILENCE: Duration = Duration::from_secs(1);

fn both() -> [Product; 2] {
    [Product::subject(), Product::Etcd(EtcdVersion::V3_5)]
}

async fn grant(client: &Client, id: i64) {
    let request = LeaseGrantRequest { id, ttl: 600 };
    client
        .lease
        .clone()
        .lease_grant(request)
        .await
        .expect("granted");
}

async fn lock(client: &Client, name: &str, lease: i64) -> Result<LockResponse, Status> {
    let name = name.to_owned().into();
    let answer = client
        .lock
        .clone()
        .lock(LockRequest { name, lease })
        .await?;
    Ok(answer.into_inner())
}

async fn unlock(client: &Client, key: Bytes) -> i64 {
    let answer = client.lock.clone().unlock(UnlockRequest { key }).await;
    answer
        .expect("unlocked")
        .into_inner()
        .header
        .expect("a header")
        .revision
}

async fn campaign(client: &Client, lease: i64, value: &str) -> Result<CampaignResponse, Status> {
    let request = CampaignRequest {
        name: "e".into(),
        lease,
        value: value.to_owned().into(),
    };
    Ok(client
        .election
        .clone()
        .campaign(request)
        .await?
        .into_inner())
}

async fn leader(client: &Client) -> Result<LeaderResponse, Status> {
    let request = LeaderRequest { name: "e".into() };
    Ok(client.election.clone().leader(request).await?.into_inner())
}

async fn proclaim(client: &Client, leader: Option<LeaderKey>, value: &str) -> Result<i64, Status> {
    let request = ProclaimRequest {
        leader,
        value: value.to_owned().into(),
    };
    let answer = client
        .election
        .clone()
        .proclaim(request)
        .await?
        .into_inner();
    Ok(answer.header.expect("a header").revision)
}

async fn resign(client: &Client, leader: Option<LeaderKey>) -> Result<i64, Status> {
    let answer = client
        .election
        .clone()
        .resign(ResignRequest { leader })
        .await?;
    Ok(answer.into_inner().header.expect("a header").revision)
}

fn assert_unknown<T: std::fmt::Debug>(result: Result<T, Status>, text: &str) {
    let status = result.expect_err("a refusal");
    assert_eq!((status.code(), status.message()), (Code::Unknown, text));
}

/// [LO-1], [LO-2], [LO-3], [LO-4], [LO-5], [EL-6]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lock_goes_to_whoever_came_first() {
    for product in both() {
        let member = Member::start(product).await;
        let client = member.client();
        for lease in [0x1f, 0x2f, 0x3f, -0x4f] {
            grant(&client, lease).await;
        }
        let first = lock(&client, "l", 0x1f).await.expect("free");
        assert_eq!(first.key, "l/1f", "{product:?}");
        assert_eq!(first.header.expect("a header").revision, 2, "{product:?}");
        let again = lock(&client, "l", 0x1f).await.expect("its own");
        assert_eq!(again.key, "l/1f", "{product:?}");
        assert_eq!(again.header.expect("a header").revision, 2, "{product:?}");

        let second = tokio::spawn({
            let client = member.client();
            async move { lock(&client, "l", 0x2f).await }
        });
        tokio::time::sleep(SILENCE).await;
        // One that gives up leaves the queue.
        let gives_up = timeout(SILENCE, lock(&client, "l", -0x4f)).await;
        assert!(gives_up.is_err(), "{product:?}");
        tokio::time::sleep(SILENCE).await;
        let keys = client.everything().await.kvs;
        let keys: Vec<&Bytes> = keys.iter().map(|pair| &pair.key).collect();
        assert_eq!(keys, ["l/1f", "l/2f"], "{product:?}");
        let third = tokio::spawn({
            let client = member.client();
            async move { lock(&client, "l", 0x3f).await }
        });
        tokio::time::sleep(SILENCE).await;
        assert!(!second.is_finished() && !third.is_finished(), "{product:?}");
        unlock(&client, first.key).await;
        let second = second.await.expect("no panic").expect("its turn");
        assert_eq!(second.key, "l/2f", "{product:?}");
        tokio::time::sleep(SILENCE).await;
        assert!(!third.is_finished(), "{product:?}");
        unlock(&client, second.key).await;
        let third = third.await.expect("no panic").expect("its turn");
        assert_eq!(third.key, "l/3f", "{product:?}");
        let revision = unlock(&client, third.key.clone()).await;
        assert_eq!(
            unlock(&client, third.key).await,
            revision,
            "{product:?}: gone already"
        );

        let own = lock(&client, "own", 0).await.expect("free");
        let id = std::str::from_utf8(&own.key[4..]).expect("text");
        let id = i64::from_str_radix(id, 16).expect("hexadecimal");
        let request = LeaseTimeToLiveRequest { id, keys: true };
        let lease = client.lease.clone().lease_time_to_live(request).await;
        let lease = lease.expect("an answer").into_inner();
        assert_eq!(
            (lease.granted_ttl, lease.keys),
            (60, vec![own.key]),
            "{product:?}"
        );
        let text = "etcdserver: requested lease not found";
        assert_unknown(lock(&client, "x", 99).await, text);
    }
}

/// [LO-3]: whoever loses the key while waiting does not get the lock.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lock_whose_lease_ended_while_waiting_is_lost() {
    for product in both() {
        let member = Member::start(product).await;
        let client = member.client();
        grant(&client, 1).await;
        grant(&client, 2).await;
        let first = lock(&client, "l", 1).await.expect("free");
        let second = tokio::spawn({
            let client = member.client();
            async move { lock(&client, "l", 2).await }
        });
        tokio::time::sleep(SILENCE).await;
        unlock(&client, "l/2".into()).await;
        unlock(&client, first.key).await;
        let lost = second.await.expect("no panic");
        assert_unknown(lost, "mutex: session is expired");
    }
}

/// [EL-1], [EL-2], [EL-3], [EL-4], [EL-6]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_election_has_one_leader_at_a_time() {
    for product in both() {
        let member = Member::start(product).await;
        let client = member.client();
        grant(&client, 0x1f).await;
        grant(&client, 0x2f).await;
        assert_unknown(leader(&client).await, "election: no leader");
        let won = campaign(&client, 0x1f, "one").await.expect("nobody else");
        let own = won.leader.clone().expect("a key");
        assert_eq!(won.header.expect("a header").revision, 2, "{product:?}");
        assert_eq!(
            (own.rev, own.lease, &own.key[..]),
            (2, 0x1f, &b"e/1f"[..]),
            "{product:?}"
        );
        assert_eq!(own.name, "e", "{product:?}");
        // Once more with another value proclaims that.
        let again = campaign(&client, 0x1f, "uno")
            .await
            .expect("still the leader");
        assert_eq!(again.header.expect("a header").revision, 2, "{product:?}");
        let told = leader(&client)
            .await
            .expect("there is one")
            .kv
            .expect("a pair");
        assert_eq!(
            (told.value, told.create_revision),
            ("uno".into(), 2),
            "{product:?}"
        );

        let second = tokio::spawn({
            let client = member.client();
            async move { campaign(&client, 0x2f, "two").await }
        });
        tokio::time::sleep(SILENCE).await;
        assert!(!second.is_finished(), "{product:?}");
        assert_eq!(
            proclaim(&client, Some(own.clone()), "still")
                .await
                .expect("ours"),
            5
        );
        let stranger = LeaderKey {
            rev: 1,
            ..own.clone()
        };
        let refused = proclaim(&client, Some(stranger.clone()), "no").await;
        assert_unknown(refused, "election: not leader");
        let missing = "\"leader\" field must be provided";
        assert_unknown(proclaim(&client, None, "no").await, missing);
        assert_unknown(resign(&client, None).await, missing);
        assert_eq!(
            resign(&client, Some(stranger)).await.expect("nothing"),
            5,
            "{product:?}"
        );
        assert!(!second.is_finished(), "{product:?}");
        assert_eq!(
            resign(&client, Some(own)).await.expect("resigned"),
            6,
            "{product:?}"
        );
        let second = second.await.expect("no panic").expect("its turn");
        assert_eq!(second.leader.expect("a key").key, "e/2f", "{product:?}");
        let told = leader(&client)
            .await
            .expect("there is one")
            .kv
            .expect("a pair");
        assert_eq!(told.value, "two", "{product:?}");
        assert_unknown(
            campaign(&client, 99, "x").await,
            "etcdserver: requested lease not found",
        );
    }
}

/// [EL-5]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_observer_sees_every_leader() {
    for product in both() {
        let member = Member::start(product).await;
        let client = member.client();
        grant(&client, 1).await;
        grant(&client, 2).await;
        let observing = tokio::spawn({
            let client = member.client();
            async move {
                let request = LeaderRequest { name: "e".into() };
                let stream = client.election.clone().observe(request).await;
                stream.expect("a stream").into_inner()
            }
        });
        tokio::time::sleep(SILENCE).await;
        let first = campaign(&client, 1, "one").await.expect("elected").leader;
        let mut observed = observing.await.expect("no panic");
        let mut next = async || {
            let told = timeout(Duration::from_secs(20), observed.message()).await;
            let told = told.expect("in time").expect("no error").expect("goes on");
            let kv = told.kv.expect("a pair");
            let value = String::from_utf8(kv.value.to_vec()).expect("text");
            (value, told.header.expect("a header").revision)
        };
        assert_eq!(next().await, ("one".to_owned(), 2), "{product:?}");
        proclaim(&client, first.clone(), "uno")
            .await
            .expect("the leader");
        assert_eq!(next().await, ("uno".to_owned(), 3), "{product:?}");
        resign(&client, first).await.expect("resigned");
        tokio::time::sleep(SILENCE).await;
        campaign(&client, 2, "two").await.expect("elected");
        assert_eq!(next().await, ("two".to_owned(), 5), "{product:?}");
    }
}
