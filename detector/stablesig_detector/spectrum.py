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

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from .errors import ImageError

FEATURE_VERSION = "spectrum-1"
WINDOW = 16  # px on a side
HOP = 7  # px; shares no factor with a decoder's stride of 8, so that a mark cannot lock to the decoder's grid
FLOOR = 1.0  # grey levels squared, added to |X|^2

# ITU-R BT.601 luma, and the colour differences as JFIF scales them.
COLOUR_MATRIX = (
    (0.299, 0.587, 0.114),
    (-0.168736, -0.331264, 0.5),
    (0.5, -0.418688, -0.081312),
)
# Halving: this filter along both axes, every second sample. Symmetric, so that mirroring commutes with it.
HALVING_FILTER = (0.125, 0.375, 0.375, 0.125)


@dataclass(frozen=True)
class Plane:
    """One plane of the pyramid that is measured.

    name: for messages and plots.  channel: row of COLOUR_MATRIX.  octave: how often the image is halved
    first.  low, high: the frequencies kept, in cycles a sample of this plane, both ends excluded.
    """

    name: str
    channel: int
    octave: int
    low: float
    high: float

    @property
    def bins(self) -> tuple[tuple[int, int], ...]:
        """The frequencies kept, as (vertical, horizontal) cycles a window, in a fixed order."""
        return _bins(self.low, self.high)


PLANES = (
    Plane("luma", 0, 0, 0.06, 0.46),
    Plane("half-size luma", 0, 1, 0.06, 0.46),
    Plane("half-size blue difference", 1, 1, 0.06, 0.26),
    Plane("half-size red difference", 2, 1, 0.06, 0.26),
)


@cache
def _bins(low: float, high: float) -> tuple[tuple[int, int], ...]:
    edge = WINDOW // 2 - 1  # the Nyquist row and column are their own mirror images: left out
    half_plane = [
        (ky, kx)
        for ky in range(edge + 1)
        for kx in range(-edge, edge + 1)
        if ky > 0 or kx > 0  # the other half repeats this one
    ]
    return tuple((ky, kx) for ky, kx in half_plane if low < math.hypot(ky, kx) / WINDOW < high)


DIMENSION = sum(len(plane.bins) for plane in PLANES)
# Every plane must hold one window after its halvings.
MIN_SIDE = max(WINDOW * 2**plane.octave + 2 * (2**plane.octave - 1) for plane in PLANES)


@cache
def analysis_matrix(plane: Plane) -> NDArray[np.float32]:
    """The windowed Fourier rows of a plane's F bins, (2 F, WINDOW * WINDOW): real parts, then imaginary."""
    return np.ascontiguousarray(fourier_rows(np.array(plane.bins)), dtype=np.float32)


def fourier_rows(frequencies: NDArray[np.integer | np.floating]) -> NDArray[np.float64]:
    """(F, 2) vertical and horizontal cycles a window -> (2 F, WINDOW * WINDOW), real parts first.

    Each row is a Hann taper of unit energy times a cosine or sine, less its mean: a product with the raw
    window is then the transform of the window less its mean.
    """
    position = np.arange(WINDOW)
    taper = np.sin(np.pi * (position + 0.5) / WINDOW) ** 2
    taper_2d = np.outer(taper, taper)
    taper_2d /= np.sqrt((taper_2d**2).sum())
    ky, kx = frequencies.T[:, :, None, None]
    angle = 2 * np.pi * (ky * position[:, None] + kx * position) / WINDOW
    rows = np.concatenate([np.cos(angle), -np.sin(angle)]) * taper_2d
    rows -= rows.mean(axis=(1, 2), keepdims=True)
    return np.asarray(rows.reshape(len(rows), -1))


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
        return self.values[_permutation(name)]


@cache
def _permutation(name: str) -> NDArray[np.intp]:
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


def spectrum(rgb: NDArray[np.uint8] | NDArray[np.float32]) -> Spectrum:
    """Measure an image: (H, W, 3) RGB, uint8 or float, 0..255 -> Spectrum.

    Raises ImageError if either side is under MIN_SIDE px, the least that holds one window in every plane.
    """
    height, width = rgb.shape[:2]
    if min(height, width) < MIN_SIDE:
        raise ImageError(
            f"the image is {width} x {height} px; the spectrum needs at least {MIN_SIDE} x {MIN_SIDE} px; "
            "use a larger copy of the image"
        )
    means, counts = zip(
        *(_mean_log_power(windows, plane) for windows, plane in zip(plane_windows(rgb), PLANES, strict=True)),
        strict=True,
    )
    return Spectrum(np.concatenate(means), counts)


def plane_windows(
    rgb: NDArray[np.uint8] | NDArray[np.float32],
) -> tuple[NDArray[np.float32], ...]:
    """(H, W, 3) -> for each of PLANES its windows, as a view: (down, across, WINDOW, WINDOW)."""
    pyramid = [_colour_planes(rgb)]
    for _ in range(max(plane.octave for plane in PLANES)):
        pyramid.append(_halve(pyramid[-1]))
    return tuple(
        np.lib.stride_tricks.sliding_window_view(pyramid[plane.octave][plane.channel], (WINDOW, WINDOW))[
            ::HOP, ::HOP
        ]
        for plane in PLANES
    )


def _colour_planes(rgb: NDArray[np.uint8] | NDArray[np.float32]) -> NDArray[np.float32]:
    """(H, W, 3) -> (3, H, W): luma less 128 and colour differences."""
    planes = np.asarray(COLOUR_MATRIX, dtype=np.float32) @ rgb.reshape(-1, 3).T.astype(np.float32)
    planes[0] -= 128.0  # centred, single precision loses less of it
    return planes.reshape(3, *rgb.shape[:2])


def _halve(planes: NDArray[np.float32]) -> NDArray[np.float32]:
    """(3, H, W) -> (3, (H - 2) // 2, (W - 2) // 2)"""
    for axis in (1, 2):
        size = (planes.shape[axis] - 2) // 2
        taps = [planes.take(range(t, t + 2 * size, 2), axis) for t in range(len(HALVING_FILTER))]
        halved = np.zeros_like(taps[0])
        for weight, tap in zip(HALVING_FILTER, taps, strict=True):
            halved += np.float32(weight) * tap
        planes = halved
    return planes


def _mean_log_power(windows: NDArray[np.float32], plane: Plane) -> tuple[NDArray[np.float64], int]:
    """(down, across, WINDOW, WINDOW) -> (F,) mean over all windows, and their number."""
    columns = np.ascontiguousarray(analysis_matrix(plane).T)
    down, across = windows.shape[:2]
    total = np.zeros(len(plane.bins))
    strip = max(1, 4096 // across)  # rows of windows at a time: bounds the memory whatever the image's size
    for top in range(0, down, strip):
        total += summed_log_power(windows[top : top + strip], columns)
    count = down * across
    return total / count, count


def summed_log_power(windows: NDArray[np.float32], columns: NDArray[np.float32]) -> NDArray[np.float64]:
    """(..., WINDOW, WINDOW), Fourier columns (WINDOW * WINDOW, 2 F) -> (F,) sum of log(|X|^2 + FLOOR)."""
    x = windows.reshape(-1, WINDOW * WINDOW) @ columns  # (n, 2 F)
    x *= x
    real, imaginary = np.split(x, 2, axis=1)
    real += imaginary
    real += np.float32(FLOOR)
    return np.asarray(np.log(real, out=real).sum(axis=0, dtype=np.float64))
