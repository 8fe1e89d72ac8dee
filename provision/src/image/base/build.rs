use std::fs;
use std::path::{Path, PathBuf};

use super::super::description::Description;
use super::super::digest;
use super::super::fault::{ImageError, file};
use super::super::progress::{Step, skip};
use super::super::tool::Tool;
use super::{disk, tree};

/// Raised when the way of assembling a disk changes.
const RECIPE_VERSION: &str = "2";

/// What a base build leaves in its folder.
pub(in super::super) struct BaseFiles {
    /// Bootable disk, qcow2.
    pub(in super::super) disk: PathBuf,
    /// The kernel alone, for the probe of KVM.
    pub(in super::super) kernel: PathBuf,
    /// Digest of what the disk was made of.
    pub(in super::super) stamp: PathBuf,
}

impl BaseFiles {
    /// Names in the folder for an image.
    pub(in super::super) fn of(description: &Description, folder: &Path) -> Self {
        let named = |ending: &str| folder.join(format!("{}-base.{ending}", description.name));
        Self {
            disk: named("qcow2"),
            kernel: named("vmlinuz"),
            stamp: named("stamp"),
        }
    }
}

/// Makes the base disk in `folder`, or finds it made of the same parts. Trees are cached in
/// `cache`.
///
/// Owners inside the image are right only for root, so this asks sudo when it is somebody else.
pub(in super::super) fn build(
    description: &Description,
    folder: &Path,
    cache: &Path,
) -> Result<BaseFiles, ImageError> {
    let files = BaseFiles::of(description, folder);
    for needed in [folder, cache] {
        fs::create_dir_all(needed).map_err(file("create", needed))?;
    }
    if !nix::unistd::geteuid().is_root() {
        build_by_sudo(description, folder, cache)?;
        return Ok(files);
    }
    let tar = tree::packages(description, cache)?;
    let stamp = stamp(description, &tar)?;
    if files.disk.exists() && fs::read_to_string(&files.stamp).is_ok_and(|found| found == stamp) {
        skip(
            "base",
            format!("{}: made of the same parts", files.disk.display()),
        );
        return Ok(files);
    }
    let step = Step::begin("base", "assembles the disk");
    match assemble(description, &tar, cache, &files) {
        Ok(()) => {
            fs::write(&files.stamp, stamp).map_err(file("write", &files.stamp))?;
            hand_over(folder, cache)?;
            step.done(files.disk.display());
            Ok(files)
        }
        Err(error) => {
            step.failed();
            Err(error)
        }
    }
}

fn assemble(
    description: &Description,
    tar: &Path,
    cache: &Path,
    files: &BaseFiles,
) -> Result<(), ImageError> {
    let work = cache.join("work");
    remove_folder(&work)?;
    fs::create_dir_all(&work).map_err(file("create", &work))?;
    let root = work.join("tree");
    tree::unpack(description, tar, &root)?;
    let kernel = root.join("vmlinuz");
    fs::copy(&kernel, &files.kernel).map_err(file("copy", &kernel))?;
    let made = work.join("disk.qcow2");
    disk::assemble(&root, description.disk_bytes, &work, &made)?;
    fs::rename(&made, &files.disk).map_err(file("rename", &made))?;
    remove_folder(&work)
}

fn build_by_sudo(description: &Description, folder: &Path, cache: &Path) -> Result<(), ImageError> {
    let program = std::env::current_exe().map_err(file("find", Path::new("provision")))?;
    let status = std::process::Command::new("sudo")
        .arg("--")
        .arg(&program)
        .args(["image", "base", "--image"])
        .arg(&description.folder)
        .arg("--out")
        .arg(folder)
        .arg("--cache")
        .arg(cache)
        .status()
        .map_err(|_| ImageError::NoTool {
            program: "sudo".to_owned(),
        })?;
    if status.success() {
        return Ok(());
    }
    Err(ImageError::Tool {
        command: format!("sudo -- {} image base", program.display()),
        status: status.to_string(),
        tail: "  (see above)".to_owned(),
    })
}

/// Gives the files to whoever called sudo.
fn hand_over(folder: &Path, cache: &Path) -> Result<(), ImageError> {
    let number = |name: &str| {
        std::env::var(name)
            .ok()
            .and_then(|text| text.parse::<u32>().ok())
    };
    let (Some(user), Some(group)) = (number("SUDO_UID"), number("SUDO_GID")) else {
        return Ok(());
    };
    for place in [folder, cache] {
        Tool::new("chown")
            .arg("--recursive")
            .arg(format!("{user}:{group}"))
            .arg(place)
            .run()?;
    }
    Ok(())
}

fn stamp(description: &Description, tar: &Path) -> Result<String, ImageError> {
    let mut parts: Vec<Vec<u8>> = vec![
        RECIPE_VERSION.into(),
        tar.display().to_string().into(),
        description.disk_bytes.to_string().into(),
        format!("{:?}", description.units).into(),
    ];
    for (path, overlay) in description.overlay()? {
        parts.push(format!("{} {:o}", path.display(), overlay.mode).into());
        parts.push(overlay.content);
    }
    Ok(digest::of_parts(parts))
}

fn remove_folder(folder: &Path) -> Result<(), ImageError> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(file("remove", folder)(error))
        }
        _ => Ok(()),
    }
}
