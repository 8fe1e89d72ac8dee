//! What the kernel knows about this process: `process_*` and `os_*`.
//!
//! Everything comes from `/proc/self` and system calls, so that it works where systemd shows a
//! service only its own processes (`ProcSubset=pid`). What cannot be read is left out.

use std::fs;
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::{SysconfVar, sysconf};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

use crate::clock;

/// Ticks per second of `/proc/self/stat` when the system does not say; Linux shows no other.
const TICKS_PER_SECOND_DEFAULT: i64 = 100;
const PAGE_BYTES_DEFAULT: i64 = 4096;

/// Asks anew at each scrape.
#[derive(Debug)]
pub(super) struct ProcessCollector;

impl Collector for ProcessCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let mut counter = |name, help, value: Option<f64>| match value {
            Some(value) => encode_one(&mut encoder, name, help, &ConstCounter::new(value)),
            None => Ok(()),
        };
        let stat = Stat::of_process();
        let traffic = Traffic::of_process();
        counter(
            "process_cpu_seconds",
            "User and system CPU time spent in seconds",
            stat.as_ref().map(|stat| stat.cpu_seconds),
        )?;
        counter(
            "process_network_receive_bytes",
            "Bytes received over the network",
            traffic.as_ref().map(|traffic| traffic.received),
        )?;
        counter(
            "process_network_transmit_bytes",
            "Bytes sent over the network",
            traffic.as_ref().map(|traffic| traffic.sent),
        )?;
        let mut gauge = |name, help, value: Option<f64>| match value {
            Some(value) => encode_one(&mut encoder, name, help, &ConstGauge::new(value)),
            None => Ok(()),
        };
        let open_files = fs::read_dir("/proc/self/fd")
            .ok()
            .map(|entries| entries.count() as f64);
        let max_files = soft_limit(Resource::RLIMIT_NOFILE);
        gauge("process_open_fds", "Open file descriptors", open_files)?;
        gauge(
            "process_max_fds",
            "Largest number of open file descriptors",
            max_files,
        )?;
        gauge("os_fd_used", "File descriptors in use", open_files)?;
        gauge("os_fd_limit", "Limit of file descriptors", max_files)?;
        gauge(
            "process_resident_memory_bytes",
            "Resident memory in bytes",
            stat.as_ref().map(|stat| stat.resident_bytes),
        )?;
        gauge(
            "process_virtual_memory_bytes",
            "Virtual memory in bytes",
            stat.as_ref().map(|stat| stat.virtual_bytes),
        )?;
        gauge(
            "process_virtual_memory_max_bytes",
            "Largest virtual memory in bytes",
            soft_limit(Resource::RLIMIT_AS),
        )?;
        gauge(
            "process_start_time_seconds",
            "Start of the process in seconds since 1970",
            stat.as_ref().and_then(|stat| stat.start_time_seconds),
        )
    }
}

fn encode_one(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    metric: &impl EncodeMetric,
) -> Result<(), std::fmt::Error> {
    metric.encode(encoder.encode_descriptor(name, help, None, metric.metric_type())?)
}

fn soft_limit(resource: Resource) -> Option<f64> {
    getrlimit(resource).ok().map(|(soft, _)| soft as f64)
}

/// The fields of `/proc/self/stat` that we show.
#[derive(Debug, PartialEq)]
struct Stat {
    cpu_seconds: f64,
    resident_bytes: f64,
    virtual_bytes: f64,
    start_time_seconds: Option<f64>,
}

impl Stat {
    fn of_process() -> Option<Stat> {
        let positive =
            |value: nix::Result<Option<i64>>| value.ok().flatten().filter(|number| *number > 0);
        let ticks = positive(sysconf(SysconfVar::CLK_TCK)).unwrap_or(TICKS_PER_SECOND_DEFAULT);
        let page = positive(sysconf(SysconfVar::PAGE_SIZE)).unwrap_or(PAGE_BYTES_DEFAULT);
        let since_boot = clock_gettime(ClockId::CLOCK_BOOTTIME)
            .ok()
            .map(Duration::from);
        let boot = since_boot
            .map(|since_boot| clock::since_unix_epoch().as_secs_f64() - since_boot.as_secs_f64());
        let text = fs::read_to_string("/proc/self/stat").ok()?;
        Stat::parse(&text, ticks as f64, page as f64, boot)
    }

    /// The fields stand behind the program's name, which is in parentheses and may itself hold
    /// blanks and parentheses: `1 (name) S 0 …`.
    fn parse(text: &str, ticks: f64, page: f64, boot: Option<f64>) -> Option<Stat> {
        let (_, after_name) = text.rsplit_once(')')?;
        let fields: Vec<&str> = after_name.split_ascii_whitespace().collect();
        // Numbers as in proc(5), where the field behind the name is the third.
        let field = |number: usize| fields.get(number - 3)?.parse::<f64>().ok();
        let (user, system) = (field(14)?, field(15)?);
        Some(Stat {
            cpu_seconds: (user + system) / ticks,
            start_time_seconds: boot.and_then(|boot| Some(boot + field(22)? / ticks)),
            virtual_bytes: field(23)?,
            resident_bytes: field(24)? * page,
        })
    }
}

/// The octets of `/proc/self/net/netstat`: of the network namespace, as etcd shows them.
#[derive(Debug, PartialEq)]
struct Traffic {
    received: f64,
    sent: f64,
}

impl Traffic {
    fn of_process() -> Option<Traffic> {
        Traffic::parse(&fs::read_to_string("/proc/self/net/netstat").ok()?)
    }

    /// A line of names and a line of values, both beginning with `IpExt:`.
    fn parse(text: &str) -> Option<Traffic> {
        let mut lines = text.lines().filter_map(|line| line.strip_prefix("IpExt:"));
        let (names, values) = (lines.next()?, lines.next()?);
        let value_of = |wanted: &str| {
            names
                .split_ascii_whitespace()
                .zip(values.split_ascii_whitespace())
                .find(|(name, _)| *name == wanted)
                .and_then(|(_, value)| value.parse().ok())
        };
        Some(Traffic {
            received: value_of("InOctets")?,
            sent: value_of("OutOctets")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_process_is_read_from_behind_its_name() {
        let text = "7 (a) b) S 1 1 1 0 -1 4 9 0 0 0 250 50 0 0 20 0 4 0 1000 8192 3 18446744073709551615\n";
        let stat = Stat::parse(text, 100.0, 4096.0, Some(5000.0)).expect("parses");
        let expected = Stat {
            cpu_seconds: 3.0,
            resident_bytes: 12288.0,
            virtual_bytes: 8192.0,
            start_time_seconds: Some(5010.0),
        };
        assert_eq!(stat, expected);
        assert_eq!(Stat::parse("7 (a) S 1", 100.0, 4096.0, None), None);
    }

    #[test]
    fn this_process_started_before_now() {
        let stat = Stat::of_process().expect("Linux");
        let started = stat.start_time_seconds.expect("the clocks are there");
        assert!(started <= clock::since_unix_epoch().as_secs_f64() + 1.0);
        assert!(stat.resident_bytes > 0.0);
    }

    #[test]
    fn traffic_is_found_by_name() {
        let text = "TcpExt: A B\nTcpExt: 1 2\nIpExt: X InOctets OutOctets\nIpExt: 1 20 30\n";
        assert_eq!(
            Traffic::parse(text),
            Some(Traffic {
                received: 20.0,
                sent: 30.0
            })
        );
        assert_eq!(Traffic::parse("IpExt: InOctets\n"), None);
    }
}
