//! kill -9 of a loaded server, again and again: whatever was acknowledged is found with its revision,
//! and nothing is found by halves.

use std::time::Duration;

use holdfast_tests::acknowledged::{Record, Writers, compact_until_refused};
use holdfast_tests::dice::{self, Dice};
use holdfast_tests::folder::Folder;
use holdfast_tests::member::{Member, Product};

const KILLS: u64 = 25;
/// Acknowledgements after which the server is killed, at most; the moment is drawn.
const WRITES_BEFORE_KILL_MAX: u64 = 600;
const VALUE_BYTES_MAX: u64 = 600;

/// [D2]
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
        let writers = Writers::start(&member, &format!("{round:02}"), VALUE_BYTES_MAX);
        let compactor = tokio::spawn(compact_until_refused(member.client()));
        writers.wait_for(dice.below(WRITES_BEFORE_KILL_MAX)).await;
        member.end_at_once();
        record.add(writers.refused().await);
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
        record.check(&found, &format!("TEST_SEED={seed}, kill {round}"));
    }
    assert!(
        record.acknowledged() as u64 > KILLS * 50,
        "hardly anything was written"
    );
    member.stop();
}
