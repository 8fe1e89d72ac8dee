//! `provision plan`: what apply would do, step by step.

use serde_json::json;

use super::CommandError;
use super::prepare::{Prepared, WhenMissing, prepare};
use crate::cli::{Global, PlanArguments};
use crate::exit_code::Exit;
use crate::output::{Output, StepLine, StepStatus};
use crate::plan::{Goal, Options, Plan, plan};

pub(crate) fn run(
    global: &Global,
    arguments: &PlanArguments,
    output: &Output,
) -> Result<Exit, CommandError> {
    let prepared = prepare(global, WhenMissing::Refuse)?;
    let plan = make(&prepared, Goal::InPlace, arguments.overwrite_drift);
    Ok(show(&plan, output, "provision apply"))
}

/// The plan for a prepared target.
pub(super) fn make(prepared: &Prepared, goal: Goal, overwrite_drift: bool) -> Plan {
    let client = prepared.configuration.spec.local_client();
    plan(
        &prepared.desired,
        &prepared.facts,
        &Options {
            goal,
            overwrite_drift,
            client,
        },
    )
}

/// Prints a plan; `next` is the command that carries it out.
pub(super) fn show(plan: &Plan, output: &Output, next: &str) -> Exit {
    for step in &plan.steps {
        output.step(&StepLine {
            status: StepStatus::Pending,
            phase: step.phase().name(),
            detail: &step.to_string(),
            elapsed: None,
            facts: step.facts(),
        });
    }
    show_conflicts(plan, output);
    output.result(json!({
        "in_sync": plan.is_idle(),
        "steps": plan.steps.len(),
        "conflicts": plan.conflicts.len(),
        "resumes": plan.resumes,
    }));
    if plan.is_idle() {
        output.line("In sync: nothing to do.");
        return Exit::Done;
    }
    if plan.resumes {
        output.line("An earlier run was cut off; these steps finish its work.");
    }
    let steps = plan.steps.len();
    match plan.conflicts.is_empty() {
        true => output.line(&format!("{steps} steps pending. Next: {next}")),
        false => output.line(&format!(
            "{steps} steps pending, {} files in the way. Next: bring the changes into the configuration, or: {next} --overwrite-drift",
            plan.conflicts.len()
        )),
    }
    Exit::ChangesPending
}

/// Prints what keeps a plan from being carried out.
pub(super) fn show_conflicts(plan: &Plan, output: &Output) {
    for conflict in &plan.conflicts {
        output.step(&StepLine {
            status: StepStatus::Warning,
            phase: "drift",
            detail: &conflict.to_string(),
            elapsed: None,
            facts: json!({ "path": conflict.path }),
        });
    }
}
