//! The command line: what was typed, and which command it starts.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::error::ErrorKind;
use clap::{Args, Parser, Subcommand};

use crate::commands;
use crate::exit_code::Exit;
use crate::image;
use crate::output::Output;
use crate::paths;
use crate::spec::Profile;

/// Exit codes, for the end of the help.
const EXIT_CODES: &str = "\
Exit codes:
  0 done, or nothing to do          5 deferred, or a lock is held
  1 failed                          6 the member is not healthy
  2 a check of the host failed      7 partly done; run again to go on
  3 bad configuration or usage      8 refused, data could be lost
  4 changes pending, or drift       9 verification failed";

/// Sets up machines and bakes images that run holdfast.
#[derive(Debug, Parser)]
#[command(name = "provision", version, after_help = EXIT_CODES, max_term_width = 100)]
struct CommandLine {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// What every command takes.
#[derive(Debug, Args)]
pub(crate) struct Global {
    /// Print one JSON object a line, for machines
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// The configuration
    #[arg(long, global = true, value_name = "FILE", default_value = paths::CONFIG_FILE)]
    pub(crate) config: PathBuf,
    /// Override the configuration's profile
    #[arg(long, global = true, value_name = "PROFILE")]
    pub(crate) profile: Option<Profile>,
    /// Work on the directory tree DIR instead of this host: files and unit links only, nothing is
    /// started. With --root / the tree is this host's own, as when an image is baked from inside
    #[arg(long, global = true, value_name = "DIR")]
    pub(crate) root: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Print a commented configuration with a profile's defaults
    InitConfig,
    /// Write all files below a folder, laid out as on the target, and touch nothing else
    Render(RenderArguments),
    /// Print what apply would do
    Plan(PlanArguments),
    /// Put files, user, folders and units in place; restart a running server if it must be
    Apply(ApplyArguments),
    /// Judge this host: disk, memory, clock, limits, ports
    Check,
    /// From a fresh host to a server that answers: check, apply, start, wait, timers
    Bootstrap(BootstrapArguments),
    /// Show configuration, units, member, backups and maintenance at a glance
    Status,
    /// Give free space of the database back to the disk, if it is worth it
    Defrag(commands::defrag::DefragArguments),
    /// Save, list and prune snapshots of the database
    #[command(subcommand)]
    Backup(commands::backup::BackupCommand),
    /// Bake bootable images and prove them
    #[command(subcommand)]
    Image(image::ImageCommand),
}

#[derive(Debug, Args)]
pub(crate) struct RenderArguments {
    /// The folder, made if missing
    #[arg(long, value_name = "DIR")]
    pub(crate) out: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct PlanArguments {
    /// Plan to overwrite files that were edited by hand
    #[arg(long)]
    pub(crate) overwrite_drift: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ApplyArguments {
    /// Print the plan and touch nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Overwrite files that were edited by hand; they are kept beside as NAME.orig-TIME
    #[arg(long)]
    pub(crate) overwrite_drift: bool,
}

#[derive(Debug, Args)]
pub(crate) struct BootstrapArguments {
    /// Print the plan and touch nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Overwrite files that were edited by hand; they are kept beside as NAME.orig-TIME
    #[arg(long)]
    pub(crate) overwrite_drift: bool,
}

/// Runs the command of `arguments`, whose first is the program's name.
pub(crate) fn run(arguments: impl IntoIterator<Item = OsString>) -> Exit {
    let line = match CommandLine::try_parse_from(arguments) {
        Ok(line) => line,
        Err(error) => {
            // Nobody is left to tell when the streams are closed.
            let _ = error.print();
            return match error.kind() {
                ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => Exit::Done,
                _ => Exit::BadConfiguration,
            };
        }
    };
    let output = Output::from_process(line.global.json);
    let global = &line.global;
    let ended = match &line.command {
        Command::InitConfig => commands::init_config::run(global, &output),
        Command::Render(arguments) => commands::render::run(global, arguments, &output),
        Command::Plan(arguments) => commands::plan::run(global, arguments, &output),
        Command::Apply(arguments) => commands::apply::run(global, arguments, &output),
        Command::Check => commands::check::run(global, &output),
        Command::Bootstrap(arguments) => commands::bootstrap::run(global, arguments, &output),
        Command::Status => commands::status::run(global, &output),
        Command::Defrag(arguments) => commands::defrag::run(global, arguments, &output),
        Command::Backup(command) => commands::backup::run(global, command, &output),
        Command::Image(command) => Ok(image::run(command, &output)),
    };
    ended.unwrap_or_else(|error| {
        output.error(&error.to_string());
        error.exit()
    })
}
