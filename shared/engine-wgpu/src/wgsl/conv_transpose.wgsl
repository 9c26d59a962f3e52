// One output of a transposed convolution over three dimensions: gathers what each input would have scattered here.
// Params: 1 filters, 2 filters per group, 3 channels per group, 4 channels, then three numbers each: 5 output sizes,
// 8 input sizes, 11 taps, 14 strides, 17 dilations, 20 padding before. The words in capitals are filled in by
// ops/conv_transpose.rs: the bias or zero, and what one tap adds.
fn element(i: u32) -> f32 {
    let o2 = i % param(7u) + param(22u);
    let o1 = i / param(7u) % param(6u) + param(21u);
    let o0 = i / param(7u) / param(6u) % param(5u) + param(20u);
    let plane = i / param(7u) / param(6u) / param(5u);
    let filter_at = plane % param(1u);
    let image = plane / param(1u);
    let first_channel = filter_at / param(2u) * param(3u);
    let taps = param(11u) * param(12u) * param(13u);
    let volume = param(8u) * param(9u) * param(10u);
    var sum = START;
    for (var k0 = 0u; k0 < param(11u); k0++) {
        let d0 = o0 - k0 * param(17u);
        if (d0 > o0 || d0 % param(14u) != 0u || d0 / param(14u) >= param(8u)) { continue; }
        for (var k1 = 0u; k1 < param(12u); k1++) {
            let d1 = o1 - k1 * param(18u);
            if (d1 > o1 || d1 % param(15u) != 0u || d1 / param(15u) >= param(9u)) { continue; }
            for (var k2 = 0u; k2 < param(13u); k2++) {
                let d2 = o2 - k2 * param(19u);
                if (d2 > o2 || d2 % param(16u) != 0u || d2 / param(16u) >= param(10u)) { continue; }
                let spatial = (d0 / param(14u) * param(9u) + d1 / param(15u)) * param(10u) + d2 / param(16u);
                let tap = (k0 * param(12u) + k1) * param(13u) + k2;
                TAP
            }
        }
    }
    return epilogue(sum, i);
}
