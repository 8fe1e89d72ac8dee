//! Files and folders, as far as the engine needs them.
//!
//! [`Disk`] is the only door to the outside. [`real::RealDisk`] is the machine's file system;
//! [`simulated::SimulatedDisk`] keeps what was written apart from what was synced, so that a test can
//! lose power at any call.

pub mod map;
pub mod real;
pub mod simulated;

use std::io;
use std::path::Path;
use std::sync::Arc;

use map::Map;

/// How [`Disk::open`] opens a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Open {
    /// An existing file, for reading only.
    Read,
    /// An existing file, for reading and writing.
    Write,
    /// A new file (mode 0600), for reading and writing; fails when the name exists.
    Create,
}

/// Which lock [`File::lock`] takes. The two kinds are those that etcd takes, so that two servers
/// never share a data directory, whichever product they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lock {
    /// flock(2), exclusive: the database file of a serving member.
    Exclusive,
    /// flock(2), shared: the database file, opened for reading only.
    Shared,
    /// An open-file-description write lock over the whole file: log segments open for appending.
    OpenFileDescription,
}

/// A file system. All errors are the operating system's own.
pub trait Disk: Send + Sync + 'static {
    /// Opens or creates the file at `path`.
    fn open(&self, path: &Path, how: Open) -> io::Result<Arc<dyn File>>;
    /// Creates the folder at `path` (mode 0700); its parent must exist. Fails when it exists.
    fn create_dir(&self, path: &Path) -> io::Result<()>;
    /// Gives the file or folder `from` the name `to`, replacing a file that has that name.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes the name of a file.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Removes a folder and all that lies in it.
    fn remove_dir(&self, path: &Path) -> io::Result<()>;
    /// Makes the names in the folder `path` durable.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;
    /// The names in the folder `path`, in byte order.
    fn list(&self, path: &Path) -> io::Result<Vec<String>>;
    /// Whether a file or folder with this name exists.
    fn exists(&self, path: &Path) -> io::Result<bool>;
}

/// An open file. Writers and readers of one file may live on different threads.
pub trait File: Send + Sync {
    /// Size in bytes.
    fn size(&self) -> io::Result<u64>;
    /// Cuts the file or grows it with a hole of zeros.
    fn set_size(&self, size: u64) -> io::Result<()>;
    /// Reserves blocks so that the file has at least `size` bytes; new bytes read as zero.
    fn allocate(&self, size: u64) -> io::Result<()>;
    /// Fills `buffer` from `offset`; a file that ends before is an `UnexpectedEof`.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;
    /// Writes all of `bytes` at `offset`.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// fdatasync(2): returns once all bytes written before, and the size, are durable. After a
    /// failure nothing is known about those bytes and the caller must stop.
    fn sync(&self) -> io::Result<()>;
    /// A read-only, shared view of the first `size` bytes of address space, which may be more than
    /// the file has; touching bytes beyond the end of the file is an error of the caller.
    fn map(&self, size: u64) -> io::Result<Arc<Map>>;
    /// Takes the lock without waiting; false when somebody else holds it. It ends with the file.
    fn lock(&self, lock: Lock) -> io::Result<bool>;
}
