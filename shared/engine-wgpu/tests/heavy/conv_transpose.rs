//! ConvTranspose over two dimensions, against scattering each input.

use super::bench_node::{BOTH, Bench, Dice, Operand, Sum, assert_sums, engine};

#[test]
fn transposed_convolutions_of_random_shapes_are_within_their_rounding() {
    for kernels in BOTH {
        let Some(engine) = engine(kernels) else { return };
        let mut dice = Dice::new(15);
        for round in 0..24 {
            let groups = dice.pick(&[1, 1, 2]);
            let (per_group, filters) = (dice.pick(&[1, 4, 16]), dice.pick(&[1, 3, 8]));
            let (height, width) = (dice.pick(&[1, 5, 12]), dice.pick(&[3, 8, 17]));
            let (taps, stride, dilation) = (dice.pick(&[1, 2, 3, 4]), dice.pick(&[1, 2, 3]), dice.pick(&[1, 1, 2]));
            let (pad, extra) = (dice.below(taps), dice.below(stride));
            let channels = groups * per_group;
            let size = |input: usize| {
                ((input - 1) * stride + (taps - 1) * dilation + 1 + extra).checked_sub(2 * pad).filter(|&size| size > 0)
            };
            let (Some(rows), Some(cols)) = (size(height), size(width)) else { continue };
            let x = dice.tensor(&[2, channels, height, width]);
            let w = dice.tensor(&[channels, filters, taps, taps]);
            let bias = if round % 2 == 0 { dice.tensor(&[groups * filters]) } else { Operand::None };
            let (values, weights, biases) = (x.values(), w.values(), bias.values());
            let mut wanted = vec![Sum::default(); 2 * groups * filters * rows * cols];
            for (at, sum) in wanted.iter_mut().enumerate() {
                if let Some(&bias) = biases.get(at / (rows * cols) % (groups * filters)) {
                    sum.add(1.0, bias);
                }
            }
            for (at, value) in values.iter().enumerate() {
                let (col, row) = (at % width, at / width % height);
                let (channel, image) = (at / width / height % channels, at / width / height / channels);
                for filter in 0..filters {
                    for tap in 0..taps * taps {
                        let y = (row * stride + tap / taps * dilation).checked_sub(pad).filter(|&y| y < rows);
                        let x = (col * stride + tap % taps * dilation).checked_sub(pad).filter(|&x| x < cols);
                        if let (Some(y), Some(x)) = (y, x) {
                            let plane = (image * groups + channel / per_group) * filters + filter;
                            let weight = weights[(channel * filters + filter) * taps * taps + tap];
                            wanted[(plane * rows + y) * cols + x].add(*value, weight);
                        }
                    }
                }
            }
            let bench = Bench::new("ConvTranspose")
                .int("group", groups as i64)
                .ints("strides", &[stride; 2])
                .ints("dilations", &[dilation; 2])
                .ints("pads", &[pad; 4])
                .ints("output_padding", &[extra; 2]);
            let w = if round % 3 == 0 { w } else { w.constant() };
            let found = bench.run(&engine, &[x, w, bias]);
            assert_eq!(found[0].shape(), [2, groups * filters, rows, cols]);
            assert_sums(&(kernels, round, per_group, filters, taps, stride), &found[0], &wanted);
        }
    }
}
