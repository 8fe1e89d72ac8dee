//! The page formats of a bbolt file.
//!
//! Source: bbolt's file format, version 2; all integers are little endian. A page starts with
//!
//! ```text
//! 0         8       10      12         16
//! +---------+-------+-------+----------+----------------
//! | number  | flags | count | overflow | body
//! +---------+-------+-------+----------+----------------
//! ```
//!
//! and stretches over `overflow + 1` times the page size. Element arrays of leaf and branch pages
//! start at offset 16; keys and values follow them in the order of the elements.

mod encode;
mod meta;
mod node;

pub(crate) use encode::{BranchItem, LeafItem, branch_size, encode_branch, encode_leaf, leaf_size};
pub use meta::Meta;
pub(crate) use meta::{META_SIZE, NOT_PERSISTED, find_meta};
pub(crate) use node::{Content, Node};

use std::fmt;

/// Size of the header of every page, in bytes.
pub const HEADER_SIZE: usize = 16;
/// Size of one element of a leaf or branch page, in bytes.
pub const ELEMENT_SIZE: usize = 16;
/// Marks a leaf element whose value is a bucket.
pub const BUCKET_FLAG: u32 = 0x01;
/// Size of the header of a bucket (root page, sequence) in its parent's leaf, in bytes.
pub const BUCKET_HEADER_SIZE: usize = 16;
/// The format's longest key, in bytes.
pub const KEY_SIZE_MAX: usize = 32_768;
/// The format's longest value, in bytes.
pub const VALUE_SIZE_MAX: usize = (1 << 31) - 2;
/// The format counts elements in 16 bits; the last two values mean something else elsewhere.
pub const ELEMENT_COUNT_MAX: usize = 0xFFFE;
/// Page sizes that real files have: operating systems use 4, 16 and 64 KiB.
pub const PAGE_SIZE_RANGE: std::ops::RangeInclusive<u32> = 1024..=65_536;

/// The position of a page: its offset in the file divided by the page size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PageNumber(pub u64);

impl fmt::Display for PageNumber {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "page {}", self.0)
    }
}

/// What a page holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PageKind {
    /// Keys and the pages that hold what is at or above them.
    Branch,
    /// Keys and values.
    Leaf,
    /// One of the two roots of the file.
    Meta,
    /// Numbers of free pages.
    FreeList,
}

impl PageKind {
    /// The flag bits of this kind in a page header.
    pub fn flags(self) -> u16 {
        match self {
            PageKind::Branch => 0x01,
            PageKind::Leaf => 0x02,
            PageKind::Meta => 0x04,
            PageKind::FreeList => 0x10,
        }
    }

    /// The kind that `flags` name; `None` unless exactly one known bit is set.
    pub fn from_flags(flags: u16) -> Option<PageKind> {
        [
            PageKind::Branch,
            PageKind::Leaf,
            PageKind::Meta,
            PageKind::FreeList,
        ]
        .into_iter()
        .find(|kind| kind.flags() == flags)
    }
}

/// The first sixteen bytes of a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageHeader {
    /// Where the page says that it lies.
    pub number: PageNumber,
    /// The raw flag bits; see [`PageKind::from_flags`].
    pub flags: u16,
    /// Number of elements.
    pub count: u16,
    /// Number of further pages that belong to this one.
    pub overflow: u32,
}

impl PageHeader {
    /// Reads a header; `None` when fewer than sixteen bytes are given.
    pub fn decode(bytes: &[u8]) -> Option<PageHeader> {
        let header = bytes.first_chunk::<HEADER_SIZE>()?;
        Some(PageHeader {
            number: PageNumber(u64_at(header, 0)),
            flags: u16::from_le_bytes([header[8], header[9]]),
            count: u16::from_le_bytes([header[10], header[11]]),
            overflow: u32_at(header, 12),
        })
    }

    /// Writes the header to the front of `page`, which holds at least sixteen bytes.
    pub fn encode(&self, page: &mut [u8]) {
        page[0..8].copy_from_slice(&self.number.0.to_le_bytes());
        page[8..10].copy_from_slice(&self.flags.to_le_bytes());
        page[10..12].copy_from_slice(&self.count.to_le_bytes());
        page[12..16].copy_from_slice(&self.overflow.to_le_bytes());
    }
}

/// The little-endian number at `offset`; the caller has checked the bounds.
pub(crate) fn u32_at(bytes: &[u8], offset: usize) -> u32 {
    u32::from_le_bytes(bytes[offset..offset + 4].try_into().expect("four bytes"))
}

/// The little-endian number at `offset`; the caller has checked the bounds.
pub(crate) fn u64_at(bytes: &[u8], offset: usize) -> u64 {
    u64::from_le_bytes(bytes[offset..offset + 8].try_into().expect("eight bytes"))
}
