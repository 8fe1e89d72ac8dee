use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::exit_code::Exit;

/// What can go wrong while an image is baked, booted or examined.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ImageError {
    /// A file could not be read or written.
    #[error("cannot {attempt} {}: {source}", path.display())]
    File {
        /// What was attempted, as in "read".
        attempt: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// A description of an image, its checks or an argument is wrong.
    #[error("{subject}: {message}")]
    Description {
        /// The file or flag.
        subject: String,
        /// What is wrong and what would be right.
        message: String,
    },
    /// An input of a step is not there.
    #[error("{what} {} is missing: {remedy}", path.display())]
    Missing {
        /// What it is.
        what: &'static str,
        /// Where it was expected.
        path: PathBuf,
        /// How to make it.
        remedy: String,
    },
    /// A program is not installed.
    #[error(
        "{program} is not installed: run tests/tools/install-packages, or install what brings it"
    )]
    NoTool {
        /// Name of the program.
        program: String,
    },
    /// A program ran and failed.
    #[error("`{command}` ended with {status}; its last lines:\n{tail}")]
    Tool {
        /// Command line as run.
        command: String,
        /// Exit code or signal.
        status: String,
        /// End of what it printed.
        tail: String,
    },
    /// A program did not end in its time and was stopped.
    #[error("`{command}` did not end within {} s and was stopped; its last lines:\n{tail}", limit.as_secs())]
    ToolTimedOut {
        /// Command line as run.
        command: String,
        /// The limit.
        limit: Duration,
        /// End of what it printed.
        tail: String,
    },
    /// A guest did not reach a state.
    #[error("{machine}: {message}; end of its serial log {}:\n{tail}", log.display())]
    Guest {
        /// Which guest.
        machine: String,
        /// What was waited for.
        message: String,
        /// The whole serial log.
        log: PathBuf,
        /// Its last lines.
        tail: String,
    },
    /// A part of the finished image is not as it must be.
    #[error("{image}: {failed} of {total} checks failed: {names}")]
    Verification {
        /// The image's file.
        image: String,
        /// How many failed.
        failed: usize,
        /// How many there are.
        total: usize,
        /// Which.
        names: String,
    },
    /// Something was refused because it would destroy what it should not.
    #[error("refused: {message}")]
    Refused {
        /// Why, and what to do instead.
        message: String,
    },
    /// Another run holds the folder.
    #[error("{} is held by another run: wait for its end, or choose another folder", path.display())]
    Busy {
        /// The lock's file.
        path: PathBuf,
    },
}

impl ImageError {
    /// How the command ends.
    pub(super) fn exit(&self) -> Exit {
        match self {
            Self::Description { .. } => Exit::BadConfiguration,
            Self::Busy { .. } => Exit::Deferred,
            Self::Refused { .. } => Exit::RefusedForSafety,
            Self::Verification { .. } => Exit::VerificationFailed,
            _ => Exit::Failed,
        }
    }

    pub(super) fn description(subject: impl Into<String>, message: impl Into<String>) -> Self {
        Self::Description {
            subject: subject.into(),
            message: message.into(),
        }
    }
}

/// Names the file in an error of the file system.
pub(super) fn file<'a>(
    attempt: &'static str,
    path: &'a Path,
) -> impl FnOnce(io::Error) -> ImageError + use<'a> {
    move |source| ImageError::File {
        attempt,
        path: path.to_owned(),
        source,
    }
}
