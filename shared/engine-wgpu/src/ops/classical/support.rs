//! SVMRegressor and SVMClassifier: kernels against support vectors.

mod classes;

use super::scores::{Raw, Transform};
use super::{DOMAIN, bits, floats, index, table_of, weights};
use crate::error::OpError;
use crate::ir::{ElementType, Node};
use crate::lower::{Effort, KernelBuilder, Lowering, Params, Repr, element_groups, nested_steps};
use crate::ops::elementwise::math;
use crate::ops::rule::Rule;
use crate::value_info::{Inputs, ValueInfo};

/// The operators of this file.
pub(in crate::ops) const RULES: &[Rule] = &[
    Rule::device("SVMRegressor", infer_regressor, lower_regressor).in_domain(DOMAIN),
    Rule::device("SVMClassifier", classes::infer, classes::lower).in_domain(DOMAIN),
];

/// Kernel function of a support vector machine.
#[derive(Debug, Clone, Copy)]
struct Kernel {
    /// WGSL expression of `dot`, `square` (the squared distance), `gamma`, `coef0` and `degree`.
    expression: &'static str,
    gamma: f32,
    coef0: f32,
    degree: f32,
}

impl Kernel {
    /// Reads `kernel_type` and `kernel_params`.
    fn of(node: &Node) -> Result<Self, OpError> {
        let expression = match node.attributes.text("kernel_type", "LINEAR")? {
            "LINEAR" => "dot",
            "POLY" => "power(gamma * dot + coef0, degree)",
            "RBF" => "exp(-gamma * square)",
            "SIGMOID" => "tanh_of(gamma * dot + coef0)",
            other => return Err(OpError::invalid(format!("the kernel {other:?}"))),
        };
        let numbers = floats(node, "kernel_params")?;
        let number = |at: usize| numbers.get(at).copied().unwrap_or(0.0);
        Ok(Self { expression, gamma: number(0), coef0: number(1), degree: number(2) })
    }

    /// WGSL that declares the numbers of the expression.
    const NUMBERS: &'static str = "let gamma = bitcast<f32>(param.gamma); let coef0 = bitcast<f32>(param.coef0); \
                                   let degree = bitcast<f32>(param.degree);";

    /// Returns the numbers of the expression.
    fn params(self) -> Params {
        Params::new().float("gamma", self.gamma).float("coef0", self.coef0).float("degree", self.degree)
    }
}

/// A regressor over support vectors, or one dot product where it has none.
#[derive(Debug)]
struct Machine<'a> {
    vectors: usize,
    features: usize,
    coefficients: &'a [f32],
    support: &'a [f32],
    rho: f32,
    kernel: Kernel,
    one_class: bool,
}

impl<'a> Machine<'a> {
    fn of(node: &'a Node, features: usize) -> Result<Self, OpError> {
        let vectors = index("n_supports", node.attributes.int("n_supports", 0)?)?;
        let (coefficients, support) = (floats(node, "coefficients")?, floats(node, "support_vectors")?);
        let fits = match vectors {
            0 => coefficients.len() == features,
            _ => coefficients.len() == vectors && vectors.checked_mul(features) == Some(support.len()),
        };
        let rho = floats(node, "rho")?;
        let (true, [rho]) = (fits, rho) else {
            return Err(OpError::invalid(format!(
                "{} coefficients, {} numbers of support vectors and {} of rho for {features} features",
                coefficients.len(),
                support.len(),
                rho.len()
            )));
        };
        let mut kernel = Kernel::of(node)?;
        if vectors == 0 {
            kernel.expression = "dot";
        }
        Ok(Self {
            vectors,
            features,
            coefficients,
            support: if vectors == 0 { coefficients } else { support },
            rho: *rho,
            kernel,
            one_class: node.attributes.flag("one_class", false)?,
        })
    }
}

fn infer_regressor(node: &Node, inputs: Inputs<'_>) -> Result<Vec<ValueInfo>, OpError> {
    let [rows, features] = table_of(inputs)?;
    Machine::of(node, features)?;
    if Transform::named(node)? != Transform::None {
        return Err(OpError::unsupported("a transform of its answers"));
    }
    Ok(vec![ValueInfo::new(ElementType::F32, vec![rows, 1])])
}

fn lower_regressor(node: &Node, cx: &mut Lowering<'_>) -> Result<(), OpError> {
    let infos = cx.input_infos(node);
    let [rows, features] = table_of(Inputs(&infos))?;
    let machine = Machine::of(node, features)?;
    let (x, y) = (cx.input(node, 0)?, cx.output(node, 0)?);
    if rows == 0 {
        return Ok(());
    }
    let support = weights(cx, node, "support", bits(machine.support))?;
    let factors = if machine.vectors == 0 { vec![1.0] } else { machine.coefficients.to_vec() };
    let count = factors.len();
    let factors = weights(cx, node, "factors", bits(&factors))?;
    let body = "let v = f32(load_x(i * param.features + k)); let s = load_support(j * param.features + k);
            dot += v * s; square += (v - s) * (v - s);";
    let (inner, rounds) = nested_steps("k", "param.features", count, machine.features, body);
    let answer = if machine.one_class { "select(-1.0, 1.0, sum > 0.0)" } else { "sum" };
    let text = format!(
        "fn element(i: u32) -> f32 {{
    {numbers}
    var sum = 0.0;
    for (var j = 0u; j < param.vectors; j++) {{
        var dot = 0.0; var square = 0.0;
    {inner}        sum += load_factors(j) * {kernel};
    }}
    sum += bitcast<f32>(param.rho);
    return {answer};
}}",
        kernel = machine.kernel.expression,
        numbers = Kernel::NUMBERS,
    );
    let kernel = KernelBuilder::new("support_vectors")
        .read("x", x.repr)
        .read("support", Repr::F32)
        .read("factors", Repr::F32)
        .text(&math::needed_by(&text))
        .text(&text)
        .element(Repr::F32);
    let numbers = Params::sizes([("elements", rows), ("features", machine.features), ("vectors", count)])?;
    let numbers = numbers.float("rho", machine.rho).and(machine.kernel.params());
    let raw = Raw { arg: y.arg, rows, columns: 1 };
    let work = (rows as u64).saturating_mul((count.saturating_mul(machine.features)) as u64);
    let effort = Effort::looping(work, rounds.saturating_add(count));
    cx.dispatch(kernel, vec![x.arg, support, factors, raw.arg], numbers, element_groups(raw.rows, Repr::F32), effort);
    Ok(())
}
