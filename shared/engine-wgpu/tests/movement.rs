//! Operators that move data: the device and the host must agree with ONNX and with each other.

#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of tests may do what tests may")]

mod support;

use engine::{RunControl, Session};
use rten_onnx::onnx::{AttributeProto, DataType};
use support::{Model, engine, f32s, int, ints, run, text};
use types::{DType, NamedTensor, Tensor};

/// One operator on one set of inputs.
struct Case {
    op: &'static str,
    attributes: Vec<AttributeProto>,
    opset: i64,
    /// Name, type, shape and values; a capital name is data, a small one is stated in the model.
    inputs: Vec<(&'static str, DataType, Vec<i64>, Vec<f64>)>,
    outputs: usize,
    /// Shape and values of each output.
    expected: Vec<(Vec<usize>, Vec<f64>)>,
}

fn case(op: &'static str, inputs: Vec<(&'static str, DataType, Vec<i64>, Vec<f64>)>) -> Case {
    Case { op, attributes: Vec::new(), opset: 18, inputs, outputs: 1, expected: Vec::new() }
}

impl Case {
    fn with(mut self, attribute: AttributeProto) -> Self {
        self.attributes.push(attribute);
        self
    }

    fn opset(self, opset: i64) -> Self {
        Self { opset, ..self }
    }

    fn gives(mut self, shape: &[usize], values: &[f64]) -> Self {
        self.expected.push((shape.to_vec(), values.to_vec()));
        self.outputs = self.expected.len();
        self
    }

    /// Runs it with its data as request inputs, or with everything stated in the model.
    fn check(&self, on_device: bool) {
        let Some(engine) = engine() else { return };
        let mut model = Model::new(self.opset);
        let mut given = Vec::new();
        for (name, dtype, shape, values) in &self.inputs {
            if name.is_empty() {
                continue;
            }
            let (request, bytes) = encode(*dtype, values);
            if on_device && name.starts_with(char::is_uppercase) {
                model = model.input(name, *dtype, shape);
                let shape = shape.iter().map(|&size| usize::try_from(size).unwrap()).collect();
                given.push(NamedTensor {
                    name: (*name).into(),
                    tensor: Tensor::new(request, shape, bytes.into()).unwrap(),
                });
            } else {
                model = model.constant(name, *dtype, shape, &bytes);
            }
        }
        let names: Vec<&str> = self.inputs.iter().map(|input| input.0).collect();
        let outputs: Vec<String> = (0..self.outputs).map(|k| format!("y{k}")).collect();
        let outputs: Vec<&str> = outputs.iter().map(String::as_str).collect();
        model = model.node_with(self.op, &names, &outputs, self.attributes.clone());
        // The type that matters here is that of the last input for OneHot, else of the first.
        let dtype = if self.op == "OneHot" { self.inputs[2].1 } else { self.inputs[0].1 };
        for name in &outputs {
            model = model.output(name, dtype, &[]);
        }
        let answer = run(&engine, &model.bytes(), &given);
        for (output, (shape, values)) in answer.iter().zip(&self.expected) {
            assert_eq!(output.tensor.shape(), shape, "{} on device {on_device}", self.op);
            assert_eq!(decode(&output.tensor), *values, "{} on device {on_device}", self.op);
        }
    }

    fn holds(self) {
        self.check(true);
        self.check(false);
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "small numbers")]
fn encode(dtype: DataType, values: &[f64]) -> (DType, Vec<u8>) {
    match dtype {
        DataType::FLOAT => (DType::F32, values.iter().flat_map(|&v| (v as f32).to_le_bytes()).collect()),
        DataType::INT64 => (DType::I64, values.iter().flat_map(|&v| (v as i64).to_le_bytes()).collect()),
        DataType::INT8 => (DType::I8, values.iter().map(|&v| (v as i8) as u8).collect()),
        DataType::UINT8 => (DType::U8, values.iter().map(|&v| v as u8).collect()),
        DataType::BOOL => (DType::Bool, values.iter().map(|&v| v as u8).collect()),
        other => panic!("{other:?}"),
    }
}

#[expect(clippy::cast_precision_loss, clippy::cast_possible_wrap, reason = "small numbers")]
fn decode(tensor: &Tensor) -> Vec<f64> {
    let data = tensor.data();
    match tensor.dtype() {
        DType::F32 => tensor.to_f32().unwrap().into_iter().map(f64::from).collect(),
        DType::I64 => data.as_chunks::<8>().0.iter().map(|lane| i64::from_le_bytes(*lane) as f64).collect(),
        DType::I8 => data.iter().map(|&byte| f64::from(byte as i8)).collect(),
        _ => data.iter().map(|&byte| f64::from(byte)).collect(),
    }
}

const F: DataType = DataType::FLOAT;
const L: DataType = DataType::INT64;
const I8: DataType = DataType::INT8;

fn upto(n: i32) -> Vec<f64> {
    (0..n).map(f64::from).collect()
}

fn x(shape: &[i64]) -> (&'static str, DataType, Vec<i64>, Vec<f64>) {
    ("X", F, shape.to_vec(), upto(i32::try_from(shape.iter().product::<i64>()).unwrap()))
}

/// The same as bytes, four in a word on the device.
fn x8(shape: &[i64]) -> (&'static str, DataType, Vec<i64>, Vec<f64>) {
    ("X", I8, shape.to_vec(), upto(i32::try_from(shape.iter().product::<i64>()).unwrap()))
}

fn stated(name: &'static str, values: &[i32]) -> (&'static str, DataType, Vec<i64>, Vec<f64>) {
    let length = i64::try_from(values.len()).unwrap();
    (name, L, vec![length], values.iter().copied().map(f64::from).collect())
}

#[test]
fn views_keep_elements_and_change_shapes() {
    case("Reshape", vec![x(&[2, 3]), stated("s", &[0, -1, 1])]).gives(&[2, 3, 1], &upto(6)).holds();
    case("Flatten", vec![x(&[2, 3, 2])]).with(int("axis", -1)).gives(&[6, 2], &upto(12)).holds();
    case("Squeeze", vec![x(&[1, 3, 1]), stated("a", &[-1])]).gives(&[1, 3], &upto(3)).holds();
    case("Squeeze", vec![x(&[1, 3, 1])]).opset(11).with(ints("axes", &[0])).gives(&[3, 1], &upto(3)).holds();
    case("Unsqueeze", vec![x(&[3]), stated("a", &[0, -1])]).gives(&[1, 3, 1], &upto(3)).holds();
    case("Identity", vec![x8(&[5])]).gives(&[5], &upto(5)).holds();
    case("Dropout", vec![x(&[3])]).gives(&[3], &upto(3)).holds();
}

#[test]
fn transposing_reads_by_strides() {
    let y = [0.0, 3.0, 1.0, 4.0, 2.0, 5.0];
    case("Transpose", vec![x(&[2, 3])]).gives(&[3, 2], &y).holds();
    case("Transpose", vec![x8(&[2, 3])]).gives(&[3, 2], &y).holds();
    let y = [0.0, 1.0, 6.0, 7.0, 2.0, 3.0, 8.0, 9.0, 4.0, 5.0, 10.0, 11.0];
    case("Transpose", vec![x(&[2, 3, 2])]).with(ints("perm", &[1, 0, 2])).gives(&[3, 2, 2], &y).holds();
    case("Transpose", vec![x(&[1, 3, 1])]).with(ints("perm", &[2, 1, 0])).gives(&[1, 3, 1], &upto(3)).holds();
}

#[test]
fn slices_go_forwards_and_backwards_and_past_the_end() {
    let slice = |starts: &[i32], ends: &[i32], axes: &[i32], steps: &[i32]| {
        case("Slice", vec![x(&[3, 4]), stated("s", starts), stated("e", ends), stated("a", axes), stated("t", steps)])
    };
    slice(&[1], &[i32::MAX], &[0], &[1]).gives(&[2, 4], &upto(12)[4..]).holds();
    slice(&[-1], &[-100], &[1], &[-2]).gives(&[3, 2], &[3.0, 1.0, 7.0, 5.0, 11.0, 9.0]).holds();
    slice(&[0, 1], &[2, 3], &[0, 1], &[1, 1]).gives(&[2, 2], &[1.0, 2.0, 5.0, 6.0]).holds();
    slice(&[2], &[1], &[0], &[1]).gives(&[0, 4], &[]).holds();
    slice(&[0], &[2], &[0], &[1]).gives(&[2, 4], &upto(8)).holds();
    case("Slice", vec![x8(&[7]), stated("s", &[1]), stated("e", &[6])]).gives(&[5], &upto(7)[1..6]).holds();
    case("Slice", vec![x8(&[7]), stated("s", &[0]), stated("e", &[5])]).gives(&[5], &upto(5)).holds();
}

#[test]
fn splits_give_equal_uneven_and_stated_parts() {
    case("Split", vec![x(&[5])]).with(int("num_outputs", 2)).gives(&[3], &upto(3)).gives(&[2], &[3.0, 4.0]).holds();
    case("Split", vec![x(&[2, 3]), stated("s", &[1, 2])])
        .with(int("axis", 1))
        .gives(&[2, 1], &[0.0, 3.0])
        .gives(&[2, 2], &[1.0, 2.0, 4.0, 5.0])
        .holds();
    case("Split", vec![x(&[4])]).opset(11).gives(&[2], &upto(2)).gives(&[2], &[2.0, 3.0]).holds();
}

#[test]
fn expanding_and_tiling_repeat() {
    case("Expand", vec![x(&[2, 1]), stated("s", &[2, 1, 3])])
        .gives(&[2, 2, 3], &[0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0])
        .holds();
    case("Expand", vec![x(&[2, 2]), stated("s", &[1])]).gives(&[2, 2], &upto(4)).holds();
    case("Tile", vec![x(&[2, 2]), stated("r", &[1, 2])])
        .gives(&[2, 4], &[0.0, 1.0, 0.0, 1.0, 2.0, 3.0, 2.0, 3.0])
        .holds();
    case("Tile", vec![x8(&[3]), stated("r", &[2])]).gives(&[6], &[0.0, 1.0, 2.0, 0.0, 1.0, 2.0]).holds();
    case("Tile", vec![x(&[3]), stated("r", &[0])]).gives(&[0], &[]).holds();
}

#[test]
fn depth_and_space_change_places() {
    let y = [0.0, 1.0, 2.0, 3.0];
    case("DepthToSpace", vec![x(&[1, 4, 1, 1])]).with(int("blocksize", 2)).gives(&[1, 1, 2, 2], &y).holds();
    let y = [0.0, 2.0, 4.0, 6.0, 1.0, 3.0, 5.0, 7.0];
    case("DepthToSpace", vec![x(&[1, 8, 1, 1])]).with(int("blocksize", 2)).gives(&[1, 2, 2, 2], &y).holds();
    case("DepthToSpace", vec![x(&[1, 8, 1, 1])])
        .with(int("blocksize", 2))
        .with(text("mode", "CRD"))
        .gives(&[1, 2, 2, 2], &upto(8))
        .holds();
    let y = [0.0, 2.0, 1.0, 3.0, 4.0, 6.0, 5.0, 7.0];
    case("SpaceToDepth", vec![x(&[1, 1, 4, 2])])
        .with(int("blocksize", 2))
        .gives(&[1, 4, 2, 1], &[0.0, 4.0, 1.0, 5.0, 2.0, 6.0, 3.0, 7.0])
        .holds();
    case("SpaceToDepth", vec![("X", F, vec![1, 2, 2, 2], y.to_vec())])
        .with(int("blocksize", 2))
        .gives(&[1, 8, 1, 1], &[0.0, 4.0, 2.0, 6.0, 1.0, 5.0, 3.0, 7.0])
        .holds();
}

#[test]
fn any_number_of_tensors_join() {
    let names = ["A", "B", "C", "D", "E", "G", "H", "I", "J", "K", "L", "M", "N", "O", "P", "Q"];
    for count in [1, 2, 7, 8, 16] {
        let mut rows = [Vec::new(), Vec::new()];
        let inputs = names.iter().take(count).enumerate().map(|(k, name)| {
            let width = 1 + usize::from(k % 3 == 0);
            let values: Vec<f64> = (0..2 * width).map(|at| f64::from(u8::try_from(k * 4 + at).unwrap())).collect();
            rows[0].extend(&values[..width]);
            rows[1].extend(&values[width..]);
            (*name, I8, vec![2, i64::try_from(width).unwrap()], values)
        });
        let inputs = inputs.collect();
        let width = rows[0].len();
        case("Concat", inputs).with(int("axis", -1)).gives(&[2, width], &rows.concat()).holds();
    }
}

#[test]
fn pads_frame_and_crop() {
    let pad = |mode: &str, pads: &[i32]| case("Pad", vec![x(&[3]), stated("p", pads)]).with(text("mode", mode));
    pad("constant", &[1, 2]).gives(&[6], &[0.0, 0.0, 1.0, 2.0, 0.0, 0.0]).holds();
    pad("constant", &[-1, 1]).gives(&[3], &[1.0, 2.0, 0.0]).holds();
    pad("edge", &[2, 1]).gives(&[6], &[0.0, 0.0, 0.0, 1.0, 2.0, 2.0]).holds();
    pad("reflect", &[2, 2]).gives(&[7], &[2.0, 1.0, 0.0, 1.0, 2.0, 1.0, 0.0]).holds();
    pad("wrap", &[1, 4]).gives(&[8], &[2.0, 0.0, 1.0, 2.0, 0.0, 1.0, 2.0, 0.0]).holds();
    case("Pad", vec![x8(&[2, 2]), stated("p", &[0, 1]), ("v", I8, vec![], vec![-7.0]), stated("a", &[1])])
        .gives(&[2, 3], &[0.0, 1.0, -7.0, 2.0, 3.0, -7.0])
        .holds();
    case("CenterCropPad", vec![x(&[4, 1]), stated("s", &[2, 4])])
        .gives(&[2, 4], &[0.0, 1.0, 0.0, 0.0, 0.0, 2.0, 0.0, 0.0])
        .holds();
}

#[test]
fn gathering_counts_from_both_ends() {
    let at = |shape: &[i64], values: &[f64]| ("I", L, shape.to_vec(), values.to_vec());
    case("Gather", vec![x(&[3, 2]), at(&[2, 1], &[-1.0, 0.0])]).gives(&[2, 1, 2], &[4.0, 5.0, 0.0, 1.0]).holds();
    case("Gather", vec![x8(&[2, 3]), at(&[], &[1.0])]).with(int("axis", 1)).gives(&[2], &[1.0, 4.0]).holds();
    case("GatherElements", vec![x(&[2, 2]), at(&[2, 2], &[0.0, 0.0, -1.0, 0.0])])
        .with(int("axis", 1))
        .gives(&[2, 2], &[0.0, 0.0, 3.0, 2.0])
        .holds();
    case("GatherND", vec![x(&[2, 2, 2]), at(&[2, 2], &[0.0, 1.0, 1.0, 0.0])])
        .gives(&[2, 2], &[2.0, 3.0, 4.0, 5.0])
        .holds();
    case("GatherND", vec![x(&[2, 2, 2]), at(&[2, 1], &[1.0, 0.0])])
        .with(int("batch_dims", 1))
        .gives(&[2, 2], &[2.0, 3.0, 4.0, 5.0])
        .holds();
    case("Compress", vec![x(&[2, 3]), ("c", DataType::BOOL, vec![3], vec![1.0, 0.0, 1.0])])
        .with(int("axis", 1))
        .gives(&[2, 2], &[0.0, 2.0, 3.0, 5.0])
        .holds();
    case("Compress", vec![x(&[2, 3]), ("c", DataType::BOOL, vec![4], vec![0.0, 1.0, 0.0, 1.0])])
        .gives(&[2], &[1.0, 3.0])
        .holds();
}

#[test]
fn scattering_replaces_and_reduces() {
    let at = |shape: &[i64], values: &[f64]| ("I", L, shape.to_vec(), values.to_vec());
    let new = |dtype: DataType, shape: &[i64], values: &[f64]| ("U", dtype, shape.to_vec(), values.to_vec());
    case("ScatterElements", vec![x(&[1, 5]), at(&[1, 2], &[1.0, -2.0]), new(F, &[1, 2], &[11.0, 13.0])])
        .with(int("axis", 1))
        .gives(&[1, 5], &[0.0, 11.0, 2.0, 13.0, 4.0])
        .holds();
    case("ScatterElements", vec![x(&[3, 3]), at(&[1, 2], &[1.0, 1.0]), new(F, &[1, 2], &[5.0, 6.0])])
        .with(text("reduction", "add"))
        .gives(&[3, 3], &[0.0, 1.0, 2.0, 8.0, 10.0, 5.0, 6.0, 7.0, 8.0])
        .holds();
    case("ScatterElements", vec![x8(&[5]), at(&[3], &[1.0, 1.0, 4.0]), new(I8, &[3], &[9.0, -1.0, 0.0])])
        .with(text("reduction", "max"))
        .gives(&[5], &[0.0, 9.0, 2.0, 3.0, 4.0])
        .holds();
    case("ScatterND", vec![x(&[4]), at(&[2, 1], &[3.0, 1.0]), new(F, &[2], &[9.0, 8.0])])
        .gives(&[4], &[0.0, 8.0, 2.0, 9.0])
        .holds();
    case("ScatterND", vec![x(&[2, 2]), at(&[2, 1], &[1.0, 1.0]), new(F, &[2, 2], &[1.0, 2.0, 3.0, 4.0])])
        .with(text("reduction", "mul"))
        .gives(&[2, 2], &[0.0, 1.0, 6.0, 24.0])
        .holds();
}

#[test]
fn a_large_scatter_writes_in_parallel_and_gives_the_same() {
    let rows = 6_000_i32;
    let data: Vec<f64> = vec![0.0; usize::try_from(rows).unwrap()];
    let order: Vec<f64> = (0..rows).rev().map(f64::from).collect();
    case(
        "ScatterND",
        vec![
            ("X", F, vec![rows.into()], data),
            ("I", L, vec![rows.into(), 1], order.clone()),
            ("U", F, vec![rows.into()], upto(rows)),
        ],
    )
    .gives(&[usize::try_from(rows).unwrap()], &order)
    .holds();
}

#[test]
fn places_are_kept_mirrored_and_marked() {
    case("Trilu", vec![x(&[2, 3])]).gives(&[2, 3], &[0.0, 1.0, 2.0, 0.0, 4.0, 5.0]).holds();
    case("Trilu", vec![x8(&[2, 3]), ("K", L, vec![], vec![-1.0])])
        .with(int("upper", 0))
        .gives(&[2, 3], &[0.0, 0.0, 0.0, 3.0, 0.0, 0.0])
        .holds();
    case("ReverseSequence", vec![x(&[2, 3]), ("L", L, vec![2], vec![2.0, 3.0])])
        .with(int("batch_axis", 0))
        .with(int("time_axis", 1))
        .gives(&[2, 3], &[1.0, 0.0, 2.0, 5.0, 4.0, 3.0])
        .holds();
    case("OneHot", vec![("I", L, vec![3], vec![0.0, -1.0, 5.0]), stated("d", &[3]), ("V", F, vec![2], vec![2.0, 9.0])])
        .gives(&[3, 3], &[9.0, 2.0, 2.0, 2.0, 2.0, 9.0, 2.0, 2.0, 2.0])
        .holds();
    case("EyeLike", vec![x(&[2, 3])]).with(int("k", 1)).gives(&[2, 3], &[0.0, 1.0, 0.0, 0.0, 0.0, 1.0]).holds();
}

#[test]
fn a_shape_computed_from_a_shape_never_reaches_the_device() {
    let Some(engine) = engine() else { return };
    let model = Model::new(18)
        .input("x", F, &[-1, 4])
        .constant("zero", L, &[1], &0_i64.to_le_bytes())
        .constant("tail", L, &[2], &[2_i64, 2].map(i64::to_le_bytes).concat())
        .node("Shape", &["x"], &["shape"])
        .node("Gather", &["shape", "zero"], &["batch"])
        .node_with("Concat", &["batch", "tail"], &["wanted"], vec![int("axis", 0)])
        .node("Reshape", &["x", "wanted"], &["y"])
        .output("y", F, &[-1, 2, 2])
        .bytes();
    let mut session = engine.load_checked(&model).unwrap();
    for batch in [1_usize, 3] {
        let values: Vec<f32> = (0_u8..4).cycle().take(batch * 4).map(f32::from).collect();
        let answer = session.run(&[support::f32s("x", &[batch, 4], &values)], &[], &RunControl::default()).unwrap();
        assert_eq!(answer[0].tensor.shape(), [batch, 2, 2]);
        assert_eq!(answer[0].tensor.to_f32().unwrap(), values);
        assert_eq!(session.plan_summary().unwrap().0, 0, "a reshape launches nothing");
    }
}

#[test]
fn a_cast_that_changes_no_word_is_no_launch() {
    let Some(engine) = engine() else { return };
    // Each starts from what a launch made, and ends at what a request may ask for; the second number is of launches.
    let cases = [
        (DataType::FLOAT16, DataType::FLOAT, 2),
        (DataType::INT32, DataType::INT64, 2),
        (DataType::INT32, DataType::FLOAT, 3),
    ];
    for (from, to, launches) in cases {
        let model = Model::new(17)
            .input("x", DataType::FLOAT, &[5])
            .node_with("Cast", &["x"], &["narrow"], vec![int("to", i64::from(from.0))])
            .node("Add", &["narrow", "narrow"], &["twice"])
            .node_with("Cast", &["twice"], &["y"], vec![int("to", i64::from(to.0))])
            .output("y", to, &[5])
            .bytes();
        let mut session = engine.load_checked(&model).unwrap();
        let values = [-3.0, 0.0, 1.5, 2.0, 1000.0];
        let answer = session.run(&[f32s("x", &[5], &values)], &[], &RunControl::default()).unwrap();
        let whole = |value: f32| if from == DataType::FLOAT16 { value } else { value.trunc() };
        let twice: Vec<f32> = values.iter().map(|&value| 2.0 * whole(value)).collect();
        let numbers: Vec<f32> = match to {
            DataType::FLOAT => answer[0].tensor.to_f32().unwrap(),
            _ => answer[0]
                .tensor
                .data()
                .as_chunks::<8>()
                .0
                .iter()
                .map(|&number| i64::from_le_bytes(number) as f32)
                .collect(),
        };
        assert_eq!(numbers, twice, "{from:?} to {to:?}");
        assert_eq!(session.plan_summary().unwrap().0, launches, "{from:?} to {to:?}");
    }
}
