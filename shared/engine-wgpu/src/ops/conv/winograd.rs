//! 3x3 convolutions with a quarter of the multiplications: Winograd's F(4x4, 3x3), after Lavin and Gray, "Fast Algorithms for
//! Convolutional Neural Networks" (2015), section 4.3, whose matrices these are.
//!
//! A tile of 4x4 outputs is `AT ((G g GT) * (BT d B)) A`, where `d` are the 6x6 inputs it sees, `g` the 3x3 weights and `*`
//! multiplies place by place: summed over channels that is a product of matrices for each of the 36 places. Three launches:
//!
//! | launch | makes |
//! |---|---|
//! | `winograd_input` | `[36][channel][tile]`, `BT d B` of each tile of all images |
//! | [`Product`] | `[36][filter][tile]`; the weights, `[36][filter][channel]`, were transformed once on the host, in `f64` |
//! | `winograd_output` | the outputs, with bias, residual and activation |
//!
//! What it rounds more: the largest error over the largest output, uniform random numbers, against `f64`, is 3.0e-6, 4.4e-6 and
//! 9.3e-6 with 16, 64 and 256 channels. Summed directly it is 3.8e-7, 8.2e-7 and 1.6e-6, by F(2x2, 3x3) half of that; but that
//! saves 2.25 times, not four, and moves nearly twice the numbers between launches. Fed by [`super`].

use super::{Geometry, Operands};
use crate::error::OpError;
use crate::ir::{Literal, ValueId};
use crate::lower::{Arg, Effort, Floats, KernelBuilder, Lowering, Params, Repr, Tuning};
use crate::ops::epilogue::Epilogue;
use crate::ops::product::{Constant, Matrix, Product, groups_of};
use crate::shape::volume;

/// Outputs of a tile along each side.
const OUT: usize = 4;

/// Inputs of a tile along each side.
const IN: usize = 6;

/// Places of a tile, each with a product of its own.
const PLACES: usize = IN * IN;

/// Channels, or filters, that one thread transforms: finding a tile's place takes divisions, which a vector unit lacks.
const EACH: usize = 4;

/// Words that the two forms between the launches may take together: 32 MiB. VGG's second layer, 64 channels of 224x224, would
/// need 55; tiles that do not fit are computed in further rounds.
const BETWEEN_WORDS_MAX: usize = 8 * 1024 * 1024;

/// Fewest channels and filters: each place of a tile is moved four times, for which so many multiplications must be saved.
const CHANNELS_MIN: usize = 16;

/// Fewest tiles: with fewer the product reads each weight for so little that its being four times as many costs more.
const TILES_MIN: usize = 16;

/// The same on a real GPU, where a product has tiles of 64x64 in workgroup memory. Not measured, there being none here: only
/// where it fills such tiles.
const WAVE_CHANNELS_MIN: usize = 64;

/// The same for tiles.
const WAVE_TILES_MIN: usize = 64;

/// `G`: weights to places.
const WEIGHTS: [[f64; 3]; IN] = [
    [1.0 / 4.0, 0.0, 0.0],
    [-1.0 / 6.0, -1.0 / 6.0, -1.0 / 6.0],
    [-1.0 / 6.0, 1.0 / 6.0, -1.0 / 6.0],
    [1.0 / 24.0, 1.0 / 12.0, 1.0 / 6.0],
    [1.0 / 24.0, -1.0 / 12.0, 1.0 / 6.0],
    [0.0, 0.0, 1.0],
];

/// `BT` times a column of six.
const INPUT: &str = "struct Six { a: f32, b: f32, c: f32, d: f32, e: f32, f: f32 }
fn transform(d: Six) -> Six {
    let even = d.e - 4.0 * d.c;
    let odd = d.d - 4.0 * d.b;
    let near = d.e - d.c;
    let far = 2.0 * (d.d - d.b);
    return Six(4.0 * d.a - 5.0 * d.c + d.e, even + odd, even - odd, near + far, near - far, 4.0 * d.b - 5.0 * d.d + d.f);
}
";

/// `AT` times a column of six.
const OUTPUT: &str = "struct Six { a: f32, b: f32, c: f32, d: f32, e: f32, f: f32 }
fn transform(m: Six) -> vec4<f32> {
    let p = m.b + m.c;
    let q = m.b - m.c;
    let r = m.d + m.e;
    let s = m.d - m.e;
    return vec4<f32>(m.a + p + r, q + 2.0 * s, p + 4.0 * r, q + 8.0 * s + m.f);
}
";

/// Names of the members of `Six`.
const SIX: [&str; IN] = ["a", "b", "c", "d", "e", "f"];

/// A convolution as tiles.
#[derive(Debug)]
pub(super) struct Tiles {
    weights: ValueId,
    /// Tiles in a row and in an image.
    across: usize,
    each_image: usize,
    /// Number of tiles of all images.
    count: usize,
    input: [usize; 2],
    output: [usize; 2],
    before: [usize; 2],
}

impl Tiles {
    /// The tiles of a convolution that can be computed so: 3x3 over a plane, stride 1, no dilation, one group, constant weights.
    pub(super) fn of(g: &Geometry, operands: &Operands) -> Option<Self> {
        let (weights, _bias) = operands.constants?;
        let window = &g.window;
        let ones = window.strides.iter().chain(&window.dilations).all(|&n| n == 1);
        if window.kernel != [3, 3] || !ones || g.groups != 1 {
            return None;
        }
        let two = |numbers: &[usize]| <[usize; 2]>::try_from(numbers).ok();
        let (input, output, before) = (two(&g.input)?, two(&g.output)?, two(&window.before)?);
        let across = output[1].div_ceil(OUT);
        let each_image = across.checked_mul(output[0].div_ceil(OUT))?;
        let count = each_image.checked_mul(g.images)?;
        Some(Self { weights, across, each_image, count, input, output, before })
    }

    /// Returns whether it is faster than the other kernels, and worth weights that take four times the memory.
    pub(super) fn pay(&self, g: &Geometry, tuning: Tuning) -> bool {
        let (channels, tiles) =
            if tuning.workgroup_tiles { (WAVE_CHANNELS_MIN, WAVE_TILES_MIN) } else { (CHANNELS_MIN, TILES_MIN) };
        g.channels >= channels && g.filters >= channels && self.count >= tiles
    }
}

/// Adds the launches of the node.
pub(super) fn lower(cx: &mut Lowering<'_>, g: &Geometry, tiles: &Tiles, operands: Operands) -> Result<(), OpError> {
    let a_tile = volume(&[PLACES, g.channels + g.filters])?;
    // A vector unit takes eight tiles at a time, and the product reads four.
    let most = (BETWEEN_WORDS_MAX / a_tile / 64).max(1) * 64;
    let pitch = tiles.count.next_multiple_of(8).min(most);
    let seen = cx.scratch(volume(&[PLACES, g.channels, pitch])?);
    let sums = cx.scratch(volume(&[PLACES, g.filters, pitch])?);
    for first in (0..tiles.count).step_by(pitch) {
        let part = Part { first, count: pitch.min(tiles.count - first), pitch };
        transform_input(cx, g, tiles, part, [operands.x.arg, seen])?;
        multiply(cx, g, tiles, part, [operands.w.arg, seen, sums])?;
        transform_output(cx, g, tiles, part, sums, &operands)?;
    }
    Ok(())
}

/// Tiles of one round.
#[derive(Debug, Clone, Copy)]
struct Part {
    first: usize,
    count: usize,
    /// Words from one row of tiles to the next.
    pitch: usize,
}

/// `G g GT` as `[36][filter][channel]`.
fn weights(literal: &Literal) -> Vec<f32> {
    let from = literal.to_f32s();
    let (taps, _rest) = from.as_chunks::<9>();
    (0..PLACES).flat_map(|place| taps.iter().map(move |taps| weight(taps, place))).collect()
}

/// One place of `G g GT`.
fn weight(taps: &[f32; 9], place: usize) -> f32 {
    let (down, across) = (WEIGHTS[place / IN], WEIGHTS[place % IN]);
    let sum: f64 = (0..9).map(|tap| f64::from(taps[tap]) * down[tap / 3] * across[tap % 3]).sum();
    #[expect(clippy::cast_possible_truncation, reason = "rounds to the device's precision")]
    let sum = sum as f32;
    sum
}

/// Returns the common beginning of both transforms: the place of a thread's tile, and a loop over the `EACH` planes that are its own.
fn begin(threads: usize) -> String {
    format!(
        "@compute @workgroup_size({threads})
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {{
    let place = group + group_base();
    let at = place.x * {threads}u + lane;
    if (at >= param.tiles) {{ return; }}
    let tile = at + param.first_tile;
    let image = tile / param.image_tiles;
    let in_image = tile - image * param.image_tiles;
    let down = in_image / param.tiles_across;
    let row = down * {OUT}u;
    let col = (in_image - down * param.tiles_across) * {OUT}u;
    let last_plane = min(place.y * {EACH}u + {EACH}u, param.planes);
    for (var plane = place.y * {EACH}u; plane < last_plane; plane++) {{
"
    )
}

fn numbers(tiles: &Tiles, part: Part, planes: usize) -> Result<Params, OpError> {
    Params::sizes([
        ("tiles", part.count),
        ("first_tile", part.first),
        ("pitch", part.pitch),
        ("tiles_across", tiles.across),
        ("image_tiles", tiles.each_image),
        ("planes", planes),
    ])
}

/// Threads of a workgroup: a software adapter runs eight as one vector, a real GPU needs a full wave.
fn threads(cx: &Lowering<'_>) -> usize {
    if cx.tuning.workgroup_tiles { 64 } else { 8 }
}

/// Reads what each tile sees, zeros around the image.
fn transform_input(
    cx: &mut Lowering<'_>,
    g: &Geometry,
    tiles: &Tiles,
    part: Part,
    [x, y]: [Arg; 2],
) -> Result<(), OpError> {
    let threads = threads(cx);
    let mut text = String::from(INPUT);
    text.push_str(&begin(threads));
    // Places before the data wrap to huge numbers.
    text.push_str("        let base = (image * param.planes + plane) * param.size[0];\n");
    for r in 0..IN {
        text.push_str(&format!(
            "        let r{r} = row + {r}u - param.before[0]; let at{r} = (base + r{r}) * param.size[1]; let in{r} = r{r} < param.size[0];\n"
        ));
    }
    for c in 0..IN {
        text.push_str(&format!("        let c{c} = col + {c}u - param.before[1];\n"));
        let seen: Vec<String> =
            (0..IN).map(|r| format!("select(0.0, load_x(at{r} + c{c}), in{r} && c{c} < param.size[1])")).collect();
        text.push_str(&format!("        let t{c} = transform(Six({}));\n", seen.join(", ")));
    }
    text.push_str("        let to = plane * param.pitch + at;\n        let step = param.planes * param.pitch;\n");
    for (r, member) in SIX.iter().enumerate() {
        let row: Vec<String> = (0..IN).map(|c| format!("t{c}.{member}")).collect();
        text.push_str(&format!("        let v{r} = transform(Six({}));\n", row.join(", ")));
        for (c, member) in SIX.iter().enumerate() {
            text.push_str(&format!("        y[to + {}u * step] = v{r}.{member};\n", r * IN + c));
        }
    }
    text.push_str("    }\n}\n");
    let kernel = KernelBuilder::new("winograd_input").read("x", Repr::F32).raw("y", "array<f32>").text(&text).finish();
    let numbers = numbers(tiles, part, g.channels)?.list("size", &tiles.input)?.list("before", &tiles.before)?;
    let groups = [groups_of(part.count, threads)?, groups_of(g.channels, EACH)?, 1];
    cx.dispatch(kernel, vec![x, y], numbers, groups, effort(part, g.channels));
    Ok(())
}

/// A launch that transforms so many planes: a load, a store and about six operations a place.
fn effort(part: Part, planes: usize) -> Effort {
    let work = [part.count, planes, PLACES * 8].iter().fold(1, |work: usize, &size| work.saturating_mul(size));
    Effort::looping(u64::try_from(work).unwrap_or(u64::MAX), EACH)
}

/// A product for each place.
fn multiply(
    cx: &mut Lowering<'_>,
    g: &Geometry,
    tiles: &Tiles,
    part: Part,
    [a, b, y]: [Arg; 3],
) -> Result<(), OpError> {
    let constant = Constant { id: tiles.weights, form: "winograd", floats: weights, lie: Floats::Singles };
    let matrix = |arg, constant, batch, row| Matrix {
        arg,
        repr: Repr::F32,
        constant,
        offset: 0,
        batch: vec![batch],
        row,
        col: 1,
    };
    let product = Product {
        batch: vec![PLACES],
        m: g.filters,
        n: part.count.next_multiple_of(8),
        k: g.channels,
        a: matrix(a, Some(constant), g.filters * g.channels, g.channels),
        b: matrix(b, None, g.channels * part.pitch, part.pitch),
        alpha: 1.0,
        bias: None,
        y,
        y_batch: vec![g.filters * part.pitch],
        y_row: part.pitch,
        epilogue: Epilogue::NONE,
        plain: false,
        checked: false,
    };
    product.lower(cx)
}

/// Launches the transform of sums into outputs.
fn transform_output(
    cx: &mut Lowering<'_>,
    g: &Geometry,
    tiles: &Tiles,
    part: Part,
    sums: Arg,
    operands: &Operands,
) -> Result<(), OpError> {
    let threads = threads(cx);
    let mut args = vec![sums];
    let mut kernel = KernelBuilder::new("winograd_output").read("x", Repr::F32);
    let mut bias = "0.0";
    if let Some(operand) = &operands.bias {
        kernel = kernel.read("bias", operand.repr);
        args.push(operand.arg);
        bias = "load_bias(plane)";
    }
    kernel = operands.epilogue.add_to(kernel, &mut args);
    args.push(operands.y.arg);
    let mut text = String::from(OUTPUT);
    text.push_str(&begin(threads));
    text.push_str("        let base = plane * param.pitch + at;\n        let step = param.planes * param.pitch;\n");
    for c in 0..IN {
        let sums: Vec<String> = (0..IN).map(|r| format!("load_x(base + {}u * step)", r * IN + c)).collect();
        text.push_str(&format!("        let t{c} = transform(Six({}));\n", sums.join(", ")));
    }
    text.push_str(&format!(
        "        let bias = {bias};\n        let to = ((image * param.planes + plane) * param.size[0] + row) * param.size[1] + col;\n"
    ));
    for (r, member) in ["x", "y", "z", "w"].iter().enumerate() {
        let row: Vec<String> = (0..IN).map(|c| format!("t{c}.{member}")).collect();
        text.push_str(&format!(
            "        if (row + {r}u < param.size[0]) {{\n            let v = transform(Six({})) + bias;\n            \
             let to{r} = to + {r}u * param.size[1];\n",
            row.join(", ")
        ));
        for c in 0..OUT {
            let store = format!("y[to{r} + {c}u] = epilogue(v[{c}], to{r} + {c}u);");
            text.push_str(&format!("            if (col + {c}u < param.size[1]) {{ {store} }}\n"));
        }
        text.push_str("        }\n");
    }
    text.push_str("    }\n}\n");
    let kernel = kernel.raw("y", "array<f32>").text(&text).finish();
    let numbers = numbers(tiles, part, g.filters)?.list("size", &tiles.output)?.and(operands.epilogue.params());
    let groups = [groups_of(part.count, threads)?, groups_of(g.filters, EACH)?, 1];
    cx.dispatch(kernel, args, numbers, groups, effort(part, g.filters));
    Ok(())
}
