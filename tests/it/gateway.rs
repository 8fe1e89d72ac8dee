//! The JSON gateway and the pages beside it, as curl sees them, on the server under test and on real
//! etcd alike.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use holdfast_tests::curl::{Curled, curl};
use holdfast_tests::folder::Folder;
use holdfast_tests::member::{Member, Product};
use holdfast_tests::tools::EtcdVersion;
use serde_json::{Value, json};

fn both() -> [Product; 2] {
    [Product::subject(), Product::Etcd(EtcdVersion::V3_5)]
}

fn post(member: &Member, path: &str, body: &str) -> Curled {
    curl(&["--data", body, &format!("{}{path}", member.url())])
}

/// An answer without what differs between two clusters, and without the field that releases up to 3.5
/// had beside `message`.
fn comparable(mut answer: Value) -> Value {
    fn clean(value: &mut Value) {
        if let Value::Object(members) = value {
            for name in [
                "cluster_id",
                "member_id",
                "raft_term",
                "error",
                "ID",
                "hash",
            ] {
                if members.get(name).is_some_and(Value::is_string) {
                    members.remove(name);
                }
            }
            members.remove("hash");
        }
        match value {
            Value::Object(members) => members.values_mut().for_each(clean),
            Value::Array(items) => items.iter_mut().for_each(clean),
            _ => {}
        }
    }
    clean(&mut answer);
    answer
}

/// [HT-1], [HT-2], [HT-3], [HT-4]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_gateway_answers_as_etcds_does() {
    let ours = Member::start(Product::subject()).await;
    let theirs = Member::start(Product::Etcd(EtcdVersion::V3_5)).await;
    let requests = [
        ("/v3/kv/put", r#"{"key":"Zm9v","value":"YmFy"}"#),
        (
            "/v3/kv/put",
            r#"{"key":"Zm9v","value":"YmF6","prev_kv":true}"#,
        ),
        (
            "/v3/kv/put",
            r#"{"key":"Zm9v","value":"YmF6","prevKv":true,"nonsense":[1]}"#,
        ),
        ("/v3/kv/put", r#"{"key":"_-8","value":"","lease":"0"}"#),
        (
            "/v3/kv/range",
            r#"{"key":"AA==","range_end":"AA==","limit":"1"}"#,
        ),
        (
            "/v3/kv/range",
            r#"{"key":"Zm9v","sort_order":"DESCEND","sort_target":1}"#,
        ),
        ("/v3/kv/range", r#"{"key":"Zm9v","count_only":true}"#),
        ("/v3/kv/range", r#"{"key":"Zm9v","revision":100}"#),
        ("/v3/kv/range", r#"{"key":"bm90aGluZw=="}"#),
        ("/v3/kv/range", "{}"),
        ("/v3/kv/range", ""),
        ("/v3beta/kv/range", r#"{"key":"Zm9v"}"#),
        (
            "/v3/kv/txn",
            r#"{"compare":[{"key":"Zm9v","target":"VERSION","version":"3","result":"EQUAL"}],
                "success":[{"request_put":{"key":"Zm9v","value":"eA=="}},
                           {"request_range":{"key":"Zm9v"}}],
                "failure":[{"request_delete_range":{"key":"Zm9v"}}]}"#,
        ),
        ("/v3/kv/deleterange", r#"{"key":"Zm9v","prev_kv":true}"#),
        ("/v3/kv/deleterange", r#"{"key":"Zm9v"}"#),
        ("/v3/kv/compaction", r#"{"revision":"3"}"#),
        ("/v3/kv/compaction", r#"{"revision":"3"}"#),
        ("/v3/lease/grant", r#"{"TTL":"100","ID":"77"}"#),
        ("/v3/lease/grant", r#"{"TTL":100,"ID":77}"#),
        ("/v3/lease/leases", "{}"),
        ("/v3/kv/lease/leases", "{}"),
        ("/v3/lease/timetolive", r#"{"ID":"99","keys":true}"#),
        ("/v3/lease/revoke", r#"{"ID":"77"}"#),
        ("/v3/kv/lease/revoke", r#"{"ID":"77"}"#),
        ("/v3/maintenance/alarm", "{}"),
        (
            "/v3/maintenance/alarm",
            r#"{"action":"ACTIVATE","memberID":"1","alarm":"NOSPACE"}"#,
        ),
        ("/v3/kv/put", r#"{"key":"Zm9v","value":"YmFy"}"#),
        (
            "/v3/maintenance/alarm",
            r#"{"action":"DEACTIVATE","memberID":"1","alarm":"NOSPACE"}"#,
        ),
        ("/v3/auth/user/add", r#"{"name":"u","password":"p"}"#),
        ("/v3/auth/user/list", "{}"),
        ("/v3/auth/user/get", r#"{"name":"u"}"#),
        ("/v3/auth/user/get", r#"{"name":"v"}"#),
        ("/v3/auth/role/add", r#"{"name":"r"}"#),
        (
            "/v3/auth/role/grant",
            r#"{"name":"r","perm":{"permType":"READWRITE","key":"YQ==","range_end":"Yg=="}}"#,
        ),
        ("/v3/auth/role/get", r#"{"role":"r"}"#),
        ("/v3/auth/user/grant", r#"{"user":"u","role":"r"}"#),
        ("/v3/auth/user/revoke", r#"{"name":"u","role":"r"}"#),
        ("/v3/auth/status", "{}"),
        ("/v3/auth/enable", "{}"),
        ("/v3/lock/unlock", r#"{"key":"eA=="}"#),
        ("/v3/election/leader", r#"{"name":"ZQ=="}"#),
        ("/v3/election/proclaim", "{}"),
        ("/v3/kv/range", "{"),
        ("/v3/kv/range", "[]"),
        ("/v3/kv/range", r#"{"key":1}"#),
        ("/v3/kv/range", r#"{"key":"*"}"#),
        ("/v3/kv/range", r#"{"sort_order":"SIDEWAYS"}"#),
    ];
    for (path, body) in requests {
        let [own, other] = [post(&ours, path, body), post(&theirs, path, body)];
        assert_eq!(
            own.status,
            other.status,
            "{path} {body}: {} {}",
            own.text(),
            other.text()
        );
        let [own_json, other_json] = [comparable(own.json()), comparable(other.json())];
        // The words for what is no message are those of each one's own parser.
        if own_json
            .get("message")
            .is_some_and(|message| !message.to_string().contains("etcdserver"))
        {
            assert_eq!(own_json["code"], other_json["code"], "{path} {body}");
        } else {
            assert_eq!(own_json, other_json, "{path} {body}");
        }
        assert_eq!(
            own.header("content-type"),
            Some("application/json"),
            "{path}"
        );
        if own.status == 200 {
            let name = "grpc-metadata-content-type";
            assert_eq!(own.header(name), other.header(name), "{path}");
        }
    }
}

/// [HT-5]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_paths_and_methods_are_refused_in_json() {
    let member = Member::start(Product::Holdfast).await;
    let answer = post(&member, "/v3/kv/nonsense", "{}");
    assert_eq!(
        (answer.status, answer.text()),
        (404, r#"{"code":5,"message":"Not Found"}"#)
    );
    let answer = curl(&[&format!("{}/v3/kv/range", member.url())]);
    let expected = r#"{"code":12,"message":"Method Not Allowed"}"#;
    assert_eq!((answer.status, answer.text()), (501, expected));
    let off = ["--enable-grpc-gateway=false"];
    let member = Member::start_on(Product::Holdfast, Folder::new(), &off).await;
    let answer = post(&member, "/v3/kv/range", "{}");
    assert_eq!(
        (answer.status, answer.text()),
        (404, "404 page not found\n")
    );
}

/// A request by hand, whose answer comes line by line.
struct Lines {
    stream: TcpStream,
    text: String,
}

impl Lines {
    fn open(member: &Member, path: &str, body: &str) -> Lines {
        let mut stream = TcpStream::connect(member.endpoint()).expect("the server listens");
        let timeout = Some(Duration::from_secs(20));
        stream.set_read_timeout(timeout).expect("a time-out");
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).expect("sent");
        stream.write_all(b"0\r\n\r\n").expect("sent");
        Lines {
            stream,
            text: String::new(),
        }
    }

    /// The next line that holds JSON.
    fn next(&mut self) -> Value {
        loop {
            while let Some((line, rest)) = self.text.split_once('\n') {
                let line = line.trim().to_owned();
                self.text = rest.to_owned();
                if line.starts_with('{') {
                    return serde_json::from_str(&line).expect("JSON");
                }
            }
            let mut bytes = [0; 4096];
            let read = self.stream.read(&mut bytes).expect("an answer in time");
            assert!(read > 0, "the stream has ended: {:?}", self.text);
            self.text
                .push_str(std::str::from_utf8(&bytes[..read]).expect("text"));
        }
    }
}

/// [HT-6], [HT-7], [WA-12]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_are_lines_of_json() {
    for product in both() {
        let member = Member::start(product).await;
        let create = r#"{"create_request":{"key":"Zm9v"}}"#;
        let mut watch = Lines::open(&member, "/v3/watch", create);
        let created = comparable(watch.next());
        assert_eq!(
            created,
            json!({"result":{"header":{"revision":"1"},"created":true}})
        );
        post(&member, "/v3/kv/put", r#"{"key":"Zm9v","value":"YmFy"}"#);
        let event = comparable(watch.next());
        let kv = json!({
            "key":"Zm9v","create_revision":"2","mod_revision":"2","version":"1","value":"YmFy"
        });
        let expected = json!({"result":{"header":{"revision":"2"},"events":[{"kv":kv}]}});
        assert_eq!(event, expected, "{product:?}");
        post(&member, "/v3/kv/deleterange", r#"{"key":"Zm9v"}"#);
        let event = comparable(watch.next());
        let kv = json!({"key":"Zm9v","mod_revision":"3"});
        let expected =
            json!({"result":{"header":{"revision":"3"},"events":[{"type":"DELETE","kv":kv}]}});
        assert_eq!(event, expected, "{product:?}");

        post(&member, "/v3/lease/grant", r#"{"TTL":"100","ID":"7"}"#);
        let ids = r#"{"ID":"7"} {"ID":"7"}{"ID":7}"#;
        let mut renewals = Lines::open(&member, "/v3/lease/keepalive", ids);
        let renewed = json!({"result":{"header":{"revision":"3"},"TTL":"100"}});
        for _ in 0..3 {
            assert_eq!(comparable(renewals.next()), renewed, "{product:?}");
        }
    }
}

/// [HT-6], [HT-9], [AU-9]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn users_come_in_through_the_gateway() {
    for product in both() {
        let cheap = ["--bcrypt-cost", "4"];
        let member = Member::start_on(product, Folder::new(), &cheap).await;
        post(
            &member,
            "/v3/auth/user/add",
            r#"{"name":"root","password":"pw"}"#,
        );
        post(
            &member,
            "/v3/auth/user/grant",
            r#"{"user":"root","role":"root"}"#,
        );
        post(&member, "/v3/auth/enable", "{}");
        let answer = post(
            &member,
            "/v3/auth/authenticate",
            r#"{"name":"root","password":"pw"}"#,
        );
        let token = answer.json()["token"].as_str().expect("a token").to_owned();
        let url = format!("{}/v3/kv/put", member.url());
        let put = |header: &str| curl(&["--header", header, "--data", r#"{"key":"YQ=="}"#, &url]);
        assert_eq!(
            put("X-Nothing: 1").json()["message"],
            "etcdserver: user name is empty"
        );
        assert_eq!(
            put(&format!("Authorization: {token}")).status,
            200,
            "{product:?}"
        );
        assert_eq!(
            put(&format!("Grpc-Metadata-Token: {token}")).status,
            200,
            "{product:?}"
        );
        let refused = put("Authorization: nonsense");
        assert_eq!(refused.status, 401, "{product:?}");
        let text = "etcdserver: invalid auth token";
        assert_eq!(refused.json()["message"], text, "{product:?}");
        assert_eq!(
            refused.header("www-authenticate"),
            Some(text),
            "{product:?}"
        );
    }
}

/// [HT-8]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_websocket_is_a_stream_too() {
    use futures_util::{SinkExt, StreamExt};
    use tokio_tungstenite::tungstenite::Message;
    for product in both() {
        let member = Member::start(product).await;
        let url = format!("ws://{}/v3/watch", member.endpoint());
        let stream = tokio::net::TcpStream::connect(member.endpoint())
            .await
            .expect("listens");
        let opened = tokio_tungstenite::client_async(url, stream).await;
        let (mut socket, _) = opened.expect("a WebSocket");
        let create = Message::text(r#"{"create_request":{"key":"Zm9v"}}"#);
        socket.send(create).await.expect("sent");
        let mut next = async || {
            let message = tokio::time::timeout(Duration::from_secs(20), socket.next()).await;
            let message = message
                .expect("in time")
                .expect("goes on")
                .expect("no error");
            comparable(serde_json::from_str(message.to_text().expect("text")).expect("JSON"))
        };
        assert_eq!(next().await["result"]["created"], true, "{product:?}");
        post(&member, "/v3/kv/put", r#"{"key":"Zm9v","value":"YmFy"}"#);
        let event = next().await;
        assert_eq!(
            event["result"]["events"][0]["kv"]["value"], "YmFy",
            "{product:?}"
        );
    }
}

/// [HT-11], [HT-12], [HT-13]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hosts_and_origins_are_checked_as_they_were_set() {
    for product in both() {
        let flags = ["--host-whitelist", "good", "--cors", "http://friend:80"];
        let member = Member::start_on(product, Folder::new(), &flags).await;
        let url = format!("{}/version", member.url());
        let good = ["--header", "Host: good:1234"];
        let bad = curl(&["--header", "Host: evil", &url]);
        assert_eq!(bad.status, 421, "{product:?}");
        assert!(bad.text().contains("evil"), "{product:?}: {}", bad.text());
        let from = |origin: &str| {
            let origin = format!("Origin: {origin}");
            curl(&[good[0], good[1], "--header", &origin, &url])
        };
        let allowed = from("http://friend:80");
        let name = "access-control-allow-origin";
        assert_eq!(
            allowed.header(name),
            Some("http://friend:80"),
            "{product:?}"
        );
        let methods = allowed.header("access-control-allow-methods");
        assert_eq!(
            methods,
            Some("post, get, options, put, delete"),
            "{product:?}"
        );
        assert_eq!(from("http://stranger").header(name), None, "{product:?}");
        let options = curl(&[good[0], good[1], "--request", "OPTIONS", &url]);
        assert_eq!((options.status, options.text()), (200, ""), "{product:?}");
        let nothing = format!("{}/nothing", member.url());
        let nothing = curl(&[good[0], good[1], &nothing]);
        assert_eq!(
            (nothing.status, nothing.text()),
            (404, "404 page not found\n"),
            "{product:?}"
        );
        let put = curl(&[good[0], good[1], "--request", "PUT", &url]);
        assert_eq!(
            (put.status, put.header("allow")),
            (405, Some("get")),
            "{product:?}"
        );
    }
}

/// [HT-14], [HT-15], [HT-16], [HT-17] are checked page by page in the server's own tests, and against
/// real etcd in `service.rs`; here what nobody else asks for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn variables_of_the_process_are_told() {
    for product in both() {
        let member = Member::start(product).await;
        let answer = curl(&[&format!("{}/debug/vars", member.url())]);
        assert_eq!(answer.status, 200, "{product:?}");
        assert_eq!(
            answer.header("content-type"),
            Some("application/json; charset=utf-8")
        );
        let told = answer.json();
        assert!(
            told["cmdline"].is_array() && told["memstats"].is_object(),
            "{product:?}"
        );
        assert!(told["file_descriptor_limit"].is_number(), "{product:?}");
        assert_eq!(
            told["raft.status"]["raftState"], "StateLeader",
            "{product:?}"
        );
        let gone = curl(&[
            "--request",
            "PUT",
            &format!("{}/config/local/log", member.url()),
        ]);
        assert_eq!(gone.status, 404, "{product:?}");
    }
}

/// [GR-5]: HTTP alone, and gRPC alone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http_may_have_a_listener_of_its_own() {
    for product in both() {
        let http = format!("http://127.0.0.1:{}", holdfast_tests::member::free_port());
        let flags = ["--listen-client-http-urls", &http];
        let member = Member::start_on(product, Folder::new(), &flags).await;
        member.client().put("a", "1").await.expect("a put");
        assert_eq!(
            curl(&[&format!("{http}/version")]).status,
            200,
            "{product:?}"
        );
        let answer = curl(&[
            "--data",
            r#"{"key":"YQ=="}"#,
            &format!("{http}/v3/kv/range"),
        ]);
        assert_eq!(answer.json()["count"], "1", "{product:?}");
        let answer = holdfast_tests::curl::try_curl(&[&format!("{}/version", member.url())]);
        assert!(
            answer.is_none_or(|answer| answer.status != 200),
            "{product:?}"
        );
    }
}
