//! Cases that are part of the repository give the answers of ONNX Runtime: classical models (`ai.onnx.ml`), model-local functions, loops.
//!
//! Written by `tools/gen_classical.py`, whose trainers are too large to fetch for a test, and by `tools/gen_functions.py` and
//! `tools/gen_loops.py`.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "helpers of tests may do what tests may")]

mod conformance;

use std::path::Path;

use conformance::case::Case;
use conformance::judge::{Verdict, judge};
use conformance::suite;

/// Runs each case of a folder whose name holds `NODE_FILTER`.
fn assert_all_pass(folder: &str, least: usize) {
    let folder = Path::new(&std::env::var("CARGO_MANIFEST_DIR").unwrap_or(env!("CARGO_MANIFEST_DIR").into()))
        .join("tests/cases")
        .join(folder);
    let Some(engine) = suite::open().inspect_err(|error| println!("skipped: {error}")).ok() else { return };
    let filter = std::env::var("NODE_FILTER").unwrap_or_default();
    let mut cases: Vec<_> = folder.read_dir().unwrap().map(|entry| entry.unwrap().path()).collect();
    cases.sort();
    let mut failed = Vec::new();
    for path in cases.iter().filter(|path| path.to_string_lossy().contains(&filter)) {
        let case = Case::read(path);
        match judge(&engine, &case) {
            Verdict::Pass(_form) => {}
            Verdict::Fail(_form, why) => failed.push(format!("{}: {why}", case.name)),
            Verdict::OutOfScope(why) => failed.push(format!("{}: out of scope: {why}", case.name)),
        }
    }
    assert!(cases.len() >= least, "only {} cases are there", cases.len());
    assert!(failed.is_empty(), "{} of {} cases differ:\n{}", failed.len(), cases.len(), failed.join("\n"));
}

#[test]
fn every_classical_model_answers_as_onnx_runtime_does() {
    assert_all_pass("classical", 140);
}

#[test]
fn every_model_with_functions_of_its_own_answers_as_onnx_runtime_does() {
    assert_all_pass("functions", 10);
}

#[test]
fn every_loop_answers_as_onnx_runtime_does() {
    assert_all_pass("loops", 10);
}

#[test]
fn every_operator_of_onnx_runtimes_own_answers_as_it_does() {
    assert_all_pass("contrib", 30);
}
