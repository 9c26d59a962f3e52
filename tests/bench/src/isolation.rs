//! Cost of engines in child processes: the added time of one run, and the memory of both processes.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use bench::figure::{self, Figure, Measured};
use bench::race::timed;
use bench::row::{Bar, Row};
use bench::sample::Sample;
use engine::{
    Engine, HostOptions, LibrarySearch, LoadOptions, ModelBytes, OrtEngine, ProcessEngine, RunControl, Session,
};
use onnx_graph::proto::tensor_shape_proto::{Dimension, dimension};
use onnx_graph::proto::{
    GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorShapeProto, TypeProto, ValueInfoProto, type_proto,
};
use prost::Message as _;
use serde_json::json;
use testkit::binaries::workspace;
use types::{EngineName, NamedTensor, Tensor};

/// Number of elements of the input: 110 kB of FP32, about a picture of 96 x 96 x 3.
const ELEMENTS: usize = 27_500;

/// Number of runs in one round, of which the median counts: a run takes some microseconds.
const RUNS_PER_ROUND: usize = 200;

/// Maximum time that a child process may add to the median run, in microseconds.
const ADDED_US_MAX: f64 = 60.0;

/// Maximum number of rounds of the memory figure: each starts two processes.
const MEMORY_ROUNDS_MAX: u32 = 5;

/// Process of the engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Place {
    /// The process of the benchmark itself.
    Inside,
    /// A child process of the benchmark.
    Hosted,
}

const FIGURES: [Figure<u32>; 2] = [
    Figure {
        name: "run_110kb_added_by_host",
        unit: "us",
        peer: None,
        bar: Some(Bar::AtMost(ADDED_US_MAX)),
        measure: added_time,
    },
    Figure { name: "memory_with_host", unit: "MB", peer: Some("engine in the process"), bar: None, measure: memory },
];

/// Measures both figures.
pub(crate) fn rows(rounds: u32, only: &str) -> Vec<Row> {
    figure::measure(&FIGURES, &rounds, only)
}

/// Runs the child process of a [`Place::Hosted`] engine.
pub(crate) fn serve() -> ExitCode {
    engine::host::serve(|config, _keepsake| {
        let library = config.get("library").and_then(|library| library.as_str()).map(PathBuf::from);
        let opened = OrtEngine::open(&LibrarySearch { configured: library });
        opened.map(|engine| Arc::new(engine) as Arc<dyn Engine>).map_err(|error| error.to_string())
    })
}

/// Loads the digits' full model, runs it once and returns the memory of this process and its children in megabytes.
///
/// # Errors
/// Fails if the engine, the model or the system's memory statistics are not available.
pub(crate) fn memory_here(place: Place) -> Result<f64> {
    let engine = open(place)?;
    let file = workspace().join("models/catalog/digits/v1/full.onnx");
    let model = std::fs::read(&file).with_context(|| format!("read {}", file.display()))?;
    let mut session = engine.load(ModelBytes::from(model), &LoadOptions::default()).context("load the model")?;
    let zeros = engine::zeros(session.signature()).context("make inputs for the model")?;
    session.run(&zeros, &[], &RunControl::default()).context("run the model")?;
    let children = engine.hosts().into_iter().filter_map(|host| host.pid);
    let mut kilobytes = held(Path::new("/proc/self/smaps_rollup"))?;
    for child in children {
        kilobytes += held(&PathBuf::from(format!("/proc/{child}/smaps_rollup")))?;
    }
    Ok(kilobytes / 1e3)
}

/// Returns the proportional set size in kilobytes (kernel's `Documentation/filesystems/proc.rst`): each process counts
/// its share of shared pages, so that the sum over processes is the real memory.
fn held(rollup: &Path) -> Result<f64> {
    let text = std::fs::read_to_string(rollup).with_context(|| format!("read {}", rollup.display()))?;
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:")).context("find Pss in smaps_rollup")?;
    let number = line.split_whitespace().next().context("read Pss")?;
    // The kernel's kB are 1024 bytes.
    Ok(number.parse::<f64>().context("read Pss")? * 1.024)
}

pub(crate) fn open(place: Place) -> Result<Arc<dyn Engine>> {
    let configured = std::env::var_os(testkit::binaries::ONNXRUNTIME_ENV).map(Into::into);
    let search = LibrarySearch { configured: configured.or_else(engine::library::developer_library) };
    Ok(match place {
        Place::Inside => Arc::new(OrtEngine::open(&search).context("open ONNX Runtime")?),
        Place::Hosted => {
            let library = std::path::absolute(search.find().context("find ONNX Runtime")?)?;
            let options = HostOptions::new(EngineName::Ort, json!({ "library": library }));
            Arc::new(ProcessEngine::open(options).context("start the child process")?)
        }
    })
}

fn added_time(rounds: &u32) -> Result<Measured> {
    let input = [NamedTensor { name: "x".to_owned(), tensor: Tensor::from_f32(vec![ELEMENTS], &vec![1.0; ELEMENTS])? }];
    let load = |place| -> Result<Box<dyn Session>> {
        open(place)?.load(ModelBytes::from(negation(ELEMENTS)), &LoadOptions::default()).context("load the model")
    };
    let (mut inside, mut hosted) = (load(Place::Inside)?, load(Place::Hosted)?);
    let run = |session: &mut dyn Session| -> Result<f64> {
        let (milliseconds, outputs) = timed(|| Ok(session.run(&input, &[], &RunControl::default())?))?;
        ensure!(outputs.len() == 1, "the model gives one output");
        Ok(milliseconds * 1e3)
    };
    // The first runs have cold caches and unmapped memory.
    for session in [&mut inside, &mut hosted] {
        run(session.as_mut())?;
    }
    let (mut added, mut insides, mut hosteds) = (Sample::default(), Sample::default(), Sample::default());
    for _ in 0..*rounds {
        let (mut one, mut other) = (Sample::default(), Sample::default());
        for _ in 0..RUNS_PER_ROUND {
            one.push(run(inside.as_mut())?);
            other.push(run(hosted.as_mut())?);
        }
        added.push(other.median() - one.median());
        insides.push(one.median());
        hosteds.push(other.median());
    }
    let note =
        format!("median run {:.1} us in a child process, {:.1} us in this one", hosteds.median(), insides.median());
    Ok(Measured { ours: added, ..Measured::default() }.noting(note))
}

fn memory(rounds: &u32) -> Result<Measured> {
    let program = std::env::current_exe().context("find this program")?;
    let ask = |place: &str| -> Result<f64> {
        let output = Command::new(&program).args(["memory-here", place]).output().context("start this program")?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr).trim());
        String::from_utf8_lossy(&output.stdout).trim().parse().context("read the megabytes")
    };
    let (mut ours, mut peer) = (Sample::default(), Sample::default());
    for _ in 0..(*rounds).min(MEMORY_ROUNDS_MAX) {
        ours.push(ask("hosted")?);
        peer.push(ask("inside")?);
    }
    let note = format!("{:.1} MB more (proportional set size of all processes)", ours.median() - peer.median());
    Ok(Measured { ours, peer: Some(peer), ..Measured::default() }.noting(note))
}

/// Returns the model `y = -x` over FP32 of `elements` elements: almost no work, so that the overhead is measured.
pub(crate) fn negation(elements: usize) -> Vec<u8> {
    let size = i64::try_from(elements).unwrap_or(i64::MAX);
    let dim = vec![Dimension { value: Some(dimension::Value::DimValue(size)), ..Dimension::default() }];
    let tensor = type_proto::Tensor { elem_type: Some(1), shape: Some(TensorShapeProto { dim }) };
    let kind = TypeProto { value: Some(type_proto::Value::TensorType(tensor)), ..TypeProto::default() };
    let value = |name: &str| ValueInfoProto {
        name: Some(name.to_owned()),
        r#type: Some(kind.clone()),
        ..ValueInfoProto::default()
    };
    let node = NodeProto {
        op_type: Some("Neg".to_owned()),
        input: vec!["x".to_owned()],
        output: vec!["y".to_owned()],
        ..NodeProto::default()
    };
    let graph = GraphProto {
        name: Some("negation".to_owned()),
        node: vec![node],
        input: vec![value("x")],
        output: vec![value("y")],
        ..GraphProto::default()
    };
    let opset_import = vec![OperatorSetIdProto { version: Some(17), ..OperatorSetIdProto::default() }];
    ModelProto { ir_version: Some(8), opset_import, graph: Some(graph), ..ModelProto::default() }.encode_to_vec()
}
