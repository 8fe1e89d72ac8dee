//! `holdfast snapshot status`: what a backup holds.

use std::path::{Path, PathBuf};

use mvcc::Revision;
use state_machine::schema;
use storage::disk::Disk;
use storage::disk::real::RealDisk;
use storage::{Committed, read_only};

use super::file::{ADVICE, SnapshotFile};
use crate::commands::Failure;
use crate::commands::written::{self, Column, Form, Value};

/// Shows hash, revision, number of keys and size of a backup or database file, as etcdutl 3.5 does: all
/// buckets are hashed and counted. The storage version stands behind them in files that have one, which
/// is since level 3.6. A backup that is cut off or damaged is refused.
#[derive(clap::Args)]
pub(super) struct Arguments {
    /// The file.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// How the answer is written.
    #[arg(short, long, value_enum, default_value_t = Form::Simple, value_name = "FORM")]
    write_out: Form,
}

pub(super) fn run(arguments: &Arguments) -> Result<String, Failure> {
    let status = Status::of(&RealDisk, &arguments.file)?;
    Ok(written::write(arguments.write_out, &status.columns()))
}

#[derive(Debug, PartialEq, Eq)]
struct Status {
    hash: u32,
    revision: Revision,
    keys: i64,
    bytes: u64,
    version: Option<String>,
}

impl Status {
    fn of(disk: &dyn Disk, path: &Path) -> Result<Status, Failure> {
        let file = SnapshotFile::open(disk, path)?;
        if file.has_hash() {
            file.check_hash()?;
        }
        let (committed, _lock) =
            read_only(disk, path).map_err(|fault| Failure::from(fault).with_advice(ADVICE))?;
        storage::check(&committed).map_err(|fault| Failure::from(fault).with_advice(ADVICE))?;
        Status::read(&committed)
    }

    fn read(committed: &Committed) -> Result<Status, Failure> {
        let (mut hash, mut keys) = (0, 0);
        for name in committed.bucket_names()? {
            hash = crc32c::crc32c_append(hash, &name);
            let Ok(text) = std::str::from_utf8(&name) else {
                continue;
            };
            let Some(bucket) = committed.bucket(text)? else {
                continue;
            };
            for pair in bucket.range(&[])? {
                let (key, value) = pair?;
                hash = crc32c::crc32c_append(hash, &key);
                hash = crc32c::crc32c_append(hash, &value);
                keys += 1;
            }
        }
        let version = match committed.bucket(schema::META)? {
            Some(meta) => meta.get(schema::STORAGE_VERSION)?,
            None => None,
        };
        Ok(Status {
            hash,
            revision: mvcc::last_recorded(committed)?,
            keys,
            bytes: committed.size(),
            version: version.map(|text| String::from_utf8_lossy(&text).into_owned()),
        })
    }

    fn columns(&self) -> Vec<Column> {
        let column = |title, json, field, value| Column {
            title,
            json,
            field,
            value,
        };
        let mut columns = vec![
            column("hash", "hash", "Hash", Value::Hash(self.hash)),
            column(
                "revision",
                "revision",
                "Revision",
                Value::Number(self.revision.0),
            ),
            column("total keys", "totalKey", "Keys", Value::Number(self.keys)),
            column("total size", "totalSize", "Size", Value::Bytes(self.bytes)),
        ];
        if let Some(version) = &self.version {
            let version = Value::Text(version.clone());
            columns.push(column("version", "version", "Version", version));
        }
        columns
    }
}
