//! Conv and its fused form.

use super::bench_node::{BOTH, Bench, Dice, Operand, Sum, assert_close, assert_sums, engine};

/// One convolution over any number of spatial dimensions.
#[derive(Debug, Clone)]
pub(super) struct Case {
    pub(super) x: Vec<usize>,
    pub(super) filters: usize,
    pub(super) groups: usize,
    pub(super) kernel: Vec<usize>,
    pub(super) strides: Vec<usize>,
    pub(super) dilations: Vec<usize>,
    pub(super) pads: Vec<usize>,
    pub(super) biased: bool,
}

impl Case {
    fn random(dice: &mut Dice) -> Self {
        let rank = dice.pick(&[1, 2, 2, 2, 3]);
        let groups = dice.pick(&[1, 1, 1, 2, 4]);
        let (per_group, filters_per_group) = match dice.below(4) {
            0 => (1, 1),
            _ => (dice.pick(&[1, 2, 3, 5]), dice.pick(&[1, 3, 4, 6, 8, 16, 19])),
        };
        let each = |dice: &mut Dice, from: &[usize]| -> Vec<usize> { (0..rank).map(|_| dice.pick(from)).collect() };
        let kernel = each(dice, &[1, 2, 3, 3, 5]);
        let dilations = each(dice, &[1, 1, 1, 2, 3]);
        let pads: Vec<usize> = [each(dice, &[0, 0, 1, 2]), each(dice, &[0, 0, 1, 3])].concat();
        let strides = each(dice, &[1, 1, 2, 3]);
        let extra = each(dice, &[0, 1, 3, 5, 9, 14]);
        let spatial = (0..rank).map(|d| (kernel[d] - 1) * dilations[d] + 1 + extra[d]);
        let x = [dice.pick(&[1, 2]), groups * per_group].into_iter().chain(spatial).collect();
        let biased = dice.below(2) == 0;
        Self { x, filters: groups * filters_per_group, groups, kernel, strides, dilations, pads, biased }
    }

    pub(super) fn weights(&self) -> Vec<usize> {
        [self.filters, self.x[1] / self.groups].into_iter().chain(self.kernel.iter().copied()).collect()
    }

    pub(super) fn output(&self) -> Vec<usize> {
        let rank = self.kernel.len();
        (0..rank)
            .map(|d| {
                let extent = (self.kernel[d] - 1) * self.dilations[d] + 1;
                (self.x[2 + d] + self.pads[d] + self.pads[rank + d] - extent) / self.strides[d] + 1
            })
            .collect()
    }

    pub(super) fn reference(&self, x: &[f64], w: &[f64], bias: &[f64]) -> Vec<Sum> {
        let (spatial, output) = (&self.x[2..], self.output());
        let (channels, per_group) = (self.x[1], self.x[1] / self.groups);
        let places = |sizes: &[usize]| -> Vec<Vec<usize>> {
            let count = sizes.iter().product::<usize>();
            let place = |mut i: usize| {
                let mut place = vec![0; sizes.len()];
                for d in (0..sizes.len()).rev() {
                    place[d] = i % sizes[d];
                    i /= sizes[d];
                }
                place
            };
            (0..count).map(place).collect()
        };
        let taps = places(&self.kernel);
        let mut sums = Vec::new();
        for image in 0..self.x[0] {
            for filter in 0..self.filters {
                for place in places(&output) {
                    let mut sum = Sum::default();
                    if let Some(&bias) = bias.get(filter) {
                        sum.add(1.0, bias);
                    }
                    for c in 0..per_group {
                        let channel = image * channels + filter / (self.filters / self.groups) * per_group + c;
                        for (t, tap) in taps.iter().enumerate() {
                            let mut at = Some(channel);
                            for d in 0..spatial.len() {
                                let i = (place[d] * self.strides[d] + tap[d] * self.dilations[d])
                                    .checked_sub(self.pads[d])
                                    .filter(|&i| i < spatial[d]);
                                at = at.zip(i).map(|(at, i)| at * spatial[d] + i);
                            }
                            if let Some(at) = at {
                                sum.add(x[at], w[(filter * per_group + c) * taps.len() + t]);
                            }
                        }
                    }
                    sums.push(sum);
                }
            }
        }
        sums
    }

    pub(super) fn bench(&self) -> Bench {
        Bench::new("Conv")
            .int("group", self.groups as i64)
            .ints("strides", &self.strides)
            .ints("dilations", &self.dilations)
            .ints("pads", &self.pads)
    }

    fn check(&self, dice: &mut Dice, engine: &engine_wgpu::WgpuEngine, constant: bool, what: &dyn std::fmt::Debug) {
        let (x, w) = (dice.tensor(&self.x), dice.tensor(&self.weights()));
        let bias = if self.biased { dice.tensor(&[self.filters]) } else { Operand::None };
        let wanted = self.reference(&x.values(), &w.values(), &bias.values());
        let (w, bias) = if constant { (w.constant(), bias.constant()) } else { (w, bias) };
        let found = self.bench().run(engine, &[x, w, bias]);
        let shape: Vec<usize> = [self.x[0], self.filters].into_iter().chain(self.output()).collect();
        assert_eq!(found[0].shape(), shape, "{self:?}");
        assert_sums(&(what, constant, self), &found[0], &wanted);
    }
}

#[test]
fn convolutions_of_random_shapes_are_within_their_rounding() {
    for kernels in BOTH {
        let Some(engine) = engine(kernels) else { return };
        let mut dice = Dice::new(5);
        for round in 0..60 {
            let case = Case::random(&mut dice);
            case.check(&mut dice, &engine, round % 3 != 0, &kernels);
        }
    }
}

#[test]
fn the_convolutions_of_known_networks_are_within_their_rounding() {
    /// Input, filters, groups, kernel, stride, pad.
    type Known = (&'static [usize], usize, usize, &'static [usize], usize, usize);
    // Stems, bottlenecks, depthwise blocks, audio.
    let cases: [Known; 10] = [
        (&[1, 3, 64, 64], 32, 1, &[7, 7], 2, 3),
        (&[1, 16, 28, 28], 32, 1, &[3, 3], 1, 1),
        (&[2, 32, 14, 14], 24, 1, &[3, 3], 2, 1),
        (&[1, 64, 7, 7], 40, 1, &[1, 1], 1, 0),
        (&[2, 32, 15, 17], 40, 1, &[1, 1], 2, 0),
        (&[1, 32, 28, 28], 32, 32, &[3, 3], 1, 1),
        (&[1, 32, 28, 28], 32, 32, &[5, 5], 2, 2),
        (&[1, 32, 16, 16], 32, 4, &[3, 3], 1, 1),
        (&[1, 3, 47, 47], 16, 1, &[11, 11], 4, 2),
        (&[1, 20, 200], 40, 1, &[5], 1, 2),
    ];
    for kernels in BOTH {
        let Some(engine) = engine(kernels) else { return };
        let mut dice = Dice::new(6);
        for (x, filters, groups, kernel, stride, pad) in cases {
            let rank = kernel.len();
            let case = Case {
                x: x.to_vec(),
                filters,
                groups,
                kernel: kernel.to_vec(),
                strides: vec![stride; rank],
                dilations: vec![1; rank],
                pads: vec![pad; 2 * rank],
                biased: true,
            };
            case.check(&mut dice, &engine, true, &kernels);
        }
    }
}

#[test]
fn a_fused_convolution_adds_its_residual_around_its_activation() {
    for kernels in BOTH {
        let Some(engine) = engine(kernels) else { return };
        let mut dice = Dice::new(7);
        let shapes: [(usize, usize, usize, usize); 4] = [(8, 16, 1, 3), (16, 32, 1, 1), (16, 16, 16, 3), (2, 2, 1, 1)];
        for (channels, filters, groups, size) in shapes {
            let case = Case {
                x: vec![1, channels, 13, 17],
                filters,
                groups,
                kernel: vec![size; 2],
                strides: vec![1; 2],
                dilations: vec![1; 2],
                pads: vec![size / 2; 4],
                biased: true,
            };
            let (x, w, bias) = (dice.tensor(&case.x), dice.tensor(&case.weights()), dice.tensor(&[filters]));
            let residual = dice.tensor(&[1, filters, 13, 17]);
            let sums = case.reference(&x.values(), &w.values(), &bias.values());
            let operands = [x, w.constant(), bias.constant(), residual.clone()];
            for last in [0, 1] {
                let clip = |value: f64| value.clamp(-0.25, 0.5);
                let wanted: Vec<f64> = sums
                    .iter()
                    .zip(residual.values())
                    .map(
                        |(sum, residual)| {
                            if last == 1 { clip(sum.value) + residual } else { clip(sum.value + residual) }
                        },
                    )
                    .collect();
                let bench = case.bench().domain("sanderling").text("activation", "Clip");
                let bench = bench.float("activation_alpha", -0.25).float("activation_beta", 0.5);
                let found = bench.int("residual_last", last).run(&engine, &operands);
                assert_close(&(kernels, last, &case), &found[0], &wanted, 1e-5);
            }
        }
    }
}

#[test]
fn automatic_padding_keeps_the_size_and_puts_the_odd_row_where_it_says() {
    let Some(engine) = engine(BOTH[0]) else { return };
    let mut dice = Dice::new(8);
    for (auto, pads) in [("SAME_UPPER", [0, 1]), ("SAME_LOWER", [1, 0])] {
        let case = Case {
            x: vec![1, 2, 9],
            filters: 3,
            groups: 1,
            kernel: vec![2],
            strides: vec![1],
            dilations: vec![1],
            pads: pads.to_vec(),
            biased: false,
        };
        let (x, w) = (dice.tensor(&case.x), dice.tensor(&case.weights()));
        let wanted = case.reference(&x.values(), &w.values(), &[]);
        let found = Bench::new("Conv").text("auto_pad", auto).run(&engine, &[x, w]);
        assert_eq!(found[0].shape(), [1, 3, 9]);
        assert_sums(&auto, &found[0], &wanted);
    }
}

#[test]
fn weights_that_do_not_fit_the_input_are_refused_not_run() {
    let Some(engine) = engine(BOTH[0]) else { return };
    let mut dice = Dice::new(9);
    let bad: [(&[usize], &[usize], i64); 6] = [
        (&[1, 3, 8, 8], &[4, 2, 3, 3], 1),
        (&[1, 4, 8, 8], &[3, 2, 3, 3], 2),
        (&[1, 3, 2, 2], &[4, 3, 3, 3], 1),
        (&[1, 3, 8, 8], &[4, 3, 3], 1),
        (&[1, 3, 8, 8], &[4, 3, 3, 3], 0),
        (&[3], &[3], 1),
    ];
    for (x, w, groups) in bad {
        let (x, w) = (dice.tensor(x), dice.tensor(w));
        assert!(Bench::new("Conv").int("group", groups).try_run(&engine, &[x, w]).is_err());
    }
}

#[test]
fn a_convolution_that_takes_several_launches_is_whole() {
    for kernels in BOTH {
        let Some(engine) = engine(kernels) else { return };
        let mut dice = Dice::new(14);
        // 369 million multiply-adds: over what one launch may do. Each filter hands on its own channel.
        let (channels, size) = (64, 100);
        let mut w = vec![0.0; channels * channels * 9];
        for channel in 0..channels {
            w[(channel * channels + channel) * 9 + 4] = 1.0;
        }
        let x = dice.tensor(&[1, channels, size, size]);
        let wanted = x.values();
        let w = Operand::f32(&[channels, channels, 3, 3], &w).constant();
        // Winograd's kernel would round.
        let found = Bench::new("Conv").domain("sanderling").int("winograd", 0).ints("pads", &[1; 4]);
        let found = found.run(&engine, &[x, w]);
        assert_close(&kernels, &found[0], &wanted, 0.0);
    }
}
