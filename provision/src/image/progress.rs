//! One line for each step, on standard error, with the time it took; a sign of life while a long
//! one runs.

use std::fmt::Display;
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use crate::host::clock;

/// Between two signs of life of a running step; longer once it has run for a minute.
const SIGN_INTERVAL_FIRST: Duration = Duration::from_secs(10);
const SIGN_INTERVAL_LATER: Duration = Duration::from_secs(30);
const LATER: Duration = Duration::from_secs(60);
/// Longest part of a child's line that is shown.
const SHOWN_CHARACTERS_MAX: usize = 100;

/// A step that has begun.
pub(super) struct Step {
    phase: &'static str,
    what: String,
    began: Instant,
    last_sign: Instant,
}

impl Step {
    /// Announces the step.
    pub(super) fn begin(phase: &'static str, what: impl Display) -> Self {
        let began = clock::now();
        let step = Self {
            phase,
            what: what.to_string(),
            began,
            last_sign: began,
        };
        step.line("...", "", None);
        step
    }

    /// Called often while the step runs; speaks up now and then.
    pub(super) fn tick(&mut self, latest: impl FnOnce() -> String) {
        let is_late = self.began.elapsed() > LATER;
        let interval = if is_late {
            SIGN_INTERVAL_LATER
        } else {
            SIGN_INTERVAL_FIRST
        };
        if self.last_sign.elapsed() < interval {
            return;
        }
        self.last_sign = clock::now();
        let latest = latest();
        // Packer's lines begin with the name of its source.
        let latest = latest.trim().trim_start_matches("==> ");
        let latest: String = latest.chars().take(SHOWN_CHARACTERS_MAX).collect();
        self.line("...", &latest, Some(self.began.elapsed()));
    }

    /// Says that the step is over and how long it took.
    pub(super) fn done(self, detail: impl Display) -> Duration {
        let elapsed = self.began.elapsed();
        self.line("ok", &detail.to_string(), Some(elapsed));
        elapsed
    }

    /// Says that the step failed; the error itself is told by the caller.
    pub(super) fn failed(self) {
        self.line("FAIL", "", Some(self.began.elapsed()));
    }

    fn line(&self, verdict: &str, detail: &str, elapsed: Option<Duration>) {
        let separator = if detail.is_empty() { "" } else { ": " };
        let time = elapsed
            .map(|time| format!("  ({:.1} s)", time.as_secs_f64()))
            .unwrap_or_default();
        say(&format!(
            "{}  {:<9}  {}{separator}{detail}{time}",
            coloured(verdict),
            self.phase,
            self.what
        ));
    }
}

/// A step that needed no time because its result is there.
pub(super) fn skip(phase: &'static str, what: impl Display) {
    say(&format!("{}  {phase:<9}  {what}", coloured("skip")));
}

/// A line of its own on standard error.
pub(super) fn say(line: &str) {
    // Nobody is left to tell when standard error is closed.
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}

fn coloured(verdict: &str) -> String {
    let colour = match verdict {
        "ok" => "32",
        "FAIL" => "31",
        _ => "2",
    };
    if std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none() {
        format!("\x1b[{colour}m{verdict:<4}\x1b[0m")
    } else {
        format!("{verdict:<4}")
    }
}
