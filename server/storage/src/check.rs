//! The whole-file check: every page is what it should be, and in one place only.
//!
//! The rules are those of bbolt's own check: reachable and free pages are together all pages, no
//! page is reached twice, keys ascend in a page and stay within what their parent allows.

use crate::Fault;
use crate::page::{BUCKET_FLAG, Content, PageNumber};
use crate::reader::{Committed, DEPTH_MAX, Extent, State, extent_within};
use crate::recover::{Reachable, walk};

/// What a whole-file check has seen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Summary {
    /// Pages that the tree reaches, the meta pages included.
    pub reachable_pages: u64,
    /// Pages that hold nothing.
    pub free_pages: u64,
    /// Pairs in all buckets.
    pub pairs: u64,
}

/// Checks all pages of a committed state; the first thing that is wrong is a [`Fault`] that names
/// page and element.
pub fn check(committed: &Committed) -> Result<Summary, Fault> {
    let state = &committed.state;
    let mut reachable = Reachable::new(state.meta.high_water);
    walk(committed, &mut reachable)?;
    let free_pages = reachable.gaps().iter().map(|gap| gap.1).sum();
    let mut summary = Summary {
        free_pages,
        reachable_pages: state.meta.high_water.0 - free_pages,
        pairs: 0,
    };
    let root = state.page_extent(state.meta.root)?;
    check_node(state, root, Bounds::default(), 0, &mut summary)?;
    Ok(summary)
}

/// What a parent says of the keys of a child.
#[derive(Clone, Copy, Default)]
struct Bounds<'a> {
    at_least: Option<&'a [u8]>,
    below: Option<&'a [u8]>,
}

fn check_node(
    state: &State,
    extent: Extent,
    bounds: Bounds<'_>,
    depth: usize,
    summary: &mut Summary,
) -> Result<(), Fault> {
    if depth > DEPTH_MAX {
        return Err(state.damaged("a tree is deeper than can be".to_owned()));
    }
    let node = state.node(extent)?;
    let damaged = |what: String| state.damaged_at(extent, &what);
    let mut previous: Option<&[u8]> = None;
    for index in 0..node.count() {
        let key = node.key(index).map_err(damaged)?;
        if key.is_empty() {
            return Err(damaged(format!("key {index} is empty")));
        }
        if previous.is_some_and(|previous| previous >= key) {
            return Err(damaged(format!(
                "key {index} is not above key {}",
                index - 1
            )));
        }
        if bounds.at_least.is_some_and(|least| key < least) {
            return Err(damaged(format!(
                "key {index} is below what the parent page allows"
            )));
        }
        if bounds.below.is_some_and(|below| key >= below) {
            return Err(damaged(format!(
                "key {index} is above what the parent page allows"
            )));
        }
        previous = Some(key);
        if node.content() == Content::Leaf {
            let (flags, _, value) = node.leaf(index).map_err(damaged)?;
            if flags & BUCKET_FLAG == 0 {
                summary.pairs += 1;
                continue;
            }
            let root = state.bucket_root(extent_within(value, extent, state.slice(extent)?))?;
            check_node(state, root.extent, Bounds::default(), depth + 1, summary)?;
            continue;
        }
        let next = match index + 1 < node.count() {
            true => Some(node.key(index + 1).map_err(damaged)?),
            false => bounds.below,
        };
        // The leftmost child of a tree may hold keys below its parent's.
        let at_least = if index == 0 {
            bounds.at_least
        } else {
            Some(key)
        };
        let child = state.page_extent(node.child(index))?;
        check_node(
            state,
            child,
            Bounds {
                at_least,
                below: next,
            },
            depth + 1,
            summary,
        )?;
    }
    Ok(())
}

/// One page in words: its header, then a line for each element.
pub fn describe_page(committed: &Committed, number: PageNumber) -> Result<String, Fault> {
    let state = &committed.state;
    if number.0 < 2 {
        return Ok(format!("{number}: meta\nnewest {:?}\n", state.meta));
    }
    let mut reachable = Reachable::new(state.meta.high_water);
    walk(committed, &mut reachable)?;
    let free = reachable
        .gaps()
        .iter()
        .any(|(first, count)| (first.0..first.0 + count).contains(&number.0));
    if free {
        return Ok(format!("{number}: free\n"));
    }
    let extent = state.page_extent(number)?;
    let node = state.node(extent)?;
    let damaged = |what: String| state.damaged_at(extent, &what);
    let kind = if node.content() == Content::Leaf {
        "leaf"
    } else {
        "branch"
    };
    let mut text = format!(
        "{number}: {kind}, {} elements, {} bytes\n",
        node.count(),
        extent.length
    );
    for index in 0..node.count() {
        let line = match node.content() {
            Content::Branch => {
                let key = node.key(index).map_err(damaged)?;
                format!(
                    "{index:>5} {} -> {}\n",
                    key.escape_ascii(),
                    node.child(index)
                )
            }
            Content::Leaf => {
                let (flags, key, value) = node.leaf(index).map_err(damaged)?;
                let bucket = if flags & BUCKET_FLAG != 0 {
                    " bucket"
                } else {
                    ""
                };
                format!(
                    "{index:>5} {} = {} bytes{bucket}\n",
                    key.escape_ascii(),
                    value.len()
                )
            }
        };
        text.push_str(&line);
    }
    Ok(text)
}
