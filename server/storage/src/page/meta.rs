//! The two meta pages: which tree is the newest that is whole.
//!
//! Body of a meta page, at offset 16:
//!
//! ```text
//! 0      4        8          12     16         24        32         40          48           56
//! +------+--------+----------+------+----------+---------+----------+-----------+------------+---------+
//! | magic| version| page size| flags| root page| sequence| free list| high water| transaction| FNV-1a  |
//! +------+--------+----------+------+----------+---------+----------+-----------+------------+---------+
//! ```

use super::{HEADER_SIZE, PAGE_SIZE_RANGE, PageHeader, PageKind, PageNumber, u32_at, u64_at};

const MAGIC: u32 = 0xED0C_DAED;
const VERSION: u32 = 2;
const BODY_SIZE: usize = 64;
const CHECKED_SIZE: usize = 56;

/// Stands for "the list of free pages is not in the file". etcd's files and ours always say so;
/// whoever opens one finds the free pages by walking the tree.
pub(crate) const NOT_PERSISTED: PageNumber = PageNumber(u64::MAX);

/// One root of the file. The newest valid one of two counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Meta {
    /// Bytes in a page.
    pub page_size: u32,
    /// Root page of the bucket that holds all buckets.
    pub root: PageNumber,
    /// Sequence of that bucket; not used, kept as found.
    pub sequence: u64,
    /// Page of the list of free pages, or [`NOT_PERSISTED`].
    pub free_list: PageNumber,
    /// The first page that was never allocated.
    pub high_water: PageNumber,
    /// Number of the transaction that wrote this meta page.
    pub transaction: u64,
}

impl Meta {
    /// Reads a meta page from its first byte; `None` unless magic, version, page size and checksum
    /// are right.
    pub fn decode(page: &[u8]) -> Option<Meta> {
        let body = page.get(HEADER_SIZE..HEADER_SIZE + BODY_SIZE)?;
        let page_size = u32_at(body, 8);
        let valid = u32_at(body, 0) == MAGIC
            && u32_at(body, 4) == VERSION
            && PAGE_SIZE_RANGE.contains(&page_size)
            && page_size.is_power_of_two()
            && u64_at(body, CHECKED_SIZE) == fnv1a(&body[..CHECKED_SIZE]);
        valid.then(|| Meta {
            page_size,
            root: PageNumber(u64_at(body, 16)),
            sequence: u64_at(body, 24),
            free_list: PageNumber(u64_at(body, 32)),
            high_water: PageNumber(u64_at(body, 40)),
            transaction: u64_at(body, 48),
        })
    }

    /// The whole page, to be written at page `transaction mod 2`.
    pub fn encode(&self) -> Vec<u8> {
        let mut page = vec![0; self.page_size as usize];
        let number = PageNumber(self.transaction % 2);
        PageHeader {
            number,
            flags: PageKind::Meta.flags(),
            count: 0,
            overflow: 0,
        }
        .encode(&mut page);
        let body = &mut page[HEADER_SIZE..HEADER_SIZE + BODY_SIZE];
        body[0..4].copy_from_slice(&MAGIC.to_le_bytes());
        body[4..8].copy_from_slice(&VERSION.to_le_bytes());
        body[8..12].copy_from_slice(&self.page_size.to_le_bytes());
        body[16..24].copy_from_slice(&self.root.0.to_le_bytes());
        body[24..32].copy_from_slice(&self.sequence.to_le_bytes());
        body[32..40].copy_from_slice(&self.free_list.0.to_le_bytes());
        body[40..48].copy_from_slice(&self.high_water.0.to_le_bytes());
        body[48..56].copy_from_slice(&self.transaction.to_le_bytes());
        let checksum = fnv1a(&body[..CHECKED_SIZE]);
        body[56..64].copy_from_slice(&checksum.to_le_bytes());
        page
    }
}

/// The newest valid meta of a file, given a way to read `HEADER_SIZE + 64` bytes at an offset.
///
/// Page 0 tells the page size and so where page 1 lies; when page 0 is not valid, page 1 is looked
/// for at each size that a page can have, as bbolt does.
pub(crate) fn find_meta(mut read: impl FnMut(u64) -> Option<Vec<u8>>) -> Option<Meta> {
    let mut at = |offset| read(offset).and_then(|bytes| Meta::decode(&bytes));
    let first = at(0);
    let second = match first {
        Some(meta) => at(u64::from(meta.page_size)),
        None => (0..15).find_map(|power| at(1024 << power)),
    };
    match (first, second) {
        (Some(a), Some(b)) => Some(if a.transaction > b.transaction { a } else { b }),
        (a, b) => a.or(b),
    }
}

/// FNV-1a, 64 bit.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3)
    })
}

/// Bytes that [`find_meta`] asks for.
pub(crate) const META_SIZE: usize = HEADER_SIZE + BODY_SIZE;

#[cfg(test)]
mod tests {
    use super::*;

    /// Body of page 0 of a file that etcd 3.5.30 wrote.
    const GOLDEN: &str = "edda0ced02000000001000000000000004000000000000000000000000000000\
                          ffffffffffffffff05000000000000000c000000000000004e83c70a507c2ddb";

    fn golden() -> Vec<u8> {
        (0..GOLDEN.len() / 2)
            .map(|at| u8::from_str_radix(&GOLDEN[2 * at..2 * at + 2], 16).expect("hex"))
            .collect()
    }

    #[test]
    fn the_meta_page_of_etcd_is_read_and_written_alike() {
        let mut page = vec![0; HEADER_SIZE];
        page.extend(golden());
        let meta = Meta::decode(&page).expect("valid");
        assert_eq!(meta.transaction, 12);
        assert_eq!(meta.root, PageNumber(4));
        assert_eq!(meta.high_water, PageNumber(5));
        assert_eq!(meta.free_list, NOT_PERSISTED);
        assert_eq!(&meta.encode()[HEADER_SIZE..META_SIZE], &golden()[..]);
    }

    #[test]
    fn a_flipped_bit_makes_a_meta_page_invalid() {
        let mut page = vec![0; HEADER_SIZE];
        page.extend(golden());
        for bit in 0..BODY_SIZE * 8 {
            let mut flipped = page.clone();
            flipped[HEADER_SIZE + bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Meta::decode(&flipped), None, "bit {bit}");
        }
    }
}
