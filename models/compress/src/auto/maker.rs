//! Makes forms by the passes of this crate; what examples told once is kept for the next form.

use engine::Engine;
use onnx_graph::Model;

use super::recipe::Recipe;
use crate::weight_only::{self, Bits, Method};
use crate::{CompressError, Examples, Grams, Report, Selection};

/// Makes forms of one model.
pub(super) struct Maker<'a> {
    model: Model,
    engine: &'a dyn Engine,
    calibration: Examples,
}

impl<'a> Maker<'a> {
    pub(super) fn new(model: Model, engine: &'a dyn Engine, calibration: Examples) -> Self {
        Self { model, engine, calibration }
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
            Recipe::WeightOnly { bits, compensated } => self.weight_only(bits, compensated, selection),
            _ => Err(CompressError::Nothing { pass: "x", why: String::new() }),
        }
    }

    fn weight_only(
        &self,
        bits: Bits,
        compensated: bool,
        selection: Selection,
    ) -> Result<(Model, Report), CompressError> {
        let grams = Grams::of(&self.model, &selection);
        let method = if compensated { Method::Gptq { act_order: true } } else { Method::Rtn };
        let options = weight_only::Options { bits, method, selection, ..weight_only::Options::default() };
        weight_only::quantize(&self.model, &options, &grams)
    }
}
