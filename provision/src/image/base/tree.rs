//! The base system as a tree of files: Debian's packages, kept as a tar file, and the image's own
//! files over them.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::super::description::Description;
use super::super::digest;
use super::super::fault::{ImageError, file};
use super::super::progress::{Step, skip};
use super::super::tool::Tool;
use super::sources::Sources;
use crate::host::clock;

/// Ten times what it takes on a quiet host.
const INSTALL_LIMIT: Duration = Duration::from_secs(600);
/// Cached trees that are kept; older ones are removed.
const CACHED_TREES_MAX: usize = 3;
/// Part of the cache's key: raised when the way of making a tree changes.
const RECIPE_VERSION: &str = "1";

/// A tar file of the installed packages, from the cache when there is one of today with the same
/// inputs.
pub(super) fn packages(description: &Description, cache: &Path) -> Result<PathBuf, ImageError> {
    let sources = Sources::of_host(&description.suite)?;
    let tar = cache.join(format!("tree-{}.tar", &key(description, &sources)?[..16]));
    let count = description.packages.len();
    if tar.exists() {
        skip(
            "base",
            format!("{count} packages of {}: cached", description.suite),
        );
        return Ok(tar);
    }
    let part = tar.with_extension("part.tar");
    let what = format!(
        "installs {count} packages of {} from {}",
        description.suite,
        sources.host()
    );
    installer(description, &sources, &part)
        .log(&cache.join("mmdebstrap.log"))
        .limit(INSTALL_LIMIT)
        .run_as(Step::begin("base", what))?;
    fs::rename(&part, &tar).map_err(file("rename", &part))?;
    forget_old_trees(cache)?;
    Ok(tar)
}

/// Unpacks the packages and lays the image's files over them.
pub(super) fn unpack(description: &Description, tar: &Path, tree: &Path) -> Result<(), ImageError> {
    fs::create_dir_all(tree).map_err(file("create", tree))?;
    Tool::new("tar")
        .args([
            "--extract",
            "--preserve-permissions",
            "--numeric-owner",
            "--xattrs",
            "--xattrs-include=*",
        ])
        .arg("--file")
        .arg(tar)
        .arg("--directory")
        .arg(tree)
        .run()?;
    lay_over(description, tree)?;
    settle_units(description, tree)?;
    clean(tree)
}

fn key(description: &Description, sources: &Sources) -> Result<String, ImageError> {
    let mut packages = description.packages.clone();
    packages.sort();
    let day = clock::unix_seconds() / 86_400;
    let mut parts = vec![
        RECIPE_VERSION.to_owned(),
        description.suite.clone(),
        day.to_string(),
    ];
    for list in [
        &packages,
        &description.dpkg_exclude,
        &description.dpkg_include,
        &description.early_files,
        &sources.lines(&description.suite),
        &sources.apt_options,
    ] {
        parts.push(list.join("\n"));
    }
    for early in &description.early_files {
        let path = description.files().join(early);
        parts.push(fs::read_to_string(&path).map_err(file("read", &path))?);
    }
    Ok(digest::of_parts(parts))
}

fn installer(description: &Description, sources: &Sources, output: &Path) -> Tool {
    let mut tool = Tool::new("mmdebstrap")
        .args(["--variant=minbase", "--mode=root", "--format=tar"])
        .arg("--hook-dir=/usr/share/mmdebstrap/hooks/eatmydata")
        .arg("--aptopt=APT::Install-Recommends \"false\"")
        .arg("--aptopt=Acquire::Languages \"none\"");
    for option in &sources.apt_options {
        tool = tool.arg(format!("--aptopt={option}"));
    }
    for path in &description.dpkg_exclude {
        tool = tool.arg(format!("--dpkgopt=path-exclude={path}"));
    }
    for path in &description.dpkg_include {
        tool = tool.arg(format!("--dpkgopt=path-include={path}"));
    }
    for early in &description.early_files {
        let folder = Path::new(early).parent().unwrap_or(Path::new(""));
        let from = description.files().join(early);
        tool = tool
            .arg(format!(
                "--essential-hook=mkdir -p \"$1/{}\"",
                folder.display()
            ))
            .arg(format!(
                "--essential-hook=upload '{}' '/{early}'",
                from.display()
            ));
    }
    tool.arg(format!("--include={}", description.packages.join(",")))
        .arg(&description.suite)
        .arg(output)
        .args(sources.lines(&description.suite))
        .env("DEBIAN_FRONTEND", "noninteractive")
}

fn lay_over(description: &Description, tree: &Path) -> Result<(), ImageError> {
    for (target, overlay) in description.overlay()? {
        let path = tree.join(&target);
        make_folders(tree, &target)?;
        // A packaged link must not lead the write astray.
        if path.is_symlink() {
            fs::remove_file(&path).map_err(file("remove", &path))?;
        }
        fs::write(&path, &overlay.content).map_err(file("write", &path))?;
        let mode = fs::Permissions::from_mode(overlay.mode);
        fs::set_permissions(&path, mode).map_err(file("set the mode of", &path))?;
    }
    Ok(())
}

fn make_folders(tree: &Path, target: &Path) -> Result<(), ImageError> {
    let mut folder = tree.to_owned();
    for part in target.parent().unwrap_or(Path::new("")).components() {
        folder.push(part);
        if !folder.exists() {
            fs::create_dir(&folder).map_err(file("create", &folder))?;
            let mode = fs::Permissions::from_mode(0o755);
            fs::set_permissions(&folder, mode).map_err(file("set the mode of", &folder))?;
        }
    }
    Ok(())
}

fn settle_units(description: &Description, tree: &Path) -> Result<(), ImageError> {
    let units = &description.units;
    for (verb, names) in [
        ("enable", &units.enable),
        ("disable", &units.disable),
        ("mask", &units.mask),
    ] {
        if names.is_empty() {
            continue;
        }
        let mut root = std::ffi::OsString::from("--root=");
        root.push(tree);
        Tool::new("systemctl")
            .arg(root)
            .arg("--no-pager")
            .arg(verb)
            .args(names)
            .run()?;
    }
    Ok(())
}

/// Takes out what belongs to the host that made the tree.
fn clean(tree: &Path) -> Result<(), ImageError> {
    // Empty, not missing: a missing one means "first boot", and presets would undo what was
    // settled.
    let machine_id = tree.join("etc/machine-id");
    fs::write(&machine_id, "").map_err(file("write", &machine_id))?;
    let resolver = tree.join("etc/resolv.conf");
    remove(&resolver)?;
    std::os::unix::fs::symlink("../run/systemd/resolve/stub-resolv.conf", &resolver)
        .map_err(file("link", &resolver))?;
    for left_over in [
        "etc/apt/apt.conf.d/99mmdebstrap",
        "etc/apt/sources.list",
        "etc/apt/sources.list.d/0000sources.list",
        "var/lib/dbus/machine-id",
    ] {
        remove(&tree.join(left_over))?;
    }
    for folder in ["var/lib/apt/lists", "var/cache/apt", "var/log", "etc/ssh"] {
        let host_keys_only = folder == "etc/ssh";
        remove_files(&tree.join(folder), |name| {
            !host_keys_only || name.starts_with("ssh_host_")
        })?;
    }
    Ok(())
}

fn remove(path: &Path) -> Result<(), ImageError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(file("remove", path)(error))
        }
        _ => Ok(()),
    }
}

fn remove_files(folder: &Path, chosen: impl Fn(&str) -> bool + Copy) -> Result<(), ImageError> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Ok(());
    };
    for entry in entries {
        let path = entry.map_err(file("list", folder))?.path();
        let name = path
            .file_name()
            .map(|name| name.to_string_lossy().into_owned());
        if path.is_dir() && !path.is_symlink() {
            remove_files(&path, chosen)?;
        } else if name.is_some_and(|name| chosen(&name)) {
            remove(&path)?;
        }
    }
    Ok(())
}

fn forget_old_trees(cache: &Path) -> Result<(), ImageError> {
    let mut trees = Vec::new();
    for entry in fs::read_dir(cache).map_err(file("list", cache))? {
        let entry = entry.map_err(file("list", cache))?;
        if entry.file_name().to_string_lossy().starts_with("tree-") {
            let made = entry.metadata().and_then(|metadata| metadata.modified());
            trees.push((made.map_err(file("look at", &entry.path()))?, entry.path()));
        }
    }
    trees.sort();
    trees.reverse();
    for (_, path) in trees.into_iter().skip(CACHED_TREES_MAX) {
        remove(&path)?;
    }
    Ok(())
}
