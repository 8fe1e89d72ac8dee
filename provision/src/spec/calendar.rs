//! When a timer fires, in systemd's calendar notation.

use std::fmt;

use serde::Deserialize;

/// Longest expression; the longest useful ones are a few dozen characters.
const CALENDAR_BYTES_MAX: usize = 128;

/// A systemd.time(7) calendar expression such as `Sun 03:00`.
///
/// Only the characters are checked here; `systemd-analyze verify` has the last word before a file
/// is put in place.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct Calendar(String);

impl Calendar {
    /// An expression that is known to be well formed.
    pub(crate) fn known(text: &'static str) -> Calendar {
        Calendar::try_from(text.to_owned()).expect("constant expressions are well formed")
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Calendar {
    type Error = String;

    fn try_from(text: String) -> Result<Calendar, String> {
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || b" *:/,.~-+_".contains(&byte);
        if text.trim().is_empty() || text.len() > CALENDAR_BYTES_MAX || !text.bytes().all(fits) {
            return Err(format!(
                "{text:?} is not a calendar expression; write one of systemd.time(7), such as \"Sun 03:00\" or \"*-*-* 02:00\" (try it with: systemd-analyze calendar)"
            ));
        }
        Ok(Calendar(text))
    }
}

impl fmt::Display for Calendar {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calendars_hold_only_the_notation_s_characters() {
        assert!(Calendar::try_from("Mon..Fri *-*-* 02:00:00 Europe/Berlin".to_owned()).is_ok());
        for bad in ["", "  ", "daily\nUnit=x", "%n", "\"daily\""] {
            assert!(
                Calendar::try_from(bad.to_owned()).is_err(),
                "{bad:?} was taken"
            );
        }
    }
}
