//! Judges a host: measures, compares with thresholds, says what to do. What could not be measured
//! is said, not guessed.

mod clock_sync;
mod data;
mod device;
mod finding;
mod fsync;
mod judge;
mod machine;
mod measure;
mod ports;
mod report;

pub(crate) use device::existing_ancestor;
pub(crate) use finding::{Finding, Verdict};
pub(crate) use judge::judge;
pub(crate) use measure::measure;
pub(crate) use report::{keep, print};
