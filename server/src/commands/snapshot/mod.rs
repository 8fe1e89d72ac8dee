//! `holdfast snapshot`: backups in etcd's form, from a member to a file and from a file to a new cluster.

mod fetch;
mod file;
mod rebuild;
mod restore;
mod save;
mod status;

use std::ffi::OsString;

use clap::{Parser, Subcommand};

use super::{Ended, parse};

pub use rebuild::{HashCheck, check_backup};

/// Saves, looks at and restores backups. A backup is the database followed by its SHA-256, as etcdctl
/// and etcdutl write and read it too.
#[derive(Parser)]
#[command(name = "holdfast snapshot", disable_version_flag = true)]
struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    Save(save::Arguments),
    Status(status::Arguments),
    Restore(restore::Arguments),
}

pub(super) fn run(arguments: &[OsString]) -> Result<String, Ended> {
    let arguments: Arguments = parse("holdfast snapshot", arguments)?;
    Ok(match arguments.what {
        What::Save(arguments) => save::run(&arguments)?,
        What::Status(arguments) => status::run(&arguments)?,
        What::Restore(arguments) => restore::run(&arguments)?,
    })
}
