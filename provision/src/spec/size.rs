//! Sizes in bytes, written with a unit: `2GiB`.

use std::fmt;
use std::str::FromStr;

use serde::Deserialize;

/// A number of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct ByteSize(u64);

const UNITS: [(&str, u64); 5] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("B", 1),
];

impl ByteSize {
    pub(crate) const fn from_bytes(bytes: u64) -> ByteSize {
        ByteSize(bytes)
    }

    pub(crate) const fn from_mib(mebibytes: u64) -> ByteSize {
        ByteSize(mebibytes << 20)
    }

    pub(crate) const fn from_gib(gibibytes: u64) -> ByteSize {
        ByteSize(gibibytes << 30)
    }

    pub(crate) const fn bytes(self) -> u64 {
        self.0
    }

    /// `times` as much, at most what a u64 holds.
    pub(crate) fn times(self, times: u64) -> ByteSize {
        ByteSize(self.0.saturating_mul(times))
    }

    /// The sum, at most what a u64 holds.
    pub(crate) fn plus(self, other: ByteSize) -> ByteSize {
        ByteSize(self.0.saturating_add(other.0))
    }

    /// For people: one decimal in the largest unit that fits.
    pub(crate) fn rounded(self) -> String {
        let (name, unit) = UNITS
            .iter()
            .find(|(_, unit)| self.0 >= *unit)
            .copied()
            .unwrap_or(("B", 1));
        if unit == 1 {
            return format!("{} B", self.0);
        }
        format!("{:.1} {name}", self.0 as f64 / unit as f64)
    }
}

/// The exact value in the largest unit that divides it; what [`FromStr`] reads back.
impl fmt::Display for ByteSize {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, unit) = UNITS
            .iter()
            .find(|(_, unit)| self.0 != 0 && self.0.is_multiple_of(*unit))
            .copied()
            .unwrap_or(("B", 1));
        write!(formatter, "{}{name}", self.0 / unit)
    }
}

impl FromStr for ByteSize {
    type Err = String;

    fn from_str(text: &str) -> Result<ByteSize, String> {
        let refuse = || {
            format!(
                "{text:?} is not a size; write a whole number and a unit, such as \"2GiB\" (units: B, KiB, MiB, GiB, TiB)"
            )
        };
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at(digits);
        let number: u64 = number.parse().map_err(|_| refuse())?;
        let (_, unit) = UNITS
            .iter()
            .find(|(name, _)| *name == unit.trim_start())
            .ok_or_else(refuse)?;
        number
            .checked_mul(*unit)
            .map(ByteSize)
            .ok_or_else(|| format!("{text:?} is more bytes than 64 bits can count"))
    }
}

impl TryFrom<String> for ByteSize {
    type Error = String;

    fn try_from(text: String) -> Result<ByteSize, String> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sizes_carry_a_binary_unit() {
        assert_eq!("2GiB".parse(), Ok(ByteSize::from_gib(2)));
        assert_eq!("512 KiB".parse(), Ok(ByteSize::from_bytes(512 << 10)));
        for bad in [
            "",
            "2",
            "2GB",
            "2 gib",
            "-1GiB",
            "1.5GiB",
            "GiB",
            "99999999999TiB",
        ] {
            assert!(bad.parse::<ByteSize>().is_err(), "{bad:?} was taken");
        }
    }

    proptest! {
        #[test]
        fn a_size_reads_back_as_it_is_written(bytes: u64) {
            let size = ByteSize::from_bytes(bytes);
            prop_assert_eq!(size.to_string().parse(), Ok(size));
        }
    }
}
