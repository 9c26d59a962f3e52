//! LSTM, GRU and RNN: one product for the inputs of all steps, then one small launch a step.
//!
//! A step has a thread for each unit of each batch element and direction. The hidden state alternates between two places,
//! because every thread of a step reads all of the old one.

use crate::error::OpError;
use crate::ir::{Attribute, ElementType, Node};
use crate::lower::{Arg, Effort, KernelBuilder, KernelSource, Lowering, Operand, Params, Repr, linear_groups};
use crate::ops::epilogue::Epilogue;
use crate::ops::product::{Constant, Matrix, Product};
use crate::ops::rule::Rule;
use crate::shape::param;
use crate::shape::volume;
use crate::value_info::{Inputs, ValueInfo};

mod activation;
mod body;
mod lengths;
mod quantized;

use activation::Activation;

/// The operators of this family.
pub(super) const RULES: &[Rule] = &[
    Rule::device("LSTM", infer, lower),
    Rule::device("GRU", infer, lower),
    Rule::device("RNN", infer, lower),
    Rule::device("DynamicQuantizeLSTM", quantized::infer, quantized::lower).in_domain("com.microsoft"),
];

/// Kind of a recurrent cell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cell {
    Lstm {
        input_forget: bool,
    },
    /// Gated recurrent unit, whose reset gate may act after the product with the recurrent weights.
    Gru {
        linear_before_reset: bool,
    },
    Rnn,
}

impl Cell {
    const fn gates(self) -> usize {
        match self {
            Self::Lstm { .. } => 4,
            Self::Gru { .. } => 3,
            Self::Rnn => 1,
        }
    }

    /// Default activations of one direction.
    const fn activations(self) -> &'static [&'static str] {
        match self {
            Self::Lstm { .. } => &["Sigmoid", "Tanh", "Tanh"],
            Self::Gru { .. } => &["Sigmoid", "Tanh"],
            Self::Rnn => &["Tanh"],
        }
    }
}

/// Sizes and attributes of one recurrent layer.
#[derive(Debug)]
struct Layer {
    cell: Cell,
    steps: usize,
    batch: usize,
    inputs: usize,
    hidden: usize,
    directions: usize,
    /// True if the only direction is backwards.
    reverse: bool,
    /// True if the batch is the first dimension.
    batch_first: bool,
    activations: Vec<Activation>,
    clip: f32,
}

impl Layer {
    fn of(node: &Node, inputs: Inputs<'_>) -> Result<Self, OpError> {
        let attributes = &node.attributes;
        let (x, w, r) = (inputs.at(0)?, inputs.at(1)?, inputs.at(2)?);
        let cell = match node.op.as_str() {
            "LSTM" => Cell::Lstm { input_forget: attributes.flag("input_forget", false)? },
            "GRU" => Cell::Gru { linear_before_reset: attributes.flag("linear_before_reset", false)? },
            _ => Cell::Rnn,
        };
        let batch_first = attributes.flag("layout", false)?;
        let mismatch = || {
            OpError::invalid(format!(
                "its input {:?} and weights {:?}, {:?} do not fit together",
                x.shape, w.shape, r.shape
            ))
        };
        let (&[first, second, inputs_x], &[directions, gates, inputs_w], &[_, _, hidden]) =
            (x.shape.as_slice(), w.shape.as_slice(), r.shape.as_slice())
        else {
            return Err(mismatch());
        };
        let (steps, batch) = if batch_first { (second, first) } else { (first, second) };
        let direction = attributes.text("direction", "forward")?;
        let wanted = match direction {
            "forward" | "reverse" => 1,
            "bidirectional" => 2,
            other => return Err(OpError::invalid(format!("direction is {other:?}"))),
        };
        let fits = directions == wanted
            && inputs_x == inputs_w
            && hidden > 0
            && gates == cell.gates() * hidden
            && r.shape == [directions, gates, hidden]
            && x.dtype.is_float();
        if !fits {
            return Err(mismatch());
        }
        let state = if batch_first { [batch, directions, hidden] } else { [directions, batch, hidden] };
        let shaped = |at: usize, shape: &[usize]| inputs.optional(at).is_none_or(|info| info.shape == shape);
        let peepholes = !matches!(cell, Cell::Lstm { .. }) || shaped(7, &[directions, 3 * hidden]);
        let fits = shaped(3, &[directions, 2 * gates])
            && shaped(4, &[batch])
            && shaped(5, &state)
            && (!matches!(cell, Cell::Lstm { .. }) || shaped(6, &state))
            && peepholes;
        if !fits {
            return Err(OpError::invalid("its bias, lengths, states or peepholes have other sizes than its weights"));
        }
        Ok(Self {
            cell,
            steps,
            batch,
            inputs: inputs_x,
            hidden,
            directions,
            reverse: direction == "reverse",
            batch_first,
            activations: Activation::all(node, cell.activations(), directions)?,
            clip: match attributes.find("clip") {
                Some(Attribute::Float(clip)) if *clip > 0.0 => *clip,
                _ => f32::MAX,
            },
        })
    }

    /// Elements of one state.
    fn state(&self) -> Result<usize, OpError> {
        volume(&[self.directions, self.batch, self.hidden])
    }

    /// `activation_i(d, x)` for each activation of a direction.
    fn activation_text(&self) -> String {
        let each = self.activations.len() / self.directions;
        let mut text = String::new();
        for at in 0..each {
            text.push_str(&format!("fn activation_{at}(d: u32, x: f32) -> f32 {{\n"));
            for d in 0..self.directions {
                let own = d * each + at;
                let expression = self.activations[own].expression;
                text.push_str(&format!(
                    "    if (d == {d}u) {{ let alpha = bitcast<f32>(param.alpha[{own}]); let beta = \
                     bitcast<f32>(param.beta[{own}]); return {expression}; }}\n"
                ));
            }
            text.push_str("    return x;\n}\n");
        }
        text
    }

    /// Returns the numbers of a step; `from` is the place of the old state, 0 or 1.
    fn numbers(&self, step: usize, from: usize) -> Result<Params, OpError> {
        let numbers = Params::sizes([
            ("state", self.state()?),
            ("hidden", self.hidden),
            ("batch", self.batch),
            ("directions", self.directions),
            ("steps", self.steps),
            ("step", step),
            ("old_state", from),
        ])?;
        let numbers = numbers.float("clip", self.clip).word("batch_first", u32::from(self.batch_first));
        let bits = |number: fn(&Activation) -> f32| -> Vec<u32> {
            self.activations.iter().map(|activation| number(activation).to_bits()).collect()
        };
        let numbers = numbers.words("alpha", &bits(|one| one.alpha)).words("beta", &bits(|one| one.beta));
        Ok(numbers.word("reverse", u32::from(self.reverse)))
    }
}

fn infer(node: &Node, inputs: Inputs<'_>) -> Result<Vec<ValueInfo>, OpError> {
    Ok(Layer::of(node, inputs)?.outputs(inputs.at(0)?.dtype))
}

impl Layer {
    /// All hidden states, the last one and the last cell state.
    fn outputs(&self, dtype: ElementType) -> Vec<ValueInfo> {
        let &Self { steps, batch, hidden, directions, batch_first, .. } = self;
        let (y, state) = if batch_first {
            (vec![batch, steps, directions, hidden], vec![batch, directions, hidden])
        } else {
            (vec![steps, directions, batch, hidden], vec![directions, batch, hidden])
        };
        vec![ValueInfo::new(dtype, y), ValueInfo::new(dtype, state.clone()), ValueInfo::new(dtype, state)]
    }
}

/// Operands of the products of a layer.
#[derive(Debug)]
struct Sources {
    x: Operand,
    w: Operand,
    /// The constant that `w` is, where it is one.
    constant: Option<Constant>,
    recurrent: Arg,
    /// True if hidden states are rounded to 8 bits before the product.
    rounds_states: bool,
}

/// Tensors that the kernels of the steps bind.
#[derive(Debug)]
struct Tensors {
    /// The inputs' share of every gate at every step, `[direction][row of x][gate][hidden]`.
    gates: Arg,
    recurrent: Arg,
    bias: Option<Arg>,
    lengths: Option<(Arg, Repr)>,
    peepholes: Option<Arg>,
    /// Scratch space of two hidden states.
    hidden: Arg,
    /// LSTM: the cell state. GRU: update gate, then reset times hidden state.
    cell: Arg,
    y: Option<Arg>,
    /// True if hidden states are rounded before the product, by scale and zero point behind the cell states.
    rounds_states: bool,
}

fn lower(node: &Node, cx: &mut Lowering<'_>) -> Result<(), OpError> {
    let infos = cx.input_infos(node);
    let layer = Layer::of(node, Inputs(&infos))?;
    let constant = Constant::of(cx, node.input(1));
    let (x, w, recurrent) = (cx.input(node, 0)?, cx.input(node, 1)?, cx.input(node, 2)?.arg);
    lower_layer(node, cx, &layer, Sources { x, w, constant, recurrent, rounds_states: false })
}

fn lower_layer(node: &Node, cx: &mut Lowering<'_>, layer: &Layer, sources: Sources) -> Result<(), OpError> {
    let rounds_states = sources.rounds_states;
    let state = layer.state()?;
    if state == 0 {
        return Ok(());
    }
    let bias = cx.optional_input(node, 3)?.map(|operand| operand.arg);
    let lengths = cx.optional_input(node, 4)?.map(|operand| (operand.arg, operand.repr));
    lengths::check(node, cx, layer)?;
    let peepholes = match layer.cell {
        Cell::Lstm { .. } => cx.optional_input(node, 7)?.map(|operand| operand.arg),
        Cell::Gru { .. } | Cell::Rnn => None,
    };
    let tensors = Tensors {
        recurrent: sources.recurrent,
        gates: input_gates(cx, layer, sources)?,
        bias,
        lengths,
        peepholes,
        hidden: cx.scratch(2 * state),
        cell: cx.scratch(2 * state + if rounds_states { 2 * layer.directions } else { 0 }),
        y: if node.output(0).is_some() { Some(cx.output(node, 0)?.arg) } else { None },
        rounds_states,
    };
    let initial = cx.optional_input(node, 5)?.map(|operand| operand.arg);
    move_state(cx, layer, initial, tensors.hidden, 0, true)?;
    if matches!(layer.cell, Cell::Lstm { .. }) {
        let initial = cx.optional_input(node, 6)?.map(|operand| operand.arg);
        move_state(cx, layer, initial, tensors.cell, 0, true)?;
    }
    for step in 0..layer.steps {
        if rounds_states {
            quantized::range(cx, layer, &tensors, step % 2)?;
        }
        for phase in 0..phases(layer.cell) {
            launch_step(cx, layer, &tensors, step, phase)?;
        }
    }
    if node.output(1).is_some() {
        let to = cx.output(node, 1)?.arg;
        move_state(cx, layer, Some(tensors.hidden), to, layer.steps % 2 * state, false)?;
    }
    if node.output(2).is_some() && matches!(layer.cell, Cell::Lstm { .. }) {
        let to = cx.output(node, 2)?.arg;
        move_state(cx, layer, Some(tensors.cell), to, 0, false)?;
    }
    Ok(())
}

/// Launches a step takes: a reset gate inside the product needs all reset gates first.
const fn phases(cell: Cell) -> usize {
    match cell {
        Cell::Gru { linear_before_reset: false } => 2,
        Cell::Lstm { .. } | Cell::Gru { .. } | Cell::Rnn => 1,
    }
}

/// Multiplies the inputs of all steps by the input weights.
fn input_gates(cx: &mut Lowering<'_>, layer: &Layer, sources: Sources) -> Result<Arg, OpError> {
    let Sources { x, w, constant, .. } = sources;
    let (rows, columns) = (volume(&[layer.steps, layer.batch])?, layer.cell.gates() * layer.hidden);
    let y = cx.scratch(volume(&[layer.directions, rows, columns])?);
    let product = Product {
        batch: vec![layer.directions],
        m: rows,
        n: columns,
        k: layer.inputs,
        a: Matrix { arg: x.arg, repr: x.repr, constant: None, offset: 0, batch: vec![0], row: layer.inputs, col: 1 },
        b: Matrix {
            arg: w.arg,
            repr: w.repr,
            constant,
            offset: 0,
            batch: vec![columns * layer.inputs],
            row: 1,
            col: layer.inputs,
        },
        alpha: 1.0,
        bias: None,
        y,
        y_batch: vec![rows * columns],
        y_row: columns,
        epilogue: Epilogue::NONE,
        plain: false,
        checked: false,
    };
    product.lower(cx)?;
    Ok(y)
}

/// Copies a state between its place in the graph (batch first or not) and its place in scratch, or clears it.
fn move_state(
    cx: &mut Lowering<'_>,
    layer: &Layer,
    from: Option<Arg>,
    to: Arg,
    offset: usize,
    into_scratch: bool,
) -> Result<(), OpError> {
    let total = layer.state()?;
    let turned = "((i / param.hidden % param.batch) * param.directions + i / param.hidden / param.batch) * param.hidden + i % param.hidden";
    let outside = if layer.batch_first { turned } else { "i" };
    let (read, write) = if into_scratch { (outside, "i") } else { ("param.offset + i", outside) };
    let value = if from.is_some() { format!("load_x({read})") } else { "0.0".to_owned() };
    let mut kernel = KernelBuilder::new("rnn_state");
    let mut args = Vec::new();
    if let Some(from) = from {
        kernel = kernel.read("x", Repr::F32);
        args.push(from);
    }
    args.push(to);
    let kernel = kernel
        .raw("y", "array<f32>")
        .text(&format!(
            "@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {{
    let i = (group.y * 65535u + group.x) * 64u + lane;
    if (i >= param.elements) {{ return; }}
    y[{write}] = {value};
}}"
        ))
        .finish();
    let numbers = Params::sizes([
        ("elements", total),
        ("hidden", layer.hidden),
        ("batch", layer.batch),
        ("directions", layer.directions),
        ("offset", offset),
    ])?;
    cx.dispatch(kernel, args, numbers, linear_groups(total.div_ceil(64)), u64::from(param(total)?));
    Ok(())
}

fn launch_step(
    cx: &mut Lowering<'_>,
    layer: &Layer,
    tensors: &Tensors,
    step: usize,
    phase: usize,
) -> Result<(), OpError> {
    let (kernel, args) = step_kernel(layer, tensors, phase);
    let total = layer.state()?;
    let work = total.saturating_mul(layer.hidden).saturating_mul(layer.cell.gates());
    let work = u64::try_from(work).unwrap_or(u64::MAX);
    let effort = Effort::looping(work, layer.hidden);
    cx.dispatch(kernel, args, layer.numbers(step, step % 2)?, linear_groups(total.div_ceil(64)), effort);
    Ok(())
}

/// The kernel of one step; equal for all steps.
fn step_kernel(layer: &Layer, tensors: &Tensors, phase: usize) -> (KernelSource, Vec<Arg>) {
    let gates = layer.cell.gates();
    let mut args = vec![tensors.gates, tensors.recurrent];
    let mut kernel = KernelBuilder::new("rnn_step").raw("gates", "array<f32>").raw("recurrent", "array<f32>");
    let mut bias = "return vec2<f32>();".to_owned();
    if let Some(arg) = tensors.bias {
        kernel = kernel.read("bias", Repr::F32);
        args.push(arg);
        bias = format!(
            "let at = (d * {}u + gate) * param.hidden + unit; return vec2<f32>(load_bias(at), load_bias(at + {gates}u * \
             param.hidden));",
            2 * gates
        );
    }
    let mut length = "param.steps";
    if let Some((arg, repr)) = tensors.lengths {
        kernel = kernel.read("lengths", repr);
        args.push(arg);
        length = "min(u32(max(load_lengths(b), 0)), param.steps)";
    }
    let mut peephole = "return 0.0;";
    if let Some(arg) = tensors.peepholes {
        kernel = kernel.read("peepholes", Repr::F32);
        args.push(arg);
        peephole = "return load_peepholes((d * 3u + gate) * param.hidden + unit);";
    }
    kernel = kernel.raw("states", "array<f32>").raw("cells", "array<f32>");
    args.extend([tensors.hidden, tensors.cell]);
    let mut store = "";
    if let Some(arg) = tensors.y {
        kernel = kernel.raw("y", "array<f32>");
        args.push(arg);
        store = "y[at] = value;";
    }
    let sums: String = (0..gates)
        .map(|gate| {
            format!(
                "        r{gate} += h * recurrent[((d * {gates}u + {gate}u) * param.hidden + unit) * param.hidden + k];\n"
            )
        })
        .collect();
    let gather: String = (0..gates)
        .map(|gate| {
            format!(
                "    let x{gate} = gates[at_x + {gate}u * param.hidden]; let bias{gate} = bias_of(d, {gate}u, unit);\n"
            )
        })
        .collect();
    let starts: String = (0..gates).map(|gate| format!("    var r{gate} = 0.0;\n")).collect();
    let source = match (layer.cell, phase) {
        // The last product of a GRU takes the hidden state after the reset gate.
        (Cell::Gru { linear_before_reset: false }, 1) => "cells[param.state + state_at + k]",
        (_, _) if tensors.rounds_states => "rounded(states[old + k], d)",
        (_, _) => "states[old + k]",
    };
    let rounding = if tensors.rounds_states { quantized::rounding_text() } else { String::new() };
    let text = include_str!("../wgsl/rnn_step.wgsl")
        .replace("BIAS", &bias)
        .replace("LENGTH", length)
        .replace("PEEPHOLE", peephole)
        .replace("STORE", store)
        .replace("GATHER", &gather)
        .replace("STARTS", &starts)
        .replace("SUMS", &sums)
        .replace("SOURCE", source)
        .replace("GATES", &gates.to_string())
        .replace("BODY", &body::text(layer.cell, phase));
    (kernel.text(&layer.activation_text()).text(&rounding).text(&text).finish(), args)
}
