//! The base system: a bootable disk with Debian and nothing of ours, made without loop devices or a
//! running guest.

mod boot_loader;
mod build;
mod disk;
mod layout;
mod sources;
mod tree;

pub(super) use build::{BaseFiles, build};
#[cfg(test)]
pub(super) use layout::Layout;
pub(super) use layout::SECTOR_BYTES;
