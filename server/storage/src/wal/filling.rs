//! Zeros ahead of the log, and the next segment.
//!
//! A sync is several times cheaper when the log writes into blocks that hold zeros already than when
//! the file system only promised them or the file grows. So a thread writes zeros ahead of the log, in
//! small steps, each synced, so that the log's own syncs find little of it to wait for. It also makes the
//! next segment before it is needed. All of it is a matter of speed: the log is right wherever the
//! thread has got to.
//!
//! The log says how far it is going to write before it writes ([`Filling::reserve`]) and waits when
//! the thread is writing zeros at that very place.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use super::segment::lock;
use crate::Fault;
use crate::disk::{Disk, File, Open};

/// Who writes zeros ahead and prepares segments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Preparation {
    /// A thread of the log's own, which ends with the log.
    Background,
    /// The caller of the log, within its calls: the same calls give the same disk, for simulations.
    Inline,
}

/// Zeros written in one step. Small enough to be written and synced in about the time of a sync of the
/// log itself.
const STEP_BYTES: u64 = 256 << 10;

/// Zeros start at a multiple of this, the page of the kernel's cache.
const PAGE_SIZE: u64 = 4096;

/// What is known about the segments that zeros are written to.
pub(super) struct Filling {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// A segment file that has no records yet.
pub(super) struct Prepared {
    pub(super) file: Arc<dyn File>,
    pub(super) path: PathBuf,
    zeroed: u64,
}

pub(super) struct FillingOptions {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) dir: PathBuf,
    pub(super) segment_size: u64,
    /// How many bytes of zeros to keep ahead.
    pub(super) ahead: u64,
    pub(super) preparation: Preparation,
}

struct Shared {
    options: FillingOptions,
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    active: Active,
    next: Next,
    /// How many segments were prepared; decides the name.
    prepared: u64,
    /// A failed sync, for the log to report.
    fault: Option<Fault>,
    stop: bool,
}

/// The segment that the log appends to.
struct Active {
    /// A handle of our own: the kernel reports a failed write-back once for each handle, and the
    /// log's handle must not miss it.
    file: Arc<dyn File>,
    path: PathBuf,
    /// The log may have written up to here.
    used: u64,
    /// From `used` to here there are zeros in blocks of their own.
    zeroed: u64,
    /// Where zeros are being written at this moment.
    in_flight: Option<Range<u64>>,
    /// Whether zeros are written until there are enough ahead.
    hungry: bool,
    given_up: bool,
}

enum Next {
    Missing,
    InWork,
    Ready(Prepared),
    Failed,
}

enum Job {
    FillActive {
        file: Arc<dyn File>,
        path: PathBuf,
        range: Range<u64>,
    },
    Prepare {
        number: u64,
    },
    FillNext(Prepared),
}

impl Filling {
    /// Starts with the active segment at `path`, which has records up to `used`.
    pub(super) fn start(options: FillingOptions, path: &Path, used: u64) -> Result<Filling, Fault> {
        let active = Active::open(&*options.disk, path, used, used)?;
        let preparation = options.preparation;
        let state = State {
            active,
            next: Next::Missing,
            prepared: 0,
            fault: None,
            stop: false,
        };
        let shared = Arc::new(Shared {
            options,
            state: Mutex::new(state),
            changed: Condvar::new(),
        });
        let mut filling = Filling {
            shared,
            thread: None,
        };
        if preparation == Preparation::Background {
            let shared = Arc::clone(&filling.shared);
            let thread = thread::Builder::new().name("wal-filling".to_owned());
            let thread = thread.spawn(move || shared.work_until_stopped());
            filling.thread = Some(thread.map_err(Fault::io("start the filling thread of", path))?);
        }
        filling.work_inline()?;
        Ok(filling)
    }

    /// To be called before the log writes up to `end`.
    pub(super) fn reserve(&self, end: u64) -> Result<(), Fault> {
        let mut state = self.shared.lock();
        while state
            .active
            .in_flight
            .as_ref()
            .is_some_and(|zeros| zeros.start < end)
        {
            state = self.shared.wait(state);
        }
        state.active.used = state.active.used.max(end);
        if state.active.wants_zeros(&self.shared.options) {
            self.shared.changed.notify_all();
        }
        state.take_fault()
    }

    /// Reports a sync that failed here: it may have concerned the log's bytes too.
    pub(super) fn check(&self) -> Result<(), Fault> {
        self.shared.lock().take_fault()
    }

    /// Does what waits to be done, if the caller is to do it.
    pub(super) fn work_inline(&self) -> Result<(), Fault> {
        if self.thread.is_none() {
            // The lock must not be held while the job is done.
            let pick = || self.shared.lock().pick(&self.shared.options);
            while let Some(job) = pick() {
                self.shared.carry_out(job);
            }
        }
        self.check()
    }

    /// Ends the filling of the active segment and hands out the next one.
    pub(super) fn take_next(&self) -> Result<Prepared, Fault> {
        let mut state = self.shared.lock();
        while state.active.in_flight.is_some() || matches!(state.next, Next::InWork) {
            state = self.shared.wait(state);
        }
        state.active.given_up = true;
        state.take_fault()?;
        match std::mem::replace(&mut state.next, Next::InWork) {
            Next::Ready(prepared) => Ok(prepared),
            // There may be space again since it failed.
            Next::Failed | Next::Missing => {
                state.prepared += 1;
                let number = state.prepared;
                drop(state);
                self.shared.prepare(number)
            }
            Next::InWork => unreachable!("waited for above"),
        }
    }

    /// Goes on with a prepared segment, which now is the active one, at `path`.
    pub(super) fn activate(&self, path: &Path, used: u64, zeroed: u64) -> Result<(), Fault> {
        let active = Active::open(&*self.shared.options.disk, path, used, zeroed)?;
        let mut state = self.shared.lock();
        state.active = active;
        state.next = Next::Missing;
        self.shared.changed.notify_all();
        Ok(())
    }
}

impl Drop for Filling {
    fn drop(&mut self) {
        self.shared.lock().stop = true;
        self.shared.changed.notify_all();
        if let Some(thread) = self.thread.take() {
            // A panic there was printed; the log itself does not depend on the thread.
            let _ = thread.join();
        }
    }
}

impl Prepared {
    pub(super) fn zeroed(&self) -> u64 {
        self.zeroed
    }
}

impl Active {
    fn open(disk: &dyn Disk, path: &Path, used: u64, zeroed: u64) -> Result<Active, Fault> {
        let file = disk
            .open(path, Open::Write)
            .map_err(Fault::io("open", path))?;
        Ok(Active {
            file,
            path: path.to_owned(),
            used,
            zeroed,
            in_flight: None,
            hungry: true,
            given_up: false,
        })
    }

    /// Zeros are written when less than half of what should be ahead is there, and then until all is.
    fn wants_zeros(&self, options: &FillingOptions) -> bool {
        let target = (self.used + options.ahead).min(options.segment_size);
        let low = (self.used + options.ahead / 2).min(options.segment_size);
        !self.given_up && self.zeroed < if self.hungry { target } else { low }
    }

    /// The next zeros to write.
    fn next_zeros(&mut self, options: &FillingOptions) -> Option<Range<u64>> {
        self.hungry = self.wants_zeros(options);
        if !self.hungry {
            return None;
        }
        let start = self.zeroed.max(self.used.next_multiple_of(PAGE_SIZE));
        let end = (start + STEP_BYTES).min(options.segment_size);
        if start >= end {
            self.given_up = true;
            return None;
        }
        Some(start..end)
    }
}

impl State {
    fn pick(&mut self, options: &FillingOptions) -> Option<Job> {
        if self.stop || self.fault.is_some() {
            return None;
        }
        if let Some(range) = self.active.next_zeros(options) {
            self.active.in_flight = Some(range.clone());
            let (file, path) = (Arc::clone(&self.active.file), self.active.path.clone());
            return Some(Job::FillActive { file, path, range });
        }
        match std::mem::replace(&mut self.next, Next::InWork) {
            Next::Missing => {
                self.prepared += 1;
                Some(Job::Prepare {
                    number: self.prepared,
                })
            }
            Next::Ready(prepared) if prepared.zeroed < options.ahead.min(options.segment_size) => {
                Some(Job::FillNext(prepared))
            }
            other => {
                self.next = other;
                None
            }
        }
    }

    fn take_fault(&mut self) -> Result<(), Fault> {
        match self.fault.take() {
            Some(fault) => Err(fault),
            None => Ok(()),
        }
    }
}

impl Shared {
    /// The lock is held for a few instructions only, none of which panics with the state half changed.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.changed
            .wait(state)
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn work_until_stopped(&self) {
        let mut state = self.lock();
        while !state.stop {
            match state.pick(&self.options) {
                Some(job) => {
                    drop(state);
                    self.carry_out(job);
                    state = self.lock();
                }
                None => state = self.wait(state),
            }
        }
    }

    fn carry_out(&self, job: Job) {
        match job {
            Job::FillActive { file, path, range } => self.fill_active(&*file, &path, range),
            Job::Prepare { number } => {
                let prepared = self.prepare(number);
                let mut state = self.lock();
                state.next = match prepared {
                    Ok(prepared) => Next::Ready(prepared),
                    // Tried again when it is needed; then the fault counts.
                    Err(_) => Next::Failed,
                };
            }
            Job::FillNext(prepared) => {
                let prepared = self.fill_next(prepared);
                self.lock().next = prepared;
            }
        }
        self.changed.notify_all();
    }

    fn fill_active(&self, file: &dyn File, path: &Path, range: Range<u64>) {
        let written = write_zeros(file, &range);
        let mut state = self.lock();
        state.active.in_flight = None;
        match written {
            Ok(()) => state.active.zeroed = range.end,
            // Not enough space, say: the log goes on without zeros ahead.
            Err(_) => state.active.given_up = true,
        }
        drop(state);
        self.changed.notify_all();
        if let Err(fault) = file.sync().map_err(Fault::io("sync", path)) {
            self.lock().fault = Some(fault);
        }
    }

    fn fill_next(&self, mut prepared: Prepared) -> Next {
        let end = (prepared.zeroed + STEP_BYTES).min(self.options.segment_size);
        if write_zeros(&*prepared.file, &(prepared.zeroed..end)).is_err() {
            // As above: no zeros ahead.
            prepared.zeroed = self.options.segment_size;
            return Next::Ready(prepared);
        }
        match prepared
            .file
            .sync()
            .map_err(Fault::io("sync", &prepared.path))
        {
            Ok(()) => {
                prepared.zeroed = end;
                Next::Ready(prepared)
            }
            Err(fault) => {
                self.lock().fault = Some(fault);
                Next::Missing
            }
        }
    }

    /// Makes a segment file: `<number mod 2>.tmp`, locked, with all its space.
    fn prepare(&self, number: u64) -> Result<Prepared, Fault> {
        let FillingOptions {
            disk,
            dir,
            segment_size,
            ..
        } = &self.options;
        let path = dir.join(tmp_name(number));
        if disk.exists(&path).map_err(Fault::io("look for", &path))? {
            disk.remove(&path).map_err(Fault::io("remove", &path))?;
        }
        let file = disk
            .open(&path, Open::Create)
            .map_err(Fault::io("create", &path))?;
        lock(&*file, &path)?;
        file.allocate(*segment_size)
            .map_err(Fault::io("allocate", &path))?;
        Ok(Prepared {
            file,
            path,
            zeroed: 0,
        })
    }
}

/// Name of a segment that is being prepared.
pub(super) fn tmp_name(number: u64) -> String {
    format!("{}.tmp", number % 2)
}

fn write_zeros(file: &dyn File, range: &Range<u64>) -> std::io::Result<()> {
    static ZEROS: [u8; STEP_BYTES as usize] = [0; STEP_BYTES as usize];
    file.write_at(&ZEROS[..(range.end - range.start) as usize], range.start)
}
