//! `cloud-hub model inspect`: what is in a model file, as a table, JSON or a page.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use clap::Args;
use console::{CliError, ExitKind, OrExit, Output};
use engine::{Engine, LibrarySearch, LoadOptions, ModelBytes, OrtEngine};
use onnx_graph::inspect::{EngineSupport, Inspection, Value, inspect, page};
use onnx_graph::{Model, ReadError};
use store::files::{self, Mode};

/// Bytes at the beginning of a file that tell its format.
const HEAD_BYTES: u64 = 4 * 1024;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  cloud-hub model inspect model.onnx
  cloud-hub model inspect model.onnx --dim batch=8 --dim sequence=128
  cloud-hub model inspect model.onnx --html model.html
  cloud-hub model inspect model.onnx --json | jq '.operators[] | {operator, bytes}'

Weights that the model keeps in files beside it are read too. MAC are multiplications with addition, estimated from shapes;
a dimension that the model leaves open counts as 1 unless --dim says otherwise. The exit code is 3 when the file is no ONNX
model or over a limit.")]
pub(super) struct InspectArgs {
    /// Bytes of the model file.
    model: PathBuf,
    /// Size of an open dimension: by the name that the model gives it, or INPUT.AXIS when it has none.
    #[arg(long = "dim", value_name = "NAME=N", value_parser = dim)]
    dims: Vec<(String, i64)>,
    /// Write the page to this file too.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Print JSON instead of a table.
    #[arg(long)]
    json: bool,
}

/// Parses a dimension `NAME=N`.
fn dim(text: &str) -> Result<(String, i64), String> {
    let (name, size) = text.rsplit_once('=').ok_or("write NAME=N, like batch=8")?;
    let size = size.parse().ok().filter(|&size: &i64| size > 0).ok_or("N is a whole number from 1 on")?;
    Ok((name.to_owned(), size))
}

pub(super) fn run(args: &InspectArgs) -> Result<(), CliError> {
    let model = Model::open(&args.model).map_err(|error| {
        let kind = match &error {
            ReadError::File { source, .. } if source.kind() == std::io::ErrorKind::NotFound => ExitKind::NotFound,
            ReadError::File { .. } => ExitKind::Storage,
            _ => ExitKind::Config,
        };
        match other_format(&args.model).filter(|_| matches!(kind, ExitKind::Config)) {
            Some((what, advice)) => {
                CliError::new(kind, format!("{} is {what}, not an ONNX model", args.model.display())).hint(advice)
            }
            None => CliError::new(kind, error).hint("name an ONNX file"),
        }
    })?;
    let sizes: HashMap<String, i64> = args.dims.iter().cloned().collect();
    let told = inspect(&model, &sizes, engines(&model));
    if let Some(unknown) = args.dims.iter().find(|(name, _)| !told.dims.contains_key(name)) {
        let open: Vec<&str> = told.dims.keys().map(String::as_str).collect();
        let problem = format!("the model has no open dimension {:?}", unknown.0);
        return Err(CliError::new(ExitKind::Usage, problem).hint(format!("it has: {}", open.join(", "))));
    }
    if let Some(file) = &args.html {
        let name = args.model.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
        let page = page(&name, &told).or_exit(ExitKind::Runtime)?;
        files::write_atomic(file, page.as_bytes(), Mode::Shared).or_exit(ExitKind::Storage)?;
    }
    Ok(Output::from_json_flag(args.json).print(&told, table)?)
}

/// Format of a file that could not be read as a model.
fn other_format(path: &Path) -> Option<(&'static str, &'static str)> {
    use std::io::Read;

    let mut head = Vec::new();
    std::fs::File::open(path).ok()?.take(HEAD_BYTES).read_to_end(&mut head).ok()?;
    engine::precheck::format::other(&head)
}

/// Returns the verdict of each engine on the model as one file, as `cloud-hub model check` gets it.
fn engines(model: &Model) -> Vec<EngineSupport> {
    let support = |engine: &str, can_run, problems| EngineSupport { engine: engine.to_owned(), can_run, problems };
    match model.to_bytes() {
        Ok(bytes) => vec![wgpu(&bytes), ort(bytes)],
        Err(error) => {
            let problem = vec![telemetry::chain(&error)];
            vec![support("wgpu", Some(false), problem.clone()), support("ort", Some(false), problem)]
        }
    }
}

fn ort(bytes: Vec<u8>) -> EngineSupport {
    let (can_run, problems) = match OrtEngine::open(&LibrarySearch::default()) {
        Err(error) => (None, vec![telemetry::chain(&error)]),
        Ok(engine) => match engine.load(ModelBytes::from(bytes), &LoadOptions::default()) {
            Ok(_session) => (Some(true), Vec::new()),
            Err(error) => (Some(false), vec![telemetry::chain(&error)]),
        },
    };
    EngineSupport { engine: "ort".to_owned(), can_run, problems }
}

#[cfg(feature = "wgpu")]
fn wgpu(bytes: &[u8]) -> EngineSupport {
    let (can_run, problems) = match engine_wgpu::check::check(bytes) {
        Ok(report) => {
            let told = report.unsupported.iter().map(|operator| {
                format!("{}::{} of {} nodes: {}", operator.domain, operator.operator, operator.count, operator.reason)
            });
            (Some(report.can_run()), told.collect())
        }
        Err(error) => (Some(false), vec![telemetry::chain(&error)]),
    };
    EngineSupport { engine: "wgpu".to_owned(), can_run, problems }
}

#[cfg(not(feature = "wgpu"))]
fn wgpu(_bytes: &[u8]) -> EngineSupport {
    let problems = vec!["this build is without it".to_owned()];
    EngineSupport { engine: "wgpu".to_owned(), can_run: None, problems }
}

fn table(told: &Inspection) -> String {
    let opsets: Vec<String> = told.opsets.iter().map(|(domain, version)| format!("{domain} {version}")).collect();
    let mut lines = vec![
        format!("{} parameters, {} bytes, {} MAC, {} nodes", told.parameters, told.bytes, told.macs, told.nodes),
        format!("operator sets: {}", opsets.join(", ")),
    ];
    if told.macs_unknown > 0 {
        lines.push(format!("{} nodes of unknown shapes are not in the estimate", told.macs_unknown));
    }
    if !told.dims.is_empty() {
        let dims: Vec<String> = told.dims.iter().map(|(name, size)| format!("{name} = {size}")).collect();
        lines.push(format!("counted with {}", dims.join(", ")));
    }
    lines.extend(told.engines.iter().map(|engine| {
        let verdict = match engine.can_run {
            Some(true) => "runs it",
            Some(false) => "does not run it",
            None => "was not asked",
        };
        let why = engine.problems.iter().map(|problem| format!("\n  {problem}")).collect::<String>();
        format!("{} {verdict}{why}", engine.engine)
    }));
    let values =
        told.inputs.iter().map(|value| row("in", value)).chain(told.outputs.iter().map(|value| row("out", value)));
    lines.push(console::render_table(["", "name", "type", "shape"], values));
    let operators = told.operators.iter().map(|row| {
        [
            row.operator.clone(),
            row.count.to_string(),
            row.parameters.to_string(),
            row.bytes.to_string(),
            row.macs.to_string(),
        ]
    });
    lines.push(console::render_table(["operator", "nodes", "parameters", "bytes", "MAC"], operators));
    let dtypes = told
        .dtypes
        .iter()
        .map(|row| [row.dtype.clone(), row.tensors.to_string(), row.elements.to_string(), row.bytes.to_string()]);
    lines.push(console::render_table(["type", "tensors", "elements", "bytes"], dtypes));
    let largest = told.largest.iter().map(|weight| {
        let shape: Vec<String> = weight.shape.iter().map(ToString::to_string).collect();
        [weight.name.clone(), weight.dtype.clone(), shape.join("x"), weight.operator.clone(), weight.bytes.to_string()]
    });
    lines.push(console::render_table(["largest weights", "type", "shape", "operator", "bytes"], largest));
    // Names come from the file.
    let lines = lines.iter().flat_map(|part| part.lines());
    lines.map(|line| telemetry::escape_control(line).into_owned()).collect::<Vec<_>>().join("\n")
}

fn row(side: &str, value: &Value) -> [String; 4] {
    let shape = value
        .shape
        .as_ref()
        .map_or_else(|| "?".to_owned(), |dims| dims.iter().map(ToString::to_string).collect::<Vec<_>>().join("x"));
    [side.to_owned(), value.name.clone(), value.dtype.clone(), shape]
}
