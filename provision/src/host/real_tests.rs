//! The same engine on a real directory tree, with systemd's own tools.

use std::path::Path;

use super::{Entry, Host, HostError, RealHost, UnitAction, carry_out};
use crate::facts::Facts;
use crate::paths;
use crate::plan::{Goal, Options, Plan, plan};
use crate::render::{Access, Account, Desired, SERVER_UNIT, desired};
use crate::spec::{self, HttpUrl};

const PUBLIC: Access = Access {
    owner: Account::Root,
    group: Account::Root,
    mode: 0o644,
};

/// As much of a Debian as systemd's tools want to see.
fn tree() -> tempfile::TempDir {
    let tree = tempfile::tempdir().expect("temporary folder");
    for folder in [
        "etc/systemd/system",
        "usr/lib/systemd/system",
        "usr/bin",
        "var/lib",
    ] {
        std::fs::create_dir_all(tree.path().join(folder)).expect("folder");
    }
    let target = tree.path().join("usr/lib/systemd/system/multi-user.target");
    std::fs::write(target, "[Unit]\nDescription=x\n").expect("target");
    tree
}

fn wanted(config: &str) -> Desired {
    desired(&spec::parse(config, None).expect("configuration"), config).expect("rendered")
}

fn apply(root: &Path, config: &str) -> Plan {
    let mut host = RealHost::open(Some(root)).expect("tree");
    let desired = wanted(config);
    let facts = Facts::gather(&host, &desired).expect("facts");
    let client = HttpUrl::on_loopback(2379);
    let options = Options {
        goal: Goal::InPlace,
        overwrite_drift: false,
        client,
    };
    let plan = plan(&desired, &facts, &options);
    if plan.conflicts.is_empty() {
        carry_out(&mut host, &desired, &plan, &mut |_| {}).expect("apply");
    }
    plan
}

#[test]
fn a_tree_gets_user_files_and_links_and_the_second_run_is_idle() {
    let tree = tree();
    assert!(!apply(tree.path(), "").is_idle());
    let read = |path: &str| {
        std::fs::read_to_string(tree.path().join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
    };
    assert!(read("etc/passwd").contains("holdfast:"));
    assert!(read("etc/holdfast/holdfast.env").contains("ETCD_DATA_DIR"));
    let link = tree
        .path()
        .join("etc/systemd/system/multi-user.target.wants/holdfast.service");
    assert!(link.is_symlink());
    let host = RealHost::open(Some(tree.path())).expect("tree");
    assert!(host.unit(SERVER_UNIT).expect("unit").enabled);
    let Entry::Folder { held } = host.entry(paths::DATA_DIR).expect("data") else {
        panic!()
    };
    assert_eq!(held.mode, 0o700);
    if host.can_set_owners() {
        let ids = host.service_ids().expect("ids").expect("an account");
        assert_eq!((held.user, held.group), (ids.user, ids.group));
    }
    assert!(apply(tree.path(), "").is_idle());
    // Another configuration changes only what depends on it.
    let changed = apply(tree.path(), "[storage]\nquota = \"1GiB\"\n");
    let steps: Vec<String> = changed.steps.iter().map(ToString::to_string).collect();
    assert_eq!(steps.len(), 2, "{steps:?}");
    assert!(apply(tree.path(), "[storage]\nquota = \"1GiB\"\n").is_idle());
}

#[test]
fn an_edited_file_in_a_tree_is_seen() {
    let tree = tree();
    apply(tree.path(), "");
    let path = tree.path().join("etc/systemd/system/holdfast.service");
    let mut text = std::fs::read_to_string(&path).expect("unit");
    text.push_str("# mine\n");
    std::fs::write(&path, &text).expect("edit");
    assert_eq!(apply(tree.path(), "").conflicts.len(), 1);
    assert_eq!(std::fs::read_to_string(&path).expect("unit"), text);
}

#[test]
fn a_link_that_leads_out_of_the_tree_is_refused() {
    let outside = tempfile::tempdir().expect("temporary folder");
    let tree = tree();
    std::fs::remove_dir_all(tree.path().join("var/lib")).expect("remove");
    std::os::unix::fs::symlink(outside.path(), tree.path().join("var/lib")).expect("link");
    std::os::unix::fs::symlink("/no/such/place", tree.path().join("srv")).expect("link");
    let mut host = RealHost::open(Some(tree.path())).expect("tree");
    for path in ["/var/lib/x", "/var/lib/a/b", "/srv/x"] {
        let error = host.replace_file(path, b"x", PUBLIC).expect_err(path);
        assert!(matches!(error, HostError::LeavesTree { .. }), "{error}");
    }
    assert_eq!(
        std::fs::read_dir(outside.path()).expect("outside").count(),
        0
    );
    // Debian's own links stay inside.
    std::os::unix::fs::symlink("usr/lib", tree.path().join("lib")).expect("link");
    host.replace_file("/lib/x.conf", b"x", PUBLIC)
        .expect("inside");
}

#[test]
fn disabling_in_a_tree_removes_the_link() {
    let tree = tree();
    apply(tree.path(), "");
    let mut host = RealHost::open(Some(tree.path())).expect("tree");
    host.act_on_unit(SERVER_UNIT, UnitAction::Disable)
        .expect("disable");
    assert!(!host.unit(SERVER_UNIT).expect("unit").enabled);
}
