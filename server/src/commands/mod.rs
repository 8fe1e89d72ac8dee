//! The tools beside the server: `holdfast WORD …`. They work on the data of a stopped member, or fetch
//! a snapshot from a running one.

mod check;
mod defrag;
mod failure;
mod hashkv;
mod inspect;
mod snapshot;
mod written;

pub use failure::Failure;
pub use snapshot::{HashCheck, check_backup};

use std::ffi::OsString;
use std::io::{self, Write};
use std::process::ExitCode;

use clap::Parser;

/// One of the tools.
pub struct Tool {
    /// The word that calls it.
    pub word: &'static str,
    /// What it is for, in one line of `holdfast --help`.
    pub summary: &'static str,
    /// Does it, and returns what is to be printed.
    run: fn(&[OsString]) -> Result<String, Ended>,
}

/// All tools, in the order of the help.
pub const TOOLS: [Tool; 5] = [
    Tool {
        word: "snapshot",
        summary: "save, look at and restore backups",
        run: snapshot::run,
    },
    Tool {
        word: "check",
        summary: "read all of a stopped member's data and say whether it is sound",
        run: check::run,
    },
    Tool {
        word: "defrag",
        summary: "make a stopped member's database as small as it can be",
        run: defrag::run,
    },
    Tool {
        word: "hashkv",
        summary: "the hash over a stopped member's keys, to compare members by",
        run: hashkv::run,
    },
    Tool {
        word: "inspect",
        summary: "look at pages, keys and log records of a stopped member",
        run: inspect::run,
    },
];

/// Why a tool prints no result.
enum Ended {
    /// Help was asked for, or the arguments cannot be right.
    Arguments(clap::Error),
    /// It could not do what it was asked.
    Failed(Failure),
}

impl<F: Into<Failure>> From<F> for Ended {
    fn from(failure: F) -> Ended {
        Ended::Failed(failure.into())
    }
}

impl Tool {
    /// The tool that `word` calls.
    pub fn called(word: &str) -> Option<&'static Tool> {
        TOOLS.iter().find(|tool| tool.word == word)
    }

    /// Runs it; its arguments come without the program's name and the word.
    pub fn run(&self, arguments: &[OsString]) -> ExitCode {
        match (self.run)(arguments) {
            Ok(text) => print(&text),
            Err(Ended::Arguments(error)) => {
                // Help goes to standard output, refusals to standard error; either may be closed.
                let _ = error.print();
                ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2))
            }
            Err(Ended::Failed(failure)) => {
                eprintln!("holdfast {}: {failure}", self.word);
                ExitCode::from(failure.exit_code())
            }
        }
    }
}

/// Reads the arguments of the tool that `name` calls, as in "holdfast check".
fn parse<A: Parser>(name: &str, arguments: &[OsString]) -> Result<A, Ended> {
    let named = [OsString::from(name)]
        .into_iter()
        .chain(arguments.iter().cloned());
    A::try_parse_from(named).map_err(Ended::Arguments)
}

/// A reader that closes its end early, as `head` does, is no failure.
fn print(text: &str) -> ExitCode {
    match io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => ExitCode::FAILURE,
        _ => ExitCode::SUCCESS,
    }
}
