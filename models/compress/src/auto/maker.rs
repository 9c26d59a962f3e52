//! Makes forms by the passes of this crate; what the calibration examples told once is kept for the next form.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

use engine::Engine;
use onnx_graph::{Model, opset};

use super::names::name_nodes;
use super::recipe::{Calibration, Recipe};
use crate::bodies;
use crate::calibrate::{self, Ranges, observe};
use crate::half_precision::{self, Format};
use crate::prune::channels;
use crate::prune::magnitude;
use crate::weight_only;
use crate::{
    CompressError, Examples, Grams, PrepareError, Report, Selection, dynamic_int8, equalize, prepare, static_int8,
};

/// Weight of the newest batch in a moving average; ONNX Runtime's tools use the same.
const MOMENTUM: f32 = 0.01;

/// Share of the values that a percentile range holds, in percent; ONNX Runtime's tools use 99.999 and clip less than
/// what pays on real models of this size.
const PERCENT: f64 = 99.99;

/// How much of a normalization's unevenness goes into the weights behind it: half, what SmoothQuant (arXiv 2211.10438)
/// found best for most models.
const SMOOTHING: f32 = 0.5;

/// Makes forms of one model.
pub(super) struct Maker<'a> {
    model: Model,
    engine: &'a dyn Engine,
    examples: Examples,
    /// Everything that may be touched.
    selection: Selection,
    /// What examples say of the inputs of every weight that may be touched, by the operator set of the model.
    grams: BTreeMap<i64, Grams>,
    seen: BTreeMap<Calibration, Seen>,
    /// The model with its scales moved, and what was seen of that; made when the first recipe wants it.
    equalized: Option<Equalized>,
}

/// A model whose scales were moved, and what its own values are.
struct Equalized {
    model: Model,
    report: Report,
    seen: BTreeMap<Calibration, Seen>,
}

/// What one kind of calibration has found so far.
#[derive(Default)]
struct Seen {
    asked: BTreeSet<String>,
    ranges: Ranges,
}

impl<'a> Maker<'a> {
    /// Brings the model into the form that passes find their way in; gives what could not be brought.
    ///
    /// # Errors
    /// When the nodes have no order.
    pub(super) fn new(
        model: &Model,
        engine: &'a dyn Engine,
        examples: Examples,
        selection: Selection,
    ) -> Result<(Self, Option<String>), CompressError> {
        let (mut model, problem) = match prepare(model) {
            Ok(prepared) => (prepared, None),
            // Some forms can be made of it as it is; those that cannot say so themselves.
            Err(error @ PrepareError::Opset(_)) => (model.clone(), Some(types::error::chain(&error))),
            Err(error @ PrepareError::Cycle(_)) => {
                return Err(CompressError::Run { what: "bring its nodes into order", source: error.into() });
            }
        };
        name_nodes(&mut model);
        Ok((
            Self { model, engine, examples, selection, grams: BTreeMap::new(), seen: BTreeMap::new(), equalized: None },
            problem,
        ))
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
            Recipe::StaticInt8 {
                per_channel,
                calibration,
                activations,
                symmetric: activations_symmetric,
                reduce_range,
                equalize,
                correct_bias,
            } => {
                let options = static_int8::Options {
                    selection,
                    activations,
                    activations_symmetric,
                    per_channel,
                    reduce_range,
                    ..static_int8::Options::default()
                };
                self.static_int8(&options, calibration, equalize, correct_bias)
            }
            Recipe::DynamicInt8 { per_channel, convolutions, reduce_range } => {
                let options = dynamic_int8::Options {
                    selection,
                    per_channel,
                    convolutions,
                    reduce_range,
                    ..dynamic_int8::Options::default()
                };
                bodies::everywhere(&self.model, &|model| dynamic_int8::quantize(model, &options))
            }
            Recipe::Half { format } => self.half(format, selection),
            Recipe::WeightOnly { bits, method, block, symmetric, qdq } => {
                let form = if qdq { weight_only::Form::Qdq } else { weight_only::Options::default().form };
                let options = weight_only::Options {
                    bits,
                    block,
                    symmetric,
                    method,
                    form,
                    selection,
                    ..weight_only::Options::default()
                };
                self.weight_only(&options)
            }
            Recipe::PruneWeights { pattern } => {
                let options = magnitude::Options { pattern, selection };
                magnitude::prune(&self.model, &options).map(|(model, report, _sparsity)| (model, report))
            }
            Recipe::PruneChannels { share } => {
                let grams = Grams::observe(self.engine, &self.model, &self.examples, &selection)?;
                let options = channels::Options { fraction: share, selection, ..channels::Options::default() };
                channels::prune(&self.model, &options, &grams)
            }
        }
    }

    fn static_int8(
        &mut self,
        options: &static_int8::Options,
        calibration: Calibration,
        equalize: bool,
        correct_bias: bool,
    ) -> Result<(Model, Report), CompressError> {
        let engine = self.engine;
        let examples = self.examples.clone();
        let (model, seen, before) = if equalize {
            let Equalized { model, report, seen } = self.equalized()?;
            (&*model, seen, Some(report.clone()))
        } else {
            (&self.model, &mut self.seen, None)
        };
        let values = static_int8::values(model, options);
        let seen = seen.entry(calibration).or_default();
        let ranges = seen.with(values, |values| observe(engine, model, &examples, values, method(calibration)))?;
        let (quantized, mut report) = if correct_bias {
            let means = calibrate::means(engine, model, &examples, &static_int8::means_wanted(model))?;
            static_int8::quantize_corrected(model, options, ranges, &means)?
        } else {
            static_int8::quantize(model, options, ranges)?
        };
        report.notes.extend(before.map(|before| {
            format!("scales were moved at {} places before: {}", before.changed.len(), before.changed.join(", "))
        }));
        Ok((quantized, report))
    }

    /// The model with its scales moved: between convolutions, and out of layer normalizations.
    fn equalized(&mut self) -> Result<&mut Equalized, CompressError> {
        if self.equalized.is_none() {
            let (model, mut report) = equalize::cross_layer(&self.model);
            let magnitudes = equalize::magnitudes(self.engine, &model, &self.examples)?;
            let (model, smoothed) = equalize::smooth(&model, &magnitudes, SMOOTHING)?;
            report.changed.extend(smoothed.changed);
            self.equalized = Some(Equalized { model, report, seen: BTreeMap::new() });
        }
        let reason = "the model has no form with its scales moved".to_owned();
        self.equalized.as_mut().ok_or(CompressError::Nothing { pass: "equalize", reason })
    }

    fn half(&mut self, format: Format, selection: Selection) -> Result<(Model, Report), CompressError> {
        let Self { model, engine, examples, seen, .. } = self;
        let options = half_precision::Options { format, selection, ..half_precision::Options::default() };
        let seen = seen.entry(Calibration::Minmax).or_default();
        match format {
            Format::Float16 => {
                let observed = |values: &[String]| observe(*engine, model, examples, values, calibrate::Method::MinMax);
                half_precision::convert(model, &options, seen.with(half_precision::watched(model), observed)?)
            }
            // Only weights are looked at: ranges are not needed.
            Format::Float16Weights | Format::Bfloat16Weights => {
                bodies::everywhere(model, &|model| half_precision::convert(model, &options, &Ranges::default()))
            }
        }
    }

    fn weight_only(&mut self, options: &weight_only::Options) -> Result<(Model, Report), CompressError> {
        let needed = weight_only::opset_needed(options);
        let newer = (self.model.opset("").unwrap_or(0) < needed).then(|| opset::upgrade(&self.model, needed));
        let newer = newer.transpose().map_err(|source| CompressError::Run {
            what: "bring the model to the operator set that holds such weights",
            source: source.into(),
        })?;
        let model = newer.as_ref().unwrap_or(&self.model);
        let nothing_known;
        let grams = match options.method {
            weight_only::Method::Gptq { .. } => match self.grams.entry(model.opset("").unwrap_or(0)) {
                // Of everything, though a search may ask for a part of it: running the model costs more than the sums.
                Entry::Vacant(place) => {
                    place.insert(Grams::observe(self.engine, model, &self.examples, &self.selection)?)
                }
                Entry::Occupied(known) => known.into_mut(),
            },
            weight_only::Method::Rtn | weight_only::Method::Hqq => {
                nothing_known = Grams::default();
                &nothing_known
            }
        };
        bodies::everywhere(model, &|model| weight_only::quantize(model, options, grams))
    }
}

impl Seen {
    /// The ranges, with those of these values; what is not known yet is observed.
    fn with(
        &mut self,
        values: Vec<String>,
        observe: impl FnOnce(&[String]) -> Result<Ranges, CompressError>,
    ) -> Result<&Ranges, CompressError> {
        let missing: Vec<String> = values.into_iter().filter(|value| !self.asked.contains(value)).collect();
        if !missing.is_empty() {
            let found = observe(&missing)?;
            self.asked.extend(missing);
            self.ranges.found.extend(found.found);
            self.ranges.unbounded.extend(found.unbounded);
        }
        Ok(&self.ranges)
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
