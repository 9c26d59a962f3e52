//! No graph makes anything here panic, and what is rewritten answers as before: shown on every node case of the ONNX project
//! and on spoilt copies of real models.
#![expect(clippy::unwrap_used, reason = "helpers of tests may do what tests may")]

mod support;

use std::collections::HashMap;

use onnx_graph::exercise::exercise;
use onnx_graph::fold::FoldLimits;
use onnx_graph::infer::{Dim, infer};
use onnx_graph::opset::upgrade;
use onnx_graph::proto::{NodeProto, TensorProto};
use onnx_graph::rewrite::tidy;
use onnx_graph::{ElementType, Model, Values};
use support::{Case, assert_alike, node_cases, ort, read, real_models, run};
use types::{DType, NamedTensor};

#[test]
fn every_node_case_goes_through_everything() {
    for case in node_cases() {
        exercise(case.model.clone()).unwrap_or_else(|broken| panic!("{}: {broken}", case.name));
        if let Some((model, _)) = frozen(&case, 0) {
            exercise(model.to_bytes().unwrap().into()).unwrap_or_else(|broken| panic!("{}: {broken}", case.name));
        }
    }
}

/// The case with its inputs from `first` on as constants, and its outputs behind an `Identity`, so that they may be folded;
/// the inputs that remain.
fn frozen(case: &Case, first: usize) -> Option<(Model, Vec<NamedTensor>)> {
    let mut model = read(case);
    let mut given = case.inputs.clone()?;
    for input in given.split_off(first.min(given.len())) {
        let tensor = &input.tensor;
        let raw = tensor.data().clone();
        let element = element(tensor.dtype())?;
        model.graph.add_initializer(TensorProto::of_raw(&input.name, element, tensor.shape(), raw));
    }
    let graph = &mut model.graph;
    graph.inputs.retain(|input| given.iter().any(|given| given.name == input.name()));
    for output in &graph.outputs {
        let name = output.name().to_owned();
        let inner = format!("{name}_inner");
        for made in graph.nodes.iter_mut().flat_map(|node| &mut node.output).filter(|made| **made == name) {
            made.clone_from(&inner);
        }
        graph.nodes.push(NodeProto::new("Identity", "", &[&inner], &[&name]));
    }
    Some((model, given))
}

fn element(dtype: DType) -> Option<ElementType> {
    Some(match dtype {
        DType::Bool => ElementType::Bool,
        DType::U8 => ElementType::Uint8,
        DType::U16 => ElementType::Uint16,
        DType::U32 => ElementType::Uint32,
        DType::U64 => ElementType::Uint64,
        DType::I8 => ElementType::Int8,
        DType::I16 => ElementType::Int16,
        DType::I32 => ElementType::Int32,
        DType::I64 => ElementType::Int64,
        DType::F16 => ElementType::Float16,
        DType::Bf16 => ElementType::Bfloat16,
        DType::F32 => ElementType::Float,
        DType::F64 => ElementType::Double,
        DType::Bytes => return None,
    })
}

/// Operators that answer differently each time.
const RANDOM: [&str; 5] = ["random", "bernoulli", "dropout", "training", "multinomial"];

#[test]
fn node_cases_answer_as_before_after_every_rewrite_and_have_the_shapes_that_were_inferred() {
    let Some(ort) = ort() else { return };
    let (mut ran, mut folded, mut newer, mut dims, mut open) = (0, 0, 0, 0, 0);
    for case in node_cases().iter().filter(|case| !RANDOM.iter().any(|random| case.name.contains(random))) {
        for first in [0, 1] {
            let Some((model, inputs)) = frozen(case, first) else { continue };
            let Ok(before) = run(&ort, model.to_bytes().unwrap(), &inputs) else { continue };
            ran += 1;
            let (tidied, done) = tidy(&model, &FoldLimits::default()).unwrap();
            folded += usize::from(done.folded > 0);
            let after = run(&ort, tidied.to_bytes().unwrap(), &inputs);
            let after = after.unwrap_or_else(|error| panic!("{} from {first}: {error}", case.name));
            assert_alike(&case.name, &before, &after, if done.batch_norms > 0 { 1e-5 } else { 0.0 });
            if let Ok(upgraded) = upgrade(&model, 21)
                && upgraded != model
                && let Ok(after) = run(&ort, upgraded.to_bytes().unwrap(), &inputs)
            {
                newer += 1;
                assert_alike(&case.name, &before, &after, 1e-6);
            }
            let types = infer(&model, &HashMap::new());
            for answer in &before {
                let Some(shape) = types.shape(&format!("{}_inner", answer.name)) else {
                    open += 1;
                    continue;
                };
                assert_eq!(shape.len(), answer.tensor.shape().len(), "{} {shape:?}", case.name);
                for (dim, &size) in shape.iter().zip(answer.tensor.shape()) {
                    match dim {
                        Dim::Known(dim) => {
                            assert_eq!(usize::try_from(*dim).ok(), Some(size), "{}: {shape:?}", case.name);
                            dims += 1;
                        }
                        _ => open += 1,
                    }
                }
                let found = types.element(&format!("{}_inner", answer.name));
                let is_right = found == ElementType::Undefined || element(answer.tensor.dtype()) == Some(found);
                assert!(is_right || answer.tensor.dtype() == DType::Bytes, "{}: {found:?}", case.name);
            }
        }
    }
    println!("{ran} ran, {folded} folded, {newer} in set 21, {dims} dims right, {open} unknown");
    assert!(ran == 0 || (ran > 1000 && folded > 100), "{ran} {folded}");
}

/// Repeatable random numbers (Knuth's MMIX generator).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from((self.0 >> 33) % u64::try_from(bound).unwrap()).unwrap()
    }
}

#[test]
fn spoilt_models_are_refused_or_go_through_everything() {
    let mut random = Random(4);
    for case in real_models().into_iter().filter(|case| case.model.len() < 700_000) {
        for round in 0..60 {
            let mut bytes = case.model.to_vec();
            for _ in 0..=random.below(4) {
                let at = random.below(bytes.len());
                match random.below(4) {
                    0 => bytes[at] ^= 1 << random.below(8),
                    1 => bytes[at] = u8::try_from(random.below(256)).unwrap(),
                    2 => {
                        let end = (at + random.below(200)).min(bytes.len());
                        let piece = bytes[at..end].to_vec();
                        let to = random.below(bytes.len());
                        bytes.splice(to..to, piece);
                    }
                    _ => bytes.truncate(at.max(1)),
                }
            }
            exercise(bytes.into()).unwrap_or_else(|broken| panic!("{} round {round}: {broken}", case.name));
        }
    }
}
