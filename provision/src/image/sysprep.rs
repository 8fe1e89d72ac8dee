//! The last step of a bake, inside the guest: takes out what belongs to this one guest and must not
//! be in an image.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use super::fault::{ImageError, file};
use super::progress::Step;
use super::tool::Tool;

/// Whoever bakes makes this file; it is gone with the guest's memory. Without it nothing is
/// emptied.
const BAKE_MARK: &str = "/run/provision/bake";

/// Services that would write their state again while the guest shuts down.
const STOPPED: [&str; 2] = ["chrony.service", "systemd-random-seed.service"];

/// Files and folders that go.
const REMOVED: [&str; 10] = [
    "/root/.ssh",
    "/root/.bash_history",
    "/root/.cache",
    "/root/.lesshst",
    "/var/lib/dbus/machine-id",
    "/var/lib/systemd/credential.secret",
    "/var/lib/systemd/random-seed",
    "/var/lib/systemd/timers",
    "/var/lib/chrony/drift",
    "/etc/.pwd.lock",
];

/// Folders that lose their files and keep their folders, whose owners and modes packages have set.
const EMPTIED: [&str; 5] = [
    "/var/lib/apt/lists",
    "/var/cache/apt",
    "/var/cache/debconf",
    "/var/log",
    "/var/backups",
];

/// Folders that lose all, save what running services hold open until they stop.
const SWEPT: [&str; 2] = ["/tmp", "/var/tmp"];
const HELD_BY_SERVICES: &str = "systemd-private-";

/// Empties the guest that is being baked.
pub(super) fn run() -> Result<(), ImageError> {
    if !Path::new(BAKE_MARK).exists() {
        let message = format!(
            "this empties logs, keys and identity of the host it runs on, and {BAKE_MARK} does not say that the host \
             is being baked"
        );
        return Err(ImageError::Refused { message });
    }
    let step = Step::begin("sysprep", "takes out what belongs to this guest");
    empty_guest()?;
    step.done("");
    Ok(())
}

fn empty_guest() -> Result<(), ImageError> {
    Tool::new("systemctl")
        .args(["--no-pager", "stop"])
        .args(STOPPED)
        .run()?;
    // From here on the journal lies in memory.
    Tool::new("journalctl").arg("--relinquish-var").run()?;
    for path in REMOVED {
        remove(Path::new(path))?;
    }
    for folder in EMPTIED {
        remove_files(Path::new(folder))?;
    }
    for entry in names(Path::new("/var/log/journal"))? {
        remove(&entry)?;
    }
    for folder in SWEPT {
        for path in names(Path::new(folder))? {
            let name = path
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            if !name.starts_with(HELD_BY_SERVICES) {
                remove(&path)?;
            }
        }
    }
    for path in names(Path::new("/etc/ssh"))? {
        if path
            .file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with("ssh_host_"))
        {
            remove(&path)?;
        }
    }
    // Empty, not missing: a missing one means "first boot", and presets would undo what was
    // enabled.
    let machine_id = Path::new("/etc/machine-id");
    fs::write(machine_id, "").map_err(file("write", machine_id))?;
    // Freed blocks become holes in the image.
    Tool::new("fstrim").arg("/").run()?;
    Ok(())
}

fn names(folder: &Path) -> Result<Vec<std::path::PathBuf>, ImageError> {
    match fs::read_dir(folder) {
        Ok(entries) => Ok(entries.flatten().map(|entry| entry.path()).collect()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(file("list", folder)(error)),
    }
}

fn remove_files(folder: &Path) -> Result<(), ImageError> {
    for path in names(folder)? {
        if path.is_dir() && !path.is_symlink() {
            remove_files(&path)?;
        } else {
            remove(&path)?;
        }
    }
    Ok(())
}

fn remove(path: &Path) -> Result<(), ImageError> {
    let is_folder = path.is_dir() && !path.is_symlink();
    let removed = if is_folder {
        fs::remove_dir_all(path)
    } else {
        fs::remove_file(path)
    };
    match removed {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(file("remove", path)(error)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_that_is_not_being_baked_keeps_all_it_has() {
        assert!(
            !Path::new(BAKE_MARK).exists(),
            "tests do not run in a guest that is being baked"
        );
        assert!(matches!(run(), Err(ImageError::Refused { .. })));
    }
}
