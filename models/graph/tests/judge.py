"""Says what Python's onnx thinks of models, one line each: `python judge.py check FILE...` or `shapes FILE...`."""

import sys

import onnx
from onnx import shape_inference


def check(path):
    onnx.checker.check_model(path, full_check=False)
    return "ok"


def shapes(path):
    """`name:type:dim,dim,...` of every value that is known, joined by tabs; `*` for no shape, `?` for an unknown dim."""
    model = shape_inference.infer_shapes(onnx.load(path), data_prop=True)
    told = []
    for value in [*model.graph.value_info, *model.graph.output]:
        kind = value.type.tensor_type
        if not value.type.HasField("tensor_type"):
            continue
        dims = "*"
        if kind.HasField("shape"):
            dims = ",".join(str(d.dim_value) if d.HasField("dim_value") else "?" for d in kind.shape.dim)
        told.append(f"{value.name}\x1f{kind.elem_type}\x1f{dims}")
    return "\t".join(told)


for path in sys.argv[2:]:
    try:
        line = {"check": check, "shapes": shapes}[sys.argv[1]](path)
    except Exception as error:  # Whatever it is, it is the verdict.
        line = f"error: {error}".replace("\n", " ").replace("\t", " ")
    print(line)
