//! The names of the checks, as the configuration, the table and machines know them.

use std::fmt;

/// One check of a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum CheckId {
    /// What kind of device the data lie on.
    DiskDevice,
    /// What kind of file system the data lie on.
    DiskFilesystem,
    /// How long a synced write takes, 99 of 100 times.
    DiskFsyncP99,
    /// How many synced writes a second one writer gets.
    DiskFsyncIops,
    /// Whether there is room for the quota and its copies.
    DiskFree,
    /// Whether others write to the same file system.
    DiskShared,
    /// Whether the memory holds the database.
    MemoryTotal,
    /// Whether memory can be swapped out.
    MemorySwap,
    /// Whether transparent huge pages are forced on everybody.
    MemoryHugePages,
    /// How many processors there are.
    CpuCount,
    /// How many files the server may open.
    LimitNofile,
    /// Whether the clock follows a time source.
    ClockSync,
    /// Whether the ports are free, or ours.
    NetPorts,
    /// Whether the quota is sane.
    Quota,
    /// What lies in the data folder.
    DataState,
    /// Whether systemd is there and new enough.
    SystemSystemd,
}

impl CheckId {
    /// Every check, in the order of the report.
    pub(crate) const ALL: [CheckId; 16] = [
        CheckId::DiskDevice,
        CheckId::DiskFilesystem,
        CheckId::DiskFsyncP99,
        CheckId::DiskFsyncIops,
        CheckId::DiskFree,
        CheckId::DiskShared,
        CheckId::MemoryTotal,
        CheckId::MemorySwap,
        CheckId::MemoryHugePages,
        CheckId::CpuCount,
        CheckId::LimitNofile,
        CheckId::ClockSync,
        CheckId::NetPorts,
        CheckId::Quota,
        CheckId::DataState,
        CheckId::SystemSystemd,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            CheckId::DiskDevice => "disk.device",
            CheckId::DiskFilesystem => "disk.filesystem",
            CheckId::DiskFsyncP99 => "disk.fsync_p99",
            CheckId::DiskFsyncIops => "disk.fsync_iops",
            CheckId::DiskFree => "disk.free",
            CheckId::DiskShared => "disk.shared",
            CheckId::MemoryTotal => "mem.total",
            CheckId::MemorySwap => "mem.swap",
            CheckId::MemoryHugePages => "mem.thp",
            CheckId::CpuCount => "cpu.count",
            CheckId::LimitNofile => "limit.nofile",
            CheckId::ClockSync => "clock.sync",
            CheckId::NetPorts => "net.ports",
            CheckId::Quota => "quota",
            CheckId::DataState => "data.state",
            CheckId::SystemSystemd => "sys.systemd",
        }
    }

    pub(crate) fn by_name(name: &str) -> Option<CheckId> {
        CheckId::ALL.into_iter().find(|id| id.name() == name)
    }
}

impl fmt::Display for CheckId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}
