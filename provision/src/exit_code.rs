//! What the process's exit code means. Units, scripts and people rely on these numbers.

use std::process::ExitCode;

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Done, or nothing was to be done.
    Done,
    /// Something failed that none of the other codes names.
    Failed,
    /// At least one check of the host failed.
    CheckFailed,
    /// The configuration or the command line is wrong; nothing was touched.
    BadConfiguration,
    /// Changes are pending, or somebody changed a file by hand.
    ChangesPending,
    /// Not now: a lock is held or a condition is not met. Units count it as success.
    Deferred,
    /// The member does not answer, or answers that it is not healthy.
    Unhealthy,
    /// Part of the work is done; running the command again goes on from there.
    PartlyDone,
    /// Refused because data could be lost.
    RefusedForSafety,
    /// What was made did not stand up to its verification (a backup, an image).
    VerificationFailed,
}

impl Exit {
    /// The number the process ends with.
    pub(crate) fn code(self) -> u8 {
        match self {
            Exit::Done => 0,
            Exit::Failed => 1,
            Exit::CheckFailed => 2,
            Exit::BadConfiguration => 3,
            Exit::ChangesPending => 4,
            Exit::Deferred => 5,
            Exit::Unhealthy => 6,
            Exit::PartlyDone => 7,
            Exit::RefusedForSafety => 8,
            Exit::VerificationFailed => 9,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        ExitCode::from(exit.code())
    }
}
