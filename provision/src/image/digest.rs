use std::fs::File;
use std::io::Read;
use std::path::Path;

use sha2::{Digest, Sha256};

use super::fault::{ImageError, file};

/// Bytes read at a time.
const CHUNK_BYTES: usize = 1 << 20;

/// SHA-256 of a file's content, in hexadecimal.
pub(super) fn of_file(path: &Path) -> Result<String, ImageError> {
    let mut source = File::open(path).map_err(file("open", path))?;
    let mut hasher = Sha256::new();
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        let read = source.read(&mut chunk).map_err(file("read", path))?;
        if read == 0 {
            return Ok(hexadecimal(&hasher.finalize()));
        }
        hasher.update(&chunk[..read]);
    }
}

/// SHA-256 of parts whose borders count, in hexadecimal: ("ab", "c") differs from ("a", "bc").
pub(super) fn of_parts<P: AsRef<[u8]>>(parts: impl IntoIterator<Item = P>) -> String {
    let mut hasher = Sha256::new();
    for part in parts {
        let part = part.as_ref();
        hasher.update((part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    hexadecimal(&hasher.finalize())
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn borders_between_parts_count() {
        assert_ne!(of_parts(["ab", "c"]), of_parts(["a", "bc"]));
        assert_eq!(of_parts(["ab", "c"]), of_parts(["ab", "c"]));
    }
}
