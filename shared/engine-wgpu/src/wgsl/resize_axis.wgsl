// One element of a tensor resized along one axis: a weighted sum of taps that the host has tabulated.
// The table holds, for each output place and tap, the input place (or 0xffffffff: outside) and the weight's bits.
fn element(i: u32) -> ELEMENT {
    let inner = i % param.inner;
    let place = i / param.inner % param.place_count;
    let base = i / param.inner / param.place_count * param.input;
    let first = place * param.taps * 2u;
    if (load_table(first) == 0xffffffffu) { return ELEMENT(bitcast<f32>(param.outside)); }
    SUM
}
