//! Leaf and branch pages, read in place.
//!
//! ```text
//! leaf element (16 bytes)             branch element (16 bytes)
//! 0      4     8          12          0     4          8
//! +------+-----+----------+--------+  +-----+----------+------------+
//! | flags| pos | key size | value  |  | pos | key size | child page |
//! +------+-----+----------+--------+  +-----+----------+------------+
//! ```
//!
//! `pos` is the distance from the element's first byte to its key; the value follows the key.

use super::{
    ELEMENT_SIZE, HEADER_SIZE, KEY_SIZE_MAX, PageHeader, PageKind, PageNumber, u32_at, u64_at,
};

/// What the elements of a node lead to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Content {
    Leaf,
    Branch,
}

/// A leaf or branch page whose element array is known to lie inside it. What the elements point at
/// is checked at each access, because the bytes come from a disk.
#[derive(Clone, Copy)]
pub(crate) struct Node<'a> {
    bytes: &'a [u8],
    content: Content,
    count: usize,
}

impl<'a> Node<'a> {
    /// The node in `bytes`: a whole page with its overflow, or the page image of an inline bucket.
    pub(crate) fn new(bytes: &'a [u8]) -> Result<Node<'a>, String> {
        let header = PageHeader::decode(bytes).ok_or("shorter than a page header")?;
        let content = match PageKind::from_flags(header.flags) {
            Some(PageKind::Leaf) => Content::Leaf,
            Some(PageKind::Branch) => Content::Branch,
            _ => {
                return Err(format!(
                    "flags {:#x} are neither leaf nor branch",
                    header.flags
                ));
            }
        };
        let count = usize::from(header.count);
        if HEADER_SIZE + count * ELEMENT_SIZE > bytes.len() {
            return Err(format!(
                "{count} elements do not fit in {} bytes",
                bytes.len()
            ));
        }
        if content == Content::Branch && count == 0 {
            return Err("a branch without elements".to_owned());
        }
        Ok(Node {
            bytes,
            content,
            count,
        })
    }

    pub(crate) fn content(&self) -> Content {
        self.content
    }

    pub(crate) fn count(&self) -> usize {
        self.count
    }

    fn element(&self, index: usize) -> usize {
        assert!(index < self.count, "element {index} of {}", self.count);
        HEADER_SIZE + index * ELEMENT_SIZE
    }

    fn slice(&self, index: usize, start: usize, length: usize) -> Result<&'a [u8], String> {
        start
            .checked_add(length)
            .and_then(|end| self.bytes.get(start..end))
            .ok_or_else(|| format!("element {index} points outside the page"))
    }

    /// The key of element `index`.
    pub(crate) fn key(&self, index: usize) -> Result<&'a [u8], String> {
        let at = self.element(index);
        let (position, size) = match self.content {
            Content::Leaf => (u32_at(self.bytes, at + 4), u32_at(self.bytes, at + 8)),
            Content::Branch => (u32_at(self.bytes, at), u32_at(self.bytes, at + 4)),
        };
        let size = size as usize;
        if size > KEY_SIZE_MAX {
            return Err(format!("element {index} has a key of {size} bytes"));
        }
        self.slice(index, at + position as usize, size)
    }

    /// Flags, key and value of element `index` of a leaf.
    pub(crate) fn leaf(&self, index: usize) -> Result<(u32, &'a [u8], &'a [u8]), String> {
        debug_assert_eq!(self.content, Content::Leaf);
        let key = self.key(index)?;
        let at = self.element(index);
        let value_at = at + u32_at(self.bytes, at + 4) as usize + key.len();
        let value = self.slice(index, value_at, u32_at(self.bytes, at + 12) as usize)?;
        Ok((u32_at(self.bytes, at), key, value))
    }

    /// Flags of element `index` of a leaf.
    pub(crate) fn flags(&self, index: usize) -> u32 {
        debug_assert_eq!(self.content, Content::Leaf);
        u32_at(self.bytes, self.element(index))
    }

    /// Child page of element `index` of a branch.
    pub(crate) fn child(&self, index: usize) -> PageNumber {
        debug_assert_eq!(self.content, Content::Branch);
        PageNumber(u64_at(self.bytes, self.element(index) + 8))
    }

    /// Index of the first element whose key is `>= key`; the count when there is none.
    pub(crate) fn lower_bound(&self, key: &[u8]) -> Result<usize, String> {
        let (mut low, mut high) = (0, self.count);
        while low < high {
            let middle = low + (high - low) / 2;
            if self.key(middle)? < key {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        Ok(low)
    }

    /// Index of the branch element that leads to `key`: the last one whose key is `<= key`, or 0.
    pub(crate) fn child_for(&self, key: &[u8]) -> Result<usize, String> {
        let at = self.lower_bound(key)?;
        let exact = at < self.count && self.key(at)? == key;
        Ok(if exact { at } else { at.saturating_sub(1) })
    }
}
