//! What we ask of systemd, through its own programs.

use std::path::Path;

use super::{Child, HostError, Target, UnitAction, UnitFacts, file_error};
use crate::plan::verb;

/// Exists while systemd is in charge of the machine.
const RUNNING_MARK: &str = "/run/systemd/system";
/// Sets kernel settings; not in any PATH.
const SYSCTL_PROGRAM: &str = "/usr/lib/systemd/systemd-sysctl";

pub(super) fn is_running() -> bool {
    Path::new(RUNNING_MARK).is_dir()
}

fn systemctl(target: &Target) -> Child {
    let child = Child::new("systemctl").arg("--no-pager");
    match target {
        Target::Live => child,
        Target::Tree(root) => {
            let mut argument = std::ffi::OsString::from("--root=");
            argument.push(root);
            child.arg(argument)
        }
    }
}

pub(super) fn unit(target: &Target, name: &str) -> Result<UnitFacts, HostError> {
    match target {
        Target::Tree(_) => {
            // Ends with 1 for a unit that is disabled or not there.
            let ended = systemctl(target).arg("is-enabled").arg(name).end()?;
            Ok(UnitFacts {
                enabled: ended.output.trim() == "enabled",
                ..UnitFacts::default()
            })
        }
        Target::Live => {
            let properties = "--property=ActiveState,UnitFileState,NeedDaemonReload";
            let ended = systemctl(target)
                .arg("show")
                .arg(properties)
                .arg(name)
                .succeed()?;
            Ok(parse_unit(&ended.output))
        }
    }
}

fn parse_unit(output: &str) -> UnitFacts {
    let value = |key: &str| {
        output
            .lines()
            .find_map(|line| line.strip_prefix(key)?.strip_prefix('='))
            .unwrap_or("")
    };
    UnitFacts {
        enabled: value("UnitFileState") == "enabled",
        active: matches!(value("ActiveState"), "active" | "activating" | "reloading"),
        needs_reload: value("NeedDaemonReload") == "yes",
    }
}

pub(super) fn act(target: &Target, name: &str, action: UnitAction) -> Result<(), HostError> {
    let child = systemctl(target);
    let child = match action {
        // Readiness is waited for by us, with a limit and a look at what the unit says.
        UnitAction::Start | UnitAction::Restart => child.arg("--no-block"),
        UnitAction::Enable | UnitAction::Disable | UnitAction::Stop => child,
    };
    if action == UnitAction::Start && *target == Target::Live {
        // A unit that failed too often is held back until its count is cleared.
        let _ = systemctl(target).arg("reset-failed").arg(name).end()?;
    }
    child.arg(verb(action)).arg(name).succeed()?;
    Ok(())
}

pub(super) fn reload() -> Result<(), HostError> {
    systemctl(&Target::Live).arg("daemon-reload").succeed()?;
    Ok(())
}

/// The file is looked up by its name in the target's sysusers.d folders: a whole path would be
/// opened outside of the tree.
pub(super) fn create_accounts(target: &Target, sysusers_file: &str) -> Result<(), HostError> {
    let name = sysusers_file.rsplit('/').next().unwrap_or(sysusers_file);
    let child = Child::new("systemd-sysusers");
    let child = match target {
        Target::Live => child,
        Target::Tree(root) => {
            let mut argument = std::ffi::OsString::from("--root=");
            argument.push(root);
            child.arg(argument)
        }
    };
    child.arg(name).succeed()?;
    Ok(())
}

pub(super) fn set_kernel_settings(sysctl_file: &str) -> Result<(), HostError> {
    Child::new(SYSCTL_PROGRAM).arg(sysctl_file).succeed()?;
    Ok(())
}

/// Judges the units as a set, in a folder of their own.
pub(super) fn verify(folder: &Path, units: &[(String, String)]) -> Result<(), HostError> {
    // A leftover of a run that was cut off; what cannot be removed fails the next call.
    let _ = std::fs::remove_dir_all(folder);
    std::fs::create_dir_all(folder).map_err(file_error("make", folder.display()))?;
    let judged = judge(folder, units);
    // Under /run: gone with the next boot at the latest.
    let _ = std::fs::remove_dir_all(folder);
    judged
}

fn judge(folder: &Path, units: &[(String, String)]) -> Result<(), HostError> {
    let mut child =
        Child::new("systemd-analyze").args(["verify", "--man=no", "--recursive-errors=no"]);
    for (name, content) in units {
        let path = folder.join(name);
        std::fs::write(&path, content).map_err(file_error("write", path.display()))?;
        child = child.arg(path);
    }
    let ended = child.end()?;
    if ended.code == Some(0) {
        Ok(())
    } else {
        Err(HostError::UnitsRefused(ended.message()))
    }
}

/// What the server's unit says of itself: state, result, exit code and its own status line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct ServerState {
    pub(super) active_state: String,
    pub(super) result: String,
    pub(super) exit_code: Option<i32>,
    pub(super) status_text: String,
}

pub(super) fn server_state(name: &str) -> Result<ServerState, HostError> {
    let properties = "--property=ActiveState,Result,ExecMainStatus,StatusText";
    let ended = systemctl(&Target::Live)
        .arg("show")
        .arg(properties)
        .arg(name)
        .succeed()?;
    let value = |key: &str| {
        let find = |line: &str| Some(line.strip_prefix(key)?.strip_prefix('=')?.to_owned());
        ended.output.lines().find_map(find).unwrap_or_default()
    };
    Ok(ServerState {
        active_state: value("ActiveState"),
        result: value("Result"),
        exit_code: value("ExecMainStatus").parse().ok(),
        status_text: value("StatusText"),
    })
}

/// The last lines that a unit wrote to the journal; empty when there is no journal to ask.
pub(super) fn journal_tail(name: &str) -> String {
    let child = Child::new("journalctl").args(["--no-pager", "-o", "cat", "-n", "10", "-u"]);
    child
        .arg(name)
        .succeed()
        .map(|ended| ended.output.trim().to_owned())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_that_starts_counts_as_active_and_a_failed_one_does_not() {
        let read = |state: &str| {
            parse_unit(&format!(
                "ActiveState={state}\nUnitFileState=enabled\nNeedDaemonReload=no\n"
            ))
        };
        assert!(read("activating").active && read("active").active);
        assert!(!read("failed").active && !read("inactive").active);
        assert!(read("failed").enabled && !read("failed").needs_reload);
        assert_eq!(
            parse_unit("UnitFileState=\nActiveState=inactive\n"),
            UnitFacts::default()
        );
    }
}
