//! Runs etcd's own command line tools.

use std::ffi::OsStr;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::tools::{EtcdVersion, etcd_program};

/// Runs `etcdctl` against an endpoint and returns what it printed.
///
/// # Panics
/// If it fails; the message holds its output.
pub fn etcdctl<I, S>(version: EtcdVersion, endpoint: &str, arguments: I) -> String
where
    I: IntoIterator<Item = S>,
    S: AsRef<OsStr>,
{
    let mut command = Command::new(etcd_program(version, "etcdctl"));
    command
        .env("ETCDCTL_API", "3")
        .args(["--endpoints", endpoint])
        .args(arguments);
    run(command)
}

/// Runs `etcdutl` (3.5) and returns what it printed.
///
/// # Panics
/// If it fails; the message holds its output.
pub fn etcdutl<I, S>(arguments: I) -> String
where
    I: IntoIterator<Item = S>,
    S: AsRef<OsStr>,
{
    let mut command = Command::new(etcd_program(EtcdVersion::V3_5, "etcdutl"));
    command.args(arguments);
    run(command)
}

/// What `etcdutl snapshot status` says about a database file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotStatus {
    /// Hash over all buckets.
    pub hash: u64,
    /// Newest revision.
    pub revision: i64,
    /// Number of keys in all buckets.
    pub total_keys: u64,
}

/// Reads a database file or backup with real etcd's tools.
///
/// # Panics
/// If the tool refuses the file.
pub fn snapshot_status(database: &Path) -> SnapshotStatus {
    let text = etcdutl([
        OsStr::new("--write-out=json"),
        OsStr::new("snapshot"),
        OsStr::new("status"),
        database.as_os_str(),
    ]);
    let json: Value = serde_json::from_str(&text).expect("etcdutl prints JSON when asked");
    let number = |name: &str| {
        json[name]
            .as_i64()
            .unwrap_or_else(|| panic!("no {name} in {text}"))
    };
    SnapshotStatus {
        hash: number("hash") as u64,
        revision: number("revision"),
        total_keys: number("totalKey") as u64,
    }
}

fn run(mut command: Command) -> String {
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("ETCDCTL_") && name != "ETCDCTL_API" {
            command.env_remove(name);
        }
    }
    let output = command.output().expect("etcd's tools can be run");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (printed, errors) = (text(&output.stdout), text(&output.stderr));
    assert!(
        output.status.success(),
        "{command:?}: {}\n{printed}{errors}",
        output.status
    );
    printed
}
