"""Thresholds, calibration curves and golden answers of every variant, and the figures of the model card.

    python calibrate.py

The promise of a threshold: with a confidence of 95 % (1 - DELTA), at most 1 % (ALPHA) of all requests like those of the
calibration set are kept on the device and answered otherwise than by the full model. Fixed-sequence testing, a case of
Learn-then-Test (arXiv 2110.01052): the grid of thresholds is fixed before the data is seen, walked from the strictest
down, and left before the first threshold whose Clopper-Pearson upper bound exceeds ALPHA. Rows 0..1000 of the test digits
calibrate; rows 1000..2000 are held out and only reported on.

Writes v*/<variant>.calibration.json, v*/<variant>.golden.safetensors and the thresholds in v*/model.toml.
"""
import json
import math
import os
import re

os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import numpy as np
import onnxruntime as ort
from safetensors.numpy import save_file

from data import CALIBRATION, HERE, as_input, load_test

ALPHA, DELTA = 0.01, 0.05
# Top-1 probabilities crowd near 1, so the grid is even in their log-odds: 0.999994 down to 0.12 in steps of 0.1.
GRID = [np.float32(1 / (1 + math.exp(-step / 10))) for step in range(120, -21, -1)]
DEVICE, HUB = ("int8-qdq", "fp32"), "full"


def session(path, level=ort.GraphOptimizationLevel.ORT_ENABLE_ALL):
    options = ort.SessionOptions()
    options.graph_optimization_level = level
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def logits(path, x, **options):
    return session(path, **options).run(["logits"], {"image": x})[0]


def score(rows):
    """Top-1 probability of each row."""
    rows = rows.astype(np.float64)
    odds = np.exp(rows - rows.max(1, keepdims=True))
    return (odds.max(1) / odds.sum(1)).astype(np.float32)


def upper_bound(errors, n, delta=DELTA):
    """Clopper-Pearson: the largest rate at which `errors` or fewer of `n` still have a probability of `delta`."""
    def at_most(rate):
        terms = (math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) + k * math.log(rate)
                 + (n - k) * math.log1p(-rate) for k in range(errors + 1))
        return sum(math.exp(term) for term in terms)

    if errors >= n:
        return 1.0
    low, high = errors / n + 1e-12, 1 - 1e-12
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if at_most(middle) > delta else (low, middle)
    return high


def calibrate(scores, differs):
    """The curve over the whole grid, and the threshold that the promise allows (None: no number of examples shows it)."""
    n, curve, threshold, open_ = len(scores), [], None, True
    for at in GRID:
        kept = scores >= at
        errors = int((kept & differs).sum())
        bound = upper_bound(errors, n)
        open_ = open_ and bound <= ALPHA
        threshold = at if open_ else threshold
        curve.append({"threshold": float(str(at)), "coverage": round(float(kept.mean()), 6),
                      "differing": round(errors / n, 6), "bound": round(bound, 6)})
    if threshold is None:
        print(f"  no threshold: at least {math.ceil(math.log(DELTA) / math.log(1 - ALPHA))} examples are needed, {n} were given")
    return threshold, curve


def write_threshold(folder, variant, threshold):
    path = folder / "model.toml"
    text = path.read_text()
    pattern = re.compile(rf'(\[\[variant\]\]\nname = "{variant}"\n(?:(?!\[).*\n)*?threshold = )\S+')
    text, count = pattern.subn(lambda match: match[1] + str(threshold), text)
    assert count == 1, f"{path} has no threshold of {variant}"
    path.write_text(text)


def golden_rows(answers, labels):
    """One held-out row for each digit, the first that every variant reads right by a wide margin."""
    chosen = []
    for digit in range(10):
        for row in np.flatnonzero(labels == digit):
            ranked = [np.sort(answer[row])[::-1] for answer in answers]
            right = all(answer[row].argmax() == digit for answer in answers)
            if row >= CALIBRATION and right and all(best - second > 3 for best, second, *_ in ranked):
                chosen.append(int(row))
                break
    assert len(chosen) == 10, "a digit that no variant is sure of"
    return chosen


def main():
    images, labels = load_test()
    x = as_input(images)
    held = slice(CALIBRATION, None)
    for version in ("v1", "v2"):
        folder = HERE.parent / version
        answers = {name: logits(folder / f"{name}.onnx", x) for name in (*DEVICE, HUB)}
        rows = golden_rows(list(answers.values()), labels)
        for name, answer in answers.items():
            path = folder / f"{name}.onnx"
            right = answer.argmax(1) == labels
            print(f"{version} {name}: {path.stat().st_size} bytes, accuracy {right.mean():.4f} (held out {right[held].mean():.4f})")
            # What a golden answer may be off by: another processor fuses and rounds otherwise.
            plain = logits(path, x, level=ort.GraphOptimizationLevel.ORT_DISABLE_ALL)
            print(f"  largest difference without graph optimisation {np.abs(plain - answer).max():.2g}, "
                  f"on golden rows {np.abs(plain - answer)[rows].max():.2g}")
            golden = {"input.image": x[rows], "output.logits": logits(path, x[rows])}
            save_file(golden, folder / f"{name}.golden.safetensors")
            (folder / f"{name}.golden.safetensors").chmod(0o644)
            if name == HUB:
                continue
            scores, differs = score(answer), answer.argmax(1) != answers[HUB].argmax(1)
            threshold, curve = calibrate(scores[:CALIBRATION], differs[:CALIBRATION])
            report = {"examples": CALIBRATION, "confidence": 1 - DELTA, "curve": curve}
            points = ",\n  ".join(json.dumps(point) for point in curve)
            head = json.dumps({key: report[key] for key in ("examples", "confidence")})[:-1]
            (folder / f"{name}.calibration.json").write_text(f'{head}, "curve": [\n  {points}\n]}}\n')
            write_threshold(folder, name, threshold)
            kept = scores >= threshold
            at = next(point for point in curve if np.float32(point["threshold"]) == threshold)
            wrong = kept & differs
            cascade = np.where(kept, answer.argmax(1), answers[HUB].argmax(1)) == labels
            print(f"  threshold {threshold}: keeps {at['coverage']:.1%}, differing {at['differing']:.2%}, bound {at['bound']:.2%}; "
                  f"held out keeps {kept[held].mean():.1%}, differing {wrong[held].mean():.2%}, "
                  f"cascade accuracy {cascade[held].mean():.4f}")


main()
