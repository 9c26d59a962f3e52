//! Examples from disk: what fits the model is read in order and in bounds, what does not is refused with a reason.

mod support;

use std::path::Path;

use compress::{CompressError, Examples, Label};
use proptest::prelude::*;
use support::{npy, npz};
use types::{DType, Dim, Signature, TensorSpec};
use zip::CompressionMethod;

/// An array of f32 of a shape written as NumPy writes it, which may lie.
fn floats(shape: &str, values: impl IntoIterator<Item = f32>) -> Vec<u8> {
    npy("<f4", shape, &values.into_iter().flat_map(f32::to_le_bytes).collect::<Vec<_>>())
}

/// `x` FP32[batch,2].
fn signature(first: Dim) -> Signature {
    let shape = Some(vec![first, Dim::Fixed(2)]);
    Signature { inputs: vec![TensorSpec { name: "x".into(), dtype: DType::F32, shape }], outputs: Vec::new() }
}

fn batch() -> Dim {
    Dim::Symbol("batch".into())
}

/// Ten examples: row `n` is `[n, -n]` with the label `n`.
fn ten(path: &Path, method: CompressionMethod) {
    let rows = (0..10_i16).flat_map(|row| [f32::from(row), -f32::from(row)]);
    npz(
        path,
        method,
        &[("x", floats("(10, 2)", rows)), ("labels", npy("|u1", "(10,)", &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9]))],
    );
}

fn reason(result: Result<Examples, CompressError>) -> String {
    match result {
        Err(CompressError::Examples { reason }) => reason,
        other => format!("not refused: {other:?}"),
    }
}

#[test]
fn rows_come_in_order_with_their_labels_stored_or_compressed() {
    let folder = tempfile::tempdir().unwrap();
    for method in [CompressionMethod::Stored, CompressionMethod::Deflated] {
        let path = folder.path().join("ten.npz");
        ten(&path, method);
        let examples = Examples::open(&path, &signature(batch())).unwrap();
        assert!(examples.are_labelled());
        let read: Vec<_> = examples.iter().map(Result::unwrap).collect();
        assert_eq!(read.len(), 10);
        for (row, example) in (0_i16..).zip(&read) {
            assert_eq!(example.inputs[0].tensor.shape(), [1, 2]);
            assert_eq!(example.inputs[0].tensor.to_f32().unwrap(), [f32::from(row), -f32::from(row)]);
            assert_eq!(example.label, Some(Label(vec![f64::from(row)])));
        }
        let batches: Vec<_> = examples.batches(4).map(Result::unwrap).collect();
        assert_eq!(batches.iter().map(|batch| batch.labels.len()).collect::<Vec<_>>(), [4, 4, 2]);
        assert_eq!(batches[1].inputs[0].tensor.shape(), [4, 2]);
        assert_eq!(batches[1].inputs[0].tensor.to_f32().unwrap()[..2], [4.0, -4.0]);
    }
}

#[test]
fn a_split_is_even_complete_and_the_same_each_time() {
    let folder = tempfile::tempdir().unwrap();
    for method in [CompressionMethod::Stored, CompressionMethod::Deflated] {
        let path = folder.path().join("ten.npz");
        ten(&path, method);
        let examples = Examples::open(&path, &signature(batch())).unwrap();
        let (calibration, evaluation) = examples.split(3);
        let labels = |part: &Examples| {
            part.iter().map(|example| example.unwrap().label.unwrap().number().unwrap()).collect::<Vec<f64>>()
        };
        assert_eq!(labels(&calibration), [3.0, 6.0, 9.0]);
        assert_eq!(labels(&evaluation), [0.0, 1.0, 2.0, 4.0, 5.0, 7.0, 8.0]);
        assert_eq!(labels(&examples.split(99).0).len(), 10);
        assert!(examples.split(0).0.is_empty());
    }
}

#[test]
fn a_model_of_fixed_batch_gets_one_example_at_a_time() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ten.npz");
    ten(&path, CompressionMethod::Stored);
    let examples = Examples::open(&path, &signature(Dim::Fixed(1))).unwrap();
    assert!(examples.batches(4).all(|batch| batch.unwrap().inputs[0].tensor.shape() == [1, 2]));
    // A model without a batch dimension gets the row itself.
    let shape = Some(vec![Dim::Fixed(2)]);
    let bare = Signature { inputs: vec![TensorSpec { name: "x".into(), dtype: DType::F32, shape }], outputs: vec![] };
    let first = Examples::open(&path, &bare).unwrap().iter().next().unwrap().unwrap();
    assert_eq!(first.inputs[0].tensor.shape(), [2]);
}

#[test]
fn a_folder_holds_examples_of_varying_shape() {
    let folder = tempfile::tempdir().unwrap();
    for length in 1..=3_u8 {
        let values = (0..length * 2).map(f32::from);
        let label = npy("<i8", "()", &i64::from(length).to_le_bytes());
        let x = floats(&format!("({length}, 2)"), values);
        npz(&folder.path().join(format!("{length}.npz")), CompressionMethod::Deflated, &[("x", x), ("labels", label)]);
    }
    std::fs::write(folder.path().join("notes.txt"), "no example").unwrap();
    let examples = Examples::open(folder.path(), &signature(batch())).unwrap();
    let read: Vec<_> = examples.iter().map(Result::unwrap).collect();
    assert_eq!(read.iter().map(|example| example.inputs[0].tensor.shape()[0]).collect::<Vec<_>>(), [1, 2, 3]);
    assert_eq!(read[2].label, Some(Label(vec![3.0])));
}

#[test]
fn what_does_not_fit_is_refused_with_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.npz");
    let open = |arrays: &[(&str, Vec<u8>)]| {
        npz(&path, CompressionMethod::Stored, arrays);
        reason(Examples::open(&path, &signature(batch())))
    };
    assert!(open(&[("y", floats("(1, 2)", [0.0; 2]))]).contains("has no array \"x\""));
    assert!(open(&[("x", npy("<f8", "(1, 2)", &[0; 16]))]).contains("x.astype('float32')"));
    assert!(open(&[("x", npy(">f4", "(1, 2)", &[0; 8]))]).contains("little-endian"));
    assert!(open(&[("x", floats("(1, 3)", [0.0; 3]))]).contains("must be an input \"x\" FP32[batch,2]"));
    assert!(open(&[("x", floats("(0, 2)", []))]).contains("no example"));
    let uneven = [("x", floats("(1, 2)", [0.0; 2])), ("labels", npy("|u1", "(3,)", &[0; 3]))];
    assert!(open(&uneven).contains("rows"));
    assert!(reason(Examples::open(Path::new("/nowhere/x.npz"), &signature(batch()))).contains("open"));
    std::fs::write(&path, b"PK\x03\x04 not a zip").unwrap();
    assert!(reason(Examples::open(&path, &signature(batch()))).contains("no readable .npz"));
}

#[test]
fn a_header_that_promises_more_than_the_file_holds_costs_no_memory() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.npz");
    for method in [CompressionMethod::Stored, CompressionMethod::Deflated] {
        npz(&path, method, &[("x", floats("(4, 2)", [1.0; 3]))]);
        let examples = Examples::open(&path, &signature(batch())).unwrap();
        let read: Vec<_> = examples.iter().collect();
        assert_eq!(read.len(), 2, "one row, then one error, then nothing");
        assert!(read[1].as_ref().unwrap_err().to_string().contains("cut short"));
    }
    npz(&path, CompressionMethod::Stored, &[("x", floats("(1, 18446744073709551615, 2)", [1.0; 3]))]);
    let loose = Signature {
        inputs: vec![TensorSpec { name: "x".into(), dtype: DType::F32, shape: None }],
        outputs: Vec::new(),
    };
    assert!(reason(Examples::open(&path, &loose)).contains("over the limit"));
}

proptest! {
    #[test]
    fn damaged_files_never_panic(at in 0_usize..600, byte: u8, cut in 0_usize..700) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ten.npz");
        ten(&path, CompressionMethod::Deflated);
        let mut bytes = std::fs::read(&path).unwrap();
        let length = bytes.len();
        bytes[at % length] = byte;
        bytes.truncate(cut.max(1));
        std::fs::write(&path, &bytes).unwrap();
        if let Ok(examples) = Examples::open(&path, &signature(batch())) {
            for example in examples.iter().take(20) {
                drop(example);
            }
        }
    }
}
