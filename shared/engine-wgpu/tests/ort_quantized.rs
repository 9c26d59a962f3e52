//! Quantized operators against ONNX Runtime: cases that `tools/gen_ort_cases.py` draws over random shapes, strides, pads, groups,
//! zero points and element types.
//!
//! Integer operators must give the same bits; those that round may be one unit off on one element in a thousand.

mod conformance;

use conformance::lists::Lists;
use conformance::{case, suite};

#[test]
fn every_listed_quantized_case_answers_as_onnx_runtime_does() {
    let lists = Lists::read("pass-ort.txt", "skip-ort.txt");
    let folder = case::cache().join("ort-cases/1.32.0");
    let Some(cases) = suite::cases(&folder, "gen_ort_cases.py") else { return };
    let outcomes = suite::run(&cases, &lists, suite::WORKERS);
    suite::conclude(&outcomes, &lists, "quantized");
}
