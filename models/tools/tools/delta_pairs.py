"""Writes pairs of model files for `cargo xtask bench delta` into the cache: <cache>/delta-1/<pair>/{old,new}.onnx.

Trained twice by their authors: the digits of the catalogue, magika 0.6.1 and 1.0.3. Derived from public models, because no wheel ships two
trainings of one network: `all` moves every weight by a normal number of 5e-4, as some hundred steps of AdamW at a rate of 2e-5 do;
`few` moves 1.5 % of the weights; `head` replaces the last matrix. Their int8 forms have a scale for each channel. Run by
`cargo xtask bench delta` in the environment of models/compress/tools/requirements.txt, after corpus.py.
"""

import os
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "models/compress/tools"))
import corpus  # noqa: E402

REVISION = 1
SEED = 20261130
QUANTIZED_FROM_ELEMENTS = 4096
"""Smaller arrays stay in fp32, as quantizers leave biases and normalizations."""


def is_weight(array):
    return array.dtype == np.float32 and array.ndim >= 2 and array.size >= QUANTIZED_FROM_ELEMENTS


def edited(model, change):
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for tensor in copy.graph.initializer:
        array = numpy_helper.to_array(tensor)
        changed = change(tensor.name, array)
        if changed is not None:
            tensor.CopyFrom(numpy_helper.from_array(changed.astype(array.dtype), tensor.name))
    return copy


def quantized(model):
    """The initializers of an int8 form; its nodes do not matter for the size of a delta."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    tensors = []
    for tensor in copy.graph.initializer:
        array = numpy_helper.to_array(tensor)
        if not is_weight(array):
            tensors.append(tensor)
            continue
        channel = array.ndim - 1 if array.ndim == 2 else 0
        others = tuple(axis for axis in range(array.ndim) if axis != channel)
        scale = np.abs(array).max(axis=others, keepdims=True) / 127 + 1e-12
        levels = np.clip(np.rint(array / scale), -127, 127).astype(np.int8)
        tensors.append(numpy_helper.from_array(levels, tensor.name + "_quantized"))
        tensors.append(numpy_helper.from_array(scale.astype(np.float32).ravel(), tensor.name + "_scale"))
    del copy.graph.initializer[:]
    copy.graph.initializer.extend(tensors)
    return copy


def in_wheel(requirement, suffix):
    corpus.WHEELS["magika"] = requirement
    archive = corpus.wheel("magika")
    return archive.read(next(name for name in archive.namelist() if name.endswith(suffix)))


def pairs():
    catalog = corpus.ROOT / "models/catalog/digits"
    for form in ("int8-qdq", "fp32", "full"):
        yield f"digits-{form}", *((catalog / version / f"{form}.onnx").read_bytes() for version in ("v1", "v2"))
    yield "magika", in_wheel("magika==0.6.1", ".onnx"), in_wheel("magika==1.0.3", ".onnx")

    random = np.random.default_rng(SEED)
    models = next(iter(sorted((corpus.cache() / "compress").glob(f"corpus-{corpus.REVISION}"))))
    changes = {
        "minilm-all": lambda name, array: array + random.normal(0, 5e-4, array.shape) if array.dtype == np.float32 else None,
        "minilm-few": lambda name, array: np.where(random.random(array.shape) < 0.015, array + random.normal(0, 5e-3, array.shape), array)
        if is_weight(array)
        else None,
    }
    old = onnx.load(models / "minilm/model.onnx")
    for name, change in changes.items():
        new = edited(old, change)
        yield f"{name}-fp32", old.SerializeToString(), new.SerializeToString()
        yield f"{name}-int8", quantized(old).SerializeToString(), quantized(new).SerializeToString()
    old = onnx.load(models / "light-squeezenet/model.onnx")
    last = [tensor.name for tensor in old.graph.initializer if is_weight(numpy_helper.to_array(tensor))][-1]
    new = edited(old, lambda name, array: random.normal(0, array.std(), array.shape) if name == last else None)
    yield "squeezenet-head-fp32", old.SerializeToString(), new.SerializeToString()
    yield "squeezenet-head-int8", quantized(old).SerializeToString(), quantized(new).SerializeToString()


def main():
    place = corpus.cache() / f"delta-{REVISION}"
    if not place.is_dir():
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=place.parent) as made:
            inner = Path(made) / "pairs"
            for name, old, new in pairs():
                (inner / name).mkdir(parents=True)
                (inner / name / "old.onnx").write_bytes(old)
                (inner / name / "new.onnx").write_bytes(new)
            try:
                os.rename(inner, place)
            except OSError:
                # Another run was faster.
                shutil.rmtree(inner, ignore_errors=True)
    print(place)


if __name__ == "__main__":
    main()
