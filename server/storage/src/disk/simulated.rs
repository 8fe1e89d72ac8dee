//! A disk in memory that can lose power at any call.
//!
//! What a caller sees (the volatile state) is kept apart from what a power loss leaves (the durable
//! state). The rules, which are those of a careful reading of POSIX and of disks as they are:
//! - A write or a change of size becomes durable by [`File::sync`] of that file, a name by
//!   [`Disk::sync_dir`] of its folder, and by nothing else.
//! - Until then a power loss may keep it, lose it, or keep any of its 512-byte sectors. A sector is
//!   found as it stood at some moment since the last sync: a kept later write to a sector brings
//!   along what earlier writes put there.
//! - The size is found as it was at some moment since the last sync, whatever became of the data:
//!   a file may have grown without its data, and data beyond the size is gone.
//! - Of the unsynced changes to one file's names, a first part happened and the rest did not; those of
//!   different files are independent, and changes of size or data are independent of names.
//!
//! Contents stand in memfd files, so that [`Map`] works as on a real disk. The random choices come from
//! the seed alone: the same workload, stop and seed leave the same disk.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Component, Path};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::errno::Errno;
use nix::sys::memfd::{MFdFlags, memfd_create};

use super::map::Map;
use super::{Disk, File, Lock, Open};

/// What a disk writes in one piece; a torn write ends on such a border.
pub const SECTOR_SIZE: u64 = 512;

/// Unit in which durable content is kept; a multiple of the sector.
const PAGE_SIZE: usize = 4096;

/// What becomes of changes that were not synced when power was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PowerLoss {
    /// All of them are lost.
    NothingKept,
    /// All of them are found.
    AllKept,
    /// Each is kept, lost or torn, as the seed decides.
    Random(u64),
    /// All are found but the newest write, of which the seed decides the sectors.
    LastWriteTorn(u64),
}

/// What a failed sync leaves behind. The next sync says "ok" either way, as Linux does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailedSync {
    /// The data still wait to be written.
    DataWait,
    /// The data never reach the disk, although reading still shows them.
    DataLost,
}

/// A disk in memory. Clones are the same disk.
#[derive(Clone)]
pub struct SimulatedDisk {
    world: Arc<Mutex<World>>,
}

struct World {
    root: Arc<Folder>,
    name_changes: Vec<NameChange>,
    next_id: u64,
    calls: u64,
    writes: u64,
    syncs: u64,
    stop_at: Option<u64>,
    fail_sync: Option<(u64, FailedSync)>,
    no_space_from: Option<u64>,
}

#[derive(Clone)]
enum Node {
    File(Arc<Content>),
    Folder(Arc<Folder>),
}

struct Folder {
    id: u64,
    names: Mutex<Names>,
}

#[derive(Default)]
struct Names {
    volatile: BTreeMap<String, Node>,
    durable: BTreeMap<String, Node>,
}

/// A change of names that no sync of a folder has made durable yet.
struct NameChange {
    node: Node,
    removed: Option<Place>,
    added: Option<Place>,
}

#[derive(Clone)]
struct Place {
    folder: Arc<Folder>,
    name: String,
}

struct Content {
    id: u64,
    /// The volatile bytes.
    memory: fs::File,
    state: Mutex<ContentState>,
}

#[derive(Default)]
struct ContentState {
    durable: Pages,
    durable_size: u64,
    size: u64,
    unsynced: Vec<Change>,
    locks: Vec<(u64, Lock)>,
}

struct Change {
    /// Number of the call that made it, over the whole disk.
    call: u64,
    kind: ChangeKind,
    size_after: u64,
}

enum ChangeKind {
    Write { offset: u64, bytes: Vec<u8> },
    Resize,
}

impl Default for SimulatedDisk {
    fn default() -> Self {
        SimulatedDisk::new()
    }
}

impl SimulatedDisk {
    /// An empty disk with the folder `/` only.
    pub fn new() -> SimulatedDisk {
        let root = Arc::new(Folder {
            id: 0,
            names: Mutex::default(),
        });
        SimulatedDisk {
            world: Arc::new(Mutex::new(World::new(root, 1))),
        }
    }

    /// How many calls that change something were made. The first is number 1.
    pub fn calls(&self) -> u64 {
        self.world().calls
    }

    /// How many syncs of files and folders were made.
    pub fn syncs(&self) -> u64 {
        self.world().syncs
    }

    /// How many writes and allocations were made.
    pub fn writes(&self) -> u64 {
        self.world().writes
    }

    /// Loses power in the middle of call number `call`: it and all calls after it fail, and what it
    /// would have changed is as uncertain as everything else that was not synced.
    pub fn stop_at(&self, call: u64) {
        self.world().stop_at = Some(call);
    }

    /// Lets sync number `sync` fail with an input/output error, once.
    pub fn fail_sync(&self, sync: u64, failed: FailedSync) {
        self.world().fail_sync = Some((sync, failed));
    }

    /// Lets write number `write` and those after it find the disk full. A first part of such a write,
    /// up to a sector's border, remains: file systems give out space in blocks.
    pub fn no_space_from(&self, write: u64) {
        self.world().no_space_from = Some(write);
    }

    /// Ends all faults and the stop, and keeps what callers saw: a killed process starts again, or
    /// somebody made space.
    pub fn resume(&self) {
        let mut world = self.world();
        world.stop_at = None;
        world.fail_sync = None;
        world.no_space_from = None;
    }

    /// The disk as it is found after a power loss now. This one is left as it is.
    pub fn crash(&self, loss: PowerLoss) -> SimulatedDisk {
        let world = self.world();
        let mut fate = Fate::new(loss, world.newest_write());
        let names = names_after_crash(&world.name_changes, &mut fate);
        let mut crash = Crash {
            fate,
            names,
            files: BTreeMap::new(),
        };
        let root = crash.folder(&world.root);
        SimulatedDisk {
            world: Arc::new(Mutex::new(World::new(root, world.next_id))),
        }
    }

    fn world(&self) -> MutexGuard<'_, World> {
        unpoisoned(&self.world)
    }
}

/// A test that panicked elsewhere must not hide its own message behind a poisoned lock.
fn unpoisoned<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether the caller of a changing call lives to see its end.
#[derive(PartialEq)]
enum Outcome {
    Done,
    PowerLost,
}

impl Outcome {
    fn result(self) -> io::Result<()> {
        match self {
            Outcome::Done => Ok(()),
            Outcome::PowerLost => Err(power_lost()),
        }
    }
}

fn power_lost() -> io::Error {
    io::Error::other("power lost")
}

impl World {
    fn new(root: Arc<Folder>, next_id: u64) -> World {
        World {
            root,
            name_changes: Vec::new(),
            next_id,
            calls: 0,
            writes: 0,
            syncs: 0,
            stop_at: None,
            fail_sync: None,
            no_space_from: None,
        }
    }

    /// Counts a call that changes something. An error means that power was lost before it.
    fn begin_change(&mut self) -> io::Result<Outcome> {
        self.powered()?;
        self.calls += 1;
        Ok(if Some(self.calls) == self.stop_at {
            Outcome::PowerLost
        } else {
            Outcome::Done
        })
    }

    fn powered(&self) -> io::Result<()> {
        match self.stop_at {
            Some(stop) if self.calls >= stop => Err(power_lost()),
            _ => Ok(()),
        }
    }

    fn new_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    fn find(&self, path: &Path) -> io::Result<Node> {
        let mut node = Node::Folder(Arc::clone(&self.root));
        for name in path.components().filter_map(name_of) {
            let Node::Folder(folder) = &node else {
                return Err(Errno::ENOTDIR.into());
            };
            let next = unpoisoned(&folder.names).volatile.get(&name).cloned();
            node = next.ok_or(Errno::ENOENT)?;
        }
        Ok(node)
    }

    fn find_folder(&self, path: &Path) -> io::Result<Arc<Folder>> {
        match self.find(path)? {
            Node::Folder(folder) => Ok(folder),
            Node::File(_) => Err(Errno::ENOTDIR.into()),
        }
    }

    fn place(&self, path: &Path) -> io::Result<Place> {
        let name = path
            .components()
            .next_back()
            .and_then(name_of)
            .ok_or(Errno::EINVAL)?;
        let folder = self.find_folder(path.parent().ok_or(Errno::EINVAL)?)?;
        Ok(Place { folder, name })
    }

    fn add(&mut self, place: Place, node: Node) {
        place
            .names()
            .volatile
            .insert(place.name.clone(), node.clone());
        self.name_changes.push(NameChange {
            node,
            removed: None,
            added: Some(place),
        });
    }

    fn take(&mut self, place: Place, node: Node) {
        place.names().volatile.remove(&place.name);
        self.name_changes.push(NameChange {
            node,
            removed: Some(place),
            added: None,
        });
    }

    /// Number of the newest call that wrote data which are not synced.
    fn newest_write(&self) -> Option<u64> {
        let mut newest = None;
        let mut folders = vec![Arc::clone(&self.root)];
        while let Some(folder) = folders.pop() {
            for node in unpoisoned(&folder.names).volatile.values() {
                match node {
                    Node::Folder(inner) => folders.push(Arc::clone(inner)),
                    Node::File(content) => {
                        let state = unpoisoned(&content.state);
                        let writes = state.unsynced.iter().filter(|change| change.is_write());
                        newest = newest.max(writes.map(|change| change.call).max());
                    }
                }
            }
        }
        newest
    }
}

fn name_of(component: Component<'_>) -> Option<String> {
    match component {
        Component::Normal(name) => Some(name.to_string_lossy().into_owned()),
        _ => None,
    }
}

impl Place {
    fn names(&self) -> MutexGuard<'_, Names> {
        unpoisoned(&self.folder.names)
    }
}

impl Node {
    fn id(&self) -> u64 {
        match self {
            Node::File(content) => content.id,
            Node::Folder(folder) => folder.id,
        }
    }
}

impl NameChange {
    fn concerns(&self, folder: &Folder) -> bool {
        [&self.removed, &self.added]
            .into_iter()
            .flatten()
            .any(|place| place.folder.id == folder.id)
    }

    /// Carries the change out on the names that `names_of` gives for a folder.
    fn apply(&self, mut change: impl FnMut(&Place, Option<Node>)) {
        if let Some(place) = &self.removed {
            change(place, None);
        }
        if let Some(place) = &self.added {
            change(place, Some(self.node.clone()));
        }
    }

    /// Changes `names`, the names in the folder of `place`. A name that meanwhile means something
    /// else is not removed.
    fn change(&self, names: &mut BTreeMap<String, Node>, place: &Place, node: Option<Node>) {
        match node {
            Some(node) => {
                names.insert(place.name.clone(), node);
            }
            None => {
                if names
                    .get(&place.name)
                    .is_some_and(|found| found.id() == self.node.id())
                {
                    names.remove(&place.name);
                }
            }
        }
    }
}

impl Disk for SimulatedDisk {
    fn open(&self, path: &Path, how: Open) -> io::Result<Arc<dyn File>> {
        let mut world = self.world();
        world.powered()?;
        let found = world.find(path);
        let content = match (how, found) {
            (_, Ok(Node::Folder(_))) => return Err(Errno::EISDIR.into()),
            (Open::Create, Ok(_)) => return Err(Errno::EEXIST.into()),
            (_, Ok(Node::File(content))) => content,
            (Open::Create, Err(_)) => {
                let place = world.place(path)?;
                let outcome = world.begin_change()?;
                let content = Content::new(world.new_id(), Pages::default(), 0)?;
                world.add(place, Node::File(Arc::clone(&content)));
                outcome.result()?;
                content
            }
            (_, Err(error)) => return Err(error),
        };
        let handle = world.new_id();
        let world = Arc::clone(&self.world);
        Ok(Arc::new(SimulatedFile {
            world,
            content,
            handle,
            writable: how != Open::Read,
        }))
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        let mut world = self.world();
        if world.find(path).is_ok() {
            return Err(Errno::EEXIST.into());
        }
        let place = world.place(path)?;
        let outcome = world.begin_change()?;
        let folder = Arc::new(Folder {
            id: world.new_id(),
            names: Mutex::default(),
        });
        world.add(place, Node::Folder(folder));
        outcome.result()
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut world = self.world();
        let node = world.find(from)?;
        match (&node, world.find(to)) {
            (Node::File(_), Ok(Node::Folder(_))) => return Err(Errno::EISDIR.into()),
            (Node::Folder(_), Ok(Node::File(_))) => return Err(Errno::ENOTDIR.into()),
            (Node::Folder(_), Ok(Node::Folder(old)))
                if !unpoisoned(&old.names).volatile.is_empty() =>
            {
                return Err(Errno::ENOTEMPTY.into());
            }
            _ => {}
        }
        let (removed, added) = (world.place(from)?, world.place(to)?);
        let outcome = world.begin_change()?;
        removed.names().volatile.remove(&removed.name);
        added
            .names()
            .volatile
            .insert(added.name.clone(), node.clone());
        let change = NameChange {
            node,
            removed: Some(removed),
            added: Some(added),
        };
        world.name_changes.push(change);
        outcome.result()
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut world = self.world();
        let node = world.find(path)?;
        if matches!(node, Node::Folder(_)) {
            return Err(Errno::EISDIR.into());
        }
        let place = world.place(path)?;
        let outcome = world.begin_change()?;
        world.take(place, node);
        outcome.result()
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        let mut world = self.world();
        let folder = world.find_folder(path)?;
        let place = world.place(path)?;
        let outcome = world.begin_change()?;
        remove_all_in(&mut world, &folder);
        world.take(place, Node::Folder(folder));
        outcome.result()
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let mut world = self.world();
        let folder = world.find_folder(path)?;
        let outcome = world.begin_change()?;
        world.syncs += 1;
        if outcome == Outcome::PowerLost {
            return Err(power_lost());
        }
        if let Some((sync, _)) = world.fail_sync
            && sync == world.syncs
        {
            return Err(Errno::EIO.into());
        }
        for change in world
            .name_changes
            .extract_if(.., |change| change.concerns(&folder))
        {
            change.apply(|place, node| change.change(&mut place.names().durable, place, node));
        }
        Ok(())
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        let world = self.world();
        world.powered()?;
        let folder = world.find_folder(path)?;
        let names = unpoisoned(&folder.names).volatile.keys().cloned().collect();
        Ok(names)
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        let world = self.world();
        world.powered()?;
        Ok(world.find(path).is_ok())
    }
}

fn remove_all_in(world: &mut World, folder: &Arc<Folder>) {
    let names = unpoisoned(&folder.names).volatile.clone();
    for (name, node) in names {
        if let Node::Folder(inner) = &node {
            remove_all_in(world, inner);
        }
        world.take(
            Place {
                folder: Arc::clone(folder),
                name,
            },
            node,
        );
    }
}

struct SimulatedFile {
    world: Arc<Mutex<World>>,
    content: Arc<Content>,
    handle: u64,
    writable: bool,
}

impl SimulatedFile {
    fn begin_change(&self) -> io::Result<(MutexGuard<'_, World>, Outcome)> {
        let mut world = unpoisoned(&self.world);
        if !self.writable {
            return Err(Errno::EBADF.into());
        }
        let outcome = world.begin_change()?;
        Ok((world, outcome))
    }
}

impl File for SimulatedFile {
    fn size(&self) -> io::Result<u64> {
        unpoisoned(&self.world).powered()?;
        Ok(unpoisoned(&self.content.state).size)
    }

    fn set_size(&self, size: u64) -> io::Result<()> {
        let (world, outcome) = self.begin_change()?;
        self.content.resize(world.calls, size)?;
        outcome.result()
    }

    fn allocate(&self, size: u64) -> io::Result<()> {
        let (mut world, outcome) = self.begin_change()?;
        world.writes += 1;
        if world.is_full() {
            return Err(Errno::ENOSPC.into());
        }
        if unpoisoned(&self.content.state).size < size {
            self.content.resize(world.calls, size)?;
        }
        outcome.result()
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        unpoisoned(&self.world).powered()?;
        self.content.memory.read_exact_at(buffer, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let (mut world, outcome) = self.begin_change()?;
        world.writes += 1;
        if world.is_full() {
            let middle = (offset + bytes.len() as u64 / 2) / SECTOR_SIZE * SECTOR_SIZE;
            let part = &bytes[..middle.saturating_sub(offset) as usize];
            self.content.write(world.calls, part, offset)?;
            return Err(Errno::ENOSPC.into());
        }
        self.content.write(world.calls, bytes, offset)?;
        outcome.result()
    }

    fn sync(&self) -> io::Result<()> {
        let (mut world, outcome) = self.begin_change()?;
        world.syncs += 1;
        if outcome == Outcome::PowerLost {
            return Err(power_lost());
        }
        let mut state = unpoisoned(&self.content.state);
        match world.fail_sync {
            Some((sync, failed)) if sync == world.syncs => {
                if failed == FailedSync::DataLost {
                    state.unsynced.clear();
                }
                Err(Errno::EIO.into())
            }
            _ => {
                state.make_durable();
                Ok(())
            }
        }
    }

    fn map(&self, size: u64) -> io::Result<Arc<Map>> {
        unpoisoned(&self.world).powered()?;
        Map::of(&self.content.memory, size).map(Arc::new)
    }

    fn lock(&self, lock: Lock) -> io::Result<bool> {
        unpoisoned(&self.world).powered()?;
        let mut state = unpoisoned(&self.content.state);
        let taken = |(handle, held): &(u64, Lock)| *handle != self.handle && conflict(*held, lock);
        if state.locks.iter().any(taken) {
            return Ok(false);
        }
        state.locks.push((self.handle, lock));
        Ok(true)
    }
}

impl Drop for SimulatedFile {
    fn drop(&mut self) {
        unpoisoned(&self.content.state)
            .locks
            .retain(|(handle, _)| *handle != self.handle);
    }
}

fn conflict(held: Lock, wanted: Lock) -> bool {
    match (held, wanted) {
        (Lock::OpenFileDescription, Lock::OpenFileDescription) => true,
        (Lock::OpenFileDescription, _) | (_, Lock::OpenFileDescription) => false,
        (held, wanted) => held == Lock::Exclusive || wanted == Lock::Exclusive,
    }
}

impl World {
    fn is_full(&self) -> bool {
        self.no_space_from.is_some_and(|first| self.writes >= first)
    }
}

impl Content {
    fn new(id: u64, durable: Pages, size: u64) -> io::Result<Arc<Content>> {
        let memory = fs::File::from(memfd_create(c"simulated", MFdFlags::MFD_CLOEXEC)?);
        memory.set_len(size)?;
        for (number, page) in &durable.pages {
            let offset = number * PAGE_SIZE as u64;
            let length = size.saturating_sub(offset).min(PAGE_SIZE as u64) as usize;
            memory.write_all_at(&page[..length], offset)?;
        }
        let state = ContentState {
            durable,
            durable_size: size,
            size,
            ..ContentState::default()
        };
        Ok(Arc::new(Content {
            id,
            memory,
            state: Mutex::new(state),
        }))
    }

    fn write(&self, call: u64, bytes: &[u8], offset: u64) -> io::Result<()> {
        let end = offset.checked_add(bytes.len() as u64).ok_or(Errno::EFBIG)?;
        self.memory.write_all_at(bytes, offset)?;
        let mut state = unpoisoned(&self.state);
        state.size = state.size.max(end);
        let size_after = state.size;
        let kind = ChangeKind::Write {
            offset,
            bytes: bytes.to_vec(),
        };
        state.unsynced.push(Change {
            call,
            kind,
            size_after,
        });
        Ok(())
    }

    fn resize(&self, call: u64, size: u64) -> io::Result<()> {
        self.memory.set_len(size)?;
        let mut state = unpoisoned(&self.state);
        state.size = size;
        state.unsynced.push(Change {
            call,
            kind: ChangeKind::Resize,
            size_after: size,
        });
        Ok(())
    }
}

impl Change {
    fn is_write(&self) -> bool {
        matches!(self.kind, ChangeKind::Write { .. })
    }

    /// The sectors of a write, by number.
    fn sectors(&self) -> Range<u64> {
        match &self.kind {
            ChangeKind::Write { bytes, .. } if bytes.is_empty() => 0..0,
            ChangeKind::Write { offset, bytes } => {
                offset / SECTOR_SIZE..(offset + bytes.len() as u64).div_ceil(SECTOR_SIZE)
            }
            ChangeKind::Resize => 0..0,
        }
    }
}

impl ContentState {
    fn make_durable(&mut self) {
        for change in self.unsynced.drain(..) {
            match change.kind {
                ChangeKind::Write { offset, bytes } => self.durable.write(&bytes, offset),
                ChangeKind::Resize => self.durable.zero_from(change.size_after, |_| true),
            }
            self.durable_size = change.size_after;
        }
    }

    /// Content and size after a power loss.
    fn after_crash(&self, fate: &mut Fate) -> (Pages, u64) {
        let sizes_kept = fate.first_part(self.unsynced.len());
        let size = match sizes_kept.checked_sub(1) {
            Some(last) => self.unsynced[last].size_after,
            None => self.durable_size,
        };
        let found_at = self.moments_of_sectors(fate);
        let found = |sector: u64, change: usize| {
            found_at
                .get(&sector)
                .is_some_and(|newest| *newest >= change)
        };
        let mut pages = self.durable.clone();
        for (number, change) in self.unsynced.iter().enumerate() {
            match &change.kind {
                ChangeKind::Write { offset, bytes } => {
                    for sector in change.sectors().filter(|sector| found(*sector, number)) {
                        let start = (sector * SECTOR_SIZE).max(*offset);
                        let end = ((sector + 1) * SECTOR_SIZE).min(offset + bytes.len() as u64);
                        let part = &bytes[(start - offset) as usize..(end - offset) as usize];
                        pages.write(part, start);
                    }
                }
                ChangeKind::Resize => pages.zero_from(change.size_after, |sector| {
                    number < sizes_kept || found(sector, number)
                }),
            }
        }
        pages.zero_from(size, |_| true);
        (pages, size)
    }

    /// For each sector with a kept write the number of the newest such write: the moment at which the
    /// sector went to the disk.
    fn moments_of_sectors(&self, fate: &mut Fate) -> BTreeMap<u64, usize> {
        let mut moments = BTreeMap::new();
        for (number, change) in self
            .unsynced
            .iter()
            .enumerate()
            .filter(|(_, c)| c.is_write())
        {
            let write = fate.of_write(change.call);
            for sector in change.sectors() {
                if fate.keeps_sector(write) {
                    moments.insert(sector, number);
                }
            }
        }
        moments
    }
}

/// Sparse content: pages that are not there are zero.
#[derive(Clone, Default)]
struct Pages {
    pages: BTreeMap<u64, Arc<[u8; PAGE_SIZE]>>,
}

impl Pages {
    fn write(&mut self, mut bytes: &[u8], mut offset: u64) {
        while !bytes.is_empty() {
            let (number, start) = (offset / PAGE_SIZE as u64, offset as usize % PAGE_SIZE);
            let (now, later) = bytes.split_at(bytes.len().min(PAGE_SIZE - start));
            if now.len() == PAGE_SIZE && now.iter().all(|byte| *byte == 0) {
                self.pages.remove(&number);
            } else {
                let page = self
                    .pages
                    .entry(number)
                    .or_insert_with(|| Arc::new([0; PAGE_SIZE]));
                Arc::make_mut(page)[start..start + now.len()].copy_from_slice(now);
            }
            offset += now.len() as u64;
            bytes = later;
        }
    }

    /// Zeroes what lies at or beyond `size` in the sectors that `which` picks.
    fn zero_from(&mut self, size: u64, which: impl Fn(u64) -> bool) {
        for (number, page) in self.pages.range_mut(size / PAGE_SIZE as u64..) {
            let page_start = number * PAGE_SIZE as u64;
            for start in (0..PAGE_SIZE).step_by(SECTOR_SIZE as usize) {
                let sector_start = page_start + start as u64;
                let sector_end = sector_start + SECTOR_SIZE;
                if sector_end > size && which(sector_start / SECTOR_SIZE) {
                    let from = size.saturating_sub(page_start).max(start as u64) as usize;
                    Arc::make_mut(page)[from..start + SECTOR_SIZE as usize].fill(0);
                }
            }
        }
    }
}

/// Decides what becomes of each unsynced change.
struct Fate {
    loss: PowerLoss,
    newest_write: Option<u64>,
    chance: Chance,
}

#[derive(Clone, Copy)]
enum WriteFate {
    Lost,
    Kept,
    Torn,
}

impl Fate {
    fn new(loss: PowerLoss, newest_write: Option<u64>) -> Fate {
        let seed = match loss {
            PowerLoss::Random(seed) | PowerLoss::LastWriteTorn(seed) => seed,
            PowerLoss::NothingKept | PowerLoss::AllKept => 0,
        };
        Fate {
            loss,
            newest_write,
            chance: Chance { state: seed },
        }
    }

    fn of_write(&mut self, call: u64) -> WriteFate {
        match self.loss {
            PowerLoss::NothingKept => WriteFate::Lost,
            PowerLoss::AllKept => WriteFate::Kept,
            PowerLoss::LastWriteTorn(_) if Some(call) == self.newest_write => WriteFate::Torn,
            PowerLoss::LastWriteTorn(_) => WriteFate::Kept,
            PowerLoss::Random(_) => match self.chance.below(3) {
                0 => WriteFate::Lost,
                1 => WriteFate::Kept,
                _ => WriteFate::Torn,
            },
        }
    }

    fn keeps_sector(&mut self, write: WriteFate) -> bool {
        match write {
            WriteFate::Lost => false,
            WriteFate::Kept => true,
            WriteFate::Torn => self.chance.below(2) == 0,
        }
    }

    /// How many of `count` changes, from the first on, happened.
    fn first_part(&mut self, count: usize) -> usize {
        match self.loss {
            PowerLoss::NothingKept => 0,
            PowerLoss::AllKept | PowerLoss::LastWriteTorn(_) => count,
            PowerLoss::Random(_) => self.chance.below(count as u64 + 1) as usize,
        }
    }
}

/// A small generator of chance numbers (SplitMix64, Steele, Lea and Flood 2014).
struct Chance {
    state: u64,
}

impl Chance {
    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

/// The names in each folder that has unsynced changes, after a power loss.
fn names_after_crash(
    changes: &[NameChange],
    fate: &mut Fate,
) -> BTreeMap<u64, BTreeMap<String, Node>> {
    let mut of_node: BTreeMap<u64, usize> = BTreeMap::new();
    for change in changes {
        *of_node.entry(change.node.id()).or_default() += 1;
    }
    for count in of_node.values_mut() {
        *count = fate.first_part(*count);
    }
    let mut names = BTreeMap::new();
    for change in changes {
        let left = of_node.entry(change.node.id()).or_default();
        if *left == 0 {
            continue;
        }
        *left -= 1;
        change.apply(|place, node| {
            let durable = || place.names().durable.clone();
            let names = names.entry(place.folder.id).or_insert_with(durable);
            change.change(names, place, node);
        });
    }
    names
}

/// Builds the disk that is found after a power loss.
struct Crash {
    fate: Fate,
    names: BTreeMap<u64, BTreeMap<String, Node>>,
    files: BTreeMap<u64, Arc<Content>>,
}

impl Crash {
    fn folder(&mut self, folder: &Folder) -> Arc<Folder> {
        let durable = || unpoisoned(&folder.names).durable.clone();
        let found = self.names.remove(&folder.id).unwrap_or_else(durable);
        let mut names = BTreeMap::new();
        for (name, node) in found {
            let node = match node {
                Node::Folder(inner) => Node::Folder(self.folder(&inner)),
                Node::File(content) => Node::File(self.file(&content)),
            };
            names.insert(name, node);
        }
        let names = Names {
            volatile: names.clone(),
            durable: names,
        };
        Arc::new(Folder {
            id: folder.id,
            names: Mutex::new(names),
        })
    }

    fn file(&mut self, content: &Content) -> Arc<Content> {
        if let Some(done) = self.files.get(&content.id) {
            return Arc::clone(done);
        }
        let (pages, size) = unpoisoned(&content.state).after_crash(&mut self.fate);
        let file = Content::new(content.id, pages, size)
            .expect("memory for the simulated file that is found after the crash");
        self.files.insert(content.id, Arc::clone(&file));
        file
    }
}

#[cfg(test)]
mod tests;
