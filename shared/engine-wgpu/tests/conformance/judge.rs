//! Runs a case on a device and says whether the answer is the one asked for.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

use engine::{RunControl, Session};
use engine_wgpu::WgpuEngine;
use engine_wgpu::ir::{ElementType, Literal};
use telemetry::chain;
use types::NamedTensor;

use super::case::{Case, Form, Measure, Named};

/// What became of a case.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Verdict {
    /// Right, in that form.
    Pass(Form),
    /// Wrong or refused: why, and in which form.
    Fail(Form, String),
    /// Not asked of this engine: why.
    OutOfScope(String),
}

/// Runs a case in the first form that works.
pub(crate) fn judge(engine: &WgpuEngine, case: &Case) -> Verdict {
    if let Some(why) = case.beyond_tensors() {
        return Verdict::OutOfScope(why);
    }
    let mut first: Option<(Form, String)> = None;
    let mut wrong: Option<(Form, String)> = None;
    for form in Form::ALL {
        let Some((model, inputs)) = case.formed(form) else { continue };
        match catch_unwind(AssertUnwindSafe(|| run(engine, case, &model, &inputs))) {
            Ok(Ok(())) => return Verdict::Pass(form),
            // A wrong answer is never made good by a form that answers right.
            Ok(Err(Failure::Wrong(why))) => wrong = wrong.or(Some((form, why))),
            Ok(Err(Failure::Refused(why))) => first = first.or(Some((form, why))),
            Err(panic) => wrong = wrong.or(Some((form, format!("panicked: {}", words(&*panic))))),
        }
        if wrong.is_some() {
            break;
        }
    }
    let refused =
        first.as_ref().map(|(form, why)| format!(" ({}: {why})", form.as_str())).filter(|_said| wrong.is_some());
    let (form, why) = wrong.or(first).unwrap_or((Form::AsIs, "no form of it can be made".into()));
    Verdict::Fail(form, why + &refused.unwrap_or_default())
}

enum Failure {
    Refused(String),
    Wrong(String),
}

fn words(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string)).unwrap_or_default()
}

fn run(engine: &WgpuEngine, case: &Case, model: &[u8], inputs: &[NamedTensor]) -> Result<(), Failure> {
    let mut session = engine.load_checked(model).map_err(|error| Failure::Refused(chain(&error)))?;
    let answer = session.run(inputs, &[], &RunControl::default()).map_err(|error| Failure::Refused(chain(&error)))?;
    let mut wanted = case.outputs.iter();
    for given in &answer {
        let named = wanted.find(|named| named.name == given.name);
        let named = named.ok_or_else(|| Failure::Wrong(format!("an output {:?} nobody asked for", given.name)))?;
        compare(named, given, case).map_err(Failure::Wrong)?;
    }
    if answer.len() == case.outputs.len() { Ok(()) } else { Err(Failure::Wrong("not all outputs came".into())) }
}

fn compare(wanted: &Named, given: &NamedTensor, case: &Case) -> Result<(), String> {
    let (Some(wanted), name) = (&wanted.value, &wanted.name) else { return Err("no tensor".into()) };
    let dtype = ElementType::from_request(given.tensor.dtype()).ok_or("a text answer")?;
    if dtype != wanted.dtype() || given.tensor.shape() != wanted.shape() {
        let (shape, want) = (given.tensor.shape(), wanted.shape());
        return Err(format!("{name} is {dtype} {shape:?}, not {} {want:?}", wanted.dtype()));
    }
    let given = Literal::new(dtype, given.tensor.shape().to_vec(), given.tensor.data().clone()).ok_or("no literal")?;
    let worst = match case.measure {
        Measure::Close { rtol, atol } if dtype.is_float() => differing_floats(&given, wanted, rtol, atol),
        Measure::Lsb { units, share } => off_by_more(&given, wanted, units, share),
        Measure::Cosine { least, top1 } if dtype.is_float() => pointing_elsewhere(&given, wanted, least, top1),
        Measure::Close { .. } | Measure::Cosine { .. } => differing_integers(&given, wanted),
    };
    worst.map_or(Ok(()), |why| Err(format!("{name} {:?}: {why}", wanted.shape())))
}

fn differing_floats(given: &Literal, wanted: &Literal, rtol: f64, atol: f64) -> Option<String> {
    // A unit in the last place of the short formats is more than the suite allows f32; references round between steps.
    let rtol = match given.dtype() {
        ElementType::Bf16 => rtol.max(1.0 / 64.0),
        ElementType::F16 => rtol.max(1.0 / 512.0),
        _ => rtol,
    };
    let (given, wanted) = (given.to_f64s(), wanted.to_f64s());
    let close = |(a, b): (f64, f64)| a == b || (a.is_nan() && b.is_nan()) || (a - b).abs() <= atol + rtol * b.abs();
    report(given.into_iter().zip(wanted), close)
}

fn differing_integers(given: &Literal, wanted: &Literal) -> Option<String> {
    report(given.to_i64s().into_iter().zip(wanted.to_i64s()), |(a, b)| a == b)
}

/// A small tensor may have one such element, whatever the share.
fn off_by_more(given: &Literal, wanted: &Literal, units: f64, share: f64) -> Option<String> {
    let (given, wanted) = (given.to_f64s(), wanted.to_f64s());
    let differing = given.iter().zip(&wanted).filter(|(a, b)| a != b).count();
    let allowed = (share * wanted.len() as f64).ceil() as usize;
    let pairs = given.into_iter().zip(wanted);
    if differing > allowed { report(pairs, |(a, b)| a == b) } else { report(pairs, |(a, b)| (a - b).abs() <= units) }
}

fn pointing_elsewhere(given: &Literal, wanted: &Literal, least: f64, top1: f64) -> Option<String> {
    let row = wanted.shape().last().copied().unwrap_or(1).max(1);
    let (given, wanted) = (given.to_f64s(), wanted.to_f64s());
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let sizes = dot(&given, &given).sqrt() * dot(&wanted, &wanted).sqrt();
    let cosine = if sizes == 0.0 { f64::from(u8::from(given == wanted)) } else { dot(&given, &wanted) / sizes };
    if cosine.is_nan() || cosine < least {
        return Some(format!("cosine {cosine:.6}, not {least}"));
    }
    let other = given.chunks(row).zip(wanted.chunks(row)).filter(|(a, b)| {
        // Two equal maxima may change places by the last bit.
        let top = b.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        largest(a).is_some_and(|at| (b[at] - top).abs() > 1e-5 * top.abs())
    });
    let (other, rows) = (other.count(), wanted.len() / row);
    let over = other as f64 > (1.0 - top1) * rows as f64 + 1e-9;
    over.then(|| format!("cosine {cosine:.6}, but {other} of {rows} rows have another largest element"))
}

fn largest(row: &[f64]) -> Option<usize> {
    (0..row.len()).reduce(|best, at| if row[at] > row[best] { at } else { best })
}

fn report<T: Copy + std::fmt::Display>(
    pairs: impl Iterator<Item = (T, T)>,
    same: impl Fn((T, T)) -> bool,
) -> Option<String> {
    let (mut count, mut total, mut first) = (0_usize, 0_usize, None);
    for (at, pair) in pairs.enumerate() {
        total += 1;
        if !same(pair) {
            count += 1;
            first.get_or_insert((at, pair));
        }
    }
    first.map(|(at, (a, b))| format!("{count} of {total} elements differ, first at {at}: {a} instead of {b}"))
}
