//! The writing side of the file: opening, and committing batches.

use std::collections::{BTreeMap, VecDeque};
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

use crate::Fault;
use crate::batch::Batch;
use crate::disk::{Disk, File, Lock, Open};
use crate::free_list::FreeList;
use crate::page::{
    BUCKET_FLAG, BUCKET_HEADER_SIZE, LeafItem, META_SIZE, Meta, NOT_PERSISTED, PageHeader,
    PageKind, PageNumber, encode_leaf, find_meta, leaf_size,
};
use crate::reader::{Bucket, Committed, State};
use crate::recover::{Reachable, walk};
use crate::rewrite::{Change, FILL_APPENDED, FILL_RANDOM, Fill, Loose, Merged, Pages, Rewriter};
use crate::sweep::{Sweep, low_end};

/// Page size of files that we make; that of the operating systems that we run on.
pub const PAGE_SIZE: u32 = 4096;
/// Pages of an empty file: two meta pages, a list of free pages, a root.
const PAGES_MIN: u64 = 4;
/// The file grows by this much at a time, so that its size is not changed by every commit.
const GROWTH: u64 = 16 << 20;
/// The file is cut by this much at a time: the file system is busy meanwhile, and the log waits for it.
const CUT_MAX: u64 = 64 << 20;
/// Address space that a mapping takes at least. Costs nothing until the file is as large; spares a
/// new mapping each time that the file grows.
const MAP_SIZE_MIN: u64 = 16 << 30;
/// Bytes of neighbouring pages that one write call carries at most.
const WRITE_SIZE_MAX: usize = 4 << 20;
/// Buckets whose keys are only ever added at the end.
const APPENDED_BUCKETS: [&str; 1] = ["key"];

/// The database file, open for writing: one owner, commits one batch at a time.
///
/// After a [`Fault`] nothing more may be asked of it: what is on disk is then known only to the
/// next one who opens the file.
pub struct Store {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    file: Arc<dyn File>,
    file_size: u64,
    committed: Committed,
    /// States that readers may still look at, oldest first.
    readers: VecDeque<(u64, Weak<State>)>,
    free: FreeList,
    failed: bool,
}

impl Store {
    /// Makes a new, empty file (mode 0600), durable with its name before this returns. A crash leaves
    /// the whole file or nothing under its name.
    ///
    /// # Errors
    /// When there is such a file already, or the disk fails.
    pub fn create(disk: Arc<dyn Disk>, path: &Path) -> Result<Store, Fault> {
        let exists = |path: &Path| disk.exists(path).map_err(Fault::io("look for", path));
        if exists(path)? {
            let error = io::Error::from(io::ErrorKind::AlreadyExists);
            return Err(Fault::io("create", path)(error));
        }
        let aside = creation_name(path);
        if exists(&aside)? {
            disk.remove(&aside).map_err(Fault::io("remove", &aside))?;
        }
        let file = disk
            .open(&aside, Open::Create)
            .map_err(Fault::io("create", &aside))?;
        lock(&*file, path)?;
        let size = 4 * u64::from(PAGE_SIZE);
        let mut pages = Vec::new();
        for transaction in 0..2 {
            let meta = Meta {
                page_size: PAGE_SIZE,
                root: PageNumber(3),
                sequence: 0,
                free_list: PageNumber(2),
                high_water: PageNumber(4),
                transaction,
            };
            pages.extend(meta.encode());
        }
        for (number, kind) in [(2, PageKind::FreeList), (3, PageKind::Leaf)] {
            let number = PageNumber(number);
            let start = pages.len();
            pages.resize(start + PAGE_SIZE as usize, 0);
            PageHeader {
                number,
                flags: kind.flags(),
                count: 0,
                overflow: 0,
            }
            .encode(&mut pages[start..]);
        }
        file.set_size(size).map_err(Fault::io("grow", path))?;
        file.write_at(&pages, 0).map_err(Fault::io("write", path))?;
        file.sync().map_err(Fault::io("sync", path))?;
        disk.rename(&aside, path)
            .map_err(Fault::io("rename", &aside))?;
        let folder = path.parent().unwrap_or(Path::new("."));
        disk.sync_dir(folder).map_err(Fault::io("sync", folder))?;
        Store::from_file(disk, path, file)
    }

    /// Opens an existing file. Its content is not changed by that; a file that is damaged or that
    /// another process holds is refused.
    pub fn open(disk: Arc<dyn Disk>, path: &Path) -> Result<Store, Fault> {
        let file = disk
            .open(path, Open::Write)
            .map_err(Fault::io("open", path))?;
        lock(&*file, path)?;
        let store = Store::from_file(disk, path, file)?;
        store.settle()?;
        Ok(store)
    }

    /// Makes what was found durable before anybody relies on it: whoever wrote it may have ended before its
    /// sync, or the sync may have failed, after which reading still shows what never reaches the disk.
    fn settle(&self) -> Result<(), Fault> {
        let meta = self.committed.state.meta;
        match self.write_meta(&meta, META_SIZE) {
            // What is there can be read all the same; the next commit writes a meta page, or fails.
            Err(Fault::Io { source, .. }) if source.kind() == io::ErrorKind::StorageFull => {}
            written => written?,
        }
        self.file.sync().map_err(Fault::io("sync", &self.path))?;
        let folder = self.path.parent().unwrap_or(Path::new("."));
        self.disk
            .sync_dir(folder)
            .map_err(Fault::io("sync", folder))
    }

    /// Writes the first `bytes` of a meta page.
    fn write_meta(&self, meta: &Meta, bytes: usize) -> Result<(), Fault> {
        let slot = (meta.transaction % 2) * u64::from(meta.page_size);
        self.file
            .write_at(&meta.encode()[..bytes], slot)
            .map_err(Fault::io("write", &self.path))
    }

    fn from_file(disk: Arc<dyn Disk>, path: &Path, file: Arc<dyn File>) -> Result<Store, Fault> {
        let committed = read_newest(&*file, path)?;
        let (committed, free) = find_free_pages(&committed)?;
        let file_size = file.size().map_err(Fault::io("measure", path))?;
        let readers = VecDeque::from([reader_entry(&committed)]);
        let path = path.to_owned();
        Ok(Store {
            disk,
            path,
            file,
            file_size,
            committed,
            readers,
            free,
            failed: false,
        })
    }

    /// The newest durable state.
    pub fn committed(&self) -> &Committed {
        &self.committed
    }

    /// The file's name.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes all changes of `batch` durable, or none of them, and returns the state with them.
    pub fn commit(&mut self, batch: Batch) -> Result<Committed, Fault> {
        self.transact(|previous, pages| rewrite_buckets(previous, batch, pages))
    }

    /// Carries a sweep on by one commit that writes about `pages_max` pages and changes no content.
    pub fn sweep(&mut self, sweep: &mut Sweep, pages_max: u64) -> Result<Committed, Fault> {
        let committed = self.transact(|previous, pages| sweep.step(previous, pages, pages_max))?;
        if self.is_cut_due(committed.state.meta.high_water.0) {
            sweep.settle_more();
        }
        Ok(committed)
    }

    /// One transaction: prepare copies of the nodes that change; write them; sync; write the meta page
    /// that names them; sync. Then the end of the file is cut off as far as neither meta page needs it.
    fn transact(
        &mut self,
        prepare: impl FnOnce(&Committed, &mut NewPages<'_>) -> Result<PageNumber, Fault>,
    ) -> Result<Committed, Fault> {
        assert!(
            !self.failed,
            "a commit after a fault of {}",
            self.path.display()
        );
        self.failed = true;
        let transaction = self.committed.transaction() + 1;
        let oldest_reader = self.oldest_reader();
        self.free.release(transaction, oldest_reader);
        let previous = self.committed.clone();
        let old = previous.state.meta;
        let mut pages = NewPages {
            free: &mut self.free,
            transaction,
            high_water: old.high_water.0,
            low_end: low_end(&previous),
            page_size: u64::from(old.page_size),
            written: BTreeMap::new(),
        };
        let root = prepare(&previous, &mut pages)?;
        let high_water = pages.high_water;
        let written = std::mem::take(&mut pages.written);
        let meta = Meta {
            root,
            high_water: PageNumber(self.free.cut(high_water, PAGES_MIN)),
            transaction,
            free_list: NOT_PERSISTED,
            ..old
        };
        self.grow(&meta)?;
        self.write_pages(written, u64::from(meta.page_size))?;
        self.file.sync().map_err(Fault::io("sync", &self.path))?;
        self.write_meta(&meta, meta.page_size as usize)?;
        self.file.sync().map_err(Fault::io("sync", &self.path))?;
        self.cut(old.high_water.0.max(meta.high_water.0))?;
        self.publish(meta)?;
        self.failed = false;
        Ok(self.committed.clone())
    }

    /// Writes everything that the file holds into a new file, as small as it can be, and puts that
    /// in the place of the old one. States that readers look at stay readable.
    pub fn rewrite(&mut self) -> Result<Committed, Fault> {
        let folder = self.path.parent().unwrap_or(Path::new(".")).to_owned();
        let aside = folder.join(format!("db.tmp.{}", self.committed.transaction()));
        if self
            .disk
            .exists(&aside)
            .map_err(Fault::io("look for", &aside))?
        {
            self.disk
                .remove(&aside)
                .map_err(Fault::io("remove", &aside))?;
        }
        let mut copy = Store::create(self.disk.clone(), &aside)?;
        copy.copy_from(&self.committed)?;
        self.disk
            .rename(&aside, &self.path)
            .map_err(Fault::io("rename", &aside))?;
        self.disk
            .sync_dir(&folder)
            .map_err(Fault::io("sync", &folder))?;
        copy.take_name(&self.path);
        *self = copy;
        Ok(self.committed.clone())
    }

    /// Goes on with another database file, in the same folder, which takes this one's name. It is opened and
    /// checked first. States of before that readers look at stay readable.
    ///
    /// # Errors
    /// When the other file is damaged, which changes nothing; when the disk fails.
    pub fn replace(&mut self, other: &Path) -> Result<Committed, Fault> {
        let mut replacement = Store::open(self.disk.clone(), other)?;
        self.disk
            .rename(other, &self.path)
            .map_err(Fault::io("rename", other))?;
        let folder = self.path.parent().unwrap_or(Path::new("."));
        self.disk
            .sync_dir(folder)
            .map_err(Fault::io("sync", folder))?;
        replacement.take_name(&self.path);
        *self = replacement;
        Ok(self.committed.clone())
    }

    /// The file bears another name from now on.
    fn take_name(&mut self, path: &Path) {
        path.clone_into(&mut self.path);
        let state = State {
            path: path.into(),
            ..self.committed.state.copy()
        };
        self.committed = Committed {
            state: Arc::new(state),
        };
        self.readers = VecDeque::from([reader_entry(&self.committed)]);
    }

    /// Fills an empty file with all buckets of `source`, in transactions of bounded size.
    fn copy_from(&mut self, source: &Committed) -> Result<(), Fault> {
        /// Keys and bytes of one transaction while a file is copied: what stands in memory.
        const COPY_OPERATIONS: usize = 10_000;
        const COPY_BYTES: usize = 32 << 20;
        for name in source.bucket_names()? {
            let name: &'static str = bucket_name(&name, &self.path)?;
            let mut batch = Batch::new();
            batch.create_bucket(name);
            let bucket = source.bucket(name)?.expect("listed just now");
            for pair in bucket.range(&[])? {
                let (key, value) = pair?;
                batch.put(name, key, value);
                if batch.operations() == COPY_OPERATIONS || batch.bytes() > COPY_BYTES {
                    self.commit(std::mem::take(&mut batch))?;
                }
            }
            self.commit(batch)?;
        }
        Ok(())
    }

    fn oldest_reader(&mut self) -> u64 {
        while let Some((_, state)) = self.readers.front() {
            if state.strong_count() > 0 {
                break;
            }
            self.readers.pop_front();
        }
        self.readers.front().map_or(u64::MAX, |reader| reader.0)
    }

    fn grow(&mut self, meta: &Meta) -> Result<(), Fault> {
        let needed = (meta.high_water.0 + 1) * u64::from(meta.page_size);
        if needed > self.file_size {
            let size = needed + GROWTH;
            self.file
                .set_size(size)
                .map_err(Fault::io("grow", &self.path))?;
            self.file_size = size;
        }
        Ok(())
    }

    /// Cuts the file behind its first `pages` pages, which either meta page may name, if that is worth a
    /// change of its size, by a bounded piece. Readers of older states see nothing beyond: what they see is not
    /// free.
    fn cut(&mut self, pages: u64) -> Result<(), Fault> {
        if self.is_cut_due(pages) {
            let needed = (pages + 1) * u64::from(self.committed.state.meta.page_size);
            let size = (needed + GROWTH).max(self.file_size.saturating_sub(CUT_MAX));
            self.file
                .set_size(size)
                .map_err(Fault::io("cut", &self.path))?;
            self.file_size = size;
        }
        Ok(())
    }

    fn is_cut_due(&self, pages: u64) -> bool {
        let needed = (pages + 1) * u64::from(self.committed.state.meta.page_size);
        needed + 2 * GROWTH < self.file_size
    }

    fn write_pages(
        &self,
        written: BTreeMap<PageNumber, Vec<u8>>,
        page_size: u64,
    ) -> Result<(), Fault> {
        let write = |bytes: &[u8], first: u64| {
            self.file
                .write_at(bytes, first * page_size)
                .map_err(Fault::io("write", &self.path))
        };
        let mut run: Vec<u8> = Vec::new();
        let mut run_first = 0;
        for (first, bytes) in written {
            let next_in_run = run_first + run.len() as u64 / page_size;
            if !run.is_empty() && (next_in_run != first.0 || run.len() >= WRITE_SIZE_MAX) {
                write(&run, run_first)?;
                run.clear();
            }
            if run.is_empty() {
                run_first = first.0;
                run = bytes;
            } else {
                run.extend_from_slice(&bytes);
            }
        }
        match run.is_empty() {
            true => Ok(()),
            false => write(&run, run_first),
        }
    }

    fn publish(&mut self, meta: Meta) -> Result<(), Fault> {
        let old = &self.committed.state;
        let map = match self.file_size <= old.map.size() {
            true => old.map.clone(),
            false => map(&*self.file, self.file_size, &self.path)?,
        };
        let free_pages = self.free.pages();
        let state = State {
            path: old.path.clone(),
            map,
            meta,
            free_pages,
        };
        self.committed = Committed {
            state: Arc::new(state),
        };
        self.readers.push_back(reader_entry(&self.committed));
        Ok(())
    }
}

/// The newest state of the file that is not open for writing here, and so may be looked at while
/// nobody writes it: for inspection and checks. Takes a shared lock for as long as the file is open.
pub fn read_only(disk: &dyn Disk, path: &Path) -> Result<(Committed, Arc<dyn File>), Fault> {
    let file = disk
        .open(path, Open::Read)
        .map_err(Fault::io("open", path))?;
    match file.lock(Lock::Shared).map_err(Fault::io("lock", path))? {
        true => Ok((read_newest(&*file, path)?, file)),
        false => Err(Fault::Locked {
            path: path.to_owned(),
        }),
    }
}

/// The name of a new file until it is whole. etcd, too, removes names with this prefix when it starts.
fn creation_name(path: &Path) -> PathBuf {
    let mut name = OsString::from("tmp-");
    name.push(path.file_name().unwrap_or_default());
    path.with_file_name(name)
}

fn lock(file: &dyn File, path: &Path) -> Result<(), Fault> {
    match file
        .lock(Lock::Exclusive)
        .map_err(Fault::io("lock", path))?
    {
        true => Ok(()),
        false => Err(Fault::Locked {
            path: path.to_owned(),
        }),
    }
}

fn read_newest(file: &dyn File, path: &Path) -> Result<Committed, Fault> {
    let size = file.size().map_err(Fault::io("measure", path))?;
    let meta = find_meta(|offset| {
        let mut bytes = vec![0; META_SIZE];
        file.read_at(&mut bytes, offset).ok().map(|()| bytes)
    });
    let meta = meta.ok_or_else(|| {
        Fault::damaged(path, "neither of its two meta pages is valid, so it is no database file; restore the member from a backup or from its peers")
    })?;
    let pages = meta.high_water.0.checked_mul(u64::from(meta.page_size));
    if pages.is_none_or(|needed| size < needed) || meta.high_water.0 < PAGES_MIN {
        let what = format!(
            "its meta page names {} pages, but it has {size} bytes",
            meta.high_water.0
        );
        return Err(Fault::damaged(path, what));
    }
    let map = map(file, size, path)?;
    let state = State {
        path: path.into(),
        map,
        meta,
        free_pages: 0,
    };
    Ok(Committed {
        state: Arc::new(state),
    })
}

fn map(file: &dyn File, size: u64, path: &Path) -> Result<Arc<crate::disk::map::Map>, Fault> {
    let mut reserved = MAP_SIZE_MIN;
    while reserved < size {
        reserved *= 2;
    }
    file.map(reserved).map_err(Fault::io("map", path))
}

/// Finds the free pages of a file just opened: all those that the newest tree does not reach.
///
/// None of them may be written by the first commit, since the other meta page may still name them.
/// A list of free pages in the file is not read, but its own pages are kept like the rest.
fn find_free_pages(committed: &Committed) -> Result<(Committed, FreeList), Fault> {
    let state = &committed.state;
    let mut reachable = Reachable::new(state.meta.high_water);
    walk(committed, &mut reachable)?;
    let mut free = FreeList::default();
    for (first, count) in reachable.gaps() {
        free.give_up(state.meta.transaction, first, count);
    }
    let state = State {
        free_pages: free.pages(),
        ..state.copy()
    };
    Ok((
        Committed {
            state: Arc::new(state),
        },
        free,
    ))
}

fn reader_entry(committed: &Committed) -> (u64, Weak<State>) {
    (committed.transaction(), Arc::downgrade(&committed.state))
}

impl State {
    fn copy(&self) -> State {
        State {
            path: self.path.clone(),
            map: self.map.clone(),
            meta: self.meta,
            free_pages: self.free_pages,
        }
    }
}

/// Bucket names are few and fixed; those that a file brings along live as long as the process.
fn bucket_name(name: &[u8], path: &Path) -> Result<&'static str, Fault> {
    match std::str::from_utf8(name) {
        Ok(name) => Ok(String::from(name).leak()),
        Err(_) => Err(Fault::damaged(
            path,
            format!("it has a bucket called {name:?}"),
        )),
    }
}

/// The pages of one commit while it is prepared.
struct NewPages<'s> {
    free: &'s mut FreeList,
    transaction: u64,
    high_water: u64,
    /// New pages come from below this one, if there are such, so that the end of the file empties.
    low_end: u64,
    page_size: u64,
    written: BTreeMap<PageNumber, Vec<u8>>,
}

impl Pages for NewPages<'_> {
    fn allocate(&mut self, count: u64) -> PageNumber {
        let low = self.free.take_below(count, self.low_end);
        let free = low.or_else(|| self.free.take_below(count, u64::MAX));
        free.unwrap_or_else(|| {
            let first = self.high_water;
            self.high_water += count;
            PageNumber(first)
        })
    }

    fn allocate_below(&mut self, count: u64, limit: u64) -> Option<PageNumber> {
        self.free.take_below(count, limit)
    }

    fn is_new(&self, page: PageNumber) -> bool {
        self.written.contains_key(&page)
    }

    fn give_up(&mut self, first: PageNumber, count: u64) {
        self.free.give_up(self.transaction, first, count);
    }

    fn write(&mut self, first: PageNumber, bytes: Vec<u8>) {
        debug_assert_eq!(bytes.len() as u64 % self.page_size, 0);
        self.written.insert(first, bytes);
    }
}

/// Merges a batch into all buckets that it names; returns the new root page of the file.
fn rewrite_buckets(
    previous: &Committed,
    batch: Batch,
    pages: &mut NewPages<'_>,
) -> Result<PageNumber, Fault> {
    let root = previous.root_bucket()?;
    let sorted: Vec<_> = batch.into_sorted().collect();
    let mut headers: Vec<(&str, Vec<u8>)> = Vec::with_capacity(sorted.len());
    for (name, changes) in &sorted {
        let changes: Vec<Change<'_>> = changes
            .iter()
            .map(|(key, value)| Change {
                key,
                value: value.as_deref().map(|value| (0, value)),
            })
            .collect();
        let value = rewrite_bucket(previous, &root, name, &changes, pages)?;
        headers.push((name, value));
    }
    let changes: Vec<Change<'_>> = headers
        .iter()
        .map(|(name, value)| Change {
            key: name.as_bytes(),
            value: Some((BUCKET_FLAG, value)),
        })
        .collect();
    let mut rewriter = Rewriter {
        state: &previous.state,
        pages,
        fill: FILL_RANDOM,
    };
    let merged = rewriter.merge(root.root, true, &changes)?;
    Ok(rewriter.pack_root(merged))
}

/// Merges changes into one bucket; returns the value of its element in the root bucket.
fn rewrite_bucket<'a>(
    previous: &'a Committed,
    root: &Bucket,
    name: &str,
    changes: &[Change<'a>],
    pages: &mut NewPages<'_>,
) -> Result<Vec<u8>, Fault> {
    let fill: Fill = match APPENDED_BUCKETS.contains(&name) {
        true => FILL_APPENDED,
        false => FILL_RANDOM,
    };
    let state: &'a State = &previous.state;
    let old = root.find_bucket(name.as_bytes())?;
    let mut rewriter = Rewriter { state, pages, fill };
    let (merged, sequence) = match old {
        Some(old) => (
            rewriter.merge(old.extent, !old.inline, changes)?,
            old.sequence,
        ),
        None => (rewriter.new_tree(changes), 0),
    };
    let mut value = vec![0; BUCKET_HEADER_SIZE];
    value[8..16].copy_from_slice(&sequence.to_le_bytes());
    match &merged {
        Merged::Loose(Loose::Leaf(items)) if fits_inline(items, state.meta.page_size) => {
            encode_leaf(&mut value, PageNumber(0), 0, leaf_size(items), items);
        }
        _ => {
            let page = rewriter.pack_root(merged);
            value[0..8].copy_from_slice(&page.0.to_le_bytes());
        }
    }
    Ok(value)
}

/// Whether a bucket of these items is kept inside its parent's leaf, by bbolt's rule.
fn fits_inline(items: &[LeafItem<'_>], page_size: u32) -> bool {
    leaf_size(items) <= page_size as usize / 4 && !items.iter().any(LeafItem::is_bucket)
}
