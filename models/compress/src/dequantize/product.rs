//! Integer products as products of floats.

use onnx_graph::proto::{NodeProto, TensorProto};
use onnx_graph::{Attributes, Values};

use super::Pass;
use crate::CompressError;
use crate::linear::transpose;

/// `DynamicQuantizeLinear → MatMulInteger/ConvInteger → Cast → Mul` as one product; `None` when it is not in this form.
///
/// The nodes behind it are marked as gone.
pub(super) fn float(node: &NodeProto, pass: &mut Pass<'_>) -> Result<Option<Vec<NodeProto>>, CompressError> {
    let Some(form) = Dynamic::of(node, pass) else { return Ok(None) };
    let (codes, scales) = (form.codes.integers()?, form.scale.floats()?);
    let points = form.points.map(Values::integers).transpose()?.unwrap_or_default();
    let shape = form.codes.shape()?;
    let is_matmul = node.is("MatMulInteger");
    let (channels, inner) = match (is_matmul, shape.as_slice()) {
        (true, [.., columns]) => (*columns, 1),
        (false, [outputs, rest @ ..]) => (*outputs, rest.iter().product()),
        _ => return Ok(None),
    };
    let channel =
        |at: usize, count: usize| if count == 1 { 0 } else { at / usize::max(inner, 1) % usize::max(channels, 1) };
    #[expect(clippy::cast_precision_loss, reason = "codes have 8 bits")]
    let value = |(at, code): (usize, i64)| {
        let point = points.get(channel(at, points.len())).copied().unwrap_or(0);
        code.saturating_sub(point) as f32 * scales.get(channel(at, scales.len())).copied().unwrap_or(1.0)
    };
    let values: Vec<f32> = codes.into_iter().enumerate().map(value).collect();
    let weight = pass.names.fresh(&format!("{}_dequantized", form.codes.name()));
    let operator = if is_matmul { "MatMul" } else { "Conv" };
    let mut product = NodeProto::new(operator, node.name(), &[form.input, &weight], &[form.output]);
    product.attribute.clone_from(&node.attribute);
    pass.folded.insert(weight.clone(), TensorProto::of_floats(&weight, &shape, &values));
    for place in form.behind {
        pass.gone[place] = true;
    }
    Ok(Some(vec![product]))
}

/// The parts of a dynamically quantized product.
struct Dynamic<'g> {
    input: &'g str,
    codes: &'g TensorProto,
    points: Option<&'g TensorProto>,
    scale: &'g TensorProto,
    output: &'g str,
    /// Places of the `Cast` and the `Mul`.
    behind: [usize; 2],
}

impl<'g> Dynamic<'g> {
    fn of(node: &NodeProto, pass: &Pass<'g>) -> Option<Self> {
        let graph = pass.graph;
        let made = |name: &str| pass.uses.producer(name).and_then(|at| graph.nodes.get(at));
        let quantize = made(node.input_at(0)?).filter(|node| node.is("DynamicQuantizeLinear"))?;
        let [_codes, input_scale, _point] = quantize.output.as_slice() else { return None };
        let cast_at = pass.uses.only_consumer(node.output.first()?)?;
        let cast = graph.nodes.get(cast_at).filter(|node| node.is("Cast"))?;
        let mul_at = pass.uses.only_consumer(cast.output.first()?)?;
        let mul = graph.nodes.get(mul_at).filter(|node| node.is("Mul"))?;
        let scales = mul.input.iter().find(|&name| Some(name) != cast.output.first())?;
        let product = made(scales).filter(|node| node.is("Mul") && node.input.contains(input_scale))?;
        let weight_scale = product.input.iter().find(|&name| name != input_scale)?;
        Some(Self {
            input: quantize.input_at(0)?,
            codes: graph.initializer(node.input_at(1)?)?,
            points: match node.input_at(3) {
                None => None,
                Some(name) => Some(graph.initializer(name)?),
            },
            scale: graph.initializer(weight_scale)?,
            output: mul.output.first()?,
            behind: [cast_at, mul_at],
        })
    }
}

/// `MatMulNBits` as `MatMul` (and `Add`); `None` when its parts are not constants of the sizes it names.
pub(super) fn of_nbits(node: &NodeProto, pass: &mut Pass<'_>) -> Result<Option<Vec<NodeProto>>, CompressError> {
    let size =
        |name: &str, default: i64| usize::try_from(node.attr_int(name).unwrap_or(default)).ok().filter(|&n| n > 0);
    let (Some(k), Some(n), Some(bits @ (4 | 8)), Some(block)) =
        (size("K", 0), size("N", 0), size("bits", 4), size("block_size", 0))
    else {
        return Ok(None);
    };
    let (Some(input), [output]) = (node.input_at(0), node.output.as_slice()) else { return Ok(None) };
    let tensor = |at: usize| node.input_at(at).and_then(|name| pass.graph.initializer(name));
    let (Some(codes), Some(scales)) = (tensor(1), tensor(2)) else { return Ok(None) };
    if node.input_at(4).is_some() || (node.input_at(3).is_some() && tensor(3).is_none()) {
        return Ok(None);
    }
    let (bytes, scales) = (codes.integers()?, scales.floats()?);
    let blocks = k.div_ceil(block);
    let row_bytes = blocks.checked_mul(block).map_or(usize::MAX, |codes| codes / (8 / bits));
    if n.checked_mul(row_bytes) != Some(bytes.len()) || n.checked_mul(blocks) != Some(scales.len()) {
        return Ok(None);
    }
    let code = |bytes: &[i64], at: usize| match bits {
        8 => bytes.get(at).copied().unwrap_or(0),
        _ => bytes.get(at / 2).copied().unwrap_or(0) >> (at % 2 * 4) & 15,
    };
    let (whole, float) = match tensor(3) {
        None => (Vec::new(), Vec::new()),
        Some(points) => (points.integers().unwrap_or_default(), points.floats().unwrap_or_default()),
    };
    let point_bytes = blocks.div_ceil(8 / bits);
    let mut values = Vec::with_capacity(n * k);
    for row in 0..n {
        let of_row = &bytes[row * row_bytes..(row + 1) * row_bytes];
        for column in 0..k {
            let at = row * blocks + column / block;
            #[expect(clippy::cast_precision_loss, reason = "codes have 8 bits")]
            let point = match (float.get(at), whole.get(row * point_bytes..(row + 1) * point_bytes)) {
                (Some(&point), _) => point,
                (None, Some(points)) => code(points, column / block) as f32,
                (None, None) => f32::from(1_u8 << (bits - 1)),
            };
            #[expect(clippy::cast_precision_loss, reason = "codes have 8 bits")]
            values.push((code(of_row, column) as f32 - point) * scales[at]);
        }
    }
    let weight = pass.names.fresh(&format!("{}_dequantized", codes.name()));
    pass.folded.insert(weight.clone(), TensorProto::of_floats(&weight, &[k, n], &transpose(&values, n, k)));
    let Some(bias) = node.input_at(5) else {
        return Ok(Some(vec![NodeProto::new("MatMul", node.name(), &[input, &weight], &[output])]));
    };
    let product = pass.names.fresh(&format!("{output}_product"));
    let add = pass.names.fresh(&format!("{}_bias", node.name()));
    Ok(Some(vec![
        NodeProto::new("MatMul", node.name(), &[input, &weight], &[&product]),
        NodeProto::new("Add", &add, &[&product, bias], &[output]),
    ]))
}
