//! MatMul, Gemm and their fused forms.

use engine_wgpu::ir::{ElementType, Literal};

use super::bench_node::{BOTH, Bench, Dice, Operand, Sum, assert_close, assert_sums, engine};

/// `a` of `[.., m, k]` times `b` of `[.., k, n]` with batch dimensions broadcast.
fn reference(a: &Operand, b: &Operand) -> Vec<Sum> {
    let (shape_a, shape_b) = (a.shape(), b.shape());
    let (batch_a, of_a) = shape_a.split_at(shape_a.len() - 2);
    let (batch_b, of_b) = shape_b.split_at(shape_b.len() - 2);
    let (m, k, n) = (of_a[0], of_a[1], of_b[1]);
    let rank = batch_a.len().max(batch_b.len());
    let size = |batch: &[usize], d: usize| (d + batch.len()).checked_sub(rank).map_or(1, |d| batch[d]);
    let batch: Vec<usize> = (0..rank).map(|d| size(batch_a, d).max(size(batch_b, d))).collect();
    let (values_a, values_b) = (a.values(), b.values());
    let mut sums = Vec::new();
    for z in 0..batch.iter().product() {
        let at = |own: &[usize]| {
            let (mut rest, mut at, mut step) = (z, 0, 1);
            for d in (0..rank).rev() {
                at += (rest % batch[d]) % size(own, d) * step;
                step *= size(own, d);
                rest /= batch[d];
            }
            at
        };
        let (at_a, at_b): (usize, usize) = (at(batch_a) * m * k, at(batch_b) * k * n);
        for row in 0..m {
            for col in 0..n {
                let mut sum = Sum::default();
                for i in 0..k {
                    sum.add(values_a[at_a + row * k + i], values_b[at_b + i * n + col]);
                }
                sums.push(sum);
            }
        }
    }
    sums
}

#[test]
fn products_of_random_shapes_are_within_their_rounding() {
    for kernels in BOTH {
        let Some(engine) = engine(kernels) else { return };
        let mut dice = Dice::new(1);
        for round in 0..40 {
            let (m, n) = (dice.pick(&[1, 2, 3, 7, 8, 16, 33, 70]), dice.pick(&[1, 4, 5, 8, 30, 64, 131]));
            let k = dice.pick(&[1, 3, 4, 31, 64, 97, 256]);
            let batches: [(&[usize], &[usize]); 5] =
                [(&[], &[]), (&[3], &[3]), (&[2, 3], &[]), (&[2, 1], &[1, 3]), (&[], &[2])];
            let (batch_a, batch_b) = dice.pick(&batches);
            let a = dice.tensor(&[batch_a, &[m, k]].concat());
            let b = dice.tensor(&[batch_b, &[k, n]].concat());
            let wanted = reference(&a, &b);
            let (a, b) = match round % 4 {
                0 => (a, b),
                1 | 2 => (a, b.constant()),
                _ => (a.constant(), b),
            };
            let found = Bench::new("MatMul").run(&engine, &[a.clone(), b.clone()]);
            assert_sums(&(kernels, a.shape(), b.shape()), &found[0], &wanted);
        }
    }
}

#[test]
fn a_large_product_is_right_in_every_tile() {
    for kernels in BOTH {
        let Some(engine) = engine(kernels) else { return };
        let mut dice = Dice::new(2);
        for (m, k, n) in [(257, 70, 300), (256, 128, 256), (512, 5, 1000)] {
            let (a, b) = (dice.tensor(&[m, k]), dice.tensor(&[k, n]));
            let wanted = reference(&a, &b);
            for b in [b.clone(), b.constant()] {
                let found = Bench::new("MatMul").run(&engine, &[a.clone(), b]);
                assert_sums(&(kernels, m, k, n), &found[0], &wanted);
            }
        }
    }
}

#[test]
fn vectors_count_as_rows_and_columns() {
    let Some(engine) = engine(BOTH[0]) else { return };
    let run = |a: Operand, b: Operand| Bench::new("MatMul").run(&engine, &[a, b]).remove(0);
    let (two, rows) = (Operand::f32(&[2], &[1.0, 2.0]), Operand::f32(&[2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]));
    let found = run(two.clone(), rows.clone());
    assert_eq!((found.shape(), found.to_f32s()), (&[3_usize][..], vec![9.0, 12.0, 15.0]));
    let found = run(rows, Operand::f32(&[3], &[1.0, 0.0, 1.0]));
    assert_eq!((found.shape(), found.to_f32s()), (&[2_usize][..], vec![4.0, 10.0]));
    let found = run(two.clone(), two);
    assert_eq!((found.shape(), found.to_f32s()), (&[][..], vec![5.0]));
}

#[test]
fn gemm_transposes_scales_and_adds() {
    for kernels in BOTH {
        let Some(engine) = engine(kernels) else { return };
        let mut dice = Dice::new(3);
        for (m, k, n) in [(3, 4, 5), (1, 200, 100), (40, 50, 60), (17, 129, 33)] {
            for (transposed_a, transposed_b) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
                let (a, b) = (dice.tensor(&[m, k]), dice.tensor(&[k, n]));
                let bias_shape = [vec![], vec![n], vec![1, n], vec![m, 1], vec![m, n]][dice.below(5)].clone();
                let bias = dice.tensor(&bias_shape);
                let values = bias.values();
                let wanted: Vec<Sum> = (reference(&a, &b).into_iter().enumerate())
                    .map(|(at, mut sum)| {
                        (sum.value, sum.size) = (sum.value * 0.5, sum.size * 0.5);
                        let bias = match bias_shape[..] {
                            [] => values[0],
                            [_] | [1, _] => values[at % n],
                            [_, 1] => values[at / n],
                            _ => values[at],
                        };
                        sum.add(2.0, bias);
                        sum
                    })
                    .collect();
                let transpose = |operand: &Operand, flag: i64| {
                    let shape = operand.shape();
                    let values = operand.values();
                    if flag == 0 {
                        return operand.clone();
                    }
                    let turned: Vec<f32> = (0..shape[1])
                        .flat_map(|col| (0..shape[0]).map(move |row| (row, col)))
                        .map(|(row, col)| values[row * shape[1] + col] as f32)
                        .collect();
                    Operand::f32(&[shape[1], shape[0]], &turned)
                };
                let b = transpose(&b, transposed_b);
                for b in [b.clone(), b.constant()] {
                    let bench = Bench::new("Gemm")
                        .int("transA", transposed_a)
                        .int("transB", transposed_b)
                        .float("alpha", 0.5)
                        .float("beta", 2.0);
                    let operands = [transpose(&a, transposed_a), b, bias.clone()];
                    let found = bench.run(&engine, &operands);
                    assert_sums(&(kernels, m, k, n, transposed_a, transposed_b, &bias_shape), &found[0], &wanted);
                }
            }
        }
    }
}

#[test]
fn a_fused_product_adds_bias_and_residual_around_its_activation() {
    for kernels in BOTH {
        let Some(engine) = engine(kernels) else { return };
        let mut dice = Dice::new(4);
        for (m, k, n) in [(2, 3, 5), (40, 64, 48)] {
            let (a, b, bias, residual) =
                (dice.tensor(&[m, k]), dice.tensor(&[k, n]), dice.tensor(&[n]), dice.tensor(&[m, n]));
            for last in [0, 1] {
                let wanted: Vec<f64> = (reference(&a, &b).iter().enumerate())
                    .map(|(at, sum)| {
                        let sum = sum.value + bias.values()[at % n];
                        let residual = residual.values()[at];
                        if last == 1 { sum.max(0.0) + residual } else { (sum + residual).max(0.0) }
                    })
                    .collect();
                let bench =
                    Bench::new("MatMul").domain("sanderling").text("activation", "Relu").int("residual_last", last);
                let found =
                    bench.run(&engine, &[a.clone(), b.clone().constant(), bias.clone().constant(), residual.clone()]);
                assert_close(&(kernels, m, k, n, last), &found[0], &wanted, 1e-5);
            }
        }
    }
}

#[test]
fn a_product_that_takes_several_launches_is_whole() {
    for kernels in BOTH {
        let Some(engine) = engine(kernels) else { return };
        let mut dice = Dice::new(13);
        // 315 million multiply-adds: over what one launch may do. Rows of `a` pick rows of `b`, so that the answer is known.
        let (m, k, n) = (1024, 512, 600);
        let mut picks = vec![0.0; m * k];
        for row in 0..m {
            picks[row * k + row % k] = 1.0;
        }
        let b = dice.tensor(&[k, n]);
        let values = b.values();
        let wanted: Vec<f64> = (0..m * n).map(|at| values[at / n % k * n + at % n]).collect();
        let found = Bench::new("MatMul").run(&engine, &[Operand::f32(&[m, k], &picks), b]);
        assert_close(&kernels, &found[0], &wanted, 0.0);
    }
}

#[test]
fn a_stack_of_more_matrices_than_a_launch_has_groups_is_multiplied_too() {
    for kernels in BOTH {
        let Some(engine) = engine(kernels) else { return };
        let mut dice = Dice::new(16);
        // More than 65,535 matrices.
        let (count, m, k, n) = (65_600, 1, 2, 3);
        let (a, b) = (dice.tensor(&[count, m, k]), dice.tensor(&[count, k, n]));
        let wanted = reference(&a, &b);
        assert_sums(&kernels, &Bench::new("MatMul").run(&engine, &[a, b])[0], &wanted);
        // One product of more rows than the tiles of one dimension reach.
        let (m, k, n) = (600_000, 8, 4);
        let (a, b) = (dice.tensor(&[m, k]), dice.tensor(&[k, n]));
        let wanted = reference(&a, &b);
        assert_sums(&kernels, &Bench::new("MatMul").run(&engine, &[a, b.constant()])[0], &wanted);
    }
}

#[test]
fn integers_are_multiplied_and_scaled_exactly() {
    let Some(engine) = engine(BOTH[0]) else { return };
    let whole =
        |shape: &[usize], values: &[i64]| Operand::Input(Literal::from_i64s(ElementType::I32, shape.to_vec(), values));
    let operands = [whole(&[2, 2], &[1, -2, 3, 40_000]), whole(&[2, 1], &[5, 6_000]), whole(&[1], &[7])];
    let bench = Bench::new("Gemm").float("alpha", 2.0).float("beta", 3.0).outputs(&[Some(ElementType::I32)]);
    let found = bench.run(&engine, &operands);
    assert_eq!(found[0].to_i64s(), [2 * (5 - 12_000) + 21, 2 * (15 + 240_000_000) + 21]);
    assert!(bench.float("alpha", 0.5).try_run(&engine, &operands).is_err());
}
