"""Quantizes a model of the corpus with PyPI's onnxruntime.quantization, as its documentation says, and prints what it took.

    peer.py static  MODEL-FOLDER OUT [--method minmax|entropy|percentile] [--per-tensor] [--activation u8|s8] [--weight s8|u8]
    peer.py dynamic MODEL-FOLDER OUT [--weight s8|u8] [--per-tensor]
    peer.py int4    MODEL-FOLDER OUT [--block 32] [--asymmetric]

JSON on one line: `seconds` of the work itself, `seconds_imports` before it, `rss_kib` at the highest, `bytes` of the model made.
"""

import time

STARTED = time.perf_counter()

import argparse
import json
import logging
import os
import resource
import tempfile
from pathlib import Path

import numpy as np
import onnx
from onnxruntime import quantization
from onnxruntime.quantization import matmul_nbits_quantizer, shape_inference

TYPES = {"u8": quantization.QuantType.QUInt8, "s8": quantization.QuantType.QInt8}
METHODS = {
    "minmax": quantization.CalibrationMethod.MinMax,
    "entropy": quantization.CalibrationMethod.Entropy,
    "percentile": quantization.CalibrationMethod.Percentile,
}


class Reader(quantization.CalibrationDataReader):
    """One example at a time, as the documentation's readers do."""

    def __init__(self, folder: Path):
        self.feeds = self.separate(folder / "calibration") if (folder / "calibration").is_dir() else self.together(folder)

    @staticmethod
    def separate(folder: Path):
        for path in sorted(folder.glob("*.npz")):
            with np.load(path) as arrays:
                yield {name: arrays[name] for name in arrays.files if name != "labels"}

    @staticmethod
    def together(folder: Path):
        with np.load(folder / "calibration.npz") as stored:
            arrays = {name: stored[name] for name in stored.files if name != "labels"}
        for at in range(len(next(iter(arrays.values())))):
            yield {name: array[at : at + 1] for name, array in arrays.items()}

    def get_next(self):
        return next(self.feeds, None)


def prepared(source: Path, folder: Path, per_channel: bool) -> Path:
    """Shape inference and optimisation, which the documentation asks for first."""
    target = folder / "prepared.onnx"
    model = onnx.load(source)
    version = next(item.version for item in model.opset_import if item.domain in ("", "ai.onnx"))
    if per_channel and version < 13:
        # Per-channel QuantizeLinear begins there, and the tool does not convert.
        model = onnx.version_converter.convert_version(model, 13)
        source = folder / "converted.onnx"
        onnx.save(model, source)
    try:
        shape_inference.quant_pre_process(source, target)
    except Exception:  # Symbolic shape inference gives up on some models; the documentation says to skip it then.
        shape_inference.quant_pre_process(source, target, skip_symbolic_shape=True)
    return target


def static(args, folder: Path) -> None:
    source = prepared(args.model / "model.onnx", folder, args.per_channel)
    run = lambda extra: quantization.quantize_static(
        source,
        args.out,
        Reader(args.model),
        quant_format=quantization.QuantFormat.QDQ,
        per_channel=args.per_channel,
        activation_type=TYPES[args.activation],
        weight_type=TYPES[args.weight],
        calibrate_method=METHODS[args.method],
        extra_options=extra,
    )
    # 1.32.0 stumbles over magika's convolution (a truth value of an array) unless this is left out.
    about = json.loads((args.model / "about.json").read_text())
    run({"QDQDisableWeightAdjustForInt32Bias": True} if about.get("peer_stumbles") else {})


def dynamic(args, folder: Path) -> None:
    prepared_model = prepared(args.model / "model.onnx", folder, False)
    quantization.quantize_dynamic(prepared_model, args.out, per_channel=args.per_channel, weight_type=TYPES[args.weight])


def int4(args, folder: Path) -> None:
    quantizer = matmul_nbits_quantizer.MatMulNBitsQuantizer(
        onnx.load(args.model / "model.onnx"), block_size=args.block, is_symmetric=not args.asymmetric, bits=4
    )
    quantizer.process()
    quantizer.model.save_model_to_file(str(args.out), use_external_data_format=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("form", choices=["static", "dynamic", "int4"])
    parser.add_argument("model", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--method", choices=METHODS, default="minmax")
    parser.add_argument("--per-tensor", dest="per_channel", action="store_false")
    parser.add_argument("--activation", choices=TYPES, default="u8")
    parser.add_argument("--weight", choices=TYPES, default="s8")
    parser.add_argument("--block", type=int, default=32)
    parser.add_argument("--asymmetric", action="store_true")
    args = parser.parse_args()
    logging.disable(logging.WARNING)
    imported = time.perf_counter()
    args.model, args.out = args.model.absolute(), args.out.absolute()
    with tempfile.TemporaryDirectory() as folder:
        # Shape inference leaves files of its own where it runs.
        os.chdir(folder)
        {"static": static, "dynamic": dynamic, "int4": int4}[args.form](args, Path(folder))
    print(
        json.dumps(
            {
                "seconds": time.perf_counter() - imported,
                "seconds_imports": imported - STARTED,
                "rss_kib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
                "bytes": args.out.stat().st_size,
            }
        )
    )


if __name__ == "__main__":
    main()
