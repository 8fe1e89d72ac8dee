//! The end of the log: is it whole, was it torn by a power loss, or was something lost that was synced?
//!
//! A write that was not synced may leave any of its sectors. What it leaves is cut off, after a copy
//! was made. A record that was synced is never cut off: that would take back a promise. It shows by
//! what was written after it, because of one rule that etcd and we keep: a batch with entries is synced
//! before the next batch is written, and the hard state ends its batch. So when good records behind the
//! cut are an entry, later a state, later an entry, then the first entry's batch was synced, and with it
//! all before.

use std::path::PathBuf;

use super::record::{FRAME_HEAD_SIZE, FrameHead, RawRecord, RecordKind};
use super::segment::{FrameAt, Segment, SegmentReader};
use crate::Fault;
use crate::disk::{Disk, Open};

/// Bytes that may stand in the log without a sync behind them: [`super::Log`] syncs before it would
/// have more. So a power loss reaches no further back, nor further beyond the end of the good records;
/// recovery writes that much again, and looks that far. A sync for each so many bytes costs nothing that
/// counts beside writing them. etcd has no such limit, but its batches are smaller.
pub(super) const UNSYNCED_BYTES_MAX: u64 = 4 << 20;

/// How much is copied at once.
const COPY_BYTES: u64 = 1 << 20;

/// How much is compared with zero before the next look at the result.
const PAGE_SIZE: usize = 4096;

/// Frames start at multiples of this.
const FRAME_ALIGNMENT: u64 = 8;

/// What stands behind the last good record of the newest segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Tail {
    /// Zeros.
    Clean,
    /// Remains of a write that was not synced; how they show.
    Torn(String),
}

/// Looks behind `end`, where the good records end, by `torn` with a torn one.
pub(super) fn examine_tail(
    reader: &mut SegmentReader,
    end: u64,
    torn: Option<String>,
) -> Result<Tail, Fault> {
    let how = match torn {
        Some(how) => how,
        None if is_zero(reader, end)? => return Ok(Tail::Clean),
        None => "a record whose first sector is missing".to_owned(),
    };
    if synced_behind(reader, end)? {
        let what = format!(
            "{how}, and records that were synced later follow it; this is no torn write but a lost part \
             of the disk; remove this member and add it anew, or restore a backup"
        );
        return Err(reader.damaged(end, &what));
    }
    Ok(Tail::Torn(how))
}

fn examined_end(reader: &SegmentReader, end: u64) -> u64 {
    reader.size.min(end.saturating_add(UNSYNCED_BYTES_MAX))
}

fn is_zero(reader: &mut SegmentReader, mut offset: u64) -> Result<bool, Fault> {
    let end = examined_end(reader, offset);
    while offset < end {
        let length = COPY_BYTES.min(end - offset);
        if !all_zero(reader.bytes(offset, length)?) {
            return Ok(false);
        }
        offset += length;
    }
    Ok(true)
}

/// Looks at many bytes per step, which matters for megabytes at each start.
fn all_zero(bytes: &[u8]) -> bool {
    bytes
        .chunks(PAGE_SIZE)
        .all(|page| page.iter().fold(0, |all, byte| all | byte) == 0)
}

/// Whether the records that can still be read behind `cut` show that what stood at `cut` was synced.
fn synced_behind(reader: &mut SegmentReader, cut: u64) -> Result<bool, Fault> {
    let end = examined_end(reader, cut);
    let mut seen = Seen {
        entry: looks_like_entry(reader, cut)?,
        ..Seen::default()
    };
    let mut offset = cut.next_multiple_of(FRAME_ALIGNMENT);
    while offset < end {
        offset = match follow_records(reader, offset, end, &mut seen)? {
            // The first frame of a run is known to be one by the CRC of the second.
            Some(behind) => behind,
            None => offset + FRAME_ALIGNMENT,
        };
        if seen.next_batch_began {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether the torn record at `cut` still says that it is an entry.
fn looks_like_entry(reader: &mut SegmentReader, cut: u64) -> Result<bool, Fault> {
    const ENTRY: [u8; 2] = [1 << 3, RecordKind::Entry as u8];
    let start = cut.saturating_add(FRAME_HEAD_SIZE);
    let inside = start + ENTRY.len() as u64 <= reader.size;
    Ok(inside && reader.bytes(start, ENTRY.len() as u64)? == ENTRY)
}

#[derive(Default)]
struct Seen {
    entry: bool,
    state_after_entry: bool,
    next_batch_began: bool,
}

impl Seen {
    fn note(&mut self, kind: RecordKind) {
        match kind {
            RecordKind::Entry if self.state_after_entry => self.next_batch_began = true,
            RecordKind::Entry => self.entry = true,
            RecordKind::State => self.state_after_entry |= self.entry,
            RecordKind::Metadata | RecordKind::Crc | RecordKind::Snapshot => {}
        }
    }
}

/// Reads the run of records from `offset` on. `None` when there are not two that fit together.
fn follow_records(
    reader: &mut SegmentReader,
    mut offset: u64,
    end: u64,
    seen: &mut Seen,
) -> Result<Option<u64>, Fault> {
    let Some((first_kind, first_size, mut crc)) = loose_frame(reader, offset, end)? else {
        return Ok(None);
    };
    offset += first_size;
    let mut length = 1_u64;
    while offset < end
        && let FrameAt::Frame { head, record } = reader.frame(offset, crc)?
        && record.kind != RecordKind::Crc
    {
        if length == 1 {
            seen.note(first_kind);
        }
        seen.note(record.kind);
        crc = record.crc;
        offset += head.size();
        length += 1;
    }
    Ok((length > 1).then_some(offset))
}

/// A frame at `offset` whose record looks right; nothing says yet that its CRC is.
fn loose_frame(
    reader: &mut SegmentReader,
    offset: u64,
    end: u64,
) -> Result<Option<(RecordKind, u64, u32)>, Fault> {
    if end - offset < FRAME_HEAD_SIZE {
        return Ok(None);
    }
    let mut field = [0; FRAME_HEAD_SIZE as usize];
    field.copy_from_slice(reader.bytes(offset, FRAME_HEAD_SIZE)?);
    let Some(head) = FrameHead::decode(field).filter(|head| head.size() <= end - offset) else {
        return Ok(None);
    };
    let body = reader.bytes(offset + FRAME_HEAD_SIZE, head.length)?;
    Ok(RawRecord::decode(body)
        .ok()
        .map(|record| (record.kind, head.size(), record.crc)))
}

/// Copies the segment to `<name>.broken`, so that what is cut off can be looked at later.
pub(super) fn keep_copy(disk: &dyn Disk, segment: &Segment) -> Result<PathBuf, Fault> {
    let mut name = segment.path.clone().into_os_string();
    name.push(".broken");
    let path = PathBuf::from(name);
    if disk.exists(&path).map_err(Fault::io("look for", &path))? {
        disk.remove(&path).map_err(Fault::io("remove", &path))?;
    }
    let copy = disk
        .open(&path, Open::Create)
        .map_err(Fault::io("create", &path))?;
    let mut reader = SegmentReader::new(segment.clone())?;
    let mut offset = 0;
    while offset < reader.size {
        let length = COPY_BYTES.min(reader.size - offset);
        let bytes = reader.bytes(offset, length)?;
        // Most of a segment is zero, and the copy has holes there.
        if !all_zero(bytes) {
            copy.write_at(bytes, offset)
                .map_err(Fault::io("write", &path))?;
        }
        offset += length;
    }
    copy.set_size(reader.size)
        .map_err(Fault::io("resize", &path))?;
    copy.sync().map_err(Fault::io("sync", &path))?;
    let dir = path.parent().expect("a segment lies in a folder");
    disk.sync_dir(dir).map_err(Fault::io("sync", dir))?;
    Ok(path)
}

/// Makes the newest segment ready for appending at `end`.
///
/// 1. What was read last is written again: a sync that failed before may have left it in memory only,
///    and a later sync would not notice. It reaches back as far as anything can be unsynced.
/// 2. All behind the records becomes zero, so that old bytes are never taken for records.
/// 3. Both are synced before anybody relies on what was read.
pub(super) fn settle(segment: &Segment, end: u64, segment_size: u64) -> Result<(), Fault> {
    let Segment { path, file, .. } = segment;
    let mut offset = end.saturating_sub(UNSYNCED_BYTES_MAX);
    let mut bytes = Vec::new();
    while offset < end {
        bytes.resize(COPY_BYTES.min(end - offset) as usize, 0);
        file.read_at(&mut bytes, offset)
            .map_err(Fault::io("read", path))?;
        file.write_at(&bytes, offset)
            .map_err(Fault::io("write", path))?;
        offset += bytes.len() as u64;
    }
    file.set_size(end).map_err(Fault::io("cut", path))?;
    file.allocate(segment_size.max(end))
        .map_err(Fault::io("allocate", path))?;
    file.sync().map_err(Fault::io("sync", path))
}
