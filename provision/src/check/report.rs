//! The findings for people, for machines, and for later.

use std::path::{Path, PathBuf};

use serde_json::json;

use super::finding::{Finding, Verdict};
use crate::host::{HostError, Ownership, clock, file_error, replace_file};
use crate::output::Output;
use crate::paths;
use crate::spec::Profile;

/// Reports that are kept, so that a disk can be compared with itself of some months ago.
const REPORTS_MAX: usize = 20;

/// Prints the findings; the worst first would hide the order, so they come as they are.
pub(crate) fn print(findings: &[Finding], profile: Profile, output: &Output) {
    for finding in findings {
        output.event(finding.to_json());
        let (word, colour) = match finding.verdict {
            Verdict::Ok => ("ok", "32"),
            Verdict::Warn => ("warn", "33"),
            Verdict::Fail => ("FAIL", "31"),
            Verdict::Skip => ("skip", "2"),
            Verdict::Unknown => ("unknown", "35"),
        };
        let word = output.paint(colour, &format!("{word:<7}"));
        output.line(&format!(
            "{word}  {:<15}  {}",
            finding.id.name(),
            finding.value
        ));
        if finding.verdict != Verdict::Ok {
            output.line(&format!("{:26}wanted: {}", "", finding.threshold));
            if !finding.advice.is_empty() {
                output.line(&format!("{:26}{}", "", finding.advice));
            }
        }
    }
    let count = |verdict| {
        findings
            .iter()
            .filter(|finding| finding.verdict == verdict)
            .count()
    };
    output.line(&format!(
        "{} checks with profile {profile}: {} ok, {} warn, {} fail, {} skipped, {} not determined",
        findings.len(),
        count(Verdict::Ok),
        count(Verdict::Warn),
        count(Verdict::Fail),
        count(Verdict::Skip),
        count(Verdict::Unknown),
    ));
}

/// Keeps the findings on the host; the oldest beyond [`REPORTS_MAX`] go.
///
/// # Errors
/// When the file cannot be written.
pub(crate) fn keep(findings: &[Finding], profile: Profile) -> Result<PathBuf, HostError> {
    keep_in(
        Path::new(paths::PREFLIGHT_DIR),
        clock::unix_seconds(),
        findings,
        profile,
    )
}

fn keep_in(
    folder: &Path,
    now: u64,
    findings: &[Finding],
    profile: Profile,
) -> Result<PathBuf, HostError> {
    std::fs::create_dir_all(folder).map_err(file_error("make", folder.display()))?;
    let path = folder.join(format!("{now:012}.json"));
    let report = json!({
        "unix_seconds": now,
        "profile": profile,
        "findings": findings.iter().map(Finding::to_json).collect::<Vec<_>>(),
    });
    let text = format!("{report:#}\n");
    replace_file(
        &path,
        text.as_bytes(),
        Ownership {
            ids: None,
            mode: 0o640,
        },
    )?;
    let mut reports: Vec<PathBuf> = std::fs::read_dir(folder)
        .map_err(file_error("read", folder.display()))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "json")
        })
        .collect();
    reports.sort();
    for old in reports.iter().rev().skip(REPORTS_MAX) {
        std::fs::remove_file(old).map_err(file_error("remove", old.display()))?;
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_reports_are_kept() {
        let folder = tempfile::tempdir().expect("temporary folder");
        for now in 0..25 {
            keep_in(folder.path(), now, &[], Profile::Dev).expect("kept");
        }
        let count = std::fs::read_dir(folder.path()).expect("folder").count();
        assert_eq!(count, REPORTS_MAX);
        assert!(folder.path().join("000000000024.json").exists());
        assert!(!folder.path().join("000000000004.json").exists());
    }
}
