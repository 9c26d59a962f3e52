//! Makes forms by the passes of this crate; what the calibration examples told once is kept for the next form.

use std::collections::{BTreeMap, BTreeSet};

use engine::Engine;
use onnx_graph::Model;

use super::recipe::{Calibration, Recipe};
use crate::calibrate::{self, Ranges, observe};
use crate::half_precision::{self, Format};
use crate::prune::channels;
use crate::prune::magnitude::{self, Pattern};
use crate::weight_only::{self, Bits};
use crate::{CompressError, Examples, Grams, Report, Selection, dynamic_int8, static_int8};

/// Weight of the newest batch in a moving average; ONNX Runtime's tools use the same.
const MOMENTUM: f32 = 0.01;

/// Share of the values that a percentile range holds, in percent; ONNX Runtime's tools use 99.999 and clip less than
/// what pays on real models of this size.
const PERCENT: f64 = 99.99;

/// Makes forms of one model.
pub(super) struct Maker<'a> {
    model: Model,
    engine: &'a dyn Engine,
    calibration: Examples,
    seen: BTreeMap<Calibration, Seen>,
}

/// What one kind of calibration has found so far.
#[derive(Default)]
struct Seen {
    asked: BTreeSet<String>,
    ranges: Ranges,
}

impl<'a> Maker<'a> {
    pub(super) fn new(model: Model, engine: &'a dyn Engine, calibration: Examples) -> Self {
        Self { model, engine, calibration, seen: BTreeMap::new() }
    }

    /// The model that forms are made of.
    pub(super) fn model(&self) -> &Model {
        &self.model
    }

    /// Makes one form, touching only what the selection allows.
    ///
    /// # Errors
    /// The pass's own.
    pub(super) fn make(&mut self, recipe: &Recipe, selection: &Selection) -> Result<(Model, Report), CompressError> {
        let selection = selection.clone();
        match *recipe {
            Recipe::StaticInt8 { per_channel, calibration, reduce_range } => {
                let options =
                    static_int8::Options { selection, per_channel, reduce_range, ..static_int8::Options::default() };
                self.static_int8(&options, calibration)
            }
            Recipe::DynamicInt8 { per_channel, convolutions, reduce_range } => {
                let options = dynamic_int8::Options {
                    selection,
                    per_channel,
                    convolutions,
                    reduce_range,
                    ..dynamic_int8::Options::default()
                };
                dynamic_int8::quantize(&self.model, &options)
            }
            Recipe::Half { format } => self.half(format, selection),
            Recipe::WeightOnly { bits, compensated } => self.weight_only(bits, compensated, selection),
            Recipe::PruneWeights { share } => {
                let options = magnitude::Options { pattern: Pattern::PerLayer(share), selection };
                magnitude::prune(&self.model, &options).map(|(model, report, _sparsity)| (model, report))
            }
            Recipe::PruneChannels { share } => {
                let grams = self.grams(&selection)?;
                let options = channels::Options { fraction: share, selection, ..channels::Options::default() };
                channels::prune(&self.model, &options, &grams)
            }
        }
    }

    fn static_int8(
        &mut self,
        options: &static_int8::Options,
        calibration: Calibration,
    ) -> Result<(Model, Report), CompressError> {
        let values = static_int8::values(&self.model, options);
        let seen = self.seen.entry(calibration).or_default();
        let missing: Vec<String> = values.into_iter().filter(|value| !seen.asked.contains(value)).collect();
        if !missing.is_empty() {
            let found = observe(self.engine, &self.model, &self.calibration, &missing, method(calibration))?;
            seen.asked.extend(missing);
            seen.ranges.found.extend(found.found);
            seen.ranges.unbounded.extend(found.unbounded);
        }
        static_int8::quantize(&self.model, options, &seen.ranges)
    }

    fn half(&self, format: Format, selection: Selection) -> Result<(Model, Report), CompressError> {
        let options = half_precision::Options { format, selection, ..half_precision::Options::default() };
        // What was seen for int8 tells which values are too large for half precision.
        let nothing = Ranges::default();
        let seen = self.seen.get(&Calibration::Minmax).map_or(&nothing, |seen| &seen.ranges);
        half_precision::convert(&self.model, &options, seen)
    }

    fn weight_only(
        &self,
        bits: Bits,
        compensated: bool,
        selection: Selection,
    ) -> Result<(Model, Report), CompressError> {
        let (method, grams) = if compensated {
            (weight_only::Method::Gptq { act_order: true }, self.grams(&selection)?)
        } else {
            (weight_only::Method::Rtn, Grams::of(&self.model, &selection))
        };
        let options = weight_only::Options { bits, method, selection, ..weight_only::Options::default() };
        weight_only::quantize(&self.model, &options, &grams)
    }

    /// How the inputs of each product go together on the calibration examples.
    fn grams(&self, selection: &Selection) -> Result<Grams, CompressError> {
        let mut grams = Grams::of(&self.model, selection);
        let values = grams.values();
        calibrate::each(self.engine, &self.model, &self.calibration, &values, &mut |_batch, tensors| {
            grams.add(tensors)
        })?;
        Ok(grams)
    }
}

const fn method(calibration: Calibration) -> calibrate::Method {
    match calibration {
        Calibration::Minmax => calibrate::Method::MinMax,
        Calibration::MovingAverage => calibrate::Method::MovingAverage { momentum: MOMENTUM },
        Calibration::Percentile => calibrate::Method::Percentile { percent: PERCENT },
        Calibration::Entropy => calibrate::Method::Entropy,
        Calibration::Mse => calibrate::Method::Mse,
    }
}
