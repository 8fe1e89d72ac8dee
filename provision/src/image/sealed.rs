//! Looks into a finished image without booting it: its root file system, read by debugfs at its
//! place on the disk.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use super::base::SECTOR_BYTES;
use super::check::{Entry, Place};
use super::fault::{ImageError, file};
use super::tool::Tool;

/// Unpacking a compressed image on a busy host.
const UNPACK_LIMIT: Duration = Duration::from_secs(300);

/// An image's root file system. The unpacked copy goes with the value.
pub(super) struct SealedImage {
    raw: PathBuf,
    root_offset_bytes: u64,
    users: BTreeMap<u32, String>,
    groups: BTreeMap<u32, String>,
}

impl SealedImage {
    /// Unpacks an image into `work`, which needs room for what the image holds.
    pub(super) fn open(image: &Path, work: &Path) -> Result<Self, ImageError> {
        let raw = work.join("sealed.raw");
        Tool::new("qemu-img")
            .args(["convert", "-O", "raw"])
            .arg(image)
            .arg(&raw)
            .limit(UNPACK_LIMIT)
            .run()?;
        let table = Tool::new("sfdisk").arg("--json").arg(&raw).run()?.text();
        let root_offset_bytes = root_start(&table).ok_or_else(|| {
            let message = "has no partition called root: it was not made by `provision image base`";
            ImageError::description(image.display().to_string(), message)
        })? * SECTOR_BYTES;
        let mut sealed = Self {
            raw,
            root_offset_bytes,
            users: BTreeMap::new(),
            groups: BTreeMap::new(),
        };
        sealed.users = names_by_id(&sealed.read_text("/etc/passwd")?);
        sealed.groups = names_by_id(&sealed.read_text("/etc/group")?);
        Ok(sealed)
    }

    /// Text of a file in the image; empty when there is none.
    pub(super) fn read_text(&self, path: &str) -> Result<String, ImageError> {
        let outcome = self.debugfs(&format!("cat \"{path}\""))?;
        Ok(String::from_utf8_lossy(&outcome).into_owned())
    }

    /// Takes the kernel out, for a trial of KVM.
    pub(super) fn kernel(&self, to: &Path) -> Result<Option<PathBuf>, ImageError> {
        let folder = self.list("/boot")?;
        let Some((name, _)) = folder.iter().find(|(name, _)| name.starts_with("vmlinuz")) else {
            return Ok(None);
        };
        let kernel = to.join("vmlinuz");
        self.debugfs(&format!("dump \"/boot/{name}\" \"{}\"", kernel.display()))?;
        Ok(Some(kernel))
    }

    fn list(&self, folder: &str) -> Result<Vec<(String, Entry)>, ImageError> {
        let listing = self.debugfs(&format!("ls -p \"{folder}\""))?;
        let listing = String::from_utf8_lossy(&listing);
        Ok(listing
            .lines()
            .filter_map(|line| self.listed(line))
            .collect())
    }

    /// A line of `ls -p`: `/inode/mode/user/group/name/size/`, the mode in octal.
    fn listed(&self, line: &str) -> Option<(String, Entry)> {
        let fields: Vec<&str> = line.split('/').collect();
        let [_, _, mode, user, group, name, size, ..] = fields[..] else {
            return None;
        };
        if name == "." || name == ".." || name.is_empty() {
            return None;
        }
        let (user, group): (u32, u32) = (user.parse().ok()?, group.parse().ok()?);
        let named = |names: &BTreeMap<u32, String>, id: u32| {
            names.get(&id).cloned().unwrap_or_else(|| id.to_string())
        };
        let entry = Entry {
            mode: u32::from_str_radix(mode, 8).ok()?,
            owner: format!(
                "{}:{}",
                named(&self.users, user),
                named(&self.groups, group)
            ),
            // Folders have no size here.
            bytes: size.parse().unwrap_or(0),
        };
        Some((name.to_owned(), entry))
    }

    fn debugfs(&self, request: &str) -> Result<Vec<u8>, ImageError> {
        let place = format!("{}?offset={}", self.raw.display(), self.root_offset_bytes);
        Ok(Tool::new("debugfs")
            .arg("-R")
            .arg(request)
            .arg(place)
            .run()?
            .output)
    }
}

impl Place for SealedImage {
    fn entry(&self, path: &str) -> Result<Option<Entry>, String> {
        let Some((folder, name)) = path.rsplit_once('/') else {
            return Err(format!("{path} is no absolute path"));
        };
        let folder = if folder.is_empty() { "/" } else { folder };
        let entries = self.list(folder).map_err(|error| error.to_string())?;
        Ok(entries
            .into_iter()
            .find(|(found, _)| found == name)
            .map(|(_, entry)| entry))
    }

    fn names(&self, folder: &str) -> Result<Vec<String>, String> {
        let entries = self.list(folder).map_err(|error| error.to_string())?;
        Ok(entries.into_iter().map(|(name, _)| name).collect())
    }
}

impl Drop for SealedImage {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.raw).map_err(file("remove", &self.raw)) {
            super::progress::say(&error.to_string());
        }
    }
}

fn root_start(table: &str) -> Option<u64> {
    let table: Value = serde_json::from_str(table).ok()?;
    let partitions = table["partitiontable"]["partitions"].as_array()?;
    partitions
        .iter()
        .find(|partition| partition["name"] == "root")?["start"]
        .as_u64()
}

/// Names out of a file like /etc/passwd: `name:x:id:…`.
fn names_by_id(text: &str) -> BTreeMap<u32, String> {
    let pair = |line: &str| {
        let fields: Vec<&str> = line.split(':').collect();
        Some((fields.get(2)?.parse().ok()?, (*fields.first()?).to_owned()))
    };
    text.lines().filter_map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::base::Layout;
    use crate::image::check::Checks;

    /// A whole small image: the places of the files, their owners and modes come back as they were
    /// put in.
    #[test]
    fn a_finished_image_shows_its_files_without_being_booted() {
        let folder = tempfile::tempdir().expect("a folder can be made");
        let tree = folder.path().join("tree");
        for (path, text) in [
            ("etc/passwd", "root:x:0:0::/root:/bin/sh\n"),
            ("etc/group", "root:x:0:\n"),
            ("etc/machine-id", ""),
            ("boot/vmlinuz-1", "kernel"),
        ] {
            let path = tree.join(path);
            fs::create_dir_all(path.parent().expect("it has one")).expect("it can be made");
            fs::write(path, text).expect("it can be written");
        }
        fs::create_dir_all(tree.join("var/empty")).expect("it can be made");
        let image = folder.path().join("image.raw");
        make_image(&tree, &image);

        let sealed = SealedImage::open(&image, folder.path()).expect("it is an image");
        let checks = Checks::parse(
            "checks.toml",
            "[[sealed]]\nfile = '/etc/machine-id'\nempty = true\n\
             [[sealed]]\nfile = '/etc/passwd'\nempty = false\n\
             [[sealed]]\nfolder = '/var/empty'\nempty = true\n\
             [[sealed]]\nabsent = '/etc/hostname'\n",
        )
        .expect("they are right");
        for check in &checks.sealed {
            let verdict = check.verdict(&sealed);
            assert!(verdict.passed, "{verdict:?}");
        }
        let wrong = Checks::parse(
            "checks.toml",
            "[[sealed]]\nfile = '/etc/passwd'\nempty = true\n\
             [[sealed]]\nabsent = '/boot/vmlinuz-1'\n\
             [[sealed]]\nfolder = '/boot'\nwithout_prefix = 'vmlinuz'\n",
        )
        .expect("they are right");
        for check in &wrong.sealed {
            assert!(!check.verdict(&sealed).passed, "{check:?}");
        }
        let kernel = sealed
            .kernel(folder.path())
            .expect("it can be read")
            .expect("it is there");
        assert_eq!(
            fs::read_to_string(kernel).expect("it can be read"),
            "kernel"
        );
    }

    fn make_image(tree: &Path, image: &Path) {
        let layout = Layout::of_disk(1 << 30);
        let disk = fs::File::create(image).expect("it can be made");
        disk.set_len(1 << 30).expect("it can grow");
        let offset = layout.root.offset_bytes();
        Tool::new("mke2fs")
            .args([
                "-q",
                "-F",
                "-t",
                "ext4",
                "-E",
                &format!("offset={offset}"),
                "-d",
            ])
            .arg(tree)
            .arg(image)
            .arg("100M")
            .run()
            .expect("mke2fs runs");
        let script = format!("label: gpt\nstart={}, name=root\n", offset / SECTOR_BYTES);
        Tool::new("sfdisk")
            .arg("--quiet")
            .arg(image)
            .input(script)
            .run()
            .expect("sfdisk runs");
    }
}
