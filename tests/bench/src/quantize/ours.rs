//! Our quantizer: creates one form of one model, without measuring or judging, as the other one does.

use std::path::Path;

use anyhow::{Context, Result};
use compress::{Examples, Grams, calibrate, dynamic_int8, static_int8, weight_only};
use engine::{LibrarySearch, OrtEngine};
use onnx_graph::proto::ValueInfoProto;
use onnx_graph::proto::tensor_shape_proto::dimension;
use onnx_graph::proto::type_proto;
use onnx_graph::{Model, opset};
use testkit::binaries::ONNXRUNTIME_ENV;
use types::{DType, Dim, Signature, TensorSpec};

use super::Form;
use super::corpus::Entry;

/// Minimum operator set version; older models are converted first, as by the other quantizer: scales per channel begin
/// there.
const OPSET_MIN: i64 = 13;

/// Returns the options that quantize everything that the other quantizer also does: products, convolutions, tables.
fn dynamic() -> dynamic_int8::Options {
    dynamic_int8::Options { per_channel: false, convolutions: true, ..dynamic_int8::Options::default() }
}

/// Creates the form and writes it to `out`.
///
/// # Errors
/// Fails when the model, its examples or a pass fails.
pub fn make(form: Form, entry: &Entry, out: &Path) -> Result<()> {
    let model = prepared(entry)?;
    let (made, _report) = match form {
        Form::Int8Qdq => static_qdq(&model, entry)?,
        Form::Int8Dynamic => dynamic_int8::quantize(&model, &dynamic())?,
        Form::Int4Weights => weights(&model)?,
    };
    made.save(out)?;
    Ok(())
}

/// Returns the prepared model for the passes. Drops the original, whose weights would otherwise be in memory twice.
fn prepared(entry: &Entry) -> Result<Model> {
    let model = Model::open(&entry.model())?;
    let version = model.opset("").unwrap_or_default();
    Ok(compress::prepare(&opset::upgrade(&model, version.max(OPSET_MIN))?)?)
}

fn static_qdq(model: &Model, entry: &Entry) -> Result<(Model, compress::Report)> {
    let options = static_int8::Options::default();
    let examples = Examples::open(&entry.calibration(), &signature(model)?)?;
    let values = static_int8::values(model, &options);
    let ranges = calibrate::observe(&engine()?, model, &examples, &values, calibrate::Method::MinMax)?;
    Ok(static_int8::quantize(model, &options, &ranges)?)
}

fn weights(model: &Model) -> Result<(Model, compress::Report)> {
    let options = weight_only::Options { symmetric: true, ..weight_only::Options::default() };
    Ok(weight_only::quantize(model, &options, &Grams::default())?)
}

fn engine() -> Result<OrtEngine> {
    let configured = std::env::var_os(ONNXRUNTIME_ENV).map(Into::into);
    OrtEngine::open(&LibrarySearch { configured: configured.or_else(engine::library::developer_library) })
        .context("open ONNX Runtime")
}

/// Returns the signature that the file declares.
fn signature(model: &Model) -> Result<Signature> {
    let inputs = model.graph.inputs.iter().map(spec).collect::<Result<_>>()?;
    Ok(Signature { inputs, outputs: Vec::new() })
}

fn spec(input: &ValueInfoProto) -> Result<TensorSpec> {
    let kind = input.r#type.as_ref().and_then(|kind| kind.value.as_ref());
    let Some(type_proto::Value::TensorType(tensor)) = kind else { anyhow::bail!("an input is no tensor") };
    let dtype = match tensor.elem_type() {
        1 => DType::F32,
        6 => DType::I32,
        7 => DType::I64,
        other => anyhow::bail!("no model of the corpus takes elements of type {other}"),
    };
    let dim = |value: &dimension::Value| match value {
        dimension::Value::DimValue(size) => usize::try_from(*size).map_or(Dim::Any, Dim::Fixed),
        dimension::Value::DimParam(_) => Dim::Any,
    };
    let dims = tensor.shape.iter().flat_map(|shape| &shape.dim);
    let shape = dims.map(|found| found.value.as_ref().map_or(Dim::Any, dim)).collect();
    Ok(TensorSpec { name: input.name().to_owned(), dtype, shape: Some(shape) })
}
