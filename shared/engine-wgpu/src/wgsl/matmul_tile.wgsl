// A 64x64 tile of a product per workgroup of 256 threads, 4x4 outputs a thread, 16 steps of K at a time through
// workgroup memory. For real GPUs; software adapters are three times faster with registers alone.
//
// Needs: terms() (of a sum), fetch_a(batch, row, k), fetch_b(batch, k, col) (0 outside), put(batch, row, col, sum).

var<workgroup> tile_a: array<f32, 1088>; // 16 x (64 + 4): the padding keeps banks apart
var<workgroup> tile_b: array<f32, 1088>;

@compute @workgroup_size(16, 16)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) lane: vec3<u32>) {
    let place = group + group_base();
    let batch = place.z;
    let first_row = place.y * 64u;
    let first_col = place.x * 64u;
    let thread = lane.y * 16u + lane.x;
    var sums: array<vec4<f32>, 4>;
    let steps = terms();
    for (var k0 = 0u; k0 < steps; k0 += 16u) {
        for (var part = 0u; part < 4u; part++) {
            let at = part * 256u + thread;
            // K runs fastest over A, columns run fastest over B: neighbours read neighbours.
            tile_a[(at & 15u) * 68u + (at >> 4u)] = fetch_a(batch, first_row + (at >> 4u), k0 + (at & 15u));
            tile_b[(at >> 6u) * 68u + (at & 63u)] = fetch_b(batch, k0 + (at >> 6u), first_col + (at & 63u));
        }
        workgroupBarrier();
        for (var k = 0u; k < 16u; k++) {
            let a = k * 68u + lane.y * 4u;
            let b = k * 68u + lane.x * 4u;
            let columns = vec4<f32>(tile_b[b], tile_b[b + 1u], tile_b[b + 2u], tile_b[b + 3u]);
            sums[0] += tile_a[a] * columns;
            sums[1] += tile_a[a + 1u] * columns;
            sums[2] += tile_a[a + 2u] * columns;
            sums[3] += tile_a[a + 3u] * columns;
        }
        workgroupBarrier();
    }
    for (var row = 0u; row < 4u; row++) {
        for (var col = 0u; col < 4u; col++) {
            put(batch, first_row + lane.y * 4u + row, first_col + lane.x * 4u + col, sums[row][col]);
        }
    }
}
