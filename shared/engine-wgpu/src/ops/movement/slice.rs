//! Operators whose outputs are windows of their one input: Transpose, Slice, Split, Expand, Tile, depth and space.

use crate::error::OpError;
use crate::ir::Node;
use crate::ops::movement::window::{Step, Window, evaluate, infer, lower, signed_strides};
use crate::ops::movement::{integers, numbers, optional_integers, size};
use crate::ops::rule::Rule;
use crate::shape::{axis, broadcast};
use crate::value_info::Inputs;

/// The operators of this family.
pub(crate) const RULES: &[Rule] = &[
    Rule::device("Transpose", |n, i| infer(n, i, transpose), |n, c| lower(n, c, transpose))
        .with_host(|n, i| evaluate(n, i, transpose)),
    Rule::device("Slice", |n, i| infer(n, i, slice), |n, c| lower(n, c, slice)).with_host(|n, i| evaluate(n, i, slice)),
    // ONNX Runtime's own before operator set 10: `Slice` with inputs instead of attributes.
    Rule::device("DynamicSlice", |n, i| infer(n, i, dynamic_slice), |n, c| lower(n, c, dynamic_slice))
        .with_host(|n, i| evaluate(n, i, dynamic_slice)),
    Rule::device("Split", |n, i| infer(n, i, split), |n, c| lower(n, c, split)).with_host(|n, i| evaluate(n, i, split)),
    Rule::device("Expand", |n, i| infer(n, i, expand), |n, c| lower(n, c, expand))
        .with_host(|n, i| evaluate(n, i, expand)),
    Rule::device("Tile", |n, i| infer(n, i, tile), |n, c| lower(n, c, tile)).with_host(|n, i| evaluate(n, i, tile)),
    Rule::device("DepthToSpace", |n, i| infer(n, i, depth_to_space), |n, c| lower(n, c, depth_to_space))
        .with_host(|n, i| evaluate(n, i, depth_to_space)),
    Rule::device("SpaceToDepth", |n, i| infer(n, i, space_to_depth), |n, c| lower(n, c, space_to_depth))
        .with_host(|n, i| evaluate(n, i, space_to_depth)),
];

/// The same window with its dimensions in another order, each named by its place in `window`.
fn reordered(window: &Window, order: &[usize], shape: Vec<usize>) -> Window {
    let steps = order.iter().filter_map(|&at| window.steps.get(at)).copied().collect();
    Window { shape, steps, offset: window.offset }
}

fn transpose(node: &Node, inputs: Inputs<'_>) -> Result<Vec<Window>, OpError> {
    let x = &inputs.at(0)?.shape;
    let order: Vec<usize> = match node.attributes.ints("perm")? {
        None => (0..x.len()).rev().collect(),
        Some(wanted) => wanted.iter().map(|&at| axis(at, x.len())).collect::<Result<_, _>>()?,
    };
    let mut seen = vec![false; x.len()];
    order.iter().for_each(|&at| seen[at] = true);
    if order.len() != x.len() || seen.contains(&false) {
        return Err(OpError::invalid(format!("perm {order:?} does not order {} dimensions", x.len())));
    }
    let shape = order.iter().map(|&at| x[at]).collect();
    Ok(vec![reordered(&Window::whole(x), &order, shape)])
}

/// Returns start, number of elements and stride of a slice of one dimension.
fn range(n: usize, start: i64, end: i64, step: i64) -> Result<(i64, Step), OpError> {
    if step == 0 {
        return Err(OpError::invalid("a slice steps by zero"));
    }
    // 128 bits, because the idioms for "to the end" are the ends of 64.
    let n = i128::try_from(n).map_err(|_wide| OpError::TooLarge(vec![n]))?;
    let (start, end, step) = (i128::from(start), i128::from(end), i128::from(step));
    let from_end = |at: i128| if at < 0 { at + n } else { at };
    let (low, high) = if step > 0 { (0, n) } else { (-1, n - 1) };
    let (start, end) = (from_end(start).clamp(low, high), from_end(end).clamp(low, high));
    let span = if step > 0 { end - start } else { start - end };
    let count = if span > 0 { (span + step.abs() - 1) / step.abs() } else { 0 };
    let narrow = |value: i128| i64::try_from(value).map_err(|_wide| OpError::invalid("a slice steps out of bounds"));
    // A step over the whole dimension is never taken twice.
    let stride = if count > 1 { narrow(step)? } else { 1 };
    let count = usize::try_from(count).map_err(|_wide| OpError::invalid("a slice has no size"))?;
    Ok((if count == 0 { 0 } else { narrow(start)? }, Step { size: count, stride }))
}

fn dynamic_slice(node: &Node, inputs: Inputs<'_>) -> Result<Vec<Window>, OpError> {
    slice(&Node { op: "Slice".into(), opset: 10, ..node.clone() }, inputs)
}

fn slice(node: &Node, inputs: Inputs<'_>) -> Result<Vec<Window>, OpError> {
    let x = &inputs.at(0)?.shape;
    let required = |name: &str, at: usize| {
        numbers(node, inputs, name, at)?.ok_or_else(|| OpError::invalid(format!("it has no {name}")))
    };
    let (starts, ends) = (required("starts", 1)?, required("ends", 2)?);
    let axes = numbers(node, inputs, "axes", 3)?;
    let steps = optional_integers(inputs, 4)?;
    let lengths = [Some(ends.len()), axes.as_ref().map(Vec::len), steps.as_ref().map(Vec::len)];
    if lengths.into_iter().flatten().any(|length| length != starts.len()) {
        return Err(OpError::invalid("its starts, ends, axes and steps differ in length"));
    }
    let mut window = Window::whole(x);
    let mut seen = vec![false; x.len()];
    for (k, (&start, &end)) in starts.iter().zip(&ends).enumerate() {
        let default = i64::try_from(k).unwrap_or(i64::MAX);
        let at = axis(axes.as_ref().map_or(default, |axes| axes[k]), x.len())?;
        if std::mem::replace(&mut seen[at], true) {
            return Err(OpError::invalid(format!("axis {at} is sliced twice")));
        }
        let (first, step) = range(x[at], start, end, steps.as_ref().map_or(1, |steps| steps[k]))?;
        let stride = window.steps[at].stride;
        window.offset += first * stride;
        window.steps[at] = Step { size: step.size, stride: step.stride * stride };
        window.shape[at] = step.size;
    }
    Ok(vec![window])
}

fn split(node: &Node, inputs: Inputs<'_>) -> Result<Vec<Window>, OpError> {
    let x = &inputs.at(0)?.shape;
    let at = axis(node.attributes.int("axis", 0)?, x.len())?;
    let sizes: Vec<usize> = match numbers(node, inputs, "split", 1)? {
        Some(sizes) => sizes.into_iter().map(size).collect::<Result<_, _>>()?,
        None => {
            let outputs = i64::try_from(node.outputs.len()).unwrap_or(i64::MAX);
            let parts = size(node.attributes.int("num_outputs", outputs)?)?;
            if parts == 0 || parts > node.outputs.len() {
                return Err(OpError::invalid(format!("{parts} parts for {} outputs", node.outputs.len())));
            }
            let part = x[at].div_ceil(parts);
            (0..parts).map(|k| part.min(x[at].saturating_sub(k * part))).collect()
        }
    };
    let total = sizes.iter().try_fold(0_usize, |total, &size| total.checked_add(size));
    if total != Some(x[at]) || sizes.len() < node.outputs.len() {
        return Err(OpError::invalid(format!("sizes {sizes:?} do not split {x:?} at axis {at}")));
    }
    let whole = Window::whole(x);
    let stride = whole.steps[at].stride;
    let mut begin = 0;
    let mut windows = Vec::with_capacity(sizes.len());
    for size in sizes {
        let mut window = whole.clone();
        window.shape[at] = size;
        window.steps[at].size = size;
        window.offset = if size == 0 { 0 } else { begin * stride };
        begin += i64::try_from(size).unwrap_or(i64::MAX);
        windows.push(window);
    }
    Ok(windows)
}

fn expand(_node: &Node, inputs: Inputs<'_>) -> Result<Vec<Window>, OpError> {
    let x = &inputs.at(0)?.shape;
    let wanted: Vec<usize> = integers(inputs, 1)?.into_iter().map(size).collect::<Result<_, _>>()?;
    let shape = broadcast(x, &wanted)?;
    let own = Window::whole(x);
    let fresh = shape.len() - x.len();
    let step = |at: usize| {
        let own = at.checked_sub(fresh).map(|at| own.steps[at]).filter(|step| step.size == shape[at]);
        own.unwrap_or(Step { size: shape[at], stride: 0 })
    };
    Ok(vec![Window { steps: (0..shape.len()).map(step).collect(), shape, offset: 0 }])
}

fn tile(_node: &Node, inputs: Inputs<'_>) -> Result<Vec<Window>, OpError> {
    let x = &inputs.at(0)?.shape;
    let repeats: Vec<usize> = integers(inputs, 1)?.into_iter().map(size).collect::<Result<_, _>>()?;
    if repeats.len() != x.len() {
        return Err(OpError::invalid(format!("{} repeats for {} dimensions", repeats.len(), x.len())));
    }
    let sizes = x.iter().zip(&repeats);
    let shape: Option<Vec<usize>> = sizes.map(|(&size, &repeat)| size.checked_mul(repeat)).collect();
    let shape = shape.ok_or_else(|| OpError::TooLarge(repeats.clone()))?;
    let own = Window::whole(x).steps;
    let steps = own.into_iter().zip(repeats).flat_map(|(own, repeat)| [Step { size: repeat, stride: 0 }, own]);
    Ok(vec![Window { shape, steps: steps.collect(), offset: 0 }])
}

/// The four sizes of an image batch, and the block size.
fn image(node: &Node, inputs: Inputs<'_>) -> Result<([usize; 4], usize), OpError> {
    let x = &inputs.at(0)?.shape;
    let block = size(node.attributes.int("blocksize", 0)?)?;
    match (x.as_slice(), block) {
        (&[n, c, h, w], 1..) => Ok(([n, c, h, w], block)),
        _ => Err(OpError::invalid(format!("shape {x:?} with block size {block}"))),
    }
}

/// Reads the input under a shape of six dimensions and puts those in another order.
fn regrouped(six: [usize; 6], order: [usize; 6], shape: Vec<usize>) -> Window {
    let strides = signed_strides(&six);
    let steps = six.iter().zip(strides).map(|(&size, stride)| Step { size, stride }).collect();
    reordered(&Window { shape: Vec::new(), steps, offset: 0 }, &order, shape)
}

fn depth_to_space(node: &Node, inputs: Inputs<'_>) -> Result<Vec<Window>, OpError> {
    let ([n, c, h, w], block) = image(node, inputs)?;
    let square = block.checked_mul(block).filter(|square| c % square == 0);
    let Some(square) = square else { return Err(OpError::invalid(format!("{c} channels in blocks of {block}"))) };
    let depth = c / square;
    let (Some(high), Some(wide)) = (h.checked_mul(block), w.checked_mul(block)) else {
        return Err(OpError::TooLarge(vec![n, c, h, w]));
    };
    let shape = vec![n, depth, high, wide];
    Ok(vec![match node.attributes.text("mode", "DCR")? {
        "DCR" => regrouped([n, block, block, depth, h, w], [0, 3, 4, 1, 5, 2], shape),
        "CRD" => regrouped([n, depth, block, block, h, w], [0, 1, 4, 2, 5, 3], shape),
        other => return Err(OpError::invalid(format!("mode {other:?}"))),
    }])
}

fn space_to_depth(node: &Node, inputs: Inputs<'_>) -> Result<Vec<Window>, OpError> {
    let ([n, c, h, w], block) = image(node, inputs)?;
    if h % block != 0 || w % block != 0 {
        return Err(OpError::invalid(format!("{h} x {w} in blocks of {block}")));
    }
    let channels = block.checked_mul(block).and_then(|square| square.checked_mul(c));
    let channels = channels.ok_or_else(|| OpError::TooLarge(vec![n, c, h, w]))?;
    let (high, wide) = (h / block, w / block);
    // The mode came with operator set 28; before, depth was always the outermost.
    let order = match node.attributes.text("mode", "DCR")? {
        "DCR" => [0, 3, 5, 1, 2, 4],
        "CRD" => [0, 1, 3, 5, 2, 4],
        other => return Err(OpError::invalid(format!("mode {other:?}"))),
    };
    Ok(vec![regrouped([n, c, high, block, wide, block], order, vec![n, channels, high, wide])])
}
