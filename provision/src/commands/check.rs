//! `provision check`: judge this host.

use serde_json::json;

use super::CommandError;
use super::prepare::{WhenMissing, configuration};
use crate::check::{self, Finding, Verdict};
use crate::cli::Global;
use crate::exit_code::Exit;
use crate::output::Output;
use crate::spec::Spec;

pub(crate) fn run(global: &Global, output: &Output) -> Result<Exit, CommandError> {
    if global.root.is_some() {
        let message = "check judges the host it runs on and takes no --root".to_owned();
        return Err(CommandError::Usage(message));
    }
    let configuration = configuration(global, WhenMissing::Defaults)?;
    output.progress(&format!(
        "Checking this host for {} (the disk probe takes up to ten seconds)",
        configuration.source
    ));
    let findings = findings(&configuration.spec, output);
    let failed = has_failed(&findings);
    output.result(json!({
        "profile": configuration.spec.profile,
        "failed": failed,
        "source": configuration.source.to_string(),
    }));
    Ok(if failed {
        Exit::CheckFailed
    } else {
        Exit::Done
    })
}

/// Measures, judges, prints, and keeps the report where we may.
pub(super) fn findings(spec: &Spec, output: &Output) -> Vec<Finding> {
    let findings = check::judge(spec, &check::measure(spec));
    check::print(&findings, spec.profile, output);
    if nix::unistd::geteuid().is_root() {
        match check::keep(&findings, spec.profile) {
            Ok(path) => output.line(&format!("Report kept as {}", path.display())),
            // The findings are on the screen; a full or read-only disk is among them.
            Err(error) => output.progress(&format!("The report could not be kept: {error}")),
        }
    }
    findings
}

/// Whether a finding forbids to go on.
pub(super) fn has_failed(findings: &[Finding]) -> bool {
    findings
        .iter()
        .any(|finding| finding.verdict == Verdict::Fail)
}
