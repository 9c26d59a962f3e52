//! Fusions: the fused graph answers as ONNX Runtime does, with fewer nodes.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "helpers of tests may do what tests may")]

#[path = "fusion/attention.rs"]
mod attention;
mod oracle;
mod support;

use engine::{Engine, LoadOptions, ModelBytes, RunControl, Session};
use engine_wgpu::WgpuEngine;
use oracle::{Case, Random, float, int, ints, ints_signed};
use rten_onnx::onnx::DataType;
use support::{engine, f32s};

fn file(name: &str) -> Vec<u8> {
    let root = std::path::Path::new(&std::env::var("CARGO_MANIFEST_DIR").unwrap_or(env!("CARGO_MANIFEST_DIR").into()))
        .join("../../models/catalog/digits");
    std::fs::read(root.join(name)).unwrap()
}

/// The operators of a model after rewriting, with their domains where that is not ONNX's.
fn operators(model: &[u8]) -> Vec<String> {
    let mut graph = engine_wgpu::read::read(model).unwrap();
    engine_wgpu::passes::rewrite(&mut graph);
    let name = |node: &engine_wgpu::ir::Node| match node.domain.as_str() {
        "" => node.op.clone(),
        domain => format!("{domain}::{}", node.op),
    };
    graph.nodes.iter().map(name).collect()
}

#[test]
fn the_quantized_digits_run_on_integers_and_agree() {
    let Some(wgpu) = engine() else { return };
    for name in ["v1/int8-qdq.onnx", "v2/int8-qdq.onnx", "v1/fp32.onnx", "v2/full.onnx"] {
        let model = file(name);
        println!("{name}: {:?}", operators(&model));
        let Some(runtime) = oracle::runtime() else { return };
        let random = &mut Random::new(7);
        let pixels: Vec<f32> = random.floats(16 * 784, 1.0).iter().map(|value| value.abs()).collect();
        let input = [f32s("image", &[16, 1, 28, 28], &pixels)];
        let mut session = runtime.load(ModelBytes::from(model.clone()), &LoadOptions::default()).unwrap();
        let expected = session.run(&input, &[], &RunControl::default()).unwrap()[0].tensor.to_f32().unwrap();
        let mut session = wgpu.load_checked(&model).unwrap();
        let answer = session.run(&input, &[], &RunControl::default()).unwrap()[0].tensor.to_f32().unwrap();
        let off = expected.iter().zip(&answer).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        println!("{name}: off by {off}, {:?}", session.plan_summary());
        let largest = expected.iter().fold(0.0_f32, |largest, value| largest.max(value.abs()));
        assert!(off <= largest * 1e-5, "{name}: off by {off} of {largest}");
    }
}

/// Whether this engine has an operator; a test of a fusion into or around it is skipped until then.
fn has(op: &str) -> bool {
    let case = Case::new(20).floats(false, "x", &[1], &[1.0]).node(op, &["x"], &["y"], vec![]);
    let graph = engine_wgpu::read::read(&case.output("y", DataType::FLOAT).model()).unwrap();
    let known = graph.nodes.first().is_some_and(|node| engine_wgpu::ops::rule(node).is_some());
    if !known {
        println!("skipped: there is no {op} yet");
    }
    known
}

/// Checks that a case answers as ONNX Runtime does, and that these operators are left of it.
fn fuses(wgpu: &WgpuEngine, case: &Case, relative: f32, left: &[&str]) {
    assert_eq!(operators(&case.model()), left);
    case.agrees_about(wgpu, relative, &format!("{left:?}"));
}

#[test]
fn batch_norm_residual_and_activation_go_into_their_convolutions() {
    let Some(wgpu) = engine() else { return };
    for sum in ["Add", "Sum"] {
        let random = &mut Random::new(1);
        let (c, h) = (8, 9);
        let positive =
            |random: &mut Random| random.floats(c, 1.0).iter().map(|value| value.abs() + 0.1).collect::<Vec<_>>();
        let case = Case::new(17)
            .floats(false, "x", &[2, c, h, h], &random.floats(2 * c * h * h, 1.0))
            .floats(true, "w1", &[c, c, 3, 3], &random.floats(c * c * 9, 0.2))
            .floats(true, "w2", &[c, c, 3, 3], &random.floats(c * c * 9, 0.2))
            .floats(true, "b2", &[c], &random.floats(c, 0.2))
            .floats(true, "scale", &[c], &positive(random))
            .floats(true, "offset", &[c], &random.floats(c, 0.5))
            .floats(true, "mean", &[c], &random.floats(c, 0.5))
            .floats(true, "variance", &[c], &positive(random))
            .node("Conv", &["x", "w1"], &["c1"], vec![ints("pads", &[1, 1, 1, 1])])
            .node("BatchNormalization", &["c1", "scale", "offset", "mean", "variance"], &["n1"], vec![])
            .node("Relu", &["n1"], &["r1"], vec![])
            .node("Conv", &["r1", "w2", "b2"], &["c2"], vec![ints("pads", &[1, 1, 1, 1])])
            .node("BatchNormalization", &["c2", "scale", "offset", "mean", "variance"], &["n2"], vec![])
            .node(sum, &["n2", "x"], &["s"], vec![])
            .node("Relu", &["s"], &["y"], vec![])
            .output("y", DataType::FLOAT);
        fuses(&wgpu, &case, 1e-5, &["sanderling::Conv", "sanderling::Conv"]);
    }
}

#[test]
fn an_activation_before_the_sum_stays_before_it() {
    let Some(wgpu) = engine() else { return };
    let random = &mut Random::new(2);
    let case = Case::new(17)
        .floats(false, "x", &[1, 6, 7, 7], &random.floats(6 * 49, 1.0))
        .floats(true, "w", &[6, 6, 1, 1], &random.floats(36, 0.5))
        .node("Conv", &["x", "w"], &["c"], vec![])
        .node("Sigmoid", &["c"], &["g"], vec![])
        .node("Mul", &["c", "g"], &["m"], vec![])
        .node("Add", &["x", "m"], &["y"], vec![])
        .output("y", DataType::FLOAT);
    fuses(&wgpu, &case, 1e-5, &["sanderling::Conv"]);
}

#[test]
fn what_a_request_asks_for_is_never_fused_away() {
    let Some(wgpu) = engine() else { return };
    let random = &mut Random::new(3);
    let case = Case::new(17)
        .floats(false, "x", &[3, 5], &random.floats(15, 1.0))
        .floats(true, "w", &[5, 4], &random.floats(20, 0.5))
        .floats(true, "b", &[4], &random.floats(4, 0.5))
        .node("MatMul", &["x", "w"], &["m"], vec![])
        .node("Add", &["b", "m"], &["s"], vec![])
        .node("Relu", &["s"], &["y"], vec![])
        .output("s", DataType::FLOAT)
        .output("y", DataType::FLOAT);
    fuses(&wgpu, &case, 1e-5, &["sanderling::MatMul", "Relu"]);
}

#[test]
fn dynamically_quantized_layers_become_one_product() {
    let Some(wgpu) = engine() else { return };
    for (seed, columns) in [(4, false), (5, true)] {
        let random = &mut Random::new(seed);
        let (m, k, n) = (7, 33, 19);
        let per: &[usize] = if columns { &[n] } else { &[] };
        let count = per.iter().product();
        let scales: Vec<f32> = random.floats(count, 0.05).iter().map(|value| value.abs() + 0.001).collect();
        let case = Case::new(17)
            .floats(false, "x", &[2, m, k], &random.floats(2 * m * k, 1.0))
            .constant("w", DataType::INT8, &[k, n], &random.bytes(k * n))
            .floats(true, "sw", per, &scales)
            .constant("zw", DataType::INT8, per, &random.bytes(count))
            .floats(true, "bias", &[n], &random.floats(n, 0.5))
            .node("DynamicQuantizeLinear", &["x"], &["q", "sx", "zx"], vec![])
            .node("Mul", &["sx", "sw"], &["scale"], vec![])
            .node("MatMulInteger", &["q", "w", "zx", "zw"], &["sum"], vec![])
            .node("Cast", &["sum"], &["float"], vec![int("to", 1)])
            .node("Mul", &["float", "scale"], &["product"], vec![])
            .node("Add", &["bias", "product"], &["s"], vec![])
            .node("Relu", &["s"], &["y"], vec![])
            .output("y", DataType::FLOAT);
        fuses(&wgpu, &case, 1e-5, &["DynamicQuantizeLinear", "sanderling::MatMulIntegerToFloat"]);
    }
}

#[test]
fn a_dynamically_quantized_convolution_becomes_one() {
    let Some(wgpu) = engine() else { return };
    let random = &mut Random::new(6);
    let case = Case::new(17)
        .floats(false, "x", &[1, 3, 8, 8], &random.floats(192, 1.0))
        .constant("w", DataType::UINT8, &[5, 3, 3, 3], &random.bytes(135))
        .floats(true, "sw", &[], &[0.02])
        .constant("zw", DataType::UINT8, &[], &[121])
        .floats(true, "bias", &[1, 5, 1, 1], &random.floats(5, 0.5))
        .node("DynamicQuantizeLinear", &["x"], &["q", "sx", "zx"], vec![])
        .node("ConvInteger", &["q", "w", "zx", "zw"], &["sum"], vec![ints("pads", &[1, 1, 1, 1])])
        .node("Cast", &["sum"], &["float"], vec![int("to", 1)])
        .node("Mul", &["sx", "sw"], &["scale"], vec![])
        .node("Mul", &["float", "scale"], &["product"], vec![])
        .node("Add", &["product", "bias"], &["s"], vec![])
        .node("Relu", &["s"], &["y"], vec![])
        .output("y", DataType::FLOAT);
    fuses(&wgpu, &case, 1e-5, &["DynamicQuantizeLinear", "sanderling::ConvIntegerToFloat"]);
}

/// A model in QDQ form: `x → Q → DQ → middle → Q → DQ → y`, with two quantized inputs `x` and `z`.
fn qdq(random: &mut Random, shape: &[usize], middle: impl FnOnce(Case, &mut Random) -> Case) -> Case {
    let elements = shape.iter().product();
    let case = Case::new(17)
        .floats(false, "x", shape, &random.floats(elements, 1.0))
        .floats(false, "z", shape, &random.floats(elements, 1.0))
        .floats(true, "sx", &[], &[0.0078])
        .constant("zx", DataType::UINT8, &[], &[128])
        .floats(true, "sz", &[], &[0.0081])
        .constant("zz", DataType::UINT8, &[], &[125])
        .floats(true, "sy", &[], &[0.019])
        .constant("zy", DataType::UINT8, &[], &[100])
        .constant("zero", DataType::UINT8, &[], &[0])
        .node("QuantizeLinear", &["x", "sx", "zx"], &["xq"], vec![])
        .node("DequantizeLinear", &["xq", "sx", "zx"], &["xd"], vec![])
        .node("QuantizeLinear", &["z", "sz", "zz"], &["zq"], vec![])
        .node("DequantizeLinear", &["zq", "sz", "zz"], &["zd"], vec![]);
    middle(case, random)
}

/// At most one step of the output's scale off, rarely.
fn quantized_agrees(wgpu: &WgpuEngine, case: &Case, step: f32, left: &[&str]) {
    assert_eq!(operators(&case.model()), left);
    let Some((expected, answer)) = case.both(wgpu, &format!("{left:?}")) else { return };
    let (a, b) = (expected[0].tensor.to_f32().unwrap(), answer[0].tensor.to_f32().unwrap());
    assert_eq!(expected[0].tensor.shape(), answer[0].tensor.shape());
    let wrong = a.iter().zip(&b).filter(|(a, b)| (**a - **b).abs() > step * 0.01).count();
    assert!(wrong * 1000 <= a.len().max(1000), "{left:?}: {wrong} of {} differ", a.len());
    assert!(a.iter().zip(&b).all(|(a, b)| (a - b).abs() < step * 1.01), "{left:?}");
}

#[test]
fn quantized_convolutions_take_bias_and_activation() {
    let Some(wgpu) = engine() else { return };
    for act in ["Relu", "Clip", "LeakyRelu", "Sigmoid"] {
        let random = &mut Random::new(8);
        let case = qdq(random, &[2, 4, 9, 9], |case, random| {
            let scales: Vec<f32> = random.floats(6, 0.01).iter().map(|value| value.abs() + 0.001).collect();
            let bias: Vec<u8> = (0..6_i32).flat_map(|at| (at * 300 - 700).to_le_bytes()).collect();
            let steps: Vec<f32> = scales.iter().map(|scale| scale * 0.0078).collect();
            case.constant("w", DataType::INT8, &[6, 4, 3, 3], &random.bytes(216))
                .floats(true, "sw", &[6], &scales)
                .constant("zw", DataType::INT8, &[6], &[0; 6])
                .constant("b", DataType::INT32, &[6], &bias)
                .floats(true, "sb", &[6], &steps)
                .floats(true, "low", &[], &[-0.4])
                .floats(true, "high", &[], &[0.9])
                .node("DequantizeLinear", &["w", "sw", "zw"], &["wd"], vec![int("axis", 0)])
                .node("DequantizeLinear", &["b", "sb"], &["bd"], vec![int("axis", 0)])
                .node("Conv", &["xd", "wd", "bd"], &["c"], vec![ints("pads", &[1, 0, 1, 2])])
                .node(act, if act == "Clip" { &["c", "low", "high"] } else { &["c"] }, &["a"], vec![])
                .node("QuantizeLinear", &["a", "sy", "zy"], &["yq"], vec![])
                .node("DequantizeLinear", &["yq", "sy", "zy"], &["y"], vec![])
                .output("y", DataType::FLOAT)
        });
        quantized_agrees(&wgpu, &case, 0.019, &["QuantizeLinear", "sanderling::QLinearConv", "DequantizeLinear"]);
    }
}

#[test]
fn quantized_products_and_arithmetic_stay_integers() {
    let Some(wgpu) = engine() else { return };
    let wrap = |op: &'static str, attributes: Vec<_>, inputs: &'static [&'static str], left: &str, ops: usize| {
        let random = &mut Random::new(9);
        let case = qdq(random, &[2, 4, 6, 6], |case, _random| {
            case.node(op, inputs, &["m"], attributes)
                .node("QuantizeLinear", &["m", "sy", "zy"], &["yq"], vec![])
                .node("DequantizeLinear", &["yq", "sy", "zy"], &["y"], vec![])
                .output("y", DataType::FLOAT)
        });
        let mut expected = vec!["QuantizeLinear"; ops];
        expected.extend([left, "DequantizeLinear"]);
        quantized_agrees(&wgpu, &case, 0.019, &expected);
    };
    wrap("MatMul", vec![], &["xd", "zd"], "sanderling::QLinearMatMul", 2);
    wrap("Add", vec![], &["xd", "zd"], "com.microsoft::QLinearAdd", 2);
    wrap("Mul", vec![], &["xd", "zd"], "com.microsoft::QLinearMul", 2);
    wrap("Concat", vec![int("axis", 1)], &["xd", "zd"], "com.microsoft::QLinearConcat", 2);
    wrap("Sigmoid", vec![], &["xd"], "com.microsoft::QLinearSigmoid", 1);
    wrap("LeakyRelu", vec![float("alpha", 0.2)], &["xd"], "com.microsoft::QLinearLeakyRelu", 1);
    wrap("GlobalAveragePool", vec![], &["xd"], "com.microsoft::QLinearGlobalAveragePool", 1);
    wrap("AveragePool", vec![ints("kernel_shape", &[3, 2])], &["xd"], "com.microsoft::QLinearAveragePool", 1);
}

#[test]
fn a_quantized_layer_with_a_float_answer_is_one_product() {
    let Some(wgpu) = engine() else { return };
    let random = &mut Random::new(10);
    let case = qdq(random, &[5, 12], |case, random| {
        case.constant("w", DataType::INT8, &[7, 12], &random.bytes(84))
            .floats(true, "sw", &[], &[0.013])
            .constant("zw", DataType::INT8, &[], &[0])
            .floats(true, "b", &[7], &random.floats(7, 1.0))
            .node("DequantizeLinear", &["w", "sw", "zw"], &["wd"], vec![])
            .node("Gemm", &["xd", "wd", "b"], &["y"], vec![int("transB", 1)])
            .output("y", DataType::FLOAT)
    });
    fuses(&wgpu, &case, 1e-5, &["QuantizeLinear", "sanderling::MatMulIntegerToFloat"]);
}

#[test]
fn moves_between_quantizations_move_integers() {
    let Some(wgpu) = engine() else { return };
    let random = &mut Random::new(11);
    let case = qdq(random, &[2, 4, 6, 6], |case, _random| {
        case.node("MaxPool", &["xd"], &["m"], vec![ints("kernel_shape", &[2, 2])])
            .node("QuantizeLinear", &["m", "sx", "zx"], &["mq"], vec![])
            .node("DequantizeLinear", &["mq", "sx", "zx"], &["md"], vec![])
            .node("Flatten", &["md"], &["f"], vec![])
            .node("QuantizeLinear", &["f", "sx", "zx"], &["yq"], vec![])
            .node("DequantizeLinear", &["yq", "sx", "zx"], &["y"], vec![])
            .output("y", DataType::FLOAT)
    });
    fuses(&wgpu, &case, 0.0, &["QuantizeLinear", "MaxPool", "Flatten", "DequantizeLinear"]);
}

#[test]
fn elementwise_operators_in_a_row_become_one_kernel() {
    let Some(wgpu) = engine().filter(|_engine| has("Tanh")) else { return };
    let random = &mut Random::new(12);
    let case = Case::new(17)
        .floats(false, "x", &[2, 3, 5], &random.floats(30, 2.0))
        .floats(false, "z", &[3, 1], &random.floats(3, 2.0))
        .floats(true, "w", &[5], &random.floats(5, 2.0))
        .floats(true, "half", &[], &[0.5])
        .floats(true, "two", &[], &[2.0])
        .node("Sub", &["x", "z"], &["a"], vec![])
        .node("Tanh", &["a"], &["b"], vec![])
        .node("Pow", &["b", "two"], &["p"], vec![])
        .node("Mul", &["half", "p"], &["c"], vec![])
        .node("Div", &["c", "w"], &["d"], vec![])
        .node("Erf", &["d"], &["e"], vec![])
        .node("Add", &["e", "x"], &["f"], vec![])
        .node("LeakyRelu", &["f"], &["y"], vec![float("alpha", 0.3)])
        .output("y", DataType::FLOAT);
    fuses(&wgpu, &case, 1e-5, &["sanderling::Chain"]);
}

#[test]
fn a_value_with_two_readers_is_computed_once() {
    let Some(wgpu) = engine().filter(|_engine| has("Exp")) else { return };
    let random = &mut Random::new(13);
    let case = Case::new(17)
        .floats(false, "x", &[4, 5], &random.floats(20, 2.0))
        .node("Neg", &["x"], &["a"], vec![])
        .node("Exp", &["a"], &["b"], vec![])
        .node("Abs", &["a"], &["c"], vec![])
        .node("Mul", &["b", "c"], &["y"], vec![])
        .output("y", DataType::FLOAT);
    fuses(&wgpu, &case, 1e-5, &["Neg", "sanderling::Chain"]);
}

/// `x * (1 + erf(x / √2)) / 2` in small operators.
fn written_out_gelu(case: Case) -> Case {
    case.floats(true, "root", &[], &[std::f32::consts::SQRT_2])
        .floats(true, "one", &[], &[1.0])
        .floats(true, "half", &[], &[0.5])
        .node("Div", &["x", "root"], &["a"], vec![])
        .node("Erf", &["a"], &["b"], vec![])
        .node("Add", &["b", "one"], &["c"], vec![])
        .node("Mul", &["x", "c"], &["d"], vec![])
        .node("Mul", &["d", "half"], &["y"], vec![])
        .output("y", DataType::FLOAT)
}

#[test]
fn gelu_written_out_is_recognised() {
    let Some(wgpu) = engine().filter(|_engine| has("Gelu")) else { return };
    let case = written_out_gelu(Case::new(17).floats(false, "x", &[3, 7], &Random::new(14).floats(21, 3.0)));
    fuses(&wgpu, &case, 1e-5, &["Gelu"]);
}

#[test]
fn layer_normalisation_written_out_is_recognised() {
    let Some(wgpu) = engine().filter(|_engine| has("LayerNormalization")) else { return };
    let random = &mut Random::new(15);
    let case = Case::new(17)
        .floats(false, "x", &[2, 3, 8], &random.floats(48, 3.0))
        .floats(true, "scale", &[8], &random.floats(8, 1.0))
        .floats(true, "bias", &[8], &random.floats(8, 1.0))
        .floats(true, "two", &[], &[2.0])
        .floats(true, "epsilon", &[], &[1e-5])
        .node("ReduceMean", &["x"], &["m"], vec![ints_signed("axes", &[-1])])
        .node("Sub", &["x", "m"], &["d"], vec![])
        .node("Pow", &["d", "two"], &["p"], vec![])
        .node("ReduceMean", &["p"], &["v"], vec![ints_signed("axes", &[-1])])
        .node("Add", &["v", "epsilon"], &["e"], vec![])
        .node("Sqrt", &["e"], &["s"], vec![])
        .node("Div", &["d", "s"], &["n"], vec![])
        .node("Mul", &["n", "scale"], &["k"], vec![])
        .node("Add", &["k", "bias"], &["y"], vec![])
        .output("y", DataType::FLOAT);
    fuses(&wgpu, &case, 1e-4, &["LayerNormalization"]);
}

#[test]
fn a_short_chain_is_one_kernel_too() {
    let Some(wgpu) = engine() else { return };
    let random = &mut Random::new(16);
    let case = Case::new(17)
        .floats(false, "x", &[2, 3, 5], &random.floats(30, 2.0))
        .floats(false, "z", &[3, 1], &random.floats(3, 2.0))
        .floats(true, "w", &[5], &random.floats(5, 2.0))
        .floats(true, "half", &[1], &[0.5])
        .node("Add", &["z", "x"], &["a"], vec![])
        .node("Relu", &["a"], &["b"], vec![])
        .node("Mul", &["half", "b"], &["c"], vec![])
        .node("Neg", &["c"], &["d"], vec![])
        .node("Mul", &["d", "w"], &["e"], vec![])
        .node("Add", &["e", "x"], &["y"], vec![])
        .output("y", DataType::FLOAT);
    fuses(&wgpu, &case, 1e-6, &["sanderling::Chain"]);
}

#[test]
fn weights_of_four_and_eight_bits_stay_packed() {
    let Some(wgpu) = engine() else { return };
    let (k, n) = (96_usize, 21);
    // Element type, bits, block, zero points given.
    let forms = [(22, 4, 32, false), (21, 4, 16, true), (3, 8, 0, false), (2, 8, 32, true)];
    for (seed, (dtype, bits, block, points)) in (20..).zip(forms) {
        let random = &mut Random::new(seed);
        let dtype = DataType(dtype);
        let shape = k.checked_div(block).map_or(vec![n], |blocks| vec![blocks, n]);
        let count: usize = shape.iter().product();
        let mut case = Case::new(21)
            .floats(false, "x", &[2, 5, k], &random.floats(10 * k, 1.0))
            .constant("w", dtype, &[k, n], &random.bytes((k * n * bits).div_ceil(8)))
            .floats(true, "s", &shape, &random.floats(count, 0.1))
            .constant("z", dtype, &shape, &random.bytes((count * bits).div_ceil(8)));
        let attributes = vec![int("axis", i64::from(block == 0)), int("block_size", i64::try_from(block).unwrap())];
        let inputs: &[&str] = if points { &["w", "s", "z"] } else { &["w", "s"] };
        case = case
            .node("DequantizeLinear", inputs, &["d"], attributes)
            .node("MatMul", &["x", "d"], &["y"], vec![])
            .output("y", DataType::FLOAT);
        // ONNX Runtime fuses this too, and quantizes `x` to 8 bits in that kernel: it is the less exact one.
        fuses(&wgpu, &case, 5e-3, &["com.microsoft::MatMulNBits"]);
    }
}
