//! What must hold at the crate's door, with the real storage beneath.

mod compaction;
mod hash;
mod model;
mod reads;
mod setup;
