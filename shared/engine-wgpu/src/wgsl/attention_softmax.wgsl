// Scores to probabilities in place, one thread a row: softcap, mask, softmax over the keys that are not barred.
// A row whose keys are all barred becomes zeros. The words in capitals are filled in by ops/attention.rs, which also has the
// three walks over the keys.
// Params: 0 rows, 1 query heads, 2 queries, 3 keys, 4 softcap, 5 6 7 mask strides of batch, head and query, 8 keys the mask
// knows, 9 whether causal, 10 keys before the queries, 11 12 windows to the left and right (0xffffffff: none).
const BARRED: f32 = -3.0e38;
fn is_barred(value: f32) -> bool { return value <= BARRED; }

// The score after softcap and mask, or BARRED.
fn biased(score: f32, batch: u32, head: u32, query: u32, key: u32) -> f32 {
    let before = BEFORE;
    let place = before + i32(query);
    if (param(9u) != 0u && i32(key) > place) { return BARRED; }
    if (param(11u) != 0xffffffffu && place - i32(key) > i32(param(11u))) { return BARRED; }
    if (param(12u) != 0xffffffffu && i32(key) - place > i32(param(12u))) { return BARRED; }
    var value = score;
    MASK
    return value;
}
fn softcapped(score: f32) -> f32 {
    let cap = bitcast<f32>(param(4u));
    if (cap > 0.0) { return cap * tanh(clamp(score / cap, -15.0, 15.0)); }
    return score;
}
@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let workgroup = group + group_base();
    let row = (workgroup.y * 65535u + workgroup.x) * THREADSu + lane;
    if (row >= param(0u)) { return; }
    let query = row % param(2u);
    let head = row / param(2u) % param(1u);
    let batch = row / param(2u) / param(1u);
    let first = row * param(3u);
    var largest = BARRED;
WALK_SCORES    var sum = 0.0;
WALK_SUM    let factor = select(1.0 / sum, 0.0, sum == 0.0);
WALK_SCALE}
