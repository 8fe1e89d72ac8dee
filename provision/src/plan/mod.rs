//! What has to be done so that a target becomes what is desired. Pure: it touches nothing.

mod compare;
mod make;
mod step;
#[cfg(test)]
mod tests;

#[cfg(test)]
pub(crate) use compare::ConflictKind;
pub(crate) use make::{Goal, Options, Plan, plan};
pub(crate) use step::{Phase, Reason, Step, verb};
