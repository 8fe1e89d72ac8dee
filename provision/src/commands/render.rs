//! `provision render`: all files below a folder, for eyes and for golden trees.

use std::path::Path;

use serde_json::json;

use super::CommandError;
use super::prepare::{WhenMissing, configuration};
use crate::cli::{Global, RenderArguments};
use crate::exit_code::Exit;
use crate::host::{self, file_error};
use crate::output::{Output, StepLine, StepStatus};
use crate::render;

pub(crate) fn run(
    global: &Global,
    arguments: &RenderArguments,
    output: &Output,
) -> Result<Exit, CommandError> {
    let configuration = configuration(global, WhenMissing::Defaults)?;
    let desired = render::desired(&configuration.spec, &configuration.text)?;
    for file in &desired.files {
        let path = arguments.out.join(file.path.trim_start_matches('/'));
        let folder = path.parent().unwrap_or(Path::new("."));
        std::fs::create_dir_all(folder).map_err(file_error("make", folder.display()))?;
        // Readable by whoever looks at the tree: it is no target.
        let ownership = host::Ownership {
            ids: None,
            mode: 0o644,
        };
        host::replace_file(&path, file.content.as_bytes(), ownership)?;
        output.step(&StepLine {
            status: StepStatus::Ok,
            phase: "render",
            detail: &path.display().to_string(),
            elapsed: None,
            facts: json!({ "path": file.path, "access": file.access.to_string() }),
        });
    }
    output.result(
        json!({ "files": desired.files.len(), "source": configuration.source.to_string() }),
    );
    Ok(Exit::Done)
}
