//! One data directory, in turn under holdfast and real etcd: the same keys, revisions and hashes.

use bytes::Bytes;
use holdfast_tests::client::Client;
use holdfast_tests::dice::Dice;
use holdfast_tests::etcdctl::{etcdctl, etcdutl, snapshot_status};
use holdfast_tests::folder::Folder;
use holdfast_tests::member::{Member, Product};
use holdfast_tests::tools::EtcdVersion;
use proto::etcdserverpb::request_op::Request as Operation;
use proto::etcdserverpb::{
    CompactionRequest, DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest,
};
use proto::mvccpb::KeyValue;

const WRITES: usize = 400;
const ROUNDS: usize = 6;

#[derive(Clone, Copy, Debug)]
enum End {
    Stopped,
    Killed,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcd_3_5_reads_what_we_wrote_and_stopped() {
    hand_over(Product::subject(), ETCD_3_5, End::Stopped).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcd_3_5_reads_what_we_wrote_when_we_were_killed() {
    hand_over(Product::subject(), ETCD_3_5, End::Killed).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn we_read_what_etcd_3_5_wrote_and_stopped() {
    hand_over(ETCD_3_5, Product::subject(), End::Stopped).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn we_read_what_etcd_3_5_wrote_when_it_was_killed() {
    hand_over(ETCD_3_5, Product::subject(), End::Killed).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn we_read_what_etcd_3_4_wrote_and_stopped() {
    hand_over(ETCD_3_4, Product::subject(), End::Stopped).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn we_read_what_etcd_3_4_wrote_when_it_was_killed() {
    hand_over(ETCD_3_4, Product::subject(), End::Killed).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_directory_goes_back_and_forth() {
    let mut dice = Dice::new(3);
    let mut folder = Folder::new();
    let mut before: Option<Picture> = None;
    for round in 0..ROUNDS {
        let product = if round % 2 == 0 {
            Product::subject()
        } else {
            ETCD_3_5
        };
        // So few entries that snapshots fall into every second round.
        let member = Member::start_on(product, folder, &["--snapshot-count", "500"]).await;
        let client = member.client();
        if let Some(before) = before {
            assert_eq!(
                Picture::of(&client).await,
                before,
                "round {round}, {product:?}"
            );
        }
        write(&client, &mut dice).await;
        before = Some(Picture::of(&client).await);
        folder = if dice.one_in(2) {
            member.kill()
        } else {
            member.stop()
        };
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcds_tools_read_our_database_file() {
    let member = Member::start(Product::subject()).await;
    let client = member.client();
    write(&client, &mut Dice::new(4)).await;
    let picture = Picture::of(&client).await;
    let folder = member.stop();
    let status = snapshot_status(&folder.database());
    assert_eq!(status.revision, picture.revision);
    assert!(
        status.total_keys >= picture.pairs.len() as u64,
        "{status:?}"
    );
}

/// [MT-25], [MT-26]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_through_our_server_is_restored_by_etcds_tools() {
    let member = Member::start(Product::subject()).await;
    let client = member.client();
    write(&client, &mut Dice::new(5)).await;
    let picture = Picture::of(&client).await;
    let backup = member.folder().beside("backup");
    let path = backup.to_str().expect("a temporary path is text");
    etcdctl(
        EtcdVersion::V3_5,
        &member.endpoint(),
        ["snapshot", "save", path],
    );
    assert_eq!(snapshot_status(&backup).revision, picture.revision);

    let restored = Folder::new();
    let data = restored.data();
    etcdutl([
        "snapshot",
        "restore",
        path,
        "--data-dir",
        data.to_str().expect("text"),
    ]);
    // The restored directory belongs to a cluster of its own, with etcdutl's default names.
    let etcd = Member::start_on(ETCD_3_5, restored, &[]).await;
    assert_eq!(Picture::of(&etcd.client()).await, picture);
}

const ETCD_3_4: Product = Product::Etcd(EtcdVersion::V3_4);
const ETCD_3_5: Product = Product::Etcd(EtcdVersion::V3_5);

/// Lets one server write and end, and the other start on a copy of what it left.
async fn hand_over(from: Product, to: Product, end: End) {
    let writer = Member::start(from).await;
    let client = writer.client();
    write(&client, &mut Dice::new(1)).await;
    let before = Picture::of(&client).await;
    // The database file is written some time after the log: killed now, part of this is only there.
    let folder = match end {
        End::Stopped => writer.stop(),
        End::Killed => writer.kill(),
    };
    let reader = Member::start_on(to, folder.copy(), &[]).await;
    let client = reader.client();
    assert_eq!(
        Picture::of(&client).await,
        before,
        "{from:?} to {to:?}, {end:?}"
    );
    // It can be written on, and the reader finds its own writes again.
    write(&client, &mut Dice::new(2)).await;
    let after = Picture::of(&client).await;
    assert!(after.revision > before.revision);
    let again = Member::start_on(to, reader.kill(), &[]).await;
    assert_eq!(Picture::of(&again.client()).await, after, "{to:?} again");
}

/// What must not change when another server opens the directory.
#[derive(Debug, PartialEq)]
struct Picture {
    revision: i64,
    pairs: Vec<KeyValue>,
    hash: u32,
    compact_revision: i64,
    /// The keys at some older revisions.
    history: Vec<(i64, Vec<KeyValue>)>,
}

impl Picture {
    async fn of(client: &Client) -> Picture {
        let newest = client.everything().await;
        let revision = newest.header.expect("a header").revision;
        let hash = client.hash_kv(0).await;
        let mut history = Vec::new();
        for back in [1, 5, 20] {
            let zero = Bytes::from_static(b"\0");
            let at = revision - back;
            let request = RangeRequest {
                key: zero.clone(),
                range_end: zero,
                revision: at,
                ..Default::default()
            };
            let found = client.range(request).await.expect("recent history is kept");
            history.push((at, found.kvs));
        }
        Picture {
            revision,
            pairs: newest.kvs,
            hash: hash.hash,
            compact_revision: hash.compact_revision,
            history,
        }
    }
}

/// Puts, deletes and txns over few keys, with a compaction in the middle.
async fn write(client: &Client, dice: &mut Dice) {
    let mut kv = client.kv.clone();
    for number in 0..WRITES {
        let key = Bytes::from(format!("key/{:02}", dice.below(60)));
        let value = Bytes::from(vec![b'a' + (number % 26) as u8; dice.below(2_000) as usize]);
        let put = PutRequest {
            key: key.clone(),
            value,
            ..Default::default()
        };
        let range_end = Bytes::from(format!("key/{:02}", dice.below(60)));
        let delete = DeleteRangeRequest {
            key,
            range_end,
            prev_kv: false,
        };
        match dice.below(10) {
            0 => drop(kv.delete_range(delete).await.expect("a delete")),
            1 | 2 => {
                let other = PutRequest {
                    key: "other".into(),
                    ..put.clone()
                };
                let success =
                    [Operation::RequestPut(put), Operation::RequestPut(other)].map(|operation| {
                        RequestOp {
                            request: Some(operation),
                        }
                    });
                let txn = TxnRequest {
                    success: success.into(),
                    ..Default::default()
                };
                kv.txn(txn).await.expect("a txn");
            }
            _ => drop(kv.put(put).await.expect("a put")),
        }
        if number == WRITES / 2 {
            let revision = client.everything().await.header.expect("a header").revision - 30;
            let compaction = CompactionRequest {
                revision,
                physical: true,
            };
            kv.compact(compaction).await.expect("a compaction");
        }
    }
}
