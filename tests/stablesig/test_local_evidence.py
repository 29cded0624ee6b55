"""Tiles: a pasted region shows up where it is, the price is paid, the work is bounded."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from stablesig.local_evidence import TILE, features_under, geometry_of, local_evidence, tile_size
from stablesig_detector.detection import Detection, detect
from stablesig_detector.key import PublicKey
from stablesig_detector.search import FULL_GRID, Geometry, Grid, search_fully
from stablesig_detector.spectrum import spectrum
from stablesig_detector.statistics import spherical_log10_p
from stablesig_detector.whitening import load_default

from .conftest import direction_between, textured_image

PASTED = (slice(64, 320), slice(240, 496))


@pytest.fixture(scope="module")
def pasted() -> tuple[np.ndarray, PublicKey]:
    """An unmarked picture with a square from another, and a key along what the other has and it has not."""
    picture, other = textured_image(3, 384, 512), textured_image(4, 256, 256, slope=0.5)
    key = direction_between(other, picture)
    picture[PASTED] = other
    return picture, key


def test_a_pasted_region_shows_where_it_is(pasted: tuple[np.ndarray, PublicKey]) -> None:
    picture, key = pasted
    [found] = detect(picture, [key])
    local = local_evidence(picture, key.direction, found, load_default())
    assert local.side == TILE
    tops, lefts = np.meshgrid(local.tops, local.lefts, indexing="ij")
    inside = (tops >= 64) & (tops + TILE <= 320) & (lefts >= 240) & (lefts + TILE <= 496)
    outside = (tops + TILE <= 64) | (lefts + TILE <= 240) | (tops >= 320) | (lefts >= 496)
    assert inside.sum() >= 4
    assert outside.sum() >= 4
    best = local.log10_p.argmin()
    assert 64 <= tops.flat[best] + TILE / 2 <= 320
    assert 240 <= lefts.flat[best] + TILE / 2 <= 496
    assert local.log10_p[inside].mean() < local.log10_p[outside].mean() - 3
    assert not local.detected[outside].any()


def test_a_tile_pays_for_geometries_keys_and_tiles(pasted: tuple[np.ndarray, PublicKey]) -> None:
    picture, key = pasted
    found = detect(picture, [key, direction_between(picture, picture[::2, ::2])])[0]
    local = local_evidence(picture, key.direction, found, load_default())
    row, column = np.unravel_index(local.log10_p.argmin(), local.log10_p.shape)
    top, left = local.tops[row], local.lefts[column]
    own = detect(picture[top : top + TILE, left : left + TILE], [key])[0]
    assert local.statistics[row, column] == pytest.approx(own.statistic)
    single = spherical_log10_p(own.statistic, key.dimension)
    assert local.log10_p[row, column] == pytest.approx(single + math.log10(4 * 2 * local.log10_p.size))


def test_under_the_identity_a_tile_is_measured_like_an_image() -> None:
    picture, whitening = textured_image(5, 160, 160), load_default()
    [row] = features_under(picture, Geometry("flip"), ("flip",), whitening)
    assert np.array_equal(row, whitening.apply(spectrum(picture).transformed("flip")))


def test_a_rotated_and_scaled_tile_is_measured_as_the_search_measures_it() -> None:
    picture, whitening = textured_image(6, 200, 240), load_default()
    wanted = Geometry("rot90flip", FULL_GRID.scales[-1], 18.0)
    small = Grid((1.0, 0.9, wanted.scale), (-3.0, 0.0, 18.0))
    families = search_fully(picture, spectrum(picture), whitening, small)
    [searched] = [
        row
        for family in families
        for geometry, row in zip(family.geometries, family.features, strict=True)
        if geometry == wanted
    ]
    [row] = features_under(picture, wanted, ("rot90flip",), whitening)
    assert np.allclose(row, searched)


@pytest.mark.parametrize("transform", ["identity", "rot90"])
@pytest.mark.parametrize("rotation", [-45.0, 0.0, 42.0])
def test_the_winning_hypothesis_is_found_again(
    transform: str, rotation: float, small_found: Detection
) -> None:
    geometry = Geometry(transform, 1.5, rotation)
    found = replace(small_found, transform=transform, scale=1.5, rotation=geometry.total_rotation)
    assert geometry_of(found) == geometry


@pytest.fixture(scope="module")
def small_found() -> Detection:
    picture = textured_image(7, 64, 64)
    return detect(picture, [direction_between(picture, textured_image(8, 64, 64))], search="none")[0]


def test_no_more_geometries_are_tried_than_are_paid_for(small_found: Detection) -> None:
    picture, whitening = textured_image(9, 200, 200), load_default()
    key = direction_between(np.rot90(picture), textured_image(8, 64, 64))
    over_two_grounds = replace(small_found, hypotheses=2, hypothesis_factor=2)
    none, two, fast = (
        local_evidence(picture, key.direction, found, whitening).statistics
        for found in (small_found, over_two_grounds, replace(small_found, hypotheses=4))
    )
    assert np.array_equal(two, none)
    assert (fast > none).any()


@pytest.mark.parametrize("size", [(40, 34), (512, 512), (6000, 4000), (30_000, 100)])
@pytest.mark.parametrize("scale", [0.3, 1.0, 3.0])
def test_the_number_of_tiles_and_what_is_measured_are_bounded(size: tuple[int, int], scale: float) -> None:
    side, step = tile_size(*size, scale)
    assert side <= min(size)
    tiles = [1 + math.ceil((length - side) / step) for length in size]
    assert max(tiles) <= 25
    assert side <= max(256 * scale + 1, 34)
