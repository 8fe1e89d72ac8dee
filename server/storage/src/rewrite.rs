//! A tree with a batch of changes merged into it: copy on write, all changes in one pass.
//!
//! Only nodes on the way to a change are read into memory ("loose"); every other subtree stays
//! where it is and is only referred to. A loose node that got too small for a page of its own joins
//! a neighbour, one that got too large is split when it is packed into pages. Trees stay balanced
//! because all leaves keep the same depth: levels are added and removed at the root only.

use crate::Fault;
use crate::page::{
    BranchItem, Content, ELEMENT_COUNT_MAX, HEADER_SIZE, LeafItem, PageNumber, branch_size,
    encode_branch, encode_leaf, leaf_size,
};
use crate::reader::{DEPTH_MAX, Extent, State};

/// How full, in percent of a page, nodes become that are split.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fill(pub(crate) usize);

/// Keys that only ever grow are appended: leave little room, nothing comes between them.
pub(crate) const FILL_APPENDED: Fill = Fill(95);
/// Keys in any order: leave room for those to come.
pub(crate) const FILL_RANDOM: Fill = Fill(60);

/// A leaf that holds this much is closed although it has one item only: a second one would at most
/// save a page in sixteen.
const LARGE_LEAF_PAGES: usize = 16;

/// One key's new state in a leaf.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Change<'a> {
    pub(crate) key: &'a [u8],
    /// Flags and value; `None` deletes.
    pub(crate) value: Option<(u32, &'a [u8])>,
}

/// Where changed nodes get their pages from and go to.
pub(crate) trait Pages {
    /// Takes `count` neighbouring pages.
    fn allocate(&mut self, count: u64) -> PageNumber;
    /// Takes `count` neighbouring pages below page `limit`, if there are such.
    fn allocate_below(&mut self, count: u64, limit: u64) -> Option<PageNumber>;
    /// Whether a page was taken just now, so that nothing committed lies in it.
    fn is_new(&self, page: PageNumber) -> bool;
    /// Gives up the pages of a node that is rewritten.
    fn give_up(&mut self, first: PageNumber, count: u64);
    /// Takes the bytes of a new node that begins at page `first`.
    fn write(&mut self, first: PageNumber, bytes: Vec<u8>);
}

/// The contents of one node that is in memory.
#[derive(Debug)]
pub(crate) enum Loose<'a> {
    Leaf(Vec<LeafItem<'a>>),
    Branch(Vec<BranchItem<'a>>),
}

impl Loose<'_> {
    fn size(&self) -> usize {
        match self {
            Loose::Leaf(items) => leaf_size(items),
            Loose::Branch(items) => branch_size(items),
        }
    }

    fn is_empty(&self) -> bool {
        match self {
            Loose::Leaf(items) => items.is_empty(),
            Loose::Branch(items) => items.is_empty(),
        }
    }
}

/// The root of a tree after a merge.
pub(crate) enum Merged<'a> {
    Loose(Loose<'a>),
    /// It has its page already.
    Packed(PageNumber),
}

/// Merges changes into trees of one committed state.
pub(crate) struct Rewriter<'a, 'p, P> {
    pub(crate) state: &'a State,
    pub(crate) pages: &'p mut P,
    pub(crate) fill: Fill,
}

/// A child of a branch while the branch is rewritten.
enum Slot<'a> {
    /// Untouched, where it was.
    Kept(BranchItem<'a>),
    Loose(Loose<'a>),
}

impl<'a, P: Pages> Rewriter<'a, '_, P> {
    /// The root node of a tree after `changes` (ascending, distinct keys). `own_pages` says whether
    /// the root lies in pages of its own rather than inside its parent.
    pub(crate) fn merge(
        &mut self,
        root: Extent,
        own_pages: bool,
        changes: &[Change<'a>],
    ) -> Result<Merged<'a>, Fault> {
        let loose = self.merge_node(root, own_pages, changes, 0)?;
        Ok(match &loose {
            // A root with one child is no level at all.
            Loose::Branch(items) if items.len() == 1 => Merged::Packed(items[0].child),
            Loose::Branch(items) if items.is_empty() => Merged::Loose(Loose::Leaf(Vec::new())),
            _ => Merged::Loose(loose),
        })
    }

    /// The root node of a tree that holds `changes` alone, unpacked.
    pub(crate) fn new_tree(&self, changes: &[Change<'a>]) -> Merged<'a> {
        Merged::Loose(Loose::Leaf(merge_leaf(&[], changes)))
    }

    /// Packs a root into pages, adding levels until it fits one node; returns its page.
    pub(crate) fn pack_root(&mut self, root: Merged<'a>) -> PageNumber {
        let mut items = match root {
            Merged::Loose(loose) => self.pack(loose),
            Merged::Packed(page) => return page,
        };
        while items.len() > 1 {
            items = self.pack(Loose::Branch(items));
        }
        items[0].child
    }

    fn merge_node(
        &mut self,
        extent: Extent,
        own_pages: bool,
        changes: &[Change<'a>],
        depth: usize,
    ) -> Result<Loose<'a>, Fault> {
        if depth > DEPTH_MAX {
            return Err(self
                .state
                .damaged("a tree is deeper than can be".to_owned()));
        }
        let loose = match own_pages {
            true => self.loosen(extent)?,
            false => self.read(extent)?,
        };
        match loose {
            Loose::Leaf(items) => Ok(Loose::Leaf(merge_leaf(&items, changes))),
            Loose::Branch(items) => self.merge_branch(&items, changes, depth),
        }
    }

    fn merge_branch(
        &mut self,
        items: &[BranchItem<'a>],
        changes: &[Change<'a>],
        depth: usize,
    ) -> Result<Loose<'a>, Fault> {
        let mut slots = Vec::with_capacity(items.len());
        let mut rest = changes;
        for (index, item) in items.iter().enumerate() {
            let here = match items.get(index + 1) {
                Some(next) => rest.partition_point(|change| change.key < next.key),
                None => rest.len(),
            };
            let (mine, later) = rest.split_at(here);
            rest = later;
            slots.push(match mine {
                [] => Slot::Kept(*item),
                _ => {
                    let child = self.state.page_extent(item.child)?;
                    Slot::Loose(self.merge_node(child, true, mine, depth + 1)?)
                }
            });
        }
        let slots = self.join_small(slots)?;
        let mut packed = Vec::with_capacity(slots.len());
        for slot in slots {
            match slot {
                Slot::Kept(item) => packed.push(item),
                Slot::Loose(loose) if loose.is_empty() => {}
                Slot::Loose(loose) => packed.extend(self.pack(loose)),
            }
        }
        Ok(Loose::Branch(packed))
    }

    /// Joins loose nodes below a quarter of a page with a neighbour, where both fit one page.
    fn join_small(&mut self, slots: Vec<Slot<'a>>) -> Result<Vec<Slot<'a>>, Fault> {
        let page_size = self.state.meta.page_size as usize;
        let mut joined: Vec<Slot<'a>> = Vec::with_capacity(slots.len());
        for mut slot in slots {
            let small = |slot: &Slot<'_>| match slot {
                Slot::Loose(loose) => loose.size() < page_size / 4,
                Slot::Kept(_) => false,
            };
            if let Some(previous) = joined.pop_if(|previous| small(previous) || small(&slot)) {
                let before = self.slot_loose_or_peek(&previous)?;
                let after = self.slot_loose_or_peek(&slot)?;
                if before + after - HEADER_SIZE <= page_size {
                    slot = Slot::Loose(
                        concat(self.take_loose(previous)?, self.take_loose(slot)?).ok_or_else(
                            || {
                                self.state
                                    .damaged("leaves lie at different depths".to_owned())
                            },
                        )?,
                    );
                } else {
                    joined.push(previous);
                }
            }
            joined.push(slot);
        }
        Ok(joined)
    }

    /// Bytes that the node behind a slot holds.
    fn slot_loose_or_peek(&self, slot: &Slot<'a>) -> Result<usize, Fault> {
        match slot {
            Slot::Loose(loose) => Ok(loose.size()),
            Slot::Kept(item) => Ok(self.read(self.state.page_extent(item.child)?)?.size()),
        }
    }

    fn take_loose(&mut self, slot: Slot<'a>) -> Result<Loose<'a>, Fault> {
        match slot {
            Slot::Loose(loose) => Ok(loose),
            Slot::Kept(item) => self.loosen(self.state.page_extent(item.child)?),
        }
    }

    /// Reads a node that will be rewritten and gives up its pages.
    fn loosen(&mut self, extent: Extent) -> Result<Loose<'a>, Fault> {
        let loose = self.read(extent)?;
        let page_size = u64::from(self.state.meta.page_size);
        let number = PageNumber(extent.offset / page_size);
        self.pages.give_up(number, extent.length as u64 / page_size);
        Ok(loose)
    }

    pub(crate) fn read(&self, extent: Extent) -> Result<Loose<'a>, Fault> {
        let state = self.state;
        let node = state.node(extent)?;
        let damaged = |what: String| state.damaged_at(extent, &what);
        match node.content() {
            Content::Leaf => (0..node.count())
                .map(|index| node.leaf(index))
                .map(|item| item.map(|(flags, key, value)| LeafItem { flags, key, value }))
                .collect::<Result<_, _>>()
                .map(Loose::Leaf)
                .map_err(damaged),
            Content::Branch => (0..node.count())
                .map(|index| {
                    Ok(BranchItem {
                        key: node.key(index)?,
                        child: node.child(index),
                    })
                })
                .collect::<Result<_, _>>()
                .map(Loose::Branch)
                .map_err(damaged),
        }
    }

    /// Writes a node's contents into as many pages as they need; at least one.
    pub(crate) fn pack(&mut self, loose: Loose<'a>) -> Vec<BranchItem<'a>> {
        match loose {
            Loose::Leaf(items) => {
                let ends = self.cuts(&items, LeafItem::size, 1);
                let mut start = 0;
                let pack_one = |end: usize| {
                    let group = &items[start..end];
                    start = end;
                    let key = group.first().map_or(&[][..], |item| item.key);
                    let (first, overflow, size) = self.place(leaf_size(group));
                    let mut bytes = Vec::with_capacity(size);
                    encode_leaf(&mut bytes, first, overflow, size, group);
                    self.pages.write(first, bytes);
                    BranchItem { key, child: first }
                };
                ends.into_iter().map(pack_one).collect()
            }
            Loose::Branch(items) => {
                let ends = self.cuts(&items, BranchItem::size, 2);
                let mut start = 0;
                let pack_one = |end: usize| {
                    let group = &items[start..end];
                    start = end;
                    let (first, overflow, size) = self.place(branch_size(group));
                    let mut bytes = Vec::with_capacity(size);
                    encode_branch(&mut bytes, first, overflow, size, group);
                    self.pages.write(first, bytes);
                    BranchItem {
                        key: group[0].key,
                        child: first,
                    }
                };
                ends.into_iter().map(pack_one).collect()
            }
        }
    }

    /// Pages for a node of `size` bytes: the first one, its overflow, and the bytes of all.
    fn place(&mut self, size: usize) -> (PageNumber, u32, usize) {
        let page_size = self.state.meta.page_size as usize;
        let count = size.div_ceil(page_size);
        let overflow = u32::try_from(count - 1).expect("a node is smaller than 2^32 pages");
        (
            self.pages.allocate(count as u64),
            overflow,
            count * page_size,
        )
    }

    /// Where to cut a node: the end of each group of items that shares a page. Groups have
    /// `at_least` items where there are so many, two in a leaf unless one is large by itself.
    pub(crate) fn cuts<T>(
        &self,
        items: &[T],
        size: impl Fn(&T) -> usize,
        at_least: usize,
    ) -> Vec<usize> {
        let page_size = self.state.meta.page_size as usize;
        let total: usize = HEADER_SIZE + items.iter().map(&size).sum::<usize>();
        if total <= page_size && items.len() <= ELEMENT_COUNT_MAX {
            return vec![items.len()];
        }
        let limit = page_size * self.fill.0 / 100;
        let large = page_size * LARGE_LEAF_PAGES;
        let mut ends = Vec::new();
        let (mut start, mut used) = (0, HEADER_SIZE);
        for (index, item) in items.iter().enumerate() {
            let next = size(item);
            let count = index - start;
            let enough = count >= at_least && (count >= 2 || used >= large || next >= large);
            if enough && used + next > limit || count == ELEMENT_COUNT_MAX {
                ends.push(index);
                (start, used) = (index, HEADER_SIZE);
            }
            used += next;
        }
        if items.len() - start < at_least {
            // The last group would be too short: it joins the one before, which may overflow.
            ends.pop();
        }
        ends.push(items.len());
        ends
    }
}

fn merge_leaf<'a>(items: &[LeafItem<'a>], changes: &[Change<'a>]) -> Vec<LeafItem<'a>> {
    let mut merged = Vec::with_capacity(items.len() + changes.len());
    let mut old = items.iter().copied().peekable();
    for change in changes {
        while let Some(item) = old.next_if(|item| item.key < change.key) {
            merged.push(item);
        }
        let replaced = old.next_if(|item| item.key == change.key);
        // A bucket is never replaced or removed by a pair of the same name.
        match (replaced, change.value) {
            (Some(item), value) if item.is_bucket() && !is_bucket_change(value) => {
                merged.push(item);
            }
            (_, Some((flags, value))) => merged.push(LeafItem {
                flags,
                key: change.key,
                value,
            }),
            (_, None) => {}
        }
    }
    merged.extend(old);
    merged
}

fn is_bucket_change(value: Option<(u32, &[u8])>) -> bool {
    value.is_some_and(|(flags, _)| flags & crate::page::BUCKET_FLAG != 0)
}

fn concat<'a>(before: Loose<'a>, after: Loose<'a>) -> Option<Loose<'a>> {
    match (before, after) {
        (Loose::Leaf(mut a), Loose::Leaf(b)) => {
            a.extend(b);
            Some(Loose::Leaf(a))
        }
        (Loose::Branch(mut a), Loose::Branch(b)) => {
            a.extend(b);
            Some(Loose::Branch(a))
        }
        _ => None,
    }
}
