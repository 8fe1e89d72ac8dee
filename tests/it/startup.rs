//! What holdfast refuses to start with: the message names the object and the way out, the exit code
//! tells operators' mistakes apart, and nothing on disk has changed.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

use holdfast_tests::folder::Folder;
use holdfast_tests::member::{Member, Product};

/// A refusal takes no longer than this.
const REFUSE_SECONDS_MAX: u64 = 20;
/// Exit code for what the operator typed.
const USAGE: i32 = 2;
const PAGE: usize = 4096;
/// Writes before a directory is damaged.
const WRITES: usize = 300;

#[test]
fn a_flag_that_does_not_exist_is_named_with_its_nearest_kin() {
    let message = refused_flags(&["--snapshot-cout", "5"]);
    assert!(message.contains("snapshot-cout"), "{message}");
    assert!(message.contains("--snapshot-count"), "{message}");
}

#[test]
fn a_bad_value_is_named_with_its_flag() {
    let cases: [(&str, &str); 19] = [
        ("--listen-client-urls", "localhost:2379"),
        ("--listen-client-urls", "http://127.0.0.1"),
        ("--listen-client-urls", "http://127.0.0.1:2379/path"),
        ("--listen-client-urls", "http://example.com:2379"),
        ("--advertise-client-urls", "ftp://127.0.0.1:1"),
        ("--listen-peer-urls", "http://127.0.0.1:nine"),
        ("--initial-advertise-peer-urls", "//127.0.0.1:1"),
        ("--initial-cluster-state", "old"),
        ("--quota-backend-bytes", "many"),
        ("--auto-compaction-mode", "weekly"),
        ("--auto-compaction-retention", "soon"),
        ("--snapshot-count", "-1"),
        ("--heartbeat-interval", "0"),
        ("--election-timeout", "60000"),
        ("--election-timeout", "21"),
        ("--max-request-bytes", "1e6"),
        ("--max-txn-ops", "-5"),
        ("--log-level", "loud"),
        ("--listen-metrics-urls", "nowhere"),
    ];
    for (flag, value) in cases {
        let message = refused_flags(&[flag, value]);
        assert!(message.contains(&flag[2..]), "{flag}={value}: {message}");
        assert!(message.contains(value), "{flag}={value}: {message}");
    }
}

#[test]
fn a_cluster_without_this_member_is_refused_by_its_name() {
    let message = refused_flags(&["--initial-cluster", "other=http://127.0.0.1:1"]);
    assert!(
        message.contains("--initial-cluster") && message.contains("one"),
        "{message}"
    );
}

#[test]
fn a_bad_value_in_the_environment_is_named_with_its_variable() {
    let environment = [("ETCD_SNAPSHOT_COUNT", "few")];
    let mut member = Member::spawn_in(Product::Holdfast, Folder::new(), &[], &environment);
    let status = member.wait_for_end(REFUSE_SECONDS_MAX);
    let message = member.log();
    assert_eq!(status.code(), Some(USAGE), "{message}");
    assert!(
        message.contains("ETCD_SNAPSHOT_COUNT") && message.contains("few"),
        "{message}"
    );
}

#[tokio::test]
async fn a_directory_in_use_is_refused_and_its_owner_goes_on() {
    let owner = Member::start(Product::Holdfast).await;
    owner.client().put("a", "1").await.expect("a put");
    let data = owner.folder().data();
    let data = data.to_str().expect("a temporary path is text");
    let mut second = Member::spawn(Product::Holdfast, Folder::new(), &["--data-dir", data]);
    let status = second.wait_for_end(REFUSE_SECONDS_MAX);
    let message = second.log();
    assert!(!status.success(), "{message}");
    assert!(message.contains(data), "{message}");
    assert!(
        message.contains("lock") || message.contains("in use"),
        "{message}"
    );
    owner
        .client()
        .put("b", "2")
        .await
        .expect("the owner is not disturbed");
    let again = Member::start_on(Product::Holdfast, owner.stop(), &[]).await;
    assert_eq!(again.client().everything().await.kvs.len(), 2);
}

#[tokio::test]
async fn pages_that_are_no_pages_are_refused() {
    let folder = written().await;
    let database = folder.database();
    let length = fs::metadata(&database).expect("a database").len() as usize;
    for page in 2..length / PAGE {
        overwrite(&database, page * PAGE, &[0xff; 16]);
    }
    assert_refused_unchanged(folder, &database);
}

#[tokio::test]
async fn one_damaged_meta_page_is_survived_and_two_are_refused() {
    let folder = written().await;
    let damage = |folder: &Folder, meta: usize| {
        // A byte of the root page's number: magic and version stay right, the checksum does not.
        overwrite(&folder.database(), meta * PAGE + 32, &[0xa5]);
    };
    for meta in [0, 1] {
        let copy = folder.copy();
        damage(&copy, meta);
        let member = Member::start_on(Product::Holdfast, copy, &[]).await;
        assert_eq!(
            member.client().everything().await.kvs.len(),
            WRITES,
            "without meta {meta}"
        );
    }
    damage(&folder, 0);
    damage(&folder, 1);
    let database = folder.database();
    assert_refused_unchanged(folder, &database);
}

#[tokio::test]
async fn a_database_that_was_cut_off_is_refused() {
    let folder = written().await;
    let database = folder.database();
    let file = File::options()
        .write(true)
        .open(&database)
        .expect("a database");
    file.set_len(PAGE as u64 * 2 + 100)
        .expect("a file can be cut");
    assert_refused_unchanged(folder, &database);
}

#[tokio::test]
async fn a_flipped_bit_in_the_log_is_refused() {
    let folder = written().await;
    let segment = folder.segments().remove(0);
    // Inside the first records, far from the end where a torn write could be the reason.
    let byte = fs::read(&segment).expect("a segment")[1_000];
    overwrite(&segment, 1_000, &[byte ^ 4]);
    assert_refused_unchanged(folder, &segment);
}

#[tokio::test]
async fn a_log_of_another_cluster_is_refused() {
    let (ours, other) = (written().await, written().await);
    fs::copy(other.database(), ours.database()).expect("a copy");
    let named = ours.data();
    assert_refused_unchanged(ours, &named);
}

#[tokio::test]
async fn a_complete_log_without_a_database_gives_everything_back() {
    let folder = written().await;
    fs::remove_file(folder.database()).expect("a database");
    let member = Member::start_on(Product::Holdfast, folder, &[]).await;
    assert_eq!(member.client().everything().await.kvs.len(), WRITES);
}

#[tokio::test]
async fn a_log_that_needs_a_missing_database_is_refused() {
    let folder = written_with(&["--snapshot-count", "50"]).await;
    fs::remove_file(folder.database()).expect("a database");
    let named = folder.database();
    assert_refused_unchanged(folder, &named);
}

#[tokio::test]
async fn a_database_without_its_log_is_refused() {
    let folder = written().await;
    let wal = folder.data().join("member/wal");
    fs::remove_dir_all(&wal).expect("a log");
    let named = folder.data();
    assert_refused_unchanged(folder, &named);
}

fn refused_flags(flags: &[&str]) -> String {
    let folder = Folder::new();
    let mut member = Member::spawn(Product::Holdfast, folder, flags);
    let status = member.wait_for_end(REFUSE_SECONDS_MAX);
    let message = member.log();
    assert_eq!(status.code(), Some(USAGE), "{flags:?}: {message}");
    assert!(
        !member.folder().data().exists(),
        "{flags:?}: a refused start made its directory"
    );
    message
}

fn assert_refused_unchanged(folder: Folder, named: &Path) {
    let before = folder.contents();
    let mut member = Member::spawn(Product::Holdfast, folder, &[]);
    let status = member.wait_for_end(REFUSE_SECONDS_MAX);
    let message = member.log();
    assert!(!status.success(), "started nevertheless: {message}");
    assert_ne!(
        status.code(),
        Some(USAGE),
        "that is for what was typed: {message}"
    );
    assert!(status.code().is_some(), "ended by a signal: {message}");
    assert!(!message.contains("panicked"), "{message}");
    let named = named.to_str().expect("a temporary path is text");
    assert!(message.contains(named), "{named} is not named: {message}");
    let after = member.folder().contents();
    let differs = |path: &Path| before.get(path) != after.get(path);
    let all = before.keys().chain(after.keys());
    let changed: Vec<_> = all.filter(|path| differs(path)).collect();
    assert!(
        changed.is_empty(),
        "changed by a refused start: {changed:?}"
    );
}

async fn written() -> Folder {
    written_with(&[]).await
}

/// A directory with some hundred keys, cleanly stopped.
async fn written_with(flags: &[&str]) -> Folder {
    let member = Member::start_on(Product::Holdfast, Folder::new(), flags).await;
    let client = member.client();
    for number in 0..WRITES {
        client
            .put(format!("key/{number}"), "v".repeat(100))
            .await
            .expect("a put");
    }
    member.stop()
}

fn overwrite(path: &Path, offset: usize, bytes: &[u8]) {
    let file = File::options()
        .write(true)
        .open(path)
        .expect("a file to damage");
    file.write_all_at(bytes, offset as u64)
        .expect("a file can be written");
}
