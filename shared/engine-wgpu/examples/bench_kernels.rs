//! Times the heavy kernels on this machine's adapter and prints one JSON row for each.
//!
//! Kernels are interleaved (one run of each, again and again) and their medians reported, because single bests jump with the
//! load of the machine. A run is submit and wait, without bringing inputs and reading outputs.
//! `cargo run --release -p engine-wgpu --example bench_kernels [-- ROUNDS [NAME]]`
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a bench talks to a person and may stop at any error")]

use std::time::Duration;

use engine::{RunControl, Session};
use engine_wgpu::gpu::AdapterChoice;
use engine_wgpu::ir::{Attribute, Attributes, ElementType, Graph, Literal, Node, Value};
use engine_wgpu::session::WgpuSession;
use engine_wgpu::{BUDGET_BYTES, WgpuEngine};
use types::{Dim, NamedTensor, Tensor};

/// One kernel under the clock.
struct Row {
    name: &'static str,
    /// Multiply-adds times two.
    operations: f64,
    session: WgpuSession,
    times: Vec<Duration>,
    /// Processor time of this process in clock ticks: on a software adapter it says more than the wall clock when the
    /// machine is shared.
    ticks: u64,
}

/// User and system time of this process in ticks of 10 ms; 0 where there is no `/proc`.
fn ticks() -> u64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    [11, 12].iter().filter_map(|&at| fields.get(at)?.parse::<u64>().ok()).sum()
}

/// Numbers that are neither zero nor equal, so that no driver takes a short cut.
fn numbers(count: usize) -> Vec<f32> {
    (0..count).map(|at| ((at * 7919) % 2003) as f32 / 2003.0 - 0.5).collect()
}

/// What a node is asked beside its operator.
#[derive(Clone, Copy)]
struct Asked<'a> {
    plain: bool,
    pads: &'a [i64],
    strides: &'a [i64],
    dtype: ElementType,
}

/// A product of float32 by the kernel that the engine chooses.
const OWN: Asked<'_> = Asked { plain: false, pads: &[], strides: &[], dtype: ElementType::F32 };

/// A session with one node, run once.
fn session(engine: &WgpuEngine, op: &str, asked: Asked<'_>, operands: &[(&[usize], bool)]) -> WgpuSession {
    let Asked { plain, pads, strides, dtype } = asked;
    let mut graph = Graph::default();
    let mut given = Vec::new();
    let mut inputs = Vec::new();
    for (at, (shape, constant)) in operands.iter().enumerate() {
        let values: Vec<f64> = numbers(shape.iter().product()).into_iter().map(f64::from).collect();
        let literal = Literal::from_f64s(dtype, shape.to_vec(), &values);
        let name = format!("in{at}");
        inputs.push(Some(if *constant {
            graph.add_constant(&name, literal)
        } else {
            let dims = shape.iter().map(|&size| Dim::Fixed(size)).collect();
            let id = graph.add_value(Value { name: name.clone(), declared: Some((dtype, Some(dims))) });
            graph.inputs.push(id);
            let request = dtype.to_request().unwrap();
            let tensor = Tensor::new(request, shape.to_vec(), literal.bytes().clone()).unwrap();
            given.push(NamedTensor { name, tensor });
            id
        }));
    }
    let output = graph.add_value(Value { name: "out".into(), declared: Some((dtype, None)) });
    graph.outputs.push(output);
    let mut attributes = Attributes::default().with("plain", Attribute::Int(plain.into()));
    for (name, numbers) in [("pads", pads), ("strides", strides)] {
        if !numbers.is_empty() {
            attributes.insert(name, Attribute::Ints(numbers.to_vec()));
        }
    }
    graph.nodes.push(Node {
        name: op.into(),
        domain: "sanderling".into(),
        op: op.into(),
        opset: 1,
        inputs,
        outputs: vec![Some(output)],
        attributes,
    });
    let mut session = WgpuSession::new(engine.gpu().clone(), &graph, BUDGET_BYTES, None).unwrap();
    session.run(&given, &[], &RunControl::default()).unwrap();
    session
}

fn main() {
    let rounds = std::env::args().nth(1).and_then(|rounds| rounds.parse().ok()).unwrap_or(20_u32);
    let choice = |tiles| AdapterChoice { allow_software: true, workgroup_tiles: tiles, ..AdapterChoice::for_tests() };
    let engine = WgpuEngine::open(&choice(None), BUDGET_BYTES, None).unwrap();
    let tiles = WgpuEngine::open(&choice(Some(true)), BUDGET_BYTES, None).unwrap();
    let square: &[usize] = &[512, 512];
    let (image, weights): (&[usize], &[usize]) = (&[1, 64, 56, 56], &[64, 64, 3, 3]);
    let (deep, one): (&[usize], &[usize]) = (&[1, 256, 56, 56], &[64, 256, 1, 1]);
    let (wide, depthwise): (&[usize], &[usize]) = (&[1, 128, 56, 56], &[128, 1, 3, 3]);
    let matmul = 2.0 * 512.0_f64.powi(3);
    let conv = 2.0 * 64.0 * 64.0 * 9.0 * 56.0 * 56.0;
    let pointwise = 2.0 * 64.0 * 256.0 * 56.0 * 56.0;
    let (plain, padded) = (Asked { plain: true, ..OWN }, Asked { pads: &[1; 4], ..OWN });
    let strided = Asked { strides: &[2, 2], ..padded };
    let (token, projection): (&[usize], &[usize]) = (&[1, 1024], &[1024, 4096]);
    let decode = 2.0 * 1024.0 * 4096.0;
    let middle: &[usize] = &[256, 256];
    let matmul_256 = 2.0 * 256.0_f64.powi(3);
    let row = |name, operations, session| Row { name, operations, session, times: Vec::new(), ticks: 0 };
    let mut rows = vec![
        row("matmul_512", matmul, session(&engine, "MatMul", OWN, &[(square, false), (square, false)])),
        row("matmul_512_constant", matmul, session(&engine, "MatMul", OWN, &[(square, false), (square, true)])),
        row("matmul_512_naive", matmul, session(&engine, "MatMul", plain, &[(square, false), (square, false)])),
        row("matmul_512_workgroup", matmul, session(&tiles, "MatMul", OWN, &[(square, false), (square, false)])),
        row("conv_64x56x56_3x3", conv, session(&engine, "Conv", padded, &[(image, false), (weights, true)])),
        row("conv_64x56x56_3x3_naive", conv, {
            session(&engine, "Conv", Asked { plain: true, ..padded }, &[(image, false), (weights, true)])
        }),
        row("conv_64x56x56_3x3_workgroup", conv, session(&tiles, "Conv", padded, &[(image, false), (weights, true)])),
        row("conv_256x56x56_1x1", pointwise, session(&engine, "Conv", OWN, &[(deep, false), (one, true)])),
        row("conv_128x56x56_3x3_depthwise", 2.0 * 128.0 * 9.0 * 56.0 * 56.0, {
            session_grouped(&engine, wide, depthwise)
        }),
    ];
    let mut pair = |names: [&'static str; 2], operations, op, asked, operands: &[(&[usize], bool)]| {
        for (name, dtype) in names.into_iter().zip([ElementType::F32, ElementType::F16]) {
            rows.push(row(name, operations, session(&engine, op, Asked { dtype, ..asked }, operands)));
        }
    };
    let (left, right) = ([(middle, true), (middle, false)], [(middle, false), (middle, true)]);
    pair(["weights_decode", "weights_decode_f16"], decode, "MatMul", OWN, &[(token, false), (projection, true)]);
    pair(["weights_matmul_256", "weights_matmul_256_f16"], matmul_256, "MatMul", OWN, &right);
    pair(["weights_left_256", "weights_left_256_f16"], matmul_256, "MatMul", OWN, &left);
    pair(["weights_conv_1x1", "weights_conv_1x1_f16"], pointwise, "Conv", OWN, &[(deep, false), (one, true)]);
    let operands = [(image, false), (weights, true)];
    pair(["weights_conv_strided", "weights_conv_strided_f16"], conv / 4.0, "Conv", strided, &operands);
    let only = std::env::args().nth(2).unwrap_or_default();
    rows.retain(|row| row.name.contains(&only) && (only.is_empty() || !row.name.contains("naive")));
    for _round in 0..rounds {
        for row in &mut rows {
            let begin = ticks();
            row.times.push(row.session.rerun().unwrap());
            row.ticks += ticks() - begin;
        }
    }
    let adapter = &engine.gpu().report().name;
    for row in &mut rows {
        row.times.sort_unstable();
        let milliseconds = |time: Duration| time.as_secs_f64() * 1e3;
        let median = milliseconds(row.times[row.times.len() / 2]);
        println!(
            "{{\"kernel\":\"{}\",\"adapter\":\"{adapter}\",\"rounds\":{rounds},\"median_ms\":{median:.3},\"best_ms\":{:.3},\"cpu_ms\":{:.1},\"gflops\":{:.2}}}",
            row.name,
            milliseconds(row.times[0]),
            row.ticks as f64 * 10.0 / f64::from(rounds),
            row.operations / median / 1e6
        );
    }
}

/// A depthwise convolution.
fn session_grouped(engine: &WgpuEngine, image: &[usize], weights: &[usize]) -> WgpuSession {
    let mut graph = Graph::default();
    let dims = image.iter().map(|&size| Dim::Fixed(size)).collect();
    let x = graph.add_value(Value { name: "x".into(), declared: Some((ElementType::F32, Some(dims))) });
    graph.inputs.push(x);
    let w = graph.add_constant("w", Literal::from_f32s(weights.to_vec(), &numbers(weights.iter().product())));
    let y = graph.add_value(Value { name: "y".into(), declared: Some((ElementType::F32, None)) });
    graph.outputs.push(y);
    let groups = i64::try_from(weights[0]).unwrap();
    graph.nodes.push(Node {
        name: "depthwise".into(),
        domain: String::new(),
        op: "Conv".into(),
        opset: 22,
        inputs: vec![Some(x), Some(w)],
        outputs: vec![Some(y)],
        attributes: Attributes::default()
            .with("group", Attribute::Int(groups))
            .with("pads", Attribute::Ints(vec![1; 4])),
    });
    let mut session = WgpuSession::new(engine.gpu().clone(), &graph, BUDGET_BYTES, None).unwrap();
    let tensor = Tensor::from_f32(image.to_vec(), &numbers(image.iter().product())).unwrap();
    session.run(&[NamedTensor { name: "x".into(), tensor }], &[], &RunControl::default()).unwrap();
    session
}
