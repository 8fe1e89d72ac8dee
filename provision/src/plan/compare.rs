//! Three ways at once: what is desired, what we remember having written, what lies there.

use std::fmt;

use crate::facts::Facts;
use crate::host::{Entry, Held};
use crate::render::{Access, Account, DesiredFile};
use crate::state::Sha256Hex;

/// How a desired file stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    InSync,
    /// The content is right, who may read it is not.
    WrongAccess,
    Missing,
    /// As we left it; the configuration has changed.
    Pending,
    Conflict(ConflictKind),
}

/// A file that is not as we left it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Conflict {
    pub(crate) path: String,
    pub(crate) kind: ConflictKind,
}

/// How it is not as we left it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ConflictKind {
    /// We wrote it, somebody changed it.
    Drifted,
    /// We never wrote it.
    Foreign,
    /// A link or a folder is there; never overwritten.
    NotAFile(String),
}

impl fmt::Display for Conflict {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            ConflictKind::Drifted => write!(formatter, "{} was edited by hand", self.path),
            ConflictKind::Foreign => {
                write!(
                    formatter,
                    "{} exists and was not written by provision",
                    self.path
                )
            }
            ConflictKind::NotAFile(kind) => {
                write!(
                    formatter,
                    "{} is {kind}; remove it yourself if it may go",
                    self.path
                )
            }
        }
    }
}

pub(super) fn compare(file: &DesiredFile, facts: &Facts) -> Standing {
    match facts.entries.get(&file.path).unwrap_or(&Entry::Missing) {
        Entry::Missing => Standing::Missing,
        Entry::Folder { .. } => Standing::Conflict(ConflictKind::NotAFile("a folder".to_owned())),
        Entry::Other { kind } => Standing::Conflict(ConflictKind::NotAFile(kind.clone())),
        Entry::File { content, held } if content == file.content.as_bytes() => {
            if fits(*held, file.access, facts) {
                Standing::InSync
            } else {
                Standing::WrongAccess
            }
        }
        Entry::File { content, .. } => {
            if facts.state.wrote(&file.path, &Sha256Hex::of(content)) {
                Standing::Pending
            } else if facts.state.knows(&file.path) {
                Standing::Conflict(ConflictKind::Drifted)
            } else {
                Standing::Conflict(ConflictKind::Foreign)
            }
        }
    }
}

/// Whether owner, group and mode are as they should be.
pub(super) fn fits(held: Held, access: Access, facts: &Facts) -> bool {
    if held.mode != access.mode {
        return false;
    }
    if !facts.can_set_owners {
        return true;
    }
    let user = match access.owner {
        Account::Root => Some(0),
        Account::Service => facts.service_ids.map(|ids| ids.user),
    };
    let group = match access.group {
        Account::Root => Some(0),
        Account::Service => facts.service_ids.map(|ids| ids.group),
    };
    user == Some(held.user) && group == Some(held.group)
}
