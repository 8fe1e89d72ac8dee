//! The text format 0.0.4 that every Prometheus reads.
//!
//! The registry writes OpenMetrics, which differs in three points: there the family of a counter
//! lacks the ending `_total` that its samples have, every counter's samples must have it, which
//! two of etcd's do not, and bounds of buckets are written as `1.0` where 0.0.4 writes `1`.

use std::fmt;

use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;

/// Content type of [`text`].
pub(super) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// etcd's counters whose names do not end in `_total`.
const BARE_COUNTERS: [&str; 2] = ["etcd_server_health_success", "etcd_server_health_failures"];

/// All metrics of `registry`.
pub(super) fn text(registry: &Registry) -> Result<String, fmt::Error> {
    let mut open_metrics = String::new();
    encode(&mut open_metrics, registry)?;
    Ok(to_0_0_4(&open_metrics))
}

fn to_0_0_4(open_metrics: &str) -> String {
    let mut text = String::with_capacity(open_metrics.len() + 1024);
    let mut help = None;
    let mut bare = None;
    for line in open_metrics.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            help = rest.split_once(' ');
        } else if let Some((name, kind)) = line
            .strip_prefix("# TYPE ")
            .and_then(|rest| rest.split_once(' '))
        {
            bare = BARE_COUNTERS.into_iter().find(|counter| *counter == name);
            let ending = if kind == "counter" && bare.is_none() {
                "_total"
            } else {
                ""
            };
            if let Some((_, help)) = help.take() {
                text.push_str(&format!("# HELP {name}{ending} {help}\n"));
            }
            text.push_str(&format!("# TYPE {name}{ending} {kind}\n"));
        } else if !line.starts_with('#') {
            push_sample(&mut text, line, bare);
        }
    }
    text
}

fn push_sample(text: &mut String, line: &str, bare: Option<&str>) {
    let after_bare = bare.and_then(|name| line.strip_prefix(name)?.strip_prefix("_total"));
    if let (Some(name), Some(rest)) = (bare, after_bare) {
        text.push_str(name);
        text.push_str(rest);
    } else if line.contains("le=\"") {
        text.push_str(&line.replacen(".0\"}", "\"}", 1));
    } else {
        text.push_str(line);
    }
    text.push('\n');
}

#[cfg(test)]
mod tests {
    use prometheus_client::metrics::counter::Counter;
    use prometheus_client::metrics::family::Family;
    use prometheus_client::metrics::gauge::Gauge;
    use prometheus_client::metrics::histogram::Histogram;

    use super::*;

    #[test]
    fn every_kind_of_metric_is_written_as_0_0_4_has_it() {
        let mut registry = Registry::default();
        let counter: Counter = Counter::default();
        counter.inc_by(3);
        registry.register("a_b", "A counter", counter);
        registry.register(
            "etcd_server_health_success",
            "A bare one",
            Counter::<u64>::default(),
        );
        let gauge: Gauge = Gauge::default();
        gauge.set(-1);
        registry.register("g_total", "A gauge", gauge);
        let histogram = Histogram::new([0.5, 1.0, 8.192]);
        histogram.observe(0.7);
        registry.register("h_seconds", "A histogram", histogram);
        let family: Family<[(&str, &str); 1], Gauge> = Family::default();
        family.get_or_create(&[("id", "a\"b")]).set(1);
        registry.register("labelled", "With a label", family);
        registry.register(
            "empty",
            "Never used",
            Family::<[(&str, &str); 1], Counter>::default(),
        );
        assert_eq!(
            text(&registry).expect("writes"),
            "# HELP a_b_total A counter.\n\
             # TYPE a_b_total counter\n\
             a_b_total 3\n\
             # HELP etcd_server_health_success A bare one.\n\
             # TYPE etcd_server_health_success counter\n\
             etcd_server_health_success 0\n\
             # HELP g_total A gauge.\n\
             # TYPE g_total gauge\n\
             g_total -1\n\
             # HELP h_seconds A histogram.\n\
             # TYPE h_seconds histogram\n\
             h_seconds_sum 0.7\n\
             h_seconds_count 1\n\
             h_seconds_bucket{le=\"0.5\"} 0\n\
             h_seconds_bucket{le=\"1\"} 1\n\
             h_seconds_bucket{le=\"8.192\"} 1\n\
             h_seconds_bucket{le=\"+Inf\"} 1\n\
             # HELP labelled With a label.\n\
             # TYPE labelled gauge\n\
             labelled{id=\"a\\\"b\"} 1\n"
        );
    }
}
