//! Where a path lies: the file system, and below it the devices down to the last.
//!
//! The chain is read from sysfs: `/sys/dev/block/M:m`, from a partition to its disk, then over
//! `slaves/` (device mapper, md) to devices that have none. The worst of these decides.

use std::fmt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Deeper stacks of block devices than this do not exist in earnest; a loop would.
const STACK_DEPTH_MAX: usize = 16;

/// Where a path lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) filesystem: Filesystem,
    /// The folder that the file system is mounted on, and the source it was mounted from.
    pub(crate) mount: Option<Mount>,
    /// The devices at the bottom, none for file systems without a device.
    pub(crate) leaves: Vec<Leaf>,
}

/// A line of `/proc/self/mountinfo`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mount {
    pub(crate) folder: PathBuf,
    pub(crate) kind: String,
    pub(crate) source: String,
    device: (u64, u64),
}

/// The kinds of file systems that matter for a database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Filesystem {
    /// ext4, xfs: overwritten in place.
    InPlace(&'static str),
    /// btrfs, zfs: every write moves the page.
    CopyOnWrite(&'static str),
    /// Gone with the power.
    Memory(&'static str),
    /// Another machine's.
    Network(&'static str),
    /// A container's layers.
    Overlay,
    /// Whatever program serves it.
    Fuse,
    Other(i64),
}

/// A device with nothing below it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Leaf {
    pub(crate) name: String,
    pub(crate) kind: LeafKind,
    /// What the kind was read from.
    pub(crate) evidence: String,
}

/// What a device is, from good to bad.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum LeafKind {
    LocalSsd,
    /// A cloud's local disk: fast, and empty after a stop.
    LocalEphemeral,
    /// A guest cannot see what is behind its virtual disk.
    Unknown,
    LocalRotational,
    Remote,
    Memory,
}

impl fmt::Display for Filesystem {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Filesystem::InPlace(name)
            | Filesystem::CopyOnWrite(name)
            | Filesystem::Memory(name)
            | Filesystem::Network(name) => formatter.write_str(name),
            Filesystem::Overlay => formatter.write_str("overlay"),
            Filesystem::Fuse => formatter.write_str("fuse"),
            Filesystem::Other(magic) => write!(formatter, "type {magic:#x}"),
        }
    }
}

impl LeafKind {
    pub(crate) fn word(self) -> &'static str {
        match self {
            LeafKind::LocalSsd => "local SSD",
            LeafKind::LocalEphemeral => "local SSD of a cloud instance",
            LeafKind::Unknown => "virtual or unknown",
            LeafKind::LocalRotational => "rotating disk",
            LeafKind::Remote => "remote block device",
            LeafKind::Memory => "memory",
        }
    }
}

/// The deepest folder on the way to `path` that exists.
pub(crate) fn existing_ancestor(path: &Path) -> PathBuf {
    let mut folder = path;
    while !folder.exists() {
        match folder.parent() {
            Some(parent) => folder = parent,
            None => return PathBuf::from("/"),
        }
    }
    folder.to_owned()
}

/// Where `path`, or the folder it will be made in, lies. `proc` and `sys` are `/proc` and `/sys`.
///
/// # Errors
/// When the file system does not answer.
pub(crate) fn place(path: &Path, proc: &Path, sys: &Path) -> std::io::Result<Place> {
    let folder = existing_ancestor(path).canonicalize()?;
    let kind = nix::sys::statfs::statfs(&folder)?.filesystem_type();
    let device = std::fs::metadata(&folder)?.dev();
    let device = (nix::sys::stat::major(device), nix::sys::stat::minor(device));
    let mountinfo = std::fs::read_to_string(proc.join("self/mountinfo")).unwrap_or_default();
    let mount = mount_of(&mountinfo, &folder, device);
    // btrfs shows a device number of its own; the mount's source is the block device.
    let device = match (&mount, device.0) {
        (Some(mount), 0) => number_of(&mount.source, sys),
        _ => Some(device),
    };
    let leaves = device.map_or_else(Vec::new, |device| leaves(sys, device));
    Ok(Place {
        filesystem: filesystem(kind.0),
        mount,
        leaves,
    })
}

fn filesystem(magic: i64) -> Filesystem {
    match magic {
        0xef53 => Filesystem::InPlace("ext4"),
        0x5846_5342 => Filesystem::InPlace("xfs"),
        0x9123_683e => Filesystem::CopyOnWrite("btrfs"),
        0x2fc1_2fc1 => Filesystem::CopyOnWrite("zfs"),
        0x0102_1994 => Filesystem::Memory("tmpfs"),
        0x8584_58f6 => Filesystem::Memory("ramfs"),
        0x794c_7630 => Filesystem::Overlay,
        0x6573_5546 => Filesystem::Fuse,
        0x6969 => Filesystem::Network("nfs"),
        0xff53_4d42 | 0xfe53_4d42 => Filesystem::Network("cifs"),
        0x0102_1997 => Filesystem::Network("9p"),
        0x00c3_6400 => Filesystem::Network("ceph"),
        other => Filesystem::Other(other),
    }
}

/// The mount that `folder` lies in: of those with its device the one nearest to it.
fn mount_of(mountinfo: &str, folder: &Path, device: (u64, u64)) -> Option<Mount> {
    mountinfo
        .lines()
        .filter_map(parse_mount)
        .filter(|mount| mount.device == device && folder.starts_with(&mount.folder))
        .max_by_key(|mount| mount.folder.components().count())
}

/// `36 35 98:0 /root /mnt rw,noatime master:1 - ext3 /dev/root rw,errors=continue`
fn parse_mount(line: &str) -> Option<Mount> {
    let (left, right) = line.split_once(" - ")?;
    let mut left = left.split(' ').skip(2);
    let (major, minor) = left.next()?.split_once(':')?;
    let folder = PathBuf::from(unescape(left.nth(1)?));
    let mut right = right.split(' ');
    Some(Mount {
        folder,
        kind: right.next()?.to_owned(),
        source: unescape(right.next()?),
        device: (major.parse().ok()?, minor.parse().ok()?),
    })
}

/// Blanks and backslashes in mountinfo are written as `\040`.
fn unescape(text: &str) -> String {
    text.replace("\\040", " ")
        .replace("\\011", "\t")
        .replace("\\134", "\\")
}

fn number_of(source: &str, sys: &Path) -> Option<(u64, u64)> {
    let name = Path::new(source).strip_prefix("/dev").ok()?;
    let text = std::fs::read_to_string(sys.join("class/block").join(name).join("dev")).ok()?;
    let (major, minor) = text.trim().split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// The devices at the bottom of the stack that begins with `device`.
fn leaves(sys: &Path, device: (u64, u64)) -> Vec<Leaf> {
    let link = sys.join(format!("dev/block/{}:{}", device.0, device.1));
    let mut found = Vec::new();
    if let Ok(folder) = link.canonicalize() {
        descend(&folder, STACK_DEPTH_MAX, &mut found);
    }
    found
}

fn descend(folder: &Path, depth: usize, found: &mut Vec<Leaf>) {
    let disk = match folder.join("partition").exists() {
        true => folder.parent().unwrap_or(folder),
        false => folder,
    };
    let below: Vec<PathBuf> = std::fs::read_dir(disk.join("slaves"))
        .map(|entries| {
            entries
                .filter_map(|entry| entry.ok()?.path().canonicalize().ok())
                .collect()
        })
        .unwrap_or_default();
    if below.is_empty() || depth == 0 {
        found.push(leaf(disk));
        return;
    }
    for device in below {
        descend(&device, depth - 1, found);
    }
}

fn leaf(disk: &Path) -> Leaf {
    let name = disk
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let (kind, evidence) = classify(disk, &name);
    Leaf {
        name,
        kind,
        evidence,
    }
}

fn classify(disk: &Path, name: &str) -> (LeafKind, String) {
    let read = |path: &str| {
        std::fs::read_to_string(disk.join(path))
            .map(|text| text.trim().to_owned())
            .ok()
    };
    let starts = |prefixes: &[&str]| prefixes.iter().any(|prefix| name.starts_with(prefix));
    if starts(&["rbd", "nbd", "drbd"]) {
        return (LeafKind::Remote, format!("a {name} device"));
    }
    if starts(&["zram", "ram"]) {
        return (LeafKind::Memory, format!("a {name} device"));
    }
    if let Some(file) = read("loop/backing_file") {
        return (LeafKind::Unknown, format!("a loop device over {file}"));
    }
    let path = disk.to_string_lossy();
    for (part, what) in [("/session", "iSCSI"), ("/rport-", "Fibre Channel")] {
        if path.contains(part) {
            return (LeafKind::Remote, what.to_owned());
        }
    }
    if name.starts_with("nvme") {
        return classify_nvme(
            read("device/transport").as_deref(),
            &read("device/model").unwrap_or_default(),
        );
    }
    if path.contains("/virtio") || name.starts_with("xvd") {
        return (
            LeafKind::Unknown,
            "a virtual disk; a guest cannot see what is behind it".to_owned(),
        );
    }
    let model = format!(
        "{} {}",
        read("device/vendor").unwrap_or_default(),
        read("device/model").unwrap_or_default()
    );
    let model = model.trim();
    for (mark, kind) in SCSI_MODELS {
        if model.contains(mark) {
            return (kind, format!("model {model:?}"));
        }
    }
    match read("queue/rotational").as_deref() {
        Some("0") => (
            LeafKind::LocalSsd,
            format!("not rotational, model {model:?}"),
        ),
        Some("1") => (
            LeafKind::LocalRotational,
            format!("rotational, model {model:?}"),
        ),
        _ => (LeafKind::Unknown, "sysfs says nothing of it".to_owned()),
    }
}

/// What clouds and hypervisors call their SCSI disks.
const SCSI_MODELS: [(&str, LeafKind); 5] = [
    ("PersistentDisk", LeafKind::Remote),
    ("EphemeralDisk", LeafKind::LocalEphemeral),
    ("Virtual Disk", LeafKind::Unknown),
    ("VMware", LeafKind::Unknown),
    ("QEMU", LeafKind::Unknown),
];

/// What clouds call their NVMe disks. Longer marks stand before their beginnings.
const NVME_MODELS: [(&str, LeafKind); 7] = [
    ("Amazon Elastic Block Store", LeafKind::Remote),
    ("Amazon EC2 NVMe Instance Storage", LeafKind::LocalEphemeral),
    ("nvme_card-pd", LeafKind::Remote),
    ("nvme_card", LeafKind::LocalEphemeral),
    ("MSFT NVMe Accelerator", LeafKind::Remote),
    ("Microsoft NVMe Direct Disk", LeafKind::LocalEphemeral),
    ("QEMU", LeafKind::Unknown),
];

fn classify_nvme(transport: Option<&str>, model: &str) -> (LeafKind, String) {
    if let Some(transport @ ("tcp" | "rdma" | "fc")) = transport {
        return (LeafKind::Remote, format!("NVMe over {transport}"));
    }
    let known = NVME_MODELS.iter().find(|(mark, _)| model.starts_with(mark));
    let kind = known.map_or(LeafKind::LocalSsd, |(_, kind)| *kind);
    (kind, format!("NVMe, model {model:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A sysfs in which `8:1` is the partition `NAME1` of a disk with these files.
    fn sysfs(bus: &str, name: &str, files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().expect("temporary folder");
        let disk = root
            .path()
            .join("devices")
            .join(bus)
            .join("block")
            .join(name);
        let partition = disk.join(format!("{name}1"));
        std::fs::create_dir_all(&partition).expect("partition");
        std::fs::write(partition.join("partition"), "1\n").expect("partition number");
        for (path, text) in files {
            let path = disk.join(path);
            std::fs::create_dir_all(path.parent().expect("parent")).expect("folder");
            std::fs::write(path, format!("{text}\n")).expect("attribute");
        }
        std::fs::create_dir_all(root.path().join("dev/block")).expect("numbers");
        std::os::unix::fs::symlink(&partition, root.path().join("dev/block/8:1")).expect("link");
        root
    }

    #[track_caller]
    fn check(bus: &str, name: &str, files: &[(&str, &str)], expected: LeafKind) {
        let root = sysfs(bus, name, files);
        let found = leaves(root.path(), (8, 1));
        let kinds: Vec<LeafKind> = found.iter().map(|leaf| leaf.kind).collect();
        assert_eq!(kinds, [expected], "{found:?}");
        assert_eq!(found[0].name, name);
    }

    #[test]
    fn a_device_is_known_by_its_path_its_name_and_its_model() {
        use LeafKind::*;
        let rotational = |value| [("queue/rotational", value)];
        check("pci0/ata1", "sda", &rotational("0"), LocalSsd);
        check("pci0/ata1", "sda", &rotational("1"), LocalRotational);
        check("pci0/virtio1", "vda", &rotational("1"), Unknown);
        check("pci0/host0/session1", "sda", &rotational("0"), Remote);
        check("pci0/rport-0:0-1", "sda", &rotational("0"), Remote);
        check("virtual", "rbd0", &rotational("0"), Remote);
        check(
            "pci0/nvme/nvme0",
            "nvme0n1",
            &[("device/transport", "tcp")],
            Remote,
        );
        check(
            "pci0/nvme/nvme0",
            "nvme0n1",
            &[("device/transport", "pcie")],
            LocalSsd,
        );
        let model = |model| [("device/model", model), ("queue/rotational", "0")];
        check(
            "pci0/nvme/nvme0",
            "nvme0n1",
            &model("Amazon Elastic Block Store"),
            Remote,
        );
        check("pci0/nvme/nvme0", "nvme0n1", &model("nvme_card-pd"), Remote);
        check(
            "pci0/nvme/nvme0",
            "nvme0n1",
            &model("nvme_card0"),
            LocalEphemeral,
        );
        check("pci0/host0", "sda", &model("PersistentDisk"), Remote);
    }

    #[test]
    fn a_stack_of_devices_is_followed_to_every_disk_at_its_bottom() {
        let root = sysfs("pci0/ata1", "sda", &[("queue/rotational", "0")]);
        let mapper = root.path().join("devices/virtual/block/dm-0");
        std::fs::create_dir_all(mapper.join("slaves")).expect("mapper");
        let remote = root.path().join("devices/virtual/block/nbd0");
        std::fs::create_dir_all(&remote).expect("remote");
        let disk = root.path().join("devices/pci0/ata1/block/sda/sda1");
        std::os::unix::fs::symlink(disk, mapper.join("slaves/sda1")).expect("link");
        std::os::unix::fs::symlink(remote, mapper.join("slaves/nbd0")).expect("link");
        std::os::unix::fs::symlink(&mapper, root.path().join("dev/block/253:0")).expect("link");
        let mut kinds: Vec<LeafKind> = leaves(root.path(), (253, 0))
            .iter()
            .map(|leaf| leaf.kind)
            .collect();
        kinds.sort();
        assert_eq!(kinds, [LeafKind::LocalSsd, LeafKind::Remote]);
    }

    #[test]
    fn the_nearest_mount_of_the_device_counts() {
        let mountinfo = "\
22 1 254:0 / / rw - ext4 /dev/vda rw
30 22 254:16 / /var/lib rw - xfs /dev/vdb rw
31 22 0:40 / /var/lib/x\\040y rw - tmpfs tmpfs rw
";
        let mount = mount_of(mountinfo, Path::new("/var/lib/holdfast"), (254, 16));
        let mount = mount.expect("mount");
        assert_eq!(
            (mount.folder.as_path(), mount.kind.as_str()),
            (Path::new("/var/lib"), "xfs")
        );
        let mount = mount_of(mountinfo, Path::new("/var/lib/x y/z"), (0, 40)).expect("mount");
        assert_eq!(mount.source, "tmpfs");
        assert_eq!(mount_of(mountinfo, Path::new("/srv"), (9, 9)), None);
    }

    #[test]
    fn this_machine_s_own_folders_are_found() {
        let found = place(
            Path::new("/proc/no/such"),
            Path::new("/proc"),
            Path::new("/sys"),
        );
        assert!(matches!(
            found.expect("proc").filesystem,
            Filesystem::Other(0x9fa0)
        ));
    }
}
