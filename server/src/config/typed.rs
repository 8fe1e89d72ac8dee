//! What was typed: each setting once, as text, with the place it came from.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use super::flags::{self, Flag, Foreign, Kind};
use super::note::Note;
use super::refusal::{Refusal, Source, environment_name};
use super::{file, help};

/// What all of etcd's variables begin with.
const ENVIRONMENT_PREFIX: &str = "ETCD_";

/// One setting as it was typed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Setting {
    pub(super) text: String,
    pub(super) source: Source,
}

/// What the command line asks for.
pub(super) enum Typed {
    /// A text to print.
    Print(String),
    /// A server with these settings.
    Serve(Settings),
}

/// The settings that count, by flag name, and what to tell the operator about the rest.
#[derive(Default)]
pub(super) struct Settings {
    by_name: ByName,
    pub(super) notes: Vec<Note>,
}

impl Settings {
    /// As [`Settings::get`], where empty text has a meaning of its own.
    pub(super) fn get_even_if_empty(&self, name: &str) -> Option<&Setting> {
        self.by_name.get(name)
    }

    /// The setting of the flag `name`. Empty text counts as unset, as in etcd's environment.
    pub(super) fn get(&self, name: &str) -> Option<&Setting> {
        assert!(
            flags::find(name).is_some(),
            "{name} is not in the table of flags"
        );
        self.by_name
            .get(name)
            .filter(|setting| !setting.text.is_empty())
    }
}

/// Reads arguments (without the program's name), environment and, if one is named, the file.
///
/// A file excludes everything else. Without one, a flag and a variable of the same name exclude
/// each other.
pub(super) fn collect(
    arguments: &[OsString],
    environment: &[(OsString, OsString)],
    read_file: impl Fn(&Path) -> io::Result<String>,
) -> Result<Typed, Refusal> {
    let Arguments {
        settings: typed,
        print,
        notes: typed_notes,
    } = parse_arguments(arguments)?;
    if let Some(text) = print {
        return Ok(Typed::Print(text));
    }
    if let Some(path) = config_file(&typed, environment) {
        return from_file(path, read_file).map(Typed::Serve);
    }
    let (variables, variable_notes) = parse_environment(environment)?;
    let mut notes = typed_notes;
    notes.extend(variable_notes);
    let mut by_name = typed;
    for (name, variable) in variables {
        if by_name.contains_key(name) {
            return Err(Refusal::new(format!(
                "conflicting environment variable {} is shadowed by corresponding command-line \
                 flag --{name} (either unset environment variable or disable flag)",
                environment_name(name),
            )));
        }
        notes.push(Note::VariableUsed {
            name: environment_name(name),
            value: variable.text.clone(),
        });
        by_name.insert(name, variable);
    }
    Ok(Typed::Serve(Settings { by_name, notes }))
}

pub(super) type ByName = BTreeMap<&'static str, Setting>;

fn config_file(typed: &ByName, environment: &[(OsString, OsString)]) -> Option<PathBuf> {
    let variable = environment_name("config-file");
    let typed = typed
        .get("config-file")
        .map(|setting| PathBuf::from(&setting.text));
    let set = environment.iter().find(|(name, _)| *name == *variable);
    typed
        .filter(|path| !path.as_os_str().is_empty())
        .or_else(|| set.map(|(_, value)| PathBuf::from(value)))
        .filter(|path| !path.as_os_str().is_empty())
}

struct Arguments {
    settings: ByName,
    print: Option<String>,
    notes: Vec<Note>,
}

/// Go's rules: one dash or two, `--x=v` or `--x v`, the last of several counts.
fn parse_arguments(arguments: &[OsString]) -> Result<Arguments, Refusal> {
    let mut settings = BTreeMap::new();
    let mut notes = Vec::new();
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        let argument = text_of(argument)?;
        let Some(typed) = argument
            .strip_prefix("--")
            .or_else(|| argument.strip_prefix('-'))
        else {
            return Err(not_a_flag(argument));
        };
        let (name, value) = match typed.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (typed, None),
        };
        if name.is_empty() || name.starts_with('-') {
            return Err(not_a_flag(argument));
        }
        let name = if name == "h" { "help" } else { name };
        let name = current_name(name, &format!("--{name}"), &mut notes);
        let Some(flag) = flags::find(name) else {
            let takes_next = match (flags::gate(name), flags::foreign(name)) {
                (Some(gate), _) => {
                    let on = boolean(&Source::Flag, name, value.unwrap_or("true"))?;
                    add_gate(&mut settings, gate, on, Source::Flag);
                    false
                }
                (None, Foreign::Ignored) => value.is_none(),
                (None, Foreign::IgnoredBoolean) => false,
                (None, Foreign::Needed | Foreign::Unknown) => return Err(unknown_flag(name)),
            };
            if flags::gate(name).is_none() {
                notes.push(Note::FlagIgnored {
                    name: format!("--{name}"),
                });
            }
            if takes_next && rest.next().is_none() {
                return Err(Refusal::new(format!("flag needs an argument: --{name}")));
            }
            continue;
        };
        if flag.kind == Kind::Switch {
            if switch(flag, value)? {
                let print = if flag.name == "help" {
                    help::help()
                } else {
                    help::version()
                };
                return Ok(Arguments {
                    settings,
                    print: Some(print),
                    notes,
                });
            }
            continue;
        }
        let text = match value {
            Some(value) => value.to_owned(),
            None if flag.kind == Kind::Boolean => "true".to_owned(),
            None => match rest.next() {
                Some(value) => text_of(value)?.to_owned(),
                None => return Err(Refusal::new(format!("flag needs an argument: --{name}"))),
            },
        };
        settings.insert(
            flag.name,
            Setting {
                text,
                source: Source::Flag,
            },
        );
    }
    Ok(Arguments {
        settings,
        print: None,
        notes,
    })
}

/// The name that counts; an older one is told to the operator under the place where it was found.
fn current_name<'n>(name: &'n str, place: &str, notes: &mut Vec<Note>) -> &'n str {
    let Some(new) = flags::renamed(name) else {
        return name;
    };
    notes.push(Note::Renamed {
        old: place.to_owned(),
        new: format!("--{new}"),
    });
    new
}

/// Adds a feature gate to those that are set.
pub(super) fn add_gate(settings: &mut ByName, gate: &str, on: bool, source: Source) {
    let name = flags::find("feature-gates")
        .expect("it is in the table")
        .name;
    let gate = format!("{gate}={on}");
    settings
        .entry(name)
        .and_modify(|setting| setting.text = format!("{},{gate}", setting.text))
        .or_insert(Setting { text: gate, source });
}

fn text_of(argument: &OsString) -> Result<&str, Refusal> {
    argument.to_str().ok_or_else(|| {
        Refusal::new(format!(
            "the argument {} is not UTF-8",
            argument.to_string_lossy()
        ))
    })
}

fn not_a_flag(argument: &str) -> Refusal {
    Refusal::new(format!(
        "{argument:?} is not a valid flag; flags are written --name=value"
    ))
}

fn unknown_flag(name: &str) -> Refusal {
    let hint = match (flags::foreign(name), flags::nearest(name)) {
        (Foreign::Needed, _) => "; etcd has it, this version does not".to_owned(),
        (_, Some(nearest)) => format!("; did you mean --{nearest}?"),
        (_, None) => "; --help lists the flags".to_owned(),
    };
    Refusal::new(format!("flag provided but not defined: --{name}{hint}"))
}

/// Go's words for a boolean.
const TRUE: [&str; 6] = ["1", "t", "T", "true", "TRUE", "True"];
const FALSE: [&str; 6] = ["0", "f", "F", "false", "FALSE", "False"];

fn switch(flag: &Flag, value: Option<&str>) -> Result<bool, Refusal> {
    boolean(&Source::Flag, flag.name, value.unwrap_or("true"))
}

/// Reads one of Go's words for true or false.
pub(super) fn boolean(source: &Source, name: &str, text: &str) -> Result<bool, Refusal> {
    match text {
        text if TRUE.contains(&text) => Ok(true),
        text if FALSE.contains(&text) => Ok(false),
        _ => Err(Refusal::of_value(
            source,
            name,
            text,
            "expected true or false",
        )),
    }
}

fn parse_environment(environment: &[(OsString, OsString)]) -> Result<(ByName, Vec<Note>), Refusal> {
    let mut variables = BTreeMap::new();
    let mut notes = Vec::new();
    for (variable, value) in environment {
        let Some(suffix) = variable
            .to_str()
            .and_then(|v| v.strip_prefix(ENVIRONMENT_PREFIX))
        else {
            continue;
        };
        if value.is_empty() || suffix == "UNSUPPORTED_ARCH" {
            continue;
        }
        let variable = format!("{ENVIRONMENT_PREFIX}{suffix}");
        if suffix == "VERSION" {
            notes.push(Note::VariableSpecial { name: variable });
            continue;
        }
        let text = value
            .to_str()
            .ok_or_else(|| Refusal::new(format!("the value of {variable} is not UTF-8")))?
            .to_owned();
        let name = suffix.to_lowercase().replace('_', "-");
        let is_exact = environment_name(&name) == variable;
        if let Some(gate) = flags::gate(&name).filter(|_| is_exact) {
            let on = boolean(&Source::Environment, &name, &text)?;
            add_gate(&mut variables, gate, on, Source::Environment);
            continue;
        }
        let name = match is_exact {
            true => current_name(&name, &variable, &mut notes).to_owned(),
            false => name,
        };
        let known = flags::find(&name).filter(|flag| flag.kind != Kind::Switch && is_exact);
        match known {
            Some(flag) => {
                variables.insert(
                    flag.name,
                    Setting {
                        text,
                        source: Source::Environment,
                    },
                );
            }
            None => notes.extend(foreign_variable(variable, &name, &text)?),
        }
    }
    Ok((variables, notes))
}

fn foreign_variable(variable: String, name: &str, text: &str) -> Result<Option<Note>, Refusal> {
    let asks_for_nothing = FALSE.contains(&text) || text == "*";
    match flags::foreign(name) {
        Foreign::Needed if asks_for_nothing => Ok(None),
        Foreign::Needed => Err(Refusal::of_value(
            &Source::Environment,
            name,
            text,
            "this version does not have etcd's setting, and starting without it could be unsafe; unset it",
        )),
        Foreign::Ignored | Foreign::IgnoredBoolean => {
            Ok(Some(Note::FlagIgnored { name: variable }))
        }
        Foreign::Unknown => Ok(Some(Note::VariableUnknown { name: variable })),
    }
}

fn from_file(
    path: PathBuf,
    read_file: impl Fn(&Path) -> io::Result<String>,
) -> Result<Settings, Refusal> {
    let text = read_file(&path).map_err(|error| {
        Refusal::new(format!(
            "cannot read --config-file {}: {error}",
            path.display()
        ))
    })?;
    let (settings, mut notes) = file::parse(&path, &text)?;
    notes.insert(0, Note::FileLoaded { path });
    let by_name = settings
        .into_iter()
        .map(|(flag, setting)| (flag.name, setting))
        .collect();
    Ok(Settings { by_name, notes })
}
