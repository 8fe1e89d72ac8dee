//! The tools beside the server: backups, checks, defragmentation, hashes. Real etcd and its tools read
//! what they make, and the other way round.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use holdfast_tests::client::Client;
use holdfast_tests::dice::Dice;
use holdfast_tests::etcdctl::{etcdctl, etcdutl};
use holdfast_tests::folder::Folder;
use holdfast_tests::member::{Member, Product, free_port};
use holdfast_tests::offline_tool::{Ran, command, run};
use holdfast_tests::tools::EtcdVersion;
use holdfast_tests::watching::{Watching, watch};
use proto::etcdserverpb::{
    CompactionRequest, DeleteRangeRequest, LeaseGrantRequest, MemberListRequest, PutRequest,
    RangeRequest,
};
use proto::mvccpb::KeyValue;

use crate::tls::Certificates;

const ETCD_3_5: Product = Product::Etcd(EtcdVersion::V3_5);
/// Where a raised revision begins: operators of Kubernetes take as much.
const BUMP: i64 = 1_000_000_000;

fn text(path: &Path) -> &str {
    path.to_str().expect("temporary paths are text")
}

// ---- Backups move between the products.

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_under_writes_is_restored_by_etcds_tools_and_served_by_etcd() {
    let member = Member::start(Product::subject()).await;
    let client = member.client();
    write(&client, 1).await;
    let (backup, revision, before) = save_under_writes(&member).await;

    let restored = Folder::new();
    let data = restored.data();
    etcdutl(["snapshot", "restore", &backup, "--data-dir", text(&data)]);
    let etcd = Member::start_on(ETCD_3_5, restored, &[]).await;
    let found = etcd.client().everything().await;
    assert_eq!(found.header.expect("a header").revision, revision);
    assert_eq!(found.kvs, before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_of_etcd_under_writes_is_restored_by_us_and_served_by_both() {
    for version in [EtcdVersion::V3_5, EtcdVersion::V3_4] {
        backup_of_etcd(Product::Etcd(version)).await;
    }
}

async fn backup_of_etcd(etcd: Product) {
    let member = Member::start(etcd).await;
    write(&member.client(), 2).await;
    let (backup, revision, before) = save_under_writes(&member).await;

    let restored = restore(&backup, &[]);
    run(["check", "--data-dir", text(&restored.data())]).success();
    let mut hashes = Vec::new();
    for product in [Product::subject(), ETCD_3_5] {
        let served = Member::start_on(product, restored.copy(), &[]).await;
        let client = served.client();
        let found = client.everything().await;
        assert_eq!(
            found.header.expect("a header").revision,
            revision,
            "{product:?}"
        );
        assert_eq!(found.kvs, before, "{product:?}");
        let hash = client.hash_kv(0).await;
        hashes.push((hash.hash, hash.compact_revision));
        // It goes on, and what it wrote is there after a restart.
        client.put("after", "restoring").await.expect("a put");
        let again = Member::start_on(product, served.kill(), &[]).await;
        let found = again.client().everything().await;
        assert_eq!(found.header.expect("a header").revision, revision + 1);
    }
    assert_eq!(hashes[0], hashes[1]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_tools_restore_the_same_members_entries_and_log() {
    let member = Member::start(Product::subject()).await;
    write(&member.client(), 3).await;
    let backup = save(&member);
    let several = "--initial-cluster=\
        b=http://10.0.0.2:2380,a=http://10.0.0.1:2380,c=http://10.0.0.3:1,b=http://10.0.0.2:2";
    let cases: [&[&str]; 3] = [
        &[],
        &[
            several,
            "--name=b",
            "--initial-advertise-peer-urls=http://10.0.0.2:2,http://10.0.0.2:2380",
            "--initial-cluster-token=another",
        ],
        &["--bump-revision=50", "--mark-compacted"],
    ];
    for flags in cases {
        let ours = restore(&backup, flags);
        let theirs = Folder::new();
        let data = theirs.data();
        let restore = ["snapshot", "restore", &backup, "--data-dir", text(&data)];
        etcdutl(restore.iter().chain(flags));
        for folder in [&ours, &theirs] {
            run(["check", "--data-dir", text(&folder.data())]).success();
        }
        let shown = |folder: &Folder, what: &[&str]| {
            let data = folder.data();
            let arguments = ["inspect", "--data-dir", text(&data)];
            run(arguments.iter().chain(what)).success()
        };
        for bucket in ["key", "lease", "members", "members_removed", "cluster"] {
            let what = ["bucket", bucket, "--limit=10000"];
            assert_eq!(shown(&ours, &what), shown(&theirs, &what), "{flags:?}");
        }
        assert_eq!(
            shown(&ours, &["log"]),
            shown(&theirs, &["log"]),
            "{flags:?}"
        );
        // Marks and positions alike; etcd's tool leaves the voters of the old cluster in the database.
        let meta = |folder| {
            let lines = shown(folder, &["bucket", "meta"]);
            let lines = lines.lines().filter(|line| !line.starts_with("confState"));
            lines.map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(meta(&ours), meta(&theirs), "{flags:?}");
        let names = |folder: &Folder| -> Vec<_> {
            let data = folder.data();
            let paths = folder.contents().into_keys();
            let relative = paths.map(|path| path.strip_prefix(&data).expect("inside").to_owned());
            relative.collect()
        };
        assert_eq!(names(&ours), names(&theirs), "{flags:?}");
        let sizes = |folder: &Folder| {
            let segments = folder.segments();
            segments.iter().map(|path| size(path)).collect::<Vec<_>>()
        };
        assert_eq!(sizes(&ours), sizes(&theirs));
        assert_eq!(mode(&ours.data()), 0o700);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_members_of_etcd_start_on_what_we_restored() {
    let member = Member::start(Product::subject()).await;
    let client = member.client();
    write(&client, 4).await;
    let backup = save(&member);
    let before = client.everything().await;

    let names = ["a", "b", "c"];
    let urls = names.map(|_| format!("http://127.0.0.1:{}", free_port()));
    let cluster: Vec<String> = names
        .iter()
        .zip(&urls)
        .map(|(n, u)| format!("{n}={u}"))
        .collect();
    let cluster = cluster.join(",");
    let mut members: Vec<Member> = Vec::new();
    for (name, url) in names.iter().zip(&urls) {
        let folder = restore(
            &backup,
            &[
                "--name",
                name,
                "--initial-cluster",
                &cluster,
                "--initial-advertise-peer-urls",
                url,
            ],
        );
        let flags = ["--name", name, "--listen-peer-urls", url];
        let more = [
            "--initial-advertise-peer-urls",
            url,
            "--initial-cluster",
            &cluster,
        ];
        members.push(Member::spawn(ETCD_3_5, folder, &[flags, more].concat()));
    }
    for member in &mut members {
        member.wait_until_ready().await;
    }
    members[0]
        .client()
        .put("new", "cluster")
        .await
        .expect("a put");
    for member in &members {
        let found = member.client().everything().await;
        assert_eq!(found.count, before.count + 1);
        let request = MemberListRequest::default();
        let listed = member.client().cluster.member_list(request).await;
        let listed = listed.expect("members").into_inner().members;
        let listed: Vec<&str> = listed.iter().map(|member| &member.name[..]).collect();
        let mut sorted = listed.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, names, "{listed:?}");
    }
    let hash = members[0].client().hash_kv(0).await.hash;
    assert_eq!(members[2].client().hash_kv(0).await.hash, hash);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_raised_revision_ends_old_watches_on_both_products() {
    let member = Member::start(Product::subject()).await;
    let client = member.client();
    write(&client, 5).await;
    let backup = save(&member);
    let old = client.everything().await;
    let old_revision = old.header.expect("a header").revision;

    let bump = BUMP.to_string();
    let restored = restore(&backup, &["--mark-compacted", "--bump-revision", &bump]);
    let mut hashes = Vec::new();
    for product in [Product::subject(), ETCD_3_5] {
        let served = Member::start_on(product, restored.copy(), &[]).await;
        let client = served.client();
        let found = client.everything().await;
        let revision = found.header.expect("a header").revision;
        assert_eq!(revision, old_revision + BUMP, "{product:?}");
        assert_eq!(found.kvs, old.kvs, "{product:?}");
        for from in [2, old_revision, old_revision + BUMP - 1] {
            let mut watching = Watching::open(&client, watch("key/", "key0", from)).await;
            let mut answer = watching.next().await;
            if !answer.canceled {
                answer = watching.next().await;
            }
            assert!(answer.canceled, "{product:?} from {from}: {answer:?}");
            assert_eq!(answer.compact_revision, old_revision + BUMP, "{product:?}");
        }
        let put = client.put("next", "one").await.expect("a put");
        assert_eq!(
            put.header.expect("a header").revision,
            old_revision + BUMP + 1
        );
        let hash = client.hash_kv(0).await;
        hashes.push((hash.hash, hash.compact_revision));
        let stopped = served.stop();
        let data = stopped.data();
        run(["check", "--data-dir", text(&data)]).success();
        let answer = run(["hashkv", "--data-dir", text(&data)]).success();
        let (hash, compacted) = hashes[hashes.len() - 1];
        let at = old_revision + BUMP + 1;
        assert_eq!(
            answer,
            format!("{hash}, {at}, {compacted}\n"),
            "{product:?}"
        );
    }
    assert_eq!(hashes[0], hashes[1]);

    for flags in [
        &["--bump-revision=5"][..],
        &["--mark-compacted"],
        &["--mark-compacted", "--bump-revision=9223372036854775807"],
        &["--mark-compacted", "--bump-revision=18446744073709551615"],
    ] {
        let folder = Folder::new();
        let refusal = try_restore(&backup, &folder.data(), flags).refusal(2);
        assert!(refusal.contains("--bump-revision"), "{refusal}");
        assert!(!folder.data().exists());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_may_be_restored_elsewhere() {
    let member = Member::start(Product::subject()).await;
    write(&member.client(), 6).await;
    let before = member.client().everything().await;
    let backup = save(&member);
    for product in [Product::subject(), ETCD_3_5] {
        let folder = Folder::new();
        let wal = folder.beside("logs/of/this");
        let flags = ["--wal-dir", text(&wal)];
        try_restore(&backup, &folder.data(), &flags).success();
        let data = folder.data();
        assert!(!data.join("member/wal").exists());
        run(["check", "--data-dir", text(&data), "--wal-dir", text(&wal)]).success();
        let wal = text(&wal).to_owned();
        let served = Member::start_on(product, folder, &["--wal-dir", &wal]).await;
        assert_eq!(
            served.client().everything().await.kvs,
            before.kvs,
            "{product:?}"
        );
    }
}

// ---- Saving.

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_comes_through_tls_with_a_certificate_and_a_password() {
    let certificates = Certificates::new();
    certificates.issue("server", "ca", "server");
    certificates.issue("client", "ca", "somebody");
    let (cert, key) = (
        certificates.path("server.crt"),
        certificates.path("server.key"),
    );
    let ca = certificates.path("ca.crt");
    let url = format!("https://127.0.0.1:{}", free_port());
    let flags = [
        "--listen-client-urls",
        &url,
        "--advertise-client-urls",
        &url,
        "--cert-file",
        &cert,
        "--key-file",
        &key,
        "--client-cert-auth",
        "--trusted-ca-file",
        &ca,
    ];
    let member = Member::spawn(Product::subject(), Folder::new(), &flags);
    let own = certificates.trusting("ca", Some("client"));
    let own: Vec<&str> = own.iter().map(String::as_str).collect();
    let endpoint = url.trim_start_matches("https://");
    let control =
        |arguments: &[&str]| etcdctl(EtcdVersion::V3_5, &url, own.iter().chain(arguments));
    control(&[
        "--dial-timeout=20s",
        "--command-timeout=30s",
        "put",
        "k",
        "v",
    ]);
    control(&["user", "add", "root:secret"]);
    control(&["user", "grant-role", "root", "root"]);
    control(&["auth", "enable"]);

    let target = member.folder().beside("backup");
    let target = text(&target);
    let save = |flags: &[&str]| {
        let arguments = ["snapshot", "save", target, "--endpoints", endpoint];
        run(arguments.iter().chain(flags))
    };
    let with = |more: &[&'static str]| [&own[..], more].concat();
    for (flags, expected) in [
        // The certificate names somebody whom it does not know.
        (with(&[]), "user name not found"),
        (with(&["--user=root:wrong"]), "authentication failed"),
        (vec![own[0], own[1]], "did not"),
        (
            Vec::new(),
            "if it serves https, name it as https://HOST:PORT",
        ),
    ] {
        let refusal = save(&flags).refusal(1);
        // Without a certificate the handshake or the first call fails, as the moment has it.
        let lost = expected == "did not" && refusal.contains("no member answers");
        assert!(lost || refusal.contains(expected), "{flags:?}: {refusal}");
        assert!(!Path::new(target).exists());
    }
    save(&with(&["--user=root"])).refusal(2);
    save(&with(&["--user", "root:secret"])).success();
    save(&with(&["--user=root", "--password=secret"])).success();
    let shown = run(["snapshot", "status", target]).success();
    assert_eq!(shown, etcdutl(["snapshot", "status", target]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_of_a_stopped_member_is_that_of_the_running_one() {
    let member = Member::start(Product::subject()).await;
    write(&member.client(), 7).await;
    let running = save(&member);
    let busy = member.folder().data();
    let target = member.folder().beside("stopped");
    let copy = |data: &Path| {
        let target = text(&target).to_owned();
        run(["snapshot", "save", &target, "--data-dir", text(data)])
    };
    let refusal = copy(&busy).refusal(3);
    assert!(
        refusal.contains("is in use by another process; stop the server"),
        "{refusal}"
    );
    assert!(!target.exists());
    let folder = member.stop();
    copy(&folder.data()).success();
    let status = |path: &str| run(["snapshot", "status", path]).success();
    assert_eq!(status(text(&target)), status(&running));
    assert_eq!(mode(&target), 0o600);
    etcdutl([
        "snapshot",
        "restore",
        text(&target),
        "--data-dir",
        text(&folder.beside("theirs")),
    ]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_names_no_member_is_told() {
    let folder = Folder::new();
    let target = folder.beside("backup");
    let save = |endpoints: &str| {
        let target = text(&target).to_owned();
        run(["snapshot", "save", &target, "--endpoints", endpoints])
    };
    let nobody = format!("127.0.0.1:{}", free_port());
    let refusal = save(&nobody).refusal(1);
    assert!(
        refusal.contains("name a running one with --endpoints"),
        "{refusal}"
    );
    let refusal = save("127.0.0.1:1,127.0.0.1:2").refusal(2);
    assert!(refusal.contains("a snapshot is of one member"), "{refusal}");
    assert!(!target.exists());
    assert!(!folder.beside("backup.part").exists());
}

// ---- Looking.

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_status_of_a_backup_is_what_etcds_tool_says_in_each_form() {
    let member = Member::start(Product::subject()).await;
    let fresh = save(&member);
    write(&member.client(), 8).await;
    let backup = save(&member);
    let etcd = Member::start(ETCD_3_5).await;
    write(&etcd.client(), 9).await;
    let theirs = save(&etcd);
    // Columns of even and odd width.
    let bumped = |amount: &str| {
        let flags = ["--mark-compacted", "--bump-revision", amount];
        restore(&backup, &flags).keep_database()
    };
    let long = bumped("1000000000");
    let longer = bumped("10000000000000");
    let stopped = member.stop().keep_database();
    let files = [&fresh, &backup, &theirs, &long.1, &longer.1, &stopped.1];
    for file in files {
        for form in ["simple", "json", "table", "fields"] {
            let arguments = ["snapshot", "status", file, "--write-out", form];
            let ours = run(arguments).success();
            assert_eq!(ours, etcdutl(arguments), "{file} as {form}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_hash_of_a_stopped_member_is_the_one_that_it_answered() {
    for product in [Product::subject(), ETCD_3_5] {
        let member = Member::start(product).await;
        let client = member.client();
        write(&client, 10).await;
        let newest = client.everything().await.header.expect("a header").revision;
        let compacted = client.hash_kv(0).await.compact_revision;
        assert!(compacted > 0);
        let mut answers = Vec::new();
        for revision in [0, newest, newest - 1, newest - 20, compacted + 1] {
            answers.push((revision, client.hash_kv(revision).await));
        }
        let backup = save(&member);
        let folder = member.stop();
        let data = folder.data();
        let of_backup = run(["hashkv", &backup]).success();
        assert_eq!(
            of_backup,
            run(["hashkv", "--data-dir", text(&data)]).success()
        );
        run(["hashkv"]).refusal(2);
        let hash = |revision: i64, form: &str| {
            let revision = revision.to_string();
            let data = text(&data);
            run(["hashkv", "--data-dir", data, "--rev", &revision, "-w", form])
        };
        for (revision, answer) in answers {
            // etcd 3.5 does not say for which revision.
            let at = if revision == 0 { newest } else { revision };
            let hash_of = answer.hash;
            let printed = hash(revision, "simple").success();
            assert_eq!(
                printed,
                format!("{hash_of}, {at}, {compacted}\n"),
                "{product:?}"
            );
            let printed = hash(revision, "json").success();
            let json = format!(
                "{{\"hash\":{hash_of},\"hashRevision\":{at},\"compactRevision\":{compacted}}}\n"
            );
            assert_eq!(printed, json);
        }
        for (revision, expected) in [
            (newest + 1, "future revision"),
            (compacted - 1, "has been compacted"),
            (-1, "expected a revision"),
        ] {
            let refusal = hash(revision, "simple");
            let refusal = if revision < 0 {
                run(["hashkv", "--data-dir", text(&data), "--rev=-1"]).refusal(2)
            } else {
                refusal.refusal(2)
            };
            assert!(refusal.contains(expected), "{refusal}");
        }
    }
}

// ---- Refusing.

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cut_or_changed_backup_is_refused_with_the_reason_and_nothing_is_made() {
    const DAMAGED: &str = "is damaged or cut off: its SHA-256 is";
    const CUT: &str = "has no hash at its end";
    let member = Member::start(Product::subject()).await;
    write(&member.client(), 11).await;
    let backup = fs::read(save(&member)).expect("a backup");
    let folder = member.folder();
    let path = folder.beside("damaged");
    let length = backup.len();
    let check = |bytes: &[u8], expected: &str| {
        fs::write(&path, bytes).expect("a file");
        let data = folder.beside("restored");
        let refusal = try_restore(text(&path), &data, &[]).refusal(3);
        assert!(refusal.contains(text(&path)), "{refusal}");
        assert!(refusal.contains(expected), "{refusal}");
        assert!(
            refusal.contains("fetch it anew with `holdfast snapshot save`"),
            "{refusal}"
        );
        let left: Vec<_> = fs::read_dir(folder.beside("."))
            .expect("a folder")
            .filter_map(|entry| entry.expect("a name").file_name().into_string().ok())
            .filter(|name| name.starts_with("restored"))
            .collect();
        assert_eq!(left, Vec::<String>::new());
        if expected == DAMAGED {
            let refusal = run(["snapshot", "status", text(&path)]).refusal(3);
            assert!(refusal.contains(expected), "{refusal}");
        }
    };
    for size in [
        0,
        1,
        511,
        4096,
        length / 2 / 4096 * 4096,
        length - 32,
        length - 1,
    ] {
        check(&backup[..size], CUT);
    }
    for size in [32, 544, length - 512, length - 4096] {
        check(&backup[..size], DAMAGED);
    }
    for at in [
        0,
        20,
        4096,
        length / 2,
        length - 33,
        length - 32,
        length - 1,
    ] {
        let mut flipped = backup.clone();
        flipped[at] ^= 4;
        check(&flipped, DAMAGED);
    }
    let mut longer = backup.clone();
    longer.extend_from_slice(&[0; 512]);
    check(&longer, DAMAGED);
    // What the hash no longer vouches for is found by the pages.
    for size in [4096, length / 2 / 4096 * 4096] {
        fs::write(&path, &backup[..size]).expect("a file");
        let data = folder.beside("restored");
        let refusal = try_restore(text(&path), &data, &["--skip-hash-check"]).refusal(3);
        assert!(refusal.contains("pages, but it has"), "{refusal}");
        let refusal = run(["snapshot", "status", text(&path)]).refusal(3);
        assert!(refusal.contains("pages, but it has"), "{refusal}");
        assert!(!data.exists());
    }
    fs::write(&path, &backup[..length - 32]).expect("a file");
    try_restore(
        text(&path),
        &folder.beside("restored"),
        &["--skip-hash-check"],
    )
    .success();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_that_is_there_is_written_over() {
    let member = Member::start(Product::subject()).await;
    write(&member.client(), 12).await;
    let backup = save(&member);
    let folder = member.stop();
    let contents = folder.contents();
    let refusal = try_restore(&backup, &folder.data(), &[]).refusal(1);
    assert!(
        refusal.contains("is not empty: member is in it"),
        "{refusal}"
    );
    let wal = folder.data().join("member/wal");
    let fresh = folder.beside("fresh");
    let refusal = try_restore(&backup, &fresh, &["--wal-dir", text(&wal)]).refusal(1);
    assert!(refusal.contains("wal is not empty"), "{refusal}");
    assert!(!fresh.exists());
    assert_eq!(folder.contents(), contents);

    // An empty folder, as a mount makes one, is welcome.
    fs::create_dir(&fresh).expect("a folder");
    try_restore(&backup, &fresh, &[]).success();

    for (flags, expected) in [
        (&["--name=x"][..], "add x=URL to --initial-cluster"),
        (
            &["--initial-cluster=default=http://a:1"],
            "missing from --initial-advertise-peer-urls",
        ),
        (&["--initial-cluster=http://a:1"], "http"),
        (&["--initial-advertise-peer-urls=a"], "URL scheme must be"),
    ] {
        let other = folder.beside("other");
        let refusal = try_restore(&backup, &other, flags).refusal(2);
        assert!(refusal.contains(expected), "{refusal}");
        assert!(!other.exists());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_at_any_moment_nothing_is_half_written() {
    const KILLS: u32 = 16;
    let member = Member::start(Product::subject()).await;
    let client = member.client();
    for number in 0..12 {
        let value = vec![number; 1 << 20];
        client
            .put(format!("large/{number}"), value)
            .await
            .expect("a put");
    }
    let backup = save(&member);
    let folder = Folder::new();
    let data = folder.data();

    let restore = ["snapshot", "restore", &backup, "--data-dir", text(&data)];
    let whole = time_of(&restore);
    fs::remove_dir_all(&data).expect("it was made");
    let mut interrupted = 0;
    for part in 0..KILLS {
        kill_after(&restore, whole * part / KILLS);
        interrupted += u32::from(folder.beside("data.restoring").exists());
        if data.exists() {
            run(["check", "--data-dir", text(&data)]).success();
            fs::remove_dir_all(&data).expect("it can be removed");
        }
    }
    assert!(interrupted > 0, "no kill fell into the restoring");
    run(restore).success();
    assert!(!folder.beside("data.restoring").exists());
    assert!(!folder.beside("data.restoring.tmp").exists());
    run(["check", "--data-dir", text(&data)]).success();

    let target = folder.beside("backup");
    let endpoint = member.endpoint();
    let save = ["snapshot", "save", text(&target), "--endpoints", &endpoint];
    let whole = time_of(&save);
    fs::write(&target, "the one before").expect("a file");
    let mut interrupted = 0;
    for part in 0..KILLS {
        kill_after(&save, whole * part / KILLS);
        interrupted += u32::from(folder.beside("backup.part").exists());
        let found = fs::read(&target).expect("always there");
        if found != b"the one before" {
            run(["snapshot", "status", text(&target)]).success();
            fs::write(&target, "the one before").expect("a file");
        }
    }
    assert!(interrupted > 0, "no kill fell into the saving");
    run(save).success();
    assert!(!folder.beside("backup.part").exists());
    run(["snapshot", "status", text(&target)]).success();
}

// ---- Checking.

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_members_leave_is_sound() {
    for product in [
        Product::subject(),
        ETCD_3_5,
        Product::Etcd(EtcdVersion::V3_4),
    ] {
        let flags = ["--snapshot-count", "100"];
        let member = Member::start_on(product, Folder::new(), &flags).await;
        write(&member.client(), 13).await;
        let data = member.folder().data();
        let refusal = run(["check", "--data-dir", text(&data)]).refusal(3);
        assert!(
            refusal.contains("in use by another process; stop the server"),
            "{refusal}"
        );
        let folder = member.kill();
        let contents = folder.contents();
        let told = run(["check", "--data-dir", text(&data)]).success();
        assert!(told.contains("is sound"), "{told}");
        assert_eq!(folder.contents(), contents, "{product:?}");
        let again = Member::start_on(product, folder, &[]).await;
        let newest = again.client().everything().await;
        let folder = again.stop();
        let told = run(["check", "--data-dir", text(&folder.data())]).success();
        let expected = [
            format!("{} exist,", newest.count),
            format!("revision {},", newest.header.expect("a header").revision),
        ];
        for expected in expected {
            assert!(told.contains(&expected), "{expected} in {told}");
        }
    }
    let nothing = Folder::new();
    let refusal = run(["check", "--data-dir", text(&nothing.data())]).refusal(1);
    assert!(refusal.contains("holds no member's data"), "{refusal}");
}

/// Each damage is found and named by file, page or offset, and key.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damage_is_named_by_file_and_place() {
    let flags = ["--snapshot-count", "150"];
    let member = Member::start_on(Product::subject(), Folder::new(), &flags).await;
    let client = member.client();
    write(&client, 14).await;
    let grant = LeaseGrantRequest { ttl: 1_000, id: 77 };
    client
        .lease
        .clone()
        .lease_grant(grant)
        .await
        .expect("a lease");
    let put = PutRequest {
        key: "leased/needle".into(),
        value: "v".into(),
        lease: 77,
        ..Default::default()
    };
    client.kv.clone().put(put).await.expect("a put");
    let revision = client.everything().await.header.expect("a header").revision;
    let has_snapshot = || {
        let names = fs::read_dir(member.folder().data().join("member/snap")).expect("a folder");
        let mut names = names.map(|entry| entry.expect("a name").path());
        names.any(|path| {
            path.extension()
                .is_some_and(|extension| extension == "snap")
        })
    };
    while !has_snapshot() {
        client.put("one", "more").await.expect("a put");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let folder = member.stop();
    let data = folder.data();
    let database = folder.database();
    let contents = folder.contents();
    let check = || run(["check", "--data-dir", text(&data)]);
    check().success();

    // Pages: each that is in use, at each field of its header and of an element.
    let mut pages = 0;
    let bytes = fs::read(&database).expect("a database");
    for (number, kind) in pages_in_use(&data, bytes.len() / 4096) {
        let page = number * 4096;
        // Position and length of a key, or the number of a child page.
        let element: &[usize] = if kind == "leaf" { &[20, 24] } else { &[29] };
        for at in [0, 8, 12].into_iter().chain(element.iter().copied()) {
            let ran = with_flip(&database, page + at, 0x40, check);
            assert_eq!(ran.code, 3, "{number} {kind} + {at}: {}", ran.printed);
            let refusal = ran.refusal(3);
            assert!(refusal.contains(text(&database)), "{refusal}");
            assert!(
                refusal.contains("page "),
                "{number} {kind} + {at}: {refusal}"
            );
            // Too many overflow pages show at the first that belongs to another page.
            if at < 12 {
                let named = format!("page {number}");
                assert!(
                    refusal.contains(&named),
                    "{number} {kind} + {at}: {refusal}"
                );
            }
        }
        pages += 1;
    }
    assert!(pages > 5, "only {pages} pages");
    for (at, page) in [
        (16, "page 0"),
        (4096 + 50, "page 1"),
        (3, "page 0"),
        (4096 + 8, "page 1"),
    ] {
        let refusal = with_flip(&database, at, 1, check).refusal(3);
        assert!(
            refusal.contains(text(&database)) && refusal.contains(page),
            "{refusal}"
        );
    }
    for size in [0, 100, 4096, 3 * 4096] {
        let refusal = with_size(&database, size, check).refusal(3);
        assert!(refusal.contains(text(&database)), "{refusal}");
    }

    // Records: one that says another revision, one whose lease is gone, one that is no record.
    let key = b"leased/needle";
    let after_key = |bytes: &[u8], back: &[u8]| -> Vec<usize> {
        let places = bytes.windows(key.len()).enumerate();
        let places = places.filter(|(_, window)| window == key);
        let places = places.map(|(at, _)| at + key.len());
        let tail = |at: &usize| {
            bytes[*at..*at + 30]
                .windows(back.len())
                .position(|w| w == back)
        };
        places
            .filter_map(|at| Some(at + tail(&at)? + back.len() - 1))
            .collect()
    };
    let mut varint = vec![0x18];
    let mut rest = revision as u64;
    while rest >= 0x80 {
        varint.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    varint.push(rest as u8);
    for (back, expected) in [
        (&varint[..], "it says that it is of revision"),
        (&[0x30, 77], "it hangs on lease 4c, which does not exist"),
    ] {
        let places = after_key(&bytes, back);
        assert!(!places.is_empty(), "{back:02x?}");
        let refusal = with_flips(&database, &places, 1, check).refusal(3);
        let named = format!("bucket key, revision {revision}_0 of key \"leased/needle\": ");
        for expected in [text(&database), "page ", &named, expected] {
            assert!(refusal.contains(expected), "{expected} in {refusal}");
        }
    }

    // The log: the value of a put, in a sector of its own or not; the head of a record.
    let segment = folder.segments().pop().expect("a segment");
    let log = fs::read(&segment).expect("a log");
    let value = log.windows(key.len()).position(|window| window == key);
    let value = value.expect("the put stands in the log");
    for at in [value, 9, 24, 60] {
        let refusal = with_flip(&segment, at, 0x10, check).refusal(3);
        assert!(refusal.contains(text(&segment)), "{refusal}");
        assert!(refusal.contains("offset "), "{refusal}");
    }
    // Entries that were synced are gone: the database knows better.
    let refusal = with_zeros(&segment, value / 512 * 512, check).refusal(3);
    assert!(
        refusal.contains("it has lost entries") || refusal.contains("promised"),
        "{refusal}"
    );
    let aside = folder.beside("aside");
    fs::rename(&segment, &aside).expect("a rename");
    let refusal = check().refusal(3);
    assert!(refusal.contains("there is no log segment"), "{refusal}");
    fs::rename(&aside, &segment).expect("a rename");

    // Raft snapshots.
    let snapshot = contents
        .keys()
        .find(|path| path.extension().is_some_and(|e| e == "snap"));
    let snapshot = snapshot.expect("so many entries make one");
    for at in [1, 40, size(snapshot) as usize - 1] {
        let refusal = with_flip(snapshot, at, 2, check).refusal(3);
        assert!(refusal.contains(text(snapshot)), "{refusal}");
    }

    assert_eq!(
        folder.contents(),
        contents,
        "what was damaged was mended, and nothing else changed"
    );
    check().success();
}

// ---- Defragmenting.

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_defragmented_database_is_small_and_holds_the_same() {
    let member = Member::start(Product::subject()).await;
    let client = member.client();
    for number in 0..200_u8 {
        let value = vec![number; 20_000];
        client
            .put(format!("gone/{number}"), value)
            .await
            .expect("a put");
    }
    let delete = DeleteRangeRequest {
        key: "gone/".into(),
        range_end: "gone0".into(),
        prev_kv: false,
    };
    client
        .kv
        .clone()
        .delete_range(delete)
        .await
        .expect("a delete");
    write(&client, 15).await;
    let before = client.everything().await;
    let data = member.folder().data();
    let defrag = || run(["defrag", "--data-dir", text(&data)]);
    let refusal = defrag().refusal(3);
    assert!(
        refusal.contains("in use by another process; stop the server"),
        "{refusal}"
    );

    let folder = member.stop();
    let database = folder.database();
    let old = size(&database);
    let hash = || run(["hashkv", "--data-dir", text(&data)]).success();
    let old_hash = hash();
    let told = defrag().success();
    let new = size(&database);
    assert_eq!(
        told,
        format!(
            "{}: {old} bytes before, {new} bytes after\n",
            text(&database)
        )
    );
    assert!(new < 2_000_000 && old > 4_000_000, "{told}");
    assert_eq!(hash(), old_hash);
    run(["check", "--data-dir", text(&data)]).success();
    let names = fs::read_dir(data.join("member/snap"))
        .expect("a folder")
        .count();
    assert_eq!(names, 1, "nothing is left beside the database");
    for product in [ETCD_3_5, Product::subject()] {
        let served = Member::start_on(product, folder.copy(), &[]).await;
        assert_eq!(
            served.client().everything().await.kvs,
            before.kvs,
            "{product:?}"
        );
    }
    let nothing = Folder::new();
    run(["defrag", "--data-dir", text(&nothing.data())]).refusal(1);
}

#[test]
fn the_help_names_every_tool() {
    let help = run(["--help"]).success();
    for tool in ["snapshot", "check", "defrag", "hashkv", "inspect"] {
        assert!(help.contains(&format!("\n  {tool} ")), "{tool}");
        let own = run([tool, "--help"]).success();
        assert!(own.contains(&format!("holdfast {tool}")), "{own}");
    }
}

// ---- What the tests share.

/// Saves a backup beside the member's directory.
fn save(member: &Member) -> String {
    let target = member.folder().beside(&format!("backup-{}", free_port()));
    let target = text(&target).to_owned();
    let told = run([
        "snapshot",
        "save",
        &target,
        "--endpoints",
        &member.endpoint(),
    ])
    .success();
    assert!(
        told.starts_with(&format!("Snapshot saved at {target}\n")),
        "{told}"
    );
    assert_eq!(mode(Path::new(&target)), 0o600);
    target
}

/// Saves a backup while others write; returns it with its revision and the keys at that revision.
async fn save_under_writes(member: &Member) -> (String, i64, Vec<KeyValue>) {
    let stop = Arc::new(AtomicBool::new(false));
    let writers = (0..3).map(|writer| {
        let (client, stop) = (member.client(), stop.clone());
        tokio::spawn(async move {
            let mut puts = 0;
            while !stop.load(Ordering::Relaxed) {
                let key = format!("steady/{writer}/{puts:06}");
                client.put(key, vec![b'v'; 3_000]).await.expect("a put");
                puts += 1;
            }
            puts
        })
    });
    let writers: Vec<_> = writers.collect();
    tokio::time::sleep(Duration::from_millis(300)).await;
    let backup = tokio::task::block_in_place(|| save(member));
    stop.store(true, Ordering::Relaxed);
    let mut puts = 0;
    for writer in writers {
        puts += writer.await.expect("a writer ends");
    }
    assert!(puts > 20, "hardly anything was written meanwhile");
    let shown = run(["snapshot", "status", &backup, "--write-out=json"]).success();
    let shown: serde_json::Value = serde_json::from_str(&shown).expect("JSON");
    let revision = shown["revision"].as_i64().expect("a revision");
    let zero = Bytes::from_static(b"\0");
    let request = RangeRequest {
        key: zero.clone(),
        range_end: zero,
        revision,
        ..Default::default()
    };
    let before = member
        .client()
        .range(request)
        .await
        .expect("history is kept");
    (backup, revision, before.kvs)
}

fn try_restore(backup: &str, data: &Path, flags: &[&str]) -> Ran {
    let arguments = ["snapshot", "restore", backup, "--data-dir", text(data)];
    run(arguments.iter().chain(flags))
}

fn restore(backup: &str, flags: &[&str]) -> Folder {
    let folder = Folder::new();
    let told = try_restore(backup, &folder.data(), flags).success();
    assert!(told.starts_with("restored "), "{told}");
    folder
}

/// Puts, deletes, leases and a compaction, over few keys.
async fn write(client: &Client, seed: u64) {
    let mut dice = Dice::new(seed);
    let mut kv = client.kv.clone();
    let grant = LeaseGrantRequest { ttl: 5_000, id: 0 };
    let lease = client
        .lease
        .clone()
        .lease_grant(grant)
        .await
        .expect("a lease");
    let lease = lease.into_inner().id;
    for number in 0..240 {
        let key = format!("key/{:02}", dice.below(40));
        if dice.one_in(8) {
            let delete = DeleteRangeRequest {
                key: key.into(),
                ..Default::default()
            };
            kv.delete_range(delete).await.expect("a delete");
        } else {
            let put = PutRequest {
                key: key.into(),
                value: vec![b'v'; dice.below(1_500) as usize].into(),
                lease: if dice.one_in(3) { lease } else { 0 },
                ..Default::default()
            };
            kv.put(put).await.expect("a put");
        }
        if number == 120 {
            let revision = client.everything().await.header.expect("a header").revision;
            let compaction = CompactionRequest {
                revision: revision - 20,
                physical: true,
            };
            kv.compact(compaction).await.expect("a compaction");
        }
    }
}

trait KeepDatabase {
    /// The folder, which must live on, and the path of its database.
    fn keep_database(self) -> (Folder, String);
}

impl KeepDatabase for Folder {
    fn keep_database(self) -> (Folder, String) {
        let path = text(&self.database()).to_owned();
        (self, path)
    }
}

fn size(path: &Path) -> u64 {
    fs::metadata(path).expect("it is there").len()
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("it is there").mode() & 0o777
}

/// How long a command takes from start to end.
#[expect(clippy::disallowed_methods, reason = "the measure of a test")]
fn time_of(arguments: &[&str]) -> Duration {
    let started = std::time::Instant::now();
    run(arguments).success();
    started.elapsed()
}

fn kill_after(arguments: &[&str], time: Duration) {
    let mut command = command(arguments);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().expect("it can be run");
    std::thread::sleep(time);
    // It may have ended already.
    let _ = child.kill();
    child.wait().expect("our own child");
}

/// Numbers and kinds of the pages that hold something, without the meta pages.
fn pages_in_use(data: &Path, pages: usize) -> BTreeMap<usize, String> {
    let shown = run(["inspect", "--data-dir", text(data), "database"]).success();
    let line = shown.lines().find_map(|line| line.strip_prefix("pages "));
    let last: usize = line.expect("a line").trim().parse().expect("a number");
    let mut found = BTreeMap::new();
    for number in 2..last.min(pages) {
        let number_text = number.to_string();
        let shown = run(["inspect", "--data-dir", text(data), "page", &number_text]);
        // The rest of a page that takes several describes nothing.
        for kind in ["leaf", "branch"] {
            if shown.printed.contains(&format!(": {kind}, "))
                && !shown.printed.contains(", 0 elements")
            {
                found.insert(number, kind.to_owned());
            }
        }
    }
    found
}

fn with_flip(path: &Path, at: usize, bits: u8, test: impl Fn() -> Ran) -> Ran {
    with_flips(path, &[at], bits, test)
}

/// Runs a test on a file with some bits flipped, which are flipped back.
fn with_flips(path: &Path, places: &[usize], bits: u8, test: impl Fn() -> Ran) -> Ran {
    let file = fs::File::options().read(true).write(true).open(path);
    let file = file.expect("a file");
    let flip = || {
        for at in places {
            let mut byte = [0];
            file.read_exact_at(&mut byte, *at as u64).expect("a byte");
            file.write_all_at(&[byte[0] ^ bits], *at as u64)
                .expect("a byte");
        }
    };
    flip();
    let ran = test();
    flip();
    ran
}

/// Runs a test on a file that was cut, and mends it.
fn with_size(path: &Path, size: u64, test: impl Fn() -> Ran) -> Ran {
    let whole = fs::read(path).expect("a file");
    let file = fs::File::options().write(true).open(path).expect("a file");
    file.set_len(size).expect("a cut");
    let ran = test();
    file.write_all_at(&whole, 0).expect("all of it");
    ran
}

/// Runs a test on a file that is zero from some place on, and mends it.
fn with_zeros(path: &Path, from: usize, test: impl Fn() -> Ran) -> Ran {
    let whole = fs::read(path).expect("a file");
    let file = fs::File::options().write(true).open(path).expect("a file");
    file.write_all_at(&vec![0; whole.len() - from], from as u64)
        .expect("zeros");
    let ran = test();
    file.write_all_at(&whole, 0).expect("all of it");
    ran
}
