//! The target: what can be seen of it, and the only ways to change it.
//!
//! [`Host`] has two implementations: [`RealHost`] (a live machine, or a directory tree) and the
//! tests' fake. Every change is one call, so that a test can cut the power between any two.

mod carry_out;
mod child;
pub(crate) mod clock;
#[cfg(test)]
pub(crate) mod fake;
pub(crate) mod lock;
mod real;
#[cfg(test)]
mod real_tests;
mod replace;
mod systemd;

use std::path::PathBuf;
use std::time::Duration;

pub(crate) use carry_out::{ApplyError, Carried, carry_out};
pub(crate) use child::{Child, ChildError};
pub(crate) use real::RealHost;
pub(crate) use replace::{Ownership, replace_file, sync_parent};

use crate::render::Access;
use crate::spec::HttpUrl;

/// What kind of target this is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// The machine we run on, with systemd in charge.
    Live,
    /// A directory tree, such as an image being baked: files and links only, nothing is started.
    Tree(PathBuf),
}

/// What lies at a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Entry {
    Missing,
    File {
        content: Vec<u8>,
        held: Held,
    },
    Folder {
        held: Held,
    },
    /// A link, a device, a socket.
    Other {
        kind: String,
    },
}

/// Who holds a file or folder, in the target's own numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) user: u32,
    pub(crate) group: u32,
    pub(crate) mode: u32,
}

/// The numbers of the service user and group, once they exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ServiceIds {
    pub(crate) user: u32,
    pub(crate) group: u32,
}

/// What systemd knows of a unit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct UnitFacts {
    pub(crate) enabled: bool,
    /// Running, or on its way to it.
    pub(crate) active: bool,
    /// Its file has changed since systemd read it.
    pub(crate) needs_reload: bool,
}

/// Which way a unit's links go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum UnitAction {
    Enable,
    Disable,
    Start,
    Restart,
    Stop,
}

/// A target, to look at and to change.
pub(crate) trait Host {
    /// Which kind of target it is.
    fn target(&self) -> &Target;
    /// What lies at an absolute path of the target.
    fn entry(&self, path: &str) -> Result<Entry, HostError>;
    /// The service account's numbers, from the target's own files.
    fn service_ids(&self) -> Result<Option<ServiceIds>, HostError>;
    /// What systemd knows of a unit. In a tree nothing is ever active.
    fn unit(&self, name: &str) -> Result<UnitFacts, HostError>;
    /// Whether owners can be set: they cannot in a tree of an ordinary user.
    fn can_set_owners(&self) -> bool;

    /// Puts a whole file in place, durably.
    fn replace_file(&mut self, path: &str, content: &[u8], access: Access)
    -> Result<(), HostError>;
    /// Removes a file, durably.
    fn remove_file(&mut self, path: &str) -> Result<(), HostError>;
    /// Makes a folder and its missing parents.
    fn make_folder(&mut self, path: &str, access: Access) -> Result<(), HostError>;
    /// Removes an empty folder; one with content stays.
    fn remove_empty_folder(&mut self, path: &str) -> Result<(), HostError>;
    /// Sets owner, group and mode.
    fn set_access(&mut self, path: &str, access: Access) -> Result<(), HostError>;
    /// Gives a file or folder back the numbers and mode it had.
    fn restore_held(&mut self, path: &str, held: Held) -> Result<(), HostError>;
    /// Makes the accounts that a sysusers.d file declares.
    fn create_accounts(&mut self, sysusers_file: &str) -> Result<(), HostError>;
    /// Lets systemd judge unit files before they are put in place: name and content.
    fn verify_units(&mut self, units: &[(String, String)]) -> Result<(), HostError>;
    /// Makes systemd read all units anew.
    fn reload_manager(&mut self) -> Result<(), HostError>;
    /// Enables, disables, starts, restarts or stops a unit. Starting does not wait for readiness.
    fn act_on_unit(&mut self, name: &str, action: UnitAction) -> Result<(), HostError>;
    /// Sets the kernel settings of a sysctl.d file.
    fn set_kernel_settings(&mut self, sysctl_file: &str) -> Result<(), HostError>;
    /// Waits until the server answers at its client address.
    fn wait_until_serving(&mut self, client: &HttpUrl, limit: Duration) -> Result<(), HostError>;
}

/// Why a look at the target, or a change of it, failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HostError {
    /// The file system refused.
    #[error("cannot {attempt} {path}: {source}{}", hint(.source))]
    File {
        attempt: &'static str,
        path: String,
        source: std::io::Error,
    },
    /// A path of the target leads out of its tree.
    #[error("{path} leads out of the tree {root} by a symbolic link; make the link relative")]
    LeavesTree { path: String, root: String },
    /// The service account is not there although it was made.
    #[error(
        "the user {0} does not exist on the target; systemd-sysusers should have made it from /usr/lib/sysusers.d/holdfast.conf"
    )]
    NoServiceAccount(&'static str),
    /// A program failed.
    #[error(transparent)]
    Child(#[from] ChildError),
    /// systemd refuses a unit.
    #[error(
        "systemd refuses the rendered units; nothing was put in place. Correct the value in the configuration that it names:\n{0}"
    )]
    UnitsRefused(String),
    /// No systemd in charge of a live host.
    #[error(
        "systemd is not running on this host; to prepare the files alone (for an image, a container, a chroot) use --root DIR, or --root / for this tree"
    )]
    NoSystemd,
    /// The server did not come up.
    #[error("{0}")]
    NotServing(String),
    /// Only in tests: the power was cut.
    #[cfg(test)]
    #[error("the power is off")]
    PowerOff,
}

fn hint(source: &std::io::Error) -> &'static str {
    match source.kind() {
        std::io::ErrorKind::PermissionDenied => "; run the command as root",
        std::io::ErrorKind::StorageFull => "; make room on the disk",
        std::io::ErrorKind::ReadOnlyFilesystem => "; mount the file system writable",
        _ => "",
    }
}

/// Turns an I/O error into a [`HostError`] that names what was attempted with which path.
pub(crate) fn file_error(
    attempt: &'static str,
    path: impl std::fmt::Display,
) -> impl FnOnce(std::io::Error) -> HostError {
    let path = path.to_string();
    move |source| HostError::File {
        attempt,
        path,
        source,
    }
}
