//! Any string in a key that takes one is refused with its line, or reaches every file unharmed.

use proptest::prelude::*;

use super::{Desired, desired};
use crate::paths;
use crate::spec;

/// The words that a unit gives a setting, as systemd reads them: quotes, C escapes, specifiers.
fn unit_words(unit: &str, key: &str) -> Vec<String> {
    unit.lines()
        .filter_map(|line| line.strip_prefix(key)?.strip_prefix('='))
        .flat_map(split_words)
        .map(|word| {
            let expanded = word.replace("%%", "\0");
            assert!(!expanded.contains('%'), "{word} holds a specifier");
            expanded.replace('\0', "%")
        })
        .collect()
}

fn split_words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quoted = false;
    let mut characters = line.chars();
    while let Some(character) = characters.next() {
        match character {
            '"' => {
                quoted = !quoted;
                word.get_or_insert_default();
            }
            '\\' => word
                .get_or_insert_default()
                .push(characters.next().expect("an escape")),
            ' ' if !quoted => words.extend(word.take()),
            other => word.get_or_insert_default().push(other),
        }
    }
    assert!(!quoted, "{line} has an open quote");
    words.extend(word);
    words
}

/// A variable of an environment file whose values are in double quotes.
fn variable(environment: &str, name: &str) -> String {
    let prefix = format!("{name}=\"");
    let line = environment
        .lines()
        .find_map(|line| line.strip_prefix(&prefix))
        .expect(name);
    let value = line.strip_suffix('"').expect("a closing quote");
    let mut out = String::new();
    let mut characters = value.chars();
    while let Some(character) = characters.next() {
        assert!(!"\"$`".contains(character), "{line} is not quoted");
        out.push(if character == '\\' {
            characters.next().expect("escaped")
        } else {
            character
        });
    }
    out
}

fn content<'a>(desired: &'a Desired, path: &str) -> &'a str {
    let file = desired
        .files
        .iter()
        .find(|file| file.path == path)
        .expect(path);
    &file.content
}

/// Rendered, or refused in the second line, where the value stands.
fn rendered(table: &str, key: &str, value: &str) -> Option<Desired> {
    let config = format!(
        "[{table}]\n{key} = {}\n",
        toml::Value::String(value.to_owned())
    );
    match spec::parse(&config, None) {
        Ok(spec) => Some(desired(&spec, &config).expect("what the spec takes is rendered")),
        Err(faults) => {
            let at_value = faults.iter().all(|fault| fault.line == Some(2));
            assert!(at_value, "{config:?}: {faults:?}");
            None
        }
    }
}

/// Strings that are near to being taken, and any others.
fn strings() -> impl Strategy<Value = String> {
    prop_oneof![
        "/srv/[a-zA-Z0-9%äß '\"$`\\\\\n.=,;#-]{1,12}",
        "[a-zA-Z0-9._%=, -]{0,20}",
        any::<String>(),
    ]
}

proptest! {
    #[test]
    fn any_data_folder_is_refused_or_arrives(value in strings()) {
        if let Some(desired) = rendered("node", "data_dir", &value) {
            let unit = content(&desired, "/etc/systemd/system/holdfast.service");
            prop_assert_eq!(unit_words(unit, "RequiresMountsFor"), [value.clone()]);
            if value != paths::DATA_DIR {
                prop_assert_eq!(unit_words(unit, "ReadWritePaths"), [value.clone()]);
            }
            let environment = content(&desired, paths::ENVIRONMENT_FILE);
            prop_assert_eq!(variable(environment, "ETCD_DATA_DIR"), value.clone());
            let tmpfiles = content(&desired, paths::TMPFILES_FILE);
            let quoted = format!("d \"{}\" 0700 holdfast holdfast -", value.replace('%', "%%"));
            prop_assert!(tmpfiles.lines().any(|line| line == quoted), "{}", tmpfiles);
        }
    }

    #[test]
    fn any_backup_folder_is_refused_or_arrives(value in strings()) {
        if let Some(desired) = rendered("backup", "dir", &value) {
            let unit = content(&desired, "/etc/systemd/system/holdfast-backup.service");
            let words = unit_words(unit, "ReadWritePaths");
            prop_assert_eq!(words, [value, paths::MAINTENANCE_DIR.to_owned()]);
        }
    }

    #[test]
    fn any_name_and_token_is_refused_or_arrives(value in strings()) {
        if let Some(desired) = rendered("node", "name", &value) {
            let environment = content(&desired, paths::ENVIRONMENT_FILE);
            prop_assert_eq!(variable(environment, "ETCD_NAME"), value.clone());
            let cluster = format!("{value}=http://127.0.0.1:2380");
            prop_assert_eq!(variable(environment, "ETCD_INITIAL_CLUSTER"), cluster);
        }
        if let Some(desired) = rendered("cluster", "token", &value) {
            let environment = content(&desired, paths::ENVIRONMENT_FILE);
            prop_assert_eq!(variable(environment, "ETCD_INITIAL_CLUSTER_TOKEN"), value);
        }
    }

    #[test]
    fn any_calendar_is_refused_or_stands_alone_on_its_line(value in strings()) {
        if let Some(desired) = rendered("defrag", "on_calendar", &value) {
            let timer = content(&desired, "/etc/systemd/system/holdfast-defrag.timer");
            let line = format!("OnCalendar={value}");
            prop_assert!(timer.lines().any(|other| other == line), "{}", timer);
            let usual = rendered("defrag", "on_calendar", "daily").expect("a calendar");
            let usual = content(&usual, "/etc/systemd/system/holdfast-defrag.timer");
            prop_assert_eq!(timer.lines().count(), usual.lines().count());
        }
    }
}
