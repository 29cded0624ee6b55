"""Pictures that nobody photographed: text pages, windows, charts, flat fields, gradients and noise.

Each function takes a generator, which alone decides what is drawn, and a side in px, and returns (H, W, 3)
uint8 with a word on what it is.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

Pixels = NDArray[np.uint8]
Drawn = tuple[Pixels, str]
Random = np.random.Generator

FONTS = Path("/usr/share/fonts")
_SYLLABLES = "a be com den ex is ka lo min ne or pal qui ri sa ter un vo ing ment ly ous str wh".split(" ")  # noqa: SIM905
_LIGHT = ((255, 255, 255), (250, 248, 240), (238, 238, 238))
_DARK = ((20, 20, 24), (39, 40, 34), (0, 43, 54))


@cache
def fonts() -> tuple[str, ...]:
    """Scalable fonts of this machine, sorted; may be empty."""
    return tuple(sorted(str(path) for path in FONTS.rglob("*") if path.suffix.lower() in (".ttf", ".otf")))


def _font(random: Random, size: int) -> Any:
    found = fonts()
    return (
        ImageFont.truetype(found[random.integers(len(found))], size)
        if found
        else ImageFont.load_default(size=size)
    )


def _words(random: Random, count: int) -> list[str]:
    words = ["".join(random.choice(_SYLLABLES, random.integers(1, 4))) for _ in range(count)]
    return [
        word.capitalize() if random.random() < 0.15 else str(random.integers(10_000)) if number else word
        for word, number in zip(words, random.random(count) < 0.06, strict=True)
    ]


def _colour(random: Random, low: int = 0, high: int = 256) -> tuple[int, ...]:
    return tuple(random.integers(low, high, 3).tolist())


def text_page(random: Random, side: int) -> Drawn:
    """A page of text in one font: headings, paragraphs, now and then two columns or a dark theme."""
    dark = random.random() < 0.25
    paper = (_DARK if dark else _LIGHT)[random.integers(3)]
    ink = _colour(random, 190, 256) if dark else _colour(random, 0, 70)
    sheet = Image.new("RGB", (side, side), paper)
    pen = ImageDraw.Draw(sheet)
    size = int(random.integers(9, 22))
    margin, columns = int(random.integers(8, 48)), int(random.integers(1, 3))
    width = (side - margin * (columns + 1)) // columns
    for column in range(columns):
        left = margin + column * (width + margin)
        _write(pen, random, (left, margin, left + width, side - margin), size, ink)
    return np.asarray(sheet), f"text of {size} px, {columns} column(s), {'dark' if dark else 'light'}"


def _write(
    pen: ImageDraw.ImageDraw, random: Random, box: tuple[int, int, int, int], size: int, ink: tuple[int, ...]
) -> None:
    """Fill a box with words, line by line, under headings."""
    left, y, right, bottom = box
    body, heading = _font(random, size), _font(random, round(size * 1.5))
    while y + size < bottom:
        title = random.random() < 0.08
        font, x = (heading if title else body), left
        indent = int(random.integers(0, 3)) * size if random.random() < 0.2 else 0
        for word in _words(random, 4 if title else 30):
            length = font.getlength(word + " ")
            if x + indent + length > right:
                break
            pen.text((x + indent, y), word, fill=ink, font=font)
            x += int(length)
        y += round(size * (2.2 if title else 1.35))
        if random.random() < 0.12:
            y += size


def window_shot(random: Random, side: int) -> Drawn:
    """A desktop with one to three windows: title bar, menu, tool bar, text, lists, buttons, scroll bar."""
    first, second = np.array(_colour(random)), np.array(_colour(random))
    ramp = np.linspace(0, 1, side)[:, None, None]
    desktop = np.broadcast_to(first + (second - first) * ramp, (side, side, 3)).round().astype(np.uint8)
    sheet = Image.fromarray(np.ascontiguousarray(desktop))
    pen = ImageDraw.Draw(sheet)
    count = int(random.integers(1, 4))
    for _ in range(count):
        left, top = random.integers(0, side // 3, 2).tolist()
        width, height = random.integers(side // 2, side, 2).tolist()
        _window(pen, random, (left, top, min(left + width, side - 1), min(top + height, side - 1)))
    return np.asarray(sheet), f"{count} window(s)"


def _window(pen: ImageDraw.ImageDraw, random: Random, box: tuple[int, int, int, int]) -> None:
    left, top, right, bottom = box
    dark = random.random() < 0.4
    face = (_DARK if dark else _LIGHT)[random.integers(3)]
    ink = (225, 225, 225) if dark else (30, 30, 30)
    edge = tuple((value + 128) // 2 for value in face)
    size = int(random.integers(10, 16))
    font, line = _font(random, size), size * 2
    pen.rectangle(box, fill=face, outline=edge)
    pen.rectangle((left, top, right, top + line), fill=_colour(random, 40, 220))
    pen.text((left + 8, top + size // 2), " ".join(_words(random, 3)), fill=(255, 255, 255), font=font)
    pen.text((left + 8, top + line + 4), "   ".join(_words(random, 5)), fill=ink, font=font)
    y, x = top + 2 * line, left + 8
    while x + 24 < right - 8:  # tool bar
        shape = pen.ellipse if random.random() < 0.5 else pen.rectangle
        shape((x, y, x + 16, y + 16), fill=_colour(random), outline=edge)
        x += 24
    pen.line((left, y + 22, right, y + 22), fill=edge)
    split = left + (right - left) // 4 if random.random() < 0.6 else left
    if split > left:
        _write(pen, random, (left + 8, y + 28, split, bottom - 8), size, ink)
        pen.line((split, y + 22, split, bottom), fill=edge)
    _write(pen, random, (split + 8, y + 28, right - 24, bottom - line - 8), size, ink)
    if bottom - line > y + 30:  # else there is no room for them
        pen.rectangle((right - 12, y + 24, right - 2, bottom - 2), fill=edge)
        pen.rounded_rectangle((right - 100, bottom - line, right - 24, bottom - 6), 4, fill=_colour(random))
        pen.text((right - 92, bottom - line + 3), _words(random, 1)[0][:8], fill=ink, font=font)


def chart(random: Random, side: int) -> Drawn:
    """A chart as matplotlib draws it; raises ModuleNotFoundError without matplotlib."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(side / 100, side / 100), dpi=100, facecolor=random.choice(["w", "w", "0.95"]))
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0.14, 0.12, 0.82, 0.78))
    n, kind = (
        int(random.integers(5, 60)),
        str(random.choice(["line", "bar", "scatter", "histogram", "image"])),
    )
    if kind == "line":
        for _ in range(random.integers(1, 6)):
            axes.plot(random.normal(size=n).cumsum(), color=random.random(3), marker=random.choice(["", "o"]))
    elif kind == "bar":
        axes.bar(range(n), random.gamma(2, size=n), color=random.random(3))
    elif kind == "scatter":
        axes.scatter(*random.normal(size=(2, 4 * n)), c=random.random(4 * n), s=random.integers(4, 60))
    elif kind == "histogram":
        axes.hist(random.normal(size=(300, 2)), bins=n, stacked=True)
    else:
        field = random.random((n, n)).cumsum(axis=0)
        axes.imshow(field, aspect="auto", cmap=str(random.choice(["viridis", "jet"])))
    axes.set_title(" ".join(_words(random, 3)))
    axes.set_xlabel(" ".join(_words(random, 2)))
    axes.grid(random.random() < 0.5)
    encoded = io.BytesIO()
    figure.savefig(encoded, format="png", dpi=100)
    with Image.open(encoded) as image:
        return np.asarray(image.convert("RGB")), f"{kind} chart"


def flat(random: Random, side: int) -> Drawn:
    """A constant, a gradient along a line or from a point, stripes of constants, or one of them dithered."""
    kind = str(random.choice(["constant", "linear", "radial", "stripes"]))
    first, second = np.array(_colour(random), float), np.array(_colour(random), float)
    y, x = np.mgrid[0:side, 0:side] / side
    if kind == "constant":
        mix = np.zeros((side, side))
    elif kind == "linear":
        angle = random.uniform(0, 2 * np.pi)
        mix = (np.cos(angle) * x + np.sin(angle) * y) % 1.0 if random.random() < 0.2 else (x + y) / 2
        mix = np.rot90(mix, random.integers(4))
    elif kind == "radial":
        mix = np.clip(np.hypot(x - random.random(), y - random.random()), 0, 1)
    else:
        mix = np.floor(x * random.integers(2, 9)) % 2
    picture = first + (second - first) * mix[..., None]
    dithered = random.random() < 0.3
    if dithered:
        picture = picture + random.uniform(-0.5, 0.5, picture.shape)
    return np.clip(np.rint(picture), 0, 255).astype(np.uint8), kind + (", dithered" if dithered else "")


def noise(random: Random, side: int) -> Drawn:
    """Independent noise, uniform or Gaussian, in grey or colour, or noise with a falling spectrum."""
    channels = 1 if random.random() < 0.3 else 3
    kind = str(random.choice(["uniform", "Gaussian", "1/f^a"]))
    if kind == "uniform":
        field = random.uniform(0, 255, (side, side, channels))
    else:
        field = random.normal(size=(side, side, channels))
        if kind == "1/f^a":
            radius = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)) + 1 / side
            slope = random.uniform(0.3, 2.0)
            spectrum = np.fft.rfft2(field, axes=(0, 1)) / radius[..., None] ** slope
            field = np.fft.irfft2(spectrum, s=(side, side), axes=(0, 1))
        field = 128 + random.uniform(2, 64) * field / field.std()
    pixels = np.clip(np.rint(np.broadcast_to(field, (side, side, 3))), 0, 255).astype(np.uint8)
    return pixels, f"{kind} noise, {'grey' if channels == 1 else 'colour'}"


DRAWN: Sequence[tuple[str, Any]] = (
    ("text-pages", text_page),
    ("windows", window_shot),
    ("charts", chart),
    ("flat", flat),
    ("noise", noise),
)
