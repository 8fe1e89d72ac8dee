//! Where the partitions lie.
//!
//! ```text
//! sector 0          protective MBR with GRUB's boot code
//!        1..33      GPT header and entries
//!        2048..4095 partition 1, BIOS boot: GRUB's core image
//!        4096..     partition 2, EFI system, FAT32
//!        ...        partition 3, root, ext4, to the end: it grows on a larger disk
//!        last 33    backup GPT
//! ```
//!
//! The BIOS boot partition could start at sector 34, right after the table. But systemd-repart
//! (seen with 252) rounds the first usable sector up to 4 KiB, overlooks a partition that starts
//! before that, takes its place for a gap and discards it: the guest's first boot grows its root
//! partition and erases its boot loader.

use std::fmt::Write;

/// Bytes of a sector, as the partition table counts.
pub(in super::super) const SECTOR_BYTES: u64 = 512;
/// Partitions start at whole MiB, so that no page of a flash disk is shared.
const ALIGNMENT_SECTORS: u64 = 2048;
/// GRUB's core image has a few hundred sectors.
const BIOS_BOOT_SECTORS: u64 = ALIGNMENT_SECTORS;
/// FAT32 needs at least 33 MiB; the boot loader takes a quarter of one.
const ESP_SECTORS: u64 = 64 * ALIGNMENT_SECTORS;
/// Header and entries of the backup table at the end.
const BACKUP_TABLE_SECTORS: u64 = 33;

/// Sectors from `start` on.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(in super::super) struct Span {
    pub(in super::super) start: u64,
    pub(in super::super) count: u64,
}

impl Span {
    /// Bytes before it on the disk.
    pub(in super::super) fn offset_bytes(self) -> u64 {
        self.start * SECTOR_BYTES
    }

    pub(super) fn bytes(self) -> u64 {
        self.count * SECTOR_BYTES
    }

    fn end(self) -> u64 {
        self.start + self.count
    }
}

/// The three partitions of a disk.
#[derive(Debug, Clone, PartialEq)]
pub(in super::super) struct Layout {
    pub(super) disk_bytes: u64,
    pub(super) bios_boot: Span,
    pub(super) esp: Span,
    pub(in super::super) root: Span,
}

impl Layout {
    /// Partitions of a disk of that many bytes, at least a GiB.
    pub(in super::super) fn of_disk(disk_bytes: u64) -> Self {
        let total = disk_bytes / SECTOR_BYTES;
        let bios_boot = Span {
            start: ALIGNMENT_SECTORS,
            count: BIOS_BOOT_SECTORS,
        };
        let esp = Span {
            start: bios_boot.end(),
            count: ESP_SECTORS,
        };
        let usable_end = (total - BACKUP_TABLE_SECTORS) / ALIGNMENT_SECTORS * ALIGNMENT_SECTORS;
        assert!(
            usable_end > esp.end(),
            "a disk of {disk_bytes} bytes holds no root partition"
        );
        let root = Span {
            start: esp.end(),
            count: usable_end - esp.end(),
        };
        Self {
            disk_bytes: total * SECTOR_BYTES,
            bios_boot,
            esp,
            root,
        }
    }

    /// What `sfdisk` reads. Types are written as GUIDs, because its short names differ between
    /// versions.
    pub(super) fn sfdisk_script(&self) -> String {
        let mut script = String::from("label: gpt\nunit: sectors\n");
        for (span, kind, name) in [
            (
                self.bios_boot,
                "21686148-6449-6E6F-744E-656564454649",
                "bios",
            ),
            (self.esp, "C12A7328-F81F-11D2-BA4B-00A0C93EC93B", "esp"),
            (self.root, "4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709", "root"),
        ] {
            let Span { start, count } = span;
            writeln!(
                script,
                "start={start}, size={count}, type={kind}, name={name}"
            )
            .expect("a string takes everything");
        }
        script
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitions_follow_each_other_and_leave_the_backup_table_alone() {
        for disk_bytes in [1 << 30, (1 << 30) + 511, 8 << 30, (8 << 30) - 1, 16 << 40] {
            let layout = Layout::of_disk(disk_bytes);
            assert_eq!(layout.bios_boot.start, 2048);
            assert_eq!(layout.bios_boot.end(), layout.esp.start);
            assert_eq!(layout.esp.end(), layout.root.start);
            for span in [layout.bios_boot, layout.esp, layout.root] {
                assert_eq!(span.start % 2048, 0, "{layout:?}");
            }
            let last_usable = disk_bytes / 512 - 34;
            assert!(layout.root.end() - 1 <= last_usable, "{layout:?}");
            assert!(last_usable - layout.root.end() < 2 * 2048, "{layout:?}");
        }
    }

    #[test]
    fn the_script_of_a_1_gib_disk() {
        let script = Layout::of_disk(1 << 30).sfdisk_script();
        let expected = "label: gpt\nunit: sectors\n\
            start=2048, size=2048, type=21686148-6449-6E6F-744E-656564454649, name=bios\n\
            start=4096, size=131072, type=C12A7328-F81F-11D2-BA4B-00A0C93EC93B, name=esp\n\
            start=135168, size=1959936, type=4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709, name=root\n";
        assert_eq!(script, expected);
    }
}
