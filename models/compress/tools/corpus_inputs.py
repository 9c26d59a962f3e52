"""Real things turned into inputs: photographs, printed lines and pages, files, sentences.

Everything is drawn with a seeded generator. Photographs are those of the scikit-image wheel; text is that of the docstrings of
Python's standard library, printed with the fonts of the matplotlib wheel over pieces of the photographs, with noise, blur and a
small rotation. Two scanned pages come with scikit-image.
"""

import ast
import io
import re
import sysconfig
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

FONTS = (
    "DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSerif", "DejaVuSerif-Italic", "DejaVuSansMono",
    "STIXGeneral", "STIXGeneralBol", "STIXGeneralItalic", "cmr10",
)
PHOTOGRAPHS = (
    "astronaut.png", "camera.png", "chelsea.png", "coffee.png", "coins.png", "motorcycle_left.png", "motorcycle_right.png",
    "rocket.jpg", "retina.jpg", "ihc.png", "hubble_deep_field.jpg", "brick.png", "grass.png", "gravel.png", "moon.png",
)
SCANS = ("page.png", "text.png")
SENTENCE_CHARACTERS = (25, 200)


def pictures(wheel, names) -> list[Image.Image]:
    return [Image.open(io.BytesIO(wheel.read(f"skimage/data/{name}"))).convert("RGB") for name in names]


def crops(images, count: int, size: int, rng) -> np.ndarray:
    """Square pieces of half a picture's side and more, normalised as ImageNet's networks want them: f32[count, 3, size, size]."""
    mean, deviation = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    made = []
    for at in range(count):
        image = images[at % len(images)]
        side = int(min(image.size) * rng.uniform(0.3, 1.0))
        left, top = (int(rng.integers(0, extent - side + 1)) for extent in image.size)
        piece = image.crop((left, top, left + side, top + side)).resize((size, size), Image.Resampling.BILINEAR)
        made.append(((np.asarray(piece) / 255 - mean) / deviation).transpose(2, 0, 1))
    return np.stack(made).astype(np.float32)


def docstrings() -> list[tuple[str, str]]:
    """(module, docstring) of the modules, classes and functions of the standard library, in order of their files."""
    found = []
    for path in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py")):
        try:
            tree = ast.parse(path.read_text(encoding="utf-8"))
        except (SyntaxError, UnicodeDecodeError):
            continue
        kinds = (ast.Module, ast.ClassDef, ast.FunctionDef)
        texts = [ast.get_docstring(node) for node in ast.walk(tree) if isinstance(node, kinds)]
        found += [(path.stem, text) for text in texts if text]
    return found


def sentences() -> list[tuple[str, str]]:
    """(module, sentence), without repetitions."""
    shortest, longest = SENTENCE_CHARACTERS
    found = {}
    for module, text in docstrings():
        for paragraph in text.split("\n\n"):
            for sentence in re.split(r"(?<=[.!?])\s+", " ".join(paragraph.split())):
                if shortest <= len(sentence) <= longest and sentence[0].isupper() and sentence.isascii():
                    found.setdefault(sentence, module)
    return [(module, sentence) for sentence, module in found.items()]


class Press:
    """Prints text on paper that is a piece of a photograph, bleached."""

    def __init__(self, fonts_wheel, photographs, rng):
        folder = "matplotlib/mpl-data/fonts/ttf/"
        self.fonts = [fonts_wheel.read(f"{folder}{name}.ttf") for name in FONTS]
        self.photographs, self.rng = photographs, rng
        text = " ".join(sentence for _, sentence in sentences())
        self.words = [word for word in text.split() if len(word) < 15]

    def font(self, size: int):
        return ImageFont.truetype(io.BytesIO(self.fonts[self.rng.integers(len(self.fonts))]), size)

    def phrase(self, characters: int) -> str:
        """Consecutive words of at most so many characters."""
        at = int(self.rng.integers(len(self.words) - 40))
        phrase = self.words[at]
        for word in self.words[at + 1 : at + 40]:
            if len(phrase) + 1 + len(word) > characters:
                break
            phrase += " " + word
        return phrase

    def paper(self, width: int, height: int) -> Image.Image:
        photograph = self.photographs[self.rng.integers(len(self.photographs))]
        left, top = (int(self.rng.integers(0, extent // 2)) for extent in photograph.size)
        piece = photograph.crop((left, top, left + photograph.width // 2, top + photograph.height // 2))
        piece = piece.resize((width, height)).filter(ImageFilter.GaussianBlur(float(self.rng.uniform(1, 4))))
        white = Image.new("RGB", (width, height), tuple(int(level) for level in self.rng.integers(200, 256, 3)))
        return Image.blend(piece, white, float(self.rng.uniform(0.6, 1.0)))

    def ink(self) -> tuple:
        return tuple(int(level) for level in self.rng.integers(0, 90, 3))

    def worn(self, image: Image.Image) -> Image.Image:
        """As a camera sees it: turned a little, blurred, noisy."""
        corner = image.getpixel((1, 1))
        image = image.rotate(float(self.rng.normal(0, 1.2)), Image.Resampling.BILINEAR, fillcolor=corner)
        image = image.filter(ImageFilter.GaussianBlur(float(self.rng.uniform(0, 0.9))))
        noisy = np.asarray(image) + self.rng.normal(0, self.rng.uniform(0, 10), (image.height, image.width, 3))
        return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))

    def line(self) -> tuple[Image.Image, str]:
        text, font = self.phrase(int(self.rng.integers(5, 26))), self.font(int(self.rng.integers(22, 40)))
        left, top, right, bottom = font.getbbox(text)
        border = [int(pixels) for pixels in self.rng.integers(3, 10, 4)]
        image = self.paper(right - left + border[0] + border[1], bottom - top + border[2] + border[3])
        ImageDraw.Draw(image).text((border[0] - left, border[2] - top), text, font=font, fill=self.ink())
        return self.worn(image), text

    def page(self, size: int) -> Image.Image:
        image, at = self.paper(size, size), int(self.rng.integers(4, 30))
        draw = ImageDraw.Draw(image)
        while at < size - 30:
            height = int(self.rng.integers(11, 30))
            room = int((size - 20) / (height * 0.6))
            left = int(self.rng.integers(4, 40))
            draw.text((left, at), self.phrase(int(self.rng.integers(3, room + 1))), font=self.font(height), fill=self.ink())
            at += int(height * self.rng.uniform(1.2, 2.2))
        return self.worn(image)


def strip(image: Image.Image, width: int) -> np.ndarray:
    """A line as the recogniser and the classifier take it: 48 high, -1 to 1, zeros on the right: f32[3, 48, width]."""
    resized = image.resize((min(width, max(8, round(48 * image.width / image.height))), 48), Image.Resampling.BILINEAR)
    found = np.zeros((3, 48, width), np.float32)
    found[:, :, : resized.width] = (np.asarray(resized)[:, :, ::-1] / 127.5 - 1).transpose(2, 0, 1)
    return found


def window(image: Image.Image, size: int, rng) -> np.ndarray:
    """A square of a page as the detector takes it: f32[3, size, size], -1 to 1."""
    scale = max(1.0, size / min(image.size))
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BILINEAR)
    left, top = (int(rng.integers(0, extent - size + 1)) for extent in image.size)
    piece = np.asarray(image.crop((left, top, left + size, top + size)))
    return (piece[:, :, ::-1] / 127.5 - 1).transpose(2, 0, 1).astype(np.float32)


def file_bytes(content: bytes) -> np.ndarray:
    """A file as magika 1.0 takes it (config of its model standard_v3_3): the first 1,024 bytes after white space, then the last
    1,024 before white space, of at most 4,096 at either end; 256 where there are too few: i32[2048]."""
    first, last = content[:4096].lstrip()[:1024], content[-4096:].rstrip()[-1024:]
    found = np.full(2048, 256, np.int32)
    found[: len(first)] = np.frombuffer(first, np.uint8)
    found[2048 - len(last) :] = np.frombuffer(last, np.uint8)
    return found


def ends(path: Path) -> bytes:
    """The file, without the middle when it is long."""
    with path.open("rb") as file:
        if path.stat().st_size <= 8192:
            return file.read()
        first = file.read(4096)
        file.seek(-4096, io.SEEK_END)
        return first + file.read()


def files(roots, count: int, rng) -> list[bytes]:
    """Contents of files below these folders, as many kinds (by the ends of their names) as there are, equally often."""
    kinds = {}
    for root in roots:
        for path in sorted(Path(root).rglob("*")):
            if path.is_file() and not path.is_symlink() and ".git" not in path.parts and path.stat().st_size >= 64:
                kinds.setdefault(path.suffix.lower(), []).append(path)
    for paths in kinds.values():
        rng.shuffle(paths)
    found = []
    while len(found) < count and any(kinds.values()):
        for kind in sorted(kinds):
            if kinds[kind] and len(found) < count:
                found.append(ends(kinds[kind].pop()))
    order = rng.permutation(len(found))
    return [found[at] for at in order]
