//! The value of a record in bucket `key`: etcd's `mvccpb.KeyValue`.
//!
//! ```text
//! field  1 key  2 create_revision  3 mod_revision  4 version  5 value  6 lease
//! wire   bytes  varint             varint          varint     bytes    varint
//! ```
//!
//! proto3: fields ascend and a field that is zero or empty is absent. A tombstone holds field 1
//! only. A file restored with a revision bump holds one record of no bytes at all, which reads as
//! the pair of the empty key; no client's range can reach that key.

use std::fmt;
use std::ops::Range;

use bytes::{BufMut, Bytes, BytesMut};

use crate::revision::{RecordKey, Revision};

/// Which lease a key hangs on. Any number but 0 can name a lease, negative ones too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseId(pub i64);

/// A key with its value and numbers as of one revision. Key and value are slices of the record
/// as it is stored, so a clone copies no bytes.
#[derive(Clone)]
pub struct KeyValue {
    record: Bytes,
    key: Span,
    value: Span,
    /// The revision that created the key; 0 on a tombstone.
    pub create_revision: Revision,
    /// The revision of this change. A tombstone's record does not hold it; whoever reads one
    /// fills it in from the record's key.
    pub mod_revision: Revision,
    /// Number of changes since the key was created, starting at 1; 0 on a tombstone.
    pub version: i64,
    /// The lease that the last put hung the key on.
    pub lease: Option<LeaseId>,
}

impl KeyValue {
    /// The key.
    pub fn key(&self) -> &[u8] {
        &self.record[self.key.range()]
    }

    /// The value.
    pub fn value(&self) -> &[u8] {
        &self.record[self.value.range()]
    }

    /// The key, sharing the record's memory.
    pub fn key_bytes(&self) -> Bytes {
        self.record.slice(self.key.range())
    }

    /// The value, sharing the record's memory.
    pub fn value_bytes(&self) -> Bytes {
        self.record.slice(self.value.range())
    }

    /// The encoded `mvccpb.KeyValue` that this pair was read from, fit to be sent as it is. A
    /// tombstone's holds the key alone, without `mod_revision`.
    pub fn record(&self) -> &Bytes {
        &self.record
    }

    /// The same pair with an empty value; it lets go of the value's memory.
    pub fn without_value(&self) -> KeyValue {
        let fields = Fields {
            key: self.key(),
            value: b"",
            create_revision: self.create_revision,
            mod_revision: self.mod_revision,
            version: self.version,
            lease: self.lease,
        };
        let mut buffer = BytesMut::with_capacity(fields.encoded_bytes());
        let (key, value) = fields.encode(&mut buffer);
        KeyValue {
            record: buffer.freeze(),
            key,
            value,
            ..*self
        }
    }

    /// Reads a record. Unknown fields are skipped; of a field that comes twice the last counts.
    ///
    /// # Errors
    /// What is wrong with the bytes, when they are no `mvccpb.KeyValue`.
    pub fn decode(record: Bytes) -> Result<KeyValue, Malformed> {
        let mut pair = KeyValue {
            record: Bytes::new(),
            key: Span::EMPTY,
            value: Span::EMPTY,
            create_revision: Revision(0),
            mod_revision: Revision(0),
            version: 0,
            lease: None,
        };
        if u32::try_from(record.len()).is_err() {
            return Err(Malformed("the record is longer than 4 GiB"));
        }
        let mut cursor = Cursor {
            bytes: &record,
            at: 0,
        };
        while cursor.at < record.len() {
            let tag = cursor.varint()?;
            match (tag >> 3, tag & 7) {
                (1, WIRE_BYTES) => pair.key = cursor.span()?,
                (2, WIRE_VARINT) => pair.create_revision = Revision(cursor.varint()? as i64),
                (3, WIRE_VARINT) => pair.mod_revision = Revision(cursor.varint()? as i64),
                (4, WIRE_VARINT) => pair.version = cursor.varint()? as i64,
                (5, WIRE_BYTES) => pair.value = cursor.span()?,
                (6, WIRE_VARINT) => {
                    pair.lease = Some(cursor.varint()? as i64)
                        .filter(|id| *id != 0)
                        .map(LeaseId);
                }
                (1..=6, _) => return Err(Malformed("a field has another type than etcd gives it")),
                (0, _) => return Err(Malformed("a field has the number 0")),
                (_, wire_type) => cursor.skip(wire_type)?,
            }
        }
        pair.record = record;
        Ok(pair)
    }
}

impl PartialEq for KeyValue {
    fn eq(&self, other: &KeyValue) -> bool {
        self.key() == other.key()
            && self.value() == other.value()
            && self.create_revision == other.create_revision
            && self.mod_revision == other.mod_revision
            && self.version == other.version
            && self.lease == other.lease
    }
}

impl Eq for KeyValue {}

impl fmt::Debug for KeyValue {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("KeyValue")
            .field("key", &self.key_bytes())
            .field("value", &self.value_bytes())
            .field("create_revision", &self.create_revision.0)
            .field("mod_revision", &self.mod_revision.0)
            .field("version", &self.version)
            .field("lease", &self.lease)
            .finish()
    }
}

/// Bytes that are no record, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Malformed(pub &'static str);

/// A record that was just made, as the storage batch wants it: its key in bucket `key`, and the
/// pair whose [`KeyValue::record`] is the value. Both share one allocation.
pub(crate) struct NewRecord {
    pub(crate) stored_key: Bytes,
    pub(crate) pair: KeyValue,
}

impl NewRecord {
    /// The record of a put.
    pub(crate) fn live(at: RecordKey, fields: &Fields<'_>) -> NewRecord {
        debug_assert!(!at.tombstone);
        let (stored_key, length) = at.encode();
        let mut buffer = BytesMut::with_capacity(length + fields.encoded_bytes());
        buffer.put_slice(&stored_key[..length]);
        let stored_key = buffer.split().freeze();
        let (key, value) = fields.encode(&mut buffer);
        let pair = KeyValue {
            record: buffer.freeze(),
            key,
            value,
            create_revision: fields.create_revision,
            mod_revision: fields.mod_revision,
            version: fields.version,
            lease: fields.lease,
        };
        NewRecord { stored_key, pair }
    }

    /// The record of a deletion: the key alone.
    pub(crate) fn tombstone(at: RecordKey, key: &[u8]) -> NewRecord {
        debug_assert!(at.tombstone);
        let (stored_key, length) = at.encode();
        let fields = Fields {
            key,
            value: b"",
            create_revision: Revision(0),
            mod_revision: Revision(0),
            version: 0,
            lease: None,
        };
        let mut buffer = BytesMut::with_capacity(length + fields.encoded_bytes());
        buffer.put_slice(&stored_key[..length]);
        let stored_key = buffer.split().freeze();
        let (key, value) = fields.encode(&mut buffer);
        let pair = KeyValue {
            record: buffer.freeze(),
            key,
            value,
            create_revision: Revision(0),
            mod_revision: at.position.revision,
            version: 0,
            lease: None,
        };
        NewRecord { stored_key, pair }
    }
}

/// What a record is made of.
pub(crate) struct Fields<'a> {
    pub(crate) key: &'a [u8],
    pub(crate) value: &'a [u8],
    pub(crate) create_revision: Revision,
    pub(crate) mod_revision: Revision,
    pub(crate) version: i64,
    pub(crate) lease: Option<LeaseId>,
}

impl Fields<'_> {
    fn numbers(&self) -> [(u8, i64); 3] {
        [
            (2, self.create_revision.0),
            (3, self.mod_revision.0),
            (4, self.version),
        ]
    }

    fn lease(&self) -> i64 {
        self.lease.map_or(0, |lease| lease.0)
    }

    fn encoded_bytes(&self) -> usize {
        let block = |bytes: &[u8]| match bytes.len() {
            0 => 0,
            length => 1 + varint_bytes(length as u64) + length,
        };
        let number = |value: i64| {
            if value == 0 {
                0
            } else {
                1 + varint_bytes(value as u64)
            }
        };
        block(self.key)
            + block(self.value)
            + self
                .numbers()
                .iter()
                .map(|(_, value)| number(*value))
                .sum::<usize>()
            + number(self.lease())
    }

    /// Appends the encoded form to an empty buffer; where key and value lie in it.
    fn encode(&self, buffer: &mut BytesMut) -> (Span, Span) {
        let key = put_bytes(buffer, 1, self.key);
        for (field, value) in self.numbers() {
            put_number(buffer, field, value);
        }
        let value = put_bytes(buffer, 5, self.value);
        put_number(buffer, 6, self.lease());
        (key, value)
    }
}

const WIRE_VARINT: u64 = 0;
const WIRE_FIXED64: u64 = 1;
const WIRE_BYTES: u64 = 2;
const WIRE_FIXED32: u64 = 5;

fn put_number(buffer: &mut BytesMut, field: u8, value: i64) {
    if value != 0 {
        buffer.put_u8(field << 3 | WIRE_VARINT as u8);
        put_varint(buffer, value as u64);
    }
}

fn put_bytes(buffer: &mut BytesMut, field: u8, bytes: &[u8]) -> Span {
    if bytes.is_empty() {
        return Span::EMPTY;
    }
    buffer.put_u8(field << 3 | WIRE_BYTES as u8);
    put_varint(buffer, bytes.len() as u64);
    let start = buffer.len();
    buffer.put_slice(bytes);
    Span::new(start, buffer.len())
}

fn put_varint(buffer: &mut BytesMut, mut value: u64) {
    while value >= 0x80 {
        buffer.put_u8(value as u8 | 0x80);
        value >>= 7;
    }
    buffer.put_u8(value as u8);
}

fn varint_bytes(value: u64) -> usize {
    (64 - (value | 1).leading_zeros() as usize).div_ceil(7)
}

/// A part of a record.
#[derive(Clone, Copy)]
struct Span {
    start: u32,
    end: u32,
}

impl Span {
    const EMPTY: Span = Span { start: 0, end: 0 };

    fn new(start: usize, end: usize) -> Span {
        let offset = |offset| u32::try_from(offset).expect("a record is shorter than 4 GiB");
        Span {
            start: offset(start),
            end: offset(end),
        }
    }

    fn range(self) -> Range<usize> {
        self.start as usize..self.end as usize
    }
}

struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Cursor<'_> {
    fn varint(&mut self) -> Result<u64, Malformed> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = *self
                .bytes
                .get(self.at)
                .ok_or(Malformed("the record ends in a number"))?;
            self.at += 1;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(Malformed("a number has more than ten bytes"))
    }

    fn span(&mut self) -> Result<Span, Malformed> {
        let length = self.varint()?;
        let left = (self.bytes.len() - self.at) as u64;
        if length > left {
            return Err(Malformed("a field is longer than the record"));
        }
        let start = self.at;
        self.at += length as usize;
        Ok(Span::new(start, self.at))
    }

    fn skip(&mut self, wire_type: u64) -> Result<(), Malformed> {
        let length = match wire_type {
            WIRE_VARINT => return self.varint().map(drop),
            WIRE_BYTES => return self.span().map(drop),
            WIRE_FIXED64 => 8,
            WIRE_FIXED32 => 4,
            _ => return Err(Malformed("a field has a type that nobody uses")),
        };
        if length > self.bytes.len() - self.at {
            return Err(Malformed("a field is longer than the record"));
        }
        self.at += length;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::revision::Position;
    use proptest::prelude::*;

    fn live(revision: i64, fields: &Fields<'_>) -> NewRecord {
        NewRecord::live(RecordKey::live(Position::first(Revision(revision))), fields)
    }

    #[test]
    fn the_first_put_has_the_bytes_that_etcd_stores() {
        let record = live(
            2,
            &Fields {
                key: b"foo",
                value: b"bar",
                create_revision: Revision(2),
                mod_revision: Revision(2),
                version: 1,
                lease: None,
            },
        );
        assert_eq!(
            record.stored_key.as_ref(),
            b"\0\0\0\0\0\0\0\x02_\0\0\0\0\0\0\0\0"
        );
        assert_eq!(
            record.pair.record().as_ref(),
            b"\x0a\x03foo\x10\x02\x18\x02\x20\x01\x2a\x03bar"
        );
    }

    #[test]
    fn a_tombstone_holds_its_key_alone() {
        let at = RecordKey::tombstone(Position::first(Revision(3)));
        let record = NewRecord::tombstone(at, b"foo");
        assert_eq!(record.pair.record().as_ref(), b"\x0a\x03foo");
        assert_eq!(record.pair.mod_revision, Revision(3));
    }

    #[test]
    fn a_record_of_no_bytes_reads_as_the_empty_key() {
        let pair = KeyValue::decode(Bytes::new()).unwrap();
        assert_eq!(
            (pair.key(), pair.create_revision, pair.version),
            (&b""[..], Revision(0), 0)
        );
    }

    #[test]
    fn unknown_fields_are_skipped() {
        let bytes = b"\x0a\x01k\x78\x05\x7a\x02xy\x7d1234\x79_8 bytes\x20\x07";
        let pair = KeyValue::decode(Bytes::from_static(bytes)).unwrap();
        assert_eq!((pair.key(), pair.version), (&b"k"[..], 7));
    }

    #[test]
    fn damaged_records_are_refused() {
        for bytes in [
            &b"\x0a\x05foo"[..],
            b"\x0a",
            b"\x10",
            b"\x08\x01",
            b"\x02\x01",
            b"\x7b",
        ] {
            assert!(
                KeyValue::decode(Bytes::from_static(bytes)).is_err(),
                "{bytes:?}"
            );
        }
        assert!(KeyValue::decode(Bytes::from_static(&[0xff; 12])).is_err());
    }

    proptest! {
        #[test]
        fn records_read_back_as_written(
            key in prop::collection::vec(any::<u8>(), 0..200),
            value in prop::collection::vec(any::<u8>(), 0..300),
            numbers in any::<(i64, i64, i64, i64)>(),
        ) {
            let (create, modified, version, lease) = numbers;
            let fields = Fields {
                key: &key,
                value: &value,
                create_revision: Revision(create),
                mod_revision: Revision(modified),
                version,
                lease: Some(lease).filter(|id| *id != 0).map(LeaseId),
            };
            let written = live(5, &fields).pair;
            prop_assert_eq!(written.record().len(), fields.encoded_bytes());
            let read = KeyValue::decode(written.record().clone()).unwrap();
            prop_assert_eq!(&read, &written);
            prop_assert_eq!(read.key(), &key[..]);
            prop_assert_eq!(read.value(), &value[..]);
            let blank = read.without_value();
            prop_assert_eq!(&KeyValue::decode(blank.record().clone()).unwrap(), &blank);
            prop_assert!(blank.value().is_empty() && blank.lease == read.lease);
        }

        #[test]
        fn any_bytes_are_read_or_refused_without_panic(
            bytes in prop::collection::vec(any::<u8>(), 0..64)
        ) {
            let _ = KeyValue::decode(Bytes::from(bytes));
        }
    }
}
