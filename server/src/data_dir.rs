//! The member's data directory: made for a new cluster, or opened as it was left.
//!
//! ```text
//! DATA/member/snap/db                     the database
//! DATA/member/snap/<term>-<index>.snap    raft snapshots
//! DATA/member/snap/<index>.snap.db        a database that a leader has sent
//! DATA/member/wal/                        the log, or --wal-dir
//! ```
//!
//! Whatever must be refused is refused before anything in the directory is changed, but for a database
//! that a leader has sent and that takes its place first: no start does without it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use consensus::{ConfState, ConfigurationChange, Entry, EntryKind};
use state_machine::{
    Command, CommandError, Member, MemberId, Position, Settings, StateMachine, read_position,
};
use storage::disk::Disk;
use storage::raft_snapshot::{self, RaftSnapshot};
use storage::{Fault, Store, wal};

use crate::bootstrap::{self, Alone, Ask, Beginning};
use crate::config::{Config, Refusal};
use crate::identity::{ClusterId, Identity};
use crate::lessor::ttl_min;
use crate::raft_thread::{to_log_entry, to_log_state};
use crate::received_database;

/// Why a member cannot start on a data directory.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The disk, or what it holds.
    #[error(transparent)]
    Storage(#[from] Fault),
    /// The database's content.
    #[error("cannot use {}: {source}", path.display())]
    Database {
        /// The database file.
        path: PathBuf,
        /// What is wrong.
        source: state_machine::Fault,
    },
    /// A setting that counts for a new cluster only.
    #[error("{0}")]
    Setting(String),
    /// What other members, or the name service, say; it may be otherwise at the next attempt.
    #[error("{0}")]
    Cluster(String),
    /// The directory as a whole.
    #[error("cannot use the data directory {}: {what}", path.display())]
    Refused {
        /// The directory or file.
        path: PathBuf,
        /// Why, and what to do.
        what: String,
    },
}

impl From<Refusal> for StartError {
    fn from(refusal: Refusal) -> StartError {
        StartError::Setting(refusal.to_string())
    }
}

/// Everything that the threads of a member begin with.
pub struct Opened {
    /// Who this member is.
    pub identity: Identity,
    /// The database file.
    pub store: Store,
    /// The state in it.
    pub machine: StateMachine,
    /// The log.
    pub log: wal::Log,
    /// What consensus begins with.
    pub initial: consensus::Initial,
    /// The other members of a cluster that this one joins. Its log does not tell of them yet.
    pub remotes: Vec<Member>,
    /// Whether the directory was made just now.
    pub new: bool,
}

/// Names of the files in a data directory.
#[derive(Debug, Clone)]
pub struct Paths {
    /// The directory itself.
    pub data: PathBuf,
    /// The folder of database and raft snapshots.
    pub snap: PathBuf,
    /// The database.
    pub db: PathBuf,
    /// The folder of the log.
    pub wal: PathBuf,
}

impl Paths {
    /// The places that a configuration names.
    pub fn of(config: &Config) -> Paths {
        Paths::in_dir(&config.data_dir, config.wal_dir.as_deref())
    }

    /// The places in a directory, the log's unless it lies apart.
    pub fn in_dir(data: &Path, wal_dir: Option<&Path>) -> Paths {
        let member = data.join("member");
        let snap = member.join("snap");
        Paths {
            data: data.to_owned(),
            db: snap.join("db"),
            snap,
            wal: wal_dir.map_or_else(|| member.join("wal"), Path::to_owned),
        }
    }
}

/// Opens the data directory that a configuration names; makes it when there is none. Other members are
/// asked only then.
pub fn open(config: &Config, disk: &Arc<dyn Disk>, ask: &dyn Ask) -> Result<Opened, StartError> {
    let paths = Paths::of(config);
    let has_log = wal::Log::exists(&**disk, &paths.wal)?;
    let has_database = disk
        .exists(&paths.db)
        .map_err(Fault::io("look for", &paths.db))?;
    match has_log {
        true => reopen(config, &paths, disk, has_database),
        false => create(config, &paths, disk, has_database, ask),
    }
}

fn create(
    config: &Config,
    paths: &Paths,
    disk: &Arc<dyn Disk>,
    has_database: bool,
    ask: &dyn Ask,
) -> Result<Opened, StartError> {
    // 1. A database without a log: only what a start that was cut short has left may be there.
    if has_database {
        refuse_database_without_log(paths, disk)?;
    }

    // 2. Who this member will be.
    let Beginning {
        identity,
        entries,
        remotes,
    } = bootstrap::begin(config, ask)?;

    // 3. The folders and the database, empty.
    for folder in [&paths.data, &paths.data.join("member"), &paths.snap] {
        make_folder(&**disk, folder)?;
    }
    if let Some(parent) = paths.wal.parent() {
        make_folder(&**disk, parent)?;
    }
    let store = match has_database {
        true => Store::open(disk.clone(), &paths.db)?,
        false => Store::create(disk.clone(), &paths.db)?,
    };
    let machine = open_machine(config, &store)?;

    // 4. The log. That of a new cluster begins with the members; all of them write the same entries, so
    // these count as agreed on. In a running cluster the log is empty, and others will fill it.
    let hard_state = match entries.last() {
        None => consensus::HardState::default(),
        Some(last) => consensus::HardState {
            term: last.term,
            vote: 0,
            commit: last.index,
        },
    };
    let mut first: Vec<wal::Record> = entries
        .iter()
        .map(|entry| wal::Record::Entry(to_log_entry(entry)))
        .collect();
    if !first.is_empty() {
        first.push(wal::Record::State(to_log_state(hard_state)));
    }
    let metadata = wal::Metadata {
        node_id: wal::NodeId(identity.member.0),
        cluster_id: wal::ClusterId(identity.cluster.0),
    };
    let options = wal::Options::default();
    let log = wal::Log::create(disk.clone(), &paths.wal, metadata, &first, options)?;
    let initial = consensus::Initial {
        hard_state,
        snapshot: consensus::SnapshotMark::default(),
        entries,
    };
    Ok(Opened {
        identity,
        store,
        machine,
        log,
        initial,
        remotes,
        new: true,
    })
}

fn refuse_database_without_log(paths: &Paths, disk: &Arc<dyn Disk>) -> Result<(), StartError> {
    let (committed, _lock) = storage::read_only(&**disk, &paths.db)?;
    let position = read_position(&committed).map_err(|source| StartError::Database {
        path: paths.db.clone(),
        source,
    })?;
    if position == Position::default() {
        return Ok(());
    }
    Err(StartError::Refused {
        path: paths.data.clone(),
        what: format!(
            "there is a database that holds entries up to {}, but no log in {}; \
             put the log back or name its folder with --wal-dir, or restore from a backup",
            position.index,
            paths.wal.display()
        ),
    })
}

fn reopen(
    config: &Config,
    paths: &Paths,
    disk: &Arc<dyn Disk>,
    has_database: bool,
) -> Result<Opened, StartError> {
    // 1. Where the log begins to count: the newest snapshot that both it and a file name.
    let marks = wal::valid_snapshots(&**disk, &paths.wal)?;
    let loaded = raft_snapshot::load_newest(&**disk, &paths.snap, &marks)?;
    for (path, why) in &loaded.unreadable {
        tracing::warn!(path = %path.display(), why, "passing over a raft snapshot that cannot be read");
    }
    let snapshot = loaded.snapshot;
    let start = snapshot
        .as_ref()
        .map_or_else(wal::SnapshotPoint::default, |snapshot| wal::SnapshotPoint {
            index: snapshot.index,
            term: snapshot.term,
        });

    // 2. Read the log, change nothing.
    let recovered = wal::read(&**disk, &paths.wal, start)?;

    // 3. The database; that of the snapshot, if it was received and the member stopped before using it.
    let adopted = received_database::adopt(&**disk, paths, start.index)?;
    if adopted {
        tracing::info!(
            index = start.index.0,
            "took over the database that a leader has sent"
        );
    }
    let has_database = has_database || adopted;
    if !has_database && start.index.0 > 0 {
        return Err(StartError::Refused {
            path: paths.db.clone(),
            what: format!(
                "the database is missing, and the log alone begins at entry {}; {}",
                start.index.0, RENEW
            ),
        });
    }
    let store = match has_database {
        true => Store::open(disk.clone(), &paths.db)?,
        false => Store::create(disk.clone(), &paths.db)?,
    };
    let machine = open_machine(config, &store)?;
    let identity = Identity {
        cluster: ClusterId(recovered.metadata.cluster_id.0),
        member: MemberId(recovered.metadata.node_id.0),
    };
    let snapshot_mark = to_mark(snapshot.as_ref());
    refuse_mismatch(paths, &machine, identity, &snapshot_mark, &recovered)?;
    refuse_undecodable(paths, machine.applied(), &recovered.entries)?;
    let found = consensus::Initial {
        hard_state: from_log_state(recovered.hard_state),
        snapshot: snapshot_mark,
        entries: recovered.entries.iter().map(from_log_entry).collect(),
    };
    let alone = match config.force_new_cluster {
        true => Some(go_alone(paths, &machine, identity, &found)?),
        false => None,
    };

    // 4. Open the log for appending; remains of a torn write go now.
    let (mut log, recovered) =
        wal::Log::open(disk.clone(), &paths.wal, start, wal::Options::default())?;
    if let Some(copy) = &recovered.repaired {
        tracing::warn!(copy = %copy.display(), "cut a torn write off the end of the log");
    }
    let initial = match alone {
        Some(alone) => write_alone(&mut log, found, alone)?,
        None => found,
    };
    received_database::clean(&**disk, paths, machine.applied().index)?;
    Ok(Opened {
        identity,
        store,
        machine,
        log,
        initial,
        remotes: Vec::new(),
        new: false,
    })
}

/// What `--force-new-cluster` changes.
fn go_alone(
    paths: &Paths,
    machine: &StateMachine,
    identity: Identity,
    found: &consensus::Initial,
) -> Result<Alone, StartError> {
    let refused = |what: String| StartError::Refused {
        path: paths.data.clone(),
        what,
    };
    if machine.members().is_removed(identity.member) {
        return Err(refused(format!(
            "--force-new-cluster: member {} was removed from its cluster, and an id never comes back; \
             make a new cluster of its database with: holdfast snapshot restore {} --skip-hash-check",
            identity.member,
            paths.db.display()
        )));
    }
    let found = bootstrap::Found {
        own: identity.node(),
        snapshot: &found.snapshot,
        hard_state: found.hard_state,
        applied: consensus::Index(machine.applied().index),
        entries: &found.entries,
    };
    bootstrap::alone(&found).map_err(refused)
}

/// Appends what makes a member the only one, durably.
fn write_alone(
    log: &mut wal::Log,
    found: consensus::Initial,
    alone: Alone,
) -> Result<consensus::Initial, Fault> {
    let Alone {
        kept,
        appended,
        hard_state,
    } = alone;
    let mut entries = found.entries;
    let dropped = entries.iter().filter(|entry| entry.index > kept).count();
    entries.retain(|entry| entry.index <= kept);
    tracing::warn!(
        dropped_entries = dropped,
        appended_changes = appended.len(),
        "forcing a new cluster: this member goes on alone"
    );
    let records: Vec<wal::Entry> = appended.iter().map(to_log_entry).collect();
    log.append(&records, Some(&to_log_state(hard_state)))?;
    log.sync()?;
    entries.extend(appended);
    Ok(consensus::Initial {
        hard_state,
        entries,
        ..found
    })
}

fn open_machine(config: &Config, store: &Store) -> Result<StateMachine, StartError> {
    StateMachine::open(store.committed().clone(), settings(config)).map_err(|source| {
        StartError::Database {
            path: store.path().to_owned(),
            source,
        }
    })
}

/// How a state is opened.
pub fn settings(config: &Config) -> Settings {
    Settings {
        lease_ttl_min: ttl_min(config.heartbeat_interval, config.election_timeout),
        persist_lease_checkpoints: config.lease_checkpoint_persist,
        learners_max: config.max_learners,
    }
}

/// The way out for a member whose data are not whole.
const RENEW: &str = "restore this member from a backup, or remove it from its cluster and add it again \
                     with an empty data directory";

/// Database and log must be of one member, and without a gap between them.
fn refuse_mismatch(
    paths: &Paths,
    machine: &StateMachine,
    identity: Identity,
    snapshot: &consensus::SnapshotMark,
    recovered: &wal::Recovered,
) -> Result<(), StartError> {
    let refused = |what: String| {
        Err(StartError::Refused {
            path: paths.data.clone(),
            what,
        })
    };
    let members = machine.members();
    let applied = machine.applied().index;
    let known = members.get(identity.member).is_some() || members.is_removed(identity.member);
    let added = entered_at(identity, snapshot, &recovered.entries);
    if !known && added.is_some_and(|added| added <= applied) && applied > 0 {
        return refused(format!(
            "the log in {} is of member {}, which the database {} does not know; \
             they belong to different clusters, so put the right ones together",
            paths.wal.display(),
            identity.member,
            paths.db.display()
        ));
    }
    if applied < snapshot.index.0 {
        return refused(format!(
            "the database holds entries up to {applied}, but the log begins behind snapshot {}; {RENEW}",
            snapshot.index.0
        ));
    }
    let last = recovered
        .entries
        .last()
        .map_or(snapshot.index.0, |entry| entry.index.0);
    if applied > last {
        return refused(format!(
            "the database holds entries up to {applied}, but the log ends at {last}; \
             the log has lost entries: {RENEW}"
        ));
    }
    Ok(())
}

/// At which entry the log tells that this member belongs to the cluster. A member that has joined may
/// have applied entries from before it was added.
fn entered_at(
    identity: Identity,
    snapshot: &consensus::SnapshotMark,
    entries: &[wal::Entry],
) -> Option<u64> {
    let node = identity.node();
    let ConfState { voters, learners } = &snapshot.conf_state;
    if voters.contains(&node) || learners.contains(&node) {
        return Some(snapshot.index.0);
    }
    let adds_it = |entry: &&wal::Entry| {
        entry.kind == wal::EntryKind::ConfChange
            && ConfigurationChange::decode(&entry.data).is_ok_and(|change| change.node_id == node)
    };
    entries.iter().find(adds_it).map(|entry| entry.index.0)
}

/// No entry may be passed over because it asks for something that this version does not know.
fn refuse_undecodable(
    paths: &Paths,
    applied: Position,
    entries: &[wal::Entry],
) -> Result<(), StartError> {
    let refused = |index: wal::Index, error: CommandError| StartError::Refused {
        path: paths.data.clone(),
        what: format!("entry {} of the log: {error}", index.0),
    };
    for entry in entries {
        let decoded = match entry.kind {
            wal::EntryKind::Normal if entry.index.0 <= applied.index => Ok(()),
            wal::EntryKind::Normal => Command::decode(&entry.data).map(drop),
            wal::EntryKind::ConfChange => ConfigurationChange::decode(&entry.data)
                .map(drop)
                .map_err(|error| CommandError::Malformed(error.to_string())),
            wal::EntryKind::ConfChangeV2 => Err(CommandError::Unsupported(
                "configuration change, second form",
            )),
        };
        decoded.map_err(|error| refused(entry.index, error))?;
    }
    Ok(())
}

pub(crate) fn make_folder(disk: &dyn Disk, folder: &Path) -> Result<(), Fault> {
    if folder.as_os_str().is_empty()
        || disk.exists(folder).map_err(Fault::io("look for", folder))?
    {
        return Ok(());
    }
    if let Some(parent) = folder.parent() {
        make_folder(disk, parent)?;
    }
    disk.create_dir(folder)
        .map_err(Fault::io("create", folder))?;
    let parent = folder
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    let parent = parent.unwrap_or(Path::new("."));
    disk.sync_dir(parent).map_err(Fault::io("sync", parent))
}

fn to_mark(snapshot: Option<&RaftSnapshot>) -> consensus::SnapshotMark {
    let Some(snapshot) = snapshot else {
        return consensus::SnapshotMark::default();
    };
    let ids = |ids: &[wal::NodeId]| ids.iter().map(|id| consensus::NodeId(id.0)).collect();
    consensus::SnapshotMark {
        index: consensus::Index(snapshot.index.0),
        term: consensus::Term(snapshot.term.0),
        conf_state: ConfState {
            voters: ids(&snapshot.conf_state.voters),
            learners: ids(&snapshot.conf_state.learners),
        },
    }
}

fn from_log_entry(entry: &wal::Entry) -> Entry {
    Entry {
        kind: match entry.kind {
            wal::EntryKind::Normal => EntryKind::Normal,
            wal::EntryKind::ConfChange => EntryKind::ConfigurationChange,
            wal::EntryKind::ConfChangeV2 => EntryKind::ConfigurationChangeV2,
        },
        term: consensus::Term(entry.term.0),
        index: consensus::Index(entry.index.0),
        data: entry.data.clone(),
    }
}

fn from_log_state(state: wal::HardState) -> consensus::HardState {
    consensus::HardState {
        term: consensus::Term(state.term.0),
        vote: state.vote.0,
        commit: consensus::Index(state.commit.0),
    }
}

#[cfg(test)]
mod tests;
