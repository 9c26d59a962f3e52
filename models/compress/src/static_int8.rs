//! Weights and activations in 8-bit integers, with scales fixed beforehand.
//!
//! The result is an ONNX model with pairs of QuantizeLinear and DequantizeLinear (QDQ): engines compute what stands
//! between them in integers. Fed with ranges from [`crate::calibrate`]: ask [`values`] which ones, observe them, then
//! [`quantize`].

mod operators;
mod params;
mod plan;
mod rewrite;
mod weights;

use std::collections::BTreeSet;

use onnx_graph::Model;
use serde::{Deserialize, Serialize};

use crate::calibrate::{Means, Ranges};
use crate::{CompressError, Report, Selection};
use params::Integers;
use plan::Plan;
use rewrite::Seen;

/// The pass's name in reports.
const PASS: &str = "int8-qdq";

/// First operator set in which DequantizeLinear knows channels.
const OPSET_CHANNELS: i64 = 13;

/// First operator set with QuantizeLinear.
const OPSET_MIN: i64 = 10;

/// IR version from which on constants need not be listed as inputs, and that operator set 13 came with.
const IR_VERSION_MIN: i64 = 7;

/// The integers of activations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Activations {
    /// 0 to 255; with signed weights the form that x86 multiplies fastest.
    #[default]
    U8,
    /// -128 to 127, as Arm and most accelerators want it.
    S8,
}

/// Options of the pass.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    /// Which nodes may be touched.
    pub selection: Selection,
    /// Integers of activations; weights are always signed.
    pub activations: Activations,
    /// Ranges of activations even around 0, as some accelerators need it. Costs half of the steps behind a Relu.
    pub activations_symmetric: bool,
    /// A scale for each channel of the weights instead of one for all. Needs operator set 13.
    pub per_channel: bool,
    /// Ranges of weights even around 0. Channels of their own are always even.
    pub weights_symmetric: bool,
    /// 7 bits of each weight only: x86 processors without VNNI add products of u8 and s8 in 16 bits, which saturate.
    pub reduce_range: bool,
}

impl Default for Options {
    /// u8 activations over their whole range, s8 weights by channel.
    fn default() -> Self {
        Self {
            selection: Selection::default(),
            activations: Activations::default(),
            activations_symmetric: false,
            per_channel: true,
            weights_symmetric: true,
            reduce_range: false,
        }
    }
}

impl Options {
    fn weight_integers(&self, symmetric: bool) -> Integers {
        match (self.reduce_range, symmetric) {
            (true, _) => Integers::S7_EVEN,
            (false, true) => Integers::S8_EVEN,
            (false, false) => Integers::S8,
        }
    }

    /// Returns whether a Relu can be left to the range behind it: only when ranges end at 0.
    fn absorbs(&self) -> bool {
        !self.activations_symmetric
    }
}

/// The values whose ranges [`quantize`] needs, in the order of their names.
#[must_use]
pub fn values(model: &Model, options: &Options) -> Vec<String> {
    let plan = Plan::of(model, &options.selection, options.absorbs(), &|_| Ok(()), &mut Report::of(PASS));
    plan.roots().into_iter().map(str::to_owned).collect()
}

/// Quantizes the model. Nodes whose values have no range, or an infinite one, stay as they are; the report says which.
///
/// # Errors
/// [`CompressError::Option`] when the model's operator set is too old for the options, [`CompressError::Nothing`] when
/// no node could be quantized, [`CompressError::Weight`] when a weight cannot be read.
pub fn quantize(model: &Model, options: &Options, ranges: &Ranges) -> Result<(Model, Report), CompressError> {
    carry_out(model, options, &Seen { ranges, means: None })
}

/// The values whose means [`quantize_corrected`] can use.
#[must_use]
pub fn means_wanted(model: &Model) -> Vec<String> {
    let takers = model.graph.nodes.iter().filter(|node| node.is("Conv") || node.is("Gemm"));
    let inputs: BTreeSet<&str> = takers.filter_map(|node| node.input_at(0)).collect();
    inputs.into_iter().filter(|name| model.graph.initializer(name).is_none()).map(str::to_owned).collect()
}

/// Quantizes as [`quantize`] does, and takes out of the biases of Conv and Gemm what rounding their weights adds in the
/// mean: inputs behind a Relu are positive, so that errors of weights do not cancel out.
///
/// # Errors
/// As [`quantize`].
pub fn quantize_corrected(
    model: &Model,
    options: &Options,
    ranges: &Ranges,
    means: &Means,
) -> Result<(Model, Report), CompressError> {
    carry_out(model, options, &Seen { ranges, means: Some(means) })
}

fn carry_out(model: &Model, options: &Options, seen: &Seen<'_>) -> Result<(Model, Report), CompressError> {
    let ranges = seen.ranges;
    check_opset(model, options)?;
    let mut report = Report::of(PASS);
    let usable = |value: &str| {
        if ranges.unbounded.contains(value) {
            Err(format!("its value {value:?} was infinite or not a number"))
        } else if ranges.found.contains_key(value) {
            Ok(())
        } else {
            Err(format!("its value {value:?} was never seen, or is not f32"))
        }
    };
    let plan = Plan::of(model, &options.selection, options.absorbs(), &usable, &mut report);
    if plan.nodes.is_empty() {
        let reason = "no Conv, MatMul, Gemm or large Gather of f32 with constant weights was found or selected: \
                   select others, or look at what the model is made of";
        return Err(CompressError::Nothing { pass: PASS, reason: reason.to_owned() });
    }
    let mut quantized = rewrite::rewrite(model.clone(), &plan, options, seen, &mut report)?;
    let ir_version = quantized.rest.ir_version().max(IR_VERSION_MIN);
    quantized.rest.ir_version = Some(ir_version);
    Ok((quantized, report))
}

fn check_opset(model: &Model, options: &Options) -> Result<(), CompressError> {
    let opset = model.opset("").unwrap_or(1);
    let needed = if options.per_channel { OPSET_CHANNELS } else { OPSET_MIN };
    if opset >= needed {
        return Ok(());
    }
    let option = if options.per_channel { "per_channel" } else { "static int8" };
    let reason = format!("the model is of operator set {opset} and this needs {needed}: convert it first");
    Err(CompressError::Option { option, value: "true".to_owned(), reason })
}
