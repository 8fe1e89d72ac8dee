//! Files replaced whole: after a power cut the old content is there or the new, never a mixture.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::{HostError, file_error};

/// The owner, group and mode of a file about to be written. No ids: those of the process.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ownership {
    pub(crate) ids: Option<(u32, u32)>,
    pub(crate) mode: u32,
}

/// Writes aside, syncs, renames, syncs the folder.
///
/// # Errors
/// When any of these fails; the old file is then untouched.
pub(crate) fn replace_file(
    path: &Path,
    content: &[u8],
    ownership: Ownership,
) -> Result<(), HostError> {
    let aside = aside(path);
    let shown = path.display();
    // A leftover of a run that was cut off between two of these calls.
    match std::fs::remove_file(&aside) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(file_error("remove", aside.display())(error));
        }
        _ => {}
    }
    let written = write_new(&aside, content, ownership);
    if let Err(error) = written.and_then(|()| std::fs::rename(&aside, path)) {
        // What went wrong is told; a leftover is removed by the next run.
        let _ = std::fs::remove_file(&aside);
        return Err(file_error("write", shown)(error));
    }
    sync_parent(path)
}

fn write_new(path: &Path, content: &[u8], ownership: Ownership) -> std::io::Result<()> {
    // Nobody else may read it before owner and mode are set.
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(content)?;
    if let Some((user, group)) = ownership.ids {
        std::os::unix::fs::fchown(&file, Some(user), Some(group))?;
    }
    file.set_permissions(PermissionsExt::from_mode(ownership.mode))?;
    file.sync_all()
}

fn aside(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.provision-new"))
}

/// Makes a name in `path`'s folder durable.
pub(crate) fn sync_parent(path: &Path) -> Result<(), HostError> {
    let parent = path.parent().unwrap_or(Path::new("/"));
    File::open(parent)
        .and_then(|folder| folder.sync_all())
        .map_err(file_error("sync the folder", parent.display()))
}

/// Sets owner and mode of what lies at `path`, without following a link.
pub(super) fn set_ownership(path: &Path, ownership: Ownership) -> Result<(), HostError> {
    let shown = path.display();
    let metadata = std::fs::symlink_metadata(path).map_err(file_error("look at", &shown))?;
    if let Some((user, group)) = ownership.ids
        && (metadata.uid(), metadata.gid()) != (user, group)
    {
        std::os::unix::fs::lchown(path, Some(user), Some(group))
            .map_err(file_error("set the owner of", &shown))?;
    }
    std::fs::set_permissions(path, PermissionsExt::from_mode(ownership.mode))
        .map_err(file_error("set the mode of", &shown))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replaced_file_has_the_new_content_and_mode_and_leaves_nothing_aside() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let path = folder.path().join("x.conf");
        let ownership = |mode| Ownership { ids: None, mode };
        replace_file(&path, b"old", ownership(0o644)).expect("first");
        std::fs::write(aside(&path), b"cut off").expect("leftover");
        replace_file(&path, b"new", ownership(0o640)).expect("second");
        assert_eq!(std::fs::read(&path).expect("content"), b"new");
        let mode = std::fs::metadata(&path).expect("metadata").mode();
        assert_eq!(mode & 0o7777, 0o640);
        assert_eq!(std::fs::read_dir(folder.path()).expect("folder").count(), 1);
    }

    #[test]
    fn a_write_that_fails_names_the_file() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let path = folder.path().join("missing/x.conf");
        let error = replace_file(
            &path,
            b"x",
            Ownership {
                ids: None,
                mode: 0o644,
            },
        );
        assert!(
            error
                .expect_err("no folder")
                .to_string()
                .contains("missing/x.conf")
        );
    }
}
