// One unit of a recurrent layer at one step; the words in capitals are filled in by ops/rnn.rs, which also has the params.
fn clipped(x: f32) -> f32 {
    let most = bitcast<f32>(param.clip);
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
    var at = ((t * param.directions + d) * param.batch + b) * param.hidden + unit;
    if (param.batch_first != 0u) { at = ((b * param.steps + t) * param.directions + d) * param.hidden + unit; }
    STORE
}
@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = (group.y * 65535u + group.x) * 64u + lane;
    if (i >= param.state) { return; }
    let unit = i % param.hidden;
    let b = i / param.hidden % param.batch;
    let d = i / param.hidden / param.batch;
    let state_at = i - unit;
    let old = param.old_state * param.state + state_at;
    let fresh = (1u - param.old_state) * param.state + state_at;
    let step = param.step;
    let length = LENGTH;
    // Behind its end a sequence keeps its state and answers zeros.
    if (step >= length) {
        states[fresh + unit] = states[old + unit];
        store(d, b, step, unit, 0.0);
        return;
    }
    let backwards = d == 1u || param.reverse != 0u;
    let t = select(step, length - 1u - step, backwards);
    let row = select(t * param.batch + b, b * param.steps + t, param.batch_first != 0u);
    let at_x = (d * param.steps * param.batch + row) * GATESu * param.hidden + unit;
STARTS    for (var k = 0u; k < param.hidden; k++) {
        let h = SOURCE;
SUMS    }
    GATHER
    BODY
}
