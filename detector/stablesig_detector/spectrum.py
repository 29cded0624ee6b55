"""The features of an image: its mean log local spectrum, from fixed arithmetic and no learned network.

The image is turned into luma and two colour differences (ITU-R BT.601, 0..255 scale). Each plane of `PLANES`
is cut into overlapping windows; every window, less its mean and under a Hann taper of unit energy, gives the
power |X|^2 at one half of the frequency plane, and the feature of a frequency is the mean of
log(|X|^2 + FLOOR) over all windows. Moving or cropping the image changes which windows are averaged, not what
they say, and a gain moves all features of a plane together.

The log makes a watermark multiplicative: it is louder where there is texture to hide it. FLOOR is about ten
times the power that rounding to whole grey levels adds, so that flat windows hold no vote.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import ImageError
from .planes import COLOUR_MATRIX as COLOUR_MATRIX
from .planes import DIMENSION as DIMENSION
from .planes import FEATURE_VERSION as FEATURE_VERSION
from .planes import FLOOR as FLOOR
from .planes import HALVING_FILTER as HALVING_FILTER
from .planes import HOP as HOP
from .planes import MIN_SIDE as MIN_SIDE
from .planes import PLANES as PLANES
from .planes import WINDOW as WINDOW
from .planes import Plane as Plane
from .planes import analysis_matrix as analysis_matrix
from .planes import fourier_rows as fourier_rows
from .separable import Transform, summed_log_powers, transforms
from .window_tiles import tiles

FULLY_MEASURED = 73**2  # windows at full size: as many as 525 x 525 px hold
MOST_MEASURED = 4 * FULLY_MEASURED
PIXELS_A_WINDOW = 200  # of a large image: measuring it takes about as long as decoding it from JPEG


@dataclass(frozen=True, eq=False)
class Spectrum:
    """The features of one image.

    values: (DIMENSION,) mean log power, natural logarithm of grey levels squared
    windows: how many windows each plane averaged
    """

    values: NDArray[np.float64]
    windows: tuple[int, ...]

    def transformed(self, name: str) -> NDArray[np.float64]:
        """The features that the image would have if it were turned back by `name`: (DIMENSION,).

        name: "identity", "flip" (mirror; left-right or top-bottom are the same to a magnitude spectrum),
        "rot90", or "rot90flip". Nothing is measured again, the bins change places. Raises KeyError for any
        other name.
        """
        return self.values[permutation(name)]


@cache
def permutation(name: str) -> NDArray[np.intp]:
    """The order that `Spectrum.transformed` puts the values in: (DIMENSION,)."""
    moves: dict[str, Callable[[int, int], tuple[int, int]]] = {
        "identity": lambda ky, kx: (ky, kx),
        "flip": lambda ky, kx: (ky, -kx),
        "rot90": lambda ky, kx: (-kx, ky),
        "rot90flip": lambda ky, kx: (kx, ky),
    }
    move = moves[name]
    order: list[int] = []
    for plane in PLANES:
        start = len(order)
        place = {}
        for index, (ky, kx) in enumerate(plane.bins):
            place[ky, kx] = place[-ky, -kx] = start + index
        order += [place[move(ky, kx)] for ky, kx in plane.bins]
    return np.array(order, dtype=np.intp)


def most_windows(height: int, width: int) -> int:
    """How many windows of the full-size luma of an image are measured at most; of half-size planes a quarter.

    All of up to FULLY_MEASURED. Of more, one for each PIXELS_A_WINDOW px, but FULLY_MEASURED at least and
    MOST_MEASURED at most.
    """
    return min(max(height * width // PIXELS_A_WINDOW, FULLY_MEASURED), MOST_MEASURED)


def measurable_size(rgb: NDArray[np.uint8] | NDArray[np.float32]) -> tuple[int, int]:
    """Height and width of an image; raises ImageError if either is under MIN_SIDE."""
    height, width = rgb.shape[:2]
    if min(height, width) < MIN_SIDE:
        raise ImageError(
            f"the image is {width} x {height} px; the spectrum needs at least {MIN_SIDE} x {MIN_SIDE} px; "
            "use a larger copy of the image"
        )
    return height, width


def spectrum(rgb: NDArray[np.uint8] | NDArray[np.float32], most: int | None = None) -> Spectrum:
    """Measure an image: (H, W, 3) RGB, uint8 or float32, 0..255 -> Spectrum.

    most: how many windows of full-size luma are measured at most; None for `most_windows`. A plane with more
    is measured in tiles of 6 x 36 windows spread evenly over it (`window_tiles`), so that a large image costs
    little more than its decoding. Of pictures of a TAEF2 decoder, put together to images of 1024, 2048 and
    4096 px, the tiles kept 96, 99 and 100 % of the statistic of all windows.

    Raises ImageError if either side is under MIN_SIDE px, the least that holds one window in every plane.
    """
    height, width = measurable_size(rgb)
    limit = most_windows(height, width) if most is None else most
    means: list[NDArray[np.float64]] = [np.empty(0)] * len(PLANES)
    counts = [0] * len(PLANES)
    for transform in transforms():
        total, count = _summed(rgb, transform, limit // 4**transform.octave)
        for place, bins in zip(transform.places, transform.bins, strict=True):
            means[place], counts[place] = total[bins] / count, count
    return Spectrum(np.concatenate(means), tuple(counts))


def _summed(
    rgb: NDArray[np.uint8] | NDArray[np.float32], transform: Transform, most: int
) -> tuple[NDArray[np.float64], int]:
    """The sums of log powers over the windows of one octave, `transform.sums_shape`, and the windows."""
    down, across = transform.windows(*rgb.shape[:2])
    total, count = np.zeros(transform.sums_shape), 0
    for part in tiles(down, across, most):
        pixels = [
            rgb[y : y + transform.pixels(part.rows), x : x + transform.pixels(part.columns)]
            for y, x in zip(
                (transform.hop * top for top in part.tops),
                (transform.hop * left for left in part.lefts),
                strict=True,
            )
        ]
        block: NDArray[Any] = pixels[0][None] if len(pixels) == 1 else np.stack(pixels)
        total += summed_log_powers(block, part.rows, part.columns, transform)
        count += part.windows
    return total, count
