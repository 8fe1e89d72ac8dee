//! `provision bootstrap`: from a fresh host to a server that answers.

use serde_json::json;

use super::prepare::{Prepared, WhenMissing, lock_host, prepare};
use super::{CommandError, apply, check, plan};
use crate::cli::{BootstrapArguments, Global};
use crate::exit_code::Exit;
use crate::host::HostError;
use crate::member::{self, Client};
use crate::output::{Output, StepLine, StepStatus};
use crate::plan::{Goal, Plan};
use crate::render::SERVER_UNIT;
use crate::{paths, spec};

pub(crate) fn run(
    global: &Global,
    arguments: &BootstrapArguments,
    output: &Output,
) -> Result<Exit, CommandError> {
    if global.root.is_some() {
        let message =
            "bootstrap works on the host it runs on; a tree takes apply --root".to_owned();
        return Err(CommandError::Usage(message));
    }
    if arguments.dry_run {
        let prepared = prepare(global, WhenMissing::Defaults)?;
        let plan = plan::make(&prepared, Goal::Serving, arguments.overwrite_drift);
        show_check(&prepared, &plan, output);
        return Ok(plan::show(&plan, output, "provision bootstrap"));
    }
    let _lock = lock_host(global)?;
    let mut prepared = prepare(global, WhenMissing::Defaults)?;
    require_binary(&prepared)?;
    let plan = plan::make(&prepared, Goal::Serving, arguments.overwrite_drift);
    if !plan.conflicts.is_empty() {
        return Ok(plan::show(&plan, output, "provision bootstrap"));
    }
    if !plan.is_idle() {
        output.progress("Checking this host (the disk probe takes up to ten seconds)");
        if check::has_failed(&check::findings(&prepared.configuration.spec, output)) {
            output.error(
                "a check failed, nothing was changed; mend what is named above, or answer it in [preflight] skip, or use --profile dev on a machine to try things on",
            );
            output.result(json!({ "failed": "check" }));
            return Ok(Exit::CheckFailed);
        }
        apply::carry(&mut prepared, &plan, output)?;
    }
    prove(&prepared, &plan, output)
}

/// The check comes first and is part of the plan; on a host that is in sync it is left out.
fn show_check(prepared: &Prepared, plan: &Plan, output: &Output) {
    if plan.is_idle() {
        return;
    }
    output.step(&StepLine {
        status: StepStatus::Pending,
        phase: "check",
        detail: &format!(
            "make {} checks of this host with profile {}",
            spec::CheckId::ALL.len(),
            prepared.configuration.spec.profile
        ),
        elapsed: None,
        facts: json!({ "action": "check" }),
    });
}

fn require_binary(prepared: &Prepared) -> Result<(), CommandError> {
    use crate::host::{Entry, Host};
    match prepared.host.entry(paths::SERVER_BINARY)? {
        Entry::Missing => Err(CommandError::Usage(format!(
            "{} is not there; install the package or copy the binary first",
            paths::SERVER_BINARY
        ))),
        _ => Ok(()),
    }
}

/// Asks the server itself, whether or not anything was changed.
fn prove(prepared: &Prepared, plan: &Plan, output: &Output) -> Result<Exit, CommandError> {
    let spec = &prepared.configuration.spec;
    let url = spec.local_client();
    let health = member::health(&url).map_err(|error| {
        HostError::NotServing(format!(
            "everything is in place, but {error}; look at: systemctl status {SERVER_UNIT}, journalctl -u {SERVER_UNIT}"
        ))
    })?;
    if !health.is_healthy() {
        let text = format!("{url} answers that it is not healthy: {}", health.reason);
        return Err(HostError::NotServing(text).into());
    }
    let status = Client::connect(&url)?.status()?;
    output.result(json!({
        "changed": plan.steps.len(),
        "in_sync": true,
        "url": url.to_string(),
        "member_id": format!("{:x}", status.member_id),
        "cluster_id": format!("{:x}", status.cluster_id),
        "revision": status.revision,
    }));
    if plan.is_idle() {
        output.line(
            "Nothing changed: the host is as the configuration says, and the server answers.",
        );
    } else {
        output.line(&format!(
            "{} steps done, and the server answers.",
            plan.steps.len()
        ));
    }
    output.line(&format!(
        "  member {:x} of cluster {:x}, etcd {} at {url}, revision {}",
        status.member_id, status.cluster_id, status.version, status.revision
    ));
    output.line(&format!(
        "  data in {}, configuration in {}",
        spec.data_dir,
        paths::CONFIG_FILE
    ));
    output.line(&format!(
        "Next: etcdctl --endpoints={url} put hello world, and: provision status"
    ));
    Ok(Exit::Done)
}
