//! What the provisioner remembers between runs, in `state.json` on the target.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// The format of the file, raised when a key changes its meaning.
const STATE_SCHEMA: u32 = 1;

/// What was written, and what a run was about to write.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct State {
    pub(crate) schema: u32,
    /// Path to the hash of the content that we left there.
    pub(crate) files: BTreeMap<String, Sha256Hex>,
    /// The hash of everything that the running server was started with.
    pub(crate) server_started_with: Option<Sha256Hex>,
    /// A run that began and has not ended: its host may have any part of it.
    pub(crate) unfinished: Option<UnfinishedRun>,
}

/// A run in progress, or one that a crash cut off.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct UnfinishedRun {
    /// Path to the hash of the content about to be written.
    pub(crate) files: BTreeMap<String, Sha256Hex>,
}

/// A SHA-256 in lower-case hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Sha256Hex(String);

impl Sha256Hex {
    /// The hash of `bytes`.
    pub(crate) fn of(bytes: &[u8]) -> Sha256Hex {
        Sha256Hex::from_digest(&Sha256::digest(bytes))
    }

    pub(crate) fn from_digest(digest: &[u8]) -> Sha256Hex {
        Sha256Hex(digest.iter().map(|byte| format!("{byte:02x}")).collect())
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

/// Why the remembered state cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StateError {
    /// Not written by us, or damaged.
    #[error(
        "{path} is not a state of provision ({cause}); move it away to start afresh: every file that differs from the configuration then counts as somebody else's"
    )]
    Damaged {
        path: &'static str,
        cause: serde_json::Error,
    },
    /// Written by a later version.
    #[error(
        "{path} has schema {found}, this version of provision reads {STATE_SCHEMA}; use the newer version"
    )]
    TooNew { path: &'static str, found: u32 },
}

impl Default for State {
    fn default() -> State {
        State {
            schema: STATE_SCHEMA,
            files: BTreeMap::new(),
            server_started_with: None,
            unfinished: None,
        }
    }
}

impl State {
    /// Reads the content of `path`.
    ///
    /// # Errors
    /// When it is damaged or of a later version.
    pub(crate) fn from_bytes(path: &'static str, bytes: &[u8]) -> Result<State, StateError> {
        let state: State =
            serde_json::from_slice(bytes).map_err(|cause| StateError::Damaged { path, cause })?;
        if state.schema != STATE_SCHEMA {
            return Err(StateError::TooNew {
                path,
                found: state.schema,
            });
        }
        Ok(state)
    }

    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = serde_json::to_vec_pretty(self).expect("strings and maps always serialize");
        bytes.push(b'\n');
        bytes
    }

    /// Whether we wrote this content to this path, or were about to.
    pub(crate) fn wrote(&self, path: &str, content: &Sha256Hex) -> bool {
        let intended = self.unfinished.as_ref().and_then(|run| run.files.get(path));
        self.files.get(path) == Some(content) || intended == Some(content)
    }

    /// Whether anything of ours was ever at this path.
    pub(crate) fn knows(&self, path: &str) -> bool {
        self.files.contains_key(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_reads_back_and_a_later_one_is_refused() {
        let mut state = State::default();
        state.files.insert("/etc/x".to_owned(), Sha256Hex::of(b"x"));
        let read = State::from_bytes("s", &state.to_bytes()).expect("own state");
        assert_eq!(read, state);
        state.schema = 2;
        assert!(matches!(
            State::from_bytes("s", &state.to_bytes()),
            Err(StateError::TooNew { found: 2, .. })
        ));
        assert!(matches!(
            State::from_bytes("s", b"{}"),
            Err(StateError::Damaged { .. })
        ));
    }
}
