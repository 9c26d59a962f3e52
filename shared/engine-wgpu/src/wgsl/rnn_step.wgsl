// One unit of a recurrent layer at one step; the words in capitals are filled in by ops/rnn.rs, which also has the params.
fn clipped(x: f32) -> f32 {
    let most = bitcast<f32>(param(7u));
    return clamp(x, -most, most);
}
// The biases of the inputs' and of the recurrent product.
fn bias_of(d: u32, gate: u32, unit: u32) -> vec2<f32> { BIAS }
fn peephole(d: u32, gate: u32, unit: u32) -> f32 { PEEPHOLE }
fn finish(d: u32, b: u32, t: u32, unit: u32, fresh: u32, value: f32) {
    states[fresh + unit] = value;
    store(d, b, t, unit, value);
}
fn store(d: u32, b: u32, t: u32, unit: u32, value: f32) {
    var at = ((t * param(3u) + d) * param(2u) + b) * param(1u) + unit;
    if (param(8u) != 0u) { at = ((b * param(4u) + t) * param(3u) + d) * param(1u) + unit; }
    STORE
}
@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = (group.y * 65535u + group.x) * 64u + lane;
    if (i >= param(0u)) { return; }
    let unit = i % param(1u);
    let b = i / param(1u) % param(2u);
    let d = i / param(1u) / param(2u);
    let state_at = i - unit;
    let old = param(6u) * param(0u) + state_at;
    let fresh = (1u - param(6u)) * param(0u) + state_at;
    let step = param(5u);
    let length = LENGTH;
    // Behind its end a sequence keeps its state and answers zeros.
    if (step >= length) {
        states[fresh + unit] = states[old + unit];
        store(d, b, step, unit, 0.0);
        return;
    }
    let backwards = d == 1u || param(9u) != 0u;
    let t = select(step, length - 1u - step, backwards);
    let row = select(t * param(2u) + b, b * param(4u) + t, param(8u) != 0u);
    let at_x = (d * param(4u) * param(2u) + row) * GATESu * param(1u) + unit;
STARTS    for (var k = 0u; k < param(1u); k++) {
        let h = SOURCE;
SUMS    }
    GATHER
    BODY
}
