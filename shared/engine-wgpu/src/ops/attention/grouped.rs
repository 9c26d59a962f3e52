//! GroupQueryAttention of com.microsoft, as ONNX Runtime's CPU kernel computes it: a cache of keys and values, packed inputs, rotary
//! positions, a local window, softcap, attention sinks.
//!
//! The cache may be a buffer that is longer than the sequences (`past_key` as long as `present_key`). `seqlens_k` holds the length of
//! each sequence less one. A run whose sequence is as long as the whole is a prompt: its cache is not read.

use super::scores::{Ends, Mask, Scores, Sink, left_window};
use super::{Attending, Sizes, real};
use crate::error::OpError;
use crate::fault::Fault;
use crate::ir::Node;
use crate::lower::{Arg, KernelBuilder, Lowering, Operand, Params, Repr, element_groups};
use crate::shape::volume;
use crate::value_info::{Inputs, Range, ValueInfo};

/// Positions of the inputs.
mod at {
    pub(super) const QUERY: usize = 0;
    pub(super) const KEY: usize = 1;
    pub(super) const VALUE: usize = 2;
    pub(super) const PAST_KEY: usize = 3;
    pub(super) const PAST_VALUE: usize = 4;
    pub(super) const LENGTHS: usize = 5;
    pub(super) const TOTAL: usize = 6;
    pub(super) const COS: usize = 7;
    pub(super) const SIN: usize = 8;
    pub(super) const POSITIONS: usize = 9;
    pub(super) const BIAS: usize = 10;
    pub(super) const SINK: usize = 11;
    pub(super) const KEY_SCALE: usize = 12;
    pub(super) const VALUE_SCALE: usize = 13;
}

/// Sizes of one node.
#[derive(Debug, Clone, Copy)]
struct Form {
    batch: usize,
    heads: usize,
    kv_heads: usize,
    queries: usize,
    size: usize,
    /// True if the first input holds queries, keys and values.
    packed: bool,
    /// Places of the given cache, and of the answered one.
    past: usize,
    present: usize,
    /// True if the queries are the whole sequence.
    prompt: bool,
    /// Features that turn, and rows of the tables of angles; `None` without rotary positions.
    rotary: Option<(usize, usize)>,
}

impl Form {
    fn of(node: &Node, inputs: Inputs<'_>) -> Result<Self, OpError> {
        let count = |name: &str| -> Result<usize, OpError> {
            let heads = usize::try_from(node.attributes.int(name, 0)?).unwrap_or(0);
            if heads == 0 { Err(OpError::invalid(format!("{name} is missing"))) } else { Ok(heads) }
        };
        let (heads, kv_heads) = (count("num_heads")?, count("kv_num_heads")?);
        let query = inputs.at(at::QUERY)?;
        let &[batch, queries, hidden] = query.shape.as_slice() else {
            return Err(OpError::invalid(format!("queries of shape {:?}", query.shape)));
        };
        let packed = inputs.optional(at::KEY).is_none();
        let all_heads = if packed { heads.saturating_add(kv_heads.saturating_mul(2)) } else { heads };
        let size = hidden / all_heads;
        let kv_shape = [batch, queries, kv_heads.saturating_mul(size)];
        let shaped = |at: usize| inputs.optional(at).is_some_and(|info| info.shape == kv_shape);
        let fresh = if packed { inputs.optional(at::VALUE).is_none() } else { shaped(at::KEY) && shaped(at::VALUE) };
        if size == 0 || !hidden.is_multiple_of(all_heads) || !heads.is_multiple_of(kv_heads) || !fresh {
            return Err(OpError::invalid(format!(
                "queries of shape {:?} with {heads} heads, and keys and values with {kv_heads}",
                query.shape
            )));
        }
        let past = match (inputs.optional(at::PAST_KEY), inputs.optional(at::PAST_VALUE)) {
            (None, None) => 0,
            (Some(key), Some(value)) if key.shape == value.shape => match key.shape[..] {
                [b, h, past, s] if [b, h, s] == [batch, kv_heads, size] => past,
                _ => return Err(OpError::invalid(format!("a cache of shape {:?}", key.shape))),
            },
            (_, _) => return Err(OpError::invalid("its cache of keys and values is incomplete")),
        };
        let total = inputs.known(at::TOTAL)?.to_i64s().first().copied().unwrap_or(0);
        let total = usize::try_from(total).unwrap_or(0);
        let prompt = total == queries;
        if total < queries
            || (total > past && total != past + queries && !prompt)
            || (!prompt && queries > 1 && batch > 1)
        {
            return Err(OpError::invalid(format!(
                "a total_sequence_length of {total} for {queries} queries of {batch} sequences and a cache of {past} places"
            )));
        }
        let rotary = match node.attributes.flag("do_rotary", false)? {
            false => None,
            true => {
                let (cos, sin) = (inputs.at(at::COS)?, inputs.at(at::SIN)?);
                match cos.shape[..] {
                    [rows, half] if cos.shape == sin.shape && rows >= total && half > 0 && 2 * half <= size => {
                        Some((2 * half, rows))
                    }
                    _ => {
                        return Err(OpError::invalid(format!(
                            "tables of angles of shapes {:?} and {:?} for heads of {size} and {total} positions",
                            cos.shape, sin.shape
                        )));
                    }
                }
            }
        };
        Ok(Self { batch, heads, kv_heads, queries, size, packed, past, present: past.max(total), prompt, rotary })
    }

    /// Checks the inputs and attributes that say no size.
    fn check(&self, node: &Node, inputs: Inputs<'_>) -> Result<(), OpError> {
        let Self { batch, heads, queries, .. } = *self;
        if inputs.at(at::LENGTHS)?.elements() != batch {
            return Err(OpError::invalid("seqlens_k has not one number for each sequence"));
        }
        if self.rotary.is_some()
            && inputs.optional(at::POSITIONS).is_some_and(|positions| positions.shape != [batch, queries])
        {
            return Err(OpError::invalid("position_ids has not one number for each query"));
        }
        if inputs.optional(at::SINK).is_some_and(|sink| sink.shape != [heads]) {
            return Err(OpError::invalid("head_sink has not one number for each head"));
        }
        let scaled = [at::KEY_SCALE, at::VALUE_SCALE].iter().any(|&at| inputs.optional(at).is_some());
        if scaled || !matches!(node.attributes.text("k_quant_type", "NONE")?, "NONE") {
            return Err(OpError::unsupported("a quantized cache of keys and values: leave it in float"));
        }
        if node.attributes.int("qk_output", 0)? != 0 && node.output(3).is_some() {
            return Err(OpError::unsupported("its output output_qk: remove it, or set qk_output to 0"));
        }
        Ok(())
    }
}

/// Infers the answer and both caches.
pub(super) fn infer(node: &Node, inputs: Inputs<'_>) -> Result<Vec<ValueInfo>, OpError> {
    let form = Form::of(node, inputs)?;
    form.check(node, inputs)?;
    let dtype = inputs.at(at::QUERY)?.dtype;
    if !dtype.is_float() {
        return Err(OpError::invalid(format!("it attends to {dtype}")));
    }
    let Form { batch, heads, kv_heads, queries, size, present, .. } = form;
    let cache = ValueInfo::new(dtype, vec![batch, kv_heads, present, size]);
    Ok(vec![ValueInfo::new(dtype, vec![batch, queries, heads * size]), cache.clone(), cache])
}

/// Adds the launches: queries with their positions, both caches, the attention.
pub(super) fn lower(node: &Node, cx: &mut Lowering<'_>) -> Result<(), OpError> {
    let infos = cx.input_infos(node);
    let form = Form::of(node, Inputs(&infos))?;
    let Form { batch, heads, kv_heads, queries, size, packed, present, prompt, .. } = form;
    let query = cx.input(node, at::QUERY)?;
    let own = (heads * size, kv_heads * size);
    let (key, value) = match packed {
        true => {
            let row = own.0 + 2 * own.1;
            let rows = |offset| Rows { x: query.clone(), row, offset };
            (rows(own.0), rows(own.0 + own.1))
        }
        false => {
            let rows = |x| Rows { x, row: own.1, offset: 0 };
            (rows(cx.input(node, at::KEY)?), rows(cx.input(node, at::VALUE)?))
        }
    };
    let angles = Angles::of(node, cx, &form)?;
    let q = if packed || angles.is_some() {
        let from = Rows { x: query, row: if packed { own.0 + 2 * own.1 } else { own.0 }, offset: 0 };
        turned_queries(cx, node, &form, &from, angles.as_ref())?
    } else {
        query
    };
    let keys = cached(cx, node, &form, &key, at::PAST_KEY, 1, angles.as_ref())?;
    let values = cached(cx, node, &form, &value, at::PAST_VALUE, 2, None)?;
    let sizes = Sizes {
        split: false,
        batch,
        heads,
        kv_heads,
        queries,
        fresh: queries,
        past: present - queries,
        size,
        value_size: size,
    };
    let scale = match node.attributes.float("scale", 0.0)? {
        0.0 => 1.0 / real(size).sqrt(),
        scale => scale,
    };
    let sink = match cx.optional_input(node, at::SINK)? {
        Some(operand) => Some(Sink::Heads(operand)),
        None if node.attributes.int("smooth_softmax", 0)? > 0 => Some(Sink::Zero),
        None => None,
    };
    let scores = Scores {
        shape: [batch, heads, queries, present],
        mask: cx.optional_input(node, at::BIAS)?.map(|operand| Mask { operand, is_bool: false }),
        ends: Ends::Lengths { lengths: cx.input(node, at::LENGTHS)?, less_one: true, prompt },
        softcap: node.attributes.float("softcap", 0.0)?,
        causal: true,
        windows: [left_window(node.attributes.int("local_window_size", -1)?), u32::MAX],
        sink,
        shown: None,
    };
    let attending = Attending {
        sizes,
        q: sizes.matrix(&q, false, heads, queries, size),
        key: sizes.matrix(&keys, true, kv_heads, present, size),
        value: sizes.matrix(&values, true, kv_heads, present, size),
        scale,
        scores,
        raw: None,
        probabilities: None,
        y: if node.output(0).is_some() { Some(cx.output(node, 0)?.arg) } else { None },
    };
    attending.lower(cx)
}

/// Heads side by side in rows of a tensor, one row for each query.
#[derive(Debug)]
struct Rows {
    x: Operand,
    /// Elements from row to row.
    row: usize,
    /// Elements before the first head of a row.
    offset: usize,
}

/// Tables of angles, and positions where the request gives them.
#[derive(Debug)]
struct Angles {
    cos: Operand,
    sin: Operand,
    positions: Option<Operand>,
    /// True if neighbours turn together instead of halves.
    interleaved: bool,
    /// WGSL that reports positions out of range.
    check: String,
    turned: usize,
    rows: usize,
}

impl Angles {
    fn of(node: &Node, cx: &mut Lowering<'_>, form: &Form) -> Result<Option<Self>, OpError> {
        let Some((turned, rows)) = form.rotary else { return Ok(None) };
        let last = i64::try_from(rows).unwrap_or(i64::MAX) - 1;
        let positions = cx.optional_input(node, at::POSITIONS)?;
        let check = match positions.is_none() || cx.input_range(node, at::POSITIONS).within(Range::new(0, last)) {
            true => String::new(),
            // A negative position is a very large one.
            false => format!("if (u32(load_positions(row)) >= param.angle_rows) {{ {} }}", Fault::Index.report()),
        };
        Ok(Some(Self {
            cos: cx.input(node, at::COS)?,
            sin: cx.input(node, at::SIN)?,
            positions,
            interleaved: node.attributes.flag("rotary_interleaved", false)?,
            check,
            turned,
            rows,
        }))
    }

    /// Adds the tables to a kernel.
    fn bind(&self, kernel: KernelBuilder, args: &mut Vec<Arg>) -> KernelBuilder {
        args.extend([self.cos.arg, self.sin.arg]);
        let kernel = kernel.read("cos", self.cos.repr).read("sin", self.sin.repr);
        let Some(positions) = &self.positions else { return kernel };
        args.push(positions.arg);
        kernel.read("positions", positions.repr)
    }

    fn params(&self) -> Result<Params, OpError> {
        Params::sizes([("turned", self.turned), ("angle_rows", self.rows)])
    }

    /// WGSL of `fn fresh(at, feature, row, place)`: the new element `at`, turned by the angle of its position.
    ///
    /// `row` counts the queries of the batch, `place` is the position in the sequence. In a prompt ONNX Runtime counts from the first
    /// position of the first sequence, whatever the others are.
    fn text(&self, prompt: bool) -> String {
        let position = match (&self.positions, prompt) {
            (None, _) => "place",
            (Some(_), true) => "u32(load_positions(0u)) + place",
            (Some(_), false) => "u32(load_positions(row))",
        };
        let (index, pair, first) = match self.interleaved {
            true => ("feature / 2u", "select(at - 1u, at + 1u, feature % 2u == 0u)", "feature % 2u == 0u"),
            false => ("feature % half", "select(at - half, at + half, feature < half)", "feature < half"),
        };
        format!(
            "fn fresh(at: u32, feature: u32, row: u32, place: u32) -> f32 {{
    let x = load_x(at);
    {check}
    if (feature >= param.turned) {{ return x; }}
    let half = param.turned / 2u;
    let angle = min({position}, param.angle_rows - 1u) * half + {index};
    let other = load_x({pair});
    return load_cos(angle) * x + select(1.0, -1.0, {first}) * load_sin(angle) * other;
}}\n",
            check = self.check
        )
    }
}

/// WGSL of `fn fresh` without angles.
const PLAIN: &str = "fn fresh(at: u32, feature: u32, row: u32, place: u32) -> f32 { return load_x(at); }\n";

/// WGSL of `fn past_of(batch)`: keys of a sequence before its queries.
const fn past_of(prompt: bool) -> &'static str {
    match prompt {
        true => "fn past_of(batch: u32) -> u32 { return 0u; }\n",
        false => {
            "fn past_of(batch: u32) -> u32 { return u32(max(i32(load_lengths(batch)) + 1 - i32(param.queries), 0)); }\n"
        }
    }
}

/// Writes the queries side by side, turned by their angles.
fn turned_queries(
    cx: &mut Lowering<'_>,
    node: &Node,
    form: &Form,
    from: &Rows,
    angles: Option<&Angles>,
) -> Result<Operand, OpError> {
    let &Form { batch, heads, queries, size, prompt, .. } = form;
    let shape = vec![batch, queries, heads * size];
    let elements = volume(&shape)?;
    let arg = cx.scratch(elements);
    let lengths = cx.input(node, at::LENGTHS)?;
    let mut args = vec![from.x.arg];
    let mut kernel = KernelBuilder::new("grouped_queries").read("x", from.x.repr);
    let mut numbers = Params::sizes([
        ("elements", elements),
        ("size", size),
        ("heads", heads),
        ("queries", queries),
        ("row_step", from.row),
    ])?;
    let fresh = match angles {
        None => PLAIN.to_owned(),
        Some(angles) => {
            kernel = angles.bind(kernel, &mut args);
            numbers.extend(angles.params()?);
            angles.text(prompt)
        }
    };
    if !prompt {
        kernel = kernel.read("lengths", lengths.repr);
        args.push(lengths.arg);
    }
    let kernel = kernel.text(past_of(prompt)).text(&fresh).text(
        "fn element(i: u32) -> f32 {
    let feature = i % param.size;
    let row = i / (param.size * param.heads);
    let at = row * param.row_step + i % (param.size * param.heads);
    return fresh(at, feature, row, past_of(row / param.queries) + row % param.queries);
}",
    );
    args.push(arg);
    let groups = element_groups(elements, Repr::F32);
    cx.dispatch(kernel.element(Repr::F32), args, numbers, groups, elements as u64 * 4);
    Ok(Operand { arg, repr: Repr::F32, shape })
}

/// Writes the cache that is answered: what is kept of the given one, the new rows behind it, zeros behind those.
fn cached(
    cx: &mut Lowering<'_>,
    node: &Node,
    form: &Form,
    from: &Rows,
    past_at: usize,
    output_at: usize,
    angles: Option<&Angles>,
) -> Result<Operand, OpError> {
    let &Form { batch, kv_heads, queries, size, past, present, prompt, .. } = form;
    let shape = vec![batch, kv_heads, present, size];
    let elements = volume(&shape)?;
    let arg = if node.output(output_at).is_some() { cx.output(node, output_at)?.arg } else { cx.scratch(elements) };
    let lengths = cx.input(node, at::LENGTHS)?;
    let mut args = vec![from.x.arg, lengths.arg];
    let mut kernel = KernelBuilder::new("grouped_cache").read("x", from.x.repr).read("lengths", lengths.repr);
    let mut numbers = Params::sizes([
        ("elements", elements),
        ("size", size),
        ("kv_heads", kv_heads),
        ("queries", queries),
        ("present", present),
        ("row_step", from.row),
        ("row_offset", from.offset),
    ])?;
    let mut keep = "";
    if let (false, Some(cache)) = (prompt, cx.optional_input(node, past_at)?)
        && past > 0
    {
        kernel = kernel.read("past", cache.repr);
        args.push(cache.arg);
        numbers = numbers.size("past", past)?;
        keep = "if (place < before) { return load_past((head * param.past + min(place, param.past - 1u)) * param.size + feature); }";
    }
    let fresh = match angles {
        None => PLAIN.to_owned(),
        Some(angles) => {
            kernel = angles.bind(kernel, &mut args);
            numbers.extend(angles.params()?);
            angles.text(prompt)
        }
    };
    // A sequence is shorter than the cache, and not shorter than its queries; a prompt may be filled up behind its end.
    let least = if prompt { 0 } else { i64::try_from(queries).unwrap_or(i64::MAX) - 1 };
    let most = i64::try_from(present).unwrap_or(i64::MAX) - 1;
    let check = match cx.input_range(node, at::LENGTHS).within(Range::new(least, most)) {
        true => String::new(),
        false => {
            let low = if prompt { "0" } else { "i32(param.queries) - 1" };
            format!(
                "let stated = i32(load_lengths(batch)); if (stated < {low} || stated >= i32(param.present)) {{ {} }}",
                Fault::Length.report()
            )
        }
    };
    let kernel = kernel.text(past_of(prompt)).text(&fresh).text(&format!(
        "fn element(i: u32) -> f32 {{
    let feature = i % param.size;
    let place = i / param.size % param.present;
    let head = i / param.size / param.present;
    let batch = head / param.kv_heads;
    let before = past_of(batch);
    {check}
    {keep}
    if (place - before >= param.queries) {{ return 0.0; }}
    let row = batch * param.queries + place - before;
    let at = row * param.row_step + param.row_offset + head % param.kv_heads * param.size + feature;
    return fresh(at, feature, row, place);
}}"
    ));
    args.push(arg);
    let groups = element_groups(elements, Repr::F32);
    cx.dispatch(kernel.element(Repr::F32), args, numbers, groups, elements as u64 * 4);
    Ok(Operand { arg, repr: Repr::F32, shape })
}
