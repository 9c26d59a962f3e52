//! The kernel of every reduction over any set of axes, one thread an output.
//!
//! Sums are taken in tiles of 64 terms, so that their error grows with the tile and the number of tiles, not with the sum of
//! both lengths.

use crate::error::OpError;
use crate::fault::Fault;
use crate::lower::{Effort, KernelBuilder, Lowering, Operand, Params, element_groups};
use crate::ops::elementwise::{checked, math};
use crate::shape::strides;

/// Reduction of the elements of one output.
#[derive(Debug, Clone, Copy)]
pub(in crate::ops) struct Fold {
    /// Each element `x` as a term; `most` is the largest of them where `shifted`.
    pub(in crate::ops) term: &'static str,
    /// Value before the first term.
    pub(in crate::ops) start: &'static str,
    /// Terms `a` and `b` as one.
    pub(in crate::ops) join: &'static str,
    /// The answer from `a` and the count `n`.
    pub(in crate::ops) finish: &'static str,
    /// True if terms are of the distance to the largest element, which is found first.
    pub(in crate::ops) shifted: bool,
    /// True if sums beyond 32 bits are faults.
    pub(in crate::ops) checked: bool,
}

/// Which part of each output's terms a thread takes.
#[derive(Debug, Clone, Copy)]
struct Part<'a> {
    /// Largest element of each output.
    most: Option<&'a Operand>,
    /// Terms of one thread.
    share: usize,
    /// Threads of one output.
    shares: usize,
    /// Terms of one output in the tensor that is reduced.
    total: usize,
}

/// Largest of the elements.
const MOST: Fold =
    Fold { term: "x", start: "-infinity()", join: "larger(a, b)", finish: "a", shifted: false, checked: false };

/// Terms below which another thread for the same output does not pay.
const SHARE_MIN: usize = 4096;

/// Most threads of one output, so that neither step is long.
const SHARES_MAX: usize = 16_384;

impl Fold {
    /// Sum of the elements.
    pub(in crate::ops) const SUM: Self =
        Self { term: "x", start: "T(0)", join: "a + b", finish: "a", shifted: false, checked: false };
    /// Mean of the elements.
    pub(in crate::ops) const MEAN: Self =
        Self { term: "x", start: "T(0)", join: "a + b", finish: "a / T(n)", shifted: false, checked: false };
    /// The sum of squares.
    pub(in crate::ops) const SQUARES: Self =
        Self { term: "x * x", start: "T(0)", join: "a + b", finish: "a", shifted: false, checked: false };
    /// The sum of absolute values.
    pub(in crate::ops) const ABSOLUTES: Self =
        Self { term: "abs(x)", start: "T(0)", join: "a + b", finish: "a", shifted: false, checked: false };

    /// Launches the reduction of those axes (sorted, each once) of `x` into `y`.
    pub(in crate::ops) fn run(
        self,
        cx: &mut Lowering<'_>,
        x: &Operand,
        axes: &[usize],
        y: &Operand,
    ) -> Result<(), OpError> {
        if !self.shifted {
            return self.run_from(cx, x, axes, y, None);
        }
        let most = Operand { arg: cx.scratch(y.elements()), repr: y.repr, shape: y.shape.clone() };
        MOST.run_from(cx, x, axes, &most, None)?;
        self.run_from(cx, x, axes, y, Some(&most))
    }

    fn run_from(
        self,
        cx: &mut Lowering<'_>,
        x: &Operand,
        axes: &[usize],
        y: &Operand,
        most: Option<&Operand>,
    ) -> Result<(), OpError> {
        let count: usize = axes.iter().map(|&at| x.shape[at]).product();
        let share = count.div_ceil(SHARES_MAX).max(SHARE_MIN);
        if count <= share {
            return self.launch(cx, x, axes, y, Part { most, share: count, shares: 1, total: count });
        }
        // Long reductions in two steps: it is faster, and no thread loops for long.
        let shares = count.div_ceil(share);
        let words = y.elements().saturating_mul(shares);
        let parts = Operand { arg: cx.scratch(words), repr: x.repr.unpacked(), shape: vec![y.elements(), shares] };
        let first = Self { finish: "a", ..self };
        first.launch(cx, x, axes, &parts, Part { most, share, shares, total: count })?;
        let second = Self { term: "x", ..self };
        second.launch(cx, &parts, &[1], y, Part { most, share: shares, shares: 1, total: count })
    }

    fn launch(
        self,
        cx: &mut Lowering<'_>,
        x: &Operand,
        axes: &[usize],
        y: &Operand,
        part: Part<'_>,
    ) -> Result<(), OpError> {
        let own = strides(&x.shape);
        let kept = joined(&x.shape, &own, |d| !axes.contains(&d));
        let gone = joined(&x.shape, &own, |d| axes.contains(&d));
        let count: usize = gone.iter().map(|&(size, _stride)| size).product();
        let outputs = y.elements();
        let numbers = Params::sizes([
            ("elements", outputs),
            ("terms", count),
            ("whole", part.total),
            ("shares", part.shares),
            ("share", part.share),
        ])?;
        let numbers = numbers.and(places("kept", &kept)?).and(places("gone", &gone)?);
        let base = offset("i", "kept", kept.len());
        let at = offset("r", "gone", gone.len());
        let Self { term, start, join, finish, .. } = self;
        let checks = checked::needed_by(&format!("{term} {join}"));
        let (count_wraps, wrapped) = match (self.checked, x.repr.wgsl()) {
            // The sum is right if it has wrapped as often upwards as downwards.
            (true, "i32") => (
                "    let sum = a + b;\n    if (((a ^ sum) & (b ^ sum)) < 0) { wraps += select(-1, 1, a > 0); }\n",
                format!("    if (wraps != 0) {{ {} }}\n", Fault::Overflow.report()),
            ),
            (true, _) => (
                "    if (a + b < a) { wraps += 1; }\n",
                format!("    if (wraps != 0) {{ {} }}\n", Fault::Overflow.report()),
            ),
            (false, _) => ("", String::new()),
        };
        let (declare, reset) = if self.checked { ("var<private> wraps: i32;\n", "    wraps = 0;\n") } else { ("", "") };
        // exp(inf - inf) is not a number: an infinite sum stays one.
        let first = if part.most.is_some() {
            "    let extreme = load_most(i / param.shares); let most = select(extreme, 0.0, is_inf(extreme) && extreme < 0.0);\n"
        } else {
            ""
        };
        let text = format!(
            "alias T = {};
{declare}fn member(r: u32) -> u32 {{ {} }}
fn place(i: u32) -> u32 {{ {} }}
fn joined(a: T, b: T) -> T {{
{count_wraps}    return {join};
}}
fn element(i: u32) -> {} {{
    let n = param.whole; let base = place(i / param.shares);
    let begin = (i % param.shares) * param.share; let end = min(begin + param.share, param.terms);
{first}{reset}    var total = {start};
    for (var tile = begin; tile < end; tile += 64u) {{
        var part = {start};
        for (var r = tile; r < min(tile + 64u, end); r++) {{ let x = load_x(base + member(r)); part = joined(part, {term}); }}
        total = joined(total, part);
    }}
    let a = total;
{wrapped}    return {finish};
}}",
            x.repr.wgsl(),
            at,
            base,
            y.repr.wgsl(),
        );
        let mut kernel = KernelBuilder::new("reduce").read("x", x.repr);
        let mut args = vec![x.arg];
        if let Some(most) = part.most {
            kernel = kernel.read("most", most.repr);
            args.push(most.arg);
        }
        args.push(y.arg);
        let kernel = kernel.text(&math::needed_by(&text)).text(&checks).text(&text).element(y.repr);
        let work = u64::try_from(outputs.saturating_mul(part.share)).unwrap_or(u64::MAX);
        let effort = Effort::looping(work, part.share + part.share.div_ceil(64));
        cx.dispatch(kernel, args, numbers, element_groups(outputs, y.repr), effort);
        Ok(())
    }
}

/// The chosen dimensions as sizes and strides, neighbours joined.
fn joined(shape: &[usize], own: &[usize], chosen: impl Fn(usize) -> bool) -> Vec<(usize, usize)> {
    let mut parts: Vec<(usize, usize)> = Vec::new();
    let mut before = None;
    for d in (0..shape.len()).filter(|&d| chosen(d)) {
        match parts.last_mut() {
            Some(part) if before == Some(d.wrapping_sub(1)) => *part = (part.0 * shape[d], own[d]),
            _ => parts.push((shape[d], own[d])),
        }
        before = Some(d);
    }
    parts
}

/// Returns sizes and strides of dimensions as lists of params.
fn places(name: &str, parts: &[(usize, usize)]) -> Result<Params, OpError> {
    let sizes: Vec<usize> = parts.iter().map(|&(size, _stride)| size.max(1)).collect();
    let strides: Vec<usize> = parts.iter().map(|&(_size, stride)| stride).collect();
    Params::new().list(format!("{name}_size"), &sizes)?.list(format!("{name}_stride"), &strides)
}

/// Returns the text that turns a flat index over the dimensions of [`places`] into an offset in the tensor.
fn offset(index: &str, name: &str, rank: usize) -> String {
    let mut text = format!("var rest = {index}; var at = 0u;");
    for d in (0..rank).rev() {
        let size = format!("param.{name}_size[{d}]");
        text.push_str(&format!(" at += (rest % {size}) * param.{name}_stride[{d}]; rest = rest / {size};"));
    }
    text.push_str(" return at;");
    text
}
