//! Codes and grids as the tensors that engines read.

use onnx_graph::proto::TensorProto;
use onnx_graph::{ElementType, Values};

use super::blocks::Quantized;
use super::{Bits, Options};
use crate::linear::transpose;

/// The names of the tensors of one weight; `zero_points` only when the grid is not symmetric.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Packed {
    pub codes: String,
    pub scales: String,
    pub zero_points: Option<String>,
}

/// Tensors of `MatMulNBits`: codes `[N, blocks, bytes of a block]`, scales and zero points one for each block.
///
/// Codes of four bits stand two in a byte, the first in the low half; zero points too, each row beginning a byte of its own.
/// Points that are not whole are stored as floats. What pads the last block is the code of zero.
pub(super) fn for_nbits(quantized: &Quantized, options: &Options, names: &Packed) -> Vec<TensorProto> {
    let (rows, blocks, block) = (quantized.rows, quantized.blocks(), quantized.block);
    let blob = block * options.bits.count() / 8;
    let mut codes = Vec::with_capacity(rows * blocks * blob);
    for row in 0..rows {
        let of_row = &quantized.codes[row * quantized.columns..(row + 1) * quantized.columns];
        let mut padded = Vec::with_capacity(blocks * block);
        padded.extend_from_slice(of_row);
        let last = quantized.zero_points.get(row * blocks + blocks - 1).copied().unwrap_or_default();
        padded.resize(blocks * block, super::blocks::as_code(last.round()));
        codes.extend(bytes(&padded, options.bits));
    }
    let grids = [rows, blocks];
    let mut tensors = vec![
        TensorProto::of_raw(&names.codes, ElementType::Uint8, &[rows, blocks, blob], codes),
        TensorProto::of_floats(&names.scales, &grids, &quantized.scales),
    ];
    if let Some(name) = &names.zero_points {
        tensors.push(match whole(&quantized.zero_points) {
            None => TensorProto::of_floats(name, &grids, &quantized.zero_points),
            Some(zero_points) => {
                let rows_of_bytes = zero_points.chunks_exact(blocks).flat_map(|row| bytes(row, options.bits));
                let raw: Vec<u8> = rows_of_bytes.collect();
                TensorProto::of_raw(name, ElementType::Uint8, &[rows, raw.len() / rows.max(1)], raw)
            }
        });
    }
    tensors
}

/// Tensors of `DequantizeLinear` along axis 0 of `[K, N]`: codes `[K, N]`, scales and zero points `[blocks, N]`, or `[N]` when
/// the block is the whole row and `per_channel` is asked for.
pub(super) fn for_qdq(quantized: &Quantized, options: &Options, names: &Packed, per_channel: bool) -> Vec<TensorProto> {
    let (rows, columns, blocks) = (quantized.rows, quantized.columns, quantized.blocks());
    let element = match (options.bits, options.symmetric) {
        (Bits::Four, true) => ElementType::Int4,
        (Bits::Four, false) => ElementType::Uint4,
        (Bits::Eight, true) => ElementType::Int8,
        (Bits::Eight, false) => ElementType::Uint8,
    };
    let shift = if options.symmetric { options.bits.middle() } else { 0 };
    // In the signed types the middle code is 0.
    let signed = |codes: Vec<u8>| codes.into_iter().map(|code| code.wrapping_sub(shift)).collect::<Vec<u8>>();
    let codes = signed(transpose(&quantized.codes, rows, columns));
    let scales = transpose(&quantized.scales, rows, blocks);
    let grids: Vec<usize> = if per_channel { vec![rows] } else { vec![blocks, rows] };
    let mut tensors = vec![
        TensorProto::of_raw(&names.codes, element, &[columns, rows], bytes(&codes, options.bits)),
        TensorProto::of_floats(&names.scales, &grids, &scales),
    ];
    if let (Some(name), Some(zero_points)) = (&names.zero_points, whole(&quantized.zero_points)) {
        let zero_points = bytes(&transpose(&zero_points, rows, blocks), options.bits);
        tensors.push(TensorProto::of_raw(name, element, &grids, zero_points));
    }
    tensors
}

fn bytes(codes: &[u8], bits: Bits) -> Vec<u8> {
    match bits {
        Bits::Eight => codes.to_vec(),
        Bits::Four => {
            codes.chunks(2).map(|pair| (pair[0] & 15) | (pair.get(1).copied().unwrap_or(0) & 15) << 4).collect()
        }
    }
}

/// Points as codes; `None` when one of them is none.
fn whole(zero_points: &[f32]) -> Option<Vec<u8>> {
    let is_code = |point: &f32| point.fract() == 0.0 && (0.0..=255.0).contains(point);
    zero_points.iter().map(|point| is_code(point).then(|| super::blocks::as_code(*point))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn four_bits_stand_low_half_first() {
        let quantized = Quantized {
            rows: 2,
            columns: 3,
            block: 16,
            codes: vec![1, 2, 3, 4, 5, 6],
            scales: vec![0.5, 0.25],
            zero_points: vec![8.0, 7.0],
        };
        let names = Packed { codes: "q".into(), scales: "s".into(), zero_points: Some("p".into()) };
        let tensors = for_nbits(&quantized, &Options { block: 16, ..Options::default() }, &names);
        let raw = |at: usize| tensors[at].raw_data.clone().unwrap().to_vec();
        assert_eq!(tensors[0].dims, [2, 1, 8]);
        assert_eq!(raw(0)[..3], [0x21, 0x83, 0x88]);
        assert_eq!(raw(0)[8..11], [0x54, 0x76, 0x77]);
        assert_eq!(raw(2), [8, 7]);
    }
}
