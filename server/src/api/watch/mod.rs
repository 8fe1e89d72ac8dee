//! The watch service.
//!
//! Answers are written as bytes by [`frames`] rather than through generated messages: an event goes to
//! all its watchers in the form that it was encoded in once.

mod catch_up;
mod frames;
mod in_process;
mod session;

use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::StreamBody;
use hyper::body::Frame;
use proto::etcdserverpb::WatchRequest;
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::body::Body;
use tonic::codec::{Codec, CompressionEncoding, Streaming};
use tonic::metadata::MetadataMap;
use tonic::{Code, Status};
use tonic_prost::ProstCodec;

use super::member::Member;
use crate::http::CallBody;
pub(super) use in_process::InProcess;
use session::Session;

/// Pieces of the answer that wait for the connection; each has some ten thousand bytes.
const PIECES_WAITING_MAX: usize = 8;

/// A piece of the answer.
enum Piece {
    /// Whole or cut messages with gRPC's frames.
    Data(Bytes),
    /// How the call ended.
    End(Status),
}

/// Serves one call of `etcdserverpb.Watch/Watch`.
pub(super) fn serve(member: Arc<Member>, request: Request<CallBody>) -> Response<Body> {
    let (head, body) = request.into_parts();
    let is_gzip = head
        .headers
        .get("grpc-encoding")
        .is_some_and(|name| name == "gzip");
    let encoding = is_gzip.then_some(CompressionEncoding::Gzip);
    let metadata = MetadataMap::from_headers(head.headers);
    let caller = tonic::Request::from_parts(metadata, head.extensions, ());
    let received_max = member.limits().request_bytes + super::MESSAGE_OVERHEAD;
    let decoder = ProstCodec::<(), WatchRequest>::default().decoder();
    let requests = Streaming::new_request(decoder, body, encoding, Some(received_max));
    let (sender, receiver) = mpsc::channel(PIECES_WAITING_MAX);
    tokio::spawn(Session::new(member, caller, sender).run(requests));
    let frames = ReceiverStream::new(receiver).map(|piece| {
        Ok::<_, Infallible>(match piece {
            Piece::Data(data) => Frame::data(data),
            Piece::End(status) => Frame::trailers(trailers(&status)),
        })
    });
    let mut response = Response::new(Body::new(StreamBody::new(frames)));
    let content_type = HeaderValue::from_static("application/grpc");
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response
}

fn trailers(status: &Status) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    if status.add_header(&mut trailers).is_err() {
        let unknown = HeaderValue::from(Code::Unknown as i32);
        trailers.insert("grpc-status", unknown);
    }
    trailers
}
