//! LSTM and GRU beyond the node suite: lengths, clipping, both directions, on sizes that take the tile kernels.

use engine_wgpu::ir::{ElementType, Literal};

use super::bench_node::{BOTH, Bench, Dice, Operand, assert_close, engine};

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// One direction of an LSTM over `[steps][batch]`; gives all hidden states, the last one and the last cell.
fn lstm(
    x: &[f64],
    w: &[f64],
    r: &[f64],
    bias: &[f64],
    sizes: [usize; 4],
    lengths: &[usize],
    backwards: bool,
) -> [Vec<f64>; 3] {
    let [steps, batch, inputs, hidden] = sizes;
    let mut y = vec![0.0; steps * batch * hidden];
    let (mut last, mut cells) = (vec![0.0; batch * hidden], vec![0.0; batch * hidden]);
    for b in 0..batch {
        for step in 0..lengths[b] {
            let t = if backwards { lengths[b] - 1 - step } else { step };
            let old = last[b * hidden..(b + 1) * hidden].to_vec();
            for unit in 0..hidden {
                let gate = |gate: usize| {
                    let row = gate * hidden + unit;
                    let from_x: f64 = (0..inputs).map(|i| x[(t * batch + b) * inputs + i] * w[row * inputs + i]).sum();
                    let from_h: f64 = (0..hidden).map(|i| old[i] * r[row * hidden + i]).sum();
                    (from_x + from_h + bias[row] + bias[4 * hidden + row]).clamp(-1.5, 1.5)
                };
                let cell = &mut cells[b * hidden + unit];
                *cell = sigmoid(gate(2)) * *cell + sigmoid(gate(0)) * gate(3).tanh();
                let value = sigmoid(gate(1)) * cell.tanh();
                last[b * hidden + unit] = value;
                y[(t * batch + b) * hidden + unit] = value;
            }
        }
    }
    [y, last, cells]
}

#[test]
fn an_lstm_stops_each_sequence_at_its_length_in_both_directions() {
    for kernels in BOTH {
        let Some(engine) = engine(kernels) else { return };
        let mut dice = Dice::new(11);
        let (steps, batch, inputs, hidden) = (9, 4, 40, 24);
        let lengths = [9, 1, 5, 0];
        let x = dice.tensor(&[steps, batch, inputs]);
        let (w, r) = (dice.tensor(&[2, 4 * hidden, inputs]), dice.tensor(&[2, 4 * hidden, hidden]));
        let bias = dice.tensor(&[2, 8 * hidden]);
        let mut wanted = [Vec::new(), Vec::new(), Vec::new()];
        let half = |operand: &Operand, d: usize| {
            let values = operand.values();
            let size = values.len() / 2;
            values[d * size..(d + 1) * size].to_vec()
        };
        let both: Vec<[Vec<f64>; 3]> = (0..2)
            .map(|d| {
                let sizes = [steps, batch, inputs, hidden];
                lstm(&x.values(), &half(&w, d), &half(&r, d), &half(&bias, d), sizes, &lengths, d == 1)
            })
            .collect();
        for t in 0..steps {
            for direction in &both {
                wanted[0].extend_from_slice(&direction[0][t * batch * hidden..(t + 1) * batch * hidden]);
            }
        }
        for direction in &both {
            wanted[1].extend_from_slice(&direction[1]);
            wanted[2].extend_from_slice(&direction[2]);
        }
        let lengths = Literal::from_i64s(ElementType::I32, vec![batch], &lengths.map(|length| length as i64));
        let bench = Bench::new("LSTM")
            .int("hidden_size", hidden as i64)
            .float("clip", 1.5)
            .text("direction", "bidirectional")
            .outputs(&[Some(ElementType::F32); 3]);
        let found = bench.run(&engine, &[x, w.constant(), r.constant(), bias.constant(), Operand::Input(lengths)]);
        for (found, wanted) in found.iter().zip(&wanted) {
            assert_close(&(kernels, found.shape()), found, wanted, 2e-5);
        }
    }
}
