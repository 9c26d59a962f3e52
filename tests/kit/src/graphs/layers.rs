//! Layers with weights: products, convolutions, pools, normalisations.

use super::builder::{Builder, Held, Noise, Step};
use super::floats::softmax;
use super::write::{float, int, ints};

/// Steps of this family of operators.
pub(super) const STEPS: &[Step] = &[matmul, gemm, conv, conv, pool, normalise, softmax, activations_product];

fn rounded(x: &Held) -> Held {
    Held { noise: x.noise.max(Noise::Rounded), ..x.clone() }
}

/// Returns the usual bound of a sum of `terms` products with weights up to `scale`.
fn sum_bound(x: &Held, terms: usize, scale: f32) -> f32 {
    let terms = f32::from(u16::try_from(terms).unwrap_or(u16::MAX));
    (x.bound * scale * terms.sqrt()).max(0.5)
}

fn matmul(b: &mut Builder) -> Option<()> {
    let x = b.choose_float(2)?;
    let inner = *x.shape.last()?;
    let columns = b.random.between(1, 16);
    let weight = b.weight(&[inner, columns], 0.5);
    let shape = [&x.shape[..x.rank() - 1], &[columns]].concat();
    let bound = sum_bound(&x, inner, 0.5);
    if b.random.once_in(2) {
        return b.apply("MatMul", &[&x.name, &weight], Vec::new(), &rounded(&x), shape, bound);
    }
    let product = b.node("MatMul", &[&x.name, &weight], Vec::new());
    let bias = b.weight(&[columns], 0.5);
    let inputs = if b.random.once_in(2) { [product.as_str(), &bias] } else { [bias.as_str(), &product] };
    b.apply("Add", &inputs, Vec::new(), &rounded(&x), shape, bound + 0.5)
}

fn gemm(b: &mut Builder) -> Option<()> {
    let x = b.choose_float(2).filter(|x| x.rank() == 2)?;
    let (inner, columns) = (x.shape[1], b.random.between(1, 16));
    let turned = b.random.once_in(2);
    let weight = b.weight(&if turned { [columns, inner] } else { [inner, columns] }, 0.5);
    let bias_shape: &[usize] = if b.random.once_in(3) { &[1, columns] } else { &[columns] };
    let bias = b.weight(bias_shape, 0.5);
    let mut attributes = vec![int("transB", i64::from(turned))];
    if b.random.once_in(3) {
        attributes.extend([float("alpha", 0.5), float("beta", 1.5)]);
    }
    let inputs: &[&str] =
        if b.opset >= 11 && b.random.once_in(4) { &[&x.name, &weight] } else { &[&x.name, &weight, &bias] };
    b.apply("Gemm", inputs, attributes, &rounded(&x), vec![x.shape[0], columns], sum_bound(&x, inner, 0.5) + 1.0)
}

/// Sizes of a window over one axis.
struct Window {
    size: usize,
    stride: usize,
    dilation: usize,
    begin: usize,
    end: usize,
    output: usize,
}

fn window(b: &mut Builder, length: usize, dilates: bool) -> Option<Window> {
    let size = b.random.between(1, 3);
    let stride = b.random.between(1, 2);
    let dilation = if dilates && b.random.once_in(4) { 2 } else { 1 };
    let (begin, end) = (b.random.below(size), b.random.below(size));
    let reach = (size - 1) * dilation + 1;
    let output = (length + begin + end).checked_sub(reach)? / stride + 1;
    Some(Window { size, stride, dilation, begin, end, output })
}

fn signed(values: impl Iterator<Item = usize>) -> Vec<i64> {
    values.map(|value| i64::try_from(value).unwrap_or(i64::MAX)).collect()
}

fn conv(b: &mut Builder) -> Option<()> {
    let x = b.choose_float(3).filter(|x| x.rank() <= 4)?;
    let channels = x.shape[1];
    let group = if channels.is_multiple_of(2) && b.random.once_in(3) { b.random.pick(&[2, channels]) } else { 1 };
    let out = group * b.random.between(1, 4);
    let windows: Vec<Window> = x.shape[2..].iter().map(|&length| window(b, length, true)).collect::<Option<_>>()?;
    let sizes: Vec<usize> = windows.iter().map(|window| window.size).collect();
    let weight_shape = [&[out, channels / group], &sizes[..]].concat();
    let weight = b.weight(&weight_shape, 0.5);
    let bias = b.weight(&[out], 0.5);
    let pads = windows.iter().map(|window| window.begin).chain(windows.iter().map(|window| window.end));
    let mut attributes = vec![
        ints("kernel_shape", &signed(sizes.iter().copied())),
        ints("strides", &signed(windows.iter().map(|window| window.stride))),
        ints("dilations", &signed(windows.iter().map(|window| window.dilation))),
        ints("pads", &signed(pads)),
    ];
    if group > 1 {
        attributes.push(int("group", i64::try_from(group).ok()?));
    }
    let inputs: &[&str] = if b.random.once_in(3) { &[&x.name, &weight] } else { &[&x.name, &weight, &bias] };
    let shape = [&[x.shape[0], out], &windows.iter().map(|window| window.output).collect::<Vec<_>>()[..]].concat();
    let terms = channels / group * sizes.iter().product::<usize>();
    b.apply("Conv", inputs, attributes, &rounded(&x), shape, sum_bound(&x, terms, 0.5) + 0.5)
}

fn pool(b: &mut Builder) -> Option<()> {
    let x = b.choose_float(3).filter(|x| x.rank() <= 4)?;
    if b.random.once_in(4) {
        let op = b.random.pick(&["GlobalAveragePool", "GlobalMaxPool"]);
        let shape = [&x.shape[..2], &vec![1; x.rank() - 2]].concat();
        return b.apply(op, &[&x.name], Vec::new(), &rounded(&x), shape, x.bound);
    }
    let windows: Vec<Window> = x.shape[2..].iter().map(|&length| window(b, length, false)).collect::<Option<_>>()?;
    let maximum = b.random.once_in(2);
    let mut attributes = vec![
        ints("kernel_shape", &signed(windows.iter().map(|window| window.size))),
        ints("strides", &signed(windows.iter().map(|window| window.stride))),
    ];
    let pads = windows.iter().map(|window| window.begin).chain(windows.iter().map(|window| window.end));
    attributes.push(ints("pads", &signed(pads)));
    if !maximum && b.random.once_in(2) {
        attributes.push(int("count_include_pad", 1));
    }
    let shape = [&x.shape[..2], &windows.iter().map(|window| window.output).collect::<Vec<_>>()[..]].concat();
    let (op, like) = if maximum { ("MaxPool", x.clone()) } else { ("AveragePool", rounded(&x)) };
    b.apply(op, &[&x.name], attributes, &like, shape, x.bound)
}

/// Adds a constant of numbers around one, for scales and variances.
fn around_one(b: &mut Builder, shape: &[usize]) -> String {
    let values: Vec<f32> = b.random.floats(shape.iter().product(), 0.5).into_iter().map(|value| value + 1.0).collect();
    b.floats(shape, &values)
}

fn normalise(b: &mut Builder) -> Option<()> {
    let x = b.choose_float(2)?;
    let like = rounded(&x);
    if b.opset >= 17 && b.random.once_in(2) {
        let length = *x.shape.last()?;
        let (scale, bias) = (around_one(b, &[length]), b.weight(&[length], 0.5));
        // With few numbers the variance may vanish, so that only rounding errors remain.
        let attributes = vec![int("axis", -1), float("epsilon", 0.1)];
        return b.apply("LayerNormalization", &[&x.name, &scale, &bias], attributes, &like, x.shape.clone(), 8.0);
    }
    if x.rank() >= 3 && b.random.once_in(3) {
        let (scale, bias) = (around_one(b, &[x.shape[1]]), b.weight(&[x.shape[1]], 0.5));
        let inputs = [x.name.as_str(), &scale, &bias];
        return b.apply("InstanceNormalization", &inputs, vec![float("epsilon", 0.1)], &like, x.shape.clone(), 8.0);
    }
    let channels = x.shape[1];
    let (scale, variance) = (around_one(b, &[channels]), around_one(b, &[channels]));
    let (bias, mean) = (b.weight(&[channels], 0.5), b.weight(&[channels], 0.5));
    let inputs = [x.name.as_str(), &scale, &bias, &mean, &variance];
    b.apply("BatchNormalization", &inputs, Vec::new(), &like, x.shape.clone(), 2.5 * x.bound + 2.0)
}

/// Adds a product of two activations, as in attention.
fn activations_product(b: &mut Builder) -> Option<()> {
    let x = b.choose_float(3)?;
    let (rows, inner) = (x.shape[x.rank() - 2], x.shape[x.rank() - 1]);
    let mut order: Vec<i64> = signed(0..x.rank());
    order.swap(x.rank() - 2, x.rank() - 1);
    let turned = b.node("Transpose", &[&x.name], vec![ints("perm", &order)]);
    let shape = [&x.shape[..x.rank() - 1], &[rows]].concat();
    let terms = f32::from(u16::try_from(inner).ok()?);
    if x.bound * x.bound * terms > 400.0 {
        return None;
    }
    b.apply("MatMul", &[&x.name, &turned], Vec::new(), &rounded(&x), shape, x.bound * x.bound * terms)
}
