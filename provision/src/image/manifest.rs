//! What an image is and what is in it: a JSON file beside it.

use serde::Serialize;

/// One Debian package in the image.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Package {
    pub(super) name: String,
    pub(super) version: String,
    pub(super) architecture: String,
}

/// The manifest.
#[derive(Debug, Serialize)]
pub(super) struct Manifest {
    pub(super) schema: u32,
    pub(super) name: String,
    pub(super) file: String,
    pub(super) sha256: String,
    /// Bytes of the compressed file.
    pub(super) bytes: u64,
    /// Bytes of the disk that a guest sees.
    pub(super) disk_bytes: u64,
    pub(super) suite: String,
    /// Seconds since 1970.
    pub(super) created: u64,
    pub(super) server: Program,
    pub(super) provisioner: Program,
    pub(super) packages: Vec<Package>,
}

/// One of our programs in the image.
#[derive(Debug, Serialize)]
pub(super) struct Program {
    /// What it says about itself.
    pub(super) version: String,
    pub(super) sha256: String,
    pub(super) bytes: u64,
}

/// Installed packages out of dpkg's status file.
pub(super) fn packages(status: &str) -> Vec<Package> {
    let mut packages: Vec<Package> = status.split("\n\n").filter_map(package).collect();
    packages.sort_by(|one, other| one.name.cmp(&other.name));
    packages
}

fn package(paragraph: &str) -> Option<Package> {
    let field = |name: &str| {
        paragraph.lines().find_map(|line| {
            let (key, value) = line.split_once(": ")?;
            (key == name).then(|| value.to_owned())
        })
    };
    if field("Status")? != "install ok installed" {
        return None;
    }
    Some(Package {
        name: field("Package")?,
        version: field("Version")?,
        architecture: field("Architecture")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_installed_counts() {
        let status = "Package: b\nStatus: install ok installed\nArchitecture: amd64\nVersion: 1:2.0\n\
            Description: x\n more: text\n\n\
            Package: gone\nStatus: deinstall ok config-files\nArchitecture: amd64\nVersion: 1\n\n\
            Package: a\nStatus: install ok installed\nArchitecture: all\nVersion: 3\n";
        let found: Vec<_> = packages(status)
            .into_iter()
            .map(|package| (package.name, package.version))
            .collect();
        assert_eq!(
            found,
            [
                ("a".to_owned(), "3".to_owned()),
                ("b".to_owned(), "1:2.0".to_owned())
            ]
        );
    }
}
