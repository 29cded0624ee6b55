"""p-values: exact against mpmath and scipy, uniform for random keys, never NaN."""

from __future__ import annotations

import math

import mpmath
import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from stablesig_detector.errors import StatisticsError
from stablesig_detector.key import SecretKey
from stablesig_detector.statistics import (
    binomial_log10_p,
    bonferroni_log10,
    cosine_statistic,
    spherical_log10_p,
    spherical_threshold,
)

DIMENSIONS = (2, 3, 8, 16, 88, 232, 500, 1000, 2000)
STATISTICS = (0.0, 1e-9, 1e-4, 0.003, 0.01, 0.03, 0.05, 0.1, 0.2, 0.3, 0.48, 0.58, 0.7, 0.9, 0.99, 0.999)


def _reference_log10_p(s: float, dimension: int) -> mpmath.mpf:
    """The definition, 200 digits: I_x(a, b) = x^a (1 - x)^b / (a B(a, b)) * 2F1(a + b, 1; a + 1; x)."""
    with mpmath.workdps(200):
        a, b = mpmath.mpf(dimension - 1) / 2, mpmath.mpf(1) / 2
        y = mpmath.mpf(s) ** 2

        def series(x: mpmath.mpf, a: mpmath.mpf, b: mpmath.mpf) -> mpmath.mpf:
            return x**a * (1 - x) ** b / (a * mpmath.beta(a, b)) * mpmath.hyp2f1(a + b, 1, a + 1, x)

        cap = (
            series(1 - y, a, b) if y > 0.25 else 1 - series(y, b, a)
        ) / 2  # either series converges fast there
        return mpmath.log10(cap) if s >= 0 else mpmath.log1p(-cap) / mpmath.log(10)


@pytest.mark.parametrize("dimension", DIMENSIONS)
def test_the_p_value_is_exact_over_the_whole_range(dimension: int) -> None:
    for magnitude in STATISTICS:
        for s in (magnitude, -magnitude):
            expected = _reference_log10_p(s, dimension)
            got = spherical_log10_p(s, dimension)
            # 1e-11 in log10 p is a relative error of 2.3e-11 in p; where p is near 1, in 1 - p.
            tolerance = max(1e-11 * min(1, abs(expected)), 1e-15 * abs(expected), 1e-307)
            assert abs(got - expected) <= tolerance, (s, got, expected)


def test_deep_tails_do_not_underflow() -> None:
    assert spherical_log10_p(0.999, 2000) == pytest.approx(float(_reference_log10_p(0.999, 2000)), rel=1e-13)
    assert spherical_log10_p(0.999, 2000) < -2000
    nearest_to_one = 1 - 2**-53
    assert spherical_log10_p(1.0, 232) == pytest.approx(
        float(_reference_log10_p(nearest_to_one, 232)), rel=1e-13
    )
    assert spherical_log10_p(-1.0, 232) == 0.0


def test_the_p_value_agrees_with_the_t_distribution() -> None:
    # s sqrt((D - 1) / (1 - s^2)) has Student's t distribution with D - 1 degrees of freedom.
    s = np.linspace(-0.95, 0.95, 381)
    for dimension in (3, 88, 232, 800):
        t = s * np.sqrt((dimension - 1) / (1 - s * s))
        expected = scipy.stats.t.logsf(t, dimension - 1) / math.log(10)
        reached = np.isfinite(expected)  # scipy's p underflows at 1e-308
        assert reached.sum() > 300
        np.testing.assert_allclose(
            spherical_log10_p(s, dimension)[reached], expected[reached], rtol=1e-9, atol=1e-11
        )


def test_an_array_gives_the_same_numbers_as_one_by_one() -> None:
    s = np.random.default_rng(1).uniform(-1, 1, (7, 5))
    together = spherical_log10_p(s, 232)
    assert together.shape == (7, 5)
    assert together.tolist() == [[spherical_log10_p(float(value), 232) for value in row] for row in s]


@given(st.floats(-1, 1), st.floats(-1, 1), st.integers(2, 2000))
def test_a_larger_statistic_never_has_a_larger_p_value(one: float, other: float, dimension: int) -> None:
    low, high = sorted((one, other))
    # Where the two branches of the evaluation meet, rounding may turn neighbours round.
    assert spherical_log10_p(high, dimension) <= spherical_log10_p(low, dimension) + 1e-12


@given(st.floats(-1, 1), st.integers(2, 2000))
def test_the_two_tails_add_up_to_one(s: float, dimension: int) -> None:
    total = 10 ** spherical_log10_p(s, dimension) + 10 ** spherical_log10_p(-s, dimension)
    assert total == pytest.approx(1.0, abs=1e-11)


def test_no_evidence_is_one_half_and_never_nan() -> None:
    assert spherical_log10_p(0.0, 232) == pytest.approx(math.log10(0.5), abs=1e-15)
    assert spherical_log10_p(math.nan, 232) == spherical_log10_p(0.0, 232)
    direction = np.eye(4)[:2]
    useless = [[0, 0, 0, 0], [math.nan, 1, 0, 0], [math.inf, 1, 0, 0], [0, -math.inf, math.inf, 0]]
    assert cosine_statistic(useless, direction).tolist() == np.zeros((2, 4)).tolist()


def test_the_statistic_is_the_cosine_at_any_scale() -> None:
    phi = np.array([3.0, 4.0, 0.0])
    for scale in (1.0, 1e-300, 1e-310, 1e300):  # squares of the last three leave the range of a float
        assert cosine_statistic(scale * phi, np.eye(3))[:2, 0] == pytest.approx([0.6, 0.8], abs=1e-10)


def test_features_and_directions_of_different_length_do_not_pair() -> None:
    with pytest.raises(StatisticsError, match=r"features \(1, 3\) and directions \(1, 4\)"):
        cosine_statistic(np.ones(3), np.ones(4))


@pytest.mark.parametrize("s", [1.1, -1.1, math.inf])
def test_a_statistic_that_is_no_cosine_is_refused(s: float) -> None:
    with pytest.raises(StatisticsError, match="cosine"):
        spherical_log10_p(s, 232)


def test_one_dimension_is_refused() -> None:
    with pytest.raises(StatisticsError, match="at least 2 dimensions; got 1"):
        spherical_log10_p(0.5, 1)


@pytest.mark.parametrize(
    ("fpr", "dimension", "expected"),
    # The first four are the rounded figures of the design; the others are symmetric or trivial.
    [
        (1e-6, 88, 0.48),
        (1e-9, 88, 0.58),
        (1e-6, 256, 0.29),
        (1e-9, 256, 0.36),
        (0.5, 232, 0.0),
        (0.25, 2, 0.7071),
    ],
)
def test_thresholds(fpr: float, dimension: int, expected: float) -> None:
    assert spherical_threshold(fpr, dimension) == pytest.approx(expected, abs=0.006)


@given(st.floats(-300, -1e-3), st.integers(2, 2000))
def test_the_threshold_is_the_smallest_statistic_that_reaches_the_rate(
    log10_fpr: float, dimension: int
) -> None:
    fpr = 10**log10_fpr
    try:
        threshold = spherical_threshold(fpr, dimension)
    except StatisticsError:  # few dimensions: even s = 1 - 2^-53 is not rare enough
        assert spherical_log10_p(1.0, dimension) > math.log10(fpr)
        return
    assert spherical_log10_p(threshold, dimension) <= math.log10(fpr)
    below = threshold - max(1e-9 * (1 - abs(threshold)), 2**-52)
    assert below < -1 or spherical_log10_p(below, dimension) > math.log10(fpr)


@pytest.mark.parametrize("fpr", [0.0, 1.0, -0.1, math.nan])
def test_a_rate_that_is_no_probability_is_refused(fpr: float) -> None:
    with pytest.raises(StatisticsError, match="between 0 and 1"):
        spherical_threshold(fpr, 232)


@pytest.mark.parametrize(
    ("matches", "n_bits"), [(0, 1), (1, 1), (24, 48), (41, 48), (48, 48), (200, 256), (256, 256)]
)
def test_binomial_p_values(matches: int, n_bits: int) -> None:
    expected = scipy.stats.binom.logsf(matches - 1, n_bits, 0.5) / math.log(10)
    assert binomial_log10_p(matches, n_bits) == pytest.approx(expected, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize(("matches", "n_bits"), [(-1, 48), (49, 48), (0, 0)])
def test_impossible_matches_are_refused(matches: int, n_bits: int) -> None:
    with pytest.raises(StatisticsError, match="cannot match"):
        binomial_log10_p(matches, n_bits)


def test_bonferroni_multiplies_and_stops_at_one() -> None:
    assert bonferroni_log10(-8.0, 4) == pytest.approx(-8 + math.log10(4))
    assert bonferroni_log10(np.array([-8.0, -0.1]), 100).tolist() == pytest.approx([-6.0, 0.0])
    with pytest.raises(StatisticsError, match="at least 1; got 0"):
        bonferroni_log10(-8.0, 0)


def _is_uniform(log10_p: np.ndarray) -> bool:
    """Kolmogorov-Smirnov at 1 %; the seeds are fixed, so this is a check of the code and not of luck."""
    return bool(scipy.stats.kstest(10**log10_p, "uniform").pvalue > 0.01)


def test_random_directions_give_uniform_p_values() -> None:
    rng = np.random.default_rng(7)
    phi = rng.standard_t(2, 232) + 3.0  # heavy-tailed and off centre: nothing about phi may matter
    directions = rng.standard_normal((20_000, 232))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    statistics = cosine_statistic(phi, directions)[:, 0]
    assert _is_uniform(spherical_log10_p(statistics, 232))
    assert not _is_uniform(spherical_log10_p(statistics, 200))  # the test would notice a wrong dimension


@pytest.mark.parametrize(("n_keys", "dimension", "bits"), [(20_000, 24, 2), (1_000, 232, 48)])
def test_random_keys_give_uniform_p_values(n_keys: int, dimension: int, bits: int) -> None:
    rng = np.random.default_rng(11)
    phi = rng.standard_t(2, dimension) + 3.0
    keys = [
        SecretKey(
            rng.bytes(32), tuple(rng.integers(0, 2, bits).tolist()), "spectrum-test", dimension, "0" * 64
        )
        for _ in range(n_keys)
    ]
    statistics = cosine_statistic(phi, np.stack([key.direction for key in keys]))[:, 0]
    assert _is_uniform(spherical_log10_p(statistics, dimension))
