//! MatMulNBits: blocks of 4 and 8 bits.

use engine_wgpu::ir::{ElementType, Literal};

use super::bench_node::{BOTH, Bench, Dice, Operand, Sum, assert_sums, engine};

/// How zero points are given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Points {
    Default,
    Packed,
    Floats,
}

#[test]
fn blocks_of_few_bits_are_multiplied_as_if_they_were_floats() {
    for kernels in BOTH {
        let Some(engine) = engine(kernels) else { return };
        let mut dice = Dice::new(10);
        for round in 0..24 {
            let bits = dice.pick(&[4, 8]);
            let block: usize = dice.pick(&[16, 32, 64]);
            let (rows, n) = (dice.pick(&[1, 2, 5, 8, 21]), dice.pick(&[1, 3, 4, 30, 67]));
            let k: usize = dice.pick(&[16, 20, 64, 96, 150]);
            let points = dice.pick(&[Points::Default, Points::Packed, Points::Floats]);
            let blocks = k.div_ceil(block);
            let top = 1 << bits;
            let quantized: Vec<usize> = (0..n * blocks * block).map(|_| dice.below(top)).collect();
            let scales = dice.floats(n * blocks);
            let zero: Vec<usize> = match points {
                Points::Default => vec![top / 2; n * blocks],
                Points::Packed | Points::Floats => (0..n * blocks).map(|_| dice.below(top)).collect(),
            };
            let pack = |values: &[usize]| -> Vec<u8> {
                match bits {
                    4 => values.chunks(2).map(|two| (two[0] | two.get(1).map_or(0, |high| high << 4)) as u8).collect(),
                    _ => values.iter().map(|&value| value as u8).collect(),
                }
            };
            let bytes = |shape: Vec<usize>, bytes: Vec<u8>| {
                Operand::Constant(Literal::new(ElementType::U8, shape, bytes.into()).unwrap())
            };
            let weights = bytes(vec![n, blocks, block * bits / 8], pack(&quantized));
            let zero_points = match points {
                Points::Default => Operand::None,
                Points::Packed => {
                    let rows: Vec<u8> = zero.chunks(blocks).flat_map(pack).collect();
                    bytes(vec![rows.len()], rows)
                }
                Points::Floats => {
                    let floats: Vec<f32> = zero.iter().map(|&point| point as f32).collect();
                    Operand::f32(&[n * blocks], &floats).constant()
                }
            };
            let a = dice.tensor(&[2, rows, k]);
            let bias = if round % 2 == 0 { dice.tensor(&[n]) } else { Operand::None };
            let (values, biases) = (a.values(), bias.values());
            let mut wanted = Vec::new();
            for row in 0..2 * rows {
                for col in 0..n {
                    let mut sum = Sum::default();
                    for at in 0..k {
                        let place = col * blocks + at / block;
                        let weight = quantized[col * blocks * block + at] as f64 - zero[place] as f64;
                        sum.add(values[row * k + at], weight * f64::from(scales[place]));
                    }
                    if let Some(&bias) = biases.get(col) {
                        sum.add(1.0, bias);
                    }
                    wanted.push(sum);
                }
            }
            let bench = Bench::new("MatMulNBits")
                .domain("com.microsoft")
                .int("K", k as i64)
                .int("N", n as i64)
                .int("bits", bits as i64)
                .int("block_size", block as i64);
            let scales = Operand::f32(&[n * blocks], &scales).constant();
            let found = bench.run(&engine, &[a, weights, scales, zero_points, Operand::None, bias]);
            assert_eq!(found[0].shape(), [2, rows, n]);
            assert_sums(&(kernels, bits, block, rows, n, k, points), &found[0], &wanted);
        }
    }
}
