"""Rotation read off a refined spectrum: right sense, right values, and no vote for what is no picture."""

from __future__ import annotations

import math

import numpy as np
import pytest
from PIL import Image

from stablesig_detector.spectrum import DIMENSION, MIN_SIDE, PLANES, WINDOW, spectrum
from stablesig_detector.turned_spectrum import blank_margins, turned_spectra


def _texture(side: int = 192, seed: int = 3) -> np.ndarray:
    """(S, S, 3) uint8: coloured noise with a direction in it, without the frequencies that rotating harms."""
    rng = np.random.default_rng(seed)
    ky, kx = np.meshgrid(np.fft.fftfreq(side), np.fft.fftfreq(side), indexing="ij")
    shape = np.exp(-((ky / 0.2) ** 2) - ((kx - 0.6 * ky) / 0.08) ** 2)[..., None]
    noise = np.fft.fft2(rng.standard_normal((side, side, 3)), axes=(0, 1))
    noise = np.fft.ifft2(noise * shape, axes=(0, 1)).real
    return np.clip(128 + 40 * noise / noise.std(), 0, 255).astype(np.uint8)


def _rotated(pixels: np.ndarray, degrees: float, fill: str = "black") -> np.ndarray:
    turned = Image.fromarray(pixels).rotate(degrees, Image.Resampling.BICUBIC, expand=True, fillcolor=fill)
    return np.asarray(turned)


@pytest.mark.parametrize(("height", "width"), [(MIN_SIDE, MIN_SIDE), (64, 97), (131, 250)])
def test_no_rotation_gives_the_spectrum(height: int, width: int) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (height, width, 3), dtype=np.uint8)
    turned = turned_spectra(pixels, (0.0,))
    assert turned is not None
    assert turned.shape == (1, DIMENSION)
    assert np.abs(turned[0] - spectrum(pixels).values).max() < 1e-5


@pytest.mark.parametrize("quarter_turns", [1, 2, 3])
def test_a_quarter_turn_is_undone_but_for_the_last_windows(quarter_turns: int) -> None:
    pixels = _texture()
    image = np.ascontiguousarray(np.rot90(pixels, quarter_turns))
    turned = turned_spectra(image, (90.0 * quarter_turns, 90.0 * quarter_turns + 45.0))
    assert turned is not None
    right, wrong = np.abs(turned - spectrum(pixels).values).mean(axis=1)
    assert right < 0.1
    assert wrong > 1.0


@pytest.mark.parametrize("degrees", [-35.0, 10.0, 25.0])
def test_rotation_is_undone_in_the_sense_it_was_made(degrees: float) -> None:
    pixels = _texture()
    image = _rotated(pixels, degrees)
    turned = turned_spectra(image, (degrees, 0.0, -degrees), blank_margins(image))
    assert turned is not None
    right, none, wrong = np.abs(turned - spectrum(pixels).values).mean(axis=1)
    assert right < 0.4 * none
    assert right < 0.25 * wrong


def test_margins_have_no_vote() -> None:
    pixels = np.clip(_texture(), 40, 215)
    black, white = (_rotated(pixels, 20.0, fill) for fill in ("black", "white"))
    margins = blank_margins(black)
    assert np.array_equal(margins, (black == 0).all(axis=2))
    assert np.array_equal(margins, blank_margins(white))
    on_black, on_white = (turned_spectra(image, (20.0,), margins) for image in (black, white))
    assert on_black is not None
    assert on_white is not None
    assert np.array_equal(on_black, on_white)
    with_margins = turned_spectra(black, (20.0,))
    assert with_margins is not None
    assert np.abs(with_margins - on_black).max() > 0.5


def test_a_picture_without_margins_has_none() -> None:
    pixels = _texture()
    pixels[:15, :15] = 0
    assert not blank_margins(pixels).any()


def test_margins_survive_a_jpeg() -> None:
    image = Image.fromarray(_rotated(np.clip(_texture(), 40, 215), 20.0))
    black = (np.asarray(image) == 0).all(axis=2)
    rng = np.random.default_rng(2)
    noisy = np.clip(np.asarray(image).astype(np.int16) + rng.integers(-4, 5, (*black.shape, 1)), 0, 255)
    assert blank_margins(noisy.astype(np.uint8))[black].mean() > 0.99


def test_a_limit_on_the_frequencies_leaves_those_below_it_as_they_are() -> None:
    pixels = _texture()
    everything, some = turned_spectra(pixels, (0.0, 33.0)), turned_spectra(pixels, (0.0, 33.0), highest=0.2)
    below = np.array(
        [math.hypot(*bin_) / WINDOW / 2**plane.octave < 0.2 for plane in PLANES for bin_ in plane.bins]
    )
    assert everything is not None
    assert some is not None
    assert np.allclose(everything[:, below], some[:, below], atol=1e-4)
    assert not np.allclose(everything[:, ~below], some[:, ~below], atol=1.0)


def test_an_image_that_is_all_margin_is_not_measured() -> None:
    flat = np.full((80, 90, 3), 128, np.uint8)
    assert turned_spectra(flat, (0.0,), blank_margins(flat)) is None
