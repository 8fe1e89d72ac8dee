//! Events as bytes of the wire: `mvccpb.Event` as a field of `WatchResponse`.
//!
//! ```text
//! 5a length { 08 01 if deleted   12 length record (of a deletion, plus 18 mod_revision)
//!             1a length record before, if asked for and there }
//! ```
//!
//! A record is kept as the encoded `mvccpb.KeyValue`, so nothing of it is encoded anew.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use mvcc::{Event, EventKind, Fault, KeyValue, View};
use prost::encoding::{encode_varint, encoded_len_varint};

/// Field 11 of `WatchResponse`, length-delimited.
const EVENTS: u8 = 11 << 3 | 2;
const TYPE: u8 = 1 << 3;
const TYPE_DELETE: u8 = 1;
const KV: u8 = 2 << 3 | 2;
const PREVIOUS: u8 = 3 << 3 | 2;
/// Field 3 of `KeyValue`.
const MOD_REVISION: u8 = 3 << 3;

/// The events of one response in order.
#[derive(Debug, Clone)]
pub(crate) struct Encoded {
    /// Each of them, as a whole field of the response.
    pub(crate) events: Arc<[Bytes]>,
    /// Bytes of all together.
    pub(crate) bytes: usize,
}

impl Encoded {
    pub(crate) fn new(events: Arc<[Bytes]>) -> Encoded {
        let bytes = events.iter().map(Bytes::len).sum();
        Encoded { events, bytes }
    }
}

/// Encodes an event, with the pair before it, as `view` knows it, if that is wanted and there is one.
pub(crate) fn encode_with(event: &Event, previous: bool, view: &View) -> Result<Bytes, Fault> {
    let previous = match previous {
        true => view.previous(event)?,
        false => None,
    };
    Ok(encode(event, previous.as_ref()))
}

fn encode(event: &Event, previous: Option<&KeyValue>) -> Bytes {
    let record = event.pair.record();
    let deleted = event.kind == EventKind::Delete;
    let revision = event.position.revision.0.cast_unsigned();
    let record_bytes = record.len()
        + match deleted {
            true => 1 + encoded_len_varint(revision),
            false => 0,
        };
    let field = |bytes: usize| 1 + encoded_len_varint(bytes as u64) + bytes;
    let body = if deleted { 2 } else { 0 }
        + field(record_bytes)
        + previous.map_or(0, |pair| field(pair.record().len()));
    let mut buffer = BytesMut::with_capacity(field(body));
    buffer.put_u8(EVENTS);
    encode_varint(body as u64, &mut buffer);
    if deleted {
        buffer.put_slice(&[TYPE, TYPE_DELETE]);
    }
    buffer.put_u8(KV);
    encode_varint(record_bytes as u64, &mut buffer);
    buffer.put_slice(record);
    if deleted {
        buffer.put_u8(MOD_REVISION);
        encode_varint(revision, &mut buffer);
    }
    if let Some(pair) = previous {
        buffer.put_u8(PREVIOUS);
        encode_varint(pair.record().len() as u64, &mut buffer);
        buffer.put_slice(pair.record());
    }
    buffer.freeze()
}
