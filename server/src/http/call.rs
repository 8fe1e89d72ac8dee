//! gRPC calls on their way in and out: passed on untouched and counted.
//!
//! gRPC sends each message behind a byte of flags and four bytes of length; the code of the answer
//! is the trailer, or for an answer without messages the header, `grpc-status`.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes};
use http::{HeaderMap, Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use prometheus_client::metrics::counter::Counter;

use tonic::Status;

use super::BoxError;
use super::pages::Pages;
use crate::clock;
use crate::metrics::CallMetrics;

/// gRPC's code for a call whose client went away.
const CANCELED: u32 = 1;
/// gRPC's code for a call that did not say how it ended.
const UNKNOWN: u32 = 2;
const PREFIX_BYTES: usize = 5;

/// The body of a gRPC request.
#[derive(Debug)]
pub struct CallBody {
    body: Source,
    counted: Counted,
}

/// Where a request comes from.
#[derive(Debug)]
pub(super) enum Source {
    /// The connection.
    Client(Incoming),
    /// The JSON gateway, which has translated it.
    Gateway(UnsyncBoxBody<Bytes, BoxError>),
}

/// The body of a gRPC answer around the one that the service made. It counts the call as handled
/// when it is dropped.
#[derive(Debug)]
pub struct CallResponse<B> {
    body: B,
    counted: Counted,
    ending: Ending,
}

/// Wraps the body of a request, and begins to count the call.
pub(super) fn begin(request: Request<Source>, pages: &dyn Pages) -> (Request<CallBody>, Begun) {
    let metrics = pages.metrics();
    let call = metrics.grpc.of_path(request.uri().path());
    if let Some(call) = call {
        let version = request.headers().get("client-api-version");
        call.started.inc();
        metrics
            .grpc
            .count_client(call.is_stream, version.and_then(|v| v.to_str().ok()));
    }
    let network = &metrics.network;
    let limits = pages.call_limits();
    let received = Counted::new(
        network.client_grpc_received_bytes.clone(),
        call.map(|call| call.messages_received.clone()),
        limits.message_bytes,
    );
    let sent = Counted::new(
        network.client_grpc_sent_bytes.clone(),
        call.map(|call| call.messages_sent.clone()),
        usize::MAX,
    );
    let timed = call.is_some_and(|call| !call.is_stream).then(|| Timed {
        method: request.uri().path().to_owned(),
        started: clock::monotonic(),
        slow: limits.slow,
    });
    let ending = Ending {
        call: call.cloned().map(Arc::new),
        code: None,
        timed,
    };
    (
        request.map(|body| CallBody {
            body,
            counted: received,
        }),
        Begun { sent, ending },
    )
}

/// A call that has no answer yet.
pub(super) struct Begun {
    sent: Counted,
    ending: Ending,
}

impl Begun {
    /// Wraps the answer.
    pub(super) fn answered<B: Body>(self, response: Response<B>) -> Response<CallResponse<B>> {
        let Begun { sent, mut ending } = self;
        ending.code = status_of(response.headers());
        response.map(|body| CallResponse {
            body,
            counted: sent,
            ending,
        })
    }
}

fn status_of(headers: &HeaderMap) -> Option<u32> {
    let status = headers.get("grpc-status")?;
    Some(
        status
            .to_str()
            .ok()
            .and_then(|text| text.parse().ok())
            .unwrap_or(UNKNOWN),
    )
}

/// How a call ended. Dropped without a code, its client went away.
#[derive(Debug)]
struct Ending {
    call: Option<Arc<CallMetrics>>,
    code: Option<u32>,
    timed: Option<Timed>,
}

/// A call whose answer should not take long.
#[derive(Debug)]
struct Timed {
    method: String,
    started: Instant,
    slow: Duration,
}

impl Drop for Ending {
    fn drop(&mut self) {
        if let Some(timed) = &self.timed {
            let took = clock::monotonic() - timed.started;
            if took > timed.slow {
                tracing::warn!(
                    method = timed.method, took = ?took, expected_duration = ?timed.slow,
                    "request took too long"
                );
            }
        }
        if let Some(call) = &self.call {
            call.count_handled(self.code.unwrap_or(CANCELED));
        }
    }
}

/// Counts the messages in a stream of bytes that is cut anywhere.
#[derive(Debug)]
struct Counted {
    bytes: Counter,
    messages: Option<Counter>,
    /// The prefix of the next message, as far as it came.
    prefix: [u8; PREFIX_BYTES],
    prefix_len: usize,
    /// Bytes of the present message that are still to come.
    missing: usize,
    /// Bytes that a message may have.
    limit: usize,
    /// Bytes of a message that has more.
    too_large: Option<usize>,
}

impl Counted {
    fn new(bytes: Counter, messages: Option<Counter>, limit: usize) -> Counted {
        Counted {
            bytes,
            messages,
            prefix: [0; PREFIX_BYTES],
            prefix_len: 0,
            missing: 0,
            limit,
            too_large: None,
        }
    }

    fn count(&mut self, mut data: &[u8]) {
        let mut of_messages = 0;
        while !data.is_empty() {
            if self.missing > 0 {
                let step = self.missing.min(data.len());
                self.missing -= step;
                of_messages += step as u64;
                data = &data[step..];
                continue;
            }
            self.prefix[self.prefix_len] = data.get_u8();
            self.prefix_len += 1;
            if self.prefix_len == PREFIX_BYTES {
                let [_, length @ ..] = self.prefix;
                self.missing = u32::from_be_bytes(length) as usize;
                if self.missing > self.limit {
                    self.too_large = Some(self.missing);
                }
                self.prefix_len = 0;
                if let Some(messages) = &self.messages {
                    messages.inc();
                }
            }
        }
        self.bytes.inc_by(of_messages);
    }
}

impl Body for CallBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        let frame = ready!(match &mut this.body {
            Source::Client(body) => Pin::new(body).poll_frame(context).map_err(Into::into),
            Source::Gateway(body) => Pin::new(body).poll_frame(context),
        });
        if let Some(Ok(frame)) = &frame
            && let Some(data) = frame.data_ref()
        {
            this.counted.count(data);
            if let Some(bytes) = this.counted.too_large {
                let limit = this.counted.limit;
                let text = format!("grpc: received message larger than max ({bytes} vs. {limit})");
                return Poll::Ready(Some(Err(Status::resource_exhausted(text).into())));
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        match &self.body {
            Source::Client(body) => body.is_end_stream(),
            Source::Gateway(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.body {
            Source::Client(body) => body.size_hint(),
            Source::Gateway(body) => body.size_hint(),
        }
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for CallResponse<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = self.get_mut();
        let frame = ready!(Pin::new(&mut this.body).poll_frame(context));
        match &frame {
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref() {
                    this.counted.count(data);
                } else if let Some(trailers) = frame.trailers_ref() {
                    this.ending.code = status_of(trailers).or(this.ending.code);
                }
            }
            Some(Err(_)) => this.ending.code = Some(UNKNOWN),
            None => this.ending.code = this.ending.code.or(Some(UNKNOWN)),
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_counted_wherever_the_stream_is_cut() {
        let mut stream = Vec::new();
        for length in [0usize, 1, 4, 5, 300] {
            stream.push(0);
            stream.extend(u32::try_from(length).expect("small").to_be_bytes());
            stream.extend(std::iter::repeat_n(7, length));
        }
        for step in 1..stream.len() {
            let (bytes, messages) = (Counter::default(), Counter::default());
            let mut counted = Counted::new(bytes.clone(), Some(messages.clone()), usize::MAX);
            stream.chunks(step).for_each(|chunk| counted.count(chunk));
            assert_eq!(
                (bytes.get(), messages.get()),
                (310, 5),
                "cut every {step} bytes"
            );
        }
    }
}
