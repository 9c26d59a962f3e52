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


def enliven(model: onnx.ModelProto, images: np.ndarray, spread: float = 2.0) -> None:
    """Scales and shifts each class so that answers differ: a random network's features have much in common, and without this it
    calls every picture the same. `spread` is the deviation of the softmax's input between pictures."""
    graph = model.graph
    last = [node for node in graph.node if node.op_type in ("Conv", "Gemm")][-1]
    softmax = next(node for node in graph.node if node.op_type == "Softmax")
    constants = {tensor.name: tensor for tensor in graph.initializer}
    weight, bias = (constants[name] for name in last.input[1:3])

    def seen(name: str) -> np.ndarray:
        probe = onnx.ModelProto()
        probe.CopyFrom(model)
        probe.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
        session = onnxruntime.InferenceSession(probe.SerializeToString(), providers=["CPUExecutionProvider"])
        return np.concatenate([session.run([name], {input_name(model): image[None]})[0] for image in images])

    def change(scale, shift) -> None:
        w = numpy_helper.to_array(weight)
        w = w * np.reshape(scale, (-1,) + (1,) * (w.ndim - 1))
        b = numpy_helper.to_array(bias) * scale + shift
        weight.CopyFrom(numpy_helper.from_array(w.astype(np.float32), weight.name))
        bias.CopyFrom(numpy_helper.from_array(b.astype(np.float32), bias.name))

    found = seen(last.output[0])
    axes = tuple(axis for axis in range(found.ndim) if axis != 1)
    scale = 1 / found.std(axes)
    change(scale, -found.mean(axes) * scale)
    found = seen(softmax.input[0]).reshape(len(images), -1)
    change(np.full(len(scale), spread / found.std(0).mean()), 0)


def input_name(model: onnx.ModelProto) -> str:
    return model.graph.input[0].name
