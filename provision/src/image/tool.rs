//! Runs the programs that images are made with: arguments never pass a shell, each has a limit of
//! time, and what they print is kept for the error.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::fault::{ImageError, file};
use super::progress::Step;
use crate::host::clock;

/// Lines of a program's output that an error shows.
const TAIL_LINES_MAX: usize = 30;
/// Standard output that is kept for the caller; the rest is read and dropped.
const OUTPUT_BYTES_MAX: usize = 16 << 20;
/// Time between the request to end and the kill.
const END_GRACE: Duration = Duration::from_secs(20);
/// For programs that need a second or less on a quiet host.
const LIMIT_DEFAULT: Duration = Duration::from_secs(120);

/// A command line about to be run.
pub(super) struct Tool {
    program: OsString,
    arguments: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
    input: Vec<u8>,
    log: Option<PathBuf>,
    limit: Duration,
}

/// What a program left behind.
pub(super) struct Outcome {
    pub(super) output: Vec<u8>,
    pub(super) status: ExitStatus,
    command: String,
    tail: String,
}

impl Outcome {
    /// Standard output as text, without the space around it.
    pub(super) fn text(&self) -> String {
        String::from_utf8_lossy(&self.output).trim().to_owned()
    }

    /// Last lines of both streams.
    pub(super) fn tail(&self) -> &str {
        &self.tail
    }

    /// An error unless the exit code was 0.
    pub(super) fn success(self) -> Result<Self, ImageError> {
        if self.status.success() {
            return Ok(self);
        }
        Err(ImageError::Tool {
            command: self.command,
            status: self.status.to_string(),
            tail: self.tail,
        })
    }
}

impl Tool {
    pub(super) fn new(program: impl AsRef<OsStr>) -> Self {
        Self {
            program: program.as_ref().to_owned(),
            arguments: Vec::new(),
            environment: Vec::new(),
            input: Vec::new(),
            log: None,
            limit: LIMIT_DEFAULT,
        }
    }

    pub(super) fn arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.arguments.push(argument.as_ref().to_owned());
        self
    }

    pub(super) fn args<A: AsRef<OsStr>>(mut self, arguments: impl IntoIterator<Item = A>) -> Self {
        self.arguments.extend(
            arguments
                .into_iter()
                .map(|argument| argument.as_ref().to_owned()),
        );
        self
    }

    pub(super) fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.environment
            .push((name.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    /// What the program reads from standard input.
    pub(super) fn input(mut self, input: impl Into<Vec<u8>>) -> Self {
        self.input = input.into();
        self
    }

    /// Where all that it prints is kept.
    pub(super) fn log(mut self, log: &Path) -> Self {
        self.log = Some(log.to_owned());
        self
    }

    pub(super) fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Runs it to a good end.
    pub(super) fn run(self) -> Result<Outcome, ImageError> {
        self.outcome(None)?.success()
    }

    /// Runs it to a good end as a step that people see.
    pub(super) fn run_as(self, mut step: Step) -> Result<Outcome, ImageError> {
        match self.outcome(Some(&mut step)).and_then(Outcome::success) {
            Ok(outcome) => {
                step.done("");
                Ok(outcome)
            }
            Err(error) => {
                step.failed();
                Err(error)
            }
        }
    }

    /// Runs it to whatever end; only a program that cannot run or does not end is an error.
    pub(super) fn outcome(self, mut step: Option<&mut Step>) -> Result<Outcome, ImageError> {
        let command = self.command_line();
        let mut child = self.spawn()?;
        let lines = Arc::new(Mutex::new(Lines::open(self.log.as_deref())?));
        let input = child.stdin.take().map(|mut pipe| {
            let input = self.input.clone();
            // A program may end without having read everything.
            std::thread::spawn(move || drop(pipe.write_all(&input)))
        });
        let errors = child
            .stderr
            .take()
            .map(|pipe| read_lines(pipe, Arc::clone(&lines)));
        let output = child
            .stdout
            .take()
            .map(|pipe| read_output(pipe, Arc::clone(&lines)));

        let ended = self.wait(&mut child, &lines, &mut step);
        let timed_out = ended.is_none();
        let status = match ended {
            Some(status) => status,
            None => end(&mut child).map_err(file("end", Path::new(&self.program)))?,
        };
        if timed_out {
            // Grandchildren may hold the pipes open for ever, so the readers are left behind.
            let tail = lock(&lines).tail();
            return Err(ImageError::ToolTimedOut {
                command,
                limit: self.limit,
                tail,
            });
        }
        if let Some(errors) = errors {
            let _ = errors.join();
        }
        if let Some(input) = input {
            let _ = input.join();
        }
        let output = output
            .and_then(|reader| reader.join().ok())
            .unwrap_or_default();
        let tail = lock(&lines).tail();
        Ok(Outcome {
            output,
            status,
            command,
            tail,
        })
    }

    fn wait(
        &self,
        child: &mut Child,
        lines: &Mutex<Lines>,
        step: &mut Option<&mut Step>,
    ) -> Option<ExitStatus> {
        clock::wait_for(self.limit, || {
            if let Some(step) = step {
                step.tick(|| lock(lines).latest());
            }
            child.try_wait().ok().flatten()
        })
    }

    fn spawn(&self) -> Result<Child, ImageError> {
        let mut command = Command::new(&self.program);
        command
            .args(&self.arguments)
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(if self.input.is_empty() {
                Stdio::null()
            } else {
                Stdio::piped()
            })
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command.spawn().map_err(|source| match source.kind() {
            ErrorKind::NotFound => ImageError::NoTool {
                program: self.program.to_string_lossy().into_owned(),
            },
            _ => ImageError::File {
                attempt: "run",
                path: PathBuf::from(&self.program),
                source,
            },
        })
    }

    fn command_line(&self) -> String {
        let words = std::iter::once(&self.program).chain(&self.arguments);
        words
            .map(|word| word.to_string_lossy())
            .collect::<Vec<_>>()
            .join(" ")
    }
}

/// Asks a child to end as a terminal would, so that it can end its own children, and insists later.
fn end(child: &mut Child) -> std::io::Result<ExitStatus> {
    if let Ok(id) = i32::try_from(child.id()) {
        // It may have ended since.
        let _ = kill(Pid::from_raw(id), Signal::SIGINT);
    }
    if let Some(status) = clock::wait_for(END_GRACE, || child.try_wait().ok().flatten()) {
        return Ok(status);
    }
    child.kill()?;
    child.wait()
}

/// The last lines of what a program prints, and the file for all of them.
struct Lines {
    last: VecDeque<String>,
    log: Option<File>,
}

impl Lines {
    fn open(log: Option<&Path>) -> Result<Self, ImageError> {
        let log = match log {
            Some(path) => Some(File::create(path).map_err(file("create", path))?),
            None => None,
        };
        Ok(Self {
            last: VecDeque::new(),
            log,
        })
    }

    fn add(&mut self, line: &str) {
        if let Some(log) = &mut self.log {
            // The log is a convenience; a full disk shows in the program's own failure.
            let _ = writeln!(log, "{line}");
        }
        if self.last.len() == TAIL_LINES_MAX {
            self.last.pop_front();
        }
        self.last.push_back(line.to_owned());
    }

    fn latest(&self) -> String {
        self.last.back().cloned().unwrap_or_default()
    }

    fn tail(&self) -> String {
        self.last
            .iter()
            .map(|line| format!("  {line}"))
            .collect::<Vec<_>>()
            .join("\n")
    }
}

fn lock(lines: &Mutex<Lines>) -> MutexGuard<'_, Lines> {
    lines.lock().unwrap_or_else(PoisonError::into_inner)
}

fn read_lines(
    pipe: impl Read + Send + 'static,
    lines: Arc<Mutex<Lines>>,
) -> std::thread::JoinHandle<()> {
    std::thread::spawn(move || {
        let mut reader = BufReader::new(pipe);
        let mut line = Vec::new();
        while reader
            .read_until(b'\n', &mut line)
            .is_ok_and(|read| read > 0)
        {
            lock(&lines).add(String::from_utf8_lossy(&line).trim_end());
            line.clear();
        }
    })
}

fn read_output(
    pipe: impl Read + Send + 'static,
    lines: Arc<Mutex<Lines>>,
) -> std::thread::JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut reader = BufReader::new(pipe);
        let mut output = Vec::new();
        let mut line = Vec::new();
        while reader
            .read_until(b'\n', &mut line)
            .is_ok_and(|read| read > 0)
        {
            lock(&lines).add(String::from_utf8_lossy(&line).trim_end());
            if output.len() + line.len() <= OUTPUT_BYTES_MAX {
                output.extend_from_slice(&line);
            }
            line.clear();
        }
        output
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_names_the_command_its_code_and_its_last_lines() {
        let error = Tool::new("sh")
            .args(["-c", "echo first; echo last >&2; exit 7"])
            .run()
            .err();
        let text = error.expect("it exits with 7").to_string();
        assert!(text.contains("sh -c"), "{text}");
        assert!(text.contains("exit status: 7"), "{text}");
        assert!(text.contains("first") && text.contains("last"), "{text}");
    }

    #[test]
    fn a_program_that_is_not_there_is_named() {
        let error = Tool::new("no-such-program-of-ours")
            .run()
            .err()
            .expect("there is none");
        assert!(
            error
                .to_string()
                .starts_with("no-such-program-of-ours is not installed")
        );
    }

    #[test]
    fn a_program_that_does_not_end_is_ended() {
        let tool = Tool::new("sleep")
            .arg("600")
            .limit(Duration::from_millis(50));
        assert!(matches!(tool.run(), Err(ImageError::ToolTimedOut { .. })));
    }

    #[test]
    fn input_reaches_the_program_and_output_the_caller() {
        let outcome = Tool::new("cat")
            .input("two\nlines\n")
            .run()
            .expect("cat runs");
        assert_eq!(outcome.output, b"two\nlines\n");
        assert_eq!(outcome.text(), "two\nlines");
    }
}
