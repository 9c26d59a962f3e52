// The loads and stores with which matmul_tile.wgsl becomes a convolution over two dimensions; START adds the bias.
fn terms() -> u32 { return param.terms; }
fn fetch_a(batch: u32, row: u32, k: u32) -> f32 {
    if (row >= param.group_filters || k >= param.terms) { return 0.0; }
    return load_w((batch % param.groups * param.group_filters + row) * param.terms + k);
}
fn fetch_b(batch: u32, k: u32, col: u32) -> f32 {
    if (col >= param.pixels || k >= param.terms) { return 0.0; }
    let i0 = col / param.output[1] * param.stride[0] + k / param.taps[1] % param.taps[0] * param.dilation[0] - param.before[0];
    let i1 = col % param.output[1] * param.stride[1] + k % param.taps[1] * param.dilation[1] - param.before[1];
    if (i0 >= param.input[0] || i1 >= param.input[1]) { return 0.0; }
    // Images and groups lie one after the other, channels of a group within.
    let channel = batch * param.group_channels + k / param.taps[1] / param.taps[0];
    return load_x((channel * param.input[0] + i0) * param.input[1] + i1);
}
fn put(batch: u32, row: u32, col: u32, sum: f32) {
    if (row >= param.group_filters || col >= param.pixels) { return; }
    let filter_at = batch % param.groups * param.group_filters + row;
    let index = (batch * param.group_filters + row) * param.pixels + col;
    y[index] = epilogue(sum START, index);
}
