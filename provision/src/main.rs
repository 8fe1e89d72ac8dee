//! Sets up machines and bakes images that run holdfast.
//!
//! One engine serves a live host, a directory tree (an image being baked) and a dry run: a checked
//! [`spec`] and the gathered [`facts`] make a [`plan`], and the [`host`] carries it out.

mod check;
mod cli;
mod commands;
mod exit_code;
mod facts;
mod host;
mod image;
mod maintenance;
mod member;
mod output;
mod paths;
mod plan;
mod render;
mod spec;
mod state;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::run(std::env::args_os()).into()
}
