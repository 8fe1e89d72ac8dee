//! `provision apply`: the plan, carried out.

use serde_json::json;

use super::prepare::{Prepared, WhenMissing, lock_host, prepare};
use super::{CommandError, plan};
use crate::cli::{ApplyArguments, Global};
use crate::exit_code::Exit;
use crate::host::{ApplyError, Carried, carry_out};
use crate::output::{Output, StepLine, StepStatus};
use crate::plan::{Goal, Plan};

pub(crate) fn run(
    global: &Global,
    arguments: &ApplyArguments,
    output: &Output,
) -> Result<Exit, CommandError> {
    // A tree can be prepared before anybody has written a configuration into it.
    let when_missing = if global.root.is_some() {
        WhenMissing::Defaults
    } else {
        WhenMissing::Refuse
    };
    if arguments.dry_run {
        let prepared = prepare(global, when_missing)?;
        let plan = plan::make(&prepared, Goal::InPlace, arguments.overwrite_drift);
        return Ok(plan::show(&plan, output, "provision apply"));
    }
    let _lock = lock_host(global)?;
    let mut prepared = prepare(global, when_missing)?;
    let plan = plan::make(&prepared, Goal::InPlace, arguments.overwrite_drift);
    if !plan.conflicts.is_empty() {
        return Ok(plan::show(&plan, output, "provision apply"));
    }
    carry(&mut prepared, &plan, output)?;
    output.result(json!({ "changed": plan.steps.len(), "in_sync": true }));
    if plan.is_idle() {
        output.line("In sync: nothing changed.");
    } else {
        let next = match &global.root {
            None => "provision status",
            Some(_) => "boot the tree, or boot the image made of it",
        };
        output.line(&format!("{} steps done. Next: {next}", plan.steps.len()));
    }
    Ok(Exit::Done)
}

/// Carries a plan without conflicts out and prints each step.
pub(super) fn carry(
    prepared: &mut Prepared,
    plan: &Plan,
    output: &Output,
) -> Result<(), ApplyError> {
    if plan.resumes && !plan.steps.is_empty() {
        output.progress("An earlier run was cut off; going on from there.");
    }
    let mut report = |carried: &Carried<'_>| {
        output.step(&StepLine {
            status: if carried.failed {
                StepStatus::Failed
            } else {
                StepStatus::Changed
            },
            phase: carried.step.phase().name(),
            detail: &carried.step.to_string(),
            elapsed: Some(carried.elapsed),
            facts: carried.step.facts(),
        });
    };
    carry_out(&mut prepared.host, &prepared.desired, plan, &mut report)
}
