// One output of a pool over three dimensions. The words in capitals are filled in by ops/pool.rs, which also walks along k2. Params: three numbers each: 5 output sizes, 8 input sizes, 11 taps, 14 strides, 17 dilations, 20 padding
// before, 23 padding after.
fn pooled(plane: u32, o0: u32, o1: u32, o2: u32) -> ELEMENT {
    START
    for (var k0 = 0u; k0 < param(11u); k0++) {
        // Places before the data wrap to huge numbers, so that one comparison finds both sides.
        let i0 = o0 * param(14u) + k0 * param(17u) - param(20u);
        for (var k1 = 0u; k1 < param(12u); k1++) {
            let i1 = o1 * param(15u) + k1 * param(18u) - param(21u);
WALK        }
    }
    FINISH
}
