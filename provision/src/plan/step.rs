//! One step of a plan: what it does, and how it is told.

use std::fmt;
use std::time::Duration;

use serde_json::{Value, json};

use crate::host::UnitAction;
use crate::paths;
use crate::render::{Access, DesiredFile, FileRole};
use crate::spec::HttpUrl;

/// The parts of a run, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    /// systemd judges the new units before anything changes.
    Verify,
    /// The service user.
    User,
    Folders,
    Files,
    Units,
    Start,
    Wait,
    Timers,
}

/// Why a file is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    /// It is not there.
    Missing,
    /// The configuration has changed since we wrote it.
    Changed,
    /// Somebody edited it, and the operator says to overwrite that.
    Overwrite,
}

/// One change of the target, or one look that may stop the run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    VerifyUnits {
        units: Vec<(String, String)>,
    },
    CreateAccounts,
    MakeFolder {
        path: String,
        access: Access,
    },
    WriteFile {
        file: DesiredFile,
        reason: Reason,
    },
    SetAccess {
        phase: Phase,
        path: String,
        access: Access,
    },
    SetKernelSettings,
    RemoveFile {
        path: String,
    },
    ReloadManager,
    ActOnUnit {
        phase: Phase,
        unit: String,
        action: UnitAction,
    },
    WaitUntilServing {
        client: HttpUrl,
        limit: Duration,
    },
}

impl Phase {
    /// The phase that writes a file.
    pub(super) fn of_file(role: FileRole) -> Phase {
        match role {
            FileRole::Accounts => Phase::User,
            FileRole::Unit { .. } => Phase::Units,
            FileRole::Configuration
            | FileRole::ServerInput
            | FileRole::KernelSettings
            | FileRole::NextBoot => Phase::Files,
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Phase::Verify => "verify",
            Phase::User => "user",
            Phase::Folders => "folders",
            Phase::Files => "files",
            Phase::Units => "units",
            Phase::Start => "start",
            Phase::Wait => "wait",
            Phase::Timers => "timers",
        }
    }
}

impl Step {
    pub(crate) fn phase(&self) -> Phase {
        match self {
            Step::VerifyUnits { .. } => Phase::Verify,
            Step::CreateAccounts => Phase::User,
            Step::MakeFolder { .. } => Phase::Folders,
            Step::WriteFile { file, .. } => Phase::of_file(file.role),
            Step::SetAccess { phase, .. } | Step::ActOnUnit { phase, .. } => *phase,
            Step::SetKernelSettings => Phase::Files,
            Step::RemoveFile { .. } | Step::ReloadManager => Phase::Units,
            Step::WaitUntilServing { .. } => Phase::Wait,
        }
    }

    /// The step for machines.
    pub(crate) fn facts(&self) -> Value {
        match self {
            Step::VerifyUnits { .. } => json!({"action": "verify-units"}),
            Step::CreateAccounts => {
                json!({"action": "create-user", "user": paths::SERVICE_ACCOUNT})
            }
            Step::MakeFolder { path, .. } => json!({"action": "make-folder", "path": path}),
            Step::WriteFile { file, reason } => {
                json!({"action": "write-file", "path": file.path, "reason": reason.word()})
            }
            Step::SetAccess { path, .. } => json!({"action": "set-access", "path": path}),
            Step::SetKernelSettings => json!({"action": "set-kernel-settings"}),
            Step::RemoveFile { path } => json!({"action": "remove-file", "path": path}),
            Step::ReloadManager => json!({"action": "daemon-reload"}),
            Step::ActOnUnit { unit, action, .. } => {
                json!({"action": verb(*action), "unit": unit})
            }
            Step::WaitUntilServing { client, .. } => {
                json!({"action": "wait-until-serving", "url": client.to_string()})
            }
        }
    }
}

impl Reason {
    fn word(self) -> &'static str {
        match self {
            Reason::Missing => "missing",
            Reason::Changed => "changed",
            Reason::Overwrite => "overwrite-drift",
        }
    }
}

pub(crate) fn verb(action: UnitAction) -> &'static str {
    match action {
        UnitAction::Enable => "enable",
        UnitAction::Disable => "disable",
        UnitAction::Start => "start",
        UnitAction::Restart => "restart",
        UnitAction::Stop => "stop",
    }
}

impl fmt::Display for Access {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "{:04o} {}:{}",
            self.mode,
            self.owner.name(),
            self.group.name()
        )
    }
}

impl fmt::Display for Step {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::VerifyUnits { units } => {
                write!(
                    formatter,
                    "let systemd judge {} rendered units",
                    units.len()
                )
            }
            Step::CreateAccounts => {
                write!(
                    formatter,
                    "create the user and group {}",
                    paths::SERVICE_ACCOUNT
                )
            }
            Step::MakeFolder { path, access } => write!(formatter, "make {path} ({access})"),
            Step::WriteFile { file, reason } => {
                let DesiredFile { path, access, .. } = file;
                match reason {
                    Reason::Missing => write!(formatter, "write {path} ({access})"),
                    Reason::Changed => {
                        write!(formatter, "replace {path} (the configuration changed)")
                    }
                    Reason::Overwrite => {
                        write!(
                            formatter,
                            "overwrite {path} (edited by hand; kept beside as .orig-TIME)"
                        )
                    }
                }
            }
            Step::SetAccess { path, access, .. } => write!(formatter, "set {path} to {access}"),
            Step::SetKernelSettings => {
                write!(
                    formatter,
                    "set the kernel settings of {}",
                    paths::SYSCTL_FILE
                )
            }
            Step::RemoveFile { path } => write!(formatter, "remove {path} (no longer wanted)"),
            Step::ReloadManager => formatter.write_str("make systemd read its units anew"),
            Step::ActOnUnit { unit, action, .. } => write!(formatter, "{} {unit}", verb(*action)),
            Step::WaitUntilServing { client, limit } => {
                write!(
                    formatter,
                    "wait until {client} answers (at most {} s)",
                    limit.as_secs()
                )
            }
        }
    }
}
