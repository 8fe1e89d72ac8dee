use std::fmt::Write;

use super::flags::{FLAGS, Flag, Topic};
use super::version::{ETCD_VERSION, HOLDFAST_VERSION};
use crate::commands::TOOLS;

/// Where the explanation of a flag begins, so that explanations stand in one column.
const EXPLANATION_COLUMN: usize = 42;

/// The answer to `--help`.
pub(super) fn help() -> String {
    let mut text = String::from(
        "Holdfast, an etcd-compatible key-value server.\n\n\
         Usage: holdfast [serve] [--FLAG=VALUE]...\n       \
         holdfast TOOL --help\n\n\
         Tools:\n",
    );
    for tool in &TOOLS {
        text.push_str(&format!("  {:10}{}\n", tool.word, tool.summary));
    }
    text.push_str(
        "\n\
         Every flag is also an environment variable: --data-dir is ETCD_DATA_DIR.\n\
         Setting both is refused. Times are written as 500ms, 30s, 1h30m.\n",
    );
    for (topic, title) in Topic::ALL {
        text.push_str(&format!("\n{title}:\n"));
        for flag in FLAGS.iter().filter(|flag| flag.topic == topic) {
            write_flag(&mut text, flag).expect("writing to a String succeeds");
        }
    }
    text
}

fn write_flag(text: &mut String, flag: &Flag) -> std::fmt::Result {
    let mut head = format!("  --{}", flag.name);
    if !flag.placeholder.is_empty() {
        write!(head, "={}", flag.placeholder)?;
    }
    if head.chars().count() + 2 > EXPLANATION_COLUMN {
        writeln!(text, "{head}")?;
        head.clear();
    }
    writeln!(text, "{head:EXPLANATION_COLUMN$}{}", flag.help)?;
    if !flag.default.is_empty() {
        writeln!(
            text,
            "{:EXPLANATION_COLUMN$}[default: {}]",
            "", flag.default
        )?;
    }
    Ok(())
}

/// The answer to `--version`.
pub(super) fn version() -> String {
    format!(
        "holdfast Version: {HOLDFAST_VERSION}\n\
         etcd Version: {ETCD_VERSION} (compatible)\n\
         OS/Arch: {}/{}\n",
        std::env::consts::OS,
        std::env::consts::ARCH,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_help_tells_every_flag_once_and_fits_a_terminal() {
        let help = help();
        for flag in FLAGS {
            let line_starts = help
                .lines()
                .filter(|line| {
                    line.trim_start()
                        .strip_prefix(&format!("--{}", flag.name))
                        .is_some_and(|rest| rest.is_empty() || rest.starts_with(['=', ' ']))
                })
                .count();
            assert_eq!(line_starts, 1, "--{}", flag.name);
        }
        for line in help.lines() {
            assert!(line.chars().count() <= 130, "{line}");
        }
    }

    #[test]
    fn both_versions_are_told() {
        let version = version();
        assert!(version.starts_with(&format!("holdfast Version: {HOLDFAST_VERSION}\n")));
        assert!(version.contains(&format!("etcd Version: {ETCD_VERSION}")));
    }
}
