//! Elementwise operators in a row as one generated kernel: `sanderling::Chain`, made by [`crate::passes`] only.
//!
//! Attribute `steps` holds one text a step, `OPERATOR OPERAND… [NUMBER NUMBER]`: an operand is `iN` (input of the node),
//! `sN` (result of an earlier step) or `cBITS` (a number by its bits, in hexadecimal); activations are followed by their two
//! numbers. The last step is the answer; all of them have its shape.

use crate::error::OpError;
use crate::ir::{Attribute, ElementType, Node, OWN_DOMAIN};
use crate::lower::{KernelBuilder, Lowering, Operand, Params, element_groups};
use crate::ops::epilogue::{activation, helpers};
use crate::ops::rule::Rule;
use crate::shape::{broadcast, broadcast_strides, strides};
use crate::value_info::{Inputs, ValueInfo};

/// The operators of this family.
pub(super) const RULES: &[Rule] = &[Rule::device("Chain", infer, lower).in_domain(OWN_DOMAIN)];

/// Most inputs of one chain: a kernel binds eight tensors, one of them the answer.
pub(crate) const INPUTS_MAX: usize = 6;

/// Most dimensions of its answer: strides of every input must fit the params.
pub(crate) const RANK_MAX: usize = 6;

/// Most steps: a longer kernel gains nothing and compiles slowly.
pub(crate) const STEPS_MAX: usize = 24;

/// Operand of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// An input of the node.
    Input(usize),
    /// The result of an earlier step.
    Step(usize),
    /// A number, by its bits.
    Number(u32),
}

/// One operator of a chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Step {
    /// Its name: one of those in [`expression`].
    pub(crate) op: String,
    /// Operands in the order of the operator.
    pub(crate) operands: Vec<Place>,
    /// Bits of the two numbers of an activation.
    pub(crate) numbers: [u32; 2],
}

/// The WGSL expression of a step of `x` and `y`, `alpha` and `beta`; `None` for operators that do not chain.
pub(crate) fn expression(op: &str) -> Option<&'static str> {
    Some(match op {
        "Add" => "x + y",
        "Sub" => "x - y",
        "Mul" => "x * y",
        "Div" => "x / y",
        "Neg" => "-x",
        "Abs" => "abs(x)",
        "Sqrt" => "sqrt(x)",
        "Reciprocal" => "1.0 / x",
        "Exp" => "exp(x)",
        "Erf" => "erf_of(x)",
        "Square" => "x * x",
        "Cube" => "x * x * x",
        _ => return activation(op),
    })
}

/// Returns the number of operands an operator takes.
pub(crate) fn arity(op: &str) -> usize {
    if matches!(op, "Add" | "Sub" | "Mul" | "Div") { 2 } else { 1 }
}

impl Step {
    /// The step as its text.
    pub(crate) fn to_text(&self) -> String {
        let mut text = self.op.clone();
        for operand in &self.operands {
            text.push_str(&match operand {
                Place::Input(at) => format!(" i{at}"),
                Place::Step(at) => format!(" s{at}"),
                Place::Number(bits) => format!(" c{bits:x}"),
            });
        }
        format!("{text} {:x} {:x}", self.numbers[0], self.numbers[1])
    }

    fn parse(text: &str) -> Option<Self> {
        let mut words = text.split(' ');
        let op = words.next()?.to_owned();
        let operand = |word: &str| {
            let (kind, rest) = word.split_at_checked(1)?;
            match kind {
                "i" => rest.parse().ok().map(Place::Input),
                "s" => rest.parse().ok().map(Place::Step),
                "c" => u32::from_str_radix(rest, 16).ok().map(Place::Number),
                _ => None,
            }
        };
        let operands: Option<Vec<Place>> = words.by_ref().take(arity(&op)).map(operand).collect();
        let mut number = || words.next().and_then(|word| u32::from_str_radix(word, 16).ok());
        let numbers = [number()?, number()?];
        Some(Self { op, operands: operands?, numbers })
    }
}

/// The steps of a chain, checked.
///
/// # Errors
/// When one is unknown or reads what is not there.
pub(crate) fn steps(node: &Node) -> Result<Vec<Step>, OpError> {
    let bad = || OpError::invalid("its steps are no chain");
    let Some(Attribute::Texts(texts)) = node.attributes.find("steps") else { return Err(bad()) };
    let steps: Option<Vec<Step>> = texts.iter().map(|text| Step::parse(text)).collect();
    let steps = steps.filter(|steps| !steps.is_empty()).ok_or_else(bad)?;
    for (at, step) in steps.iter().enumerate() {
        let there = |operand: &Place| match operand {
            Place::Input(input) => node.input(*input).is_some(),
            Place::Step(step) => *step < at,
            Place::Number(_) => true,
        };
        if expression(&step.op).is_none() || step.operands.len() != arity(&step.op) || !step.operands.iter().all(there)
        {
            return Err(bad());
        }
    }
    Ok(steps)
}

fn infer(node: &Node, inputs: Inputs<'_>) -> Result<Vec<ValueInfo>, OpError> {
    steps(node)?;
    let mut shape = Vec::new();
    for at in 0..inputs.len() {
        let input = inputs.at(at)?;
        if input.dtype != ElementType::F32 {
            return Err(OpError::invalid(format!("a chain over {}", input.dtype)));
        }
        shape = broadcast(&shape, &input.shape)?;
    }
    Ok(vec![ValueInfo::new(ElementType::F32, shape)])
}

fn lower(node: &Node, cx: &mut Lowering<'_>) -> Result<(), OpError> {
    let steps = steps(node)?;
    let y = cx.output(node, 0)?;
    let inputs: Vec<Operand> = (0..node.inputs.len()).map(|at| cx.input(node, at)).collect::<Result<_, _>>()?;
    let elements = y.elements();
    let mut numbers = Params::sizes([("elements", elements)])?;
    let mut kernel = KernelBuilder::new("chain");
    let mut args = Vec::new();
    for (at, input) in inputs.iter().enumerate() {
        kernel = kernel.read(&format!("x{at}"), input.repr);
        args.push(input.arg);
    }
    let mut body = loads(&inputs, &y.shape, &mut numbers)?;
    for (at, step) in steps.iter().enumerate() {
        body.push_str(&line(at, step, &mut numbers).ok_or_else(|| OpError::invalid("its steps are no chain"))?);
    }
    let helpers = helpers(&body);
    let last = steps.len() - 1;
    let kernel = kernel.text(&format!("{helpers}fn element(i: u32) -> f32 {{\n{body}    return s{last};\n}}"));
    args.push(y.arg);
    let work = elements as u64 * steps.len() as u64;
    cx.dispatch(kernel.element(y.repr), args, numbers, element_groups(elements, y.repr), work);
    Ok(())
}

/// Loads every input at its own place: the element's where it has the answer's shape, by strides where it repeats.
fn loads(inputs: &[Operand], shape: &[usize], numbers: &mut Params) -> Result<String, OpError> {
    let rank = shape.len();
    let repeats: Vec<usize> = (0..inputs.len()).filter(|&at| inputs[at].shape != shape).collect();
    let mut text = String::new();
    if !repeats.is_empty() && rank > 0 {
        numbers.extend(Params::new().list("stride", &strides(shape))?);
        text.push_str("    var rest = i;\n");
        let mut walk = String::new();
        for &at in &repeats {
            let own = broadcast_strides(&inputs[at].shape, shape);
            numbers.extend(Params::new().list(format!("x{at}_stride"), &own)?);
            text.push_str(&format!("    var at{at} = 0u;\n"));
            walk.push_str(&format!(" at{at} += index * param.x{at}_stride[d];"));
        }
        text.push_str(&format!(
            "    for (var d = 0u; d < {rank}u; d++) {{ let index = rest / param.stride[d]; \
             rest = rest % param.stride[d];{walk} }}\n"
        ));
    }
    for at in 0..inputs.len() {
        let index = match (repeats.contains(&at), rank) {
            (false, _) => "i".to_owned(),
            (true, 0) => "0u".to_owned(),
            (true, _) => format!("at{at}"),
        };
        text.push_str(&format!("    let i{at} = load_x{at}({index});\n"));
    }
    Ok(text)
}

/// `let sN = …;` with the names that expressions use.
fn line(at: usize, step: &Step, numbers: &mut Params) -> Option<String> {
    let mut count = 0;
    let mut number = |bits: u32| {
        let name = format!("number_{at}_{count}");
        count += 1;
        let text = format!("bitcast<f32>(param.{name})");
        numbers.extend(Params::new().word(name, bits));
        text
    };
    let mut place = |operand: &Place| match operand {
        Place::Input(at) => format!("i{at}"),
        Place::Step(at) => format!("s{at}"),
        Place::Number(bits) => number(*bits),
    };
    let mut names = String::new();
    for (name, operand) in ["x", "y"].iter().zip(&step.operands) {
        names.push_str(&format!(" let {name} = {};", place(operand)));
    }
    let expression = expression(&step.op)?;
    if expression.contains("alpha") {
        names.push_str(&format!(" let alpha = {}; let beta = {};", number(step.numbers[0]), number(step.numbers[1])));
    }
    Some(format!("    var s{at} = 0.0;\n    {{{names} s{at} = {expression}; }}\n"))
}
