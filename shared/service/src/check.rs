//! The verb that tells whether an engine can run a model file, and everything that prevents it.
//!
//! For wgpu the file alone is checked, without a GPU; for ONNX Runtime the file is loaded.

use std::path::{Path, PathBuf};

use clap::ValueEnum;
use console::{CliError, ExitKind, OrExit, Output};
use engine::{Engine, LibrarySearch, LoadError, LoadOptions, ModelBytes, ModelLimits, OrtEngine, precheck};
#[cfg(feature = "wgpu")]
use engine_wgpu::check::ModelReport;
use serde::Serialize;
use store::files;
use types::EngineName;

#[cfg(feature = "wgpu")]
use crate::units;

/// An engine that can be asked on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum CheckedEngine {
    /// ONNX Runtime
    Ort,
    /// Our own engine for GPUs
    Wgpu,
}

impl CheckedEngine {
    /// Returns the engine's name.
    #[must_use]
    pub const fn name(self) -> EngineName {
        match self {
            Self::Ort => EngineName::Ort,
            Self::Wgpu => EngineName::Wgpu,
        }
    }
}

/// One check: a model file and the engine that shall run it.
#[derive(Debug)]
pub struct ModelCheck<'a> {
    /// Path of the model file.
    pub model: &'a Path,
    /// Engine that is asked.
    pub engine: EngineName,
    /// Places in which ONNX Runtime is searched.
    pub search: LibrarySearch,
    /// Options of the load in ONNX Runtime.
    pub options: LoadOptions,
    /// Advice where ONNX Runtime is not found.
    pub library_advice: &'static str,
}

/// Result of a check, printed as JSON or as text.
#[derive(Debug, Serialize)]
struct Checked {
    model: PathBuf,
    engine: EngineName,
    can_run: bool,
    /// Reason on one line, if it cannot run.
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
    /// Execution provider of the nodes; of ONNX Runtime only.
    #[serde(skip_serializing_if = "Option::is_none")]
    provider: Option<String>,
    /// Sizes, host nodes and every unsupported operator; of the wgpu engine only.
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

impl ModelCheck<'_> {
    /// Checks the file and prints the result.
    ///
    /// # Errors
    /// When the file is not readable, the engine does not open, or it cannot run the model.
    pub fn run(&self, output: Output) -> Result<(), CliError> {
        let limits = ModelLimits::default();
        let bytes = files::read_bounded(self.model, limits.file_bytes).map_err(|error| {
            let kind = if error.is_not_found() { ExitKind::NotFound } else { ExitKind::Storage };
            CliError::new(kind, error).hint("name an ONNX file")
        })?;
        let checked = match (precheck::check(&bytes, &limits), self.engine) {
            (Err(refusal), _) => {
                Checked::new(self.model, self.engine).cannot(ExitKind::Config, telemetry::chain(&refusal))
            }
            (Ok(_facts), EngineName::Wgpu) => on_wgpu(self.model, &bytes),
            (Ok(_facts), EngineName::Ort | EngineName::Fake) => {
                let ort = OrtEngine::open(&self.search).or_exit_try(ExitKind::Runtime, self.library_advice)?;
                on_ort(self.model, bytes, &ort, &self.options)
            }
        };
        output.print(&checked, in_words).or_exit(ExitKind::Storage)?;
        match &checked.problem {
            None => Ok(()),
            Some(problem) => Err(CliError::new(checked.exit, format!("{} cannot run it: {problem}", self.engine))),
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

fn in_words(checked: &Checked) -> String {
    let verdict = if checked.can_run { "runs" } else { "does not run" };
    let on = checked.provider.as_ref().map_or_else(String::new, |provider| format!(" on {provider}"));
    #[cfg_attr(not(feature = "wgpu"), expect(unused_mut, reason = "only the report adds lines"))]
    let mut lines = vec![format!("{} {verdict} with {}{on}", checked.model.display(), checked.engine)];
    #[cfg(feature = "wgpu")]
    lines.extend(checked.report.iter().flat_map(report_lines));
    // Names in the report come from the file.
    lines.iter().map(|line| telemetry::escape_control(line).into_owned()).collect::<Vec<_>>().join("\n")
}

#[cfg(feature = "wgpu")]
fn report_lines(report: &ModelReport) -> Vec<String> {
    let ModelReport { nodes, nodes_rewritten, constant_bytes, host_nodes, unsupported, work } = report;
    let constants = units::bytes(*constant_bytes);
    let mut lines =
        vec![format!("{nodes} nodes, {nodes_rewritten} after rewriting, {constants} of constants, {work} operations")];
    lines.extend(host_nodes.iter().map(|node| format!("on the processor: {} {}", node.operator, node.node)));
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
