//! Looking at a log without changing it.

use std::path::{Path, PathBuf};

use super::entry::{Index, SnapshotMark};
use super::record::{FRAME_HEAD_SIZE, FrameHead, RawRecord, Record, RecordKind};
use super::segment::{FrameAt, Segment, SegmentName, SegmentReader, list_segments};
use crate::Fault;
use crate::disk::Disk;

/// All records of a log, oldest first. Reading changes nothing and takes no lock.
///
/// After the first error, or the torn record at the end, there is nothing more.
pub struct Records {
    scan: Scan,
    done: bool,
}

/// Something found in the log, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Located {
    /// The segment's file.
    pub file: PathBuf,
    /// Where its frame starts, in bytes.
    pub offset: u64,
    /// What stands there.
    pub found: Found,
}

/// What stands at a place of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// A record.
    Record {
        /// What it holds.
        record: Record,
        /// Bytes of its frame.
        size: u64,
        /// The running CRC after it.
        crc: u32,
    },
    /// The remains of a write that a power loss cut short; how it shows. The next start cuts it off.
    Torn(String),
}

impl Records {
    /// Opens all segments in the folder `dir` for reading.
    ///
    /// # Errors
    /// When the folder cannot be read, holds no segment, or a segment between others is missing.
    pub fn open(disk: &dyn Disk, dir: &Path) -> Result<Records, Fault> {
        let names = list_segments(disk, dir)?;
        Ok(Records {
            scan: Scan::open_to_read(disk, dir, &names)?,
            done: false,
        })
    }

    fn step(&mut self) -> Result<Option<Located>, Fault> {
        let step = self.scan.advance()?;
        let (file, end) = (self.scan.path().to_owned(), self.scan.offset);
        Ok(match step {
            Step::Record => {
                let (size, crc) = (self.scan.frame_size(), self.scan.crc);
                let found = Found::Record {
                    record: self.scan.content()?,
                    size,
                    crc,
                };
                Some(Located {
                    file,
                    offset: end - size,
                    found,
                })
            }
            Step::Torn(how) => {
                self.done = true;
                Some(Located {
                    file,
                    offset: end,
                    found: Found::Torn(how),
                })
            }
            Step::End => None,
        })
    }
}

impl Iterator for Records {
    type Item = Result<Located, Fault>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        let step = self.step();
        self.done |= !matches!(step, Ok(Some(_)));
        step.transpose()
    }
}

/// The marks of snapshots that the log knows to be committed, oldest first. Start-up takes the newest
/// snapshot file that has a mark among them.
///
/// # Errors
/// When the folder cannot be read, or a segment is damaged.
pub fn valid_snapshots(disk: &dyn Disk, dir: &Path) -> Result<Vec<SnapshotMark>, Fault> {
    let names = list_segments(disk, dir)?;
    let mut scan = Scan::open_to_read(disk, dir, newest_unbroken(&names))?;
    let (mut marks, mut commit) = (Vec::new(), Index(0));
    while let Step::Record = scan.advance()? {
        // Entries are the bulk, and not decoded here.
        match scan.kind() {
            RecordKind::State | RecordKind::Snapshot => match scan.content()? {
                Record::State(state) => commit = state.commit,
                Record::Snapshot(mark) => marks.push(mark),
                _ => {}
            },
            RecordKind::Metadata | RecordKind::Entry | RecordKind::Crc => {}
        }
    }
    marks.retain(|mark| mark.index <= commit);
    Ok(marks)
}

/// The newest segments without a gap; a purge that was cut short may leave older ones.
fn newest_unbroken(names: &[SegmentName]) -> &[SegmentName] {
    let follows = |pair: &[SegmentName]| Some(pair[1].sequence) == pair[0].sequence.checked_add(1);
    let first = names
        .windows(2)
        .rposition(|pair| !follows(pair))
        .map_or(0, |gap| gap + 1);
    &names[first..]
}

/// What [`Scan::advance`] came to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// A record.
    Record,
    /// A torn record, in the newest segment; `scan.offset` stands before it.
    Torn(String),
    /// The end of the newest segment's records.
    End,
}

/// Reads the records of several segments and follows the running CRC.
pub(crate) struct Scan {
    readers: Vec<SegmentReader>,
    current: usize,
    /// Behind the last good record of the current segment.
    pub(crate) offset: u64,
    pub(crate) crc: u32,
    frame: FrameHead,
    kind: RecordKind,
    in_segment: u64,
}

impl Scan {
    fn open_to_read(disk: &dyn Disk, dir: &Path, names: &[SegmentName]) -> Result<Scan, Fault> {
        let open = |name: &SegmentName| Segment::open_to_read(disk, dir, *name);
        Scan::new(dir, names.iter().map(open).collect::<Result<_, _>>()?)
    }

    /// Reads `segments`, which must follow each other, from the start of the first.
    pub(crate) fn new(dir: &Path, segments: Vec<Segment>) -> Result<Scan, Fault> {
        if segments.is_empty() {
            return Err(Fault::damaged(dir, "there is no log segment (*.wal) in it"));
        }
        for pair in segments.windows(2) {
            let (older, newer) = (pair[0].name, pair[1].name);
            if older.sequence.checked_add(1) != Some(newer.sequence) {
                let what = format!(
                    "the segment before {} is missing; bring it back from a backup of this member",
                    newer.file_name()
                );
                return Err(Fault::damaged(dir, what));
            }
        }
        let readers = segments
            .into_iter()
            .map(SegmentReader::new)
            .collect::<Result<_, _>>()?;
        let frame = FrameHead {
            length: 0,
            padding: 0,
        };
        Ok(Scan {
            readers,
            current: 0,
            offset: 0,
            crc: 0,
            frame,
            kind: RecordKind::Crc,
            in_segment: 0,
        })
    }

    pub(crate) fn advance(&mut self) -> Result<Step, Fault> {
        loop {
            let newest = self.current + 1 == self.readers.len();
            let reader = &mut self.readers[self.current];
            match reader.frame(self.offset, self.crc)? {
                FrameAt::Frame { head, record } => {
                    let (kind, crc) = (record.kind, record.crc);
                    return self.accept(head, kind, crc).map(|()| Step::Record);
                }
                FrameAt::End if self.in_segment == 0 => {
                    return Err(reader.damaged(0, "the segment holds no record"));
                }
                FrameAt::End if newest => return Ok(Step::End),
                FrameAt::End => {
                    reader.forget_window();
                    self.current += 1;
                    self.offset = 0;
                    self.in_segment = 0;
                }
                FrameAt::Torn(how) if newest => return Ok(Step::Torn(how)),
                FrameAt::Torn(how) | FrameAt::Odd(how) => {
                    return Err(reader.damaged(self.offset, &how));
                }
            }
        }
    }

    fn accept(&mut self, head: FrameHead, kind: RecordKind, crc: u32) -> Result<(), Fault> {
        let reader = &self.readers[self.current];
        if kind == RecordKind::Crc && self.crc != 0 && self.crc != crc {
            let what = format!(
                "the running CRC is {:08x}, the record says {crc:08x}",
                self.crc
            );
            return Err(reader.damaged(self.offset, &what));
        }
        if self.in_segment == 0 && kind != RecordKind::Crc {
            return Err(reader.damaged(0, "the segment does not start with its CRC"));
        }
        self.crc = crc;
        self.kind = kind;
        self.frame = head;
        self.offset += head.size();
        self.in_segment += 1;
        Ok(())
    }

    pub(crate) fn kind(&self) -> RecordKind {
        self.kind
    }

    /// Bytes of the last record's frame.
    fn frame_size(&self) -> u64 {
        self.frame.size()
    }

    /// Decodes the last record.
    pub(crate) fn content(&mut self) -> Result<Record, Fault> {
        let start = self.offset - self.frame.size();
        let reader = &mut self.readers[self.current];
        let body_start = start + FRAME_HEAD_SIZE;
        let body = reader.bytes(body_start, self.frame.length)?;
        let record = RawRecord::decode(body).and_then(|record| record.content());
        record.map_err(|malformed| reader.damaged(start, &format!("a record with {malformed}")))
    }

    /// The file of the last record.
    pub(crate) fn path(&self) -> &Path {
        &self.readers[self.current].segment.path
    }

    /// Whether the last record is in the first segment that is read, or a later one: its number.
    pub(crate) fn current_segment(&self) -> usize {
        self.current
    }

    /// A fault at the last record.
    pub(crate) fn damaged(&self, what: &str) -> Fault {
        self.readers[self.current].damaged(self.offset.saturating_sub(self.frame.size()), what)
    }

    /// The newest segment, for what comes behind the last record.
    pub(crate) fn newest(&mut self) -> &mut SegmentReader {
        self.readers
            .last_mut()
            .expect("a scan has at least one segment")
    }
}
