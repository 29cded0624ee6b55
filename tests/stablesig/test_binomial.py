"""Binomial intervals and quantiles agree with SciPy's."""

from __future__ import annotations

import math

import pytest
from scipy import stats

from stablesig.binomial import beta_cdf, beta_quantile, binomial_above, binomial_quantile, clopper_pearson


@pytest.mark.parametrize("a", [0.05, 0.5, 1.0, 7.3, 400.0, 2e6])
@pytest.mark.parametrize("b", [0.5, 1.0, 30.0, 5e6])
@pytest.mark.parametrize("q", [1e-9, 0.025, 0.5, 0.975])
def test_the_beta_quantile_inverts_the_distribution(a: float, b: float, q: float) -> None:
    x = float(stats.beta.ppf(q, a, b))
    if x == 0.0 or math.nextafter(x, 1.0) == 1.0:  # out of a float's reach
        return
    assert beta_cdf(x, a, b) == pytest.approx(float(stats.beta.cdf(x, a, b)), rel=1e-6)
    assert beta_quantile(q, a, b) == pytest.approx(x, rel=1e-6)


@pytest.mark.parametrize(("count", "trials"), [(0, 1), (1, 1), (0, 300), (3, 300), (71, 72), (812, 800_000)])
def test_the_interval_is_clopper_and_pearsons(count: int, trials: int) -> None:
    low, high = stats.binomtest(count, trials).proportion_ci(0.95, "exact")
    assert clopper_pearson(count, trials) == pytest.approx((low, high), rel=1e-8)


@pytest.mark.parametrize("arguments", [(1, 0), (-1, 5), (6, 5), (1, 5, 0.0), (1, 5, 1.0)])
def test_impossible_counts_are_refused(arguments: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match=r"give|lies between"):
        clopper_pearson(*arguments)


def test_a_design_effect_widens_the_interval() -> None:
    low, high = clopper_pearson(80 / 4, 80_000 / 4)
    assert low < clopper_pearson(80, 80_000)[0] < 1e-3 < clopper_pearson(80, 80_000)[1] < high


@pytest.mark.parametrize(
    ("trials", "p"), [(1, 0.5), (24, 0.1), (400, 0.01), (1000, 1e-3), (10**6, 0.1), (2 * 10**8, 1e-8)]
)
@pytest.mark.parametrize("q", [0.025, 0.5, 0.95, 0.9997])
def test_the_binomial_quantile_is_the_smallest_count_that_reaches_it(trials: int, p: float, q: float) -> None:
    quantile = binomial_quantile(q, trials, p)
    assert quantile == int(stats.binom.ppf(q, trials, p))
    assert binomial_above(quantile, trials, p) == pytest.approx(float(stats.binom.sf(quantile, trials, p)))


def test_the_ends_of_the_binomial_are_certain() -> None:
    assert binomial_above(-1, 10, 0.3) == 1.0
    assert binomial_above(10, 10, 0.3) == 0.0
    assert (beta_cdf(0.0, 2.0, 3.0), beta_cdf(1.0, 2.0, 3.0)) == (0.0, 1.0)
