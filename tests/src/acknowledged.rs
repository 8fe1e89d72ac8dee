//! Writers that go on until the server is gone, and the record of what it acknowledged to them, to be
//! compared with what is found afterwards.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use proto::etcdserverpb::request_op::Request as Operation;
use proto::etcdserverpb::{
    CompactionRequest, PutRequest, RangeRequest, RangeResponse, RequestOp, TxnRequest,
};
use proto::mvccpb::KeyValue;
use tokio::task::JoinHandle;

use crate::client::Client;
use crate::dice::Dice;
use crate::member::Member;

/// Writers of one round, each on a connection of its own.
const WRITERS: u64 = 8;
/// A server that acknowledges nothing for this long hangs.
const PROGRESS_TIME_MAX: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_micros(200);
/// Revisions that are left behind by [`compact_until_refused`].
const REVISIONS_KEPT: i64 = 20;

/// One write: the keys that it puts at once, all with the same value.
#[derive(Debug)]
pub struct Write {
    keys: Vec<String>,
    value: String,
    /// Its revision, if it was acknowledged.
    revision: Option<i64>,
}

/// Writers at work, each until its first call that is not answered well.
#[derive(Debug)]
pub struct Writers {
    tasks: Vec<JoinHandle<Vec<Write>>>,
    acknowledged: Arc<AtomicU64>,
}

impl Writers {
    /// Starts them. No two rounds on a data directory may have the same name; values have up to about
    /// `value_bytes_max` bytes.
    pub fn start(member: &Member, round: &str, value_bytes_max: u64) -> Writers {
        let acknowledged = Arc::new(AtomicU64::new(0));
        let write = |writer| {
            let name = format!("{round}/{writer}");
            let client = member.client();
            tokio::spawn(write_until_refused(
                client,
                name,
                value_bytes_max,
                acknowledged.clone(),
            ))
        };
        Writers {
            tasks: (0..WRITERS).map(write).collect(),
            acknowledged: acknowledged.clone(),
        }
    }

    /// Waits until so many writes were acknowledged.
    ///
    /// # Panics
    /// If the server hangs.
    pub async fn wait_for(&self, count: u64) {
        let reached = async {
            while self.acknowledged.load(Ordering::Relaxed) < count {
                tokio::time::sleep(LOOK_EVERY).await;
            }
        };
        let in_time = tokio::time::timeout(PROGRESS_TIME_MAX, reached).await;
        assert!(in_time.is_ok(), "the server acknowledges no writes");
    }

    /// What they wrote, once all were refused. Before that the server must not be started again:
    /// whoever were between two calls would go on with the new one.
    ///
    /// # Panics
    /// If they are served for ever.
    pub async fn refused(self) -> Vec<Write> {
        let all = async {
            let mut writes = Vec::new();
            for task in self.tasks {
                writes.extend(task.await.expect("a writer ends"));
            }
            writes
        };
        let in_time = tokio::time::timeout(PROGRESS_TIME_MAX, all).await;
        in_time.expect("the server goes on and on")
    }
}

/// What became of all writes to a data directory.
#[derive(Debug, Default)]
pub struct Record {
    acknowledged: HashMap<i64, Write>,
    unknown: Vec<Write>,
    others: i64,
}

impl Record {
    /// Takes the writes of a round in.
    ///
    /// # Panics
    /// If two of all writes have one revision.
    pub fn add(&mut self, writes: Vec<Write>) {
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

    /// Takes in that others made so many revisions, and left no key.
    pub fn add_others(&mut self, revisions: i64) {
        self.others += revisions;
    }

    /// How many writes were acknowledged.
    pub fn acknowledged(&self) -> usize {
        self.acknowledged.len()
    }

    /// Compares with all keys: each acknowledged write is there with its revision, each other one wholly
    /// or not at all, and nothing else.
    ///
    /// # Panics
    /// If it is not so.
    pub fn check(&self, found: &RangeResponse, when: &str) {
        let revision = found.header.as_ref().expect("a header").revision;
        let pairs: BTreeMap<&[u8], &KeyValue> =
            found.kvs.iter().map(|pair| (&pair.key[..], pair)).collect();
        let mut explained = HashSet::new();
        for (at, write) in &self.acknowledged {
            for key in &write.keys {
                let pair = pairs.get(key.as_bytes());
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
                .filter_map(|key| pairs.get(key.as_bytes()))
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
        let strange = found.kvs.iter().find(|pair| !explained.contains(&pair.key));
        assert_eq!(strange, None, "{when}: nobody wrote this");
        // Each write makes one revision, the first of which is 2.
        let writes = self.acknowledged.len() as i64 + happened + self.others;
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
    value_bytes_max: u64,
    acknowledged: Arc<AtomicU64>,
) -> Vec<Write> {
    let mut dice = Dice::new(writer.bytes().map(u64::from).sum());
    let mut writes = Vec::new();
    for number in 0.. {
        let keys = 1 + dice.below(3) * dice.below(2);
        let part = format!("{number}.");
        let mut write = Write {
            keys: (0..keys)
                .map(|key| format!("{writer}/{number:05}/{key}"))
                .collect(),
            value: part.repeat(1 + dice.below(value_bytes_max) as usize / part.len()),
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

/// Compacts while others write, until the server is gone.
///
/// # Panics
/// Never: it ends when it is not answered.
pub async fn compact_until_refused(client: Client) {
    loop {
        let request = RangeRequest {
            key: "x".into(),
            ..Default::default()
        };
        let Ok(found) = client.range(request).await else {
            return;
        };
        let revision = found.header.expect("a header").revision - REVISIONS_KEPT;
        // Refused as compacted when nothing was written meanwhile.
        let compaction = CompactionRequest {
            revision: revision.max(0),
            physical: true,
        };
        let _ = client.kv.clone().compact(compaction).await;
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
