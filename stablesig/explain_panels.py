"""The panels of an explanation, drawn with Pillow: heat map, colour bar, curve, frequency planes, scatter.

Every function draws into a box (left, top, right, bottom) of a sheet, px, and computes nothing but positions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from stablesig.local_evidence import LocalEvidence
from stablesig_detector.decoding import ImageArray
from stablesig_detector.image import as_uint8
from stablesig_detector.planes import PLANES, WINDOW

Box = tuple[int, int, int, int]
Colour = tuple[int, int, int]

PAPER, INK, FAINT, RULE = (250, 250, 248), (28, 30, 34), (110, 112, 118), (214, 214, 208)
FOUND, NOT_FOUND = (20, 122, 72), (164, 98, 20)
_WEAK, _STRONG = (178, 58, 44), (38, 92, 168)  # ends of the diverging scale: negative, positive
# Heat: nothing is dark and colourless, the threshold turns to light; in order of lightness for every eye.
_HEAT = (
    (0.0, (24, 22, 34)),
    (0.35, (86, 30, 96)),
    (0.6, (188, 55, 84)),
    (0.8, (249, 142, 8)),
    (1.0, (252, 244, 165)),
)
_HEAT_OVER = 0.7  # how much of the heat map covers the picture under it
MOST_DECADES = 12.0  # of p, at which the heat scale ends
_TILE_OUTLINE = (255, 255, 255)


@dataclass(frozen=True)
class Pen:
    """A sheet to draw on, with its fonts."""

    sheet: Image.Image
    draw: ImageDraw.ImageDraw

    @classmethod
    def on(cls, sheet: Image.Image) -> Pen:
        return cls(sheet, ImageDraw.Draw(sheet))

    def text(
        self, at: tuple[float, float], text: str, size: int = 15, fill: Colour = INK, anchor: str = "la"
    ) -> float:
        """Write one line; returns its length in px."""
        font = _font(size)
        self.draw.text(at, text, fill=fill, font=font, anchor=anchor)
        return self.draw.textlength(text, font=font)

    def paragraph(self, box: Box, text: str, size: int = 14, fill: Colour = FAINT) -> int:
        """Write `text` in lines that fit the box's width; returns where the next line would begin."""
        left, top, right, _ = box
        line, font = "", _font(size)
        for word in [*text.split(), ""]:
            longer = f"{line} {word}".strip()
            if word and self.draw.textlength(longer, font=font) <= right - left:
                line = longer
                continue
            self.text((left, top), line, size, fill)
            top += round(size * 1.4)
            line = word
        return top

    def fitted(self, text: str, width: float, size: int) -> str:
        """`text`, with its middle left out if it is wider than `width` px."""
        font = _font(size)
        if self.draw.textlength(text, font=font) <= width:
            return text
        keep = len(text)
        while (
            keep > 2
            and self.draw.textlength(text[: keep // 2] + "..." + text[-keep // 2 :], font=font) > width
        ):
            keep -= 1
        return text[: keep // 2] + "..." + text[-keep // 2 :]


_fonts: dict[int, Any] = {}


def _font(size: int) -> Any:
    if size not in _fonts:
        _fonts[size] = ImageFont.load_default(size=size)
    return _fonts[size]


def fit(pixels: ImageArray, box: Box) -> tuple[Image.Image, int, int]:
    """The picture as large as the box allows, and where it goes: at the box's top, across in its middle."""
    left, top, right, bottom = box
    height, width = pixels.shape[:2]
    ratio = min((right - left) / width, (bottom - top) / height)
    size = max(1, round(width * ratio)), max(1, round(height * ratio))
    step = max(1, int(0.25 / ratio))  # at four times the size a pixel more or less is not seen; memory is
    picture = Image.fromarray(as_uint8(pixels[::step, ::step]))
    kind = Image.Resampling.LANCZOS if ratio < 1 else Image.Resampling.BICUBIC
    return picture.resize(size, kind), (left + right - size[0]) // 2, top


def draw_heat_map(pen: Pen, box: Box, pixels: ImageArray, local: LocalEvidence) -> int:
    """Every tile as the rectangle round its centre that is nearer to it than to any other, over the picture.

    Returns where the picture ends, px from the sheet's top.
    """
    picture, left, top = fit(pixels, box)
    height, width = pixels.shape[:2]
    rows, columns = _edges(local.tops, local.side, height), _edges(local.lefts, local.side, width)
    x = left + np.rint(columns * picture.width / width).astype(int)
    y = top + np.rint(rows * picture.height / height).astype(int)
    heat = Image.new("RGB", picture.size)
    layer = ImageDraw.Draw(heat)
    for row, column in np.ndindex(local.log10_p.shape):
        corner = (x[column] - left, y[row] - top, x[column + 1] - left - 1, y[row + 1] - top - 1)
        layer.rectangle(corner, fill=heat_colour(-float(local.log10_p[row, column]) / MOST_DECADES))
    grey = picture.convert("L").point(lambda value: value * 3 // 5).convert("RGB")  # lets the colours speak
    pen.sheet.paste(Image.blend(grey, heat, _HEAT_OVER), (left, top))
    for line in _outline(local.detected, x, y):
        pen.draw.line(line, fill=_TILE_OUTLINE, width=2)
    return top + picture.height


def _edges(starts: NDArray[np.intp], side: int, length: int) -> NDArray[np.float64]:
    """Half way between the centres of neighbouring tiles; the ends of the image at the ends."""
    centres = starts + side / 2
    return np.concatenate([[0.0], (centres[1:] + centres[:-1]) / 2, [float(length)]])


def _outline(
    inside: NDArray[np.bool_], x: NDArray[np.int64], y: NDArray[np.int64]
) -> list[tuple[int, int, int, int]]:
    """The lines that part tiles inside from tiles outside; the image's own border is none."""
    lines = []
    for row, column in np.argwhere(inside[:, 1:] != inside[:, :-1]):
        lines.append((x[column + 1], y[row], x[column + 1], y[row + 1]))
    for row, column in np.argwhere(inside[1:] != inside[:-1]):
        lines.append((x[column], y[row + 1], x[column + 1], y[row + 1]))
    return [tuple(int(value) for value in line) for line in lines]  # type: ignore[misc]


def draw_heat_scale(pen: Pen, box: Box, threshold_log10: float) -> None:
    """The colours of the heat map with their p-values, and where the threshold is."""
    left, top, right, bottom = box
    for column in range(left, right):
        colour = heat_colour((column - left) / (right - left))
        pen.draw.line((column, top, column, bottom), fill=colour)
    for decades in range(0, int(MOST_DECADES) + 1, 3):
        x = left + (right - left) * decades / MOST_DECADES
        label = "p = 1" if decades == 0 else f"1e-{decades}" + (" or less" if decades == MOST_DECADES else "")
        anchor = "la" if decades == 0 else "ra" if decades == MOST_DECADES else "ma"
        pen.text((x, bottom + 4), label, 12, FAINT, anchor)
    x = left + (right - left) * min(1.0, -threshold_log10 / MOST_DECADES)
    pen.draw.line((x, top - 5, x, bottom + 3), fill=INK, width=2)
    pen.text((x, top - 7), "detected from here", 12, INK, "ms" if x < right - 60 else "rs")


def heat_colour(share: float) -> Colour:
    """0 (nothing) to 1 (MOST_DECADES or more) -> RGB."""
    share = min(max(share, 0.0), 1.0)
    for (low, dark), (high, light) in pairwise(_HEAT):
        if share <= high:
            return _mixed(dark, light, (share - low) / (high - low))
    return _HEAT[-1][1]


def _mixed(first: Colour, second: Colour, share: float) -> Colour:
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(first, second, strict=True))
    return red, green, blue


def draw_null(pen: Pen, box: Box, dimension: int, needed: float, statistic: float, colour: Colour) -> None:
    """The density of the statistic over keys drawn at random, the threshold, and this key's statistic.

    Over a uniform direction the cosine has the density (1 - s^2)^((D - 3)/2) up to a factor (Li 2011).
    """
    left, top, right, bottom = box
    low = min(-0.3, statistic - 0.05)
    needed = min(needed, 1.0)
    high = max(0.5, needed + 0.1, statistic + 0.1)
    base = bottom - 24

    def x(s: float) -> float:
        return left + (right - left) * (s - low) / (high - low)

    s = np.linspace(low, high, right - left)
    density = np.exp((dimension - 3) / 2 * np.log1p(-np.minimum(s * s, 1 - 1e-12)))
    curve = list(zip((x(value) for value in s), base - density * (base - top - 22), strict=True))
    pen.draw.polygon([(left, base), *curve, (right, base)], fill=(222, 224, 228))
    pen.draw.line(curve, fill=FAINT)
    pen.draw.line((left, base, right, base), fill=INK)
    for tick in np.arange(math.ceil(low * 5) / 5, high, 0.2):
        pen.draw.line((x(tick), base, x(tick), base + 4), fill=INK)
        pen.text((x(tick), base + 7), f"{tick + 0.0:.1f}", 12, FAINT, "ma")
    pen.draw.line((x(needed), base - 60, x(needed), base), fill=INK, width=2)
    left_of = statistic > needed or x(needed) > right - 100
    pen.text(
        (x(needed) + (-5 if left_of else 5), base - 50),
        f"needed {needed:.3f}",
        13,
        INK,
        "rs" if left_of else "ls",
    )
    pen.draw.line((x(statistic), base - 110, x(statistic), base), fill=colour, width=3)
    anchor = "rs" if x(statistic) > right - 70 else "ls" if x(statistic) < left + 70 else "ms"
    pen.text((x(statistic), base - 114), f"this key {statistic:+.3f}", 14, colour, anchor)


def draw_planes(pen: Pen, box: Box, rows: Sequence[tuple[str, NDArray[np.float64]]], cell: int) -> None:
    """One row for each of `rows` (title, (D,) values, about -1..1), one column for each of PLANES."""
    left, top, right, bottom = box
    middle = WINDOW // 2 - 1
    side = (2 * middle + 1) * cell
    gap = 14
    title_width = right - left - len(PLANES) * (side + gap)
    for column, plane in enumerate(PLANES):
        x = left + title_width + column * (side + gap)
        pen.text((x + side / 2, top), plane.name.replace(" difference", ""), 13, FAINT, "ma")
    for index, (title, values) in enumerate(rows):
        y = top + 22 + index * (side + gap)
        pen.paragraph((left, y + side // 2 - 30, left + title_width - 12, bottom), title, 14, INK)
        start = 0
        for column, plane in enumerate(PLANES):
            x = left + title_width + column * (side + gap)
            found = zip(plane.bins, values[start : start + len(plane.bins)], strict=True)
            for (ky, kx), value in found:
                for sign in (1, -1):  # the other half plane repeats this one
                    cx, cy = x + (middle + sign * kx) * cell, y + (middle - sign * ky) * cell
                    colour = diverging(float(value))
                    pen.draw.rectangle((cx, cy, cx + cell - 2, cy + cell - 2), fill=colour)
            start += len(plane.bins)


def diverging(value: float) -> Colour:
    """-1 (red) by 0 (near white) to 1 (blue)."""
    share = min(abs(value), 1.0)
    return _mixed((236, 236, 232), _STRONG if value > 0 else _WEAK, share)


def draw_scatter(
    pen: Pen, box: Box, key: NDArray[np.float64], image: NDArray[np.float64], statistic: float
) -> None:
    """One dot a feature: what the key asks for, what the image has; the line's slope is the statistic."""
    left, top, right, bottom = box
    reach = 3.4  # standard deviations of a random vector's entries
    pen.draw.rectangle(box, outline=RULE)
    x0, y0 = (left + right) / 2, (top + bottom) / 2
    pen.draw.line((left, y0, right, y0), fill=RULE)
    pen.draw.line((x0, top, x0, bottom), fill=RULE)
    across, down = (right - left) / 2 / reach, (bottom - top) / 2 / reach
    for u, phi in zip(key, image, strict=True):
        x = x0 + across * min(max(float(u), -reach), reach)
        y = y0 - down * min(max(float(phi), -reach), reach)
        pen.draw.ellipse((x - 3, y - 3, x + 3, y + 3), fill=_STRONG if u * phi > 0 else _WEAK)
    x, y = across * reach, down * reach * statistic
    pen.draw.line((x0 - x, y0 + y, x0 + x, y0 - y), fill=INK, width=2)
    pen.text((right - 6, bottom - 6), "what the key asks for", 13, FAINT, "rs")
    pen.text((left + 6, top + 6), "what the image has", 13, FAINT)
