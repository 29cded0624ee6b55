"""The picture of `stablesig detect --explain`: where the watermark shows, and the spectrum against the key.

Pillow and NumPy draw it, so that the base install can.
"""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from stablesig.detect_output import (
    VERDICTS,
    count,
    format_p,
    geometry_words,
    needed_statistic,
    one_in,
    price,
)
from stablesig.explain_panels import (
    FAINT,
    FOUND,
    INK,
    NOT_FOUND,
    PAPER,
    RULE,
    Pen,
    draw_heat_map,
    draw_heat_scale,
    draw_null,
    draw_planes,
    draw_scatter,
    fit,
)
from stablesig.local_evidence import LocalEvidence, features_under, geometry_of, local_evidence

if TYPE_CHECKING:
    from stablesig_detector.decoding import ImageArray
    from stablesig_detector.detection import Detection
    from stablesig_detector.whitening import Whitening

_WIDTH, _MARGIN, _GUTTER = 1500, 36, 36
_PANEL = (_WIDTH - 2 * _MARGIN - 2 * _GUTTER) // 3
_PICTURE = 360  # height of the two pictures
_CELL = 11  # px of a frequency
_TOP = 150  # where the first row begins
_SECOND = _TOP + 28 + _PICTURE + 170
_HEIGHT = _SECOND + 28 + 22 + 3 * 15 * _CELL + 2 * 14 + 90
_KEY_CAVEAT = (
    "This picture shows the direction of the key about as well as the public key file does: keep the one as "
    "private as the other."
)


@dataclass(frozen=True, eq=False)
class Explanation:
    """What the picture is drawn from.

    name: of the image.  pixels: (H, W, 3) RGB in 0..255.  found: the evidence of the whole image.  key: what
    is known of the key, in a few words.  image_axes, key_axes: (D,) the whitened features and the key's
    direction, both turned so that one entry belongs to one frequency, and of norm 1 (0 where the image gives
    nothing).
    """

    name: str
    pixels: ImageArray
    found: Detection
    key: str
    local: LocalEvidence
    image_axes: NDArray[np.float64]
    key_axes: NDArray[np.float64]


def explain(
    name: str,
    pixels: ImageArray,
    found: Detection,
    direction: NDArray[np.float64],
    key: str,
    whitening: Whitening,
) -> Explanation:
    """Measure what the picture shows. pixels: what `found` was measured on; direction: (D,), of its key."""
    geometry = geometry_of(found)
    [phi] = features_under(pixels, geometry, (geometry.transform,), whitening)
    turn = _to_frequencies(whitening.matrix)
    image_axes = turn @ phi
    length = float(np.linalg.norm(image_axes))
    local = local_evidence(pixels, direction, found, whitening)
    return Explanation(name, pixels, found, key, local, image_axes / (length or 1.0), turn @ direction)


def _to_frequencies(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """The rotation after which entry i of a whitened vector belongs to frequency i: (D, D), orthogonal.

    With W = U S V^T it is V U^T: V S V^T is the symmetric whitening, of all W the one whose output is nearest
    to its input (A. Kessy, A. Lewin and K. Strimmer, "Optimal whitening and decorrelation", American
    Statistician 72, 2018). Turning phi and u alike leaves their cosine as it is.
    """
    u, _, v = np.linalg.svd(matrix)
    return np.asarray(v.T @ u.T)


def explanation_png(shown: Explanation) -> bytes:
    """The picture, as the bytes of a PNG file."""
    pen = Pen.on(Image.new("RGB", (_WIDTH, _HEIGHT), PAPER))
    _draw_header(pen, shown)
    left = [_MARGIN + column * (_PANEL + _GUTTER) for column in range(3)]
    _draw_pictures(pen, shown, left[0], left[1])
    _draw_curve(pen, shown, left[2])
    _draw_spectrum(pen, shown, left[0], left[2])
    pen.paragraph((_MARGIN, _HEIGHT - 44, _WIDTH - _MARGIN, _HEIGHT), _KEY_CAVEAT, 13)
    buffer = io.BytesIO()
    pen.sheet.save(buffer, "PNG")
    return buffer.getvalue()


def _draw_header(pen: Pen, shown: Explanation) -> None:
    found = shown.found
    colour = FOUND if found.detected else NOT_FOUND
    length = pen.text((_MARGIN, 26), VERDICTS[found.detected], 30, colour)
    room = _WIDTH - 2 * _MARGIN - length - 20
    pen.text((_MARGIN + length + 20, 34), pen.fitted(shown.name, room, 22), 22)
    pen.text(
        (_MARGIN, 74),
        f"p = {format_p(found.log10_p_value)}:  {one_in(found.log10_p_value, found.n_keys)}",
        18,
    )
    paid = f"It pays for {price(found)}."
    fitted = geometry_words(found) if found.detected else "no geometry reached the threshold"
    pen.text((_MARGIN, 102), f"{paid}  Detected means p <= {found.fpr:g}.  Geometry: {fitted}.", 15, FAINT)
    pen.text((_MARGIN, 124), pen.fitted(shown.key, _WIDTH - 2 * _MARGIN, 15), 15, FAINT)


def _draw_pictures(pen: Pen, shown: Explanation, left: int, second: int) -> None:
    local, found = shown.local, shown.found
    top = _TOP + 28
    height, width = shown.pixels.shape[:2]
    _title(pen, left, _TOP, f"The image, {width} x {height} px")
    box = (left, top, left + _PANEL, top + _PICTURE)
    picture, x, y = fit(shown.pixels, box)
    pen.sheet.paste(picture, (x, y))
    _title(pen, second, _TOP, "Where the watermark shows")
    scale = 28 + draw_heat_map(pen, (second, top, second + _PANEL, top + _PICTURE), shown.pixels, local)
    draw_heat_scale(pen, (second, scale, second + _PANEL, scale + 12), math.log10(found.fpr))
    tiles = count(local.log10_p.size, "square", "squares")
    text = (
        f"Each square: the {local.side} px around it, tested as an image of its own. Its p pays for the "
        f"geometries, the keys and all {tiles}. {int(local.detected.sum()):,} of them reach the threshold "
        "(white outline); a dark square says nothing. The verdict is the whole image's."
    )
    pen.paragraph((second, scale + 36, second + _PANEL, _SECOND), text, 13)


def _draw_curve(pen: Pen, shown: Explanation, left: int) -> None:
    found = shown.found
    top, bottom = _TOP + 28, _TOP + 28 + _PICTURE
    _title(pen, left, _TOP, "How keys score on this image")
    colour = FOUND if found.detected else NOT_FOUND
    box = (left, top, left + _PANEL, bottom)
    draw_null(pen, box, found.dimension, needed_statistic(found), found.statistic, colour)
    text = (
        "Grey: the statistic of keys drawn at random, on this image and in one geometry; known exactly, "
        "whatever the image is. Needed: what a key must reach in the geometry that fits it best, for p to "
        "pay for all that was tried."
    )
    pen.paragraph((left, bottom + 12, left + _PANEL, _SECOND), text, 13)


def _draw_spectrum(pen: Pen, shown: Explanation, left: int, right: int) -> None:
    found = shown.found
    pen.draw.line((_MARGIN, _SECOND - 20, _WIDTH - _MARGIN, _SECOND - 20), fill=RULE)
    _title(pen, left, _SECOND, "The spectrum against the key")
    root = math.sqrt(found.dimension)
    key, image = shown.key_axes * root, shown.image_axes * root  # entries of about unit variance
    product = f"Product: blue agrees, red does not. Its mean is the statistic, {found.statistic:+.3f}"
    rows = [
        ("What the key asks for: blue more, red less than natural images have", key / 2.5),
        ("What the image has", image / 2.5),
        (product, key * image / 3.0),
    ]
    box = (left, _SECOND + 30, right - _GUTTER, _HEIGHT - 50)
    draw_planes(pen, box, rows, _CELL)
    _title(pen, right, _SECOND, f"All {found.dimension} frequencies")
    top, bottom = _SECOND + 30, _SECOND + _PANEL - 10
    draw_scatter(pen, (right, top, right + _PANEL, bottom), key, image, found.statistic)
    text = (
        "Each dot is a frequency of one plane, whitened: without what natural images do by themselves. Dots "
        "along the line are the watermark; a round cloud is chance."
    )
    pen.paragraph((right, bottom + 16, right + _PANEL, _HEIGHT), text, 13)


def _title(pen: Pen, left: int, top: int, text: str) -> None:
    pen.text((left, top), text, 17, INK)
