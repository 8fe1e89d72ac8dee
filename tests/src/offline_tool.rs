//! Runs holdfast's own tools: `holdfast snapshot`, `check` and the like.

use std::ffi::OsStr;
use std::process::Command;

use crate::tools;

/// What a tool left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ran {
    /// Its exit code.
    pub code: i32,
    /// What it printed.
    pub printed: String,
    /// What it said on standard error.
    pub errors: String,
}

impl Ran {
    /// What it printed, after success.
    ///
    /// # Panics
    /// If it failed.
    pub fn success(self) -> String {
        assert_eq!(self.code, 0, "{}{}", self.printed, self.errors);
        self.printed
    }

    /// What it said, after a failure with this exit code.
    ///
    /// # Panics
    /// If it ended otherwise.
    pub fn refusal(self, code: i32) -> String {
        assert_eq!(self.code, code, "{}{}", self.printed, self.errors);
        assert_eq!(self.printed, "", "a refusal prints no result");
        self.errors
    }
}

/// The command line of a tool, without the variables that it would read.
pub fn command<I, S>(arguments: I) -> Command
where
    I: IntoIterator<Item = S>,
    S: AsRef<OsStr>,
{
    let mut command = Command::new(tools::holdfast());
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("ETCD") {
            command.env_remove(name);
        }
    }
    command.args(arguments);
    command
}

/// Runs a tool to its end.
///
/// # Panics
/// If it cannot be run, or a signal ended it.
pub fn run<I, S>(arguments: I) -> Ran
where
    I: IntoIterator<Item = S>,
    S: AsRef<OsStr>,
{
    let output = command(arguments).output().expect("the tool can be run");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ran {
        code: output.status.code().expect("no signal ended it"),
        printed: text(&output.stdout),
        errors: text(&output.stderr),
    }
}
