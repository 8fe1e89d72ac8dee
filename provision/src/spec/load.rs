//! From the file's text to a checked [`Spec`], with the line of every fault.

use std::fmt;

use super::checked::Spec;
use super::nearest::nearest;
use super::typed::{Profile, TypedSpec};

/// Largest configuration file; a full one has some 8 KiB.
const CONFIG_BYTES_MAX: usize = 1 << 20;

/// Where the configuration came from, for messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ConfigSource {
    /// A file, by the name the operator gave.
    File(String),
    /// No file: a profile's defaults.
    Defaults,
}

/// One fault in the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    /// Counted from 1; absent when the fault lies in no one line.
    pub(crate) line: Option<usize>,
    pub(crate) message: String,
}

/// Why a configuration was refused: every fault that was found.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) struct ConfigError {
    pub(crate) source_name: String,
    pub(crate) faults: Vec<Fault>,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, fault) in self.faults.iter().enumerate() {
            if index > 0 {
                writeln!(formatter)?;
            }
            match fault.line {
                Some(line) => write!(formatter, "{}:{line}: {}", self.source_name, fault.message)?,
                None => write!(formatter, "{}: {}", self.source_name, fault.message)?,
            }
        }
        Ok(())
    }
}

impl fmt::Display for ConfigSource {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ConfigSource::File(name) => formatter.write_str(name),
            ConfigSource::Defaults => formatter.write_str("built-in defaults"),
        }
    }
}

/// Reads `bytes` as a configuration; `profile` overrides the one in the file.
///
/// # Errors
/// Every fault found, each with its line.
pub(crate) fn load(
    source: &ConfigSource,
    bytes: &[u8],
    profile: Option<Profile>,
) -> Result<Spec, ConfigError> {
    let refuse = |message: &str| ConfigError {
        source_name: source.to_string(),
        faults: vec![Fault {
            line: None,
            message: message.to_owned(),
        }],
    };
    if bytes.len() > CONFIG_BYTES_MAX {
        return Err(refuse(
            "the file is larger than 1 MiB; is it the right one?",
        ));
    }
    let text = std::str::from_utf8(bytes).map_err(|_| refuse("the file is not UTF-8 text"))?;
    parse(text, profile).map_err(|faults| ConfigError {
        source_name: source.to_string(),
        faults,
    })
}

/// Reads `text` as a configuration; `profile` overrides the one in the text.
///
/// # Errors
/// Every fault found, each with its line.
pub(crate) fn parse(text: &str, profile: Option<Profile>) -> Result<Spec, Vec<Fault>> {
    let typed: TypedSpec =
        toml::from_str(text).map_err(|error| vec![syntax_fault(text, &error)])?;
    let mut checking = Checking {
        text,
        faults: Vec::new(),
    };
    let spec = Spec::check(&typed, profile, &mut checking);
    if checking.faults.is_empty() {
        Ok(spec)
    } else {
        Err(checking.faults)
    }
}

/// The faults found so far, and the text whose lines they name.
pub(super) struct Checking<'a> {
    text: &'a str,
    faults: Vec<Fault>,
}

impl Checking<'_> {
    /// Notes a fault of the value at `span`.
    pub(super) fn refuse(&mut self, span: Option<std::ops::Range<usize>>, message: String) {
        let line = span.map(|span| line_of(self.text, span.start));
        self.faults.push(Fault { line, message });
    }
}

fn line_of(text: &str, offset: usize) -> usize {
    text.as_bytes()[..offset.min(text.len())]
        .iter()
        .filter(|byte| **byte == b'\n')
        .count()
        + 1
}

/// A fault that the TOML reader or a value's own type found.
fn syntax_fault(text: &str, error: &toml::de::Error) -> Fault {
    let line = error.span().map(|span| line_of(text, span.start));
    Fault {
        line,
        message: unknown_key(error.message()).unwrap_or_else(|| error.message().to_owned()),
    }
}

/// serde says: unknown field `x`, expected one of `a`, `b` (or: expected `a`, or `a` or `b`).
fn unknown_key(message: &str) -> Option<String> {
    let rest = message.strip_prefix("unknown field ")?;
    let mut quoted = rest.split('`').skip(1).step_by(2);
    let unknown = quoted.next()?;
    let known: Vec<&str> = quoted.collect();
    let hint = match nearest(unknown, known.iter().copied()) {
        Some(word) => format!("did you mean {word:?}?"),
        None => format!("known here: {}", known.join(", ")),
    };
    Some(format!("unknown key {unknown:?}; {hint}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(text: &str) -> Vec<(Option<usize>, String)> {
        parse(text, None)
            .err()
            .unwrap_or_default()
            .into_iter()
            .map(|fault| (fault.line, fault.message))
            .collect()
    }

    #[test]
    fn an_unknown_key_is_named_with_its_line_and_the_nearest_known_one() {
        let found = faults("schema = 1\n\n[storage]\nquotaa = \"2GiB\"\n");
        assert_eq!(
            found,
            [(
                Some(4),
                "unknown key \"quotaa\"; did you mean \"quota\"?".to_owned()
            )]
        );
        let found = faults("[sotrage]\n");
        assert_eq!(
            found,
            [(
                Some(1),
                "unknown key \"sotrage\"; did you mean \"storage\"?".to_owned()
            )]
        );
        let found = faults("[cluster]\nmode = \"x\"\n");
        assert_eq!(
            found,
            [(
                Some(2),
                "unknown key \"mode\"; known here: token".to_owned()
            )]
        );
    }

    #[test]
    fn a_value_without_its_unit_is_named_with_its_line() {
        let found = faults("[storage]\nquota = \"2\"\n");
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].0, Some(2));
        assert!(found[0].1.contains("such as \"2GiB\""), "{}", found[0].1);
        let found = faults("[storage]\nquota = 2147483648\n");
        assert_eq!(found[0].0, Some(2));
    }

    #[test]
    fn broken_toml_is_named_with_its_line() {
        let found = faults("schema = 1\nprofile = prod\n");
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].0, Some(2));
    }

    #[test]
    fn all_faults_of_meaning_come_at_once() {
        let found = faults(
            "schema = 2\n[timing]\nheartbeat = \"300ms\"\nelection = \"1s\"\n[node]\ndata_dir = \"/home/x\"\n",
        );
        let lines: Vec<Option<usize>> = found.iter().map(|(line, _)| *line).collect();
        assert_eq!(lines, [Some(1), Some(6), Some(4)], "{found:?}");
    }
}
