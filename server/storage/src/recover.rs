//! Which pages a tree reaches: how free pages are found when a file is opened.

use crate::Fault;
use crate::page::{BUCKET_FLAG, Content, PageNumber};
use crate::reader::{Committed, DEPTH_MAX, Extent, State, extent_within};

/// A set of pages.
pub(crate) struct Reachable {
    /// One bit for each page.
    words: Vec<u64>,
    high_water: u64,
}

impl Reachable {
    /// No pages but the two meta pages, of a file of `high_water` pages.
    pub(crate) fn new(high_water: PageNumber) -> Reachable {
        let words =
            usize::try_from(high_water.0.div_ceil(64)).expect("a map of the file fits memory");
        let mut reachable = Reachable {
            words: vec![0; words],
            high_water: high_water.0,
        };
        reachable.insert(0);
        reachable.insert(1);
        reachable
    }

    /// Adds a page; false when it was there.
    fn insert(&mut self, page: u64) -> bool {
        let word = &mut self.words[usize::try_from(page / 64).expect("below the high-water mark")];
        let before = *word;
        *word |= 1 << (page % 64);
        before != *word
    }

    fn contains(&self, page: u64) -> bool {
        self.words[usize::try_from(page / 64).expect("below the mark")] & (1 << (page % 64)) != 0
    }

    /// Runs of pages that are not in the set, as first page and length, ascending.
    pub(crate) fn gaps(&self) -> Vec<(PageNumber, u64)> {
        let mut gaps = Vec::new();
        let mut start = None;
        for page in 0..=self.high_water {
            let inside = page == self.high_water || self.contains(page);
            match (start, inside) {
                (None, false) => start = Some(page),
                (Some(first), true) => {
                    gaps.push((PageNumber(first), page - first));
                    start = None;
                }
                _ => {}
            }
        }
        gaps
    }
}

/// Adds all pages that a committed state reaches. A page that is reached twice is damage.
pub(crate) fn walk(committed: &Committed, reachable: &mut Reachable) -> Result<(), Fault> {
    walk_page(&committed.state, committed.state.meta.root, reachable, 0)
}

fn walk_page(
    state: &State,
    number: PageNumber,
    reachable: &mut Reachable,
    depth: usize,
) -> Result<(), Fault> {
    if depth > DEPTH_MAX {
        return Err(state.damaged("a tree is deeper than can be".to_owned()));
    }
    let extent = state.page_extent(number)?;
    for page in 0..extent.length as u64 / u64::from(state.meta.page_size) {
        if !reachable.insert(number.0 + page) {
            let twice = PageNumber(number.0 + page);
            return Err(state.damaged(match page {
                0 => format!("{twice} is used twice"),
                _ => format!("{twice} is used twice, the second time as a part of {number}"),
            }));
        }
    }
    walk_node(state, extent, reachable, depth)
}

fn walk_node(
    state: &State,
    extent: Extent,
    reachable: &mut Reachable,
    depth: usize,
) -> Result<(), Fault> {
    let node = state.node(extent)?;
    for index in 0..node.count() {
        match node.content() {
            Content::Branch => walk_page(state, node.child(index), reachable, depth + 1)?,
            Content::Leaf if node.flags(index) & BUCKET_FLAG != 0 => {
                let damaged = |what: String| state.damaged_at(extent, &what);
                let (_, _, value) = node.leaf(index).map_err(damaged)?;
                let value = extent_within(value, extent, state.slice(extent)?);
                let root = state.bucket_root(value)?;
                match root.inline {
                    true => walk_node(state, root.extent, reachable, depth + 1)?,
                    false => {
                        let page = root.extent.offset / u64::from(state.meta.page_size);
                        walk_page(state, PageNumber(page), reachable, depth + 1)?;
                    }
                }
            }
            Content::Leaf => {}
        }
    }
    Ok(())
}
