//! One file for each verb of the command line.

mod error;
mod prepare;

pub(crate) mod apply;
pub(crate) mod backup;
pub(crate) mod bootstrap;
pub(crate) mod check;
pub(crate) mod defrag;
pub(crate) mod init_config;
pub(crate) mod plan;
pub(crate) mod render;
pub(crate) mod status;

pub(crate) use error::CommandError;
