"""Makes the int8 form (static QDQ, per channel) of each device model from its fp32 form.

    python quantize.py package/src/digits                   # see data.py for where the digits come from

Ranges come from 500 digits of the training rows, so that every test row stays unseen. Weights keep 7 bits
(`reduce_range`): on x86-64 processors without VNNI the 8-bit kernels saturate, and a device must give the same answers
whatever processor it has.
"""
import os
import sys
import tempfile

os.environ["ORT_DISABLE_TELEMETRY"] = "1"

from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from data import HERE, TRAIN, as_input, load

ROWS = 500


class Digits(CalibrationDataReader):
    def __init__(self, images):
        self.batches = iter(as_input(images).reshape(-1, 50, 1, 28, 28))

    def get_next(self):
        batch = next(self.batches, None)
        return None if batch is None else {"image": batch}


images, _labels = load(sys.argv[1])
for version in ("v1", "v2"):
    source, target = HERE.parent / version / "fp32.onnx", HERE.parent / version / "int8-qdq.onnx"
    with tempfile.TemporaryDirectory() as folder:
        prepared = f"{folder}/prepared.onnx"
        quant_pre_process(str(source), prepared, skip_symbolic_shape=True)
        quantize_static(prepared, str(target), Digits(images[TRAIN - ROWS:TRAIN]), quant_format=QuantFormat.QDQ,
                        per_channel=True, reduce_range=True,
                        activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8)
    print(target.relative_to(HERE.parent), target.stat().st_size, "bytes")
