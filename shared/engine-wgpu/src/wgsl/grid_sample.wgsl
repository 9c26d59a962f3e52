// One output of GridSample over three dimensions (a plane has one of them of size 1); the words in capitals are filled in
// by ops/sample.rs.
fn size_of(d: u32) -> u32 { return param.input[d]; }
// From -1..1 to input places.
fn place_of(g: f32, d: u32) -> f32 {
    let size = f32(size_of(d));
    if (param.aligned != 0u) { return (g + 1.0) * 0.5 * (size - 1.0); }
    return ((g + 1.0) * size - 1.0) * 0.5;
}
fn reflected(x: f32, d: u32) -> f32 {
    let size = f32(size_of(d));
    var low = -0.5;
    var high = size - 0.5;
    if (param.aligned != 0u) { low = 0.0; high = size - 1.0; }
    let range = high - low;
    if (range <= 0.0) { return 0.0; }
    var away = x - low;
    if (x > high) { away = high - x; }
    if (x >= low && x <= high) { return x; }
    away = abs(away);
    let turns = floor(away / range);
    let rest = away - turns * range;
    let even = turns - 2.0 * floor(turns * 0.5) == 0.0;
    if (x < low) { return select(high - rest, low + rest, even); }
    return select(low + rest, high - rest, even);
}
fn moved_in(x: f32, d: u32) -> f32 { MOVE_IN }
// The input place of a tap, or a huge number outside.
fn tap_of(at: f32, d: u32) -> u32 {
    let size = f32(size_of(d));
    TAP
}
fn fetch(base: u32, z: u32, y: u32, x: u32) -> f32 {
    if (z >= param.input[0] || y >= param.input[1] || x >= param.input[2]) { return 0.0; }
    return load_x(base + (z * param.input[1] + y) * param.input[2] + x);
}
fn cubic(t: f32) -> vec4<f32> {
    let a = -0.75;
    let u = vec4<f32>(t + 1.0, t, 1.0 - t, 2.0 - t);
    let near = ((a + 2.0) * u - vec4<f32>(a + 3.0)) * u * u + vec4<f32>(1.0);
    let far = ((a * u - vec4<f32>(5.0 * a)) * u + vec4<f32>(8.0 * a)) * u - vec4<f32>(4.0 * a);
    return vec4<f32>(far.x, near.y, near.z, far.w);
}
fn element(i: u32) -> f32 {
    let out = i % param.outputs;
    let channel = i / param.outputs % param.channels;
    let image = i / param.outputs / param.channels;
    let base = (image * param.channels + channel) * param.input[0] * param.input[1] * param.input[2];
    let at_grid = (image * param.outputs + out) * RANKu;
    let x = place_of(load_grid(at_grid), 2u);
    let y = place_of(load_grid(at_grid + 1u), 1u);
    let z = DEPTH;
    SAMPLE
}
