//! kill -9 of a loaded server, again and again: whatever was acknowledged is found with its revision,
//! and nothing is found by halves.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use holdfast_tests::client::Client;
use holdfast_tests::dice::{self, Dice};
use holdfast_tests::folder::Folder;
use holdfast_tests::member::{Member, Product};
use proto::etcdserverpb::request_op::Request as Operation;
use proto::etcdserverpb::{CompactionRequest, PutRequest, RangeRequest, RequestOp, TxnRequest};
use proto::mvccpb::KeyValue;

const KILLS: u64 = 25;
const WRITERS: u64 = 8;
/// Acknowledgements after which the server is killed, at most; the moment is drawn.
const WRITES_BEFORE_KILL_MAX: u64 = 600;
/// A server that acknowledges nothing for this long hangs.
const PROGRESS_TIME_MAX: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_micros(200);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_acknowledged_write_survives_kill_9() {
    let seed = dice::seed(9);
    let mut dice = Dice::new(seed);
    // Small enough that snapshots fall into the run.
    let flags = [
        "--snapshot-count",
        "700",
        "--backend-batch-interval",
        "30ms",
    ];
    let mut member = Member::start_on(Product::subject(), Folder::new(), &flags).await;
    let mut record = Record::default();
    for round in 0..KILLS {
        let acknowledged = Arc::new(AtomicU64::new(0));
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                let name = format!("{round:02}/{writer}");
                tokio::spawn(write_until_refused(
                    member.client(),
                    name,
                    acknowledged.clone(),
                ))
            })
            .collect();
        let compactor = tokio::spawn(compact_until_refused(member.client()));
        wait_for(&acknowledged, dice.below(WRITES_BEFORE_KILL_MAX)).await;
        member.end_at_once();
        // Only now may it start again: whoever were between two calls would go on with the new one.
        for writer in writers {
            record.add(writer.await.expect("a writer ends"));
        }
        compactor.await.expect("the compactor ends");
        member.launch();
        if dice.one_in(4) {
            // Recovery itself is interrupted, at a moment that nobody chose.
            std::thread::sleep(Duration::from_millis(dice.below(60)));
            member.end_at_once();
            member.launch();
        }
        member.wait_until_ready().await;
        let found = member.client().everything().await;
        let revision = found.header.expect("a header").revision;
        record.check(
            &found.kvs,
            revision,
            &format!("TEST_SEED={seed}, kill {round}"),
        );
    }
    assert!(
        record.acknowledged.len() as u64 > KILLS * 50,
        "hardly anything was written"
    );
    member.stop();
}

/// One write: the keys that it puts at once, all with the same value.
struct Write {
    keys: Vec<String>,
    value: String,
    /// Its revision, if it was acknowledged.
    revision: Option<i64>,
}

#[derive(Default)]
struct Record {
    acknowledged: HashMap<i64, Write>,
    unknown: Vec<Write>,
}

impl Record {
    fn add(&mut self, writes: Vec<Write>) {
        for write in writes {
            match write.revision {
                Some(revision) => {
                    let other = self.acknowledged.insert(revision, write);
                    assert!(
                        other.is_none(),
                        "revision {revision} was given to two writes"
                    );
                }
                None => self.unknown.push(write),
            }
        }
    }

    fn check(&mut self, pairs: &[KeyValue], revision: i64, when: &str) {
        let found: BTreeMap<&[u8], &KeyValue> =
            pairs.iter().map(|pair| (&pair.key[..], pair)).collect();
        let mut explained = HashSet::new();
        for (at, write) in &self.acknowledged {
            for key in &write.keys {
                let pair = found.get(key.as_bytes());
                let pair = pair.unwrap_or_else(|| panic!("{when}: {key} of revision {at} is lost"));
                assert_eq!(pair.value, write.value, "{when}: value of {key}");
                let revisions = (pair.create_revision, pair.mod_revision, pair.version);
                assert_eq!(revisions, (*at, *at, 1), "{when}: revisions of {key}");
                explained.insert(&pair.key);
            }
        }
        let mut happened = 0;
        for write in &self.unknown {
            let parts: Vec<_> = write
                .keys
                .iter()
                .filter_map(|key| found.get(key.as_bytes()))
                .collect();
            if parts.is_empty() {
                continue;
            }
            happened += 1;
            assert_eq!(
                parts.len(),
                write.keys.len(),
                "{when}: half of {:?}",
                write.keys
            );
            for part in parts {
                assert_eq!(part.value, write.value, "{when}: value of {:?}", part.key);
                explained.insert(&part.key);
            }
        }
        let strange = pairs.iter().find(|pair| !explained.contains(&pair.key));
        assert_eq!(strange, None, "{when}: nobody wrote this");
        // Each write makes one revision, the first of which is 2.
        let writes = self.acknowledged.len() as i64 + happened;
        assert_eq!(
            revision,
            writes + 1,
            "{when}: revision against the number of writes"
        );
    }
}

async fn write_until_refused(
    client: Client,
    writer: String,
    acknowledged: Arc<AtomicU64>,
) -> Vec<Write> {
    let mut dice = Dice::new(writer.bytes().map(u64::from).sum());
    let mut writes = Vec::new();
    for number in 0.. {
        let keys = 1 + dice.below(3) * dice.below(2);
        let mut write = Write {
            keys: (0..keys)
                .map(|key| format!("{writer}/{number:05}/{key}"))
                .collect(),
            value: format!("{number}").repeat(1 + dice.below(200) as usize),
            revision: None,
        };
        write.revision = put(&client, &write).await;
        let refused = write.revision.is_none();
        writes.push(write);
        if refused {
            break;
        }
        acknowledged.fetch_add(1, Ordering::Relaxed);
    }
    writes
}

async fn put(client: &Client, write: &Write) -> Option<i64> {
    let put = |key: &String| PutRequest {
        key: key.clone().into(),
        value: write.value.clone().into(),
        ..Default::default()
    };
    let header = if let [key] = &write.keys[..] {
        client
            .kv
            .clone()
            .put(put(key))
            .await
            .ok()?
            .into_inner()
            .header
    } else {
        let puts = write.keys.iter().map(put);
        let success = puts.map(|put| RequestOp {
            request: Some(Operation::RequestPut(put)),
        });
        let txn = TxnRequest {
            success: success.collect(),
            ..Default::default()
        };
        client.kv.clone().txn(txn).await.ok()?.into_inner().header
    };
    Some(header.expect("a header").revision)
}

/// Compacts while the others write, until the server is gone.
async fn compact_until_refused(client: Client) {
    let any = Bytes::from_static(b"x");
    loop {
        let request = RangeRequest {
            key: any.clone(),
            ..Default::default()
        };
        let Ok(found) = client.range(request).await else {
            return;
        };
        let revision = (found.header.expect("a header").revision - 20).max(0);
        // Refused as compacted when nothing was written meanwhile.
        let compaction = CompactionRequest {
            revision,
            physical: true,
        };
        let _ = client.kv.clone().compact(compaction).await;
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn wait_for(counter: &AtomicU64, count: u64) {
    let reached = async {
        while counter.load(Ordering::Relaxed) < count {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    };
    let in_time = tokio::time::timeout(PROGRESS_TIME_MAX, reached).await;
    assert!(in_time.is_ok(), "the server acknowledges no writes");
}
