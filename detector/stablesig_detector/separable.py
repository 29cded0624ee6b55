"""The sums of log powers that `spectrum` averages, from separable transforms instead of one dense matrix.

The rows of `analysis_matrix` are products of a tapered cosine or sine of x and one of y (but for their mean,
see below), counted from the middle of the window: a shift of the origin turns the phase of X and leaves |X|^2
as it is. With C and S for cosine and sine, the first letter for y,

    X(ky, kx) = (CC - SS) - i (SC + CS)        X(ky, -kx) = (CC + SS) - i (SC - CS)

so every window row is transformed once, whatever windows share it, and then every window: about a tenth of
the multiplications. Mixing of colours and halving along x are linear too and ride on the transform along x.

Rows less their mean differ from rows only where the taper lets the mean through, at ky, kx <= 1. There
mean(c_ky) mean(c_kx) times the plain sum of the window is taken off (sines have no mean); the sum comes for
free, in the places of the sines of frequency 0.

The logarithm is taken of products of PRODUCT powers, a sixth of the logarithms: a window of 16 x 16 samples
in 0..255 has |X|^2 + FLOOR <= 1.9e6, and the sixth power of that is below the largest float32.
"""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass
from functools import cache
from typing import Any, cast

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import DTypeLike, NDArray

from .planes import COLOUR_MATRIX, FLOOR, HALVING_FILTER, HOP, PLANES, WINDOW

PRODUCT = 6  # powers in one logarithm
_MIXED = 8  # px that one row of a mixing matrix takes: BLAS is slow on matrices of three columns

FloatArray = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Transform:
    """The matrices for all planes of one octave; n frequencies 0..n - 1 along y, C columns along x.

    octave: how often the image is halved.  places: of its planes in PLANES.
    mixing: (3 _MIXED, _MIXED) px -> luma, where luma is all that is needed at full size; else None, and
        `across` mixes the colours.
    across: (2, 1, K, C), from the K = span x channels samples that a window row covers to the columns, each a
        frequency kx of one plane: cosines, then sines, with plain sums in the sines' place at kx = 0.
    down: (2 n, WINDOW), the same along y.
    corrections: (ky, column, column of kx = 0 in the same plane, mean(c_ky) mean(c_kx))
    constant: the columns with kx = 0
    bins: for each plane where its bins are, as (sign of kx, ky, column) index arrays
    """

    octave: int
    places: tuple[int, ...]
    mixing: FloatArray | None
    across: FloatArray
    down: FloatArray
    corrections: tuple[tuple[int, int, int, np.float32], ...]
    constant: tuple[int, ...]
    bins: tuple[tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.intp]], ...]

    @property
    def sums_shape(self) -> tuple[int, int, int]:
        """(2, n, C): sums for kx, then for -kx."""
        return 2, len(self.down) // 2, self.across.shape[-1]

    def pixels(self, windows: int) -> int:
        """How many px of the full-size image `windows` successive windows cover along one axis."""
        return spread((windows - 1) * HOP + WINDOW, self.octave)

    @property
    def hop(self) -> int:
        """px of the full-size image from window to window."""
        return HOP << self.octave

    def windows(self, height: int, width: int) -> tuple[int, int]:
        """Rows of windows in an image of this size, px, and windows in a row."""
        least = self.pixels(1)
        return (height - least) // self.hop + 1, (width - least) // self.hop + 1


def spread(samples: int, octave: int) -> int:
    """How many px make `samples` samples after `octave` halvings, along one axis."""
    return (samples << octave) + 2 * ((1 << octave) - 1)


@cache
def transforms() -> tuple[Transform, ...]:
    """One Transform an octave of PLANES."""
    return tuple(_transform(octave) for octave in sorted({plane.octave for plane in PLANES}))


def _transform(octave: int) -> Transform:
    places = tuple(place for place, plane in enumerate(PLANES) if plane.octave == octave)
    columns = [
        (place, kx) for place in places for kx in range(1 + max(abs(kx) for _, kx in PLANES[place].bins))
    ]
    column = {name: index for index, name in enumerate(columns)}
    waves = _waves(1 + max(ky for place in places for ky, _ in PLANES[place].bins))
    mean = waves[0].mean(axis=1)
    colours = [np.array(COLOUR_MATRIX[PLANES[place].channel]) for place, _ in columns]
    only_luma = octave == 0 and len(places) == 1
    weights = [np.ones(1) if only_luma else colour for colour in colours]
    halving = _halving(octave)
    across = np.stack(
        [
            np.stack([np.outer(half[kx] @ halving, weight).ravel() for (_, kx), weight in named], axis=1)
            for half, named in ((half, list(zip(columns, weights, strict=True))) for half in waves)
        ]
    )
    bins = []
    for place in places:
        ky, kx = np.array(PLANES[place].bins).T
        bins.append(((kx < 0).astype(np.intp), ky, np.array([column[place, abs(k)] for k in kx.tolist()])))
    return Transform(
        octave=octave,
        places=places,
        mixing=np.kron(np.eye(_MIXED), colours[0][:, None]).astype(np.float32) if only_luma else None,
        # halved_rows leaves out the 1/8 of the filter
        across=np.ascontiguousarray(across[:, None] / 8.0**octave, dtype=np.float32),
        down=np.ascontiguousarray(waves.reshape(-1, WINDOW), dtype=np.float32),
        corrections=tuple(
            (ky, column[place, kx], column[place, 0], np.float32(mean[ky] * mean[kx]))
            for place in places
            for ky, kx in ((0, 1), (1, 0), (1, 1))
        ),
        constant=tuple(column[place, 0] for place in places),
        bins=tuple(bins),
    )


def _waves(frequencies: int) -> NDArray[np.float64]:
    """(2, n, WINDOW): Hann taper of unit energy times cosines, then sines, but ones for the sine of 0."""
    position = np.arange(WINDOW) - (WINDOW - 1) / 2
    taper = np.cos(np.pi * position / WINDOW) ** 2
    taper /= np.sqrt((taper**2).sum())
    angle = 2 * np.pi * np.arange(frequencies)[:, None] * position / WINDOW
    waves = np.stack([np.cos(angle), np.sin(angle)]) * taper
    waves[1, 0] = 1.0
    return np.asarray(waves)


def _halving(octave: int) -> NDArray[np.float64]:
    """(WINDOW, span): `octave` halvings along one axis, for one window."""
    matrix = np.eye(WINDOW)
    for _ in range(octave):
        samples = matrix.shape[1]
        step = np.zeros((samples, 2 * samples + 2))
        for sample in range(samples):
            step[sample, 2 * sample : 2 * sample + len(HALVING_FILTER)] = HALVING_FILTER
        matrix = matrix @ step
    return matrix


class _Buffers(threading.local):
    """Memory that is used again, by tile after tile and image after image: 3 MB a thread, or a little more.

    Fresh pages cost as much as the sums that fill them: half of the time in an image of 512 px.
    """

    def __init__(self) -> None:
        self._flat: dict[str, FloatArray] = {}

    def take(self, name: str, *shape: int, dtype: DTypeLike = np.float32) -> NDArray[Any]:
        """An array of `shape` with anything in it; it lasts until `name` is taken again."""
        size, kind = math.prod(shape), np.dtype(dtype)
        flat = self._flat.get(name)
        if flat is None or flat.nbytes < size * kind.itemsize:
            flat = self._flat[name] = np.zeros(-(-size * kind.itemsize // 8) * 2, np.float32)
        return flat.view(kind)[:size].reshape(shape)


BUFFERS = _Buffers()


def summed_log_powers(
    tiles: NDArray[np.uint8] | NDArray[np.float32], rows: int, windows: int, transform: Transform
) -> NDArray[np.float64]:
    """Sum of log(|X|^2 + FLOOR) over all windows of some tiles: `transform.sums_shape`, natural logarithm.

    tiles: (T, pixels(rows), pixels(windows), 3) RGB in 0..255: T tiles of `rows` rows of `windows` windows.
    """
    samples, channels = _samples(tiles, transform)  # (T h, w channels), h and w of a halved tile
    count, columns = len(tiles), transform.across.shape[-1]
    height = len(samples) // count
    # Along x: a batch of one product for each place of the window, cosine and sine; the same floats are seen
    # by several windows.
    line, item = samples.strides
    under = as_strided(
        samples,
        (1, windows, len(samples), transform.across.shape[-2]),
        (0, transform.hop * channels * item, line, item),
    )
    across = BUFFERS.take("across", 2, len(samples), windows, columns)
    np.matmul(under, transform.across, out=across.swapaxes(1, 2))
    # Along y: for each row of windows, all its samples at once.
    half, line, _, item = across.strides
    width = windows * columns
    under = as_strided(across, (2, count, rows, WINDOW, width), (half, height * line, HOP * line, line, item))
    both = BUFFERS.take("both", 2, count * rows, len(transform.down), width)
    np.matmul(transform.down, under, out=both.reshape(2, count, rows, len(transform.down), width))
    both = both.reshape(2, count * rows, 2, -1, windows, columns)  # (x, row, y, ky, window, column)
    take_off_mean(both, transform)
    return logs(powers(both))


def _samples(tiles: NDArray[np.uint8] | NDArray[np.float32], transform: Transform) -> tuple[FloatArray, int]:
    """(T, H, W, 3) RGB -> what the transform along x takes, (T h, w channels), and the channels.

    Grey is zero from here on, single precision loses less of it; rows are halved but for a factor of 8.
    """
    if tiles.dtype == np.uint8:
        centred: NDArray[Any] = (cast("NDArray[np.uint8]", tiles) ^ np.uint8(128)).view(np.int8)  # less 128
    else:
        centred = cast("NDArray[np.float32]", tiles) - np.float32(128.0)
    count, _, width, _ = tiles.shape
    if transform.mixing is not None:
        pixels = centred.size // 3
        padded = -(-pixels // _MIXED)
        rgb = BUFFERS.take("rgb", padded, 3 * _MIXED)
        rgb.reshape(-1)[: centred.size] = centred.reshape(-1)
        luma = np.matmul(rgb, transform.mixing, out=BUFFERS.take("samples", padded, _MIXED))
        return luma.reshape(-1)[:pixels].reshape(-1, width), 1
    halved = halved_rows(centred.reshape(count, -1, 3 * width), transform.octave)
    samples = BUFFERS.take("samples", *halved.shape)
    samples[:] = halved
    return samples.reshape(-1, 3 * width), 3


def halved_rows(planes: NDArray[Any], octave: int) -> NDArray[Any]:
    """(T, H, N) -> (T, h, N) halved `octave` times along y, times 8^octave."""
    # Whole numbers stay exact in 16 bits, and half as many bytes take half the time: 3 + 3 + 1 + 1 times 128
    # is 2^10, twice that is 2^13.
    halved = planes.astype(np.int16) if planes.dtype == np.int8 and 0 < octave <= 2 else planes
    for _ in range(octave):
        inner = halved[:, 1:-2:2] + halved[:, 2:-1:2]
        inner *= 3  # HALVING_FILTER is (1, 3, 3, 1) / 8
        inner += halved[:, :-3:2]
        inner += halved[:, 3::2]
        halved = inner
    return halved


def take_off_mean(both: FloatArray, transform: Transform) -> None:
    """Take the windows' means off the frequencies where they show; then the sums make room for sines of 0."""
    total = both[1, :, 1, 0]  # (row, window, column): the plain sums
    for ky, column, constant, mean in transform.corrections:
        both[0, :, 0, ky, :, column] -= mean * total[:, :, constant]
    for column in transform.constant:
        both[1, ..., column] = 0.0
    both[:, :, 1, 0] = 0.0


def powers(both: FloatArray, room: str = "powers") -> FloatArray:
    """(x, row, y, n, windows, C) -> (2, rows, n, windows, C): |X|^2 + FLOOR at kx, then at -kx.

    room: the buffer to compute in.
    """
    (cc, sc), (cs, ss) = both[0].swapaxes(0, 1), both[1].swapaxes(0, 1)
    real, imaginary = BUFFERS.take(room, 2, 2, *cc.shape)
    np.subtract(cc, ss, out=real[0])
    np.add(cc, ss, out=real[1])
    np.add(sc, cs, out=imaginary[0])
    np.subtract(sc, cs, out=imaginary[1])
    real *= real
    imaginary *= imaginary
    real += imaginary
    real += np.float32(FLOOR)
    return np.asarray(real)


def logs(power: FloatArray) -> NDArray[np.float64]:
    """(2, rows, n, windows, C) -> (2, n, C), the sum of the logarithms; overwrites `power`."""
    rows = power.shape[1]
    groups = -(-rows // PRODUCT)
    products = power[:, :groups]
    for row in range(groups, rows, groups):
        factors = power[:, row : row + groups]
        products[:, : factors.shape[1]] *= factors
    np.log(products, out=products)
    return np.asarray(products.sum(axis=1).sum(axis=2, dtype=np.float64))
