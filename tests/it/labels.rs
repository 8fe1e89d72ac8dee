//! Each rule of the interface has a label, and so has each thing that once went wrong in etcd with
//! durability ([D…]), watching ([W…]), linearizable reads ([L…]), leases ([E…]) and members ([M…]); each label is named by a test that checks it, in its name or in
//! a comment.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use holdfast_tests::tools::checkout;

/// Labels that stand for no rule.
const NO_RULES: [&str; 5] = ["MT-4", "MT-5", "MT-6", "MT-7", "MT-8"];

/// The rules, by kind: the highest number, of which every one from 1 on is there.
const RULES: [(&str, u32); 11] = [
    ("KV", 50),
    ("WA", 23),
    ("LE", 13),
    ("AU", 18),
    ("CL", 9),
    ("MT", 26),
    ("LO", 5),
    ("EL", 6),
    ("GR", 8),
    ("ERR", 5),
    ("HT", 18),
];

/// Rules that one member cannot show, or nobody from outside, each with the reason.
const NOT_SHOWN: [(&str, &str); 2] = [
    (
        "ERR-2",
        "the client's own library says it, whatever the server answers later",
    ),
    (
        "MT-15",
        "the version of the cluster stays where it is; see ARCHITECTURE.md",
    ),
];

#[test]
fn every_rule_is_named_by_a_test_that_checks_it() {
    let mut named = BTreeSet::new();
    for file in files_with_tests() {
        collect(&tests_in(&file), &mut named);
    }
    let excused: BTreeSet<&str> = NOT_SHOWN.iter().map(|(label, _)| *label).collect();
    let all = RULES
        .iter()
        .flat_map(|(kind, count)| (1..=*count).map(move |n| format!("{kind}-{n}")));
    let missing: Vec<String> = all
        .filter(|label| !NO_RULES.contains(&&label[..]))
        .filter(|label| !named.contains(label) && !excused.contains(&label[..]))
        .collect();
    assert!(missing.is_empty(), "no test names {}", missing.join(", "));
    for label in excused {
        assert!(
            !named.contains(label),
            "{label} is shown by a test, and excused"
        );
    }
}

/// What went wrong before, by kind: the highest number, of which every one from 1 on is there.
const REGRESSIONS: [(&str, u32); 5] = [("D", 21), ("W", 12), ("L", 5), ("E", 8), ("M", 8)];

/// Regressions that no test shows, each with the reason.
const REGRESSIONS_NOT_SHOWN: [(&str, &str); 10] = [
    (
        "D7",
        "not yet: a defragmentation at each step of taking a leader's state in",
    ),
    ("D8", "not yet: roles that change while members lag"),
    ("D9", "not yet: odd numbers in entries, on several members"),
    (
        "D17",
        "not yet: there is no warning on kernels that have this error",
    ),
    (
        "E2",
        "not yet: checkpoints across several changes of the leader",
    ),
    (
        "E3",
        "not yet: renewals, grants and revocations in every order",
    ),
    (
        "E5",
        "not yet: leases that run out after a restore with users",
    ),
    (
        "E6",
        "not yet: a change of the leader at each step of a revocation",
    ),
    ("E7", "not yet: locks of waiters whose leases have ended"),
    (
        "E8",
        "leases go by a clock that only grows; clippy refuses any other outside of clock.rs",
    ),
];

#[test]
fn what_went_wrong_before_is_named_by_a_test_that_shows_it_does_not_now() {
    let texts = files_with_tests();
    let texts: Vec<String> = texts.iter().map(|file| tests_in(file)).collect();
    let is_named = |label: &str| {
        texts
            .iter()
            .any(|text| text.contains(&format!("[{label}]")))
    };
    for (label, reason) in REGRESSIONS_NOT_SHOWN {
        assert!(!is_named(label), "{label} is shown by a test: {reason}?");
    }
    let is_excused = |label: &str| {
        REGRESSIONS_NOT_SHOWN
            .iter()
            .any(|(known, _)| *known == label)
    };
    let all = REGRESSIONS
        .iter()
        .flat_map(|(kind, count)| (1..=*count).map(move |n| format!("{kind}{n}")));
    let missing: Vec<String> = all
        .filter(|label| !is_excused(label) && !is_named(label))
        .collect();
    assert!(missing.is_empty(), "no test names {}", missing.join(", "));
}

/// The file's text; of a file with code the tests at its end.
fn tests_in(file: &Path) -> String {
    let text = fs::read_to_string(file).expect("source is text");
    let is_tests_only =
        file.components().any(|part| part.as_os_str() == "tests") || file.ends_with("tests.rs");
    match is_tests_only {
        true => text,
        false => match text.find("#[cfg(test)]") {
            Some(at) => text[at..].to_owned(),
            None => String::new(),
        },
    }
}

fn collect(text: &str, named: &mut BTreeSet<String>) {
    for (kind, _) in RULES {
        let prefix = format!("{kind}-");
        for (at, _) in text.match_indices(&prefix) {
            let before = text[..at].chars().next_back();
            let digits: String = text[at + prefix.len()..]
                .chars()
                .take_while(char::is_ascii_digit)
                .collect();
            if !digits.is_empty() && !before.is_some_and(|c| c.is_ascii_alphanumeric()) {
                named.insert(format!("{prefix}{digits}"));
            }
        }
    }
}

fn files_with_tests() -> Vec<PathBuf> {
    let mut found = Vec::new();
    let root = checkout();
    let mut folders = vec![
        root.join("server"),
        root.join("tests").join("it"),
        root.join("tests").join("sim"),
    ];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("readable") {
            let path = entry.expect("readable").path();
            let is_this = path.file_name().is_some_and(|name| name == "labels.rs");
            if path.is_dir() && !path.ends_with("target") {
                folders.push(path);
            } else if path.extension() == Some(Path::new("rs").as_os_str()) && !is_this {
                found.push(path);
            }
        }
    }
    found
}
