//! MatMulNBits (com.microsoft): a product with constant weights of 4 or 8 bits in blocks along K, taken apart in the inner
//! loop so that the device reads a quarter or an eighth of the memory.

use crate::error::OpError;
use crate::ir::{ElementType, Literal, Node, ValueId};
use crate::lower::{Arg, Effort, KernelBuilder, Lowering, Params};
use crate::ops::product::{groups_of, padded_rows};
use crate::ops::rule::Rule;
use crate::value_info::{Inputs, ValueInfo};

/// The operators of this family.
pub(super) const RULES: &[Rule] = &[Rule::device("MatMulNBits", infer, lower).in_domain("com.microsoft")];

/// Columns of one thread, and of one panel of packed weights.
const COLUMNS: usize = 4;

/// The sizes of one product.
#[derive(Debug, Clone, Copy)]
struct Sizes {
    n: usize,
    k: usize,
    bits: usize,
    block: usize,
}

impl Sizes {
    fn of(node: &Node) -> Result<Self, OpError> {
        let number = |name: &str, default: i64| -> Result<usize, OpError> {
            let value = usize::try_from(node.attributes.int(name, default)?).ok();
            let value = value.filter(|&value| value > 0 && u32::try_from(value).is_ok());
            value.ok_or_else(|| OpError::invalid(format!("{name} is missing or out of range")))
        };
        let sizes =
            Self { n: number("N", 0)?, k: number("K", 0)?, bits: number("bits", 4)?, block: number("block_size", 0)? };
        if !matches!(sizes.bits, 4 | 8) {
            return Err(OpError::unsupported(format!("weights of {} bits", sizes.bits)));
        }
        if sizes.block < 16 || !sizes.block.is_power_of_two() {
            return Err(OpError::invalid(format!("a block of {} weights", sizes.block)));
        }
        Ok(sizes)
    }

    fn blocks(self) -> usize {
        self.k.div_ceil(self.block)
    }

    /// Bytes of one block of weights.
    fn block_bytes(self) -> usize {
        self.block * self.bits / 8
    }
}

fn infer(node: &Node, inputs: Inputs<'_>) -> Result<Vec<ValueInfo>, OpError> {
    let sizes = Sizes::of(node)?;
    let (a, b, scales) = (inputs.at(0)?, inputs.at(1)?, inputs.at(2)?);
    if !a.dtype.is_float() || a.shape.last() != Some(&sizes.k) {
        return Err(OpError::invalid(format!("its input is {} {:?}, K is {}", a.dtype, a.shape, sizes.k)));
    }
    if b.dtype != ElementType::U8 || b.elements() != sizes.n * sizes.blocks() * sizes.block_bytes() {
        return Err(OpError::invalid(format!("its weights are {} {:?}", b.dtype, b.shape)));
    }
    if scales.elements() != sizes.n * sizes.blocks() {
        return Err(OpError::invalid("its scales are not one for each block"));
    }
    if inputs.optional(4).is_some() {
        return Err(OpError::unsupported("an order of groups (g_idx)"));
    }
    if inputs.optional(5).is_some_and(|bias| bias.elements() != sizes.n) {
        return Err(OpError::invalid("its bias has not one number for each column"));
    }
    let mut shape = a.shape.clone();
    if let Some(last) = shape.last_mut() {
        *last = sizes.n;
    }
    Ok(vec![ValueInfo::new(a.dtype, shape)])
}

/// The constant at an input.
fn constant<'a>(node: &Node, cx: &Lowering<'a>, at: usize) -> Result<Option<(ValueId, &'a Literal)>, OpError> {
    let Some(id) = node.input(at) else { return Ok(None) };
    cx.constant(id).map(|literal| Some((id, literal))).ok_or(OpError::DataDependent(at))
}

/// Weights as one word for each of four columns, words along K: `[n / 4][words of a column][4]`.
fn pack_weights(sizes: Sizes, bytes: &[u8]) -> Vec<u32> {
    let column_bytes = sizes.blocks() * sizes.block_bytes();
    let words = column_bytes / 4;
    let word = |i: usize| {
        let column = i / (words * COLUMNS) * COLUMNS + i % COLUMNS;
        let at = column * column_bytes + i / COLUMNS % words * 4;
        bytes
            .get(at..at + 4)
            .filter(|_bytes| column < sizes.n)
            .map_or(0, |four| four.iter().rev().fold(0, |word, &byte| (word << 8) | u32::from(byte)))
    };
    (0..sizes.n.div_ceil(COLUMNS) * COLUMNS * words).map(word).collect()
}

/// One float for each block as `[n / 4][blocks][4]`.
fn pack_blocks(sizes: Sizes, values: &[f32]) -> Vec<u32> {
    let blocks = sizes.blocks();
    let word = |i: usize| {
        let column = i / (blocks * COLUMNS) * COLUMNS + i % COLUMNS;
        let value = values.get(column * blocks + i / COLUMNS % blocks).filter(|_value| column < sizes.n);
        value.map_or(0, |value| value.to_bits())
    };
    (0..sizes.n.div_ceil(COLUMNS) * COLUMNS * blocks).map(word).collect()
}

/// The zero points of all blocks as floats; half the range where none are given.
fn zero_points(sizes: Sizes, given: Option<&Literal>) -> Result<Vec<f32>, OpError> {
    let blocks = sizes.blocks();
    let Some(literal) = given else {
        return Ok(vec![if sizes.bits == 4 { 8.0 } else { 128.0 }; sizes.n * blocks]);
    };
    if literal.dtype() != ElementType::U8 {
        let values = literal.to_f32s();
        let fits = values.len() == sizes.n * blocks && literal.dtype().is_float();
        return if fits { Ok(values) } else { Err(OpError::invalid("its zero points are not one for each block")) };
    }
    // Packed like the weights, each column beginning at a byte.
    let row = (blocks * sizes.bits).div_ceil(8);
    let bytes = literal.bytes();
    if bytes.len() != row * sizes.n {
        return Err(OpError::invalid("its zero points are not one for each block"));
    }
    let point = |i: usize| {
        let (column, block) = (i / blocks, i % blocks);
        let byte = bytes[column * row + block * sizes.bits / 8];
        f32::from(match (sizes.bits, block % 2) {
            (4, 0) => byte & 0xf,
            (4, _) => byte >> 4,
            (_, _) => byte,
        })
    };
    Ok((0..sizes.n * blocks).map(point).collect())
}

fn lower(node: &Node, cx: &mut Lowering<'_>) -> Result<(), OpError> {
    let sizes = Sizes::of(node)?;
    let (a, y) = (cx.input(node, 0)?, cx.output(node, 0)?);
    let rows = a.elements() / sizes.k;
    if rows == 0 {
        return Ok(());
    }
    let missing = |at: usize| move || OpError::invalid(format!("input {at} is missing"));
    let (b, weights) = constant(node, cx, 1)?.ok_or_else(missing(1))?;
    let (scales, scale_values) = constant(node, cx, 2)?.ok_or_else(missing(2))?;
    let points = constant(node, cx, 3)?;
    let name = format!("nbits {} {} {}", sizes.bits, sizes.block, sizes.n);
    let weight_arg = cx.packed_weight(b, &name, || Ok(pack_weights(sizes, weights.bytes())))?;
    let scale_arg = cx.packed_weight(scales, &name, || Ok(pack_blocks(sizes, &scale_values.to_f32s())))?;
    let name = format!("{name} points {:?}", points.map(|(id, _literal)| id));
    let point_arg = cx.packed_weight(b, &name, || {
        Ok(pack_blocks(sizes, &zero_points(sizes, points.map(|(_id, literal)| literal))?))
    })?;
    let pitch = sizes.blocks() * sizes.block;
    let a_arg: Arg = if sizes.k == pitch { a.arg } else { padded_rows(cx, a.arg, rows, sizes.k, pitch)? };
    let mut args = vec![a_arg, weight_arg, scale_arg, point_arg];
    let mut kernel = KernelBuilder::new("matmul_nbits")
        .raw("a", "array<vec4<f32>>")
        .raw("b", "array<vec4<u32>>")
        .raw("scales", "array<vec4<f32>>")
        .raw("points", "array<vec4<f32>>");
    let mut bias = "0.0";
    if let Some(operand) = cx.optional_input(node, 5)? {
        kernel = kernel.read("bias", operand.repr);
        args.push(operand.arg);
        bias = "load_bias(col)";
    }
    args.push(y.arg);
    let tile_rows = match rows {
        1 => 1,
        2..=4 => 4,
        _ => 8,
    };
    let threads = if cx.tuning.workgroup_tiles { 64 } else { 8 };
    let kernel = kernel.raw("y", "array<f32>").text(&text(sizes.bits, tile_rows, threads, bias)).finish();
    let words = sizes.block_bytes() / 4;
    let numbers = Params::sizes([
        ("rows", rows),
        ("columns", sizes.n),
        ("blocks", sizes.blocks()),
        ("words", words),
        ("pitch", pitch / 4),
    ])?;
    let groups = [groups_of(sizes.n, COLUMNS * threads)?, groups_of(rows, tile_rows)?, 1];
    let work = [rows, sizes.n, pitch].iter().fold(1_usize, |work, &size| work.saturating_mul(size));
    let effort = Effort::looping(u64::try_from(work).unwrap_or(u64::MAX), sizes.blocks().saturating_mul(words + 1));
    cx.dispatch(kernel, args, numbers, groups, effort);
    Ok(())
}

/// Returns the entry point: a thread owns four columns and some rows. `param.pitch` counts vectors of a row of `a`.
fn text(bits: usize, rows: usize, threads: usize, bias: &str) -> String {
    let per_word = 32 / bits;
    let mask = (1_u32 << bits) - 1;
    let mut text = format!(
        "fn put(row: u32, col: u32, sum: f32) {{
    if (row < param.rows && col < param.columns) {{ y[row * param.columns + col] = sum + {bias}; }}
}}
@compute @workgroup_size({threads})
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {{
    let place = group + group_base();
    let panel = place.x * {threads}u + lane;
    let row = place.y * {rows}u;
    if (panel * {COLUMNS}u >= param.columns) {{ return; }}
    let last = param.rows - 1u;
    var ib = panel * param.blocks * param.words;
    var k = 0u;\n"
    );
    for r in 0..rows {
        text.push_str(&format!("    let a{r} = min(row + {r}u, last) * param.pitch;\n    var s{r} = vec4<f32>();\n"));
    }
    text.push_str(
        "    for (var block = 0u; block < param.blocks; block++) {
        let scale = scales[panel * param.blocks + block];
        let point = points[panel * param.blocks + block];
        for (var word = 0u; word < param.words; word++) {
            let q = b[ib];\n",
    );
    for quad in 0..per_word / 4 {
        for r in 0..rows {
            text.push_str(&format!("            let x{r}_{quad} = a[a{r} + k + {quad}u];\n"));
        }
    }
    for at in 0..per_word {
        text.push_str(&format!(
            "            let w{at} = (vec4<f32>((q >> vec4<u32>({}u)) & vec4<u32>({mask}u)) - point) * scale;\n",
            at * bits
        ));
        for r in 0..rows {
            text.push_str(&format!("            s{r} = fma(vec4<f32>(x{r}_{}[{}]), w{at}, s{r});\n", at / 4, at % 4));
        }
    }
    text.push_str(&format!("            ib++;\n            k += {}u;\n        }}\n    }}\n", per_word / 4));
    for r in 0..rows {
        for c in 0..COLUMNS {
            text.push_str(&format!("    put(row + {r}u, panel * {COLUMNS}u + {c}u, s{r}[{c}]);\n"));
        }
    }
    text.push_str("}\n");
    text
}
