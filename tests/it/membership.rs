//! Changes of a cluster's members, members that are sent the state, and members whose data differ.

use std::fs;
use std::time::Duration;

use holdfast_tests::client::Client;
use holdfast_tests::cluster::{Cluster, retry};
use holdfast_tests::member::{Member, Product};
use holdfast_tests::tools::EtcdVersion;
use holdfast_tests::watching::Watching;
use nix::sys::signal::Signal;
use proto::etcdserverpb::alarm_request::AlarmAction;
use proto::etcdserverpb::{
    AlarmRequest, AlarmType, LeaseGrantRequest, LeaseKeepAliveRequest, MemberAddRequest,
    MemberAddResponse, MemberListRequest, MemberPromoteRequest, MemberRemoveRequest, PutRequest,
    WatchCreateRequest,
};
use tonic::{Code, Status};

const OURS: Product = Product::Holdfast;
const ETCD: Product = Product::Etcd(EtcdVersion::V3_5);
/// So that a raft snapshot is soon needed.
const SMALL_LOG: [&str; 4] = [
    "--snapshot-count",
    "50",
    "--experimental-snapshot-catchup-entries",
    "10",
];

async fn add(client: &Client, url: &str, is_learner: bool) -> Result<MemberAddResponse, Status> {
    let request = MemberAddRequest {
        peer_urls: vec![url.to_owned()],
        is_learner,
    };
    let answer = client.cluster.clone().member_add(request).await;
    answer.map(tonic::Response::into_inner)
}

async fn id_of(member: &Member) -> u64 {
    let status = member.client().status().await;
    status.header.expect("a header").member_id
}

/// [M2], [M4] A learner comes with one of three members down, but gets no vote before it has what the leader
/// has; whoever is asked says so. [CL-6], [CL-7]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_learner_gets_a_vote_only_when_it_has_what_the_leader_has() {
    let mut cluster = Cluster::start(&[OURS, OURS, OURS], &[]).await;
    for number in 0..50 {
        let client = cluster.members[0].client();
        client.put(format!("{number}"), "x").await.expect("a put");
    }
    let place = cluster.leader_place().await;
    let down = (place + 1) % 3;
    cluster.members[down].end_at_once();
    let leader = cluster.members[place].client();
    let follower = cluster.members[(place + 2) % 3].client();
    let refused = add(&leader, "http://127.0.0.1:1", false).await;
    let refused = refused.expect_err("a fourth voter would take the quorum away");
    assert_eq!(refused.message(), "etcdserver: unhealthy cluster");
    let added = retry(async || add(&follower, "http://127.0.0.1:1", true).await).await;
    let id = added.member.expect("the learner").id;

    for (client, of) in [(&leader, "leader"), (&follower, "follower")] {
        let promote = async |id| {
            let answer = client
                .cluster
                .clone()
                .member_promote(MemberPromoteRequest { id })
                .await;
            let status = answer.expect_err("a refusal");
            (status.code(), status.message().to_owned())
        };
        let not_ready =
            "etcdserver: can only promote a learner member which is in sync with leader";
        let expected = (Code::FailedPrecondition, not_ready.to_owned());
        assert_eq!(promote(id).await, expected, "{of}");
        let expected = (Code::NotFound, "etcdserver: member not found".to_owned());
        assert_eq!(promote(7).await, expected, "{of}");
        let voter = id_of(&cluster.members[place]).await;
        let not_learner = "etcdserver: can only promote a learner member";
        let expected = (Code::FailedPrecondition, not_learner.to_owned());
        assert_eq!(promote(voter).await, expected, "{of}");
    }
    cluster.members[down].launch();
    cluster.wait_until_ready().await;
    cluster.same_hash().await;
}

/// [M3] Each of the members, and nobody else.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_goes_on_by_force_goes_on_alone() {
    let mut cluster = Cluster::start(&[OURS, OURS, OURS], &[]).await;
    let client = cluster.leader().await.client();
    client.put("k", "v").await.expect("a put");
    retry(async || add(&client, "http://127.0.0.1:1", true).await).await;
    cluster.same_hash().await;
    for member in std::mem::take(&mut cluster.members) {
        let mut alone = Member::start_on(OURS, member.kill(), &["--force-new-cluster"]).await;
        let client = alone.client();
        assert_eq!(client.value_of("k").await, Some("v".into()));
        let list = MemberListRequest { linearizable: true };
        let listed = client.cluster.clone().member_list(list).await;
        let listed = listed.expect("a list").into_inner().members;
        assert_eq!(listed.len(), 1, "{listed:?}");
        client.put("k", "alone").await.expect("a put");
        // And it stays so.
        alone.terminate();
        let alone = Member::start_on(OURS, alone.into_folder(), &[]).await;
        assert_eq!(alone.client().value_of("k").await, Some("alone".into()));
    }
}

/// [M7], [CL-9]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removed_member_that_comes_back_with_its_old_data_is_turned_away() {
    for products in [[OURS, OURS, OURS], [ETCD, ETCD, OURS]] {
        let mut cluster = Cluster::start(&products, &[]).await;
        let removed = id_of(&cluster.members[2]).await;
        cluster.members[2].end_at_once();
        let client = cluster.members[0].client();
        let removal = MemberRemoveRequest { id: removed };
        let mut calls = client.cluster.clone();
        retry(async || calls.member_remove(removal).await).await;
        let mut back = cluster.members.remove(2);
        back.launch();
        assert!(back.wait_for_end(30).success(), "{products:?}");
        let log = back.log();
        assert!(
            log.contains("permanently removed from the cluster"),
            "{log}"
        );
        client.put("k", "v").await.expect("a put");
        cluster.same_hash().await;
    }
}

/// [WA-23], [W2], [W6], [D4] What a member's watchers wait for happens while it is away, and comes with the
/// leader's state.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watchers_of_a_member_that_is_sent_the_state_miss_nothing() {
    // More than the leader sends without an answer, and than stays in its memory.
    const PUTS: i64 = 1200;
    let cluster = Cluster::start(&[OURS, OURS, OURS], &SMALL_LOG).await;
    let place = cluster.leader_place().await;
    let away = &cluster.members[(place + 1) % 3];
    let client = cluster.members[place].client();
    let first = client.put("w/0", "0").await.expect("a put");
    let first = first.header.expect("a header").revision;
    let create = |watch_id, start_revision| WatchCreateRequest {
        key: b"w/".to_vec().into(),
        range_end: b"w0".to_vec().into(),
        start_revision,
        watch_id,
        ..Default::default()
    };
    let mut watching = Watching::open(&away.client(), create(1, first)).await;
    watching.created().await;
    // From a revision that the member will not see happen.
    let future = first + 200;
    watching.create(create(2, future));
    watching.created().await;

    away.signal(Signal::SIGSTOP);
    for number in 1..=PUTS {
        let key = format!("w/{}", number % 7);
        client.put(key, format!("{number}")).await.expect("a put");
    }
    away.signal(Signal::SIGCONT);
    let mut seen = [(first, Vec::new()), (future, Vec::new())];
    while seen
        .iter()
        .any(|(_, events)| events.last() != Some(&(first + PUTS)))
    {
        let answer = watching.next().await;
        assert!(!answer.canceled, "{answer:?}");
        let (_, events) = &mut seen[answer.watch_id as usize - 1];
        events.extend(
            answer
                .events
                .iter()
                .map(|event| event.kv.as_ref().expect("a pair").mod_revision),
        );
    }
    for (from, events) in seen {
        let expected: Vec<i64> = (from..=first + PUTS).collect();
        assert_eq!(events, expected);
    }
    assert!(
        away.log().contains("goes on from a leader's snapshot"),
        "it caught up without the state"
    );
    cluster.same_hash().await;
}

/// [E1] A leader that stands still loses its leadership; leases that are renewed through the next one live,
/// whatever the old one thinks when it wakes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_slept_revokes_no_lease_that_lives() {
    let cluster = Cluster::start(&[OURS, OURS, OURS], &[]).await;
    let place = cluster.leader_place().await;
    let other = cluster.members[(place + 1) % 3].client();
    let granted = LeaseGrantRequest { ttl: 2, id: 5 };
    other
        .lease
        .clone()
        .lease_grant(granted)
        .await
        .expect("a lease");
    let put = PutRequest {
        key: "leased".into(),
        lease: 5,
        ..Default::default()
    };
    other.kv.clone().put(put).await.expect("a put");
    cluster.members[place].signal(Signal::SIGSTOP);
    for _ in 0..10 {
        let renew = async || {
            let renewals = tokio_stream::iter([LeaseKeepAliveRequest { id: 5 }]);
            let answers = other.lease.clone().lease_keep_alive(renewals).await?;
            answers.into_inner().message().await
        };
        let answer = retry(renew).await.expect("an answer");
        assert_eq!(answer.ttl, 2);
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    cluster.members[place].signal(Signal::SIGCONT);
    // Longer than it would need to revoke what it believes to have run out.
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(other.value_of("leased").await.is_some());
    cluster.same_hash().await;
}

/// [D20], [MT-23], [MT-24] One member's file is changed where no checksum is: the leader finds out who it is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_whose_data_were_damaged_is_named() {
    let checks = ["--experimental-corrupt-check-time", "1s"];
    let mut cluster = Cluster::start(&[OURS, OURS, OURS], &checks).await;
    let client = cluster.members[0].client();
    for number in 0..100 {
        let value = format!("the value with number {number:08}");
        client.put(format!("{number}"), value).await.expect("a put");
    }
    cluster.same_hash().await;
    let place = (cluster.leader_place().await + 1) % 3;
    let damaged = id_of(&cluster.members[place]).await;
    cluster.members[place].terminate();
    let file = cluster.members[place].folder().database();
    let mut bytes = fs::read(&file).expect("the database");
    let needle = b"the value with number 00000042";
    let mut found = 0;
    for at in 0..bytes.len() - needle.len() {
        if &bytes[at..at + needle.len()] == needle {
            bytes[at] ^= 0x20;
            found += 1;
        }
    }
    assert!(found > 0, "the value is in the file");
    fs::write(&file, bytes).expect("written");
    cluster.members[place].launch();
    cluster.wait_until_ready().await;

    let leader = cluster.leader().await.client();
    let alarms = async || {
        let request = AlarmRequest {
            action: AlarmAction::Get.into(),
            ..Default::default()
        };
        let answer = leader.maintenance.clone().alarm(request).await?;
        let alarms = answer.into_inner().alarms;
        match alarms.is_empty() {
            true => Err(Status::unknown("no alarm yet")),
            false => Ok(alarms),
        }
    };
    let alarms = retry(alarms).await;
    assert_eq!(alarms.len(), 1, "{alarms:?}");
    assert_eq!(alarms[0].member_id, damaged);
    assert_eq!(alarms[0].alarm(), AlarmType::Corrupt);
    let refused = leader.put("k", "v").await.expect_err("nothing is written");
    assert_eq!(refused.message(), "etcdserver: corrupt cluster");

    // It does not even begin to serve, if it looks first.
    cluster.members[place].terminate();
    let damaged = cluster.members.remove(place);
    let flags = damaged.flags_and(&["--experimental-initial-corrupt-check"]);
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let mut looks = Member::spawn(OURS, damaged.into_folder(), &flags);
    assert_eq!(looks.wait_for_end(30).code(), Some(3));
    let log = looks.log();
    assert!(log.contains("one of the two is damaged"), "{log}");
}
