//! Records and their frames.
//!
//! ```text
//! 0            7  8                      8+length       8+length+padding
//! +-------------+---------------------------+----------------+
//! | length LE64 | record, `length` bytes    | 0x00 x padding |
//! +-------------+---------------------------+----------------+
//! ```
//! The low 56 bits of the length field are the length; its top byte is 0 when there is no padding,
//! else 0x80 | padding. Padding fills the frame up to a multiple of 8 bytes.
//!
//! A record is `walpb.Record {1 type, 2 crc, 3 data}`. One CRC-32C runs over the data of all records
//! of all segments; each record carries its value after the record's own data. A record of type crc
//! has no data and carries the value so far; it opens each segment.

use super::entry::{Entry, HardState, Metadata, SnapshotMark};
use super::protobuf::{Fields, Malformed, put_length, put_number};

/// Bytes of the length field.
pub(crate) const FRAME_HEAD_SIZE: u64 = 8;

/// A longer frame is no frame. etcd takes nothing above 512 MiB from a peer, and a request of a client
/// is about 1.5 MiB; without a bound a damaged length would decide how much memory is asked for.
pub(crate) const FRAME_BYTES_MAX: u64 = 512 << 20;

/// What a record holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record {
    /// Whose log it is.
    Metadata(Metadata),
    /// An entry.
    Entry(Entry),
    /// The hard state from here on.
    State(HardState),
    /// The running CRC so far; opens each segment.
    Crc(u32),
    /// A snapshot was saved.
    Snapshot(SnapshotMark),
}

/// The numbers of etcd's record types.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RecordKind {
    Metadata = 1,
    Entry = 2,
    State = 3,
    Crc = 4,
    Snapshot = 5,
}

impl RecordKind {
    fn from_number(number: u64) -> Result<RecordKind, Malformed> {
        match number {
            1 => Ok(RecordKind::Metadata),
            2 => Ok(RecordKind::Entry),
            3 => Ok(RecordKind::State),
            4 => Ok(RecordKind::Crc),
            5 => Ok(RecordKind::Snapshot),
            _ => Err(Malformed("a record of an unknown type")),
        }
    }
}

/// A record whose data were not looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RawRecord<'a> {
    pub(crate) kind: RecordKind,
    pub(crate) crc: u32,
    pub(crate) data: &'a [u8],
}

impl<'a> RawRecord<'a> {
    pub(crate) fn decode(message: &'a [u8]) -> Result<RawRecord<'a>, Malformed> {
        let (mut kind, mut crc, mut data) = (0, 0, &[][..]);
        for field in Fields::of(message) {
            match field? {
                (1, value) => kind = value.number()?,
                (2, value) => crc = value.number()?,
                (3, value) => data = value.bytes()?,
                _ => {}
            }
        }
        // etcd's reader keeps the low 32 bits; no writer sets others.
        Ok(RawRecord {
            kind: RecordKind::from_number(kind)?,
            crc: crc as u32,
            data,
        })
    }

    /// Whether the record follows one after which the running CRC was `crc`.
    pub(crate) fn follows(&self, crc: u32) -> bool {
        self.kind != RecordKind::Crc && crc32c::crc32c_append(crc, self.data) == self.crc
    }

    pub(crate) fn content(&self) -> Result<Record, Malformed> {
        Ok(match self.kind {
            RecordKind::Metadata => Record::Metadata(Metadata::decode(self.data)?),
            RecordKind::Entry => Record::Entry(Entry::decode(self.data)?),
            RecordKind::State => Record::State(HardState::decode(self.data)?),
            RecordKind::Crc => Record::Crc(self.crc),
            RecordKind::Snapshot => Record::Snapshot(SnapshotMark::decode(self.data)?),
        })
    }
}

/// What a length field says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FrameHead {
    /// Bytes of the record.
    pub(crate) length: u64,
    /// Bytes of zeros behind it.
    pub(crate) padding: u64,
}

impl FrameHead {
    fn for_record(length: u64) -> FrameHead {
        FrameHead {
            length,
            padding: length.wrapping_neg() % 8,
        }
    }

    /// `None` when no writer since etcd 3.0 makes such a field. A wrong padding is not passed over: the
    /// frames behind it would be looked for in the wrong place and taken for torn.
    pub(crate) fn decode(field: [u8; 8]) -> Option<FrameHead> {
        let [low @ .., _top] = field;
        let length = low
            .iter()
            .rev()
            .fold(0, |length, byte| length << 8 | u64::from(*byte));
        let head = FrameHead::for_record(length);
        (length > 0 && head.encode() == field).then_some(head)
    }

    fn encode(self) -> [u8; 8] {
        let mut field = self.length.to_le_bytes();
        if self.padding > 0 {
            field[7] = 0x80 | self.padding as u8;
        }
        field
    }

    /// Bytes of record and padding.
    pub(crate) fn body_size(self) -> u64 {
        self.length + self.padding
    }

    /// Bytes of the whole frame.
    pub(crate) fn size(self) -> u64 {
        FRAME_HEAD_SIZE + self.body_size()
    }
}

/// Writes frames one behind the other, carrying the running CRC.
#[derive(Debug)]
pub(crate) struct Encoder {
    pub(crate) crc: u32,
    /// Frames that wait to be written to the file.
    pub(crate) frames: Vec<u8>,
    scratch: Vec<u8>,
}

impl Encoder {
    pub(crate) fn new(crc: u32) -> Encoder {
        Encoder {
            crc,
            frames: Vec::new(),
            scratch: Vec::new(),
        }
    }

    /// Writes any record; one of type crc carries the running value, whatever it says itself.
    pub(crate) fn put_record(&mut self, record: &Record) {
        match record {
            Record::Metadata(metadata) => self.put_metadata(metadata),
            Record::Entry(entry) => self.put_entry(entry),
            Record::State(state) => self.put_state(state),
            Record::Crc(_) => self.put_crc(),
            Record::Snapshot(mark) => self.put_snapshot(mark),
        }
    }

    pub(crate) fn put_crc(&mut self) {
        let mut message = std::mem::take(&mut self.scratch);
        message.clear();
        put_number(&mut message, 1, RecordKind::Crc as u64);
        put_number(&mut message, 2, u64::from(self.crc));
        self.put_frame(&message, &[]);
        self.scratch = message;
    }

    pub(crate) fn put_metadata(&mut self, metadata: &Metadata) {
        self.put(RecordKind::Metadata, &[], |data| metadata.encode(data));
    }

    pub(crate) fn put_state(&mut self, state: &HardState) {
        self.put(RecordKind::State, &[], |data| state.encode(data));
    }

    pub(crate) fn put_snapshot(&mut self, mark: &SnapshotMark) {
        self.put(RecordKind::Snapshot, &[], |data| mark.encode(data));
    }

    pub(crate) fn put_entry(&mut self, entry: &Entry) {
        self.put(RecordKind::Entry, &entry.data, |data| entry.put_head(data));
    }

    /// Writes a record whose data are what `encode` makes, and then `tail`, which is copied once.
    fn put(&mut self, kind: RecordKind, tail: &[u8], encode: impl FnOnce(&mut Vec<u8>)) {
        let mut head = std::mem::take(&mut self.scratch);
        head.clear();
        encode(&mut head);
        let head_length = head.len();
        self.crc = crc32c::crc32c_append(crc32c::crc32c_append(self.crc, &head), tail);
        // The record's own fields come before the head of the data; they are short.
        put_number(&mut head, 1, kind as u64);
        put_number(&mut head, 2, u64::from(self.crc));
        put_length(&mut head, 3, head_length + tail.len());
        head.rotate_left(head_length);
        self.put_frame(&head, tail);
        self.scratch = head;
    }

    fn put_frame(&mut self, message: &[u8], tail: &[u8]) {
        let head = FrameHead::for_record((message.len() + tail.len()) as u64);
        self.frames.extend_from_slice(&head.encode());
        self.frames.extend_from_slice(message);
        self.frames.extend_from_slice(tail);
        self.frames
            .resize(self.frames.len() + head.padding as usize, 0);
    }
}
