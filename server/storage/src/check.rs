//! The whole-file check: every page is what it should be, and in one place only.
//!
//! The rules are those of bbolt's own check: reachable and free pages are together all pages, no
//! page is reached twice, keys ascend in a page and stay within what their parent allows.

use crate::Fault;
use crate::page::{
    BUCKET_FLAG, Content, HEADER_SIZE, META_SIZE, Meta, NOT_PERSISTED, PageHeader, PageKind,
    PageNumber, u64_at,
};
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

/// Checks what opening a file does not read, and the next two commits write anew: the other meta page and
/// the list of free pages.
pub fn check_unread(committed: &Committed) -> Result<(), Fault> {
    check_meta_pages(committed)?;
    let mut reachable = Reachable::new(committed.state.meta.high_water);
    walk(committed, &mut reachable)?;
    check_free_list(&committed.state, &reachable.gaps())
}

/// Both meta pages are whole. A file with one of them can be opened; but no crash leaves one behind, since
/// each fits in a sector of the disk.
fn check_meta_pages(committed: &Committed) -> Result<(), Fault> {
    let state = &committed.state;
    for number in 0..2 {
        let offset = number * u64::from(state.meta.page_size);
        let bytes = state.slice(Extent {
            offset,
            length: META_SIZE,
        })?;
        let header = PageHeader::decode(bytes).expect("a header and more");
        let kind = PageKind::from_flags(header.flags);
        if Meta::decode(bytes).is_none()
            || (header.number, kind) != (PageNumber(number), Some(PageKind::Meta))
        {
            let what = "it is no valid meta page; the file opens by the other one";
            return Err(state.damaged(format!("page {number}: {what}")));
        }
    }
    Ok(())
}

/// Checks the list of free pages, if the file has one: ascending, none of them in use, and together
/// with the list's own pages all that the tree does not reach.
fn check_free_list(state: &State, gaps: &[(PageNumber, u64)]) -> Result<(), Fault> {
    let list = state.meta.free_list;
    if list == NOT_PERSISTED {
        return Ok(());
    }
    let extent = state.page_extent(list)?;
    let bytes = state.slice(extent)?;
    let damaged = |what: String| state.damaged_at(extent, &what);
    let header = PageHeader::decode(bytes).expect("page_extent read it");
    if PageKind::from_flags(header.flags) != Some(PageKind::FreeList) {
        let what = format!("flags {:#x} are no list of free pages", header.flags);
        return Err(damaged(what));
    }
    // A count that does not fit in the header stands before the numbers.
    let (count, start) = match header.count {
        u16::MAX => (u64_at(bytes, HEADER_SIZE), HEADER_SIZE + 8),
        count => (u64::from(count), HEADER_SIZE),
    };
    let fits = count
        .checked_mul(8)
        .and_then(|size| size.checked_add(start as u64));
    if fits.is_none_or(|end| end > bytes.len() as u64) {
        return Err(damaged(format!("{count} free pages do not fit in it")));
    }
    let own = extent.length as u64 / u64::from(state.meta.page_size);
    let own = list.0..list.0 + own;
    let mut listed = (0..count as usize).map(|index| u64_at(bytes, start + index * 8));
    let free = gaps
        .iter()
        .flat_map(|(first, count)| first.0..first.0 + count)
        .filter(|page| !own.contains(page));
    for page in free {
        match listed.next() {
            Some(found) if found == page => {}
            Some(found) if found < page => {
                return Err(damaged(format!(
                    "page {found} is listed as free, and in use or listed twice"
                )));
            }
            _ => return Err(damaged(format!("page {page} is neither in use nor listed"))),
        }
    }
    match listed.next() {
        None => Ok(()),
        Some(found) => Err(damaged(format!(
            "page {found} is listed as free, and in use or listed twice"
        ))),
    }
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

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use super::*;
    use crate::disk::simulated::SimulatedDisk;
    use crate::disk::{Disk, File, Open};
    use crate::{PAGE_SIZE, Store, read_only};

    const PATH: &str = "/db";
    const PAGE: u64 = PAGE_SIZE as u64;

    /// A file with four pages in use and two that are free, as `list` says.
    fn file_with_list(list: &[u64]) -> SimulatedDisk {
        let disk = SimulatedDisk::new();
        let shared: Arc<dyn Disk> = Arc::new(disk.clone());
        let store = Store::create(shared, Path::new(PATH)).unwrap();
        let meta = Meta {
            high_water: PageNumber(6),
            ..*store.committed().meta()
        };
        drop(store);
        let file = open(&disk);
        file.set_size(6 * PAGE).unwrap();
        for transaction in 0..2 {
            let meta = Meta {
                transaction,
                ..meta
            };
            file.write_at(&meta.encode(), transaction * PAGE).unwrap();
        }
        let mut page = vec![0; PAGE_SIZE as usize];
        PageHeader {
            number: PageNumber(2),
            flags: PageKind::FreeList.flags(),
            count: list.len() as u16,
            overflow: 0,
        }
        .encode(&mut page);
        for (index, number) in list.iter().enumerate() {
            page[HEADER_SIZE + index * 8..][..8].copy_from_slice(&number.to_le_bytes());
        }
        file.write_at(&page, 2 * PAGE).unwrap();
        disk
    }

    fn open(disk: &SimulatedDisk) -> Arc<dyn File> {
        disk.open(Path::new(PATH), Open::Write).unwrap()
    }

    #[test]
    fn a_list_of_free_pages_names_just_those_that_are_free() {
        let check = |list: &[u64], expected: &str| {
            let disk = file_with_list(list);
            let (committed, _lock) = read_only(&disk, Path::new(PATH)).unwrap();
            match check_unread(&committed) {
                Ok(()) => assert_eq!(expected, "", "{list:?}"),
                Err(fault) => assert_eq!(fault.to_string(), format!("/db is damaged: {expected}")),
            }
        };
        check(&[4, 5], "");
        check(&[4], "page 2: page 5 is neither in use nor listed");
        check(&[5], "page 2: page 4 is neither in use nor listed");
        check(&[], "page 2: page 4 is neither in use nor listed");
        check(
            &[3, 4, 5],
            "page 2: page 3 is listed as free, and in use or listed twice",
        );
        check(
            &[4, 4, 5],
            "page 2: page 4 is listed as free, and in use or listed twice",
        );
        check(
            &[4, 5, 9],
            "page 2: page 9 is listed as free, and in use or listed twice",
        );
        check(&[5, 4], "page 2: page 4 is neither in use nor listed");
    }

    #[test]
    fn both_meta_pages_must_be_whole() {
        let disk = file_with_list(&[4, 5]);
        let check = |expected: Option<&str>| {
            let (committed, _lock) = read_only(&disk, Path::new(PATH)).unwrap();
            let found = check_unread(&committed).err().map(|f| f.to_string());
            let found = found.as_deref().and_then(|text| text.split(": ").nth(1));
            assert_eq!(found, expected);
        };
        check(None);
        let file = open(&disk);
        for (page, name) in [(0, "page 0"), (1, "page 1")] {
            for at in [0, 8, 16, 40, 72] {
                let mut byte = [0];
                file.read_at(&mut byte, page * PAGE + at).unwrap();
                file.write_at(&[byte[0] ^ 2], page * PAGE + at).unwrap();
                check(Some(name));
                file.write_at(&byte, page * PAGE + at).unwrap();
            }
        }
        check(None);
    }
}
