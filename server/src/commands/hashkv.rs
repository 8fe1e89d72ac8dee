//! `holdfast hashkv`: the hash over the keys of a database file, as a running member answers it.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::Parser;
use mvcc::{ReadError, Revision};
use storage::disk::real::RealDisk;
use storage::read_only;

use super::written::{self, Column, Form, Value};
use super::{Ended, Failure, parse};
use crate::data_dir::Paths;

/// The hash over all keys and their history up to a revision. Members with the same hash, hash revision
/// and compact revision hold the same. What stands in the log only, after a crash, is not part of it.
#[derive(Parser)]
#[command(name = "holdfast hashkv", disable_version_flag = true)]
struct Arguments {
    /// A database file or snapshot, instead of a data directory.
    #[arg(value_name = "FILE", conflicts_with = "data_dir")]
    file: Option<PathBuf>,
    /// The data directory of a stopped member.
    #[arg(long, value_name = "DIR", required_unless_present = "file")]
    data_dir: Option<PathBuf>,
    /// Up to this revision; 0 is the newest.
    #[arg(long, default_value_t = 0, value_name = "N")]
    rev: i64,
    /// How the answer is written.
    #[arg(short, long, value_enum, default_value_t = Form::Simple, value_name = "FORM")]
    write_out: Form,
}

pub(super) fn run(arguments: &[OsString]) -> Result<String, Ended> {
    let arguments: Arguments = parse("holdfast hashkv", arguments)?;
    let in_dir = |dir: PathBuf| Paths::in_dir(&dir, None).db;
    let path = arguments.file.or(arguments.data_dir.map(in_dir));
    let path = path.expect("one of both is required");
    if arguments.rev < 0 {
        let text = format!("--rev {}: expected a revision, or 0", arguments.rev);
        return Err(Failure::of_request(text).into());
    }
    let (committed, _lock) = read_only(&RealDisk, &path)?;
    storage::check(&committed)?;
    let asked = (arguments.rev != 0).then_some(Revision(arguments.rev));
    let view = mvcc::Store::open(committed)?.store.view();
    let hash = view.hash(asked).map_err(|error| match error {
        ReadError::Fault(fault) => Failure::from(fault),
        ReadError::Refused(refusal) => Failure::of_request(format!(
            "--rev {}: {refusal}; the file holds revisions {} to {}",
            arguments.rev,
            view.compact_revision().unwrap_or(Revision::FIRST),
            view.revision()
        )),
    })?;
    let compacted = hash.compact_revision.map_or(-1, |revision| revision.0);
    let number = |title, json, field, number| Column {
        title,
        json,
        field,
        value: Value::Number(number),
    };
    let columns = [
        number("hash", "hash", "Hash", i64::from(hash.hash)),
        number(
            "hash revision",
            "hashRevision",
            "Hash revision",
            hash.revision.0,
        ),
        number(
            "compact revision",
            "compactRevision",
            "Compact revision",
            compacted,
        ),
    ];
    Ok(written::write(arguments.write_out, &columns))
}
