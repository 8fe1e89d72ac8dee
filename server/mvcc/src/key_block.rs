//! Ascending keys in one block of bytes; what all of them begin with is kept once.
//!
//! ```text
//! bytes   /registry/pods/ | a/web-1 | a/web-2 | b/db-0
//!         prefix            ^ends[0]  ^ends[1]  ^ends[2]   each end is where that suffix stops
//! ```
//!
//! A block copies with one memcpy, however many keys it holds. That is why the index keeps keys
//! in blocks and not as shared pointers: a node that a reader still holds is copied before it
//! changes, and copying pointers would touch every key's reference count.

use std::cmp::Ordering;

/// Keys longer than this are refused by the index: a node holds at most a few keys of such size,
/// and offsets in a block have 32 bits. A request that carries one is far beyond what the log
/// takes.
pub const KEY_BYTES_MAX: usize = 1 << 29;

#[derive(Debug, Clone, Default)]
pub(crate) struct KeyBlock {
    bytes: Vec<u8>,
    prefix: u32,
    ends: Vec<u32>,
}

impl KeyBlock {
    pub(crate) fn len(&self) -> usize {
        self.ends.len()
    }

    /// Number of key bytes that the block holds.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Bytes of memory beyond the struct itself.
    pub(crate) fn heap_bytes(&self) -> usize {
        self.bytes.capacity() + self.ends.capacity() * size_of::<u32>()
    }

    pub(crate) fn key(&self, position: usize) -> KeyParts<'_> {
        KeyParts {
            prefix: self.prefix(),
            suffix: self.suffix(position),
        }
    }

    /// The place of `key`: `Ok` where it stands, `Err` where it would stand.
    pub(crate) fn search(&self, key: &[u8]) -> Result<usize, usize> {
        let prefix = self.prefix();
        let shared = key.len().min(prefix.len());
        match key[..shared].cmp(&prefix[..shared]) {
            Ordering::Less => return Err(0),
            Ordering::Greater => return Err(self.len()),
            Ordering::Equal if key.len() < prefix.len() => return Err(0),
            Ordering::Equal => {}
        }
        let suffix = &key[shared..];
        let (mut low, mut high) = (0, self.len());
        while low < high {
            let middle = (low + high) / 2;
            match self.suffix(middle).cmp(suffix) {
                Ordering::Less => low = middle + 1,
                Ordering::Equal => return Ok(middle),
                Ordering::Greater => high = middle,
            }
        }
        Err(low)
    }

    /// Number of keys that are not above `key`.
    pub(crate) fn count_up_to(&self, key: &[u8]) -> usize {
        match self.search(key) {
            Ok(place) => place + 1,
            Err(place) => place,
        }
    }

    /// Puts `key` in at `place`, where [`KeyBlock::search`] found it missing.
    pub(crate) fn insert(&mut self, place: usize, key: &[u8]) {
        assert!(
            key.len() <= KEY_BYTES_MAX,
            "a key of {} bytes reached the index",
            key.len()
        );
        if self.ends.is_empty() {
            self.bytes.clear();
            self.bytes.extend_from_slice(key);
            self.prefix = key.len() as u32;
            self.ends.push(self.prefix);
            return;
        }
        let shared = shared_length(self.prefix(), key);
        if shared < self.prefix as usize {
            self.shorten_prefix(shared);
        }
        let suffix = &key[shared..];
        let at = self.start(place);
        let old_length = self.bytes.len();
        self.bytes.resize(old_length + suffix.len(), 0);
        self.bytes.copy_within(at..old_length, at + suffix.len());
        self.bytes[at..at + suffix.len()].copy_from_slice(suffix);
        self.ends.insert(place, at as u32);
        for end in &mut self.ends[place..] {
            *end += suffix.len() as u32;
        }
    }

    /// Takes out the keys at which `stay` is false.
    pub(crate) fn retain(&mut self, mut stay: impl FnMut(usize) -> bool) {
        let mut kept = KeyBlock {
            bytes: self.prefix().to_vec(),
            prefix: self.prefix,
            ends: Vec::with_capacity(self.len()),
        };
        for place in 0..self.len() {
            if stay(place) {
                kept.bytes.extend_from_slice(self.suffix(place));
                kept.ends.push(kept.bytes.len() as u32);
            }
        }
        kept.lengthen_prefix();
        *self = kept;
    }

    /// Moves the keys from `place` on into a block of their own.
    pub(crate) fn split_off(&mut self, place: usize) -> KeyBlock {
        let mut right = KeyBlock {
            bytes: self.prefix().to_vec(),
            prefix: self.prefix,
            ends: vec![],
        };
        let (start, prefix) = (self.start(place), self.prefix as usize);
        right.bytes.extend_from_slice(&self.bytes[start..]);
        let shift = (start - prefix) as u32;
        right
            .ends
            .extend(self.ends[place..].iter().map(|end| end - shift));
        self.bytes.truncate(start);
        self.ends.truncate(place);
        right.lengthen_prefix();
        self.lengthen_prefix();
        right
    }

    /// Appends the keys of `right`, which all stand above ours.
    pub(crate) fn append(&mut self, right: &KeyBlock) {
        let mut key = Vec::new();
        for place in 0..right.len() {
            right.key(place).copy_to(&mut key);
            self.insert(self.len(), &key);
        }
    }

    /// Gives back memory that growing set aside.
    pub(crate) fn shrink(&mut self) {
        self.bytes.shrink_to_fit();
        self.ends.shrink_to_fit();
    }

    fn prefix(&self) -> &[u8] {
        &self.bytes[..self.prefix as usize]
    }

    fn suffix(&self, place: usize) -> &[u8] {
        &self.bytes[self.start(place)..self.ends[place] as usize]
    }

    fn start(&self, place: usize) -> usize {
        match place {
            0 => self.prefix as usize,
            _ => self.ends[place - 1] as usize,
        }
    }

    fn shorten_prefix(&mut self, length: usize) {
        let mut rebuilt = Vec::with_capacity(
            self.bytes.len() + (self.prefix as usize - length) * self.ends.len(),
        );
        rebuilt.extend_from_slice(&self.bytes[..length]);
        let mut ends = Vec::with_capacity(self.ends.len() + 1);
        for place in 0..self.len() {
            rebuilt.extend_from_slice(&self.prefix()[length..]);
            rebuilt.extend_from_slice(self.suffix(place));
            ends.push(rebuilt.len() as u32);
        }
        *self = KeyBlock {
            bytes: rebuilt,
            prefix: length as u32,
            ends,
        };
    }

    fn lengthen_prefix(&mut self) {
        let Some(last) = self.len().checked_sub(1) else {
            *self = KeyBlock::default();
            return;
        };
        let more = shared_length(self.suffix(0), self.suffix(last));
        if more == 0 {
            return;
        }
        let mut rebuilt = Vec::with_capacity(self.bytes.len() - more * last);
        rebuilt.extend_from_slice(self.prefix());
        rebuilt.extend_from_slice(&self.suffix(0)[..more]);
        let mut ends = Vec::with_capacity(self.len());
        for place in 0..self.len() {
            rebuilt.extend_from_slice(&self.suffix(place)[more..]);
            ends.push(rebuilt.len() as u32);
        }
        *self = KeyBlock {
            bytes: rebuilt,
            prefix: self.prefix + more as u32,
            ends,
        };
    }
}

/// A key of a block, in the two parts in which it lies there.
#[derive(Debug, Clone, Copy)]
pub(crate) struct KeyParts<'a> {
    prefix: &'a [u8],
    suffix: &'a [u8],
}

impl KeyParts<'_> {
    /// Replaces what `buffer` holds by the key.
    pub(crate) fn copy_to(self, buffer: &mut Vec<u8>) {
        buffer.clear();
        buffer.extend_from_slice(self.prefix);
        buffer.extend_from_slice(self.suffix);
    }

    pub(crate) fn to_vec(self) -> Vec<u8> {
        [self.prefix, self.suffix].concat()
    }
}

/// The shortest key that is above `left` and not above `right`, given that `left < right`.
pub(crate) fn separator<'a>(left: &[u8], right: &'a [u8]) -> &'a [u8] {
    &right[..shared_length(left, right) + 1]
}

fn shared_length(left: &[u8], right: &[u8]) -> usize {
    left.iter()
        .zip(right)
        .take_while(|(left, right)| left == right)
        .count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn keys() -> impl Strategy<Value = Vec<u8>> {
        prop::collection::vec(0_u8..3, 0..6)
    }

    fn listed(block: &KeyBlock) -> Vec<Vec<u8>> {
        (0..block.len())
            .map(|place| block.key(place).to_vec())
            .collect()
    }

    proptest! {
        #[test]
        fn a_block_holds_what_a_sorted_list_holds(
            inserted in prop::collection::vec(keys(), 0..40),
            asked in keys(),
            cut in 0_usize..40,
        ) {
            let mut block = KeyBlock::default();
            let mut model: Vec<Vec<u8>> = Vec::new();
            for key in &inserted {
                prop_assert_eq!(block.search(key), model.binary_search(key));
                if let Err(place) = block.search(key) {
                    block.insert(place, key);
                    model.insert(place, key.clone());
                }
                prop_assert_eq!(&listed(&block), &model);
            }
            prop_assert_eq!(block.search(&asked), model.binary_search(&asked));
            prop_assert_eq!(
                block.count_up_to(&asked),
                model.iter().filter(|key| **key <= asked).count()
            );

            let cut = cut.min(model.len());
            let right = block.split_off(cut);
            prop_assert_eq!(&listed(&block), &model[..cut]);
            prop_assert_eq!(&listed(&right), &model[cut..]);
            prop_assert_eq!(right.search(&asked), model[cut..].binary_search(&asked));
            block.append(&right);
            prop_assert_eq!(&listed(&block), &model);

            block.retain(|place| place % 3 != 1);
            let model: Vec<_> =
                model.into_iter().enumerate().filter(|(at, _)| at % 3 != 1).map(|(_, key)| key).collect();
            prop_assert_eq!(&listed(&block), &model);
            prop_assert_eq!(block.search(&asked), model.binary_search(&asked));
        }

        #[test]
        fn a_separator_parts_its_neighbours(one in keys(), other in keys()) {
            prop_assume!(one != other);
            let (left, right) = if one < other { (one, other) } else { (other, one) };
            let between = separator(&left, &right);
            prop_assert!(&left[..] < between && between <= &right[..]);
        }
    }
}
