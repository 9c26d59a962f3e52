//! TreeEnsembleRegressor, TreeEnsembleClassifier and TreeEnsemble: each thread walks some trees for one row.
//!
//! Three launches: the walks, with a partial sum for each row, share of the trees and class; the sums of the shares; the
//! transform. Trees are added in their order, so an answer has the same bits each time.

mod forest;
mod packed;

use forest::{Aggregate, Forest};
use packed::{NODE_WORDS, Packed};

use super::scores::{FUNCTIONS, Raw, Transform, by_row, labels};
use super::{DOMAIN, bits, table_of, weights};
use crate::error::OpError;
use crate::ir::{ElementType, Node};
use crate::lower::{Arg, Effort, GROUPS_MAX, KernelBuilder, Lowering, Params, Repr, THREADS, linear_groups};
use crate::ops::elementwise::math;
use crate::ops::rule::Rule;
use crate::value_info::{Inputs, ValueInfo};

/// The operators of this file.
pub(in crate::ops) const RULES: &[Rule] = &[
    Rule::device("TreeEnsembleRegressor", infer_regressor, lower_regressor).in_domain(DOMAIN),
    Rule::device("TreeEnsembleClassifier", infer_classifier, lower_classifier).in_domain(DOMAIN),
    Rule::device("TreeEnsemble", infer_ensemble, lower_regressor).in_domain(DOMAIN),
];

/// Trees that a thread walks, where nothing asks for more: a batch of one row then still fills a small GPU.
const SHARE_TREES: usize = 8;

/// Maximum words of partial sums: with more rows or classes each thread walks more trees.
const PARTIAL_WORDS_MAX: usize = 4 << 20;

fn infer_regressor(node: &Node, inputs: Inputs<'_>) -> Result<Vec<ValueInfo>, OpError> {
    let [rows, features] = table_of(inputs)?;
    let forest = Forest::of_targets(node)?;
    forest.check(features)?;
    Transform::named(node)?;
    Ok(vec![ValueInfo::new(ElementType::F32, vec![rows, forest.columns])])
}

fn infer_ensemble(node: &Node, inputs: Inputs<'_>) -> Result<Vec<ValueInfo>, OpError> {
    let [rows, features] = table_of(inputs)?;
    let forest = Forest::of_ensemble(node)?;
    forest.check(features)?;
    Transform::numbered(node)?;
    Ok(vec![ValueInfo::new(inputs.at(0)?.dtype, vec![rows, forest.columns])])
}

fn infer_classifier(node: &Node, inputs: Inputs<'_>) -> Result<Vec<ValueInfo>, OpError> {
    let [rows, features] = table_of(inputs)?;
    let classes = class_labels(node)?.len();
    let forest = Forest::of_classes(node, classes)?;
    forest.check(features)?;
    if Transform::named(node)? == Transform::Probit && classes <= 2 {
        return Err(OpError::unsupported("a probit transform of two classes"));
    }
    Ok(vec![ValueInfo::new(ElementType::I64, vec![rows]), ValueInfo::new(ElementType::F32, vec![rows, classes.max(2)])])
}

fn class_labels(node: &Node) -> Result<Vec<u32>, OpError> {
    let labels = labels(node, "classlabels_int64s", "classlabels_strings")?;
    if labels.is_empty() { Err(OpError::invalid("it has no labels")) } else { Ok(labels) }
}

/// Sums over all trees: for each row and class the sum and the number of leaves that had the class.
#[derive(Debug, Clone, Copy)]
struct Sums {
    sums: Arg,
    hits: Arg,
    rows: usize,
    columns: usize,
}

/// Launches the walks and adds their shares up.
fn walk(cx: &mut Lowering<'_>, node: &Node, forest: &Forest) -> Result<Sums, OpError> {
    let infos = cx.input_infos(node);
    let [rows, features] = table_of(Inputs(&infos))?;
    let x = cx.input(node, 0)?;
    let packed = Packed::of(forest)?;
    let (trees, columns) = (packed.roots.len(), forest.columns);
    let row_words = rows.saturating_mul(columns).saturating_mul(2).max(1);
    let shares_max = (PARTIAL_WORDS_MAX / row_words).max(1);
    let share = trees.div_ceil(shares_max).max(SHARE_TREES);
    let shares = trees.div_ceil(share).max(1);
    let threads = rows.saturating_mul(shares);
    let partial = threads.saturating_mul(columns);
    let (part_sums, part_hits) = (cx.scratch(partial), cx.scratch(partial));
    let depth = packed.depth;
    let (begin, merge) = match forest.aggregate {
        Aggregate::Sum | Aggregate::Average => ("0.0", "part_sums[own] + w"),
        Aggregate::Min => ("0.0", "select(min(part_sums[own], w), w, part_hits[own] == 0u)"),
        Aggregate::Max => ("0.0", "select(max(part_sums[own], w), w, part_hits[own] == 0u)"),
    };
    let text = format!(
        "fn goes_true(mode: u32, v: f32, limit: f32, missing: bool) -> bool {{
    if (is_nan(v)) {{ return missing || mode == 5u; }}
    switch (mode) {{
        case 0u: {{ return v <= limit; }}
        case 1u: {{ return v < limit; }}
        case 2u: {{ return v >= limit; }}
        case 3u: {{ return v > limit; }}
        case 4u: {{ return v == limit; }}
        default: {{ return v != limit; }}
    }}
}}
@compute @workgroup_size({THREADS})
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {{
    let place = group + group_base();
    let i = (place.y * {GROUPS_MAX}u + place.x) * {THREADS}u + lane;
    if (i >= param.threads) {{ return; }}
    let row = i / param.shares; let share = i % param.shares;
    let columns = param.columns;
    for (var c = 0u; c < columns; c++) {{ part_sums[i * columns + c] = {begin}; part_hits[i * columns + c] = 0u; }}
    let last = min((share + 1u) * param.share, param.trees);
    for (var tree = share * param.share; tree < last; tree++) {{
        var at = roots[tree] * {NODE_WORDS}u;
        for (var level = 0u; level < param.depth; level++) {{
            let mode = nodes[at];
            if ((mode & 8u) != 0u) {{ break; }}
            let v = f32(load_x(row * param.features + nodes[at + 1u]));
            let go = goes_true(mode & 7u, v, bitcast<f32>(nodes[at + 2u]), (mode & 16u) != 0u);
            at = select(nodes[at + 4u], nodes[at + 3u], go) * {NODE_WORDS}u;
        }}
        let end = nodes[at + 4u];
        for (var leaf = nodes[at + 3u]; leaf < end; leaf++) {{
            let own = i * columns + leaves[2u * leaf];
            let w = bitcast<f32>(leaves[2u * leaf + 1u]);
            part_sums[own] = {merge};
            part_hits[own] += 1u;
        }}
    }}
}}"
    );
    let kernel = KernelBuilder::new("tree_walk")
        .read("x", x.repr)
        .raw("roots", "array<u32>")
        .raw("nodes", "array<u32>")
        .raw("leaves", "array<u32>")
        .raw("part_sums", "array<f32>")
        .raw("part_hits", "array<u32>")
        .text(&math::needed_by(&text))
        .text(&text)
        .finish();
    let numbers = Params::sizes([
        ("threads", threads),
        ("shares", shares),
        ("features", features),
        ("columns", columns),
        ("share", share),
        ("trees", trees),
        ("depth", depth),
    ])?;
    let rounds = share.saturating_mul(depth + packed.leaf_weights_max + 1).saturating_add(columns);
    let work = (rows as u64).saturating_mul(trees as u64).saturating_mul(depth.max(1) as u64);
    let args = [("roots", packed.roots), ("nodes", packed.nodes), ("leaves", packed.leaves)];
    let mut bound = vec![x.arg];
    for (name, words) in args {
        bound.push(weights(cx, node, name, words)?);
    }
    bound.extend([part_sums, part_hits]);
    let groups = linear_groups(threads.div_ceil(THREADS as usize));
    cx.dispatch(kernel, bound, numbers, groups, Effort::looping(work, rounds));
    add_shares(cx, forest, (part_sums, part_hits), rows, shares, trees)
}

/// Adds the shares of each row up, and divides an average.
fn add_shares(
    cx: &mut Lowering<'_>,
    forest: &Forest,
    (part_sums, part_hits): (Arg, Arg),
    rows: usize,
    shares: usize,
    trees: usize,
) -> Result<Sums, OpError> {
    let columns = forest.columns;
    let elements = rows.saturating_mul(columns);
    let (sums, hits) = (cx.scratch(elements), cx.scratch(elements));
    let (merge, finish) = match forest.aggregate {
        Aggregate::Sum => ("sum + v", "sum"),
        Aggregate::Average => ("sum + v", "sum / f32(param.trees)"),
        Aggregate::Min => ("select(min(sum, v), v, hit == 0u)", "sum"),
        Aggregate::Max => ("select(max(sum, v), v, hit == 0u)", "sum"),
    };
    let kernel = KernelBuilder::new("tree_shares")
        .raw("part_sums", "array<f32>")
        .raw("part_hits", "array<u32>")
        .raw("sums", "array<f32>")
        .raw("hits", "array<u32>");
    // A thread for each row and class.
    let text = format!(
        "    let c = row % param.columns;
    var sum = 0.0; var hit = 0u;
    for (var share = 0u; share < param.shares; share++) {{
        let source = ((row / param.columns) * param.shares + share) * param.columns + c;
        let v = part_sums[source]; let more = part_hits[source];
        if (more > 0u) {{ sum = {merge}; hit += more; }}
    }}
    sums[row] = {finish}; hits[row] = hit;
"
    );
    let numbers = Params::sizes([("rows", elements), ("columns", columns), ("shares", shares), ("trees", trees)])?;
    by_row(cx, kernel, vec![part_sums, part_hits, sums, hits], "", &text, numbers, (elements, shares));
    Ok(Sums { sums, hits, rows, columns })
}

/// Launches `sums + base values` into scratch.
fn based(cx: &mut Lowering<'_>, node: &Node, forest: &Forest, sums: Sums) -> Result<Raw, OpError> {
    let Sums { sums: arg, rows, columns, .. } = sums;
    if forest.base.is_empty() {
        return Ok(Raw { arg, rows, columns });
    }
    let base = weights(cx, node, "base", bits(&forest.base))?;
    let to = cx.scratch(rows.saturating_mul(columns));
    let kernel =
        KernelBuilder::new("tree_base").raw("sums", "array<f32>").read("base", Repr::F32).raw("y", "array<f32>");
    let text = "    y[row] = sums[row] + load_base(row % param.columns % param.bases);\n";
    let numbers =
        Params::sizes([("rows", rows.saturating_mul(columns)), ("columns", columns), ("bases", forest.base.len())])?;
    by_row(cx, kernel, vec![arg, base, to], "", text, numbers, (rows.saturating_mul(columns), 0));
    Ok(Raw { arg: to, rows, columns })
}

fn lower_regressor(node: &Node, cx: &mut Lowering<'_>) -> Result<(), OpError> {
    let is_ensemble = node.op == "TreeEnsemble";
    let forest = if is_ensemble { Forest::of_ensemble(node)? } else { Forest::of_targets(node)? };
    let transform = if is_ensemble { Transform::numbered(node)? } else { Transform::named(node)? };
    let y = cx.output(node, 0)?;
    if y.elements() == 0 {
        return Ok(());
    }
    let sums = walk(cx, node, &forest)?;
    based(cx, node, &forest, sums)?.write(cx, transform, y.arg)
}

fn lower_classifier(node: &Node, cx: &mut Lowering<'_>) -> Result<(), OpError> {
    let class_words = class_labels(node)?;
    let classes = class_words.len();
    let forest = Forest::of_classes(node, classes)?;
    let infos = cx.input_infos(node);
    let [rows, _features] = table_of(Inputs(&infos))?;
    if rows == 0 {
        return Ok(());
    }
    let sums = walk(cx, node, &forest)?;
    if classes <= 2 {
        return two_classes(cx, node, &forest, sums, class_words);
    }
    let raw = based(cx, node, &forest, sums)?;
    if let Some(id) = node.output(0) {
        let y = cx.place(id).arg;
        let class_labels = weights(cx, node, "labels", class_words)?;
        let kernel = KernelBuilder::new("tree_label")
            .raw("raw", "array<f32>")
            .raw("hits", "array<u32>")
            .read("labels", Repr::I32)
            .raw("y", "array<i32>");
        // A class that no leaf had does not take part, unless it has a base value.
        let text = "    let at = row * param.columns;
    var best = 0u; var found = false;
    for (var c = 0u; c < param.columns; c++) {
        let counts = hits[at + c] > 0u || param.bases > 0u;
        if (counts && (!found || raw[at + c] > raw[at + best])) { best = c; found = true; }
    }
    y[row] = load_labels(best);
";
        let numbers = Params::sizes([("rows", rows), ("columns", classes), ("bases", forest.base.len())])?;
        by_row(cx, kernel, vec![raw.arg, sums.hits, class_labels, y], "", text, numbers, (rows, classes));
    }
    match node.output(1) {
        Some(id) => {
            let y = cx.place(id).arg;
            raw.write(cx, Transform::named(node)?, y)
        }
        None => Ok(()),
    }
}

/// Scores and label of one or two classes, with ONNX Runtime's rules for a single score.
fn two_classes(
    cx: &mut Lowering<'_>,
    node: &Node,
    forest: &Forest,
    sums: Sums,
    class_words: Vec<u32>,
) -> Result<(), OpError> {
    let logistic = Transform::named(node)? == Transform::Logistic;
    // Where all leaves are of one class, the score is that of the second class.
    let single_class = class_words.len() == 2 && forest.leaf_columns() == 1;
    let base_one = match (sums.columns, forest.base.len()) {
        (2, 2) => {
            "if (has_1) { s_1 = load_base(1u) + s_0; s_0 = -s_1; } else { s_1 += load_base(1u); s_0 += load_base(0u); has_1 = true; }"
        }
        (1, 2) => "s_1 = load_base(1u) + s_0; s_0 = -s_1; has_1 = true;",
        (_, 1) => "s_0 += load_base(0u);",
        _ => "",
    };
    let (label, second) = match (single_class, forest.all_positive()) {
        (true, true) if logistic => ("positive > 0.5", "z_0 = logistic(-s_0); z_1 = logistic(s_0);"),
        (true, true) => ("positive > 0.5", "z_0 = 1.0 - s_0; z_1 = s_0;"),
        (true, false) if logistic => ("positive > 0.0", "z_0 = logistic(-s_0); z_1 = logistic(s_0);"),
        (true, false) => ("positive > 0.0", "z_0 = -s_0; z_1 = s_0;"),
        // A single score without a second class is written alone.
        (false, _) => ("positive > 0.0", "z_0 = s_0; z_1 = 0.0;"),
    };
    let both = match Transform::named(node)? {
        Transform::None | Transform::Probit => "z_0 = s_0; z_1 = s_1;",
        Transform::Logistic => "z_0 = logistic(s_0); z_1 = logistic(s_1);",
        Transform::Softmax => {
            "let top = max(s_0, s_1); let e_0 = exp(s_0 - top); let e_1 = exp(s_1 - top);
        z_0 = e_0 / (e_0 + e_1); z_1 = e_1 / (e_0 + e_1);"
        }
        Transform::SoftmaxZero => {
            "let top = max(s_0, s_1); let n_0 = abs(s_0) > 1e-7; let n_1 = abs(s_1) > 1e-7;
        let e_0 = select(s_0 * exp(-top), exp(s_0 - top), n_0); let e_1 = select(s_1 * exp(-top), exp(s_1 - top), n_1);
        let sum = select(0.0, e_0, n_0) + select(0.0, e_1, n_1);
        z_0 = e_0 / sum; z_1 = e_1 / sum;"
        }
    };
    let second_sum =
        if sums.columns == 2 { "s_1 = sums[2u * row + 1u]; has_1 = hits[2u * row + 1u] > 0u;" } else { "" };
    let text = format!(
        "    var s_0 = sums[param.columns * row]; var s_1 = 0.0; var has_1 = false;
    {second_sum}
    {base_one}
    let positive = select(s_0, s_1, has_1);
    var z_0 = 0.0; var z_1 = 0.0;
    if (has_1) {{ {both} }} else {{ {second} }}
    {store_label}{store_scores}",
        store_label = if node.output(0).is_some() { "y[row] = load_labels(select(0u, 1u, LABEL));\n" } else { "" },
        store_scores = if node.output(1).is_some() { "    z[2u * row] = z_0; z[2u * row + 1u] = z_1;\n" } else { "" },
    );
    let text = text.replace("LABEL", label);
    // Where leaves answer for both classes, ONNX Runtime gives 0 and 1 whatever the labels are.
    let pair = if single_class { class_words } else { vec![0, 1] };
    let class_labels = weights(cx, node, "labels", pair)?;
    let base = weights(cx, node, "base", bits(&forest.base))?;
    let mut kernel = KernelBuilder::new("two_classes")
        .raw("sums", "array<f32>")
        .raw("hits", "array<u32>")
        .read("base", Repr::F32)
        .read("labels", Repr::I32);
    let mut args = vec![sums.sums, sums.hits, base, class_labels];
    for (at, (name, array)) in [("y", "array<i32>"), ("z", "array<f32>")].into_iter().enumerate() {
        if let Some(id) = node.output(at) {
            kernel = kernel.raw(name, array);
            args.push(cx.place(id).arg);
        }
    }
    let numbers = Params::sizes([("rows", sums.rows), ("columns", sums.columns)])?;
    by_row(cx, kernel, args, FUNCTIONS, &text, numbers, (sums.rows, 0));
    Ok(())
}
