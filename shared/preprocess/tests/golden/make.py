"""Writes the pictures beside this file and, with Pillow and NumPy, the tensors that they must become.

Run with Pillow 13: python3 make.py. `cases.json` has a rule and the SHA-256 of the tensor's bytes for each case. Where decoders may
round otherwise (JPEG, lossy WebP), `*.rgb` holds the samples that Pillow decodes.
"""

import hashlib
import json
import pathlib
import struct

import numpy as np
from PIL import Image

HERE = pathlib.Path(__file__).parent
CASES = []
FILTERS = ["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"]


def noise(rows, columns, channels, seed=7):
    """Noise over a gradient: edges and smooth parts."""
    random = np.random.default_rng(seed)
    ramp = np.linspace(0, 255, columns)[None, :, None] * np.ones((rows, 1, channels))
    picture = np.where(random.random((rows, columns, 1)) < 0.3, random.integers(0, 256, (rows, columns, channels)), ramp)
    picture[: rows // 4] = random.choice([0, 255], (rows // 4, columns, channels))
    return picture.astype(np.uint8)


def write(name, picture, **options):
    picture.save(HERE / name, **options)


def resized(picture, columns, rows, mode):
    """Columns first, then rows, as Pillow before version 13 does; later ones choose the order by the sizes."""
    if mode == Image.Resampling.NEAREST:
        return picture.resize((columns, rows), mode)
    return picture.resize((columns, picture.size[1]), mode).resize((columns, rows), mode)


def fitted(picture, rule, rows, columns):
    """The picture in the size of the tensor."""
    mode = getattr(Image.Resampling, rule.get("filter", "bilinear").upper())
    fit = rule.get("fit", "stretch")
    width, height = picture.size
    if fit == "stretch":
        return resized(picture, columns, rows, mode)
    if fit == "cover":
        if "shorter_side" in rule:
            shorter = rule["shorter_side"]
            wide, high = (int(shorter * width / height), shorter) if height <= width else (shorter, int(shorter * height / width))
        elif rows * width >= columns * height:
            wide, high = width * rows // height, rows
        else:
            wide, high = columns, height * columns // width
        picture = resized(picture, wide, high, mode)
        top, left = (high - rows) // 2, (wide - columns) // 2
        return picture.crop((left, top, left + columns, top + rows))
    ratio = min(rows / height, columns / width)
    wide, high = min(int(width * ratio + 0.5), columns), min(int(height * ratio + 0.5), rows)
    picture = resized(picture, wide, high, mode)
    canvas = Image.new(picture.mode, (columns, rows), (rule.get("pad", 0),) * len(picture.getbands()))
    place = ((columns - wide) // 2, (rows - high) // 2) if fit == "contain" else (0, 0)
    canvas.paste(picture, place)
    return canvas


def case(file, datatype, shape, turn=None, **rule):
    """Adds one case; `shape` has the channels first, last or nowhere, `turn` turns the stored picture upright."""
    picture = Image.open(HERE / file)
    if picture.mode.startswith("I;16"):
        picture = Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
    if turn is not None:
        picture = picture.transpose(turn)
    dims = shape[1:] if len(shape) == 4 else shape
    channels = dims[0] if dims[0] in (1, 3) else dims[-1] if dims[-1] in (1, 3) else 1
    first = dims[0] == channels and len(dims) == 3
    rows, columns = dims[1:] if first else dims[:2]
    rows, columns = rule.get("size", (rows, columns))
    rows, columns = (picture.size[1] if rows is None else rows), (picture.size[0] if columns is None else columns)
    picture = picture.convert("L" if channels == 1 else "RGB")
    samples = np.asarray(fitted(picture, rule, rows, columns)).reshape(rows, columns, channels)
    if rule.get("colour") == "bgr":
        samples = samples[:, :, ::-1]
    values = samples
    if datatype != "UINT8":
        f32 = np.float32
        mean, std = np.array(rule.get("mean", [0]), f32), np.array(rule.get("std", [1]), f32)
        scaled = samples.astype(f32) * f32(rule["scale"]) if "scale" in rule else samples.astype(f32) / f32(255)
        values = (scaled - mean) / std
        values = values.astype({"FP32": np.float32, "FP16": np.float16, "FP64": np.float64}[datatype])
    if first:
        values = values.transpose(2, 0, 1)
    values = np.ascontiguousarray(values)
    made = list(values.shape) if len(dims) == 3 else [rows, columns]
    CASES.append({
        "file": file,
        "input": {"datatype": datatype, "shape": shape},
        "rule": {"kind": "picture", **rule},
        "shape": ([1] if len(shape) == 4 else []) + made,
        "sha256": hashlib.sha256(values.tobytes()).hexdigest(),
    })


def main():
    write("noise.png", Image.fromarray(noise(23, 37, 3)))
    write("tall.png", Image.fromarray(noise(61, 20, 3, seed=3)))
    write("grey.png", Image.fromarray(noise(31, 40, 1)[:, :, 0]))
    write("noise.bmp", Image.fromarray(noise(23, 37, 3)))
    write("noise.webp", Image.fromarray(noise(23, 37, 3)), lossless=True)
    write("alpha.png", Image.fromarray(noise(9, 11, 4), "RGBA"))
    write("grey-alpha.png", Image.fromarray(noise(9, 11, 2), "LA"))
    write("palette.png", Image.fromarray(noise(16, 16, 3)).quantize(16))
    write("one-bit.png", Image.fromarray(noise(16, 19, 1)[:, :, 0]).convert("1"))
    deep = (np.random.default_rng(5).integers(0, 1 << 16, (12, 15))).astype(np.uint16)
    write("grey16.png", Image.fromarray(deep))
    write_deep_rgb("rgb16.png", np.random.default_rng(6).integers(0, 1 << 16, (12, 15, 3)).astype(">u2"))

    for filter in FILTERS:
        for rows, columns in [(7, 5), (23, 50), (64, 37), (11, 90), (1, 1), (23, 37)]:
            case("noise.png", "UINT8", [rows, columns, 3], filter=filter)
        case("grey.png", "UINT8", [1, 1, 17, 63], filter=filter)
        for fit in ["cover", "contain", "contain-top-left"]:
            for file in ["noise.png", "tall.png"]:
                case(file, "UINT8", [None, 3, 32, 24], fit=fit, filter=filter)
    for file in ["noise.png", "tall.png"]:
        case(file, "FP32", [None, 3, 24, 24], fit="cover", shorter_side=29, mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225])
        case(file, "FP32", [None, 3, 32, 32], fit="contain", pad=114)
        case(file, "FP32", [None, 24, 24, 3], colour="bgr", scale=1.0, mean=[103.939, 116.779, 123.68])
        case(file, "FP16", [None, 3, None, None], mean=[0.5], std=[0.5])
        case(file, "FP64", [3, None, None], size=[10, 12])
        case(file, "FP32", [None, 1, 28, 28])
        case(file, "FP32", [28, 28])
    for file in ["noise.bmp", "noise.webp", "alpha.png", "grey-alpha.png", "palette.png", "one-bit.png", "grey16.png"]:
        case(file, "UINT8", [None, None, None, 3])
        case(file, "UINT8", [None, 1, None, None])

    # Turned by their EXIF orientation: PNG keeps every sample.
    turns = [None, "FLIP_LEFT_RIGHT", "ROTATE_180", "FLIP_TOP_BOTTOM", "TRANSPOSE", "ROTATE_270", "TRANSVERSE", "ROTATE_90"]
    for number, turn in enumerate(turns, start=1):
        exif = Image.Exif()
        exif[0x0112] = number
        write(f"turned-{number}.png", Image.fromarray(noise(4, 6, 3)), exif=exif)
        case(f"turned-{number}.png", "UINT8", [None, None, 3], turn=turn and getattr(Image.Transpose, turn))

    smooth = Image.fromarray(noise(64, 80, 3)).resize((40, 32), Image.Resampling.LANCZOS)
    lossy("plain.jpg", smooth, quality=92)
    lossy("progressive.jpg", smooth, quality=80, progressive=True)
    lossy("grey.jpg", smooth.convert("L"), quality=90)
    lossy("full-colour.jpg", smooth, quality=95, subsampling=0)
    lossy("cmyk.jpg", smooth.convert("CMYK"), quality=95)
    lossy("lossy.webp", smooth, quality=90)
    (HERE / "cases.json").write_text("[\n" + ",\n".join(json.dumps(one) for one in CASES) + "\n]\n")
    broken()


def lossy(name, picture, **options):
    write(name, picture, **options)
    (HERE / f"{name}.rgb").write_bytes(Image.open(HERE / name).convert("RGB").tobytes())


def write_deep_rgb(name, samples):
    """A PNG of 16 bits for each sample, which Pillow does not write. Its upper bytes are the 8-bit samples."""
    import zlib

    rows, columns, _ = samples.shape
    raw = b"".join(b"\0" + samples[row].tobytes() for row in range(rows))

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", columns, rows, 16, 2, 0, 0, 0)
    file = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")
    (HERE / name).write_bytes(file)
    values = (samples >> 8).astype(np.uint8)
    CASES.append({
        "file": name,
        "input": {"datatype": "UINT8", "shape": [None, None, 3]},
        "rule": {"kind": "picture"},
        "shape": [rows, columns, 3],
        "sha256": hashlib.sha256(values.tobytes()).hexdigest(),
    })


def broken():
    """Files that must be refused."""
    frames = [Image.fromarray(noise(8, 8, 3, seed)) for seed in range(2)]
    frames[0].save(HERE / "animated.webp", save_all=True, append_images=frames[1:])
    frames[0].save(HERE / "still.gif")
    # A picture of 50,000 x 50,000 black pixels: 7.5 GB decoded from a file of a few bytes.
    import zlib

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 150_001)) + chunk(b"IEND", b"")
    (HERE / "bomb.png").write_bytes(bomb)


main()
