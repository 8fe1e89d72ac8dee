//! Finds the programs that tests run.

use std::env;
use std::path::{Path, PathBuf};

/// The releases of etcd to compare with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum EtcdVersion {
    /// Debian 12's; it knows no etcdutl.
    V3_4,
    /// The newest that Debian has.
    V3_5,
}

impl EtcdVersion {
    fn folder(self) -> &'static str {
        match self {
            EtcdVersion::V3_4 => "3.4",
            EtcdVersion::V3_5 => "3.5",
        }
    }
}

/// One of etcd's programs (`etcd`, `etcdctl`, `etcdutl`).
///
/// # Panics
/// If it is not there; the message names the command that fetches it.
pub fn etcd_program(version: EtcdVersion, name: &str) -> PathBuf {
    let folder = match env::var_os("ETCD_TOOLS_DIR") {
        Some(folder) => PathBuf::from(folder),
        None => checkout().join("target/etcd"),
    };
    let program = folder.join(version.folder()).join(name);
    let fetch = format!("run `tests/tools/install-etcd {}` first", version.folder());
    assert!(
        program.is_file(),
        "{} is missing: {fetch}",
        program.display()
    );
    program
}

/// The server under test: that of `HOLDFAST_BIN`, or the one built beside this test.
///
/// # Panics
/// If it is not there; the message names the command that builds it.
pub fn holdfast() -> PathBuf {
    if let Some(program) = env::var_os("HOLDFAST_BIN") {
        let program = PathBuf::from(program);
        assert!(
            program.is_file(),
            "HOLDFAST_BIN names {}, which is missing",
            program.display()
        );
        return program;
    }
    let own = env::current_exe().expect("this program has a path");
    // <target>/<profile>/deps/it-<hash>, or <target>/<profile>/bench.
    let beside = own
        .ancestors()
        .skip(1)
        .take(2)
        .map(|folder| folder.join("holdfast"));
    let found = beside.clone().find(|program| program.is_file());
    let wanted = beside.last().unwrap_or_default();
    found.unwrap_or_else(|| {
        let release = if wanted
            .parent()
            .is_some_and(|folder| folder.ends_with("release"))
        {
            " --release"
        } else {
            ""
        };
        panic!(
            "{} is missing: run `cargo build{release} -p holdfast` first, or set HOLDFAST_BIN",
            wanted.display()
        )
    })
}

/// The top folder of the checkout that these tests belong to.
///
/// # Panics
/// If the current folder lies in no checkout.
pub fn checkout() -> PathBuf {
    let here = env::current_dir().expect("there is a current folder");
    let is_top = |folder: &&Path| folder.join("tests/tools/install-etcd").is_file();
    let top = here.ancestors().find(is_top);
    top.expect("tests run inside the project's checkout")
        .to_path_buf()
}
