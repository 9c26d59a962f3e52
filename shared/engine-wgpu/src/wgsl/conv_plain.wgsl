// One output of a convolution over three dimensions; The words in capitals are filled in by
// ops/conv.rs: the bias or zero, and the walk along k2.
fn element(i: u32) -> f32 {
    let o2 = i % param.output[2];
    let o1 = i / param.output[2] % param.output[1];
    let o0 = i / param.output[2] / param.output[1] % param.output[0];
    let plane = i / param.output[2] / param.output[1] / param.output[0];
    let filter_at = plane % param.filters;
    let image = plane / param.filters;
    let first_channel = filter_at / param.group_filters * param.group_channels;
    var sum = START;
    var at_w = filter_at * param.group_channels * param.taps[0] * param.taps[1] * param.taps[2];
    for (var c = 0u; c < param.group_channels; c++) {
        let base = (image * param.channels + first_channel + c) * param.input[0];
        for (var k0 = 0u; k0 < param.taps[0]; k0++) {
            // Places before the data wrap to huge numbers, so that one comparison finds both sides.
            let i0 = o0 * param.stride[0] + k0 * param.dilation[0] - param.before[0];
            for (var k1 = 0u; k1 < param.taps[1]; k1++) {
                let i1 = o1 * param.stride[1] + k1 * param.dilation[1] - param.before[1];
WALK                at_w += param.taps[2];
            }
        }
    }
    return epilogue(sum, i);
}
