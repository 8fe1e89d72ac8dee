//! Protobuf by hand, for the few messages of the log and of raft snapshots.
//!
//! They are written in the form of etcd 3.4 to 3.6, where every number is written, also zero, and
//! lists of numbers are not packed. They are read in every form that etcd wrote: absent is zero, lists
//! may be packed, unknown fields are passed over.

use std::fmt;

/// A value on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Value<'a> {
    /// Wire type 0.
    Number(u64),
    /// Wire type 2.
    Bytes(&'a [u8]),
    /// Wire types 1 and 5, which no message of ours uses.
    Fixed,
}

/// What is wrong with bytes that should be a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Malformed(pub(super) &'static str);

impl fmt::Display for Malformed {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.0)
    }
}

impl<'a> Value<'a> {
    pub(crate) fn number(self) -> Result<u64, Malformed> {
        match self {
            Value::Number(number) => Ok(number),
            _ => Err(Malformed("a field that is no number where one belongs")),
        }
    }

    pub(crate) fn bytes(self) -> Result<&'a [u8], Malformed> {
        match self {
            Value::Bytes(bytes) => Ok(bytes),
            _ => Err(Malformed("a field without a length where bytes belong")),
        }
    }

    pub(crate) fn flag(self) -> Result<bool, Malformed> {
        Ok(self.number()? != 0)
    }

    /// Adds one number, or a packed list of them, to `list`.
    pub(crate) fn add_to(self, list: &mut Vec<u64>) -> Result<(), Malformed> {
        match self {
            Value::Number(number) => list.push(number),
            Value::Bytes(mut packed) => {
                while !packed.is_empty() {
                    list.push(take_varint(&mut packed)?);
                }
            }
            Value::Fixed => return Err(Malformed("a fixed-size field where numbers belong")),
        }
        Ok(())
    }
}

/// The fields of a message, in the order in which they stand.
pub(crate) struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    pub(crate) fn of(message: &'a [u8]) -> Fields<'a> {
        Fields { rest: message }
    }

    fn take(&mut self) -> Result<(u64, Value<'a>), Malformed> {
        let tag = take_varint(&mut self.rest)?;
        let value = match tag & 7 {
            0 => Value::Number(take_varint(&mut self.rest)?),
            1 => self.split(8).map(|_| Value::Fixed)?,
            2 => {
                let length = take_varint(&mut self.rest)?;
                Value::Bytes(self.split(length)?)
            }
            5 => self.split(4).map(|_| Value::Fixed)?,
            _ => return Err(Malformed("a field of an unknown wire type")),
        };
        match tag >> 3 {
            0 => Err(Malformed("a field with number 0")),
            field => Ok((field, value)),
        }
    }

    fn split(&mut self, length: u64) -> Result<&'a [u8], Malformed> {
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        let (value, rest) = self
            .rest
            .split_at_checked(length)
            .ok_or(Malformed("a field longer than its message"))?;
        self.rest = rest;
        Ok(value)
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u64, Value<'a>), Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let field = self.take();
        if field.is_err() {
            self.rest = &[];
        }
        Some(field)
    }
}

fn take_varint(bytes: &mut &[u8]) -> Result<u64, Malformed> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes
            .split_first()
            .ok_or(Malformed("a number that is cut off"))?;
        *bytes = rest;
        let part = u64::from(byte & 0x7f);
        if shift == 63 && part > 1 {
            break;
        }
        number |= part << shift;
        if byte & 0x80 == 0 {
            return Ok(number);
        }
    }
    Err(Malformed("a number of more than 64 bits"))
}

fn put_varint(buffer: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        buffer.push(number as u8 | 0x80);
        number >>= 7;
    }
    buffer.push(number as u8);
}

/// Writes a number, also when it is zero.
pub(crate) fn put_number(buffer: &mut Vec<u8>, field: u64, number: u64) {
    put_varint(buffer, field << 3);
    put_varint(buffer, number);
}

/// Writes the head of a bytes field; its `length` bytes must follow.
pub(crate) fn put_length(buffer: &mut Vec<u8>, field: u64, length: usize) {
    put_varint(buffer, field << 3 | 2);
    put_varint(buffer, length as u64);
}

/// Writes bytes or an inner message.
pub(crate) fn put_bytes(buffer: &mut Vec<u8>, field: u64, bytes: &[u8]) {
    put_length(buffer, field, bytes.len());
    buffer.extend_from_slice(bytes);
}
