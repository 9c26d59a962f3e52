//! Convolutions that keep a tile of outputs in registers and read the padded input by `vec4`.
//!
//! A thread owns eight neighbouring pixels of one row and up to sixteen output channels: for a 3x3 window three vector
//! loads of input serve 96 vector multiply-adds. The text is unrolled over taps of a row, pixels and channels; rows,
//! channels and sizes are params. Fed by [`super`].

use super::{Geometry, Operands, packed_weights};
use crate::error::OpError;
use crate::lower::{Arg, Effort, Floats, KernelBuilder, Lowering, Operand, Params, UNPACK_FOUR};
use crate::ops::product::groups_of;
use crate::shape::volume;

/// Pixels of one thread.
const PIXELS: usize = 8;

/// Output channels that are stored in one turn of the loop over them.
///
/// A software adapter makes a loop over its lanes of each store in a text: with all 128 of a thread in it, it compiled for
/// twice as long.
const TURN: usize = 2;

/// Most vectors of one input row that a thread holds, and most taps of a row that are unrolled: beyond, the text and the
/// registers grow out of hand.
const ROW_VECTORS_MAX: usize = 16;

/// The geometry over two dimensions, as the kernels want it.
#[derive(Debug)]
pub(super) struct Plane {
    input: [usize; 2],
    output: [usize; 2],
    kernel: [usize; 2],
    strides: [usize; 2],
    dilations: [usize; 2],
    before: [usize; 2],
}

impl Plane {
    /// `None` where the kernels here do not do it.
    pub(super) fn of(g: &Geometry) -> Option<Self> {
        let two = |numbers: &[usize], fill: usize| match *numbers {
            [one] => Some([fill, one]),
            [one, two] => Some([one, two]),
            _ => None,
        };
        let window = &g.window;
        let plane = Self {
            input: two(&g.input, 1)?,
            output: two(&g.output, 1)?,
            kernel: two(&window.kernel, 1)?,
            strides: two(&window.strides, 1)?,
            dilations: two(&window.dilations, 1)?,
            before: two(&window.before, 0)?,
        };
        let fits = plane.row_vectors() <= ROW_VECTORS_MAX && plane.kernel[1] <= ROW_VECTORS_MAX;
        fits.then_some(plane)
    }

    /// Vectors of an input row that eight pixels look at.
    fn row_vectors(&self) -> usize {
        ((PIXELS - 1) * self.strides[1] + (self.kernel[1] - 1) * self.dilations[1] + 1).div_ceil(4)
    }

    /// Rows and columns of the padded input that the windows reach.
    fn reach(&self) -> [usize; 2] {
        [0, 1].map(|d| (self.output[d] - 1) * self.strides[d] + (self.kernel[d] - 1) * self.dilations[d] + 1)
    }

    /// Tiles of eight pixels in a row of outputs.
    fn tiles(&self) -> usize {
        self.output[1].div_ceil(PIXELS)
    }
}

/// Adds the launches of the node.
pub(super) fn lower(cx: &mut Lowering<'_>, g: &Geometry, plane: &Plane, operands: Operands) -> Result<(), OpError> {
    let depthwise = g.channels_per_group == 1 && g.filters_per_group == 1;
    let lanes = match g.filters_per_group {
        _ if depthwise => 1,
        0..=4 => 4,
        5..=8 => 8,
        _ => 16,
    };
    let (weights, floats) = packed_weights(cx, g, &operands, lanes)?;
    let (input, [rows, pitch]) = padded(cx, g, plane, &operands.x)?;
    // A software adapter runs a workgroup of 8 as one vector; a real GPU needs a full wave, a huge image fewer groups.
    let tiles = plane.output[0] * plane.tiles();
    let threads = if cx.tuning.workgroup_tiles || tiles > 8 * 65_535 { 64 } else { 8 };
    let mut args = vec![input, weights];
    let weight_array = if depthwise { "array<f32>" } else { floats.fours() };
    let mut kernel = KernelBuilder::new(if depthwise { "conv_depthwise" } else { "conv_direct" })
        .raw("x", "array<vec4<f32>>")
        .raw("w", weight_array);
    if floats == Floats::Halves {
        kernel = kernel.text(UNPACK_FOUR);
    }
    let kernel = operands.epilogue.add_to(kernel, &mut args);
    args.push(operands.y.arg);
    let text = if depthwise { depthwise_text(plane, threads) } else { text(plane, lanes, threads, floats) };
    let kernel = kernel.raw("y", "array<f32>").text(&text).finish();
    let blocks = g.filters_per_group.div_ceil(lanes);
    let numbers = Params::sizes([
        ("group_channels", g.channels_per_group),
        ("row_vectors", pitch / 4),
        ("plane_vectors", rows * pitch / 4),
        ("row_stride", plane.strides[0]),
        ("filters", g.filters),
        ("group_filters", g.filters_per_group),
        ("blocks", blocks),
        ("channels", g.channels),
        ("row_dilation", plane.dilations[0]),
        ("row_tiles", plane.tiles()),
        ("tap_rows", plane.kernel[0]),
        ("terms", g.terms()),
    ])?;
    let numbers = numbers.list("output", &plane.output)?.and(operands.epilogue.params());
    let groups = [
        // Channels run first: the pixels they share are read once while they are in the cache.
        groups_of(g.groups * blocks, 1)?,
        groups_of(tiles, threads)?,
        groups_of(g.images, 1)?,
    ];
    let rounds = g.channels_per_group.saturating_mul(plane.kernel[0] + 1).saturating_add(lanes / TURN);
    cx.dispatch(kernel, args, numbers, groups, Effort::looping(g.work(), rounds));
    Ok(())
}

/// The input with padding around it and rows that begin at a multiple of four, and its rows and pitch.
fn padded(cx: &mut Lowering<'_>, g: &Geometry, plane: &Plane, x: &Operand) -> Result<(Arg, [usize; 2]), OpError> {
    let [rows, reach] = plane.reach();
    let fits =
        plane.before == [0, 0] && plane.input[1].is_multiple_of(4) && rows <= plane.input[0] && reach <= plane.input[1];
    if fits {
        return Ok((x.arg, plane.input));
    }
    let pitch = reach.next_multiple_of(4);
    let total = volume(&[g.images, g.channels, rows, pitch])?;
    let to = cx.scratch(total);
    let planes = g.images * g.channels;
    let work = u64::try_from(total).unwrap_or(u64::MAX);
    // Four places a thread and no division: those are slow where a vector unit has none.
    let text = "@compute @workgroup_size(16, 4)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) thread: vec3<u32>) {
    let place = group + group_base();
    let four = place.x * 16u + thread.x;
    let out_row = place.y * 4u + thread.y;
    if (four >= param.fours || out_row >= param.rows) { return; }
    // Places before the data wrap to huge numbers.
    let row = out_row - param.before[0];
    let col = four * 4u - param.before[1];
    var values = vec4<f32>();
    if (row < param.input[0]) {
        let at = (place.z * param.input[0] + row) * param.input[1];
        for (var i = 0u; i < 4u; i++) {
            if (col + i < param.input[1]) { values[i] = load_x(at + col + i); }
        }
    }
    y[(place.z * param.rows + out_row) * param.fours + four] = values;
}";
    let kernel = KernelBuilder::new("pad").read("x", x.repr).raw("y", "array<vec4<f32>>").text(text).finish();
    let numbers = Params::sizes([("fours", pitch / 4), ("rows", rows)])?;
    let numbers = numbers.list("input", &plane.input)?.list("before", &plane.before)?;
    let groups = [groups_of(pitch / 4, 16)?, groups_of(rows, 4)?, groups_of(planes, 1)?];
    cx.dispatch(kernel, vec![x.arg, to], numbers, groups, work);
    Ok((to, [rows, pitch]))
}

/// Returns the common beginning of both kernels.
fn begin(threads: usize) -> String {
    format!(
        "@compute @workgroup_size({threads})
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {{
    let place = group + group_base();
    let tile = place.y * {threads}u + lane;
    let row = tile / param.row_tiles;
    if (row >= param.output[0]) {{ return; }}
    let col = tile % param.row_tiles * {PIXELS}u;
"
    )
}

/// The kernel of up to sixteen output channels a thread.
fn text(plane: &Plane, lanes: usize, threads: usize, floats: Floats) -> String {
    let vectors = lanes / 4;
    let load = |at: String| floats.four(&format!("w[{at}]"));
    let (stride, dilation, taps) = (plane.strides[1], plane.dilations[1], plane.kernel[1]);
    let mut text = begin(threads);
    text.push_str(&format!(
        "    let filter_group = place.x / param.blocks;
    var iw = place.x * (param.terms + 1u) * {vectors}u;
    let ib = iw + param.terms * {vectors}u;
    var plane_at = (place.z * param.channels + filter_group * param.group_channels) * param.plane_vectors + row * param.row_stride * param.row_vectors \
         + col * {stride}u / 4u;
    let pitch = param.row_vectors * param.row_dilation;\n"
    ));
    for v in 0..vectors {
        text.push_str(&format!("    let bias{v} = {};\n", load(format!("ib + {v}u"))));
        for p in 0..PIXELS {
            text.push_str(&format!("    var s{p}_{v} = bias{v};\n"));
        }
    }
    text.push_str(
        "    for (var c = 0u; c < param.group_channels; c++) {\n        var ir = plane_at;\n        \
         for (var ky = 0u; ky < param.tap_rows; ky++) {\n",
    );
    for r in 0..plane.row_vectors() {
        text.push_str(&format!("            let r{r} = x[ir + {r}u];\n"));
    }
    for kx in 0..taps {
        text.push_str("            {\n");
        for v in 0..vectors {
            let w = load(format!("iw + {}u", kx * vectors + v));
            text.push_str(&format!("                let w{v} = {w};\n"));
        }
        for p in 0..PIXELS {
            let at = p * stride + kx * dilation;
            for v in 0..vectors {
                text.push_str(&format!(
                    "                s{p}_{v} = fma(vec4<f32>(r{}.{}), w{v}, s{p}_{v});\n",
                    at / 4,
                    ["x", "y", "z", "w"][at % 4]
                ));
            }
        }
        text.push_str("            }\n");
    }
    text.push_str(&format!(
        "            iw += {}u;\n            ir += pitch;\n        }}\n        plane_at += param.plane_vectors;\n    }}\n    \
         let first = place.x % param.blocks * {lanes}u;\n    \
         let plane_y = param.output[0] * param.output[1];\n    \
         let at = ((place.z * param.filters + filter_group * param.group_filters + first) * param.output[0] + row) * param.output[1];\n",
        taps * vectors
    ));
    text.push_str(&channels_text(plane, lanes));
    text
}

/// Stores the sums of the first channels, shifts the others down by as many, and so on.
fn channels_text(plane: &Plane, lanes: usize) -> String {
    let mut text = format!(
        "    let lanes = min({lanes}u, param.group_filters - first);\n    \
         for (var channel = 0u; channel < lanes; channel += {TURN}u) {{\n"
    );
    for lane in 0..TURN {
        // The first channel of a turn is one of its group, or there would be no turn.
        if lane > 0 {
            text.push_str(&format!("        if (channel + {lane}u < lanes) {{\n"));
        }
        text.push_str(&format!("        let y{lane} = at + (channel + {lane}u) * plane_y + col;\n"));
        text.push_str(&store_text(plane, &format!("y{lane}"), |p| format!("s{p}_0[{lane}]")));
        if lane > 0 {
            text.push_str("        }\n");
        }
    }
    let last = lanes / 4 - 1;
    for (p, v) in (0..PIXELS).flat_map(|p| (0..=last).map(move |v| (p, v))) {
        text.push_str(&format!("        s{p}_{v} = vec4<f32>(s{p}_{v}.zw, s{p}_{}.xy);\n", last.min(v + 1)));
    }
    text.push_str("    }\n}\n");
    text
}

/// Stores eight pixels from place `at`; only a last tile that hangs over is checked.
fn store_text(plane: &Plane, at: &str, value: impl Fn(usize) -> String) -> String {
    let full = plane.output[1].is_multiple_of(PIXELS);
    let mut text = String::new();
    for p in 0..PIXELS {
        let store = format!("y[{at} + {p}u] = epilogue({}, {at} + {p}u);", value(p));
        if full || p == 0 {
            text.push_str(&format!("    {store}\n"));
        } else {
            text.push_str(&format!("    if (col + {p}u < param.output[1]) {{ {store} }}\n"));
        }
    }
    text
}

fn depthwise_text(plane: &Plane, threads: usize) -> String {
    let (stride, dilation, taps) = (plane.strides[1], plane.dilations[1], plane.kernel[1]);
    let mut text = begin(threads);
    text.push_str(&format!(
        "    var iw = place.x * (param.terms + 1u);
    var ir = (place.z * param.channels + place.x) * param.plane_vectors + row * param.row_stride * param.row_vectors + col * {stride}u / 4u;
    let pitch = param.row_vectors * param.row_dilation;
    let bias = w[iw + param.terms];
    var s0 = vec4<f32>(bias);
    var s1 = s0;
    for (var ky = 0u; ky < param.tap_rows; ky++) {{\n"
    ));
    for r in 0..plane.row_vectors() {
        text.push_str(&format!("        let r{r} = x[ir + {r}u];\n"));
    }
    for kx in 0..taps {
        let pixel = |p: usize| {
            let at = p * stride + kx * dilation;
            format!("r{}.{}", at / 4, ["x", "y", "z", "w"][at % 4])
        };
        for half in 0..2 {
            let four: Vec<String> = (0..4).map(|p| pixel(half * 4 + p)).collect();
            text.push_str(&format!(
                "        s{half} = fma(vec4<f32>({}), vec4<f32>(w[iw + {kx}u]), s{half});\n",
                four.join(", ")
            ));
        }
    }
    text.push_str(&format!(
        "        iw += {taps}u;\n        ir += pitch;\n    }}\n    \
         let at_y = ((place.z * param.filters + place.x) * param.output[0] + row) * param.output[1];\n"
    ));
    text.push_str("    let y0 = at_y + col;\n");
    text.push_str(&store_text(plane, "y0", |p| format!("s{}[{}]", p / 4, p % 4)));
    text.push_str("}\n");
    text
}
