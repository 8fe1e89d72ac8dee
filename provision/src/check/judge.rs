//! From measurements to verdicts. Pure, so that every threshold has its table in the tests.

use std::time::Duration;

use serde_json::json;

use super::clock_sync::ClockSync;
use super::data::DataState;
use super::device::{Filesystem, Leaf, LeafKind, Place};
use super::finding::{Finding, Verdict};
use super::fsync::{self, Round};
use super::measure::{Measurements, Space};
use super::ports::PortUse;
use crate::spec::{ByteSize, CheckId, Profile, Spec};

/// Synced writes a second that a heavily used member needs, and those without which none works.
const FSYNC_IOPS_OK: f64 = 500.0;
const FSYNC_IOPS_MIN: f64 = 50.0;
/// Below this no disk syncs: a cache answers in its stead.
const FSYNC_TOO_GOOD: Duration = Duration::from_micros(10);
/// Memory that a member and its host need beside the database.
const MEMORY_SPARE: ByteSize = ByteSize::from_gib(1);
const MEMORY_MIN: ByteSize = ByteSize::from_gib(2);
/// Log segments and snapshots beside the database.
const DISK_SPARE: ByteSize = ByteSize::from_gib(1);
const QUOTA_ADVISED_MAX: ByteSize = ByteSize::from_gib(8);
const NOFILE_OK: u64 = 65_536;
const NOFILE_MIN: u64 = 4_096;
const SYSTEMD_MIN: u32 = 250;
const KERNEL_MIN: (u32, u32) = (4, 19);

/// The findings in the order of the report.
pub(crate) fn judge(spec: &Spec, measured: &Measurements) -> Vec<Finding> {
    CheckId::ALL
        .into_iter()
        .map(|id| one(id, spec, measured))
        .collect()
}

fn one(id: CheckId, spec: &Spec, measured: &Measurements) -> Finding {
    let mut finding = match id {
        CheckId::DiskDevice => device(measured),
        CheckId::DiskFilesystem => filesystem(measured),
        CheckId::DiskFsyncP99 => fsync_p99(spec, measured),
        CheckId::DiskFsyncIops => fsync_iops(measured),
        CheckId::DiskFree => free(spec, measured),
        CheckId::DiskShared => shared(measured),
        CheckId::MemoryTotal => memory(spec, measured),
        CheckId::MemorySwap => swap(measured),
        CheckId::MemoryHugePages => huge_pages(measured),
        CheckId::CpuCount => processors(measured),
        CheckId::LimitNofile => nofile(spec, measured),
        CheckId::ClockSync => clock(measured),
        CheckId::NetPorts => ports(measured),
        CheckId::Quota => quota(spec, measured),
        CheckId::DataState => data(spec, measured),
        CheckId::SystemSystemd => systemd(measured),
    };
    if let Some(skip) = spec.skipped_checks.iter().find(|skip| skip.id == id) {
        if matches!(
            finding.verdict,
            Verdict::Warn | Verdict::Fail | Verdict::Unknown
        ) {
            finding.verdict = Verdict::Skip;
            finding.advice = format!("skipped by the configuration: {}", skip.reason);
        }
    } else if spec.profile == Profile::Dev && finding.verdict == Verdict::Fail {
        finding.verdict = Verdict::Warn;
    }
    finding
}

fn unknown(id: CheckId, threshold: &str, why: &str) -> Finding {
    Finding::new(
        id,
        Verdict::Unknown,
        format!("not determined: {why}"),
        threshold,
    )
}

fn device(measured: &Measurements) -> Finding {
    const THRESHOLD: &str = "a local SSD";
    let id = CheckId::DiskDevice;
    let place = match &measured.place {
        Ok(place) => place,
        Err(error) => return unknown(id, THRESHOLD, error),
    };
    let Some(worst) = place.leaves.iter().max_by_key(|leaf| leaf.kind) else {
        return unknown(
            id,
            THRESHOLD,
            &format!("{} has no block device", place.filesystem),
        )
        .advice("judge the disk behind it yourself; disk.fsync_p99 says how fast it is");
    };
    let (verdict, advice) = match worst.kind {
        LeafKind::LocalSsd => (Verdict::Ok, ""),
        LeafKind::LocalEphemeral => (
            Verdict::Warn,
            "its data are gone after a stop of the instance: keep backups elsewhere and run three members",
        ),
        LeafKind::Unknown => (
            Verdict::Unknown,
            "rely on disk.fsync_p99; if you know it to be a local SSD, say so in preflight.skip",
        ),
        LeafKind::LocalRotational => (
            Verdict::Warn,
            "put the data on an SSD: every write waits for the platter",
        ),
        LeafKind::Remote => (
            Verdict::Fail,
            "put the data on a local disk: the network's delays become the database's",
        ),
        LeafKind::Memory => (
            Verdict::Fail,
            "put the data on a disk: these are gone with the power",
        ),
    };
    Finding::new(id, verdict, describe(&place.leaves), THRESHOLD).advice(advice)
}

fn describe(leaves: &[Leaf]) -> String {
    let one = |leaf: &Leaf| format!("{}: {} ({})", leaf.name, leaf.kind.word(), leaf.evidence);
    leaves.iter().map(one).collect::<Vec<_>>().join("; ")
}

fn filesystem(measured: &Measurements) -> Finding {
    const THRESHOLD: &str = "ext4 or xfs";
    let id = CheckId::DiskFilesystem;
    let Place {
        filesystem, mount, ..
    } = match &measured.place {
        Ok(place) => place,
        Err(error) => return unknown(id, THRESHOLD, error),
    };
    let at = mount
        .as_ref()
        .map(|mount| format!(" on {}", mount.folder.display()));
    let value = format!("{filesystem}{}", at.unwrap_or_default());
    let (verdict, advice) = match filesystem {
        Filesystem::InPlace(_) => (Verdict::Ok, ""),
        Filesystem::CopyOnWrite(_) => (
            Verdict::Warn,
            "every write moves its page; ext4 or xfs sync with less work",
        ),
        Filesystem::Memory(_) => (
            Verdict::Fail,
            "put the data on a disk: these are gone with the power",
        ),
        Filesystem::Network(_) => (
            Verdict::Fail,
            "put the data on a local disk: the network's delays become the database's",
        ),
        Filesystem::Overlay => (
            Verdict::Fail,
            "put the data on a volume: a container's layers are slow and short-lived",
        ),
        Filesystem::Fuse | Filesystem::Other(_) => (
            Verdict::Unknown,
            "use ext4 or xfs, whose behaviour at a power cut is known",
        ),
    };
    Finding::new(id, verdict, value, THRESHOLD).advice(advice)
}

fn fsync_p99(spec: &Spec, measured: &Measurements) -> Finding {
    let id = CheckId::DiskFsyncP99;
    let (warn, fail) = (spec.fsync_p99_warn, spec.fsync_p99_fail);
    let threshold = format!("below {warn}, fails above {fail}");
    let (rounds, median) = match usable(&measured.rounds) {
        Ok(usable) => usable,
        Err(why) => return unknown(id, &threshold, &why),
    };
    let p99 = median.p99;
    let (verdict, advice) = if p99 > fail.as_duration() {
        (
            Verdict::Fail,
            "use a faster disk, or move what else writes to this one",
        )
    } else if p99 > warn.as_duration() {
        (
            Verdict::Warn,
            "expect slow writes; look for others' work on the same disk",
        )
    } else if p99 < FSYNC_TOO_GOOD {
        (
            Verdict::Warn,
            "no disk is that fast: a cache answers, and may lose data at a power cut",
        )
    } else {
        (Verdict::Ok, "")
    };
    let each = rounds
        .iter()
        .map(|round| millis(round.p99))
        .collect::<Vec<_>>()
        .join(", ");
    let value = format!(
        "{} (rounds {each}; p50 {}, max {})",
        millis(p99),
        millis(median.p50),
        millis(median.max)
    );
    let number = |round: &Round| {
        json!({
            "writes": round.writes,
            "p50_us": micros(round.p50),
            "p99_us": micros(round.p99),
            "max_us": micros(round.max),
        })
    };
    Finding::new(id, verdict, value, threshold)
        .advice(advice)
        .numbers(json!({ "rounds": rounds.iter().map(number).collect::<Vec<_>>() }))
}

fn fsync_iops(measured: &Measurements) -> Finding {
    const THRESHOLD: &str = "500/s, fails below 50/s";
    let id = CheckId::DiskFsyncIops;
    let (_, median) = match usable(&measured.rounds) {
        Ok(usable) => usable,
        Err(why) => return unknown(id, THRESHOLD, &why),
    };
    let writes = u32::try_from(median.writes).unwrap_or(u32::MAX);
    let rate = f64::from(writes) / median.total.as_secs_f64().max(f64::MIN_POSITIVE);
    let (verdict, advice) = if rate >= FSYNC_IOPS_OK {
        (Verdict::Ok, "")
    } else if rate >= FSYNC_IOPS_MIN {
        (
            Verdict::Warn,
            "enough for a small load; a busy cluster needs 500/s",
        )
    } else {
        (Verdict::Fail, "use a faster disk")
    };
    Finding::new(id, verdict, format!("{rate:.0}/s"), THRESHOLD)
        .advice(advice)
        .numbers(json!({ "per_second": rate }))
}

fn usable(rounds: &Result<Vec<Round>, String>) -> Result<(&[Round], Round), String> {
    let rounds = rounds.as_ref().map_err(Clone::clone)?;
    let median = fsync::median(rounds).ok_or("no round was measured")?;
    if median.writes == 0 {
        return Err("no write ended in the time of a round".to_owned());
    }
    Ok((rounds, median))
}

fn free(spec: &Spec, measured: &Measurements) -> Finding {
    let id = CheckId::DiskFree;
    let good = spec.quota.times(3).plus(DISK_SPARE);
    let least = spec.quota.times(2);
    let threshold = format!(
        "{} (3 quotas and 1 GiB), fails below 2 quotas",
        good.rounded()
    );
    let Space { available, .. } = match &measured.space {
        Ok(space) => *space,
        Err(error) => return unknown(id, &threshold, error),
    };
    let (verdict, advice) = if available >= good {
        (Verdict::Ok, "")
    } else if available >= least {
        (
            Verdict::Warn,
            "make room: a copy of the database, the log and snapshots need it",
        )
    } else {
        (Verdict::Fail, "make room, or lower storage.quota")
    };
    Finding::new(id, verdict, available.rounded(), threshold)
        .advice(advice)
        .numbers(json!({ "bytes": available.bytes() }))
}

fn shared(measured: &Measurements) -> Finding {
    const THRESHOLD: &str = "a file system of its own";
    let id = CheckId::DiskShared;
    let Ok(Place {
        mount: Some(mount), ..
    }) = &measured.place
    else {
        return unknown(id, THRESHOLD, "the mount is not known");
    };
    let is_root = mount.folder.as_os_str() == "/";
    let verdict = if is_root { Verdict::Warn } else { Verdict::Ok };
    let advice = match is_root {
        true => "a disk of its own for the data keeps logs and updates from delaying writes",
        false => "",
    };
    Finding::new(
        id,
        verdict,
        format!("on {}", mount.folder.display()),
        THRESHOLD,
    )
    .advice(advice)
}

fn memory(spec: &Spec, measured: &Measurements) -> Finding {
    let id = CheckId::MemoryTotal;
    let good = MEMORY_MIN.max(spec.quota.plus(MEMORY_SPARE));
    let threshold = format!(
        "{} (the quota and 1 GiB), fails below half a quota",
        good.rounded()
    );
    let Some(memory) = measured.machine.memory else {
        return unknown(id, &threshold, "/proc/meminfo does not say");
    };
    let (verdict, advice) = if memory >= good {
        (Verdict::Ok, "")
    } else if memory >= ByteSize::from_bytes(spec.quota.bytes() / 2) {
        (
            Verdict::Warn,
            "a full database will not stay in memory; add some, or lower storage.quota",
        )
    } else {
        (Verdict::Fail, "add memory, or lower storage.quota")
    };
    Finding::new(id, verdict, memory.rounded(), threshold)
        .advice(advice)
        .numbers(json!({ "bytes": memory.bytes() }))
}

fn swap(measured: &Measurements) -> Finding {
    const THRESHOLD: &str = "none, or compressed memory";
    let id = CheckId::MemorySwap;
    match &measured.machine.swaps {
        None => unknown(id, THRESHOLD, "/proc/swaps does not say"),
        Some(swaps) if swaps.is_empty() => Finding::new(id, Verdict::Ok, "none", THRESHOLD),
        Some(swaps) => Finding::new(id, Verdict::Warn, swaps.join(", "), THRESHOLD)
            .advice("turn it off (swapoff -a, and /etc/fstab): a swapped member misses heartbeats"),
    }
}

fn huge_pages(measured: &Measurements) -> Finding {
    const THRESHOLD: &str = "madvise or never";
    let id = CheckId::MemoryHugePages;
    match measured.machine.huge_pages.as_deref() {
        None => unknown(id, THRESHOLD, "the kernel does not say"),
        Some("always") => Finding::new(id, Verdict::Warn, "always", THRESHOLD).advice(
            "write madvise to /sys/kernel/mm/transparent_hugepage/enabled: pauses and memory grow",
        ),
        Some(word) => Finding::new(id, Verdict::Ok, word, THRESHOLD),
    }
}

fn processors(measured: &Measurements) -> Finding {
    const THRESHOLD: &str = "2";
    let id = CheckId::CpuCount;
    match measured.machine.processors {
        None => unknown(id, THRESHOLD, "the kernel does not say"),
        Some(count @ 0..=1) => Finding::new(id, Verdict::Warn, count.to_string(), THRESHOLD)
            .advice("add one: the log must not wait for the network's work"),
        Some(count) => Finding::new(id, Verdict::Ok, count.to_string(), THRESHOLD),
    }
}

fn nofile(spec: &Spec, measured: &Measurements) -> Finding {
    const THRESHOLD: &str = "65536, fails below 4096";
    let id = CheckId::LimitNofile;
    let wanted = spec.resources.nofile;
    let Some(kernel) = measured.machine.nofile_max else {
        return unknown(id, THRESHOLD, "/proc/sys/fs/nr_open does not say");
    };
    let limit = wanted.min(kernel);
    let advice = if wanted > kernel {
        "raise fs.nr_open: the kernel allows less than resources.nofile"
    } else {
        "raise resources.nofile: each client takes a descriptor"
    };
    let verdict = match limit {
        NOFILE_OK.. => Verdict::Ok,
        NOFILE_MIN.. => Verdict::Warn,
        _ => Verdict::Fail,
    };
    let advice = if verdict == Verdict::Ok { "" } else { advice };
    Finding::new(
        id,
        verdict,
        format!("{limit} for the server's unit"),
        THRESHOLD,
    )
    .advice(advice)
    .numbers(json!({ "files": limit }))
}

fn clock(measured: &Measurements) -> Finding {
    const THRESHOLD: &str = "synchronised";
    let id = CheckId::ClockSync;
    match measured.clock {
        ClockSync::Synchronised => Finding::new(id, Verdict::Ok, "synchronised", THRESHOLD),
        ClockSync::NotSynchronised => {
            Finding::new(id, Verdict::Warn, "not synchronised", THRESHOLD).advice(
                "install chrony or enable systemd-timesyncd; leases and certificates need it",
            )
        }
        ClockSync::Unknown => unknown(id, THRESHOLD, "neither timedatectl nor chronyc answers")
            .advice("install chrony or enable systemd-timesyncd"),
    }
}

fn ports(measured: &Measurements) -> Finding {
    const THRESHOLD: &str = "free, or ours";
    let id = CheckId::NetPorts;
    let Some(ports) = &measured.ports else {
        return unknown(id, THRESHOLD, "/proc/net/tcp cannot be read");
    };
    let taken = ports.iter().find_map(|port| match &port.use_ {
        PortUse::Taken(by) => Some((port.number, by)),
        PortUse::Free | PortUse::Ours => None,
    });
    match taken {
        Some((number, by)) => Finding::new(
            id,
            Verdict::Fail,
            format!("{number} is taken by {by}"),
            THRESHOLD,
        )
        .advice("stop it (systemctl disable --now UNIT), or choose other ports in [listen]"),
        None => {
            let word = |port: &super::ports::Port| match port.use_ {
                PortUse::Ours => format!("{} ours", port.number),
                PortUse::Free | PortUse::Taken(_) => format!("{} free", port.number),
            };
            let value = ports.iter().map(word).collect::<Vec<_>>().join(", ");
            Finding::new(id, Verdict::Ok, value, THRESHOLD)
        }
    }
}

fn quota(spec: &Spec, measured: &Measurements) -> Finding {
    let id = CheckId::Quota;
    let threshold = "at most 8 GiB, the memory, and half the disk";
    let quota = spec.quota;
    let disk = measured.space.as_ref().ok().map(|space| space.total);
    let (verdict, advice) = if measured.machine.memory.is_some_and(|memory| quota > memory) {
        (
            Verdict::Fail,
            "lower storage.quota below the memory: reads would wait for the disk",
        )
    } else if disk.is_some_and(|disk| quota.bytes() > disk.bytes() / 2) {
        (
            Verdict::Fail,
            "lower storage.quota below half the disk: a copy must fit beside it",
        )
    } else if quota > QUOTA_ADVISED_MAX {
        (
            Verdict::Warn,
            "lower storage.quota: start-up, backups and new members slow down with size",
        )
    } else {
        (Verdict::Ok, "")
    };
    Finding::new(id, verdict, quota.to_string(), threshold)
        .advice(advice)
        .numbers(json!({ "bytes": quota.bytes() }))
}

fn data(spec: &Spec, measured: &Measurements) -> Finding {
    const THRESHOLD: &str = "empty, or a whole member's";
    let id = CheckId::DataState;
    let folder = &spec.data_dir;
    match &measured.data {
        DataState::Empty => Finding::new(id, Verdict::Ok, "empty", THRESHOLD),
        DataState::Member => Finding::new(id, Verdict::Ok, "a member's", THRESHOLD),
        DataState::Incomplete(part) => {
            Finding::new(id, Verdict::Fail, format!("{folder} lacks {part}"), THRESHOLD).advice(
                "restore a backup, or move the folder away if the member is to begin anew; do not delete it before you have a copy",
            )
        }
        DataState::Foreign(name) => {
            Finding::new(id, Verdict::Warn, format!("{folder} holds {name}"), THRESHOLD)
                .advice("give the database a folder of its own")
        }
        DataState::Unreadable => unknown(id, THRESHOLD, &format!("{folder} may not be read"))
            .advice("run the check as root"),
    }
}

fn systemd(measured: &Measurements) -> Finding {
    let id = CheckId::SystemSystemd;
    let threshold = "systemd 250, Linux 4.19";
    let kernel = measured.machine.kernel;
    let kernel_text = kernel.map_or("Linux of unknown version".to_owned(), |(a, b)| {
        format!("Linux {a}.{b}")
    });
    let Some(version) = measured.machine.systemd else {
        let value = format!("systemd is not in charge, {kernel_text}");
        return Finding::new(id, Verdict::Fail, value, threshold)
            .advice("run on a host that systemd has booted; for an image use apply --root DIR");
    };
    let value = format!("systemd {version}, {kernel_text}");
    let old = version < SYSTEMD_MIN || kernel.is_some_and(|kernel| kernel < KERNEL_MIN);
    let verdict = if old { Verdict::Warn } else { Verdict::Ok };
    let advice = if old {
        "use Debian 12 or newer; part of the sandbox may be missing"
    } else {
        ""
    };
    Finding::new(id, verdict, value, threshold).advice(advice)
}

fn millis(duration: Duration) -> String {
    format!("{:.2} ms", duration.as_secs_f64() * 1000.0)
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::super::machine::Machine;
    use super::super::ports::Port;
    use super::*;

    /// A host on which everything is well.
    fn good() -> Measurements {
        Measurements {
            place: Ok(Place {
                filesystem: Filesystem::InPlace("ext4"),
                mount: None,
                leaves: vec![leaf(LeafKind::LocalSsd)],
            }),
            rounds: Ok(vec![round(2); 3]),
            space: Ok(Space {
                total: ByteSize::from_gib(100),
                available: ByteSize::from_gib(50),
            }),
            machine: Machine {
                memory: Some(ByteSize::from_gib(8)),
                swaps: Some(Vec::new()),
                huge_pages: Some("madvise".to_owned()),
                processors: Some(4),
                nofile_max: Some(1 << 20),
                kernel: Some((6, 1)),
                systemd: Some(252),
            },
            clock: ClockSync::Synchronised,
            ports: Some(vec![Port {
                number: 2379,
                use_: PortUse::Free,
            }]),
            data: DataState::Empty,
        }
    }

    fn leaf(kind: LeafKind) -> Leaf {
        Leaf {
            name: "sda".to_owned(),
            kind,
            evidence: "a test".to_owned(),
        }
    }

    fn round(p99_millis: u64) -> Round {
        let p99 = Duration::from_millis(p99_millis);
        Round {
            writes: 1000,
            p50: p99,
            p99,
            max: p99,
            total: p99 * 1000,
        }
    }

    #[track_caller]
    fn check(id: CheckId, expected: Verdict, change: impl FnOnce(&mut Measurements)) {
        check_with("", Profile::Prod, id, expected, change);
    }

    #[track_caller]
    fn check_with(
        config: &str,
        profile: Profile,
        id: CheckId,
        expected: Verdict,
        change: impl FnOnce(&mut Measurements),
    ) {
        let spec = crate::spec::parse(config, Some(profile)).expect("configuration");
        let mut measured = good();
        change(&mut measured);
        let findings = judge(&spec, &measured);
        let finding = findings
            .iter()
            .find(|finding| finding.id == id)
            .expect("every check");
        assert_eq!(finding.verdict, expected, "{finding:?}");
        // Whoever is warned is told what to do.
        let needs_advice = matches!(finding.verdict, Verdict::Warn | Verdict::Fail);
        assert!(!needs_advice || !finding.advice.is_empty(), "{finding:?}");
    }

    fn places(measured: &mut Measurements) -> &mut Place {
        measured.place.as_mut().expect("the good host has one")
    }

    #[test]
    fn a_good_host_has_nothing_to_mend() {
        let findings = judge(&Spec::defaults(Profile::Prod), &good());
        let bad = |finding: &&Finding| {
            finding.verdict != Verdict::Ok && finding.id != CheckId::DiskShared
        };
        assert_eq!(findings.iter().find(bad), None);
    }

    #[test]
    fn the_worst_device_decides() {
        let id = CheckId::DiskDevice;
        let with =
            |kind| move |measured: &mut Measurements| places(measured).leaves.push(leaf(kind));
        check(id, Verdict::Ok, with(LeafKind::LocalSsd));
        check(id, Verdict::Unknown, with(LeafKind::Unknown));
        check(id, Verdict::Warn, with(LeafKind::LocalRotational));
        check(id, Verdict::Warn, with(LeafKind::LocalEphemeral));
        check(id, Verdict::Fail, with(LeafKind::Remote));
        check(id, Verdict::Fail, with(LeafKind::Memory));
        check(id, Verdict::Unknown, |measured| {
            places(measured).leaves.clear();
        });
        check(id, Verdict::Unknown, |measured| {
            measured.place = Err("no".to_owned());
        });
    }

    #[test]
    fn a_database_wants_a_disk_file_system() {
        let id = CheckId::DiskFilesystem;
        let with = |filesystem| {
            move |measured: &mut Measurements| places(measured).filesystem = filesystem
        };
        check(id, Verdict::Ok, with(Filesystem::InPlace("xfs")));
        check(id, Verdict::Warn, with(Filesystem::CopyOnWrite("btrfs")));
        check(id, Verdict::Fail, with(Filesystem::Memory("tmpfs")));
        check(id, Verdict::Fail, with(Filesystem::Network("nfs")));
        check(id, Verdict::Fail, with(Filesystem::Overlay));
        check(id, Verdict::Unknown, with(Filesystem::Fuse));
    }

    #[test]
    fn the_median_round_is_judged_by_both_thresholds() {
        let id = CheckId::DiskFsyncP99;
        let with = |p99: [u64; 3]| {
            move |measured: &mut Measurements| {
                measured.rounds = Ok(p99.into_iter().map(round).collect());
            }
        };
        check(id, Verdict::Ok, with([9, 10, 400]));
        check(id, Verdict::Warn, with([11, 11, 2]));
        check(id, Verdict::Warn, with([150, 150, 150]));
        check(id, Verdict::Fail, with([151, 151, 2]));
        check(id, Verdict::Unknown, |measured| {
            measured.rounds = Err("denied".to_owned());
        });
        let stricter = "[preflight]\nfsync_p99_warn = \"1ms\"\nfsync_p99_fail = \"5ms\"\n";
        check_with(stricter, Profile::Prod, id, Verdict::Fail, with([6, 6, 6]));
        // A disk that syncs in no time does not sync.
        check(id, Verdict::Warn, with([0, 0, 0]));
    }

    #[test]
    fn the_rate_of_synced_writes_has_two_thresholds() {
        let id = CheckId::DiskFsyncIops;
        let with = |millis| {
            move |measured: &mut Measurements| measured.rounds = Ok(vec![round(millis); 3])
        };
        check(id, Verdict::Ok, with(2));
        check(id, Verdict::Warn, with(3));
        check(id, Verdict::Warn, with(20));
        check(id, Verdict::Fail, with(21));
    }

    #[test]
    fn space_and_memory_are_measured_in_quotas() {
        let available = |gib| {
            move |measured: &mut Measurements| {
                measured.space = Ok(Space {
                    total: ByteSize::from_gib(100),
                    available: ByteSize::from_gib(gib),
                });
            }
        };
        check(CheckId::DiskFree, Verdict::Ok, available(7));
        check(CheckId::DiskFree, Verdict::Warn, available(6));
        check(CheckId::DiskFree, Verdict::Warn, available(4));
        check(CheckId::DiskFree, Verdict::Fail, available(3));
        let memory = |mib| {
            move |measured: &mut Measurements| {
                measured.machine.memory = Some(ByteSize::from_mib(mib));
            }
        };
        check(CheckId::MemoryTotal, Verdict::Ok, memory(3072));
        check(CheckId::MemoryTotal, Verdict::Warn, memory(3071));
        check(CheckId::MemoryTotal, Verdict::Warn, memory(1024));
        check(CheckId::MemoryTotal, Verdict::Fail, memory(1023));
    }

    #[test]
    fn the_quota_fits_advice_memory_and_disk() {
        let id = CheckId::Quota;
        let quota = |text: &str| format!("[storage]\nquota = \"{text}\"\n");
        let with = |gib: u64| {
            move |measured: &mut Measurements| {
                measured.machine.memory = Some(ByteSize::from_gib(gib));
            }
        };
        check_with(&quota("8GiB"), Profile::Prod, id, Verdict::Ok, with(64));
        check_with(&quota("9GiB"), Profile::Prod, id, Verdict::Warn, with(64));
        check_with(&quota("9GiB"), Profile::Prod, id, Verdict::Fail, with(8));
        check_with(&quota("51GiB"), Profile::Prod, id, Verdict::Fail, with(64));
    }

    #[test]
    fn the_machine_s_settings_are_judged() {
        check(CheckId::CpuCount, Verdict::Warn, |m| {
            m.machine.processors = Some(1);
        });
        check(CheckId::MemorySwap, Verdict::Warn, |m| {
            m.machine.swaps = Some(vec!["/swapfile".to_owned()]);
        });
        check(CheckId::MemorySwap, Verdict::Unknown, |m| {
            m.machine.swaps = None;
        });
        check(CheckId::MemoryHugePages, Verdict::Warn, |m| {
            m.machine.huge_pages = Some("always".to_owned());
        });
        check(CheckId::LimitNofile, Verdict::Warn, |m| {
            m.machine.nofile_max = Some(65_535);
        });
        check(CheckId::LimitNofile, Verdict::Fail, |m| {
            m.machine.nofile_max = Some(4_095);
        });
        check(CheckId::ClockSync, Verdict::Warn, |m| {
            m.clock = ClockSync::NotSynchronised;
        });
        check(CheckId::ClockSync, Verdict::Unknown, |m| {
            m.clock = ClockSync::Unknown;
        });
        check(CheckId::SystemSystemd, Verdict::Fail, |m| {
            m.machine.systemd = None;
        });
        check(CheckId::SystemSystemd, Verdict::Warn, |m| {
            m.machine.systemd = Some(249);
        });
        check(CheckId::SystemSystemd, Verdict::Warn, |m| {
            m.machine.kernel = Some((4, 18));
        });
    }

    #[test]
    fn a_port_or_a_folder_of_somebody_else_is_told() {
        let port =
            |use_| move |m: &mut Measurements| m.ports = Some(vec![Port { number: 2379, use_ }]);
        check(CheckId::NetPorts, Verdict::Ok, port(PortUse::Ours));
        check(
            CheckId::NetPorts,
            Verdict::Fail,
            port(PortUse::Taken("etcd".to_owned())),
        );
        check(CheckId::NetPorts, Verdict::Unknown, |m| m.ports = None);
        check(CheckId::DataState, Verdict::Ok, |m| {
            m.data = DataState::Member;
        });
        check(CheckId::DataState, Verdict::Fail, |m| {
            m.data = DataState::Incomplete("the log");
        });
        check(CheckId::DataState, Verdict::Warn, |m| {
            m.data = DataState::Foreign("notes".to_owned());
        });
        check(CheckId::DataState, Verdict::Unknown, |m| {
            m.data = DataState::Unreadable;
        });
    }

    #[test]
    fn in_the_dev_profile_nothing_fails_and_a_skip_shows_its_reason() {
        let id = CheckId::DiskFilesystem;
        let tmpfs = |m: &mut Measurements| places(m).filesystem = Filesystem::Memory("tmpfs");
        check_with("", Profile::Dev, id, Verdict::Warn, tmpfs);
        let skip = "[preflight]\nskip = [{ name = \"disk.filesystem\", reason = \"a toy\" }]\n";
        check_with(skip, Profile::Prod, id, Verdict::Skip, tmpfs);
        // What is well is not skipped.
        check_with(skip, Profile::Prod, id, Verdict::Ok, |_| {});
    }
}
