// One output of a transposed convolution over three dimensions: gathers what each input would have scattered here.
// The words in capitals are filled in by
// ops/conv_transpose.rs: the bias or zero, and what one tap adds.
fn element(i: u32) -> f32 {
    let o2 = i % param.output[2] + param.before[2];
    let o1 = i / param.output[2] % param.output[1] + param.before[1];
    let o0 = i / param.output[2] / param.output[1] % param.output[0] + param.before[0];
    let plane = i / param.output[2] / param.output[1] / param.output[0];
    let filter_at = plane % param.filters;
    let image = plane / param.filters;
    let first_channel = filter_at / param.group_filters * param.group_channels;
    let taps = param.taps[0] * param.taps[1] * param.taps[2];
    let volume = param.input[0] * param.input[1] * param.input[2];
    var sum = START;
    for (var k0 = 0u; k0 < param.taps[0]; k0++) {
        let d0 = o0 - k0 * param.dilation[0];
        if (d0 > o0 || d0 % param.stride[0] != 0u || d0 / param.stride[0] >= param.input[0]) { continue; }
        for (var k1 = 0u; k1 < param.taps[1]; k1++) {
            let d1 = o1 - k1 * param.dilation[1];
            if (d1 > o1 || d1 % param.stride[1] != 0u || d1 / param.stride[1] >= param.input[1]) { continue; }
            for (var k2 = 0u; k2 < param.taps[2]; k2++) {
                let d2 = o2 - k2 * param.dilation[2];
                if (d2 > o2 || d2 % param.stride[2] != 0u || d2 / param.stride[2] >= param.input[2]) { continue; }
                let spatial = (d0 / param.stride[0] * param.input[1] + d1 / param.stride[1]) * param.input[2] + d2 / param.stride[2];
                let tap = (k0 * param.taps[1] + k1) * param.taps[2] + k2;
                TAP
            }
        }
    }
    return epilogue(sum, i);
}
