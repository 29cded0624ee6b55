"""How alike two pictures look: PSNR, SSIM, MS-SSIM and HaarPSI, from their published formulae in NumPy.

All take two (H, W, 3) uint8 pictures of one size, are symmetric, and give their largest value for equal
pictures. None needs learned weights or PyTorch. SSIM and MS-SSIM see luma only (ITU-R BT.601, in double
precision, not rounded), PSNR and HaarPSI colour as well.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]  # (H, W, 3) in 0..255
Plane = NDArray[np.float64]  # (H, W), grey levels

EQUAL_DB = 100.0  # what an infinite PSNR counts as in a mean, a table or JSON

# SSIM, Wang et al. 2004, section III.C.
SSIM_WINDOW_PX = 11
SSIM_SIGMA_PX = 1.5
SSIM_K1, SSIM_K2 = 0.01, 0.03
_PEAK = 255.0
# MS-SSIM, Wang et al. 2003, section 3.2: the exponents of the five scales, finest first.
MS_SSIM_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
MS_SSIM_MIN_PX = SSIM_WINDOW_PX * 2 ** (len(MS_SSIM_WEIGHTS) - 1)  # one window at the coarsest scale
# HaarPSI, Reisenhofer et al. 2018, section 3: fitted by the authors to human judgements.
HAARPSI_C = 30.0
HAARPSI_ALPHA = 4.2
_HAARPSI_SCALES = 3  # the first two are compared, the third weights
_LUMA = (0.299, 0.587, 0.114)
_YIQ = (_LUMA, (0.596, -0.274, -0.322), (0.211, -0.523, 0.312))


@dataclass(frozen=True)
class Quality:
    """One picture against another; `ms_ssim` is None where a side is under MS_SSIM_MIN_PX."""

    psnr_db: float  # at most EQUAL_DB
    ssim: float
    ms_ssim: float | None
    haarpsi: float


def quality(first: Pixels, second: Pixels) -> Quality:
    """All four metrics of a pair. Raises ValueError as `ssim` does."""
    large = min(first.shape[:2]) >= MS_SSIM_MIN_PX
    return Quality(
        psnr_db=min(psnr_db(first, second), EQUAL_DB),
        ssim=ssim(first, second),
        ms_ssim=ms_ssim(first, second) if large else None,
        haarpsi=haarpsi(first, second),
    )


def psnr_db(first: Pixels, second: Pixels) -> float:
    """Peak signal-to-noise ratio over all samples in dB; inf for equal pictures.

    As `stablesig_train.held_out.psnr_db`; here for processes that must do without PyTorch.
    """
    _check_pair(first, second)
    mse = float(np.mean((first.astype(np.float64) - second) ** 2))
    return math.inf if mse == 0.0 else 10 * math.log10(_PEAK**2 / mse)


def ssim(first: Pixels, second: Pixels) -> float:
    """Mean structural similarity of luma, -1..1 (Wang, Bovik, Sheikh, Simoncelli, "Image quality assessment:
    from error visibility to structural similarity", IEEE TIP 13(4), 2004, equation 13).

    Gaussian window of 11 x 11 px and sigma 1.5 px, K1 = 0.01, K2 = 0.03, L = 255; only windows that lie in
    the picture count, and nothing is subsampled first. Raises ValueError unless the pictures have one size,
    at least 11 px on a side.
    """
    _check_pair(first, second, SSIM_WINDOW_PX)
    luminance, structure = _ssim_maps(_weighted(first, _LUMA), _weighted(second, _LUMA))
    return float(np.mean(luminance * structure))


def ms_ssim(first: Pixels, second: Pixels) -> float:
    """Multi-scale structural similarity of luma, 0..1 (Wang, Simoncelli, Bovik, "Multiscale structural
    similarity for image quality assessment", Asilomar 2003, equation 7).

    Five scales, each half of the one before (means of 2 x 2 px), the exponents of MS_SSIM_WEIGHTS; contrast
    and structure at every scale, luminance at the last. A scale whose mean structure is negative counts as 0,
    as a power of it would not be real. Raises ValueError unless the pictures have one size, at least
    MS_SSIM_MIN_PX on a side.
    """
    _check_pair(first, second, MS_SSIM_MIN_PX)
    x, y = _weighted(first, _LUMA), _weighted(second, _LUMA)
    product = 1.0
    for scale, weight in enumerate(MS_SSIM_WEIGHTS):
        luminance, structure = _ssim_maps(x, y)
        coarsest = scale == len(MS_SSIM_WEIGHTS) - 1
        similarity = float(np.mean(luminance * structure if coarsest else structure))
        product *= max(similarity, 0.0) ** weight
        x, y = _halved(x), _halved(y)
    return product


def haarpsi(first: Pixels, second: Pixels) -> float:
    """Haar wavelet-based perceptual similarity index, 0..1 (Reisenhofer, Bosse, Kutyniok, Wiegand, "A Haar
    wavelet-based perceptual similarity index for image quality assessment", Signal Processing: Image
    Communication 61, 2018).

    The authors' constants C = 30 and alpha = 4.2, in YIQ on 0..255, after their halving for the viewing
    distance; outside the picture there are zeros, as in their programs. Raises ValueError as `ssim`.
    """
    _check_pair(first, second, SSIM_WINDOW_PX)
    (y1, i1, q1), (y2, i2, q2) = (
        [_box(_weighted(picture, row), 2)[::2, ::2] / 4 for row in _YIQ] for picture in (first, second)
    )
    similarities, weights = [], []
    for axis in (0, 1):
        fine, middle, coarse = (
            (np.abs(_haar(y1, scale, axis)), np.abs(_haar(y2, scale, axis)))
            for scale in range(1, _HAARPSI_SCALES + 1)
        )
        similarities.append((_alike(*fine) + _alike(*middle)) / 2)
        weights.append(np.maximum(*coarse))
    chroma = [(np.abs(_box(a, 2)) / 4, np.abs(_box(b, 2)) / 4) for a, b in ((i1, i2), (q1, q2))]
    similarities.append((_alike(*chroma[0]) + _alike(*chroma[1])) / 2)
    weights.append((weights[0] + weights[1]) / 2)
    similarity, weight = np.stack(similarities), np.stack(weights)
    if not weight.any():  # two black pictures: no edge anywhere to weight by
        weight = np.ones_like(weight)
    squashed = float((weight / (1 + np.exp(-HAARPSI_ALPHA * similarity))).sum() / weight.sum())
    return (math.log(squashed / (1 - squashed)) / HAARPSI_ALPHA) ** 2


def _check_pair(first: Pixels, second: Pixels, least_px: int = 1) -> None:
    if first.shape != second.shape or first.ndim != 3 or first.shape[2] != 3:
        raise ValueError(f"pictures of shapes {first.shape} and {second.shape}; give two of one (H, W, 3)")
    if first.dtype != np.uint8 or second.dtype != np.uint8:
        raise ValueError(f"samples of {first.dtype} and {second.dtype}; give uint8, 0..255")
    if min(first.shape[:2]) < least_px:
        raise ValueError(
            f"pictures of {first.shape[1]} x {first.shape[0]} px; a side has {least_px} px at least"
        )


def _weighted(picture: Pixels, weights: Sequence[float]) -> Plane:
    """(H, W, 3) -> (H, W), the weighted sum of the channels."""
    plane: Plane = picture.astype(np.float64) @ np.array(weights)
    return plane


def _correlated(plane: Plane, taps: Sequence[float], axis: int) -> Plane:
    """Correlation with `taps` along one axis, where they lie wholly in the plane."""
    length = plane.shape[axis] - len(taps) + 1
    moved = plane.swapaxes(0, axis)
    total = np.zeros((length, moved.shape[1]))
    for shift, tap in enumerate(taps):
        total += tap * moved[shift : shift + length]
    return total.swapaxes(0, axis)


def _ssim_maps(x: Plane, y: Plane) -> tuple[Plane, Plane]:
    """The luminance factor, and the product of contrast and structure, of every window."""
    distance = np.arange(SSIM_WINDOW_PX) - SSIM_WINDOW_PX // 2
    gauss = np.exp(-(distance**2) / (2 * SSIM_SIGMA_PX**2))
    taps = [float(tap) for tap in gauss / gauss.sum()]

    def mean(plane: Plane) -> Plane:
        return _correlated(_correlated(plane, taps, 0), taps, 1)

    c1, c2 = (SSIM_K1 * _PEAK) ** 2, (SSIM_K2 * _PEAK) ** 2
    mean_x, mean_y = mean(x), mean(y)
    variances = mean(x * x) - mean_x**2 + mean(y * y) - mean_y**2
    covariance = mean(x * y) - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    return luminance, (2 * covariance + c2) / (variances + c2)


def _halved(plane: Plane) -> Plane:
    """Means of 2 x 2 px; an odd last row or column is left out."""
    height, width = (side // 2 * 2 for side in plane.shape)
    blocks = plane[:height, :width].reshape(height // 2, 2, width // 2, 2)
    return np.asarray(blocks.mean(axis=(1, 3)))


def _same(plane: Plane, taps: Sequence[float], axis: int) -> Plane:
    """Correlation with an even number of taps along one axis, zeros outside, the size kept.

    The window of sample i is i - n/2 + 1 .. i + n/2, as in the authors' programs.
    """
    half = len(taps) // 2
    widths = [(0, 0), (0, 0)]
    widths[axis] = (half - 1, half)
    return _correlated(np.pad(plane, widths), taps, axis)


def _box(plane: Plane, side: int) -> Plane:
    """Sums over `side` x `side` px."""
    return _same(_same(plane, [1.0] * side, 0), [1.0] * side, 1)


def _haar(plane: Plane, scale: int, axis: int) -> Plane:
    """Haar wavelet coefficients of a scale from 1, their edges across `axis`; their sign is arbitrary."""
    side = 2**scale
    edge = [-1.0] * (side // 2) + [1.0] * (side // 2)
    return _same(_same(plane, edge, axis), [1.0] * side, 1 - axis) / side


def _alike(a: Plane, b: Plane) -> Plane:
    """Similarity of two magnitudes, in (0, 1]."""
    return (2 * a * b + HAARPSI_C) / (a * a + b * b + HAARPSI_C)
