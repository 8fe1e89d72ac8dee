//! From a checked spec to the files, folders and units a target should have. Touches nothing.

mod desired;
pub(crate) mod quote;
mod templates;

pub(crate) use desired::{
    Access, Account, BACKUP_TIMER, DEFRAG_TIMER, Desired, DesiredFile, DesiredUnit, FileRole,
    RenderError, SERVER_UNIT, desired,
};
pub(crate) use templates::init_config;

#[cfg(test)]
mod golden_tests;
#[cfg(test)]
mod quoting_tests;
