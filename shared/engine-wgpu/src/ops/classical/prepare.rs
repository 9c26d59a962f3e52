//! Preparation of features: Scaler, Normalizer, Binarizer, Imputer, FeatureVectorizer, ArrayFeatureExtractor.

use super::{DOMAIN, bits, floats, ints, table, table_of, weights, words};
use crate::error::OpError;
use crate::ir::{Attribute, ElementType, Node};
use crate::lower::{
    Effort, GROUPS_MAX, KernelBuilder, Lowering, Params, Repr, THREADS, element_groups, linear_groups, steps,
};
use crate::ops::elementwise::math;
use crate::ops::movement::gather;
use crate::ops::rule::Rule;
use crate::shape::axis;
use crate::value_info::{Inputs, ValueInfo};

/// The operators of this file.
pub(in crate::ops) const RULES: &[Rule] = &[
    Rule::device("Scaler", infer_scaler, lower_scaler).in_domain(DOMAIN),
    Rule::device("Normalizer", infer_normalizer, lower_normalizer).in_domain(DOMAIN),
    Rule::device("Binarizer", infer_same, lower_binarizer).in_domain(DOMAIN),
    Rule::device("Imputer", infer_imputer, lower_imputer).in_domain(DOMAIN),
    Rule::device("FeatureVectorizer", infer_vectorizer, lower_vectorizer).in_domain(DOMAIN),
    Rule::device("ArrayFeatureExtractor", infer_extractor, lower_extractor).in_domain(DOMAIN),
];

fn infer_same(_node: &Node, inputs: Inputs<'_>) -> Result<Vec<ValueInfo>, OpError> {
    let x = inputs.at(0)?;
    Ok(vec![ValueInfo::new(x.dtype, x.shape.clone())])
}

/// Checks that a list holds one number, or one for each feature.
fn one_or_each(name: &str, given: usize, features: usize) -> Result<(), OpError> {
    match given == 1 || given == features {
        true => Ok(()),
        false => Err(OpError::invalid(format!("{name} holds {given} numbers for {features} features"))),
    }
}

fn infer_scaler(node: &Node, inputs: Inputs<'_>) -> Result<Vec<ValueInfo>, OpError> {
    let [_rows, features] = table_of(inputs)?;
    for name in ["offset", "scale"] {
        one_or_each(name, floats(node, name)?.len(), features)?;
    }
    Ok(vec![ValueInfo::new(ElementType::F32, inputs.at(0)?.shape.clone())])
}

fn lower_scaler(node: &Node, cx: &mut Lowering<'_>) -> Result<(), OpError> {
    let (x, y) = (cx.input(node, 0)?, cx.output(node, 0)?);
    let (offset, scale) = (floats(node, "offset")?, floats(node, "scale")?);
    let numbers = Params::sizes([("elements", y.elements()), ("offsets", offset.len()), ("scales", scale.len())])?;
    let offset = weights(cx, node, "offset", bits(offset))?;
    let scale = weights(cx, node, "scale", bits(scale))?;
    let kernel = KernelBuilder::new("scaler")
        .read("x", x.repr)
        .read("offset", Repr::F32)
        .read("scale", Repr::F32)
        .text(
            "fn element(i: u32) -> f32 {
    return (f32(load_x(i)) - load_offset(i % param.offsets)) * load_scale(i % param.scales);
}",
        )
        .element(y.repr);
    let (groups, work) = (element_groups(y.elements(), y.repr), y.elements() as u64);
    cx.dispatch(kernel, vec![x.arg, offset, scale, y.arg], numbers, groups, work);
    Ok(())
}

fn infer_normalizer(node: &Node, inputs: Inputs<'_>) -> Result<Vec<ValueInfo>, OpError> {
    table_of(inputs)?;
    norm(node)?;
    Ok(vec![ValueInfo::new(ElementType::F32, inputs.at(0)?.shape.clone())])
}

/// WGSL of one step of the norm over `v`, and of an element `v` by the norm `n` that is not 0.
fn norm(node: &Node) -> Result<(&'static str, &'static str), OpError> {
    Ok(match node.attributes.text("norm", "MAX")? {
        // As ONNX Runtime computes it: the largest value, not the largest size.
        "MAX" => ("norm = select(max(norm, v), v, c == 0u);", "v / n"),
        "L1" => ("norm += abs(v);", "v / n"),
        "L2" => ("norm += v * v;", "select(1.0, -1.0, v < 0.0) * sqrt(v * v / n)"),
        other => return Err(OpError::invalid(format!("the norm {other:?}"))),
    })
}

fn lower_normalizer(node: &Node, cx: &mut Lowering<'_>) -> Result<(), OpError> {
    let infos = cx.input_infos(node);
    let [rows, features] = table_of(Inputs(&infos))?;
    let (x, y) = (cx.input(node, 0)?, cx.output(node, 0)?);
    if y.elements() == 0 {
        return Ok(());
    }
    let (step, value) = norm(node)?;
    let norms = cx.scratch(rows);
    let body = format!("let v = f32(load_x(i * param.features + c)); {step}");
    let (loop_text, rounds) = steps("c", "param.features", features, &body);
    let text = format!("fn element(i: u32) -> f32 {{\n    var norm = 0.0;\n{loop_text}    return norm;\n}}");
    let kernel = KernelBuilder::new("row_norm").read("x", x.repr).text(&text).element(Repr::F32);
    let numbers = Params::sizes([("elements", rows), ("features", features)])?;
    let effort = Effort::looping(x.elements() as u64, rounds);
    cx.dispatch(kernel, vec![x.arg, norms], numbers, element_groups(rows, Repr::F32), effort);
    let text = format!(
        "fn element(i: u32) -> f32 {{
    let v = f32(load_x(i)); let n = load_norms(i / param.features);
    return select({value}, v, n == 0.0);
}}"
    );
    let kernel =
        KernelBuilder::new("normalizer").read("x", x.repr).read("norms", Repr::F32).text(&text).element(y.repr);
    let numbers = Params::sizes([("elements", y.elements()), ("features", features)])?;
    let (groups, work) = (element_groups(y.elements(), y.repr), y.elements() as u64);
    cx.dispatch(kernel, vec![x.arg, norms, y.arg], numbers, groups, work);
    Ok(())
}

fn lower_binarizer(node: &Node, cx: &mut Lowering<'_>) -> Result<(), OpError> {
    let (x, y) = (cx.input(node, 0)?, cx.output(node, 0)?);
    let threshold = node.attributes.float("threshold", 0.0)?;
    let one = y.repr.wgsl();
    let text = format!(
        "fn element(i: u32) -> {one} {{ return select({one}(0), {one}(1), f32(load_x(i)) > bitcast<f32>(param.threshold)); }}"
    );
    let kernel = KernelBuilder::new("binarizer").read("x", x.repr).text(&text).element(y.repr);
    let numbers = Params::sizes([("elements", y.elements())])?.float("threshold", threshold);
    let (groups, work) = (element_groups(y.elements(), y.repr), y.elements() as u64);
    cx.dispatch(kernel, vec![x.arg, y.arg], numbers, groups, work);
    Ok(())
}

/// Words of the value that is replaced, and of those put in its place.
fn imputed(node: &Node, dtype: ElementType) -> Result<(u32, Vec<u32>), OpError> {
    if dtype.is_float() {
        let replaced = node.attributes.float("replaced_value_float", 0.0)?;
        return Ok((replaced.to_bits(), bits(floats(node, "imputed_value_floats")?)));
    }
    let replaced = words("replaced_value_int64", &[node.attributes.int("replaced_value_int64", 0)?])?;
    Ok((replaced.first().copied().unwrap_or(0), words("imputed_value_int64s", ints(node, "imputed_value_int64s")?)?))
}

fn infer_imputer(node: &Node, inputs: Inputs<'_>) -> Result<Vec<ValueInfo>, OpError> {
    let [_rows, features] = table_of(inputs)?;
    let (_replaced, values) = imputed(node, inputs.at(0)?.dtype)?;
    one_or_each("its imputed values", values.len(), features)?;
    infer_same(node, inputs)
}

fn lower_imputer(node: &Node, cx: &mut Lowering<'_>) -> Result<(), OpError> {
    let (x, y) = (cx.input(node, 0)?, cx.output(node, 0)?);
    let Some(id) = node.input(0) else { return Err(OpError::invalid("input 0 is missing")) };
    let (replaced, values) = imputed(node, cx.info(id).dtype)?;
    let numbers = Params::sizes([("elements", y.elements()), ("values", values.len())])?.word("replaced", replaced);
    let values = weights(cx, node, "imputed", values)?;
    let one = y.repr.wgsl();
    let equal = match x.repr {
        Repr::F32 => "(v == r || (is_nan(v) && is_nan(r)))",
        Repr::I32 | Repr::U32 | Repr::I8x4 | Repr::U8x4 => "(v == r)",
    };
    let text = format!(
        "fn element(i: u32) -> {one} {{
    let v = load_x(i); let r = bitcast<{one}>(param.replaced);
    return select(v, load_values(i % param.values), {equal});
}}"
    );
    let kernel = KernelBuilder::new("imputer")
        .read("x", x.repr)
        .read("values", x.repr.unpacked())
        .text(&math::needed_by(&text))
        .text(&text)
        .element(y.repr);
    let (groups, work) = (element_groups(y.elements(), y.repr), y.elements() as u64);
    cx.dispatch(kernel, vec![x.arg, values, y.arg], numbers, groups, work);
    Ok(())
}

/// Rows, and for each input its features and the columns it fills.
fn vectorizer(node: &Node, inputs: Inputs<'_>) -> Result<(usize, Vec<[usize; 2]>), OpError> {
    let wanted = ints(node, "inputdimensions")?;
    if wanted.len() != inputs.len() || wanted.is_empty() {
        return Err(OpError::invalid(format!("{} inputdimensions for {} inputs", wanted.len(), inputs.len())));
    }
    let (mut rows, mut columns) = (None, Vec::with_capacity(wanted.len()));
    for (at, &wanted) in wanted.iter().enumerate() {
        let [own, features] = table(inputs.at(at)?)?;
        if *rows.get_or_insert(own) != own {
            return Err(OpError::invalid("its inputs have different numbers of rows"));
        }
        columns.push([features, super::index("inputdimensions", wanted)?]);
    }
    Ok((rows.unwrap_or(0), columns))
}

fn infer_vectorizer(node: &Node, inputs: Inputs<'_>) -> Result<Vec<ValueInfo>, OpError> {
    let (rows, columns) = vectorizer(node, inputs)?;
    let width = columns.iter().try_fold(0_usize, |sum, [_features, width]| sum.checked_add(*width));
    let width = width.ok_or_else(|| OpError::TooLarge(vec![rows]))?;
    Ok(vec![ValueInfo::new(ElementType::F32, vec![rows, width])])
}

fn lower_vectorizer(node: &Node, cx: &mut Lowering<'_>) -> Result<(), OpError> {
    let infos = cx.input_infos(node);
    let (rows, columns) = vectorizer(node, Inputs(&infos))?;
    let y = cx.output(node, 0)?;
    let total = y.shape.last().copied().unwrap_or(0);
    let mut first = 0;
    for (at, [features, width]) in columns.into_iter().enumerate() {
        let x = cx.input(node, at)?;
        let threads = rows.saturating_mul(width);
        if threads == 0 {
            continue;
        }
        // A longer input is cut, a shorter one filled up with zeros.
        let text = format!(
            "@compute @workgroup_size({THREADS})
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {{
    let i = (group.y * {GROUPS_MAX}u + group.x) * {THREADS}u + lane;
    if (i >= param.threads) {{ return; }}
    let row = i / param.width; let c = i % param.width;
    var v = 0.0;
    if (c < param.features) {{ v = f32(load_x(row * param.features + c)); }}
    y[row * param.total + param.first + c] = v;
}}"
        );
        let kernel =
            KernelBuilder::new("feature_vectorizer").read("x", x.repr).raw("y", "array<f32>").text(&text).finish();
        let numbers = Params::sizes([
            ("threads", threads),
            ("width", width),
            ("features", features),
            ("total", total),
            ("first", first),
        ])?;
        let groups = linear_groups(threads.div_ceil(THREADS as usize));
        cx.dispatch(kernel, vec![x.arg, y.arg], numbers, groups, threads as u64);
        first += width;
    }
    Ok(())
}

/// The same selection as a `Gather` along the last axis; only the shape of the result differs.
fn as_gather(node: &Node) -> Node {
    let mut gather = node.clone();
    (gather.domain, gather.op, gather.opset) = (String::new(), "Gather".into(), 13);
    gather.attributes.insert("axis", Attribute::Int(-1));
    gather
}

fn infer_extractor(node: &Node, inputs: Inputs<'_>) -> Result<Vec<ValueInfo>, OpError> {
    let (x, indices) = (inputs.at(0)?, inputs.at(1)?);
    axis(-1, x.rank())?;
    let gathered = gather::infer_gather(&as_gather(node), inputs)?;
    let dtype = gathered.first().map_or(x.dtype, |info| info.dtype);
    let mut shape = match x.rank() {
        1 => vec![1],
        rank => x.shape[..rank - 1].to_vec(),
    };
    shape.push(indices.elements());
    Ok(vec![ValueInfo::new(dtype, shape)])
}

fn lower_extractor(node: &Node, cx: &mut Lowering<'_>) -> Result<(), OpError> {
    gather::lower_gather(&as_gather(node), cx)
}
