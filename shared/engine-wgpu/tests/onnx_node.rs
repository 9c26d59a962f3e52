//! The ONNX backend suite's node cases (onnx 1.23.2): all that are on the committed list pass.
//!
//! `NODE_FILTER=conv,pool` runs some, `NODE_SKIPPED=1` also those of the skip list, `UPDATE_LISTS=1` writes the pass list.

mod conformance;

use conformance::lists::{Lists, matches};
use conformance::{case, suite};

#[test]
fn every_listed_case_of_the_onnx_backend_suite_passes() {
    let lists = Lists::read("pass.txt", "skip.txt");
    let folder = case::cache().join("onnx-node/1.23.2");
    let Some(cases) = suite::cases(&folder, "gen_node_tests.py") else { return };
    let outcomes = suite::run(&cases, &lists, suite::WORKERS);
    suite::conclude(&outcomes, &lists, "node");
}

#[test]
fn a_pattern_fits_whole_names_only() {
    assert!(matches("test_abs", "test_abs") && !matches("test_abs", "test_abs_x"));
    assert!(matches("test_*_cpu", "test_x_y_cpu") && !matches("test_*_cpu", "test_x_cpu_y"));
}
