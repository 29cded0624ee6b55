"""The features of an image, roughly, from windows that lie apart: what a quick look needs.

The windows of `spectrum` overlap by more than half, and neighbours say much the same. A lattice of every
so-manieth window, down and across, spreads as many over the whole image and holds more evidence. Such windows
share no samples, so each is gathered from the pixels and transformed on its own; but for that the arithmetic
is that of `separable`. Which windows, depends on the size of the image alone.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from itertools import count
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .planes import COLOUR_MATRIX, PLANES, WINDOW
from .separable import BUFFERS, PRODUCT, FloatArray, Transform, halved_rows, powers, take_off_mean, transforms
from .spectrum import measurable_size

_LUMA_PLANES = tuple(place for place, plane in enumerate(PLANES) if plane.channel == 0)
LUMA_DIMENSION = sum(len(PLANES[place].bins) for place in _LUMA_PLANES)
assert list(range(len(_LUMA_PLANES))) == list(_LUMA_PLANES), "the features of luma come first"


def sampled_spectrum(
    pixels: NDArray[np.uint8] | NDArray[np.float32], most: tuple[int, ...]
) -> NDArray[np.float64]:
    """The features of an image from some of its windows, as in `Spectrum.values`.

    pixels: (H, W, 3) RGB, or (H, W) luma, 0..255; of luma only the first LUMA_DIMENSION features can be
    measured.  most: for each octave of the planes, how many windows are measured at most; at least one is.

    Raises ImageError as `spectrum` does.
    """
    measurable_size(pixels)
    grey = pixels.ndim == 2
    means: list[NDArray[np.float64]] = [np.empty(0)] * len(_LUMA_PLANES if grey else PLANES)
    for transform, limit in zip(_grey_transforms() if grey else transforms(), most, strict=True):
        total, number = _summed(pixels, transform, limit)
        for place, bins in zip(transform.places, transform.bins, strict=True):
            means[place] = total[bins] / number
    return np.concatenate(means)


def windows(height: int, width: int, octave: int) -> tuple[int, int]:
    """Rows of windows in the planes of one octave of an image, and windows in a row."""
    return next(one for one in transforms() if one.octave == octave).windows(height, width)


def lattice(down: int, across: int, most: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """Every so-manieth of `down` rows of `across` windows: (step down, step across), (rows, columns).

    The steps are equal or the second is one more, and the least that leave `most` windows, 1 or more.
    """
    for step in count(1):
        for steps in ((step, step), (step, step + 1)):
            rows, columns = -(-down // steps[0]), -(-across // steps[1])
            if rows * columns <= most:
                return steps, (rows, columns)
    raise AssertionError("one window is left at last")


@cache
def _grey_transforms() -> tuple[Transform, ...]:
    """The transforms of luma planes alone, from luma."""
    found = []
    for transform in transforms():
        [(number, place)] = [
            (number, place) for number, place in enumerate(transform.places) if place in _LUMA_PLANES
        ]
        columns = np.unique(transform.bins[number][2])  # with those for kx = 0
        assert columns.tolist() == list(range(len(columns))), "the columns of luma come first"
        across = transform.across
        if transform.mixing is None:  # luma weighs the colours with a sum of 1
            across = across.reshape(2, 1, -1, 3, across.shape[-1]).sum(axis=3)
        found.append(
            replace(
                transform,
                places=(place,),
                across=np.ascontiguousarray(across[..., : len(columns)]),
                mixing=None,
                corrections=tuple(one for one in transform.corrections if one[1] < len(columns)),
                constant=tuple(column for column in transform.constant if column < len(columns)),
                bins=(transform.bins[number],),
            )
        )
    return tuple(found)


def _summed(pixels: NDArray[Any], transform: Transform, most: int) -> tuple[NDArray[np.float64], int]:
    """The sums of log powers over the windows of one octave, `transform.sums_shape`, and the windows."""
    samples = _gathered(pixels, transform, most)
    number, columns = samples.shape[1], transform.across.shape[-1]
    # Two buffers by turns, as little memory as can be: what is decoded before has filled the cache with other
    # things. Of products of matrices, those of two dimensions are the fastest.
    rows = samples.reshape(WINDOW * number, -1)
    across = BUFFERS.take("second", 2, WINDOW * number, columns)
    for half, matrix in enumerate(_mixed(transform)):
        np.matmul(rows, matrix, out=across[half])
    both = BUFFERS.take("first", 2, len(transform.down), number * columns)
    np.matmul(transform.down, across.reshape(2, WINDOW, -1), out=both)
    both = both.reshape(2, 1, 2, -1, number, columns)  # (x, row, y, ky, window, column)
    take_off_mean(both, transform)
    return _logs(powers(both, "second")[:, 0]), number


def _gathered(pixels: NDArray[Any], transform: Transform, most: int) -> FloatArray:
    """The windows of one octave, halved along y: (WINDOW, windows, samples of a row), less 128."""
    if not pixels.flags.c_contiguous:
        pixels = np.ascontiguousarray(pixels)
    height, width = pixels.shape[:2]
    down, across = transform.windows(height, width)
    steps, (rows, columns) = lattice(down, across, max(most, 1))
    hop, span = transform.hop, transform.pixels(1)
    line, pixel = pixels.strides[:2]
    channels = pixels[0, 0].size
    top, left = (down - 1 - (rows - 1) * steps[0]) // 2, (across - 1 - (columns - 1) * steps[1]) // 2
    # Faster than as_strided.
    seen: NDArray[Any] = np.ndarray(
        (span, rows, columns, span * channels),
        pixels.dtype,
        pixels,
        hop * (top * line + left * pixel),
        (line, steps[0] * hop * line, steps[1] * hop * pixel, pixels.itemsize),
    )
    if pixels.dtype == np.uint8:
        whole = BUFFERS.take("second", *seen.shape, dtype=np.uint8)
        whole[:] = seen
        whole ^= np.uint8(128)  # less 128 once it is signed
        seen = whole.view(np.int8)
    else:
        seen = seen - np.float32(128.0)
    samples = BUFFERS.take("first", WINDOW, rows * columns, span * channels)
    _halve(seen.reshape(span, -1), samples.reshape(WINDOW, -1), transform.octave)
    return samples


def _halve(rows: NDArray[Any], halved: FloatArray, octave: int) -> None:
    """`separable.halved_rows` for one halving at most of whole numbers, in memory that is used again."""
    if octave != 1 or rows.dtype != np.int8:
        halved[:] = halved_rows(rows[None], octave)[0]
        return
    wide = BUFFERS.take("third", *rows.shape, dtype=np.int16)
    wide[:] = rows
    inner = BUFFERS.take("second", *halved.shape, dtype=np.int16)
    np.add(wide[1:-2:2], wide[2:-1:2], out=inner)
    inner *= 3
    inner += wide[:-3:2]
    inner += wide[3::2]
    halved[:] = inner


def _mixed(transform: Transform) -> FloatArray:
    """(2, samples of a window's row, C): cosines and sines, colours included."""
    if transform.mixing is None:
        return transform.across[:, 0]
    return _with_colours(transform.octave)


@cache
def _with_colours(octave: int) -> FloatArray:
    [transform] = [one for one in transforms() if one.octave == octave]
    luma = np.array(COLOUR_MATRIX[0], np.float32)[:, None]
    return np.stack([np.kron(half, luma) for half in transform.across[:, 0]])


def _logs(power: FloatArray) -> NDArray[np.float64]:
    """(2, n, windows, C) -> (2, n, C), the sum of the logarithms; overwrites `power`."""
    number = power.shape[2]
    groups = -(-number // PRODUCT)
    products = power[:, :, :groups]
    for first in range(groups, number, groups):
        factors = power[:, :, first : first + groups]
        products[:, :, : factors.shape[2]] *= factors
    np.log(products, out=products)
    # Sums of short rows are faster as a product.
    return np.asarray(np.matmul(np.ones((1, groups), np.float32), products)[:, :, 0], dtype=np.float64)
