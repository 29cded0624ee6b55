"""Counting false positives: against brute force, in any blocks, and second moments against simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest

from stablesig.calibration_counts import (
    Angles,
    angles_between,
    count_exceedances,
    draw_directions,
    hypotheses_of,
    joint_exceedance,
    nominal_levels,
    statistic_at,
)
from stablesig_detector.search import TRANSFORMS
from stablesig_detector.spectrum import DIMENSION, Spectrum
from stablesig_detector.statistics import bonferroni_log10, cosine_statistic, spherical_log10_p
from stablesig_detector.whitening import Whitening

PLAIN = Whitening(np.zeros(DIMENSION), np.eye(DIMENSION), "0" * 64)


def isotropic(n: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, DIMENSION))


def directions(n: int, seed: int = 0) -> np.ndarray:
    return np.concatenate(list(draw_directions(n, seed)))


def test_levels_go_down_to_the_smallest_and_hold_exact_powers_of_ten() -> None:
    levels = nominal_levels(1e-3)
    assert len(levels) == 13
    assert levels[0] == 1.0
    assert levels[4::4] == (0.1, 0.01, 0.001)
    assert np.diff(np.log10(levels)) == pytest.approx(-0.25)
    assert nominal_levels(1.01e-3)[-1] == pytest.approx(10**-2.75)


def test_directions_are_unit_vectors_whatever_their_blocks() -> None:
    drawn = directions(9)
    assert np.linalg.norm(drawn, axis=1) == pytest.approx(1.0)
    assert np.array_equal(np.concatenate(list(draw_directions(9, 0, block=4))), drawn)
    assert not np.array_equal(directions(9, seed=1), drawn)


@pytest.mark.parametrize("search", ["none", "fast"])
def test_counts_are_those_of_p_values_and_do_not_depend_on_blocks(search: str) -> None:
    values, keys, transforms = isotropic(60), directions(40), TRANSFORMS[search]
    values[3] = 0.0  # points nowhere: p = 0.5
    levels = nominal_levels(1 / 60)
    counts = count_exceedances(values, [keys], levels, transforms, PLAIN)
    log10_p = np.full((len(keys), len(values)), np.inf)
    for place, row in enumerate(values):
        for transform in transforms:
            features = PLAIN.apply(Spectrum(row, ()).transformed(transform))
            p = spherical_log10_p(cosine_statistic(features, keys)[:, 0], DIMENSION)
            log10_p[:, place] = np.minimum(log10_p[:, place], bonferroni_log10(p, len(transforms)))
    brute = [(log10_p <= math.log10(level)).sum(axis=1) for level in levels]
    assert np.array_equal(counts, np.stack(brute, axis=1))
    assert counts[:, 0].tolist() == [60] * 40
    in_blocks = count_exceedances(
        values, draw_directions(40, 0, block=7), levels, transforms, PLAIN, image_block=11
    )
    assert np.array_equal(in_blocks, counts)


def test_hypotheses_are_the_transforms_of_the_spectrum() -> None:
    values = isotropic(3)
    mixing = Whitening(np.arange(DIMENSION) / 10, isotropic(DIMENSION, seed=2), "0" * 64)
    found = hypotheses_of(values, TRANSFORMS["fast"], mixing)
    for hypothesis, transform in zip(found, TRANSFORMS["fast"], strict=True):
        one_by_one = [mixing.apply(Spectrum(row, ()).transformed(transform)) for row in values]
        assert hypothesis == pytest.approx(np.array(one_by_one))


@pytest.mark.parametrize("t", [0.7, 0.3, 0.0, -0.2])
def test_the_joint_probability_is_that_of_a_simulation(t: float) -> None:
    dimension, n = 6, 400_000
    drawn = np.random.default_rng(3).normal(size=(n, dimension))
    drawn /= np.linalg.norm(drawn, axis=1, keepdims=True)
    cosines = np.array([-0.5, 0.0, 0.6, 0.95])
    simulated = []
    for cosine in cosines:
        other = cosine * drawn[:, 0] + math.sqrt(1 - cosine**2) * drawn[:, 1]
        simulated.append(float(((drawn[:, 0] >= t) & (other >= t)).mean()))
    assert joint_exceedance(cosines, t, dimension) == pytest.approx(simulated, abs=4 * math.sqrt(0.25 / n))


@pytest.mark.parametrize("nominal", [0.3, 1e-3, 1e-9])
def test_the_joint_probability_of_equal_and_of_opposite_directions(nominal: float) -> None:
    same, opposite = joint_exceedance(np.array([1.0, -1.0]), statistic_at(nominal))
    assert same == pytest.approx(nominal, rel=1e-4)
    assert opposite == 0.0


def test_directions_spread_evenly_have_the_joint_probability_of_independence() -> None:
    angles = angles_between(isotropic(600), ("identity",), PLAIN, seed=0)
    assert angles is not None
    assert angles.pairs.sum() == 600 * 599
    assert 1 / angles.mean(angles.cosines**2) == pytest.approx(DIMENSION, rel=0.02)
    for nominal in (0.1, 1e-2, 1e-3):
        assert angles.joint(statistic_at(nominal)) == pytest.approx(nominal**2, rel=0.05)


def test_angles_of_several_hypotheses_leave_out_an_image_with_itself() -> None:
    values = isotropic(5)
    values[:, :] = values[:, :1]  # the same under every permutation
    angles = angles_between(values, TRANSFORMS["fast"], PLAIN, seed=0)
    assert angles is not None
    assert angles.pairs.sum() == (4 * 5) * (4 * 4)
    assert angles_between(values[:1], TRANSFORMS["fast"], PLAIN, seed=0) is None


def test_of_many_images_some_are_paired() -> None:
    angles = angles_between(isotropic(2600), ("identity",), PLAIN, seed=0)
    assert angles is not None
    assert angles.pairs.sum() == 2500 * 2499


def test_a_figure_carried_by_one_pair_says_so() -> None:
    pairs = np.zeros(20_000, dtype=np.int64)
    pairs[10_000], pairs[-1] = 10**5, 2  # one unordered pair of equal images, the others at right angles
    assert Angles(pairs).carrying(statistic_at(1e-9)) == pytest.approx(1.0, rel=0.01)
    pairs[-1] = 0
    assert Angles(pairs).carrying(statistic_at(1e-9)) == pytest.approx(5e4)
