//! `edge-agent check`: tells whether an engine can run a model file; see [`service::check`].

use std::path::PathBuf;

use clap::Args;
use console::CliError;
use engine::{LibrarySearch, LoadOptions};
use service::check::{CheckedEngine, ModelCheck};
use types::EngineName;

use super::Context;

/// Tells whether an engine can run a model file, and everything that prevents it.
///
/// For wgpu it checks the file alone and needs no GPU; for ort it loads the file. The exit code is 0 when the engine
/// can run it, 1 when it cannot, 3 when the file is no ONNX model or over a limit.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  edge-agent check model.onnx --engine wgpu\n  \
                        edge-agent check model.onnx --engine wgpu --json | jq '.unsupported[].operator'")]
pub struct Check {
    /// Path of the model file
    model: PathBuf,
    /// The engine; without it the first of engine.engines
    #[arg(long, value_enum)]
    engine: Option<CheckedEngine>,
}

impl Check {
    pub(super) fn run(self, context: &Context) -> Result<(), CliError> {
        let config = context.configuration()?.engine;
        let engine = self.engine.map(CheckedEngine::name).or_else(|| config.engines.first().copied());
        let check = ModelCheck {
            model: &self.model,
            engine: engine.unwrap_or(EngineName::Ort),
            search: LibrarySearch { configured: config.onnxruntime },
            options: LoadOptions { providers: config.providers, ..LoadOptions::default() },
            library_advice: "install the package that ships ONNX Runtime, or set engine.onnxruntime",
        };
        check.run(context.output)
    }
}
