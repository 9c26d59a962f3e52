//! Matrices copied into the form the register kernel reads: on the host once for constants, else by a launch.

use super::matrix::Matrix;
use crate::error::OpError;
use crate::lower::{Arg, GROUPS_MAX, KernelBuilder, Lowering, Params, Repr, element_groups};
use crate::shape::{strides, volume};

/// Rows of `k` floats copied to rows of `pitch`, zeros behind them.
///
/// # Errors
/// When it is over the device's 32 bits.
pub(crate) fn padded_rows(
    cx: &mut Lowering<'_>,
    from: Arg,
    rows: usize,
    k: usize,
    pitch: usize,
) -> Result<Arg, OpError> {
    let mut matrix =
        Matrix { arg: from, repr: Repr::F32, constant: None, offset: 0, batch: Vec::new(), row: k, col: 1 };
    let packing = Packing { lanes: pitch, inner: rows, outer: 1, limit: k, lane: 1, step: k };
    packing.apply(cx, &mut matrix, &[])?;
    Ok(matrix.arg)
}

/// A strided tensor copied to `[batch][outer][inner][lanes]`, zeros beyond `limit`:
/// element `(outer * lanes + lane) * self.lane + inner * self.step` of each batch element.
#[derive(Debug)]
pub(super) struct Packing {
    pub(super) lanes: usize,
    pub(super) inner: usize,
    pub(super) outer: usize,
    pub(super) limit: usize,
    pub(super) lane: usize,
    pub(super) step: usize,
}

impl Packing {
    /// Packs on the host if it is a constant, else by a launch; gives the batch strides of the packed form.
    pub(super) fn apply(
        &self,
        cx: &mut Lowering<'_>,
        matrix: &mut Matrix,
        sizes: &[usize],
    ) -> Result<Vec<usize>, OpError> {
        // A matrix that repeats over a batch dimension is packed once.
        let kept: Vec<usize> = sizes.iter().zip(&matrix.batch).map(|(&s, &b)| if b == 0 { 1 } else { s }).collect();
        let one = volume(&[self.lanes, self.inner, self.outer])?;
        let total = volume(&[volume(&kept)?, one])?;
        let packed = strides(&kept);
        let batch = packed.iter().zip(&matrix.batch).map(|(&s, &b)| if b == 0 { 0 } else { s * one }).collect();
        let literal = matrix.constant.and_then(|constant| cx.constant(constant.id).map(|literal| (constant, literal)));
        matrix.arg = match literal {
            Some((constant, literal)) => {
                let name = format!("{} {self:?} {} {:?} {kept:?}", constant.form, matrix.offset, matrix.batch);
                cx.packed_weight(constant.id, &name, || {
                    let from = (constant.floats)(literal);
                    let value = |i: usize| self.source(i, &kept, matrix).and_then(|at| from.get(at)).copied();
                    Ok(constant.lie.pack((0..total).map(|i| value(i).unwrap_or(0.0))))
                })?
            }
            None => {
                let to = cx.scratch(total);
                self.launch(cx, matrix, &kept, total, to)?;
                to
            }
        };
        Ok(batch)
    }

    /// Which element of the tensor stands at a place of the packed form.
    fn source(&self, i: usize, kept: &[usize], matrix: &Matrix) -> Option<usize> {
        let lane = (i / (self.lanes * self.inner)) % self.outer * self.lanes + i % self.lanes;
        let inner = i / self.lanes % self.inner;
        let mut rest = i / (self.lanes * self.inner * self.outer);
        let mut at = matrix.offset + lane * self.lane + inner * self.step;
        for (size, stride) in kept.iter().zip(&matrix.batch).rev() {
            at += rest % size * stride;
            rest /= size;
        }
        (lane < self.limit).then_some(at)
    }

    fn params(&self, matrix: &Matrix, kept: &[usize]) -> Result<Params, OpError> {
        let sizes = Params::sizes([
            ("inner", self.inner),
            ("outer", self.outer),
            ("limit", self.limit),
            ("lane", self.lane),
            ("step", self.step),
            ("offset", matrix.offset),
        ])?;
        sizes.list("batch", kept)?.list("stride", &matrix.batch)
    }

    /// Workgroups of [`Self::launch_fours`]; `None` where a dimension has too many.
    fn groups(&self, total: usize) -> Option<[u32; 3]> {
        let batches = total / (self.lanes * self.inner).max(1);
        let group = |threads: usize, size: usize| {
            u32::try_from(threads.div_ceil(size).max(1)).ok().filter(|&groups| groups <= GROUPS_MAX)
        };
        let fours = self.lanes.is_multiple_of(4);
        if fours { Some([group(self.lanes / 4, 2)?, group(self.inner, 32)?, group(batches, 1)?]) } else { None }
    }

    /// Four lanes a thread and hardly a division: those are slow where a vector unit has none.
    fn launch_fours(
        &self,
        cx: &mut Lowering<'_>,
        matrix: &Matrix,
        kept: &[usize],
        total: usize,
        to: Arg,
        groups: [u32; 3],
    ) -> Result<(), OpError> {
        let numbers = self.params(matrix, kept)?.size("fours", self.lanes / 4)?;
        let places = places(kept.len());
        let text = format!(
            "@compute @workgroup_size(2, 32)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) thread: vec3<u32>) {{
    let place = group + group_base();
    let four = place.x * 2u + thread.x;
    let inner = place.y * 32u + thread.y;
    if (four >= param.fours || inner >= param.inner) {{ return; }}
    var rest = place.z / param.outer;
    let lane = (place.z - rest * param.outer) * param.fours * 4u + four * 4u;
    var at = param.offset + lane * param.lane + inner * param.step;
{places}    var values = vec4<f32>();
    for (var i = 0u; i < 4u; i++) {{
        if (lane + i < param.limit) {{ values[i] = load_x(at + i * param.lane); }}
    }}
    y[(place.z * param.inner + inner) * param.fours + four] = values;
}}"
        );
        let kernel = KernelBuilder::new("pack_fours").read("x", Repr::F32).raw("y", "array<vec4<f32>>").text(&text);
        let work = u64::try_from(total).unwrap_or(u64::MAX);
        cx.dispatch(kernel.finish(), vec![matrix.arg, to], numbers, groups, work);
        Ok(())
    }

    fn launch(
        &self,
        cx: &mut Lowering<'_>,
        matrix: &Matrix,
        kept: &[usize],
        total: usize,
        to: Arg,
    ) -> Result<(), OpError> {
        if let Some(groups) = self.groups(total) {
            return self.launch_fours(cx, matrix, kept, total, to, groups);
        }
        let params = self.params(matrix, kept)?.size("elements", total)?.size("lanes", self.lanes)?;
        let places = places(kept.len());
        let text = format!(
            "fn element(i: u32) -> f32 {{
    let row = i / param.lanes;
    let lane = (row / param.inner) % param.outer * param.lanes + i % param.lanes;
    var rest = row / (param.inner * param.outer);
    var at = param.offset + lane * param.lane + row % param.inner * param.step;
{places}    if (lane >= param.limit) {{ return 0.0; }}
    return load_x(at);
}}"
        );
        let kernel = KernelBuilder::new("pack").read("x", Repr::F32).text(&text).element(Repr::F32);
        let groups = element_groups(total, Repr::F32);
        cx.dispatch(kernel, vec![matrix.arg, to], params, groups, u64::try_from(total).unwrap_or(u64::MAX));
        Ok(())
    }
}

/// WGSL that adds to `at` where the batch element with the number `rest` begins.
fn places(rank: usize) -> String {
    let place = |d| format!("    at += rest % param.batch[{d}] * param.stride[{d}]; rest = rest / param.batch[{d}];\n");
    (0..rank).rev().map(place).collect()
}
