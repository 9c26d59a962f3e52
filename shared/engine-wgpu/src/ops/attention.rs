//! Attention (opset 23 and later): scores, softmax and mixing as two [`Product`]s and a row kernel between them.
//!
//! Heads are strides, never copies: queries, keys and values are read where they lie, whether as `[batch, heads, length, size]`
//! or as `[batch, length, heads * size]`. Only a cache that grows is written out.

use crate::error::OpError;
use crate::facts::{Fact, Inputs};
use crate::ir::{ElementType, Node};
use crate::lower::{self, Arg, Effort, KernelBuilder, Lowering, Operand, Params, Repr, element_groups, linear_groups};
use crate::ops::Rule;
use crate::ops::epilogue::Epilogue;
use crate::ops::product::{Matrix, Product, volume};
use crate::ops::shape::{broadcast_strides, param};

/// The operators of this family.
pub(super) const RULES: &[Rule] = &[Rule::device("Attention", infer, lower)];

/// The sizes of one attention.
#[derive(Debug, Clone, Copy)]
struct Sizes {
    /// Whether heads are a dimension of their own.
    split: bool,
    batch: usize,
    heads: usize,
    kv_heads: usize,
    queries: usize,
    /// New keys, and those of the cache before them.
    fresh: usize,
    past: usize,
    size: usize,
    value_size: usize,
}

impl Sizes {
    fn of(node: &Node, inputs: Inputs<'_>) -> Result<Self, OpError> {
        let (q, k, v) = (&inputs.at(0)?.shape, &inputs.at(1)?.shape, &inputs.at(2)?.shape);
        let mismatch = || OpError::invalid(format!("queries {q:?}, keys {k:?} and values {v:?} do not fit together"));
        let count = |name: &str| -> Result<usize, OpError> {
            let heads = usize::try_from(node.attributes.int(name, 0)?).unwrap_or(0);
            if heads == 0 { Err(OpError::invalid(format!("{name} is missing"))) } else { Ok(heads) }
        };
        let past = match (inputs.optional(4), inputs.optional(5)) {
            (None, None) => 0,
            (Some(key), Some(value)) if key.rank() == 4 && value.rank() == 4 && key.shape[2] == value.shape[2] => {
                key.shape[2]
            }
            (_, _) => return Err(OpError::invalid("its cache of keys and values is incomplete")),
        };
        let sizes = match (q.as_slice(), k.as_slice(), v.as_slice()) {
            (&[batch, heads, queries, size], &[_, kv_heads, fresh, _], &[_, _, _, value_size]) => {
                Self { split: true, batch, heads, kv_heads, queries, fresh, past, size, value_size }
            }
            (&[batch, queries, hidden], &[_, fresh, _], &[_, _, value_hidden]) => {
                let (heads, kv_heads) = (count("q_num_heads")?, count("kv_num_heads")?);
                let (size, value_size) = (hidden / heads, value_hidden / kv_heads);
                Self { split: false, batch, heads, kv_heads, queries, fresh, past, size, value_size }
            }
            (_, _, _) => return Err(mismatch()),
        };
        let Self { split, batch, heads, kv_heads, queries, fresh, size, value_size, .. } = sizes;
        let shaped = |heads: usize, length: usize, size: usize| {
            if split { vec![batch, heads, length, size] } else { vec![batch, length, heads * size] }
        };
        let fits = kv_heads > 0
            && heads.is_multiple_of(kv_heads)
            && *q == shaped(heads, queries, size)
            && *k == shaped(kv_heads, fresh, size)
            && *v == shaped(kv_heads, fresh, value_size)
            && inputs.optional(4).is_none_or(|key| key.shape == [batch, kv_heads, past, size])
            && inputs.optional(5).is_none_or(|value| value.shape == [batch, kv_heads, past, value_size]);
        if fits { Ok(sizes) } else { Err(mismatch()) }
    }

    fn keys(&self) -> usize {
        self.past + self.fresh
    }

    /// A tensor of heads as matrices over the batch dimensions (batch, key-value head, query head of it).
    fn matrix(&self, operand: &Operand, split: bool, heads: usize, length: usize, size: usize) -> Matrix {
        let (step, row) = if split { (length * size, size) } else { (size, heads * size) };
        let repeats = heads / self.kv_heads;
        let batch = if heads == self.kv_heads {
            vec![heads * length * size, step, 0]
        } else {
            vec![heads * length * size, repeats * step, step]
        };
        Matrix { arg: operand.arg, repr: operand.repr, constant: None, offset: 0, batch, row, col: 1 }
    }
}

fn infer(node: &Node, inputs: Inputs<'_>) -> Result<Vec<Fact>, OpError> {
    let sizes = Sizes::of(node, inputs)?;
    let dtype = inputs.at(0)?.dtype;
    if !dtype.is_float() {
        return Err(OpError::invalid(format!("it attends to {dtype}")));
    }
    let Sizes { split, batch, heads, kv_heads, queries, size, value_size, .. } = sizes;
    let keys = sizes.keys();
    let y = if split { vec![batch, heads, queries, value_size] } else { vec![batch, queries, heads * value_size] };
    Ok(vec![
        Fact::new(dtype, y),
        Fact::new(dtype, vec![batch, kv_heads, keys, size]),
        Fact::new(inputs.at(2)?.dtype, vec![batch, kv_heads, keys, value_size]),
        Fact::new(dtype, vec![batch, heads, queries, keys]),
    ])
}

fn lower(node: &Node, cx: &mut Lowering<'_>) -> Result<(), OpError> {
    let facts = cx.input_facts(node);
    let sizes = Sizes::of(node, Inputs(&facts))?;
    let Sizes { batch, heads, kv_heads, queries, size, value_size, split, .. } = sizes;
    let (q, k, v) = (cx.input(node, 0)?, cx.input(node, 1)?, cx.input(node, 2)?);
    let keys = sizes.keys();
    let key = present(node, cx, &sizes, &k, 4, 1, size)?;
    let value = present(node, cx, &sizes, &v, 5, 2, value_size)?;
    let rows = volume(&[batch, heads, queries])?;
    let total = volume(&[rows, keys])?;
    let repeats = heads / kv_heads;
    let scale = match node.attributes.find("scale") {
        Some(_stated) => node.attributes.float("scale", 1.0)?,
        None => 1.0 / real(size).sqrt(),
    };
    let mode = node.attributes.int("qk_matmul_output_mode", 0)?;
    let shown = if node.output(3).is_some() { Some(cx.output(node, 3)?.arg) } else { None };
    let probabilities = match shown {
        Some(arg) if mode == 3 => arg,
        _ => cx.scratch(total),
    };
    let whole = vec![batch, kv_heads, repeats];
    let score_steps = vec![heads * queries * keys, repeats * queries * keys, queries * keys];
    let scores = |y: Arg| {
        let b = &key;
        Product {
            batch: whole.clone(),
            m: queries,
            n: keys,
            k: size,
            a: sizes.matrix(&q, split, heads, queries, size),
            b: Matrix { row: b.col, col: b.row, ..b.clone() },
            alpha: scale,
            bias: None,
            y,
            y_batch: score_steps.clone(),
            y_row: keys,
            epilogue: Epilogue::NONE,
            plain: false,
            checked: false,
        }
    };
    scores(probabilities).lower(cx)?;
    if let Some(arg) = shown.filter(|_arg| mode == 0) {
        scores(arg).lower(cx)?;
    }
    softmax(node, cx, &sizes, probabilities, shown.filter(|_arg| mode == 1 || mode == 2), mode)?;
    if node.output(0).is_none() {
        return Ok(());
    }
    let (step, row) = if split { (queries * value_size, value_size) } else { (value_size, heads * value_size) };
    let product = Product {
        batch: whole,
        m: queries,
        n: value_size,
        k: keys,
        a: Matrix {
            arg: probabilities,
            repr: Repr::F32,
            constant: None,
            offset: 0,
            batch: score_steps,
            row: keys,
            col: 1,
        },
        b: value,
        alpha: 1.0,
        bias: None,
        y: cx.output(node, 0)?.arg,
        y_batch: vec![heads * queries * value_size, repeats * step, step],
        y_row: row,
        epilogue: Epilogue::NONE,
        plain: false,
        checked: false,
    };
    product.lower(cx)
}

#[expect(clippy::cast_precision_loss, reason = "a head's size is far below 2^24")]
fn real(size: usize) -> f32 {
    size as f32
}

/// Keys or values as the products read them; written out where there is a cache or somebody wants the new one.
fn present(
    node: &Node,
    cx: &mut Lowering<'_>,
    sizes: &Sizes,
    fresh: &Operand,
    past_at: usize,
    output_at: usize,
    size: usize,
) -> Result<Matrix, OpError> {
    let &Sizes { batch, kv_heads, past, fresh: length, split, .. } = sizes;
    let wanted = node.output(output_at).is_some();
    if past == 0 && !wanted {
        return Ok(sizes.matrix(fresh, split, kv_heads, length, size));
    }
    let shape = vec![batch, kv_heads, past + length, size];
    let total = volume(&shape)?;
    let arg = if wanted { cx.output(node, output_at)?.arg } else { cx.scratch(total) };
    let (step, row) = if split { (length * size, size) } else { (size, kv_heads * size) };
    let cached = cx.optional_input(node, past_at)?;
    let mut args = vec![fresh.arg];
    let mut kernel = KernelBuilder::new("attention_cache").read("fresh", fresh.repr);
    let mut from_past = "";
    if let Some(cached) = &cached {
        kernel = kernel.read("past", cached.repr);
        args.push(cached.arg);
        from_past =
            "if (place < param.past) { return load_past((head * param.past + place) * param.size + i % param.size); }";
    }
    args.push(arg);
    let kernel = kernel
        .text(&format!(
            "fn element(i: u32) -> f32 {{
    let place = i / param.size % param.keys;
    let head = i / param.size / param.keys;
    {from_past}
    let at = head / param.kv_heads * param.batch_step + head % param.kv_heads * param.head_step + (place - param.past) * param.row_step;
    return load_fresh(at + i % param.size);
}}"
        ))
        .element(Repr::F32);
    let numbers = Params::sizes([
        ("elements", total),
        ("size", size),
        ("keys", past + length),
        ("past", past),
        ("kv_heads", kv_heads),
        ("batch_step", kv_heads * length * size),
        ("head_step", step),
        ("row_step", row),
    ])?;
    cx.dispatch(kernel, args, numbers, element_groups(total, Repr::F32), u64::from(param(total)?));
    let operand = Operand { arg, repr: Repr::F32, shape };
    Ok(sizes.matrix(&operand, true, kv_heads, past + length, size))
}

/// Adds the row kernel; `shown` is where scores go after softcap (mode 1) or after the mask (mode 2).
fn softmax(
    node: &Node,
    cx: &mut Lowering<'_>,
    sizes: &Sizes,
    probabilities: Arg,
    shown: Option<Arg>,
    mode: i64,
) -> Result<(), OpError> {
    let &Sizes { batch, heads, queries, past, .. } = sizes;
    let keys = sizes.keys();
    let rows = volume(&[batch, heads, queries])?;
    if rows == 0 || keys == 0 {
        return Ok(());
    }
    let mut args = Vec::new();
    let mut kernel = KernelBuilder::new("attention_softmax");
    let (mut text, mut before) = (String::new(), "i32(param.past)".to_owned());
    let mut steps = vec![0; 4];
    let mut known = keys;
    if let Some(mask) = cx.optional_input(node, 3)? {
        let full = [batch, heads, queries, mask.shape.last().copied().unwrap_or(1)];
        known = full[3];
        let fits = !mask.shape.is_empty()
            && known <= keys
            && crate::ops::shape::broadcast(&mask.shape, &full).is_ok_and(|shape| shape == full);
        if !fits {
            return Err(OpError::invalid(format!("a mask of {:?} does not fit scores of {full:?}", mask.shape)));
        }
        steps = broadcast_strides(&mask.shape, &full);
        kernel = kernel.read("mask", mask.repr);
        args.push(mask.arg);
        text.push_str(
            "if (key >= param.mask_keys) { return BARRED; }
    let bias = load_mask(batch * param.mask_batch + head * param.mask_head + query * param.mask_query + key);\n    ",
        );
        let fact = node.input(3).map(|id| cx.fact(id).dtype);
        text.push_str(if fact == Some(ElementType::Bool) {
            "if (bias == 0) { return BARRED; }\n    "
        } else {
            "if (bitcast<u32>(bias) == 0xff800000u || is_barred(bias)) { return BARRED; }\n    value += bias;\n    "
        });
    }
    if let Some(lengths) = cx.optional_input(node, 6)? {
        if lengths.elements() != batch || past > 0 {
            return Err(OpError::invalid("nonpad_kv_seqlen is not one number for each batch, or there is a cache too"));
        }
        kernel = kernel.read("lengths", lengths.repr);
        args.push(lengths.arg);
        text.push_str("if (i32(key) >= load_lengths(batch)) { return BARRED; }");
        before = "load_lengths(batch) - i32(param.queries)".to_owned();
    }
    kernel = kernel.raw("p", "array<f32>");
    args.push(probabilities);
    let mut store = "";
    if let Some(shown) = shown {
        kernel = kernel.raw("qk", "array<f32>");
        args.push(shown);
        store = if mode == 1 {
            "qk[first + key] = score;"
        } else {
            // An infinity may not be written as a constant expression.
            "qk[first + key] = select(value, bitcast<f32>(param.infinity), is_barred(value));"
        };
    }
    let threads = if cx.tuning.workgroup_tiles { 64 } else { 8 };
    let scores = format!(
        "let score = softcapped(p[first + key]);
        let value = biased(score, batch, head, query, key);
        {store}
        p[first + key] = value;
        largest = max(largest, value);"
    );
    let sum = "let value = p[first + key];
        var part = 0.0;
        if (!is_barred(value)) { part = exp(value - largest); }
        p[first + key] = part;
        sum += part;";
    let walk = |body: &str| lower::steps("key", "param.keys", keys, body);
    let (walk_scores, rounds) = walk(&scores);
    let text = include_str!("../wgsl/attention_softmax.wgsl")
        .replace("WALK_SCORES", &walk_scores)
        .replace("WALK_SUM", &walk(sum).0)
        .replace("WALK_SCALE", &walk("p[first + key] = p[first + key] * factor;").0)
        .replace("BEFORE", &before)
        .replace("MASK", &text)
        .replace("THREADS", &threads.to_string());
    let window =
        |name: &str| -> Result<u32, OpError> { Ok(u32::try_from(node.attributes.int(name, -1)?).unwrap_or(u32::MAX)) };
    let numbers = Params::sizes([
        ("rows", rows),
        ("heads", heads),
        ("queries", queries),
        ("keys", keys),
        ("mask_batch", steps[0]),
        ("mask_head", steps[1]),
        ("mask_query", steps[2]),
        ("mask_keys", known),
        ("past", past),
    ])?;
    let numbers = numbers.float("softcap", node.attributes.float("softcap", 0.0)?).float("infinity", f32::NEG_INFINITY);
    let numbers = numbers.word("causal", u32::from(node.attributes.flag("is_causal", false)?));
    let numbers = numbers.word("left_window", window("left_window_size")?);
    let numbers = numbers.word("right_window", window("right_window_size")?);
    let work = u64::try_from(rows.saturating_mul(keys).saturating_mul(8)).unwrap_or(u64::MAX);
    let effort = Effort::looping(work, rounds.saturating_mul(3));
    cx.dispatch(kernel.text(&text).finish(), args, numbers, linear_groups(rows.div_ceil(threads)), effort);
    Ok(())
}
