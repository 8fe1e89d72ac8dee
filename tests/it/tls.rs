//! TLS for clients, with certificates made by openssl and requests made by curl and etcdctl.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use holdfast_tests::curl::{Curled, try_curl};
use holdfast_tests::folder::Folder;
use holdfast_tests::member::{Member, Product, free_port};
use holdfast_tests::tools::{EtcdVersion, etcd_program};

fn both() -> [Product; 2] {
    [Product::subject(), Product::Etcd(EtcdVersion::V3_5)]
}

/// A folder of keys and certificates.
pub(crate) struct Certificates(Folder);

impl Certificates {
    /// An authority called `ca`.
    pub(crate) fn new() -> Certificates {
        let certificates = Certificates(Folder::new());
        certificates.authority("ca");
        certificates
    }

    pub(crate) fn path(&self, name: &str) -> String {
        let path: PathBuf = self.0.beside(name);
        path.to_str().expect("text").to_owned()
    }

    fn openssl(&self, arguments: &[&str]) {
        let mut command = Command::new("openssl");
        command.args(arguments).current_dir(self.0.beside("."));
        let output = command.output().expect("openssl can be run");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "openssl {arguments:?}: {said}");
    }

    fn authority(&self, name: &str) {
        let (key, certificate) = (format!("{name}.key"), format!("{name}.crt"));
        let curve = "ec_paramgen_curve:P-256";
        self.openssl(&[
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            curve,
            "-nodes",
            "-days",
            "30",
            "-subj",
            &format!("/CN={name}"),
            "-keyout",
            &key,
            "-out",
            &certificate,
        ]);
    }

    /// A certificate by an authority, for a common name and for 127.0.0.1.
    pub(crate) fn issue(&self, name: &str, authority: &str, common_name: &str) {
        let (key, request) = (format!("{name}.key"), format!("{name}.csr"));
        let curve = "ec_paramgen_curve:P-256";
        self.openssl(&[
            "req",
            "-newkey",
            "ec",
            "-pkeyopt",
            curve,
            "-nodes",
            "-subj",
            &format!("/CN={common_name}"),
            "-addext",
            "subjectAltName=IP:127.0.0.1,DNS:client.example",
            "-keyout",
            &key,
            "-out",
            &request,
        ]);
        self.openssl(&[
            "x509",
            "-req",
            "-in",
            &request,
            "-CA",
            &format!("{authority}.crt"),
            "-CAkey",
            &format!("{authority}.key"),
            "-CAcreateserial",
            "-days",
            "30",
            "-copy_extensions",
            "copy",
            "-out",
            &format!("{name}.crt"),
        ]);
    }

    /// curl's arguments to trust an authority, and to show a certificate.
    pub(crate) fn trusting(&self, authority: &str, client: Option<&str>) -> Vec<String> {
        let mut arguments = vec![
            "--cacert".to_owned(),
            self.path(&format!("{authority}.crt")),
        ];
        if let Some(client) = client {
            arguments.extend(["--cert".to_owned(), self.path(&format!("{client}.crt"))]);
            arguments.extend(["--key".to_owned(), self.path(&format!("{client}.key"))]);
        }
        arguments
    }
}

/// A member that serves https.
struct Secure {
    member: Member,
    url: String,
}

impl Secure {
    fn start(product: Product, flags: &[&str]) -> Secure {
        let url = format!("https://127.0.0.1:{}", free_port());
        let mut all = vec![
            "--listen-client-urls",
            &url,
            "--advertise-client-urls",
            &url,
        ];
        all.extend(flags);
        let member = Member::spawn(product, Folder::new(), &all);
        Secure { member, url }
    }

    fn ask(&self, arguments: &[String], path: &str) -> Option<Curled> {
        let url = format!("{}{path}", self.url);
        let mut all: Vec<&str> = arguments.iter().map(String::as_str).collect();
        all.push(&url);
        try_curl(&all)
    }

    /// Asks until there is an answer.
    async fn ask_until(&self, arguments: &[String], path: &str) -> Curled {
        let started = tokio::time::Instant::now();
        loop {
            if let Some(answer) = self.ask(arguments, path) {
                return answer;
            }
            let log = self.member.log();
            assert!(
                started.elapsed() < Duration::from_secs(30),
                "no answer; {log}"
            );
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

/// [GR-5]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn https_serves_pages_gateway_and_grpc() {
    let certificates = Certificates::new();
    certificates.issue("server", "ca", "server");
    let (certificate, key) = (
        certificates.path("server.crt"),
        certificates.path("server.key"),
    );
    for product in both() {
        let flags = ["--cert-file", &certificate, "--key-file", &key];
        let secure = Secure::start(product, &flags);
        let trusting = certificates.trusting("ca", None);
        let answer = secure.ask_until(&trusting, "/version").await;
        assert_eq!(answer.status, 200, "{product:?}");
        let mut range = trusting.clone();
        range.extend(["--data".to_owned(), r#"{"key":"YQ=="}"#.to_owned()]);
        let answer = secure.ask(&range, "/v3/kv/range").expect("an answer");
        assert_eq!(answer.status, 200, "{product:?}: {}", answer.text());
        // Whoever does not trust the authority does not go on, and neither does who speaks plainly.
        assert!(secure.ask(&[], "/version").is_none(), "{product:?}");
        let plain = secure.url.replace("https://", "http://") + "/version";
        let answer = try_curl(&[&plain]);
        assert!(
            answer.is_none_or(|answer| answer.status == 400),
            "{product:?}"
        );
        let etcdctl = Command::new(etcd_program(EtcdVersion::V3_5, "etcdctl"))
            .args([
                "--endpoints",
                &secure.url,
                "--cacert",
                &certificates.path("ca.crt"),
            ])
            .args(["put", "a", "b"])
            .env("ETCDCTL_API", "3")
            .output();
        let etcdctl = etcdctl.expect("etcdctl runs");
        assert_eq!(
            String::from_utf8_lossy(&etcdctl.stdout),
            "OK\n",
            "{product:?}"
        );
    }
}

/// [AU-12], [HT-10]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clients_certificate_names_its_user() {
    let certificates = Certificates::new();
    certificates.authority("other");
    certificates.issue("server", "ca", "server");
    certificates.issue("root", "ca", "root");
    certificates.issue("stranger", "other", "root");
    let path = |name: &str| certificates.path(name);
    for product in both() {
        let flags = [
            "--cert-file",
            &path("server.crt"),
            "--key-file",
            &path("server.key"),
            "--client-cert-auth",
            "--trusted-ca-file",
            &path("ca.crt"),
            "--bcrypt-cost",
            "4",
        ];
        let secure = Secure::start(product, &flags);
        let root = certificates.trusting("ca", Some("root"));
        assert_eq!(
            secure.ask_until(&root, "/version").await.status,
            200,
            "{product:?}"
        );
        for nobody in [None, Some("stranger")] {
            let nobody = certificates.trusting("ca", nobody);
            assert!(secure.ask(&nobody, "/version").is_none(), "{product:?}");
        }
        let etcdctl = |arguments: &[&str]| {
            let output = Command::new(etcd_program(EtcdVersion::V3_5, "etcdctl"))
                .args(["--endpoints", &secure.url, "--cacert", &path("ca.crt")])
                .args(["--cert", &path("root.crt"), "--key", &path("root.key")])
                .args(arguments)
                .env("ETCDCTL_API", "3")
                .output()
                .expect("etcdctl runs");
            String::from_utf8_lossy(&output.stdout).into_owned()
        };
        etcdctl(&["user", "add", "root", "--no-password"]);
        etcdctl(&["user", "grant-role", "root", "root"]);
        etcdctl(&["auth", "enable"]);
        assert_eq!(etcdctl(&["put", "a", "b"]), "OK\n", "{product:?}");
        let mut through_gateway = root.clone();
        through_gateway.extend(["--data".to_owned(), "{}".to_owned()]);
        let answer = secure
            .ask(&through_gateway, "/v3/kv/range")
            .expect("an answer");
        assert_eq!(answer.status, 400, "{product:?}");
        assert!(
            answer
                .text()
                .starts_with("CommonName of client sending a request"),
            "{product:?}"
        );
    }
}

/// A renewed certificate counts without a restart, and so does another authority, which real etcd reads
/// only once. What cannot be read does no harm.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_and_authorities_are_read_again_when_they_change() {
    let certificates = Certificates::new();
    certificates.authority("next");
    certificates.issue("server", "ca", "server");
    certificates.issue("client", "ca", "client");
    certificates.issue("later", "next", "later");
    let path = |name: &str| certificates.path(name);
    let copy = |from: &str, to: &str| {
        std::fs::copy(path(from), path(to)).expect("copied");
    };
    copy("server.crt", "used.crt");
    copy("server.key", "used.key");
    copy("ca.crt", "trusted.crt");
    let flags = [
        "--cert-file",
        &path("used.crt"),
        "--key-file",
        &path("used.key"),
        "--client-cert-auth",
        "--trusted-ca-file",
        &path("trusted.crt"),
    ];
    let secure = Secure::start(Product::Holdfast, &flags);
    let client = certificates.trusting("ca", Some("client"));
    secure.ask_until(&client, "/version").await;
    let later = certificates.trusting("ca", Some("later"));
    assert!(
        secure.ask(&later, "/version").is_none(),
        "nobody knows its authority yet"
    );
    copy("next.crt", "trusted.crt");
    assert_eq!(
        secure.ask(&later, "/version").expect("known now").status,
        200
    );
    assert!(
        secure.ask(&client, "/version").is_none(),
        "nobody knows its authority any more"
    );

    certificates.issue("renewed", "next", "renewed");
    copy("renewed.key", "used.key");
    assert!(
        secure.ask(&later, "/version").is_some(),
        "a key alone does not fit"
    );
    copy("renewed.crt", "used.crt");
    let trusting_next = certificates.trusting("next", Some("later"));
    assert_eq!(
        secure
            .ask(&trusting_next, "/version")
            .expect("renewed")
            .status,
        200
    );
    std::fs::write(path("used.crt"), "nonsense").expect("written");
    assert_eq!(
        secure
            .ask(&trusting_next, "/version")
            .expect("the old one")
            .status,
        200
    );
    assert!(
        secure
            .member
            .log()
            .contains("those that were read before stay in use")
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_is_made_if_that_is_asked_for() {
    for product in both() {
        let secure = Secure::start(product, &["--auto-tls"]);
        let insecure = ["--insecure".to_owned()];
        assert_eq!(
            secure.ask_until(&insecure, "/version").await.status,
            200,
            "{product:?}"
        );
        let made = secure
            .member
            .folder()
            .data()
            .join("fixtures/client/cert.pem");
        assert!(made.exists(), "{product:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_served_is_told_at_the_start() {
    let certificates = Certificates::new();
    certificates.issue("server", "ca", "server");
    certificates.issue("other", "ca", "other");
    let path = |name: &str| certificates.path(name);
    let cases = [
        (vec![], "there is no certificate"),
        (
            vec!["--cert-file", "/nowhere", "--key-file", "/nowhere"],
            "cannot read /nowhere",
        ),
        (
            vec!["--cert-file", "server.crt", "--key-file", "other.key"],
            "cannot be used together",
        ),
        (
            vec!["--cert-file", "server.key", "--key-file", "server.key"],
            "no certificate in PEM",
        ),
    ];
    for (flags, expected) in cases {
        let flags: Vec<String> = flags
            .into_iter()
            .map(|flag| match flag.starts_with(['-', '/']) {
                true => flag.to_owned(),
                false => path(flag),
            })
            .collect();
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        let mut secure = Secure::start(Product::Holdfast, &flags);
        let status = secure.member.wait_for_end(20);
        assert_eq!(status.code(), Some(2), "{flags:?}");
        assert!(
            secure.member.log().contains(expected),
            "{expected}: {}",
            secure.member.log()
        );
    }
}
