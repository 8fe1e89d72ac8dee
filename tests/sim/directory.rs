//! A member's data directory: made, or opened as it was left, as `server/src/data_dir.rs` and
//! `server/src/received_database.rs` do it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use consensus::{
    ConfState, ConfigurationChange, ConfigurationChangeKind, Entry, EntryKind, HardState, Index,
    Initial, Node, NodeId, Options, SnapshotMark, Term,
};
use holdfast_tests::dice::Dice;
use state_machine::{
    Member as MemberRecord, MemberId, StateMachine, read_configuration, read_position,
};
use storage::disk::{Disk, Open};
use storage::raft_snapshot::{self, RaftSnapshot};
use storage::wal::{self, Preparation};
use storage::{Committed, Copy, Store, read_only};

use crate::applier::{Applier, Beginning, Pace, SETTINGS, received_database};
use crate::member::{Failure, Member, Place, first_records, text};
use crate::planted::Bug;
use crate::scenario::Scenario;
use crate::watches::Watches;

/// Bytes of a copy that are written in one piece.
const COPY_PIECE: usize = 64 << 10;
const CLUSTER: u64 = 0xc1;

/// Names one life of a member: its host, and how many lives it had before.
#[derive(Clone, Copy)]
pub(crate) struct Life {
    pub(crate) id: u64,
    pub(crate) number: u64,
}

struct Paths {
    snapshots: PathBuf,
    db: PathBuf,
    wal: PathBuf,
}

fn paths() -> Paths {
    let snapshots = PathBuf::from("/member/snap");
    Paths {
        db: snapshots.join("db"),
        snapshots,
        wal: PathBuf::from("/member/wal"),
    }
}

/// The data of a configuration change that adds or promotes somebody.
pub(crate) fn change_of(
    kind: ConfigurationChangeKind,
    id: u64,
    promotes: bool,
) -> ConfigurationChange {
    let member = MemberRecord {
        id: MemberId(id),
        peer_urls: vec![format!("http://{id}")],
        learner: kind == ConfigurationChangeKind::AddLearnerNode,
        name: String::new(),
        client_urls: Vec::new(),
    };
    let mut json = serde_json::to_value(member).expect("plain data");
    if promotes {
        json["isPromote"] = true.into();
    }
    ConfigurationChange {
        id: 0,
        kind,
        node_id: NodeId(id),
        context: Some(Bytes::from(json.to_string())),
    }
}

/// What every first member's log begins with.
fn bootstrap(members: u64) -> (Vec<Entry>, HardState) {
    let entry = |id: u64| Entry {
        kind: EntryKind::ConfigurationChange,
        term: Term(1),
        index: Index(id),
        data: change_of(ConfigurationChangeKind::AddNode, id, false).encode(),
    };
    let entries: Vec<Entry> = (1..=members).map(entry).collect();
    let state = HardState {
        term: Term(1),
        vote: 0,
        commit: Index(members),
    };
    (entries, state)
}

/// Makes the directory of a first member, or of one that joins and learns everything from others.
pub(crate) fn create(
    disk: &Arc<dyn Disk>,
    id: u64,
    joins: bool,
    scenario: &Scenario,
) -> Result<(), Failure> {
    let Paths { snapshots, db, wal } = paths();
    for folder in [Path::new("/member"), &snapshots] {
        disk.create_dir(folder).map_err(text)?;
        disk.sync_dir(folder.parent().expect("not the root"))
            .map_err(text)?;
    }
    Store::create(disk.clone(), &db).map_err(text)?;
    let metadata = wal::Metadata {
        node_id: wal::NodeId(id),
        cluster_id: wal::ClusterId(CLUSTER),
    };
    let first = match joins {
        true => Vec::new(),
        false => {
            let (entries, state) = bootstrap(scenario.members);
            first_records(&entries, state)
        }
    };
    wal::Log::make(&**disk, &wal, metadata, &first, log_options(scenario)).map_err(text)
}

fn log_options(scenario: &Scenario) -> wal::Options {
    wal::Options {
        segment_size: scenario.segment_size,
        zeros_ahead: scenario.segment_size / 2,
        preparation: Preparation::Inline,
    }
}

/// Starts a member on what its disk holds.
pub(crate) fn open(
    disk: Arc<dyn Disk>,
    life: Life,
    scenario: &Scenario,
) -> Result<Member, Failure> {
    let Paths { snapshots, db, wal } = paths();

    // 1. Where the log begins to count.
    let marks = wal::valid_snapshots(&*disk, &wal).map_err(text)?;
    let loaded = raft_snapshot::load_newest(&*disk, &snapshots, &marks).map_err(text)?;
    if let Some((path, why)) = loaded.unreadable.first() {
        return Err(format!("{}: {why}", path.display()));
    }
    let mark = to_mark(loaded.snapshot.as_ref());
    let start = wal::SnapshotPoint {
        index: wal::Index(mark.index.0),
        term: wal::Term(mark.term.0),
    };

    // 2. Read the log; then the database, that of a leader if it was received and not used yet.
    wal::read(&*disk, &wal, start).map_err(text)?;
    adopt(&*disk, &snapshots, &db, mark.index)?;
    let store = Store::open(disk.clone(), &db).map_err(text)?;
    let machine = StateMachine::open(store.committed().clone(), SETTINGS).map_err(text)?;

    // 3. Open the log for appending.
    let (log, recovered) =
        wal::Log::open(disk.clone(), &wal, start, log_options(scenario)).map_err(text)?;
    let applied = machine.applied().index;
    refuse_mismatch(applied, &mark, &recovered)?;
    clean(&*disk, &snapshots, applied)?;
    let members = members_at(store.committed(), &mark)?;
    let node = consensus_of(
        life,
        scenario,
        mark.clone(),
        &recovered,
        (applied, &members),
    )?;
    let beginning = Beginning {
        id: life.id,
        store,
        machine,
        configuration: members,
        snapshot_index: mark.index.0,
        snapshots: snapshots.clone(),
    };
    let seed = scenario.seed ^ (life.id << 32) ^ (life.number << 48);
    let watches = Watches::new(scenario, beginning.machine.view().revision());
    let applier = Applier::new(beginning, Pace::of(scenario), Dice::new(seed), watches);
    let place = Place {
        id: life.id,
        disk,
        snapshots,
        catch_up: scenario.catch_up,
        bug: scenario.bug,
    };
    let first_context = life.id << 48 | life.number << 32 | 1;
    Ok(Member::new(place, node, log, first_context, applier))
}

fn consensus_of(
    life: Life,
    scenario: &Scenario,
    snapshot: SnapshotMark,
    recovered: &wal::Recovered,
    (applied, members): (u64, &ConfState),
) -> Result<Node, Failure> {
    let options = Options {
        id: NodeId(life.id),
        election_ticks: scenario.election_ticks,
        heartbeat_ticks: 1,
        seed: scenario.seed ^ life.number,
        applied: Index(applied),
    };
    let mut hard_state = HardState {
        term: Term(recovered.hard_state.term.0),
        vote: recovered.hard_state.vote.0,
        commit: Index(recovered.hard_state.commit.0),
    };
    if scenario.bug == Some(Bug::VoteForgotten) {
        hard_state.vote = 0;
    }
    let initial = Initial {
        hard_state,
        snapshot,
        entries: recovered.entries.iter().map(from_log_entry).collect(),
    };
    Node::resume(&options, initial, members).map_err(text)
}

/// The members at the database's last entry. [D18] They do not come out of the log again: an entry that was
/// void when it was applied would have its effect then.
fn members_at(committed: &Committed, mark: &SnapshotMark) -> Result<ConfState, Failure> {
    let Some(recorded) = read_configuration(committed).map_err(text)? else {
        return Ok(mark.conf_state.clone());
    };
    let ids = |ids: Vec<MemberId>| ids.into_iter().map(|id| NodeId(id.0)).collect();
    Ok(ConfState {
        voters: ids(recorded.voters),
        learners: ids(recorded.learners),
    })
}

fn refuse_mismatch(
    applied: u64,
    mark: &SnapshotMark,
    recovered: &wal::Recovered,
) -> Result<(), Failure> {
    let last = recovered
        .entries
        .last()
        .map_or(mark.index.0, |entry| entry.index.0);
    if applied < mark.index.0 || applied > last {
        return Err(format!(
            "the database holds entries up to {applied}, the log {} (snapshot) to {last}",
            mark.index
        ));
    }
    Ok(())
}

/// Puts the database that was received with the snapshot at `index` in the place of the member's own, if
/// that lacks entries before it.
fn adopt(disk: &dyn Disk, snapshots: &Path, db: &Path, index: Index) -> Result<(), Failure> {
    let received = received_database(snapshots, index);
    if index.0 == 0 || !disk.exists(&received).map_err(text)? || holds(disk, db)? >= index.0 {
        return Ok(());
    }
    let held = holds(disk, &received)?;
    if held < index.0 {
        return Err(format!("{} holds entries up to {held}", received.display()));
    }
    disk.rename(&received, db).map_err(text)?;
    disk.sync_dir(snapshots).map_err(text)
}

fn holds(disk: &dyn Disk, path: &Path) -> Result<u64, Failure> {
    let (committed, _lock) = read_only(disk, path).map_err(text)?;
    Ok(read_position(&committed).map_err(text)?.index)
}

/// Removes what no start can need any more.
fn clean(disk: &dyn Disk, snapshots: &Path, applied: u64) -> Result<(), Failure> {
    let mut is_changed = false;
    for name in disk.list(snapshots).map_err(text)? {
        let digits = name.strip_suffix(".snap.db");
        let index = digits.and_then(|digits| u64::from_str_radix(digits, 16).ok());
        if index.is_some_and(|index| index <= applied) || name.starts_with("tmp") {
            disk.remove(&snapshots.join(name)).map_err(text)?;
            is_changed = true;
        }
    }
    match is_changed {
        true => disk.sync_dir(snapshots).map_err(text),
        false => Ok(()),
    }
}

/// Stores a leader's database beside the own one, durably.
pub(crate) fn receive(place: &Place, index: Index, database: &Committed) -> Result<(), Failure> {
    let (disk, folder) = (&*place.disk, &place.snapshots);
    let aside = folder.join(format!("tmp{}", index.0));
    if disk.exists(&aside).map_err(text)? {
        disk.remove(&aside).map_err(text)?;
    }
    let file = disk.open(&aside, Open::Create).map_err(text)?;
    let mut copy = Copy::of(database).map_err(text)?;
    let mut offset = 0;
    loop {
        let piece = copy.read(COPY_PIECE).map_err(text)?;
        if piece.is_empty() {
            break;
        }
        file.write_at(&piece, offset).map_err(text)?;
        offset += piece.len() as u64;
    }
    if place.bug != Some(Bug::ReceivedNotSynced) {
        file.sync().map_err(text)?;
    }
    let path = received_database(folder, index);
    disk.rename(&aside, &path).map_err(text)?;
    disk.sync_dir(folder).map_err(text)
}

fn to_mark(snapshot: Option<&RaftSnapshot>) -> SnapshotMark {
    let Some(snapshot) = snapshot else {
        return SnapshotMark::default();
    };
    let ids = |ids: &[wal::NodeId]| ids.iter().map(|id| NodeId(id.0)).collect();
    SnapshotMark {
        index: Index(snapshot.index.0),
        term: Term(snapshot.term.0),
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
        term: Term(entry.term.0),
        index: Index(entry.index.0),
        data: entry.data.clone(),
    }
}
