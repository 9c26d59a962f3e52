//! The kernel of every elementwise operator: loads each input at its own broadcast index and stores one expression.

use crate::error::OpError;
use crate::ir::{ElementType, Node};
use crate::lower::{KernelBuilder, Lowering, Operand, Params, element_groups};
use crate::ops::elementwise::{checked, math};
use crate::shape::{broadcast_strides, strides};

/// An elementwise launch under construction.
///
/// The expression sees each input under its name, each number as an `f32`, and `T` as the type of the first input.
#[derive(Debug)]
pub(crate) struct Element {
    label: &'static str,
    inputs: Vec<(String, Operand)>,
    numbers: Vec<(&'static str, f32)>,
}

/// Relation of an input's index to the output's.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    /// One element for all.
    Scalar,
    /// The output's own index.
    Flat,
    /// By strides over the collapsed dimensions.
    Strided(Vec<usize>),
}

impl Element {
    /// Starts one of that name.
    pub(crate) fn new(label: &'static str) -> Self {
        Self { label, inputs: Vec::new(), numbers: Vec::new() }
    }

    /// Adds an input, which broadcasts to the output.
    pub(crate) fn input(mut self, name: &str, operand: Operand) -> Self {
        self.inputs.push((name.to_owned(), operand));
        self
    }

    /// Adds a number that the expression reads.
    pub(crate) fn number(mut self, name: &'static str, value: f32) -> Self {
        self.numbers.push((name, value));
        self
    }

    /// Launches the expression for each element of the node's output.
    pub(crate) fn run(self, cx: &mut Lowering<'_>, node: &Node, y: &Operand, expression: &str) -> Result<(), OpError> {
        let dtype = node.output(0).map_or(ElementType::F32, |id| cx.info(id).dtype);
        self.into(cx, y, dtype, expression)
    }

    /// Launches the expression for each element of any operand, whose integers wrap to that type.
    pub(crate) fn into(
        self,
        cx: &mut Lowering<'_>,
        y: &Operand,
        dtype: ElementType,
        expression: &str,
    ) -> Result<(), OpError> {
        let shapes: Vec<&[usize]> = self.inputs.iter().map(|(_name, operand)| operand.shape.as_slice()).collect();
        let (sizes, places) = collapse(&y.shape, &shapes);
        let elements = y.elements();
        let mut numbers = Params::sizes([("elements", elements)])?;
        let mut lets = String::new();
        for (name, value) in &self.numbers {
            lets.push_str(&format!("    let {name} = bitcast<f32>(param.{name});\n"));
            numbers = numbers.float(*name, *value);
        }
        let rank = sizes.len();
        let strided = places.iter().any(|place| matches!(place, Place::Strided(_)));
        if strided {
            numbers = numbers.list("stride", &strides(&sizes))?;
            lets.push_str("    var rest = i;\n");
            for d in 0..rank {
                lets.push_str(&format!(
                    "    let index_{d} = rest / param.stride[{d}]; rest = rest - index_{d} * param.stride[{d}];\n"
                ));
            }
        }
        let mut kernel = KernelBuilder::new(self.label);
        let mut args = Vec::new();
        for ((name, operand), place) in self.inputs.iter().zip(&places) {
            let at = match place {
                Place::Scalar => "0u".to_owned(),
                Place::Flat => "i".to_owned(),
                Place::Strided(steps) => {
                    numbers = numbers.list(format!("{name}_stride"), steps)?;
                    let terms = (0..rank).map(|d| format!("index_{d} * param.{name}_stride[{d}]"));
                    terms.collect::<Vec<_>>().join(" + ")
                }
            };
            lets.push_str(&format!("    let {name} = load_{name}({at});\n"));
            kernel = kernel.read(name, operand.repr);
            args.push(operand.arg);
        }
        args.push(y.arg);
        let of_first = self.inputs.first().map_or("f32", |(_name, operand)| operand.repr.wgsl());
        let value = wrapped(expression, dtype);
        let text =
            format!("alias T = {of_first};\nfn element(i: u32) -> {} {{\n{lets}    return {value};\n}}", y.repr.wgsl());
        let checks = checked::needed_by(&text);
        let kernel =
            kernel.text(&math::needed_by(&format!("{text}{checks}"))).text(&checks).text(&text).element(y.repr);
        let work = u64::try_from(elements).unwrap_or(u64::MAX);
        cx.dispatch(kernel, args, numbers, element_groups(elements, y.repr), work);
        Ok(())
    }
}

/// Cuts an integer to the width of its type; bytes are cut by their store, 32-bit types by arithmetic itself.
fn wrapped(expression: &str, dtype: ElementType) -> String {
    match dtype {
        ElementType::I16 => format!("extractBits({expression}, 0u, 16u)"),
        ElementType::U16 => format!("(({expression}) & 0xffffu)"),
        ElementType::I4 => format!("extractBits({expression}, 0u, 4u)"),
        ElementType::U4 => format!("(({expression}) & 0xfu)"),
        ElementType::Bool
        | ElementType::U8
        | ElementType::I8
        | ElementType::U32
        | ElementType::I32
        | ElementType::U64
        | ElementType::I64
        | ElementType::F16
        | ElementType::Bf16
        | ElementType::F32
        | ElementType::F64 => expression.to_owned(),
    }
}

/// Joins neighbouring dimensions that every input walks through in the same way.
fn collapse(y: &[usize], inputs: &[&[usize]]) -> (Vec<usize>, Vec<Place>) {
    let steps: Vec<Vec<usize>> = inputs.iter().map(|shape| broadcast_strides(shape, y)).collect();
    // From the innermost dimension outwards; reversed at the end.
    let mut sizes: Vec<usize> = Vec::new();
    let mut joined: Vec<Vec<usize>> = vec![Vec::new(); inputs.len()];
    for d in (0..y.len()).rev().filter(|&d| y[d] != 1) {
        let joins = sizes.last().is_some_and(|&size| {
            joined.iter().zip(&steps).all(|(of, step)| of.last().is_some_and(|&inner| step[d] == inner * size))
        });
        match sizes.last_mut() {
            Some(size) if joins => *size *= y[d],
            _ => {
                sizes.push(y[d]);
                for (of, step) in joined.iter_mut().zip(&steps) {
                    of.push(step[d]);
                }
            }
        }
    }
    sizes.reverse();
    let own = strides(&sizes);
    let places = joined.into_iter().map(|mut of| {
        of.reverse();
        if of.iter().all(|&step| step == 0) {
            Place::Scalar
        } else if of == own {
            Place::Flat
        } else {
            Place::Strided(of)
        }
    });
    let places = places.collect();
    (sizes, places)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_shapes_and_scalars_need_no_index_arithmetic() {
        let (sizes, places) = collapse(&[2, 3, 4], &[&[2, 3, 4], &[], &[1, 1]]);
        assert_eq!((sizes, places), (vec![24], vec![Place::Flat, Place::Scalar, Place::Scalar]));
    }

    #[test]
    fn a_bias_for_each_channel_leaves_three_dimensions() {
        let (sizes, places) = collapse(&[2, 3, 4, 5], &[&[2, 3, 4, 5], &[3, 1, 1]]);
        assert_eq!(sizes, [2, 3, 20]);
        assert_eq!(places, [Place::Flat, Place::Strided(vec![0, 1, 0])]);
    }
}
