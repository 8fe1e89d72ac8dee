//! `provision defrag`: what the timer calls, and a person at a quiet time.

use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::{Value, json};

use super::CommandError;
use super::prepare::{WhenMissing, configuration};
use crate::check;
use crate::cli::Global;
use crate::exit_code::Exit;
use crate::host::{clock, lock};
use crate::maintenance::{
    self, Circumstances, Decision, LastDefrag, MaintenanceError, decide, fragmentation,
};
use crate::member::{Alarm, Client, MemberError, MemberStatus};
use crate::output::{Output, StepStatus};
use crate::paths;
use crate::spec::{HttpUrl, Spec};

/// The name that the lines carry in the journal.
const PHASE: &str = "defrag";

#[derive(Debug, Args)]
pub(crate) struct DefragArguments {
    /// Print the decision and its reasons, and touch nothing
    #[arg(long)]
    plan: bool,
    /// Do it whatever the thresholds, the interval and the expected pause say
    #[arg(long, conflicts_with = "plan")]
    now: bool,
    /// The member; otherwise the configuration's first client address
    #[arg(long, value_name = "URL")]
    endpoint: Option<HttpUrl>,
    /// Folder of the history and the lock
    #[arg(long, value_name = "DIR", default_value = paths::MAINTENANCE_DIR, hide = true)]
    state_dir: PathBuf,
}

pub(crate) fn run(
    global: &Global,
    arguments: &DefragArguments,
    output: &Output,
) -> Result<Exit, CommandError> {
    let spec = configuration(global, WhenMissing::Defaults)?.spec;
    let url = arguments
        .endpoint
        .clone()
        .unwrap_or_else(|| spec.local_client());
    let _lock = match hold_maintenance(&arguments.state_dir, !arguments.plan)? {
        Held::Yes(lock) => Some(lock),
        Held::NotNeeded => None,
        Held::ByAnother => {
            let text = "another maintenance command is at work; not now";
            output.log(
                StepStatus::Skipped,
                PHASE,
                text,
                json!({ "decision": "defer" }),
            );
            output.result(json!({ "decision": "defer", "why": text }));
            return Ok(Exit::Deferred);
        }
    };
    let mut client = Client::connect(&url)?;
    let status = client.status()?;
    let alarms = alarms(&mut client)?;
    let history = history_path(&arguments.state_dir);
    let circumstances = Circumstances {
        settings: &spec.defrag,
        status: &status,
        alarms: &alarms,
        quota: status.quota.unwrap_or(spec.quota),
        room: room(&spec, arguments),
        last: maintenance::last_defrag(&history)?,
        unix_seconds: clock::unix_seconds(),
        disabled: Path::new(paths::DEFRAG_DISABLED).exists(),
        asked_for: arguments.now,
    };
    log_before(&url, &circumstances, output);
    let decision = decide(&circumstances);
    match decision {
        Decision::Skip { why } => Ok(end(output, "skip", &why, Exit::Done)),
        Decision::Defer { why } => Ok(end(output, "defer", &why, Exit::Deferred)),
        Decision::Unfit { why } => {
            output.result(json!({ "decision": "refuse", "why": why }));
            Err(MaintenanceError::Unfit {
                url: url.to_string(),
                why,
            }
            .into())
        }
        Decision::Run { why, forecast } => {
            let text = format!(
                "{why}; a pause of about {:.1} s is expected",
                forecast.as_secs_f64()
            );
            if arguments.plan {
                return Ok(end(output, "run", &text, Exit::Done));
            }
            let facts = json!({ "decision": "run", "forecast_s": forecast.as_secs_f64() });
            output.log(StepStatus::Ok, PHASE, &text, facts);
            defragment(&mut client, &spec, &status, &history, output)
        }
    }
}

/// Whether the maintenance lock is held.
pub(super) enum Held {
    Yes(lock::Lock),
    NotNeeded,
    ByAnother,
}

/// Keeps maintenance commands apart; a command that only looks needs no lock.
pub(super) fn hold_maintenance(folder: &Path, needed: bool) -> Result<Held, CommandError> {
    if !needed {
        return Ok(Held::NotNeeded);
    }
    let name = Path::new(paths::MAINTENANCE_LOCK)
        .file_name()
        .unwrap_or_default();
    Ok(match lock::try_lock(&folder.join(name))? {
        Some(lock) => Held::Yes(lock),
        None => Held::ByAnother,
    })
}

fn history_path(folder: &Path) -> PathBuf {
    folder.join(
        Path::new(paths::DEFRAG_HISTORY)
            .file_name()
            .unwrap_or_default(),
    )
}

/// A server without alarms says so; that is no alarm.
fn alarms(client: &mut Client) -> Result<Vec<Alarm>, MemberError> {
    match client.alarms() {
        Err(MemberError::Refused {
            code: tonic::Code::Unimplemented,
            ..
        }) => Ok(Vec::new()),
        other => other,
    }
}

/// Only the member's own host knows the room on its disk.
fn room(spec: &Spec, arguments: &DefragArguments) -> Option<crate::spec::ByteSize> {
    if arguments.endpoint.is_some() {
        return None;
    }
    let found = nix::sys::statvfs::statvfs(&check::existing_ancestor(spec.data_dir.as_path()));
    found.ok().map(|found| {
        let bytes = found
            .blocks_available()
            .saturating_mul(found.fragment_size());
        crate::spec::ByteSize::from_bytes(bytes)
    })
}

fn log_before(url: &HttpUrl, circumstances: &Circumstances<'_>, output: &Output) {
    let status = circumstances.status;
    let text = format!(
        "before: {url} member {:x}, size {}, in use {}, {:.0} % free, quota {}",
        status.member_id,
        status.size.rounded(),
        status.in_use.rounded(),
        fragmentation(status) * 100.0,
        circumstances.quota.rounded()
    );
    output.log(StepStatus::Ok, PHASE, &text, sizes(status));
}

fn sizes(status: &MemberStatus) -> Value {
    json!({ "size": status.size.bytes(), "in_use": status.in_use.bytes() })
}

fn defragment(
    client: &mut Client,
    spec: &Spec,
    before: &MemberStatus,
    history: &Path,
    output: &Output,
) -> Result<Exit, CommandError> {
    let began = clock::now();
    client.defragment(spec.defrag.timeout.as_duration())?;
    let took = began.elapsed();
    let after = client.status()?;
    let returned = before.size.bytes().saturating_sub(after.size.bytes());
    let returned = crate::spec::ByteSize::from_bytes(returned);
    let text = format!(
        "after: size {}, in use {}, {} returned to the disk, took {:.3} s",
        after.size.rounded(),
        after.in_use.rounded(),
        returned.rounded(),
        took.as_secs_f64()
    );
    output.log(StepStatus::Changed, PHASE, &text, sizes(&after));
    let defrag = LastDefrag {
        unix_seconds: clock::unix_seconds(),
        size_before: before.size.bytes(),
        size_after: after.size.bytes(),
        in_use: after.in_use.bytes(),
        took_ms: u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
    };
    maintenance::remember_defrag(history, defrag)?;
    output.result(json!({
        "decision": "run",
        "size_before": defrag.size_before,
        "size_after": defrag.size_after,
        "took_ms": defrag.took_ms,
    }));
    Ok(Exit::Done)
}

fn end(output: &Output, decision: &str, why: &str, exit: Exit) -> Exit {
    let status = if decision == "run" {
        StepStatus::Pending
    } else {
        StepStatus::Skipped
    };
    output.log(
        status,
        PHASE,
        &format!("{decision}: {why}"),
        json!({ "decision": decision }),
    );
    output.result(json!({ "decision": decision, "why": why }));
    exit
}
