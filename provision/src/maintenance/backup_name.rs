//! A backup's file name: `holdfast-20260131T020000Z-r123.db`, the time in UTC, the revision of the
//! member just before. Names sort by time.

use std::fmt;

/// What a backup is called after.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct BackupName {
    pub(crate) unix_seconds: u64,
    pub(crate) revision: u64,
}

const PREFIX: &str = "holdfast-";
const SUFFIX: &str = ".db";
const SECONDS_OF_A_DAY: u64 = 86_400;

impl fmt::Display for BackupName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (year, month, day) = date(self.unix_seconds / SECONDS_OF_A_DAY);
        let second = self.unix_seconds % SECONDS_OF_A_DAY;
        write!(
            formatter,
            "{PREFIX}{year:04}{month:02}{day:02}T{:02}{:02}{:02}Z-r{}{SUFFIX}",
            second / 3600,
            second / 60 % 60,
            second % 60,
            self.revision
        )
    }
}

impl BackupName {
    /// Reads a name exactly as [`BackupName`] writes it; anything else is not ours.
    pub(crate) fn parse(name: &str) -> Option<BackupName> {
        let (time, revision) = name
            .strip_prefix(PREFIX)?
            .strip_suffix(SUFFIX)?
            .split_once("Z-r")?;
        let (date, clock) = time.split_once('T')?;
        let number = |text: &str, from: usize, to: usize| -> Option<u64> {
            text.get(from..to)?.parse().ok()
        };
        let days = days(
            number(date, 0, 4)?,
            number(date, 4, 6)?,
            number(date, 6, 8)?,
        )?;
        let seconds =
            number(clock, 0, 2)? * 3600 + number(clock, 2, 4)? * 60 + number(clock, 4, 6)?;
        let parsed = BackupName {
            unix_seconds: days * SECONDS_OF_A_DAY + seconds,
            revision: revision.parse().ok()?,
        };
        (parsed.to_string() == name).then_some(parsed)
    }
}

/// `2026-01-31T02:00:00Z`
pub(crate) fn rfc3339(unix_seconds: u64) -> String {
    let (year, month, day) = date(unix_seconds / SECONDS_OF_A_DAY);
    let second = unix_seconds % SECONDS_OF_A_DAY;
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z",
        second / 3600,
        second / 60 % 60,
        second % 60
    )
}

/// Year, month and day of a day counted from 1970-01-01, in the Gregorian calendar.
///
/// Counted from 0000-03-01, so that leap days end their years: 400 years have 146,097 days, and
/// the months from March on have lengths that 153 days in five months describe.
fn date(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let day_of_era = shifted % 146_097;
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 {
        shifted_month + 3
    } else {
        shifted_month - 9
    };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    (year, month, day)
}

/// The inverse of [`date`], for the years that a name can hold.
fn days(year: u64, month: u64, day: u64) -> Option<u64> {
    if !(1970..=9999).contains(&year) || !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    let year = year - u64::from(month <= 2);
    let era = year / 400;
    let year_of_era = year % 400;
    let shifted_month = if month > 2 { month - 3 } else { month + 9 };
    let day_of_year = (153 * shifted_month + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    (era * 146_097 + day_of_era).checked_sub(719_468)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_name_says_when_and_which_revision() {
        let name = BackupName {
            unix_seconds: 1_769_824_800,
            revision: 123,
        };
        assert_eq!(name.to_string(), "holdfast-20260131T020000Z-r123.db");
        assert_eq!(rfc3339(951_782_399), "2000-02-28T23:59:59Z");
        assert_eq!(rfc3339(951_782_400), "2000-02-29T00:00:00Z");
    }

    #[test]
    fn other_names_are_not_ours() {
        for name in [
            "holdfast-20260131T020000Z-r123.db.part",
            "holdfast-20260131T020000Z-r123",
            "holdfast-20260231T020000Z-r123.db",
            "holdfast-20260131T026000Z-r123.db",
            "holdfast-20260131T020000Z-r+12.db",
            "holdfast-2-20260131T020000Z-r123.db",
            "holdfast-é0260131T020000Z-r123.db",
            "notes.db",
        ] {
            assert_eq!(BackupName::parse(name), None, "{name}");
        }
    }

    proptest! {
        #[test]
        fn a_name_reads_back_as_it_is_written(
            unix_seconds in 0..253_402_300_800u64, revision: u64,
        ) {
            let name = BackupName { unix_seconds, revision };
            prop_assert_eq!(BackupName::parse(&name.to_string()), Some(name));
        }
    }
}
