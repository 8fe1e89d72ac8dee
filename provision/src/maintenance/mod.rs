//! What keeps a member in shape: space given back, backups made and pruned.

mod backup;
mod backup_name;
mod decision;
mod error;
mod history;
mod retention;

pub(crate) use backup::{Created, create, list, prune};
pub(crate) use backup_name::rfc3339;
pub(crate) use decision::{Circumstances, Decision, decide, fragmentation};
pub(crate) use error::MaintenanceError;
pub(crate) use history::{LastDefrag, last_defrag, remember_defrag};
