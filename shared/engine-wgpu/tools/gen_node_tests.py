"""Writes the ONNX backend suite's node cases into the cache; onnx 1.23 no longer ships them as files.

Run by `cargo xtask test` in the environment of tools/requirements.txt; a second run does nothing.
"""

import warnings

import onnx

from case_file import Suite

ONNX = "1.23.2"


def main() -> None:
    assert onnx.__version__ == ONNX, f"onnx {onnx.__version__} is installed, the lists are for {ONNX}"
    suite = Suite(f"onnx-node/{ONNX}", revision=2)
    if suite.is_complete():
        return
    warnings.simplefilter("ignore")
    from onnx.backend.test.case.node import collect_testcases

    for case in collect_testcases(None):
        if case.model is None or not case.data_sets:
            continue
        graph = case.model.graph
        # Some cases ask for their answer twice; one is enough.
        inputs, outputs = case.data_sets[0]
        names = [value.name for value in graph.input]
        suite.add(
            case.name,
            case.model,
            list(zip(names, inputs, strict=False)),
            list(zip([value.name for value in graph.output], outputs, strict=False)),
            "close",
            case.rtol,
            case.atol,
        )
    suite.finish()


if __name__ == "__main__":
    main()
