//! The log: one line per event on standard error, as JSON with etcd's keys or as text.
//!
//! A line is written whole, in one call. Line breaks inside values are escaped, so that a line of
//! the log is a line of the journal. When standard error is the journal itself, lines begin with
//! their priority (`<6>`), which the journal takes off again, and text carries no time of its own.

use std::fmt::{self, Write as _};
use std::io::Write;
use std::os::fd::AsFd;
use std::sync::Mutex;
use std::time::Duration;

use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

use crate::clock;
use crate::config::{LogFormat, LogLevel};

/// The crates whose debug lines are ours; those of libraries would drown them.
const OWN_CRATES: [&str; 5] = ["holdfast", "consensus", "state_machine", "mvcc", "storage"];

/// The log could not be started because this process has one.
#[derive(Debug, thiserror::Error)]
#[error("this process has a log already")]
pub struct AlreadyStarted;

/// Starts the log of this process on standard error.
///
/// # Errors
/// It was started before.
pub fn start(level: LogLevel, format: LogFormat) -> Result<(), AlreadyStarted> {
    let stderr = std::io::stderr();
    let journal = std::env::var("JOURNAL_STREAM").ok();
    let identity = nix::sys::stat::fstat(stderr.as_fd())
        .ok()
        .map(|stat| (stat.st_dev, stat.st_ino));
    let to_journal = is_journal(journal.as_deref(), identity);
    let lines = Lines {
        format,
        to_journal,
        target: Mutex::new(stderr),
    };
    tracing_subscriber::registry()
        .with(lines.with_filter(targets(level)))
        .try_init()
        .map_err(|_| AlreadyStarted)
}

/// systemd sets `JOURNAL_STREAM` to device and inode of the journal's socket; children that write
/// elsewhere inherit the variable, so the numbers must match.
fn is_journal(variable: Option<&str>, stderr: Option<(u64, u64)>) -> bool {
    let Some((device, inode)) = variable.and_then(|text| text.split_once(':')) else {
        return false;
    };
    match (device.parse(), inode.parse()) {
        (Ok(device), Ok(inode)) => stderr == Some((device, inode)),
        _ => false,
    }
}

fn targets(level: LogLevel) -> Targets {
    let (own, libraries) = match level {
        LogLevel::Debug => (LevelFilter::DEBUG, LevelFilter::INFO),
        LogLevel::Info => (LevelFilter::INFO, LevelFilter::INFO),
        LogLevel::Warn => (LevelFilter::WARN, LevelFilter::WARN),
        LogLevel::Error => (LevelFilter::ERROR, LevelFilter::ERROR),
    };
    OWN_CRATES
        .iter()
        .fold(Targets::new().with_default(libraries), |targets, name| {
            targets.with_target(*name, own)
        })
}

/// Writes each event as a line to `target`.
struct Lines<W> {
    format: LogFormat,
    to_journal: bool,
    target: Mutex<W>,
}

impl<W: Write + 'static, S: Subscriber> Layer<S> for Lines<W> {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let line = self.line(event, clock::since_unix_epoch());
        let mut target = self
            .target
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        // A log that cannot be written has nowhere to say so.
        let _ = target.write_all(line.as_bytes());
    }
}

impl<W> Lines<W> {
    fn line(&self, event: &Event<'_>, now: Duration) -> String {
        let mut line = String::with_capacity(256);
        let level = *event.metadata().level();
        if self.to_journal {
            line.push_str(priority(level));
        }
        let written = match self.format {
            LogFormat::Json => write_json(&mut line, event, now),
            LogFormat::Text => write_text(&mut line, event, (!self.to_journal).then_some(now)),
        };
        written.expect("writing to a String succeeds");
        line.push('\n');
        line
    }
}

/// syslog's numbers, as journald reads them.
fn priority(level: Level) -> &'static str {
    match level {
        Level::ERROR => "<3>",
        Level::WARN => "<4>",
        Level::INFO => "<6>",
        Level::DEBUG | Level::TRACE => "<7>",
    }
}

/// etcd's words.
fn level_word(level: Level) -> &'static str {
    match level {
        Level::ERROR => "error",
        Level::WARN => "warn",
        Level::INFO => "info",
        Level::DEBUG | Level::TRACE => "debug",
    }
}

/// `{"level":"info","ts":"…","caller":"file.rs:1","msg":"…",fields}`, in this order.
fn write_json(line: &mut String, event: &Event<'_>, now: Duration) -> fmt::Result {
    let metadata = event.metadata();
    let mut parts = Parts::of(event, as_json);
    write!(
        line,
        "{{\"level\":\"{}\",\"ts\":\"",
        level_word(*metadata.level())
    )?;
    write_time(line, now)?;
    line.push('"');
    if let (Some(file), Some(number)) = (metadata.file(), metadata.line()) {
        let caller = format!("{}:{number}", short_path(file));
        write!(line, ",\"caller\":{}", json_text(&caller))?;
    }
    write!(line, ",\"msg\":{}", json_text(&parts.take_message()))?;
    for (name, value) in parts.fields {
        write!(line, ",{}:{value}", json_text(name))?;
    }
    line.push('}');
    Ok(())
}

/// `2026-01-01T00:00:00.000000Z info msg key=value`, or without the time.
fn write_text(line: &mut String, event: &Event<'_>, now: Option<Duration>) -> fmt::Result {
    let mut parts = Parts::of(event, as_text);
    if let Some(now) = now {
        write_time(line, now)?;
        write!(line, " {:5} ", level_word(*event.metadata().level()))?;
    }
    line.push_str(&escape_controls(&parts.take_message()));
    for (name, value) in parts.fields {
        write!(line, " {name}={value}")?;
    }
    Ok(())
}

/// The folder and the file, as etcd names callers.
fn short_path(file: &str) -> &str {
    let mut separators = file.rmatch_indices('/').map(|(at, _)| at);
    separators.nth(1).map_or(file, |at| &file[at + 1..])
}

/// One value of an event.
enum Value<'a> {
    Text(&'a str),
    /// Numbers and booleans, as they print.
    Bare(&'a dyn fmt::Display),
}

/// An event's message and its other fields, in the form of one format.
struct Parts {
    message: String,
    fields: Vec<(&'static str, String)>,
    form: fn(&Value<'_>) -> String,
}

impl Parts {
    fn of(event: &Event<'_>, form: fn(&Value<'_>) -> String) -> Parts {
        let mut parts = Parts {
            message: String::new(),
            fields: Vec::new(),
            form,
        };
        event.record(&mut parts);
        parts
    }

    fn take_message(&mut self) -> String {
        std::mem::take(&mut self.message)
    }

    fn push(&mut self, field: &Field, value: &Value<'_>) {
        let text = (self.form)(value);
        self.fields.push((field.name(), text));
    }
}

impl Visit for Parts {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            self.message = format!("{value:?}");
        } else {
            self.push(field, &Value::Text(&format!("{value:?}")));
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            self.message = value.to_owned();
        } else {
            self.push(field, &Value::Text(value));
        }
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.push(field, &Value::Bare(&value));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.push(field, &Value::Bare(&value));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.push(field, &Value::Bare(&value));
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        if value.is_finite() {
            self.push(field, &Value::Bare(&value));
        } else {
            self.push(field, &Value::Text(&value.to_string()));
        }
    }
}

fn as_json(value: &Value<'_>) -> String {
    match value {
        Value::Text(text) => json_text(text),
        Value::Bare(value) => value.to_string(),
    }
}

fn as_text(value: &Value<'_>) -> String {
    match value {
        Value::Text(text) => {
            let bare = !text.is_empty() && !text.contains([' ', '"', '=']);
            let escaped = escape_controls(text);
            if bare {
                escaped
            } else {
                format!("\"{}\"", escaped.replace('"', "\\\""))
            }
        }
        Value::Bare(value) => value.to_string(),
    }
}

fn json_text(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

fn escape_controls(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        if letter.is_control() {
            escaped.extend(letter.escape_default());
        } else {
            escaped.push(letter);
        }
    }
    escaped
}

/// The time of day in UTC with microseconds, in etcd's layout.
fn write_time(line: &mut String, since_unix_epoch: Duration) -> fmt::Result {
    const SECONDS_PER_DAY: u64 = 86_400;
    let seconds = since_unix_epoch.as_secs();
    let (year, month, day) = civil_date(seconds / SECONDS_PER_DAY);
    let of_day = seconds % SECONDS_PER_DAY;
    write!(
        line,
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{:06}Z",
        of_day / 3600,
        of_day / 60 % 60,
        of_day % 60,
        since_unix_epoch.subsec_micros(),
    )
}

/// Year, month and day of a number of days since 1970. Years begin in March here, so that the leap
/// day is the last one; an era is the 400 years after which the calendar repeats.
fn civil_date(days: u64) -> (u64, u64, u64) {
    const DAYS_PER_ERA: u64 = 146_097;
    const DAYS_FROM_YEAR_0_TO_1970: u64 = 719_468;
    let days = days + DAYS_FROM_YEAR_0_TO_1970;
    let (era, of_era) = (days / DAYS_PER_ERA, days % DAYS_PER_ERA);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 {
        month_from_march + 3
    } else {
        month_from_march - 9
    };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[derive(Clone, Default)]
    struct Memory(Arc<Mutex<Vec<u8>>>);

    impl Write for Memory {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().expect("lock").extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    /// What `events` write to a log of this level, format and kind of target.
    fn logged(level: LogLevel, format: LogFormat, to_journal: bool, events: fn()) -> String {
        let memory = Memory::default();
        let lines = Lines {
            format,
            to_journal,
            target: Mutex::new(memory.clone()),
        };
        let subscriber = tracing_subscriber::registry().with(lines.with_filter(targets(level)));
        tracing::subscriber::with_default(subscriber, events);
        let bytes = memory.0.lock().expect("lock").clone();
        String::from_utf8(bytes).expect("UTF-8")
    }

    #[test]
    fn a_json_line_has_etcds_keys_first() {
        let text = logged(LogLevel::Info, LogFormat::Json, false, || {
            tracing::warn!(
                "took-ms" = 7u64,
                ok = true,
                ratio = 0.5,
                path = "a\"b\nc",
                "slow disk"
            );
        });
        assert_eq!(text.matches('\n').count(), 1, "{text}");
        assert!(text.starts_with("{\"level\":\"warn\",\"ts\":\"2"), "{text}");
        let value: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(value["msg"], "slow disk");
        assert_eq!(value["took-ms"], 7);
        assert_eq!(value["ok"], true);
        assert_eq!(value["ratio"], 0.5);
        assert_eq!(value["path"], "a\"b\nc");
        assert!(
            value["caller"]
                .as_str()
                .expect("text")
                .starts_with("src/logging.rs:")
        );
    }

    #[test]
    fn text_for_the_journal_has_a_priority_and_no_time() {
        let text = logged(LogLevel::Debug, LogFormat::Text, true, || {
            tracing::error!(file = "x y", size = 3, "cannot\nread");
            tracing::warn!("w");
            tracing::info!(word = "plain", none = "", "i");
            tracing::debug!("d");
        });
        assert_eq!(
            text,
            "<3>cannot\\nread file=\"x y\" size=3\n<4>w\n<6>i word=plain none=\"\"\n<7>d\n"
        );
    }

    #[test]
    fn text_for_a_terminal_has_time_and_level() {
        let text = logged(LogLevel::Info, LogFormat::Text, false, || {
            tracing::info!("started");
        });
        let (time, rest) = text.split_once(' ').expect("a time");
        assert!(
            time.ends_with('Z') && time.len() == "2026-01-01T00:00:00.000000Z".len(),
            "{time}"
        );
        assert_eq!(rest, "info  started\n");
    }

    #[test]
    fn the_level_holds_back_what_is_less_severe() {
        fn events() {
            tracing::debug!("d");
            tracing::info!("i");
            tracing::warn!("w");
            tracing::error!("e");
            tracing::debug!(target: "h2", "library");
        }
        let lines = |level| logged(level, LogFormat::Text, true, events);
        assert_eq!(lines(LogLevel::Debug), "<7>d\n<6>i\n<4>w\n<3>e\n");
        assert_eq!(lines(LogLevel::Info), "<6>i\n<4>w\n<3>e\n");
        assert_eq!(lines(LogLevel::Warn), "<4>w\n<3>e\n");
        assert_eq!(lines(LogLevel::Error), "<3>e\n");
    }

    #[test]
    fn the_journal_is_known_by_device_and_inode() {
        assert!(is_journal(Some("8:42"), Some((8, 42))));
        assert!(!is_journal(Some("8:42"), Some((8, 43))));
        assert!(!is_journal(Some("8:42"), None));
        assert!(!is_journal(Some("journal"), Some((8, 42))));
        assert!(!is_journal(None, Some((8, 42))));
    }

    #[test]
    fn times_are_written_in_utc() {
        let time = |seconds, micros: u32| {
            let mut text = String::new();
            write_time(&mut text, Duration::new(seconds, micros * 1000)).expect("writes");
            text
        };
        assert_eq!(time(0, 0), "1970-01-01T00:00:00.000000Z");
        assert_eq!(time(951_782_399, 1), "2000-02-28T23:59:59.000001Z");
        assert_eq!(time(951_782_400, 0), "2000-02-29T00:00:00.000000Z");
        assert_eq!(time(1_709_251_199, 999_999), "2024-02-29T23:59:59.999999Z");
        assert_eq!(time(4_102_444_800, 0), "2100-01-01T00:00:00.000000Z");
        assert_eq!(time(4_107_542_400, 0), "2100-03-01T00:00:00.000000Z");
    }
}
