//! `holdfast check`: reads all that a stopped member keeps, and says whether it is sound. It changes
//! nothing.

mod database;
mod log;

use database::check_contents;

use std::ffi::OsString;
use std::path::PathBuf;

use clap::Parser;
use storage::disk::Disk;
use storage::disk::real::RealDisk;
use storage::{Fault, read_only};

use super::{Ended, Failure, parse};
use crate::data_dir::Paths;

/// What to do about damage of one member.
const ADVICE: &str =
    "restore this member from a backup with `holdfast snapshot restore`, or replace it";

/// Reads every page, record and checksum of a stopped member's data. Ends with 0 and a summary if all
/// is sound, with 3 and the first damage if not. It changes nothing.
///
/// The bytes of values have no checksum in the database file, which has etcd's format: whether they are
/// what was written shows by `holdfast hashkv`, compared with other members or an earlier answer.
#[derive(Parser)]
#[command(name = "holdfast check", disable_version_flag = true)]
struct Arguments {
    /// The member's data directory.
    #[arg(long, env = "ETCD_DATA_DIR", value_name = "DIR")]
    data_dir: PathBuf,
    /// The folder of its log, if that lies elsewhere.
    #[arg(long, env = "ETCD_WAL_DIR", value_name = "DIR")]
    wal_dir: Option<PathBuf>,
}

pub(super) fn run(arguments: &[OsString]) -> Result<String, Ended> {
    let arguments: Arguments = parse("holdfast check", arguments)?;
    let paths = Paths::in_dir(&arguments.data_dir, arguments.wal_dir.as_deref());
    Ok(check(&RealDisk, &paths)?)
}

/// Checks database, log and raft snapshots, each by itself and then together.
pub(super) fn check(disk: &dyn Disk, paths: &Paths) -> Result<String, Failure> {
    let exists = |path| disk.exists(path).map_err(Fault::io("look for", path));
    if !exists(&paths.db)? {
        let wal = &paths.wal;
        return Err(
            match exists(wal)? && storage::wal::Log::exists(disk, wal)? {
                true => Failure::of_data(format!("{} is missing; {ADVICE}", paths.db.display())),
                false => Failure::of_surroundings(format!(
                    "{} holds no member's data; name the right folder with --data-dir",
                    paths.data.display()
                )),
            },
        );
    }
    // The lock is held to the end: no server may start meanwhile.
    let (committed, _lock) = read_only(disk, &paths.db)?;
    storage::check_unread(&committed).map_err(advised)?;
    let contents =
        check_contents(&committed, &paths.db).map_err(|failure| failure.with_advice(ADVICE))?;
    let log = log::check_log(disk, paths, &committed, contents.applied)?;
    Ok(format!(
        "{} is sound\n{contents}{log}",
        paths.data.display()
    ))
}

/// Damage with what to do about it; other faults say that themselves.
fn advised(fault: Fault) -> Failure {
    let damaged = matches!(fault, Fault::Damaged { .. });
    let failure = Failure::from(fault);
    match damaged {
        true => failure.with_advice(ADVICE),
        false => failure,
    }
}
