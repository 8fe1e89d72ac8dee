//! What a command prints: for people on a terminal, or one JSON object a line for machines.
//!
//! Results go to stdout, progress to stderr. With `--json` only JSON goes to stdout, one object a
//! line, ended by one object with the key `result`.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use serde_json::{Value, json};

/// The version of the JSON lines, raised when a key changes its meaning.
const JSON_VERSION: u32 = 1;

/// How a step of the work ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StepStatus {
    /// It was as it should be.
    Ok,
    /// It was brought about.
    Changed,
    /// It would be brought about by a real run.
    Pending,
    /// It was left out, for a reason that the text names.
    Skipped,
    /// It works, and somebody should look at it.
    Warning,
    /// It failed.
    Failed,
}

impl StepStatus {
    fn word(self) -> &'static str {
        match self {
            StepStatus::Ok => "ok",
            StepStatus::Changed => "changed",
            StepStatus::Pending => "pending",
            StepStatus::Skipped => "skip",
            StepStatus::Warning => "warn",
            StepStatus::Failed => "FAIL",
        }
    }

    fn colour(self) -> &'static str {
        match self {
            StepStatus::Ok => "32",
            StepStatus::Changed | StepStatus::Pending => "36",
            StepStatus::Skipped => "2",
            StepStatus::Warning => "33",
            StepStatus::Failed => "31",
        }
    }

    /// The syslog priority that journald shows the line with.
    fn priority(self) -> u8 {
        match self {
            StepStatus::Failed => 3,
            StepStatus::Warning => 4,
            _ => 6,
        }
    }
}

/// Where and how a command prints.
#[derive(Clone, Debug)]
pub(crate) struct Output {
    json: bool,
    colour: bool,
    journal: bool,
}

impl Output {
    /// Looks at the terminal and the environment (`NO_COLOR`, `JOURNAL_STREAM`).
    pub(crate) fn from_process(json: bool) -> Output {
        let journal = std::env::var_os("JOURNAL_STREAM").is_some();
        let no_colour = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Output {
            json,
            colour: !json && !journal && !no_colour && std::io::stdout().is_terminal(),
            journal,
        }
    }

    /// Whether a machine reads the result.
    pub(crate) fn is_json(&self) -> bool {
        self.json
    }

    /// One step of the work: `ok  files  /etc/x (0.1 s)`. Under `--json` an event with the same
    /// content and the members of `facts`.
    pub(crate) fn step(&self, line: &StepLine<'_>) {
        if self.json {
            let mut event = json!({
                "v": JSON_VERSION,
                "phase": line.phase,
                "status": line.status.word().to_ascii_lowercase(),
                "detail": line.detail,
            });
            if let Some(elapsed) = line.elapsed {
                event["elapsed_ms"] = json!(millis(elapsed));
            }
            merge(&mut event, &line.facts);
            self.stdout(&event.to_string());
            return;
        }
        let elapsed = match line.elapsed {
            Some(elapsed) if elapsed >= Duration::from_millis(100) => {
                format!("  ({:.1} s)", elapsed.as_secs_f64())
            }
            _ => String::new(),
        };
        let word = self.paint(line.status.colour(), &format!("{:<7}", line.status.word()));
        self.stdout(&format!(
            "{}{word}  {:<11}  {}{elapsed}",
            self.priority(line.status.priority()),
            line.phase,
            line.detail
        ));
    }

    /// A line of the result for people; machines get [`Output::event`] instead.
    pub(crate) fn line(&self, text: &str) {
        if !self.json {
            self.stdout(text);
        }
    }

    /// A line in the log of a maintenance run: text for people and the journal, an event for
    /// machines.
    pub(crate) fn log(&self, status: StepStatus, phase: &str, text: &str, facts: Value) {
        if self.json || !self.journal {
            self.step(&StepLine {
                status,
                phase,
                detail: text,
                elapsed: None,
                facts,
            });
        } else {
            self.stdout(&format!(
                "{}{phase}: {text}",
                self.priority(status.priority())
            ));
        }
    }

    /// An event for machines; nothing for people.
    pub(crate) fn event(&self, mut event: Value) {
        if self.json {
            event["v"] = json!(JSON_VERSION);
            self.stdout(&event.to_string());
        }
    }

    /// The last line for machines.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "callers make the value for this call"
    )]
    pub(crate) fn result(&self, result: Value) {
        self.event(json!({ "result": result }));
    }

    /// What is going on, to stderr; for people only.
    pub(crate) fn progress(&self, text: &str) {
        if !self.json {
            write_line(std::io::stderr(), &format!("{}{text}", self.priority(6)));
        }
    }

    /// Why a command ends without having done its work, to stderr; machines get it as an event too.
    pub(crate) fn error(&self, text: &str) {
        let prefix = if self.journal { "<3>" } else { "" };
        let label = self.paint("31", "error:");
        for (index, line) in text.lines().enumerate() {
            let label = if index == 0 {
                format!("{label} ")
            } else {
                "       ".to_owned()
            };
            write_line(std::io::stderr(), &format!("{prefix}{label}{line}"));
        }
        self.event(json!({ "error": text }));
    }

    /// Text that is the result itself (a rendered file), without decoration.
    pub(crate) fn raw(&self, text: &str) {
        let mut stdout = std::io::stdout().lock();
        // A reader that closes the pipe has seen enough.
        let _ = stdout.write_all(text.as_bytes());
    }

    /// `text` in the colour with this ANSI code, where colours are shown.
    pub(crate) fn paint(&self, code: &str, text: &str) -> String {
        if self.colour {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }

    fn priority(&self, level: u8) -> String {
        if self.journal && !self.json {
            format!("<{level}>")
        } else {
            String::new()
        }
    }

    fn stdout(&self, line: &str) {
        write_line(std::io::stdout(), line);
    }
}

/// The parts of a step's line.
#[derive(Debug)]
pub(crate) struct StepLine<'a> {
    /// How it ended.
    pub(crate) status: StepStatus,
    /// The part of the work it belongs to.
    pub(crate) phase: &'a str,
    /// What was done, to which object.
    pub(crate) detail: &'a str,
    /// How long it took.
    pub(crate) elapsed: Option<Duration>,
    /// More members of the JSON event; an object, or null.
    pub(crate) facts: Value,
}

fn write_line(mut stream: impl Write, line: &str) {
    // A reader that closes the pipe has seen enough; there is nobody left to tell.
    let _ = writeln!(stream, "{line}");
}

fn merge(event: &mut Value, facts: &Value) {
    if let (Some(event), Some(facts)) = (event.as_object_mut(), facts.as_object()) {
        for (key, value) in facts {
            event.insert(key.clone(), value.clone());
        }
    }
}

fn millis(elapsed: Duration) -> u64 {
    u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX)
}
