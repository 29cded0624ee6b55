"""What is measured: the planes of an image, the windows on them, the frequencies kept, and their formula.

`spectrum` says what these numbers are for. Its features are defined by the planes, by `analysis_matrix` and
by FLOOR; how they are computed (`separable`) may change, and what it gives may not.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

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
