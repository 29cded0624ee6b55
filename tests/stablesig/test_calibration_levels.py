"""Known ground truth: even features are calibrated for every key, a common direction is found out."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from stablesig.binomial import clopper_pearson
from stablesig.calibration_counts import (
    Angles,
    angles_between,
    count_exceedances,
    draw_directions,
    nominal_levels,
)
from stablesig.calibration_levels import (
    curve,
    design_effect,
    fixed_levels,
    key_levels,
    random_levels,
    spreads,
)
from stablesig_detector.spectrum import DIMENSION

from .test_calibration_counts import PLAIN, isotropic

IMAGES, KEYS = 500, 1000
LEVELS = nominal_levels(1 / (IMAGES * KEYS))
COMMON = {"evenly": 0.0, "one direction": 0.5, "all alike": 50.0}  # its length over that of the rest


@cache
def measured(kind: str) -> tuple[np.ndarray, Angles]:
    """(KEYS, levels) counts over IMAGES synthetic spectra, and the angles between these."""
    values = isotropic(IMAGES)
    values[:, 0] += COMMON[kind] * math.sqrt(DIMENSION)
    counts = count_exceedances(values, draw_directions(KEYS, 0), LEVELS, ("identity",), PLAIN)
    angles = angles_between(values, ("identity",), PLAIN, seed=0)
    assert angles is not None
    return counts, angles


def effects(kind: str) -> list[float]:
    return [design_effect(measured(kind)[1], level, IMAGES, 1) for level in LEVELS]


@pytest.mark.parametrize("kind", COMMON)
def test_random_keys_are_calibrated_on_any_features(kind: str) -> None:
    found = random_levels(measured(kind)[0], LEVELS, effects(kind), IMAGES)
    assert [level.nominal for level in found] == [0.1, 0.01, 1e-3, 1e-4, 1e-5]
    judged = [level for level in found if level.judged]
    assert judged
    for level in judged:
        assert level.verdict == "within"
        assert level.ratio_low < level.ratio < level.ratio_high
        # whatever directions the dimension makes of the seed: the count has this standard deviation
        assert abs(level.ratio - 1.0) < 4 * math.sqrt(level.design_effect / level.expected)
    assert [level.expected for level in found] == pytest.approx([5e4, 5e3, 500, 50, 5])


def test_images_that_are_all_alike_count_as_one() -> None:
    assert effects("evenly")[4:] == pytest.approx([1.0] * (len(LEVELS) - 4), abs=0.1)
    found = random_levels(measured("all alike")[0], LEVELS, effects("all alike"), IMAGES)
    assert found[0].design_effect > 0.8 * IMAGES
    assert [level.judged for level in found] == [True, False, False, False, False]  # 1000 keys, not pairs
    events, pairs = (number / found[0].design_effect for number in (found[0].observed, IMAGES * KEYS))
    bounds = (found[0].ratio_low * 0.1, found[0].ratio_high * 0.1)
    assert bounds == pytest.approx(clopper_pearson(events, pairs))


def test_the_design_effect_is_the_dispersion_of_the_counts() -> None:
    counts, _ = measured("one direction")
    for level in fixed_levels(counts, LEVELS, IMAGES):
        expected = effects("one direction")[LEVELS.index(level.nominal)]
        assert level.dispersion == pytest.approx(expected, rel=0.4)


def test_fixed_keys_spread_no_more_than_chance_on_even_features() -> None:
    found = fixed_levels(measured("evenly")[0], LEVELS, IMAGES)
    assert [level.nominal for level in found] == [0.1, 0.01]  # down to 1 in 500
    for level in found:
        assert not level.beyond_chance
        assert level.median == pytest.approx(1.0, abs=0.05)
        assert level.high == pytest.approx(level.chance_high, abs=0.25)
        assert abs(level.above - level.chance_above) < 4 * math.sqrt(level.chance_above + 1)


def test_a_direction_common_to_the_images_makes_fixed_keys_differ_beyond_chance() -> None:
    found = fixed_levels(measured("one direction")[0], LEVELS, IMAGES)
    assert all(level.beyond_chance for level in found)
    at_one_percent = found[1]
    assert at_one_percent.high > 2 > at_one_percent.chance_high
    assert at_one_percent.worst > at_one_percent.chance_worst
    assert at_one_percent.above > 3 * at_one_percent.chance_above


def test_quantiles_over_keys_are_those_of_the_counts() -> None:
    counts = np.tile(np.arange(101)[:, None], (1, len(LEVELS)))
    level = fixed_levels(counts, LEVELS, IMAGES)[1]
    ratios = (level.low, level.median, level.high, level.worst)
    assert ratios == pytest.approx((5 / 5, 50 / 5, 95 / 5, 100 / 5))
    assert level.above == 90  # counts above 10, twice the 5 expected


def test_keys_that_find_nothing_have_no_dispersion() -> None:
    level = fixed_levels(np.zeros((50, len(LEVELS)), dtype=np.int64), LEVELS, IMAGES)[0]
    assert (level.dispersion, level.beyond_chance, level.worst) == (0.0, False, 0.0)


def test_the_factor_on_p_keeps_the_rate_of_95_percent_of_keys() -> None:
    _, angles = measured("one direction")
    nominal, n = 0.01, 4000
    found = {level.nominal: level for level in spreads(angles)}
    assert [level.nominal for level in found.values()] == [1e-3, 1e-6, 1e-9]
    assert 0.1 < found[1e-3].relative_sd < found[1e-6].relative_sd < found[1e-9].relative_sd
    assert 1.0 < found[1e-3].factor < found[1e-6].factor <= 20.0
    values = isotropic(n, seed=5)
    values[:, 0] += COMMON["one direction"] * math.sqrt(DIMENSION)
    # that at 1e-3 covers the smaller one at 1e-2
    corrected = nominal / found[1e-3].factor
    counts = count_exceedances(values, draw_directions(400, 7), [nominal, corrected], ("identity",), PLAIN)
    share_kept = (counts <= nominal * n).mean(axis=0)
    assert share_kept[0] < 0.8
    assert share_kept[1] >= 0.95


def test_even_features_need_no_factor_and_equal_ones_markovs() -> None:
    pairs = np.zeros(20_000, dtype=np.int64)
    pairs[9_990:10_010] = 1
    assert [level.factor for level in spreads(Angles(pairs))] == pytest.approx([1.0] * 3, abs=0.05)
    equal = np.zeros_like(pairs)
    equal[-1] = 1
    assert [level.factor for level in spreads(Angles(equal))] == [pytest.approx(20.0)] * 3


def test_a_users_key_has_its_own_counts_and_exact_bounds() -> None:
    counts = measured("evenly")[0][:2]
    found = key_levels(["a" * 16, "b" * 16], counts, LEVELS, IMAGES)
    assert [(level.key_id[0], level.nominal) for level in found] == [
        ("a", 0.1),
        ("a", 0.01),
        ("b", 0.1),
        ("b", 0.01),
    ]
    last = found[-1]
    assert last.observed == counts[1, LEVELS.index(0.01)]
    low, high = clopper_pearson(last.observed, IMAGES)
    assert (last.ratio_low, last.ratio_high) == pytest.approx((low / 0.01, high / 0.01))


def test_a_level_is_judged_from_twenty_expected_events_on() -> None:
    level = random_levels(measured("evenly")[0], LEVELS, [1.0] * len(LEVELS), IMAGES)[0]
    assert replace(level, expected=20.0).judged
    assert not replace(level, expected=19.9).judged
    assert not replace(level, expected=39.9, design_effect=2.0).judged
    verdicts = [replace(level, expected=100.0, observed=count).verdict for count in (49, 50, 200, 201)]
    assert verdicts == ["below", "within", "within", "above"]


def test_the_curve_starts_at_one_and_stops_at_one_over_the_images_for_fixed_keys() -> None:
    found = curve(measured("evenly")[0], LEVELS, effects("evenly"), IMAGES)
    assert len(found.nominal) == len(found.random) == len(found.band_low) == len(LEVELS)
    assert (found.random[0], found.band_low[0], found.band_high[0], found.fixed_median[0]) == (1, 1, 1, 1)
    assert len(found.fixed_median) == 11  # 10^-2.5 is above 1 in 500, 10^-2.75 is not
    place = LEVELS.index(0.01)
    half = 1.96 * math.sqrt(0.01 * 0.99 / (IMAGES * KEYS / effects("evenly")[place]))
    band = (found.band_low[place], found.band_high[place])
    assert band == pytest.approx((0.01 - half, 0.01 + half), rel=0.002)
    assert found.random[place] == pytest.approx(0.01, abs=2 * half)
    assert all(
        low <= middle <= high <= worst
        for low, middle, high, worst in zip(
            found.fixed_low, found.fixed_median, found.fixed_high, found.fixed_worst, strict=True
        )
    )
