"""The folder of one conformance case, as tests/conformance/case.rs reads it.

<case>/model.onnx   the model
<case>/case.tsv     tab-separated lines: "measure kind a b", "input name dtype dims offset bytes", "output ..." likewise;
                    dtype is the number of ONNX's TensorProto.DataType, 0 for what is no tensor; dims are joined by commas
<case>/data.bin     the bytes of all tensors as TensorProto.raw_data holds them
"""

import os
import sys
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper


def cache() -> Path:
    """The cache of `cargo xtask setup`."""
    if os.environ.get("SANDERLING_CACHE"):
        return Path(os.environ["SANDERLING_CACHE"])
    if os.environ.get("XDG_CACHE_HOME"):
        return Path(os.environ["XDG_CACHE_HOME"]) / "sanderling"
    return Path(os.environ["HOME"]) / ".cache/sanderling"


def tensor_of(value) -> onnx.TensorProto | None:
    """The value as a tensor with raw data; None for sequences, optionals, maps and text."""
    if isinstance(value, onnx.TensorProto):
        value = numpy_helper.to_array(value)
    if isinstance(value, (float, int, np.generic)):
        value = np.asarray(value)
    if not isinstance(value, np.ndarray) or value.dtype.kind in "OSU":
        return None
    return numpy_helper.from_array(np.ascontiguousarray(value).reshape(value.shape))


def write_case(folder: Path, model: onnx.ModelProto | bytes, inputs, outputs, kind: str, a: float, b: float) -> None:
    """Writes a case; inputs and outputs are lists of (name, value). The index is last: a folder with it is whole.

    How the answer is measured: "close" with relative and absolute tolerance a and b, "lsb" with at most a units on the share b of
    the elements, "cosine" of at least a and the same largest element in the share b of the rows.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lines, data = [f"measure\t{kind}\t{a}\t{b}"], bytearray()
    for role, values in (("input", inputs), ("output", outputs)):
        for name, value in values:
            tensor = tensor_of(value)
            if tensor is None:
                lines.append(f"{role}\t{name}\t0\t\t0\t0")
                continue
            raw = tensor.raw_data
            dims = ",".join(map(str, tensor.dims))
            lines.append(f"{role}\t{name}\t{tensor.data_type}\t{dims}\t{len(data)}\t{len(raw)}")
            data += raw
    raw_model = model if isinstance(model, bytes) else model.SerializeToString()
    (folder / "model.onnx").write_bytes(raw_model)
    (folder / "data.bin").write_bytes(bytes(data))
    (folder / "case.tsv").write_text("\n".join(lines) + "\n")


class Suite:
    """A folder of cases that is made once: `with Suite("onnx-node/1.23.2", revision=1) as suite`."""

    def __init__(self, name: str, revision: int):
        self.folder = cache() / name
        self.mark = self.folder / ".complete"
        self.revision = str(revision)
        self.count = 0

    def is_complete(self) -> bool:
        return self.mark.is_file() and self.mark.read_text().split()[:1] == [self.revision]

    def add(self, name: str, *case) -> None:
        write_case(self.folder / name, *case)
        self.count += 1

    def finish(self) -> None:
        self.mark.write_text(f"{self.revision} {self.count} cases\n")
        print(f"{self.folder}: {self.count} cases", file=sys.stderr)
