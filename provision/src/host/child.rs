//! Child processes: arguments never pass a shell, each has a limit of time, what they print is kept.

use std::ffi::OsString;
use std::io::Read;
use std::process::{Command, Stdio};
use std::time::Duration;

use super::clock;

/// What is kept of each stream; the rest is read and dropped.
const OUTPUT_BYTES_MAX: usize = 1 << 20;
/// systemd's tools answer in well under a second; a busy host may need a hundred times that.
const LIMIT: Duration = Duration::from_secs(120);

/// A program about to be run.
#[derive(Clone, Debug)]
pub(crate) struct Child {
    program: &'static str,
    arguments: Vec<OsString>,
}

/// How a program ended.
#[derive(Clone, Debug)]
pub(crate) struct Ended {
    /// Absent when a signal ended it.
    pub(crate) code: Option<i32>,
    pub(crate) output: String,
    pub(crate) errors: String,
    command: String,
}

/// Why a program did not do its work.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ChildError {
    /// It is not installed.
    #[error("{program} is not installed; install the Debian package {package}")]
    Missing {
        program: &'static str,
        package: &'static str,
    },
    /// It could not be run.
    #[error("cannot run {program}: {source}")]
    NotRun {
        program: &'static str,
        source: std::io::Error,
    },
    /// It ended with an error.
    #[error("{command} ended with {status}: {message}")]
    Failed {
        command: String,
        status: String,
        message: String,
    },
    /// It did not end.
    #[error("{command} did not end within {} s", .limit.as_secs())]
    TimedOut { command: String, limit: Duration },
}

impl Child {
    pub(crate) fn new(program: &'static str) -> Child {
        Child {
            program,
            arguments: Vec::new(),
        }
    }

    pub(crate) fn arg(mut self, argument: impl Into<OsString>) -> Child {
        self.arguments.push(argument.into());
        self
    }

    pub(crate) fn args<A: Into<OsString>>(
        mut self,
        arguments: impl IntoIterator<Item = A>,
    ) -> Child {
        self.arguments.extend(arguments.into_iter().map(Into::into));
        self
    }

    /// Runs it to a good end.
    ///
    /// # Errors
    /// When it cannot run, does not end in time, or ends with another code than 0.
    pub(crate) fn succeed(self) -> Result<Ended, ChildError> {
        let ended = self.end()?;
        if ended.code == Some(0) {
            Ok(ended)
        } else {
            Err(ended.into_error())
        }
    }

    /// Runs it to whatever end.
    ///
    /// # Errors
    /// When it cannot run or does not end in time.
    pub(crate) fn end(self) -> Result<Ended, ChildError> {
        let command = self.command_line();
        let mut child = Command::new(self.program)
            .args(&self.arguments)
            .env("LC_ALL", "C")
            .env("SYSTEMD_COLORS", "0")
            .env("SYSTEMD_PAGER", "")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|source| match source.kind() {
                std::io::ErrorKind::NotFound => ChildError::Missing {
                    program: self.program,
                    package: package_of(self.program),
                },
                _ => ChildError::NotRun {
                    program: self.program,
                    source,
                },
            })?;
        let output = child
            .stdout
            .take()
            .map(|pipe| std::thread::spawn(move || read_some(pipe)));
        let errors = child
            .stderr
            .take()
            .map(|pipe| std::thread::spawn(move || read_some(pipe)));
        let Some(status) = clock::wait_for(LIMIT, || child.try_wait().ok().flatten()) else {
            // It may end by itself in this instant; then there is nothing to kill.
            let _ = child.kill();
            let _ = child.wait();
            return Err(ChildError::TimedOut {
                command,
                limit: LIMIT,
            });
        };
        let text = |reader: Option<std::thread::JoinHandle<String>>| {
            reader
                .and_then(|reader| reader.join().ok())
                .unwrap_or_default()
        };
        Ok(Ended {
            code: status.code(),
            output: text(output),
            errors: text(errors),
            command,
        })
    }

    fn command_line(&self) -> String {
        let mut line = self.program.to_owned();
        for argument in &self.arguments {
            line.push(' ');
            line.push_str(&argument.to_string_lossy());
        }
        line
    }
}

impl Ended {
    /// Both streams, for a message.
    pub(crate) fn message(&self) -> String {
        [self.errors.trim(), self.output.trim()]
            .into_iter()
            .filter(|text| !text.is_empty())
            .collect::<Vec<_>>()
            .join("\n")
    }

    pub(crate) fn into_error(self) -> ChildError {
        let status = match self.code {
            Some(code) => format!("exit code {code}"),
            None => "a signal".to_owned(),
        };
        let message = self.message();
        ChildError::Failed {
            command: self.command,
            status,
            message,
        }
    }
}

fn read_some(mut pipe: impl Read) -> String {
    let mut bytes = Vec::new();
    let limit = u64::try_from(OUTPUT_BYTES_MAX).unwrap_or(u64::MAX);
    // A stream that breaks ends what we know of it; the exit code decides.
    let _ = (&mut pipe).take(limit).read_to_end(&mut bytes);
    let _ = std::io::copy(&mut pipe, &mut std::io::sink());
    String::from_utf8_lossy(&bytes).into_owned()
}

fn package_of(program: &str) -> &'static str {
    match program {
        "systemctl" | "systemd-analyze" | "systemd-sysusers" | "journalctl" => "systemd",
        "timedatectl" => "systemd",
        "chronyc" => "chrony",
        _ => "that has it (apt-file search)",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_program_is_named_with_its_package() {
        let error = Child::new("no-such-program-here")
            .succeed()
            .expect_err("missing");
        assert!(matches!(error, ChildError::Missing { .. }), "{error}");
    }

    #[test]
    fn a_failed_program_is_named_with_its_arguments_code_and_words() {
        let error = Child::new("sh")
            .args(["-c", "echo why >&2; exit 7"])
            .succeed()
            .expect_err("7");
        let text = error.to_string();
        assert!(
            text.contains("sh -c") && text.contains("exit code 7: why"),
            "{text}"
        );
    }
}
