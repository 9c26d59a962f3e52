//! Pools: the largest, the mean or the p-norm of each window.

use crate::error::OpError;
use crate::ir::{ElementType, Node};
use crate::lower::{Effort, KernelBuilder, Lowering, Operand, Params, Repr, element_groups, nested_steps};
use crate::ops::product::groups_of;
use crate::ops::rule::Rule;
use crate::ops::window::{SPATIAL_MAX, Window, positive, three};
use crate::value_info::{Inputs, ValueInfo};

/// The operators of this family.
pub(super) const RULES: &[Rule] = &[
    Rule::device("MaxPool", infer_max, lower_max),
    Rule::device("AveragePool", infer_float, lower_average),
    Rule::device("LpPool", infer_float, |node, cx| lower_norm(node, cx, false)),
    Rule::device("GlobalMaxPool", infer_global, lower_global_max),
    Rule::device("GlobalAveragePool", infer_global, lower_global_average),
    Rule::device("GlobalLpPool", infer_global, |node, cx| lower_norm(node, cx, true)),
];

fn window(node: &Node, shape: &[usize]) -> Result<(Window, Vec<usize>), OpError> {
    let [_images, _channels, input @ ..] = shape else {
        return Err(OpError::invalid(format!("a tensor of shape {shape:?} has no images and channels")));
    };
    let kernel = positive(node, "kernel_shape", input.len())?;
    let kernel = kernel.ok_or_else(|| OpError::invalid("kernel_shape is missing"))?;
    let window = Window::of(node, &kernel, input)?;
    let output = window.outputs(input, node.attributes.flag("ceil_mode", false)?)?;
    Ok((window, output))
}

fn output_shape(node: &Node, x: &ValueInfo) -> Result<Vec<usize>, OpError> {
    let (_window, output) = window(node, &x.shape)?;
    Ok(x.shape[..2].iter().copied().chain(output).collect())
}

fn infer_max(node: &Node, inputs: Inputs<'_>) -> Result<Vec<ValueInfo>, OpError> {
    let x = inputs.at(0)?;
    let shape = output_shape(node, x)?;
    Ok(vec![ValueInfo::new(x.dtype, shape.clone()), ValueInfo::new(ElementType::I64, shape)])
}

fn infer_float(node: &Node, inputs: Inputs<'_>) -> Result<Vec<ValueInfo>, OpError> {
    let x = inputs.at(0)?;
    require_float(x)?;
    Ok(vec![ValueInfo::new(x.dtype, output_shape(node, x)?)])
}

fn infer_global(_node: &Node, inputs: Inputs<'_>) -> Result<Vec<ValueInfo>, OpError> {
    let x = inputs.at(0)?;
    require_float(x)?;
    if x.rank() < 2 {
        return Err(OpError::invalid(format!("a tensor of shape {:?} has no images and channels", x.shape)));
    }
    let ones = std::iter::repeat_n(1, x.rank() - 2);
    Ok(vec![ValueInfo::new(x.dtype, x.shape[..2].iter().copied().chain(ones).collect())])
}

fn require_float(x: &ValueInfo) -> Result<(), OpError> {
    if x.dtype.is_float() { Ok(()) } else { Err(OpError::invalid(format!("it pools {}", x.dtype))) }
}

/// Operation of a pool on its window, as parts of `pool.wgsl`.
#[derive(Debug, Default)]
struct Fold {
    label: &'static str,
    start: &'static str,
    padded: &'static str,
    body: String,
    finish: String,
}

/// Launches a fold of windows from `x` to `y`.
fn launch(
    cx: &mut Lowering<'_>,
    x: &Operand,
    y: &Operand,
    input: &[usize],
    window: &Window,
    fold: &Fold,
) -> Result<(), OpError> {
    let elements = y.elements();
    if elements == 0 {
        return Ok(());
    }
    let taps = window.to_three().kernel;
    let (k0, k1, k2) = (taps[0], taps[1], taps[2]);
    let (padded, body) = (fold.padded, &fold.body);
    // One tap: x at flat place `at`, spatial places i0 i1 i2.
    let tap = format!(
        "let i2 = first2 + k2 * each2;
                {padded}
                if (inside && i2 < n2) {{
                    let at = row + i2;
                    let x = load_x(at);
                    {body}
                }}"
    );
    let (walk, rounds) = walk(k0.saturating_mul(k1), k2, &tap);
    let text = include_str!("../wgsl/pool.wgsl")
        .replace("START", fold.start)
        .replace("WALK", &walk)
        .replace("FINISH", &fold.finish)
        .replace("ELEMENT", y.repr.wgsl());
    let kernel = KernelBuilder::new(fold.label).read("x", x.repr).text(&text);
    let output = y.shape.get(2..).unwrap_or_default();
    // A global pool over more than three dimensions is one over their product.
    let output = if input.len() == window.kernel.len() && output.len() == input.len() { output } else { &[1] };
    let window = window.to_three();
    let taps: usize = window.kernel.iter().product();
    let numbers = Params::sizes([("elements", elements)])?.list("output", &three(output, 1))?;
    let numbers = window.params(numbers.list("input", &three(input, 1))?, SPATIAL_MAX)?.list("after", &window.after)?;
    let work = u64::try_from(elements.saturating_mul(taps)).unwrap_or(u64::MAX);
    let effort = Effort::looping(work, rounds + k0);
    let (kernel, groups) = match row_groups(cx, y, &three(output, 1)) {
        Some(groups) => (kernel.raw("y", y.repr.array()).text(BY_ROWS).finish(), groups),
        None => (
            kernel.text(&BY_ELEMENTS.replace("ELEMENT", y.repr.wgsl())).element(y.repr),
            element_groups(elements, y.repr),
        ),
    };
    cx.dispatch(kernel, vec![x.arg, y.arg], numbers, groups, effort);
    Ok(())
}

/// Most taps of a row that are written out.
const TAPS_WRITTEN_MAX: usize = 4;

/// Runs `tap` for each `k2`, so many in each of `rows` rows; and how many rounds that makes.
fn walk(rows: usize, taps: usize, tap: &str) -> (String, usize) {
    if taps > TAPS_WRITTEN_MAX {
        return nested_steps("k2", "taps2", rows, taps, tap);
    }
    let text = (0..taps).map(|k2| format!("            {{ let k2 = {k2}u; {tap} }}\n")).collect();
    (text, rows)
}

/// Finds an output's place by dividing.
const BY_ELEMENTS: &str = "fn element(i: u32) -> ELEMENT {
    let row = i / param.output[2];
    let slice = row / param.output[1];
    return pooled(slice / param.output[0], slice % param.output[0], row % param.output[1], i % param.output[2]);
}";

/// A workgroup has outputs of a few rows: dividing is slow where a vector unit has none.
const BY_ROWS: &str = "@compute @workgroup_size(16, 4)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) thread: vec3<u32>) {
    let place = group + group_base();
    let o2 = place.x * 16u + thread.x;
    let o1 = place.y * 4u + thread.y;
    if (o2 >= param.output[2] || o1 >= param.output[1]) { return; }
    y[(place.z * param.output[1] + o1) * param.output[2] + o2] = pooled(place.z, 0u, o1, o2);
}";

/// Workgroups of [`BY_ROWS`]: for planes of one-word numbers that fill them.
fn row_groups(cx: &Lowering<'_>, y: &Operand, output: &[usize]) -> Option<[u32; 3]> {
    let [1, rows, columns] = *output else { return None };
    let planes = y.elements() / (rows * columns).max(1);
    let fits = y.repr.per_word() == 1 && y.elements() as u64 <= cx.tuning.part_words && rows > 1 && columns > 4;
    let groups = || Ok::<_, OpError>([groups_of(columns, 16)?, groups_of(rows, 4)?, groups_of(planes, 1)?]);
    if fits { groups().ok() } else { None }
}

fn largest(element: &str) -> Fold {
    Fold {
        label: "pool_max",
        start: "var best = ELEMENT(0); var seen = false;",
        padded: "",
        body: "if (!seen || x > best) { best = x; seen = true; }".to_owned(),
        // A window that sees only padding: ONNX pads with the lowest value.
        finish: match element {
            "f32" => "return select(bitcast<f32>(0xff7fffffu), best, seen);".to_owned(),
            _ => "return best;".to_owned(),
        },
    }
}

fn lower_max(node: &Node, cx: &mut Lowering<'_>) -> Result<(), OpError> {
    let x = cx.input(node, 0)?;
    let (window, _output) = window(node, &x.shape)?;
    let input = &x.shape[2..];
    if node.output(0).is_some() {
        let y = cx.output(node, 0)?;
        launch(cx, &x, &y, input, &window, &largest(y.repr.wgsl()))?;
    }
    if node.output(1).is_some() {
        let place = if node.attributes.flag("storage_order", false)? {
            "best_at = plane * (n0 * n1 * n2) + i0 + n0 * (i1 + n1 * i2);"
        } else {
            "best_at = at;"
        };
        let fold = Fold {
            label: "pool_max_index",
            start: if x.repr.wgsl() == "f32" {
                "var best = 0.0; var best_at = 0u; var seen = false;"
            } else if x.repr.wgsl() == "i32" {
                "var best = 0i; var best_at = 0u; var seen = false;"
            } else {
                "var best = 0u; var best_at = 0u; var seen = false;"
            },
            padded: "",
            body: format!("if (!seen || x > best) {{ best = x; seen = true; {place} }}"),
            finish: "return i32(best_at);".to_owned(),
        };
        launch(cx, &x, &cx.output(node, 1)?, input, &window, &fold)?;
    }
    Ok(())
}

/// The mean of a window.
fn mean(include_padding: bool) -> Fold {
    let counted = "if (i0 + param.before[0] < n0 + param.before[0] + param.after[0] && i1 + param.before[1] < n1 + param.before[1] + param.after[1] \
                   && i2 + param.before[2] < n2 + param.before[2] + param.after[2]) { count += 1.0; }";
    Fold {
        label: "pool_average",
        start: "var sum = 0.0; var count = 0.0;",
        padded: if include_padding { counted } else { "" },
        body: if include_padding { "sum += x;".to_owned() } else { "sum += x; count += 1.0;".to_owned() },
        finish: "return sum / max(count, 1.0);".to_owned(),
    }
}

fn lower_average(node: &Node, cx: &mut Lowering<'_>) -> Result<(), OpError> {
    let (x, y) = (cx.input(node, 0)?, cx.output(node, 0)?);
    let (window, _output) = window(node, &x.shape)?;
    let fold = mean(node.attributes.flag("count_include_pad", false)?);
    launch(cx, &x, &y, &x.shape[2..], &window, &fold)
}

/// The window of a global pool: everything, over three dimensions at most.
fn global(x: &Operand) -> (Window, Vec<usize>) {
    let spatial = &x.shape[2..];
    let input = if spatial.len() <= SPATIAL_MAX && !spatial.is_empty() {
        spatial.to_vec()
    } else {
        vec![spatial.iter().product()]
    };
    let (ones, none) = (vec![1; input.len()], vec![0; input.len()]);
    let window =
        Window { kernel: input.clone(), strides: ones.clone(), dilations: ones, before: none.clone(), after: none };
    (window, input)
}

fn lower_global_max(node: &Node, cx: &mut Lowering<'_>) -> Result<(), OpError> {
    let (x, y) = (cx.input(node, 0)?, cx.output(node, 0)?);
    let (window, input) = global(&x);
    launch(cx, &x, &y, &input, &window, &largest("f32"))
}

fn lower_global_average(node: &Node, cx: &mut Lowering<'_>) -> Result<(), OpError> {
    let (x, y) = (cx.input(node, 0)?, cx.output(node, 0)?);
    let (window, input) = global(&x);
    launch(cx, &x, &y, &input, &window, &mean(false))
}

fn lower_norm(node: &Node, cx: &mut Lowering<'_>, whole: bool) -> Result<(), OpError> {
    let (x, y) = (cx.input(node, 0)?, cx.output(node, 0)?);
    let (window, input) = if whole { global(&x) } else { (window(node, &x.shape)?.0, x.shape[2..].to_vec()) };
    let (body, finish) = match node.attributes.int("p", 2)? {
        1 => ("sum += abs(x);".to_owned(), "return sum;".to_owned()),
        2 => ("sum += x * x;".to_owned(), "return sqrt(sum);".to_owned()),
        p @ 3..=64 => {
            (format!("sum += pow(abs(x), {p}.0);"), format!("return select(pow(sum, 1.0 / {p}.0), 0.0, sum == 0.0);"))
        }
        p => return Err(OpError::unsupported(format!("the norm of order {p}"))),
    };
    let fold = Fold { label: "pool_norm", start: "var sum = 0.0;", padded: "", body, finish };
    debug_assert_eq!(x.repr, Repr::F32, "inference refused everything else");
    launch(cx, &x, &y, &input, &window, &fold)
}
