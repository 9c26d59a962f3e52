// One output of a convolution over three dimensions; The words in capitals are filled in by
// ops/conv.rs: the bias or zero, and the walk along k2.
// Params: 1 filters, 2 filters per group, 3 channels per group, 4 channels, then three numbers each: 5 output sizes,
// 8 input sizes, 11 taps, 14 strides, 17 dilations, 20 padding before.
fn element(i: u32) -> f32 {
    let o2 = i % param(7u);
    let o1 = i / param(7u) % param(6u);
    let o0 = i / param(7u) / param(6u) % param(5u);
    let plane = i / param(7u) / param(6u) / param(5u);
    let filter_at = plane % param(1u);
    let image = plane / param(1u);
    let first_channel = filter_at / param(2u) * param(3u);
    var sum = START;
    var at_w = filter_at * param(3u) * param(11u) * param(12u) * param(13u);
    for (var c = 0u; c < param(3u); c++) {
        let base = (image * param(4u) + first_channel + c) * param(8u);
        for (var k0 = 0u; k0 < param(11u); k0++) {
            // Places before the data wrap to huge numbers, so that one comparison finds both sides.
            let i0 = o0 * param(14u) + k0 * param(17u) - param(20u);
            for (var k1 = 0u; k1 < param(12u); k1++) {
                let i1 = o1 * param(15u) + k1 * param(18u) - param(21u);
WALK                at_w += param(13u);
            }
        }
    }
    return epilogue(sum, i);
}
