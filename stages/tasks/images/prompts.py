"""Images as prompts: handwritten digits on canvases of noise, made here, or a folder of pictures.

A prompt's `text` is the image itself, as a data URI of a PNG (RFC 2397): a table holds all that a model sees, and any
browser shows it. The model side makes pixels of it by the model's own image processor. All images are squares, so that
no processor makes different sizes of them.

Builtin: a digit of scikit-learn's (8 x 8, from the UCI test set, public) is drawn at `SCALE` times its size, at a
random place, bright, on gray noise: most of a canvas is background, where there is nothing to say.
"""

import base64
import io
from pathlib import Path

import numpy as np
from PIL import Image

from stages.store import source
from stages.store.errors import UserError
from stages.tasks.images.settings import Settings
from stages.tasks.prompt import Prompt, few_enough, stream

SCALE = 3  # pixels of a canvas per pixel of a digit
PIXELS, DIGITS = 1_000_000_000, 1_000_000  # of all prompts
GRAYS = 16  # of noise, from black: a quarter of the scale
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")


def build(settings: Settings, seed: int) -> list[Prompt]:
    """Build `images` prompts; asking for more keeps the first ones.

    Raises `UserError` where a folder has fewer pictures, or a file is none.
    """
    few_enough(f"tasks.images.images = {settings.images}", settings.images)
    asked = f"tasks.images.images = {settings.images}, side = {settings.side}, digits = {settings.digits}"
    few_enough(asked, settings.images * settings.side**2, "pixels", PIXELS)
    few_enough(asked, settings.images * settings.digits, "digits", DIGITS)
    made = _canvases(settings, seed) if settings.source == "builtin" else _pictures(settings, seed)
    return [
        Prompt(id=f"images/{condition}/{number:04d}", condition=condition, cluster=name, text=_uri(picture))
        for number, (condition, name, picture) in enumerate(made)
    ]


def _canvases(settings: Settings, seed: int) -> list[tuple[str, str, Image.Image]]:
    from sklearn.datasets import load_digits

    digits = load_digits().images  # (1797, 8, 8), 0 to 16
    size = digits.shape[1] * SCALE
    canvases = []
    for number in range(settings.images):
        rng = stream(seed, f"images/canvas/{number}")
        canvas = rng.integers(0, GRAYS, size=(settings.side, settings.side)) * 4
        for _ in range(settings.digits):
            top, left = rng.integers(0, settings.side - size, size=2, endpoint=True)
            digit = digits[rng.integers(len(digits))].repeat(SCALE, 0).repeat(SCALE, 1) * (255 / 16)
            place = canvas[top : top + size, left : left + size]
            np.maximum(place, digit.astype(int), out=place)
        canvases.append(("canvas", f"canvas/{number:04d}", Image.fromarray(canvas.astype(np.uint8))))
    return canvases


def _pictures(settings: Settings, seed: int) -> list[tuple[str, str, Image.Image]]:
    folder = Path(settings.path)
    found = sorted(file for file in folder.rglob("*") if file.suffix.lower() in SUFFIXES and not file.is_dir())
    files = [source.regular(file, f"a picture ({', '.join(SUFFIXES)})") for file in found]
    if len(files) < settings.images:
        raise UserError(
            f"{folder}: {len(files)} pictures ({', '.join(SUFFIXES)}); tasks.images asks for {settings.images}"
        )
    order = stream(seed, "images/pictures").permutation(len(files))
    return [
        ("picture", files[place].relative_to(folder).as_posix(), _square(files[place], settings.side))
        for place in order[: settings.images]
    ]


def _square(file: Path, side: int) -> Image.Image:
    """Read a picture, cut to its central square, with `side` pixels a side."""
    try:
        with Image.open(file) as opened:
            picture = opened.convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:  # SyntaxError: a PNG's chunks
        raise UserError(f"{file}: not a readable picture ({' '.join(str(error).split())[:100]})") from None
    short = min(picture.size)
    left, top = ((length - short) // 2 for length in picture.size)
    return picture.crop((left, top, left + short, top + short)).resize((side, side), Image.Resampling.BICUBIC)


def _uri(picture: Image.Image) -> str:
    stored = io.BytesIO()
    picture.save(stored, format="PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(stored.getvalue()).decode()}"
