//! SVMClassifier: votes of one machine for each pair of classes, with probabilities where the model has their coefficients; or, without
//! support vectors, one dot product for each class. As `svmclassifier.cc` of ONNX Runtime computes it.

use super::super::scores::{FUNCTIONS, Raw, Transform, by_row, labels};
use super::super::{bits, floats, index, ints, table_of, weights};
use super::Kernel;
use crate::error::OpError;
use crate::ir::{ElementType, Node};
use crate::lower::{Arg, Effort, KernelBuilder, Lowering, Params, Repr, element_groups, steps};
use crate::ops::elementwise::math;
use crate::value_info::{Inputs, ValueInfo};

/// Maximum number of iterations of the search for probabilities.
const ITERATIONS: usize = 100;

/// Most classes of a model with probabilities: each row has a matrix of them in scratch memory.
const PROBABLE_CLASSES_MAX: usize = 64;

/// A classifier as its attributes describe it.
#[derive(Debug)]
struct Machine<'a> {
    labels: Vec<u32>,
    /// Support vectors before those of each class, and their number; empty without support vectors.
    starts: Vec<usize>,
    coefficients: &'a [f32],
    vectors: &'a [f32],
    rho: &'a [f32],
    /// Coefficients of the probability of each pair; empty without probabilities.
    probability: [&'a [f32]; 2],
    kernel: Kernel,
    transform: Transform,
}

impl<'a> Machine<'a> {
    fn of(node: &'a Node, features: usize) -> Result<Self, OpError> {
        let labels = labels(node, "classlabels_ints", "classlabels_strings")?;
        let classes = labels.len();
        let mut starts = vec![0];
        for &count in ints(node, "vectors_per_class")? {
            let count = index("vectors_per_class", count)?;
            let end = starts.last().copied().unwrap_or(0_usize).checked_add(count);
            starts.push(end.ok_or_else(|| OpError::invalid("vectors_per_class is too large"))?);
        }
        let count = starts.last().copied().unwrap_or(0);
        let (coefficients, vectors) = (floats(node, "coefficients")?, floats(node, "support_vectors")?);
        let (rho, probability) = (floats(node, "rho")?, [floats(node, "prob_a")?, floats(node, "prob_b")?]);
        let pairs = classes * classes.saturating_sub(1) / 2;
        let fits = match count {
            0 => classes > 0 && coefficients.len() == classes * features && !rho.is_empty(),
            _ => {
                classes > 1
                    && starts.len() == classes + 1
                    && coefficients.len() >= (classes - 1).saturating_mul(count)
                    && count.checked_mul(features) == Some(vectors.len())
                    && rho.len() >= pairs
                    && probability.iter().all(|list| list.is_empty() || list.len() >= pairs)
                    && probability[0].len() == probability[1].len()
            }
        };
        if !fits {
            return Err(OpError::invalid(format!(
                "{} coefficients, {} numbers of {count} support vectors and {} of rho for {classes} classes and {features} features",
                coefficients.len(),
                vectors.len(),
                rho.len()
            )));
        }
        let transform = Transform::named(node)?;
        let machine = Self {
            labels,
            starts: if count == 0 { Vec::new() } else { starts },
            coefficients,
            vectors,
            rho,
            probability,
            kernel: Kernel::of(node)?,
            transform,
        };
        if machine.is_probable() && classes > PROBABLE_CLASSES_MAX {
            return Err(OpError::unsupported(format!("probabilities of more than {PROBABLE_CLASSES_MAX} classes")));
        }
        if machine.columns() != machine.scores() && transform == Transform::Probit {
            return Err(OpError::unsupported("a probit transform of one score for two classes"));
        }
        Ok(machine)
    }

    fn classes(&self) -> usize {
        self.labels.len()
    }

    fn pairs(&self) -> usize {
        self.classes() * (self.classes() - 1) / 2
    }

    fn is_linear(&self) -> bool {
        self.starts.is_empty()
    }

    fn is_probable(&self) -> bool {
        !self.is_linear() && !self.probability[0].is_empty()
    }

    /// Scores of a row before the transform.
    fn scores(&self) -> usize {
        if self.is_linear() || self.is_probable() { self.classes() } else { self.pairs() }
    }

    /// Scores of a row that are answered: one for each pair of classes, but two for two classes.
    fn columns(&self) -> usize {
        self.scores().max(if self.is_linear() { 1 } else { 2 })
    }
}

/// Infers label and scores of each row.
pub(super) fn infer(node: &Node, inputs: Inputs<'_>) -> Result<Vec<ValueInfo>, OpError> {
    let [rows, features] = table_of(inputs)?;
    let machine = Machine::of(node, features)?;
    Ok(vec![
        ValueInfo::new(ElementType::I64, vec![rows]),
        ValueInfo::new(ElementType::F32, vec![rows, machine.columns()]),
    ])
}

/// Adds the launches of the node.
pub(super) fn lower(node: &Node, cx: &mut Lowering<'_>) -> Result<(), OpError> {
    let infos = cx.input_infos(node);
    let [rows, features] = table_of(Inputs(&infos))?;
    let machine = Machine::of(node, features)?;
    if rows == 0 {
        return Ok(());
    }
    let class_labels = weights(cx, node, "labels", machine.labels.clone())?;
    if machine.is_linear() {
        let linear = Kernel { expression: "dot", ..machine.kernel };
        let vectors = (machine.coefficients, machine.classes());
        let arg = kernels(cx, node, vectors, rows, features, (linear, machine.rho[0]))?;
        let raw = Raw { arg, rows, columns: machine.classes() };
        if let Some(id) = node.output(0) {
            let y = cx.place(id).arg;
            linear_label(cx, &machine, raw, class_labels, y)?;
        }
        return match node.output(1) {
            Some(id) => {
                let y = cx.place(id).arg;
                raw.write(cx, machine.transform, y)
            }
            None => Ok(()),
        };
    }
    let count = machine.starts.last().copied().unwrap_or(0);
    let kernels = kernels(cx, node, (machine.vectors, count), rows, features, (machine.kernel, 0.0))?;
    let pairs = pair_scores(cx, node, &machine, kernels, rows)?;
    if let Some(id) = node.output(0) {
        let y = cx.place(id).arg;
        vote(cx, &machine, pairs, class_labels, y)?;
    }
    let Some(id) = node.output(1) else { return Ok(()) };
    let y = cx.place(id).arg;
    if machine.is_probable() {
        return probabilities(cx, node, &machine, pairs)?.write(cx, machine.transform, y);
    }
    if pairs.columns > 1 {
        return pairs.write(cx, machine.transform, y);
    }
    // One score for two classes.
    let kernel = KernelBuilder::new("two_scores").raw("raw", "array<f32>").raw("y", "array<f32>");
    let text = match machine.transform {
        Transform::None => "    y[2u * row] = -raw[row]; y[2u * row + 1u] = raw[row];\n",
        Transform::Logistic => "    y[2u * row] = logistic(-raw[row]); y[2u * row + 1u] = logistic(raw[row]);\n",
        Transform::Softmax | Transform::SoftmaxZero | Transform::Probit => {
            "    y[2u * row] = 1.0 - raw[row]; y[2u * row + 1u] = raw[row];\n"
        }
    };
    by_row(cx, kernel, vec![pairs.arg, y], FUNCTIONS, text, Params::sizes([("rows", rows)])?, (rows, 0));
    Ok(())
}

/// Launches `[row][vector]`: the kernel of each row and each vector, and a number that is added.
fn kernels(
    cx: &mut Lowering<'_>,
    node: &Node,
    (vectors, count): (&[f32], usize),
    rows: usize,
    features: usize,
    (kernel, offset): (Kernel, f32),
) -> Result<Arg, OpError> {
    let x = cx.input(node, 0)?;
    let elements = rows.saturating_mul(count);
    let arg = cx.scratch(elements);
    let vectors = weights(cx, node, "vectors", bits(vectors))?;
    let body = "let v = f32(load_x(i / param.vectors * param.features + k));
        let s = load_vectors(i % param.vectors * param.features + k);
        dot += v * s; square += (v - s) * (v - s);";
    let (walk, rounds) = steps("k", "param.features", features, body);
    let text = format!(
        "fn element(i: u32) -> f32 {{
    {}
    var dot = 0.0; var square = 0.0;
{walk}    return {} + bitcast<f32>(param.offset);
}}",
        Kernel::NUMBERS,
        kernel.expression
    );
    let built = KernelBuilder::new("support_kernels").read("x", x.repr).read("vectors", Repr::F32);
    let built = built.text(&math::needed_by(&text)).text(&text).element(Repr::F32);
    let numbers = Params::sizes([("elements", elements), ("vectors", count), ("features", features)])?;
    let numbers = numbers.float("offset", offset).and(kernel.params());
    let effort = Effort::looping((elements as u64).saturating_mul(features as u64), rounds);
    cx.dispatch(built, vec![x.arg, vectors, arg], numbers, element_groups(elements, Repr::F32), effort);
    Ok(arg)
}

/// Launches `[row][pair]`: the sum over the support vectors of both classes.
fn pair_scores(
    cx: &mut Lowering<'_>,
    node: &Node,
    machine: &Machine<'_>,
    kernels: Arg,
    rows: usize,
) -> Result<Raw, OpError> {
    let (classes, count) = (machine.classes(), machine.starts.last().copied().unwrap_or(0));
    let pairs = machine.pairs();
    // For each pair: coefficients of the first class against the second, and where its vectors begin and end; then likewise.
    let mut table = Vec::with_capacity(pairs * 6);
    for first in 0..classes {
        for second in first + 1..classes {
            let range = |class: usize| [machine.starts[class], machine.starts[class + 1]];
            table.extend([(second - 1) * count, range(first)[0], range(first)[1]]);
            table.extend([first * count, range(second)[0], range(second)[1]]);
        }
    }
    let table = Params::new().list("table", &table)?.into_words();
    let elements = rows.saturating_mul(pairs);
    let arg = cx.scratch(elements);
    let bound = [
        kernels,
        weights(cx, node, "coefficients", bits(machine.coefficients))?,
        weights(cx, node, "pairs", table)?,
        weights(cx, node, "rho", bits(machine.rho))?,
        arg,
    ];
    let text = "fn element(i: u32) -> f32 {
    let pair = i % param.pairs; let base = i / param.pairs * param.vectors;
    var sum = 0.0;
    for (var side = 0u; side < 2u; side++) {
        let at = pair * 6u + side * 3u;
        let own = load_pairs(at); let end = load_pairs(at + 2u);
        for (var k = load_pairs(at + 1u); k < end; k++) { sum += load_coefficients(own + k) * load_kernels(base + k); }
    }
    return sum + load_rho(pair);
}";
    let kernel = KernelBuilder::new("support_pairs")
        .read("kernels", Repr::F32)
        .read("coefficients", Repr::F32)
        .read("pairs", Repr::U32)
        .read("rho", Repr::F32)
        .text(text)
        .element(Repr::F32);
    let numbers = Params::sizes([("elements", elements), ("pairs", pairs), ("vectors", count)])?;
    let effort = Effort::looping((elements as u64).saturating_mul(count as u64), count + 2);
    cx.dispatch(kernel, bound.to_vec(), numbers, element_groups(elements, Repr::F32), effort);
    Ok(Raw { arg, rows, columns: pairs })
}

/// Writes the label of the class with most votes, the first of equal ones.
fn vote(cx: &mut Lowering<'_>, machine: &Machine<'_>, pairs: Raw, labels: Arg, y: Arg) -> Result<(), OpError> {
    let classes = machine.classes();
    let kernel =
        KernelBuilder::new("support_votes").raw("raw", "array<f32>").read("labels", Repr::I32).raw("y", "array<i32>");
    // A score above zero is a vote for the first class of the pair.
    let text = "    var best = 0u; var most = 0u;
    for (var class_at = 0u; class_at < param.classes; class_at++) {
        var votes = 0u; var at = row * param.pairs;
        for (var first = 0u; first < param.classes; first++) {
            for (var second = first + 1u; second < param.classes; second++) {
                if (select(second, first, raw[at] > 0.0) == class_at) { votes += 1u; }
                at += 1u;
            }
        }
        if (votes > most) { best = class_at; most = votes; }
    }
    y[row] = load_labels(best);
";
    let numbers = Params::sizes([("rows", pairs.rows), ("classes", classes), ("pairs", pairs.columns)])?;
    let rounds = classes.saturating_mul(pairs.columns + classes + 1);
    by_row(cx, kernel, vec![pairs.arg, labels, y], "", text, numbers, (pairs.rows, rounds));
    Ok(())
}

/// Writes the label of a classifier without support vectors. Of two classes the second wins where a score says so.
fn linear_label(cx: &mut Lowering<'_>, machine: &Machine<'_>, raw: Raw, labels: Arg, y: Arg) -> Result<(), OpError> {
    if machine.classes() != 2 || !machine.probability[0].is_empty() {
        return raw.write_best(cx, labels, y);
    }
    let positive = machine.coefficients.iter().all(|&coefficient| coefficient >= 0.0);
    let second = if positive { "top >= 0.5" } else { "top > 0.0" };
    let kernel =
        KernelBuilder::new("support_label").raw("raw", "array<f32>").read("labels", Repr::I32).raw("y", "array<i32>");
    let text = format!(
        "    let top = max(raw[2u * row], raw[2u * row + 1u]);
    y[row] = load_labels(select(0u, 1u, {second} || raw[2u * row + 1u] > raw[2u * row]));\n"
    );
    by_row(cx, kernel, vec![raw.arg, labels, y], "", &text, Params::sizes([("rows", raw.rows)])?, (raw.rows, 0));
    Ok(())
}

/// Launches the probabilities of the classes from those of the pairs, after Wu, Lin and Weng, "Probability Estimates for Multi-class
/// Classification by Pairwise Coupling" (2004), second approach, as libsvm iterates it.
fn probabilities(cx: &mut Lowering<'_>, node: &Node, machine: &Machine<'_>, pairs: Raw) -> Result<Raw, OpError> {
    let (rows, classes) = (pairs.rows, machine.classes());
    let to = cx.scratch(rows.saturating_mul(classes));
    // Of each row: probabilities of pairs, the matrix Q, the vector Q p.
    let each = 2 * classes * classes + classes;
    let scratch = cx.scratch(rows.saturating_mul(each));
    let [a, b] = machine.probability;
    let bound =
        vec![pairs.arg, weights(cx, node, "prob_a", bits(a))?, weights(cx, node, "prob_b", bits(b))?, scratch, to];
    let kernel = KernelBuilder::new("support_probabilities")
        .raw("raw", "array<f32>")
        .read("prob_a", Repr::F32)
        .read("prob_b", Repr::F32)
        .raw("work", "array<f32>")
        .raw("p", "array<f32>");
    let text = format!(
        "    let n = param.classes; let r = row * (2u * n * n + n); let q = r + n * n; let qp = q + n * n; let own = row * n;
    var at = row * param.pairs; var pair = 0u;
    for (var i = 0u; i < n; i++) {{
        for (var j = i + 1u; j < n; j++) {{
            let value = 1.0 - logistic(raw[at] * load_prob_a(pair) + load_prob_b(pair));
            let kept = min(max(value, 1.0e-7), 1.0 - 1.0e-7);
            work[r + i * n + j] = kept; work[r + j * n + i] = 1.0 - kept;
            at += 1u; pair += 1u;
        }}
    }}
    for (var i = 0u; i < n; i++) {{
        p[own + i] = 1.0 / f32(n);
        var diagonal = 0.0;
        for (var j = 0u; j < n; j++) {{
            if (j == i) {{ continue; }}
            let other = work[r + j * n + i];
            diagonal += other * other;
            work[q + i * n + j] = -other * work[r + i * n + j];
        }}
        work[q + i * n + i] = diagonal;
    }}
    for (var turn = 0u; turn < {ITERATIONS}u; turn++) {{
        var total = 0.0;
        for (var i = 0u; i < n; i++) {{
            var sum = 0.0;
            for (var j = 0u; j < n; j++) {{ sum += work[q + i * n + j] * p[own + j]; }}
            work[qp + i] = sum; total += p[own + i] * sum;
        }}
        var largest = 0.0;
        for (var i = 0u; i < n; i++) {{ largest = max(largest, abs(work[qp + i] - total)); }}
        if (largest < 0.005 / f32(n)) {{ break; }}
        for (var i = 0u; i < n; i++) {{
            let diagonal = work[q + i * n + i];
            let change = (total - work[qp + i]) / diagonal;
            p[own + i] += change;
            total = (total + change * (change * diagonal + 2.0 * work[qp + i])) / (1.0 + change) / (1.0 + change);
            for (var j = 0u; j < n; j++) {{
                work[qp + j] = (work[qp + j] + change * work[q + i * n + j]) / (1.0 + change);
                p[own + j] = p[own + j] / (1.0 + change);
            }}
        }}
    }}\n"
    );
    let numbers = Params::sizes([("rows", rows), ("classes", classes), ("pairs", pairs.columns)])?;
    let rounds = (ITERATIONS + 2).saturating_mul(2 * classes * classes + 3 * classes + 1);
    by_row(cx, kernel, bound, FUNCTIONS, &text, numbers, (rows, rounds));
    Ok(Raw { arg: to, rows, columns: classes })
}
