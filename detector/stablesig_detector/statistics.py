"""Exact p-values for a keyed direction on the sphere, in log10 so that none underflows.

The statistic is the cosine s = <phi, u> / |phi|. Whatever phi is, if u is uniform on the unit sphere of R^D
then

    P(s >= t) = 1/2 I_{1 - t^2}((D - 1)/2, 1/2)      for t >= 0
    P(s >= t) = 1 - P(s >= -t)                       for t <  0

with I the regularised incomplete beta function (S. Li, "Concise formulas for the area and volume of a
hyperspherical cap", Asian J. Math. Stat. 4, 2011). I is evaluated here from its continued fraction (NIST DLMF
8.17.22) with the leading factor kept as a logarithm: exact at p = 0.5 as at p = 1e-2000, and it spares
`stablesig detect` the 0.2 s that importing scipy.special takes. The tests hold it to mpmath and to scipy.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .errors import StatisticsError

FloatArray = NDArray[np.float64]

_LN10 = math.log(10.0)
_LOG_HALF = math.log(0.5)
# A cosine of 1 has p = 0; the float below it keeps log10 p finite, and errs on the safe side.
_LARGEST_BELOW_ONE = 1.0 - 2.0**-53
_ROUNDING = 1e-9  # how far beyond +-1 a computed cosine may lie; further is a caller's mistake
_FRACTION_TERMS = 80  # pairs of terms; 40 give 13 digits for dimensions up to 2,000


def cosine_statistic(features: ArrayLike, directions: ArrayLike) -> FloatArray:
    """Cosine between every direction and every feature vector: (M, D) and (N, D) -> (N, M) in [-1, 1].

    Directions must be unit vectors. A feature vector of norm zero, or one that holds NaN or infinity, points
    nowhere: its statistic is 0, hence p = 0.5, never NaN.
    """
    phi = np.atleast_2d(np.asarray(features, dtype=np.float64))
    u = np.atleast_2d(np.asarray(directions, dtype=np.float64))
    if phi.ndim != 2 or u.ndim != 2 or phi.shape[1] != u.shape[1]:
        raise StatisticsError(
            f"features {phi.shape} and directions {u.shape} do not pair; pass (M, D) and (N, D)"
        )
    cosines: FloatArray = np.clip(u @ unit_rows(phi).T, -1.0, 1.0)
    return cosines


def unit_rows(phi: FloatArray) -> FloatArray:
    """Each row divided by its norm: (M, D) -> (M, D); zeros for one that points nowhere."""
    # Scaled by its largest entry first, so that no norm overflows, or vanishes without being zero.
    largest = np.abs(phi).max(axis=1, keepdims=True)
    usable = np.isfinite(largest) & (largest > 0.0)  # max() passes NaN on
    scaled = np.where(usable, phi, 0.0) / np.where(usable, largest, 1.0)
    norm = np.linalg.norm(scaled, axis=1, keepdims=True)
    unit: FloatArray = scaled / np.where(usable, norm, 1.0)
    return unit


@overload
def spherical_log10_p(s: float, dimension: int) -> float: ...
@overload
def spherical_log10_p(s: FloatArray, dimension: int) -> FloatArray: ...
def spherical_log10_p(s: float | FloatArray, dimension: int) -> float | FloatArray:
    """log10 P(<phi, u> / |phi| >= s) for u uniform on the unit sphere of R^dimension; s in [-1, 1].

    Exact (relative error of p under 1e-10 for dimensions up to 2,000), finite for every s, and safe far below
    the smallest float. s = NaN says nothing about any key and counts as s = 0: p = 0.5. s = 1 is taken as the
    largest float below 1. Raises StatisticsError if |s| > 1 or dimension < 2.
    """
    _check_dimension(dimension)
    cosine = np.asarray(s, dtype=np.float64)
    cosine = np.where(np.isnan(cosine), 0.0, cosine)
    t = np.abs(cosine)
    if t.size and float(t.max()) > 1.0 + _ROUNDING:
        raise StatisticsError(
            f"the statistic is a cosine, in [-1, 1]; got {float(t.max())} in magnitude; normalise phi and u"
        )
    t = np.minimum(t, _LARGEST_BELOW_ONE)
    upper = _log_cap(t, dimension)  # ln P(s >= |t|), at most ln 1/2
    log_p = np.where(cosine >= 0.0, upper, np.log1p(-np.exp(upper)))
    log10_p: FloatArray = log_p / _LN10
    return float(log10_p) if np.ndim(s) == 0 else log10_p


def _log_cap(t: FloatArray, dimension: int) -> FloatArray:
    """ln(1/2 I_{1 - t^2}((D - 1)/2, 1/2)) for t in [0, 1)."""
    a, b = (dimension - 1) / 2.0, 0.5
    x, y = (1.0 - t) * (1.0 + t), t * t  # x + y = 1, both to full relative precision
    log_x = np.log1p(-t) + np.log1p(t)
    with np.errstate(divide="ignore"):
        log_y = 2.0 * np.log(t)  # -inf at t = 0, where I_y is 0
    log_beta = math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)
    # The fraction converges fast below the mean of the beta distribution; above it, the complement's fraction
    # does.
    direct = x < (a + 1.0) / (a + b + 2.0)
    log_common = a * log_x + b * log_y - log_beta
    tail = log_common - math.log(a) - np.log(_beta_fraction(a, b, np.where(direct, x, 0.0)))
    complement = np.exp(log_common - math.log(b) - np.log(_beta_fraction(b, a, np.where(direct, 0.0, y))))
    log_cap: FloatArray = _LOG_HALF + np.where(direct, tail, np.log1p(-np.where(direct, 0.0, complement)))
    return log_cap


def _beta_fraction(a: float, b: float, x: FloatArray) -> FloatArray:
    """The denominator 1 + d1/(1 + d2/(1 + ...)) of I_x(a, b), evaluated from its far end (DLMF 8.17.22)."""
    if not x.any():
        return np.ones_like(x)  # what the fraction comes to
    # One value alone, as in the p-value of one key, is faster in Python's own floats, to the same bits.
    z: FloatArray | float = x if x.size > 1 else x.item()
    value: FloatArray | float = 1.0
    for even, odd in _fraction_terms(a, b):
        value = 1.0 + even * z / (1.0 + odd * z / value)
    first = -(a + b) / (a + 1.0)
    fraction: FloatArray = 1.0 + first * x / value
    return fraction


@lru_cache(maxsize=16)  # a scan asks for the same two again and again
def _fraction_terms(a: float, b: float) -> tuple[tuple[float, float], ...]:
    """(d_2m, d_2m+1), the last one first."""
    return tuple(
        (
            m * (b - m) / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) / ((a + 2 * m) * (a + 2 * m + 1)),
        )
        for m in range(_FRACTION_TERMS, 0, -1)
    )


def spherical_threshold(fpr: float, dimension: int) -> float:
    """The smallest statistic whose p-value is at most `fpr`, to the last bit; fpr in (0, 1).

    The result always satisfies spherical_log10_p(result, dimension) <= log10(fpr). Raises StatisticsError.
    """
    _check_dimension(dimension)
    if not 0.0 < fpr < 1.0:
        raise StatisticsError(f"a false positive rate lies between 0 and 1, both excluded; got {fpr}")
    target = math.log10(fpr)
    low, high = -1.0, _LARGEST_BELOW_ONE
    if spherical_log10_p(high, dimension) > target:
        raise StatisticsError(
            f"no statistic reaches a false positive rate of {fpr} in {dimension} dimensions; raise the rate"
        )
    while low < (middle := 0.5 * (low + high)) < high:
        if spherical_log10_p(middle, dimension) <= target:
            high = middle
        else:
            low = middle
    return high


def binomial_log10_p(matches: int, n_bits: int) -> float:
    """log10 P(Bin(n_bits, 1/2) >= matches), exact: summed over integers, rounded once at the end.

    It is the test of Stable Signature (Fernandez et al., ICCV 2023), given for comparison with the
    literature; `spherical_log10_p` is the stronger one. Raises StatisticsError unless 0 <= matches <= n_bits
    >= 1.
    """
    if n_bits < 1 or not 0 <= matches <= n_bits:
        raise StatisticsError(
            f"{matches} of {n_bits} bits cannot match; pass 0 <= matches <= n_bits and n_bits >= 1"
        )
    ways = sum(math.comb(n_bits, k) for k in range(matches, n_bits + 1))
    return math.log10(ways) - n_bits * math.log10(2.0)


@overload
def bonferroni_log10(log10_p: float, tests: int) -> float: ...
@overload
def bonferroni_log10(log10_p: FloatArray, tests: int) -> FloatArray: ...
def bonferroni_log10(log10_p: float | FloatArray, tests: int) -> float | FloatArray:
    """log10 of min(1, tests * p): a bound on the p-value of the best of `tests` tests, dependent or not."""
    if tests < 1:
        raise StatisticsError(f"the number of tests is at least 1; got {tests}")
    corrected: FloatArray = np.minimum(np.asarray(log10_p, dtype=np.float64) + math.log10(tests), 0.0)
    return float(corrected) if np.ndim(log10_p) == 0 else corrected


def _check_dimension(dimension: int) -> None:
    if dimension < 2:
        raise StatisticsError(f"a direction needs at least 2 dimensions; got {dimension}")
