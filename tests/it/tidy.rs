//! Rules of the workspace, checked like everything else.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use holdfast_tests::tools::checkout;

/// Larger files hold data, not text.
const TEXT_BYTES_MAX: u64 = 1024 * 1024;

#[test]
fn crates_depend_only_along_the_arrows_of_the_layout() {
    // server -> all; state_machine -> mvcc -> storage; consensus and proto -> nothing of ours.
    let allowed: BTreeMap<&str, &[&str]> = BTreeMap::from([
        ("consensus", &[][..]),
        ("proto", &[]),
        ("storage", &[]),
        ("mvcc", &["storage"]),
        ("state_machine", &["mvcc", "storage", "proto"]),
        (
            "holdfast",
            &["consensus", "mvcc", "proto", "state_machine", "storage"],
        ),
        ("provision", &["proto"]),
        (
            "holdfast-tests",
            &["consensus", "mvcc", "proto", "state_machine", "storage"],
        ),
    ]);
    // The cores wait for nothing and touch nothing: no runtime, no network.
    let pure = ["consensus", "mvcc", "state_machine", "storage"];
    let manifests = files(|path| path.ends_with("Cargo.toml"));
    let mut seen = 0;
    for manifest in manifests {
        let text = read(&manifest);
        let Some(name) = text.lines().find_map(|line| line.strip_prefix("name = \"")) else {
            continue;
        };
        let name = name.trim_end_matches('"');
        let arrows = allowed.get(name);
        let arrows = arrows.unwrap_or_else(|| panic!("{} has no place in the layout", name));
        seen += 1;
        for dependency in dependencies(&text) {
            let ours = allowed.contains_key(&dependency[..]);
            assert!(
                !ours || arrows.contains(&&dependency[..]),
                "{name} must not use {dependency}"
            );
            let waits = ["tokio", "tonic", "hyper"].contains(&&dependency[..]);
            assert!(
                !waits || !pure.contains(&name),
                "{name} must not use {dependency}"
            );
        }
    }
    assert_eq!(seen, allowed.len(), "a crate of the layout is missing");
}

/// Names under `[dependencies]`; those for tests and build scripts are free.
fn dependencies(manifest: &str) -> Vec<String> {
    let lines = manifest
        .lines()
        .skip_while(|line| *line != "[dependencies]")
        .skip(1);
    let section = lines.take_while(|line| !line.starts_with('['));
    let names = section.filter_map(|line| line.split(['.', ' ', '=']).next());
    names
        .filter(|name| !name.is_empty() && !name.starts_with('#'))
        .map(str::to_owned)
        .collect()
}

#[test]
fn every_test_file_is_declared() {
    let mains = files(|path| path.ends_with("main.rs") && !path.starts_with("provision/src"));
    let mut declared = 0;
    for main in mains {
        let folder = main.parent().expect("a file lies in a folder");
        let is_test =
            folder.ends_with("tests/it") || folder.parent().is_some_and(|p| p.ends_with("tests"));
        if !is_test {
            continue;
        }
        let text = read(&main);
        for entry in fs::read_dir(checkout().join(folder))
            .expect("a folder")
            .flatten()
        {
            let path = entry.path();
            let name = path
                .file_stem()
                .and_then(|name| name.to_str())
                .unwrap_or_default();
            if path.extension().is_some_and(|extension| extension == "rs") && name != "main" {
                let found = text.lines().any(|line| line == format!("mod {name};"));
                assert!(
                    found,
                    "{} is not declared in {}",
                    path.display(),
                    main.display()
                );
                declared += 1;
            }
        }
    }
    assert!(declared > 5, "the test files were not found");
}

#[test]
fn unsafe_code_has_one_home() {
    // And the allocator of a test, which counts; nothing that is shipped has it.
    let homes = [
        "server/storage/src/disk/map.rs",
        "server/tests/fuzz/instruments.rs",
    ]
    .map(Path::new);
    let forms: Vec<String> = ["{", "fn", "impl", "trait", "extern"]
        .map(|what| ["unsafe", what].join(" "))
        .into();
    for (path, number, line) in rust_lines() {
        if !homes.contains(&&*path) && forms.iter().any(|form| code(&line).contains(form)) {
            panic!("{}:{number}: {line}", path.display());
        }
    }
}

#[test]
fn no_test_is_switched_off() {
    let ignored = format!("#[{}", "ignore");
    let conditional = format!("{}(test, {}", "cfg_attr", "ignore");
    for (path, number, line) in rust_lines() {
        let off = line.contains(&ignored) || line.contains(&conditional);
        assert!(!off, "{}:{number}: {line}", path.display());
    }
}

#[test]
fn files_are_named_after_their_subject() {
    let homeless = [
        "util", "utils", "common", "helper", "helpers", "manager", "types", "misc",
    ];
    for path in files(|path| path.extension().is_some_and(|extension| extension == "rs")) {
        let parts = path.iter().filter_map(|part| part.to_str());
        let bad = parts
            .map(|part| part.trim_end_matches(".rs"))
            .find(|part| homeless.contains(part));
        assert_eq!(
            bad,
            None,
            "{} is not named after what it is about",
            path.display()
        );
    }
}

#[test]
fn no_file_names_the_place_where_it_was_written() {
    let places = [format!("/{}/", "work")];
    for path in files(|_| true) {
        if path.ends_with("Cargo.lock") {
            continue;
        }
        let Ok(text) = String::from_utf8(fs::read(checkout().join(&path)).expect("a file")) else {
            continue;
        };
        for (number, line) in text.lines().enumerate() {
            let named = places.iter().find(|place| line.contains(&place[..]));
            assert_eq!(named, None, "{}:{}: {line}", path.display(), number + 1);
        }
    }
}

#[test]
fn nothing_is_left_unfinished() {
    let marks = ["TODO", "FIXME", "XXX"].map(|mark| format!("{mark}{}", ":"));
    let macros = ["todo", "unimplemented", "dbg"].map(|name| format!("{name}!("));
    for (path, number, line) in rust_lines() {
        let left = marks
            .iter()
            .chain(&macros)
            .find(|mark| line.contains(&mark[..]));
        assert_eq!(left, None, "{}:{number}: {line}", path.display());
    }
}

/// The line without its comment. Good enough for code that rustfmt has seen.
fn code(line: &str) -> &str {
    line.split("//").next().unwrap_or_default()
}

fn rust_lines() -> Vec<(PathBuf, usize, String)> {
    let sources = files(|path| path.extension().is_some_and(|extension| extension == "rs"));
    assert!(sources.len() > 20, "the sources were not found");
    let lines = sources.into_iter().flat_map(|path| {
        let text = read(&path);
        let numbered: Vec<(usize, String)> = text
            .lines()
            .map(str::to_owned)
            .enumerate()
            .map(|(n, line)| (n + 1, line))
            .collect();
        numbered
            .into_iter()
            .map(move |(number, line)| (path.clone(), number, line))
    });
    lines.collect()
}

fn read(path: &Path) -> String {
    let text = fs::read_to_string(checkout().join(path));
    text.unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Files of the checkout that are wanted, relative to its top; nothing that was built or is hidden.
fn files(wanted: impl Fn(&Path) -> bool) -> Vec<PathBuf> {
    let top = checkout();
    let mut found = Vec::new();
    let mut folders = vec![top.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder").flatten() {
            let path = entry.path();
            let name = entry.file_name();
            if name == "target" || (name.to_string_lossy().starts_with('.') && name != ".ci") {
                continue;
            }
            let kind = entry.file_type().expect("a file has a type");
            if kind.is_dir() {
                folders.push(path);
            } else if kind.is_file()
                && entry
                    .metadata()
                    .is_ok_and(|data| data.len() <= TEXT_BYTES_MAX)
            {
                let relative = path
                    .strip_prefix(&top)
                    .expect("below the top")
                    .to_path_buf();
                if wanted(&relative) {
                    found.push(relative);
                }
            }
        }
    }
    found.sort();
    found
}
