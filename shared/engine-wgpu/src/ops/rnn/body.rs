//! WGSL of what the cells of recurrent layers do with their sums.

use super::Cell;

/// Returns the WGSL of a cell after its sums: `x(g)` is a gate's input share, `r0..` the recurrent products, `bias_of(g)`
/// both biases.
pub(super) fn text(cell: Cell, phase: usize) -> String {
    match (cell, phase) {
        (Cell::Lstm { input_forget }, _) => {
            let forget = if input_forget {
                "let f = 1.0 - i_gate;"
            } else {
                "let f = activation_0(d, clipped(x2 + r2 + bias2.x + bias2.y + peephole(d, 2u, unit) * old_cell));"
            };
            format!(
                "let old_cell = cells[state_at + unit];
    let i_gate = activation_0(d, clipped(x0 + r0 + bias0.x + bias0.y + peephole(d, 0u, unit) * old_cell));
    {forget}
    let c = activation_1(d, clipped(x3 + r3 + bias3.x + bias3.y));
    let new_cell = f * old_cell + i_gate * c;
    let o = activation_0(d, clipped(x1 + r1 + bias1.x + bias1.y + peephole(d, 1u, unit) * new_cell));
    cells[state_at + unit] = new_cell;
    finish(d, b, t, unit, fresh, o * activation_2(d, new_cell));"
            )
        }
        (Cell::Gru { linear_before_reset: true }, _) => "let z = activation_0(d, clipped(x0 + r0 + bias0.x + bias0.y));
    let r = activation_0(d, clipped(x1 + r1 + bias1.x + bias1.y));
    let h = activation_1(d, clipped(x2 + bias2.x + r * (r2 + bias2.y)));
    finish(d, b, t, unit, fresh, (1.0 - z) * h + z * states[old + unit]);"
            .to_owned(),
        (Cell::Gru { linear_before_reset: false }, 0) => {
            "cells[state_at + unit] = activation_0(d, clipped(x0 + r0 + bias0.x + bias0.y));
    let r = activation_0(d, clipped(x1 + r1 + bias1.x + bias1.y));
    cells[param.state + state_at + unit] = r * states[old + unit];"
                .to_owned()
        }
        (Cell::Gru { linear_before_reset: false }, _) => "let z = cells[state_at + unit];
    let h = activation_1(d, clipped(x2 + r2 + bias2.x + bias2.y));
    finish(d, b, t, unit, fresh, (1.0 - z) * h + z * states[old + unit]);"
            .to_owned(),
        (Cell::Rnn, _) => {
            "finish(d, b, t, unit, fresh, activation_0(d, clipped(x0 + r0 + bias0.x + bias0.y)));".to_owned()
        }
    }
}
