//! Prints what the store costs at a million keys, in time of the processor:
//! `cargo run --release -p mvcc --example costs`.

#![expect(clippy::print_stdout, reason = "printing is what it is for")]

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use mvcc::{CompactionState, KeyRange, RangeQuery, Revision, Store, View};
use nix::time::{ClockId, clock_gettime};
use storage::disk::real::RealDisk;

const KEYS: u64 = 1_000_000;
const VALUE: [u8; 100] = [b'v'; 100];

struct Member {
    file: storage::Store,
    store: Store,
    /// The view that readers hold, as the server publishes one after each batch.
    published: View,
}

fn main() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("db");
    let file = storage::Store::create(Arc::new(RealDisk), &path).expect("a new file");
    let store = Store::open(file.committed().clone())
        .expect("an empty store")
        .store;
    let mut member = Member {
        file,
        published: store.view(),
        store,
    };

    for batch in [1, 64, 1000] {
        member.puts(
            &format!("put of a new key, a view for every {batch}"),
            KEYS / 3,
            batch,
            0,
        );
    }
    member.puts(
        "put of a key that exists, a view for every 64",
        KEYS / 3,
        64,
        0,
    );
    println!(
        "{:>10} bytes of index for each key, as written",
        member.index_bytes_per_key()
    );
    let revision = member.store.revision();
    member.compact(revision);
    println!(
        "{:>10} bytes of index for each key, compacted",
        member.index_bytes_per_key()
    );
    member.commit();
    member.reads();

    let committed = member.file.committed().clone();
    drop(member);
    let start = now();
    let store = Store::open(committed)
        .expect("the store that was written")
        .store;
    report("key restored at start", start, KEYS);
    let keys = usize::try_from(store.view().live_keys()).expect("a million");
    println!(
        "{:>10} bytes of index for each key, restored",
        store.index_bytes() / keys
    );
}

impl Member {
    fn puts(&mut self, what: &str, count: u64, batch: u64, first: u64) {
        let first = first + self.offset(what);
        let mut spent = Duration::ZERO;
        let mut left = count;
        while left > 0 {
            let now_written = left.min(5_000);
            let start = now();
            for number in 0..now_written {
                let key = key((first + count - left + number) % KEYS);
                let mut change = self.store.change();
                change.put(&key, &VALUE, None);
                change.finish().expect("a put changes something");
                if number % batch == 0 {
                    self.published = self.store.view();
                }
            }
            spent += now() - start;
            left -= now_written;
            self.commit();
        }
        println!(
            "{:>10} ns for each {what}",
            spent.as_nanos() / u128::from(count)
        );
    }

    fn offset(&self, what: &str) -> u64 {
        if what.contains("exists") {
            0
        } else {
            self.store.view().live_keys()
        }
    }

    fn commit(&mut self) {
        let batch = self.store.take_batch();
        let committed = self.file.commit(batch).expect("a commit");
        self.store
            .batch_committed(committed)
            .expect("a readable file");
        self.published = self.store.view();
    }

    fn compact(&mut self, at: Revision) {
        self.store
            .schedule_compaction(at)
            .expect("the newest revision");
        let (mut steps, mut longest) = (0, 0);
        loop {
            let start = now();
            let state = self.store.compact_step(1000).expect("a readable file");
            let took = (now() - start).as_micros();
            longest = longest.max(took);
            steps += 1;
            match state {
                CompactionState::Runs if self.store.wants_commit() => self.commit(),
                CompactionState::Runs => {}
                CompactionState::WaitsForCommit => self.commit(),
                CompactionState::Idle => break,
            }
        }
        println!("{longest:>10} us for the longest of {steps} steps of compaction");
    }

    fn index_bytes_per_key(&self) -> usize {
        let keys = usize::try_from(self.store.view().live_keys()).expect("a million");
        self.store.index_bytes() / keys
    }

    fn reads(&self) {
        let view = &self.published;
        let start = now();
        for number in 0..300_000 {
            let key = key(number * 7919 % (KEYS / 3));
            assert!(view.get(&key, None).expect("a readable file").is_some());
        }
        report("get", start, 300_000);

        let all = RangeQuery::new(KeyRange::All);
        let page = RangeQuery {
            limit: NonZeroUsize::new(500),
            ..all.clone()
        };
        let start = now();
        for _ in 0..1000 {
            assert_eq!(view.range(&page).expect("a readable file").pairs.len(), 500);
        }
        report("page of 500 of all keys", start, 1000);

        let start = now();
        for _ in 0..1000 {
            assert!(view.count(&some_keys(), None).expect("current") > 1000);
        }
        report("count of half the keys", start, 1000);

        let past = Some(Revision(view.revision().0 - 1));
        if view.compact_revision() < past {
            let start = now();
            for _ in 0..1000 {
                assert!(view.count(&some_keys(), past).expect("kept") > 1000);
            }
            report("count of half the keys, one revision back", start, 1000);
        }

        let start = now();
        view.hash(None).expect("a readable file");
        report("record hashed", start, KEYS);
    }
}

fn some_keys() -> KeyRange {
    KeyRange::Range {
        from: Bytes::from_static(b"/registry/pods/2"),
        to: Bytes::from_static(b"/registry/pods/a"),
    }
}

/// Keys in no order.
fn key(number: u64) -> Vec<u8> {
    let scattered = number.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
    format!("/registry/pods/{scattered:016x}").into_bytes()
}

fn report(what: &str, start: Duration, count: u64) {
    println!(
        "{:>10} ns for each {what}",
        (now() - start).as_nanos() / u128::from(count)
    );
}

/// Time that this thread has had of a processor, so that a busy machine does not count.
fn now() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)
        .expect("Linux has this clock")
        .into()
}
