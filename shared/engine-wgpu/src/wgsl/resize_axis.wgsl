// One element of a tensor resized along one axis: a weighted sum of taps that the host has tabulated.
// Params: 1 output size of the axis, 2 input size, 3 elements behind the axis, 4 taps, 5 value outside the region.
// The table holds, for each output place and tap, the input place (or 0xffffffff: outside) and the weight's bits.
fn element(i: u32) -> ELEMENT {
    let inner = i % param(3u);
    let place = i / param(3u) % param(1u);
    let base = i / param(3u) / param(1u) * param(2u);
    let first = place * param(4u) * 2u;
    if (load_table(first) == 0xffffffffu) { return ELEMENT(bitcast<f32>(param(5u))); }
    SUM
}
