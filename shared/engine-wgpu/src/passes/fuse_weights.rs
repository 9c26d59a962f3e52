//! Weights in 4 or 8 bits under a product of floats stay packed: `DequantizeLinear → MatMul` becomes `MatMulNBits`, which
//! takes them apart in its inner loop.

use super::pattern::{Uses, is_one_of};
use crate::ir::{Attribute, Attributes, ElementType, Graph, Literal, ValueId};

/// Block that weights without blocks of their own are cut into.
const BLOCK: usize = 32;

/// Smallest block of `MatMulNBits`.
const BLOCK_MIN: usize = 16;

/// Weights below which packing saves nothing worth a slower kernel.
const ELEMENTS_MIN: usize = 1024;

/// Weights as `MatMulNBits` wants them.
struct Packed {
    bits: usize,
    block: usize,
    k: usize,
    n: usize,
    weights: Literal,
    scales: Literal,
    points: Literal,
}

/// Keeps every constant matrix packed that a `DequantizeLinear` unpacks for a `MatMul` alone.
pub(super) fn keep_packed(graph: &mut Graph) -> bool {
    let uses = Uses::of(graph);
    let mut changed = false;
    for at in 0..graph.nodes.len() {
        let Some((x, packed)) = packed(graph, &uses, at) else { continue };
        let Packed { bits, block, k, n, weights, scales, points } = packed;
        let weights = graph.add_constant("packed weights", weights);
        let scales = graph.add_constant("packed scales", scales);
        let points = graph.add_constant("packed zero points", points);
        let number = |value: usize| Attribute::Int(i64::try_from(value).unwrap_or(i64::MAX));
        let node = &mut graph.nodes[at];
        node.domain = "com.microsoft".to_owned();
        node.op = "MatMulNBits".to_owned();
        node.opset = 1;
        node.inputs = vec![Some(x), Some(weights), Some(scales), Some(points)];
        node.attributes = Attributes::default()
            .with("K", number(k))
            .with("N", number(n))
            .with("bits", number(bits))
            .with("block_size", number(block));
        changed = true;
    }
    changed
}

/// The float operand and the packed weights of a product.
fn packed(graph: &Graph, uses: &Uses, at: usize) -> Option<(ValueId, Packed)> {
    let node = &graph.nodes[at];
    if !is_one_of(node, &["MatMul"]) {
        return None;
    }
    let matrix = node.input(1).filter(|&id| uses.once(id))?;
    let (_at, linear) = uses.producer(graph, matrix).filter(|(_at, node)| node.op == "DequantizeLinear")?;
    let weights = graph.constant_input(linear, 0)?;
    let scales = graph.constant_input(linear, 1).filter(|scales| scales.dtype() == ElementType::F32)?;
    let points = linear.input(2).map(|id| graph.constants.get(&id));
    // The zero points, if given, must be known too.
    let points = match points {
        None => None,
        Some(literal) => Some(literal?),
    };
    let &[k, n] = weights.shape() else { return None };
    let (bits, offset) = match weights.dtype() {
        ElementType::I4 => (4, 8),
        ElementType::U4 => (4, 0),
        ElementType::I8 => (8, 128),
        ElementType::U8 => (8, 0),
        _ => return None,
    };
    let axis = linear.attributes.int("axis", 1).ok()?;
    let given = usize::try_from(linear.attributes.int("block_size", 0).ok()?).ok()?;
    let own = given.is_power_of_two() && given >= BLOCK_MIN && matches!(axis, 0 | -2);
    let (block, place): (usize, fn(usize, usize, usize) -> usize) = match (scales.shape(), given) {
        ([], 0) | ([1], 0) => (BLOCK, |_n, _block, _columns| 0),
        ([columns], 0) if *columns == n && matches!(axis, 1 | -1) => (BLOCK, |n, _block, _columns| n),
        ([blocks, columns], _) if own && *columns == n && *blocks == k.div_ceil(given) => {
            (given, |n, block, columns| block * columns + n)
        }
        _ => return None,
    };
    if k * n < ELEMENTS_MIN {
        return None;
    }
    let blocks = k.div_ceil(block);
    let each = |values: &[f32], add: f32| -> Vec<f32> {
        let of = |i: usize| values.get(place(i / blocks, i % blocks, n)).copied().unwrap_or(0.0) + add;
        (0..n * blocks).map(of).collect()
    };
    let offset_value = f32::from(i16::try_from(offset).ok()?);
    let zeros = vec![0.0; scales.elements()];
    let points = each(&points.map_or(zeros, Literal::to_f32s), offset_value);
    let packed = Packed {
        bits,
        block,
        k,
        n,
        weights: pack(&weights.to_i64s(), (k, n), (block, bits), offset)?,
        scales: Literal::from_f32s(vec![n * blocks], &each(&scales.to_f32s(), 0.0)),
        points: Literal::from_f32s(vec![n * blocks], &points),
    };
    Some((node.input(0)?, packed))
}

/// Each column's blocks one after the other, low bits first, as unsigned numbers.
fn pack(values: &[i64], (k, n): (usize, usize), (block, bits): (usize, usize), offset: i64) -> Option<Literal> {
    let (blocks, per_byte) = (k.div_ceil(block), 8 / bits);
    let byte = |i: usize| {
        let (column, first) = (i / (blocks * block / per_byte), i % (blocks * block / per_byte) * per_byte);
        let lane = |at: usize| {
            let value = values.get(at * n + column).filter(|_value| at < k).map_or(0, |value| value + offset);
            value.to_le_bytes()[0]
        };
        if bits == 8 { lane(first) } else { lane(first) & 0xf | lane(first + 1) << 4 }
    };
    let bytes: Vec<u8> = (0..n * blocks * block / per_byte).map(byte).collect();
    Literal::new(ElementType::U8, vec![n, blocks, block / per_byte], bytes.into())
}
