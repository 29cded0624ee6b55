"""Features from windows that lie apart: the same arithmetic, on a lattice that depends on the size alone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stablesig_detector.errors import ImageError
from stablesig_detector.planes import DIMENSION, MIN_SIDE
from stablesig_detector.sampled_spectrum import LUMA_DIMENSION, lattice, sampled_spectrum, windows
from stablesig_detector.spectrum import spectrum

from .test_spectrum import textured

ALL = (10**9, 10**9)


@pytest.mark.parametrize("size", [(128, 150), (MIN_SIDE, MIN_SIDE), (MIN_SIDE, 300)])
def test_with_every_window_the_features_are_those_of_the_spectrum(size: tuple[int, int]) -> None:
    image = textured(*size)
    assert np.abs(sampled_spectrum(image, ALL) - spectrum(image).values).max() < 1e-4


def test_luma_alone_has_the_features_of_a_grey_image() -> None:
    luma = textured(140, 128)[..., 0].copy()
    grey = np.repeat(luma[..., None], 3, axis=2)
    found = sampled_spectrum(luma, ALL)
    assert found.shape == (LUMA_DIMENSION,)
    assert np.abs(found - spectrum(grey).values[:LUMA_DIMENSION]).max() < 1e-4
    assert (
        np.abs(sampled_spectrum(luma, (30, 9)) - sampled_spectrum(grey, (30, 9))[:LUMA_DIMENSION]).max()
        < 1e-4
    )


def test_whole_and_float_grey_levels_measure_the_same() -> None:
    image = textured(128, 200)
    assert (
        np.abs(sampled_spectrum(image, (50, 20)) - sampled_spectrum(np.float32(image), (50, 20))).max() < 1e-4
    )


def test_columns_of_memory_do_not_matter() -> None:
    turned = np.rot90(textured(128, 200))
    assert not turned.flags.c_contiguous
    copy = np.ascontiguousarray(turned)
    assert np.array_equal(sampled_spectrum(turned, (50, 20)), sampled_spectrum(copy, (50, 20)))


def test_a_part_measures_about_the_same() -> None:
    image = textured(512, 512)
    whole, part = spectrum(image).values, sampled_spectrum(image, (324, 324))
    assert part.shape == (DIMENSION,)
    assert 0.01 < np.abs(whole - part).mean() < 0.1


def test_no_pixel_beyond_the_windows_counts() -> None:
    """One window in the middle: what is at the border is not read."""
    image = textured(256, 256)
    border = image.copy()
    border[:80] = border[-80:] = border[:, :80] = border[:, -80:] = 7
    assert np.array_equal(sampled_spectrum(image, (1, 1)), sampled_spectrum(border, (1, 1)))


def test_too_small_an_image_is_refused() -> None:
    with pytest.raises(ImageError, match="needs at least"):
        sampled_spectrum(textured(MIN_SIDE - 1, 80), (9, 9))


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 600), st.integers(1, 600), st.integers(1, 4000))
def test_a_lattice_fits_and_is_no_sparser_than_it_must(down: int, across: int, most: int) -> None:
    (step, other), (rows, columns) = lattice(down, across, most)
    assert other in (step, step + 1)
    assert rows * columns <= most
    assert (rows - 1) * step < down
    assert (columns - 1) * other < across
    if (step, other) != (1, 1):
        before = (step, step) if other > step else (step - 1, step)
        assert -(-down // before[0]) * -(-across // before[1]) > most


def test_windows_are_those_that_fit() -> None:
    assert windows(512, 512, 0) == (71, 71)
    assert windows(MIN_SIDE, 512, 1) == (1, 35)
