//! What an image folder says: `image.toml`, and the files beside it.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::fault::{ImageError, file};

/// Smallest disk that holds a system and leaves room for data.
const DISK_BYTES_MIN: u64 = 1 << 30;
/// Largest disk that the partition table's plan was made for.
const DISK_BYTES_MAX: u64 = 16 << 40;

/// A checked `image.toml` with its folder.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Description {
    pub(super) folder: PathBuf,
    pub(super) name: String,
    pub(super) suite: String,
    pub(super) disk_bytes: u64,
    pub(super) packages: Vec<String>,
    /// Paths below `files/` that must be in place before packages are configured.
    pub(super) early_files: Vec<String>,
    pub(super) dpkg_exclude: Vec<String>,
    pub(super) dpkg_include: Vec<String>,
    pub(super) units: Units,
}

/// What is said about units of the base system.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Units {
    pub(super) enable: Vec<String>,
    pub(super) disable: Vec<String>,
    pub(super) mask: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TypedDescription {
    name: String,
    suite: String,
    size: String,
    packages: Vec<String>,
    #[serde(default)]
    early_files: Vec<String>,
    #[serde(default)]
    dpkg: TypedDpkg,
    #[serde(default)]
    units: Units,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct TypedDpkg {
    exclude: Vec<String>,
    include: Vec<String>,
}

impl Description {
    /// Reads `image.toml` of an image's folder.
    pub(super) fn read(folder: &Path) -> Result<Self, ImageError> {
        let path = folder.join("image.toml");
        let text = fs::read_to_string(&path).map_err(file("read", &path))?;
        let description = Self::parse(folder, &text)
            .map_err(|message| ImageError::description(path.display().to_string(), message))?;
        for early in &description.early_files {
            let path = description.files().join(early);
            if !path.is_file() {
                return Err(ImageError::Missing {
                    what: "early file",
                    path,
                    remedy: "make it, or take it out of early_files in image.toml".to_owned(),
                });
            }
        }
        Ok(description)
    }

    fn parse(folder: &Path, text: &str) -> Result<Self, String> {
        let typed: TypedDescription = toml::from_str(text).map_err(|error| error.to_string())?;
        let disk_bytes = parse_size(&typed.size)?;
        if !(DISK_BYTES_MIN..=DISK_BYTES_MAX).contains(&disk_bytes) {
            return Err(format!("size {} is not between 1GiB and 16TiB", typed.size));
        }
        check_name("name", &typed.name)?;
        check_name("suite", &typed.suite)?;
        for package in &typed.packages {
            check_name("package", package)?;
        }
        for early in &typed.early_files {
            check_inside("early_files", early)?;
        }
        Ok(Self {
            folder: folder.to_owned(),
            name: typed.name,
            suite: typed.suite,
            disk_bytes,
            packages: typed.packages,
            early_files: typed.early_files,
            dpkg_exclude: typed.dpkg.exclude,
            dpkg_include: typed.dpkg.include,
            units: typed.units,
        })
    }

    /// The folder that is copied over the base system.
    pub(super) fn files(&self) -> PathBuf {
        self.folder.join("files")
    }

    /// What the provisioner applies in the guest.
    pub(super) fn provision_file(&self) -> PathBuf {
        self.folder.join("provision.toml")
    }

    /// Every file below `files/`, by its path on the target, with its mode: 0755 where the owner
    /// may execute it, else 0644, so that the umask of whoever cloned the repository does not
    /// count.
    pub(super) fn overlay(&self) -> Result<BTreeMap<PathBuf, OverlayFile>, ImageError> {
        let root = self.files();
        let mut found = BTreeMap::new();
        let mut folders = vec![root.clone()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder).map_err(file("list", &folder))? {
                let path = entry.map_err(file("list", &folder))?.path();
                let metadata = fs::symlink_metadata(&path).map_err(file("look at", &path))?;
                if metadata.is_dir() {
                    folders.push(path);
                    continue;
                }
                if !metadata.is_file() {
                    return Err(ImageError::description(
                        path.display().to_string(),
                        "only files and folders can be copied into an image",
                    ));
                }
                let content = fs::read(&path).map_err(file("read", &path))?;
                let mode = if metadata.permissions().mode() & 0o100 == 0 {
                    0o644
                } else {
                    0o755
                };
                let target = path.strip_prefix(&root).unwrap_or(&path).to_owned();
                found.insert(target, OverlayFile { content, mode });
            }
        }
        Ok(found)
    }
}

/// One file that is laid over the base system.
#[derive(Debug, PartialEq)]
pub(super) struct OverlayFile {
    pub(super) content: Vec<u8>,
    pub(super) mode: u32,
}

/// Bytes of a size such as "8GiB"; a unit is required.
pub(super) fn parse_size(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let shift = match &text[digits.len()..] {
        "MiB" => 20,
        "GiB" => 30,
        "TiB" => 40,
        _ => {
            return Err(format!(
                "size {text:?} needs a unit: MiB, GiB or TiB, as in 8GiB"
            ));
        }
    };
    let number: u64 = digits
        .parse()
        .map_err(|_| format!("size {text:?} needs a whole number, as in 8GiB"))?;
    number
        .checked_mul(1 << shift)
        .ok_or_else(|| format!("size {text:?} is too large"))
}

/// Names end in command lines and paths: letters, digits and `+-.` only, as Debian's packages have
/// them.
fn check_name(key: &str, name: &str) -> Result<(), String> {
    let allowed = |letter: char| letter.is_ascii_alphanumeric() || "+-.".contains(letter);
    if name.starts_with(|first: char| first.is_ascii_alphanumeric()) && name.chars().all(allowed) {
        return Ok(());
    }
    Err(format!(
        "{key} {name:?} may hold only letters, digits, '+', '-' and '.'"
    ))
}

fn check_inside(key: &str, path: &str) -> Result<(), String> {
    let plain = Path::new(path)
        .components()
        .all(|component| matches!(component, std::path::Component::Normal(_)));
    if plain && !path.is_empty() {
        return Ok(());
    }
    Err(format!(
        "{key}: {path:?} must be a path below files/, without a leading slash or '..'"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: Result<u64, &str>) {
        match (Description::parse(Path::new("images/x"), text), expected) {
            (Ok(description), Ok(bytes)) => assert_eq!(description.disk_bytes, bytes),
            (Err(message), Err(part)) => assert!(message.contains(part), "{message}"),
            (got, wanted) => panic!("{got:?} instead of {wanted:?}"),
        }
    }

    #[test]
    fn a_description_says_what_is_wrong_with_it() {
        let base = "name = 'a'\nsuite = 'bookworm'\npackages = ['udev']\n";
        check(&format!("{base}size = '8GiB'"), Ok(8 << 30));
        check(&format!("{base}size = '8'"), Err("needs a unit"));
        check(&format!("{base}size = '1.5GiB'"), Err("whole number"));
        check(&format!("{base}size = '1MiB'"), Err("not between"));
        check(
            &format!("{base}size = '99999999999999TiB'"),
            Err("too large"),
        );
        check(
            &format!("{base}size = '8GiB'\ncolour = 1"),
            Err("unknown field"),
        );
        check(
            &format!("{base}size = '8GiB'\nearly_files = ['../x']"),
            Err("early_files"),
        );
        check(
            "name = 'a b'\nsuite = 'c'\npackages = []\nsize = '8GiB'",
            Err("name \"a b\""),
        );
        check(
            "name = 'a'\nsuite = 'c'\npackages = ['--x']\nsize = '8GiB'",
            Err("package"),
        );
    }

    #[test]
    fn every_image_of_the_repository_can_be_read() {
        let images = Path::new(env!("CARGO_MANIFEST_DIR")).join("../images");
        let mut seen = 0;
        for entry in fs::read_dir(images).expect("images is there") {
            let folder = entry.expect("it can be listed").path();
            let description = Description::read(&folder).expect("image.toml is right");
            assert!(!description.overlay().expect("files are there").is_empty());
            seen += 1;
        }
        assert!(seen > 0);
    }
}
