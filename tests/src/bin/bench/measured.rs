//! Figures of one load on one server, and how two servers compare.

use std::time::Duration;

use holdfast_tests::member::Product;

/// What one load did to one server, over all rounds.
#[derive(Default)]
pub(crate) struct Measured {
    /// How long each operation took.
    pub(crate) latencies: Vec<Duration>,
    /// Time in which they were done.
    pub(crate) time: Duration,
    /// Processor time that the server used meanwhile.
    pub(crate) server_time: Duration,
    /// Memory that the server held at the end, in bytes.
    pub(crate) resident: u64,
}

impl Measured {
    fn rate(&self) -> f64 {
        self.latencies.len() as f64 / self.time.as_secs_f64()
    }

    fn server_microseconds(&self) -> f64 {
        self.server_time.as_secs_f64() * 1e6 / self.latencies.len() as f64
    }

    fn resident_mebibytes(&self) -> f64 {
        self.resident as f64 / f64::from(1 << 20)
    }

    /// In milliseconds; the latencies must be sorted.
    fn percentile(&self, percent: usize) -> f64 {
        let last = self.latencies.len().saturating_sub(1);
        let found = self.latencies.get(last * percent / 100);
        found.map_or(0.0, |latency| latency.as_secs_f64() * 1e3)
    }
}

#[expect(clippy::print_stdout, reason = "a program that reports figures")]
pub(crate) fn print_head() {
    println!(
        "{:<34} {:<18} {:>10} {:>10} {:>9} {:>9} {:>9}",
        "load", "server", "ops/s", "CPU us/op", "p50 ms", "p99 ms", "RSS MiB"
    );
}

/// Prints a line for each server, and one with ours as a share of the other's.
#[expect(clippy::print_stdout, reason = "a program that reports figures")]
pub(crate) fn print_load(name: &str, products: &[Product; 2], measured: &mut [Measured; 2]) {
    for (product, measured) in products.iter().zip(measured.iter_mut()) {
        measured.latencies.sort_unstable();
        println!(
            "{:<34} {:<18} {:>10.0} {:>10.1} {:>9.3} {:>9.3} {:>9.1}",
            name,
            format!("{product:?}"),
            measured.rate(),
            measured.server_microseconds(),
            measured.percentile(50),
            measured.percentile(99),
            measured.resident_mebibytes(),
        );
    }
    let [ours, theirs] = measured;
    println!(
        "{:<34} {:<18} {:>10.2} {:>10.2} {:>9.2} {:>9.2} {:>9.2}",
        "",
        "first / second",
        ours.rate() / theirs.rate(),
        ours.server_microseconds() / theirs.server_microseconds(),
        ours.percentile(50) / theirs.percentile(50),
        ours.percentile(99) / theirs.percentile(99),
        ours.resident_mebibytes() / theirs.resident_mebibytes(),
    );
}
