//! Conv by Winograd's tiles, asked for by name so that no rule of when it pays stands between.

use super::bench_node::{BOTH, Bench, Dice, Operand, assert_close, assert_sums, engine};
use super::conv::Case;

/// A 3x3 convolution.
fn case(x: &[usize], filters: usize, pads: [usize; 4], biased: bool) -> Case {
    Case {
        x: x.to_vec(),
        filters,
        groups: 1,
        kernel: vec![3; 2],
        strides: vec![1; 2],
        dilations: vec![1; 2],
        pads: pads.to_vec(),
        biased,
    }
}

fn forced(case: &Case) -> Bench {
    case.bench().domain("sanderling").int("winograd", 1)
}

#[test]
fn tiles_that_hang_over_and_uneven_padding_are_within_their_rounding() {
    for kernels in BOTH {
        let Some(engine) = engine(kernels) else { return };
        let mut dice = Dice::new(21);
        for _round in 0..40 {
            let side = |dice: &mut Dice| 3 + dice.below(20);
            let x = [dice.pick(&[1, 1, 2, 3]), dice.pick(&[1, 3, 4, 5, 16, 19]), side(&mut dice), side(&mut dice)];
            let pads = [(); 4].map(|()| dice.pick(&[0, 1, 1, 2]));
            let case = case(&x, dice.pick(&[1, 4, 5, 16, 33, 64]), pads, dice.below(2) == 0);
            let (x, w) = (dice.tensor(&case.x), dice.tensor(&case.weights()).constant());
            let bias = if case.biased { dice.tensor(&[case.filters]).constant() } else { Operand::None };
            let mut wanted = case.reference(&x.values(), &w.values(), &bias.values());
            // What other places of a tile round is not small against the sum of a corner: the largest sum is the measure, and
            // with fewer channels than the rule wants, four times that.
            let largest = wanted.iter().map(|sum| sum.size).fold(0.0, f64::max);
            let few = if case.x[1] < 16 { 4.0 } else { 1.0 };
            wanted.iter_mut().for_each(|sum| (sum.size, sum.terms) = (few * largest, 9 * case.x[1]));
            let found = forced(&case).run(&engine, &[x, w, bias]);
            let shape: Vec<usize> = [case.x[0], case.filters].into_iter().chain(case.output()).collect();
            assert_eq!(found[0].shape(), shape, "{case:?}");
            assert_sums(&(kernels, &case), &found[0], &wanted);
        }
    }
}

#[test]
fn a_residual_is_added_around_the_activation_of_a_tile() {
    for kernels in BOTH {
        let Some(engine) = engine(kernels) else { return };
        let mut dice = Dice::new(22);
        let case = case(&[3, 16, 13, 18], 24, [1; 4], true);
        let (x, w, bias) = (dice.tensor(&case.x), dice.tensor(&case.weights()), dice.tensor(&[24]));
        let residual = dice.tensor(&[3, 24, 13, 18]);
        let sums = case.reference(&x.values(), &w.values(), &bias.values());
        let operands = [x, w.constant(), bias.constant(), residual.clone()];
        for last in [0, 1] {
            let relu = |value: f64| value.max(0.0);
            let pairs = sums.iter().zip(residual.values());
            let wanted: Vec<f64> = pairs
                .map(|(sum, residual)| if last == 1 { relu(sum.value) + residual } else { relu(sum.value + residual) })
                .collect();
            let found = forced(&case).text("activation", "Relu").int("residual_last", last).run(&engine, &operands);
            assert_close(&(kernels, last), &found[0], &wanted, 3e-5);
        }
    }
}

#[test]
fn more_tiles_than_the_memory_between_takes_are_computed_in_rounds() {
    for kernels in BOTH {
        let Some(engine) = engine(kernels) else { return };
        let mut dice = Dice::new(23);
        // 2 x 990 tiles of 36 x 128 words are more than 8 Mi. Each filter hands on its own channel.
        let channels = 64;
        let mut w = vec![0.0; channels * channels * 9];
        for channel in 0..channels {
            w[(channel * channels + channel) * 9 + 4] = 1.0;
        }
        let case = case(&[2, channels, 120, 132], channels, [1; 4], false);
        let x = dice.tensor(&case.x);
        let wanted = x.values();
        let w = Operand::f32(&case.weights(), &w).constant();
        let found = forced(&case).run(&engine, &[x, w]);
        assert_close(&kernels, &found[0], &wanted, 1e-5);
    }
}

/// The claim of `ops/conv/winograd.rs`.
#[test]
fn the_largest_error_is_a_few_millionths_of_the_largest_output() {
    let Some(engine) = engine(BOTH[0]) else { return };
    let mut dice = Dice::new(24);
    let case = case(&[1, 128, 20, 20], 32, [1; 4], false);
    let (x, w) = (dice.tensor(&case.x), dice.tensor(&case.weights()).constant());
    let wanted = case.reference(&x.values(), &w.values(), &[]);
    let largest = wanted.iter().map(|sum| sum.value.abs()).fold(0.0, f64::max);
    for (winograd, allowed) in [(0, 2e-6), (1, 8e-6)] {
        let found = case.bench().domain("sanderling").int("winograd", winograd).run(&engine, &[x.clone(), w.clone()]);
        let errors = found[0].to_f64s().into_iter().zip(&wanted).map(|(value, sum)| (value - sum.value).abs());
        let error = errors.fold(0.0, f64::max) / largest;
        assert!(error < allowed, "winograd = {winograd}: {error:e}");
    }
}

#[test]
fn weights_that_come_with_the_request_take_another_kernel() {
    let Some(engine) = engine(BOTH[0]) else { return };
    let mut dice = Dice::new(25);
    let case = case(&[1, 32, 24, 24], 32, [1; 4], false);
    let (x, w) = (dice.tensor(&case.x), dice.tensor(&case.weights()));
    let wanted = case.reference(&x.values(), &w.values(), &[]);
    let found = forced(&case).run(&engine, &[x, w]);
    assert_sums(&case, &found[0], &wanted);
}

/// Both ways round differently, so the bits tell which one was taken.
#[test]
fn tiles_are_chosen_where_there_are_channels_and_tiles_enough() {
    let Some(engine) = engine(BOTH[0]) else { return };
    for (channels, side, chosen) in [(16, 16, 1), (15, 16, 0), (16, 12, 0)] {
        let mut dice = Dice::new(26);
        let case = case(&[1, channels, side, side], 16, [1; 4], false);
        let operands = [dice.tensor(&case.x), dice.tensor(&case.weights()).constant()];
        let by = |winograd| case.bench().domain("sanderling").int("winograd", winograd).run(&engine, &operands);
        let found = case.bench().run(&engine, &operands);
        assert_eq!(found[0].to_f64s(), by(chosen)[0].to_f64s(), "{channels} channels of {side}x{side}");
        assert_ne!(found[0].to_f64s(), by(1 - chosen)[0].to_f64s(), "{channels} channels of {side}x{side}");
    }
}
