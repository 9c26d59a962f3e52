// One output of RoiAlign. `param.samples` is that of a bin and direction; 0: as many as it has pixels.
fn sample(base: u32, at_y: f32, at_x: f32) -> vec4<f32> {
    let rows = param.rows;
    let cols = param.columns;
    if (at_y < -1.0 || at_y > f32(rows) || at_x < -1.0 || at_x > f32(cols)) { return vec4<f32>(); }
    var y = max(at_y, 0.0);
    var x = max(at_x, 0.0);
    var y0 = u32(y);
    var x0 = u32(x);
    var y1 = y0 + 1u;
    var x1 = x0 + 1u;
    if (y0 >= rows - 1u) { y0 = rows - 1u; y1 = y0; y = f32(y0); }
    if (x0 >= cols - 1u) { x0 = cols - 1u; x1 = x0; x = f32(x0); }
    let ly = y - f32(y0);
    let lx = x - f32(x0);
    return vec4<f32>(
        (1.0 - ly) * (1.0 - lx) * load_x(base + y0 * cols + x0),
        (1.0 - ly) * lx * load_x(base + y0 * cols + x1),
        ly * (1.0 - lx) * load_x(base + y1 * cols + x0),
        ly * lx * load_x(base + y1 * cols + x1));
}
fn element(i: u32) -> f32 {
    let col = i % param.out_columns;
    let row = i / param.out_columns % param.out_rows;
    let channel = i / param.out_columns / param.out_rows % param.channels;
    let roi = i / param.out_columns / param.out_rows / param.channels;
    let scale = bitcast<f32>(param.scale);
    let shift = bitcast<f32>(param.shift);
    let x0 = load_rois(roi * 4u) * scale - shift;
    let y0 = load_rois(roi * 4u + 1u) * scale - shift;
    var width = load_rois(roi * 4u + 2u) * scale - shift - x0;
    var height = load_rois(roi * 4u + 3u) * scale - shift - y0;
    if (param.small_allowed == 0u) { width = max(width, 1.0); height = max(height, 1.0); }
    let bin_h = height / f32(param.out_rows);
    let bin_w = width / f32(param.out_columns);
    // A region as wide as the image has as many samples as pixels.
    var grid_h = param.samples;
    var grid_w = param.samples;
    if (grid_h == 0u) {
        if (bin_h > ADAPTIVE_MAX.0 || bin_w > ADAPTIVE_MAX.0) { return bitcast<f32>(param.nan); }
        grid_h = u32(max(ceil(bin_h), 0.0));
        grid_w = u32(max(ceil(bin_w), 0.0));
    }
    // A negative number is a very large one here.
    let image = u32(load_batches(roi));
    OUTSIDE
    let base = (min(image, param.images - 1u) * param.channels + channel) * param.rows * param.columns;
    var sum = 0.0;
    var best = 0.0;
    var seen = false;
    for (var sy = 0u; sy < grid_h; sy++) {
        let y = y0 + f32(row) * bin_h + (f32(sy) + 0.5) * bin_h / f32(grid_h);
        for (var sx = 0u; sx < grid_w; sx++) {
            let x = x0 + f32(col) * bin_w + (f32(sx) + 0.5) * bin_w / f32(grid_w);
            let four = sample(base, y, x);
            sum += four.x + four.y + four.z + four.w;
            let most = max(max(four.x, four.y), max(four.z, four.w));
            best = select(max(best, most), most, !seen);
            seen = true;
        }
    }
    RESULT
}
