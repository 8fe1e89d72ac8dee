//! The configuration file: YAML, hence also JSON, with the flags' names as keys.

use std::fmt;
use std::path::Path;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::Spanned;

use super::flags::{self, Flag, Foreign, Kind};
use super::note::Note;
use super::refusal::{Refusal, Source};
use super::typed::{Setting, boolean};

/// A file larger than this is not a configuration; reading it would only cost memory.
pub(super) const FILE_BYTES_MAX: u64 = 1 << 20;

/// What a file sets, in its order.
pub(super) type FileSettings = Vec<(&'static Flag, Setting)>;

/// The settings of the file `path` whose content is `text`, and what to tell the operator.
pub(super) fn parse(path: &Path, text: &str) -> Result<(FileSettings, Vec<Note>), Refusal> {
    let broken = |error: serde_saphyr::Error| {
        let line = error.location().map_or(0, |location| location.line());
        let reason = error.without_snippet();
        Refusal::new(format!(
            "{}:{line}: not a YAML mapping of settings: {reason}",
            path.display()
        ))
    };
    let Entries(entries) = serde_saphyr::from_str(text).map_err(broken)?;
    let mut settings = FileSettings::new();
    let mut notes = Vec::new();
    for (key, value) in entries {
        let source = Source::File {
            path: path.to_owned(),
            line: value.referenced.line(),
        };
        match value.value {
            // etcd keeps these together; each is a flag of its own.
            Value::Mapping(entries) if key == "client-transport-security" => {
                for (key, value) in entries {
                    let key = match key.as_str() {
                        "allowed-hostname" | "allowed-hostnames" => "client-cert-allowed-hostname",
                        "crl-file" => "client-crl-file",
                        key => key,
                    };
                    add(&mut settings, &mut notes, key, &value, source.clone())?;
                }
            }
            Value::Mapping(entries) if key == "peer-transport-security" => {
                for (key, value) in entries {
                    let key = match key.as_str() {
                        "allowed-cn" | "allowed-cns" => "peer-cert-allowed-cn",
                        "allowed-hostname" | "allowed-hostnames" => "peer-cert-allowed-hostname",
                        key => &format!("peer-{key}"),
                    };
                    add(&mut settings, &mut notes, key, &value, source.clone())?;
                }
            }
            value => add(&mut settings, &mut notes, &key, &value, source)?,
        }
    }
    Ok((settings, notes))
}

fn add(
    settings: &mut FileSettings,
    notes: &mut Vec<Note>,
    key: &str,
    value: &Value,
    source: Source,
) -> Result<(), Refusal> {
    if let Some(gate) = flags::gate(key) {
        let on = boolean(&source, key, &value.to_string())?;
        let flag = flags::find("feature-gates").expect("it is in the table");
        let gate = format!("{gate}={on}");
        match settings
            .iter_mut()
            .find(|(other, _)| other.name == flag.name)
        {
            Some((_, setting)) => setting.text = format!("{},{gate}", setting.text),
            None => settings.push((flag, Setting { text: gate, source })),
        }
        return Ok(());
    }
    let key = match flags::renamed(key) {
        Some(new) => {
            notes.push(Note::Renamed {
                old: key.to_owned(),
                new: format!("--{new}"),
            });
            new
        }
        None => key,
    };
    let Some(flag) = flags::find(key).filter(|flag| settable(flag)) else {
        notes.extend(foreign_key(key, value, source)?);
        return Ok(());
    };
    if let Some(text) = value.text_for(flag, &source)? {
        if settings.iter().any(|(other, _)| other.name == flag.name) {
            let reason = "set twice in this file";
            return Err(Refusal::of_value(&source, flag.name, &text, reason));
        }
        settings.push((flag, Setting { text, source }));
    }
    Ok(())
}

/// What only a command line can mean is no key of the file.
fn settable(flag: &Flag) -> bool {
    flag.kind != Kind::Switch && flag.name != "config-file"
}

fn foreign_key(key: &str, value: &Value, source: Source) -> Result<Option<Note>, Refusal> {
    if value.is_blank() {
        return Ok(None);
    }
    match flags::foreign(key) {
        Foreign::Needed => Err(Refusal::of_value(
            &source,
            key,
            &value.to_string(),
            "this version does not have etcd's setting, and starting without it could be unsafe; remove it",
        )),
        Foreign::Ignored | Foreign::IgnoredBoolean | Foreign::Unknown => {
            Ok(Some(Note::KeyIgnored {
                key: key.to_owned(),
                source,
            }))
        }
    }
}

/// The pairs of a mapping in their order, each value with its line.
struct Entries(Vec<(String, Spanned<Value>)>);

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Entries, D::Error> {
        struct EntriesVisitor;

        impl<'de> Visitor<'de> for EntriesVisitor {
            type Value = Entries;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a mapping")
            }

            fn visit_unit<E>(self) -> Result<Entries, E> {
                Ok(Entries(Vec::new()))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entries, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Entries(entries))
            }
        }

        deserializer.deserialize_map(EntriesVisitor)
    }
}

/// Any YAML value, as far as a setting may be one.
#[derive(Debug, Clone, PartialEq)]
enum Value {
    Null,
    Boolean(bool),
    Integer(i128),
    Float(f64),
    Text(String),
    List(Vec<Value>),
    Mapping(Vec<(String, Value)>),
}

impl Value {
    /// What would stand behind `--flag=`; nothing for null, which keeps the default.
    fn text_for(&self, flag: &Flag, source: &Source) -> Result<Option<String>, Refusal> {
        let refuse = |allowed: &str| {
            Err(Refusal::of_value(
                source,
                flag.name,
                &self.to_string(),
                format!("expected {allowed}"),
            ))
        };
        match self {
            Value::Null => Ok(None),
            Value::Integer(number) if flag.kind == Kind::Duration => {
                Ok(Some(format!("{number}ns")))
            }
            Value::Boolean(_) if flag.kind == Kind::Boolean => Ok(Some(self.to_string())),
            Value::Integer(_) | Value::Text(_) => Ok(Some(self.to_string())),
            Value::List(items) if flag.kind == Kind::List => {
                if items.iter().all(|item| matches!(item, Value::Text(_))) {
                    Ok(Some(self.to_string()))
                } else {
                    refuse("a list of texts")
                }
            }
            Value::List(_) | Value::Mapping(_) => refuse("one value"),
            Value::Boolean(_) | Value::Float(_) => refuse("a text or a whole number; use quotes"),
        }
    }

    /// Nothing is asked for: etcd's sample file lists many settings with such values.
    fn is_blank(&self) -> bool {
        match self {
            Value::Null => true,
            Value::Boolean(on) => !on,
            Value::Integer(number) => *number == 0,
            Value::Float(number) => *number == 0.0,
            Value::Text(text) => text.is_empty(),
            Value::List(items) => items.iter().all(Value::is_blank),
            Value::Mapping(entries) => entries.iter().all(|(_, value)| value.is_blank()),
        }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Null => f.write_str("null"),
            Value::Boolean(on) => write!(f, "{on}"),
            Value::Integer(number) => write!(f, "{number}"),
            Value::Float(number) => write!(f, "{number}"),
            Value::Text(text) => f.write_str(text),
            Value::List(items) => {
                for (i, item) in items.iter().enumerate() {
                    write!(f, "{}{item}", if i == 0 { "" } else { "," })?;
                }
                Ok(())
            }
            Value::Mapping(entries) => {
                f.write_str("{")?;
                for (i, (key, value)) in entries.iter().enumerate() {
                    write!(f, "{}{key}: {value}", if i == 0 { "" } else { ", " })?;
                }
                f.write_str("}")
            }
        }
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(ValueVisitor)
    }
}

struct ValueVisitor;

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_bool<E>(self, on: bool) -> Result<Value, E> {
        Ok(Value::Boolean(on))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Value, E> {
        Ok(Value::Integer(i128::from(number)))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Value, E> {
        Ok(Value::Integer(i128::from(number)))
    }

    fn visit_f64<E>(self, number: f64) -> Result<Value, E> {
        Ok(Value::Float(number))
    }

    fn visit_str<E>(self, text: &str) -> Result<Value, E> {
        Ok(Value::Text(text.to_owned()))
    }

    fn visit_string<E>(self, text: String) -> Result<Value, E> {
        Ok(Value::Text(text))
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        Value::deserialize(deserializer)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = sequence.next_element()? {
            items.push(item);
        }
        Ok(Value::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = map.next_entry()? {
            entries.push(entry);
        }
        Ok(Value::Mapping(entries))
    }
}
