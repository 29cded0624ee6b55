"""The fast way to the features gives the features of their definition, window by window and bin by bin."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from stablesig_detector.planes import (
    COLOUR_MATRIX,
    FLOOR,
    HALVING_FILTER,
    HOP,
    MIN_SIDE,
    PLANES,
    WINDOW,
    fourier_rows,
)
from stablesig_detector.separable import PRODUCT, summed_log_powers, transforms
from stablesig_detector.spectrum import FULLY_MEASURED, MOST_MEASURED, most_windows, spectrum

from .test_spectrum import textured

ALL = 10**9


def defined(rgb: np.ndarray) -> np.ndarray:
    """The features as the definition reads, in double precision: dense rows, a logarithm a window and bin."""
    pyramid = [np.einsum("ij,hwj->ihw", np.array(COLOUR_MATRIX), rgb.astype(np.float64))]
    for _ in range(max(plane.octave for plane in PLANES)):
        planes = pyramid[-1]
        for axis in (1, 2):
            size = (planes.shape[axis] - 2) // 2
            planes = sum(
                weight * planes.take(range(tap, tap + 2 * size, 2), axis)
                for tap, weight in enumerate(HALVING_FILTER)
            )
        pyramid.append(planes)
    means = []
    for plane in PLANES:
        windows = np.lib.stride_tricks.sliding_window_view(
            pyramid[plane.octave][plane.channel], (WINDOW, WINDOW)
        )[::HOP, ::HOP].reshape(-1, WINDOW * WINDOW)
        real, imaginary = np.split(windows @ fourier_rows(np.array(plane.bins)).T, 2, axis=1)
        means.append(np.log(real**2 + imaginary**2 + FLOOR).mean(axis=0))
    return np.concatenate(means)


def checks(height: int, width: int) -> np.ndarray:
    """Black and white squares: the largest powers that 0..255 allows."""
    squares = (np.arange(height)[:, None] // 4 + np.arange(width) // 4) % 2
    return np.repeat((255 * squares).astype(np.uint8)[..., None], 3, axis=2)


IMAGES = {
    "noise": np.random.default_rng(0).integers(0, 256, (131, 250, 3), dtype=np.uint8),
    "texture": textured(300, 90),
    "white": np.full((96, 97, 3), 255, np.uint8),
    "squares": checks(150, 131),
    "colours": np.random.default_rng(1).choice([0, 255], (80, 75, 3)).astype(np.uint8),
    "smallest": textured(MIN_SIDE, MIN_SIDE),
    "low": textured(MIN_SIDE, 1000),
    "high": textured(1000, MIN_SIDE + 1),
    "float": textured(90, 120).astype(np.float32) / 255 * 254.7,
}


@pytest.mark.parametrize("name", IMAGES)
def test_the_features_are_those_of_the_definition(name: str) -> None:
    assert np.abs(spectrum(IMAGES[name]).values - defined(IMAGES[name])).max() < 1e-5  # 5e-6 measured


def test_every_window_counts_once_up_to_the_bound() -> None:
    image = textured(525, 525)
    measured = spectrum(image)
    assert measured.windows == (FULLY_MEASURED, *[36**2] * 3)
    assert np.abs(measured.values - defined(image)).max() < 1e-5


def test_columns_of_memory_do_not_matter() -> None:
    """Images come as views, from crops and turns."""
    image = textured(120, 90)
    turned = np.rot90(image)
    assert not turned.flags.c_contiguous
    assert np.array_equal(spectrum(turned).values, spectrum(np.ascontiguousarray(turned)).values)


def test_whole_and_float_grey_levels_measure_the_same() -> None:
    image = textured(100, 140)
    assert np.abs(spectrum(image).values - spectrum(image.astype(np.float32)).values).max() < 1e-5


def test_products_of_powers_do_not_overflow() -> None:
    """The loudest window that 0..255 allows: black and white by the sign of the row."""
    for plane in PLANES:
        rows = fourier_rows(np.array(plane.bins))
        loudest = (255 * np.clip(rows, 0, None).sum(axis=1)).max()
        assert (2 * loudest**2 + FLOOR) ** PRODUCT < np.finfo(np.float32).max


def test_tiles_measured_together_are_their_sum() -> None:
    image = textured(200, 300)
    for transform in transforms():
        height, width = transform.pixels(5), transform.pixels(7)
        tiles = [image[y : y + height, x : x + width] for y, x in ((0, 0), (31, 100), (40, 55))]
        together = summed_log_powers(np.stack(tiles), 5, 7, transform)
        one_by_one = sum(summed_log_powers(tile[None], 5, 7, transform) for tile in tiles)
        assert together.shape == transform.sums_shape
        assert np.abs(together - one_by_one).max() < 1e-3 * np.sqrt(together.max())


def test_threads_do_not_share_memory() -> None:
    images = [textured(200, 260, seed) for seed in range(4)]
    expected = [spectrum(image).values for image in images]
    results: list[list[np.ndarray]] = [[] for _ in images]

    def work(place: int) -> None:
        for _ in range(5):
            results[place].append(spectrum(images[place]).values)

    threads = [threading.Thread(target=work, args=(place,)) for place in range(len(images))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for found, wanted in zip(results, expected, strict=True):
        assert len(found) == 5
        assert all(np.array_equal(values, wanted) for values in found)


class TestBound:
    def test_small_images_are_measured_in_full_and_large_ones_in_part(self) -> None:
        assert most_windows(512, 512) == FULLY_MEASURED
        assert most_windows(1200, 1000) == 6000
        assert most_windows(2100, 2100) == most_windows(10**5, 10**5) == MOST_MEASURED

    def test_a_part_measures_about_the_same(self) -> None:
        image = textured(700, 900)
        whole, part = spectrum(image, ALL), spectrum(image, 5184)
        assert whole.windows[0] > 2 * part.windows[0]
        assert 4600 < part.windows[0] <= 5184
        assert 1000 < part.windows[1] <= 1296
        assert np.abs(whole.values - part.values).max() < 0.15
        assert not np.array_equal(whole.values, part.values)

    def test_the_part_is_the_same_every_time(self) -> None:
        image = textured(700, 900)
        assert np.array_equal(spectrum(image).values, spectrum(image).values)

    def test_only_the_chosen_tiles_are_looked_at(self) -> None:
        """A large image is not copied to floats as a whole."""
        from stablesig_detector.window_tiles import tiles

        height, width = 2000, 3000
        seen = np.zeros((height, width), bool)
        luma = transforms()[0]
        for part in tiles((height - WINDOW) // HOP + 1, (width - WINDOW) // HOP + 1, 5184):
            for top, left in zip(part.tops, part.lefts, strict=True):
                y, x = top * HOP, left * HOP
                seen[y : y + luma.pixels(part.rows), x : x + luma.pixels(part.columns)] = True
        assert seen.mean() < 0.06
