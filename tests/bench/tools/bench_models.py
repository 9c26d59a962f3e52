"""Writes the networks of `cargo xtask bench wgpu` into the cache: SqueezeNet and ResNet-50 of the onnx package's `light` set.

<name>.onnx           random weights in place of the constant ones that the package ships
<name>.wonnx.onnx     the same as wonnx 0.5.1 can read it: no Dropout, Add for Sum, Gemm without transB, a bias for Conv
<name>.shipped.onnx   as shipped, for its count of nodes
<name>.f32            an input, as little-endian f32

Run by `cargo xtask bench` in the environment of shared/engine-wgpu/tools/requirements.txt; a second run does nothing.
"""

import sys
from pathlib import Path

import numpy as np
import onnx
import onnx.shape_inference
import onnxruntime
from onnx import helper, numpy_helper

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "shared/engine-wgpu/tools"))
from case_file import cache  # noqa: E402
from gen_model_cases import DATA, randomise  # noqa: E402

REVISION = "4"
NAMES = ("squeezenet", "resnet50")


def for_wonnx(model: onnx.ModelProto) -> onnx.ModelProto:
    """What wonnx refuses, said in operators that it has; the numbers stay the same."""
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    renamed, nodes = {}, []
    for node in model.graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]
        attributes = {item.name: helper.get_attribute_value(item) for item in node.attribute}
        if node.op_type == "Dropout":
            renamed[node.output[0]] = node.input[0]
            continue
        if node.op_type == "Sum":
            node.op_type = "Add"
        if node.op_type == "Gemm" and attributes.get("transB"):
            weight = weights[node.input[1]]
            weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight).T.copy(), weight.name))
            kept = [item for item in node.attribute if item.name != "transB"]
            del node.attribute[:]
            node.attribute.extend(kept)
        if node.op_type == "Conv" and len(node.input) == 2:
            # Its kernel for 3x3 wants weights in fours, and it lays them so for a Conv with a bias only (optimizer.rs): without
            # one it reads others.
            zeros = numpy_helper.from_array(np.zeros(weights[node.input[1]].dims[0], np.float32), f"{node.output[0]}_bias")
            model.graph.initializer.append(zeros)
            node.input.append(zeros.name)
        nodes.append(node)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    # Initializers need not be inputs since IR version 4; wonnx takes every input for one that the request brings.
    model.ir_version = max(model.ir_version, 4)
    used = {name for node in nodes for name in node.input}
    kept = [tensor for tensor in model.graph.initializer if tensor.name in used]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    inputs = [value for value in model.graph.input if value.name not in weights]
    del model.graph.input[:]
    model.graph.input.extend(inputs)
    del model.graph.value_info[:]
    # wonnx wants to read the shape of every value.
    model = onnx.shape_inference.infer_shapes(model)
    onnx.checker.check_model(model)
    return model


def calm(model: onnx.ModelProto, name: str, image: np.ndarray) -> None:
    """Scales the last Gemm, if the answer is its Softmax: random weights would saturate it, and ones and zeros check little."""
    makers = {output: node for node in model.graph.node for output in node.output}
    last = makers[model.graph.output[0].name]
    maker = makers.get(last.input[0])
    if last.op_type != "Softmax" or maker.op_type != "Gemm":
        return
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    probe.graph.output.append(helper.make_empty_tensor_value_info(maker.output[0]))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(probe.SerializeToString(), options, providers=["CPUExecutionProvider"])
    (logits,) = session.run([maker.output[0]], {name: image})
    for tensor in model.graph.initializer:
        if tensor.name in maker.input[1:]:
            values = numpy_helper.to_array(tensor) / logits.std()
            tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float32), tensor.name))


def write(folder: Path, name: str) -> None:
    source = DATA / f"light/light_{name}.onnx"
    (folder / f"{name}.shipped.onnx").write_bytes(source.read_bytes())
    model = onnx.load(source)
    rng = np.random.default_rng(1)
    known = {tensor.name for tensor in model.graph.initializer}
    (value,) = [value for value in model.graph.input if value.name not in known]
    shape = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
    image = rng.random(shape, np.float32)
    image.astype("<f4").tofile(folder / f"{name}.f32")
    if not randomise(model, rng):
        raise SystemExit(f"light_{name} makes no weights of constants any more")
    calm(model, value.name, image)
    (folder / f"{name}.onnx").write_bytes(model.SerializeToString())
    (folder / f"{name}.wonnx.onnx").write_bytes(for_wonnx(model).SerializeToString())


def main() -> None:
    folder = cache() / "bench/models"
    mark = folder / ".complete"
    if mark.is_file() and mark.read_text() == REVISION:
        return
    folder.mkdir(parents=True, exist_ok=True)
    for name in NAMES:
        write(folder, name)
    mark.write_text(REVISION)


if __name__ == "__main__":
    main()
