//! What a member remembers: the log read from a snapshot on.

use std::path::{Path, PathBuf};

use super::entry::{Entry, HardState, Index, Metadata, SnapshotMark, Term};
use super::record::Record;
use super::records::{Scan, Step};
use super::repair::{self, Tail};
use super::segment::{Segment, SegmentName, list_segments};
use crate::Fault;
use crate::disk::Disk;

/// The snapshot after which a member reads its log. Index 0 with term 0 is the empty one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SnapshotPoint {
    /// The last entry that the snapshot holds.
    pub index: Index,
    /// That entry's term.
    pub term: Term,
}

/// What the log holds behind a snapshot.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Whose log it is.
    pub metadata: Metadata,
    /// The newest hard state; all zero when none was ever saved.
    pub hard_state: HardState,
    /// The entries behind the snapshot, without a gap.
    pub entries: Vec<Entry>,
    /// The copy that was made of the newest segment before a torn write was cut off from it.
    pub repaired: Option<PathBuf>,
}

/// Reads the log behind `start` as [`super::Log::open`] would, and refuses what that would refuse, but
/// changes nothing and takes no lock. A torn write at the end is passed over.
///
/// # Errors
/// [`Fault::Damaged`] when the log is damaged, `start` is not marked in it, or entries that were
/// promised are missing.
pub fn read(disk: &dyn Disk, dir: &Path, start: SnapshotPoint) -> Result<Recovered, Fault> {
    let names = segments_for(disk, dir, start.index)?;
    let open = |name: &SegmentName| Segment::open_to_read(disk, dir, *name);
    let segments = names.iter().map(open).collect::<Result<_, _>>()?;
    Replay::run(Scan::new(dir, segments)?, start).map(|replay| replay.recovered)
}

/// The segments that may hold entries behind `index`.
pub(super) fn segments_for(
    disk: &dyn Disk,
    dir: &Path,
    index: Index,
) -> Result<Vec<SegmentName>, Fault> {
    let mut names = list_segments(disk, dir)?;
    match names.iter().rposition(|name| name.index <= index) {
        Some(first) => Ok(names.split_off(first)),
        None if names.is_empty() => {
            Err(Fault::damaged(dir, "there is no log segment (*.wal) in it"))
        }
        None => {
            let what = format!(
                "the log starts at entry {} and lacks what follows snapshot {}",
                names[0].index.0, index.0
            );
            Err(Fault::damaged(dir, what))
        }
    }
}

/// A log that was read to its end.
pub(super) struct Replay {
    pub(super) recovered: Recovered,
    pub(super) scan: Scan,
    /// The index that the next segment's name goes by: the newest entry record's.
    pub(super) last_index: Index,
    pub(super) tail: Tail,
}

impl Replay {
    pub(super) fn run(mut scan: Scan, start: SnapshotPoint) -> Result<Replay, Fault> {
        let mut reading = Reading {
            start,
            ..Reading::default()
        };
        let torn = loop {
            match scan.advance()? {
                Step::Record => reading.take(&mut scan)?,
                Step::Torn(how) => break Some(how),
                Step::End => break None,
            }
        };
        reading.finish(&scan)?;
        let end = scan.offset;
        let tail = repair::examine_tail(scan.newest(), end, torn)?;
        let Reading {
            metadata,
            hard_state,
            entries,
            last_index,
            ..
        } = reading;
        let metadata = metadata.unwrap_or_default();
        let recovered = Recovered {
            metadata,
            hard_state,
            entries,
            repaired: None,
        };
        Ok(Replay {
            recovered,
            scan,
            last_index: last_index.max(start.index),
            tail,
        })
    }
}

#[derive(Default)]
struct Reading {
    start: SnapshotPoint,
    metadata: Option<Metadata>,
    /// The segment in which metadata were seen last.
    metadata_in: Option<usize>,
    hard_state: HardState,
    entries: Vec<Entry>,
    /// Term of the entry at the start itself, if the log holds it.
    term_at_start: Option<Term>,
    last_index: Index,
    start_found: bool,
}

impl Reading {
    fn take(&mut self, scan: &mut Scan) -> Result<(), Fault> {
        let record = scan.content()?;
        match record {
            Record::Crc(_) => return Ok(()),
            Record::Metadata(metadata) => return self.take_metadata(metadata, scan),
            _ if self.metadata_in != Some(scan.current_segment()) => {
                return Err(scan.damaged("the segment says not whose log it is"));
            }
            Record::Entry(entry) => self.take_entry(entry, scan)?,
            Record::State(state) => self.hard_state = state,
            Record::Snapshot(mark) => self.take_mark(&mark, scan)?,
        }
        Ok(())
    }

    fn take_metadata(&mut self, metadata: Metadata, scan: &Scan) -> Result<(), Fault> {
        if self.metadata.is_some_and(|known| known != metadata) {
            return Err(scan.damaged("the segment belongs to another member or cluster"));
        }
        self.metadata = Some(metadata);
        self.metadata_in = Some(scan.current_segment());
        Ok(())
    }

    /// An entry takes the place of an older one with its index and of all behind: a later leader
    /// decided otherwise.
    fn take_entry(&mut self, entry: Entry, scan: &Scan) -> Result<(), Fault> {
        self.last_index = entry.index;
        let Some(place) = entry.index.0.checked_sub(self.start.index.0 + 1) else {
            self.entries.clear();
            self.term_at_start = (entry.index == self.start.index).then_some(entry.term);
            return Ok(());
        };
        if place > self.entries.len() as u64 {
            let what = format!(
                "entry {} follows entry {}",
                entry.index.0,
                self.start.index.0 + self.entries.len() as u64
            );
            return Err(scan.damaged(&what));
        }
        self.entries.truncate(place as usize);
        self.entries.push(entry);
        Ok(())
    }

    fn take_mark(&mut self, mark: &SnapshotMark, scan: &Scan) -> Result<(), Fault> {
        if mark.index == self.start.index {
            if mark.term != self.start.term {
                let what = format!(
                    "snapshot {} has term {} here and {} in its own file",
                    mark.index.0, mark.term.0, self.start.term.0
                );
                return Err(scan.damaged(&what));
            }
            if self.term_at_start != Some(mark.term) {
                // A leader's snapshot took the place of a log that had gone another way.
                self.entries.clear();
            }
            self.start_found = true;
        }
        Ok(())
    }

    fn finish(&self, scan: &Scan) -> Result<(), Fault> {
        if self.metadata_in != Some(scan.current_segment()) {
            return Err(scan.damaged("the segment's head is not whole"));
        }
        if !self.start_found {
            let what = format!("wal: snapshot not found: no mark of {}", self.start.index.0);
            return Err(scan.damaged(&what));
        }
        let last = self.start.index.0 + self.entries.len() as u64;
        if self.hard_state.commit.0 > last {
            let what = format!(
                "the log ends at entry {last}, but entry {} was committed: promised entries are lost; \
                 remove this member and add it anew, or restore a backup",
                self.hard_state.commit.0
            );
            return Err(scan.damaged(&what));
        }
        Ok(())
    }
}
