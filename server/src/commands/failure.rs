//! Why a tool could not do what it was asked, and the exit code that says so.

use std::fmt;
use std::io;

use storage::Fault;

use crate::config::Refusal;
use crate::serve::EXIT_STORAGE;

/// A tool's failure: a text that says what to do, and whose affair it is.
#[derive(Debug)]
pub struct Failure {
    text: String,
    exit_code: u8,
}

impl Failure {
    /// What was asked cannot be right.
    pub(super) fn of_request(text: impl Into<String>) -> Failure {
        Failure {
            text: text.into(),
            exit_code: Refusal::EXIT_CODE,
        }
    }

    /// Something around us: a member that does not answer, a file that is not there.
    pub(super) fn of_surroundings(text: impl Into<String>) -> Failure {
        Failure {
            text: text.into(),
            exit_code: 1,
        }
    }

    /// The data are damaged, in use, or not for this.
    pub(super) fn of_data(text: impl Into<String>) -> Failure {
        Failure {
            text: text.into(),
            exit_code: EXIT_STORAGE,
        }
    }

    /// Says what to do about it, behind what is wrong.
    pub(super) fn with_advice(self, advice: &str) -> Failure {
        Failure {
            text: format!("{}; {advice}", self.text),
            ..self
        }
    }

    pub(super) fn exit_code(&self) -> u8 {
        self.exit_code
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.text)
    }
}

impl From<Fault> for Failure {
    fn from(fault: Fault) -> Failure {
        use io::ErrorKind::{AlreadyExists, NotFound, PermissionDenied, StorageFull};
        let outside = [NotFound, PermissionDenied, AlreadyExists, StorageFull];
        match &fault {
            Fault::Io { source, .. } if outside.contains(&source.kind()) => {
                Failure::of_surroundings(fault.to_string())
            }
            _ => Failure::of_data(fault.to_string()),
        }
    }
}

impl From<mvcc::Fault> for Failure {
    fn from(fault: mvcc::Fault) -> Failure {
        match fault {
            mvcc::Fault::Storage(fault) => fault.into(),
            fault => Failure::of_data(fault.to_string()),
        }
    }
}

impl From<state_machine::Fault> for Failure {
    fn from(fault: state_machine::Fault) -> Failure {
        match fault {
            state_machine::Fault::Storage(fault) => fault.into(),
            state_machine::Fault::Mvcc(fault) => fault.into(),
            fault => Failure::of_data(fault.to_string()),
        }
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Failure {
        Failure::of_request(refusal.to_string())
    }
}
