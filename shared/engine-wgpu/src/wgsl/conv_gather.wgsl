// The loads and stores with which matmul_tile.wgsl becomes a convolution over two dimensions; START adds the bias.
// Params: 0 filters per group, 1 pixels, 2 terms, 3 groups, 4 channels per group, 5 6 input sizes, 7 8 output sizes,
// 9 10 taps, 11 12 strides, 13 14 dilations, 15 16 padding before.
fn fetch_a(batch: u32, row: u32, k: u32) -> f32 {
    if (row >= param(0u) || k >= param(2u)) { return 0.0; }
    return load_w((batch % param(3u) * param(0u) + row) * param(2u) + k);
}
fn fetch_b(batch: u32, k: u32, col: u32) -> f32 {
    if (col >= param(1u) || k >= param(2u)) { return 0.0; }
    let i0 = col / param(8u) * param(11u) + k / param(10u) % param(9u) * param(13u) - param(15u);
    let i1 = col % param(8u) * param(12u) + k % param(10u) * param(14u) - param(16u);
    if (i0 >= param(5u) || i1 >= param(6u)) { return 0.0; }
    // Images and groups lie one after the other, channels of a group within.
    let channel = batch * param(4u) + k / param(10u) / param(9u);
    return load_x((channel * param(5u) + i0) * param(6u) + i1);
}
fn put(batch: u32, row: u32, col: u32, sum: f32) {
    if (row >= param(0u) || col >= param(1u)) { return; }
    let filter_at = batch % param(3u) * param(0u) + row;
    let index = (batch * param(0u) + row) * param(1u) + col;
    y[index] = epilogue(sum START, index);
}
