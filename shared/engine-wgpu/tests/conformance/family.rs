//! Families of operators, for counts.

/// Family of a case, by the operators of its model and its name.
pub(crate) fn family(name: &str, operators: &[String]) -> &'static str {
    if name.contains("_expanded") {
        return "function bodies";
    }
    // Constants only feed the operator under test.
    let subject = operators.iter().find(|operator| !matches!(operator.as_str(), "Constant" | "Identity"));
    subject.or(operators.first()).map_or("other", |operator| of_operator(operator))
}

fn of_operator(operator: &str) -> &'static str {
    const FAMILIES: &[(&str, &str)] = &[
        (
            "quantized",
            "QuantizeLinear DequantizeLinear DynamicQuantizeLinear MatMulInteger ConvInteger QLinearMatMul QLinearConv \
             MatMulNBits QLinearAdd QLinearMul QLinearConcat QLinearAveragePool QLinearGlobalAveragePool QLinearSigmoid \
             QLinearLeakyRelu DynamicQuantizeMatMul MatMulIntegerToFloat",
        ),
        ("products", "MatMul Gemm Einsum FusedMatMul Det"),
        ("convolution", "Conv ConvTranspose DeformConv Col2Im CausalConvWithState"),
        ("pooling", "MaxPool AveragePool LpPool GlobalMaxPool GlobalAveragePool GlobalLpPool MaxUnpool MaxRoiPool"),
        (
            "normalization",
            "BatchNormalization LayerNormalization RMSNormalization InstanceNormalization GroupNormalization LRN \
             LpNormalization MeanVarianceNormalization SkipLayerNormalization",
        ),
        (
            "reduction",
            "Softmax LogSoftmax Hardmax ReduceSum ReduceMean ReduceMax ReduceMin ReduceProd ReduceL1 ReduceL2 ReduceLogSum \
             ReduceLogSumExp ReduceSumSquare ArgMax ArgMin CumSum CumProd TopK",
        ),
        ("cast", "Cast CastLike BitCast"),
        (
            "movement",
            "Reshape Flatten Squeeze Unsqueeze Identity Dropout Transpose Concat Split Slice Pad Expand Tile Gather \
             GatherElements GatherND ScatterElements ScatterND Scatter DepthToSpace SpaceToDepth Trilu OneHot \
             ReverseSequence CenterCropPad EyeLike Shape Size Constant ConstantOfShape Range Compress NonZero Unique TensorScatter",
        ),
        ("resampling", "Resize Upsample GridSample RoiAlign NonMaxSuppression AffineGrid ImageDecoder"),
        ("attention", "Attention RotaryEmbedding MultiHeadAttention GroupQueryAttention FlexAttention LinearAttention"),
        ("recurrent", "LSTM GRU RNN"),
        ("signal", "DFT STFT MelWeightMatrix HannWindow HammingWindow BlackmanWindow"),
        ("control", "If Loop Scan"),
        (
            "two operands",
            "Add Sub Mul Div Pow Mod Max Min Mean Sum Where And Or Xor Equal Less LessOrEqual Greater GreaterOrEqual \
             BitwiseAnd BitwiseOr BitwiseXor BitShift PRelu",
        ),
        (
            "one operand",
            "Abs Acos Acosh Asin Asinh Atan Atanh BitwiseNot Ceil Celu Clip Cos Cosh Elu Erf Exp Floor Gelu HardSigmoid \
             HardSwish IsInf IsNaN LeakyRelu Log Mish Neg Not Reciprocal Relu Round Selu Shrink Sigmoid Sign Sin Sinh Softplus \
             Softsign Sqrt Swish Tan Tanh ThresholdedRelu",
        ),
    ];
    let family = FAMILIES.iter().find(|(_family, members)| members.split_whitespace().any(|member| member == operator));
    family.map_or("other", |(family, _members)| family)
}
