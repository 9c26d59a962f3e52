//! Reading a picture at places that are data: GridSample and RoiAlign.

use crate::error::OpError;
use crate::fault::Fault;
use crate::ir::Node;
use crate::lower::{Effort, KernelBuilder, Lowering, Params, Repr, element_groups};
use crate::ops::rule::Rule;
use crate::value_info::{Inputs, Range, ValueInfo};

/// The operators of this family.
pub(super) const RULES: &[Rule] =
    &[Rule::device("GridSample", infer_grid, lower_grid), Rule::device("RoiAlign", infer_roi, lower_roi)];

fn infer_grid(_node: &Node, inputs: Inputs<'_>) -> Result<Vec<ValueInfo>, OpError> {
    let (x, grid) = (inputs.at(0)?, inputs.at(1)?);
    let rank = x.rank();
    let fits = matches!(rank, 4 | 5)
        && grid.rank() == rank
        && grid.shape[0] == x.shape[0]
        && grid.shape[rank - 1] == rank - 2
        && x.dtype.is_float()
        && grid.dtype.is_float();
    if !fits {
        return Err(OpError::invalid(format!("an input of {:?} at a grid of {:?}", x.shape, grid.shape)));
    }
    let shape = x.shape[..2].iter().chain(&grid.shape[1..rank - 1]).copied().collect();
    Ok(vec![ValueInfo::new(x.dtype, shape)])
}

fn lower_grid(node: &Node, cx: &mut Lowering<'_>) -> Result<(), OpError> {
    let (x, grid, y) = (cx.input(node, 0)?, cx.input(node, 1)?, cx.output(node, 0)?);
    let elements = y.elements();
    if elements == 0 {
        return Ok(());
    }
    if x.elements() == 0 {
        return Err(OpError::invalid("it samples an empty tensor"));
    }
    let attributes = &node.attributes;
    let planar = x.shape.len() == 4;
    let (move_in, tap) = match attributes.text("padding_mode", "zeros")? {
        "zeros" => ("return x;", "if (at < 0.0 || at >= size) { return 0xffffffffu; } return u32(at);"),
        "border" => ("return clamp(x, 0.0, f32(size_of(d)) - 1.0);", "return u32(clamp(at, 0.0, size - 1.0));"),
        "reflection" => (
            "return clamp(reflected(x, d), -0.5, f32(size_of(d)) - 0.5);",
            "return u32(clamp(reflected(at, d), 0.0, size - 1.0));",
        ),
        other => return Err(OpError::invalid(format!("padding_mode is {other:?}"))),
    };
    let mode = attributes.text("mode", "linear")?;
    let depths = if planar { 1 } else { 4 };
    let sample = match mode {
        "nearest" => "return fetch(base, tap_of(round(moved_in(z, 0u)), 0u), tap_of(round(moved_in(y, 1u)), 1u), \
                      tap_of(round(moved_in(x, 2u)), 2u));"
            .to_owned(),
        "linear" | "bilinear" => "let at = vec3<f32>(moved_in(z, 0u), moved_in(y, 1u), moved_in(x, 2u));
    let low = floor(at);
    let part = at - low;
    var sum = 0.0;
    for (var corner = 0u; corner < 8u; corner++) {
        let high = vec3<f32>(f32(corner >> 2u), f32((corner >> 1u) & 1u), f32(corner & 1u));
        let weights = (vec3<f32>(1.0) - part) * (vec3<f32>(1.0) - high) + part * high;
        let weight = weights.x * weights.y * weights.z;
        if (weight != 0.0) {
            let tap = low + high;
            sum += weight * fetch(base, tap_of(tap.x, 0u), tap_of(tap.y, 1u), tap_of(tap.z, 2u));
        }
    }
    return sum;"
            .to_owned(),
        "cubic" | "bicubic" => format!(
            "let low = floor(vec3<f32>(z, y, x));
    let wz = cubic(z - low.x); let wy = cubic(y - low.y); let wx = cubic(x - low.z);
    var sum = 0.0;
    for (var dz = 0u; dz < {depths}u; dz++) {{
        // A plane has one depth, at the second tap.
        let kz = select(dz, 1u, {depths}u == 1u);
        for (var ky = 0u; ky < 4u; ky++) {{
            for (var kx = 0u; kx < 4u; kx++) {{
                let weight = wz[kz] * wy[ky] * wx[kx];
                sum += weight * fetch(base, tap_of(low.x + f32(kz) - 1.0, 0u), tap_of(low.y + f32(ky) - 1.0, 1u),
                    tap_of(low.z + f32(kx) - 1.0, 2u));
            }}
        }}
    }}
    return sum;"
        ),
        other => return Err(OpError::invalid(format!("mode is {other:?}"))),
    };
    let text = include_str!("../wgsl/grid_sample.wgsl")
        .replace("MOVE_IN", move_in)
        .replace("TAP", tap)
        .replace("RANK", if planar { "2" } else { "3" })
        .replace("DEPTH", if planar { "0.0" } else { "place_of(load_grid(at_grid + 2u), 0u)" })
        .replace("SAMPLE", &sample);
    let kernel =
        KernelBuilder::new("grid_sample").read("x", x.repr).read("grid", grid.repr).text(&text).element(Repr::F32);
    let spatial = if planar { [1, x.shape[2], x.shape[3]] } else { [x.shape[2], x.shape[3], x.shape[4]] };
    let outputs: usize = y.shape[2..].iter().product();
    let numbers = Params::sizes([("elements", elements), ("channels", x.shape[1]), ("outputs", outputs)])?;
    let aligned = u32::from(attributes.flag("align_corners", false)?);
    let numbers = numbers.list("input", &spatial)?.word("aligned", aligned);
    let work = u64::try_from(elements.saturating_mul(32)).unwrap_or(u64::MAX);
    cx.dispatch(kernel, vec![x.arg, grid.arg, y.arg], numbers, element_groups(elements, Repr::F32), work);
    Ok(())
}

/// Most samples a bin and direction where a region has as many as pixels; a larger region's answer is NaN, not a guess.
///
/// No feature map of the known detectors is as wide; the square must stay under what a software adapter loops.
const ADAPTIVE_MAX: usize = 250;

fn roi_sizes(node: &Node) -> Result<[usize; 2], OpError> {
    let size = |name: &str| -> Result<usize, OpError> {
        let size = usize::try_from(node.attributes.int(name, 1)?).ok().filter(|&size| size > 0 && size < 1 << 16);
        size.ok_or_else(|| OpError::invalid(format!("{name} is out of range")))
    };
    Ok([size("output_height")?, size("output_width")?])
}

fn infer_roi(node: &Node, inputs: Inputs<'_>) -> Result<Vec<ValueInfo>, OpError> {
    let (x, rois, batches) = (inputs.at(0)?, inputs.at(1)?, inputs.at(2)?);
    let fits = x.rank() == 4
        && rois.rank() == 2
        && rois.shape[1] == 4
        && batches.shape == rois.shape[..1]
        && x.dtype.is_float()
        && rois.dtype.is_float()
        && !batches.dtype.is_float();
    if !fits {
        return Err(OpError::invalid(format!("an input of {:?} in regions of {:?}", x.shape, rois.shape)));
    }
    let [height, width] = roi_sizes(node)?;
    Ok(vec![ValueInfo::new(x.dtype, vec![rois.shape[0], x.shape[1], height, width])])
}

fn lower_roi(node: &Node, cx: &mut Lowering<'_>) -> Result<(), OpError> {
    let (x, rois, batches, y) = (cx.input(node, 0)?, cx.input(node, 1)?, cx.input(node, 2)?, cx.output(node, 0)?);
    let elements = y.elements();
    if elements == 0 {
        return Ok(());
    }
    if x.elements() == 0 {
        return Err(OpError::invalid("it samples an empty tensor"));
    }
    let attributes = &node.attributes;
    let default = if node.opset < 16 { "output_half_pixel" } else { "half_pixel" };
    let half_pixel = match attributes.text("coordinate_transformation_mode", default)? {
        "half_pixel" => true,
        "output_half_pixel" => false,
        other => return Err(OpError::invalid(format!("coordinate_transformation_mode is {other:?}"))),
    };
    let result = match attributes.text("mode", "avg")? {
        "avg" => "return sum / max(f32(grid_h * grid_w), 1.0);",
        "max" => "return best;",
        other => return Err(OpError::invalid(format!("mode is {other:?}"))),
    };
    let samples = usize::try_from(attributes.int("sampling_ratio", 0)?).unwrap_or(0);
    if samples > 1 << 12 {
        return Err(OpError::unsupported(format!("{samples} samples a bin")));
    }
    let images = i64::try_from(x.shape[0]).unwrap_or(i64::MAX);
    let outside = match cx.input_range(node, 2).within(Range::new(0, images - 1)) {
        true => String::new(),
        false => format!("if (image >= param.images) {{ {} }}", Fault::Index.report()),
    };
    let text = include_str!("../wgsl/roi_align.wgsl")
        .replace("RESULT", result)
        .replace("ADAPTIVE_MAX", &ADAPTIVE_MAX.to_string())
        .replace("OUTSIDE", &outside);
    let kernel = KernelBuilder::new("roi_align")
        .read("x", x.repr)
        .read("rois", rois.repr)
        .read("batches", batches.repr)
        .text(&text)
        .element(Repr::F32);
    let numbers = Params::sizes([
        ("elements", elements),
        ("out_rows", y.shape[2]),
        ("out_columns", y.shape[3]),
        ("channels", x.shape[1]),
        ("rows", x.shape[2]),
        ("columns", x.shape[3]),
        ("samples", samples),
        ("images", x.shape[0]),
    ])?;
    let numbers = numbers.float("scale", attributes.float("spatial_scale", 1.0)?).float("nan", f32::NAN);
    let numbers =
        numbers.float("shift", if half_pixel { 0.5 } else { 0.0 }).word("small_allowed", u32::from(half_pixel));
    let work = elements.saturating_mul(16 * samples.max(2).pow(2));
    // As many as pixels: the kernel itself knows how many are too many.
    let most = if samples == 0 { ADAPTIVE_MAX } else { samples };
    let effort = Effort::looping(u64::try_from(work).unwrap_or(u64::MAX), most * (most + 1));
    let args = vec![x.arg, rois.arg, batches.arg, y.arg];
    cx.dispatch(kernel, args, numbers, element_groups(elements, Repr::F32), effort);
    Ok(())
}
