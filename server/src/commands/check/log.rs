//! Whether log, raft snapshots and database fit together.

use std::collections::BTreeSet;
use std::fmt;

use state_machine::{Command, MemberId};
use storage::Committed;
use storage::disk::Disk;
use storage::raft_snapshot::{self, RaftSnapshot};
use storage::wal::{self, EntryKind, Found, Index, Records, SnapshotMark, SnapshotPoint};

use super::{ADVICE, advised};
use crate::commands::Failure;
use crate::data_dir::Paths;

/// What a sound log holds.
#[derive(Default)]
pub(super) struct LogSummary {
    segments: usize,
    records: u64,
    /// The newest entry of the log.
    last: u64,
    commit: u64,
    snapshots: usize,
    newest_snapshot: u64,
    applied: u64,
    /// How a write that a crash cut short shows.
    torn: Option<String>,
}

impl fmt::Display for LogSummary {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            formatter,
            "log        {} records in {} segments; the last entry is {}, committed up to {}",
            self.records, self.segments, self.last, self.commit
        )?;
        if let Some(how) = &self.torn {
            writeln!(
                formatter,
                "           a write at its end was cut short, and the next start takes it back: {how}"
            )?;
        }
        writeln!(
            formatter,
            "snapshots  {}, the newest at entry {}",
            self.snapshots, self.newest_snapshot
        )?;
        writeln!(formatter, "applied    entry {}", self.applied)
    }
}

/// Checks every record of the log and every raft snapshot, then that both lead up to what the database
/// says is applied.
pub(super) fn check_log(
    disk: &dyn Disk,
    paths: &Paths,
    committed: &Committed,
    applied: u64,
) -> Result<LogSummary, Failure> {
    let mut summary = LogSummary {
        applied,
        ..LogSummary::default()
    };
    check_records(disk, paths, &mut summary)?;
    let marks = wal::valid_snapshots(disk, &paths.wal).map_err(advised)?;
    let newest = check_snapshots(disk, paths, &marks, &mut summary)?;
    let start = newest.map_or_else(SnapshotPoint::default, |snapshot| SnapshotPoint {
        index: snapshot.index,
        term: snapshot.term,
    });
    let recovered = wal::read(disk, &paths.wal, start).map_err(advised)?;
    summary.commit = recovered.hard_state.commit.0;
    let last = recovered.entries.last();
    summary.last = last.map_or(start.index, |entry| entry.index).0;
    check_entries(paths, &recovered.entries, applied)?;
    check_meeting(paths, committed, &recovered, start.index, &summary)?;
    Ok(summary)
}

/// Follows the running checksum through all segments.
fn check_records(disk: &dyn Disk, paths: &Paths, summary: &mut LogSummary) -> Result<(), Failure> {
    let mut files = BTreeSet::new();
    for located in Records::open(disk, &paths.wal).map_err(advised)? {
        let located = located.map_err(advised)?;
        files.insert(located.file);
        match located.found {
            Found::Record { .. } => summary.records += 1,
            Found::Torn(how) => summary.torn = Some(how),
        }
    }
    summary.segments = files.len();
    Ok(())
}

/// Every raft snapshot can be read and says what the log says of it. Returns the newest that the log
/// names: the one that a start begins with.
fn check_snapshots(
    disk: &dyn Disk,
    paths: &Paths,
    marks: &[SnapshotMark],
    summary: &mut LogSummary,
) -> Result<Option<RaftSnapshot>, Failure> {
    let mut newest = None;
    for name in raft_snapshot::list(disk, &paths.snap).map_err(advised)? {
        let snapshot = raft_snapshot::load(disk, &paths.snap, name).map_err(advised)?;
        let damaged = |what: &str| {
            let path = paths.snap.join(name.file_name());
            Failure::of_data(format!("{} is damaged: {what}; {ADVICE}", path.display()))
        };
        if serde_json::from_slice::<serde::de::IgnoredAny>(&snapshot.data).is_err() {
            return Err(damaged("its list of members is no JSON"));
        }
        summary.snapshots += 1;
        let Some(mark) = marks.iter().find(|mark| mark.index == snapshot.index) else {
            continue;
        };
        if mark.term != snapshot.term {
            return Err(damaged("the log names another term for it"));
        }
        let members = mark.conf_state.as_ref();
        if members.is_some_and(|members| *members != snapshot.conf_state) {
            return Err(damaged("the log names other members for it"));
        }
        summary.newest_snapshot = snapshot.index.0;
        newest = Some(snapshot);
    }
    Ok(newest)
}

/// Every entry that a start would apply can be understood.
fn check_entries(paths: &Paths, entries: &[wal::Entry], applied: u64) -> Result<(), Failure> {
    for entry in entries.iter().filter(|entry| entry.index.0 > applied) {
        let wrong = match entry.kind {
            EntryKind::Normal => Command::decode(&entry.data)
                .err()
                .map(|error| error.to_string()),
            EntryKind::ConfChange => consensus::ConfigurationChange::decode(&entry.data)
                .err()
                .map(|error| error.to_string()),
            EntryKind::ConfChangeV2 => None,
        };
        if let Some(what) = wrong {
            return Err(Failure::of_data(format!(
                "{} is damaged: entry {} cannot be applied: {what}; {ADVICE}",
                paths.wal.display(),
                entry.index.0
            )));
        }
    }
    Ok(())
}

/// Database and log are of one member, and the one begins where the other ends.
fn check_meeting(
    paths: &Paths,
    committed: &Committed,
    recovered: &wal::Recovered,
    snapshot: Index,
    summary: &LogSummary,
) -> Result<(), Failure> {
    let (db, wal) = (paths.db.display(), paths.wal.display());
    let refused = |what: String| Err(Failure::of_data(format!("{what}; {ADVICE}")));
    let LogSummary { applied, last, .. } = *summary;
    if applied < snapshot.0 {
        return refused(format!(
            "{db} holds entries up to {applied}, but the log in {wal} is read from snapshot {snapshot} on",
            snapshot = snapshot.0
        ));
    }
    if applied > last {
        return refused(format!(
            "{db} holds entries up to {applied}, but the log in {wal} ends at {last}: it has lost entries"
        ));
    }
    let own = MemberId(recovered.metadata.node_id.0);
    let name = own.to_string();
    if let Some(members) = committed.bucket(state_machine::schema::MEMBERS)?
        && members.range(&[])?.next().is_some()
        && members.get(name.as_bytes())?.is_none()
    {
        return refused(format!(
            "the log in {wal} is of member {own}, which {db} does not know: they belong to different clusters"
        ));
    }
    Ok(())
}
