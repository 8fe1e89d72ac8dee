//! Ranges in pieces, which etcd has from 3.7 on: together they are what Range answers.

use holdfast_tests::client::Client;
use holdfast_tests::member::{Member, Product};
use proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use proto::etcdserverpb::{CompactionRequest, RangeRequest, RangeResponse};
use tonic::{Code, Status};

async fn pieces(client: &Client, request: RangeRequest) -> Result<Vec<RangeResponse>, Status> {
    let mut stream = client.kv.clone().range_stream(request).await?.into_inner();
    let mut pieces = Vec::new();
    while let Some(piece) = stream.message().await? {
        pieces.push(piece.range_response.expect("a piece"));
    }
    Ok(pieces)
}

fn all() -> RangeRequest {
    RangeRequest {
        key: "k".into(),
        range_end: "l".into(),
        ..Default::default()
    }
}

async fn filled() -> (Member, Client) {
    let member = Member::start(Product::Holdfast).await;
    let client = member.client();
    for number in 0..500 {
        let value = "v".repeat(number * 20);
        client
            .put(format!("k{number:03}"), value)
            .await
            .expect("a put");
    }
    (member, client)
}

/// [KV-19], [KV-20], [KV-21]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pieces_make_up_what_a_range_answers() {
    let (_member, client) = filled().await;
    let variants: [fn(&mut RangeRequest); 8] = [
        |_| {},
        |request| request.limit = 7,
        |request| request.limit = 100,
        |request| request.keys_only = true,
        |request| request.count_only = true,
        |request| request.revision = 250,
        |request| request.key = "k499".into(),
        |request| request.range_end = "k".into(),
    ];
    for (number, vary) in variants.into_iter().enumerate() {
        let mut request = all();
        vary(&mut request);
        let whole = client.range(request.clone()).await.expect("a range");
        let pieces = pieces(&client, request).await.expect("pieces");
        let (last, before) = pieces.split_last().expect("one at least");
        for piece in before {
            assert!(
                piece.header.is_none() && !piece.more && piece.count == 0,
                "{number}"
            );
            assert!(!piece.kvs.is_empty(), "{number}");
        }
        let kvs: Vec<_> = pieces.iter().flat_map(|piece| piece.kvs.clone()).collect();
        assert_eq!(kvs, whole.kvs, "{number}");
        assert_eq!(
            (last.more, last.count),
            (whole.more, whole.count),
            "{number}"
        );
        assert_eq!(
            last.header.expect("a header").revision,
            whole.header.expect("a header").revision,
            "{number}"
        );
    }
    let several = pieces(&client, all()).await.expect("pieces");
    assert_eq!(several[0].kvs.len(), 10);
    assert!(several.len() > 3, "{} pieces", several.len());
}

/// [KV-8], [KV-9], [KV-18]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_answered_in_pieces_is_refused() {
    let (_member, client) = filled().await;
    let order = "RangeStream does not support custom sort orders";
    let filter = "RangeStream does not support revision filters";
    let future = "etcdserver: mvcc: required revision is a future revision";
    type Vary = fn(&mut RangeRequest);
    let refused: [(Vary, Code, &str); 6] = [
        (
            |r| r.key.clear(),
            Code::InvalidArgument,
            "etcdserver: key is not provided",
        ),
        (
            |r| r.sort_order = SortOrder::Descend.into(),
            Code::Unimplemented,
            order,
        ),
        (
            |r| {
                r.sort_order = SortOrder::Ascend.into();
                r.sort_target = SortTarget::Mod.into();
            },
            Code::Unimplemented,
            order,
        ),
        (|r| r.min_create_revision = 1, Code::Unimplemented, filter),
        (
            |r| r.sort_order = 7,
            Code::InvalidArgument,
            "etcdserver: invalid sort option",
        ),
        (|r| r.revision = 10_000, Code::OutOfRange, future),
    ];
    for (vary, code, text) in refused {
        let mut request = all();
        vary(&mut request);
        let status = pieces(&client, request).await.expect_err("a refusal");
        assert_eq!((status.code(), status.message()), (code, text));
    }
}

/// [KV-21]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_compaction_in_between_ends_the_pieces() {
    let (_member, client) = filled().await;
    for number in 0..500 {
        // More than the connection and the queue hold.
        client
            .put(format!("k{number:03}"), vec![b'v'; 50_000])
            .await
            .expect("a put");
    }
    let mut kv = client.kv.clone();
    let mut stream = kv.range_stream(all()).await.expect("a stream").into_inner();
    stream.message().await.expect("no error").expect("a piece");
    let now = client
        .put("x", "")
        .await
        .expect("a put")
        .header
        .expect("a header")
        .revision;
    let request = CompactionRequest {
        revision: now,
        physical: false,
    };
    kv.compact(request).await.expect("a compaction");
    let ended = loop {
        match stream.message().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("all pieces came"),
            Err(status) => break status,
        }
    };
    assert_eq!(ended.code(), Code::OutOfRange);
}
