//! Whole rendered trees, compared with `provision/tests/golden`; every unit judged by systemd.
//!
//! After a wanted change: `UPDATE_GOLDEN=1 cargo test -p provision golden`, then read the diff.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::{Desired, FileRole, desired, init_config};
use crate::facts::unit_name;
use crate::host::Child;
use crate::paths;
use crate::spec::{self, Profile, Spec};

const CASES: [&str; 3] = ["prod", "dev", "full"];
/// systemd's exposure score times ten: the server's unit must be at 2.0 or better.
const EXPOSURE_MAX: &str = "--threshold=20";

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

fn render(case: &str) -> Desired {
    let text = std::fs::read_to_string(golden().join(case).join("config.toml")).expect("a case");
    let spec = spec::parse(&text, None).expect("a good configuration");
    desired(&spec, &text).expect("rendered")
}

/// Path to text, for all files below `folder`.
fn tree(folder: &Path) -> BTreeMap<String, String> {
    let mut files = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in std::fs::read_dir(&next).into_iter().flatten() {
            let path = entry.expect("entry").path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let name = path
                    .strip_prefix(folder)
                    .expect("below")
                    .display()
                    .to_string();
                files.insert(
                    format!("/{name}"),
                    std::fs::read_to_string(&path).expect("text"),
                );
            }
        }
    }
    files
}

#[test]
fn golden_trees_are_what_is_rendered() {
    for case in CASES {
        let rendered: BTreeMap<String, String> = render(case)
            .files
            .into_iter()
            .filter(|file| file.role != FileRole::Configuration)
            .map(|file| (file.path, file.content))
            .collect();
        let folder = golden().join(case).join("tree");
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            // Missing before the first update.
            let _ = std::fs::remove_dir_all(&folder);
            for (path, content) in &rendered {
                let path = folder.join(path.trim_start_matches('/'));
                std::fs::create_dir_all(path.parent().expect("a folder")).expect("folder");
                std::fs::write(path, content).expect("file");
            }
        }
        let expected = tree(&folder);
        let names = |files: &BTreeMap<String, String>| files.keys().cloned().collect::<Vec<_>>();
        assert_eq!(
            names(&rendered),
            names(&expected),
            "{case}: UPDATE_GOLDEN=1 updates"
        );
        for (path, content) in &rendered {
            assert_eq!(
                *content, expected[path],
                "{case}{path}: UPDATE_GOLDEN=1 updates"
            );
        }
    }
}

#[test]
fn every_case_has_a_folder_and_every_folder_a_case() {
    let entries = std::fs::read_dir(golden()).expect("golden trees");
    let mut folders: Vec<String> = entries
        .map(|entry| {
            entry
                .expect("entry")
                .file_name()
                .into_string()
                .expect("name")
        })
        .collect();
    folders.sort();
    let mut cases = CASES.map(str::to_owned).to_vec();
    cases.sort();
    assert_eq!(folders, cases);
}

#[test]
fn every_template_is_rendered() {
    let templates = Path::new(env!("CARGO_MANIFEST_DIR")).join("../templates");
    let mut rendered: Vec<String> = render("prod")
        .files
        .into_iter()
        .map(|file| file.path)
        .collect();
    rendered.sort();
    assert_eq!(tree(&templates).into_keys().collect::<Vec<_>>(), rendered);
}

#[test]
fn the_commented_configuration_holds_the_defaults() {
    for profile in [Profile::Dev, Profile::Prod] {
        let text = init_config(profile).expect("rendered");
        assert_eq!(
            spec::parse(&text, None),
            Ok(Spec::defaults(profile)),
            "{text}"
        );
    }
}

/// A folder with all units of a case, whose programs exist: systemd looks for them.
fn units(case: &str) -> (tempfile::TempDir, Vec<PathBuf>) {
    let folder = tempfile::tempdir().expect("temporary folder");
    let mut paths = Vec::new();
    for file in render(case).files {
        if let Some(name) = unit_name(&file.path) {
            let path = folder.path().join(name);
            let content = file
                .content
                .replace(paths::SERVER_BINARY, "/bin/true")
                .replace("/usr/bin/provision", "/bin/true");
            std::fs::write(&path, content).expect("unit");
            paths.push(path);
        }
    }
    assert_eq!(paths.len(), 5, "server, two services, two timers");
    (folder, paths)
}

#[test]
fn systemd_has_nothing_to_say_about_any_unit() {
    for case in CASES {
        let (_folder, paths) = units(case);
        let ended = Child::new("systemd-analyze")
            .args(["verify", "--man=no", "--recursive-errors=no"])
            .args(paths)
            .end()
            .expect("systemd-analyze must be installed");
        assert_eq!(
            (ended.code, ended.message().as_str()),
            (Some(0), ""),
            "{case}"
        );
    }
}

#[test]
fn the_services_are_hardly_exposed() {
    for case in CASES {
        let (_folder, paths) = units(case);
        for path in paths
            .iter()
            .filter(|path| path.extension().is_some_and(|e| e == "service"))
        {
            let ended = Child::new("systemd-analyze")
                .args(["security", "--offline=true", EXPOSURE_MAX, "--no-pager"])
                .arg(path)
                .end()
                .expect("systemd-analyze must be installed");
            assert_eq!(
                ended.code,
                Some(0),
                "{case} {}: {}",
                path.display(),
                ended.message()
            );
        }
    }
}

/// What systemd itself makes of a value that needed quoting.
#[test]
fn a_blank_and_a_percent_sign_reach_the_server_as_they_were_typed() {
    let desired = render("full");
    let content = |path: &str| {
        let file = desired
            .files
            .iter()
            .find(|file| file.path.ends_with(path))
            .expect(path);
        file.content.as_str()
    };
    let environment = content("holdfast.env");
    assert!(
        environment.contains("ETCD_DATA_DIR=\"/srv/data 100%/holdfast\"\n"),
        "{environment}"
    );
    let unit = content("/holdfast.service");
    assert!(
        unit.contains("ReadWritePaths=\"/srv/data 100%%/holdfast\"\n"),
        "{unit}"
    );
    assert!(
        unit.contains("ETCD_ADVERTISE_CLIENT_URLS=http://%H:12379,http://127.0.0.1:12378"),
        "{unit}"
    );
}
