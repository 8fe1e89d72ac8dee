//! Takes the steps of a plan, one after the other; undoes them when one fails before the server is
//! touched.

use std::time::Duration;

use super::{Entry, Held, Host, HostError, UnitAction, clock};
use crate::facts::{FactsError, recorded_state};
use crate::paths;
use crate::plan::{Phase, Plan, Reason, Step};
use crate::render::{Access, Account, Desired};
use crate::state::{Sha256Hex, State, UnfinishedRun};

/// What the state file may be read by: root alone.
const STATE_ACCESS: Access = Access {
    owner: Account::Root,
    group: Account::Root,
    mode: 0o640,
};

/// One step, taken.
#[derive(Debug)]
pub(crate) struct Carried<'a> {
    pub(crate) step: &'a Step,
    pub(crate) failed: bool,
    pub(crate) elapsed: Duration,
}

/// Why a run stopped, and what it left.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ApplyError {
    /// Everything that the run had changed was taken back.
    #[error("cannot {step}: {cause}\nWhat this run had changed before was taken back{}; correct the cause and run the command again", but_kept(.kept))]
    TakenBack {
        step: Box<Step>,
        cause: HostError,
        kept: Vec<String>,
    },
    /// Some of it stays.
    #[error(transparent)]
    PartlyDone(Box<PartlyDone>),
    /// The remembered state cannot be read or written.
    #[error(transparent)]
    State(#[from] FactsError),
}

/// What a run that stopped has done, and what not.
#[derive(Debug, thiserror::Error)]
#[error("cannot {step}: {cause}\nDone and kept:\n{}\nNot done:\n{}\n{hint}", listed(.done), listed(.not_done))]
pub(crate) struct PartlyDone {
    step: Step,
    cause: HostError,
    done: Vec<String>,
    not_done: Vec<String>,
    hint: &'static str,
}

fn but_kept(kept: &[String]) -> String {
    if kept.is_empty() {
        String::new()
    } else {
        format!(" (kept: {})", kept.join(", "))
    }
}

fn listed(items: &[String]) -> String {
    if items.is_empty() {
        return "  (nothing)".to_owned();
    }
    items
        .iter()
        .map(|item| format!("  - {item}"))
        .collect::<Vec<_>>()
        .join("\n")
}

/// How a step is taken back.
#[derive(Debug)]
enum Undo {
    RestoreFile { path: String, before: Entry },
    RestoreHeld { path: String, held: Held },
    RemoveFolder { path: String },
    ActOnUnit { unit: String, action: UnitAction },
    ReloadManager,
}

/// Takes the steps of `plan`, which must have no conflicts, and remembers what was written.
///
/// `report` hears of every step taken.
///
/// # Errors
/// When a step fails: see [`ApplyError`] for what is then left.
pub(crate) fn carry_out(
    host: &mut dyn Host,
    desired: &Desired,
    plan: &Plan,
    report: &mut dyn FnMut(&Carried<'_>),
) -> Result<(), ApplyError> {
    assert!(
        plan.conflicts.is_empty(),
        "a plan with conflicts must not be carried out"
    );
    let before = recorded_state(host)?;
    if !plan.steps.is_empty() {
        begin(host, &before, plan)?;
    }
    let mut undos = Vec::new();
    for (index, step) in plan.steps.iter().enumerate() {
        let began = clock::now();
        let taken = take(host, step, &mut undos);
        report(&Carried {
            step,
            failed: taken.is_err(),
            elapsed: began.elapsed(),
        });
        if let Err(cause) = taken {
            let failure = Failure { step, cause, index };
            return Err(stop(host, desired, plan, &before, undos, failure));
        }
    }
    finish(host, desired, plan, &before)?;
    Ok(())
}

/// Remembers what is about to be written, so that a run that is cut off is known as ours.
fn begin(host: &mut dyn Host, before: &State, plan: &Plan) -> Result<(), FactsError> {
    let mut files = before
        .unfinished
        .as_ref()
        .map(|run| run.files.clone())
        .unwrap_or_default();
    for step in &plan.steps {
        if let Step::WriteFile { file, .. } = step {
            files.insert(file.path.clone(), Sha256Hex::of(file.content.as_bytes()));
        }
    }
    let state = State {
        unfinished: Some(UnfinishedRun { files }),
        ..before.clone()
    };
    if host.entry(paths::PROVISION_DIR)? == Entry::Missing {
        // The service group does not exist yet; the plan's own step sets the final access.
        make_parents(host, paths::PROVISION_DIR, &mut Vec::new())?;
        host.make_folder(
            paths::PROVISION_DIR,
            Access {
                mode: 0o750,
                ..STATE_ACCESS
            },
        )?;
    }
    write_state(host, &state)?;
    Ok(())
}

/// Leaves the remembered state as it was before [`begin`].
fn forget(host: &mut dyn Host, before: &State) -> Result<(), HostError> {
    if *before != State::default() {
        return write_state(host, before);
    }
    host.remove_file(paths::STATE_FILE)?;
    host.remove_empty_folder(paths::PROVISION_DIR)
}

/// Remembers what was written.
fn finish(
    host: &mut dyn Host,
    desired: &Desired,
    plan: &Plan,
    before: &State,
) -> Result<(), FactsError> {
    let files = desired
        .files
        .iter()
        .map(|file| (file.path.clone(), Sha256Hex::of(file.content.as_bytes())))
        .collect();
    let after = State {
        files,
        server_started_with: Some(plan.server_inputs.clone()),
        unfinished: None,
        ..before.clone()
    };
    if after != *before || !plan.steps.is_empty() {
        write_state(host, &after)?;
    }
    Ok(())
}

fn write_state(host: &mut dyn Host, state: &State) -> Result<(), HostError> {
    host.replace_file(paths::STATE_FILE, &state.to_bytes(), STATE_ACCESS)
}

fn take(host: &mut dyn Host, step: &Step, undos: &mut Vec<Undo>) -> Result<(), HostError> {
    match step {
        Step::VerifyUnits { units } => host.verify_units(units),
        Step::CreateAccounts => host.create_accounts(paths::SYSUSERS_FILE),
        Step::MakeFolder { path, access } => {
            make_parents(host, path, undos)?;
            undos.push(Undo::RemoveFolder { path: path.clone() });
            host.make_folder(path, *access)
        }
        Step::WriteFile { file, reason } => {
            make_parents(host, &file.path, undos)?;
            let before = host.entry(&file.path)?;
            if *reason == Reason::Overwrite
                && let Entry::File { content, .. } = &before
            {
                let kept = format!("{}.orig-{}", file.path, clock::unix_seconds());
                undos.push(Undo::RestoreFile {
                    path: kept.clone(),
                    before: Entry::Missing,
                });
                host.replace_file(&kept, content, file.access)?;
            }
            undos.push(Undo::RestoreFile {
                path: file.path.clone(),
                before,
            });
            host.replace_file(&file.path, file.content.as_bytes(), file.access)
        }
        Step::SetAccess { path, access, .. } => {
            if let Entry::File { held, .. } | Entry::Folder { held } = host.entry(path)? {
                undos.push(Undo::RestoreHeld {
                    path: path.clone(),
                    held,
                });
            }
            host.set_access(path, *access)
        }
        Step::SetKernelSettings => host.set_kernel_settings(paths::SYSCTL_FILE),
        Step::RemoveFile { path } => {
            undos.push(Undo::RestoreFile {
                path: path.clone(),
                before: host.entry(path)?,
            });
            host.remove_file(path)
        }
        Step::ReloadManager => {
            undos.push(Undo::ReloadManager);
            host.reload_manager()
        }
        Step::ActOnUnit { unit, action, .. } => {
            host.act_on_unit(unit, *action)?;
            if let Some(action) = inverse(*action) {
                undos.push(Undo::ActOnUnit {
                    unit: unit.clone(),
                    action,
                });
            }
            Ok(())
        }
        Step::WaitUntilServing { client, limit } => host.wait_until_serving(client, *limit),
    }
}

/// Makes the folders above `path` that are not there, as the system has them.
fn make_parents(host: &mut dyn Host, path: &str, undos: &mut Vec<Undo>) -> Result<(), HostError> {
    let parent = Access {
        owner: Account::Root,
        group: Account::Root,
        mode: 0o755,
    };
    for (end, _) in path.match_indices('/').filter(|(index, _)| *index > 0) {
        if host.entry(&path[..end])? == Entry::Missing {
            undos.push(Undo::RemoveFolder {
                path: path[..end].to_owned(),
            });
            host.make_folder(&path[..end], parent)?;
        }
    }
    Ok(())
}

fn inverse(action: UnitAction) -> Option<UnitAction> {
    match action {
        UnitAction::Enable => Some(UnitAction::Disable),
        UnitAction::Disable => Some(UnitAction::Enable),
        UnitAction::Start => Some(UnitAction::Stop),
        UnitAction::Stop => Some(UnitAction::Start),
        UnitAction::Restart => None,
    }
}

struct Failure<'a> {
    step: &'a Step,
    cause: HostError,
    index: usize,
}

fn stop(
    host: &mut dyn Host,
    desired: &Desired,
    plan: &Plan,
    before: &State,
    undos: Vec<Undo>,
    failure: Failure<'_>,
) -> ApplyError {
    let Failure { step, cause, index } = failure;
    if step.phase() < Phase::Start {
        let failed = undo_all(host, undos);
        // When even the state cannot be written, the unfinished run in it says what we did.
        let state_kept = forget(host, before).is_err();
        if failed.is_empty() && !state_kept {
            let made_user = plan.steps[..index].contains(&Step::CreateAccounts);
            let kept = made_user.then(|| format!("the user {}", paths::SERVICE_ACCOUNT));
            let kept = kept.into_iter().collect();
            return ApplyError::TakenBack {
                step: Box::new(step.clone()),
                cause,
                kept,
            };
        }
        return ApplyError::PartlyDone(Box::new(PartlyDone {
            step: step.clone(),
            cause,
            done: failed,
            not_done: plan.steps[index..].iter().map(Step::to_string).collect(),
            hint: "These changes could not be taken back. Correct the cause and run the command again: it goes on from here",
        }));
    }
    let hint = match finish(host, desired, plan, before) {
        Ok(()) => {
            "Correct the cause (journalctl -u holdfast), then run: provision bootstrap. It goes on from here"
        }
        // The unfinished run that was remembered before says what is ours.
        Err(_) => {
            "What was written could not be remembered as done. Correct the cause, then run: provision bootstrap"
        }
    };
    ApplyError::PartlyDone(Box::new(PartlyDone {
        step: step.clone(),
        cause,
        done: plan.steps[..index].iter().map(Step::to_string).collect(),
        not_done: plan.steps[index..].iter().map(Step::to_string).collect(),
        hint,
    }))
}

/// Takes back in reverse order; returns what could not be.
fn undo_all(host: &mut dyn Host, undos: Vec<Undo>) -> Vec<String> {
    let mut failed = Vec::new();
    let reload = undos.iter().any(|undo| matches!(undo, Undo::ReloadManager));
    for undo in undos.into_iter().rev() {
        let (what, result) = match undo {
            Undo::RestoreFile { path, before } => {
                let result = restore(host, &path, &before);
                (format!("{path} has new content"), result)
            }
            Undo::RestoreHeld { path, held } => {
                let result = host.restore_held(&path, held);
                (format!("{path} has another owner or mode"), result)
            }
            Undo::RemoveFolder { path } => {
                let result = host.remove_empty_folder(&path);
                (format!("the folder {path}"), result)
            }
            Undo::ActOnUnit { unit, action } => {
                let result = host.act_on_unit(&unit, action);
                (
                    format!("{unit} needs: systemctl {}", crate::plan::verb(action)),
                    result,
                )
            }
            Undo::ReloadManager => continue,
        };
        if let Err(error) = result {
            failed.push(format!("{what} ({error})"));
        }
    }
    if reload && let Err(error) = host.reload_manager() {
        failed.push(format!("systemd needs: systemctl daemon-reload ({error})"));
    }
    failed
}

fn restore(host: &mut dyn Host, path: &str, before: &Entry) -> Result<(), HostError> {
    if host.entry(path)? == *before {
        // The step failed before it changed anything.
        return Ok(());
    }
    match before {
        Entry::File { content, held } => {
            let access = Access {
                mode: held.mode,
                ..STATE_ACCESS
            };
            host.replace_file(path, content, access)?;
            host.restore_held(path, *held)
        }
        _ => host.remove_file(path),
    }
}
