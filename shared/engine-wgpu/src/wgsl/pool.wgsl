// One output of a pool over three dimensions. The words in capitals are filled in by ops/pool.rs, which also walks along k2.
// Params: three numbers each: 5 output sizes, 8 input sizes, 11 taps, 14 strides, 17 dilations, 20 padding before, 23 padding
// after. They are read once, outside of the loops: on a software adapter that costs as much as a tap.
fn pooled(plane: u32, o0: u32, o1: u32, o2: u32) -> ELEMENT {
    let n0 = param(8u); let n1 = param(9u); let n2 = param(10u);
    let taps0 = param(11u); let taps1 = param(12u); let taps2 = param(13u);
    let each0 = param(17u); let each1 = param(18u); let each2 = param(19u);
    // Places before the data wrap to huge numbers, so that one comparison finds both sides.
    let first0 = o0 * param(14u) - param(20u);
    let first1 = o1 * param(15u) - param(21u);
    let first2 = o2 * param(16u) - param(22u);
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
