//! LinearClassifier and LinearRegressor: one dot product for each row and class or target.

use super::scores::{FUNCTIONS, Raw, Transform, by_row, labels};
use super::{DOMAIN, bits, floats, index, table_of, weights};
use crate::error::OpError;
use crate::ir::{ElementType, Node};
use crate::lower::{Effort, KernelBuilder, Lowering, Params, Repr, element_groups, steps};
use crate::ops::rule::Rule;
use crate::value_info::{Inputs, ValueInfo};

/// The operators of this file.
pub(in crate::ops) const RULES: &[Rule] = &[
    Rule::device("LinearClassifier", infer_classifier, lower_classifier).in_domain(DOMAIN),
    Rule::device("LinearRegressor", infer_regressor, lower_regressor).in_domain(DOMAIN),
];

/// Launches `scores = x * coefficients^T + intercepts` into scratch.
fn products(cx: &mut Lowering<'_>, node: &Node, columns: usize, intercepts: &[f32]) -> Result<Raw, OpError> {
    let infos = cx.input_infos(node);
    let [rows, features] = table_of(Inputs(&infos))?;
    let x = cx.input(node, 0)?;
    let arg = cx.scratch(rows.saturating_mul(columns));
    let coefficients = weights(cx, node, "coefficients", bits(floats(node, "coefficients")?))?;
    let offsets = match intercepts.is_empty() {
        true => vec![0.0; columns],
        false => intercepts.to_vec(),
    };
    let offsets = weights(cx, node, "intercepts", bits(&offsets))?;
    let body = "sum += f32(load_x(first + k)) * load_coefficients(own + k);";
    let (loop_text, rounds) = steps("k", "param.features", features, body);
    let text = format!(
        "fn element(i: u32) -> f32 {{
    let first = (i / param.columns) * param.features; let own = (i % param.columns) * param.features;
    var sum = 0.0;
{loop_text}    return sum + load_offsets(i % param.columns);
}}"
    );
    let kernel = KernelBuilder::new("linear_scores")
        .read("x", x.repr)
        .read("coefficients", Repr::F32)
        .read("offsets", Repr::F32)
        .text(&text)
        .element(Repr::F32);
    let elements = rows.saturating_mul(columns);
    let numbers = Params::sizes([("elements", elements), ("columns", columns), ("features", features)])?;
    let work = (elements as u64).saturating_mul(features as u64);
    let groups = element_groups(elements, Repr::F32);
    cx.dispatch(kernel, vec![x.arg, coefficients, offsets, arg], numbers, groups, Effort::looping(work, rounds));
    Ok(Raw { arg, rows, columns })
}

/// Checks the sizes of coefficients and intercepts.
fn check(node: &Node, columns: usize, features: usize, intercepts: usize) -> Result<(), OpError> {
    let coefficients = floats(node, "coefficients")?.len();
    let fits = columns > 0
        && columns.checked_mul(features) == Some(coefficients)
        && (intercepts == columns || intercepts == 0);
    let clause =
        || format!("{coefficients} coefficients and {intercepts} intercepts for {columns} columns of {features}");
    if fits { Ok(()) } else { Err(OpError::invalid(clause())) }
}

/// Number of scores of a classifier, and of columns it answers.
fn classes(node: &Node) -> Result<(usize, usize, Vec<u32>), OpError> {
    let labels = labels(node, "classlabels_ints", "classlabels_strings")?;
    let scores = floats(node, "intercepts")?.len();
    let columns = if scores == 1 && labels.len() == 2 { 2 } else { scores };
    if scores == 0 || (scores > 1 && labels.len() != scores) {
        return Err(OpError::invalid(format!("{} labels for {scores} classes", labels.len())));
    }
    Ok((scores, columns, labels))
}

fn infer_classifier(node: &Node, inputs: Inputs<'_>) -> Result<Vec<ValueInfo>, OpError> {
    let [rows, features] = table_of(inputs)?;
    let (scores, columns, _labels) = classes(node)?;
    check(node, scores, features, scores)?;
    let transform = Transform::named(node)?;
    if columns != scores && transform == Transform::Probit {
        return Err(OpError::unsupported("a probit transform of one score for two classes"));
    }
    Ok(vec![ValueInfo::new(ElementType::I64, vec![rows]), ValueInfo::new(ElementType::F32, vec![rows, columns])])
}

fn lower_classifier(node: &Node, cx: &mut Lowering<'_>) -> Result<(), OpError> {
    let (scores, columns, labels) = classes(node)?;
    let raw = products(cx, node, scores, floats(node, "intercepts")?)?;
    if raw.rows == 0 {
        return Ok(());
    }
    if let Some(id) = node.output(0) {
        let y = cx.place(id).arg;
        if scores == 1 {
            // Without labels of its own: 1 and 0.
            let pair = if labels.len() == 2 { labels } else { vec![0, 1] };
            let pair = weights(cx, node, "labels", pair)?;
            let kernel = KernelBuilder::new("sign_label")
                .raw("raw", "array<f32>")
                .read("labels", Repr::I32)
                .raw("y", "array<i32>");
            let text = "    y[row] = load_labels(select(0u, 1u, raw[row] > 0.0));\n";
            by_row(cx, kernel, vec![raw.arg, pair, y], "", text, Params::sizes([("rows", raw.rows)])?, (raw.rows, 0));
        } else {
            let labels = weights(cx, node, "labels", labels)?;
            raw.write_best(cx, labels, y)?;
        }
    }
    let Some(id) = node.output(1) else { return Ok(()) };
    let y = cx.place(id).arg;
    if columns == scores {
        return raw.write(cx, Transform::named(node)?, y);
    }
    let kernel = KernelBuilder::new("two_scores").raw("raw", "array<f32>").raw("y", "array<f32>");
    let text = match Transform::named(node)? {
        Transform::Logistic => "    y[2u * row] = logistic(-raw[row]); y[2u * row + 1u] = logistic(raw[row]);\n",
        Transform::None | Transform::Softmax | Transform::SoftmaxZero | Transform::Probit => {
            "    y[2u * row] = 1.0 - raw[row]; y[2u * row + 1u] = raw[row];\n"
        }
    };
    by_row(cx, kernel, vec![raw.arg, y], FUNCTIONS, text, Params::sizes([("rows", raw.rows)])?, (raw.rows, 0));
    Ok(())
}

fn targets(node: &Node) -> Result<usize, OpError> {
    index("targets", node.attributes.int("targets", 1)?)
}

fn infer_regressor(node: &Node, inputs: Inputs<'_>) -> Result<Vec<ValueInfo>, OpError> {
    let [rows, features] = table_of(inputs)?;
    let targets = targets(node)?;
    check(node, targets, features, floats(node, "intercepts")?.len())?;
    Transform::named(node)?;
    Ok(vec![ValueInfo::new(ElementType::F32, vec![rows, targets])])
}

fn lower_regressor(node: &Node, cx: &mut Lowering<'_>) -> Result<(), OpError> {
    let raw = products(cx, node, targets(node)?, floats(node, "intercepts")?)?;
    let y = cx.output(node, 0)?;
    if raw.rows == 0 { Ok(()) } else { raw.write(cx, Transform::named(node)?, y.arg) }
}
