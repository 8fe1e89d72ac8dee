//! A watcher for services of this very member: the same stream, without a connection.

use std::sync::Arc;

use bytes::{Buf, Bytes, BytesMut};
use prost::Message;
use proto::etcdserverpb::watch_request::RequestUnion;
use proto::etcdserverpb::{WatchCreateRequest, WatchRequest, WatchResponse};
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tonic::{Request, Status};

use super::frames::PREFIX_BYTES;
use super::session::Session;
use super::{PIECES_WAITING_MAX, Piece};
use crate::api::member::Member;

/// One watcher. It ends when this is dropped.
pub(in crate::api) struct InProcess {
    pieces: mpsc::Receiver<Piece>,
    buffer: BytesMut,
}

impl InProcess {
    /// Begins to watch on behalf of a call.
    pub(in crate::api) fn open(
        member: Arc<Member>,
        call: Request<()>,
        create: WatchCreateRequest,
    ) -> InProcess {
        let (sender, pieces) = mpsc::channel(PIECES_WAITING_MAX);
        let request = WatchRequest {
            request_union: Some(RequestUnion::CreateRequest(create)),
        };
        let requests = tokio_stream::once(Ok(request));
        tokio::spawn(Session::new(member, call, sender).run(requests.chain(tokio_stream::empty())));
        InProcess {
            pieces,
            buffer: BytesMut::new(),
        }
    }

    /// The next response; `None` when there will be none.
    ///
    /// # Errors
    /// What ended the stream.
    pub(in crate::api) async fn next(&mut self) -> Result<Option<WatchResponse>, Status> {
        loop {
            if let Some(message) = self.message() {
                let response = WatchResponse::decode(message);
                return response
                    .map(Some)
                    .map_err(|error| Status::internal(error.to_string()));
            }
            match self.pieces.recv().await {
                Some(Piece::Data(data)) => self.buffer.extend_from_slice(&data),
                Some(Piece::End(status)) => return Err(status),
                None => return Ok(None),
            }
        }
    }

    fn message(&mut self) -> Option<Bytes> {
        let prefix = self.buffer.get(1..PREFIX_BYTES)?;
        let length = u32::from_be_bytes(prefix.try_into().expect("four bytes")) as usize;
        if self.buffer.len() < PREFIX_BYTES + length {
            return None;
        }
        self.buffer.advance(PREFIX_BYTES);
        Some(self.buffer.split_to(length).freeze())
    }
}
