//! Real faults of real disks: full, failing at a sync, without power; and kill -9 in the middle of
//! everything. Whatever was acknowledged is found afterwards, and a member that cannot go on says why.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use holdfast_tests::acknowledged::{Record, Writers, compact_until_refused};
use holdfast_tests::client::Client;
use holdfast_tests::dice::{self, Dice};
use holdfast_tests::file_system::FileSystem;
use holdfast_tests::folder::Folder;
use holdfast_tests::member::{Member, Product};
use holdfast_tests::offline_tool;
use proto::etcdserverpb::{CompactionRequest, DefragmentRequest, DeleteRangeRequest};

/// Exit code of a member whose disk has failed; a service manager does not start it again.
const EXIT_STORAGE: i32 = 3;
/// A member that cannot go on is gone within this time after its last answer.
const END_SECONDS_MAX: u64 = 2;
const SMALL_VALUES: u64 = 600;
/// A few thousand of them fill a segment of the log.
const LARGE_VALUES: u64 = 40_000;
const FULL: &str = "No space left on device";

/// [D19] The database has no room to grow.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_under_the_database_ends_the_member_and_loses_nothing() {
    let images = tempfile::tempdir().expect("a temporary folder");
    let made = FileSystem::ext4(&images.path().join("image"), 256);
    let Some(disk) = FileSystem::or_pass_over(made, "a full disk under the database") else {
        return;
    };
    let folder = Folder::with_data_at(disk.path().join("data"));
    let database = folder.database();
    let mut case = Case::start(folder, &[]).await;

    // What is left takes the database's next pieces, and no segment of the log.
    wait_for_next_segment(&case.wal).await;
    let filler = disk.fill_up_to(16 << 20);
    let last = case.write_until_it_ends("filling").await;
    assert!(last.contains(text(&database)), "{last}");
    assert!(last.contains(FULL), "{last}");
    case.try_to_start_while_it_is_full().await;

    fs::remove_file(filler).expect("it is there");
    case.works_again().await;
}

/// [D19] The log has no room for its next segment.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_under_the_log_ends_the_member_and_loses_nothing() {
    let made = FileSystem::in_memory(100);
    let Some(disk) = FileSystem::or_pass_over(made, "a full disk under the log") else {
        return;
    };
    let wal = disk.path().join("wal");
    let mut case = Case::start(Folder::new(), &["--wal-dir", text(&wal)]).await;

    let last = case.write_until_it_ends("filling").await;
    assert!(last.contains(text(&wal)), "{last}");
    assert!(last.contains(FULL), "{last}");
    case.try_to_start_while_it_is_full().await;

    disk.resize(400);
    case.works_again().await;
}

/// [D14] The disk below has no block for what the file system has promised: a sync fails, and the next
/// one would say that all is well.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_sync_of_the_log_ends_the_member_and_loses_nothing() {
    let Some((below, mut disk)) = failing_disk(24, "a failed sync of the log") else {
        return;
    };
    let wal = disk.path().join("wal");
    let mut case = Case::start(Folder::new(), &["--wal-dir", text(&wal)]).await;
    let last = case.write_until_it_ends("failing").await;
    assert!(tells_failure(&last, &wal), "{last}");
    mend(&below, &mut disk);
    case.works_again().await;
}

/// [D14] The same under the database.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_sync_of_the_database_ends_the_member_and_loses_nothing() {
    let Some((below, mut disk)) = failing_disk(16, "a failed sync of the database") else {
        return;
    };
    let folder = Folder::with_data_at(disk.path().join("data"));
    let (database, wal) = (folder.database(), folder.beside("wal"));
    let mut case = Case::start(folder, &["--wal-dir", text(&wal)]).await;
    let last = case.write_until_it_ends("failing").await;
    assert!(tells_failure(&last, &database), "{last}");
    mend(&below, &mut disk);
    case.works_again().await;
}

/// [D2], [D10] An answer leaves only after what it tells is on the disk, with all that leads there: names of
/// files, sizes, blocks.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_acknowledged_write_survives_a_power_loss() {
    const ROUNDS: u64 = 5;
    let images = tempfile::tempdir().expect("a temporary folder");
    let made = FileSystem::ext4(&images.path().join("image"), 400);
    let Some(mut disk) = FileSystem::or_pass_over(made, "a power loss") else {
        return;
    };
    let seed = dice::seed(2);
    let mut dice = Dice::new(seed);
    let folder = Folder::with_data_at(disk.path().join("data"));
    // Snapshots fall into the run, and so do new names.
    let flags = ["--snapshot-count", "300"];
    let mut case = Case::start(folder, &flags).await;
    for round in 0..ROUNDS {
        let writers = Writers::start(&case.member, &format!("{round}"), SMALL_VALUES);
        let compactor = tokio::spawn(compact_until_refused(case.member.client()));
        writers.wait_for(dice.below(800)).await;
        disk.lose_power();
        case.record.add(writers.refused().await);
        compactor.await.expect("the compactor ends");
        let last = case.last_words();
        assert!(last.contains(text(disk.path())), "{last}");
        disk.unmount();
        disk.mount_again();
        case.member.launch();
        case.member.wait_until_ready().await;
        let found = case.member.client().everything().await;
        let when = format!("TEST_SEED={seed}, power loss {round}");
        case.record.check(&found, &when);
    }
    case.member.end_at_once();
    case.works_again().await;
}

/// [D3] Space is given back, a compaction deletes and writers write at the moment of the kill.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_acknowledged_write_survives_kill_9_of_a_member_that_defragments() {
    const KILLS: u64 = 8;
    const GARBAGE: i64 = 40;
    let seed = dice::seed(3);
    let mut dice = Dice::new(seed);
    let mut case = Case::start(Folder::new(), &["--backend-batch-interval", "20ms"]).await;
    let mut defragmented = 0;
    for round in 0..KILLS {
        let client = case.member.client();
        for number in 0..GARBAGE {
            let value = vec![number as u8; 100_000];
            client.put("garbage", value).await.expect("a put");
        }
        delete(&client, "garbage", "").await;
        case.record.add_others(GARBAGE + 1);

        let writers = Writers::start(&case.member, &format!("{round}"), SMALL_VALUES);
        let compactor = tokio::spawn(compact_until_refused(case.member.client()));
        let defragmenter = tokio::spawn(defragment_until_refused(case.member.client()));
        writers.wait_for(dice.below(600)).await;
        case.member.end_at_once();
        case.record.add(writers.refused().await);
        compactor.await.expect("the compactor ends");
        defragmented += defragmenter.await.expect("it ends");
        case.check_files();

        case.member.launch();
        case.member.wait_until_ready().await;
        let found = case.member.client().everything().await;
        let when = format!("TEST_SEED={seed}, kill {round}");
        case.record.check(&found, &when);
    }
    assert!(defragmented > 0, "no defragmentation came to its end");
    case.member.end_at_once();
    case.works_again().await;
}

/// A member that meets a fault, and all that it was told before.
struct Case {
    member: Member,
    record: Record,
    data: PathBuf,
    wal: PathBuf,
}

impl Case {
    async fn start(folder: Folder, flags: &[&str]) -> Case {
        let data = folder.data();
        let wal = match flags {
            ["--wal-dir", wal] => PathBuf::from(wal),
            _ => data.join("member/wal"),
        };
        Case {
            member: Member::start_on(Product::Holdfast, folder, flags).await,
            record: Record::default(),
            data,
            wal,
        }
    }

    /// Writes until the member ends by itself, and returns its last line. What it acknowledged after the
    /// fault would be missed later.
    async fn write_until_it_ends(&mut self, round: &str) -> String {
        let writers = Writers::start(&self.member, round, LARGE_VALUES);
        self.record.add(writers.refused().await);
        assert!(
            self.record.acknowledged() > 100,
            "hardly anything was written"
        );
        self.last_words()
    }

    /// The last line of a member that ends because of its disk.
    fn last_words(&mut self) -> String {
        let ended = self.member.wait_for_end(END_SECONDS_MAX);
        let log = self.member.log();
        let last = log.lines().last().expect("it says why").to_owned();
        assert_eq!(ended.code(), Some(EXIT_STORAGE), "{last}");
        assert!(last.contains("the member has stopped"), "{last}");
        last
    }

    /// As long as there is no room it serves what it has, or ends as before; it damages nothing.
    async fn try_to_start_while_it_is_full(&mut self) {
        for _ in 0..2 {
            self.member.launch();
            match self.member.wait_until_ready_or_ended().await {
                Some(_) => {
                    let last = self.last_words();
                    assert!(last.contains(FULL), "{last}");
                }
                None => self.member.end_at_once(),
            }
            self.check_files();
        }
    }

    /// Starts, finds all, and works in every way.
    async fn works_again(mut self) {
        self.check_files();
        self.member.launch();
        self.member.wait_until_ready().await;
        let client = self.member.client();
        self.record
            .check(&client.everything().await, "after the fault");
        client.put("zz", "after").await.expect("a put");
        let revision = delete(&client, "0", "zz").await;
        let compaction = CompactionRequest {
            revision,
            physical: true,
        };
        let compacted = client.kv.clone().compact(compaction).await;
        compacted.expect("a compaction");
        defragment(&client).await.expect("a defragmentation");
        let status = client.status().await;
        assert!(status.db_size < 1 << 20, "{status:?}");
        let left = client.everything().await.kvs;
        assert_eq!(left.len(), 1, "{left:?}");
        self.member.terminate();
        self.check_files();
    }

    fn check_files(&self) {
        let (data, wal) = (text(&self.data), text(&self.wal));
        offline_tool::run(["check", "--data-dir", data, "--wal-dir", wal]).success();
    }
}

/// ext4 on a disk that fails once it has stored so much, and that disk.
fn failing_disk(mebibytes: u64, test: &str) -> Option<(FileSystem, FileSystem)> {
    let below = FileSystem::or_pass_over(FileSystem::in_memory(mebibytes), test)?;
    let made = FileSystem::ext4(&below.path().join("image"), 512);
    let disk = FileSystem::or_pass_over(made, test)?;
    Some((below, disk))
}

/// Which call meets the failure first is a matter of chance: a sync, or after a sync of the thread that
/// prepares the log a write, since the file system has made itself read-only by then.
fn tells_failure(last: &str, path: &Path) -> bool {
    ["sync", "write"]
        .iter()
        .any(|call| last.contains(&format!("cannot {call} {}", text(path))))
}

/// The disk works again, when what the kernel still kept of its content has gone.
fn mend(below: &FileSystem, disk: &mut FileSystem) {
    disk.unmount();
    below.resize(600);
    disk.mount_again();
}

/// The log makes its next segment ahead, with all its space, on a thread of its own.
async fn wait_for_next_segment(wal: &Path) {
    const SEGMENT_BYTES: u64 = 64_000_000;
    let prepared = || {
        let entries = fs::read_dir(wal).expect("the log's folder");
        entries.flatten().any(|entry| {
            let is_next = entry.path().extension().is_some_and(|it| it == "tmp");
            let taken = entry.metadata().map(|it| it.blocks() * 512);
            is_next && taken.is_ok_and(|taken| taken >= SEGMENT_BYTES)
        })
    };
    for _ in 0..1000 {
        if prepared() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("no next segment in {}", wal.display());
}

async fn delete(client: &Client, key: &'static str, range_end: &'static str) -> i64 {
    let request = DeleteRangeRequest {
        key: key.into(),
        range_end: range_end.into(),
        ..Default::default()
    };
    let deleted = client.kv.clone().delete_range(request).await;
    let header = deleted.expect("a deletion").into_inner().header;
    header.expect("a header").revision
}

async fn defragment(client: &Client) -> Result<(), tonic::Status> {
    let mut maintenance = client.maintenance.clone();
    maintenance.defragment(DefragmentRequest {}).await.map(drop)
}

/// Defragments until the server is gone; how often that came to its end.
async fn defragment_until_refused(client: Client) -> u32 {
    let mut ended = 0;
    while defragment(&client).await.is_ok() {
        ended += 1;
    }
    ended
}

fn text(path: &Path) -> &str {
    path.to_str().expect("temporary paths are plain")
}
