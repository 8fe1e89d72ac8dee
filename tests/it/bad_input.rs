//! What nobody should send: a clear answer, bounded memory, and the server goes on.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use bytes::Bytes;
use holdfast_tests::curl::curl;
use holdfast_tests::member::{Member, Product};
use holdfast_tests::tools::EtcdVersion;
use proto::etcdserverpb::request_op::Request as Operation;
use proto::etcdserverpb::{RangeRequest, RequestOp, TxnRequest};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// The server may hold this much more memory than before.
const MEMORY_BYTES_MAX: u64 = 64 << 20;

fn framed(message: &[u8]) -> Vec<u8> {
    let length = u32::try_from(message.len()).expect("small");
    [&[0][..], &length.to_be_bytes(), message].concat()
}

/// A call of gRPC whose message is given byte by byte. The answer may come, and the stream be reset, before all
/// of the body was sent.
async fn try_call(
    member: &Member,
    path: &str,
    body: &[u8],
    header: (&str, &str),
) -> Result<http::Response<h2::RecvStream>, h2::Error> {
    let connection = tokio::net::TcpStream::connect(member.endpoint()).await;
    let handshake = h2::client::handshake(connection.expect("the server listens")).await;
    let (client, connection) = handshake.expect("the server speaks HTTP/2");
    tokio::spawn(connection);
    let request = http::Request::post(format!("{}{path}", member.url()))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header(header.0, header.1)
        .body(())
        .expect("a request");
    let (answer, mut sending) = client.ready().await?.send_request(request, false)?;
    drop(sending.send_data(Bytes::copy_from_slice(body), true));
    answer.await
}

/// As [`try_call`]: its status, and what that says.
async fn call(member: &Member, path: &str, body: &[u8], header: (&str, &str)) -> (String, String) {
    let answer = try_call(member, path, body, header).await;
    let answer = answer.unwrap_or_else(|error| panic!("no answer of {path}: {error}"));
    assert_eq!(answer.status(), 200, "{path}");
    let (head, mut body) = answer.into_parts();
    let mut headers = head.headers;
    if !headers.contains_key("grpc-status") {
        while let Some(data) = body.data().await {
            data.expect("the rest of an answer");
        }
        let trailers = body.trailers().await.expect("the end of an answer");
        headers = trailers.expect("trailers");
    }
    let text = |name| {
        let value = headers.get(name).map(|value| value.to_str().expect("text"));
        value.unwrap_or("").to_owned()
    };
    let said = text("grpc-message")
        .replace("%20", " ")
        .replace("%22", "\"");
    (text("grpc-status"), said)
}

/// [GR-2], [GR-6], [GR-1]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_that_make_no_sense_have_a_clear_status() {
    for product in [Product::subject(), Product::Etcd(EtcdVersion::V3_5)] {
        let member = Member::start(product).await;
        let plain = ("x-nothing", "1");
        let put = "/etcdserverpb.KV/Put";
        let unknown = call(&member, "/etcdserverpb.KV/Nonsense", &framed(b""), plain).await;
        let text = "unknown method Nonsense for service etcdserverpb.KV";
        assert_eq!(unknown, ("12".to_owned(), text.to_owned()), "{product:?}");
        let unknown = call(&member, "/nonsense.Service/Put", &framed(b""), plain).await;
        let text = "unknown service nonsense.Service";
        assert_eq!(unknown, ("12".to_owned(), text.to_owned()), "{product:?}");
        let zstd = ("grpc-encoding", "zstd");
        let encoded = call(&member, put, &framed(b""), zstd).await;
        let text = "grpc: Decompressor is not installed for grpc-encoding \"zstd\"";
        assert_eq!(encoded, ("12".to_owned(), text.to_owned()), "{product:?}");
        let (code, _) = call(&member, put, &framed(b"\xff\xff\xff"), plain).await;
        assert_eq!(code, "13", "{product:?}: no message at all");
        let large = [&[0][..], &(64u32 << 20).to_be_bytes(), &[0; 1000]].concat();
        let refused = call(&member, put, &large, plain).await;
        let text = "grpc: received message larger than max (67108864 vs. 2097152)";
        assert_eq!(refused, ("8".to_owned(), text.to_owned()), "{product:?}");
        member.client().put("still", "there").await.expect("a put");
    }
}

/// [GR-3], [GR-4], [GR-8]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_say_nothing_or_nonsense_do_not_disturb_others() {
    let member = Member::start(Product::subject()).await;
    member.client().put("a", "1").await.expect("a put");
    let before = member.resident();
    let mut held = Vec::new();
    for number in 0..300 {
        let mut stream = TcpStream::connect(member.endpoint()).expect("the server listens");
        match number % 4 {
            // Nothing at all.
            0 => {}
            // Half a request.
            1 => stream.write_all(PREFACE).expect("sent"),
            2 => stream
                .write_all(
                    b"POST /v3/kv/range HTTP/1.1\r\nHost: x\r\nContent-Length: 99999\r\n\r\n{",
                )
                .expect("sent"),
            _ => stream.write_all(&[0xff; 1000]).expect("sent"),
        }
        held.push(stream);
    }
    member.client().put("a", "2").await.expect("a put");
    let more = member.resident().saturating_sub(before);
    assert!(more < MEMORY_BYTES_MAX, "{more} bytes for 300 connections");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn floods_of_headers_and_bytes_are_cut_off() {
    let member = Member::start(Product::subject()).await;
    member.client().put("a", "1").await.expect("a put");
    let before = member.resident();
    for _ in 0..20 {
        let mut stream = TcpStream::connect(member.endpoint()).expect("the server listens");
        stream
            .set_write_timeout(Some(Duration::from_secs(5)))
            .expect("a time-out");
        stream
            .set_read_timeout(Some(Duration::from_secs(5)))
            .expect("a time-out");
        stream
            .write_all(b"GET /version HTTP/1.1\r\nHost: x\r\n")
            .expect("sent");
        let line = format!("X-Flood: {}\r\n", "y".repeat(8000));
        // It stops reading, or has closed, long before a hundred megabytes.
        let sent = (0..12_500)
            .take_while(|_| stream.write_all(line.as_bytes()).is_ok())
            .count();
        assert!(sent < 12_500, "all of the flood was taken");
        let _ = stream.read(&mut [0; 1]);
    }
    let huge = "x".repeat(200_000);
    let header = ("x-huge", huge.as_str());
    let answer = try_call(&member, "/etcdserverpb.KV/Put", &framed(b""), header).await;
    // Either it says so, or it ends the connection.
    let refused = answer.map_or(true, |answer| answer.status() == 431);
    assert!(refused, "a header of 200 kB");
    let more = member.resident().saturating_sub(before);
    assert!(more < MEMORY_BYTES_MAX, "{more} bytes held after the flood");
    member.client().put("a", "2").await.expect("a put");
}

/// [KV-45]: as many ranges as a message holds, and none of them done.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_of_very_many_ranges_is_refused() {
    let member = Member::start(Product::subject()).await;
    let client = member.client();
    let range = RequestOp {
        request: Some(Operation::RequestRange(RangeRequest {
            key: "a".into(),
            ..Default::default()
        })),
    };
    let request = |count: usize| TxnRequest {
        success: vec![range.clone(); count],
        ..Default::default()
    };
    let refused = client
        .kv
        .clone()
        .txn(request(200_000))
        .await
        .expect_err("too many");
    assert_eq!(
        refused.message(),
        "etcdserver: too many operations in txn request"
    );
    let refused = client
        .kv
        .clone()
        .txn(request(1_000_000))
        .await
        .expect_err("too large");
    assert_eq!(
        refused.code(),
        tonic::Code::ResourceExhausted,
        "{refused:?}"
    );
    client.put("a", "1").await.expect("a put");
}

/// Deeply nested JSON and unending bodies.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_gateway_refuses_what_is_no_request() {
    let member = Member::start(Product::subject()).await;
    let url = format!("{}/v3/kv/txn", member.url());
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    let deep = format!(
        "{}{}",
        r#"{"success":[{"request_txn":"#.repeat(50_000),
        "}]}".repeat(50_000)
    );
    for body in [
        deep,
        "[".repeat(1_000_000),
        "\"".to_owned(),
        "\u{0}".to_owned(),
    ] {
        std::fs::write(file.path(), &body).expect("written");
        let data = format!("@{}", file.path().display());
        let answer = curl(&["--data-binary", &data, &url]);
        assert_eq!(answer.status, 400, "{:.40}", body);
        assert_eq!(answer.json()["code"], 3, "{:.40}", body);
    }
    member.client().put("a", "1").await.expect("a put");
}
