// Scores to probabilities in place, one thread a row: softcap, mask, softmax over the keys that are not barred.
// A row whose keys are all barred becomes zeros. The words in capitals are filled in by ops/attention/scores.rs, which also has the
// three walks over the keys.
// A window of 0xffffffff is none.
const BARRED: f32 = -3.0e38;
fn is_barred(value: f32) -> bool { return value <= BARRED; }

// The score after softcap and mask, or BARRED.
fn biased(score: f32, batch: u32, head: u32, query: u32, key: u32) -> f32 {
    let before = BEFORE;
    let place = before + i32(query);
    if (param.causal != 0u && i32(key) > place) { return BARRED; }
    if (param.left_window != 0xffffffffu && place - i32(key) > i32(param.left_window)) { return BARRED; }
    if (param.right_window != 0xffffffffu && i32(key) - place > i32(param.right_window)) { return BARRED; }
    var value = score;
    MASK
    return value;
}
fn softcapped(score: f32) -> f32 {
    let cap = bitcast<f32>(param.softcap);
    if (cap > 0.0) { return cap * tanh(clamp(score / cap, -15.0, 15.0)); }
    return score;
}
@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let workgroup = group + group_base();
    let row = (workgroup.y * 65535u + workgroup.x) * THREADSu + lane;
    if (row >= param.rows) { return; }
    let query = row % param.queries;
    let head = row / param.queries % param.heads;
    let batch = row / param.queries / param.heads;
    let first = row * param.keys;
    var largest = FIRST_LARGEST;
WALK_SCORES    var sum = FIRST_SUM;
WALK_SUM    let factor = select(1.0 / sum, 0.0, sum == 0.0);
WALK_SCALE}
