//! Einsum: each output element is a sum of products over the labels that the output does not have.
//!
//! One thread an output, any number of labels; an operand's stride for a label it has twice is the sum of both (its
//! diagonal), for one it lacks zero.

use std::collections::BTreeMap;

use crate::error::OpError;
use crate::ir::Node;
use crate::lower::{Effort, KernelBuilder, Lowering, Operand, Params, element_groups};
use crate::ops::elementwise::checked;
use crate::ops::reduce::fold::Fold;
use crate::ops::rule::Rule;
use crate::shape::strides;
use crate::shape::volume;
use crate::value_info::{Inputs, ValueInfo};

/// The operators of this family.
pub(super) const RULES: &[Rule] = &[Rule::device("Einsum", infer, lower)];

/// Most operands of one node; exporters write two.
const OPERANDS_MAX: usize = 4;

/// A dimension: a letter, or one that an ellipsis stands for, counted from the right.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Label {
    Ellipsis(usize),
    Letter(char),
}

/// An equation over the shapes of its operands.
#[derive(Debug)]
struct Equation {
    operands: Vec<Vec<Label>>,
    output: Vec<Label>,
    /// Labels of the output, then the summed ones.
    sizes: Vec<(Label, usize)>,
}

impl Equation {
    fn of(node: &Node, shapes: &[&[usize]]) -> Result<Self, OpError> {
        let text: String = node.attributes.text("equation", "")?.chars().filter(|c| !c.is_whitespace()).collect();
        let (left, right) = text.split_once("->").map_or((text.as_str(), None), |(left, right)| (left, Some(right)));
        let terms: Vec<&str> = left.split(',').collect();
        if terms.len() != shapes.len() || shapes.len() > OPERANDS_MAX {
            return Err(OpError::unsupported(format!("the equation {text:?} with {} inputs", shapes.len())));
        }
        let mut sizes: BTreeMap<Label, usize> = BTreeMap::new();
        let mut operands = Vec::new();
        for (term, shape) in terms.iter().zip(shapes) {
            let labels = labels(term, Some(shape.len()), 0)?;
            if labels.len() != shape.len() {
                return Err(OpError::invalid(format!("the term {term:?} for {} dimensions", shape.len())));
            }
            for (&label, &size) in labels.iter().zip(*shape) {
                let known = sizes.entry(label).or_insert(size);
                if *known == 1 {
                    *known = size;
                } else if size != 1 && size != *known {
                    return Err(OpError::invalid(format!("{label:?} is {known} and {size}")));
                }
            }
            operands.push(labels);
        }
        let dots = sizes.keys().filter(|label| matches!(label, Label::Ellipsis(_))).count();
        let output = match right {
            Some(right) => labels(right, None, dots)?,
            // Without an arrow: the ellipsis, then each letter that stands once, in order of the alphabet.
            None => {
                let once = |label: &Label| operands.iter().flatten().filter(|other| *other == label).count() == 1;
                let mut output: Vec<Label> = (0..dots).rev().map(Label::Ellipsis).collect();
                output.extend(sizes.keys().copied().filter(|label| matches!(label, Label::Letter(_)) && once(label)));
                output
            }
        };
        let mut ordered = Vec::new();
        for label in output.iter().chain(sizes.keys()) {
            if ordered.iter().all(|(other, _size)| other != label) {
                let size = sizes.get(label).ok_or_else(|| OpError::invalid(format!("{label:?} is in no term")))?;
                ordered.push((*label, *size));
            }
        }
        Ok(Self { operands, output, sizes: ordered })
    }

    fn shape(&self) -> Vec<usize> {
        self.sizes.iter().take(self.output.len()).map(|&(_label, size)| size).collect()
    }
}

/// The labels of one term; `rank` tells how many dimensions its ellipsis stands for, else `dots`.
fn labels(term: &str, rank: Option<usize>, dots: usize) -> Result<Vec<Label>, OpError> {
    let letters = term.chars().filter(char::is_ascii_alphabetic).count();
    let dots = rank.map_or(dots, |rank| rank.saturating_sub(letters));
    let mut found = Vec::new();
    let spread = term.replacen("...", "*", 1);
    for c in spread.chars() {
        match c {
            '*' => found.extend((0..dots).rev().map(Label::Ellipsis)),
            c if c.is_ascii_alphabetic() => found.push(Label::Letter(c)),
            other => return Err(OpError::invalid(format!("{other:?} in the equation"))),
        }
    }
    Ok(found)
}

fn infer(node: &Node, inputs: Inputs<'_>) -> Result<Vec<ValueInfo>, OpError> {
    let mut shapes = Vec::new();
    for at in 0..inputs.len() {
        if inputs.at(at)?.dtype != inputs.at(0)?.dtype {
            return Err(OpError::invalid("its inputs differ in type"));
        }
        shapes.push(inputs.at(at)?.shape.as_slice());
    }
    let equation = Equation::of(node, &shapes)?;
    let mut seen = equation.output.clone();
    seen.sort_unstable();
    seen.dedup();
    if seen.len() != equation.output.len() {
        return Err(OpError::invalid("a label stands twice in the output"));
    }
    Ok(vec![ValueInfo::new(inputs.at(0)?.dtype, equation.shape())])
}

/// Most terms that one thread adds up.
const TERMS_MAX: usize = 4096;

fn lower(node: &Node, cx: &mut Lowering<'_>) -> Result<(), OpError> {
    let operands = (0..node.inputs.len()).map(|at| cx.input(node, at)).collect::<Result<Vec<_>, _>>()?;
    let y = cx.output(node, 0)?;
    let shapes: Vec<&[usize]> = operands.iter().map(|operand| operand.shape.as_slice()).collect();
    let equation = Equation::of(node, &shapes)?;
    let free = equation.output.len();
    let terms: usize = equation.sizes[free..].iter().map(|&(_label, size)| size).product();
    // Long sums in shares, one thread each, that a reduction adds up.
    let shares = terms.div_ceil(TERMS_MAX).max(1);
    let share = if shares == 1 { terms } else { TERMS_MAX };
    let sums = match shares {
        1 => y.clone(),
        _ => {
            let shape = vec![y.elements(), shares];
            Operand { arg: cx.scratch(volume(&shape)?), repr: y.repr.unpacked(), shape }
        }
    };
    let mut numbers =
        Params::sizes([("elements", sums.elements()), ("terms", terms), ("shares", shares), ("share", share)])?;
    let mut walks = [String::new(), String::new()];
    let count = operands.len();
    // Innermost first: each takes its index off the rest.
    for (at, &(label, size)) in equation.sizes.iter().enumerate().rev() {
        numbers.extend(Params::new().size(format!("size_{at}"), size.max(1))?);
        let mut walk = format!("    at = rest % param.size_{at}; rest = rest / param.size_{at};\n");
        for (of, (operand, labels)) in operands.iter().zip(&equation.operands).enumerate() {
            let own = strides(&operand.shape);
            let step: usize =
                (0..labels.len()).filter(|&d| labels[d] == label && operand.shape[d] != 1).map(|d| own[d]).sum();
            numbers.extend(Params::new().size(format!("step_{at}_{of}"), step)?);
            walk.push_str(&format!("    at_{of} += at * param.step_{at}_{of};\n"));
        }
        walks[usize::from(at >= free)].push_str(&walk);
    }
    let [outer, inner] = walks;
    let declare = |value: &str| {
        (0..count).map(|of| format!("    var at_{of} = {};\n", value.replace('#', &of.to_string()))).collect::<String>()
    };
    let keep: String = (0..count).map(|of| format!("    let base_{of} = at_{of};\n")).collect();
    let reset: String = (0..count).map(|of| format!("    at_{of} = base_{of};\n")).collect();
    let wgsl = sums.repr.wgsl();
    let wide = node.output(0).is_some_and(|id| checked::is_wide(cx.info(id).dtype));
    let factors = (0..count).map(|of| format!("load_x{of}(at_{of})"));
    let (product, add, join) = match wide {
        true => (
            factors.reduce(|a, b| format!("checked_mul_{wgsl}({a}, {b})")).unwrap_or_default(),
            format!("part = checked_add_{wgsl}(part, {wgsl}(TERM));"),
            format!("total = checked_add_{wgsl}(total, part);"),
        ),
        false => {
            (factors.collect::<Vec<_>>().join(" * "), format!("part += {wgsl}(TERM);"), "total += part;".to_owned())
        }
    };
    let add = add.replace("TERM", &product);
    let text = format!(
        "fn element(i: u32) -> {wgsl} {{
    var rest = i / param.shares; var at = 0u;
{}{outer}{keep}    var total = {wgsl}(0);
    let begin = i % param.shares * param.share; let end = min(begin + param.share, param.terms);
    for (var tile = begin; tile < end; tile += 64u) {{
    var part = {wgsl}(0);
    for (var r = tile; r < min(tile + 64u, end); r++) {{
    rest = r;
{reset}{inner}    {add}
    }}
    {join}
    }}
    return total;
}}",
        declare("0u")
    );
    let mut kernel = KernelBuilder::new("einsum").text(&checked::needed_by(&text));
    for (of, operand) in operands.iter().enumerate() {
        kernel = kernel.read(&format!("x{of}"), operand.repr);
    }
    let args = operands.iter().map(|operand| operand.arg).chain([sums.arg]).collect();
    let elements = sums.elements();
    let work = u64::try_from(elements.saturating_mul(share)).unwrap_or(u64::MAX);
    let effort = Effort::looping(work, share + share.div_ceil(64));
    cx.dispatch(kernel.text(&text).element(sums.repr), args, numbers, element_groups(elements, sums.repr), effort);
    if shares > 1 { Fold { checked: wide, ..Fold::SUM }.run(cx, &sums, &[1], &y) } else { Ok(()) }
}
