//! Puts changed content into sound frames, with right lengths and checksums, so that it comes through to
//! the decoder behind; and several files into one input.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use prost::Message;
use sha2::{Digest, Sha256};

/// `walpb.Record`, and `snappb.Snapshot` without its first field.
#[derive(Clone, PartialEq, prost::Message)]
struct LogRecord {
    #[prost(int64, optional, tag = "1")]
    kind: Option<i64>,
    #[prost(uint32, optional, tag = "2")]
    crc: Option<u32>,
    #[prost(bytes = "vec", optional, tag = "3")]
    data: Option<Vec<u8>>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct SnapshotFrame {
    #[prost(uint32, optional, tag = "1")]
    crc: Option<u32>,
    #[prost(bytes = "vec", optional, tag = "2")]
    data: Option<Vec<u8>>,
}

/// The type of a record that holds the CRC so far.
const CRC_RECORD: u8 = 4;

/// Takes the front of `bytes` off, as much of it as there is.
fn take<'a>(bytes: &mut &'a [u8], length: usize) -> &'a [u8] {
    let (taken, rest) = bytes.split_at(length.min(bytes.len()));
    *bytes = rest;
    taken
}

fn length(bytes: &[u8]) -> usize {
    bytes
        .iter()
        .rev()
        .fold(0, |sum, byte| sum << 8 | usize::from(*byte))
}

/// A segment of the log without its frames: for each record `kind u8, length u16, data`.
pub(crate) fn unframe_log(mut segment: &[u8]) -> Vec<u8> {
    let mut records = Vec::new();
    loop {
        let head = take(&mut segment, 8);
        let size = length(&head[..7.min(head.len())]);
        if size == 0 {
            return records;
        }
        let record = LogRecord::decode(take(&mut segment, size)).expect("a sound record");
        take(&mut segment, size.wrapping_neg() % 8);
        let data = record.data().to_vec();
        records.push(record.kind() as u8);
        records.extend_from_slice(&u16::try_from(data.len()).expect("small").to_le_bytes());
        records.extend_from_slice(&data);
    }
}

/// The segment that [`unframe_log`] makes such records of. `crc` runs through all segments.
pub(crate) fn frame_log(mut records: &[u8], crc: &mut u32) -> Vec<u8> {
    let mut segment = Vec::new();
    while let [kind, ..] = records {
        take(&mut records, 1);
        let size = length(take(&mut records, 2));
        let data = take(&mut records, size);
        *crc = crc32c::crc32c_append(*crc, data);
        let record = LogRecord {
            kind: Some(i64::from(*kind)),
            crc: Some(*crc),
            data: (*kind != CRC_RECORD || size > 0).then(|| data.to_vec()),
        };
        let record = record.encode_to_vec();
        let padding = record.len().wrapping_neg() % 8;
        let mut head = (record.len() as u64).to_le_bytes();
        head[7] = if padding > 0 { 0x80 | padding as u8 } else { 0 };
        segment.extend_from_slice(&head);
        segment.extend_from_slice(&record);
        segment.resize(segment.len() + padding, 0);
    }
    segment
}

/// The content of a raft snapshot's file.
pub(crate) fn unframe_snapshot(file: &[u8]) -> Vec<u8> {
    let frame = SnapshotFrame::decode(file).expect("a sound file");
    frame.data.unwrap_or_default()
}

/// The file of a raft snapshot with such content.
pub(crate) fn frame_snapshot(content: &[u8]) -> Vec<u8> {
    let frame = SnapshotFrame {
        crc: Some(crc32c::crc32c(content)),
        data: Some(content.to_vec()),
    };
    frame.encode_to_vec()
}

/// Makes the checksums of a database's two meta pages right.
pub(crate) fn frame_database(mut database: Vec<u8>, page_bytes: usize) -> Vec<u8> {
    // Behind the page's head of 16 bytes: 56 that are checked, and FNV-1a of them.
    for start in [16, page_bytes + 16] {
        let Some(body) = database.get_mut(start..start + 64) else {
            continue;
        };
        let sum = body[..56]
            .iter()
            .fold(0xcbf2_9ce4_8422_2325, |sum: u64, byte| {
                (sum ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3)
            });
        body[56..].copy_from_slice(&sum.to_le_bytes());
    }
    database
}

/// Puts the hash of a backup behind its database.
pub(crate) fn frame_backup(mut database: Vec<u8>) -> Vec<u8> {
    let hash = Sha256::digest(&database);
    database.extend_from_slice(&hash);
    database
}

/// A folder as one input: for each file `kind u8, length of name u8, length u16, name, content`. A kind
/// of 128 and more is a folder, which has no content.
pub(crate) fn pack_folder<'a>(files: impl IntoIterator<Item = (&'a str, Vec<u8>)>) -> Vec<u8> {
    let mut packed = Vec::new();
    for (name, content) in files {
        packed.push(0);
        packed.push(u8::try_from(name.len()).expect("a short name"));
        packed.extend_from_slice(&u16::try_from(content.len()).expect("small").to_le_bytes());
        packed.extend_from_slice(name.as_bytes());
        packed.extend_from_slice(&content);
    }
    packed
}

/// Makes the folder of such an input, in place of the one that is there. `frame` puts content into
/// frames. Returns whether there are folders in it, with names of files perhaps.
pub(crate) fn unpack_folder(
    folder: &Path,
    mut packed: &[u8],
    mut frame: impl FnMut(&[u8]) -> Vec<u8>,
) -> bool {
    let mut has_folders = false;
    let _ = fs::remove_dir_all(folder);
    fs::create_dir_all(folder).expect("made");
    while let [kind, name_length, ..] = packed {
        take(&mut packed, 2);
        let size = length(take(&mut packed, 2));
        let name = take(&mut packed, usize::from(*name_length));
        let content = frame(take(&mut packed, size));
        if name.is_empty()
            || name == b"."
            || name == b".."
            || name.iter().any(|byte| b"/\0".contains(byte))
        {
            continue;
        }
        let path = folder.join(OsStr::from_bytes(name));
        // A name that is there twice, once for a folder, stays what it is.
        let _ = match kind {
            128.. => {
                has_folders = true;
                fs::create_dir(&path)
            }
            _ => fs::write(&path, content),
        };
    }
    has_folders
}
