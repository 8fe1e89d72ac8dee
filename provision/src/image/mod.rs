//! Bakes bootable images and proves them: what `provision image` does.
//!
//! A folder under `images/` describes an image. The base system is made from Debian packages
//! without loop devices, Packer boots it and carries the two programs in, the result is compressed,
//! and the finished file is booted by its own boot loader and examined. Nothing here is used on a
//! host that runs the server, except `sysprep` and `check`, which run inside the guest.

mod accelerator;
mod appliance;
mod bake;
mod base;
mod check;
mod command;
mod description;
mod digest;
mod fault;
mod guest;
mod health;
mod lock;
mod machine;
mod manifest;
mod progress;
mod report;
mod sealed;
mod sysprep;
mod tool;
mod trial;

pub(crate) use command::{ImageCommand, run};
