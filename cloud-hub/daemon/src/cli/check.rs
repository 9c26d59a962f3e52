//! `cloud-hub model check`: whether an engine can run a model file, and everything that stands in the way.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use console::{CliError, ExitKind, OrExit, Output};
use engine::{Engine, LibrarySearch, LoadError, LoadOptions, ModelBytes, ModelLimits, OrtEngine, precheck};
#[cfg(feature = "wgpu")]
use engine_wgpu::check::ModelReport;
use serde::Serialize;
use store::files;
use types::EngineName;

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

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum CheckedEngine {
    /// ONNX Runtime.
    Ort,
    /// Our own engine for GPUs.
    Wgpu,
}

/// What came of it; the same form as `edge-agent check --json`.
#[derive(Debug, Serialize)]
struct Checked {
    model: PathBuf,
    engine: EngineName,
    can_run: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    provider: Option<String>,
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

pub(super) fn run(args: &CheckArgs) -> Result<(), CliError> {
    let limits = ModelLimits::default();
    let bytes = files::read_bounded(&args.model, limits.file_bytes).map_err(|error| {
        let kind = if error.is_not_found() { ExitKind::NotFound } else { ExitKind::Storage };
        CliError::new(kind, error).hint("name an ONNX file")
    })?;
    let engine = match args.engine {
        CheckedEngine::Ort => EngineName::Ort,
        CheckedEngine::Wgpu => EngineName::Wgpu,
    };
    let checked = match (precheck::check(&bytes, &limits), args.engine) {
        (Err(refusal), _) => Checked::new(&args.model, engine).cannot(ExitKind::Config, telemetry::chain(&refusal)),
        (Ok(_facts), CheckedEngine::Wgpu) => on_wgpu(&args.model, &bytes),
        (Ok(_facts), CheckedEngine::Ort) => {
            let hint = "install the package that ships ONNX Runtime, or set SANDERLING_ONNXRUNTIME";
            let ort = OrtEngine::open(&LibrarySearch::default()).or_exit_try(ExitKind::Runtime, hint)?;
            on_ort(&args.model, bytes, &ort)
        }
    };
    print(&checked, Output::from_json_flag(args.json))?;
    match &checked.problem {
        None => Ok(()),
        Some(problem) => Err(CliError::new(checked.exit, format!("{engine} cannot run it: {problem}"))),
    }
}

fn on_ort(model: &Path, bytes: Vec<u8>, ort: &OrtEngine) -> Checked {
    let checked = Checked::new(model, EngineName::Ort);
    match ort.load(ModelBytes::from(bytes), &LoadOptions::default()) {
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
    Ok(output.print(checked, |checked| {
        let verdict = if checked.can_run { "runs" } else { "does not run" };
        let on = checked.provider.as_ref().map_or_else(String::new, |provider| format!(" on {provider}"));
        #[cfg_attr(not(feature = "wgpu"), expect(unused_mut, reason = "only the report adds lines"))]
        let mut lines = vec![format!("{} {verdict} with {}{on}", checked.model.display(), checked.engine)];
        #[cfg(feature = "wgpu")]
        lines.extend(checked.report.iter().flat_map(told));
        // Names in the report come from the file.
        lines.iter().map(|line| telemetry::escape_control(line).into_owned()).collect::<Vec<_>>().join("\n")
    })?)
}

#[cfg(feature = "wgpu")]
fn told(report: &ModelReport) -> Vec<String> {
    let ModelReport { nodes, nodes_rewritten, constant_bytes, islands, unsupported, work } = report;
    let mut lines = vec![format!(
        "{nodes} nodes, {nodes_rewritten} after rewriting, {constant_bytes} bytes of constants, {work} operations"
    )];
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
