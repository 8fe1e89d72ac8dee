//! Makes a data directory out of a backup, beside its final place; it gets its name when it is whole.
//!
//! ```text
//! DATA.restoring/member/snap/db                    the backup, with new members
//! DATA.restoring/member/snap/<term>-<index>.snap   the members as raft and etcd 3.5 read them
//! DATA.restoring/member/wal/                       the log: one entry for each member
//! ```

use std::path::{Path, PathBuf};
use std::sync::Arc;

use mvcc::Revision;
use state_machine::{NewCluster, Settings, StateMachine};
use storage::disk::{Disk, Open};
use storage::raft_snapshot::RaftSnapshot;
use storage::wal::{self, HardState, Index, NodeId, Record, Term};
use storage::{Committed, Fault, Store, read_only};

use super::file::{ADVICE, SnapshotFile, folder_of};
use crate::bootstrap::bootstrap_entries;
use crate::commands::Failure;
use crate::data_dir::{Paths, make_folder};
use crate::identity::Identity;
use crate::raft_thread::to_log_entry;

/// Follows the final name while the directory is made.
const SUFFIX: &str = ".restoring";
/// There must be room for writes above the restored revision.
const REVISION_MAX: i64 = i64::MAX / 2;

/// What is to be made.
pub(super) struct Plan {
    pub(super) snapshot: PathBuf,
    pub(super) hash_check: HashCheck,
    pub(super) data_dir: PathBuf,
    pub(super) wal_dir: Option<PathBuf>,
    pub(super) identity: Identity,
    pub(super) cluster: NewCluster,
    pub(super) bump: Option<Bump>,
}

/// Whether a backup must end with a hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HashCheck {
    /// It must.
    Required,
    /// A database copied from a data directory has none.
    Skipped,
}

/// The revision is raised, and what lies below counts as compacted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Bump {
    /// By how much.
    pub(super) amount: u64,
}

/// Makes the directory and returns its current revision.
///
/// # Errors
/// Then nothing has the final names, and what was begun is removed again; if it cannot be, or the
/// machine stops, the next attempt removes it.
pub(super) fn rebuild(disk: &Arc<dyn Disk>, plan: &Plan) -> Result<Revision, Failure> {
    // 1. What must be refused, while nothing was written.
    let targets = Targets::of(plan)?;
    targets.check_free(&**disk)?;
    let snapshot = SnapshotFile::open(&**disk, &plan.snapshot)?;
    let revision = check_snapshot(&**disk, plan, &snapshot)?;

    // 2. All of it, beside.
    let made = targets
        .clear(&**disk)
        .map_err(Failure::from)
        .and_then(|()| make(disk, plan, &targets, &snapshot, revision));
    let store = match made {
        Ok(store) => store,
        Err(failure) => {
            // The failure is what counts; what stays is named so that the next attempt removes it.
            let _ = targets.clear(&**disk);
            return Err(failure);
        }
    };

    // 3. The names. The data directory comes first: without its log no server starts on it, while one
    // would start empty on the log alone.
    for (from, to) in targets.pairs() {
        give_name(&**disk, from, to).map_err(|fault| match to == targets.data {
            true => Failure::from(fault),
            false => Failure::from(fault).with_advice(&format!(
                "{} is there without its log; remove it before the next attempt",
                targets.data.display()
            )),
        })?;
    }
    drop(store);
    Ok(revision)
}

fn give_name(disk: &dyn Disk, from: &Path, to: &Path) -> Result<(), Fault> {
    disk.rename(from, to).map_err(Fault::io("rename", from))?;
    let folder = folder_of(to);
    disk.sync_dir(&folder).map_err(Fault::io("sync", &folder))
}

/// Names of what is made: final ones, and those until it is whole.
struct Targets {
    data: PathBuf,
    data_aside: PathBuf,
    /// The log's, if it lies apart.
    wal: Option<(PathBuf, PathBuf)>,
}

impl Targets {
    fn of(plan: &Plan) -> Result<Targets, Failure> {
        let (data, data_aside) = with_aside("data-dir", &plan.data_dir)?;
        let wal = plan.wal_dir.as_deref();
        let wal = wal.map(|wal| with_aside("wal-dir", wal)).transpose()?;
        Ok(Targets {
            data,
            data_aside,
            wal,
        })
    }

    /// Final names and those until then.
    fn pairs(&self) -> impl Iterator<Item = (&Path, &Path)> {
        let wal = self.wal.iter();
        let wal = wal.map(|(wal, aside)| (aside.as_path(), wal.as_path()));
        [(self.data_aside.as_path(), self.data.as_path())]
            .into_iter()
            .chain(wal)
    }

    /// Refuses to write over anything.
    fn check_free(&self, disk: &dyn Disk) -> Result<(), Failure> {
        for (_, path) in self.pairs() {
            if !disk.exists(path).map_err(Fault::io("look for", path))? {
                continue;
            }
            let listed = disk.list(path).map_err(Fault::io("list", path))?;
            if let Some(first) = listed.first() {
                return Err(Failure::of_surroundings(format!(
                    "{} is not empty: {first} is in it; nothing was changed; move it away, or restore into \
                     another folder",
                    path.display()
                )));
            }
        }
        Ok(())
    }

    /// Removes what this or an earlier attempt has begun.
    fn clear(&self, disk: &dyn Disk) -> Result<(), Fault> {
        for (aside, _) in self.pairs() {
            // The log is made under a further name.
            for path in [aside.to_owned(), with_suffix(aside, ".tmp")] {
                if disk.exists(&path).map_err(Fault::io("look for", &path))? {
                    disk.remove_dir(&path).map_err(Fault::io("remove", &path))?;
                }
            }
        }
        Ok(())
    }

    /// Where files are made.
    fn paths(&self) -> Paths {
        let wal = self.wal.as_ref().map(|(_, aside)| aside.as_path());
        Paths::in_dir(&self.data_aside, wal)
    }
}

/// A folder's name without a slash at its end, and the one that it has until it is whole.
fn with_aside(flag: &str, path: &Path) -> Result<(PathBuf, PathBuf), Failure> {
    let path: PathBuf = path.components().collect();
    match path.file_name() {
        Some(_) => Ok((path.clone(), with_suffix(&path, SUFFIX))),
        None => Err(Failure::of_request(format!(
            "--{flag}={}: expected a folder with a name of its own",
            path.display()
        ))),
    }
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// Reads the whole backup: its hash, its pages, and all that a start reads. Returns the revision that
/// the new cluster begins with.
fn check_snapshot(
    disk: &dyn Disk,
    plan: &Plan,
    snapshot: &SnapshotFile,
) -> Result<Revision, Failure> {
    let backup = Backup::read(disk, &plan.snapshot, snapshot, plan.hash_check)?;
    let Some(Bump { amount }) = plan.bump else {
        return Ok(backup.revision);
    };
    let last = mvcc::last_recorded(&backup.committed)?.0;
    let bumped = i64::try_from(amount).ok();
    let bumped = bumped.and_then(|amount| last.checked_add(amount));
    match bumped.filter(|bumped| *bumped <= REVISION_MAX) {
        Some(bumped) => Ok(Revision(bumped)),
        None => Err(Failure::of_request(format!(
            "--bump-revision={amount}: the backup ends at revision {last}, and revisions end at \
             {REVISION_MAX}; take a smaller number"
        ))),
    }
}

/// A backup that a member can start from.
struct Backup {
    committed: Committed,
    /// The current one.
    revision: Revision,
}

impl Backup {
    fn read(
        disk: &dyn Disk,
        path: &Path,
        snapshot: &SnapshotFile,
        hash_check: HashCheck,
    ) -> Result<Backup, Failure> {
        match hash_check {
            HashCheck::Required => snapshot.check_hash()?,
            HashCheck::Skipped => {}
        }
        let unusable = |fault: Fault| Failure::from(fault).with_advice(ADVICE);
        let (committed, _lock) = read_only(disk, path).map_err(unusable)?;
        if committed.size() > snapshot.database_bytes() {
            let what = format!(
                "it has {} bytes of {}",
                snapshot.database_bytes(),
                committed.size()
            );
            return Err(unusable(Fault::damaged(path, what)));
        }
        storage::check(&committed).map_err(unusable)?;
        let settings = Settings {
            lease_ttl_min: 1,
            persist_lease_checkpoints: false,
            learners_max: 1,
        };
        let machine = StateMachine::open(committed.clone(), settings).map_err(|fault| {
            let path = path.display();
            Failure::of_data(format!("{path} is damaged: {fault}"))
        })?;
        let revision = machine.view().revision();
        Ok(Backup {
            committed,
            revision,
        })
    }
}

/// Reads a backup as a restore does before it writes anything; returns its revision.
///
/// # Errors
/// When no member could start from it.
pub fn check_backup(
    disk: &dyn Disk,
    path: &Path,
    hash_check: HashCheck,
) -> Result<Revision, Failure> {
    let snapshot = SnapshotFile::open(disk, path)?;
    Backup::read(disk, path, &snapshot, hash_check).map(|backup| backup.revision)
}

/// Makes everything under the names aside, durably. The database stays locked as long as the result
/// lives.
fn make(
    disk: &Arc<dyn Disk>,
    plan: &Plan,
    targets: &Targets,
    snapshot: &SnapshotFile,
    revision: Revision,
) -> Result<Store, Failure> {
    let paths = targets.paths();
    let cluster = &plan.cluster;
    let member_folder = paths.data.join("member");

    // 1. The database.
    for folder in [&paths.data, &member_folder, &paths.snap] {
        make_folder(&**disk, folder)?;
    }
    copy_database(&**disk, snapshot, &paths.db)?;
    let mut store = Store::open(disk.clone(), &paths.db)?;
    let mut batch = cluster.changes(store.committed())?;
    if plan.bump.is_some() {
        mvcc::bump(revision, &mut batch);
    }
    store.commit(batch)?;

    // 2. The raft snapshot.
    let voters = cluster.members().iter().map(|member| NodeId(member.id.0));
    let position = cluster.position();
    let raft = RaftSnapshot {
        index: Index(position.index),
        term: Term(position.term),
        conf_state: wal::ConfState {
            voters: voters.collect(),
            ..wal::ConfState::default()
        },
        data: cluster.v2_tree(),
    };
    raft.save(&**disk, &paths.snap)?;

    // 3. The log.
    make_log(&**disk, plan, &raft, &paths.wal)?;
    for folder in [&paths.snap, &member_folder, &paths.data] {
        disk.sync_dir(folder).map_err(Fault::io("sync", folder))?;
    }
    Ok(store)
}

fn copy_database(disk: &dyn Disk, snapshot: &SnapshotFile, path: &Path) -> Result<(), Fault> {
    let file = disk
        .open(path, Open::Create)
        .map_err(Fault::io("create", path))?;
    snapshot.read(|offset, piece| {
        file.write_at(piece, offset)
            .map_err(Fault::io("write", path))
    })?;
    file.sync().map_err(Fault::io("sync", path))
}

/// The log begins with all members, which the raft snapshot then covers.
fn make_log(disk: &dyn Disk, plan: &Plan, raft: &RaftSnapshot, path: &Path) -> Result<(), Fault> {
    make_folder(disk, &folder_of(path))?;
    let members = plan.cluster.members();
    let entries = bootstrap_entries(members.to_vec());
    let state = HardState {
        term: raft.term,
        vote: members
            .first()
            .map_or(NodeId(0), |member| NodeId(member.id.0)),
        commit: raft.index,
    };
    let records: Vec<Record> = entries
        .iter()
        .map(|entry| Record::Entry(to_log_entry(entry)))
        .chain([Record::State(state), Record::Snapshot(raft.mark())])
        .collect();
    let metadata = wal::Metadata {
        node_id: NodeId(plan.identity.member.0),
        cluster_id: wal::ClusterId(plan.identity.cluster.0),
    };
    wal::Log::make(disk, path, metadata, &records, wal::Options::default())
}

#[cfg(test)]
mod tests {
    use sha2::{Digest, Sha256};
    use state_machine::{Member, MemberId};
    use storage::disk::File;
    use storage::disk::simulated::{PowerLoss, SimulatedDisk};

    use super::*;
    use crate::commands::check;
    use crate::identity::ClusterId;

    const BACKUP: &str = "/backup";
    const DATA: &str = "/data";
    const WAL: &str = "/logs/wal";

    /// A disk with a backup of a few keys, some in overflow pages, and a folder for logs.
    fn disk_with_backup() -> SimulatedDisk {
        let disk = SimulatedDisk::new();
        let shared: Arc<dyn Disk> = Arc::new(disk.clone());
        let path = Path::new("/db");
        let mut store = Store::create(shared.clone(), path).unwrap();
        let settings = Settings {
            lease_ttl_min: 1,
            persist_lease_checkpoints: false,
            learners_max: 1,
        };
        let mut machine = StateMachine::open(store.committed().clone(), settings).unwrap();
        for number in 0..20_u8 {
            let mut change = machine.store().change();
            change.put(&[b'k', number], &vec![number; 700], None);
            change.finish();
        }
        store.commit(machine.take_batch()).unwrap();
        let mut copy = storage::Copy::of(store.committed()).unwrap();
        let mut backup = Vec::new();
        while let piece = copy.read(1 << 20).unwrap()
            && !piece.is_empty()
        {
            backup.extend_from_slice(&piece);
        }
        backup.extend_from_slice(&Sha256::digest(&backup));
        let file = disk.open(Path::new(BACKUP), Open::Create).unwrap();
        file.write_at(&backup, 0).unwrap();
        file.sync().unwrap();
        disk.create_dir(Path::new("/logs")).unwrap();
        disk.sync_dir(Path::new("/")).unwrap();
        disk
    }

    fn plan(wal_dir: Option<&str>) -> Plan {
        let member = Member {
            id: MemberId(7),
            peer_urls: vec!["http://a:1".to_owned()],
            learner: false,
            name: "a".to_owned(),
            client_urls: Vec::new(),
        };
        Plan {
            snapshot: BACKUP.into(),
            hash_check: HashCheck::Required,
            data_dir: DATA.into(),
            wal_dir: wal_dir.map(PathBuf::from),
            identity: Identity {
                cluster: ClusterId(9),
                member: member.id,
            },
            cluster: NewCluster::new(vec![member]),
            bump: Some(Bump { amount: 1_000 }),
        }
    }

    fn rebuild_on(disk: &SimulatedDisk, plan: &Plan) -> Result<Revision, Failure> {
        let disk: Arc<dyn Disk> = Arc::new(disk.clone());
        rebuild(&disk, plan)
    }

    fn check_whole(disk: &SimulatedDisk, wal_dir: Option<&str>) {
        let paths = Paths::in_dir(Path::new(DATA), wal_dir.map(Path::new));
        check::check(disk, &paths).unwrap();
    }

    #[test]
    fn a_stop_at_any_call_leaves_a_whole_directory_or_none_and_the_next_attempt_succeeds() {
        let plan = plan(None);
        let mut call = 0;
        loop {
            call += 1;
            let disk = disk_with_backup();
            disk.stop_at(disk.calls() + call);
            let done = rebuild_on(&disk, &plan).is_ok();
            for loss in (0..5).map(PowerLoss::Random) {
                let found = disk.crash(loss);
                let there = found.exists(Path::new(DATA)).unwrap();
                assert!(there || !done, "call {call}, {loss:?}");
                if !there {
                    let revision = rebuild_on(&found, &plan).unwrap();
                    assert_eq!(revision, Revision(1_021));
                }
                check_whole(&found, None);
                let names = found.list(Path::new("/")).unwrap();
                assert_eq!(names, ["backup", "data", "db", "logs"], "call {call}");
            }
            if done {
                break;
            }
        }
        assert!(call > 20);
    }

    #[test]
    fn with_its_log_elsewhere_both_are_whole_or_missing() {
        let plan = plan(Some(WAL));
        let mut call = 0;
        loop {
            call += 1;
            let disk = disk_with_backup();
            disk.stop_at(disk.calls() + call);
            let done = rebuild_on(&disk, &plan).is_ok();
            for loss in (0..5).map(PowerLoss::Random) {
                let found = disk.crash(loss);
                let exists = |path: &str| found.exists(Path::new(path)).unwrap();
                match (exists(DATA), exists(WAL)) {
                    (true, true) => check_whole(&found, Some(WAL)),
                    (false, false) => drop(rebuild_on(&found, &plan).unwrap()),
                    // The log never comes first: a server would start empty on it.
                    (data, _) => assert!(data && !done, "call {call}, {loss:?}"),
                }
            }
            if done {
                break;
            }
        }
    }

    #[test]
    fn what_is_refused_leaves_nothing() {
        let check = |damage: &dyn Fn(&dyn File, u64), expected: &str| {
            let disk = disk_with_backup();
            let file = disk.open(Path::new(BACKUP), Open::Write).unwrap();
            damage(&*file, file.size().unwrap());
            drop(file);
            let calls = disk.calls();
            let failure = rebuild_on(&disk, &plan(None)).unwrap_err().to_string();
            assert!(failure.contains(expected), "{failure}");
            assert_eq!(disk.calls(), calls, "{failure}");
        };
        let damaged = "/backup is damaged or cut off: its SHA-256 is ";
        check(&|file, size| file.set_size(size - 512).unwrap(), damaged);
        check(
            &|file, size| file.write_at(b"x", size - 1).unwrap(),
            damaged,
        );
        check(&|file, _| file.write_at(b"x", 10_000).unwrap(), damaged);
        let cut = "/backup has no hash at its end: ";
        check(&|file, size| file.set_size(size - 1).unwrap(), cut);
        check(&|file, size| file.set_size(size - 32).unwrap(), cut);
        check(&|file, _| file.set_size(0).unwrap(), cut);
    }

    #[test]
    fn without_the_hash_the_pages_must_do() {
        let check = |size: u64, expected: Option<&str>| {
            let disk = disk_with_backup();
            let file = disk.open(Path::new(BACKUP), Open::Write).unwrap();
            let whole = file.size().unwrap();
            file.set_size(whole.min(size)).unwrap();
            let plan = Plan {
                hash_check: HashCheck::Skipped,
                ..plan(None)
            };
            match (rebuild_on(&disk, &plan), expected) {
                (Ok(_), None) => check_whole(&disk, None),
                (Err(failure), Some(expected)) => {
                    let text = failure.to_string();
                    assert!(text.starts_with(expected), "{text}");
                    assert!(!disk.exists(Path::new(DATA)).unwrap());
                }
                (result, _) => panic!("{size} bytes: {result:?}"),
            }
        };
        check(u64::MAX, None);
        check(4 * 4096, Some("/backup is damaged: its meta page names "));
        check(
            1,
            Some("/backup is damaged: neither of its two meta pages is valid"),
        );
    }

    #[test]
    fn nothing_is_written_over() {
        let disk = disk_with_backup();
        disk.create_dir(Path::new(DATA)).unwrap();
        rebuild_on(&disk, &plan(None)).unwrap();
        let calls = disk.calls();
        let failure = rebuild_on(&disk, &plan(None)).unwrap_err().to_string();
        assert!(
            failure.starts_with("/data is not empty: member is in it"),
            "{failure}"
        );
        assert_eq!(disk.calls(), calls);
    }
}
