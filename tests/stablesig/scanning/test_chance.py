"""The probability of as many hits by accident, held to SciPy."""

from __future__ import annotations

import math

import pytest
from scipy import stats

from stablesig.scanning.chance import log10_at_least


@pytest.mark.parametrize("mean", [1e-9, 0.02, 1.0, 7.3, 900.0, 2e6])
@pytest.mark.parametrize("ratio", [0.0, 0.5, 0.999, 1.0, 1.001, 1.5, 30.0])
def test_the_tail_is_that_of_poisson(mean: float, ratio: float) -> None:
    for count in (math.floor(ratio * mean), math.floor(ratio * mean) + 1):
        wanted = float(stats.poisson.logsf(count - 1, mean)) / math.log(10.0) if count else 0.0
        if wanted > -300.0:
            assert log10_at_least(count, mean) == pytest.approx(wanted, rel=1e-8, abs=1e-7)


def test_what_no_float_holds_still_has_a_logarithm() -> None:
    wanted = 1000 * math.log10(1e-3) - math.lgamma(1001) / math.log(10.0)
    assert log10_at_least(1000, 1e-3) == pytest.approx(wanted, rel=1e-6)


def test_no_hits_are_certain_and_hits_without_a_chance_impossible() -> None:
    assert log10_at_least(0, 0.0) == 0.0
    assert log10_at_least(1, 0.0) == -math.inf


def test_it_bounds_the_binomial_tail_above_the_mean() -> None:
    for images, rate, hits in ((50, 0.1, 7), (1000, 1e-3, 2), (10, 0.3, 4)):
        binomial = math.log10(stats.binom.sf(hits - 1, images, rate))
        assert log10_at_least(hits, images * rate) >= binomial
