//! `provision backup`: save, list and prune snapshots of the database.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde_json::json;

use super::CommandError;
use super::defrag::{Held, hold_maintenance};
use super::prepare::{WhenMissing, configuration};
use crate::cli::Global;
use crate::exit_code::Exit;
use crate::maintenance::{self, Created};
use crate::member::Client;
use crate::output::{Output, StepStatus};
use crate::paths;
use crate::spec::{ByteSize, HttpUrl, Spec};

/// The name that the lines carry in the journal.
const PHASE: &str = "backup";

#[derive(Debug, Subcommand)]
pub(crate) enum BackupCommand {
    /// Save a snapshot: streamed aside, verified by its SHA-256, synced, then put in place
    Create(CreateArguments),
    /// List the backups, oldest first
    List(ListArguments),
    /// Remove the backups that the configuration's retention does not keep; never the newest
    Prune(PruneArguments),
}

#[derive(Debug, Args)]
pub(crate) struct CreateArguments {
    #[command(flatten)]
    place: Place,
    /// The member; otherwise the configuration's first client address
    #[arg(long, value_name = "URL")]
    endpoint: Option<HttpUrl>,
    /// Folder of the lock
    #[arg(long, value_name = "DIR", default_value = paths::MAINTENANCE_DIR, hide = true)]
    state_dir: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct ListArguments {
    #[command(flatten)]
    place: Place,
}

#[derive(Debug, Args)]
pub(crate) struct PruneArguments {
    #[command(flatten)]
    place: Place,
    /// Name what would be removed, and remove nothing
    #[arg(long)]
    dry_run: bool,
    /// Folder of the lock
    #[arg(long, value_name = "DIR", default_value = paths::MAINTENANCE_DIR, hide = true)]
    state_dir: PathBuf,
}

#[derive(Debug, Args)]
struct Place {
    /// The folder; otherwise the configuration's
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

impl Place {
    fn folder<'a>(&'a self, spec: &'a Spec) -> &'a Path {
        self.dir.as_deref().unwrap_or(spec.backup.dir.as_path())
    }
}

pub(crate) fn run(
    global: &Global,
    command: &BackupCommand,
    output: &Output,
) -> Result<Exit, CommandError> {
    let spec = configuration(global, WhenMissing::Defaults)?.spec;
    match command {
        BackupCommand::Create(arguments) => create(&spec, arguments, output),
        BackupCommand::List(arguments) => list(&spec, arguments, output),
        BackupCommand::Prune(arguments) => prune(&spec, arguments, output),
    }
}

fn create(spec: &Spec, arguments: &CreateArguments, output: &Output) -> Result<Exit, CommandError> {
    let Held::Yes(_lock) = hold_maintenance(&arguments.state_dir, true)? else {
        return Ok(deferred(output));
    };
    let url = arguments
        .endpoint
        .clone()
        .unwrap_or_else(|| spec.local_client());
    let mut client = Client::connect(&url)?;
    let limit = spec.backup.timeout.as_duration();
    let Created { path, info, took } =
        maintenance::create(&mut client, arguments.place.folder(spec), limit)?;
    let text = format!(
        "saved {} ({}, revision {} or later, verified, took {:.3} s)",
        path.display(),
        ByteSize::from_bytes(info.size).rounded(),
        info.revision,
        took.as_secs_f64()
    );
    output.log(
        StepStatus::Changed,
        PHASE,
        &text,
        json!({ "path": path, "size": info.size }),
    );
    output.result(json!({ "path": path, "backup": info }));
    Ok(Exit::Done)
}

fn list(spec: &Spec, arguments: &ListArguments, output: &Output) -> Result<Exit, CommandError> {
    let folder = arguments.place.folder(spec);
    let backups = maintenance::list(folder)?;
    for backup in &backups {
        output.event(json!({ "backup": backup }));
        let size = ByteSize::from_bytes(backup.size).rounded();
        let text = format!(
            "{}  {size:>10}  revision {:<12} {}",
            backup.time, backup.revision, backup.name
        );
        output.line(&text);
    }
    output.line(&format!(
        "{} backups in {}",
        backups.len(),
        folder.display()
    ));
    output.result(json!({ "count": backups.len(), "folder": folder }));
    Ok(Exit::Done)
}

fn prune(spec: &Spec, arguments: &PruneArguments, output: &Output) -> Result<Exit, CommandError> {
    let held = hold_maintenance(&arguments.state_dir, !arguments.dry_run)?;
    if matches!(held, Held::ByAnother) {
        return Ok(deferred(output));
    }
    let folder = arguments.place.folder(spec);
    let removed = maintenance::prune(folder, spec.backup.retention, arguments.dry_run)?;
    let (status, word) = match arguments.dry_run {
        true => (StepStatus::Pending, "would remove"),
        false => (StepStatus::Changed, "removed"),
    };
    for name in &removed {
        output.log(
            status,
            PHASE,
            &format!("{word} {name}"),
            json!({ "name": name }),
        );
    }
    let kept = maintenance::list(folder)?.len();
    let kept = if arguments.dry_run {
        kept - removed.len()
    } else {
        kept
    };
    let text = format!("{word} {} backups, {kept} kept", removed.len());
    output.log(
        StepStatus::Ok,
        PHASE,
        &text,
        json!({ "removed": removed.len(), "kept": kept }),
    );
    output.result(json!({ "removed": removed, "kept": kept }));
    Ok(Exit::Done)
}

fn deferred(output: &Output) -> Exit {
    let text = "another maintenance command is at work; not now";
    output.log(StepStatus::Skipped, PHASE, text, json!({}));
    output.result(json!({ "deferred": text }));
    Exit::Deferred
}
