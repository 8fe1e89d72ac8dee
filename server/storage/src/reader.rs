//! One committed state of the file, read in place.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

use crate::Fault;
use crate::disk::map::Map;
use crate::page::{
    BUCKET_FLAG, BUCKET_HEADER_SIZE, Content, HEADER_SIZE, Meta, Node, PageHeader, PageNumber,
    u64_at,
};

/// Deepest tree that can be real: a branch has two children at least, and 2^48 pages of 4 KiB are
/// more than any file system holds. What goes deeper is a loop in a damaged file.
pub(crate) const DEPTH_MAX: usize = 48;

/// One durable state of the file: immutable, cheap to clone, readable from any thread.
///
/// As long as a clone lives, and any bytes read through it, the writer leaves its pages alone.
#[derive(Clone)]
pub struct Committed {
    pub(crate) state: Arc<State>,
}

/// What a [`Committed`] shares with all its clones.
pub(crate) struct State {
    pub(crate) path: Arc<Path>,
    pub(crate) map: Arc<Map>,
    pub(crate) meta: Meta,
    /// Pages that hold nothing: allocated once, free or about to be.
    pub(crate) free_pages: u64,
}

impl Committed {
    /// Number of the transaction that made this state.
    pub fn transaction(&self) -> u64 {
        self.state.meta.transaction
    }

    /// Bytes of all pages that were ever allocated, which a backup of this state has too.
    pub fn size(&self) -> u64 {
        self.state.meta.high_water.0 * u64::from(self.state.meta.page_size)
    }

    /// Bytes of all pages that hold something.
    pub fn size_in_use(&self) -> u64 {
        self.size() - self.state.free_pages * u64::from(self.state.meta.page_size)
    }

    /// The meta page of this state.
    pub fn meta(&self) -> &Meta {
        &self.state.meta
    }

    /// The bucket called `name`, if there is one.
    pub fn bucket(&self, name: &str) -> Result<Option<Bucket>, Fault> {
        let found = self.root_bucket()?.find_bucket(name.as_bytes())?;
        Ok(found.map(|root| Bucket {
            committed: self.clone(),
            root: root.extent,
        }))
    }

    /// Names of all buckets in byte order.
    pub fn bucket_names(&self) -> Result<Vec<Bytes>, Fault> {
        let root = self.root_bucket()?;
        let mut cursor = Cursor::new(&root.committed.state, root.root, &[])?;
        let mut names = Vec::new();
        while let Some(item) = cursor.next_item()? {
            if item.flags & BUCKET_FLAG != 0 {
                names.push(item.key(&self.state));
            }
        }
        Ok(names)
    }

    pub(crate) fn root_bucket(&self) -> Result<Bucket, Fault> {
        let root = self.state.page_extent(self.state.meta.root)?;
        Ok(Bucket {
            committed: self.clone(),
            root,
        })
    }
}

/// A piece of the file.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Extent {
    pub(crate) offset: u64,
    pub(crate) length: usize,
}

impl State {
    /// The bytes of a piece of the file.
    pub(crate) fn slice(&self, extent: Extent) -> Result<&[u8], Fault> {
        self.map
            .bytes(extent.offset, extent.length)
            .ok_or_else(|| self.damaged(format!("offset {} lies beyond its end", extent.offset)))
    }

    /// The bytes of a piece of the file as a value that keeps this state alive.
    pub(crate) fn share(self: &Arc<Self>, extent: Extent) -> Result<Bytes, Fault> {
        if extent.length == 0 {
            return Ok(Bytes::new());
        }
        self.slice(extent)?;
        Ok(Bytes::from_owner(Piece {
            state: self.clone(),
            extent,
        }))
    }

    /// The piece of the file that `number` and its overflow pages take, its header checked.
    pub(crate) fn page_extent(&self, number: PageNumber) -> Result<Extent, Fault> {
        let page_size = u64::from(self.meta.page_size);
        let high_water = self.meta.high_water.0;
        if number.0 < 2 || number.0 >= high_water {
            return Err(self.damaged(format!(
                "{number} is referred to but not in 2..{high_water}"
            )));
        }
        let offset = number.0 * page_size;
        let bytes = self.slice(Extent {
            offset,
            length: HEADER_SIZE,
        })?;
        let header = PageHeader::decode(bytes).expect("sixteen bytes");
        if header.number != number {
            return Err(self.damaged(format!("{number} says that it is {}", header.number)));
        }
        let pages = u64::from(header.overflow) + 1;
        if number.0 + pages > high_water {
            return Err(self.damaged(format!("{number} reaches beyond the last page")));
        }
        let length = usize::try_from(pages * page_size)
            .map_err(|_| self.damaged(format!("{number} is too large to be read here")))?;
        Ok(Extent { offset, length })
    }

    /// The node that a piece of the file holds.
    pub(crate) fn node(&self, extent: Extent) -> Result<Node<'_>, Fault> {
        Node::new(self.slice(extent)?).map_err(|what| self.damaged_at(extent, &what))
    }

    pub(crate) fn damaged(&self, what: String) -> Fault {
        Fault::damaged(&self.path, what)
    }

    /// Damage in the page that lies at `extent`.
    pub(crate) fn damaged_at(&self, extent: Extent, what: &str) -> Fault {
        let number = PageNumber(extent.offset / u64::from(self.meta.page_size));
        self.damaged(format!("{number}: {what}"))
    }

    /// Where the root node of a bucket lies, given the extent of its value in its parent's leaf.
    pub(crate) fn bucket_root(&self, value: Extent) -> Result<BucketRoot, Fault> {
        let bytes = self.slice(value)?;
        if bytes.len() < BUCKET_HEADER_SIZE {
            return Err(self.damaged_at(value, "a bucket is shorter than its header"));
        }
        let sequence = u64_at(bytes, 8);
        let extent = match u64_at(bytes, 0) {
            0 => Extent {
                offset: value.offset + BUCKET_HEADER_SIZE as u64,
                length: value.length - BUCKET_HEADER_SIZE,
            },
            page => self.page_extent(PageNumber(page))?,
        };
        Ok(BucketRoot {
            extent,
            sequence,
            inline: u64_at(bytes, 0) == 0,
        })
    }
}

/// Where `part`, a piece of the bytes of `whole`, lies in the file.
pub(crate) fn extent_within(part: &[u8], whole: Extent, whole_bytes: &[u8]) -> Extent {
    let distance = part.as_ptr() as usize - whole_bytes.as_ptr() as usize;
    Extent {
        offset: whole.offset + distance as u64,
        length: part.len(),
    }
}

/// What the value of a bucket element says.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BucketRoot {
    pub(crate) extent: Extent,
    pub(crate) sequence: u64,
    pub(crate) inline: bool,
}

/// Keeps a state of the file alive for as long as bytes of it are in use.
struct Piece {
    state: Arc<State>,
    extent: Extent,
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        self.state
            .slice(self.extent)
            .expect("checked when the piece was made")
    }
}

/// A bucket in one committed state of the file.
#[derive(Clone)]
pub struct Bucket {
    pub(crate) committed: Committed,
    pub(crate) root: Extent,
}

impl Bucket {
    /// The value of `key`, out of the mapped file without a copy.
    pub fn get(&self, key: &[u8]) -> Result<Option<Bytes>, Fault> {
        match self.find(key)? {
            Some(item) if item.flags & BUCKET_FLAG == 0 => {
                self.committed.state.share(item.value).map(Some)
            }
            _ => Ok(None),
        }
    }

    /// The page on which `key` stands, or would stand: to name a place in the file.
    pub fn page_of(&self, key: &[u8]) -> Result<PageNumber, Fault> {
        let state = &self.committed.state;
        let mut extent = self.root;
        for _ in 0..DEPTH_MAX {
            let node = state.node(extent)?;
            if node.content() == Content::Leaf {
                break;
            }
            let child = node
                .child_for(key)
                .map_err(|what| state.damaged_at(extent, &what))?;
            extent = state.page_extent(node.child(child))?;
        }
        let page_size = u64::from(state.meta.page_size);
        Ok(PageNumber(extent.offset / page_size))
    }

    /// All pairs with a key at or above `from`, ascending. Stops after the first fault.
    pub fn range(&self, from: &[u8]) -> Result<Range, Fault> {
        let cursor = Cursor::new(&self.committed.state, self.root, from)?;
        Ok(Range {
            cursor,
            failed: false,
        })
    }

    /// The pair with the greatest key.
    pub fn last(&self) -> Result<Option<(Bytes, Bytes)>, Fault> {
        let state = &self.committed.state;
        let mut extent = self.root;
        for _ in 0..DEPTH_MAX {
            let node = state.node(extent)?;
            if node.content() == Content::Leaf {
                let Some(index) = node.count().checked_sub(1) else {
                    return Ok(None);
                };
                let item = Item::new(state, extent, &node, index)?;
                return Ok(Some((item.key(state), state.share(item.value)?)));
            }
            extent = state.page_extent(node.child(node.count() - 1))?;
        }
        Err(state.damaged("a tree is deeper than can be".to_owned()))
    }

    /// Where the bucket inside this one that is called `name` lies.
    pub(crate) fn find_bucket(&self, name: &[u8]) -> Result<Option<BucketRoot>, Fault> {
        match self.find(name)? {
            Some(item) if item.flags & BUCKET_FLAG != 0 => {
                self.committed.state.bucket_root(item.value).map(Some)
            }
            _ => Ok(None),
        }
    }

    fn find(&self, key: &[u8]) -> Result<Option<Item>, Fault> {
        let state = &self.committed.state;
        let mut extent = self.root;
        for _ in 0..DEPTH_MAX {
            let node = state.node(extent)?;
            let damaged = |what: String| state.damaged_at(extent, &what);
            if node.content() == Content::Branch {
                let child = node.child_for(key).map_err(damaged)?;
                extent = state.page_extent(node.child(child))?;
                continue;
            }
            let index = node.lower_bound(key).map_err(damaged)?;
            if index == node.count() || node.key(index).map_err(damaged)? != key {
                return Ok(None);
            }
            return Item::new(state, extent, &node, index).map(Some);
        }
        Err(state.damaged("a tree is deeper than can be".to_owned()))
    }
}

/// Where an element's key and value lie.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Item {
    pub(crate) flags: u32,
    pub(crate) key: Extent,
    pub(crate) value: Extent,
}

impl Item {
    fn new(state: &State, at: Extent, node: &Node<'_>, index: usize) -> Result<Item, Fault> {
        let (flags, key, value) = node
            .leaf(index)
            .map_err(|what| state.damaged_at(at, &what))?;
        let whole = state.slice(at)?;
        Ok(Item {
            flags,
            key: extent_within(key, at, whole),
            value: extent_within(value, at, whole),
        })
    }

    fn key(&self, state: &State) -> Bytes {
        Bytes::copy_from_slice(
            state
                .slice(self.key)
                .expect("checked when the item was found"),
        )
    }
}

/// Walks the elements of one tree in ascending order.
pub(crate) struct Cursor {
    state: Arc<State>,
    /// From the root down: a node, and the index of the element to visit next in it.
    stack: Vec<(Extent, usize)>,
}

impl Cursor {
    /// Before the first element whose key is `>= from`.
    pub(crate) fn new(state: &Arc<State>, root: Extent, from: &[u8]) -> Result<Cursor, Fault> {
        let mut cursor = Cursor {
            state: state.clone(),
            stack: Vec::new(),
        };
        let mut extent = root;
        loop {
            cursor.check_depth()?;
            let node = state.node(extent)?;
            let damaged = |what: String| state.damaged_at(extent, &what);
            if node.content() == Content::Leaf {
                cursor
                    .stack
                    .push((extent, node.lower_bound(from).map_err(damaged)?));
                return Ok(cursor);
            }
            let child = node.child_for(from).map_err(damaged)?;
            cursor.stack.push((extent, child + 1));
            extent = state.page_extent(node.child(child))?;
        }
    }

    pub(crate) fn next_item(&mut self) -> Result<Option<Item>, Fault> {
        while let Some((extent, index)) = self.stack.last_mut() {
            let (extent, at) = (*extent, *index);
            *index += 1;
            let node = self.state.node(extent)?;
            if at >= node.count() {
                self.stack.pop();
            } else if node.content() == Content::Leaf {
                return Item::new(&self.state, extent, &node, at).map(Some);
            } else {
                let child = self.state.page_extent(node.child(at))?;
                self.stack.push((child, 0));
                self.check_depth()?;
            }
        }
        Ok(None)
    }

    fn check_depth(&self) -> Result<(), Fault> {
        match self.stack.len() <= DEPTH_MAX {
            true => Ok(()),
            false => Err(self
                .state
                .damaged("a tree is deeper than can be".to_owned())),
        }
    }
}

/// The pairs of a bucket from some key on; see [`Bucket::range`].
pub struct Range {
    cursor: Cursor,
    failed: bool,
}

impl Iterator for Range {
    type Item = Result<(Bytes, Bytes), Fault>;

    fn next(&mut self) -> Option<Self::Item> {
        while !self.failed {
            match self.cursor.next_item() {
                Ok(None) => return None,
                Ok(Some(item)) if item.flags & BUCKET_FLAG != 0 => {}
                Ok(Some(item)) => {
                    let key = item.key(&self.cursor.state);
                    return Some(
                        self.cursor
                            .state
                            .share(item.value)
                            .map(|value| (key, value)),
                    );
                }
                Err(fault) => {
                    self.failed = true;
                    return Some(Err(fault));
                }
            }
        }
        None
    }
}
