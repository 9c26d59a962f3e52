//! The matrix product that MatMul, Gemm, 1x1 convolutions, attention and recurrent layers share.
//!
//! A rule describes its product as a [`Product`]: two strided matrices per batch element, bias, epilogue. This module
//! chooses between three kernels: register tiles with `vec4` loads (software adapters; measured fastest there), a tile in
//! workgroup memory (real GPUs), and one thread per output for small or integer products. A left-hand matrix that is a
//! constant, or that many columns share, stands in panels as high as a register tile; where a workgroup is one vector, its threads
//! load a panel together. A right-hand matrix is read where it lies as long as its columns are neighbours.

mod matrix;
mod packing;
mod tile;

pub(crate) use matrix::{Constant, Matrix};
use packing::Packing;
pub(crate) use packing::padded_rows;
use tile::{Added, Lies, Threads, Tile};

use crate::error::OpError;
use crate::lower::{
    Arg, Effort, Floats, GROUPS_MAX, KernelBuilder, Lowering, Operand, Params, Repr, Tuning, UNPACK_FOUR,
    linear_groups, steps,
};
use crate::ops::elementwise::checked;
use crate::ops::epilogue::Epilogue;
use crate::shape::param;

/// Multiply-adds below which one thread per output beats preparing tiles.
const SMALL: usize = 16 * 1024;

/// Most batch dimensions that fit the params.
pub(crate) const BATCH_RANK_MAX: usize = 8;

/// Columns of one panel of a packed right-hand matrix.
const PANEL: usize = 8;

/// Fewest columns for which a left-hand tensor is cut into panels: moving a number once costs what a tile of columns saves, and
/// with this many it is saved eight times.
const CUT_COLUMNS_MIN: usize = 256;

/// Most terms of a sum that are walked one a round; longer ones, far below the rounds that a driver may allow, four a round.
const PANEL_STEPS_MAX: usize = 16 * 1024;

/// Bias of a product: `beta * bias[batch, row, col]`.
#[derive(Debug, Clone)]
pub(crate) struct Bias {
    /// The tensor that is read.
    pub(crate) operand: Operand,
    /// Factor of the bias.
    pub(crate) beta: f32,
    /// Elements from one batch index to the next, for each batch dimension.
    pub(crate) batch: Vec<usize>,
    /// Elements from row to row; 0 where it repeats.
    pub(crate) row: usize,
    /// Elements from column to column; 0 where it repeats.
    pub(crate) col: usize,
}

/// `y = epilogue(alpha * a·b + beta * bias)` for each batch element.
#[derive(Debug)]
pub(crate) struct Product {
    /// Size of each batch dimension.
    pub(crate) batch: Vec<usize>,
    /// Number of rows of the output.
    pub(crate) m: usize,
    /// Number of columns of the output.
    pub(crate) n: usize,
    /// Terms of each sum.
    pub(crate) k: usize,
    /// Left matrix, `m` x `k`.
    pub(crate) a: Matrix,
    /// Right matrix, `k` x `n`.
    pub(crate) b: Matrix,
    /// Factor of each sum.
    pub(crate) alpha: f32,
    /// Bias, where there is one.
    pub(crate) bias: Option<Bias>,
    /// The output tensor; its columns are one element apart.
    pub(crate) y: Arg,
    /// Elements from one batch index of the output to the next, for each batch dimension.
    pub(crate) y_batch: Vec<usize>,
    /// Elements from row to row of the output.
    pub(crate) y_row: usize,
    /// Operations on each sum before it is stored.
    pub(crate) epilogue: Epilogue,
    /// One thread per output, whatever would be faster: the yardstick of benches.
    pub(crate) plain: bool,
    /// True if integers beyond 32 bits are faults.
    pub(crate) checked: bool,
}

/// The functions that a checked product calls.
const CHECKED: &str = "checked_add_i32(checked_mul_i32(checked_add_u32(checked_mul_u32(";

impl Product {
    /// Adds the launches of the node.
    ///
    /// # Errors
    /// When a size or stride is over the device's 32 bits, or there are too many batch dimensions.
    pub(crate) fn lower(mut self, cx: &mut Lowering<'_>) -> Result<(), OpError> {
        if self.batch.len() > BATCH_RANK_MAX {
            return Err(OpError::unsupported(format!("more than {BATCH_RANK_MAX} batch dimensions")));
        }
        let outputs = self.batch_count() * self.m * self.n;
        if outputs == 0 {
            return Ok(());
        }
        let floats = self.a.repr == Repr::F32 && self.b.repr == Repr::F32;
        // A stack of very many matrices, or one of very many rows, has more tiles than a dispatch may have.
        let (tile, _panels) = self.tile(cx.tuning);
        let stacked = groups_of(self.batch_count(), 1).and(self.tile_groups(tile)).is_err();
        if self.plain || !floats || stacked || self.m * self.n * self.k <= SMALL {
            self.settle_a(cx)?;
            self.lower_plain(cx, outputs)
        } else if cx.tuning.workgroup_tiles && cx.tuning.invocations_max >= 256 && self.m >= 16 && self.n >= 16 {
            self.settle_a(cx)?;
            self.lower_tile(cx)
        } else {
            self.lower_registers(cx)
        }
    }

    fn batch_count(&self) -> usize {
        self.batch.iter().product()
    }

    fn work(&self) -> u64 {
        [self.m, self.n, self.k, self.batch_count()]
            .iter()
            .fold(1, |work, &size| work.saturating_mul(u64::try_from(size).unwrap_or(u64::MAX)))
    }

    /// `first_col`: how many columns of the whole product are in front of this part of it.
    fn params(&self, first_col: usize) -> Result<Params, OpError> {
        let (beta, bias_row, bias_col) = self.bias.as_ref().map_or((0.0, 0, 0), |bias| (bias.beta, bias.row, bias.col));
        let sizes = Params::sizes([
            ("m", self.m),
            ("n", self.n),
            ("k", self.k),
            ("a_row", self.a.row),
            ("a_col", self.a.col),
            ("b_row", self.b.row),
            ("b_col", self.b.col),
            ("bias_row", bias_row),
            ("bias_col", bias_col),
            ("y_row", self.y_row),
            ("a_offset", self.a.offset),
            ("b_offset", self.b.offset),
            ("batches", self.batch_count()),
            ("first_column", first_col),
            ("first_bias", first_col * bias_col),
        ])?;
        let mut params = sizes.float("alpha", self.alpha).float("beta", beta).and(self.epilogue.params());
        params = params.list("batch", &self.batch)?.list("a_batch", &self.a.batch)?;
        params = params.list("b_batch", &self.b.batch)?.list("y_batch", &self.y_batch)?;
        if let Some(bias) = &self.bias {
            params = params.list("bias_batch", &bias.batch)?;
        }
        Ok(params)
    }

    /// `batch_at(z)` gives where a, b, y and the bias of a batch element begin; `bias_at` what is added to a sum, if anything;
    /// `finished` makes an output of a sum and that.
    fn shared_text(&self, kernel: KernelBuilder, args: &mut Vec<Arg>) -> KernelBuilder {
        let mut kernel = kernel;
        let (mut load, mut add) = ("0", "");
        if let Some(bias) = &self.bias {
            kernel = kernel.read("bias", bias.operand.repr);
            args.push(bias.operand.arg);
            load = "load_bias(at.w + row * param.bias_row + col * param.bias_col)";
            add = match self.checked {
                true => "value = checked_add_ONE(value, checked_mul_ONE(ONE(bitcast<f32>(param.beta)), bias));",
                false => "value += ONE(bitcast<f32>(param.beta)) * bias;",
            };
        }
        let mut places = String::new();
        for d in (0..self.batch.len()).rev() {
            let bias = if self.bias.is_some() { format!("param.bias_batch[{d}]") } else { "0u".to_owned() };
            places.push_str(&format!(
                "    index = rest % param.batch[{d}]; rest = rest / param.batch[{d}];\n    at += index * \
                 vec4<u32>(param.a_batch[{d}], param.b_batch[{d}], param.y_batch[{d}], {bias});\n"
            ));
        }
        kernel = kernel.text(&format!(
            "fn batch_at(batch: u32) -> vec4<u32> {{\n    var at = vec4<u32>(param.a_offset, param.b_offset, param.first_column, param.first_bias);\n    \
             var rest = batch; var index = 0u;\n{places}    return at;\n}}"
        ));
        let one = self.a.repr.wgsl();
        let put = if one == "f32" {
            kernel = self.epilogue.add_to(kernel, args);
            "value = bitcast<f32>(param.alpha) * value; ADD\n    return epilogue(value, index);"
        } else {
            match self.checked {
                true => "value = checked_mul_ONE(ONE(bitcast<f32>(param.alpha)), value); ADD\n    return value;",
                false => "value = ONE(bitcast<f32>(param.alpha)) * value; ADD\n    return value;",
            }
        };
        let put = put.replace("ADD", add).replace("ONE", one);
        kernel.text(&format!(
            "fn bias_at(at: vec4<u32>, row: u32, col: u32) -> {one} {{ return {one}({load}); }}
fn finished(bias: {one}, index: u32, sum: {one}) -> {one} {{\n    var value = sum;\n    {put}\n}}"
        ))
    }

    fn output_array(&self) -> &'static str {
        match self.a.repr {
            Repr::F32 => "array<f32>",
            Repr::I32 | Repr::I8x4 => "array<i32>",
            Repr::U32 | Repr::U8x4 => "array<u32>",
        }
    }

    fn lower_plain(&self, cx: &mut Lowering<'_>, outputs: usize) -> Result<(), OpError> {
        let mut args = vec![self.a.arg, self.b.arg];
        let kernel = KernelBuilder::new("matmul_plain").read("a", self.a.repr).read("b", self.b.repr);
        let kernel = self.shared_text(kernel, &mut args);
        args.push(self.y);
        let one = self.a.repr.wgsl();
        let factors = [
            "load_a(at.x + row * param.a_row + k * param.a_col)".to_owned(),
            format!("{one}(load_b(at.y + k * param.b_row + col * param.b_col))"),
        ];
        let term = match self.checked {
            true => format!("sum = checked_add_{one}(sum, checked_mul_{one}({}, {}));", factors[0], factors[1]),
            false => format!("sum += {} * {};", factors[0], factors[1]),
        };
        let (sum, rounds) = steps("k", "param.k", self.k, &term);
        let kernel = kernel.text(&if self.checked { checked::needed_by(CHECKED) } else { String::new() });
        let kernel = kernel.raw("y", self.output_array()).text(&format!(
            "@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {{
    let place = group + group_base();
    let i = (place.y * {GROUPS_MAX}u + place.x) * 64u + lane;
    let of_one = param.m * param.n;
    if (i >= of_one * param.batches) {{ return; }}
    let at = batch_at(i / of_one);
    let row = (i % of_one) / param.n;
    let col = i % param.n;
    var sum = {one}(0);
{sum}    let index = at.z + row * param.y_row + col;
    y[index] = finished(bias_at(at, row, col), index, sum);
}}"
        ));
        let groups = linear_groups(outputs.div_ceil(64));
        cx.dispatch(kernel.finish(), args, self.params(0)?, groups, Effort::looping(self.work(), rounds));
        Ok(())
    }

    fn lower_tile(&self, cx: &mut Lowering<'_>) -> Result<(), OpError> {
        let mut args = vec![self.a.arg, self.b.arg];
        let kernel = KernelBuilder::new("matmul_tile").read("a", self.a.repr).read("b", self.b.repr);
        let kernel = self.shared_text(kernel, &mut args);
        args.push(self.y);
        let kernel = kernel
            .raw("y", "array<f32>")
            .text(
                "fn terms() -> u32 { return param.k; }
fn fetch_a(batch: u32, row: u32, k: u32) -> f32 {
    if (row >= param.m || k >= param.k) { return 0.0; }
    return load_a(batch_at(batch).x + row * param.a_row + k * param.a_col);
}
fn fetch_b(batch: u32, k: u32, col: u32) -> f32 {
    if (col >= param.n || k >= param.k) { return 0.0; }
    return load_b(batch_at(batch).y + k * param.b_row + col * param.b_col);
}
fn put(batch: u32, row: u32, col: u32, sum: f32) {
    if (row >= param.m || col >= param.n) { return; }
    let at = batch_at(batch);
    let index = at.z + row * param.y_row + col;
    y[index] = finished(bias_at(at, row, col), index, sum);
}",
            )
            .text(include_str!("../wgsl/matmul_tile.wgsl"));
        let groups = [groups_of(self.n, 64)?, groups_of(self.m, 64)?, groups_of(self.batch_count(), 1)?];
        // Each of the 16 steps of a tile and the two passes that fetch it.
        let rounds = self.k.div_ceil(16).saturating_mul(1 + 4 + 16);
        cx.dispatch(kernel.finish(), args, self.params(0)?, groups, Effort::looping(self.work(), rounds));
        Ok(())
    }

    fn lower_registers(&mut self, cx: &mut Lowering<'_>) -> Result<(), OpError> {
        // A right-hand matrix that is larger than one binding may be is multiplied a range of columns at a time.
        let bound = self.b_bound(cx.tuning);
        let columns = (bound / (self.k * PANEL).max(1)).max(1).saturating_mul(PANEL);
        if self.b_reach() <= bound || self.b.batch.iter().any(|&stride| stride != 0) || columns >= self.n {
            return self.part(self.b.clone(), self.n).lower_columns(cx, 0);
        }
        for first in (0..self.n).step_by(columns) {
            let b = Matrix { offset: self.b.offset + first * self.b.col, ..self.b.clone() };
            self.part(b, columns.min(self.n - first)).lower_columns(cx, first)?;
        }
        Ok(())
    }

    /// The same product with another right-hand matrix of so many columns.
    fn part(&self, b: Matrix, n: usize) -> Self {
        let (batch, a, bias) = (self.batch.clone(), self.a.clone(), self.bias.clone());
        let (y_batch, epilogue) = (self.y_batch.clone(), self.epilogue.clone());
        Self { batch, n, a, b, bias, y_batch, epilogue, ..*self }
    }

    /// Elements of the right-hand matrix that one binding may hold.
    fn b_bound(&self, tuning: Tuning) -> usize {
        usize::try_from(tuning.part_words).unwrap_or(usize::MAX).saturating_mul(self.b.lie().per_word())
    }

    /// Elements from the first to behind the last that the right-hand matrix touches.
    fn b_reach(&self) -> usize {
        let last = self.b.offset + (self.k.saturating_sub(1)) * self.b.row + (self.n.saturating_sub(1)) * self.b.col;
        last.max(self.k.saturating_mul(self.n.next_multiple_of(PANEL)).saturating_sub(1)).saturating_add(1)
    }

    /// Returns the shape of tile for this product, and whether it reads `a` from panels.
    fn tile(&self, tuning: Tuning) -> (Tile, bool) {
        // A tensor is cut by a launch of its own.
        let worth = tuning.vector_of_eight && self.n >= CUT_COLUMNS_MIN;
        let cut = self.k <= PANEL_STEPS_MAX && (self.a.constant.is_some() || worth);
        let threads = match tuning {
            Tuning { workgroup_tiles: true, .. } => Threads::Wave,
            Tuning { vector_of_eight: true, .. } if cut => Threads::Sharing,
            _ => Threads::Vector,
        };
        let tile = Tile::of(self.m, self.n, self.batch_count(), threads);
        (tile, cut && tile.rows.is_multiple_of(4))
    }

    fn lower_columns(mut self, cx: &mut Lowering<'_>, first: usize) -> Result<(), OpError> {
        let (tile, panels) = self.tile(cx.tuning);
        let ones = self.align_b(cx)?;
        if panels {
            self.cut_a(cx, tile.rows)?;
        } else {
            self.align_a(cx)?;
        }
        let aligned = |number: usize| number.is_multiple_of(4);
        let vectors = aligned(self.n) && aligned(self.y_row) && self.y_batch.iter().copied().all(aligned);
        let shared = panels && tile.rows.is_multiple_of(8) && cx.tuning.vector_of_eight;
        let bias = match &self.bias {
            None => Added::Nothing,
            Some(bias) if bias.col == 0 => Added::ToRows,
            Some(_) => Added::Anywhere,
        };
        let (full, tail) = (self.n.is_multiple_of(tile.cols), !panels && !aligned(self.k));
        let floats = [self.a.lie(), self.b.lie()];
        let lies = Lies { panels, shared, ones, vectors, full, tail, bias, floats };
        let mut args = vec![self.a.arg, self.b.arg];
        let [left, right, out] = lies.arrays();
        let kernel = KernelBuilder::new("matmul_registers").raw("a", left).raw("b", right);
        let mut kernel = self.shared_text(kernel, &mut args);
        args.push(self.y);
        if floats.contains(&Floats::Halves) {
            kernel = kernel.text(UNPACK_FOUR);
        }
        let kernel = kernel.raw("y", out).text(&tile.text(lies)).finish();
        let rounds = if panels { self.k } else { self.k / 4 + self.k % 4 };
        let effort = Effort::looping(self.work(), rounds + tile.turns());
        cx.dispatch(kernel, args, self.params(first)?, self.tile_groups(tile)?, effort);
        Ok(())
    }

    fn tile_groups(&self, tile: Tile) -> Result<[u32; 3], OpError> {
        Ok([
            // Rows run first: the columns of `b`, often the larger part, are read once while they are in the cache.
            groups_of(self.m, tile.rows * tile.threads[1])?,
            groups_of(self.n, tile.cols * tile.threads[0])?,
            groups_of(self.batch_count(), 1)?,
        ])
    }

    /// Makes rows of `a` contiguous and their starts a multiple of four elements, and whole vectors of a constant.
    fn align_a(&mut self, cx: &mut Lowering<'_>) -> Result<(), OpError> {
        let aligned = |number: usize| number.is_multiple_of(4);
        let a = &self.a;
        // A single row never steps.
        let rows = self.m == 1 || aligned(a.row);
        let lies = a.col == 1 && rows && aligned(a.offset) && a.batch.iter().copied().all(aligned);
        if !lies || a.constant.is_some() {
            self.pack_a(cx)?;
        }
        Ok(())
    }

    fn pack_a(&mut self, cx: &mut Lowering<'_>) -> Result<(), OpError> {
        let (a, pitch) = (&self.a, self.k.next_multiple_of(4));
        let packing = Packing { lanes: pitch, inner: self.m, outer: 1, limit: self.k, lane: a.col, step: a.row };
        let batch = packing.apply(cx, &mut self.a, &self.batch)?;
        self.a = Matrix { offset: 0, batch, row: pitch, col: 1, ..self.a.clone() };
        Ok(())
    }

    /// Makes `a` a tensor on the device, if it is made from a constant.
    fn settle_a(&mut self, cx: &mut Lowering<'_>) -> Result<(), OpError> {
        if self.a.constant.is_some_and(|constant| !constant.form.is_empty()) { self.pack_a(cx) } else { Ok(()) }
    }

    /// Cuts `a` into panels of so many rows, the rows of one column side by side.
    fn cut_a(&mut self, cx: &mut Lowering<'_>, rows: usize) -> Result<(), OpError> {
        let (a, outer) = (&self.a, self.m.div_ceil(rows));
        let packing = Packing { lanes: rows, inner: self.k, outer, limit: self.m, lane: a.row, step: a.col };
        let batch = packing.apply(cx, &mut self.a, &self.batch)?;
        self.a = Matrix { offset: 0, batch, row: self.k, col: 0, ..self.a.clone() };
        Ok(())
    }

    /// Makes columns of `b` contiguous; a constant is cut into panels of eight columns. Answers whether rows begin anywhere.
    ///
    /// Turns `b.row` and `b.col` into what the register kernel wants: elements from k to k and from panel to panel.
    fn align_b(&mut self, cx: &mut Lowering<'_>) -> Result<bool, OpError> {
        let aligned = |number: usize| number.is_multiple_of(4);
        let b = &self.b;
        let bound = self.b_reach() <= self.b_bound(cx.tuning);
        if b.col == 1 && b.constant.is_none() && bound {
            let ones = !(aligned(b.row) && aligned(b.offset) && b.batch.iter().copied().all(aligned));
            self.b.col = PANEL;
            return Ok(ones);
        }
        let outer = self.n.div_ceil(PANEL);
        let packing = Packing { lanes: PANEL, inner: self.k, outer, limit: self.n, lane: b.col, step: b.row };
        let batch = packing.apply(cx, &mut self.b, &self.batch)?;
        self.b = Matrix { offset: 0, batch, row: PANEL, col: self.k * PANEL, ..self.b.clone() };
        Ok(false)
    }
}

/// Workgroups for so many things, so many a group.
///
/// # Errors
/// [`OpError::Unsupported`] over the limit of one dimension.
pub(crate) fn groups_of(things: usize, per_group: usize) -> Result<u32, OpError> {
    let groups = param(things.div_ceil(per_group).max(1))?;
    if groups <= GROUPS_MAX {
        Ok(groups)
    } else {
        Err(OpError::unsupported(format!("{groups} workgroups in one dimension are over the limit of {GROUPS_MAX}")))
    }
}
