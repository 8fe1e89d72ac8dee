//! What the last defragmentation did: the forecast of the next is made of it.

use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::MaintenanceError;
use crate::host::{Ownership, file_error, replace_file};
use crate::spec::ByteSize;

/// Copying less than this takes as long as opening files does, and says nothing about the rate.
const TELLING_BYTES_MIN: u64 = 16 << 20;

/// The last defragmentation that ended well.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LastDefrag {
    pub(crate) unix_seconds: u64,
    pub(crate) size_before: u64,
    pub(crate) size_after: u64,
    /// In use afterwards: what had to be copied. Before, pages that open transactions still held
    /// counted as in use and were not copied.
    pub(crate) in_use: u64,
    pub(crate) took_ms: u64,
}

impl LastDefrag {
    /// How long copying `bytes` would take at the rate of the last time, if that tells anything.
    pub(crate) fn forecast(&self, bytes: ByteSize) -> Option<Duration> {
        if self.in_use < TELLING_BYTES_MIN {
            return None;
        }
        let millis = u128::from(bytes.bytes()) * u128::from(self.took_ms) / u128::from(self.in_use);
        Some(Duration::from_millis(
            u64::try_from(millis).unwrap_or(u64::MAX),
        ))
    }
}

/// The last defragmentation; none before the first.
///
/// # Errors
/// When the file at `path` cannot be read or is damaged.
pub(crate) fn last_defrag(path: &Path) -> Result<Option<LastDefrag>, MaintenanceError> {
    match std::fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(|cause| {
            MaintenanceError::DamagedHistory {
                path: path.display().to_string(),
                cause,
            }
        }),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(file_error("read", path.display())(error).into()),
    }
}

/// Remembers a defragmentation.
///
/// # Errors
/// When the file at `path` cannot be written.
pub(crate) fn remember_defrag(path: &Path, defrag: LastDefrag) -> Result<(), MaintenanceError> {
    let mut bytes = serde_json::to_vec_pretty(&defrag).expect("numbers always serialize");
    bytes.push(b'\n');
    replace_file(
        path,
        &bytes,
        Ownership {
            ids: None,
            mode: 0o640,
        },
    )?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_history_reads_back_and_forecasts_by_its_rate() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let path = folder.path().join("defrag.json");
        assert_eq!(last_defrag(&path).expect("none yet"), None);
        let defrag = LastDefrag {
            unix_seconds: 1,
            size_before: 100 << 20,
            size_after: 16 << 20,
            in_use: 16 << 20,
            took_ms: 500,
        };
        remember_defrag(&path, defrag).expect("written");
        assert_eq!(last_defrag(&path).expect("read"), Some(defrag));
        assert_eq!(
            defrag.forecast(ByteSize::from_mib(64)),
            Some(Duration::from_secs(2))
        );
        let small = LastDefrag {
            in_use: 1 << 20,
            ..defrag
        };
        assert_eq!(small.forecast(ByteSize::from_mib(64)), None);
        std::fs::write(&path, "{").expect("damage");
        let error = last_defrag(&path).expect_err("damaged");
        assert!(error.to_string().contains("defrag.json"), "{error}");
    }
}
