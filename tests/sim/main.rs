//! Many members in one thread, on a false clock, network and disk; a seed replays all of it.
//!
//! Consensus, the log, the state machine, the key space and the database file are the real ones. What waits
//! and touches the outside is simulated: see `member.rs` and `applier.rs` for the threads, `directory.rs` for
//! a start, `watches.rs` for watching.
//!
//! - `SIM_SEED=n` replays one seed and tells what happens; with `SIM_BUG=name`, with a planted mistake.
//! - `SIM_SEEDS=n` sets how many seeds are run, `SOAK_SECONDS=s` for how long, from `SOAK_SEED` on.

mod applier;
mod checks;
mod clients;
mod directory;
mod faults;
mod host;
mod member;
mod model;
mod network;
mod planted;
mod reads;
mod run;
mod scenario;
mod seeds;
mod watchers;
mod watches;
mod world;
