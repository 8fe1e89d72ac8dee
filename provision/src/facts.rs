//! What is so on the target, as far as the plan needs it.

use std::collections::{BTreeMap, BTreeSet};

use crate::host::{Entry, Host, HostError, ServiceIds, Target, UnitFacts};
use crate::paths;
use crate::render::Desired;
use crate::state::{State, StateError};

/// What is so on the target.
#[derive(Clone, Debug)]
pub(crate) struct Facts {
    pub(crate) target: Target,
    pub(crate) can_set_owners: bool,
    /// Every path that is desired or remembered.
    pub(crate) entries: BTreeMap<String, Entry>,
    pub(crate) service_ids: Option<ServiceIds>,
    pub(crate) units: BTreeMap<String, UnitFacts>,
    /// What we remember of earlier runs.
    pub(crate) state: State,
}

/// Why the facts could not be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FactsError {
    #[error(transparent)]
    Host(#[from] HostError),
    #[error(transparent)]
    State(#[from] StateError),
}

impl Facts {
    /// Looks at everything that `desired` or an earlier run names.
    ///
    /// # Errors
    /// When the target cannot be read, or the remembered state is damaged.
    pub(crate) fn gather(host: &dyn Host, desired: &Desired) -> Result<Facts, FactsError> {
        let state = recorded_state(host)?;
        let mut paths: BTreeSet<&str> = state.files.keys().map(String::as_str).collect();
        paths.extend(desired.files.iter().map(|file| file.path.as_str()));
        paths.extend(desired.folders.iter().map(|folder| folder.path.as_str()));
        let mut entries = BTreeMap::new();
        for path in paths {
            entries.insert(path.to_owned(), host.entry(path)?);
        }
        let mut units = BTreeMap::new();
        let forgotten = state.files.keys().filter_map(|path| unit_name(path));
        for name in desired.units.iter().map(|unit| unit.name).chain(forgotten) {
            units.insert(name.to_owned(), host.unit(name)?);
        }
        Ok(Facts {
            target: host.target().clone(),
            can_set_owners: host.can_set_owners(),
            entries,
            service_ids: host.service_ids()?,
            units,
            state,
        })
    }

    pub(crate) fn is_live(&self) -> bool {
        self.target == Target::Live
    }

    /// What systemd knows of a unit; nothing, for one that nobody asked for.
    pub(crate) fn unit(&self, name: &str) -> UnitFacts {
        self.units.get(name).copied().unwrap_or_default()
    }
}

/// The unit that a path of the unit folder holds.
pub(crate) fn unit_name(path: &str) -> Option<&str> {
    path.strip_prefix(paths::UNIT_DIR)?.strip_prefix('/')
}

/// What earlier runs left in the state file; nothing, before the first.
///
/// # Errors
/// When the file cannot be read or is damaged.
pub(crate) fn recorded_state(host: &dyn Host) -> Result<State, FactsError> {
    match host.entry(paths::STATE_FILE)? {
        Entry::File { content, .. } => Ok(State::from_bytes(paths::STATE_FILE, &content)?),
        _ => Ok(State::default()),
    }
}
