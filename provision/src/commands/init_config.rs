//! `provision init-config`: a commented configuration to start from.

use super::CommandError;
use crate::cli::Global;
use crate::exit_code::Exit;
use crate::output::Output;
use crate::render;
use crate::spec::Profile;

pub(crate) fn run(global: &Global, output: &Output) -> Result<Exit, CommandError> {
    let text = render::init_config(global.profile.unwrap_or(Profile::Prod))?;
    if output.is_json() {
        output.result(serde_json::json!({ "configuration": text }));
    } else {
        output.raw(&text);
    }
    Ok(Exit::Done)
}
