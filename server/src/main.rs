//! The `holdfast` binary: `serve`, and the tools beside it.

use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;

use holdfast::commands::Tool;
use holdfast::config::{Config, Invocation, Refusal};
use holdfast::serve;

/// glibc's allocator stalls for up to 0.2 s when a compaction has freed a large part of the key index,
/// and takes twice as long for puts; measured with mvcc's example `costs`.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let mut arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    let word = arguments.first().and_then(|word| word.to_str());
    if let Some(tool) = word.and_then(Tool::called) {
        return tool.run(&arguments[1..]);
    }
    if word == Some("serve") {
        arguments.remove(0);
    }
    let environment: Vec<(OsString, OsString)> = std::env::vars_os().collect();
    match Config::from_process(&arguments, &environment) {
        Ok(Invocation::Serve(config)) => serve::run(*config),
        Ok(Invocation::Print(text)) => print(&text),
        Err(refusal) => {
            eprintln!("holdfast: {refusal}");
            ExitCode::from(Refusal::EXIT_CODE)
        }
    }
}

/// A reader that closes its end early, as `head` does, is no failure.
fn print(text: &str) -> ExitCode {
    match writeln!(std::io::stdout(), "{text}") {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}
