//! The product of two 8-bit integer matrices, summed exactly in 32 bits.
//!
//! Each thread computes a few rows by four columns. Two bodies, chosen by the device: integer dot products where the
//! hardware has them, else values unpacked to `f32`, whose sums are exact below 2^24 and are moved to integers before that.
//! Bytes are made signed first; zero points come off at the end:
//! `Σ(a-za)(b-zb) = Σab - za Σb - zb Σa + K za zb`.

use super::Points;
use super::finish::Finish;
use super::pack::{LANES, Side};
use crate::error::OpError;
use crate::lower::{Arg, Effort, GROUPS_MAX, KernelBuilder, Lowering, Params, Repr, element_groups};
use crate::shape::param;

/// Most rows and quads of columns of one thread where the hardware has dot products: 32 sums still fit the registers of
/// small GPUs.
const TILE_DOTS: (usize, usize) = (8, 1);

/// The same on software: unpacking is shared by more products (measured 1.9 times as fast as 8 by 1).
const TILE_FLOATS: (usize, usize) = (16, 2);

/// Threads of a workgroup.
const GROUP: usize = 64;

/// Words summed in `f32` before the sum moves to integers: 256 words of 4 products of at most 2^14 make 2^24.
const EXACT_WORDS: usize = 256;

/// One dimension that the product is repeated over.
#[derive(Debug, Clone, Copy)]
pub(super) struct Batch {
    /// Number of repetitions of the product.
    pub(super) size: usize,
    /// Left matrices from one index to the next.
    pub(super) a: usize,
    /// Right matrices from one index to the next.
    pub(super) b: usize,
    /// Channels from one index to the next.
    pub(super) channel: usize,
}

/// Dimension that scales, biases and per-channel zero points belong to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Channels {
    /// Rows of the product: a convolution.
    Rows,
    /// Its columns: a matrix product.
    Columns,
}

/// One product of small integers.
#[derive(Debug)]
pub(super) struct Gemm {
    /// Rows, columns and summed dimension.
    pub(super) sizes: (usize, usize, usize),
    /// Left matrices, packed as rows.
    pub(super) a: Side,
    /// Right matrices, packed as columns.
    pub(super) b: Side,
    /// Batch dimensions, outermost first.
    pub(super) batch: Vec<Batch>,
    /// Dimension of the channels.
    pub(super) channels: Channels,
    /// Conversion of the finished sums.
    pub(super) finish: Finish,
    /// Output tensor of the sums.
    pub(super) y: Arg,
    /// Layout of the output.
    pub(super) repr: Repr,
}

impl Gemm {
    /// Launches it.
    ///
    /// # Errors
    /// When sizes do not fit the device.
    pub(super) fn lower(self, cx: &mut Lowering<'_>) -> Result<(), OpError> {
        let (m, n, depth) = self.sizes;
        let batches: usize = self.batch.iter().map(|batch| batch.size).product();
        if m * n * batches == 0 {
            return Ok(());
        }
        // Words of four values cross rows where the columns are no multiple of four: those are packed in a second step.
        let packed = self.repr.per_word() == LANES;
        let wide = packed && !n.is_multiple_of(LANES);
        let y = if wide { cx.scratch(m * n * batches) } else { self.y };
        let (most, quads_max) = if cx.tuning.integer_dot { TILE_DOTS } else { TILE_FLOATS };
        let rows = if m >= most { most } else { m.next_power_of_two() };
        let quads = n.div_ceil(LANES);
        let tall = m.div_ceil(rows).min(8).next_power_of_two();
        let across = GROUP / tall;
        let each = quads_max.min(quads.div_ceil(across));
        let words = depth.div_ceil(LANES);
        let mut params = self.params(quads, words)?;
        let mut args = vec![self.a.arg, self.b.arg];
        let mut kernel = KernelBuilder::new("integer_product").raw("a", "array<u32>").raw("b", "array<vec4<u32>>");
        for (name, side) in [("a_points", &self.a), ("b_points", &self.b)] {
            if let Points::Bound(operand) = &side.points {
                kernel = kernel.read(name, operand.repr);
                args.push(operand.arg);
            }
        }
        let kernel = self.finish.add_to(kernel, &mut args, &mut params)?;
        args.push(y);
        let store = match (packed, wide) {
            (true, false) => "array<u32>",
            (true, true) => "array<i32>",
            (false, _) if self.repr == Repr::F32 => "array<f32>",
            (false, _) => "array<i32>",
        };
        let kernel = kernel.raw("y", store);
        let kernel =
            kernel.text(&self.text([rows, each], [across, tall], cx.tuning.integer_dot, packed && !wide)).finish();
        let groups = [param(quads.div_ceil(across * each))?, param(m.div_ceil(rows * tall))?, param(batches)?];
        if groups.iter().any(|&size| size > GROUPS_MAX) {
            return Err(OpError::TooLarge(vec![batches, m, n]));
        }
        let work = (m * n * batches) as u64 * depth as u64;
        let rounds = words + words.div_ceil(EXACT_WORDS);
        cx.dispatch(kernel, args, params, groups, Effort::looping(work, rounds));
        if wide {
            narrow(cx, y, self.y, self.repr, m * n * batches)?;
        }
        Ok(())
    }

    fn params(&self, quads: usize, words: usize) -> Result<Params, OpError> {
        let (m, n, _depth) = self.sizes;
        let flipped = |side: &Side| if side.unsigned { 0x8080_8080 } else { 0 };
        // The zero point as it is once bytes are signed.
        let point = |side: &Side| match side.points {
            Points::Uniform(value) => signed(value, side.unsigned),
            Points::Bound(_) => 0,
        };
        let mut rest: usize = self.batch.iter().map(|batch| batch.size).product();
        let steps: Vec<usize> = (self.batch.iter())
            .map(|batch| {
                rest /= batch.size;
                rest
            })
            .collect();
        let each = |number: fn(&Batch) -> usize, unit: usize| -> Vec<usize> {
            self.batch.iter().map(|batch| number(batch) * unit).collect()
        };
        let params = Params::sizes([("m", m), ("n", n), ("quads", quads), ("words", words)])?;
        let params = params.word("a_flips", flipped(&self.a)).word("b_flips", flipped(&self.b));
        let params = params.word("a_stride", self.a.points.stride()).word("b_stride", self.b.points.stride());
        let params = params.signed("a_point", point(&self.a)).signed("b_point", point(&self.b));
        let params = params.list("batch", &steps)?.list("a_batch", &each(|batch| batch.a, m * words))?;
        params.list("b_batch", &each(|batch| batch.b, words * quads))?.list("channels", &each(|batch| batch.channel, 1))
    }

    /// The kernel: entry point, loop, stores.
    fn text(&self, [rows, quads]: [usize; 2], [across, tall]: [usize; 2], dot: bool, packed: bool) -> String {
        let needed = |side: &Side| match side.points {
            Points::Uniform(value) => signed(value, side.unsigned) != 0,
            Points::Bound(_) => true,
        };
        // The left zero points take the right sums, and the other way round.
        let body = Body { rows, quads, across, right_sums: needed(&self.a), left_sums: needed(&self.b), dot };
        let mut batch = String::new();
        for at in 0..self.batch.len() {
            batch.push_str(&format!(
                "    index = rest / param.batch[{at}]; rest = rest % param.batch[{at}];
    a_at += index * param.a_batch[{at}]; b_at += index * param.b_batch[{at}]; channel += index * param.channels[{at}];\n"
            ));
        }
        let mut row_starts = String::new();
        for row in 0..rows {
            row_starts.push_str(&format!("    let a{row} = a_at + min(row + {row}u, param.m - 1u) * words;\n"));
        }
        let quad_start = |at| format!("    let quad{at} = min(quad + {at}u * {across}u, param.quads - 1u);\n");
        let quad_starts: String = (0..quads).map(quad_start).collect();
        format!(
            "{signed}{store}
@compute @workgroup_size({across}, {tall})
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) thread: vec3<u32>) {{
    let place = group + group_base();
    let quad = place.x * {wide}u + thread.x;
    let row = (place.y * {tall}u + thread.y) * {rows}u;
    if (quad >= param.quads || row >= param.m) {{ return; }}
    let words = param.words;
    var rest = place.z; var index = 0u; var a_at = 0u; var b_at = 0u; var channel = 0u;
{batch}{row_starts}{quad_starts}{sums}{stores}}}
",
            wide = across * quads,
            signed = self.points_text(),
            store = self.store_text(packed),
            sums = body.text(),
            stores = body.stores(),
        )
    }

    /// `a_point(row)` and `b_point(column)`, signed like the bytes.
    fn points_text(&self) -> String {
        let mut text = String::new();
        for (name, side) in [("a", &self.a), ("b", &self.b)] {
            let value = match side.points {
                Points::Uniform(_) => format!("bitcast<i32>(param.{name}_point)"),
                Points::Bound(_) => {
                    format!("i32(load_{name}_points(channel * param.{name}_stride)) - i32(param.{name}_flips & 128u)")
                }
            };
            text.push_str(&format!("fn {name}_point(channel: u32) -> i32 {{ return {value}; }}\n"));
        }
        text
    }

    /// `store(sums, right, left, row, quad, batch, channel)`: takes zero points off, finishes, writes.
    fn store_text(&self, packed: bool) -> String {
        // Zero points are counted like the channels on their side of the product, and by rows or columns on the other.
        let (number, a_index) = match self.channels {
            Channels::Rows => ("channel + row", "channel + row"),
            Channels::Columns => ("channel + quad * 4u + j", "row"),
        };
        let (declare, write, last) = if packed {
            (
                "var packed = 0u;",
                "packed = insertBits(packed, bitcast<u32>(value), j * 8u, 8u);",
                "y[at / 4u] = packed;",
            )
        } else {
            ("", "y[at + j] = value;", "")
        };
        format!(
            "fn store(sums: vec4<i32>, right: vec4<i32>, left: i32, row: u32, quad: u32, batch: u32, channel: u32) {{
    if (row >= param.m || quad >= param.quads) {{ return; }}
    let at = (batch * param.m + row) * param.n + quad * 4u;
    let depth = i32(param.words) * 4;
    {declare}
    for (var j = 0u; j < 4u; j++) {{
        if (quad * 4u + j >= param.n) {{ break; }}
        let za = a_point({a_index}); let zb = b_point(channel + quad * 4u + j);
        let value = finish(sums[j] - za * right[j] - zb * left + depth * za * zb, {number}, at + j);
        {write}
    }}
    {last}
}}"
        )
    }
}

/// A zero point once bytes are signed.
const fn signed(point: i32, unsigned: bool) -> i32 {
    if unsigned { point - 128 } else { point }
}

/// The loop over the summed dimension, written out for its rows.
struct Body {
    rows: usize,
    /// Quads of columns of one thread, `across` apart so that neighbours read neighbouring words.
    quads: usize,
    across: usize,
    /// True if the sums of the right matrix's columns are needed.
    right_sums: bool,
    /// True if the sums of the left matrix's rows are needed.
    left_sums: bool,
    dot: bool,
}

impl Body {
    fn each(&self, line: impl Fn(usize) -> String) -> String {
        (0..self.rows).map(line).collect()
    }

    fn each_quad(&self, line: impl Fn(usize) -> String) -> String {
        (0..self.quads).map(line).collect()
    }

    fn text(&self) -> String {
        let totals = self.each(|row| {
            let totals = self.each_quad(|quad| format!(" var total{row}_{quad} = vec4<i32>(0);"));
            format!("    var left{row} = 0;{totals}\n")
        });
        let right = self.each_quad(|quad| format!("    var right{quad} = vec4<i32>(0);\n"));
        let body = if self.dot { self.dots() } else { self.floats() };
        format!("{totals}{right}{body}")
    }

    fn dots(&self) -> String {
        let ones = "0x01010101u";
        let load = self.each_quad(|quad| {
            let sums = if self.right_sums { format!(" right{quad} += {};", dot4(ones, quad)) } else { String::new() };
            format!("        let w{quad} = b[b_at + k * param.quads + quad{quad}] ^ vec4<u32>(param.b_flips);{sums}\n")
        });
        let lines = self.each(|row| {
            let products = self.each_quad(|quad| format!(" total{row}_{quad} += {};", dot4(&format!("v{row}"), quad)));
            let left =
                if self.left_sums { format!(" left{row} += dot4I8Packed(v{row}, {ones});") } else { String::new() };
            format!("        let v{row} = a[a{row} + k] ^ param.a_flips;{products}{left}\n")
        });
        format!("    for (var k = 0u; k < words; k++) {{\n{load}{lines}    }}\n")
    }

    fn floats(&self) -> String {
        let starts = self.each(|row| {
            let sums = self.each_quad(|quad| format!(" var sum{row}_{quad} = vec4<f32>(0.0);"));
            format!("        var row_sum{row} = 0.0;{sums}\n")
        });
        let right_starts = self.each_quad(|quad| format!("        var right_sum{quad} = vec4<f32>(0.0);\n"));
        let load = self.each_quad(|quad| {
            let lane = |lane: usize| match lane {
                3 => format!(" let b{quad}_3 = vec4<f32>(w{quad} >> vec4<u32>(24u));"),
                _ => format!(
                    " let b{quad}_{lane} = vec4<f32>((w{quad} << vec4<u32>({}u)) >> vec4<u32>(24u));",
                    24 - 8 * lane
                ),
            };
            let lanes: String = (0..LANES).map(lane).collect();
            let sums = if self.right_sums {
                format!(" right_sum{quad} += b{quad}_0 + b{quad}_1 + b{quad}_2 + b{quad}_3;")
            } else {
                String::new()
            };
            format!(
                "            let w{quad} = bitcast<vec4<i32>>(b[b_at + k * param.quads + quad{quad}] ^ vec4<u32>(param.b_flips));{lanes}{sums}\n"
            )
        });
        let lines = self.each(|row| {
            let products = self.each_quad(|quad| {
                let product = |(lane, part): (usize, &str)| {
                    format!(" sum{row}_{quad} = fma(vec4<f32>(v{row}.{part}), b{quad}_{lane}, sum{row}_{quad});")
                };
                ["x", "y", "z", "w"].into_iter().enumerate().map(product).collect::<String>()
            });
            let left = if self.left_sums {
                format!(" row_sum{row} += v{row}.x + v{row}.y + v{row}.z + v{row}.w;")
            } else {
                String::new()
            };
            format!("            let v{row} = vec4<f32>(unpack4xI8(a[a{row} + k] ^ param.a_flips));{products}{left}\n")
        });
        let ends = self.each(|row| {
            let sums = self.each_quad(|quad| format!(" total{row}_{quad} += vec4<i32>(sum{row}_{quad});"));
            format!("        left{row} += i32(row_sum{row});{sums}\n")
        });
        let right_ends = self.each_quad(|quad| format!("        right{quad} += vec4<i32>(right_sum{quad});\n"));
        format!(
            "    for (var begin = 0u; begin < words; begin += {EXACT_WORDS}u) {{
        let end = min(begin + {EXACT_WORDS}u, words);
{starts}{right_starts}        for (var k = begin; k < end; k++) {{
{load}{lines}        }}
{ends}{right_ends}    }}
"
        )
    }

    fn stores(&self) -> String {
        self.each(|row| {
            self.each_quad(|quad| {
                format!(
                    "    store(total{row}_{quad}, right{quad}, left{row}, row + {row}u, quad + {quad}u * {}u, place.z, channel);\n",
                    self.across
                )
            })
        })
    }
}

/// The dot products of one word of the left matrix with a quad of the right one.
fn dot4(left: &str, quad: usize) -> String {
    let dot = |part: &str| format!("dot4I8Packed({left}, w{quad}.{part})");
    format!("vec4<i32>({}, {}, {}, {})", dot("x"), dot("y"), dot("z"), dot("w"))
}

/// Packs values that lie one a word.
pub(super) fn narrow(cx: &mut Lowering<'_>, from: Arg, to: Arg, repr: Repr, elements: usize) -> Result<(), OpError> {
    let wgsl = repr.wgsl();
    let kernel = KernelBuilder::new("pack_bytes")
        .read("x", Repr::I32)
        .text(&format!("fn element(i: u32) -> {wgsl} {{ return {wgsl}(load_x(i)); }}"))
        .element(repr);
    cx.dispatch(
        kernel,
        vec![from, to],
        Params::sizes([("elements", elements)])?,
        element_groups(elements, repr),
        elements as u64,
    );
    Ok(())
}
