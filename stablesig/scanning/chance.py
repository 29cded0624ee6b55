"""How likely so many hits are by accident: the upper tail of a Poisson law, in log10 so that none underflows.

The number of false hits among many images, each with a small probability, is close to a Poisson variable of
the same mean; for a tail above the mean the Poisson law errs on the safe side (Hoeffding, Ann. Math. Statist.
27, 1956). SciPy, which the base install does not bring, is what the tests hold this to.
"""

from __future__ import annotations

import math

_CLOSE = 1e-16


def log10_at_least(count: int, mean: float) -> float:
    """log10 P(N >= count) of a Poisson variable N with this mean >= 0; at most 0, -inf where impossible."""
    if count <= 0:
        return 0.0
    if mean <= 0.0:
        return -math.inf
    if count > mean:
        return min(0.0, (_log_point(count, mean) + math.log(_rising(count, mean))) / math.log(10.0))
    below = math.exp(_log_point(count - 1, mean)) * _falling(count - 1, mean)
    return math.log10(max(1.0 - below, _CLOSE))


def _log_point(count: int, mean: float) -> float:
    return count * math.log(mean) - mean - math.lgamma(count + 1.0)


def _rising(count: int, mean: float) -> float:
    """P(N >= count) / P(N = count), for count > mean: 1 + m/(k+1) + m^2/((k+1)(k+2)) + ..."""
    total, term, k = 1.0, 1.0, count
    while term > _CLOSE * total:
        k += 1
        term *= mean / k
        total += term
    return total


def _falling(count: int, mean: float) -> float:
    """P(N <= count) / P(N = count), for count < mean: 1 + k/m + k(k-1)/m^2 + ..."""
    total, term, k = 1.0, 1.0, count
    while term > _CLOSE * total and k > 0:
        term *= k / mean
        total += term
        k -= 1
    return total
