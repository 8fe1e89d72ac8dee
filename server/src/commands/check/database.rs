//! Whether a database file holds what a member writes: pages, then records.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::path::Path;

use bytes::Bytes;
use mvcc::{KeyValue, LeaseId, Position, RecordKey, Revision};
use prost::Message;
use proto::leasepb;
use state_machine::{Settings, StateMachine, schema};
use storage::{Bucket, Committed, Summary};

use crate::commands::Failure;

/// Bytes of a key that a message shows.
const SHOWN_BYTES: usize = 64;

/// What a sound database holds.
#[derive(Debug)]
pub(super) struct Contents {
    /// Its pages.
    pages: Summary,
    page_size: u32,
    /// Records in bucket `key`.
    records: u64,
    /// Keys that exist.
    live_keys: u64,
    leases: usize,
    leased_keys: u64,
    /// The current revision.
    revision: Revision,
    compacted: Option<Revision>,
    /// The last applied entry.
    pub(super) applied: u64,
}

impl fmt::Display for Contents {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (used, free) = (self.pages.reachable_pages, self.pages.free_pages);
        writeln!(
            formatter,
            "pages      {used} in use and {free} free, of {} bytes; {} pairs in all buckets",
            self.page_size, self.pages.pairs
        )?;
        let compacted = match self.compacted {
            None => "never compacted".to_owned(),
            Some(at) => format!("compacted to {at}"),
        };
        writeln!(
            formatter,
            "keys       {} exist, in {} records; revision {}, {compacted}",
            self.live_keys, self.records, self.revision
        )?;
        writeln!(
            formatter,
            "leases     {}, with {} keys",
            self.leases, self.leased_keys
        )
    }
}

/// Checks all pages and records of a database in the file `path`. The first damage is told with file,
/// page and key.
pub(super) fn check_contents(committed: &Committed, path: &Path) -> Result<Contents, Failure> {
    // 1. Pages: reachable and free ones are together all, keys ascend.
    let pages = storage::check(committed)?;

    // 2. Records one by one: each fits what its key had before.
    let place = |name: &'static str, bucket: Bucket| Place { path, name, bucket };
    let leases = match committed.bucket(schema::LEASE)? {
        Some(bucket) => leases(&place(schema::LEASE, bucket))?,
        None => HashSet::new(),
    };
    let mut history = History::default();
    if let Some(bucket) = committed.bucket(schema::KEY)? {
        let place = place(schema::KEY, bucket);
        history.read(&place)?;
        history.check_leases(&place, &leases)?;
    }
    let (records, live_keys, leased_keys) = history.counts();
    drop(history);

    // 3. All else that a start reads: the index, members, users, alarms, marks.
    let settings = Settings {
        lease_ttl_min: 1,
        persist_lease_checkpoints: false,
        learners_max: 1,
    };
    let machine = StateMachine::open(committed.clone(), settings).map_err(|fault| {
        let failure = Failure::from(fault);
        Failure::of_data(format!("{} is damaged: {failure}", path.display()))
    })?;
    let view = machine.view();
    Ok(Contents {
        pages,
        page_size: committed.meta().page_size,
        records,
        live_keys,
        leases: leases.len(),
        leased_keys,
        revision: view.revision(),
        compacted: view.compact_revision(),
        applied: machine.applied().index,
    })
}

/// Where a record stands, for messages.
struct Place<'a> {
    path: &'a Path,
    name: &'static str,
    bucket: Bucket,
}

impl Place<'_> {
    fn damaged(&self, stored_key: &[u8], shown_key: &str, what: &str) -> Failure {
        let page = match self.bucket.page_of(stored_key) {
            Ok(page) => page.to_string(),
            Err(fault) => fault.to_string(),
        };
        Failure::of_data(format!(
            "{} is damaged: {page}: bucket {}, {shown_key}: {what}",
            self.path.display(),
            self.name
        ))
    }
}

fn leases(place: &Place<'_>) -> Result<HashSet<LeaseId>, Failure> {
    let mut leases = HashSet::new();
    for pair in place.bucket.range(&[])? {
        let (key, value) = pair?;
        let damaged = |what: &str| {
            let shown = format!("lease {}", key.escape_ascii());
            Err(place.damaged(&key, &shown, what))
        };
        let Some(id) = schema::decode_u64(&key) else {
            return damaged("its id is not eight bytes long");
        };
        let id = id.cast_signed();
        match leasepb::Lease::decode(value) {
            Err(error) => return damaged(&error.to_string()),
            Ok(lease) if lease.id != id => {
                return damaged(&format!("its record names lease {:x}", lease.id));
            }
            Ok(lease) if lease.ttl <= 0 => return damaged("its time to live is not above zero"),
            Ok(_) => drop(leases.insert(LeaseId(id))),
        }
    }
    Ok(leases)
}

/// What the records so far say.
#[derive(Default)]
struct History {
    keys: HashMap<Box<[u8]>, Life>,
    records: u64,
}

/// The newest record of a key.
struct Life {
    at: RecordKey,
    created: Revision,
    version: i64,
    lease: Option<LeaseId>,
}

impl History {
    fn read(&mut self, place: &Place<'_>) -> Result<(), Failure> {
        for pair in place.bucket.range(&[])? {
            let (key, record) = pair?;
            let Some(at) = RecordKey::decode(&key) else {
                let shown = format!("key {}", key.escape_ascii());
                return Err(place.damaged(&key, &shown, "it is no revision"));
            };
            self.take(at, record).map_err(|wrong| {
                let shown = format!("revision {}{}", at.position, wrong.key);
                place.damaged(&key, &shown, &wrong.what)
            })?;
        }
        Ok(())
    }

    fn take(&mut self, at: RecordKey, record: Bytes) -> Result<(), Wrong> {
        self.records += 1;
        if record.is_empty() && !at.tombstone {
            // A restored backup whose revision was raised.
            return Ok(());
        }
        let pair = KeyValue::decode(record).map_err(|malformed| Wrong {
            key: String::new(),
            what: malformed.to_string(),
        })?;
        let before = self.keys.get(pair.key());
        check_record(at, &pair, before).map_err(|what| Wrong {
            key: format!(" of key {}", shown(pair.key())),
            what,
        })?;
        let life = Life {
            at,
            created: pair.create_revision,
            version: pair.version,
            lease: pair.lease,
        };
        self.keys.insert(pair.key().into(), life);
        Ok(())
    }

    fn check_leases(&self, place: &Place<'_>, leases: &HashSet<LeaseId>) -> Result<(), Failure> {
        // The one that comes first in the file, so that the answer is always the same.
        let lost = self
            .keys
            .iter()
            .filter(|(_, life)| life.holds().is_some_and(|lease| !leases.contains(&lease)))
            .min_by_key(|(_, life)| life.at);
        let Some((key, life)) = lost else {
            return Ok(());
        };
        let (stored, length) = life.at.encode();
        let shown = format!("revision {} of key {}", life.at.position, shown(key));
        let lease = life.lease.map_or(0, |lease| lease.0);
        let what = format!("it hangs on lease {lease:x}, which does not exist");
        Err(place.damaged(&stored[..length], &shown, &what))
    }

    /// Records, keys that exist, those of them with a lease.
    fn counts(&self) -> (u64, u64, u64) {
        let live = self.keys.values().filter(|life| !life.at.tombstone).count();
        let leased = self.keys.values().filter(|life| life.holds().is_some());
        (self.records, live as u64, leased.count() as u64)
    }
}

impl Life {
    fn holds(&self) -> Option<LeaseId> {
        self.lease.filter(|_| !self.at.tombstone)
    }
}

struct Wrong {
    key: String,
    what: String,
}

/// Whether a record agrees with its revision, and with the record of the same key before it. That may
/// have been compacted away; then anything possible goes.
fn check_record(at: RecordKey, pair: &KeyValue, before: Option<&Life>) -> Result<(), String> {
    let Position { revision, .. } = at.position;
    if pair.key().is_empty() {
        return Err("it names no key".to_owned());
    }
    if at.tombstone {
        return match before {
            Some(before) if before.at.tombstone => Err(format!(
                "it deletes what was deleted at {}",
                before.at.position
            )),
            _ => Ok(()),
        };
    }
    if pair.mod_revision != revision {
        return Err(format!(
            "it says that it is of revision {}",
            pair.mod_revision
        ));
    }
    let (created, version) = (pair.create_revision, pair.version);
    let expected = match before {
        Some(before) if before.at.tombstone => (revision, 1),
        Some(before) => (before.created, before.version + 1),
        None if version == 1 => (revision, 1),
        None => (created, version),
    };
    if (created, version) != expected {
        return Err(format!(
            "it says version {version} created at {created}, and should say version {} created at {}",
            expected.1, expected.0
        ));
    }
    match created.0 >= 1 && created <= revision && version >= 1 {
        true => Ok(()),
        false => Err(format!("version {version} created at {created} cannot be")),
    }
}

/// The start of a key, printable.
fn shown(key: &[u8]) -> String {
    let start = key.get(..SHOWN_BYTES).unwrap_or(key);
    let more = if start.len() < key.len() { "..." } else { "" };
    format!("{:?}{more}", start.escape_ascii().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn live(revision: i64) -> RecordKey {
        RecordKey::live(Position::first(Revision(revision)))
    }

    fn tombstone(revision: i64) -> RecordKey {
        RecordKey::tombstone(Position::first(Revision(revision)))
    }

    fn record(created: i64, modified: i64, version: i64) -> Bytes {
        let record = proto::mvccpb::KeyValue {
            key: "k".into(),
            create_revision: created,
            mod_revision: modified,
            version,
            ..Default::default()
        };
        record.encode_to_vec().into()
    }

    fn check(records: &[(RecordKey, Bytes)]) -> Result<(), String> {
        let mut history = History::default();
        for (at, record) in records {
            history
                .take(*at, record.clone())
                .map_err(|wrong| format!("{}{}: {}", at.position, wrong.key, wrong.what))?;
        }
        Ok(())
    }

    #[test]
    fn histories_that_a_store_writes_pass() {
        let gone = || Bytes::from_static(&[0x0a, 1, b'k']);
        let histories: [&[(RecordKey, Bytes)]; 5] = [
            &[(live(2), record(2, 2, 1)), (live(3), record(2, 3, 2))],
            &[
                (live(2), record(2, 2, 1)),
                (tombstone(3), gone()),
                (live(4), record(4, 4, 1)),
                (tombstone(5), gone()),
            ],
            // What compaction left of longer ones.
            &[(live(9), record(2, 9, 7)), (live(11), record(2, 11, 8))],
            &[(tombstone(9), gone()), (live(10), record(10, 10, 1))],
            // A backup whose revision was raised, and writes after it.
            &[
                (live(2), record(2, 2, 1)),
                (live(1_000), Bytes::new()),
                (live(1_001), record(2, 1_001, 2)),
            ],
        ];
        for history in histories {
            assert_eq!(check(history), Ok(()));
        }
    }

    #[test]
    fn histories_that_no_store_writes_are_told_apart() {
        let gone = || Bytes::from_static(&[0x0a, 1, b'k']);
        let cases: [(&[(RecordKey, Bytes)], &str); 6] = [
            (
                &[(live(2), record(2, 3, 1))],
                "2_0 of key \"k\": it says that it is of revision 3",
            ),
            (
                &[(live(2), record(2, 2, 1)), (live(3), record(2, 3, 3))],
                "3_0 of key \"k\": it says version 3 created at 2, and should say version 2 created at 2",
            ),
            (
                &[(tombstone(3), gone()), (live(4), record(2, 4, 2))],
                "4_0 of key \"k\": it says version 2 created at 2, and should say version 1 created at 4",
            ),
            (
                &[(tombstone(3), gone()), (tombstone(4), gone())],
                "4_0 of key \"k\": it deletes what was deleted at 3_0",
            ),
            (
                &[(live(5), record(6, 5, 2))],
                "5_0 of key \"k\": version 2 created at 6 cannot be",
            ),
            (
                &[(live(2), Bytes::from_static(&[0x10, 2, 0x18, 2, 0x20, 1]))],
                "2_0 of key \"\": it names no key",
            ),
        ];
        for (history, expected) in cases {
            assert_eq!(check(history), Err(expected.to_owned()));
        }
    }
}
