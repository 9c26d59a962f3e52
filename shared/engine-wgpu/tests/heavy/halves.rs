//! Constants of float16, which lie as halves on the device: the answers are those of their widened values, bit for bit, and the
//! device holds half as much.

use std::path::Path;

use engine::{RunControl, Session};
use engine_wgpu::ir::{Attribute, Attributes, ElementType, Graph, Literal, Node, Value};
use engine_wgpu::session::WgpuSession;
use engine_wgpu::{BUDGET_BYTES, WgpuEngine};
use half::f16;
use rten_onnx::onnx::{AttributeProto, AttributeType, DataType, ModelProto, NodeProto};
use types::NamedTensor;

use super::bench_node::{BOTH, Bench, Dice, Kernels, Operand, engine};
use crate::support::f32s;

/// The operand in another type of float.
fn of_type(operand: &Operand, dtype: ElementType) -> Operand {
    let convert = |literal: &Literal| Literal::from_f64s(dtype, literal.shape().to_vec(), &literal.to_f64s());
    match operand {
        Operand::Input(literal) if literal.dtype().is_float() => Operand::Input(convert(literal)),
        Operand::Constant(literal) if literal.dtype().is_float() => Operand::Constant(convert(literal)),
        Operand::Input(_) | Operand::Constant(_) | Operand::None => operand.clone(),
    }
}

/// The first output before anything rounds it to halves: a cast to float32 follows.
fn unrounded(graph: &mut Graph) {
    let made = graph.outputs[0];
    let y = graph.add_value(Value { name: "y".into(), declared: Some((ElementType::F32, None)) });
    graph.nodes.push(Node {
        name: "unrounded".into(),
        domain: String::new(),
        op: "Cast".into(),
        opset: 21,
        inputs: vec![Some(made)],
        outputs: vec![Some(y)],
        attributes: Attributes::default().with("to", Attribute::Int(1)),
    });
    graph.outputs = vec![y];
}

/// What the node answers with operands of this type, and the bytes of its weights on the device.
fn run(engine: &WgpuEngine, bench: &Bench, operands: &[Operand], dtype: ElementType) -> (Vec<u8>, u64) {
    let operands: Vec<Operand> = operands.iter().map(|operand| of_type(operand, dtype)).collect();
    let (mut graph, given) = bench.clone().outputs(&[Some(dtype)]).graph(&operands);
    unrounded(&mut graph);
    let mut session = WgpuSession::new(engine.gpu().clone(), &graph, BUDGET_BYTES, None).unwrap();
    let answer = session.run(&given, &[], &RunControl::default()).unwrap();
    (answer[0].tensor.data().to_vec(), session.describe().weight_bytes)
}

/// Runs a node with operands of float16 and with the same numbers in float32; gives the bytes of the weights of both.
fn assert_same_bits(kernels: Kernels, bench: &Bench, operands: &[Operand]) -> Option<[u64; 2]> {
    let engine = engine(kernels)?;
    let halves: Vec<Operand> = operands.iter().map(|operand| of_type(operand, ElementType::F16)).collect();
    let (found, bytes) = run(&engine, bench, &halves, ElementType::F16);
    let (wanted, wide_bytes) = run(&engine, bench, &halves, ElementType::F32);
    let shapes: Vec<_> = operands.iter().map(Operand::shape).collect();
    assert!(!wanted.is_empty() && wanted.iter().any(|&byte| byte != 0), "{bench:?} of {shapes:?} answers nothing");
    assert!(found == wanted, "{kernels:?}: {bench:?} of {shapes:?} gives other bits");
    Some([bytes, wide_bytes])
}

#[test]
fn a_product_with_halves_gives_the_bits_of_its_widened_weights() {
    let mut dice = Dice::new(31);
    let sizes = [(1, 257, 131), (2, 64, 300), (3, 97, 301), (7, 65, 77), (8, 33, 100), (16, 128, 96), (70, 31, 131)];
    let batches: [(&[usize], &[usize]); 3] = [(&[], &[]), (&[2, 1], &[1, 3]), (&[3], &[3])];
    for kernels in BOTH {
        for ((m, k, n), (batch_a, batch_b)) in sizes.into_iter().zip(batches.into_iter().cycle()) {
            let (a, b) = (dice.tensor(&[batch_a, &[m, k]].concat()), dice.tensor(&[batch_b, &[k, n]].concat()));
            for operands in [[a.clone(), b.clone().constant()], [a.constant(), b]] {
                if assert_same_bits(kernels, &Bench::new("MatMul"), &operands).is_none() {
                    return;
                }
            }
        }
    }
}

#[test]
fn panels_of_every_height_hold_halves() {
    let mut dice = Dice::new(32);
    // Panels of 8, 16 and 32 rows, read by threads alone or together.
    for (m, k, n) in [(6, 50, 256), (24, 40, 512), (48, 33, 2048), (64, 40, 2048), (250, 20, 300)] {
        let (a, b) = (dice.tensor(&[m, k]).constant(), dice.tensor(&[k, n]));
        if assert_same_bits(Kernels::Own, &Bench::new("MatMul"), &[a, b]).is_none() {
            return;
        }
    }
}

#[test]
fn gemm_with_halves_gives_the_bits_of_its_widened_weights() {
    let mut dice = Dice::new(33);
    for kernels in BOTH {
        for (m, k, n) in [(1, 200, 100), (5, 129, 33), (33, 65, 70)] {
            let bench = Bench::new("Gemm").int("transB", 1).float("beta", 0.5);
            let operands = [dice.tensor(&[m, k]), dice.tensor(&[n, k]).constant(), dice.tensor(&[n]).constant()];
            if assert_same_bits(kernels, &bench, &operands).is_none() {
                return;
            }
        }
    }
}

#[test]
fn a_convolution_with_halves_gives_the_bits_of_its_widened_weights() {
    let mut dice = Dice::new(34);
    // Channels, filters, groups, size of the window, stride: products, direct ones, Winograd's, depthwise ones, tiny ones.
    let cases = [
        (33, 40, 1, 1, 1),
        (32, 17, 1, 1, 2),
        (5, 18, 1, 3, 2),
        (8, 10, 2, 3, 2),
        (6, 3, 1, 5, 1),
        (16, 32, 1, 3, 1),
        (24, 24, 24, 3, 1),
        (2, 3, 1, 2, 1),
    ];
    for kernels in BOTH {
        for (channels, filters, groups, size, stride) in cases {
            let bench = Bench::new("Conv").int("group", groups as i64).ints("strides", &[stride, stride]);
            let x = dice.tensor(&[1, channels, 19, 21]);
            let w = dice.tensor(&[filters, channels / groups, size, size]).constant();
            for bias in [Operand::None, dice.tensor(&[filters]).constant(), dice.tensor(&[filters])] {
                if assert_same_bits(kernels, &bench, &[x.clone(), w.clone(), bias]).is_none() {
                    return;
                }
            }
        }
    }
}

#[test]
fn what_reads_a_constant_one_by_one_reads_halves() {
    let mut dice = Dice::new(35);
    let ids = |count: usize, rows: usize, dice: &mut Dice| {
        let ids: Vec<i64> = (0..count).map(|_| dice.below(rows) as i64 - (rows as i64) / 2).collect();
        Operand::Input(Literal::from_i64s(ElementType::I64, vec![count], &ids))
    };
    let cases = [
        (Bench::new("Gather"), vec![dice.tensor(&[51, 7]).constant(), ids(9, 51, &mut dice)]),
        (Bench::new("Gather").int("axis", 1), vec![dice.tensor(&[5, 33]).constant(), ids(4, 33, &mut dice)]),
        (Bench::new("Add"), vec![dice.tensor(&[3, 11]), dice.tensor(&[11]).constant()]),
        (Bench::new("Mul"), vec![dice.tensor(&[1]).constant(), dice.tensor(&[5, 3])]),
        (
            Bench::new("LayerNormalization"),
            vec![dice.tensor(&[4, 37]), dice.tensor(&[37]).constant(), dice.tensor(&[37]).constant()],
        ),
        (Bench::new("ConvTranspose"), vec![dice.tensor(&[1, 9, 8, 8]), dice.tensor(&[9, 7, 3, 3]).constant()]),
        (
            Bench::new("GRU").int("hidden_size", 12),
            vec![
                dice.tensor(&[5, 2, 31]),
                dice.tensor(&[1, 36, 31]).constant(),
                dice.tensor(&[1, 36, 12]).constant(),
                dice.tensor(&[1, 72]).constant(),
            ],
        ),
    ];
    for (bench, operands) in cases {
        if assert_same_bits(Kernels::Own, &bench, &operands).is_none() {
            return;
        }
    }
}

#[test]
fn halves_take_half_the_memory_of_the_device() {
    let mut dice = Dice::new(36);
    let w = |shape: &[usize], dice: &mut Dice| dice.tensor(shape).constant();
    let ids = Operand::Input(Literal::from_i64s(ElementType::I64, vec![2], &[4, -1]));
    let strided = Bench::new("Conv").ints("strides", &[2, 2]);
    let cases = [
        (Bench::new("MatMul"), vec![dice.tensor(&[1, 256]), w(&[256, 300], &mut dice)]),
        (Bench::new("MatMul"), vec![dice.tensor(&[40, 256]), w(&[256, 300], &mut dice)]),
        (Bench::new("MatMul"), vec![w(&[40, 256], &mut dice), dice.tensor(&[256, 300])]),
        (Bench::new("Conv"), vec![dice.tensor(&[1, 64, 14, 14]), w(&[128, 64, 1, 1], &mut dice)]),
        (strided, vec![dice.tensor(&[1, 32, 15, 15]), w(&[64, 32, 3, 3], &mut dice)]),
        (Bench::new("Gather"), vec![w(&[1000, 33], &mut dice), ids]),
    ];
    for kernels in BOTH {
        for (bench, operands) in &cases {
            let Some([halves, singles]) = assert_same_bits(kernels, bench, operands) else { return };
            assert!(halves * 100 <= singles * 51, "{kernels:?} {bench:?}: {halves} of {singles} bytes");
        }
    }
}

/// Every float16 there is.
fn every_half() -> Literal {
    let bytes: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
    Literal::new(ElementType::F16, vec![256, 256], bytes.into()).unwrap()
}

/// Checks floats of the device against those of the host: the same bits, or both no number.
fn assert_bits(what: &str, found: &[u8], wanted: impl Iterator<Item = f32>) {
    let found = found.as_chunks::<4>().0.iter().map(|&lane| f32::from_le_bytes(lane));
    for (at, (found, wanted)) in found.zip(wanted).enumerate() {
        let same = found.to_bits() == wanted.to_bits() || (found.is_nan() && wanted.is_nan());
        assert!(same, "{what}: half {at:#06x} is {found:e}, not {wanted:e}");
    }
}

#[test]
fn every_half_survives_the_device() {
    let Some(engine) = engine(Kernels::Own) else { return };
    let rows = Operand::Input(Literal::from_i64s(ElementType::I64, vec![256], &(0..256).collect::<Vec<_>>()));
    let operands = [Operand::Constant(every_half()), rows];
    let (found, _bytes) = run(&engine, &Bench::new("Gather"), &operands, ElementType::F16);
    assert_bits("Gather", &found, every_half().to_f32s().into_iter());

    // Those that can be multiplied by zero, through the kernel that loads four at a time: each row picks a row. A zero loses its
    // sign in a sum.
    let finite: Vec<f64> = every_half().to_f64s().into_iter().map(|v| if v.is_finite() { v } else { 0.0 }).collect();
    let mut picks = vec![0.0; 256 * 256];
    (0..256).for_each(|at| picks[at * 257] = 1.0);
    let picks = Operand::f32(&[256, 256], &picks);
    let finite = Operand::Constant(Literal::from_f64s(ElementType::F16, vec![256, 256], &finite));
    let wanted: Vec<f32> = finite.values().iter().map(|&value| value as f32 + 0.0).collect();
    for (what, operands) in [("right", [picks.clone(), finite.clone()]), ("left", [finite, picks])] {
        let (found, _bytes) = run(&engine, &Bench::new("MatMul"), &operands, ElementType::F16);
        assert_bits(what, &found, wanted.iter().copied());
    }
}

#[test]
fn a_constant_row_of_any_length_is_multiplied_whole() {
    for kernels in BOTH {
        let Some(engine) = engine(kernels) else { return };
        // The last numbers of the row count: all others are zero.
        let (k, n) = (1027, 40);
        let mut row = vec![0.0; k];
        (row[k - 3], row[k - 2], row[k - 1]) = (1.0, 2.0, 4.0);
        let b = Operand::f32(&[k, n], &vec![1.0; k * n]);
        for dtype in [ElementType::F32, ElementType::F16] {
            let (found, _bytes) =
                run(&engine, &Bench::new("MatMul"), &[Operand::f32(&[1, k], &row).constant(), b.clone()], dtype);
            assert_bits(&format!("{kernels:?} {dtype}"), &found, std::iter::repeat_n(7.0, n));
        }
    }
}

/// The digits with their weights rounded to halves, as float16 with casts around the model, or as float32.
fn digits(halves: bool) -> Vec<u8> {
    let path = Path::new(&std::env::var("CARGO_MANIFEST_DIR").unwrap_or(env!("CARGO_MANIFEST_DIR").into()))
        .join("../../models/catalog/digits/v2/full.onnx");
    let mut model = ModelProto::parse_buf(&std::fs::read(path).unwrap()).unwrap();
    let graph = model.graph.as_mut().unwrap();
    graph.value_info.clear();
    for tensor in graph.initializer.iter_mut().filter(|tensor| tensor.data_type == Some(DataType::FLOAT)) {
        let raw = tensor.raw_data.take().unwrap().into_inner();
        let rounded = raw.as_chunks::<4>().0.iter().map(|&lane| f16::from_f32(f32::from_le_bytes(lane)));
        let bytes: Vec<u8> = if halves {
            rounded.flat_map(f16::to_le_bytes).collect()
        } else {
            rounded.flat_map(|half| half.to_f32().to_le_bytes()).collect()
        };
        tensor.data_type = Some(if halves { DataType::FLOAT16 } else { DataType::FLOAT });
        tensor.raw_data = Some(bytes.into());
    }
    if halves {
        let (x, y) = (graph.input[0].name.clone().unwrap(), graph.output[0].name.clone().unwrap());
        for node in &mut graph.node {
            let rename = |name: &mut String| {
                if *name == x || *name == y {
                    name.push_str("_half");
                }
            };
            node.input.iter_mut().chain(&mut node.output).for_each(rename);
        }
        graph.node.insert(0, cast(&x, &format!("{x}_half"), 10));
        graph.node.push(cast(&format!("{y}_half"), &y, 1));
    }
    model.write_buf().unwrap()
}

fn cast(from: &str, to: &str, dtype: i64) -> NodeProto {
    NodeProto {
        op_type: Some("Cast".into()),
        name: Some(format!("cast {from}")),
        input: vec![from.into()],
        output: vec![to.into()],
        attribute: vec![AttributeProto {
            name: Some("to".into()),
            i: Some(dtype),
            r#type: Some(AttributeType::INT),
            ..AttributeProto::default()
        }],
        ..NodeProto::default()
    }
}

#[test]
fn the_digits_in_halves_answer_as_their_widened_weights_do() {
    for kernels in BOTH {
        let Some(engine) = engine(kernels) else { return };
        let [mut halves, mut singles] = [true, false].map(|halves| engine.load_checked(&digits(halves)).unwrap());
        let (name, shape) = (&singles.signature().inputs[0].name.clone(), [1, 1, 28, 28]);
        let mut dice = Dice::new(37);
        for _image in 0..5 {
            // Pixels that halves hold.
            let pixels: Vec<f32> = (0..28 * 28).map(|_| dice.below(257) as f32 / 256.0).collect();
            let image = [f32s(name, &shape, &pixels)];
            let [found, wanted] = [&mut halves, &mut singles].map(|session| {
                let answer: Vec<NamedTensor> = session.run(&image, &[], &RunControl::default()).unwrap();
                answer[0].tensor.data().clone()
            });
            assert!(found == wanted, "{kernels:?}");
        }
        let [halves, singles] = [halves, singles].map(|session| session.describe().weight_bytes);
        println!("{kernels:?}: {halves} bytes of weights on the device, widened {singles}");
        // Winograd's weights are floats of their own.
        assert!(halves * 4 <= singles * 3, "{kernels:?}: {halves} of {singles} bytes");
    }
}
