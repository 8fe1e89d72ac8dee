//! `holdfast defrag`: the database of a stopped member, as small as it can be.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Parser;
use storage::disk::real::RealDisk;
use storage::disk::{Disk, Open};
use storage::{Fault, Store};

use super::{Ended, Failure, parse};
use crate::data_dir::Paths;

/// Begins the names of files that are written to take the database's place. A start removes them.
const ASIDE_PREFIX: &str = "db.tmp";

/// Writes the database of a stopped member anew, without the room that deleted keys have left. It needs
/// as much free space as the database has content. A running member does the same without stopping:
/// `etcdctl defrag`.
#[derive(Parser)]
#[command(name = "holdfast defrag", disable_version_flag = true)]
struct Arguments {
    /// The member's data directory.
    #[arg(long, env = "ETCD_DATA_DIR", value_name = "DIR")]
    data_dir: PathBuf,
}

pub(super) fn run(arguments: &[OsString]) -> Result<String, Ended> {
    let arguments: Arguments = parse("holdfast defrag", arguments)?;
    let path = Paths::in_dir(&arguments.data_dir, None).db;
    let disk: Arc<dyn Disk> = Arc::new(RealDisk);
    let (before, after) = defragment(&disk, &path)?;
    Ok(format!(
        "{}: {before} bytes before, {after} bytes after\n",
        path.display()
    ))
}

/// Returns the size of the file before and after.
fn defragment(disk: &Arc<dyn Disk>, path: &Path) -> Result<(u64, u64), Failure> {
    let before = size(&**disk, path)?;
    let mut store = Store::open(disk.clone(), path)?;
    // Damage must not be copied: what the file still shows of it would be gone.
    storage::check(store.committed())?;
    if let Err(fault) = store.rewrite() {
        remove_remains(&**disk, path);
        return Err(fault.into());
    }
    // The room for growth behind the last page is given back; the store's lock still keeps others off.
    let after = store.committed().size();
    let file = disk.open(path, Open::Write);
    let file = file.map_err(Fault::io("open", path))?;
    file.set_size(after).map_err(Fault::io("cut", path))?;
    file.sync().map_err(Fault::io("sync", path))?;
    Ok((before, after))
}

fn size(disk: &dyn Disk, path: &Path) -> Result<u64, Fault> {
    let file = disk
        .open(path, Open::Read)
        .map_err(Fault::io("open", path))?;
    file.size().map_err(Fault::io("measure", path))
}

/// A disk that is full should not stay so. What cannot be removed goes at the next start.
fn remove_remains(disk: &dyn Disk, path: &Path) {
    let Some(folder) = path.parent() else { return };
    for name in disk.list(folder).unwrap_or_default() {
        if name.starts_with(ASIDE_PREFIX) {
            let _ = disk.remove(&folder.join(name));
        }
    }
}
