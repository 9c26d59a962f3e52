//! Every node case of the ONNX suite, as it is and with its weights made constants, through every pass.

use std::path::PathBuf;

use bytes::Bytes;
use compress::calibrate::Ranges;
use compress::prune::channels::{self, Compensation};
use compress::prune::magnitude::{self, Pattern};
use compress::weight_only::{self, Bits, Form, Method};
use compress::{CompressError, Grams, Report, Selection, dequantize, dynamic_int8, half_precision};
use onnx_graph::check::check;
use onnx_graph::infer::infer;
use onnx_graph::proto::TensorProto;
use onnx_graph::{ElementType, Model, Values};

/// Elements of an input that is made a constant, at most.
const ELEMENTS_MAX: usize = 100_000;

fn cases() -> Vec<(String, Model)> {
    let Some(library) = engine::library::developer_library() else { return Vec::new() };
    let folder: PathBuf = library.ancestors().nth(4).unwrap().join("onnx-node/1.23.2");
    let Ok(entries) = std::fs::read_dir(&folder) else {
        println!("skipped: the ONNX node cases are not in the cache; `cargo xtask test` makes them");
        return Vec::new();
    };
    let mut found = Vec::new();
    for path in entries.map(|entry| entry.unwrap().path()) {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let Ok(bytes) = std::fs::read(path.join("model.onnx")) else { continue };
        if let Ok(model) = Model::from_bytes(Bytes::from(bytes)) {
            found.push((name, model));
        }
    }
    found.sort_by(|a, b| a.0.cmp(&b.0));
    found
}

/// The same model with every f32 input but the first a constant.
fn frozen(model: &Model) -> Model {
    let types = infer(model, &Default::default());
    let mut frozen = model.clone();
    let inputs = std::mem::take(&mut frozen.graph.inputs);
    for (at, input) in inputs.into_iter().enumerate() {
        let sizes =
            types.of(input.name()).filter(|found| found.element == ElementType::Float).and_then(|found| found.sizes());
        match sizes.filter(|sizes| at > 0 && sizes.iter().product::<usize>() <= ELEMENTS_MAX) {
            None => frozen.graph.inputs.push(input),
            Some(sizes) => {
                let values: Vec<f32> =
                    (0..sizes.iter().product()).map(|at| ((at * 37 % 101) as f32 - 50.0) / 50.0).collect();
                frozen.graph.add_initializer(TensorProto::of_floats(input.name(), &sizes, &values));
            }
        }
    }
    frozen
}

type Passed = Result<(Model, Report), CompressError>;

fn passes(model: &Model) -> Vec<(&'static str, Passed)> {
    let weight_only = |bits, form, method| {
        let options = weight_only::Options { bits, form, method, ..Default::default() };
        weight_only::quantize(model, &options, &Grams::of(model, &Selection::default()))
    };
    let half = |format| {
        let options = half_precision::Options { format, kept: Default::default(), ..Default::default() };
        half_precision::convert(model, &options, &Ranges::default())
    };
    let nbits = Form::MatMulNBits { accuracy_level: 0 };
    let dynamic = dynamic_int8::Options { convolutions: true, ..Default::default() };
    let pruning = channels::Options { compensation: Compensation::None, ..Default::default() };
    let zeros = magnitude::Options { pattern: Pattern::Groups { zeros: 2, group: 4 }, selection: Selection::default() };
    vec![
        ("int4", weight_only(Bits::Four, nbits, Method::Gptq { act_order: true })),
        ("int4 in DequantizeLinear", weight_only(Bits::Four, Form::Qdq, Method::Hqq)),
        ("int8 in DequantizeLinear", weight_only(Bits::Eight, Form::Qdq, Method::Rtn)),
        ("dynamic", dynamic_int8::quantize(model, &dynamic)),
        ("f16", half(half_precision::Format::Float16)),
        ("bf16", half(half_precision::Format::Bfloat16Weights)),
        ("channels", channels::prune(model, &pruning, &Grams::default())),
        ("zeros", magnitude::prune(model, &zeros).map(|(made, report, _layers)| (made, report))),
        ("dequantize", dequantize(model)),
    ]
}

#[test]
fn no_pass_panics_or_breaks_a_node_case() {
    let (mut made, mut refused) = (0, 0);
    for (name, model) in cases() {
        for model in [frozen(&model), model] {
            let sound = check(&model).is_ok();
            for (pass, result) in passes(&model) {
                match result {
                    Err(_typed) => refused += 1,
                    Ok((after, _report)) => {
                        made += 1;
                        assert!(!sound || check(&after).is_ok(), "{pass} of {name}: {:?}", check(&after));
                    }
                }
            }
        }
    }
    println!("{made} models made, {refused} left alone");
}

/// Spoilt copies of each case.
const COPIES: u64 = 4;

/// Numbers that look like chance and are the same in every run (Steele, Lea and Flood's SplitMix64).
fn chance(state: &mut u64) -> usize {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mixed = (*state ^ (*state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    usize::try_from((mixed ^ (mixed >> 27)) & 0xFFFF_FFFF).unwrap()
}

#[test]
fn no_pass_panics_on_a_spoilt_node_case() {
    let (mut read, mut state) = (0, 7);
    for (_name, model) in cases() {
        let whole = frozen(&model).to_bytes().unwrap();
        for _copy in 0..COPIES {
            let mut spoilt = whole.clone();
            for _byte in 0..1 + chance(&mut state) % 4 {
                let at = chance(&mut state) % spoilt.len().min(2_000);
                spoilt[at] = u8::try_from(chance(&mut state) % 256).unwrap();
            }
            if let Ok(model) = Model::from_bytes(Bytes::from(spoilt)) {
                read += 1;
                let made = passes(&model).into_iter().filter_map(|(_pass, result)| result.ok());
                // A refusal to write is as good as a model.
                made.for_each(|(after, _report)| drop(after.to_bytes()));
            }
        }
    }
    println!("{read} spoilt models went through every pass");
}
