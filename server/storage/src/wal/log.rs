//! The log that a member writes.

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::entry::{Entry, HardState, Index, Metadata, SnapshotMark};
use super::filling::{Filling, FillingOptions, Preparation, tmp_name};
use super::record::{Encoder, Record};
use super::records::Scan;
use super::recovered::{Recovered, Replay, SnapshotPoint, segments_for};
use super::repair::{self, Tail, UNSYNCED_BYTES_MAX};
use super::segment::{Segment, SegmentName, list_segments, lock};
use crate::Fault;
use crate::disk::{Disk, Open};

/// The write buffer keeps this much memory between batches; a larger batch gives its memory back.
const BUFFER_BYTES_KEPT: usize = 4 << 20;

/// How a log works; what it writes does not depend on it, except for the size of segments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// A segment that has grown to this size in bytes is followed by the next.
    pub segment_size: u64,
    /// Bytes of zeros to keep ahead of the log.
    pub zeros_ahead: u64,
    /// Who keeps them there.
    pub preparation: Preparation,
}

impl Default for Options {
    /// A member's log: segments as large as etcd's, a thread that works ahead. The zeros are enough for
    /// a tenth of a second of writing at the speed of a fast disk, and little to write for an idle member.
    fn default() -> Options {
        Options {
            segment_size: 64_000_000,
            zeros_ahead: 8 << 20,
            preparation: Preparation::Background,
        }
    }
}

/// A log open for appending. After a fault it refuses all further work: what is on disk is uncertain
/// then, and the member must stop.
pub struct Log {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    options: Options,
    metadata: Metadata,
    /// Segments that are held, oldest first; the last one is appended to.
    segments: VecDeque<Segment>,
    encoder: Encoder,
    /// Where the next frame goes in the newest segment.
    position: u64,
    unsynced_bytes: u64,
    /// Whether entries, or a vote or term, wait for a sync.
    promises_unsynced: bool,
    entries_unsynced: bool,
    hard_state: HardState,
    last_index: Index,
    bytes_written: u64,
    filling: Filling,
    failed: bool,
}

impl Log {
    /// Whether there is a log in the folder `dir`. This alone tells a restart from a first start.
    ///
    /// # Errors
    /// When the folder exists but cannot be read.
    pub fn exists(disk: &dyn Disk, dir: &Path) -> Result<bool, Fault> {
        if !disk.exists(dir).map_err(Fault::io("look for", dir))? {
            return Ok(false);
        }
        let names = disk.list(dir).map_err(Fault::io("list", dir))?;
        Ok(names.iter().any(|name| name.ends_with(".wal")))
    }

    /// Makes a log in the folder `dir`, whose parent must exist. `first` are records that the log
    /// holds from its first moment on, as the members of a new cluster: after a crash there is either
    /// the log with all of them, or none.
    ///
    /// # Errors
    /// When the folder has files in it already, or the disk fails.
    pub fn create(
        disk: Arc<dyn Disk>,
        dir: &Path,
        metadata: Metadata,
        first: &[Record],
        options: Options,
    ) -> Result<Log, Fault> {
        let made = Made::make(&*disk, dir, &metadata, first, options.segment_size)?;
        let segments = VecDeque::from([made.segment]);
        let opened = Opened {
            disk,
            dir: dir.to_owned(),
            options,
            metadata,
            segments,
        };
        let mut log = opened.start(made.crc, made.position, made.hard_state, made.last_index)?;
        log.bytes_written = made.position;
        Ok(log)
    }

    /// Makes a log as [`Log::create`] does, for somebody else to open.
    ///
    /// # Errors
    /// As [`Log::create`].
    pub fn make(
        disk: &dyn Disk,
        dir: &Path,
        metadata: Metadata,
        first: &[Record],
        options: Options,
    ) -> Result<(), Fault> {
        Made::make(disk, dir, &metadata, first, options.segment_size).map(drop)
    }

    /// Opens the log in the folder `dir` for appending and reads it behind `start`, which must be
    /// marked in it. Remains of a write that a power loss cut short are cut off, after a copy was made.
    ///
    /// # Errors
    /// [`Fault::Locked`] when another process has it open; [`Fault::Damaged`] when the log is damaged
    /// or promised entries are missing. Then nothing was changed.
    pub fn open(
        disk: Arc<dyn Disk>,
        dir: &Path,
        start: SnapshotPoint,
        options: Options,
    ) -> Result<(Log, Recovered), Fault> {
        // 1. Read, and refuse what must be refused.
        let names = segments_for(&*disk, dir, start.index)?;
        let open = |name: &SegmentName| Segment::open_to_write(&*disk, dir, *name);
        let segments = names.iter().map(open).collect::<Result<Vec<_>, _>>()?;
        let Replay {
            mut recovered,
            scan,
            last_index,
            tail,
        } = Replay::run(Scan::new(dir, segments.clone())?, start)?;
        let (position, crc) = (scan.offset, scan.crc);
        drop(scan);

        // 2. Make the end sound.
        let newest = segments.last().expect("there is a segment, it was read");
        if let Tail::Torn(_) = tail {
            recovered.repaired = Some(repair::keep_copy(&*disk, newest)?);
        }
        repair::settle(newest, position, options.segment_size)?;

        // 3. Segments that were being prepared may hold anything.
        for number in 0..2 {
            let path = dir.join(tmp_name(number));
            if disk.exists(&path).map_err(Fault::io("look for", &path))? {
                disk.remove(&path).map_err(Fault::io("remove", &path))?;
            }
        }

        // 4. Names that were found may not be durable: whoever made them may have ended before its sync.
        for folder in [Some(dir), dir.parent()].into_iter().flatten() {
            disk.sync_dir(folder).map_err(Fault::io("sync", folder))?;
        }

        let (metadata, hard_state) = (recovered.metadata, recovered.hard_state);
        let segments = segments.into();
        let opened = Opened {
            disk,
            dir: dir.to_owned(),
            options,
            metadata,
            segments,
        };
        let log = opened.start(crc, position, hard_state, last_index)?;
        Ok((log, recovered))
    }

    /// Writes a batch: the entries, then the hard state if it changed. They are durable only after
    /// [`Log::sync`]. A batch that follows entries without a sync between syncs those first.
    ///
    /// # Errors
    /// When the disk fails; the member must stop.
    ///
    /// # Panics
    /// When an entry does not follow the one before it, or leaves a gap behind the log's last.
    pub fn append(
        &mut self,
        entries: &[Entry],
        hard_state: Option<&HardState>,
    ) -> Result<(), Fault> {
        let changed = |state: &&HardState| !state.is_empty() && **state != self.hard_state;
        let hard_state = hard_state.filter(changed);
        if entries.is_empty() && hard_state.is_none() {
            return self.usable();
        }
        if self.entries_unsynced {
            // Recovery tells torn writes from damage by this; see repair.rs.
            self.sync()?;
        }
        self.guarded(|log| {
            for entry in entries {
                log.put_entry(entry)?;
            }
            if let Some(state) = hard_state {
                let (old, new) = (&log.hard_state, state);
                log.promises_unsynced |= (old.term, old.vote) != (new.term, new.vote);
                log.encoder.put_state(state);
                log.hard_state = *state;
            }
            log.flush()?;
            log.cut_if_full()?;
            log.filling.work_inline()
        })
    }

    /// Whether something waits for [`Log::sync`] that others may be told of only afterwards: entries, a
    /// vote, a term. A commit index alone need not be durable.
    pub fn sync_needed(&self) -> bool {
        self.promises_unsynced
    }

    /// Makes all that was appended durable.
    ///
    /// # Errors
    /// When the disk fails. What was appended may then be on disk or not, whatever a later sync would
    /// say; the member must stop.
    pub fn sync(&mut self) -> Result<(), Fault> {
        self.guarded(Log::sync_newest)
    }

    /// Notes that a snapshot was saved, durably. Its own file must be durable before.
    ///
    /// # Errors
    /// When the disk fails; the member must stop.
    ///
    /// # Panics
    /// When the members are missing, which etcd since 3.5 requires above index 0.
    pub fn save_snapshot(&mut self, mark: &SnapshotMark) -> Result<(), Fault> {
        assert!(
            mark.index.0 == 0 || mark.conf_state.is_some(),
            "a snapshot's mark names the members"
        );
        self.guarded(|log| {
            log.encoder.put_snapshot(mark);
            log.last_index = log.last_index.max(mark.index);
            log.flush()?;
            log.sync_newest()?;
            log.cut_if_full()?;
            log.filling.work_inline()
        })
    }

    /// Lets go of segments that hold only entries before `index`, so that [`Log::purge`] may remove
    /// them: those before the last one that a start from a snapshot at `index` reads.
    pub fn release_to(&mut self, index: Index) {
        while self.segments.len() > 1 && self.segments[1].name.index <= index {
            self.segments.pop_front();
        }
    }

    /// Removes the oldest segments, if released, until `keep` are left; 0 keeps all.
    ///
    /// # Errors
    /// When the disk fails. The log itself is not concerned.
    pub fn purge(&self, keep: usize) -> Result<Vec<PathBuf>, Fault> {
        let mut removed = Vec::new();
        if keep == 0 {
            return Ok(removed);
        }
        let names = list_segments(&*self.disk, &self.dir)?;
        let first_held = self.segments[0].name;
        let too_many = names.len().saturating_sub(keep);
        for name in names
            .into_iter()
            .take(too_many)
            .take_while(|name| *name < first_held)
        {
            match Segment::open_to_write(&*self.disk, &self.dir, name) {
                Ok(_) => {}
                Err(Fault::Locked { .. }) => break,
                Err(fault) => return Err(fault),
            }
            let path = self.dir.join(name.file_name());
            self.disk
                .remove(&path)
                .map_err(Fault::io("remove", &path))?;
            // One by one, so that a power loss leaves no gap.
            self.disk
                .sync_dir(&self.dir)
                .map_err(Fault::io("sync", &self.dir))?;
            removed.push(path);
        }
        Ok(removed)
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Whose log it is.
    pub fn metadata(&self) -> Metadata {
        self.metadata
    }

    /// The newest hard state that was appended.
    pub fn hard_state(&self) -> HardState {
        self.hard_state
    }

    /// Index of the last entry appended, or of a snapshot beyond it.
    pub fn last_index(&self) -> Index {
        self.last_index
    }

    /// Bytes written since the log was opened, for metrics.
    pub fn bytes_written(&self) -> u64 {
        self.bytes_written
    }

    fn put_entry(&mut self, entry: &Entry) -> Result<(), Fault> {
        assert!(
            entry.index.0 > 0 && entry.index.0 <= self.last_index.0 + 1,
            "entry {} would leave a gap behind entry {}",
            entry.index.0,
            self.last_index.0
        );
        self.encoder.put_entry(entry);
        self.last_index = entry.index;
        self.promises_unsynced = true;
        self.entries_unsynced = true;
        if self.encoder.frames.len() as u64 >= UNSYNCED_BYTES_MAX {
            self.flush()
        } else {
            Ok(())
        }
    }

    /// Writes the encoded frames, in one piece unless more would be unsynced than may be.
    fn flush(&mut self) -> Result<(), Fault> {
        let frames = std::mem::take(&mut self.encoder.frames);
        for piece in frames.chunks(UNSYNCED_BYTES_MAX as usize) {
            if self.unsynced_bytes + piece.len() as u64 > UNSYNCED_BYTES_MAX {
                self.sync_file()?;
            }
            let end = self.position + piece.len() as u64;
            self.filling.reserve(end)?;
            let Segment { path, file, .. } = self.newest();
            file.write_at(piece, self.position)
                .map_err(Fault::io("write", path))?;
            self.position = end;
            self.unsynced_bytes += piece.len() as u64;
            self.bytes_written += piece.len() as u64;
        }
        self.encoder.frames = frames;
        self.encoder.frames.clear();
        self.encoder.frames.shrink_to(BUFFER_BYTES_KEPT);
        Ok(())
    }

    fn sync_newest(&mut self) -> Result<(), Fault> {
        if self.unsynced_bytes > 0 {
            self.sync_file()?;
        }
        self.promises_unsynced = false;
        self.entries_unsynced = false;
        Ok(())
    }

    fn sync_file(&mut self) -> Result<(), Fault> {
        let Segment { path, file, .. } = self.newest();
        file.sync().map_err(Fault::io("sync", path))?;
        self.unsynced_bytes = 0;
        self.filling.check()
    }

    fn cut_if_full(&mut self) -> Result<(), Fault> {
        if self.position >= self.options.segment_size {
            self.cut()
        } else {
            Ok(())
        }
    }

    /// Goes on in the next segment. What was appended is durable afterwards.
    fn cut(&mut self) -> Result<(), Fault> {
        // 1. Nobody writes zeros to the full segment any more; it ends with its records.
        let next = self.filling.take_next()?;
        let Segment { name, path, file } = self.newest();
        let sequence = name.sequence + 1;
        file.set_size(self.position)
            .map_err(Fault::io("cut", path))?;
        file.sync().map_err(Fault::io("sync", path))?;

        // 2. The next one's head, synced.
        self.encoder.put_crc();
        self.encoder.put_metadata(&self.metadata);
        if !self.hard_state.is_empty() {
            self.encoder.put_state(&self.hard_state);
        }
        let head = self.encoder.frames.len() as u64;
        let written = next.file.write_at(&self.encoder.frames, 0);
        written.map_err(Fault::io("write", &next.path))?;
        next.file.sync().map_err(Fault::io("sync", &next.path))?;
        self.encoder.frames.clear();

        // 3. Its name.
        let name = SegmentName {
            sequence,
            index: Index(self.last_index.0 + 1),
        };
        let path = self.dir.join(name.file_name());
        self.disk
            .rename(&next.path, &path)
            .map_err(Fault::io("rename", &next.path))?;
        self.disk
            .sync_dir(&self.dir)
            .map_err(Fault::io("sync", &self.dir))?;

        self.filling.activate(&path, head, next.zeroed())?;
        self.segments.push_back(Segment {
            name,
            path,
            file: next.file,
        });
        self.position = head;
        self.bytes_written += head;
        self.unsynced_bytes = 0;
        self.promises_unsynced = false;
        self.entries_unsynced = false;
        Ok(())
    }

    fn newest(&self) -> &Segment {
        self.segments
            .back()
            .expect("a log has a segment that it appends to")
    }

    /// Runs `work` and remembers if it failed.
    fn guarded(&mut self, work: impl FnOnce(&mut Log) -> Result<(), Fault>) -> Result<(), Fault> {
        self.usable()?;
        let result = work(self);
        self.failed = result.is_err();
        result
    }

    fn usable(&self) -> Result<(), Fault> {
        if self.failed {
            let error = io::Error::other("an earlier write or sync failed; restart the member");
            return Err(Fault::io("go on with", &self.newest().path)(error));
        }
        Ok(())
    }
}

/// A log that was made and not opened yet.
struct Made {
    segment: Segment,
    /// Behind the first records.
    position: u64,
    crc: u32,
    hard_state: HardState,
    last_index: Index,
}

impl Made {
    fn make(
        disk: &dyn Disk,
        dir: &Path,
        metadata: &Metadata,
        first: &[Record],
        segment_size: u64,
    ) -> Result<Made, Fault> {
        // 1. A folder beside the final one; what an earlier attempt left there goes.
        let parent = dir
            .parent()
            .ok_or_else(|| Fault::damaged(dir, "no folder lies above it"))?;
        let tmp = with_suffix(dir, ".tmp");
        if disk.exists(&tmp).map_err(Fault::io("look for", &tmp))? {
            disk.remove_dir(&tmp).map_err(Fault::io("remove", &tmp))?;
        }
        disk.create_dir(&tmp).map_err(Fault::io("create", &tmp))?;

        // 2. The first segment, complete and synced.
        let name = SegmentName {
            sequence: 0,
            index: Index(0),
        };
        let path = tmp.join(name.file_name());
        let file = disk
            .open(&path, Open::Create)
            .map_err(Fault::io("create", &path))?;
        lock(&*file, &path)?;
        file.allocate(segment_size)
            .map_err(Fault::io("allocate", &path))?;
        let mut encoder = Encoder::new(0);
        encoder.put_crc();
        encoder.put_metadata(metadata);
        encoder.put_snapshot(&SnapshotMark::default());
        let (mut hard_state, mut last_index) = (HardState::default(), Index(0));
        for record in first {
            match record {
                Record::Entry(entry) => last_index = entry.index,
                Record::State(state) => hard_state = *state,
                Record::Snapshot(mark) => last_index = last_index.max(mark.index),
                Record::Metadata(_) | Record::Crc(_) => continue,
            }
            encoder.put_record(record);
        }
        file.write_at(&encoder.frames, 0)
            .map_err(Fault::io("write", &path))?;
        file.sync().map_err(Fault::io("sync", &path))?;
        disk.sync_dir(&tmp).map_err(Fault::io("sync", &tmp))?;

        // 3. The final name.
        remove_empty_dir(disk, dir)?;
        disk.rename(&tmp, dir).map_err(Fault::io("rename", &tmp))?;
        disk.sync_dir(parent).map_err(Fault::io("sync", parent))?;

        Ok(Made {
            segment: Segment {
                name,
                path: dir.join(name.file_name()),
                file,
            },
            position: encoder.frames.len() as u64,
            crc: encoder.crc,
            hard_state,
            last_index,
        })
    }
}

/// A log whose files are open.
struct Opened {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    options: Options,
    metadata: Metadata,
    segments: VecDeque<Segment>,
}

impl Opened {
    fn start(
        self,
        crc: u32,
        position: u64,
        hard_state: HardState,
        last_index: Index,
    ) -> Result<Log, Fault> {
        let Opened {
            disk,
            dir,
            options,
            metadata,
            segments,
        } = self;
        let filling = FillingOptions {
            disk: Arc::clone(&disk),
            dir: dir.clone(),
            segment_size: options.segment_size,
            ahead: options.zeros_ahead,
            preparation: options.preparation,
        };
        let newest = segments.back().expect("an open log has a segment");
        let filling = Filling::start(filling, &newest.path, position)?;
        Ok(Log {
            disk,
            dir,
            options,
            metadata,
            segments,
            encoder: Encoder::new(crc),
            position,
            unsynced_bytes: 0,
            promises_unsynced: false,
            entries_unsynced: false,
            hard_state,
            last_index,
            bytes_written: 0,
            filling,
            failed: false,
        })
    }
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// A folder that somebody prepared for the log gives way to it, unless there is something in it.
fn remove_empty_dir(disk: &dyn Disk, dir: &Path) -> Result<(), Fault> {
    if !disk.exists(dir).map_err(Fault::io("look for", dir))? {
        return Ok(());
    }
    if let Some(name) = disk.list(dir).map_err(Fault::io("list", dir))?.first() {
        let what = format!("a new log needs an empty folder, but {name} is in it; move it away");
        return Err(Fault::damaged(dir, what));
    }
    disk.remove_dir(dir).map_err(Fault::io("remove", dir))
}
