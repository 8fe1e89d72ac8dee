//! How each format holds a value: escapers that refuse what would break the file.
//!
//! Templates put every value where its escaper expects it: within double quotes in units,
//! environment files and TOML, or as a bare word in sysctl.d and presets. No escaper lets a control
//! character through; the configuration's types admit none either, so a refusal here is our own
//! mistake that stops before anything is written.

use std::fmt::{self, Display, Write};

use askama::filters::Escaper;

/// systemd units, sysusers.d and tmpfiles.d: within double quotes, `%` is a specifier, quotes and
/// backslashes are escapes. Settings that take a whole line hold only values without any of these.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct SystemdUnit;

/// systemd's EnvironmentFile=, and shells that source it: within double quotes, `"`, `\`, `$` and
/// the backtick are escaped.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct EnvironmentFile;

/// TOML basic strings.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Toml;

/// Formats without any quoting: letters, digits and `._-/` only.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct BareWord;

impl Escaper for SystemdUnit {
    fn write_escaped_str<W: Write>(&self, mut dest: W, text: &str) -> fmt::Result {
        for character in text.chars() {
            match character {
                '%' => dest.write_str("%%")?,
                '"' | '\\' => write!(dest, "\\{character}")?,
                _ if character.is_control() => return Err(fmt::Error),
                _ => dest.write_char(character)?,
            }
        }
        Ok(())
    }
}

impl Escaper for EnvironmentFile {
    fn write_escaped_str<W: Write>(&self, mut dest: W, text: &str) -> fmt::Result {
        for character in text.chars() {
            match character {
                '"' | '\\' | '$' | '`' => write!(dest, "\\{character}")?,
                _ if character.is_control() => return Err(fmt::Error),
                _ => dest.write_char(character)?,
            }
        }
        Ok(())
    }
}

impl Escaper for Toml {
    fn write_escaped_str<W: Write>(&self, mut dest: W, text: &str) -> fmt::Result {
        for character in text.chars() {
            match character {
                '"' | '\\' => write!(dest, "\\{character}")?,
                _ if character.is_control() => return Err(fmt::Error),
                _ => dest.write_char(character)?,
            }
        }
        Ok(())
    }
}

impl Escaper for BareWord {
    fn write_escaped_str<W: Write>(&self, mut dest: W, text: &str) -> fmt::Result {
        let fits =
            |character: char| character.is_ascii_alphanumeric() || "._-/".contains(character);
        if !text.chars().all(fits) {
            return Err(fmt::Error);
        }
        dest.write_str(text)
    }
}

/// A unit's value in which `%H` stands for the host's name; the rest is escaped.
#[derive(Clone, Debug, Default)]
pub(crate) struct HostNamedText {
    parts: Vec<Part>,
}

#[derive(Clone, Debug)]
enum Part {
    HostName,
    Text(String),
}

impl HostNamedText {
    /// Appends the host's name.
    pub(crate) fn host_name(mut self) -> HostNamedText {
        self.parts.push(Part::HostName);
        self
    }

    /// Appends text as it is.
    pub(crate) fn text(mut self, text: impl Display) -> HostNamedText {
        self.parts.push(Part::Text(text.to_string()));
        self
    }
}

impl Display for HostNamedText {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for part in &self.parts {
            match part {
                Part::HostName => formatter.write_str("%H")?,
                Part::Text(text) => SystemdUnit.write_escaped_str(&mut *formatter, text)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn escaped(escaper: impl Escaper, text: &str) -> Option<String> {
        let mut out = String::new();
        escaper.write_escaped_str(&mut out, text).ok().map(|()| out)
    }

    /// The value of `"..."` as systemd reads a quoted word: C escapes, then specifiers.
    fn read_unit_word(quoted: &str) -> Option<String> {
        let inner = quoted.strip_prefix('"')?.strip_suffix('"')?;
        let mut out = String::new();
        let mut characters = inner.chars();
        while let Some(character) = characters.next() {
            match character {
                '\\' => match characters.next()? {
                    next @ ('"' | '\\') => out.push(next),
                    _ => return None,
                },
                '"' | '\n' => return None,
                '%' => match characters.next()? {
                    '%' => out.push('%'),
                    _ => return None,
                },
                other => out.push(other),
            }
        }
        Some(out)
    }

    /// The value of `"..."` as systemd reads an environment file: a backslash keeps its meaning
    /// before `"`, `\`, `$` and the backtick only.
    fn read_environment_word(quoted: &str) -> Option<String> {
        let inner = quoted.strip_prefix('"')?.strip_suffix('"')?;
        let mut out = String::new();
        let mut characters = inner.chars();
        while let Some(character) = characters.next() {
            match character {
                '\\' => match characters.next()? {
                    next @ ('"' | '\\' | '$' | '`') => out.push(next),
                    next => out.extend(['\\', next]),
                },
                // A shell would expand these.
                '"' | '$' | '`' | '\n' => return None,
                other => out.push(other),
            }
        }
        Some(out)
    }

    #[test]
    fn a_line_break_is_refused_by_every_format() {
        for text in ["a\nb", "a\rb", "a\0b", "\u{85}"] {
            assert_eq!(escaped(SystemdUnit, text), None);
            assert_eq!(escaped(EnvironmentFile, text), None);
            assert_eq!(escaped(Toml, text), None);
            assert_eq!(escaped(BareWord, text), None);
        }
    }

    #[test]
    fn the_host_s_name_stays_a_specifier_and_the_rest_does_not() {
        let text = HostNamedText::default().host_name().text("=http://%H:1");
        assert_eq!(text.to_string(), "%H=http://%%H:1");
    }

    proptest! {
        #[test]
        fn what_a_unit_takes_reads_back_the_same(text in any::<String>()) {
            if let Some(out) = escaped(SystemdUnit, &text) {
                prop_assert_eq!(read_unit_word(&format!("\"{out}\"")), Some(text));
            } else {
                prop_assert!(text.chars().any(char::is_control));
            }
        }

        #[test]
        fn what_an_environment_file_takes_reads_back_the_same(text in any::<String>()) {
            if let Some(out) = escaped(EnvironmentFile, &text) {
                prop_assert_eq!(read_environment_word(&format!("\"{out}\"")), Some(text));
            } else {
                prop_assert!(text.chars().any(char::is_control));
            }
        }

        #[test]
        fn what_toml_takes_reads_back_the_same(text in any::<String>()) {
            if let Some(out) = escaped(Toml, &text) {
                let table: toml::Table = toml::from_str(&format!("key = \"{out}\"")).expect("toml");
                prop_assert_eq!(table["key"].as_str(), Some(text.as_str()));
            } else {
                prop_assert!(text.chars().any(char::is_control));
            }
        }

        #[test]
        fn a_bare_word_is_taken_as_it_is_or_not_at_all(text in any::<String>()) {
            if let Some(out) = escaped(BareWord, &text) {
                prop_assert!(!out.contains(char::is_whitespace));
                prop_assert_eq!(out, text);
            }
        }
    }
}
