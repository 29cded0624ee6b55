"""The demo's picture: for each photograph both decoders, their difference, and what the detector says."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from stablesig.detect_output import format_p
from stablesig_detector.detection import Detection
from stablesig_train.report import difference

SHOWN_PX = 256  # the middle of every picture, pixel by pixel: scaling would hide what there is to see
MAGNIFIED = 8
_MARGIN = 16
_PANEL = 384  # width of the text
_TEXT, _TITLE = 15, 22  # px
_LINE = 24
_PAPER, _INK, _FAINT = (250, 250, 248), (28, 30, 34), (120, 122, 128)
_FOUND, _NOT_FOUND = (20, 122, 72), (164, 98, 20)
_BAR_FULL = 20.0  # -log10 p at which a bar is full


@dataclass(frozen=True)
class Panel:
    """One row. `original`, `watermarked`: (H, W, 3) uint8. `control`: of the original decoder, no attack."""

    name: str
    original: NDArray[np.uint8]
    watermarked: NDArray[np.uint8]
    psnr_db: float
    verdicts: Sequence[tuple[str, Detection]]
    control: Detection


def draw(panels: Sequence[Panel], subtitle: str, path: Path) -> None:
    """Write the picture of `panels` as a PNG file at `path`."""
    row = SHOWN_PX + 2 * _MARGIN
    top = 2 * _MARGIN + _TITLE + 2 * _LINE
    left = [_MARGIN + column * (SHOWN_PX + _MARGIN) for column in range(4)]
    sheet = Image.new("RGB", (left[3] + _PANEL + _MARGIN, top + row * len(panels)), _PAPER)
    pen = ImageDraw.Draw(sheet)
    title, text = ImageFont.load_default(size=_TITLE), ImageFont.load_default(size=_TEXT)
    pen.text((left[0], _MARGIN), "stablesig demo", fill=_INK, font=title)
    beside = left[0] + pen.textlength("stablesig demo", font=title) + _MARGIN
    pen.text((beside, _MARGIN + _TITLE - _TEXT), subtitle, fill=_FAINT, font=text)
    names = ("original decoder", "watermarked decoder", f"difference x{MAGNIFIED}", "what the detector says")
    for x, name in zip(left, names, strict=True):
        pen.text((x, top - _LINE - 2), name, fill=_INK, font=text)
    for index, panel in enumerate(panels):
        y = top + index * row
        original, marked = _middle(panel.original), _middle(panel.watermarked)
        for x, picture in zip(
            left, (original, marked, difference(original, marked, MAGNIFIED)), strict=False
        ):
            sheet.paste(Image.fromarray(picture), (x, y))
        _write_verdicts(pen, (left[3], y), panel, text)
    sheet.save(path, "PNG")


def _middle(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    top, left = (max(0, (side - SHOWN_PX) // 2) for side in picture.shape[:2])
    return picture[top : top + SHOWN_PX, left : left + SHOWN_PX]


def _write_verdicts(pen: ImageDraw.ImageDraw, corner: tuple[int, int], panel: Panel, font: Any) -> None:
    """The name, then an attack a line: p-value, verdict, a bar of -log10 p and a tick at the threshold."""
    x, y = corner
    pen.text((x, y), panel.name, fill=_INK, font=font)
    pen.text((x + 110, y), f"PSNR {panel.psnr_db:.1f} dB", fill=_FAINT, font=font)
    for line, (name, found) in enumerate([*panel.verdicts, ("original decoder", panel.control)]):
        at = y + 34 + line * 44 + (8 if line == len(panel.verdicts) else 0)
        colour = _FOUND if found.detected else _FAINT if line == len(panel.verdicts) else _NOT_FOUND
        pen.text((x, at), name, fill=_INK, font=font)
        pen.text((x + 140, at), f"p = {format_p(found.log10_p_value)}", fill=_INK, font=font)
        pen.text((x + 250, at), "detected" if found.detected else "not detected", fill=colour, font=font)
        full = _PANEL - _MARGIN
        pen.rectangle((x, at + 23, x + full, at + 28), fill=(232, 232, 228))
        length = full * min(1.0, max(0.0, -found.log10_p_value / _BAR_FULL))
        if length >= 1:
            pen.rectangle((x, at + 23, x + length, at + 28), fill=colour)
        threshold = x + full * min(1.0, -math.log10(found.fpr) / _BAR_FULL)
        pen.line((threshold, at + 21, threshold, at + 30), fill=_INK)
