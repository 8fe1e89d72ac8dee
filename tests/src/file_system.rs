//! File systems of a test's own, which it may fill, cut off and break.
//!
//! Mounting needs root, and images need loop devices. Where these are missing a test says so and is
//! passed over, but not with `CI` in the environment: there it fails. See [`FileSystem::or_pass_over`].

use std::ffi::OsStr;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::fcntl::{FallocateFlags, fallocate};
use nix::sys::statvfs::statvfs;
use tempfile::TempDir;

/// Cuts a file system off as a power loss would: nothing is written any more, the journal neither.
/// The request is FS_IOC_SHUTDOWN with EXT4_GOING_FLAGS_NOLOGFLUSH.
const SHUT_DOWN: &str = "
import fcntl, os, struct, sys
fcntl.ioctl(os.open(sys.argv[1], os.O_RDONLY), 0x8004587d, struct.pack('I', 2))
";

/// A mounted file system. It is unmounted when the value goes, even if somebody still uses it; its loop
/// device goes with it.
#[derive(Debug)]
pub struct FileSystem {
    source: Source,
    mounted: bool,
    place: TempDir,
}

#[derive(Debug)]
enum Source {
    Memory,
    Image(PathBuf),
}

impl FileSystem {
    /// In memory, with room for so much.
    ///
    /// # Errors
    /// What the system said, when it cannot mount.
    pub fn in_memory(mebibytes: u64) -> Result<FileSystem, String> {
        let mut made = FileSystem::new(Source::Memory);
        let size = format!("size={mebibytes}m");
        let arguments = ["-t", "tmpfs", "-o", &size, "holdfast-test"].map(OsStr::new);
        made.mount(&arguments)?;
        Ok(made)
    }

    /// ext4 in the new file `image`, which takes room where it lies only as it is written.
    ///
    /// # Errors
    /// What the system said, when it cannot make the image or mount it.
    pub fn ext4(image: &Path, mebibytes: u64) -> Result<FileSystem, String> {
        let size = format!("{mebibytes}M");
        // A small journal and few inodes: they take room from the first mount on.
        let options = "-q -J size=4 -m 0 -N 512 -E nodiscard";
        let mut arguments: Vec<&OsStr> = options.split(' ').map(OsStr::new).collect();
        arguments.extend([image.as_os_str(), size.as_ref()]);
        run("mkfs.ext4", &arguments)?;
        let mut made = FileSystem::new(Source::Image(image.to_owned()));
        made.mount_image()?;
        Ok(made)
    }

    /// What was made, or `None` where this machine cannot make it, said so that everybody sees it.
    ///
    /// # Panics
    /// If it cannot, and this is CI.
    pub fn or_pass_over<T>(made: Result<T, String>, test: &str) -> Option<T> {
        match made {
            Ok(made) => Some(made),
            Err(why) => {
                let said = format!("SKIPPED {test}: this machine cannot mount: {why}\n");
                assert!(std::env::var_os("CI").is_none(), "{said}");
                // Past the capture of output, which would show it to nobody.
                let _ = std::io::stderr().write_all(said.as_bytes());
                None
            }
        }
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        self.place.path()
    }

    /// Takes all room but so much with a file, which gives it back when it is removed.
    ///
    /// # Panics
    /// If there is less room already.
    pub fn fill_up_to(&self, bytes_left: u64) -> PathBuf {
        let filler = self.path().join("filler");
        let file = File::create_new(&filler).expect("a file can be made");
        let room = statvfs(self.path()).expect("it is mounted");
        let bytes = room.blocks_available() * room.fragment_size() - bytes_left;
        let bytes = i64::try_from(bytes).expect("test file systems are small");
        fallocate(&file, FallocateFlags::empty(), 0, bytes).expect("there is room");
        filler
    }

    /// Gives a file system in memory another size.
    ///
    /// # Panics
    /// If the system refuses.
    pub fn resize(&self, mebibytes: u64) {
        let options = format!("remount,size={mebibytes}m");
        let arguments = ["-o".as_ref(), options.as_ref(), self.path().as_os_str()];
        run("mount", &arguments).expect("a mounted file system can be resized");
    }

    /// Cuts it off from its disk: what was synced stays, what was not is lost, and every call fails.
    ///
    /// # Panics
    /// If the system refuses.
    pub fn lose_power(&self) {
        let arguments = ["-c".as_ref(), SHUT_DOWN.as_ref(), self.path().as_os_str()];
        run("python3", &arguments).expect("ext4 can be shut down");
    }

    /// Unmounts it, with nobody using it any more.
    ///
    /// # Panics
    /// If the system refuses.
    pub fn unmount(&mut self) {
        run("umount", &[self.path().as_os_str()]).expect("nobody uses it any more");
        self.mounted = false;
    }

    /// Mounts an image again that was unmounted.
    ///
    /// # Panics
    /// If the system refuses.
    pub fn mount_again(&mut self) {
        self.mount_image().expect("it was mounted before");
    }

    fn new(source: Source) -> FileSystem {
        let place = tempfile::Builder::new().prefix("holdfast-mount-").tempdir();
        FileSystem {
            source,
            mounted: false,
            place: place.expect("a temporary folder can be made"),
        }
    }

    fn mount_image(&mut self) -> Result<(), String> {
        let Source::Image(image) = &self.source else {
            panic!("what is in memory alone cannot be mounted again");
        };
        let image = image.clone();
        // The loop device is given back when nothing is mounted from it.
        self.mount(&[
            "-t".as_ref(),
            "ext4".as_ref(),
            "-o".as_ref(),
            "loop".as_ref(),
            image.as_os_str(),
        ])
    }

    fn mount(&mut self, arguments: &[&OsStr]) -> Result<(), String> {
        let mut arguments = arguments.to_vec();
        arguments.push(self.place.path().as_os_str());
        run("mount", &arguments)?;
        self.mounted = true;
        Ok(())
    }
}

impl Drop for FileSystem {
    fn drop(&mut self) {
        if self.mounted {
            // Nothing more can be done about one that stays.
            let _ = run("umount", &["-l".as_ref(), self.path().as_os_str()]);
        }
    }
}

fn run(program: &str, arguments: &[&OsStr]) -> Result<(), String> {
    let output = Command::new(program).args(arguments).output();
    let output = output.map_err(|error| format!("{program}: {error}"))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(format!(
            "{program}: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        )),
    }
}
