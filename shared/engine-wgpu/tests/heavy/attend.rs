//! Attention on sizes that take the tile kernels: grouped heads, causal, both layouts.

use super::bench_node::{BOTH, Bench, Dice, Operand, assert_close, engine};

#[test]
fn grouped_heads_attend_causally_in_both_layouts() {
    for kernels in BOTH {
        let Some(engine) = engine(kernels) else { return };
        let mut dice = Dice::new(12);
        for (heads, kv_heads, length, size) in [(4, 2, 40, 32), (2, 2, 33, 20), (6, 1, 17, 64)] {
            let (q, k, v) = (
                dice.tensor(&[2, length, heads * size]),
                dice.tensor(&[2, length, kv_heads * size]),
                dice.tensor(&[2, length, kv_heads * size]),
            );
            let mut wanted = vec![0.0; 2 * length * heads * size];
            let (values_q, values_k, values_v) = (q.values(), k.values(), v.values());
            for batch in 0..2 {
                for head in 0..heads {
                    let own = head / (heads / kv_heads);
                    for query in 0..length {
                        let at_q = ((batch * length + query) * heads + head) * size;
                        let at_k = |key: usize| ((batch * length + key) * kv_heads + own) * size;
                        let scores: Vec<f64> = (0..=query)
                            .map(|key| {
                                let dot: f64 = (0..size).map(|i| values_q[at_q + i] * values_k[at_k(key) + i]).sum();
                                dot / (size as f64).sqrt()
                            })
                            .collect();
                        let most = scores.iter().copied().fold(f64::MIN, f64::max);
                        let parts: Vec<f64> = scores.iter().map(|score| (score - most).exp()).collect();
                        let sum: f64 = parts.iter().sum();
                        for i in 0..size {
                            wanted[at_q + i] =
                                parts.iter().enumerate().map(|(key, part)| part / sum * values_v[at_k(key) + i]).sum();
                        }
                    }
                }
            }
            let bench = Bench::new("Attention").int("is_causal", 1);
            let flat = bench.clone().int("q_num_heads", heads as i64).int("kv_num_heads", kv_heads as i64);
            let found = flat.run(&engine, &[q.clone(), k.clone(), v.clone()]);
            assert_close(&(kernels, heads, kv_heads), &found[0], &wanted, 1e-5);
            let turned = |operand: &Operand, heads: usize| {
                let values = operand.values();
                let mut turned = Vec::new();
                for batch in 0..2 {
                    for head in 0..heads {
                        for place in 0..length {
                            let at = ((batch * length + place) * heads + head) * size;
                            turned.extend(values[at..at + size].iter().map(|&value| value as f32));
                        }
                    }
                }
                Operand::f32(&[2, heads, length, size], &turned)
            };
            let found = bench.run(&engine, &[turned(&q, heads), turned(&k, kv_heads), turned(&v, kv_heads)]);
            let flat: Vec<f32> = wanted.iter().map(|&value| value as f32).collect();
            let wanted = turned(&Operand::f32(&[2, length, heads * size], &flat), heads);
            assert_close(&(kernels, heads, kv_heads), &found[0], &wanted.values(), 1e-5);
        }
    }
}
