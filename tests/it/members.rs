//! Members and maintenance, as a cluster of one voter answers, put to the server under test and to
//! real etcd alike.

use holdfast_tests::client::Client;
use holdfast_tests::member::{Member, Product};
use holdfast_tests::tools::EtcdVersion;
use proto::etcdserverpb::downgrade_request::DowngradeAction;
use proto::etcdserverpb::{
    DowngradeRequest, HashRequest, Member as MemberMessage, MemberAddRequest, MemberListRequest,
    MemberPromoteRequest, MemberRemoveRequest, MemberUpdateRequest, MoveLeaderRequest,
};
use tonic::{Code, Status};

const MEMBER_NOT_FOUND: &str = "etcdserver: member not found";
const PEER_URL_EXISTS: &str = "etcdserver: Peer URLs already exists";
const NOT_ENOUGH_STARTED: &str =
    "etcdserver: re-configuration failed due to not enough started members";

fn both() -> [Product; 2] {
    [Product::subject(), Product::Etcd(EtcdVersion::V3_5)]
}

fn assert_refused<T: std::fmt::Debug>(result: Result<T, Status>, code: Code, text: &str) {
    let status = result.expect_err("a refusal");
    assert_eq!((status.code(), status.message()), (code, text));
}

async fn list(client: &Client, linearizable: bool) -> Vec<MemberMessage> {
    let request = MemberListRequest { linearizable };
    let answer = client.cluster.clone().member_list(request).await;
    let answer = answer.expect("a list").into_inner();
    assert_eq!(answer.header.expect("a header").revision, 0);
    answer.members
}

async fn add(client: &Client, urls: &[&str], is_learner: bool) -> Result<MemberMessage, Status> {
    let request = MemberAddRequest {
        peer_urls: urls.iter().map(ToString::to_string).collect(),
        is_learner,
    };
    let answer = client
        .cluster
        .clone()
        .member_add(request)
        .await?
        .into_inner();
    let added = answer.member.expect("a member");
    assert!(answer.members.contains(&added));
    Ok(added)
}

async fn remove(client: &Client, id: u64) -> Result<Vec<MemberMessage>, Status> {
    let request = MemberRemoveRequest { id };
    let answer = client.cluster.clone().member_remove(request).await?;
    Ok(answer.into_inner().members)
}

async fn update(client: &Client, id: u64, url: &str) -> Result<Vec<MemberMessage>, Status> {
    let request = MemberUpdateRequest {
        id,
        peer_urls: vec![url.to_owned()],
    };
    let answer = client.cluster.clone().member_update(request).await?;
    Ok(answer.into_inner().members)
}

async fn promote(client: &Client, id: u64) -> Result<(), Status> {
    let request = MemberPromoteRequest { id };
    client.cluster.clone().member_promote(request).await?;
    Ok(())
}

/// [CL-1], [CL-2], [CL-4], [CL-5], [CL-6], [CL-7], [CL-8], [CL-9], [KV-49], [ERR-3]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_change_as_far_as_one_voter_goes() {
    for product in both() {
        let member = Member::start(product).await;
        let client = member.client();
        let alone = list(&client, true).await;
        assert_eq!(alone, list(&client, false).await, "{product:?}");
        let own = alone[0].clone();
        assert_eq!((alone.len(), own.is_learner), (1, false), "{product:?}");
        assert_eq!(own.name, "one", "{product:?}");

        let bad = "etcdserver: given member URLs are invalid";
        for urls in [
            &[][..],
            &["127.0.0.1:1"],
            &["ftp://a:1"],
            &["http://a"],
            &["http://a:1/b"],
        ] {
            assert_refused(add(&client, urls, false).await, Code::InvalidArgument, bad);
        }
        let taken = [own.peer_urls[0].as_str()];
        let refused = add(&client, &taken, true).await;
        assert_refused(refused, Code::FailedPrecondition, PEER_URL_EXISTS);

        assert_refused(
            remove(&client, own.id).await,
            Code::Unknown,
            NOT_ENOUGH_STARTED,
        );
        assert_refused(remove(&client, 77).await, Code::NotFound, MEMBER_NOT_FOUND);
        assert_refused(
            update(&client, 77, "http://a:1").await,
            Code::NotFound,
            MEMBER_NOT_FOUND,
        );
        assert_refused(promote(&client, 77).await, Code::NotFound, MEMBER_NOT_FOUND);
        assert_refused(
            promote(&client, own.id).await,
            Code::FailedPrecondition,
            "etcdserver: can only promote a learner member",
        );

        let learner = add(&client, &[" http://127.0.0.1:1 "], true)
            .await
            .expect("added");
        assert_eq!(learner.peer_urls, ["http://127.0.0.1:1"], "{product:?}");
        assert_eq!(
            (learner.is_learner, learner.name.as_str()),
            (true, ""),
            "{product:?}"
        );
        let mut ids: Vec<u64> = list(&client, true)
            .await
            .iter()
            .map(|member| member.id)
            .collect();
        assert!(ids.is_sorted(), "{product:?}");
        ids.retain(|id| *id != own.id);
        assert_eq!(ids, [learner.id], "{product:?}");
        assert_refused(
            add(&client, &["http://127.0.0.1:2"], true).await,
            Code::FailedPrecondition,
            "etcdserver: too many learner members in cluster",
        );
        assert_refused(
            promote(&client, learner.id).await,
            Code::FailedPrecondition,
            "etcdserver: can only promote a learner member which is in sync with leader",
        );
        let own_url = &own.peer_urls[0];
        let refused = update(&client, learner.id, own_url).await;
        assert_refused(refused, Code::FailedPrecondition, PEER_URL_EXISTS);
        let updated = update(&client, learner.id, "http://127.0.0.1:3")
            .await
            .expect("updated");
        let found = updated
            .iter()
            .find(|member| member.id == learner.id)
            .expect("there");
        assert_eq!(found.peer_urls, ["http://127.0.0.1:3"], "{product:?}");
        client.put("still", "works").await.expect("a put");

        // It stays a learner through a restart, and may go.
        let folder = member.stop();
        let member = Member::start_on(product, folder, &[]).await;
        let client = member.client();
        assert_eq!(list(&client, false).await.len(), 2, "{product:?}");
        let left = remove(&client, learner.id).await.expect("removed");
        let left: Vec<u64> = left.iter().map(|member| member.id).collect();
        assert_eq!(left, [own.id], "{product:?}");
        assert_refused(
            remove(&client, learner.id).await,
            Code::NotFound,
            MEMBER_NOT_FOUND,
        );
        client.put("still", "works").await.expect("a put");
    }
}

/// [MT-13]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leadership_stays_with_the_only_voter() {
    for product in both() {
        let member = Member::start(product).await;
        let client = member.client();
        let own = list(&client, true).await[0].id;
        let learner = add(&client, &["http://127.0.0.1:1"], true)
            .await
            .expect("added");
        let ask = async |target_id| {
            let request = MoveLeaderRequest { target_id };
            client.maintenance.clone().move_leader(request).await
        };
        let answer = ask(own).await.expect("it leads already").into_inner();
        assert_eq!(answer.header, None, "{product:?}");
        for target in [0, 77, learner.id] {
            let text = "etcdserver: bad leader transferee";
            assert_refused(ask(target).await, Code::FailedPrecondition, text);
        }
    }
}

/// [MT-14], [ERR-4], with the texts of 3.6.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_downgrade_is_checked_begun_and_called_off() {
    let member = Member::start(Product::Holdfast).await;
    let client = member.client();
    let ask = async |action: i32, version: &str| {
        let version = version.to_owned();
        let request = DowngradeRequest { action, version };
        let answer = client
            .maintenance
            .clone()
            .downgrade(request)
            .await?
            .into_inner();
        assert_eq!(answer.header.expect("a header").revision, 1);
        Ok::<_, Status>(answer.version)
    };
    let [validate, enable, cancel] = [
        DowngradeAction::Validate,
        DowngradeAction::Enable,
        DowngradeAction::Cancel,
    ]
    .map(i32::from);
    let format = "etcdserver: wrong downgrade target version format";
    for version in ["", "3", "x.y", "3.4.0.0"] {
        assert_refused(ask(validate, version).await, Code::InvalidArgument, format);
    }
    let target = "etcdserver: invalid downgrade target version";
    for version in ["3.5.0", "3.6", "3.3.0", "2.4.0"] {
        assert_refused(ask(validate, version).await, Code::InvalidArgument, target);
        assert_refused(ask(enable, version).await, Code::InvalidArgument, target);
    }
    assert_refused(
        ask(7, "3.4.0").await,
        Code::Unknown,
        "etcdserver: unknown method",
    );
    assert_eq!(ask(validate, "3.4.9").await.expect("possible"), "3.5");
    assert_eq!(ask(cancel, "").await.expect("nothing to call off"), "3.5");
    assert_eq!(ask(enable, "3.4").await.expect("begun"), "3.5");
    let in_progress = "etcdserver: cluster has a downgrade job in progress";
    assert_refused(
        ask(enable, "3.4").await,
        Code::FailedPrecondition,
        in_progress,
    );
    assert_refused(
        ask(validate, "3.4").await,
        Code::FailedPrecondition,
        in_progress,
    );
    let told = client.status().await.downgrade_info.expect("always there");
    assert_eq!(
        (told.enabled, told.target_version.as_str()),
        (true, "3.4.0")
    );

    let folder = member.stop();
    let member = Member::start_on(Product::Holdfast, folder, &[]).await;
    let client = member.client();
    assert!(client.status().await.downgrade_info.expect("there").enabled);
    let request = DowngradeRequest {
        action: cancel,
        version: String::new(),
    };
    client
        .maintenance
        .clone()
        .downgrade(request)
        .await
        .expect("called off");
    let told = client.status().await.downgrade_info.expect("always there");
    assert_eq!((told.enabled, told.target_version.as_str()), (false, ""));
}

/// [MT-16]: the same for the same content, and for no other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_hash_of_a_database_follows_its_content() {
    for product in both() {
        let member = Member::start(product).await;
        let client = member.client();
        let hash = async || {
            let answer = client.maintenance.clone().hash(HashRequest {}).await;
            let answer = answer.expect("a hash").into_inner();
            (answer.hash, answer.header.expect("a header").revision)
        };
        let (before, revision) = hash().await;
        assert_eq!(revision, 1, "{product:?}");
        assert_eq!(hash().await, (before, 1), "{product:?}");
        client.put("a", "1").await.expect("a put");
        let (after, revision) = hash().await;
        assert!(after != before && revision == 2, "{product:?}");
    }
}
