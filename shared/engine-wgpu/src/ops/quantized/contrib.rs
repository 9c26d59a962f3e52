//! ONNX Runtime's arithmetic on quantized tensors: `QLinearAdd`, `QLinearMul`, `QLinearSigmoid`, `QLinearLeakyRelu`,
//! `QLinearConcat` and the average pools.
//!
//! Each brings its operands back to real numbers, computes, and quantizes again, in one kernel. Scales and zero points are
//! gathered into one small table first, because a kernel may not bind nine tensors.

use super::gemm::narrow;
use super::geometry::{Window, names};
use super::{MICROSOFT, check_bytes, limits};
use crate::error::OpError;
use crate::ir::Node;
use crate::lower::{
    Arg, Effort, GROUPS_MAX, KernelBuilder, Lowering, Operand, Params, Repr, THREADS, element_groups, linear_groups,
    nested_steps,
};
use crate::ops::rule::Rule;
use crate::shape::{axis, broadcast, broadcast_strides, strides};
use crate::value_info::{Inputs, ValueInfo};

/// The operators of this room.
pub(in crate::ops) const RULES: &[Rule] = &[
    Rule::device("QLinearAdd", infer_binary, |node, cx| {
        binary(node, cx, "(a - n(1u)) * (n(0u) / n(4u)) + (b - n(3u)) * (n(2u) / n(4u))")
    })
    .in_domain(MICROSOFT),
    Rule::device("QLinearMul", infer_binary, |node, cx| {
        binary(node, cx, "(a - n(1u)) * (b - n(3u)) * (n(0u) * n(2u) / n(4u))")
    })
    .in_domain(MICROSOFT),
    Rule::device("QLinearSigmoid", infer_unary, |node, cx| unary(node, cx, "1.0 / (1.0 + exp(-x))"))
        .in_domain(MICROSOFT),
    Rule::device("QLinearLeakyRelu", infer_unary, |node, cx| {
        unary(node, cx, "select(x, x * bitcast<f32>(param.alpha), x < 0.0)")
    })
    .in_domain(MICROSOFT),
    Rule::device("QLinearConcat", infer_concat, lower_concat).in_domain(MICROSOFT),
    Rule::device("QLinearAveragePool", infer_pool, lower_pool).in_domain(MICROSOFT),
    Rule::device("QLinearGlobalAveragePool", infer_global, lower_global).in_domain(MICROSOFT),
];

/// The scalars at these inputs as one table of `f32`; a missing zero point is 0.
fn numbers(node: &Node, cx: &mut Lowering<'_>, places: &[usize]) -> Result<Arg, OpError> {
    let output = node.output(0).ok_or_else(|| OpError::invalid("output 0 is missing"))?;
    for &at in places {
        if node.input(at).is_some_and(|id| cx.info(id).elements() != 1) {
            return Err(OpError::invalid(format!("input {at} is not one number")));
        }
    }
    let known = |at: &usize| match node.input(*at) {
        None => Some(0.0_f32),
        Some(id) => cx.info(id).known.as_ref().and_then(|literal| literal.to_f32s().first().copied()),
    };
    let values: Option<Vec<f32>> = places.iter().map(known).collect();
    if let Some(values) = values {
        let name = format!("numbers {places:?}");
        return cx.table(output, &name, || Ok(values.into_iter().map(f32::to_bits).collect()));
    }
    let out = cx.scratch(places.len());
    let mut kernel = KernelBuilder::new("gather_numbers");
    let mut args = Vec::new();
    let mut arms = String::new();
    for (case, &at) in places.iter().enumerate() {
        if let Some(operand) = cx.optional_input(node, at)? {
            kernel = kernel.read(&format!("n{at}"), operand.repr);
            args.push(operand.arg);
            arms.push_str(&format!("case {case}u: {{ return f32(load_n{at}(0u)); }}\n"));
        }
    }
    args.push(out);
    let text = format!("fn element(i: u32) -> f32 {{ switch (i) {{ {arms} default: {{ return 0.0; }} }} }}");
    let count = places.len();
    let groups = element_groups(count, Repr::F32);
    cx.dispatch(
        kernel.text(&text).element(Repr::F32),
        args,
        Params::sizes([("elements", count)])?,
        groups,
        count as u64,
    );
    Ok(out)
}

/// `fn n(k)`: the table; `fn quantize(x)`: from output steps to the output's type, its zero point being number `point`.
fn text(point: usize, wgsl: &str, (low, high): (i32, i32)) -> String {
    format!(
        "fn n(k: u32) -> f32 {{ return load_numbers(k); }}
fn quantize(x: f32) -> {wgsl} {{ return {wgsl}(clamp(round(x) + n({point}u), {low}.0, {high}.0)); }}"
    )
}

fn infer_binary(_node: &Node, inputs: Inputs<'_>) -> Result<Vec<ValueInfo>, OpError> {
    let (a, b) = (inputs.at(0)?, inputs.at(3)?);
    check_bytes(a)?;
    check_bytes(b)?;
    Ok(vec![ValueInfo::new(a.dtype, broadcast(&a.shape, &b.shape)?)])
}

fn output_limits(node: &Node, cx: &Lowering<'_>) -> Result<(i32, i32), OpError> {
    let id = node.output(0).ok_or_else(|| OpError::invalid("output 0 is missing"))?;
    limits(cx.info(id).dtype)
}

/// Numbers: scale and zero point of `a`, of `b`, of the output.
fn binary(node: &Node, cx: &mut Lowering<'_>, expression: &str) -> Result<(), OpError> {
    let table = numbers(node, cx, &[1, 2, 4, 5, 6, 7])?;
    let (a, b, y) = (cx.input(node, 0)?, cx.input(node, 3)?, cx.output(node, 0)?);
    let (rank, wgsl) = (y.shape.len(), y.repr.wgsl());
    let limits = output_limits(node, cx)?;
    let kernel = KernelBuilder::new("quantized_binary")
        .read("a", a.repr)
        .read("b", b.repr)
        .read("numbers", Repr::F32)
        .text(&text(5, wgsl, limits))
        .text(&format!(
            "fn element(i: u32) -> {wgsl} {{
    var rest = i; var at_a = 0u; var at_b = 0u;
    for (var d = 0u; d < {rank}u; d++) {{
        let index = rest / param.stride[d];
        rest = rest % param.stride[d];
        at_a += index * param.a_stride[d];
        at_b += index * param.b_stride[d];
    }}
    let a = f32(load_a(at_a)); let b = f32(load_b(at_b));
    return quantize({expression});
}}"
        ))
        .element(y.repr);
    let elements = y.elements();
    let sizes = Params::new().size("elements", elements)?.list("stride", &strides(&y.shape))?;
    let sizes = sizes.list("a_stride", &broadcast_strides(&a.shape, &y.shape))?;
    let sizes = sizes.list("b_stride", &broadcast_strides(&b.shape, &y.shape))?;
    let groups = element_groups(elements, y.repr);
    cx.dispatch(kernel, vec![a.arg, b.arg, table, y.arg], sizes, groups, elements as u64);
    Ok(())
}

fn infer_unary(_node: &Node, inputs: Inputs<'_>) -> Result<Vec<ValueInfo>, OpError> {
    let x = inputs.at(0)?;
    check_bytes(x)?;
    Ok(vec![ValueInfo::new(x.dtype, x.shape.clone())])
}

/// Default slope of `QLinearLeakyRelu`.
const ALPHA: f32 = 0.01;

/// Numbers: scale and zero point of the input, of the output.
fn unary(node: &Node, cx: &mut Lowering<'_>, expression: &str) -> Result<(), OpError> {
    let table = numbers(node, cx, &[1, 2, 3, 4])?;
    let (x, y) = (cx.input(node, 0)?, cx.output(node, 0)?);
    let wgsl = y.repr.wgsl();
    let limits = output_limits(node, cx)?;
    let kernel = KernelBuilder::new("quantized_unary")
        .read("x", x.repr)
        .read("numbers", Repr::F32)
        .text(&text(3, wgsl, limits))
        .text(&format!(
            "fn element(i: u32) -> {wgsl} {{
    let x = (f32(load_x(i)) - n(1u)) * n(0u);
    let y = {expression};
    return quantize(y / n(2u));
}}"
        ))
        .element(y.repr);
    let elements = y.elements();
    let sizes = Params::new().size("elements", elements)?.float("alpha", node.attributes.float("alpha", ALPHA)?);
    cx.dispatch(kernel, vec![x.arg, table, y.arg], sizes, element_groups(elements, y.repr), elements as u64);
    Ok(())
}

/// Inputs of `QLinearConcat` before its operands: the output's scale and zero point.
const CONCAT_FIRST: usize = 2;

/// Inputs of one operand: values, scale, zero point.
const CONCAT_STEP: usize = 3;

fn infer_concat(node: &Node, inputs: Inputs<'_>) -> Result<Vec<ValueInfo>, OpError> {
    let first = inputs.at(CONCAT_FIRST)?;
    check_bytes(first)?;
    let at = axis(node.attributes.int("axis", 0)?, first.rank())?;
    let mut shape = first.shape.clone();
    for place in (CONCAT_FIRST + CONCAT_STEP..inputs.len()).step_by(CONCAT_STEP) {
        let next = inputs.at(place)?;
        check_bytes(next)?;
        let fits = next.rank() == shape.len()
            && next.shape.iter().zip(&shape).enumerate().all(|(dim, (a, b))| dim == at || a == b);
        if !fits {
            return Err(OpError::invalid(format!("{:?} does not continue {:?}", next.shape, first.shape)));
        }
        shape[at] = shape[at].saturating_add(next.shape[at]);
    }
    Ok(vec![ValueInfo::new(inputs.at(1)?.dtype, shape)])
}

fn lower_concat(node: &Node, cx: &mut Lowering<'_>) -> Result<(), OpError> {
    let y = cx.output(node, 0)?;
    let at = axis(node.attributes.int("axis", 0)?, y.shape.len())?;
    let inner: usize = y.shape[at + 1..].iter().product();
    let limits = output_limits(node, cx)?;
    // Operands meet inside words: values are put together one a word and packed at the end.
    let whole = cx.scratch(y.elements());
    let mut offset = 0;
    for place in (CONCAT_FIRST..node.inputs.len()).step_by(CONCAT_STEP) {
        let table = numbers(node, cx, &[place + 1, place + 2, 0, 1])?;
        let x = cx.input(node, place)?;
        let elements = x.elements();
        let run = x.shape[at] * inner;
        let kernel = KernelBuilder::new("quantized_concat")
            .read("x", x.repr)
            .read("numbers", Repr::F32)
            .raw("y", "array<i32>")
            .text(&text(3, "i32", limits))
            .text(&format!(
                "@compute @workgroup_size({THREADS})
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {{
    let place = group + group_base();
    let i = (place.y * {GROUPS_MAX}u + place.x) * {THREADS}u + lane;
    if (i >= param.elements) {{ return; }}
    let to = i / param.run * param.row + param.offset + i % param.run;
    let x = load_x(i);
    // The same scale and zero point: ONNX Runtime copies, and so nothing may move by rounding.
    if (n(0u) == n(2u) && n(1u) == n(3u)) {{ y[to] = i32(x); return; }}
    y[to] = quantize((f32(x) - n(1u)) * n(0u) / n(2u));
}}"
            ))
            .finish();
        let sizes =
            Params::sizes([("elements", elements), ("run", run), ("row", y.shape[at] * inner), ("offset", offset)])?;
        let groups = linear_groups(elements.div_ceil(THREADS as usize));
        cx.dispatch(kernel, vec![x.arg, table, whole], sizes, groups, elements as u64);
        offset += run;
    }
    narrow(cx, whole, y.arg, y.repr, y.elements())
}

fn pool_window(node: &Node, x: &[usize]) -> Result<Window, OpError> {
    let [_images, _channels, input @ ..] = x else {
        return Err(OpError::invalid("it pools fewer than two dimensions"));
    };
    let kernel = node.attributes.ints("kernel_shape")?.ok_or_else(|| OpError::invalid("kernel_shape is missing"))?;
    let kernel: Result<Vec<usize>, _> = kernel.iter().map(|&size| usize::try_from(size)).collect();
    Window::of(node, input, &kernel.map_err(|_negative| OpError::invalid("kernel_shape is negative"))?)
}

fn infer_pool(node: &Node, inputs: Inputs<'_>) -> Result<Vec<ValueInfo>, OpError> {
    let x = inputs.at(0)?;
    check_bytes(x)?;
    let first = channels_first(node, &x.shape)?;
    let window = pool_window(node, &first)?;
    let mut shape = first[..2].to_vec();
    shape.extend(window.output_shape());
    Ok(vec![ValueInfo::new(x.dtype, as_stated(node, shape)?)])
}

/// The shape with its channels in second place, wherever they lie.
fn channels_first(node: &Node, shape: &[usize]) -> Result<Vec<usize>, OpError> {
    let mut shape = shape.to_vec();
    if node.attributes.flag("channels_last", false)? && shape.len() > 2 {
        shape[1..].rotate_right(1);
    }
    Ok(shape)
}

/// Undoes [`channels_first`].
fn as_stated(node: &Node, mut shape: Vec<usize>) -> Result<Vec<usize>, OpError> {
    if node.attributes.flag("channels_last", false)? && shape.len() > 2 {
        shape[1..].rotate_left(1);
    }
    Ok(shape)
}

fn lower_pool(node: &Node, cx: &mut Lowering<'_>) -> Result<(), OpError> {
    let x = cx.input(node, 0)?;
    let window = pool_window(node, &channels_first(node, &x.shape)?)?;
    // Like ONNX Runtime: the mean of the real numbers, then quantized; with the padding counts the whole window, even where
    // `ceil_mode` lets it reach beyond.
    let whole = "kernel_d() * kernel_h() * kernel_w()";
    let count = if node.attributes.flag("count_include_pad", false)? { whole } else { "taken" };
    pool(node, cx, &x, &window, &format!("mean / f32({count}) / n(2u)"))
}

fn infer_global(node: &Node, inputs: Inputs<'_>) -> Result<Vec<ValueInfo>, OpError> {
    let x = inputs.at(0)?;
    check_bytes(x)?;
    if x.rank() < 3 {
        return Err(OpError::unsupported("it pools fewer than three dimensions"));
    }
    let mut shape = channels_first(node, &x.shape)?;
    shape[2..].fill(1);
    Ok(vec![ValueInfo::new(x.dtype, as_stated(node, shape)?)])
}

fn lower_global(node: &Node, cx: &mut Lowering<'_>) -> Result<(), OpError> {
    let x = cx.input(node, 0)?;
    let window = Window::whole(&channels_first(node, &x.shape)?[2..])?;
    // Like ONNX Runtime: the sum of the integers, scaled once.
    pool(node, cx, &x, &window, "f32(sum) * (n(0u) / (n(2u) * f32(taken)))")
}

/// Sums windows, as integers and as real numbers; `steps` makes output steps of that. Numbers: scale and zero point of the
/// input, of the output.
fn pool(node: &Node, cx: &mut Lowering<'_>, x: &Operand, window: &Window, steps: &str) -> Result<(), OpError> {
    let table = numbers(node, cx, &[1, 2, 3, 4])?;
    let y = cx.output(node, 0)?;
    let (elements, wgsl) = (y.elements(), y.repr.wgsl());
    // Elements from one place to the next: where channels lie last, all of them.
    let step = if node.attributes.flag("channels_last", false)? { x.shape.last().copied().unwrap_or(1) } else { 1 };
    let mut sizes = Params::sizes([("elements", elements), ("positions", window.positions()), ("step", step)])?;
    sizes.extend(window.params()?);
    let limits = output_limits(node, cx)?;
    let [k0, k1, k2] = window.kernel;
    let tap = "let d = d0 + kd * dilation_d(); let h = h0 + kh * dilation_h(); let w = w0 + kw * dilation_w();
                if (d < input_d() && h < input_h() && w < input_w()) {
                    let x = i32(load_x(base + ((d * input_h() + h) * input_w() + w) * param.step)) - zero;
                    sum += x;
                    mean += f32(x) * n(0u);
                    taken++;
                }";
    let (walk, rounds) = nested_steps("kw", "kernel_w()", k0.saturating_mul(k1), k2, tap);
    let kernel = KernelBuilder::new("quantized_pool")
        .read("x", x.repr)
        .read("numbers", Repr::F32)
        .text(&names())
        .text(&text(3, wgsl, limits))
        .text(&format!(
            "fn element(i: u32) -> {wgsl} {{
    let step = param.step;
    var at = i / step % param.positions;
    let base = i / (step * param.positions) * input_d() * input_h() * input_w() * step + i % step;
    let w0 = (at % output_w()) * stride_w() - pad_w(); at = at / output_w();
    let h0 = (at % output_h()) * stride_h() - pad_h(); let d0 = (at / output_h()) * stride_d() - pad_d();
    let zero = i32(n(1u));
    var sum = 0; var mean = 0.0; var taken = 0u;
    for (var kd = 0u; kd < kernel_d(); kd++) {{
        for (var kh = 0u; kh < kernel_h(); kh++) {{
{walk}        }}
    }}
    return quantize({steps});
}}"
        ))
        .element(y.repr);
    let work = elements as u64 * window.taps() as u64;
    cx.dispatch(
        kernel,
        vec![x.arg, table, y.arg],
        sizes,
        element_groups(elements, y.repr),
        Effort::looping(work, rounds + k0),
    );
    Ok(())
}
