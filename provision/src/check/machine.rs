//! Memory, processors and limits, from `/proc` and `/sys`.

use std::path::Path;

use crate::host::Child;
use crate::spec::ByteSize;

/// What the machine has; absent where `/proc` or `/sys` does not say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Machine {
    pub(crate) memory: Option<ByteSize>,
    /// The swap devices in use, but for compressed memory.
    pub(crate) swaps: Option<Vec<String>>,
    /// The chosen word of `transparent_hugepage/enabled`.
    pub(crate) huge_pages: Option<String>,
    pub(crate) processors: Option<usize>,
    /// Most files that any process may be allowed to open.
    pub(crate) nofile_max: Option<u64>,
    /// Major and minor.
    pub(crate) kernel: Option<(u32, u32)>,
    /// Absent: not in charge of this host.
    pub(crate) systemd: Option<u32>,
}

/// Reads what there is; `proc` and `sys` are `/proc` and `/sys`.
pub(crate) fn machine(proc: &Path, sys: &Path) -> Machine {
    let read = |path: std::path::PathBuf| std::fs::read_to_string(path).ok();
    Machine {
        memory: read(proc.join("meminfo")).and_then(|text| memory_total(&text)),
        swaps: read(proc.join("swaps")).map(|text| swaps(&text)),
        huge_pages: read(sys.join("kernel/mm/transparent_hugepage/enabled"))
            .and_then(|text| chosen(&text)),
        processors: std::thread::available_parallelism().ok().map(usize::from),
        nofile_max: read(proc.join("sys/fs/nr_open")).and_then(|text| text.trim().parse().ok()),
        kernel: read(proc.join("sys/kernel/osrelease")).and_then(|text| kernel(&text)),
        systemd: systemd(),
    }
}

fn memory_total(meminfo: &str) -> Option<ByteSize> {
    let line = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(ByteSize::from_bytes(kibibytes.saturating_mul(1024)))
}

fn swaps(text: &str) -> Vec<String> {
    text.lines()
        .skip(1)
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| !name.starts_with("/dev/zram"))
        .map(str::to_owned)
        .collect()
}

/// The word in brackets: `always [madvise] never`.
fn chosen(text: &str) -> Option<String> {
    let (_, rest) = text.split_once('[')?;
    Some(rest.split_once(']')?.0.to_owned())
}

fn kernel(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|character: char| !character.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

fn systemd() -> Option<u32> {
    if !Path::new("/run/systemd/system").is_dir() {
        return None;
    }
    let ended = Child::new("systemctl").arg("--version").succeed().ok()?;
    systemd_version(&ended.output)
}

/// `systemd 252 (252.38-1~deb12u1)`
fn systemd_version(output: &str) -> Option<u32> {
    output
        .strip_prefix("systemd ")?
        .split(|c: char| !c.is_ascii_digit())
        .next()?
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_s_own_words_are_read() {
        let memory = memory_total("MemTotal:       16384 kB\nMemFree: 1 kB\n");
        assert_eq!(memory, Some(ByteSize::from_mib(16)));
        assert_eq!(
            chosen("always [madvise] never\n").as_deref(),
            Some("madvise")
        );
        assert_eq!(kernel("6.1.0-28-cloud-amd64\n"), Some((6, 1)));
        assert_eq!(
            systemd_version("systemd 252 (252.38-1~deb12u1)\n+PAM\n"),
            Some(252)
        );
        let text = "Filename Type Size\n/dev/zram0 partition 1\n/swapfile file 1\n";
        assert_eq!(swaps(text), ["/swapfile"]);
    }

    #[test]
    fn what_the_kernel_does_not_say_stays_unknown() {
        let nothing = Path::new("/no/such/folder");
        let machine = machine(nothing, nothing);
        assert_eq!(machine.memory, None);
        assert_eq!(machine.swaps, None);
        assert_eq!(machine.kernel, None);
    }
}
