//! Quantized operators against ONNX Runtime: cases that `tools/gen_ort_cases.py` draws over random shapes, strides, pads, groups,
//! zero points and element types.
//!
//! Integer operators must give the same bits; those that round may be one unit off on one element in a thousand.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "helpers of tests may do what tests may")]

mod conformance;

use std::path::Path;

use conformance::case::{Case, Form};
use conformance::lists::Lists;
use conformance::{case, suite};
use engine::{RunControl, Session};
use engine_wgpu::WgpuEngine;
use engine_wgpu::gpu::AdapterChoice;
use types::NamedTensor;

#[test]
fn every_listed_quantized_case_answers_as_onnx_runtime_does() {
    let lists = Lists::read("pass-ort.txt", "skip-ort.txt");
    let folder = case::cache().join("ort-cases/1.32.0");
    let Some(cases) = suite::cases(&folder, "gen_ort_cases.py") else { return };
    let outcomes = suite::run(&cases, &lists, suite::WORKERS);
    suite::conclude(&outcomes, &lists, "quantized");
}

/// The answers of a case, in the form in which the list has it.
fn answers(engine: &WgpuEngine, case: &Case, form: Form) -> Vec<NamedTensor> {
    let (model, inputs) = case.formed(form).unwrap();
    let mut session = engine.load_checked(&model).unwrap();
    session.run(&inputs, &[], &RunControl::default()).unwrap()
}

/// Every case of these folders that multiplies bytes, in both kernels.
fn assert_same_bits(folder: &Path, tool: &str, lists: &Lists) {
    let Some(cases) = suite::cases(folder, tool) else { return };
    let [floats, dots] = [false, true].map(|integer_dot| {
        suite::open_as(AdapterChoice { integer_dot: Some(integer_dot), ..AdapterChoice::for_tests() }).unwrap()
    });
    let mut compared = 0;
    for case in cases.iter().map(|folder| Case::read(folder)) {
        let multiplies = case.operators().iter().any(|operator| PRODUCTS.contains(&operator.as_str()));
        let Some(&form) = lists.pass.get(&case.name).filter(|_listed| multiplies) else { continue };
        assert!(answers(&floats, &case, form) == answers(&dots, &case, form), "{} differs", case.name);
        compared += 1;
    }
    println!("{compared} cases give the same bits by dot4I8Packed");
}

/// Operators whose kernels multiply bytes.
const PRODUCTS: [&str; 8] = [
    "MatMulInteger",
    "ConvInteger",
    "QLinearMatMul",
    "QLinearConv",
    "DynamicQuantizeMatMul",
    "MatMulIntegerToFloat",
    // Of the chains that quantization tools write.
    "QuantizeLinear",
    "DynamicQuantizeLinear",
];

#[test]
fn integer_dot_products_give_the_same_bits_as_products_of_floats() {
    let ours = Lists::read("pass-ort.txt", "skip-ort.txt");
    assert_same_bits(&case::cache().join("ort-cases/1.32.0"), "gen_ort_cases.py", &ours);
    let nodes = Lists::read("pass.txt", "skip.txt");
    assert_same_bits(&case::cache().join("onnx-node/1.23.2"), "gen_node_tests.py", &nodes);
    let models = Lists::read("pass-models.txt", "skip-models.txt");
    assert_same_bits(&case::cache().join("model-cases/onnx-1.23.2-ort-1.32.0"), "gen_model_cases.py", &models);
}
