//! A consistent copy of the file, read while it is written: what a backup is.

use bytes::Bytes;

use crate::Fault;
use crate::page::{Meta, PageHeader, PageNumber};
use crate::reader::{Committed, Extent};
use crate::recover::{Reachable, walk};

/// Reads a copy of one committed state from its start to its end. Both meta pages of the copy name that state;
/// pages that hold something follow unchanged where they were; all others are zeros, since the writer may
/// use them again at any time.
pub struct Copy {
    committed: Committed,
    /// First page and length of what holds nothing, ascending, from the one on that is read next.
    gaps: std::vec::IntoIter<(PageNumber, u64)>,
    gap: Option<(PageNumber, u64)>,
    offset: u64,
}

impl Copy {
    /// Begins a copy. Visits all pages to know which of them hold something.
    ///
    /// # Errors
    /// What is damaged.
    pub fn of(committed: &Committed) -> Result<Copy, Fault> {
        let mut reachable = Reachable::new(committed.meta().high_water);
        walk(committed, &mut reachable)?;
        let mut gaps = reachable.gaps().into_iter();
        Ok(Copy {
            committed: committed.clone(),
            gap: gaps.next(),
            gaps,
            offset: 0,
        })
    }

    /// Bytes of the whole copy.
    pub fn size(&self) -> u64 {
        self.committed.size()
    }

    /// The next bytes of the copy, some but at most `limit` (which is at least one page) of them; none at its
    /// end.
    ///
    /// # Errors
    /// What cannot be read.
    pub fn read(&mut self, limit: usize) -> Result<Bytes, Fault> {
        let page_size = u64::from(self.committed.meta().page_size);
        let offset = self.offset;
        let rest = self.size() - offset;
        let limit = usize::try_from(rest).unwrap_or(usize::MAX).min(limit);
        let piece = if offset < 2 * page_size {
            self.meta_pages(offset, limit)
        } else {
            let (gap_start, gap_end) = match self.gap {
                Some((first, count)) => (first.0 * page_size, (first.0 + count) * page_size),
                None => (u64::MAX, u64::MAX),
            };
            let to = |end: u64| {
                usize::try_from(end - offset)
                    .unwrap_or(usize::MAX)
                    .min(limit)
            };
            if offset >= gap_start {
                Bytes::from(vec![0; to(gap_end)])
            } else {
                let length = to(gap_start);
                self.committed.state.share(Extent { offset, length })?
            }
        };
        self.offset += piece.len() as u64;
        while let Some((first, count)) = self.gap
            && (first.0 + count) * page_size <= self.offset
        {
            self.gap = self.gaps.next();
        }
        Ok(piece)
    }

    fn meta_pages(&self, offset: u64, limit: usize) -> Bytes {
        let newest = *self.committed.meta();
        let older = Meta {
            transaction: newest.transaction.wrapping_sub(1),
            ..newest
        };
        let both = [encode_meta_at(&newest, 0), encode_meta_at(&older, 1)].concat();
        let both = Bytes::from(both);
        let start = usize::try_from(offset).expect("below two pages");
        both.slice(start..both.len().min(start + limit))
    }
}

/// A meta page for position 0 or 1, whatever the parity of its transaction.
fn encode_meta_at(meta: &Meta, position: u64) -> Vec<u8> {
    let mut page = meta.encode();
    let header = PageHeader::decode(&page).expect("a whole page");
    PageHeader {
        number: PageNumber(position),
        ..header
    }
    .encode(&mut page);
    page
}
