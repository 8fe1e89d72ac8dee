//! The one place with unsafe code: bytes of a file, read where the kernel keeps them.
#![allow(
    unsafe_code,
    reason = "a slice of mapped memory cannot be made without it"
)]

use std::fs;
use std::io;
use std::slice;

use memmap2::{MmapOptions, MmapRaw};

/// A read-only, shared view of a file's bytes.
///
/// What the file's writers store becomes visible here at once. The view may be longer than the file,
/// which reserves address space: after the file has grown the same view reaches the new bytes.
///
/// Two rules bind whoever holds a view; the page room keeps both:
/// 1. A range handed out by [`Map::bytes`] is not written while the slice lives. Pages are copied on
///    write, and a page is reused only when no reader may still look at it.
/// 2. Only ranges that lie inside the file are touched, and the file is not cut below them. The kernel
///    ends a process that reads beyond the end of a mapped file.
#[derive(Debug)]
pub struct Map {
    raw: MmapRaw,
}

impl Map {
    /// Maps the first `size` bytes of address space of `file`.
    pub(crate) fn of(file: &fs::File, size: u64) -> io::Result<Map> {
        let size = usize::try_from(size)
            .ok()
            .filter(|size| *size <= isize::MAX as usize)
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "map beyond memory"))?;
        Ok(Map {
            raw: MmapOptions::new().len(size).map_raw_read_only(file)?,
        })
    }

    /// Bytes of address space, which may be more than the file has.
    pub fn size(&self) -> u64 {
        self.raw.len() as u64
    }

    /// The bytes from `offset` on; `None` when they do not lie inside the view.
    pub fn bytes(&self, offset: u64, length: usize) -> Option<&[u8]> {
        let offset = usize::try_from(offset).ok()?;
        let end = offset.checked_add(length)?;
        if end > self.raw.len() {
            return None;
        }
        // SAFETY: `offset..end` lies inside one live mapping, which is readable, at most `isize::MAX`
        // long and not unmapped before `self` ends; bytes have no alignment and no invalid values.
        // Nobody writes these bytes while the slice lives: this is rule 1 above. The slice covers only
        // the range asked for, so writes elsewhere in the file do not concern it.
        Some(unsafe { slice::from_raw_parts(self.raw.as_ptr().add(offset), length) })
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;

    #[test]
    fn a_view_longer_than_the_file_reaches_bytes_that_come_later() {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(b"abc", 0).unwrap();
        let map = Map::of(&file, 1 << 30).unwrap();
        assert_eq!(map.bytes(0, 3), Some(&b"abc"[..]));
        file.write_all_at(b"later", 100_000).unwrap();
        assert_eq!(map.bytes(100_000, 5), Some(&b"later"[..]));
    }

    #[test]
    fn ranges_outside_the_view_are_none() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(4096).unwrap();
        let map = Map::of(&file, 4096).unwrap();
        assert_eq!(map.bytes(0, 4096).map(<[u8]>::len), Some(4096));
        assert_eq!(map.bytes(4096, 0), Some(&[][..]));
        assert_eq!(map.bytes(1, 4096), None);
        assert_eq!(map.bytes(u64::MAX, 2), None);
        assert_eq!(map.bytes(2, usize::MAX), None);
    }
}
