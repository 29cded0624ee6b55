"""The spectrum: what it must not react to, and what it must."""

import numpy as np
import pytest

from stablesig_detector.errors import ImageError
from stablesig_detector.spectrum import (
    DIMENSION,
    FLOOR,
    HOP,
    MIN_SIDE,
    PLANES,
    WINDOW,
    analysis_matrix,
    spectrum,
)


def textured(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Coloured noise with a falling spectrum, uint8 (H, W, 3): a stand-in for a photograph."""
    rng = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None]) + 0.02
    noise = np.fft.irfft2(np.fft.rfft2(rng.normal(size=(3, height, width))) / frequency, s=(height, width))
    noise = noise / noise.std() * 25 + 128
    return np.clip(np.rint(noise), 0, 255).astype(np.uint8).transpose(1, 2, 0)


def test_dimension_is_the_sum_of_the_planes() -> None:
    assert [len(plane.bins) for plane in PLANES] == [88, 88, 28, 28]
    assert DIMENSION == 232
    assert spectrum(textured(64, 80)).values.shape == (DIMENSION,)


def test_the_hop_shares_no_factor_with_a_decoder_stride() -> None:
    assert np.gcd(HOP, 8) == 1


def test_windows_have_no_mean_and_unit_energy() -> None:
    rows = analysis_matrix(PLANES[0]).astype(np.float64)
    assert np.abs(rows.sum(axis=1)).max() < 1e-4
    half = len(rows) // 2
    # cosine and sine of a bin share the taper's unit energy; taking out the mean costs the lowest bins some
    energy = (rows[:half] ** 2).sum(axis=1) + (rows[half:] ** 2).sum(axis=1)
    lowest = np.array([max(abs(ky), abs(kx)) <= 1 for ky, kx in PLANES[0].bins])
    assert np.allclose(energy[~lowest], 1, atol=1e-6)
    assert ((energy[lowest] > 0.85) & (energy[lowest] <= 1 + 1e-6)).all()


def test_a_sinusoid_peaks_at_its_own_bin() -> None:
    ky, kx = 3, -2
    y, x = np.mgrid[:128, :128]
    wave = 128 + 50 * np.cos(2 * np.pi * (ky * y + kx * x) / WINDOW)
    values = spectrum(np.repeat(wave[..., None], 3, axis=2).astype(np.float32)).values
    luma = values[: len(PLANES[0].bins)]
    assert PLANES[0].bins[int(luma.argmax())] == (ky, kx)


def test_a_flat_image_measures_the_floor() -> None:
    flat = np.full((96, 96, 3), 77, dtype=np.uint8)
    assert np.allclose(spectrum(flat).values, np.log(FLOOR), atol=1e-4)


def test_gain_moves_loud_features_together() -> None:
    image = textured(256, 256).astype(np.float32)
    change = spectrum(128 + (image - 128) * 0.5).values - spectrum(image).values
    luma = change[: len(PLANES[0].bins)]
    assert np.ptp(luma) < 0.15  # the floor weighs more on the quieter image
    assert luma.mean() == pytest.approx(np.log(0.25), abs=0.15)


def test_crops_and_shifts_measure_nearly_the_same() -> None:
    image = textured(400, 400)
    whole = spectrum(image).values
    shifted = spectrum(image[3:, 5:]).values
    assert np.abs(whole - shifted)[: len(PLANES[0].bins)].max() < 0.06
    quarter = spectrum(image[100:300, 57:257]).values
    assert np.abs(whole - quarter).mean() < 0.1


@pytest.mark.parametrize(
    ("name", "turned"),
    [
        ("identity", lambda image: image),
        ("flip", lambda image: image[:, ::-1]),
        ("flip", lambda image: image[::-1]),
        ("rot90", lambda image: np.rot90(image, 1)),
        ("rot90", lambda image: np.rot90(image, 3)),
        ("rot90flip", lambda image: np.rot90(image, 1)[:, ::-1]),
    ],
)
def test_transformed_undoes_mirrors_and_quarter_turns(name, turned) -> None:
    # a whole number of hops plus a window, so that the same windows of full-size luma are cut either way
    image = textured(254, 254)
    assert (254 - WINDOW) % HOP == 0
    straight = spectrum(image).values
    undone = spectrum(np.ascontiguousarray(turned(image))).transformed(name)
    luma = slice(0, len(PLANES[0].bins))
    assert np.abs(undone - straight)[luma].max() < 1e-4
    assert np.abs(undone - straight).max() < 0.3  # the other planes cut other windows
    if name != "identity":
        assert np.abs(spectrum(np.ascontiguousarray(turned(image))).values - straight)[luma].max() > 0.01


def test_transformed_knows_its_names() -> None:
    with pytest.raises(KeyError):
        spectrum(textured(64, 64)).transformed("rot45")


def test_the_smallest_image_is_measured_and_a_smaller_one_refused() -> None:
    assert spectrum(textured(MIN_SIDE, MIN_SIDE)).windows[-1] == 1
    with pytest.raises(ImageError, match=f"{MIN_SIDE - 1} x 200 px; .*at least {MIN_SIDE}"):
        spectrum(textured(200, MIN_SIDE - 1))


def test_strips_of_a_large_image_add_up() -> None:
    """The mean does not depend on how many rows of windows are handled at a time."""
    wide = textured(72, 4000)
    windows = np.lib.stride_tricks.sliding_window_view(_luma(wide), (WINDOW, WINDOW))[::HOP, ::HOP]
    rows = analysis_matrix(PLANES[0]).astype(np.float64)
    x = windows.reshape(-1, WINDOW * WINDOW) @ rows.T
    half = len(rows) // 2
    expected = np.log(x[:, :half] ** 2 + x[:, half:] ** 2 + FLOOR).mean(axis=0)
    assert np.allclose(spectrum(wide).values[:half], expected, atol=1e-4)


def _luma(image: np.ndarray) -> np.ndarray:
    return image.astype(np.float64) @ np.array([0.299, 0.587, 0.114])
