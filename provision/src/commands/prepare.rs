//! What most commands begin with: read the configuration, open the target, look at it.

use std::path::{Path, PathBuf};

use super::CommandError;
use crate::cli::Global;
use crate::facts::Facts;
use crate::host::{self, RealHost};
use crate::paths;
use crate::render::{self, Desired};
use crate::spec::{self, ConfigSource, Profile, Spec};

/// A configuration, and its own text.
pub(super) struct Configuration {
    pub(super) spec: Spec,
    pub(super) text: String,
    pub(super) source: ConfigSource,
}

/// What to do when no configuration is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WhenMissing {
    /// Refuse: what the host should be is not ours to guess.
    Refuse,
    /// Take the profile's defaults, written out with their comments.
    Defaults,
}

/// Reads the configuration that `global` names.
pub(super) fn configuration(
    global: &Global,
    when_missing: WhenMissing,
) -> Result<Configuration, CommandError> {
    let path = config_path(global);
    let name = path.display().to_string();
    let bytes = match std::fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error)
            if error.kind() == std::io::ErrorKind::NotFound
                && when_missing == WhenMissing::Defaults
                && is_default(global) =>
        {
            return defaults(global.profile.unwrap_or(Profile::Prod));
        }
        Err(source) => {
            let hint = match source.kind() {
                std::io::ErrorKind::NotFound => "; write one with: provision init-config",
                _ => "",
            };
            return Err(CommandError::ConfigNotRead {
                path: name,
                source,
                hint,
            });
        }
    };
    let source = ConfigSource::File(name);
    let spec = spec::load(&source, &bytes, global.profile)?;
    let text = String::from_utf8(bytes).expect("load refuses what is not UTF-8");
    Ok(Configuration { spec, text, source })
}

fn defaults(profile: Profile) -> Result<Configuration, CommandError> {
    let text = render::init_config(profile)?;
    let source = ConfigSource::Defaults;
    let spec = spec::load(&source, text.as_bytes(), Some(profile))?;
    Ok(Configuration { spec, text, source })
}

/// The default file is the target's own; a file that was named is this machine's.
fn config_path(global: &Global) -> PathBuf {
    match &global.root {
        Some(root) if is_default(global) => root.join(paths::CONFIG_FILE.trim_start_matches('/')),
        _ => global.config.clone(),
    }
}

fn is_default(global: &Global) -> bool {
    global.config == Path::new(paths::CONFIG_FILE)
}

/// A target, what it should have and what it has.
pub(super) struct Prepared {
    pub(super) host: RealHost,
    pub(super) desired: Desired,
    pub(super) facts: Facts,
    pub(super) configuration: Configuration,
}

/// Everything that a plan is made of.
pub(super) fn prepare(
    global: &Global,
    when_missing: WhenMissing,
) -> Result<Prepared, CommandError> {
    let configuration = configuration(global, when_missing)?;
    let desired = render::desired(&configuration.spec, &configuration.text)?;
    let host = RealHost::open(global.root.as_deref())?;
    let facts = Facts::gather(&host, &desired)?;
    Ok(Prepared {
        host,
        desired,
        facts,
        configuration,
    })
}

/// Keeps other commands from changing the same target while this one does.
pub(super) fn lock_host(global: &Global) -> Result<host::lock::Lock, CommandError> {
    let (lock, name) = match &global.root {
        // The tree's own folder is locked, so that nothing is left in it.
        Some(root) => (
            host::lock::try_lock_folder(root)?,
            root.display().to_string(),
        ),
        None => {
            let path = Path::new(paths::HOST_LOCK);
            let folder = path.parent().unwrap_or(Path::new("/"));
            std::fs::create_dir_all(folder).map_err(host::file_error("make", folder.display()))?;
            (host::lock::try_lock(path)?, paths::HOST_LOCK.to_owned())
        }
    };
    lock.ok_or(CommandError::Locked(name))
}
