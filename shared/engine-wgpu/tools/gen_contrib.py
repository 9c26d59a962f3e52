"""Writes single operators of ONNX Runtime's own into tests/cases/contrib, with its answers: normalizations of domain ai.onnx at every operator
set, operators of CoreML's exporters, DynamicQuantizeLSTM, GroupQueryAttention.

Run again after a change here, in the environment of tools/requirements.txt.
"""

import shutil
from pathlib import Path

import numpy as np
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from case_file import write_case

OUT = Path(__file__).parent.parent / "tests/cases/contrib"
F = TensorProto.FLOAT
rng = np.random.default_rng(5)


def case(name, op, feeds, constants=(), outputs=("y",), opset=17, domain="", tolerance=1e-5, inputs=None, **attributes):
    inputs = inputs or [*feeds, *(n for n, _ in constants)]
    made = helper.make_node(op, inputs, list(outputs), domain=domain, **attributes)
    infos = [helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape) for n, a in feeds.items()]
    known = [numpy_helper.from_array(array, n) for n, array in constants]
    wanted = [n for n in outputs if n]
    graph = helper.make_graph([made], name, infos, [helper.make_tensor_value_info(n, F, None) for n in wanted], known)
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets)
    model.ir_version = 8
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    write_case(OUT / name, model, list(feeds.items()), list(zip(wanted, session.run(wanted, feeds))), "close", tolerance, tolerance)


def normal(*shape):
    return rng.normal(size=shape).astype(np.float32)


def norms():
    x, scale, bias = normal(2, 3, 8), normal(8), normal(8)
    for opset in (8, 11, 13, 15, 16):
        case(f"layer_norm_{opset}", "LayerNormalization", {"x": x}, [("s", scale), ("b", bias)], opset=opset, epsilon=1e-3)
    for opset in (8, 11, 13, 17, 21, 23):
        case(f"simplified_layer_norm_{opset}", "SimplifiedLayerNormalization", {"x": x}, [("s", scale)], opset=opset, axis=-1, epsilon=1e-6, stash_type=1)
    case("simplified_layer_norm_deviation", "SimplifiedLayerNormalization", {"x": x}, [("s", scale)], outputs=("y", "d"), opset=13)
    case("layer_norm_mean", "LayerNormalization", {"x": x}, [("s", scale), ("b", bias)], outputs=("y", "m", "d"), opset=14)


def coreml():
    x = normal(2, 3, 5, 4)
    case("affine", "Affine", {"x": x}, opset=9, alpha=2.0, beta=-0.5)
    case("scaled_tanh", "ScaledTanh", {"x": x}, opset=9, alpha=2.0, beta=0.7)
    case("parametric_softplus", "ParametricSoftplus", {"x": x * 9}, opset=8, alpha=1.5, beta=0.7)
    case("scale", "Scale", {"x": x}, opset=7, scale=0.25)
    case("image_scaler", "ImageScaler", {"x": x}, opset=9, scale=0.5, bias=[1.0, -2, 3])
    case("crop", "Crop", {"x": x}, opset=9, border=[1, 2, 1, 1])
    case("crop_scale", "Crop", {"x": x}, opset=9, border=[1, 2, 0, 0], scale=[2, 3])
    case("dynamic_slice", "DynamicSlice", {"x": x}, [("from", np.array([1, -3], np.int64)), ("to", np.array([3, 9], np.int64)), ("axes", np.array([1, 2], np.int64))], opset=9)
    case("dynamic_slice_all", "DynamicSlice", {"x": x}, [("from", np.array([0, 1, 1, 0], np.int64)), ("to", np.array([1, 2, -1, 4], np.int64))], opset=7)
    case("thresholded_relu_9", "ThresholdedRelu", {"x": x}, opset=9, alpha=0.3)


def lstm(name, steps=5, batch=1, inputs=6, hidden=7, directions=1, dtype=np.int8, per_channel=False, bias=True, states=False, lengths=False, **attributes):
    def packed(rows):
        values = normal(directions, rows, 4 * hidden)
        span = np.abs(values).max(axis=1 if per_channel else (1, 2))
        scale = (span / 127).astype(np.float32)
        grid = scale[:, None, :] if per_channel else scale[:, None, None]
        point = 0 if dtype == np.int8 else 128
        codes = np.clip(np.rint(values / grid) + point, np.iinfo(dtype).min, np.iinfo(dtype).max).astype(dtype)
        return codes, scale, np.full(scale.shape, point, dtype)

    (w, w_scale, w_point), (r, r_scale, r_point) = packed(inputs), packed(hidden)
    feeds, constants, names = {"x": normal(steps, batch, inputs)}, [("w", w), ("r", r)], ["x", "w", "r"]
    optional = [("b", bias, normal(directions, 8 * hidden)), ("n", lengths, np.arange(steps - batch + 1, steps + 1, dtype=np.int32)),
                ("h", states, normal(directions, batch, hidden) * 0.3), ("c", states, normal(directions, batch, hidden)), ("p", False, None)]
    for short, given, value in optional:
        names.append(short if given else "")
        if given:
            constants.append((short, value))
    names += ["ws", "wp", "rs", "rp"]
    constants += [("ws", w_scale), ("wp", w_point), ("rs", r_scale), ("rp", r_point)]
    if directions == 2:
        attributes["direction"] = "bidirectional"
    case(f"lstm_{name}", "DynamicQuantizeLSTM", feeds, constants, ("y", "yh", "yc"), domain="com.microsoft", tolerance=2e-3, inputs=names, hidden_size=hidden, **attributes)


def lstms():
    for kind, dtype in (("i8", np.int8), ("u8", np.uint8)):
        for channels in (False, True):
            lstm(f"{kind}_{'channels' if channels else 'whole'}", dtype=dtype, per_channel=channels)
    lstm("reverse", direction="reverse")
    lstm("both", directions=2, per_channel=True)
    lstm("states", states=True)
    lstm("no_bias", bias=False, steps=1)
    lstm("long", steps=40, inputs=3, hidden=4)
    lstm("wide", steps=3, inputs=80, hidden=70, per_channel=True)


def grouped(name, batch=1, queries=1, heads=4, kv_heads=2, size=16, past=0, buffer=None, lengths=None, packed=False, turned=0, bias=None, positions=None, sink=False, total=None, angles=64, **attributes):
    """GroupQueryAttention: a cache of `past` places, or a buffer of more; `turned` features turn by their position."""
    total = past + queries if total is None else total
    buffer = past if buffer is None else buffer
    feeds = {"q": normal(batch, queries, (heads + 2 * kv_heads if packed else heads) * size)}
    names = ["q", "", ""]
    if not packed:
        feeds |= {"k": normal(batch, queries, kv_heads * size), "v": normal(batch, queries, kv_heads * size)}
        names = ["q", "k", "v"]
    feeds |= {"pk": normal(batch, kv_heads, buffer, size), "pv": normal(batch, kv_heads, buffer, size)}
    feeds["n"] = np.array([total - 1] * batch if lengths is None else lengths, np.int32)
    constants = [("total", np.array(total, np.int32))]
    names += ["pk", "pv", "n", "total", "", "", "", "", ""]
    if turned:
        angle = rng.uniform(0, 6.28, size=(angles, turned // 2))
        constants += [("cos", np.cos(angle).astype(np.float32)), ("sin", np.sin(angle).astype(np.float32))]
        names[7:9] = ["cos", "sin"]
        attributes["do_rotary"] = 1
    for at, short, value in ((9, "p", None if positions is None else np.array(positions, np.int64)), (10, "m", None if bias is None else normal(*bias)), (11, "s", normal(heads) if sink else None)):
        if value is not None:
            feeds[short], names[at] = value, short
    while not names[-1]:
        names.pop()
    case(f"grouped_{name}", "GroupQueryAttention", feeds, constants, ("y", "key", "value"), domain="com.microsoft", inputs=names, num_heads=heads, kv_num_heads=kv_heads, **attributes)


def attentions():
    grouped("prompt", queries=5)
    grouped("token", past=6)
    grouped("lengths", batch=3, past=6, lengths=[6, 4, 2])
    grouped("buffer", batch=2, past=4, buffer=16, lengths=[4, 2])
    grouped("buffer_prompt", batch=2, queries=4, buffer=16, total=4)
    grouped("buffer_full", past=15, buffer=16, turned=16)
    grouped("filled_prompt", batch=2, queries=5, lengths=[4, 2])
    grouped("chunk", queries=3, past=4)
    grouped("packed", batch=2, queries=4, packed=True)
    grouped("packed_turned", queries=4, packed=True, turned=16)
    grouped("turned", past=5, turned=16)
    grouped("turned_pairs", queries=2, past=5, turned=16, rotary_interleaved=1)
    grouped("turned_part", queries=3, size=32, turned=16)
    grouped("turned_lengths", batch=3, past=4, turned=16, lengths=[4, 2, 0])
    grouped("turned_positions", batch=2, past=4, turned=16, positions=[[9], [2]])
    grouped("turned_prompt_positions", batch=2, queries=3, turned=16, positions=[[5, 1, 2], [3, 4, 5]])
    grouped("window", queries=8, local_window_size=3)
    grouped("window_one", queries=4, local_window_size=1)
    grouped("window_token", batch=2, past=8, buffer=12, lengths=[8, 5], local_window_size=3, turned=16, packed=True)
    grouped("softcap", queries=4, softcap=0.7)
    grouped("scale", queries=4, scale=0.3)
    grouped("bias", batch=2, queries=4, bias=(2, 4, 4, 4))
    grouped("bias_shared", batch=2, queries=4, bias=(1, 1, 4, 4), softcap=1.0)
    grouped("bias_token", batch=2, past=3, bias=(2, 4, 1, 4))
    grouped("smooth", queries=4, smooth_softmax=1)
    grouped("sink", queries=4, sink=True)
    grouped("sink_token", batch=2, past=5, lengths=[5, 3], sink=True)
    grouped("each_head", queries=4, heads=4, kv_heads=4)
    grouped("one_head", queries=40, past=0, heads=6, kv_heads=1, size=64, turned=64)


if __name__ == "__main__":
    shutil.rmtree(OUT, ignore_errors=True)
    norms()
    coreml()
    lstms()
    attentions()
    print(len(list(OUT.iterdir())), "cases")
