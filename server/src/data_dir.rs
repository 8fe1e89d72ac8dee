//! The member's data directory: made for a new cluster, or opened as it was left.
//!
//! ```text
//! DATA/member/snap/db                     the database
//! DATA/member/snap/<term>-<index>.snap    raft snapshots
//! DATA/member/wal/                        the log, or --wal-dir
//! ```
//!
//! Whatever must be refused is refused before anything in the directory is changed.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use consensus::{ConfState, ConfigurationChange, ConfigurationChangeKind, Entry, EntryKind};
use state_machine::{
    Command, CommandError, Member, MemberId, Position, Settings, StateMachine, read_position,
};
use storage::disk::Disk;
use storage::raft_snapshot::{self, RaftSnapshot};
use storage::{Fault, Store, wal};

use crate::config::{Config, InitialClusterState};
use crate::identity::{ClusterId, Identity, cluster_id, member_id};
use crate::lessor::ttl_min;

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
    /// The directory as a whole.
    #[error("cannot use the data directory {}: {what}", path.display())]
    Refused {
        /// The directory or file.
        path: PathBuf,
        /// Why, and what to do.
        what: String,
    },
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

/// Opens the data directory that a configuration names; makes it when there is none.
pub fn open(config: &Config, disk: &Arc<dyn Disk>) -> Result<Opened, StartError> {
    let paths = Paths::of(config);
    let has_log = wal::Log::exists(&**disk, &paths.wal)?;
    let has_database = disk
        .exists(&paths.db)
        .map_err(Fault::io("look for", &paths.db))?;
    match has_log {
        true => reopen(config, &paths, disk, has_database),
        false => create(config, &paths, disk, has_database),
    }
}

fn create(
    config: &Config,
    paths: &Paths,
    disk: &Arc<dyn Disk>,
    has_database: bool,
) -> Result<Opened, StartError> {
    // 1. Who this member will be.
    config
        .check_bootstrap()
        .map_err(|refusal| StartError::Setting(refusal.to_string()))?;
    if config.initial_cluster_state == InitialClusterState::Existing {
        return Err(StartError::Setting(format!(
            "--initial-cluster-state is \"existing\", but {} holds no data, and joining a running \
             cluster is not part of this version; set it to \"new\" to make a cluster of one member",
            paths.data.display()
        )));
    }
    let members: Vec<Member> = config
        .initial_cluster
        .iter()
        .map(|first| {
            let peer_urls: Vec<String> = first.peer_urls.iter().map(ToString::to_string).collect();
            Member {
                id: member_id(&peer_urls, &config.initial_cluster_token),
                peer_urls,
                learner: false,
                name: first.name.clone(),
                client_urls: Vec::new(),
            }
        })
        .collect();
    let own = config
        .initial_cluster
        .iter()
        .position(|member| member.name == config.name);
    let ids: Vec<MemberId> = members.iter().map(|member| member.id).collect();
    let member = ids[own.expect("checked above")];
    let identity = Identity {
        cluster: cluster_id(&ids),
        member,
    };

    // 2. A database without a log: only what a start that was cut short has left may be there.
    if has_database {
        refuse_database_without_log(paths, disk)?;
    }

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

    // 4. The log, which begins with the members.
    let entries = bootstrap_entries(members);
    let commit = entries.len() as u64;
    let state = consensus::HardState {
        term: consensus::Term(1),
        vote: 0,
        commit: consensus::Index(commit),
    };
    let first: Vec<wal::Record> = entries
        .iter()
        .map(|entry| wal::Record::Entry(crate::raft_thread::to_log_entry(entry)))
        .chain([wal::Record::State(crate::raft_thread::to_log_state(state))])
        .collect();
    let metadata = wal::Metadata {
        node_id: wal::NodeId(identity.member.0),
        cluster_id: wal::ClusterId(identity.cluster.0),
    };
    let options = wal::Options::default();
    let log = wal::Log::create(disk.clone(), &paths.wal, metadata, &first, options)?;
    let snapshot = consensus::SnapshotMark::default();
    let initial = consensus::Initial {
        hard_state: state,
        snapshot,
        entries,
    };
    Ok(Opened {
        identity,
        store,
        machine,
        log,
        initial,
        new: true,
    })
}

/// The entries that every first member of a cluster writes: all members, ascending by id.
pub(crate) fn bootstrap_entries(mut members: Vec<Member>) -> Vec<Entry> {
    members.sort_by_key(|member| member.id);
    let entry = |(number, member): (usize, &Member)| {
        let context = serde_json::to_vec(member).expect("a member is plain data");
        let change = ConfigurationChange {
            id: 0,
            kind: ConfigurationChangeKind::AddNode,
            node_id: consensus::NodeId(member.id.0),
            context: Some(context.into()),
        };
        Entry {
            kind: EntryKind::ConfigurationChange,
            term: consensus::Term(1),
            index: consensus::Index(number as u64 + 1),
            data: change.encode(),
        }
    };
    members.iter().enumerate().map(entry).collect()
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

    // 2. Read everything, change nothing.
    let recovered = wal::read(&**disk, &paths.wal, start)?;
    if !has_database && start.index.0 > 0 {
        return Err(StartError::Refused {
            path: paths.db.clone(),
            what: format!(
                "the database is missing, and the log alone begins at entry {}; \
                 restore this member from a backup",
                start.index.0
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
    refuse_unsupported(
        paths,
        identity,
        machine.applied(),
        &snapshot_mark,
        &recovered.entries,
    )?;

    // 3. Open the log for appending; remains of a torn write go now.
    let (log, recovered) =
        wal::Log::open(disk.clone(), &paths.wal, start, wal::Options::default())?;
    if let Some(copy) = &recovered.repaired {
        tracing::warn!(copy = %copy.display(), "cut a torn write off the end of the log");
    }
    let entries = recovered.entries.iter().map(from_log_entry).collect();
    let initial = consensus::Initial {
        hard_state: from_log_state(recovered.hard_state),
        snapshot: snapshot_mark,
        entries,
    };
    Ok(Opened {
        identity,
        store,
        machine,
        log,
        initial,
        new: false,
    })
}

fn open_machine(config: &Config, store: &Store) -> Result<StateMachine, StartError> {
    let settings = Settings {
        lease_ttl_min: ttl_min(config.heartbeat_interval, config.election_timeout),
        persist_lease_checkpoints: config.lease_checkpoint_persist,
    };
    StateMachine::open(store.committed().clone(), settings).map_err(|source| StartError::Database {
        path: store.path().to_owned(),
        source,
    })
}

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
    if members.iter().next().is_some() && members.get(identity.member).is_none() {
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
            "the database holds entries up to {applied}, but the log begins behind snapshot {}; \
             restore this member from a backup",
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
             the log has lost entries: restore this member from a backup"
        ));
    }
    Ok(())
}

/// This version runs one member and knows no leases and no authorization. It must not pass over
/// entries that need more.
fn refuse_unsupported(
    paths: &Paths,
    identity: Identity,
    applied: Position,
    snapshot: &consensus::SnapshotMark,
    entries: &[wal::Entry],
) -> Result<(), StartError> {
    let refused = |what: String| {
        Err(StartError::Refused {
            path: paths.data.clone(),
            what,
        })
    };
    let mut voters = snapshot.conf_state.voters.clone();
    let mut learners: Vec<consensus::NodeId> = snapshot.conf_state.learners.clone();
    for entry in entries {
        let at = |error: CommandError| format!("entry {} of the log: {error}", entry.index.0);
        match entry.kind {
            wal::EntryKind::Normal if entry.index.0 > applied.index => {
                if let Err(error) = Command::decode(&entry.data) {
                    return refused(at(error));
                }
            }
            wal::EntryKind::Normal => {}
            wal::EntryKind::ConfChange => match ConfigurationChange::decode(&entry.data) {
                Ok(change) => follow(&change, &mut voters, &mut learners),
                Err(error) => return refused(at(CommandError::Malformed(error.to_string()))),
            },
            wal::EntryKind::ConfChangeV2 => {
                return refused(at(CommandError::Unsupported(
                    "configuration change, second form",
                )));
            }
        }
    }
    if voters != [identity.node()] {
        let count = voters.len() + learners.len();
        return refused(format!(
            "it belongs to a cluster of {count} members, and this version of holdfast runs one; \
             go on with etcd on this data directory"
        ));
    }
    Ok(())
}

fn follow(
    change: &ConfigurationChange,
    voters: &mut Vec<consensus::NodeId>,
    learners: &mut Vec<consensus::NodeId>,
) {
    let id = change.node_id;
    match change.kind {
        ConfigurationChangeKind::UpdateNode => {}
        ConfigurationChangeKind::AddNode => {
            learners.retain(|learner| *learner != id);
            if !voters.contains(&id) {
                voters.push(id);
            }
        }
        ConfigurationChangeKind::AddLearnerNode => learners.push(id),
        ConfigurationChangeKind::RemoveNode => {
            voters.retain(|voter| *voter != id);
            learners.retain(|learner| *learner != id);
        }
    }
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
