//! Whether the clock follows a time source.

use std::path::Path;

use crate::host::Child;

/// What the host says of its clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ClockSync {
    Synchronised,
    NotSynchronised,
    Unknown,
}

/// Asks the kernel through systemd, then the time services themselves.
pub(crate) fn clock_sync() -> ClockSync {
    let asked = Child::new("timedatectl").args(["show", "--property=NTPSynchronized", "--value"]);
    match asked
        .succeed()
        .map(|ended| ended.output.trim().to_owned())
        .as_deref()
    {
        Ok("yes") => return ClockSync::Synchronised,
        Ok("no") => return ClockSync::NotSynchronised,
        _ => {}
    }
    if Path::new("/run/systemd/timesync/synchronized").exists() {
        return ClockSync::Synchronised;
    }
    let asked = Child::new("chronyc").args(["-n", "tracking"]).succeed();
    asked.map_or(ClockSync::Unknown, |ended| from_chrony(&ended.output))
}

fn from_chrony(output: &str) -> ClockSync {
    match output
        .lines()
        .find_map(|line| line.strip_prefix("Leap status"))
    {
        Some(status) if status.contains("Not synchronised") => ClockSync::NotSynchronised,
        Some(_) => ClockSync::Synchronised,
        None => ClockSync::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chrony_s_leap_status_tells() {
        assert_eq!(
            from_chrony("Leap status     : Normal\n"),
            ClockSync::Synchronised
        );
        let text = "Stratum : 0\nLeap status     : Not synchronised\n";
        assert_eq!(from_chrony(text), ClockSync::NotSynchronised);
        assert_eq!(
            from_chrony("506 Cannot talk to daemon\n"),
            ClockSync::Unknown
        );
    }
}
