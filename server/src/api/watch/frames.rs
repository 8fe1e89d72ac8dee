//! Watch responses as bytes on the way to the connection.
//!
//! ```text
//! gRPC     00 length(4)
//! response 0a header   10 watch_id   18 created   20 canceled   28 compact_revision
//!          32 cancel_reason   38 fragment   5a event  5a event ...
//! ```

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;
use prost::encoding::{encode_varint, encoded_len_varint};
use proto::etcdserverpb::{ResponseHeader, WatchResponse};

use crate::watch::Encoded;

const HEADER: u8 = 1 << 3 | 2;
const WATCH_ID: u8 = 2 << 3;
const FRAGMENT: u8 = 7 << 3;
/// Bytes of gRPC before each message.
pub(super) const PREFIX_BYTES: usize = 5;
/// Gathered bytes that are worth a piece of their own: two of HTTP/2's frames.
const PIECE_BYTES: usize = 32 << 10;
/// An event of this size is handed on as it is; a smaller one is cheaper to copy.
const SHARED_FROM_BYTES: usize = 16 << 10;

/// Gathers messages into pieces.
#[derive(Default)]
pub(super) struct Frames {
    buffer: BytesMut,
    pieces: Vec<Bytes>,
    /// Bytes in `pieces`.
    bytes: usize,
}

impl Frames {
    /// Adds a response without events.
    pub(super) fn control(&mut self, response: &WatchResponse) {
        self.begin(response.encoded_len());
        response
            .encode(&mut self.buffer)
            .expect("a BytesMut has room");
    }

    /// Adds the same events for each of these watchers, a response each. With `part_bytes_max` a
    /// larger response is cut between events.
    pub(super) fn events(
        &mut self,
        header: &ResponseHeader,
        ids: impl Iterator<Item = i64>,
        encoded: &Encoded,
        part_bytes_max: Option<usize>,
    ) {
        let header = header.encode_to_vec();
        let head_bytes = 1 + encoded_len_varint(header.len() as u64) + header.len();
        for id in ids {
            // A cut response says so in two bytes; the id takes eleven at most.
            let whole = part_bytes_max.is_none_or(|max| head_bytes + 13 + encoded.bytes < max);
            if whole || encoded.events.len() < 2 {
                self.response(&header, id, &encoded.events, encoded.bytes, false);
                continue;
            }
            let max = part_bytes_max.unwrap_or(usize::MAX);
            self.parts(
                &header,
                id,
                &encoded.events,
                max.saturating_sub(head_bytes + 13),
            );
        }
    }

    fn parts(&mut self, header: &[u8], id: i64, mut events: &[Bytes], bytes_max: usize) {
        while !events.is_empty() {
            let mut bytes = events[0].len();
            let mut count = 1;
            while let Some(next) = events.get(count)
                && bytes + next.len() < bytes_max
            {
                bytes += next.len();
                count += 1;
            }
            let (part, rest) = events.split_at(count);
            self.response(header, id, part, bytes, !rest.is_empty());
            events = rest;
        }
    }

    fn response(&mut self, header: &[u8], id: i64, events: &[Bytes], bytes: usize, cut: bool) {
        let id = id.cast_unsigned();
        let id_bytes = if id == 0 {
            0
        } else {
            1 + encoded_len_varint(id)
        };
        let head_bytes = 1 + encoded_len_varint(header.len() as u64) + header.len();
        self.begin(head_bytes + id_bytes + if cut { 2 } else { 0 } + bytes);
        self.buffer.put_u8(HEADER);
        encode_varint(header.len() as u64, &mut self.buffer);
        self.buffer.put_slice(header);
        if id != 0 {
            self.buffer.put_u8(WATCH_ID);
            encode_varint(id, &mut self.buffer);
        }
        if cut {
            self.buffer.put_slice(&[FRAGMENT, 1]);
        }
        for event in events {
            if event.len() < SHARED_FROM_BYTES {
                self.buffer.put_slice(event);
            } else {
                self.cut_piece();
                self.bytes += event.len();
                self.pieces.push(event.clone());
            }
        }
    }

    fn begin(&mut self, message_bytes: usize) {
        if self.buffer.len() >= PIECE_BYTES {
            self.cut_piece();
        }
        self.buffer
            .reserve(PREFIX_BYTES + message_bytes.min(PIECE_BYTES));
        self.buffer.put_u8(0);
        let length = u32::try_from(message_bytes).expect("a response is shorter than 4 GiB");
        self.buffer.put_u32(length);
    }

    fn cut_piece(&mut self) {
        if !self.buffer.is_empty() {
            let piece = self.buffer.split().freeze();
            self.bytes += piece.len();
            self.pieces.push(piece);
        }
    }

    /// Whether so much was gathered that it should go out before more is added.
    pub(super) fn is_full(&self) -> bool {
        self.bytes + self.buffer.len() >= PIECE_BYTES
    }

    /// What was gathered.
    pub(super) fn take(&mut self) -> Vec<Bytes> {
        self.cut_piece();
        self.bytes = 0;
        std::mem::take(&mut self.pieces)
    }
}

#[cfg(test)]
mod tests {
    use proto::mvccpb::{Event, KeyValue};

    use super::*;

    fn event(value_bytes: usize) -> Event {
        let kv = KeyValue {
            key: "k".into(),
            value: vec![7; value_bytes].into(),
            mod_revision: 5,
            ..Default::default()
        };
        Event {
            kv: Some(kv),
            ..Default::default()
        }
    }

    fn encoded(events: &[Event]) -> Encoded {
        let field = |event: &Event| {
            let response = WatchResponse {
                events: vec![event.clone()],
                ..Default::default()
            };
            Bytes::from(response.encode_to_vec())
        };
        Encoded::new(events.iter().map(field).collect())
    }

    fn read(frames: &mut Frames) -> Vec<WatchResponse> {
        let all = frames.take().concat();
        let mut rest = &all[..];
        let mut responses = Vec::new();
        while !rest.is_empty() {
            let length = u32::from_be_bytes(rest[1..5].try_into().expect("four bytes")) as usize;
            responses.push(WatchResponse::decode(&rest[5..5 + length]).expect("a response"));
            rest = &rest[5 + length..];
        }
        responses
    }

    #[test]
    fn responses_read_back_as_they_were_meant() {
        let header = ResponseHeader {
            revision: 9,
            member_id: 77,
            ..Default::default()
        };
        let events = [event(3), event(SHARED_FROM_BYTES), event(PIECE_BYTES)];
        let mut frames = Frames::default();
        frames.events(&header, [0, 5, -1].into_iter(), &encoded(&events), None);
        let responses = read(&mut frames);
        assert_eq!(responses.len(), 3);
        for (response, id) in responses.iter().zip([0, 5, -1]) {
            assert_eq!(response.watch_id, id);
            assert_eq!(response.header, Some(header));
            assert_eq!(response.events, events);
            assert!(!response.fragment);
        }
    }

    /// [WA-21]
    #[test]
    fn a_response_that_is_too_large_is_cut_between_events() {
        let header = ResponseHeader::default();
        let events: Vec<Event> = (0..5).map(|_| event(1000)).collect();
        let mut frames = Frames::default();
        frames.events(&header, [3].into_iter(), &encoded(&events), Some(2500));
        let responses = read(&mut frames);
        let counts: Vec<usize> = responses.iter().map(|part| part.events.len()).collect();
        assert_eq!(counts, [2, 2, 1]);
        let cut: Vec<bool> = responses.iter().map(|part| part.fragment).collect();
        assert_eq!(cut, [true, true, false]);
        assert!(responses.iter().all(|part| part.watch_id == 3));
        frames.events(&header, [3].into_iter(), &encoded(&events[..1]), Some(500));
        assert_eq!(read(&mut frames).len(), 1);
    }
}
