// One output of a pool over three dimensions. START, BODY (x at flat place `at`, spatial places i0 i1 i2) and FINISH are the
// pool's own. Params: three numbers each: 5 output sizes, 8 input sizes, 11 taps, 14 strides, 17 dilations, 20 padding
// before, 23 padding after.
fn element(i: u32) -> ELEMENT {
    let o2 = i % param(7u);
    let o1 = i / param(7u) % param(6u);
    let o0 = i / param(7u) / param(6u) % param(5u);
    let plane = i / param(7u) / param(6u) / param(5u);
    START
    for (var k0 = 0u; k0 < param(11u); k0++) {
        // Places before the data wrap to huge numbers, so that one comparison finds both sides.
        let i0 = o0 * param(14u) + k0 * param(17u) - param(20u);
        for (var k1 = 0u; k1 < param(12u); k1++) {
            let i1 = o1 * param(15u) + k1 * param(18u) - param(21u);
            for (var k2 = 0u; k2 < param(13u); k2++) {
                let i2 = o2 * param(16u) + k2 * param(19u) - param(22u);
                PADDED
                if (i0 < param(8u) && i1 < param(9u) && i2 < param(10u)) {
                    let at = ((plane * param(8u) + i0) * param(9u) + i1) * param(10u) + i2;
                    let x = load_x(at);
                    BODY
                }
            }
        }
    }
    FINISH
}
