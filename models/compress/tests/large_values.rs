//! Values inside a model that are larger than an answer of an engine are seen all the same, in parts.

mod support;

use compress::calibrate::{self, Method};
use compress::gram::Grams;
use compress::{Examples, Selection};
use onnx_graph::Values;
use onnx_graph::proto::{AttributeProto, NodeProto, TensorProto};
use support::{model, noise, npz, runtime, signature, value};
use types::limits::TENSOR_BYTES_MAX;
use zip::CompressionMethod;

/// Length of the longest axis.
const WIDTH: usize = 33_000;

#[test]
fn a_value_larger_than_an_answer_is_calibrated_as_a_smaller_one_is() {
    let Some(engine) = runtime() else { return };
    let original = model(
        vec![
            NodeProto::new("Add", "wide", &["x", "c"], &["a"]),
            NodeProto::new("Conv", "conv", &["a", "w"], &["b"]),
            NodeProto::new("ReduceMean", "mean", &["b"], &["y"]).with(AttributeProto::int_list("axes", &[2, 3])),
        ],
        vec![
            TensorProto::of_floats("c", &[1, 64, 1, WIDTH], &noise(1, 64 * WIDTH)),
            TensorProto::of_floats("w", &[2, 64, 1, 1], &noise(2, 128)),
        ],
        vec![value("x", &[-1, 1, 8, 1])],
        vec![value("y", &[-1, 2, 1, 1])],
    );
    const { assert!(64 * 8 * WIDTH * 4 > TENSOR_BYTES_MAX) };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.npz");
    npz(&path, CompressionMethod::Stored, &[("x", support::floats(&[2, 1, 8, 1], &noise(3, 16)))]);
    let examples = Examples::open(&path, &signature(&engine, &original)).unwrap();
    let observe = |method| {
        let values = ["a".to_owned()];
        calibrate::observe(&engine, &original, &examples, &values, method).unwrap()
    };
    // The engine finds the extremes itself; a percentile needs every number.
    assert_eq!(observe(Method::Percentile { percent: 100.0 }), observe(Method::MinMax));
    let (selection, empty) = (Selection::default(), Grams::of(&original, &Selection::default()));
    assert_ne!(Grams::observe(&engine, &original, &examples, &selection).unwrap(), empty);
}
