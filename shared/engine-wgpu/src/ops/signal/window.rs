//! HannWindow, HammingWindow, BlackmanWindow and MelWeightMatrix, computed while planning.

use std::f64::consts::TAU;

use crate::error::OpError;
use crate::ir::{ElementType, Literal, Node};
use crate::ops::elementwise::host::given;
use crate::ops::movement::integers;
use crate::ops::rule::Rule;
use crate::value_info::{Inputs, ValueInfo};

/// The operators of this room.
pub(in crate::ops) const RULES: &[Rule] = &[
    Rule::host("HannWindow", infer, |n, i| window(n, i, [0.5, 0.5, 0.0])),
    Rule::host("HammingWindow", infer, |n, i| window(n, i, [25.0 / 46.0, 1.0 - 25.0 / 46.0, 0.0])),
    Rule::host("BlackmanWindow", infer, |n, i| window(n, i, [0.42, 0.5, 0.08])),
    Rule::host("MelWeightMatrix", infer_mel, mel),
];

/// Longest window: a minute of sound at 48 kHz is far below.
const LENGTH_MAX: i64 = 1 << 24;

fn length(value: i64) -> Result<usize, OpError> {
    let bounded = if value > LENGTH_MAX { None } else { usize::try_from(value).ok() };
    bounded.ok_or_else(|| OpError::invalid(format!("a length of {value}")))
}

fn dtype(node: &Node) -> Result<ElementType, OpError> {
    let number = node.attributes.int("output_datatype", 1)?;
    let dtype = i32::try_from(number).ok().and_then(ElementType::from_onnx);
    dtype.ok_or_else(|| OpError::unsupported(format!("element type {number}")))
}

fn first(values: &[i64]) -> Result<i64, OpError> {
    values.first().copied().ok_or_else(|| OpError::invalid("an empty input where one number is needed"))
}

fn infer(node: &Node, inputs: Inputs<'_>) -> Result<Vec<ValueInfo>, OpError> {
    Ok(vec![ValueInfo::new(dtype(node)?, vec![length(first(&integers(inputs, 0)?)?)?])])
}

#[expect(clippy::cast_precision_loss, reason = "lengths are below 2^24")]
fn window(node: &Node, inputs: &[Option<&Literal>], parts: [f64; 3]) -> Result<Vec<Literal>, OpError> {
    let size = length(first(&given(inputs, 0)?.to_i64s())?)?;
    let span = if node.attributes.flag("periodic", true)? { size } else { size.saturating_sub(1).max(1) };
    let value = |at: usize| {
        let angle = TAU * at as f64 / span as f64;
        parts[0] - parts[1] * angle.cos() + parts[2] * (2.0 * angle).cos()
    };
    let values: Vec<f64> = (0..size).map(value).collect();
    Ok(vec![Literal::from_f64s(dtype(node)?, vec![size], &values)])
}

fn infer_mel(node: &Node, inputs: Inputs<'_>) -> Result<Vec<ValueInfo>, OpError> {
    let bins = length(first(&integers(inputs, 0)?)?)?;
    let spectrum = length(first(&integers(inputs, 1)?)?)? / 2 + 1;
    Ok(vec![ValueInfo::new(dtype(node)?, vec![spectrum, bins])])
}

/// Triangles over the spectrum whose corners are equally far apart on the mel scale.
#[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, reason = "small numbers; bins are whole")]
fn mel(node: &Node, inputs: &[Option<&Literal>]) -> Result<Vec<Literal>, OpError> {
    let number = |at: usize| Ok::<_, OpError>(given(inputs, at)?.to_f64s().first().copied().unwrap_or(0.0));
    let bins = length(first(&given(inputs, 0)?.to_i64s())?)?;
    let transform = length(first(&given(inputs, 1)?.to_i64s())?)?;
    let (rate, low, high) = (number(2)?, number(3)?, number(4)?);
    let spectrum = transform / 2 + 1;
    let to_mel = |hertz: f64| 2595.0 * (1.0 + hertz / 700.0).log10();
    let step = (to_mel(high) - to_mel(low)) / (bins + 2) as f64;
    let corner = |at: usize| {
        let mel = at as f64 * step + to_mel(low);
        let hertz = 700.0 * (10.0_f64.powf(mel / 2595.0) - 1.0);
        ((transform + 1) as f64 * hertz / rate).floor() as i64
    };
    let mut values = vec![0.0; spectrum * bins];
    for bin in 0..bins {
        let (lower, centre, higher) = (corner(bin), corner(bin + 1), corner(bin + 2));
        let mut set = |at: i64, value: f64| {
            if let Some(at) = usize::try_from(at).ok().filter(|&at| at < spectrum) {
                values[at * bins + bin] = value;
            }
        };
        if centre == lower {
            set(centre, 1.0);
        } else {
            for at in lower.max(0)..=centre.min(LENGTH_MAX) {
                set(at, (at - lower) as f64 / (centre - lower) as f64);
            }
        }
        for at in centre.max(0)..higher.min(LENGTH_MAX) {
            set(at, (higher - at) as f64 / (higher - centre) as f64);
        }
    }
    Ok(vec![Literal::from_f64s(dtype(node)?, vec![spectrum, bins], &values)])
}
