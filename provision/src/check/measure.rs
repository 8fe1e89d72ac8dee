//! Everything that the checks judge, measured once.

use std::collections::BTreeSet;
use std::path::Path;

use super::clock_sync::{ClockSync, clock_sync};
use super::data::{DataState, data_state};
use super::device::{Place, existing_ancestor, place};
use super::fsync::{Round, probe};
use super::machine::{Machine, machine};
use super::ports::{Port, ports};
use crate::spec::{ByteSize, Spec};

/// What was measured. A text in place of a value says why it could not be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Measurements {
    /// Of the folder that the log lies in: it is synced for every write.
    pub(crate) place: Result<Place, String>,
    pub(crate) rounds: Result<Vec<Round>, String>,
    pub(crate) space: Result<Space, String>,
    pub(crate) machine: Machine,
    pub(crate) clock: ClockSync,
    pub(crate) ports: Option<Vec<Port>>,
    pub(crate) data: DataState,
}

/// Room on the file system of the data folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Space {
    pub(crate) total: ByteSize,
    /// For the service user, with what its database holds already.
    pub(crate) available: ByteSize,
}

/// Measures this host for `spec`. The disk probe takes up to ten seconds; it leaves no file.
pub(crate) fn measure(spec: &Spec) -> Measurements {
    let (proc, sys) = (Path::new("/proc"), Path::new("/sys"));
    let log = spec.wal_path().as_path();
    let urls = [&spec.listen.client, &spec.listen.peer, &spec.listen.metrics];
    let numbers: BTreeSet<u16> = urls.into_iter().flatten().map(|url| url.port()).collect();
    Measurements {
        place: place(log, proc, sys).map_err(|error| error.to_string()),
        rounds: probe(log).map_err(|error| error.to_string()),
        space: space(spec.data_dir.as_path()).map_err(|error| error.to_string()),
        machine: machine(proc, sys),
        clock: clock_sync(),
        ports: ports(&numbers, proc),
        data: data_state(
            spec.data_dir.as_path(),
            spec.wal_dir.as_ref().map(|dir| dir.as_path()),
        ),
    }
}

/// Room in the folder that `path` lies in.
pub(crate) fn space(path: &Path) -> std::io::Result<Space> {
    let found = nix::sys::statvfs::statvfs(&existing_ancestor(path))?;
    let unit = found.fragment_size();
    let database = std::fs::metadata(path.join("member/snap/db")).map_or(0, |file| file.len());
    Ok(Space {
        total: ByteSize::from_bytes(found.blocks().saturating_mul(unit)),
        available: ByteSize::from_bytes(found.blocks_available().saturating_mul(unit))
            .plus(ByteSize::from_bytes(database)),
    })
}
