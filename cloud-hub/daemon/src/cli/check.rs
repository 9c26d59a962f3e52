//! `cloud-hub model check`: tells whether an engine can run a model file; see [`service::check`].

use std::path::PathBuf;

use clap::Args;
use console::{CliError, Output};
use engine::{LibrarySearch, LoadOptions};
use service::check::{CheckedEngine, ModelCheck};

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  cloud-hub model check model.onnx --engine wgpu
  cloud-hub model check model.onnx --engine wgpu --json | jq '.unsupported[].operator'

For wgpu it looks at the file alone and needs no GPU; for ort it loads the file. The exit code is 0 when the engine can
run it, 1 when it cannot, 3 when the file is no ONNX model or over a limit. A push checks the same.")]
pub(super) struct CheckArgs {
    /// The model file.
    model: PathBuf,
    /// The engine that shall run it.
    #[arg(long, value_enum, default_value = "ort")]
    engine: CheckedEngine,
    /// Print JSON instead of a table.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &CheckArgs) -> Result<(), CliError> {
    let check = ModelCheck {
        model: &args.model,
        engine: args.engine.name(),
        search: LibrarySearch::default(),
        options: LoadOptions::default(),
        library_advice: "install the package that ships ONNX Runtime, or set SANDERLING_ONNXRUNTIME",
    };
    check.run(Output::from_json_flag(args.json))
}
