//! DFT and STFT by their definition, one thread an output: frames of sound are short.
//!
//! Sines and cosines come from a table that the host makes, indexed by whole numbers modulo the length: they stay exact for
//! every bin, and no term computes one. Software adapters spent nine tenths of a spectrogram on that.

use crate::error::OpError;
use crate::ir::Node;
use crate::lower::{Effort, KernelBuilder, Lowering, Params, Repr, element_groups, steps};
use crate::ops::movement::{integers, optional_integers, size};
use crate::ops::rule::Rule;
use crate::shape::axis;
use crate::value_info::{Inputs, ValueInfo};

/// The operators of this room.
pub(in crate::ops) const RULES: &[Rule] =
    &[Rule::device("DFT", infer, lower), Rule::device("STFT", infer_stft, lower_stft)];

/// Longest transform: the product of two positions must fit 32 bits.
const LENGTH_MAX: usize = 65_535;

/// A transform along one axis of a tensor whose last dimension is 1 (real) or 2 (complex).
#[derive(Debug)]
struct Transform {
    axis: usize,
    length: usize,
    inverse: bool,
    /// Half a spectrum in, a real signal out.
    real_inverse: bool,
    y: Vec<usize>,
}

fn bounded(length: usize) -> Result<usize, OpError> {
    if (1..=LENGTH_MAX).contains(&length) {
        Ok(length)
    } else {
        Err(OpError::unsupported(format!("a transform of {length}")))
    }
}

fn transform(node: &Node, inputs: Inputs<'_>) -> Result<Transform, OpError> {
    let x = inputs.at(0)?;
    if x.rank() < 2 || !x.dtype.is_float() || !matches!(x.shape.last(), Some(1 | 2)) {
        return Err(OpError::invalid("its input is no signal of real or complex numbers"));
    }
    let stated = match optional_integers(inputs, 2)?.as_deref() {
        Some(&[at]) => at,
        Some(_) => return Err(OpError::invalid("its axis is no scalar")),
        None => node.attributes.int("axis", if node.opset < 20 { 1 } else { -2 })?,
    };
    let at = axis(stated, x.rank())?;
    if at + 1 == x.rank() {
        return Err(OpError::invalid("its axis is that of real and imaginary parts"));
    }
    let inverse = node.attributes.flag("inverse", false)?;
    let onesided = node.attributes.flag("onesided", false)?;
    let real_inverse = inverse && onesided;
    let length = match optional_integers(inputs, 1)?.as_deref() {
        Some(&[length]) => size(length)?,
        Some(_) => return Err(OpError::invalid("its length is no scalar")),
        None if real_inverse => x.shape[at].saturating_sub(1) * 2,
        None => x.shape[at],
    };
    let length = bounded(length)?;
    let mut y = x.shape.clone();
    let last = y.len() - 1;
    y[at] = if onesided && !inverse { length / 2 + 1 } else { length };
    y[last] = if real_inverse { 1 } else { 2 };
    Ok(Transform { axis: at, length, inverse, real_inverse, y })
}

fn infer(node: &Node, inputs: Inputs<'_>) -> Result<Vec<ValueInfo>, OpError> {
    Ok(vec![ValueInfo::new(inputs.at(0)?.dtype, transform(node, inputs)?.y)])
}

/// Returns cosine and sine of each multiple of `1 / length` of a circle, backwards unless `back`, as words of f32.
///
/// Whole quarters come first: what is zero by symmetry is exactly zero.
#[expect(clippy::cast_precision_loss, reason = "lengths are far below 2^53")]
#[expect(clippy::cast_possible_truncation, reason = "computed in f64 and used in f32")]
fn turns(length: usize, back: bool) -> Vec<u32> {
    let mut words = Vec::with_capacity(2 * length);
    for quarters in (0..length).map(|at| 4 * at) {
        let angle = std::f64::consts::FRAC_PI_2 * ((quarters % length) as f64) / (length as f64);
        let (sine, cosine) = angle.sin_cos();
        let (re, im) = match quarters / length {
            0 => (cosine, sine),
            1 => (-sine, cosine),
            2 => (-cosine, -sine),
            _ => (sine, -cosine),
        };
        words.extend([re, if back { im } else { -im }].map(|value| (value as f32).to_bits()));
    }
    words
}

/// Returns WGSL that sums, for one part of one bin, `count` terms from 0 to below `n`, each turned by `k * t / n` of a circle, and
/// the rounds of its loop. `before` is WGSL that sets `place`, the position of the term's number in `x`, and may end in a
/// condition; `weight` multiplies the number; `imaginary` sets `signed`, the imaginary part, from `im`.
fn summed(complex: bool, count: usize, before: &str, weight: &str, imaginary: &str) -> (String, usize) {
    let value = if complex {
        format!(
            "let re = load_x(place){weight}; let im = load_x(place + 1u){weight}; {imaginary}
            let c = bitcast<f32>(load_turns(turn)); let s = bitcast<f32>(load_turns(turn + 1u));
            sum += select(re * c - signed * s, re * s + signed * c, part == 1u);"
        )
    } else {
        format!("sum += load_x(place){weight} * bitcast<f32>(load_turns(turn + part));")
    };
    let term = format!(
        "{before}{{ {value} }}
        turn += 2u * k; if (turn >= 2u * n) {{ turn -= 2u * n; }}"
    );
    let (walk, rounds) = steps("t", "n", count, &term);
    (format!("    var sum = 0.0; var turn = 0u;\n{walk}"), rounds)
}

fn lower(node: &Node, cx: &mut Lowering<'_>) -> Result<(), OpError> {
    let Transform { axis, length, inverse, real_inverse, y: shape } = transform(node, Inputs(&cx.input_infos(node)))?;
    let (x, y) = (cx.input(node, 0)?, cx.output(node, 0)?);
    let id = node.output(0).ok_or_else(|| OpError::invalid("its output is missing"))?;
    let last = shape.len() - 1;
    let inner: usize = shape[axis + 1..last].iter().product();
    let complex = x.shape[last];
    // The upper half of a real signal's spectrum mirrors the lower.
    let mirror = if real_inverse {
        "let mirrored = t > n / 2u; let at = select(t, n - t, mirrored);"
    } else {
        "let mirrored = false; let at = t;"
    };
    let before = format!("{mirror} let place = ((outer * given + at) * inner + column) * parts; if (at < given) ");
    let (walk, rounds) = summed(complex == 2, length, &before, "", "let signed = select(im, -im, mirrored);");
    let text = format!(
        "fn element(i: u32) -> f32 {{
    let n = param.length; let given = param.given; let inner = param.inner; let bins = param.bins;
    let parts = param.parts; let out_parts = param.out_parts;
    let part = i % out_parts; let column = (i / out_parts) % inner;
    let k = (i / (out_parts * inner)) % bins; let outer = i / (out_parts * inner * bins);
{walk}    if (param.back == 1u) {{ sum = sum / f32(n); }}
    return sum;
}}"
    );
    let table = cx.table(id, if inverse { "turns back" } else { "turns" }, || Ok(turns(length, inverse)))?;
    let kernel = KernelBuilder::new("dft").read("x", x.repr).read("turns", Repr::U32).text(&text).element(y.repr);
    let elements = y.elements();
    let numbers = Params::sizes([
        ("elements", elements),
        ("length", length),
        ("given", x.shape[axis]),
        ("inner", inner),
        ("bins", shape[axis]),
        ("parts", complex),
        ("out_parts", shape[last]),
        ("back", usize::from(inverse)),
    ])?;
    let work = u64::try_from(elements.saturating_mul(length)).unwrap_or(u64::MAX).saturating_mul(4);
    let effort = Effort::looping(work, rounds);
    cx.dispatch(kernel, vec![x.arg, table, y.arg], numbers, element_groups(elements, y.repr), effort);
    Ok(())
}

/// Batch, length and numbers per sample of signals: `[batch, length]` is real, as exporters write it and ONNX Runtime takes it,
/// and so is `[batch, length, 1]`; `[batch, length, 2]` is complex.
fn signals(x: &[usize]) -> Result<[usize; 3], OpError> {
    match *x {
        [batch, length] => Ok([batch, length, 1]),
        [batch, length, parts @ (1 | 2)] => Ok([batch, length, parts]),
        _ => Err(OpError::invalid(format!(
            "a signal of shape {x:?}: expected [batch, length] or [batch, length, 1 or 2]"
        ))),
    }
}

/// Frame length, step, and the output's shape.
fn frames(node: &Node, inputs: Inputs<'_>) -> Result<(usize, usize, Vec<usize>), OpError> {
    let x = inputs.at(0)?;
    let [batch, signal, _parts] = signals(&x.shape)?;
    let scalar = |values: Vec<i64>| match values[..] {
        [value] => size(value),
        _ => Err(OpError::invalid("a length or step that is no scalar")),
    };
    let step = scalar(integers(inputs, 1)?)?;
    let window = inputs.optional(2).map(|window| window.elements());
    let length = match (optional_integers(inputs, 3)?, window) {
        (Some(stated), _) => scalar(stated)?,
        (None, Some(window)) => window,
        (None, None) => signal,
    };
    let length = bounded(length)?;
    if step == 0 || length > signal || window.is_some_and(|window| window != length) {
        return Err(OpError::invalid("its frames do not fit the signal or the window"));
    }
    let bins = if node.attributes.flag("onesided", true)? { length / 2 + 1 } else { length };
    Ok((length, step, vec![batch, (signal - length) / step + 1, bins, 2]))
}

fn infer_stft(node: &Node, inputs: Inputs<'_>) -> Result<Vec<ValueInfo>, OpError> {
    Ok(vec![ValueInfo::new(inputs.at(0)?.dtype, frames(node, inputs)?.2)])
}

fn lower_stft(node: &Node, cx: &mut Lowering<'_>) -> Result<(), OpError> {
    let (length, step, shape) = frames(node, Inputs(&cx.input_infos(node)))?;
    let (x, window, y) = (cx.input(node, 0)?, cx.optional_input(node, 2)?, cx.output(node, 0)?);
    let id = node.output(0).ok_or_else(|| OpError::invalid("its output is missing"))?;
    let [_batch, signal, parts] = signals(&x.shape)?;
    let weight = if window.is_some() { " * load_window(t)" } else { "" };
    let before = "let place = (batch * signal + frame * step + t) * parts; ";
    let (walk, rounds) = summed(parts == 2, length, before, weight, "let signed = im;");
    let text = format!(
        "fn element(i: u32) -> f32 {{
    let n = param.length; let step = param.step; let signal = param.signal; let frames = param.frames; let bins = param.bins;
    let parts = param.parts; let part = i & 1u;
    let k = (i / 2u) % bins; let frame = (i / (2u * bins)) % frames; let batch = i / (2u * bins * frames);
{walk}    return sum;
}}"
    );
    let table = cx.table(id, "turns", || Ok(turns(length, false)))?;
    let mut kernel = KernelBuilder::new("stft").read("x", x.repr).read("turns", Repr::U32);
    let mut args = vec![x.arg, table];
    if let Some(window) = &window {
        kernel = kernel.read("window", window.repr);
        args.push(window.arg);
    }
    args.push(y.arg);
    let elements = y.elements();
    let numbers = Params::sizes([
        ("elements", elements),
        ("length", length),
        ("step", step),
        ("signal", signal),
        ("frames", shape[1]),
        ("bins", shape[2]),
        ("parts", parts),
    ])?;
    let work = u64::try_from(elements.saturating_mul(length)).unwrap_or(u64::MAX).saturating_mul(4);
    let kernel = kernel.text(&text).element(y.repr);
    cx.dispatch(kernel, args, numbers, element_groups(elements, y.repr), Effort::looping(work, rounds));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quarters_of_the_circle_are_exact() {
        let words: Vec<f32> = turns(8, false).into_iter().map(f32::from_bits).collect();
        let half = std::f32::consts::FRAC_1_SQRT_2;
        assert_eq!(words[..6], [1.0, 0.0, half, -half, 0.0, -1.0]);
        assert_eq!(words[8..10], [-1.0, 0.0]);
        let back: Vec<f32> = turns(8, true).into_iter().map(f32::from_bits).collect();
        assert_eq!(back[4..6], [0.0, 1.0]);
    }
}
