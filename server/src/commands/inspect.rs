//! `holdfast inspect`: what lies in a stopped member's data directory, page by page and record by
//! record. It changes nothing.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::path::PathBuf;

use clap::{Parser, Subcommand};
use mvcc::{KeyValue, RecordKey};
use prost::Message;
use proto::etcdserverpb::InternalRaftRequest;
use state_machine::schema;
use storage::disk::real::RealDisk;
use storage::page::PageNumber;
use storage::wal::{Found, Record, Records};
use storage::{Committed, Fault, raft_snapshot, read_only};

use super::{Ended, parse};
use crate::data_dir::Paths;

/// Bytes of a key or value that a line shows.
const SHOWN_BYTES: usize = 64;

/// Shows what lies in a stopped member's data directory.
#[derive(Parser)]
#[command(name = "holdfast inspect", disable_version_flag = true)]
struct Arguments {
    /// The member's data directory.
    #[arg(long, env = "ETCD_DATA_DIR", value_name = "DIR")]
    data_dir: PathBuf,
    /// The folder of its log, if that lies elsewhere.
    #[arg(long, env = "ETCD_WAL_DIR", value_name = "DIR")]
    wal_dir: Option<PathBuf>,
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// The newest meta page, the buckets and their sizes.
    Database,
    /// One page of the database.
    Page {
        /// Its number.
        number: u64,
    },
    /// The keys of a bucket, with the start of their values.
    Bucket {
        /// Its name, as in "key" or "meta".
        name: String,
        /// Lines at most.
        #[arg(long, default_value_t = 100)]
        limit: usize,
    },
    /// The records of the log.
    Log {
        /// Begin with entries of this index.
        #[arg(long, default_value_t = 0)]
        from: u64,
        /// Lines at most.
        #[arg(long, default_value_t = 1000)]
        limit: usize,
    },
    /// The raft snapshots.
    Snapshots,
}

/// Describes what was asked for.
pub(super) fn run(arguments: &[OsString]) -> Result<String, Ended> {
    let arguments: Arguments = parse("holdfast inspect", arguments)?;
    let paths = Paths::in_dir(&arguments.data_dir, arguments.wal_dir.as_deref());
    let text = match arguments.what {
        What::Database => database(&paths),
        What::Page { number } => page(&paths, PageNumber(number)),
        What::Bucket { name, limit } => bucket(&paths, &name, limit),
        What::Log { from, limit } => log(&paths, from, limit),
        What::Snapshots => snapshots(&paths),
    };
    Ok(text?)
}

type Text = Result<String, Fault>;

fn database(paths: &Paths) -> Text {
    let (committed, _lock) = read_only(&RealDisk, &paths.db)?;
    let summary = storage::check(&committed)?;
    let meta = committed.meta();
    let mut text = String::new();
    line(
        &mut text,
        format_args!("file              {}", paths.db.display()),
    );
    line(
        &mut text,
        format_args!("page size         {}", meta.page_size),
    );
    line(
        &mut text,
        format_args!("transaction       {}", meta.transaction),
    );
    line(&mut text, format_args!("root              {}", meta.root));
    line(
        &mut text,
        format_args!("pages             {}", meta.high_water.0),
    );
    line(
        &mut text,
        format_args!("pages in use      {}", summary.reachable_pages),
    );
    line(
        &mut text,
        format_args!("pages free        {}", summary.free_pages),
    );
    let position = state_machine::read_position(&committed);
    if let Ok(position) = position {
        line(
            &mut text,
            format_args!("consistent index  {}", position.index),
        );
        line(
            &mut text,
            format_args!("term              {}", position.term),
        );
    }
    for name in committed.bucket_names()? {
        let name = String::from_utf8_lossy(&name).into_owned();
        let Some(bucket) = committed.bucket(&name)? else {
            continue;
        };
        let mut pairs = 0_u64;
        let mut bytes = 0_u64;
        for pair in bucket.range(&[])? {
            let (key, value) = pair?;
            pairs += 1;
            bytes += (key.len() + value.len()) as u64;
        }
        line(
            &mut text,
            format_args!("bucket {name:<16} {pairs:>10} keys {bytes:>12} bytes"),
        );
    }
    Ok(text)
}

fn page(paths: &Paths, number: PageNumber) -> Text {
    let (committed, _lock) = read_only(&RealDisk, &paths.db)?;
    storage::describe_page(&committed, number)
}

fn bucket(paths: &Paths, name: &str, limit: usize) -> Text {
    let (committed, _lock) = read_only(&RealDisk, &paths.db)?;
    let Some(bucket) = committed.bucket(name)? else {
        return Ok(format!(
            "no bucket {name:?}; there are {}\n",
            names(&committed)?
        ));
    };
    let mut text = String::new();
    for (number, pair) in bucket.range(&[])?.enumerate() {
        let (key, value) = pair?;
        if number == limit {
            line(&mut text, format_args!("... more; use --limit"));
            break;
        }
        let described = match name {
            schema::KEY => record(&key, &value),
            schema::META => meta_value(&key, &value),
            _ => format!("{} = {}", shown(&key), shown(&value)),
        };
        line(&mut text, format_args!("{described}"));
    }
    Ok(text)
}

fn names(committed: &Committed) -> Text {
    let names = committed.bucket_names()?;
    let names: Vec<_> = names
        .iter()
        .map(|name| String::from_utf8_lossy(name))
        .collect();
    Ok(names.join(", "))
}

/// A line for a record of bucket `key`.
fn record(key: &[u8], value: &bytes::Bytes) -> String {
    let Some(at) = RecordKey::decode(key) else {
        return format!("{} is no revision", shown(key));
    };
    match KeyValue::decode(value.clone()) {
        Err(error) => format!("{} cannot be read: {error}", at.position),
        Ok(pair) if at.tombstone => format!("{} delete {}", at.position, shown(pair.key())),
        Ok(pair) => format!(
            "{} put {} = {} (created {}, version {}, lease {})",
            at.position,
            shown(pair.key()),
            shown(pair.value()),
            pair.create_revision.0,
            pair.version,
            pair.lease.map_or(0, |lease| lease.0)
        ),
    }
}

fn meta_value(key: &[u8], value: &[u8]) -> String {
    let number = schema::decode_u64(value);
    match (number, RecordKey::decode(value)) {
        (Some(number), _) => format!("{} = {number}", shown(key)),
        (_, Some(mark)) => format!("{} = revision {}", shown(key), mark.position.revision.0),
        _ => format!("{} = {}", shown(key), shown(value)),
    }
}

fn log(paths: &Paths, from: u64, limit: usize) -> Text {
    let mut text = String::new();
    let mut lines = 0;
    for located in Records::open(&RealDisk, &paths.wal)? {
        let located = located?;
        let (shown, index) = match &located.found {
            Found::Record { record, .. } => log_record(record),
            Found::Torn(how) => (format!("torn      {how}"), None),
        };
        if index.is_some_and(|index| index < from) {
            continue;
        }
        if lines == limit {
            line(&mut text, format_args!("... more; use --from and --limit"));
            break;
        }
        lines += 1;
        let file = located
            .file
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        line(
            &mut text,
            format_args!("{file}+{:<9} {shown}", located.offset),
        );
    }
    Ok(text)
}

/// A record of the log in words, and its index if it is an entry.
fn log_record(record: &Record) -> (String, Option<u64>) {
    match record {
        Record::Metadata(metadata) => {
            let (node, cluster) = (metadata.node_id.0, metadata.cluster_id.0);
            (
                format!("metadata  member {node:x} of cluster {cluster:x}"),
                None,
            )
        }
        Record::Crc(value) => (format!("crc       {value:08x}"), None),
        Record::State(state) => (
            format!(
                "state     term {} vote {:x} commit {}",
                state.term.0, state.vote.0, state.commit.0
            ),
            None,
        ),
        Record::Snapshot(mark) => (
            format!("snapshot  index {} term {}", mark.index.0, mark.term.0),
            None,
        ),
        Record::Entry(entry) => (
            format!(
                "entry     index {} term {} {:?} {} bytes {}",
                entry.index.0,
                entry.term.0,
                entry.kind,
                entry.data.len(),
                request(entry)
            ),
            Some(entry.index.0),
        ),
    }
}

fn request(entry: &storage::wal::Entry) -> String {
    if entry.kind != storage::wal::EntryKind::Normal || entry.data.is_empty() {
        return shown(&entry.data);
    }
    let Ok(request) = InternalRaftRequest::decode(entry.data.clone()) else {
        return shown(&entry.data);
    };
    if let Some(put) = &request.put {
        return format!("put {} = {}", shown(&put.key), shown(&put.value));
    }
    if let Some(delete) = &request.delete_range {
        return format!(
            "delete_range {} .. {}",
            shown(&delete.key),
            shown(&delete.range_end)
        );
    }
    if let Some(txn) = &request.txn {
        let (compares, success, failure) =
            (txn.compare.len(), txn.success.len(), txn.failure.len());
        return format!("txn compares {compares} success {success} failure {failure}");
    }
    if let Some(compaction) = &request.compaction {
        return format!("compaction {}", compaction.revision);
    }
    shown(&entry.data)
}

fn snapshots(paths: &Paths) -> Text {
    let mut text = String::new();
    for name in raft_snapshot::list(&RealDisk, &paths.snap)? {
        match raft_snapshot::load(&RealDisk, &paths.snap, name) {
            Ok(snapshot) => {
                let voters = snapshot
                    .conf_state
                    .voters
                    .iter()
                    .map(|id| format!("{:x}", id.0));
                let voters: Vec<String> = voters.collect();
                line(
                    &mut text,
                    format_args!(
                        "{} index {} term {} voters {} data {} bytes",
                        name.file_name(),
                        snapshot.index.0,
                        snapshot.term.0,
                        voters.join(","),
                        snapshot.data.len()
                    ),
                );
            }
            Err(fault) => line(&mut text, format_args!("{} {fault}", name.file_name())),
        }
    }
    Ok(text)
}

fn line(text: &mut String, content: std::fmt::Arguments<'_>) {
    writeln!(text, "{content}").expect("writing to a string succeeds");
}

/// The start of some bytes, printable.
fn shown(bytes: &[u8]) -> String {
    let start = bytes.get(..SHOWN_BYTES).unwrap_or(bytes);
    let more = if bytes.len() > SHOWN_BYTES {
        format!("... ({} bytes)", bytes.len())
    } else {
        String::new()
    };
    format!("{}{more}", start.escape_ascii())
}
