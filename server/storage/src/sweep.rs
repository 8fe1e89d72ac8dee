//! Space given back while the file is in use: nodes near the end of the file move into free pages near its
//! start, and what is empty at the end is cut off.
//!
//! A sweep walks all trees once in the order of keys, a bounded number of pages in each transaction. Branch
//! pages tell where their leaves lie, so leaves that stay are not read. A node that moves is copied to a lower
//! place and its parents are written anew, like after any other change; so each step is a commit, safe at a
//! crash, and readers keep what they see. The last steps change nothing: after two of them no meta page
//! names the old places, and the end of the file is free.

use crate::Fault;
use crate::page::{
    BUCKET_FLAG, BUCKET_HEADER_SIZE, BranchItem, Content, LeafItem, PageHeader, PageNumber,
    branch_size, encode_branch,
};
use crate::reader::{Committed, DEPTH_MAX, Extent};
use crate::rewrite::{Change, FILL_APPENDED, FILL_RANDOM, Loose, Pages, Rewriter};

/// Branches that one step reads at most, whether anything moves or not: some 100 leaves each.
const BRANCHES_READ_MAX: u64 = 2_000;
/// The same when leaves are packed more densely, which reads all of them.
const BRANCHES_READ_MAX_DENSE: u64 = 32;
/// Commits that change nothing before a sweep moves anything, after which what the newest commit gave up is free.
const BEGINNING_STEPS: u32 = 1;
/// Commits that change nothing at the end of a sweep: two until both meta pages name the new places, one to
/// cut.
const SETTLING_STEPS: u32 = 3;
/// Steps that may pass without a page moved, because readers hold what was given up, before a sweep ends.
const IDLE_STEPS_MAX: u32 = 8;
/// A run of leaves is packed anew if that saves one page in this many.
const DENSE_GAIN: usize = 8;

/// A walk through all trees of the file that gives space back.
#[derive(Debug, Clone)]
pub struct Sweep {
    /// Nodes at this page and above move below it.
    target: u64,
    dense: bool,
    position: Position,
    idle_steps: u32,
    moved: u64,
}

#[derive(Debug, Clone)]
enum Position {
    /// So many commits are to come before what was given up last is free.
    Beginning(u32),
    /// What lies at this key of this bucket and above is still to come.
    At {
        bucket: Vec<u8>,
        key: Vec<u8>,
    },
    /// All nodes were visited; so many commits are still to come.
    Settling(u32),
    Done,
}

impl Sweep {
    /// A sweep that moves everything into as many pages as are in use at the moment. A `dense` one packs half
    /// empty leaves together besides, for which it reads the whole file.
    pub fn new(committed: &Committed, dense: bool) -> Sweep {
        Sweep {
            target: low_end(committed),
            dense,
            position: Position::Beginning(BEGINNING_STEPS),
            idle_steps: 0,
            moved: 0,
        }
    }

    /// Whether everything was visited and the file was cut.
    pub fn is_done(&self) -> bool {
        matches!(self.position, Position::Done)
    }

    /// Says that the file is not cut yet as far as it can be.
    pub(crate) fn settle_more(&mut self) {
        if self.is_done() {
            self.position = Position::Settling(1);
        }
    }

    /// Pages moved so far.
    pub fn moved_pages(&self) -> u64 {
        self.moved
    }

    /// Carries on by one transaction that writes about `pages_max` pages; returns the new root page of the
    /// file.
    pub(crate) fn step(
        &mut self,
        previous: &Committed,
        pages: &mut impl Pages,
        pages_max: u64,
    ) -> Result<PageNumber, Fault> {
        let (bucket, key) = match &self.position {
            Position::At { bucket, key } => (bucket.clone(), key.clone()),
            Position::Beginning(rest) if *rest > 0 => {
                self.position = Position::Beginning(rest - 1);
                return Ok(previous.meta().root);
            }
            Position::Beginning(_) => (Vec::new(), Vec::new()),
            Position::Settling(rest) => {
                self.position = match rest - 1 {
                    0 => Position::Done,
                    rest => Position::Settling(rest),
                };
                return Ok(previous.meta().root);
            }
            Position::Done => return Ok(previous.meta().root),
        };
        let mut moving = Moving {
            target: self.target,
            dense: self.dense,
            from: key,
            next: None,
            pages_left: pages_max,
            branches_left: if self.dense {
                BRANCHES_READ_MAX_DENSE
            } else {
                BRANCHES_READ_MAX
            },
            leaf_depth: 0,
            moved: 0,
            stuck: false,
        };
        let root = self.step_buckets(previous, pages, &bucket, &mut moving)?;
        self.moved += moving.moved;
        self.idle_steps = match moving.moved {
            0 if moving.stuck => self.idle_steps + 1,
            _ => 0,
        };
        if self.idle_steps > IDLE_STEPS_MAX {
            self.position = Position::Settling(SETTLING_STEPS);
        }
        Ok(root)
    }

    fn step_buckets(
        &mut self,
        previous: &Committed,
        pages: &mut impl Pages,
        from: &[u8],
        moving: &mut Moving,
    ) -> Result<PageNumber, Fault> {
        let root = previous.root_bucket()?;
        let mut headers: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
        self.position = Position::Settling(SETTLING_STEPS);
        for name in previous.bucket_names()? {
            if name[..] < *from {
                continue;
            }
            let Some(old) = root.find_bucket(&name)? else {
                continue;
            };
            let fill = match (&name[..], self.dense) {
                (b"key", _) | (_, true) => FILL_APPENDED,
                _ => FILL_RANDOM,
            };
            let mut rewriter = Rewriter {
                state: &previous.state,
                pages: &mut *pages,
                fill,
            };
            let page_size = u64::from(previous.meta().page_size);
            let mut page = old.extent.offset / page_size;
            if old.inline {
                page = 0;
            } else if let Some(moved) = rewriter.relocate(PageNumber(page), moving)? {
                page = moved.0;
            }
            if page > 0 {
                let mut value = vec![0; BUCKET_HEADER_SIZE];
                value[0..8].copy_from_slice(&page.to_le_bytes());
                value[8..16].copy_from_slice(&old.sequence.to_le_bytes());
                headers.push((name.to_vec(), value));
            }
            if let Some(key) = moving.next.take() {
                let bucket = name.to_vec();
                self.position = Position::At { bucket, key };
                break;
            }
            moving.from.clear();
        }
        // The root's own pages are written anew with that, to wherever is lowest.
        let changes: Vec<Change<'_>> = headers
            .iter()
            .map(|(name, value)| Change {
                key: name,
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
}

/// The page below which everything would lie if nothing lay between: as many pages as are in use, and some more,
/// since what a transaction gives up is free again two commits later only.
pub(crate) fn low_end(committed: &Committed) -> u64 {
    let used = committed.size_in_use() / u64::from(committed.meta().page_size);
    used + used / 128 + 32
}

/// One step's way through a tree.
struct Moving {
    target: u64,
    dense: bool,
    /// Begin here.
    from: Vec<u8>,
    /// Where to go on, once the step has done enough.
    next: Option<Vec<u8>>,
    pages_left: u64,
    branches_left: u64,
    /// Depth of the leaves of this tree; the root's is 0.
    leaf_depth: usize,
    moved: u64,
    /// Whether there is no free page to move to.
    stuck: bool,
}

impl Moving {
    fn is_exhausted(&self) -> bool {
        self.pages_left == 0 || self.branches_left == 0
    }

    fn spend(&mut self, pages: u64) {
        self.pages_left = self.pages_left.saturating_sub(pages);
    }
}

impl<'a, P: Pages> Rewriter<'a, '_, P> {
    /// Moves nodes of a tree that lie at the target or above it; the new root, if it changed.
    fn relocate(
        &mut self,
        root: PageNumber,
        moving: &mut Moving,
    ) -> Result<Option<PageNumber>, Fault> {
        moving.leaf_depth = self.leaf_depth(root)?;
        let from = std::mem::take(&mut moving.from);
        self.relocate_node(root, &from, 0, moving)
    }

    /// Levels of branches above the leaves, which all lie at the same depth.
    fn leaf_depth(&self, root: PageNumber) -> Result<usize, Fault> {
        let mut page = root;
        for depth in 0..=DEPTH_MAX {
            let node = self.state.node(self.state.page_extent(page)?)?;
            if node.content() == Content::Leaf || node.count() == 0 {
                return Ok(depth);
            }
            page = node.child(0);
        }
        Err(self
            .state
            .damaged("a tree is deeper than can be".to_owned()))
    }

    fn relocate_node(
        &mut self,
        page: PageNumber,
        from: &[u8],
        depth: usize,
        moving: &mut Moving,
    ) -> Result<Option<PageNumber>, Fault> {
        // A leaf that stays is not even read.
        if depth >= moving.leaf_depth && page.0 < moving.target {
            return Ok(None);
        }
        let extent = self.state.page_extent(page)?;
        match self.read(extent)? {
            Loose::Leaf(_) => self.move_leaf(page, extent, moving),
            Loose::Branch(items) => self.relocate_branch(page, extent, items, from, depth, moving),
        }
    }

    fn relocate_branch(
        &mut self,
        page: PageNumber,
        extent: Extent,
        mut items: Vec<BranchItem<'a>>,
        from: &[u8],
        depth: usize,
        moving: &mut Moving,
    ) -> Result<Option<PageNumber>, Fault> {
        if depth > DEPTH_MAX {
            return Err(self
                .state
                .damaged("a tree is deeper than can be".to_owned()));
        }
        moving.branches_left = moving.branches_left.saturating_sub(1);
        let mut changed = false;
        if moving.dense && depth + 1 == moving.leaf_depth {
            let before = items.len();
            items = self.pack_leaves(items, moving)?;
            changed = items.len() < before;
        }
        let first = items
            .partition_point(|item| item.key <= from)
            .saturating_sub(1);
        for (index, item) in items.iter_mut().enumerate().skip(first) {
            if moving.is_exhausted() && (index > first || depth + 1 == moving.leaf_depth) {
                moving.next = Some(item.key.to_vec());
                break;
            }
            // What was packed just now lies in no committed page yet.
            if self.pages.is_new(item.child) {
                continue;
            }
            let from = if index == first { from } else { &[] };
            if let Some(moved) = self.relocate_node(item.child, from, depth + 1, moving)? {
                item.child = moved;
                changed = true;
            } else if moving.stuck && moving.next.is_none() {
                moving.next = Some(item.key.to_vec());
            }
            if moving.next.is_some() {
                break;
            }
        }
        let pages = self.page_count(extent);
        if !changed && page.0 < moving.target {
            return Ok(None);
        }
        let size = branch_size(&items);
        let count = size.div_ceil(self.state.meta.page_size as usize) as u64;
        let place = match self.pages.allocate_below(count, moving.target) {
            Some(place) => place,
            None if changed => self.pages.allocate(count),
            None => return Ok(None),
        };
        self.pages.give_up(page, pages);
        let overflow = u32::try_from(count - 1).expect("a node is smaller than 2^32 pages");
        let size =
            usize::try_from(count).expect("fits memory") * self.state.meta.page_size as usize;
        let mut bytes = Vec::with_capacity(size);
        encode_branch(&mut bytes, place, overflow, size, &items);
        self.pages.write(place, bytes);
        moving.spend(count);
        Ok(Some(place))
    }

    /// Copies a leaf with its overflow pages to a lower place, if there is one.
    fn move_leaf(
        &mut self,
        page: PageNumber,
        extent: Extent,
        moving: &mut Moving,
    ) -> Result<Option<PageNumber>, Fault> {
        let count = self.page_count(extent);
        if page.0 < moving.target {
            return Ok(None);
        }
        let mut place = self.pages.allocate_below(count, moving.target);
        if place.is_none() && count > 1 {
            // No hole fits it there, though smaller ones are left: half-way will do.
            let limit = moving.target + (page.0 - moving.target) / 2;
            place = self.pages.allocate_below(count, limit);
        }
        let Some(place) = place else {
            moving.stuck = count == 1;
            return Ok(None);
        };
        let mut bytes = self.state.slice(extent)?.to_vec();
        let header = PageHeader::decode(&bytes).expect("a whole page");
        PageHeader {
            number: place,
            ..header
        }
        .encode(&mut bytes);
        self.pages.give_up(page, count);
        self.pages.write(place, bytes);
        moving.moved += count;
        moving.spend(count);
        Ok(Some(place))
    }

    /// Packs runs of neighbouring leaves of one page each into fewer of them, where that is worth it.
    fn pack_leaves(
        &mut self,
        items: Vec<BranchItem<'a>>,
        moving: &mut Moving,
    ) -> Result<Vec<BranchItem<'a>>, Fault> {
        let mut packed = Vec::with_capacity(items.len());
        let mut run: Vec<(BranchItem<'a>, Vec<LeafItem<'a>>)> = Vec::new();
        for item in items {
            let extent = self.state.page_extent(item.child)?;
            match self.read(extent)? {
                Loose::Leaf(leaf) if self.page_count(extent) == 1 => {
                    run.push((item, leaf));
                }
                _ => {
                    self.pack_run(std::mem::take(&mut run), &mut packed, moving);
                    packed.push(item);
                }
            }
        }
        self.pack_run(run, &mut packed, moving);
        Ok(packed)
    }

    fn pack_run(
        &mut self,
        run: Vec<(BranchItem<'a>, Vec<LeafItem<'a>>)>,
        packed: &mut Vec<BranchItem<'a>>,
        moving: &mut Moving,
    ) {
        let all: Vec<LeafItem<'a>> = run
            .iter()
            .flat_map(|(_, leaf)| leaf.iter().copied())
            .collect();
        let needed = self.cuts(&all, LeafItem::size, 1).len();
        if run.len() < 2 || needed + run.len().div_ceil(DENSE_GAIN) > run.len() {
            packed.extend(run.into_iter().map(|(item, _)| item));
            return;
        }
        for (item, _) in &run {
            self.pages.give_up(item.child, 1);
        }
        let mut new = self.pack(Loose::Leaf(all));
        // The parent's key may be lower than the first of the leaf.
        new[0].key = run[0].0.key;
        moving.spend(new.len() as u64);
        moving.moved += new.len() as u64;
        packed.extend(new);
    }

    fn page_count(&self, extent: Extent) -> u64 {
        extent.length as u64 / u64::from(self.state.meta.page_size)
    }
}
