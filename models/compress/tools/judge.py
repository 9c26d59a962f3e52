"""Judges models made of one of the corpus: are they valid, what do they answer, and is the first worse than the second.

    judge.py MODEL-FOLDER CANDIDATE.onnx [OTHER.onnx]

JSON on one line. For each candidate: `bytes`; `refused`, what onnx.checker (full check) or ONNX Runtime said against it, else
null; `cosine` of its outputs to those of the fp32 model, mean over the evaluation examples; `agreement` with the fp32 model;
`accuracy` where real labels exist; each share with a 95 % interval (Wilson; bootstrap where scores are no yes or no). With two
candidates also `quality_gain` and `cosine_gain`, the mean of the first's less the second's, with a 95 % bootstrap interval of
the paired differences, and `discordant`, how often only the first or only the second was right, with McNemar's exact p.

An answer is: the largest output (classify), the text (ctc), the mask above a threshold, compared by intersection over union
(map), the nearest of the other examples by mean-pooled outputs (embed). Quality is accuracy where labels are real, else agreement.
"""

import argparse
import json
import math
from pathlib import Path

import numpy as np
import onnx
import onnxruntime

RESAMPLES = 4000
SEED = 7


def examples(folder: Path):
    """(inputs, label) one by one."""
    if (folder / "evaluation").is_dir():
        for path in sorted((folder / "evaluation").glob("*.npz")):
            with np.load(path) as stored:
                arrays = {name: stored[name] for name in stored.files}
            label = arrays.pop("labels", [None])[0]
            yield arrays, label
        return
    with np.load(folder / "evaluation.npz") as stored:
        arrays = {name: stored[name] for name in stored.files}
    labels = arrays.pop("labels", None)
    for at in range(len(next(iter(arrays.values())))):
        yield {name: array[at : at + 1] for name, array in arrays.items()}, None if labels is None else labels[at]


def session(path: Path):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(path, options, ["CPUExecutionProvider"])


def refusal(path: Path) -> str | None:
    try:
        onnx.checker.check_model(str(path), full_check=True)
        session(path)
    except Exception as error:
        return f"{type(error).__name__}: {str(error)[:400]}"
    return None


def answer(about: dict, outputs: list):
    first = outputs[0]
    match about["task"]:
        case "classify":
            return int(first.argmax())
        case "ctc":
            best = first[0].argmax(-1)
            kept = [code for at, code in enumerate(best) if code and (at == 0 or best[at - 1] != code)]
            return "".join(about["alphabet"][code] for code in kept)
        case "map":
            return first > about["threshold"]
        case "embed":
            pooled = first[0].mean(0)
            return pooled / np.linalg.norm(pooled)


def agreement(about: dict, answers: list, reference: list) -> np.ndarray:
    if about["task"] == "map":
        share = lambda one, two: (one & two).sum() / max(1, (one | two).sum()) if (one | two).any() else 1.0
        return np.array([share(one, two) for one, two in zip(answers, reference)])
    if about["task"] == "embed":
        return (nearest(answers) == nearest(reference)).astype(float)
    return np.array([float(one == two) for one, two in zip(answers, reference)])


def nearest(rows: list) -> np.ndarray:
    likeness = np.stack(rows) @ np.stack(rows).T
    np.fill_diagonal(likeness, -np.inf)
    return likeness.argmax(1)


def cosine(outputs: list, reference: list) -> float:
    one, two = (np.concatenate([value.ravel() for value in values]).astype(np.float64) for values in (outputs, reference))
    lengths = np.linalg.norm(one) * np.linalg.norm(two)
    return float(one @ two / lengths) if lengths else float(not one.any() and not two.any())


def interval(scores: np.ndarray) -> list:
    """Mean with its 95 % interval."""
    mean, count = float(scores.mean()), len(scores)
    if not np.isin(scores, (0, 1)).all():
        return bootstrap(scores)
    z = 1.959964
    middle = (mean + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(mean * (1 - mean) / count + z * z / (4 * count * count))
    return [mean, middle - half, middle + half]


def bootstrap(values: np.ndarray) -> list:
    draws = np.random.default_rng(SEED).integers(0, len(values), (RESAMPLES, len(values)))
    low, high = np.quantile(values[draws].mean(1), (0.025, 0.975))
    return [float(values.mean()), float(low), float(high)]


def mcnemar(one: np.ndarray, two: np.ndarray) -> list | None:
    if not (np.isin(one, (0, 1)).all() and np.isin(two, (0, 1)).all()):
        return None
    only_one, only_two = int((one > two).sum()), int((two > one).sum())
    count, less = only_one + only_two, min(only_one, only_two)
    p = min(1.0, 2 * sum(math.comb(count, k) for k in range(less + 1)) / 2**count)
    return [only_one, only_two, p]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("candidates", type=Path, nargs="+")
    args = parser.parse_args()
    about = json.loads((args.folder / "about.json").read_text())
    refused = [refusal(path) for path in args.candidates]
    sessions = [None if why else session(path) for path, why in zip(args.candidates, refused)]
    original = session(args.folder / "model.onnx")
    truth, reference = [], []
    answers, cosines = [[] for _ in sessions], [[] for _ in sessions]
    for inputs, label in examples(args.folder):
        expected = original.run(None, inputs)
        truth.append(label)
        reference.append(answer(about, expected))
        for at, candidate in enumerate(sessions):
            if candidate:
                outputs = candidate.run(None, inputs)
                answers[at].append(answer(about, outputs))
                cosines[at].append(cosine(outputs, expected))
    truth = about.get("texts", truth)
    right = lambda found: np.array([float(one == two) for one, two in zip(found, truth)])
    is_real = about["labels"] == "real"
    result = {"examples": len(reference), "candidates": []}
    if is_real:
        result["fp32_accuracy"] = interval(right(reference))
    qualities = []
    for path, why, found, likeness in zip(args.candidates, refused, answers, cosines):
        row = {"bytes": path.stat().st_size, "refused": why}
        if not why:
            same = agreement(about, found, reference)
            row |= {"cosine": float(np.mean(likeness)), "cosine_min": float(np.min(likeness)), "agreement": interval(same)}
            if is_real:
                row["accuracy"] = interval(right(found))
            qualities.append(right(found) if is_real else same)
        result["candidates"].append(row)
    if len(qualities) == 2:
        result["quality_gain"] = bootstrap(qualities[0] - qualities[1])
        result["cosine_gain"] = bootstrap(np.array(cosines[0]) - np.array(cosines[1]))
        result["discordant"] = mcnemar(*qualities)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
