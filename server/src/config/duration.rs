//! Go's notation of durations, as etcd's users type it: `300ms`, `1h30m`, `1.5h`.

use std::time::Duration;

/// Units with their length in nanoseconds, longer spellings of the same letter first.
const UNITS: [(&str, u64); 8] = [
    ("ns", 1),
    ("us", 1_000),
    ("µs", 1_000),
    ("μs", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

/// Go keeps durations in a signed 64-bit count of nanoseconds, about 292 years.
const NANOSECONDS_MAX: u64 = i64::MAX as u64;

/// Reads a duration; the refusal is the text that etcd's users know. Negative durations mean
/// nothing to any of our settings and are refused.
pub(super) fn parse(text: &str) -> Result<Duration, String> {
    let invalid = || format!("time: invalid duration {text:?}");
    let unsigned = text.strip_prefix('+').unwrap_or(text);
    let (negative, unsigned) = match unsigned.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, unsigned),
    };
    if unsigned == "0" {
        return Ok(Duration::ZERO);
    }
    if unsigned.is_empty() {
        return Err(invalid());
    }
    let mut total: u64 = 0;
    let mut rest = unsigned;
    while !rest.is_empty() {
        let (nanoseconds, after) = parse_part(text, rest)?;
        total = total
            .checked_add(nanoseconds)
            .filter(|total| *total <= NANOSECONDS_MAX)
            .ok_or_else(invalid)?;
        rest = after;
    }
    if negative && total > 0 {
        return Err(format!("time: negative duration {text:?}"));
    }
    Ok(Duration::from_nanos(total))
}

/// One number with its unit at the start of `rest`: its length in nanoseconds, and what follows.
fn parse_part<'a>(text: &str, rest: &'a str) -> Result<(u64, &'a str), String> {
    let invalid = || format!("time: invalid duration {text:?}");
    let number_len = rest
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(rest.len());
    let (number, rest) = rest.split_at(number_len);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
        return Err(invalid());
    }
    let unit_len = rest
        .find(|c: char| c.is_ascii_digit() || c == '.')
        .unwrap_or(rest.len());
    let (unit, rest) = rest.split_at(unit_len);
    if unit.is_empty() {
        return Err(format!("time: missing unit in duration {text:?}"));
    }
    let Some(&(_, length)) = UNITS.iter().find(|(name, _)| *name == unit) else {
        return Err(format!("time: unknown unit {unit:?} in duration {text:?}"));
    };
    let whole: u64 = if whole.is_empty() {
        0
    } else {
        whole.parse().map_err(|_| invalid())?
    };
    let nanoseconds = whole.checked_mul(length).ok_or_else(invalid)?;
    let nanoseconds = nanoseconds
        .checked_add(fraction_of(fraction, length))
        .ok_or_else(invalid)?;
    Ok((nanoseconds, rest))
}

/// `0.digits` of `length` nanoseconds, rounded down; digits beyond a nanosecond do not count.
fn fraction_of(digits: &str, length: u64) -> u64 {
    let mut unit = u128::from(length) * 1_000_000;
    let mut sum = 0u128;
    for digit in digits.bytes() {
        unit /= 10;
        sum += u128::from(digit - b'0') * unit;
    }
    u64::try_from(sum / 1_000_000).unwrap_or(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_mean_what_they_mean_in_go() {
        let milliseconds = |n| Ok(Duration::from_millis(n));
        assert_eq!(parse("100ms"), milliseconds(100));
        assert_eq!(parse("1h30m"), milliseconds(5_400_000));
        assert_eq!(parse("1.5h"), milliseconds(5_400_000));
        assert_eq!(parse("+2s"), milliseconds(2_000));
        assert_eq!(parse(".5s"), milliseconds(500));
        assert_eq!(parse("1.s"), milliseconds(1_000));
        assert_eq!(parse("0"), milliseconds(0));
        assert_eq!(parse("-0"), milliseconds(0));
        assert_eq!(parse("1us"), Ok(Duration::from_micros(1)));
        assert_eq!(parse("1µs"), Ok(Duration::from_micros(1)));
        assert_eq!(
            parse("0.333333333333333333333s"),
            Ok(Duration::from_nanos(333_333_333))
        );
    }

    #[test]
    fn other_texts_are_refused_in_gos_words() {
        let refusal = |text: &str| parse(text).expect_err(text);
        assert_eq!(refusal("foo"), "time: invalid duration \"foo\"");
        assert_eq!(refusal(""), "time: invalid duration \"\"");
        assert_eq!(refusal("-1"), "time: missing unit in duration \"-1\"");
        assert_eq!(refusal("10"), "time: missing unit in duration \"10\"");
        assert_eq!(refusal("1d"), "time: unknown unit \"d\" in duration \"1d\"");
        assert_eq!(refusal("-1s"), "time: negative duration \"-1s\"");
        assert_eq!(refusal("1.2.3s"), "time: invalid duration \"1.2.3s\"");
        assert_eq!(
            refusal("9999999999h"),
            "time: invalid duration \"9999999999h\""
        );
        assert_eq!(refusal("5124096h"), "time: invalid duration \"5124096h\"");
        assert_eq!(refusal("3é"), "time: unknown unit \"é\" in duration \"3é\"");
    }
}
