"""The geometric hypotheses: every one is paid for, and the right one wins."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from stablesig_detector import search as search_module
from stablesig_detector.detection import Detection, detect, weigh_families
from stablesig_detector.key import PublicKey
from stablesig_detector.search import (
    FULL_GRID,
    REGION,
    Family,
    Geometry,
    Grid,
    search_fully,
    undone_size,
)
from stablesig_detector.spectrum import DIMENSION, FEATURE_VERSION, MIN_SIDE, spectrum
from stablesig_detector.whitening import load_default

SMALL = Grid(scales=(0.5, 1.0, 1.5), rotations=(-15.0, 0.0, 15.0))


def _texture(side: int = 256, seed: int = 3) -> NDArray[np.uint8]:
    """(S, S, 3) uint8: coloured noise whose spectrum has a shape of its own in every direction."""
    rng = np.random.default_rng(seed)
    ky, kx = np.meshgrid(np.fft.fftfreq(side), np.fft.fftfreq(side), indexing="ij")
    shape = (np.exp(-((ky / 0.12) ** 2) - ((kx - 0.6 * ky) / 0.08) ** 2) + 0.02)[..., None]
    noise = np.fft.fft2(rng.standard_normal((side, side, 3)), axes=(0, 1))
    noise = np.fft.ifft2(noise * shape, axes=(0, 1)).real
    return np.clip(128 + 40 * noise / noise.std(), 0, 255).astype(np.uint8)


def _key_of(pixels: NDArray[np.uint8]) -> PublicKey:
    """The key whose watermark `pixels` hold as strongly as can be: its direction is their features'."""
    phi = load_default().apply(spectrum(pixels).values)
    direction_q = np.rint(phi / np.linalg.norm(phi) * 2**20).astype(np.int32)
    return PublicKey(direction_q, 48, FEATURE_VERSION, load_default().sha256)


def _random_keys(n: int, dimension: int = DIMENSION, seed: int = 0) -> list[PublicKey]:
    directions = np.random.default_rng(seed).standard_normal((n, dimension))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    quantised = np.rint(directions * 2**20).astype(np.int32)
    return [PublicKey(row, 48, FEATURE_VERSION, load_default().sha256) for row in quantised]


def _searched(pixels: NDArray[np.uint8] | NDArray[np.float32], grid: Grid = SMALL) -> list[Family]:
    return search_fully(pixels, spectrum(pixels), load_default(), grid)


def _found(pixels: NDArray[np.uint8], key: PublicKey, grid: Grid = SMALL) -> Detection:
    [found] = weigh_families(_searched(pixels, grid), [key], 1e-6, hypotheses=grid.size, width=1, height=1)
    return found


# What is paid.


@pytest.mark.parametrize(
    "grid", [FULL_GRID, SMALL, Grid((0.5, 1.0), (0.0,)), Grid((1.0,), (0.0, 3.0)), Grid((1.0,), (0.0,))]
)
def test_the_hypotheses_share_the_whole_rate(grid: Grid) -> None:
    sizes = grid.family_sizes
    assert sum(sizes.values()) == grid.size == 4 * len(grid.scales) * len(grid.rotations)
    families = _searched(_texture(), grid)
    assert len(families) == len(sizes)
    assert sum(len(family.geometries) for family in families) == grid.size
    assert sum(len(family.geometries) / family.factor for family in families) == pytest.approx(1.0, abs=1e-12)
    geometries = {geometry for family in families for geometry in family.geometries}
    assert len(geometries) == grid.size


def test_the_full_grid_covers_scales_and_rotations_without_a_gap() -> None:
    scales, rotations = np.array(FULL_GRID.scales), np.array(FULL_GRID.rotations)
    assert 1.0 in scales
    assert 0.0 in rotations
    assert scales[0] <= 0.3
    assert scales[-1] * 2 ** (1 / 24) >= 3.0  # half a step beyond
    assert np.allclose(np.diff(np.log2(scales)), 1 / 12)
    factors = [size * 4 for size in FULL_GRID.family_sizes.values()]
    assert (FULL_GRID.size, factors) == (4920, [16, 640, 464, 18560])  # as docs/cli.md says
    assert (rotations[0], rotations[-1] + 3.0) == (-45.0, 45.0)
    assert np.allclose(np.diff(rotations), 3.0)


def test_what_cannot_be_measured_is_paid_for() -> None:
    grid = Grid(scales=(0.5, 1.0, 3.0), rotations=(0.0,))
    small, large = (_searched(_texture(side), grid) for side in (MIN_SIDE * 2, MIN_SIDE * 3))
    assert [len(family.geometries) for family in small] == [4, 4]
    assert [len(family.geometries) for family in large] == [4, 8]
    assert [family.factor for family in small] == [family.factor for family in large] == [2 * 4, 2 * 8]


def _share_of_small_p_values(families: list[Family], seed: int) -> float:
    """The share of 2,000 random keys whose p-value is below 0.05."""
    keys = _random_keys(2000, seed=seed)
    small = 0
    for start in range(0, len(keys), 20):  # 20 keys in a call: p < 0.05 for one is p < 1 for the call
        found = weigh_families(
            families, keys[start : start + 20], 1e-6, hypotheses=SMALL.size, width=1, height=1
        )
        small += sum(evidence.log10_p_value < 0.0 for evidence in found)
    return small / len(keys)


SAMPLING_ERROR = 3 * math.sqrt(0.05 * 0.95 / 2000)


@pytest.mark.parametrize("side", [40, 128])
def test_p_values_of_an_image_without_a_watermark_are_not_too_small(side: int) -> None:
    assert _share_of_small_p_values(_searched(_texture(side)), seed=side) <= 0.05 + SAMPLING_ERROR


def test_the_price_is_right_for_hypotheses_that_have_nothing_in_common() -> None:
    families = _searched(_texture(128))
    basis, _ = np.linalg.qr(np.random.default_rng(1).standard_normal((DIMENSION, SMALL.size)))
    unrelated, start = [], 0
    for family in families:
        stop = start + len(family.geometries)
        unrelated.append(Family(family.geometries, basis.T[start:stop], family.factor))
        start = stop
    assert abs(_share_of_small_p_values(unrelated, seed=2) - 0.05) <= SAMPLING_ERROR


def test_a_family_with_a_lower_price_wins_with_a_lower_statistic() -> None:
    [key] = _random_keys(1)
    across = np.linalg.qr(np.stack([key.direction, np.ones(DIMENSION)]).T)[0][:, 1]

    def at(cosine: float) -> NDArray[np.float64]:
        return (cosine * key.direction + math.sqrt(1 - cosine**2) * across)[None]

    common, rare = Geometry("flip"), Geometry("identity", 0.5, 12.0)
    for factor, winner in ((2, common), (10**6, rare)):
        families = [Family((common,), at(0.40), factor), Family((rare,), at(0.45), 1000)]
        [found] = weigh_families(families, [key], 1e-6, hypotheses=7, width=1, height=1)
        assert (found.transform, found.scale) == (winner.transform, winner.scale)
        assert (found.hypotheses, found.hypothesis_factor) == (7, factor if winner == common else 1000)


# What is found.


@pytest.mark.parametrize(
    ("mirror", "degrees", "scale", "transform"),
    [
        (False, 0.0, 1.0, "identity"),
        (False, 0.0, 0.5, "identity"),
        (False, 0.0, 1.5, "identity"),
        (False, 15.0, 1.0, "identity"),
        (False, -15.0, 1.5, "identity"),
        (True, 15.0, 1.0, "flip"),
        (True, -15.0, 0.5, "flip"),
        (False, 75.0, 1.0, "rot90"),
        (True, 75.0, 1.5, "rot90flip"),
    ],
)
def test_mirroring_rotation_and_scale_are_recognised(
    mirror: bool, degrees: float, scale: float, transform: str
) -> None:
    pixels = _texture()
    image = Image.fromarray(pixels[:, ::-1] if mirror else pixels)
    image = image.rotate(degrees, Image.Resampling.BICUBIC)
    side = round(scale * image.width)
    image = image.resize((side, side), Image.Resampling.LANCZOS)
    found = _found(np.asarray(image), _key_of(pixels))
    assert (found.transform, found.scale, found.rotation) == (transform, scale, degrees)
    assert found.detected
    assert found.statistic > 0.4


@pytest.mark.parametrize(
    ("geometry", "degrees"),
    [
        (Geometry("identity", 1.0, -45.0), -45.0),
        (Geometry("flip"), 0.0),
        (Geometry("rot90"), 90.0),
        (Geometry("rot90flip", 2.0, -10.0), 80.0),
        (Geometry("rot90", 2.0, 10.0), -80.0),
    ],
)
def test_the_rotation_shown_includes_the_quarter_turn(geometry: Geometry, degrees: float) -> None:
    assert geometry.total_rotation == degrees


def test_the_image_as_it_is_gives_what_the_fast_search_gives() -> None:
    pixels = _texture(96)
    [key] = _random_keys(1)
    [as_it_is] = _searched(pixels, Grid((1.0,), (0.0,)))
    [fast] = detect(pixels, [key], search="fast")
    [found] = weigh_families([as_it_is], [key], 1e-6, hypotheses=4, width=96, height=96)
    assert found.statistic == pytest.approx(fast.statistic, abs=1e-12)
    assert (found.transform, found.hypotheses) == (fast.transform, fast.hypotheses)


def test_frequencies_that_a_reduction_destroyed_have_no_vote() -> None:
    values = spectrum(_texture()).values
    lost = search_module._frequencies() >= 0.25  # the Nyquist frequency at half the side
    assert 0 < lost.sum() < DIMENSION
    changed = values.copy()
    changed[lost] += np.random.default_rng(1).normal(size=lost.sum())
    whitening = load_default()
    before, after = (
        search_module._without_lost(whitening.apply(found)[None], 0.5, whitening)
        for found in (values, changed)
    )
    assert np.allclose(before, after, atol=1e-6)
    assert 0 < np.linalg.norm(before) < np.linalg.norm(whitening.apply(values))
    assert np.array_equal(search_module._without_lost(values[None], 1.0, whitening), values[None])


# Any image goes through.


@pytest.mark.parametrize("shape", [(MIN_SIDE, MIN_SIDE), (40, 2000), (2000, 40), (97, 61)])
def test_images_of_any_shape_are_searched(shape: tuple[int, int]) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (*shape, 3), dtype=np.uint8)
    grid = Grid((0.5, 1.0, 1.1, 3.0), (-45.0, 0.0, 42.0))
    for family in _searched(noise, grid):
        assert np.isfinite(family.features).all()
        assert len(family.geometries) == len(family.features)


@pytest.mark.parametrize("grey", [0.0, 128.0, 255.0])
def test_flat_and_16_bit_images_are_searched(grey: float) -> None:
    flat = np.full((70, 90, 3), grey, np.float32)
    families = _searched(flat)
    assert [len(family.geometries) for family in families] == [4]  # the rest is all margin
    [found] = weigh_families(families, _random_keys(1), 1e-6, hypotheses=SMALL.size, width=90, height=70)
    assert math.isfinite(found.statistic)


@given(st.integers(1, 20000), st.integers(1, 20000), st.sampled_from(FULL_GRID.scales))
def test_the_part_measured_is_bounded_and_lies_in_the_image(width: int, height: int, scale: float) -> None:
    across, down = undone_size(width, height, scale)
    assert across * down <= REGION**2 + 1
    assert across * scale <= width + 1e-5
    assert down * scale <= height + 1e-5
    assert undone_size(height, width, scale) == (down, across)
    if width >= REGION * scale and height >= REGION * scale:
        assert (across, down) == (REGION, REGION)
