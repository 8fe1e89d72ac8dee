//! What watches while an input is read: how much memory is asked for, and for how long it takes.
//!
//! Both know the input at hand, so that its seed is told even when the process ends over it.

use std::alloc::{GlobalAlloc, Layout, System};
use std::io::Write;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// An input that takes longer hangs. The slowest known one takes some milliseconds.
const HANG: Duration = Duration::from_secs(60);
/// What goes so far beyond the memory of the moment is refused, which ends the process: the machine
/// must outlive the test.
const REFUSED_BYTES: usize = 1 << 30;

/// The system's allocator, counting.
pub(crate) struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);
static LIMIT: AtomicUsize = AtomicUsize::new(usize::MAX);
static AT_HAND: Mutex<Option<AtHand>> = Mutex::new(None);

/// The input that is being read.
#[derive(Clone, Copy)]
struct AtHand {
    target: &'static str,
    seed: u64,
    begun: Instant,
}

/// Reads one input under watch; returns what `read` says, and how many bytes it held at once.
#[expect(
    clippy::disallowed_methods,
    reason = "only a hang is looked for, no result depends on the time"
)]
pub(crate) fn watched<T>(target: &'static str, seed: u64, read: impl FnOnce() -> T) -> (T, usize) {
    let before = LIVE.load(Ordering::Relaxed);
    PEAK.store(before, Ordering::Relaxed);
    LIMIT.store(before.saturating_add(REFUSED_BYTES), Ordering::Relaxed);
    *AT_HAND.lock().expect("no panic holds it") = Some(AtHand {
        target,
        seed,
        begun: Instant::now(),
    });
    let result = read();
    *AT_HAND.lock().expect("no panic holds it") = None;
    LIMIT.store(usize::MAX, Ordering::Relaxed);
    let peak = PEAK.load(Ordering::Relaxed);
    (result, peak.saturating_sub(before))
}

/// Ends the process when an input hangs, for as long as the process lives.
pub(crate) fn start_watchdog() {
    thread::spawn(|| {
        loop {
            thread::sleep(Duration::from_secs(1));
            let at_hand = *AT_HAND.lock().expect("no panic holds it");
            if let Some(at_hand) = at_hand.filter(|at_hand| at_hand.begun.elapsed() > HANG) {
                at_hand.tell("hangs");
                std::process::abort();
            }
        }
    });
}

impl AtHand {
    /// Past the capture of tests, and without memory.
    fn tell(self, what: &str) {
        let AtHand { target, seed, .. } = self;
        let mut text = [0; 200];
        let mut rest = &mut text[..];
        let _ = writeln!(rest, "{target} {what}; again with FUZZ_INPUT={seed}");
        let length = text.iter().take_while(|byte| **byte != 0).count();
        let _ = std::io::stderr().write_all(&text[..length]);
    }
}

/// Notes that `more` bytes are asked for; false when that is beyond all measure.
fn ask(more: usize) -> bool {
    let live = LIVE.fetch_add(more, Ordering::Relaxed).saturating_add(more);
    PEAK.fetch_max(live, Ordering::Relaxed);
    let is_within = live <= LIMIT.load(Ordering::Relaxed);
    if !is_within {
        LIVE.fetch_sub(more, Ordering::Relaxed);
        if let Ok(at_hand) = AT_HAND.try_lock()
            && let Some(at_hand) = *at_hand
        {
            at_hand.tell("asks for more than a GiB of memory");
        }
    }
    is_within
}

fn give(less: usize) {
    LIVE.fetch_sub(less, Ordering::Relaxed);
}

#[expect(
    unsafe_code,
    reason = "an allocator cannot be written without it; the system's does the work"
)]
// SAFETY: every call goes to the system's allocator with the arguments it came with, or is answered
// with null, which says that there is no memory. Counting allocates nothing and does not unwind.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        match ask(layout.size()) {
            // SAFETY: the caller keeps the rules of this very call.
            true => unsafe { System.alloc(layout) },
            false => std::ptr::null_mut(),
        }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        match ask(layout.size()) {
            // SAFETY: as above.
            true => unsafe { System.alloc_zeroed(layout) },
            false => std::ptr::null_mut(),
        }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        give(layout.size());
        // SAFETY: as above; all memory handed out is the system's.
        unsafe { System.dealloc(memory, layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if !ask(size.saturating_sub(layout.size())) {
            return std::ptr::null_mut();
        }
        give(layout.size().saturating_sub(size));
        // SAFETY: as above; all memory handed out is the system's.
        unsafe { System.realloc(memory, layout, size) }
    }
}
