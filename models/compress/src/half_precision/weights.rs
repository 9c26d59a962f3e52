//! Weights in 16 bits, with a `Cast` to f32 between them and whoever takes them; and the tensors of both passes.

use std::collections::BTreeSet;

use half::{bf16, f16};
use onnx_graph::proto::tensor_proto::DataType;
use onnx_graph::proto::{AttributeProto, NodeProto, TensorProto};
use onnx_graph::{ElementType, Model, Names, Uses, Values};

use super::{Format, Options};
use crate::{CompressError, Report};

/// Weights of fewer elements stay f32: a `Cast` more costs what they would save.
const ELEMENTS_MIN: usize = 1_024;

/// First operator set with bf16 in `Cast`, and with f16.
const BFLOAT16_OPSET: i64 = 13;
const FLOAT16_OPSET: i64 = 6;

/// The smallest normal f16.
pub(super) const NORMAL_MIN: f32 = 6.103_515_6e-5;

/// Half the smallest subnormal f16: what is below becomes zero.
const SUBNORMAL_MIN: f32 = 2.980_232_2e-8;

pub(super) fn convert(model: &Model, options: &Options) -> Result<(Model, Report), CompressError> {
    let (element, opset, pass) = match options.format {
        Format::Bfloat16Weights => (ElementType::Bfloat16, BFLOAT16_OPSET, "bf16-weights"),
        Format::Float16 | Format::Float16Weights => (ElementType::Float16, FLOAT16_OPSET, "f16-weights"),
    };
    let found = model.opset("").unwrap_or(0);
    if found < opset {
        let reason = format!("the type needs operator set {opset}: convert the model first");
        return Err(CompressError::Option { option: "model", value: format!("of operator set {found}"), reason });
    }
    let uses = Uses::of(&model.graph);
    let mut names = Names::of(&model.graph);
    let mut report = Report::of(pass);
    report.tell_of_subgraphs(&model.graph);
    let mut made = model.clone();
    let (mut casts, mut losses, mut changed) = (Vec::new(), Losses::default(), BTreeSet::new());
    for (name, tensor) in &model.graph.initializers {
        let takers = uses.consumers(name);
        let selected =
            takers.iter().filter_map(|&at| model.graph.nodes.get(at)).all(|node| options.selection.takes(node));
        let large =
            tensor.element_type() == ElementType::Float && tensor.shape()?.iter().product::<usize>() >= ELEMENTS_MIN;
        if !large || !selected || takers.is_empty() || model.graph.is_output(name) {
            continue;
        }
        let values = tensor.floats()?;
        if element == ElementType::Float16 && overflows(&values) {
            report.notes.push(format!("weight {name:?} holds numbers beyond f16 and stays f32"));
            continue;
        }
        let short = names.fresh(&format!("{name}_half"));
        let narrow = of_floats(&short, &tensor.shape()?, &values, element, &mut losses);
        made.graph.initializers.shift_remove(name);
        made.graph.add_initializer(narrow);
        let cast = names.fresh(&format!("{name}_widen"));
        let to = AttributeProto::int("to", DataType::Float as i64);
        casts.push(NodeProto::new("Cast", &cast, &[&short], &[name]).with(to));
        changed.extend(takers.iter().copied());
    }
    if casts.is_empty() {
        let reason = format!("it has no f32 weight of {ELEMENTS_MIN} elements or more that may be changed");
        return Err(CompressError::Nothing { pass: "half-precision", reason });
    }
    casts.append(&mut made.graph.nodes);
    made.graph.nodes = casts;
    report.changed =
        changed.iter().filter_map(|&at| model.graph.nodes.get(at)).map(|node| node.name().to_owned()).collect();
    losses.tell(&mut report);
    Ok((made, report))
}

/// Values that 16 bits changed.
#[derive(Debug, Default)]
pub(super) struct Losses {
    subnormal: usize,
    zero: usize,
}

impl Losses {
    pub(super) fn tell(&self, report: &mut Report) {
        if self.subnormal > 0 {
            let (subnormal, zero) = (self.subnormal, self.zero);
            report.notes.push(format!("{subnormal} weights are subnormal in f16, {zero} of them became zero"));
        }
    }
}

/// Returns whether a finite number is beyond f16.
pub(super) fn overflows(values: &[f32]) -> bool {
    values.iter().any(|value| value.is_finite() && value.abs() > f16::MAX.to_f32())
}

/// A tensor of these floats in 16 bits.
pub(super) fn of_floats(
    name: &str,
    shape: &[usize],
    values: &[f32],
    element: ElementType,
    losses: &mut Losses,
) -> TensorProto {
    let raw: Vec<u8> = if element == ElementType::Bfloat16 {
        values.iter().flat_map(|&value| bf16::from_f32(value).to_le_bytes()).collect()
    } else {
        let small = |value: &&f32| **value != 0.0 && value.abs() < NORMAL_MIN;
        losses.subnormal += values.iter().filter(small).count();
        losses.zero += values.iter().filter(small).filter(|value| value.abs() <= SUBNORMAL_MIN).count();
        values.iter().flat_map(|&value| f16::from_f32(value).to_le_bytes()).collect()
    };
    TensorProto::of_raw(name, element, shape, raw)
}
