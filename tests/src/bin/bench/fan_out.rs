//! Many watchers of one key on one connection: each put reaches all of them before the next one.

use std::time::{Duration, Instant};

use bytes::Bytes;
use holdfast_tests::member::Member;
use proto::etcdserverpb::watch_client::WatchClient;
use proto::etcdserverpb::watch_request::RequestUnion;
use proto::etcdserverpb::{WatchCreateRequest, WatchRequest, WatchResponse};
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::Streaming;
use tonic::transport::{Channel, Endpoint};

const KEY: &str = "watched";
const VALUE_BYTES: usize = 100;

/// Watchers of a key, all on one stream.
pub(crate) struct FanOut {
    watchers: usize,
    events: Streaming<WatchResponse>,
    /// Dropping it would end the stream.
    _requests: mpsc::UnboundedSender<WatchRequest>,
}

impl FanOut {
    /// Sets up `watchers` of them.
    pub(crate) async fn open(member: &Member, watchers: usize) -> FanOut {
        let endpoint = Endpoint::from_shared(member.url()).expect("a URL");
        let channel: Channel = endpoint.connect().await.expect("a connection");
        let (requests, receiver) = mpsc::unbounded_channel();
        for _ in 0..watchers {
            let create = WatchCreateRequest {
                key: KEY.into(),
                ..Default::default()
            };
            let request = WatchRequest {
                request_union: Some(RequestUnion::CreateRequest(create)),
            };
            requests.send(request).expect("the receiver is here");
        }
        let mut client = WatchClient::new(channel);
        let stream = UnboundedReceiverStream::new(receiver);
        let mut events = client.watch(stream).await.expect("a stream").into_inner();
        for _ in 0..watchers {
            let created = events
                .message()
                .await
                .expect("no error")
                .expect("an answer");
            assert!(created.created, "{created:?}");
        }
        FanOut {
            watchers,
            events,
            _requests: requests,
        }
    }

    /// Puts until `end`; how long after its put each event came.
    #[expect(
        clippy::disallowed_methods,
        reason = "measures time, decides nothing else by it"
    )]
    pub(crate) async fn run_until(&mut self, end: Instant, member: &Member) -> Vec<Duration> {
        let client = member.client();
        let mut latencies = Vec::new();
        let value = Bytes::from(vec![b'v'; VALUE_BYTES]);
        loop {
            let start = Instant::now();
            if start >= end {
                return latencies;
            }
            let put = client.put(KEY, value.clone());
            let all_events = async {
                let mut left = self.watchers;
                while left > 0 {
                    let answer = self.events.message().await.expect("no error");
                    left -= answer.expect("the stream goes on").events.len();
                    latencies.push(start.elapsed());
                }
            };
            let (put, ()) = tokio::join!(put, all_events);
            put.expect("a put");
        }
    }
}
