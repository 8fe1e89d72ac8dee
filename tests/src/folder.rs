//! Data directories: temporary, copied, compared.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::member::free_port;

/// The data directory of one member and what identifies it. It disappears with the last value that
/// names it.
#[derive(Debug)]
pub struct Folder {
    temporary: TempDir,
    data: PathBuf,
    /// The peer port that the member advertises, from which its id is computed.
    pub(crate) advertised_peer_port: u16,
}

impl Folder {
    /// For a new cluster of one.
    ///
    /// # Panics
    /// If there is no room for temporary files.
    pub fn new() -> Folder {
        let temporary = tempfile::Builder::new().prefix("holdfast-test-").tempdir();
        let temporary = temporary.expect("a temporary folder can be made");
        Folder {
            data: temporary.path().join("data"),
            temporary,
            advertised_peer_port: free_port(),
        }
    }

    /// For a new cluster of one whose data lie elsewhere, as on a file system of their own. They stay
    /// when the folder goes.
    pub fn with_data_at(data: PathBuf) -> Folder {
        Folder {
            data,
            ..Folder::new()
        }
    }

    /// Where the member's peers reach it, if it listens there.
    pub fn peer_url(&self) -> String {
        format!("http://{}", self.peer_endpoint())
    }

    /// `host:port` where the member's peers reach it, if it listens there.
    pub fn peer_endpoint(&self) -> String {
        format!("127.0.0.1:{}", self.advertised_peer_port)
    }

    /// The data directory itself; it need not exist yet.
    pub fn data(&self) -> PathBuf {
        self.data.clone()
    }

    /// A place beside the data directory, for logs and backups.
    pub fn beside(&self, name: &str) -> PathBuf {
        self.temporary.path().join(name)
    }

    /// The database file.
    pub fn database(&self) -> PathBuf {
        self.data().join("member/snap/db")
    }

    /// The files of the write-ahead log, oldest first, without the prepared ones.
    ///
    /// # Panics
    /// If the folder cannot be read.
    pub fn segments(&self) -> Vec<PathBuf> {
        let listed = fs::read_dir(self.data().join("member/wal")).expect("there is a log");
        let mut segments: Vec<PathBuf> = listed
            .map(|entry| entry.expect("a folder can be read").path())
            .filter(|path| path.extension().is_some_and(|extension| extension == "wal"))
            .collect();
        segments.sort();
        segments
    }

    /// A copy of all files as they are now, for another member with the same identity.
    ///
    /// # Panics
    /// If a file cannot be copied.
    pub fn copy(&self) -> Folder {
        let copy = Folder {
            advertised_peer_port: self.advertised_peer_port,
            ..Folder::new()
        };
        copy_tree(&self.data(), &copy.data());
        copy
    }

    /// Every file's path and content, to see whether anything changed.
    ///
    /// # Panics
    /// If a file cannot be read.
    pub fn contents(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let mut found = BTreeMap::new();
        collect(&self.data(), &mut found);
        found
    }
}

impl Default for Folder {
    fn default() -> Self {
        Folder::new()
    }
}

fn copy_tree(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a folder can be made");
    let permissions = fs::metadata(from)
        .expect("the folder is there")
        .permissions();
    fs::set_permissions(to, permissions).expect("a mode can be set");
    for entry in fs::read_dir(from).expect("a folder can be read") {
        let entry = entry.expect("a folder can be read");
        let target = to.join(entry.file_name());
        if entry.file_type().expect("a file has a type").is_dir() {
            copy_tree(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), &target).expect("a file can be copied");
        }
    }
}

fn collect(folder: &Path, found: &mut BTreeMap<PathBuf, Vec<u8>>) {
    for entry in fs::read_dir(folder).expect("a folder can be read") {
        let path = entry.expect("a folder can be read").path();
        if path.is_dir() {
            found.insert(path.clone(), Vec::new());
            collect(&path, found);
        } else {
            found.insert(path.clone(), fs::read(&path).expect("a file can be read"));
        }
    }
}
