//! Whole models against ONNX Runtime: the onnx wheel's `light_*` networks and `pytorch-*` cases, the digits of our catalog, and
//! models that packages on PyPI carry (`tools/gen_model_cases.py`).
//!
//! The answers of a network must point where ONNX Runtime's point (cosine 0.9999) with the same best class. A model that cannot
//! run is on the skip list with the engine's own words.

mod conformance;

use conformance::lists::Lists;
use conformance::{case, suite};

#[test]
fn every_listed_model_answers_as_onnx_runtime_does() {
    let lists = Lists::read("pass-models.txt", "skip-models.txt");
    let folder = case::cache().join("model-cases/onnx-1.23.2-ort-1.32.0");
    let Some(cases) = suite::cases(&folder, "gen_model_cases.py") else { return };
    let outcomes = suite::run(&cases, &lists, 1);
    suite::conclude(&outcomes, &lists, "models");
}
