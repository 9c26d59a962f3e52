//! Quantized operators against ONNX Runtime, on random shapes, types, zero points, pads and groups.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "helpers of tests may do what tests may")]

mod oracle;
mod support;

use oracle::{Case, Random, float, int, ints, text};
use rten_onnx::onnx::DataType;
use support::engine;

const BYTES: [DataType; 2] = [DataType::UINT8, DataType::INT8];

/// Most elements that may be off by one step, of so many.
fn assert_rare(wrong: usize, all: usize) {
    println!("{wrong} of {all} elements differ by one step");
    assert!(wrong * 1000 <= all, "{wrong} of {all} differ");
}

fn shape_of(random: &mut Random, rank: usize) -> Vec<usize> {
    (0..rank).map(|_| random.between(1, 7)).collect()
}

#[test]
fn quantizing_and_back_is_as_onnx_runtime_does() {
    let Some(wgpu) = engine() else { return };
    let (mut wrong, mut all) = (0, 0);
    for seed in 0..40 {
        let random = &mut Random::new(seed);
        let dtype = random.pick(&[DataType::UINT8, DataType::INT8, DataType::UINT16, DataType::INT16]);
        let width = if matches!(dtype, DataType::UINT8 | DataType::INT8) { 1 } else { 2 };
        let rank = random.between(1, 4);
        let shape = shape_of(random, rank);
        let per_axis = random.below(2) == 1;
        let axis = random.below(rank);
        let scales = if per_axis { vec![shape[axis]] } else { vec![] };
        let count: usize = scales.iter().product();
        let scale: Vec<f32> = (0..count).map(|_| random.float().abs() * 0.1 + 0.001).collect();
        let points = random.bytes(count * width);
        let elements = shape.iter().product();
        let values = random.floats(elements, 20.0);
        let constant = random.below(2) == 1;
        let attributes = || vec![int("axis", i64::try_from(axis).unwrap())];
        let case = Case::new(21)
            .floats(false, "x", &shape, &values)
            .floats(constant, "scale", &scales, &scale)
            .tensor(constant, "point", dtype, &scales, &points)
            .node("QuantizeLinear", &["x", "scale", "point"], &["q"], attributes())
            .output("q", dtype);
        let label = format!("quantize {seed} {dtype:?} {shape:?} by {scales:?}");
        let (w, a) = case.agrees_within_a_step(&wgpu, &label);
        (wrong, all) = (wrong + w, all + a);
        let case = Case::new(21)
            .input("q", dtype, &shape, &random.bytes(elements * width))
            .floats(constant, "scale", &scales, &scale)
            .tensor(constant, "point", dtype, &scales, &points)
            .node("DequantizeLinear", &["q", "scale", "point"], &["y"], attributes())
            .output("y", DataType::FLOAT);
        case.agrees_exactly(&wgpu, &format!("de{label}"));
    }
    assert_rare(wrong, all);
}

#[test]
fn blocks_and_four_bits_dequantize_as_onnx_runtime_does() {
    let Some(wgpu) = engine() else { return };
    for seed in 0..12 {
        let random = &mut Random::new(seed + 100);
        let dtype = random.pick(&[DataType(21), DataType(22), DataType::UINT8, DataType::INT8]);
        let (rows, block, blocks) = (random.between(1, 9), random.pick(&[2_usize, 4, 16]), random.between(1, 4));
        let columns = block * blocks;
        let bits = if matches!(dtype, DataType::UINT8 | DataType::INT8) { 8 } else { 4 };
        let scale: Vec<f32> = (0..rows * blocks).map(|_| random.float()).collect();
        let case = Case::new(21)
            .floats(false, "x", &[rows, columns], &random.floats(rows * columns, 1.0))
            .constant("w", dtype, &[rows, columns], &random.bytes((rows * columns * bits).div_ceil(8)))
            .floats(true, "scale", &[rows, blocks], &scale)
            .constant("point", dtype, &[rows, blocks], &random.bytes((rows * blocks * bits).div_ceil(8)))
            .node(
                "DequantizeLinear",
                &["w", "scale", "point"],
                &["d"],
                vec![int("axis", 1), int("block_size", i64::try_from(block).unwrap())],
            )
            .node("Add", &["x", "d"], &["y"], vec![])
            .output("y", DataType::FLOAT);
        case.agrees_exactly(&wgpu, &format!("block {seed} {dtype:?} {rows}x{columns} by {block}"));
    }
}

#[test]
fn dynamic_quantization_agrees_to_the_bit() {
    let Some(wgpu) = engine() else { return };
    for seed in 0..20 {
        let random = &mut Random::new(seed + 200);
        let elements = random.pick(&[1_usize, 3, 64, 1000, 5000, 70_000]);
        let scale = random.pick(&[0.0_f32, 0.01, 1.0, 300.0]);
        let mut values = random.floats(elements, scale);
        if seed % 3 == 0 {
            values.iter_mut().for_each(|value| *value = value.abs());
        }
        let case = Case::new(17)
            .floats(false, "x", &[elements], &values)
            .node("DynamicQuantizeLinear", &["x"], &["y", "s", "z"], vec![])
            .output("y", DataType::UINT8)
            .output("s", DataType::FLOAT)
            .output("z", DataType::UINT8);
        case.agrees_exactly(&wgpu, &format!("dynamic {seed} {elements} of {scale}"));
    }
}

#[test]
fn integer_matrix_products_agree_to_the_bit() {
    let Some(wgpu) = engine() else { return };
    for seed in 0..60 {
        let random = &mut Random::new(seed + 300);
        let (a, b) = (DataType::UINT8, random.pick(&BYTES));
        let (m, k, n) =
            (random.between(1, 40), random.pick(&[1_usize, 3, 4, 8, 31, 64, 257, 1500]), random.between(1, 37));
        let batch: &[usize] = random.pick(&[&[], &[3], &[2, 2]]);
        let batched = random.below(2) == 1;
        let shape_a = [batch, &[m, k]].concat();
        let shape_b = if batched { [batch, &[k, n]].concat() } else { vec![k, n] };
        let constant = random.below(2) == 1;
        let columns = !batched && random.below(2) == 1;
        let points = if columns { vec![n] } else { vec![] };
        let case = Case::new(17)
            .input("a", a, &shape_a, &random.bytes(shape_a.iter().product()))
            .tensor(constant, "b", b, &shape_b, &random.bytes(shape_b.iter().product()))
            .tensor(constant, "za", a, &[], &random.bytes(1))
            .tensor(constant, "zb", b, &points, &random.bytes(points.iter().product()))
            .node("MatMulInteger", &["a", "b", "za", "zb"], &["y"], vec![])
            .output("y", DataType::INT32);
        case.agrees_exactly(
            &wgpu,
            &format!("matmul {seed} {shape_a:?} {shape_b:?} {a:?} {b:?} constant {constant} columns {columns}"),
        );
    }
}

#[test]
fn the_largest_products_do_not_lose_a_bit() {
    let Some(wgpu) = engine() else { return };
    let k = 9000;
    for (a, b) in [(0_u8, 0_u8), (255, 255), (255, 0), (128, 127)] {
        let case = Case::new(17)
            .input("a", DataType::UINT8, &[2, k], &vec![a; 2 * k])
            .input("b", DataType::UINT8, &[k, 5], &vec![b; 5 * k])
            .constant("za", DataType::UINT8, &[], &[0])
            .constant("zb", DataType::UINT8, &[], &[255])
            .node("MatMulInteger", &["a", "b", "za", "zb"], &["y"], vec![])
            .output("y", DataType::INT32);
        case.agrees_exactly(&wgpu, &format!("extremes {a} {b}"));
    }
}

#[test]
fn quantized_matrix_products_agree() {
    let Some(wgpu) = engine() else { return };
    let (mut wrong, mut all) = (0, 0);
    for seed in 0..40 {
        let random = &mut Random::new(seed + 400);
        let dtype = random.pick(&BYTES);
        let b = if dtype == DataType::INT8 { DataType::INT8 } else { random.pick(&BYTES) };
        let (m, k, n) = (random.between(1, 40), random.between(1, 90), random.between(1, 37));
        let batch: &[usize] = random.pick(&[&[], &[3], &[2, 2]]);
        let shape_a = [batch, &[m, k]].concat();
        let shape_b = if random.below(2) == 1 { [batch, &[k, n]].concat() } else { vec![k, n] };
        let constant = random.below(2) == 1;
        let columns = shape_b.len() == 2 && constant && random.below(2) == 1;
        let per = if columns { vec![n] } else { vec![] };
        let count = per.iter().product();
        let scales: Vec<f32> = (0..count).map(|_| random.float().abs() * 0.02 + 0.001).collect();
        let points = if b == DataType::INT8 && columns { vec![0; count] } else { random.bytes(count) };
        let case = Case::new(17)
            .input("a", dtype, &shape_a, &random.bytes(shape_a.iter().product()))
            .floats(constant, "sa", &[], &[0.013])
            .tensor(constant, "za", dtype, &[], &random.bytes(1))
            .tensor(constant, "b", b, &shape_b, &random.bytes(shape_b.iter().product()))
            .floats(constant, "sb", &per, &scales)
            .tensor(constant, "zb", b, &per, &points)
            .floats(constant, "sy", &[], &[0.31])
            .tensor(constant, "zy", dtype, &[], &random.bytes(1))
            .node("QLinearMatMul", &["a", "sa", "za", "b", "sb", "zb", "sy", "zy"], &["y"], vec![])
            .output("y", dtype);
        let (w, a) = case.agrees_within_a_step(
            &wgpu,
            &format!("qmatmul {seed} {shape_a:?} {shape_b:?} {dtype:?} {b:?} columns {columns}"),
        );
        (wrong, all) = (wrong + w, all + a);
    }
    assert_rare(wrong, all);
}

/// Sizes of a random convolution.
struct Convolution {
    x: Vec<usize>,
    w: Vec<usize>,
    attributes: Vec<rten_onnx::onnx::AttributeProto>,
    label: String,
}

impl Convolution {
    fn new(random: &mut Random) -> Self {
        let spatial = random.pick(&[1_usize, 2, 2, 2, 3]);
        let groups = random.pick(&[1_usize, 1, 2, 3, 8]);
        let depthwise = groups > 1 && random.below(2) == 1;
        let (channels, outputs) =
            if depthwise { (1, random.between(1, 2)) } else { (random.between(1, 5), random.between(1, 11)) };
        let kernel: Vec<usize> = (0..spatial).map(|_| random.between(1, 3)).collect();
        let input: Vec<usize> = (0..spatial).map(|_| random.between(5, 12)).collect();
        let strides: Vec<usize> = (0..spatial).map(|_| random.between(1, 2)).collect();
        let dilations: Vec<usize> = (0..spatial).map(|_| random.between(1, 2)).collect();
        let images = random.between(1, 2);
        let mut attributes = vec![
            int("group", i64::try_from(groups).unwrap()),
            ints("strides", &strides),
            ints("kernel_shape", &kernel),
        ];
        if random.below(4) == 0 {
            attributes.push(text("auto_pad", random.pick(&["SAME_UPPER", "SAME_LOWER", "VALID"])));
        } else {
            let pads: Vec<usize> = (0..2 * spatial).map(|_| random.below(3)).collect();
            attributes.push(ints("pads", &pads));
            attributes.push(ints("dilations", &dilations));
        }
        let x = [&[images, channels * groups][..], &input].concat();
        let w = [&[outputs * groups, channels][..], &kernel].concat();
        let label = format!("{x:?} by {w:?}, {groups} groups");
        Self { x, w, attributes, label }
    }
}

#[test]
fn integer_convolutions_agree_to_the_bit() {
    let Some(wgpu) = engine() else { return };
    for seed in 0..60 {
        let random = &mut Random::new(seed + 500);
        let Convolution { x, w, attributes, label } = Convolution::new(random);
        let (b, constant) = (random.pick(&BYTES), random.below(2) == 1);
        let case = Case::new(17)
            .input("x", DataType::UINT8, &x, &random.bytes(x.iter().product()))
            .tensor(constant, "w", b, &w, &random.bytes(w.iter().product()))
            .tensor(constant, "zx", DataType::UINT8, &[], &random.bytes(1))
            .tensor(constant, "zw", b, &[], &random.bytes(1))
            .node("ConvInteger", &["x", "w", "zx", "zw"], &["y"], attributes)
            .output("y", DataType::INT32);
        case.agrees_exactly(&wgpu, &format!("convolution {seed} {label} {b:?} constant {constant}"));
    }
}

#[test]
fn quantized_convolutions_agree() {
    let Some(wgpu) = engine() else { return };
    let (mut wrong, mut all) = (0, 0);
    for seed in 0..60 {
        let random = &mut Random::new(seed + 600);
        let Convolution { x, w, attributes, label } = Convolution::new(random);
        let dtype = random.pick(&BYTES);
        let b = if dtype == DataType::INT8 { DataType::INT8 } else { random.pick(&BYTES) };
        let constant = random.below(3) != 0;
        let outputs = w[0];
        let per = if random.below(2) == 1 { vec![outputs] } else { vec![] };
        let count = per.iter().product();
        let scales: Vec<f32> = (0..count).map(|_| random.float().abs() * 0.02 + 0.001).collect();
        let points = if per.is_empty() && b == DataType::UINT8 {
            random.bytes(1)
        } else {
            vec![if b == DataType::INT8 { 0 } else { 128 }; count]
        };
        let bias: Vec<u8> =
            (0..outputs).flat_map(|_| (i32::from(random.bytes(1)[0]) * 40 - 5000).to_le_bytes()).collect();
        let mut names = vec!["x", "sx", "zx", "w", "sw", "zw", "sy", "zy"];
        if random.below(2) == 1 {
            names.push("bias");
        }
        let mut case = Case::new(17)
            .input("x", dtype, &x, &random.bytes(x.iter().product()))
            .floats(constant, "sx", &[], &[0.013])
            .tensor(constant, "zx", dtype, &[], &random.bytes(1))
            .tensor(constant, "w", b, &w, &random.bytes(w.iter().product()))
            .floats(constant, "sw", &per, &scales)
            .tensor(constant, "zw", b, &per, &points)
            .floats(constant, "sy", &[], &[0.11])
            .tensor(constant, "zy", dtype, &[], &random.bytes(1));
        if names.len() == 9 {
            case = case.tensor(constant, "bias", DataType::INT32, &[outputs], &bias);
        }
        let case = case.node("QLinearConv", &names, &["y"], attributes).output("y", dtype);
        let (w, a) = case.agrees_within_a_step(
            &wgpu,
            &format!("qconv {seed} {label} {dtype:?} {b:?} constant {constant} per {per:?}"),
        );
        (wrong, all) = (wrong + w, all + a);
    }
    assert_rare(wrong, all);
}

#[test]
fn arithmetic_on_quantized_tensors_agrees() {
    let Some(wgpu) = engine() else { return };
    let (mut wrong, mut all) = (0, 0);
    for seed in 0..80 {
        let random = &mut Random::new(seed + 700);
        let dtype = random.pick(&BYTES);
        let constant = random.below(3) != 0;
        let rank = random.between(3, 4);
        let mut shape = shape_of(random, rank);
        shape[1] = random.between(1, 9);
        let elements: usize = shape.iter().product();
        let op = random.pick(&[
            "QLinearAdd",
            "QLinearMul",
            "QLinearSigmoid",
            "QLinearLeakyRelu",
            "QLinearConcat",
            "QLinearAveragePool",
            "QLinearGlobalAveragePool",
        ]);
        let mut case = Case::new(17)
            .input("a", dtype, &shape, &random.bytes(elements))
            .floats(constant, "sa", &[], &[random.float().abs() * 0.05 + 0.001])
            .tensor(constant, "za", dtype, &[], &random.bytes(1))
            .floats(constant, "sy", &[], &[random.float().abs() * 0.1 + 0.001])
            .tensor(constant, "zy", dtype, &[], &random.bytes(1));
        let binary = matches!(op, "QLinearAdd" | "QLinearMul" | "QLinearConcat");
        if binary {
            let other = match (op, random.below(3)) {
                ("QLinearConcat", _) => {
                    let mut s = shape.clone();
                    s[1] = random.between(1, 5);
                    s
                }
                (_, 0) => vec![],
                (_, 1) => vec![shape[rank - 1]],
                (_, _) => shape.clone(),
            };
            let count = other.iter().product();
            case = case
                .input("b", dtype, &other, &random.bytes(count))
                .floats(constant, "sb", &[], &[random.float().abs() * 0.05 + 0.001])
                .tensor(constant, "zb", dtype, &[], &random.bytes(1));
        }
        let (inputs, attributes): (&[&str], _) = match op {
            "QLinearAdd" | "QLinearMul" => (&["a", "sa", "za", "b", "sb", "zb", "sy", "zy"], vec![]),
            "QLinearConcat" => (&["sy", "zy", "a", "sa", "za", "b", "sb", "zb"], vec![int("axis", 1)]),
            "QLinearLeakyRelu" => (&["a", "sa", "za", "sy", "zy"], vec![float("alpha", 0.1)]),
            "QLinearAveragePool" => {
                let kernel: Vec<usize> = shape[2..].iter().map(|&size| random.between(1, size)).collect();
                let pads: Vec<usize> = kernel.iter().chain(&kernel).map(|&size| random.below(size.min(2))).collect();
                let include = i64::try_from(random.below(2)).unwrap();
                (
                    &["a", "sa", "za", "sy", "zy"],
                    vec![ints("kernel_shape", &kernel), ints("pads", &pads), int("count_include_pad", include)],
                )
            }
            "QLinearGlobalAveragePool" => (&["a", "sa", "za", "sy", "zy"], vec![int("channels_last", 0)]),
            _ => (&["a", "sa", "za", "sy", "zy"], vec![]),
        };
        let case = case.node_in("com.microsoft", op, inputs, &["y"], attributes).output("y", dtype);
        let (w, a) = case.agrees_within_a_step(&wgpu, &format!("{op} {seed} {shape:?} {dtype:?} constant {constant}"));
        println!("{op} {seed}: {w} of {a}");
        (wrong, all) = (wrong + w, all + a);
    }
    assert_rare(wrong, all);
}

#[test]
fn dynamically_quantized_products_agree() {
    let Some(wgpu) = engine() else { return };
    for seed in 0..20 {
        let random = &mut Random::new(seed + 800);
        let (m, k, n) = (random.between(1, 20), random.between(1, 90), random.between(1, 37));
        let b = random.pick(&BYTES);
        let columns = random.below(2) == 1;
        let per = if columns { vec![n] } else { vec![] };
        let count = per.iter().product();
        let scales: Vec<f32> = (0..count).map(|_| random.float().abs() * 0.02 + 0.001).collect();
        let case = Case::new(17)
            .floats(false, "a", &[2, m, k], &random.floats(2 * m * k, 3.0))
            .constant("b", b, &[k, n], &random.bytes(k * n))
            .floats(true, "sb", &per, &scales)
            .constant("zb", b, &per, &random.bytes(count))
            .floats(true, "bias", &[n], &random.floats(n, 1.0))
            .node_in("com.microsoft", "DynamicQuantizeMatMul", &["a", "b", "sb", "zb", "bias"], &["y"], vec![])
            .output("y", DataType::FLOAT);
        case.agrees_about(&wgpu, 1e-5, &format!("dynamic product {seed} {m}x{k}x{n} {b:?} columns {columns}"));
    }
}

/// Median milliseconds of each case's device work, interleaved.
fn medians(wgpu: &engine_wgpu::WgpuEngine, cases: &[Case]) -> Vec<f64> {
    use engine::{RunControl, Session};
    let start = |case: &Case| {
        let mut session = wgpu.load_checked(&case.model()).unwrap();
        session.run(case.inputs(), &[], &RunControl::default()).unwrap();
        (session, Vec::new())
    };
    let mut sessions: Vec<(_, Vec<f64>)> = cases.iter().map(start).collect();
    for _round in 0..15 {
        for (session, times) in &mut sessions {
            times.push(session.rerun().unwrap().as_secs_f64() * 1e3);
        }
    }
    sessions.iter_mut().for_each(|(_session, times)| times.sort_by(f64::total_cmp));
    sessions.iter().map(|(_session, times)| times[times.len() / 2]).collect()
}

#[test]
#[ignore = "a measurement, not a promise"]
fn integer_products_against_float_ones() {
    let Some(wgpu) = engine() else { return };
    let random = &mut Random::new(1);
    let n = 512;
    let float = Case::new(17)
        .floats(false, "a", &[n, n], &random.floats(n * n, 1.0))
        .floats(true, "b", &[n, n], &random.floats(n * n, 1.0))
        .node("MatMul", &["a", "b"], &["y"], vec![])
        .output("y", DataType::FLOAT);
    let integer = |zero_a: u8, zero_b: u8| {
        Case::new(17)
            .input("a", DataType::UINT8, &[n, n], &Random::new(2).bytes(n * n))
            .constant("b", DataType::INT8, &[n, n], &Random::new(3).bytes(n * n))
            .constant("za", DataType::UINT8, &[], &[zero_a])
            .constant("zb", DataType::INT8, &[], &[zero_b])
            .node("MatMulInteger", &["a", "b", "za", "zb"], &["y"], vec![])
            .output("y", DataType::INT32)
    };
    let h = 56;
    let convolution = Case::new(17)
        .floats(false, "x", &[1, 64, h, h], &random.floats(64 * h * h, 1.0))
        .floats(true, "w", &[64, 64, 3, 3], &random.floats(64 * 64 * 9, 1.0))
        .node("Conv", &["x", "w"], &["y"], vec![ints("pads", &[1, 1, 1, 1])])
        .output("y", DataType::FLOAT);
    let quantized = Case::new(17)
        .input("x", DataType::UINT8, &[1, 64, h, h], &random.bytes(64 * h * h))
        .constant("w", DataType::INT8, &[64, 64, 3, 3], &random.bytes(64 * 64 * 9))
        .floats(true, "s", &[], &[0.01])
        .constant("zx", DataType::UINT8, &[], &[128])
        .constant("zw", DataType::INT8, &[], &[0])
        .node("QLinearConv", &["x", "s", "zx", "w", "s", "zw", "s", "zx"], &["y"], vec![ints("pads", &[1, 1, 1, 1])])
        .output("y", DataType::UINT8);
    let cases = [float, integer(128, 0), integer(3, 0), integer(3, 5), convolution, quantized];
    println!("f32, u8s8 symmetric, za, za zb, convolution f32, u8s8: {:.2?} ms", medians(&wgpu, &cases));
}
