//! Lengths of time, written with units: `1h`, `90s`, `1h30m`, `100ms`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::Deserialize;

/// A length of time in whole milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct TimeSpan {
    millis: u64,
}

/// Largest first: the order in which a span is written, and in which its parts must stand.
const UNITS: [(&str, u64); 5] = [
    ("d", 86_400_000),
    ("h", 3_600_000),
    ("m", 60_000),
    ("s", 1_000),
    ("ms", 1),
];

impl TimeSpan {
    pub(crate) const fn from_millis(millis: u64) -> TimeSpan {
        TimeSpan { millis }
    }

    pub(crate) const fn from_secs(seconds: u64) -> TimeSpan {
        TimeSpan {
            millis: seconds * 1_000,
        }
    }

    pub(crate) const fn from_hours(hours: u64) -> TimeSpan {
        TimeSpan {
            millis: hours * 3_600_000,
        }
    }

    pub(crate) const fn as_millis(self) -> u64 {
        self.millis
    }

    pub(crate) const fn as_duration(self) -> Duration {
        Duration::from_millis(self.millis)
    }

    /// The sum, at most what a u64 of milliseconds holds.
    pub(crate) const fn plus(self, other: TimeSpan) -> TimeSpan {
        TimeSpan {
            millis: self.millis.saturating_add(other.millis),
        }
    }

    /// In the form of Go's `time.ParseDuration`, which knows no days.
    pub(crate) fn go_duration(self) -> String {
        write_in(self.millis, &UNITS[1..])
    }

    /// In the form that systemd's settings take (`m` is minutes there as well, `ms` milliseconds).
    pub(crate) fn systemd(self) -> String {
        write_in(self.millis, &UNITS)
    }
}

fn write_in(millis: u64, units: &[(&str, u64)]) -> String {
    if millis == 0 {
        return "0s".to_owned();
    }
    let mut rest = millis;
    let mut text = String::new();
    for (name, unit) in units {
        if rest >= *unit {
            text.push_str(&format!("{}{name}", rest / unit));
            rest %= unit;
        }
    }
    text
}

impl fmt::Display for TimeSpan {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&write_in(self.millis, &UNITS))
    }
}

impl FromStr for TimeSpan {
    type Err = String;

    fn from_str(text: &str) -> Result<TimeSpan, String> {
        let refuse = || {
            format!(
                "{text:?} is not a length of time; write whole numbers with units, such as \"90s\" or \"1h30m\" (units: d, h, m, s, ms)"
            )
        };
        let mut rest = text;
        let mut total: u64 = 0;
        let mut units = UNITS.iter();
        while !rest.is_empty() {
            let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
            let (number, tail) = rest.split_at(digits);
            let number: u64 = number.parse().map_err(|_| refuse())?;
            let letters = tail.bytes().take_while(u8::is_ascii_alphabetic).count();
            let (name, tail) = tail.split_at(letters);
            let (_, unit) = units.find(|(unit, _)| *unit == name).ok_or_else(refuse)?;
            total = number
                .checked_mul(*unit)
                .and_then(|part| total.checked_add(part))
                .ok_or_else(|| format!("{text:?} is longer than 64 bits of milliseconds"))?;
            rest = tail;
        }
        if text.is_empty() {
            return Err(refuse());
        }
        Ok(TimeSpan { millis: total })
    }
}

impl TryFrom<String> for TimeSpan {
    type Error = String;

    fn try_from(text: String) -> Result<TimeSpan, String> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn spans_carry_units_largest_first() {
        assert_eq!("1h30m".parse(), Ok(TimeSpan::from_secs(5400)));
        assert_eq!("100ms".parse(), Ok(TimeSpan::from_millis(100)));
        assert_eq!("7d".parse(), Ok(TimeSpan::from_hours(168)));
        for bad in [
            "",
            "1",
            "1 h",
            "h",
            "30m1h",
            "1h1h",
            "-1s",
            "1.5h",
            "1w",
            "999999999999999999d",
        ] {
            assert!(bad.parse::<TimeSpan>().is_err(), "{bad:?} was taken");
        }
    }

    #[test]
    fn the_server_reads_no_days() {
        assert_eq!(TimeSpan::from_hours(48).go_duration(), "48h");
        assert_eq!(TimeSpan::from_millis(90_500).go_duration(), "1m30s500ms");
        assert_eq!(TimeSpan::from_millis(0).go_duration(), "0s");
    }

    proptest! {
        #[test]
        fn a_span_reads_back_as_it_is_written(millis: u64) {
            let span = TimeSpan::from_millis(millis);
            prop_assert_eq!(span.to_string().parse(), Ok(span));
        }
    }
}
