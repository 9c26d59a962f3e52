//! Resize and Upsample: along one axis after the other, with input places and weights tabulated on the host.
//!
//! Every mode (nearest, linear, cubic, each with or without antialiasing) is a weighted sum of taps per axis, so that one
//! kernel serves all. Formulas are those of the operator's text and of ONNX Runtime (`upsamplebase.h`). Two
//! faults of ONNX Runtime are not repeated: it ignores negative axes under an aspect ratio policy, and the region of an axis
//! whose scale is 1.

use crate::error::OpError;
use crate::ir::{Literal, Node};
use crate::lower::{Effort, KernelBuilder, Lowering, Operand, Params, Repr, element_groups};
use crate::ops::rule::Rule;
use crate::shape::axis;
use crate::shape::volume;
use crate::value_info::{Inputs, ValueInfo};

/// The operators of this family.
pub(super) const RULES: &[Rule] = &[Rule::device("Resize", infer, lower), Rule::device("Upsample", infer, lower)];

/// Distance from the middle between two places within which `nearest` treats a place as the middle, as ONNX Runtime does:
/// places are rounded to single precision.
const MIDDLE_TOLERANCE: f64 = 1e-6;

/// Mapping of output positions to input positions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Coordinates {
    HalfPixel,
    HalfPixelSymmetric,
    PytorchHalfPixel,
    AlignCorners,
    Asymmetric,
    CropAndResize,
}

/// Which neighbour `nearest` takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Nearest {
    PreferFloor,
    PreferCeil,
    Floor,
    Ceil,
    /// The only way before operator set 11: up where the axis shrinks, down where it grows.
    BySize,
}

/// Interpolation between input positions.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Mode {
    Nearest(Nearest),
    Linear,
    /// Cubic interpolation with this coefficient.
    Cubic(f64),
}

/// Resizing along one axis.
#[derive(Debug, Clone, PartialEq)]
struct Axis {
    input: usize,
    output: usize,
    scale: f32,
    /// Begin and end of the region, as fractions.
    region: [f32; 2],
}

/// Resizing along every axis.
#[derive(Debug)]
struct Resize {
    axes: Vec<Axis>,
    mode: Mode,
    coordinates: Coordinates,
    antialias: bool,
    exclude_outside: bool,
    extrapolation: f32,
}

fn numbers(literal: Option<&Literal>) -> Option<Vec<f64>> {
    literal.map(Literal::to_f64s).filter(|values| !values.is_empty())
}

/// Returns scales or fractions in the precision in which models state them.
#[expect(clippy::cast_possible_truncation, reason = "they are stored in single precision")]
fn singles(literal: Option<&Literal>) -> Option<Vec<f32>> {
    Some(numbers(literal)?.into_iter().map(|value| value as f32).collect())
}

/// Rounds a product of a length and a scale to a length, at most the largest that ONNX's sizes of 32 bits allow.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "cut off at both ends first")]
fn length(product: f32) -> usize {
    f64::from(product).clamp(0.0, f64::from(i32::MAX)) as usize
}

#[expect(clippy::cast_possible_truncation, reason = "places are rounded to single precision")]
fn rounded(place: f64) -> f32 {
    place as f32
}

#[expect(clippy::cast_precision_loss, reason = "as ONNX Runtime does: it computes places in single precision")]
fn single(size: usize) -> f32 {
    size as f32
}

#[expect(clippy::cast_precision_loss, reason = "sizes are far below 2^53")]
fn real(size: usize) -> f64 {
    size as f64
}

impl Resize {
    fn of(node: &Node, inputs: Inputs<'_>) -> Result<Self, OpError> {
        let attributes = &node.attributes;
        let x = inputs.at(0)?;
        let upsample = node.op == "Upsample";
        // Before opset 11 a resize had no region and one way to count.
        let old = upsample || node.opset < 11;
        let (region, scales, sizes) = if old {
            let given = if inputs.len() > 1 { singles(inputs.optional_known(1)?) } else { None };
            (None, given.or(attributes.floats("scales")?.map(<[f32]>::to_vec)), None)
        } else {
            let region = if attributes.text("coordinate_transformation_mode", "")? == "tf_crop_and_resize" {
                singles(inputs.optional_known(1)?)
            } else {
                None
            };
            (region, singles(inputs.optional_known(2)?), numbers(inputs.optional_known(3)?))
        };
        let rank = x.rank();
        let named: Vec<usize> = match attributes.ints("axes")? {
            Some(axes) => axes.iter().map(|&at| axis(at, rank)).collect::<Result<_, _>>()?,
            None => (0..rank).collect(),
        };
        let mut axes: Vec<Axis> =
            (x.shape.iter()).map(|&size| Axis { input: size, output: size, scale: 1.0, region: [0.0, 1.0] }).collect();
        let wrong = || OpError::invalid("its scales, sizes or region do not count as many numbers as it has axes");
        match (scales, sizes) {
            (Some(scales), _) => {
                if scales.len() != named.len() {
                    return Err(wrong());
                }
                for (&at, &scale) in named.iter().zip(&scales) {
                    if !(scale > 0.0 && scale.is_finite()) {
                        return Err(OpError::invalid(format!("a scale is {scale}")));
                    }
                    axes[at].scale = scale;
                    axes[at].output = length((single(axes[at].input) * scale).floor());
                }
            }
            (None, Some(sizes)) => {
                if sizes.len() != named.len() {
                    return Err(wrong());
                }
                Self::to_sizes(&mut axes, &named, &sizes, attributes.text("keep_aspect_ratio_policy", "stretch")?)?;
            }
            (None, None) => return Err(OpError::invalid("neither scales nor sizes are given")),
        }
        if let Some(region) = region {
            if region.len() != 2 * named.len() {
                return Err(wrong());
            }
            for (place, &at) in named.iter().enumerate() {
                axes[at].region = [region[place], region[named.len() + place]];
            }
        }
        let coordinates =
            match attributes.text("coordinate_transformation_mode", if old { "asymmetric" } else { "half_pixel" })? {
                "half_pixel" => Coordinates::HalfPixel,
                "half_pixel_symmetric" => Coordinates::HalfPixelSymmetric,
                "pytorch_half_pixel" => Coordinates::PytorchHalfPixel,
                "align_corners" => Coordinates::AlignCorners,
                "asymmetric" => Coordinates::Asymmetric,
                "tf_crop_and_resize" => Coordinates::CropAndResize,
                other => return Err(OpError::unsupported(format!("coordinate_transformation_mode {other:?}"))),
            };
        let nearest = match attributes.text("nearest_mode", if old { "" } else { "round_prefer_floor" })? {
            "" => Nearest::BySize,
            "round_prefer_floor" => Nearest::PreferFloor,
            "round_prefer_ceil" => Nearest::PreferCeil,
            "floor" => Nearest::Floor,
            "ceil" => Nearest::Ceil,
            other => return Err(OpError::invalid(format!("nearest_mode is {other:?}"))),
        };
        let mode = match attributes.text("mode", "nearest")? {
            "nearest" => Mode::Nearest(nearest),
            "linear" | "bilinear" => Mode::Linear,
            "cubic" => Mode::Cubic(f64::from(attributes.float("cubic_coeff_a", -0.75)?)),
            other => return Err(OpError::invalid(format!("mode is {other:?}"))),
        };
        if !x.dtype.is_float() && !matches!(mode, Mode::Nearest(_)) {
            return Err(OpError::unsupported(format!("{} between its values", x.dtype)));
        }
        Ok(Self {
            axes,
            mode,
            coordinates,
            antialias: attributes.flag("antialias", false)?,
            exclude_outside: attributes.flag("exclude_outside", false)?,
            extrapolation: attributes.float("extrapolation_value", 0.0)?,
        })
    }

    /// Sets output lengths and scales of the named axes from sizes, in single precision as ONNX Runtime does.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "sizes are checked to be small first")]
    fn to_sizes(axes: &mut [Axis], named: &[usize], sizes: &[f64], policy: &str) -> Result<(), OpError> {
        if sizes.iter().any(|&size| !(0.0..=f64::from(i32::MAX)).contains(&size)) {
            return Err(OpError::invalid(format!("its sizes are {sizes:?}")));
        }
        for (&at, &size) in named.iter().zip(sizes) {
            let axis = &mut axes[at];
            axis.output = size as usize;
            axis.scale = single(axis.output) / single(axis.input.max(1));
        }
        let scales = named.iter().map(|&at| axes[at].scale);
        let common = match policy {
            "stretch" => return Ok(()),
            "not_larger" => scales.fold(f32::INFINITY, f32::min),
            "not_smaller" => scales.fold(0.0, f32::max),
            other => return Err(OpError::invalid(format!("keep_aspect_ratio_policy is {other:?}"))),
        };
        for &at in named {
            let axis = &mut axes[at];
            axis.scale = common;
            axis.output = length((common * single(axis.input)).round());
        }
        Ok(())
    }

    fn shape(&self) -> Vec<usize> {
        self.axes.iter().map(|axis| axis.output).collect()
    }

    /// Returns the input place of an output place; `None` outside the input, for which a region has its own value.
    ///
    /// Computes in single precision and in ONNX Runtime's order, because `nearest` selects another element where a place
    /// between two is rounded differently. Lengths are those of the tensors, as the text of the operator says. ONNX's
    /// reference takes the unrounded product of scale and length instead, and -0.5 for the only place of
    /// `pytorch_half_pixel`.
    fn place(&self, axis: &Axis, at: usize) -> Option<f64> {
        let (input, output, at, scale) = (single(axis.input), single(axis.output), single(at), axis.scale);
        let half = (at + 0.5) / scale - 0.5;
        Some(f64::from(match self.coordinates {
            Coordinates::HalfPixel => half,
            Coordinates::HalfPixelSymmetric => {
                let offset = f64::from(input / 2.0 * (1.0 - output / (scale * input)));
                rounded(offset + f64::from(at + 0.5) / f64::from(scale) - 0.5)
            }
            Coordinates::PytorchHalfPixel | Coordinates::AlignCorners if axis.output == 1 => 0.0,
            Coordinates::PytorchHalfPixel => half,
            Coordinates::AlignCorners => at * (input - 1.0) / (output - 1.0),
            Coordinates::Asymmetric => at / scale,
            Coordinates::CropAndResize => {
                let [begin, end] = axis.region;
                let place = if axis.output == 1 {
                    0.5 * (begin + end) * (input - 1.0)
                } else {
                    begin * (input - 1.0) + at * (end - begin) * (input - 1.0) / (output - 1.0)
                };
                return (0.0..=input - 1.0).contains(&place).then_some(f64::from(place));
            }
        }))
    }

    /// Weights of the taps around a place, the first tap counted from the last place before it, for the fraction
    /// `ratio` in (0, 1] beyond that place.
    #[expect(clippy::cast_possible_truncation, reason = "a handful of taps")]
    fn taps(&self, axis: &Axis, ratio: f64) -> (i64, Vec<f64>) {
        let scale = if self.antialias { f64::from(axis.scale.min(1.0)) } else { 1.0 };
        let (reach, kernel): (f64, Box<dyn Fn(f64) -> f64>) = match self.mode {
            Mode::Nearest(nearest) => {
                let upper = ratio >= 1.0
                    || match nearest {
                        Nearest::PreferFloor => ratio >= 0.5 + MIDDLE_TOLERANCE,
                        Nearest::PreferCeil => ratio > 0.5 - MIDDLE_TOLERANCE,
                        Nearest::Floor => false,
                        Nearest::Ceil => true,
                        Nearest::BySize => axis.scale < 1.0,
                    };
                return (i64::from(upper), vec![1.0]);
            }
            Mode::Linear => (1.0, Box::new(|x: f64| (1.0 - x.abs()).clamp(0.0, 1.0))),
            Mode::Cubic(a) => (
                2.0,
                Box::new(move |x: f64| {
                    let x = x.abs();
                    if x <= 1.0 {
                        ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0
                    } else if x < 2.0 {
                        ((a * x - 5.0 * a) * x + 8.0 * a) * x - 4.0 * a
                    } else {
                        0.0
                    }
                }),
            ),
        };
        let first = (-reach / scale).floor() as i64 + 1;
        let weights: Vec<f64> = (first..2 - first).map(|tap| kernel(scale * (whole(tap) - ratio))).collect();
        let sum: f64 = weights.iter().sum();
        (first, weights.into_iter().map(|weight| weight / sum).collect())
    }

    /// The table of one axis: taps for each output place, and the words of `resize_axis.wgsl`.
    #[expect(clippy::cast_possible_truncation, reason = "weights are computed in f64 and used in f32")]
    fn table(&self, axis: &Axis) -> Result<(usize, Vec<u32>), OpError> {
        let last = i64::try_from(axis.input).unwrap_or(i64::MAX) - 1;
        let mut rows = Vec::with_capacity(axis.output);
        for at in 0..axis.output {
            let Some(place) = self.place(axis, at) else {
                rows.push(None);
                continue;
            };
            let before = place.ceil() as i64 - 1;
            let (first, mut weights) = self.taps(axis, place - whole(before));
            let tap = |at: usize| before + first + i64::try_from(at).unwrap_or(0);
            if self.exclude_outside {
                for (at, weight) in weights.iter_mut().enumerate() {
                    if !(0..=last).contains(&tap(at)) {
                        *weight = 0.0;
                    }
                }
                let sum: f64 = weights.iter().sum();
                weights.iter_mut().for_each(|weight| *weight /= sum);
            }
            let places = (0..weights.len()).map(|at| u32::try_from(tap(at).clamp(0, last)).unwrap_or(0));
            rows.push(Some(places.zip(weights).collect::<Vec<_>>()));
        }
        let taps = rows.iter().flatten().map(Vec::len).max().unwrap_or(1);
        let mut words = Vec::with_capacity(volume(&[axis.output, taps, 2])?);
        for row in rows {
            let row = row.unwrap_or_else(|| vec![(u32::MAX, 0.0)]);
            let missing = taps - row.len();
            words.extend(row.into_iter().flat_map(|(place, weight)| [place, (weight as f32).to_bits()]));
            words.extend(std::iter::repeat_n(0, 2 * missing));
        }
        Ok((taps, words))
    }
}

#[expect(clippy::cast_precision_loss, reason = "places are far below 2^53")]
fn whole(place: i64) -> f64 {
    place as f64
}

/// Returns whether a table of one tap copies each element.
fn is_identity(taps: usize, words: &[u32], axis: &Axis) -> bool {
    taps == 1 && axis.input == axis.output && words.chunks(2).zip(0_u32..).all(|(pair, at)| pair[0] == at)
}

fn infer(node: &Node, inputs: Inputs<'_>) -> Result<Vec<ValueInfo>, OpError> {
    let x = inputs.at(0)?;
    let resize = Resize::of(node, inputs)?;
    Ok(vec![ValueInfo::new(x.dtype, resize.shape())])
}

fn lower(node: &Node, cx: &mut Lowering<'_>) -> Result<(), OpError> {
    let infos = cx.input_infos(node);
    let resize = Resize::of(node, Inputs(&infos))?;
    let (x, y) = (cx.input(node, 0)?, cx.output(node, 0)?);
    let id = node.output(0).ok_or_else(|| OpError::invalid("its output is missing"))?;
    if y.elements() == 0 {
        return Ok(());
    }
    if x.elements() == 0 {
        return Err(OpError::invalid("an empty tensor is enlarged"));
    }
    // Whatever the scales are, ONNX Runtime copies a tensor of which no length changes, and antialiases no axis that keeps its
    // length.
    let keeps_length = resize.antialias || resize.shape() == x.shape;
    let mut passes = Vec::new();
    for (at, axis) in resize.axes.iter().enumerate() {
        let is_whole = axis.input == axis.output && axis.region == [0.0, 1.0];
        if is_whole && (keeps_length || axis.scale.to_bits() == 1.0_f32.to_bits()) {
            continue;
        }
        let (taps, words) = resize.table(axis)?;
        if !is_identity(taps, &words, axis) {
            passes.push((at, taps, words));
        }
    }
    // What shrinks comes first: later passes have less to do.
    passes.sort_by(|(a, ..), (b, ..)| {
        let growth = |at: usize| real(resize.axes[at].output) / real(resize.axes[at].input.max(1));
        growth(*a).total_cmp(&growth(*b))
    });
    if passes.is_empty() {
        passes.push((
            0,
            1,
            (0..).take(x.shape.first().copied().unwrap_or(1)).flat_map(|at| [at, 1_f32.to_bits()]).collect(),
        ));
    }
    let mut from = x;
    let count = passes.len();
    for (pass, (at, taps, words)) in passes.into_iter().enumerate() {
        let mut shape = from.shape.clone();
        if let Some(size) = shape.get_mut(at) {
            *size = resize.axes[at].output;
        }
        let elements = volume(&shape)?;
        let arg = if pass + 1 == count { y.arg } else { cx.scratch(from.repr.words(elements)) };
        let to = Operand { arg, repr: from.repr, shape };
        along(cx, &from, &to, at, taps, resize.extrapolation, |cx| cx.table(id, &format!("axis {at}"), || Ok(words)))?;
        from = to;
    }
    Ok(())
}

/// Launches the resizing along one axis.
fn along(
    cx: &mut Lowering<'_>,
    from: &Operand,
    to: &Operand,
    at: usize,
    taps: usize,
    extrapolation: f32,
    table: impl FnOnce(&mut Lowering<'_>) -> Result<crate::lower::Arg, OpError>,
) -> Result<(), OpError> {
    let table = table(cx)?;
    let element = to.repr.wgsl();
    let sum = if element == "f32" {
        "var sum = 0.0;
    for (var tap = 0u; tap < param.taps; tap++) {
        let weight = bitcast<f32>(load_table(first + 2u * tap + 1u));
        // A weight of zero must not spread an infinity.
        if (weight != 0.0) { sum += weight * load_x((base + load_table(first + 2u * tap)) * param.inner + inner); }
    }
    return sum;"
    } else {
        "return load_x((base + load_table(first)) * param.inner + inner);"
    };
    let text = include_str!("../wgsl/resize_axis.wgsl").replace("SUM", sum).replace("ELEMENT", element);
    let kernel =
        KernelBuilder::new("resize").read("x", from.repr).read("table", Repr::U32).text(&text).element(to.repr);
    let elements = to.elements();
    let inner = from.shape.get(at + 1..).unwrap_or_default().iter().product();
    let (size_to, size_from) = (to.shape.get(at).copied().unwrap_or(1), from.shape.get(at).copied().unwrap_or(1));
    let sizes =
        [("elements", elements), ("place_count", size_to), ("input", size_from), ("inner", inner), ("taps", taps)];
    let numbers = Params::sizes(sizes)?.float("outside", extrapolation);
    let work = u64::try_from(elements.saturating_mul(taps)).unwrap_or(u64::MAX);
    let effort = Effort::looping(work, taps);
    cx.dispatch(kernel, vec![from.arg, table, to.arg], numbers, element_groups(elements, to.repr), effort);
    Ok(())
}
