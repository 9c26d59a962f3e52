"""Writes quantized cases into the cache, answered by ONNX Runtime on the CPU: random shapes, strides, pads, groups, zero
points and element types, because the ONNX suite has next to none of these.

Run by `cargo xtask test` in the environment of tools/requirements.txt; a second run does nothing. Weights stay within ±64
where the activations are uint8: ONNX Runtime's AVX2 kernels saturate pairs of products beyond that.
"""

import sys

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from case_file import Suite

ONNXRUNTIME = "1.32.0"
REVISION = 4
MICROSOFT = "com.microsoft"
ROUNDS = 16
"""How often each kind is drawn."""

INTEGERS = {"u8": np.uint8, "i8": np.int8}


class Draw:
    """One case in the making."""

    def __init__(self, seed: int):
        self.rng = np.random.default_rng(seed)
        self.nodes, self.inputs, self.initializers, self.feeds, self.outputs = [], [], [], {}, []
        self.opset = 21

    def pick(self, *choices):
        return choices[self.rng.integers(len(choices))]

    def size(self, low: int, high: int) -> int:
        return int(self.rng.integers(low, high + 1))

    def integers(self, dtype, shape, limit: int | None = None):
        info = np.iinfo(dtype)
        low, high = (info.min, info.max) if limit is None else (max(info.min, -limit), min(info.max, limit))
        return self.rng.integers(low, high + 1, shape).astype(dtype)

    def floats(self, *shape):
        return self.rng.normal(size=shape).astype(np.float32)

    def scale(self, *shape):
        return (0.002 + 0.05 * self.rng.random(shape)).astype(np.float32)

    def zero(self, dtype, *shape):
        return self.integers(dtype, shape, 100) if self.rng.random() < 0.8 else np.zeros(shape, dtype)

    def given(self, name, array):
        self.inputs.append(helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape))
        self.feeds[name] = array
        return name

    def known(self, name, array):
        self.initializers.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def int4(self, name, shape, signed):
        kind = ml_dtypes.int4 if signed else ml_dtypes.uint4
        low, high = (-8, 8) if signed else (0, 16)
        return self.known(name, self.rng.integers(low, high, shape).astype(kind))

    def node(self, op, inputs, outputs=("y",), domain="", **attributes):
        self.nodes.append(helper.make_node(op, list(inputs), list(outputs), domain=domain, **attributes))

    def out(self, dtype, rank, name="y"):
        kind = TensorProto.FLOAT if dtype is np.float32 else helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        self.outputs.append(helper.make_tensor_value_info(name, kind, [None] * rank))

    def model(self):
        graph = helper.make_graph(self.nodes, "case", self.inputs, self.outputs, self.initializers)
        imports = [helper.make_opsetid("", self.opset), helper.make_opsetid(MICROSOFT, 1)]
        return helper.make_model(graph, opset_imports=imports, ir_version=10)


def window(draw, rank):
    """Attributes of a convolution or pool over `rank` dimensions, and a shape that it fits on."""
    kernel = [draw.size(1, 3) for _ in range(rank)]
    strides = [draw.size(1, 2) for _ in range(rank)]
    dilations = [draw.size(1, 2) for _ in range(rank)]
    pads = [draw.size(0, k // 2) for k in kernel] * 2
    if draw.rng.random() < 0.4:
        pads = [draw.size(0, k // 2) for k in kernel + kernel]
    space = [draw.size(6, 13) for _ in range(rank)]
    return space, dict(kernel_shape=kernel, strides=strides, dilations=dilations, pads=pads)


def quantize_linear(draw):
    dtype = draw.pick(np.uint8, np.int8, np.int8, np.uint16, np.int16)
    shape = [draw.size(1, 4) for _ in range(draw.size(1, 3))] + [draw.size(1, 9)]
    axis = draw.size(0, len(shape) - 1)
    per = () if draw.rng.random() < 0.5 else (shape[axis],)
    x = draw.given("x", draw.floats(*shape) * 3)
    draw.node("QuantizeLinear", [x, draw.known("s", draw.scale(*per)), draw.known("z", draw.zero(dtype, *per))], axis=axis)
    draw.out(dtype, len(shape))
    return "exact"


def dequantize_linear(draw):
    dtype = draw.pick(np.uint8, np.int8, np.int32, np.uint16, np.int16)
    shape = [draw.size(1, 4) for _ in range(draw.size(1, 3))] + [draw.size(1, 9)]
    axis = draw.size(0, len(shape) - 1)
    per = () if draw.rng.random() < 0.5 else (shape[axis],)
    inputs = [draw.given("x", draw.integers(dtype, shape, 30000)), draw.known("s", draw.scale(*per))]
    if dtype is not np.int32:
        inputs.append(draw.known("z", draw.zero(dtype, *per)))
    draw.node("DequantizeLinear", inputs, axis=axis)
    draw.out(np.float32, len(shape))
    return "close"


def dequantize_blocked(draw):
    block, blocks, other = draw.pick(2, 4, 16), draw.size(1, 4), draw.size(1, 6)
    axis = draw.size(0, 1)
    shape = (block * blocks, other) if axis == 0 else (other, block * blocks)
    scales = (blocks, other) if axis == 0 else (other, blocks)
    signed = draw.rng.random() < 0.5
    if draw.rng.random() < 0.6:
        x, z = draw.int4("x", shape, signed), draw.int4("z", scales, signed)
    else:
        dtype = np.int8 if signed else np.uint8
        x, z = draw.given("x", draw.integers(dtype, shape)), draw.known("z", draw.zero(dtype, *scales))
    draw.node("DequantizeLinear", [x, draw.known("s", draw.scale(*scales)), z], ["w"], axis=axis, block_size=block)
    draw.node("MatMul", [draw.given("a", draw.floats(3, shape[0])), "w"])
    draw.out(np.float32, 2)
    return "close"


def dynamic_quantize_linear(draw):
    shape = [draw.size(1, 9) for _ in range(draw.size(1, 3))]
    x = draw.floats(*shape) * 10 ** draw.rng.uniform(-2, 2) + draw.pick(0, 3, -3)
    draw.node("DynamicQuantizeLinear", [draw.given("x", x.astype(np.float32))], ["y", "s", "z"])
    draw.out(np.uint8, len(shape))
    draw.out(np.float32, 0, "s")
    draw.out(np.uint8, 0, "z")
    return "exact"


def matmul_shapes(draw):
    m, k, n = draw.size(1, 17), draw.size(1, 70), draw.size(1, 19)
    batch = draw.pick((), (), (draw.size(1, 3),), (2, draw.size(1, 3)))
    return (*batch, m, k), draw.pick((k, n), (*batch, k, n)), n


def weights(draw, a, b, shape):
    return draw.integers(b, shape, 64 if b is np.int8 and a is np.uint8 else None)


def matmul_integer(draw):
    a, b = draw.pick(np.uint8, np.int8), draw.pick(np.uint8, np.int8)
    left, right, n = matmul_shapes(draw)
    inputs = [draw.given("a", draw.integers(a, left))]
    inputs.append(draw.pick(draw.given, draw.known)("b", weights(draw, a, b, right)))
    if draw.rng.random() < 0.7:
        inputs.append(draw.known("az", draw.zero(a)))
        if draw.rng.random() < 0.7:
            per = (n,) if len(right) == 2 and draw.rng.random() < 0.5 else ()
            inputs.append(draw.known("bz", draw.integers(b, per, 30)))
    draw.node("MatMulInteger", inputs)
    draw.out(np.int32, max(len(left), len(right)))
    return "exact"


def conv_parts(draw, a, b):
    rank = draw.pick(1, 2, 2, 2)
    space, attributes = window(draw, rank)
    group = draw.pick(1, 1, 2, 3)
    inner = draw.size(1, 5) if draw.rng.random() < 0.6 else 1
    outer = group * draw.size(1, 5)
    x = draw.integers(a, (draw.size(1, 2), group * inner, *space))
    w = weights(draw, a, b, (outer, inner, *attributes["kernel_shape"]))
    return x, w, dict(attributes, group=group)


def conv_integer(draw):
    a, b = np.uint8, draw.pick(np.uint8, np.int8)
    x, w, attributes = conv_parts(draw, a, b)
    inputs = [draw.given("x", x), draw.known("w", w)]
    if draw.rng.random() < 0.8:
        inputs.append(draw.known("xz", draw.zero(a)))
        if draw.rng.random() < 0.5:
            inputs.append(draw.known("wz", draw.integers(b, (), 30)))
    draw.node("ConvInteger", inputs, **attributes)
    draw.out(np.int32, x.ndim)
    return "exact"


def qlinear_conv(draw):
    a, b = draw.pick((np.uint8, np.uint8), (np.uint8, np.int8), (np.uint8, np.int8), (np.int8, np.int8))
    x, w, attributes = conv_parts(draw, a, b)
    per = (w.shape[0],) if b is np.int8 and draw.rng.random() < 0.6 else ()
    wz = np.zeros(per, b) if per or draw.rng.random() < 0.5 else draw.integers(b, (), 30)
    terms = float(np.sqrt(w[0].size))
    inputs = [draw.given("x", x), draw.known("xs", draw.scale()), draw.known("xz", draw.zero(a)), draw.known("w", w)]
    inputs += [draw.known("ws", draw.scale(*per)), draw.known("wz", wz)]
    inputs += [draw.known("ys", draw.scale() * np.float32(1 + terms)), draw.known("yz", draw.zero(a))]
    if draw.rng.random() < 0.6:
        inputs.append(draw.known("bias", draw.integers(np.int32, (w.shape[0],), 5000)))
    draw.node("QLinearConv", inputs, **attributes)
    draw.out(a, x.ndim)
    return "lsb"


def qlinear_matmul(draw):
    a = draw.pick(np.uint8, np.int8)
    b = draw.pick(np.uint8, np.int8) if a is np.uint8 else np.int8
    left, right, n = matmul_shapes(draw)
    per = (n,) if len(right) == 2 and draw.rng.random() < 0.3 else ()
    inputs = [draw.given("a", draw.integers(a, left)), draw.known("as", draw.scale()), draw.known("az", draw.zero(a))]
    inputs += [draw.known("b", weights(draw, a, b, right)), draw.known("bs", draw.scale(*per))]
    inputs += [draw.known("bz", draw.integers(b, per, 30))]
    inputs += [draw.known("ys", draw.scale() * np.float32(1 + np.sqrt(left[-1]))), draw.known("yz", draw.zero(a))]
    draw.node("QLinearMatMul", inputs)
    draw.out(a, max(len(left), len(right)))
    return "lsb"


def qlinear_two(op):
    def make(draw):
        dtype = draw.pick(np.uint8, np.int8)
        shape = [draw.size(1, 5) for _ in range(draw.size(1, 4))]
        other = [size if draw.rng.random() < 0.7 else 1 for size in shape][draw.size(0, len(shape) - 1) :]
        inputs = []
        for name, dims in (("a", shape), ("b", other)):
            hand = draw.given if name == "a" or draw.rng.random() < 0.6 else draw.known
            inputs += [hand(name, draw.integers(dtype, dims)), draw.known(name + "s", draw.scale())]
            inputs.append(draw.known(name + "z", draw.zero(dtype)))
        inputs += [draw.known("ys", draw.scale() * 2), draw.known("yz", draw.zero(dtype))]
        draw.node(op, inputs, domain=MICROSOFT)
        draw.out(dtype, len(shape))
        return "lsb"

    return make


def qlinear_one(op):
    def make(draw):
        dtype = draw.pick(np.uint8, np.int8)
        shape = [draw.size(1, 9) for _ in range(draw.size(1, 4))]
        inputs = [draw.given("x", draw.integers(dtype, shape)), draw.known("xs", draw.scale()), draw.known("xz", draw.zero(dtype))]
        inputs += [draw.known("ys", draw.scale()), draw.known("yz", draw.zero(dtype))]
        attributes = {"alpha": 0.1} if op == "QLinearLeakyRelu" else {}
        draw.node(op, inputs, domain=MICROSOFT, **attributes)
        draw.out(dtype, len(shape))
        return "lsb"

    return make


def qlinear_concat(draw):
    dtype = draw.pick(np.uint8, np.int8)
    shape = [draw.size(1, 5) for _ in range(draw.size(2, 4))]
    axis = draw.size(0, len(shape) - 1)
    inputs = [draw.known("ys", draw.scale()), draw.known("yz", draw.zero(dtype))]
    for part in range(draw.size(1, 4)):
        dims = shape[:axis] + [draw.size(1, 5)] + shape[axis + 1 :]
        inputs += [draw.given(f"x{part}", draw.integers(dtype, dims)), draw.known(f"s{part}", draw.scale())]
        inputs.append(draw.known(f"z{part}", draw.zero(dtype)))
    draw.node("QLinearConcat", inputs, domain=MICROSOFT, axis=axis)
    draw.out(dtype, len(shape))
    return "lsb"


def qlinear_average_pool(draw, last=False):
    dtype = draw.pick(np.uint8, np.int8)
    space, attributes = window(draw, 2)
    del attributes["dilations"]
    shape = (draw.size(1, 2), *space, draw.size(1, 5)) if last else (draw.size(1, 2), draw.size(1, 5), *space)
    inputs = [draw.given("x", draw.integers(dtype, shape)), draw.known("xs", draw.scale()), draw.known("xz", draw.zero(dtype))]
    inputs += [draw.known("ys", draw.scale()), draw.known("yz", draw.zero(dtype))]
    include = draw.pick(0, 1)
    # With both, ONNX Runtime divides by whole windows that reach beyond the padding, unlike its own and ONNX's AveragePool.
    attributes |= dict(channels_last=int(last), count_include_pad=include, ceil_mode=0 if include else draw.pick(0, 1))
    draw.node("QLinearAveragePool", inputs, domain=MICROSOFT, **attributes)
    draw.out(dtype, 4)
    return "lsb"


def qlinear_global_average_pool(draw, last=False):
    dtype = draw.pick(np.uint8, np.int8)
    shape = [draw.size(1, 3)] + [draw.size(1, 9) for _ in range(3)]
    inputs = [draw.given("x", draw.integers(dtype, shape)), draw.known("xs", draw.scale()), draw.known("xz", draw.zero(dtype))]
    inputs += [draw.known("ys", draw.scale()), draw.known("yz", draw.zero(dtype))]
    draw.node("QLinearGlobalAveragePool", inputs, domain=MICROSOFT, channels_last=int(last))
    draw.out(dtype, 4)
    return "lsb"


def dynamic_quantize_matmul(draw):
    b = draw.pick(np.uint8, np.int8)
    left, right, n = matmul_shapes(draw)
    right = right[-2:]
    per = (n,) if draw.rng.random() < 0.4 else ()
    inputs = [draw.given("a", draw.floats(*left)), draw.known("b", weights(draw, np.uint8, b, right)), draw.known("bs", draw.scale(*per))]
    inputs.append(draw.known("bz", draw.integers(b, per, 30)) if draw.rng.random() < 0.7 else "")
    if draw.rng.random() < 0.5:
        inputs.append(draw.known("bias", draw.floats(n)))
    draw.node("DynamicQuantizeMatMul", inputs, domain=MICROSOFT)
    draw.out(np.float32, len(left))
    return "sums"


def dynamic_chain(draw):
    """What `quantize_dynamic` writes for a linear layer."""
    b = draw.pick(np.uint8, np.int8)
    m, k, n = draw.size(1, 17), draw.size(1, 70), draw.size(1, 19)
    draw.node("DynamicQuantizeLinear", [draw.given("x", draw.floats(2, m, k))], ["q", "s", "z"])
    weight = draw.known("w", weights(draw, np.uint8, b, (k, n)))
    draw.node("MatMulInteger", ["q", weight, "z", draw.known("wz", draw.integers(b, (), 30))], ["i"])
    draw.node("Cast", ["i"], ["f"], to=TensorProto.FLOAT)
    draw.node("Mul", ["s", draw.known("ws", draw.scale())], ["scale"])
    draw.node("Mul", ["f", "scale"], ["scaled"])
    draw.node("Add", [draw.known("bias", draw.floats(n)), "scaled"])
    draw.out(np.float32, 3)
    return "sums"


def matmul_nbits(draw):
    bits, block = draw.pick(4, 4, 8), draw.pick(16, 32, 64)
    k, n = draw.pick(block, block * 2, block * 3, draw.size(17, 100)), draw.size(1, 20)
    blocks = -(-k // block)
    left = draw.pick((draw.size(1, 5), k), (2, draw.size(1, 5), k))
    inputs = [draw.given("a", draw.floats(*left)), draw.known("b", draw.integers(np.uint8, (n, blocks, block * bits // 8)))]
    inputs.append(draw.known("s", draw.scale(n * blocks)))
    if draw.rng.random() < 0.5:
        inputs.append(draw.known("z", draw.integers(np.uint8, (n * -(-blocks * bits // 8),))))
    draw.node("MatMulNBits", inputs, domain=MICROSOFT, K=k, N=n, bits=bits, block_size=block)
    draw.out(np.float32, len(left))
    return "sums"


def fused_matmul(draw):
    m, k, n = draw.size(1, 17), draw.size(1, 70), draw.size(1, 19)
    ta, tb = draw.pick(0, 1), draw.pick(0, 1)
    batch = draw.pick((), (2,), (2, 3))
    a = draw.given("a", draw.floats(*batch, *((k, m) if ta else (m, k))))
    b = draw.pick(draw.given, draw.known)("b", draw.floats(*batch, *((n, k) if tb else (k, n))))
    draw.node("FusedMatMul", [a, b], domain=MICROSOFT, transA=ta, transB=tb, alpha=float(draw.pick(1, 0.125, -2)))
    draw.out(np.float32, len(batch) + 2)
    return "sums"


def skip_layer_normalization(draw):
    b, s, h = draw.size(1, 3), draw.size(1, 7), draw.size(2, 65)
    inputs = [draw.given("x", draw.floats(b, s, h)), draw.given("skip", draw.floats(b, s, h)), draw.known("gamma", draw.floats(h))]
    inputs.append(draw.known("beta", draw.floats(h)))
    if draw.rng.random() < 0.5:
        inputs.append(draw.known("bias", draw.floats(h)))
    draw.node("SkipLayerNormalization", inputs, domain=MICROSOFT, epsilon=1e-5)
    draw.out(np.float32, 3)
    return "close"


def gelu(op):
    def make(draw):
        b, s, h = draw.size(1, 3), draw.size(1, 7), draw.size(2, 65)
        inputs = [draw.given("x", draw.floats(b, s, h) * 3)]
        if op == "BiasGelu" or (op == "FastGelu" and draw.rng.random() < 0.5):
            inputs.append(draw.known("bias", draw.floats(h)))
        attributes = {"alpha": 1.702} if op == "QuickGelu" else {}
        draw.node(op, inputs, domain=MICROSOFT, **attributes)
        draw.out(np.float32, 3)
        return "close"

    return make


def qdq_in(draw, name, x, dtype, scale):
    """Quantizes a float input and gives the name of what dequantizing it makes."""
    pair = [draw.known(name + "s", np.float32(scale)), draw.known(name + "z", draw.zero(dtype))]
    draw.node("QuantizeLinear", [draw.given(name, x), *pair], [name + "q"])
    draw.node("DequantizeLinear", [name + "q", *pair], [name + "d"])
    return name + "d"


def qdq_out(draw, name, dtype, scale):
    pair = [draw.known("ys", np.float32(scale)), draw.known("yz", draw.zero(dtype))]
    draw.node("QuantizeLinear", [name, *pair], ["y"])


def qdq_conv(draw):
    a = draw.pick(np.uint8, np.int8)
    x, w, attributes = conv_parts(draw, a, np.int8)
    per = (w.shape[0],) if draw.rng.random() < 0.6 else ()
    scales = draw.scale(*per)
    data = qdq_in(draw, "x", draw.floats(*x.shape), a, 0.02)
    weight = [draw.known("w", w), draw.known("ws", scales), draw.known("wz", np.zeros(per, np.int8))]
    draw.node("DequantizeLinear", weight, ["wd"], **({"axis": 0} if per else {}))
    inputs = [data, "wd"]
    if draw.rng.random() < 0.7:
        bias_scale = np.broadcast_to(scales * np.float32(0.02), (w.shape[0],)).astype(np.float32)
        draw.node("DequantizeLinear", [draw.known("b", draw.integers(np.int32, (w.shape[0],), 3000)), draw.known("bs", bias_scale)], ["bd"], axis=0)
        inputs.append("bd")
    draw.node("Conv", inputs, ["c"], **attributes)
    last = "c"
    if draw.rng.random() < 0.5:
        draw.node("Relu", ["c"], ["r"])
        last = "r"
    qdq_out(draw, last, a, 0.03 * (1 + float(np.sqrt(w[0].size))))
    draw.out(a, x.ndim)
    return "lsb"


def qdq_matmul(draw):
    a = draw.pick(np.uint8, np.int8)
    left, right, n = matmul_shapes(draw)
    right = right[-2:]
    per = (n,) if draw.rng.random() < 0.5 else ()
    data = qdq_in(draw, "x", draw.floats(*left), a, 0.02)
    draw.node("DequantizeLinear", [draw.known("w", draw.integers(np.int8, right, 64)), draw.known("ws", draw.scale(*per)), draw.known("wz", np.zeros(per, np.int8))], ["wd"], **({"axis": 1} if per else {}))
    draw.node("MatMul", [data, "wd"], ["m"])
    qdq_out(draw, "m", a, 0.02 * (1 + float(np.sqrt(left[-1]))))
    draw.out(a, len(left))
    return "lsb"


def qdq_add(draw):
    a = draw.pick(np.uint8, np.int8)
    shape = [draw.size(1, 5) for _ in range(draw.size(2, 4))]
    first, second = qdq_in(draw, "x", draw.floats(*shape), a, draw.scale()), qdq_in(draw, "b", draw.floats(*shape), a, draw.scale())
    draw.node(draw.pick("Add", "Mul"), [first, second], ["s"])
    qdq_out(draw, "s", a, draw.scale() + np.float32(0.01))
    draw.out(a, len(shape))
    return "lsb"


KINDS = {
    "quantize_linear": quantize_linear,
    "dequantize_linear": dequantize_linear,
    "dequantize_blocked_matmul": dequantize_blocked,
    "dynamic_quantize_linear": dynamic_quantize_linear,
    "matmul_integer": matmul_integer,
    "conv_integer": conv_integer,
    "qlinear_conv": qlinear_conv,
    "qlinear_matmul": qlinear_matmul,
    "qlinear_add": qlinear_two("QLinearAdd"),
    "qlinear_mul": qlinear_two("QLinearMul"),
    "qlinear_sigmoid": qlinear_one("QLinearSigmoid"),
    "qlinear_leaky_relu": qlinear_one("QLinearLeakyRelu"),
    "qlinear_concat": qlinear_concat,
    "qlinear_average_pool": qlinear_average_pool,
    "qlinear_global_average_pool": qlinear_global_average_pool,
    "qlinear_average_pool_nhwc": lambda draw: qlinear_average_pool(draw, last=True),
    "qlinear_global_average_pool_nhwc": lambda draw: qlinear_global_average_pool(draw, last=True),
    "dynamic_quantize_matmul": dynamic_quantize_matmul,
    "dynamic_chain": dynamic_chain,
    "matmul_nbits": matmul_nbits,
    "fused_matmul": fused_matmul,
    "skip_layer_normalization": skip_layer_normalization,
    "bias_gelu": gelu("BiasGelu"),
    "fast_gelu": gelu("FastGelu"),
    "quick_gelu": gelu("QuickGelu"),
    "qdq_conv": qdq_conv,
    "qdq_matmul": qdq_matmul,
    "qdq_add": qdq_add,
}

MEASURES = {"exact": ("close", 0.0, 0.0), "close": ("close", 1e-4, 1e-5), "sums": ("close", 1e-4, 1e-4), "lsb": ("lsb", 1, 0.001)}


def main() -> None:
    assert onnxruntime.__version__ == ONNXRUNTIME, f"onnxruntime {onnxruntime.__version__} is installed"
    suite = Suite(f"ort-cases/{ONNXRUNTIME}", revision=REVISION)
    if suite.is_complete():
        return
    options = onnxruntime.SessionOptions()
    # The operators as they stand, not what ONNX Runtime would fuse them to.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    refused = {}
    for number, (kind, make) in enumerate(KINDS.items()):
        made = attempt = 0
        while made < ROUNDS and attempt < 4 * ROUNDS:
            draw = Draw(number * 1000 + attempt)
            attempt += 1
            measure = MEASURES[make(draw)]
            model = draw.model()
            try:
                session = onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
                answer = session.run(None, draw.feeds)
            except Exception as error:  # A combination that ONNX Runtime lacks proves nothing.
                refused.setdefault(kind, str(error)[:160])
                continue
            names = [output.name for output in draw.outputs]
            suite.add(f"{kind}_{made:02}", model, list(draw.feeds.items()), list(zip(names, answer)), *measure)
            made += 1
        if made < ROUNDS:
            print(f"{kind}: only {made} cases: {refused[kind]}", file=sys.stderr)
    suite.finish()


if __name__ == "__main__":
    main()
