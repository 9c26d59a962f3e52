//! Whole networks: in wonnx, as the sum of their kernels, and in ONNX Runtime on the CPU.
//!
//! A turn is a request: input in, network, output out. The models are written by `tools/bench_models.py`: the onnx
//! package's light networks with random weights instead of constant ones, because a result of constants checks nothing.

use std::cell::RefCell;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use bench::figure::Measured;
use bench::peer::{self, Peer};
use bench::race::{race, timed};
use bench::sample::Sample;
use engine::{Engine as _, LoadOptions, ModelBytes, RunControl, Session};
use engine_wgpu::session::WgpuSession;
use testkit::binaries::{cache, workspace};
use types::{DType, Dim, NamedTensor, Signature, Tensor};

use super::{Context, ort};

/// Number of rounds of a network that takes a peer seconds.
const SLOW_ROUNDS: u32 = 6;

/// Maximum difference of two networks' outputs divided by the largest magnitude: fifty layers, each summed in another
/// order.
const TOLERANCE: f32 = 1e-3;

/// Maximum difference for a quantized network, which may round one step the other way.
const QUANTIZED_TOLERANCE: f32 = 5e-2;

const SQUEEZENET: &str = "squeezenet";
const RESNET50: &str = "resnet50";

/// Returns the path of a file that `tools/bench_models.py` wrote.
pub(super) fn file(name: &str) -> Result<PathBuf> {
    let path = cache()?.join("bench/models").join(name);
    ensure!(path.is_file(), "{} is missing: `cargo xtask bench wgpu` writes it, given Python", path.display());
    Ok(path)
}

/// Returns the request for a model: one float input, with its numbers in a file beside it.
pub(super) fn request(signature: &Signature, numbers: &[f32]) -> Result<Vec<NamedTensor>> {
    let [input] = signature.inputs.as_slice() else { anyhow::bail!("a benchmark's model has one input") };
    ensure!(input.dtype == DType::F32, "a benchmark's model takes floats");
    let dims = input.shape.as_ref().context("a benchmark's model says its input's shape")?;
    let size = |dim: &Dim| match dim {
        Dim::Fixed(size) => *size,
        Dim::Symbol(_) | Dim::Any => 1,
    };
    let tensor = Tensor::from_f32(dims.iter().map(size).collect(), numbers)?;
    Ok(vec![NamedTensor { name: input.name.clone(), tensor }])
}

/// Reads a file of little-endian f32.
pub(super) fn floats(file: &Path) -> Result<Vec<f32>> {
    let bytes = std::fs::read(file).with_context(|| format!("read {}", file.display()))?;
    let (words, _rest) = bytes.as_chunks::<4>();
    Ok(words.iter().map(|&word| f32::from_le_bytes(word)).collect())
}

/// A model with its request and our session.
struct Network {
    bytes: Vec<u8>,
    session: WgpuSession,
    request: Vec<NamedTensor>,
}

impl Network {
    fn load(context: &Context, name: &str) -> Result<Self> {
        let numbers = floats(&file(&format!("{name}.f32"))?)?;
        let bytes = std::fs::read(file(&format!("{name}.onnx"))?).context("read the model")?;
        Self::of(context, bytes, &numbers)
    }

    fn of(context: &Context, bytes: Vec<u8>, numbers: &[f32]) -> Result<Self> {
        let session = context.engine.load_checked(&bytes)?;
        let request = request(session.signature(), numbers)?;
        Ok(Self { bytes, session, request })
    }
}

/// Runs one request; returns its milliseconds and the first output.
fn ask(session: &mut dyn Session, request: &[NamedTensor]) -> Result<(f64, Vec<f32>)> {
    let (took, outputs) = timed(|| Ok(session.run(request, &[], &RunControl::default())?))?;
    Ok((took, outputs.first().context("a model without an output")?.tensor.to_f32()?))
}

fn against_wonnx(context: &Context, name: &str, rounds: u32) -> Result<Measured> {
    let Network { mut session, request, .. } = Network::load(context, name)?;
    let model = file(&format!("{name}.wonnx.onnx"))?;
    let numbers = file(&format!("{name}.f32"))?;
    let input = request.first().context("a request without an input")?;
    let arguments = [model.as_os_str(), input.name.as_ref(), numbers.as_os_str()];
    let mut wonnx = Peer::start(&peer::built("wonnx")?, &arguments)?;
    let (_took, ours) = ask(&mut session, &request)?;
    let difference = peer::agree(&ours, &wonnx.output()?, TOLERANCE)?;
    let samples = race(rounds, [&mut || Ok(ask(&mut session, &request)?.0), &mut || wonnx.run()])?;
    Ok(Measured::race(samples).noting(format!("results differ by {difference:.1e} of the largest")))
}

fn against_kernels(context: &Context, name: &str, rounds: u32) -> Result<Measured> {
    let Network { session, request, .. } = Network::load(context, name)?;
    // Both contestants use the same session.
    let session = RefCell::new(session);
    let mut whole = || Ok(ask(&mut *session.borrow_mut(), &request)?.0);
    let mut kernels = || {
        let times = session.borrow_mut().kernel_times()?.context("this adapter has no timestamps")?;
        Ok(times.iter().map(|(_label, time)| time.as_secs_f64() * 1e3).sum())
    };
    Ok(Measured::race(race(rounds, [&mut whole, &mut kernels])?))
}

fn against_ort(context: &Context, network: Network, tolerance: f32, rounds: u32) -> Result<Measured> {
    let Network { bytes, mut session, request } = network;
    let mut theirs = ort()?.load(ModelBytes::from(bytes), &LoadOptions::default())?;
    let (_took, ours) = ask(&mut session, &request)?;
    let (_took, expected) = ask(&mut *theirs, &request)?;
    let difference = peer::agree(&ours, &expected, tolerance)?;
    let mut here = || Ok(ask(&mut session, &request)?.0);
    let samples = race(context.rounds(rounds), [&mut here, &mut || Ok(ask(&mut *theirs, &request)?.0)])?;
    Ok(Measured::race(samples).noting(format!("results differ by {difference:.1e} of the largest")))
}

pub(super) fn squeezenet_and_wonnx(context: &Context) -> Result<Measured> {
    against_wonnx(context, SQUEEZENET, context.rounds)
}

pub(super) fn resnet50_and_wonnx(context: &Context) -> Result<Measured> {
    against_wonnx(context, RESNET50, context.rounds(SLOW_ROUNDS))
}

pub(super) fn squeezenet_and_kernels(context: &Context) -> Result<Measured> {
    against_kernels(context, SQUEEZENET, context.rounds)
}

pub(super) fn resnet50_and_kernels(context: &Context) -> Result<Measured> {
    against_kernels(context, RESNET50, context.rounds)
}

pub(super) fn squeezenet_and_ort(context: &Context) -> Result<Measured> {
    against_ort(context, Network::load(context, SQUEEZENET)?, TOLERANCE, context.rounds)
}

pub(super) fn resnet50_and_ort(context: &Context) -> Result<Measured> {
    against_ort(context, Network::load(context, RESNET50)?, TOLERANCE, context.rounds)
}

/// Measures the catalogue's quantized digits, one image.
pub(super) fn digits_and_ort(context: &Context) -> Result<Measured> {
    let model = workspace().join("models/catalog/digits/v2/int8-qdq.onnx");
    let bytes = std::fs::read(&model).with_context(|| format!("read {}", model.display()))?;
    #[expect(clippy::cast_precision_loss, reason = "below 256")]
    let image: Vec<f32> = (0..28 * 28).map(|at: usize| ((at * 7919) % 256) as f32 / 255.0).collect();
    let network = Network::of(context, bytes, &image)?;
    against_ort(context, network, QUANTIZED_TOLERANCE, context.rounds)
}

pub(super) fn resnet50_dispatches(context: &Context) -> Result<Measured> {
    let shipped = std::fs::read(file("resnet50.shipped.onnx")?).context("read the model")?;
    let nodes = engine_wgpu::check(&shipped)?.nodes;
    let Network { bytes, session, .. } = Network::load(context, RESNET50)?;
    let computing = engine_wgpu::check(&bytes)?.nodes;
    let (launches, _arena) = session.plan_summary().context("a session without a plan")?;
    let count = |number: usize| Ok::<_, anyhow::Error>(Sample::exact(u32::try_from(number)?.into()));
    let measured = Measured { ours: count(launches)?, peer: Some(count(nodes)?), note: None };
    Ok(measured.noting(format!("{computing} of the nodes compute; the others make weights of one constant")))
}
