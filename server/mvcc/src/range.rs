//! What is asked of a range of keys, and the answer.

use std::num::NonZeroUsize;

use bytes::Bytes;

use crate::record::KeyValue;
use crate::revision::Revision;

/// A set of neighbouring keys, in byte order.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum KeyRange {
    /// One key.
    Single(Bytes),
    /// Keys from `from` up to, but without, `to`. None when `to` is not above `from`.
    Range {
        /// The first key that belongs to the range.
        from: Bytes,
        /// The first key that no longer belongs to it.
        to: Bytes,
    },
    /// All keys that are not below this one.
    From(Bytes),
    /// All keys that a client can name, which are those of one byte or more.
    All,
}

impl KeyRange {
    /// Whether `key` belongs to the range.
    pub fn contains(&self, key: &[u8]) -> bool {
        match self {
            KeyRange::Single(only) => only == key,
            KeyRange::Range { from, to } => &from[..] <= key && key < &to[..],
            KeyRange::From(from) => &from[..] <= key,
            KeyRange::All => !key.is_empty(),
        }
    }
}

/// A question about the keys of a range.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RangeQuery {
    /// Which keys.
    pub keys: KeyRange,
    /// At which revision; `None` is the current one.
    pub revision: Option<Revision>,
    /// Most pairs in the answer.
    pub limit: Option<NonZeroUsize>,
    /// What the answer holds.
    pub content: Content,
    /// Which pairs are left out.
    pub filters: Filters,
    /// By which of a pair's fields the answer is sorted.
    pub sort_by: SortBy,
    /// In which order.
    pub order: Order,
}

impl RangeQuery {
    /// All pairs of `keys` at the current revision, by key.
    pub fn new(keys: KeyRange) -> RangeQuery {
        RangeQuery {
            keys,
            revision: None,
            limit: None,
            content: Content::Pairs,
            filters: Filters::default(),
            sort_by: SortBy::Key,
            order: Order::Unspecified,
        }
    }
}

/// What a range's answer holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Content {
    /// Pairs with their values.
    #[default]
    Pairs,
    /// Pairs with empty values.
    KeysOnly,
    /// Nothing but the count; limit, filters and order do not matter.
    CountOnly,
}

/// Bounds on a pair's revisions; pairs outside are left out of the answer, but still counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Filters {
    /// Least revision of the last change.
    pub mod_revision_min: Option<Revision>,
    /// Greatest revision of the last change.
    pub mod_revision_max: Option<Revision>,
    /// Least revision of creation.
    pub create_revision_min: Option<Revision>,
    /// Greatest revision of creation.
    pub create_revision_max: Option<Revision>,
}

impl Filters {
    /// Whether any bound is set.
    pub fn is_set(&self) -> bool {
        *self != Filters::default()
    }

    /// Whether a pair lies inside all bounds.
    pub fn admit(&self, pair: &KeyValue) -> bool {
        let inside = |value, min: Option<Revision>, max: Option<Revision>| {
            min.is_none_or(|min| value >= min) && max.is_none_or(|max| value <= max)
        };
        inside(
            pair.mod_revision,
            self.mod_revision_min,
            self.mod_revision_max,
        ) && inside(
            pair.create_revision,
            self.create_revision_min,
            self.create_revision_max,
        )
    }
}

/// The field by which a range's answer is sorted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SortBy {
    /// The key, by bytes.
    #[default]
    Key,
    /// The number of changes since creation.
    Version,
    /// The revision of creation.
    CreateRevision,
    /// The revision of the last change.
    ModRevision,
    /// The value, by bytes.
    Value,
}

/// The order of a range's answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Order {
    /// Ascending. With a limit and another field than the key, and no filter, only the first
    /// pairs by key, as many as the limit and one more, are sorted and cut.
    #[default]
    Unspecified,
    /// Ascending, over the whole range.
    Ascending,
    /// Descending, over the whole range.
    Descending,
}

/// The answer to a [`RangeQuery`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RangeAnswer {
    /// The pairs asked for, in order.
    pub pairs: Vec<KeyValue>,
    /// Number of keys in the range, whatever limit and filters left out.
    pub count: u64,
    /// Whether the limit cut pairs off.
    pub more: bool,
    /// The store's revision when it was read, which is not the revision asked for.
    pub revision: Revision,
}
