//! One file of the log: its name, and reading frames from it.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::entry::Index;
use super::record::{FRAME_BYTES_MAX, FRAME_HEAD_SIZE, FrameHead, RawRecord, RecordKind};
use crate::Fault;
use crate::disk::{Disk, File, Lock, Open};

/// How much is read at once: large enough that a system call per read does not matter, small beside
/// a segment.
const READ_BYTES: u64 = 1 << 20;

/// What a disk writes in one piece. A torn write shows as a sector that is still zero.
const SECTOR_SIZE: u64 = 512;

/// `<sequence %016x>-<index %016x>.wal`. The index is that of the first entry that the segment may
/// hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct SegmentName {
    pub(crate) sequence: u64,
    pub(crate) index: Index,
}

impl SegmentName {
    pub(crate) fn parse(name: &str) -> Option<SegmentName> {
        let (sequence, index) = name.strip_suffix(".wal")?.split_once('-')?;
        Some(SegmentName {
            sequence: parse_hex(sequence)?,
            index: Index(parse_hex(index)?),
        })
    }

    pub(crate) fn file_name(&self) -> String {
        format!("{:016x}-{:016x}.wal", self.sequence, self.index.0)
    }
}

/// Exactly 16 lower-case hex digits.
pub(crate) fn parse_hex(digits: &str) -> Option<u64> {
    let plain = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    if digits.len() != 16 || !digits.bytes().all(plain) {
        return None;
    }
    u64::from_str_radix(digits, 16).ok()
}

/// The segments in the folder `dir`, oldest first.
pub(crate) fn list_segments(disk: &dyn Disk, dir: &Path) -> Result<Vec<SegmentName>, Fault> {
    let names = disk.list(dir).map_err(Fault::io("list", dir))?;
    let mut segments: Vec<_> = names
        .iter()
        .filter_map(|name| SegmentName::parse(name))
        .collect();
    segments.sort_unstable();
    Ok(segments)
}

/// A file of the log that is open.
#[derive(Clone)]
pub(crate) struct Segment {
    pub(crate) name: SegmentName,
    pub(crate) path: PathBuf,
    pub(crate) file: Arc<dyn File>,
}

impl Segment {
    pub(crate) fn open_to_read(
        disk: &dyn Disk,
        dir: &Path,
        name: SegmentName,
    ) -> Result<Segment, Fault> {
        let path = dir.join(name.file_name());
        let file = disk
            .open(&path, Open::Read)
            .map_err(Fault::io("open", &path))?;
        Ok(Segment { name, path, file })
    }

    /// Opens the segment for writing and takes its lock.
    pub(crate) fn open_to_write(
        disk: &dyn Disk,
        dir: &Path,
        name: SegmentName,
    ) -> Result<Segment, Fault> {
        let path = dir.join(name.file_name());
        let file = disk
            .open(&path, Open::Write)
            .map_err(Fault::io("open", &path))?;
        lock(&*file, &path)?;
        Ok(Segment { name, path, file })
    }
}

/// Takes the lock that etcd takes on each segment that it may write.
pub(crate) fn lock(file: &dyn File, path: &Path) -> Result<(), Fault> {
    match file.lock(Lock::OpenFileDescription) {
        Ok(true) => Ok(()),
        Ok(false) => Err(Fault::Locked {
            path: path.to_owned(),
        }),
        Err(error) => Err(Fault::io("lock", path)(error)),
    }
}

/// What stands at an offset of a segment.
#[derive(Debug, PartialEq)]
pub(crate) enum FrameAt<'a> {
    /// Nothing: the file ends, or a length of zero.
    End,
    /// A whole frame with a record that follows.
    Frame {
        head: FrameHead,
        record: RawRecord<'a>,
    },
    /// A frame that a power loss can leave: it goes beyond the file, or a sector of it is still zero.
    Torn(String),
    /// Bytes that neither a writer nor a power loss leaves.
    Odd(String),
}

/// Reads a segment piece by piece.
pub(crate) struct SegmentReader {
    pub(crate) segment: Segment,
    pub(crate) size: u64,
    window: Vec<u8>,
    window_start: u64,
}

impl SegmentReader {
    pub(crate) fn new(segment: Segment) -> Result<SegmentReader, Fault> {
        let size = segment
            .file
            .size()
            .map_err(Fault::io("measure", &segment.path))?;
        Ok(SegmentReader {
            segment,
            size,
            window: Vec::new(),
            window_start: 0,
        })
    }

    /// The frame at `offset`. Whether its record continues the running CRC `crc` is part of the
    /// question, because a torn frame shows by that.
    pub(crate) fn frame(&mut self, offset: u64, crc: u32) -> Result<FrameAt<'_>, Fault> {
        let left = self.size.saturating_sub(offset);
        if left < FRAME_HEAD_SIZE {
            let rest = self.bytes(offset, left)?;
            let zero = rest.iter().all(|byte| *byte == 0);
            return Ok(if zero {
                FrameAt::End
            } else {
                FrameAt::Torn("the file ends inside a length field".to_owned())
            });
        }
        let mut field = [0; FRAME_HEAD_SIZE as usize];
        field.copy_from_slice(self.bytes(offset, FRAME_HEAD_SIZE)?);
        if field == [0; FRAME_HEAD_SIZE as usize] {
            return Ok(FrameAt::End);
        }
        let Some(head) = FrameHead::decode(field) else {
            return Ok(FrameAt::Odd(format!("a length field of {field:02x?}")));
        };
        if head.size() > left {
            return Ok(FrameAt::Torn(format!(
                "a record of {} bytes beyond the end",
                head.length
            )));
        }
        if head.length > FRAME_BYTES_MAX {
            return Ok(FrameAt::Odd(format!("a record of {} bytes", head.length)));
        }
        let body_offset = offset + FRAME_HEAD_SIZE;
        let body = self.bytes(body_offset, head.body_size())?;
        let wrong = match RawRecord::decode(&body[..head.length as usize]) {
            Ok(record) if record.kind == RecordKind::Crc => {
                return Ok(FrameAt::Frame { head, record });
            }
            Ok(record) if record.follows(crc) => return Ok(FrameAt::Frame { head, record }),
            Ok(_) => "a record with a wrong CRC".to_owned(),
            Err(malformed) => format!("a record with {malformed}"),
        };
        let torn = has_zero_sector(body, body_offset);
        Ok(if torn {
            FrameAt::Torn(wrong)
        } else {
            FrameAt::Odd(wrong)
        })
    }

    /// A piece of the file, which must lie inside it.
    pub(crate) fn bytes(&mut self, offset: u64, length: u64) -> Result<&[u8], Fault> {
        assert!(offset + length <= self.size, "reading beyond a segment");
        let window_end = self.window_start + self.window.len() as u64;
        if offset < self.window_start || offset + length > window_end {
            let wanted = length.max(READ_BYTES).min(self.size - offset);
            self.window.resize(wanted as usize, 0);
            self.window_start = offset;
            let path = &self.segment.path;
            self.segment
                .file
                .read_at(&mut self.window, offset)
                .map_err(|error| {
                    let error = match error.kind() {
                        io::ErrorKind::UnexpectedEof => {
                            io::Error::other("it shrinks while it is read")
                        }
                        _ => error,
                    };
                    Fault::io("read", path)(error)
                })?;
        }
        let start = (offset - self.window_start) as usize;
        Ok(&self.window[start..start + length as usize])
    }

    /// Gives the memory back; reading on is possible.
    pub(crate) fn forget_window(&mut self) {
        self.window = Vec::new();
    }

    pub(crate) fn damaged(&self, offset: u64, what: &str) -> Fault {
        Fault::damaged(&self.segment.path, format!("offset {offset}: {what}"))
    }
}

/// Whether `bytes`, which stand at `offset` of the file, hold a whole part of a sector that is zero:
/// the mark by which etcd tells a torn write from damage.
pub(crate) fn has_zero_sector(mut bytes: &[u8], mut offset: u64) -> bool {
    while !bytes.is_empty() {
        let to_border = (SECTOR_SIZE - offset % SECTOR_SIZE) as usize;
        let (sector, rest) = bytes.split_at(to_border.min(bytes.len()));
        if sector.iter().all(|byte| *byte == 0) {
            return true;
        }
        offset += sector.len() as u64;
        bytes = rest;
    }
    false
}
