"""Trains the digits models (about 3 minutes on a CPU).

    pip install -r requirements-train.txt
    python train.py package/src/digits                      # see data.py for where the digits come from

Input `image` f32[batch,1,28,28] in 0..1, output `logits` f32[batch,10], opset 17. Writes ../v1/fp32.onnx (learned from 600
digits), ../v2/fp32.onnx (8,000 digits and the full model's answers), full.onnx into both folders, and ../test/digits.npz.
Another version of PyTorch trains other weights: then run quantize.py and calibrate.py again.
"""
import shutil
import sys

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F

from data import HERE, TRAIN, as_input, load

torch.set_num_threads(2)


def cnn(a, b, hidden, deep=False):
    def block(i, o):
        return [nn.Conv2d(i, o, 3, padding=1), nn.BatchNorm2d(o), nn.ReLU()]

    layers = block(1, a) + (block(a, a) if deep else []) + [nn.MaxPool2d(2)]
    layers += block(a, b) + (block(b, b) if deep else []) + [nn.MaxPool2d(2), nn.Flatten()]
    layers += [nn.Linear(b * 49, hidden), nn.ReLU()] + ([nn.Dropout(0.4)] if deep else []) + [nn.Linear(hidden, 10)]
    return nn.Sequential(*layers)


def shift(x):
    dx, dy = np.random.randint(-2, 3, 2)
    return torch.roll(x, (int(dx), int(dy)), (2, 3))


def fit(model, x, y, epochs, teacher=None, temperature=3.0):
    steps = epochs * ((len(x) + 63) // 64)
    optimiser = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 4e-3, total_steps=steps)
    for _ in range(epochs):
        model.train()
        for rows in torch.randperm(len(x)).split(64):
            batch = shift(x[rows])
            logits = model(batch)
            loss = F.cross_entropy(logits, y[rows])
            if teacher is not None:
                with torch.no_grad():
                    soft = F.softmax(teacher(batch) / temperature, 1)
                loss = 0.5 * loss + 0.5 * temperature**2 * F.kl_div(
                    F.log_softmax(logits / temperature, 1), soft, reduction="batchmean")
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
    return model.eval()


def main():
    torch.manual_seed(0)
    np.random.seed(0)
    images, labels = load(sys.argv[1])
    x = torch.from_numpy(as_input(images))
    y = torch.tensor(labels).long()
    full = fit(cnn(16, 32, 64, deep=True), x[:TRAIN], y[:TRAIN], 25)
    v1 = fit(cnn(4, 8, 16), x[:600], y[:600], 20)
    v2 = fit(cnn(4, 8, 16), x[:TRAIN], y[:TRAIN], 25, teacher=full)
    root = HERE.parent
    for path, model in (("v1/full", full), ("v1/fp32", v1), ("v2/fp32", v2)):
        with torch.no_grad():
            right = (model(x[TRAIN:]).argmax(1) == y[TRAIN:]).float().mean().item()
        print(path, sum(p.numel() for p in model.parameters()), f"{right:.4f}", flush=True)
        torch.onnx.export(model, (torch.zeros(1, 1, 28, 28),), str(root / f"{path}.onnx"), input_names=["image"],
                          output_names=["logits"], dynamic_axes={"image": {0: "batch"}, "logits": {0: "batch"}},
                          opset_version=17, dynamo=False)
    shutil.copyfile(root / "v1/full.onnx", root / "v2/full.onnx")
    np.savez_compressed(root / "test/digits.npz", images=images[TRAIN:], labels=labels[TRAIN:])


main()
