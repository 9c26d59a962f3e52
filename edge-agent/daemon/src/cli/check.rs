//! `edge-agent check`: whether an engine can run a model file, and everything that stands in the way.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use console::{CliError, ExitKind, OrExit, Output};
use engine::{Engine, LibrarySearch, LoadError, LoadOptions, ModelBytes, ModelLimits, OrtEngine, precheck};
#[cfg(feature = "wgpu")]
use engine_wgpu::check::ModelReport;
use serde::Serialize;
use store::files;
use types::EngineName;

use super::Context;

/// Says whether an engine can run a model file, and everything that stands in the way.
///
/// For wgpu it looks at the file alone and needs no GPU; for ort it loads the file. The exit code is 0 when the engine
/// can run it, 1 when it cannot, 3 when the file is no ONNX model or over a limit.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  edge-agent check model.onnx --engine wgpu\n  \
                        edge-agent check model.onnx --engine wgpu --json | jq '.unsupported[].operator'")]
pub struct Check {
    /// The model file
    model: PathBuf,
    /// The engine; without it the first of engine.engines
    #[arg(long, value_enum)]
    engine: Option<CheckedEngine>,
}

/// An engine that can be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum CheckedEngine {
    /// ONNX Runtime
    Ort,
    /// Our own engine for GPUs
    Wgpu,
}

impl CheckedEngine {
    const fn name(self) -> EngineName {
        match self {
            Self::Ort => EngineName::Ort,
            Self::Wgpu => EngineName::Wgpu,
        }
    }
}

/// What came of it.
#[derive(Debug, Serialize)]
struct Checked {
    model: PathBuf,
    engine: EngineName,
    can_run: bool,
    /// Why not, in one line.
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
    /// What runs its nodes; of ONNX Runtime only.
    #[serde(skip_serializing_if = "Option::is_none")]
    provider: Option<String>,
    /// Sizes, islands and every unsupported operator; of the wgpu engine only.
    #[cfg(feature = "wgpu")]
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    report: Option<ModelReport>,
    #[serde(skip)]
    exit: ExitKind,
}

impl Checked {
    fn new(model: &Path, engine: EngineName) -> Self {
        Self {
            model: model.to_owned(),
            engine,
            can_run: true,
            problem: None,
            provider: None,
            #[cfg(feature = "wgpu")]
            report: None,
            exit: ExitKind::Ok,
        }
    }

    fn cannot(self, exit: ExitKind, problem: String) -> Self {
        Self { can_run: false, problem: Some(problem), exit, ..self }
    }
}

impl Check {
    pub(super) fn run(self, context: &Context) -> Result<(), CliError> {
        let limits = ModelLimits::default();
        let bytes = files::read_bounded(&self.model, limits.file_bytes).map_err(|error| {
            let kind = if error.is_not_found() { ExitKind::NotFound } else { ExitKind::Storage };
            CliError::new(kind, error).hint("name an ONNX file")
        })?;
        let config = context.configuration()?;
        let engine = self.engine.map(CheckedEngine::name).or_else(|| config.engine.engines.first().copied());
        let engine = engine.unwrap_or(EngineName::Ort);
        let checked = match (precheck::check(&bytes, &limits), engine) {
            (Err(refusal), _) => Checked::new(&self.model, engine).cannot(ExitKind::Config, telemetry::chain(&refusal)),
            (Ok(_facts), EngineName::Wgpu) => on_wgpu(&self.model, &bytes),
            (Ok(_facts), EngineName::Ort | EngineName::Fake) => {
                let search = LibrarySearch { configured: config.engine.onnxruntime.clone() };
                let hint = "install the package that ships ONNX Runtime, or set engine.onnxruntime";
                let ort = OrtEngine::open(&search).or_exit_try(ExitKind::Runtime, hint)?;
                let options = LoadOptions { providers: config.engine.providers.clone(), ..LoadOptions::default() };
                on_ort(&self.model, bytes, &ort, &options)
            }
        };
        print(&checked, context.output)?;
        match &checked.problem {
            None => Ok(()),
            Some(problem) => Err(CliError::new(checked.exit, format!("{engine} cannot run it: {problem}"))),
        }
    }
}

fn on_ort(model: &Path, bytes: Vec<u8>, ort: &OrtEngine, options: &LoadOptions) -> Checked {
    let checked = Checked::new(model, EngineName::Ort);
    match ort.load(ModelBytes::from(bytes), options) {
        Ok(session) => Checked { provider: Some(session.provider().to_owned()), ..checked },
        Err(error) => {
            let exit = match &error {
                LoadError::Refused(_) => ExitKind::Config,
                LoadError::Unsupported { .. }
                | LoadError::Provider { .. }
                | LoadError::Failed(_)
                | LoadError::Died(_)
                | LoadError::Host(_) => ExitKind::Failed,
            };
            checked.cannot(exit, telemetry::chain(&error))
        }
    }
}

#[cfg(feature = "wgpu")]
fn on_wgpu(model: &Path, bytes: &[u8]) -> Checked {
    let checked = Checked::new(model, EngineName::Wgpu);
    match engine_wgpu::check::check(bytes) {
        Ok(report) if report.can_run() => Checked { report: Some(report), ..checked },
        Ok(report) => {
            let kinds = report.unsupported.len();
            let nodes: usize = report.unsupported.iter().map(|operator| operator.count).sum();
            let problem = format!("it does not have {kinds} kinds of operators, of {nodes} nodes");
            Checked { report: Some(report), ..checked }.cannot(ExitKind::Failed, problem)
        }
        Err(error) => checked.cannot(ExitKind::Config, telemetry::chain(&error)),
    }
}

#[cfg(not(feature = "wgpu"))]
fn on_wgpu(model: &Path, _bytes: &[u8]) -> Checked {
    Checked::new(model, EngineName::Wgpu).cannot(ExitKind::Failed, "this build is without it".to_owned())
}

fn print(checked: &Checked, output: Output) -> Result<(), CliError> {
    if output == Output::Json {
        return console::print_json(checked).or_exit(ExitKind::Storage);
    }
    let verdict = if checked.can_run { "runs" } else { "does not run" };
    let on = checked.provider.as_ref().map_or_else(String::new, |provider| format!(" on {provider}"));
    #[cfg_attr(not(feature = "wgpu"), expect(unused_mut, reason = "only the report adds lines"))]
    let mut lines = vec![format!("{} {verdict} with {}{on}", checked.model.display(), checked.engine)];
    #[cfg(feature = "wgpu")]
    lines.extend(checked.report.iter().flat_map(told));
    let text = lines.iter().map(|line| telemetry::escape_control(line).into_owned()).collect::<Vec<_>>().join("\n");
    console::print_line(&text).or_exit(ExitKind::Storage)
}

/// The report in words: the names in it come from the file.
#[cfg(feature = "wgpu")]
fn told(report: &ModelReport) -> Vec<String> {
    let ModelReport { nodes, nodes_rewritten, constant_bytes, islands, unsupported, work } = report;
    let constants = super::show::bytes(*constant_bytes);
    let mut lines =
        vec![format!("{nodes} nodes, {nodes_rewritten} after rewriting, {constants} of constants, {work} operations")];
    lines.extend(islands.iter().map(|island| format!("on the processor: {} {}", island.operator, island.node)));
    if !unsupported.is_empty() {
        let rows = unsupported.iter().map(|operator| {
            [
                format!("{}::{}", operator.domain, operator.operator),
                operator.opset.to_string(),
                operator.count.to_string(),
                operator.first_node.clone(),
                operator.reason.clone(),
            ]
        });
        let table = console::render_table(["unsupported", "opset", "nodes", "first", "reason"], rows);
        lines.extend(table.lines().map(str::to_owned));
    }
    lines
}
