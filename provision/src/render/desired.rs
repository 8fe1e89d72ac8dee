//! Everything a target should have, in one value.

use super::templates;
use crate::paths;
use crate::spec::Spec;

/// What a target should have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Desired {
    /// In the order in which they are made.
    pub(crate) folders: Vec<DesiredFolder>,
    pub(crate) files: Vec<DesiredFile>,
    pub(crate) units: Vec<DesiredUnit>,
}

/// A folder, made if missing; what lies in it is not ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DesiredFolder {
    pub(crate) path: String,
    pub(crate) access: Access,
}

/// A file, replaced whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DesiredFile {
    pub(crate) path: String,
    pub(crate) content: String,
    pub(crate) access: Access,
    pub(crate) role: FileRole,
}

/// What else has to happen when a file changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FileRole {
    /// The operator's configuration, kept beside what was made of it.
    Configuration,
    /// The service user is made of it.
    Accounts,
    /// The server reads it when it starts.
    ServerInput,
    /// A unit: systemd must read it anew.
    Unit {
        /// Of the server itself, which then must start anew.
        server: bool,
    },
    /// Kernel settings, to be set at once.
    KernelSettings,
    /// Read at the next boot.
    NextBoot,
}

/// A unit that boots with the host, or does not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DesiredUnit {
    pub(crate) name: &'static str,
    pub(crate) enabled: bool,
}

/// Who may do what with a file or folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Access {
    pub(crate) owner: Account,
    pub(crate) group: Account,
    pub(crate) mode: u32,
}

/// A user, or the group of the same name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Account {
    Root,
    Service,
}

impl Account {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Account::Root => "root",
            Account::Service => paths::SERVICE_ACCOUNT,
        }
    }
}

/// A value reached a template that its format cannot hold.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{template}: a value of the configuration has a character that this file cannot hold; look for quotes, line breaks and other control characters in its strings"
)]
pub(crate) struct RenderError {
    pub(crate) template: &'static str,
}

/// The server's unit.
pub(crate) const SERVER_UNIT: &str = "holdfast.service";
/// The timers, started once the server answers.
pub(crate) const DEFRAG_TIMER: &str = "holdfast-defrag.timer";
/// See [`DEFRAG_TIMER`].
pub(crate) const BACKUP_TIMER: &str = "holdfast-backup.timer";

const PUBLIC: Access = Access {
    owner: Account::Root,
    group: Account::Root,
    mode: 0o644,
};
const FOR_SERVICE: Access = Access {
    owner: Account::Root,
    group: Account::Service,
    mode: 0o640,
};

/// What a target should have after `spec`; `config_text` is the configuration's own text, kept on
/// the target for the commands that run there.
///
/// # Errors
/// A value that one of the formats cannot hold.
pub(crate) fn desired(spec: &Spec, config_text: &str) -> Result<Desired, RenderError> {
    let folders = folders(spec);
    let units = vec![
        DesiredUnit {
            name: SERVER_UNIT,
            enabled: true,
        },
        DesiredUnit {
            name: DEFRAG_TIMER,
            enabled: spec.defrag.enabled,
        },
        DesiredUnit {
            name: BACKUP_TIMER,
            enabled: spec.backup.enabled,
        },
    ];
    let unit = |name: &str, content| DesiredFile {
        path: format!("{}/{name}", paths::UNIT_DIR),
        content,
        access: PUBLIC,
        role: FileRole::Unit {
            server: name == SERVER_UNIT,
        },
    };
    let file = |path: &str, content, access, role| DesiredFile {
        path: path.to_owned(),
        content,
        access,
        role,
    };
    let files = vec![
        file(
            paths::SYSUSERS_FILE,
            templates::sysusers(spec)?,
            PUBLIC,
            FileRole::Accounts,
        ),
        file(
            paths::TMPFILES_FILE,
            templates::tmpfiles(&folders)?,
            PUBLIC,
            FileRole::NextBoot,
        ),
        file(
            paths::CONFIG_FILE,
            config_text.to_owned(),
            FOR_SERVICE,
            FileRole::Configuration,
        ),
        file(
            paths::ENVIRONMENT_FILE,
            templates::environment(spec)?,
            FOR_SERVICE,
            FileRole::ServerInput,
        ),
        file(
            paths::SYSCTL_FILE,
            templates::sysctl()?,
            PUBLIC,
            FileRole::KernelSettings,
        ),
        file(
            paths::PRESET_FILE,
            templates::preset(&units)?,
            PUBLIC,
            FileRole::NextBoot,
        ),
        unit(SERVER_UNIT, templates::server_unit(spec)?),
        unit("holdfast-defrag.service", templates::defrag_service(spec)?),
        unit(DEFRAG_TIMER, templates::defrag_timer(spec)?),
        unit("holdfast-backup.service", templates::backup_service(spec)?),
        unit(BACKUP_TIMER, templates::backup_timer(spec)?),
    ];
    Ok(Desired {
        folders,
        files,
        units,
    })
}

fn folders(spec: &Spec) -> Vec<DesiredFolder> {
    let service = Access {
        owner: Account::Service,
        group: Account::Service,
        mode: 0o700,
    };
    let shared = Access {
        owner: Account::Root,
        group: Account::Service,
        mode: 0o750,
    };
    let folder = |path: &str, access| DesiredFolder {
        path: path.to_owned(),
        access,
    };
    let mut folders = vec![
        folder(paths::CONFIG_DIR, shared),
        folder(paths::PROVISION_DIR, shared),
        folder(
            paths::MAINTENANCE_DIR,
            Access {
                mode: 0o750,
                ..service
            },
        ),
        folder(spec.data_dir.as_str(), service),
    ];
    folders.extend(
        spec.wal_dir
            .as_ref()
            .map(|dir| folder(dir.as_str(), service)),
    );
    folders.push(folder(spec.backup.dir.as_str(), service));
    folders
}
