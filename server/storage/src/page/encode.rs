//! Leaf and branch pages, written.

use super::{
    BUCKET_FLAG, ELEMENT_COUNT_MAX, ELEMENT_SIZE, HEADER_SIZE, KEY_SIZE_MAX, PageHeader, PageKind,
    PageNumber, VALUE_SIZE_MAX,
};

/// An element of a leaf to be: a pair, or a bucket.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LeafItem<'a> {
    pub(crate) flags: u32,
    pub(crate) key: &'a [u8],
    pub(crate) value: &'a [u8],
}

impl LeafItem<'_> {
    pub(crate) fn is_bucket(&self) -> bool {
        self.flags & BUCKET_FLAG != 0
    }

    /// Bytes that the item takes in a page.
    pub(crate) fn size(&self) -> usize {
        ELEMENT_SIZE + self.key.len() + self.value.len()
    }
}

/// An element of a branch to be.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BranchItem<'a> {
    pub(crate) key: &'a [u8],
    pub(crate) child: PageNumber,
}

impl BranchItem<'_> {
    /// Bytes that the item takes in a page.
    pub(crate) fn size(&self) -> usize {
        ELEMENT_SIZE + self.key.len()
    }
}

/// Bytes that a leaf of these items takes, its header included.
pub(crate) fn leaf_size(items: &[LeafItem<'_>]) -> usize {
    HEADER_SIZE + items.iter().map(LeafItem::size).sum::<usize>()
}

/// Bytes that a branch of these items takes, its header included.
pub(crate) fn branch_size(items: &[BranchItem<'_>]) -> usize {
    HEADER_SIZE + items.iter().map(BranchItem::size).sum::<usize>()
}

/// Appends a leaf page of `items` to `out`, padded with zeros to `size` bytes.
pub(crate) fn encode_leaf(
    out: &mut Vec<u8>,
    number: PageNumber,
    overflow: u32,
    size: usize,
    items: &[LeafItem<'_>],
) {
    let start = begin(out, number, overflow, PageKind::Leaf, items.len());
    let mut position = items.len() * ELEMENT_SIZE;
    for item in items {
        check_sizes(item.key, item.value);
        out.extend_from_slice(&item.flags.to_le_bytes());
        out.extend_from_slice(&to_u32(position).to_le_bytes());
        out.extend_from_slice(&to_u32(item.key.len()).to_le_bytes());
        out.extend_from_slice(&to_u32(item.value.len()).to_le_bytes());
        position = position - ELEMENT_SIZE + item.key.len() + item.value.len();
    }
    for item in items {
        out.extend_from_slice(item.key);
        out.extend_from_slice(item.value);
    }
    end(out, start, size);
}

/// Appends a branch page of `items` to `out`, padded with zeros to `size` bytes.
pub(crate) fn encode_branch(
    out: &mut Vec<u8>,
    number: PageNumber,
    overflow: u32,
    size: usize,
    items: &[BranchItem<'_>],
) {
    let start = begin(out, number, overflow, PageKind::Branch, items.len());
    let mut position = items.len() * ELEMENT_SIZE;
    for item in items {
        check_sizes(item.key, &[]);
        out.extend_from_slice(&to_u32(position).to_le_bytes());
        out.extend_from_slice(&to_u32(item.key.len()).to_le_bytes());
        out.extend_from_slice(&item.child.0.to_le_bytes());
        position = position - ELEMENT_SIZE + item.key.len();
    }
    for item in items {
        out.extend_from_slice(item.key);
    }
    end(out, start, size);
}

fn begin(
    out: &mut Vec<u8>,
    number: PageNumber,
    overflow: u32,
    kind: PageKind,
    count: usize,
) -> usize {
    assert!(count <= ELEMENT_COUNT_MAX, "{count} elements in one page");
    let start = out.len();
    out.resize(start + HEADER_SIZE, 0);
    let count = u16::try_from(count).expect("checked above");
    PageHeader {
        number,
        flags: kind.flags(),
        count,
        overflow,
    }
    .encode(&mut out[start..]);
    start
}

fn end(out: &mut Vec<u8>, start: usize, size: usize) {
    assert!(
        out.len() - start <= size,
        "{} bytes in a page of {size}",
        out.len() - start
    );
    out.resize(start + size, 0);
}

fn check_sizes(key: &[u8], value: &[u8]) {
    assert!(
        !key.is_empty() && key.len() <= KEY_SIZE_MAX,
        "a key of {} bytes",
        key.len()
    );
    assert!(
        value.len() <= VALUE_SIZE_MAX,
        "a value of {} bytes",
        value.len()
    );
}

fn to_u32(value: usize) -> u32 {
    u32::try_from(value).expect("a page is smaller than 4 GiB")
}
