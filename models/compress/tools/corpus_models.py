"""Models of the corpus that no wheel carries in fp32, and how their inputs are called."""

import json
import struct
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import numpy_helper

LAYER = "encoder.layer.{}."
PARTS = (
    "attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense", "intermediate.dense",
    "output.dense",
)
"""In the order in which the graph multiplies by them."""


def safetensors(raw: bytes) -> dict:
    """The f32 tensors of a safetensors file."""
    (length,) = struct.unpack("<Q", raw[:8])
    found = {}
    for name, entry in json.loads(raw[8 : 8 + length]).items():
        if name != "__metadata__" and entry["dtype"] == "F32":
            first, last = (8 + length + offset for offset in entry["data_offsets"])
            found[name] = np.frombuffer(raw[first:last], np.float32).reshape(entry["shape"])
    return found


def minilm(quantized: bytes, original: bytes) -> onnx.ModelProto:
    """The graph of an int8 all-MiniLM-L6-v2 (Cast and Mul of each weight) with the original weights in f32 in their place."""
    model, weights = onnx.load_from_string(quantized), safetensors(original)
    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    products = [node for node in graph.node if node.op_type == "Mul" and node.input[1].endswith("_scale")]
    by_name = {f"inner.{name}": value for name, value in weights.items()}
    linear = iter([weights[f"{LAYER.format(layer)}{part}.weight"].T for layer in range(6) for part in PARTS])
    gone = set()
    for node in products:
        name = node.output[0]
        stored = numpy_helper.to_array(constants[name + "_q"]) * numpy_helper.to_array(constants[name + "_scale"])
        value = by_name[name] if name in by_name else next(linear)
        step = numpy_helper.to_array(constants[name + "_scale"])
        # They are the same weights only if none is further off than rounding explains.
        assert value.shape == stored.shape and (np.abs(value - stored) <= 0.51 * step).all(), name
        graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        gone |= {name, name + "_f"}
    kept = [node for node in graph.node if node.output[0] not in gone]
    del graph.node[:]
    graph.node.extend(kept)
    constants = [tensor for tensor in graph.initializer if not tensor.name.endswith(("_q", "_scale"))]
    del graph.initializer[:]
    graph.initializer.extend(constants)
    return model


def tokens(encoding) -> dict:
    row = lambda values: np.asarray([values], np.int64)
    return {
        "input_ids": row(encoding.ids),
        "attention_mask": row(encoding.attention_mask),
        "token_type_ids": row(encoding.type_ids),
    }


def light(name: str, rng) -> onnx.ModelProto:
    """A network of the onnx wheel, whose weights are constants, with random ones of He's scale, which keep activations alive."""
    model = onnx.load(Path(onnx.__file__).parent / f"backend/test/data/light/{name}.onnx")
    graph = model.graph
    shapes = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    use = {name: (node.op_type, place) for node in graph.node for place, name in enumerate(node.input)}
    kept = []
    for node in graph.node:
        if node.op_type != "ConstantOfShape" or node.input[0] not in shapes:
            kept.append(node)
            continue
        shape = [int(size) for size in shapes[node.input[0]]]
        values = rng.normal(size=shape) * np.sqrt(2 / max(1, np.prod(shape[1:])))
        operator, place = use[node.output[0]]
        if operator == "BatchNormalization":
            # Scale and variance are positive, shift and mean small.
            values = rng.uniform(0.5, 1.5, shape) if place in (1, 4) else 0.1 * rng.normal(size=shape)
        elif len(shape) == 1:
            values = 0.1 * rng.normal(size=shape)
        graph.initializer.append(numpy_helper.from_array(values.astype(np.float32), node.output[0]))
    del graph.node[:]
    graph.node.extend(kept)
    used = {name for node in kept for name in node.input}
    constants = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(constants)
    inputs = [value for value in graph.input if value.name not in shapes]
    del graph.input[:]
    graph.input.extend(inputs)
    # Files of IR version 3 must list their weights as inputs.
    model.ir_version = 7
    return model


def session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])


def settle(model: onnx.ModelProto, images: np.ndarray) -> None:
    """Gives every BatchNormalization the statistics of what it really sees, as training would: without this the layers of a
    random network hand on little but what all pictures have in common. Goes through the nodes one by one up to the head."""
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    describe = lambda name: onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
    values = {input_name(model): images}
    for node in model.graph.node:
        if node.op_type in ("Reshape", "Flatten", "Gemm"):
            return
        if node.op_type == "BatchNormalization":
            seen = values[node.input[0]]
            for name, value in zip(node.input[3:5], (seen.mean((0, 2, 3)), seen.var((0, 2, 3)))):
                constants[name].CopyFrom(numpy_helper.from_array(value.astype(np.float32), name))
        given = [name for name in node.input if name not in constants]
        held = [constants[name] for name in node.input if name in constants]
        graph = onnx.helper.make_graph([node], "one", [*map(describe, given)], [describe(node.output[0])], held)
        alone = onnx.helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
        values[node.output[0]] = session(alone).run([node.output[0]], {name: values[name] for name in given})[0]


def teach(model: onnx.ModelProto, images: np.ndarray, labels: np.ndarray, ridge: float = 0.1) -> None:
    """Fits the last layer by ridge regression, so that the first classes are the labels: a random network's features tell
    pictures well apart, its random last layer calls all of them the same. `ridge` is a share of the features' mean square.
    The other classes stay random and never win. The scale is that of the likeliest softmax for the last fifth, which a first
    fit has not seen (temperature scaling, Guo et al. 2017): a sharper one would turn every rounding into another answer."""
    graph = model.graph
    last = [node for node in graph.node if node.op_type in ("Conv", "Gemm")][-1]
    constants = {tensor.name: tensor for tensor in graph.initializer}
    weight, bias = (constants[name] for name in last.input[1:3])
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    del probe.graph.output[:]
    probe.graph.output.append(onnx.helper.make_tensor_value_info(last.input[0], onnx.TensorProto.FLOAT, None))
    network = session(probe)
    channels = weight.dims[1]
    # Planes are averaged: what follows a convolution in a head is their mean.
    feature = lambda image: network.run(None, {input_name(model): image[None]})[0][0].reshape(channels, -1).mean(1)
    seen = np.stack([feature(image) for image in images]).astype(np.float64)
    middle = seen.mean(0)
    features, wanted = seen - middle, np.eye(labels.max() + 1)[labels]

    def fit(rows: slice) -> np.ndarray:
        likeness = features[rows] @ features[rows].T
        likeness += ridge * np.trace(likeness) / len(likeness) * np.eye(len(likeness))
        return features[rows].T @ np.linalg.solve(likeness, wanted[rows] - wanted.mean(0))

    shown, held = slice(len(seen) * 4 // 5), slice(len(seen) * 4 // 5, None)
    scores = features[held] @ fit(shown)
    likelihood = lambda scale: (scale * (scores * wanted[held]).sum(1) - np.log(np.exp(scale * scores).sum(1))).mean()
    scale = max(np.arange(1.0, 40.0, 0.5), key=likelihood)
    fitted = scale * fit(slice(None)).T
    w = numpy_helper.to_array(weight).reshape(-1, len(middle)).astype(np.float64)
    w *= np.linalg.norm(fitted, axis=1).mean() / np.linalg.norm(w, axis=1, keepdims=True)
    w[: len(fitted)] = fitted
    # The others begin lower by more than the classes differ, and what a Relu takes for nothing stays above zero.
    b = np.full(len(w), -scale)
    b[: len(fitted)] = scale / 2
    b -= w @ middle
    weight.CopyFrom(numpy_helper.from_array(w.reshape(tuple(weight.dims)).astype(np.float32), weight.name))
    bias.CopyFrom(numpy_helper.from_array(b.astype(np.float32), bias.name))


def input_name(model: onnx.ModelProto) -> str:
    return model.graph.input[0].name
