// One output of a pool over three dimensions. The words in capitals are filled in by ops/pool.rs, which also walks along k2.
// Params are read once, outside of the loops: on a software adapter that costs as much as a tap.
fn pooled(plane: u32, o0: u32, o1: u32, o2: u32) -> ELEMENT {
    let n0 = param.input[0]; let n1 = param.input[1]; let n2 = param.input[2];
    let taps0 = param.taps[0]; let taps1 = param.taps[1]; let taps2 = param.taps[2];
    let each0 = param.dilation[0]; let each1 = param.dilation[1]; let each2 = param.dilation[2];
    // Places before the data wrap to huge numbers, so that one comparison finds both sides.
    let first0 = o0 * param.stride[0] - param.before[0];
    let first1 = o1 * param.stride[1] - param.before[1];
    let first2 = o2 * param.stride[2] - param.before[2];
    START
    for (var k0 = 0u; k0 < taps0; k0++) {
        let i0 = first0 + k0 * each0;
        for (var k1 = 0u; k1 < taps1; k1++) {
            let i1 = first1 + k1 * each1;
            let row = ((plane * n0 + i0) * n1 + i1) * n2;
            let inside = i0 < n0 && i1 < n1;
WALK        }
    }
    FINISH
}
