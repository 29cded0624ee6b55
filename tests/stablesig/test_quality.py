"""The picture metrics against slow loops, another program's value, and what theory expects."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from stablesig.quality import MS_SSIM_MIN_PX, haarpsi, ms_ssim, psnr_db, quality, ssim

from .conftest import textured_image

Pixels = NDArray[np.uint8]


def noisy(image: Pixels, sigma: float, seed: int = 9) -> Pixels:
    noise = np.random.default_rng(seed).normal(0, sigma, image.shape)
    return np.clip(np.rint(image + noise), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def picture() -> Pixels:
    return textured_image(5, 192, 208)


METRICS = {"psnr": psnr_db, "ssim": ssim, "ms_ssim": ms_ssim, "haarpsi": haarpsi}


@pytest.mark.parametrize("name", METRICS)
def test_equal_pictures_have_the_largest_value(name: str, picture: Pixels) -> None:
    best = math.inf if name == "psnr" else 1.0
    assert METRICS[name](picture, picture) == pytest.approx(best, abs=1e-12)


@pytest.mark.parametrize("name", METRICS)
def test_the_order_of_the_two_does_not_matter(name: str, picture: Pixels) -> None:
    other = noisy(picture, 10)
    assert METRICS[name](picture, other) == pytest.approx(METRICS[name](other, picture), rel=1e-12)


@pytest.mark.parametrize("name", METRICS)
def test_more_noise_is_worse(name: str, picture: Pixels) -> None:
    values = [METRICS[name](picture, noisy(picture, sigma)) for sigma in (1, 4, 16, 64)]
    assert values == sorted(values, reverse=True)
    assert values[0] > values[-1] + 0.1


def test_at_one_psnr_a_shift_of_grey_looks_better_than_noise(picture: Pixels) -> None:
    """What SSIM was made for: Wang et al. 2004, figure 2."""
    middle = np.clip(picture, 20, 235)
    shifted = (middle + 8).astype(np.uint8)
    noised = noisy(middle, 8)
    assert psnr_db(middle, shifted) == pytest.approx(psnr_db(middle, noised), abs=0.3)
    for metric in (ssim, ms_ssim, haarpsi):
        assert metric(middle, shifted) > metric(middle, noised) + 0.005


def slow_ssim(first: Pixels, second: Pixels) -> float:
    """Equation 13 of the paper, window by window, from weighted deviations and not from moments."""
    x, y = (p[..., 0] * 0.299 + p[..., 1] * 0.587 + p[..., 2] * 0.114 for p in (first, second))
    axis = np.arange(-5, 6)
    window = np.exp(-(axis[:, None] ** 2 + axis**2) / (2 * 1.5**2))
    window /= window.sum()
    values = []
    for top in range(x.shape[0] - 10):
        for left in range(x.shape[1] - 10):
            a, b = (p[top : top + 11, left : left + 11] for p in (x, y))
            mean_a, mean_b = (window * a).sum(), (window * b).sum()
            var_a, var_b = (window * (a - mean_a) ** 2).sum(), (window * (b - mean_b) ** 2).sum()
            covariance = (window * (a - mean_a) * (b - mean_b)).sum()
            values.append(
                (2 * mean_a * mean_b + 6.5025)
                * (2 * covariance + 58.5225)
                / ((mean_a**2 + mean_b**2 + 6.5025) * (var_a + var_b + 58.5225))
            )
    return float(np.mean(values))


def test_ssim_is_the_sum_over_windows() -> None:
    first = textured_image(6, 24, 31)
    second = noisy(first, 12)
    assert ssim(first, second) == pytest.approx(slow_ssim(first, second), rel=1e-9)


def slow_haarpsi(first: Pixels, second: Pixels) -> float:
    """The paper's formulae with scipy's two-dimensional convolution and whole filters."""
    from scipy.signal import correlate2d

    def same(plane: NDArray[np.float64], filter_: NDArray[np.float64]) -> NDArray[np.float64]:
        half = filter_.shape[0] // 2
        return correlate2d(np.pad(plane, ((half - 1, half), (half - 1, half))), filter_, mode="valid")

    def planes(picture: Pixels) -> list[NDArray[np.float64]]:
        r, g, b = np.moveaxis(picture.astype(float), 2, 0)
        yiq = (0.299 * r + 0.587 * g + 0.114 * b, 0.596 * r - 0.274 * g - 0.322 * b)
        yiq += (0.211 * r - 0.523 * g + 0.312 * b,)
        return [same(plane, np.full((2, 2), 0.25))[::2, ::2] for plane in yiq]

    def alike(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
        return (2 * abs(a) * abs(b) + 30) / (a**2 + b**2 + 30)

    total = weight_sum = 0.0
    one, two = planes(first), planes(second)
    weights = []
    for transposed in (False, True):
        found = []
        for scale in (1, 2, 3):
            filter_ = np.full((2**scale, 2**scale), 2.0**-scale)
            filter_[: 2 ** (scale - 1)] *= -1
            filter_ = filter_.T if transposed else filter_
            found.append((same(one[0], filter_), same(two[0], filter_)))
        weights.append(np.maximum(abs(found[2][0]), abs(found[2][1])))
        similarity = (alike(*found[0]) + alike(*found[1])) / 2
        total += (weights[-1] / (1 + np.exp(-4.2 * similarity))).sum()
        weight_sum += weights[-1].sum()
    box = np.full((2, 2), 0.25)
    similarity = sum(alike(same(one[k], box), same(two[k], box)) for k in (1, 2)) / 2
    weight = (weights[0] + weights[1]) / 2
    total += (weight / (1 + np.exp(-4.2 * similarity))).sum()
    mean = total / (weight_sum + weight.sum())
    return float((np.log(mean / (1 - mean)) / 4.2) ** 2)


def test_haarpsi_follows_its_formulae_on_sides_even_and_odd() -> None:
    for height, width in ((40, 48), (41, 51)):
        first = textured_image(7, height, width)
        second = noisy(first, 15)
        assert haarpsi(first, second) == pytest.approx(slow_haarpsi(first, second), rel=1e-9)


def test_haarpsi_stays_between_0_and_1() -> None:
    first = textured_image(8, 64, 64)
    black, white = np.zeros_like(first), np.full_like(first, 255)
    for other in (black, white, noisy(first, 200)):
        assert 0.0 <= haarpsi(first, other) < 0.6
    assert haarpsi(black, black) == pytest.approx(1.0)


def test_ms_ssim_needs_five_scales(picture: Pixels) -> None:
    small = picture[: MS_SSIM_MIN_PX - 1]
    with pytest.raises(ValueError, match="176 px at least"):
        ms_ssim(small, small)
    found = quality(small, noisy(small, 3))
    assert found.ms_ssim is None
    assert 0.8 < found.ssim < 1.0


def test_pictures_that_do_not_pair_are_refused(picture: Pixels) -> None:
    for other in (picture[:-1], picture.astype(np.float32), picture[..., 0]):
        with pytest.raises(ValueError, match="give"):
            psnr_db(picture, other)


def test_ssim_agrees_with_scikit_image() -> None:
    """Against structural_similarity of scikit-image 0.26.0 on the luma of a pair made by arithmetic alone.

    gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=255, run once by hand.
    """
    y, x = np.mgrid[0:48, 0:56]
    first = np.stack([(x * 5 + y * 3) % 256, (x * y) % 256, (x * x + 2 * y) % 256], -1).astype(np.uint8)
    change = ((x * 7 + y * 11) % 41 - 20)[..., None]
    second = np.clip(first.astype(int) + change, 0, 255).astype(np.uint8)
    assert ssim(first, second) == pytest.approx(0.9490737837490048, rel=1e-12)
