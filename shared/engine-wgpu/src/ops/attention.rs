//! Attention (opset 23 and later): scores, softmax and mixing as two [`Product`]s and a row kernel between them.
//!
//! Heads are strides, never copies: queries, keys and values are read where they lie, whether as `[batch, heads, length, size]`
//! or as `[batch, length, heads * size]`. Only a cache that grows is written out.

mod grouped;
mod scores;

use scores::{Ends, Mask, Scores};

use crate::error::OpError;
use crate::ir::{ElementType, Node};
use crate::lower::{Arg, KernelBuilder, Lowering, Operand, Params, Repr, element_groups};
use crate::ops::epilogue::Epilogue;
use crate::ops::product::{Matrix, Product};
use crate::ops::rule::Rule;
use crate::shape::param;
use crate::shape::volume;
use crate::value_info::{Inputs, ValueInfo};

/// The operators of this family.
pub(super) const RULES: &[Rule] = &[
    Rule::device("Attention", infer, lower),
    Rule::device("GroupQueryAttention", grouped::infer, grouped::lower).in_domain("com.microsoft"),
];

/// The sizes of one attention.
#[derive(Debug, Clone, Copy)]
struct Sizes {
    /// True if heads are a dimension of their own.
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

fn infer(node: &Node, inputs: Inputs<'_>) -> Result<Vec<ValueInfo>, OpError> {
    let sizes = Sizes::of(node, inputs)?;
    let dtype = inputs.at(0)?.dtype;
    if !dtype.is_float() {
        return Err(OpError::invalid(format!("it attends to {dtype}")));
    }
    let Sizes { split, batch, heads, kv_heads, queries, size, value_size, .. } = sizes;
    let keys = sizes.keys();
    let y = if split { vec![batch, heads, queries, value_size] } else { vec![batch, queries, heads * value_size] };
    Ok(vec![
        ValueInfo::new(dtype, y),
        ValueInfo::new(dtype, vec![batch, kv_heads, keys, size]),
        ValueInfo::new(inputs.at(2)?.dtype, vec![batch, kv_heads, keys, value_size]),
        ValueInfo::new(dtype, vec![batch, heads, queries, keys]),
    ])
}

fn lower(node: &Node, cx: &mut Lowering<'_>) -> Result<(), OpError> {
    let infos = cx.input_infos(node);
    let sizes = Sizes::of(node, Inputs(&infos))?;
    let Sizes { batch, heads, queries, size, value_size, split, .. } = sizes;
    let (q, k, v) = (cx.input(node, 0)?, cx.input(node, 1)?, cx.input(node, 2)?);
    let keys = sizes.keys();
    let key = present(node, cx, &sizes, &k, 4, 1, size)?;
    let value = present(node, cx, &sizes, &v, 5, 2, value_size)?;
    let scale = match node.attributes.find("scale") {
        Some(_stated) => node.attributes.float("scale", 1.0)?,
        None => 1.0 / real(size).sqrt(),
    };
    let mode = node.attributes.int("qk_matmul_output_mode", 0)?;
    let shown = if node.output(3).is_some() { Some(cx.output(node, 3)?.arg) } else { None };
    let ends = match cx.optional_input(node, 6)? {
        Some(lengths) if lengths.elements() != batch || sizes.past > 0 => {
            return Err(OpError::invalid("nonpad_kv_seqlen is not one number for each batch, or there is a cache too"));
        }
        Some(lengths) => Ends::Lengths { lengths, less_one: false, prompt: false },
        None => Ends::Past(sizes.past),
    };
    let window =
        |name: &str| -> Result<u32, OpError> { Ok(u32::try_from(node.attributes.int(name, -1)?).unwrap_or(u32::MAX)) };
    let mask = cx.optional_input(node, 3)?.map(|operand| {
        let is_bool = node.input(3).is_some_and(|id| cx.info(id).dtype == ElementType::Bool);
        Mask { operand, is_bool }
    });
    let scores = Scores {
        shape: [batch, heads, queries, keys],
        mask,
        ends,
        softcap: node.attributes.float("softcap", 0.0)?,
        causal: node.attributes.flag("is_causal", false)?,
        windows: [window("left_window_size")?, window("right_window_size")?],
        sink: None,
        shown: shown.filter(|_arg| mode == 1 || mode == 2).map(|arg| (arg, mode == 1)),
    };
    let product = Attending {
        sizes,
        q: sizes.matrix(&q, split, heads, queries, size),
        key,
        value,
        scale,
        scores,
        raw: shown.filter(|_arg| mode == 0),
        probabilities: shown.filter(|_arg| mode == 3),
        y: if node.output(0).is_some() { Some(cx.output(node, 0)?.arg) } else { None },
    };
    product.lower(cx)
}

/// One attention over matrices wherever they are.
#[derive(Debug)]
struct Attending {
    sizes: Sizes,
    q: Matrix,
    key: Matrix,
    value: Matrix,
    /// Factor of the products of queries and keys.
    scale: f32,
    scores: Scores,
    /// Tensor that those products are written to as well.
    raw: Option<Arg>,
    /// Tensor that probabilities are written to; scratch where nobody wants them.
    probabilities: Option<Arg>,
    y: Option<Arg>,
}

impl Attending {
    /// Launches scores, softmax and the sum of values.
    fn lower(self, cx: &mut Lowering<'_>) -> Result<(), OpError> {
        let Sizes { split, batch, heads, kv_heads, queries, size, value_size, .. } = self.sizes;
        let keys = self.sizes.keys();
        let total = volume(&[batch, heads, queries, keys])?;
        let repeats = heads / kv_heads;
        let probabilities = self.probabilities.unwrap_or_else(|| cx.scratch(total));
        let whole = vec![batch, kv_heads, repeats];
        let score_steps = vec![heads * queries * keys, repeats * queries * keys, queries * keys];
        let scores = |y: Arg| {
            let b = &self.key;
            Product {
                batch: whole.clone(),
                m: queries,
                n: keys,
                k: size,
                a: self.q.clone(),
                b: Matrix { row: b.col, col: b.row, ..b.clone() },
                alpha: self.scale,
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
        if let Some(arg) = self.raw {
            scores(arg).lower(cx)?;
        }
        self.scores.lower(cx, probabilities)?;
        let Some(y) = self.y else { return Ok(()) };
        let (step, row) = if split { (queries * value_size, value_size) } else { (value_size, heads * value_size) };
        let a = Matrix {
            arg: probabilities,
            repr: Repr::F32,
            constant: None,
            offset: 0,
            batch: score_steps,
            row: keys,
            col: 1,
        };
        let product = Product {
            batch: whole,
            m: queries,
            n: value_size,
            k: keys,
            a,
            b: self.value,
            alpha: 1.0,
            bias: None,
            y,
            y_batch: vec![heads * queries * value_size, repeats * step, step],
            y_row: row,
            epilogue: Epilogue::NONE,
            plain: false,
            checked: false,
        };
        product.lower(cx)
    }
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
