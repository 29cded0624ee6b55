"""The features that an image had before it was rotated, for many angles at about the cost of one.

Rotating an image rotates its spectrum, so no pixel needs to move. The mean log power of each plane is
measured once, at frequencies REFINEMENT times as dense as the features'; the features under an angle are read
off between them with Keys' cubic kernel (R. Keys, "Cubic convolution interpolation for digital image
processing", IEEE Trans. ASSP 29(6), 1981). Under angle 0 every frequency is one of those measured, and the
features are those of `spectrum`.

The Hann window is not quite round, so this is not exactly what rotating the pixels back would give. Of a
watermark's statistic in nine Kodak pictures, rotated by 5 and 25 degrees (bicubic), it kept 87 and 83 %,
where rotating back at twice the size kept 89 and 84 %; it takes less time for 30 angles than that for one.
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np
from numpy.typing import NDArray

from .decoding import ImageArray
from .planes import COLOUR_MATRIX, FLOOR, HALVING_FILTER, HOP, PLANES, WINDOW, Plane, fourier_rows

REFINEMENT = 2
BLANK_TOLERANCE = 8  # grey levels: what JPEG does to a margin of one colour
_REACH = 2 * math.sqrt(2)  # points of the grid; how far the kernel reaches, diagonally
_BATCH = 1024  # windows at a time


def blank_margins(rgb: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """(H, W, 3) -> (H, W) True where a row begins or ends with the colour of a corner of the image.

    Rotating an image leaves such margins, mostly black. They are no part of the picture, and windows on them
    would vote. A corner counts if its colour goes on for a window's width along an edge. The margins follow
    from the pixels alone, so leaving them out leaves p-values as they are.
    """
    colours = set()
    for y, x in ((0, 0), (0, -1), (-1, 0), (-1, -1)):
        # Both edges of the picture that meet in this corner, read from it.
        for edge in (rgb[y, :: 1 if x == 0 else -1], rgb[:: 1 if y == 0 else -1, x]):
            if len(edge) >= WINDOW and _same(edge[:WINDOW], edge[0]).all():
                colours.add(tuple(edge[0].tolist()))
    margins = np.zeros(rgb.shape[:2], dtype=bool)
    for colour in colours:
        same = _same(rgb, np.array(colour, rgb.dtype))
        margins |= np.logical_and.accumulate(same, axis=1)
        margins |= np.logical_and.accumulate(same[:, ::-1], axis=1)[:, ::-1]
    return margins


def _same(rgb: NDArray[np.uint8], colour: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """(..., 3) -> (...): whether all samples are within BLANK_TOLERANCE of `colour`."""
    return np.asarray((np.abs(rgb.astype(np.int16) - colour) <= BLANK_TOLERANCE).all(axis=-1))


def turned_spectra(
    rgb: ImageArray,
    rotations: tuple[float, ...],
    blank: NDArray[np.bool_] | None = None,
    highest: float = 0.5,
) -> NDArray[np.float64] | None:
    """The features that an image would have if it were rotated back: (H, W, 3) -> (R, DIMENSION).

    rgb: RGB in 0..255, sides at least MIN_SIDE.  rotations: degrees anticlockwise by which the image was
    rotated.  blank: (H, W), True for pixels that may not be measured.  highest: cycles a px; features from
    there up are of no interest, cost no time and have no meaning. Returns None if no window can be measured.
    """
    parts = []
    for windows, plane in zip(_plane_windows(rgb), PLANES, strict=True):
        used = np.ones(windows.shape[:2], bool) if blank is None else _clear(blank, plane, windows.shape[:2])
        if not used.any():
            return None
        high = min(plane.high, highest * 2**plane.octave)
        field = _mean_log_power(windows, used, plane, high)
        rows, columns, down, across = _stencils(plane, rotations)
        near = field[rows[..., :, None], columns[..., None, :]]  # (R, F, 4, 4)
        parts.append(np.einsum("rfi,rfij,rfj->rf", down, near, across))
    return np.concatenate(parts, axis=1)


def _plane_windows(
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


def _clear(blank: NDArray[np.bool_], plane: Plane, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Which windows of a plane see no blank pixel: (H, W) -> (down, across)."""
    counts = np.pad(blank.cumsum(axis=0, dtype=np.int64).cumsum(axis=1), ((1, 0), (1, 0)))
    step = 2**plane.octave
    seen = WINDOW * step + 2 * (step - 1)  # px of the full-size image under one window
    top, left = (HOP * step * np.arange(n) for n in shape)
    bottom, right = top + seen, left + seen
    inside = counts[np.ix_(bottom, right)] + counts[np.ix_(top, left)]
    inside -= counts[np.ix_(top, right)] + counts[np.ix_(bottom, left)]
    return np.asarray(inside == 0)


def _mean_log_power(
    windows: NDArray[np.float32], used: NDArray[np.bool_], plane: Plane, high: float
) -> NDArray[np.float64]:
    """Mean over the windows used of log(|X|^2 + FLOOR), on the grid of `_points`.

    windows: (down, across, WINDOW, WINDOW) -> (2 m + 1, 2 m + 1), index m + k for frequency k / (WINDOW
    REFINEMENT), m = `_extent(plane.high)`; 0 where nothing is measured.
    """
    points, rows = _points(high)
    total = np.zeros(len(points))
    down, across = np.nonzero(used)
    for start in range(0, len(down), _BATCH):
        batch = windows[down[start : start + _BATCH], across[start : start + _BATCH]]
        total += _summed_log_power(batch, rows)
    middle = _extent(plane.high)
    field = np.zeros((2 * middle + 1, 2 * middle + 1))
    for sign in (1, -1):  # the other half plane repeats this one
        field[middle + sign * points[:, 0], middle + sign * points[:, 1]] = total / len(down)
    return field


def _summed_log_power(windows: NDArray[np.float32], columns: NDArray[np.float32]) -> NDArray[np.float64]:
    """(..., WINDOW, WINDOW), Fourier columns (WINDOW * WINDOW, 2 F) -> (F,) sum of log(|X|^2 + FLOOR)."""
    x = windows.reshape(-1, WINDOW * WINDOW) @ columns  # (n, 2 F)
    x *= x
    real, imaginary = np.split(x, 2, axis=1)
    real += imaginary
    real += np.float32(FLOOR)
    return np.asarray(np.log(real, out=real).sum(axis=0, dtype=np.float64))


def _radius(high: float) -> float:
    """How far the grid must reach, in its own steps, to hold features below `high` under every angle."""
    return high * WINDOW * REFINEMENT + _REACH


def _extent(high: float) -> int:
    return math.floor(_radius(high))


@cache
def _points(high: float) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    """The grid's frequencies (P, 2), vertical and horizontal in steps, and their windowed Fourier rows.

    The rows are those of `fourier_rows`, as columns: (WINDOW * WINDOW, 2 P).
    """
    extent, radius = _extent(high), _radius(high)
    points = np.array(
        [
            (ky, kx)
            for ky in range(extent + 1)
            for kx in range(-extent if ky else 0, extent + 1)
            if math.hypot(ky, kx) <= radius
        ],
        dtype=np.intp,
    )
    rows = fourier_rows(points / REFINEMENT)
    return points, np.ascontiguousarray(rows.T, dtype=np.float32)


@cache
def _stencils(
    plane: Plane, rotations: tuple[float, ...]
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float64], NDArray[np.float64]]:
    """Where each feature lies under each angle: rows, columns of the field, their weights; (R, F, 4) each."""
    ky, kx = np.array(plane.bins).T * REFINEMENT
    angle = np.radians(np.array(rotations))[:, None]
    # Rows run downwards: anticlockwise to the eye takes (x, y) to (x cos + y sin, y cos - x sin).
    y, x = ky * np.cos(angle) - kx * np.sin(angle), kx * np.cos(angle) + ky * np.sin(angle)
    middle = _extent(plane.high)
    around = np.arange(-1, 3)
    lines = []
    for coordinate in (y, x):
        index = np.floor(coordinate)[..., None] + around
        weights = _keys_kernel(np.abs(coordinate[..., None] - index))
        # A weight of 0 may lie beyond the grid; any place serves.
        lines += [np.clip(index.astype(np.intp) + middle, 0, 2 * middle), weights]
    rows, down, columns, across = lines
    return rows, columns, down, across


def _keys_kernel(t: NDArray[np.float64]) -> NDArray[np.float64]:
    """Keys' kernel with a = -1/2 at distance t >= 0 in steps of the grid."""
    near = (1.5 * t - 2.5) * t * t + 1.0
    far = ((-0.5 * t + 2.5) * t - 4.0) * t + 2.0
    return np.where(t < 1.0, near, np.where(t < 2.0, far, 0.0))
