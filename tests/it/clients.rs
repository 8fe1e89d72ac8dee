//! Clients that people use, from where they get them: etcdctl from Debian, the Python clients from PyPI,
//! the Node client from npm.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use holdfast_tests::etcdctl::etcdctl;
use holdfast_tests::folder::Folder;
use holdfast_tests::member::{Member, Product};
use holdfast_tests::tools::{EtcdVersion, checkout, etcd_program};

/// Runs etcdctl and gives what it said, whether it liked it or not.
fn say(version: EtcdVersion, endpoint: &str, line: &str, input: &str) -> String {
    let mut child = Command::new(etcd_program(version, "etcdctl"))
        .env("ETCDCTL_API", "3")
        .args(["--endpoints", endpoint])
        .args(line.split(' '))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("etcdctl can be run");
    use std::io::Write;
    let mut pipe = child.stdin.take().expect("a pipe");
    pipe.write_all(input.as_bytes()).expect("etcdctl reads");
    drop(pipe);
    let output = child.wait_with_output().expect("etcdctl ends");
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    // Its own log tells times and addresses of memory.
    let lines = text.split_inclusive('\n');
    lines
        .filter(|line| !line.starts_with("{\"level\""))
        .collect()
}

/// What two servers say differently without a difference between them: ids, addresses, sizes, times.
fn comparable(text: &str, member: &Member) -> String {
    let mut plain = text.replace(&member.endpoint(), "ENDPOINT");
    for times in ["took = ", "took: "] {
        while let Some(at) = plain.find(times) {
            let end = plain[at + times.len()..].find(['\n', '"']).unwrap_or(0) + at + times.len();
            plain.replace_range(at..end, "took");
        }
    }
    while let Some(at) = plain.find("127.0.0.1:") {
        let digits = plain[at + 10..]
            .chars()
            .take_while(char::is_ascii_digit)
            .count();
        plain.replace_range(at..at + 10 + digits, "ADDRESS");
    }
    // Numbers of more than five digits are ids; others count something.
    let mut shown = String::new();
    for word in plain.split_inclusive(|c: char| !c.is_ascii_alphanumeric()) {
        let letters = word.trim_end_matches(|c: char| !c.is_ascii_alphanumeric());
        let is_id = letters.len() > 8 && letters.chars().all(|c| c.is_ascii_hexdigit());
        shown.push_str(if is_id { "ID " } else { word });
    }
    // An id that begins with zeros is shown with spaces in their place.
    let shown = shown.replace("  ID ", " ID ");
    let lines = shown.split_inclusive('\n');
    lines.map(members_in_order).collect()
}

/// Members come in the order of their ids, which the time of their making decides.
fn members_in_order(line: &str) -> String {
    let Some(list) = line.strip_prefix("ETCD_INITIAL_CLUSTER=\"") else {
        return line.to_owned();
    };
    let mut members: Vec<&str> = list.trim_end().trim_end_matches('"').split(',').collect();
    members.sort_unstable();
    format!("members {members:?}\n")
}

/// Every command that talks to a server, said to both, and what etcdctl makes of their answers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcdctl_finds_no_difference() {
    for version in [EtcdVersion::V3_5, EtcdVersion::V3_4] {
        let cheap = ["--bcrypt-cost", "4"];
        let ours = Member::start_on(Product::subject(), Folder::new(), &cheap).await;
        let theirs = Product::Etcd(EtcdVersion::V3_5);
        let theirs = Member::start_on(theirs, Folder::new(), &cheap).await;
        let lines = [
            "put a 1",
            "put a 2 --prev-kv",
            "put b",
            "get a",
            "get a -w json",
            "get a b --keys-only",
            "get a --prefix --count-only -w fields",
            "get a --rev 2 --print-value-only",
            "get a --rev 999",
            "get --from-key a --limit 1 --sort-by version --order descend",
            "txn",
            "lease grant 100 -w fields",
            "lease list",
            "lease timetolive 1234",
            "lease revoke 1234",
            "lease keep-alive --once 1234",
            "put c 1 --lease 1234",
            "del a --prev-kv",
            "del --prefix a",
            "compaction 2",
            "compaction 2",
            "compaction 4 --physical",
            "alarm list",
            "alarm disarm",
            "defrag",
            "endpoint health",
            "endpoint hashkv",
            "member list -w fields",
            "member add two --learner --peer-urls http://127.0.0.1:1",
            "member promote 1234",
            "member remove 1234",
            "member update 1234 --peer-urls http://127.0.0.1:2",
            "move-leader 1234",
            "user add root:pw",
            "user add u --no-password",
            "user list",
            "user get u --detail",
            "user passwd u --interactive=false",
            "role add r",
            "role list",
            "role grant-permission r readwrite a b",
            "role grant-permission r read c --prefix",
            "role grant-permission r write d --from-key",
            "role get r",
            "role revoke-permission r a b",
            "user grant-role u r",
            "user revoke-role u r",
            "user grant-role root root",
            "auth enable",
            "get a",
            "--user root:pw get b",
            "--user root:wrong get b",
            "--user root:pw role delete r",
            "--user root:pw user delete u",
            "--user root:pw auth disable",
            "get b",
        ];
        for line in lines {
            let input = match line.split(' ').next() {
                Some("txn") => "value(\"a\") = \"2\"\n\nput a 3\nget a\n\ndel a\n\n",
                Some("user") => "newpw\n",
                _ => "from standard input",
            };
            let own = comparable(&say(version, &ours.endpoint(), line, input), &ours);
            let other = comparable(&say(version, &theirs.endpoint(), line, input), &theirs);
            assert_eq!(own, other, "etcdctl {version:?}: {line}");
        }
    }
}

/// The commands that go on: watching, locking, electing, mirroring, saving.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcdctls_long_commands_work() {
    let member = Member::start(Product::subject()).await;
    let other = Member::start(Product::Etcd(EtcdVersion::V3_5)).await;
    let endpoint = member.endpoint();
    for version in [EtcdVersion::V3_5, EtcdVersion::V3_4] {
        let start = |arguments: &[&str]| {
            Command::new(etcd_program(version, "etcdctl"))
                .env("ETCDCTL_API", "3")
                .args(["--endpoints", &endpoint])
                .args(arguments)
                .stdout(Stdio::piped())
                .spawn()
                .expect("etcdctl can be run")
        };
        let mut watch = start(&["watch", "m/", "--prefix"]);
        // Whoever is killed leads until its lease ends, so each has an election of its own.
        let election = format!("{version:?}");
        let mut elect = start(&["elect", &election, "me"]);
        let mut mirror = start(&["make-mirror", &other.endpoint(), "--prefix", "m/"]);
        let locked = etcdctl(version, &endpoint, ["lock", "l", "echo", "held"]);
        assert_eq!(locked.trim(), "held", "{version:?}");
        tokio::time::sleep(Duration::from_secs(2)).await;
        etcdctl(version, &endpoint, ["put", "m/key", "mirrored"]);
        etcdctl(version, &endpoint, ["del", "m/key"]);
        etcdctl(version, &endpoint, ["put", "m/key", "again"]);
        tokio::time::sleep(Duration::from_secs(2)).await;
        for child in [&mut watch, &mut elect, &mut mirror] {
            child.kill().expect("it runs");
        }
        let told = watch.wait_with_output().expect("ended").stdout;
        let told = String::from_utf8_lossy(&told).into_owned();
        assert_eq!(
            told, "PUT\nm/key\nmirrored\nDELETE\nm/key\n\nPUT\nm/key\nagain\n",
            "{version:?}"
        );
        let elected = elect.wait_with_output().expect("ended").stdout;
        let elected = String::from_utf8_lossy(&elected).into_owned();
        assert!(
            elected.starts_with(&election) && elected.contains("\nme\n"),
            "{elected}"
        );
        mirror.wait().expect("ended");
        let mirrored = etcdctl(
            version,
            &other.endpoint(),
            ["get", "m/key", "--print-value-only"],
        );
        assert_eq!(mirrored, "again\n", "{version:?}");
    }
}

/// A program of `tests/clients`, which says `ok` at its end.
async fn script(program: PathBuf, name: &str) {
    assert!(
        program.exists(),
        "{} is missing: `make clients` installs it",
        program.display()
    );
    for product in [Product::subject(), Product::Etcd(EtcdVersion::V3_5)] {
        let member = Member::start(product).await;
        let output = Command::new(&program)
            .arg(checkout().join("tests/clients").join(name))
            .arg(member.endpoint())
            .env(
                "NODE_PATH",
                checkout().join("target/clients/node/node_modules"),
            )
            .output()
            .expect("the client can be run");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{product:?}: {said}{errors}");
        assert!(said.ends_with("ok\n"), "{product:?}: {said}{errors}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pythons_client_works() {
    script(
        checkout().join("target/clients/python/bin/python"),
        "client.py",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pythons_gateway_client_works() {
    script(
        checkout().join("target/clients/python/bin/python"),
        "gateway_client.py",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_client_works() {
    let path = std::env::var_os("PATH").expect("a path");
    let node = std::env::split_paths(&path).map(|folder| folder.join("node"));
    let node = node.into_iter().find(|path| path.exists());
    script(
        node.unwrap_or_else(|| PathBuf::from("/usr/bin/node")),
        "client.js",
    )
    .await;
}

/// [HT-17]: Prometheus' own tool is content with the metrics.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn promtool_is_content_with_the_metrics() {
    let member = Member::start(Product::subject()).await;
    member.client().put("a", "1").await.expect("a put");
    let page = holdfast_tests::http::request("GET", &member.endpoint(), "/metrics").body;
    let mut child = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool can be run: `make deps` installs it");
    use std::io::Write;
    let mut pipe = child.stdin.take().expect("a pipe");
    pipe.write_all(page.as_bytes()).expect("promtool reads");
    drop(pipe);
    let output = child.wait_with_output().expect("promtool ends");
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    // Etcd's names are not all as Prometheus would have them, and are kept.
    let errors: Vec<&str> = said
        .lines()
        .filter(|line| !line.contains("should not have") && !line.contains("should have"))
        .filter(|line| !line.contains("use base unit"))
        .filter(|line| !line.contains("metric names should not contain"))
        .collect();
    assert!(errors.is_empty(), "{errors:#?}");
}
