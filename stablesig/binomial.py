"""Exact binomial intervals and quantiles without SciPy, which the base install does not bring.

All of them come from the regularised incomplete beta function I_x(a, b), evaluated from its continued
fraction (NIST DLMF 8.17.22) by Lentz's method as Thompson and Barnett modified it (J. Comput. Phys. 64,
1986). The tests hold them to scipy.
"""

from __future__ import annotations

import math

_MAX_TERMS = 100_000  # the fraction takes about sqrt(max(a, b)) of them
_TINY = 1e-300
_CLOSE = 1e-15


def beta_cdf(x: float, a: float, b: float) -> float:
    """I_x(a, b), the probability that a Beta(a, b) variable is at most x; a, b > 0, x in [0, 1]."""
    if x <= 0.0 or x >= 1.0:
        return 0.0 if x <= 0.0 else 1.0
    log_front = a * math.log(x) + b * math.log1p(-x) - _log_beta(a, b)
    # Each of the two fractions converges fast on its side of the mean.
    if x < (a + 1.0) / (a + b + 2.0):
        return math.exp(log_front) / a * _fraction(x, a, b)
    return 1.0 - math.exp(log_front) / b * _fraction(1.0 - x, b, a)


def beta_quantile(q: float, a: float, b: float) -> float:
    """The x at which I_x(a, b) = q; a, b > 0, q in (0, 1)."""
    low, high = 0.0, 1.0
    x = a / (a + b)
    for _ in range(200):  # Newton's method, and bisection where that would leave the bracket
        error = beta_cdf(x, a, b) - q
        low, high = (low, x) if error > 0.0 else (x, high)
        log_density = (a - 1.0) * math.log(x) + (b - 1.0) * math.log1p(-x) - _log_beta(a, b)
        step = error / math.exp(log_density) if log_density > -600.0 else math.inf
        following = x - step
        if not low < following < high:
            following = 0.5 * (low + high)
        if abs(following - x) <= 1e-13 * x or following in (low, high):
            return following
        x = following
    return x


def clopper_pearson(count: float, trials: float, confidence: float = 0.95) -> tuple[float, float]:
    """The exact two-sided interval of a binomial rate (Clopper and Pearson, Biometrika 26, 1934).

    count, trials: fractions are allowed, as they arise when both are divided by a design effect (Korn and
    Graubard, Survey Methodology 24, 1998). Raises ValueError unless 0 <= count <= trials, trials > 0 and
    0 < confidence < 1.
    """
    if trials <= 0.0 or not 0.0 <= count <= trials:
        raise ValueError(f"{count} events in {trials} trials; give 0 <= events <= trials, and trials > 0")
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"a confidence lies between 0 and 1, both excluded; got {confidence}")
    tail = (1.0 - confidence) / 2.0
    low = 0.0 if count <= 0.0 else beta_quantile(tail, count, trials - count + 1.0)
    high = 1.0 if count >= trials else beta_quantile(1.0 - tail, count + 1.0, trials - count)
    return low, high


def binomial_above(count: int, trials: int, p: float) -> float:
    """P(Bin(trials, p) > count), p in (0, 1)."""
    if count < 0 or count >= trials:
        return 1.0 if count < 0 else 0.0
    return beta_cdf(p, count + 1.0, trials - float(count))


def binomial_quantile(q: float, trials: int, p: float) -> int:
    """The smallest k with P(Bin(trials, p) <= k) >= q; q and p in (0, 1)."""
    low, high = -1, trials  # P(<= low) < q <= P(<= high)
    width = 8.0 * math.sqrt(trials * p * (1.0 - p)) + 8.0
    for guess in (math.floor(trials * p - width), math.ceil(trials * p + width)):
        if low < guess < high:
            low, high = (guess, high) if binomial_above(guess, trials, p) > 1.0 - q else (low, guess)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if binomial_above(middle, trials, p) > 1.0 - q else (low, middle)
    return high


def _log_beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)


def _fraction(x: float, a: float, b: float) -> float:
    """1/(1 + d1/(1 + d2/(1 + ...))) of I_x(a, b)."""
    c, d = 1.0, 1.0 / _away_from_zero(1.0 - (a + b) * x / (a + 1.0))
    value = d
    for m in range(1, _MAX_TERMS):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for term in (even, odd):
            d = 1.0 / _away_from_zero(1.0 + term * d)
            c = _away_from_zero(1.0 + term / c)
            value *= c * d
        if abs(c * d - 1.0) < _CLOSE:
            break
    return value


def _away_from_zero(value: float) -> float:
    return value if abs(value) > _TINY else _TINY
