"""What attackers who know the method do to a picture, and what it costs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from stablesig import informed_attacks
from stablesig.informed_attacks import averaged, descended, evaded, flattened, mean_residual, unremarkable
from stablesig.suites import DecoderContext
from stablesig_detector.carriers import DIRECTION_SCALE
from stablesig_detector.detection import detect
from stablesig_detector.key import PublicKey
from stablesig_detector.spectrum import FEATURE_VERSION, spectrum
from stablesig_detector.whitening import load_default
from stablesig_train.held_out import psnr_db
from stablesig_train.spectrum import Statistic

from .conftest import textured_image
from .tiny_decoders import context_of_tiny_decoders


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> DecoderContext:
    return context_of_tiny_decoders(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    return textured_image(31, 96, 144)


@pytest.fixture(scope="module")
def key(picture: np.ndarray) -> PublicKey:
    """A key that the picture carries: its own features, half of them replaced by chance."""
    phi = load_default().apply(spectrum(picture).values)
    other = np.random.default_rng(0).normal(size=phi.shape)
    direction = phi / np.linalg.norm(phi) + other / np.linalg.norm(other)
    quantised = np.rint(direction / np.linalg.norm(direction) * DIRECTION_SCALE).astype(np.int32)
    return PublicKey(quantised, 48, FEATURE_VERSION, load_default().sha256)


def statistic_of(image: np.ndarray, key: PublicKey) -> float:
    return detect(image, [key], search="none")[0].statistic


@pytest.mark.parametrize("psnr", [50, 40, 36])
def test_a_gradient_lowers_the_statistic_within_its_budget(
    psnr: int, picture: np.ndarray, key: PublicKey
) -> None:
    attacked = descended(picture, Statistic(key.direction, load_default()), psnr)
    assert attacked.dtype == np.uint8
    assert psnr <= psnr_db(attacked, picture) < psnr + 6
    assert statistic_of(attacked, key) < 0.5 * statistic_of(picture, key)


def test_more_budget_lowers_the_statistic_further(picture: np.ndarray, key: PublicKey) -> None:
    statistic = Statistic(key.direction, load_default())
    faint, strong = (statistic_of(descended(picture, statistic, psnr), key) for psnr in (56, 44))
    assert strong < faint < statistic_of(picture, key)


def test_no_budget_and_no_slope_change_nothing(picture: np.ndarray, key: PublicKey) -> None:
    statistic = Statistic(key.direction, load_default())
    assert np.array_equal(descended(picture, statistic, 70), picture)  # below the rounding error
    assert np.array_equal(descended(picture, lambda images: 0 * images.sum(dim=(1, 2, 3)), 40), picture)


def test_saturated_samples_stay_in_range(key: PublicKey) -> None:
    image = np.where(textured_image(5, 64, 64) > 128, 255, 0).astype(np.uint8)
    attacked = descended(image, Statistic(key.direction, load_default()), 30)
    assert np.abs(attacked.astype(int) - image).max() < 128  # nothing wrapped round
    assert psnr_db(attacked, image) >= 30


def test_features_are_shortened_without_the_key(context: DecoderContext, picture: np.ndarray) -> None:
    def length(image: np.ndarray) -> float:
        return float(np.linalg.norm(load_default().apply(spectrum(image).values)))

    one = replace(context, marked=[picture])
    [attacked] = unremarkable(one, 40)
    assert psnr_db(attacked, picture) >= 40
    assert length(attacked) < 0.7 * length(picture)
    key = replace(context.key, direction_q=np.roll(context.key.direction_q, 1))
    [same] = unremarkable(replace(one, key=key), 40)
    assert np.array_equal(attacked, same)


def test_evasion_goes_against_the_key_of_the_context(
    context: DecoderContext, picture: np.ndarray, key: PublicKey
) -> None:
    [attacked] = evaded(replace(context, marked=[picture], key=key), 40)
    assert np.array_equal(attacked, descended(picture, Statistic(key.direction, load_default()), 40))


def test_flattening_takes_out_what_stands_out_of_a_smooth_spectrum() -> None:
    picture = textured_image(41, 256, 256)
    rows, columns = np.meshgrid(np.arange(256), np.arange(256), indexing="ij")
    wave = 8 * np.cos(2 * np.pi * (6 * rows + 4 * columns) / 32)  # at a frequency of the blocks
    striped = np.clip(np.rint(picture + wave[..., None]), 0, 255).astype(np.uint8)

    def strength(image: np.ndarray) -> float:
        return float(np.abs(np.fft.rfft2(image.mean(axis=2))[48, 32]))

    assert strength(striped) > 5 * strength(picture)
    once, often = flattened(striped), flattened(striped, 3)
    assert once.shape == striped.shape
    assert once.dtype == np.uint8
    assert strength(often) < strength(once) < 0.6 * strength(striped)
    assert psnr_db(once, striped) > 25
    assert np.array_equal(flattened(striped), once)


def test_flattening_leaves_a_smooth_spectrum_and_small_pictures_nearly_alone(picture: np.ndarray) -> None:
    assert psnr_db(flattened(picture), picture) > 30
    tiny = picture[:31]
    assert np.array_equal(flattened(tiny), tiny)
    grey = np.full((64, 64, 3), 77, np.uint8)
    assert np.array_equal(flattened(grey), grey)


def test_averaging_finds_a_pattern_that_is_locked_to_the_grid(
    context: DecoderContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A decoder that adds a checkerboard of period 8 px, twice its stride, to whatever it decodes."""
    rows, columns = np.meshgrid(np.arange(96), np.arange(96), indexing="ij")
    board = 6.0 * (((rows // 4 + columns // 4) % 2) * 2 - 1)
    made: list[tuple[int, ...]] = []
    generator = np.random.default_rng(0)

    def decode(_: object, latents: torch.Tensor) -> np.ndarray:
        made.append(tuple(latents.shape[-2:]))
        noise = generator.normal(128, 20, (4 * latents.shape[-2], 4 * latents.shape[-1], 3))
        return (noise + board[..., None]).round().clip(0, 255).astype(np.uint8)

    monkeypatch.setattr(informed_attacks, "decode_pixels", decode)
    tile = mean_residual(context, 40)
    assert made == [(24, 24)] * 40  # three tiles of 8 latents a side
    assert tile.shape == (32, 32, 3)
    error = tile - board[:32, :32, None]
    assert error.std() < 0.5 * np.abs(board).max()
    assert np.corrcoef(tile[..., 0].ravel(), board[:32, :32].ravel())[0, 1] > 0.9
    marked = [(128 + board).round().astype(np.uint8)[..., None].repeat(3, axis=2)]
    [cleaned] = averaged(replace(context, marked=marked), 40)
    assert np.std(cleaned) < 0.5 * np.std(marked[0])


def test_averaging_is_the_same_for_the_same_seed(context: DecoderContext) -> None:
    first, again = mean_residual(context, 3), mean_residual(context, 3)
    assert np.array_equal(first, again)
    assert not np.array_equal(first, mean_residual(replace(context, seed=1), 3))
    assert [one.shape for one in averaged(context, 3)] == [one.shape for one in context.marked]


def test_averaging_does_not_look_at_the_key(context: DecoderContext) -> None:
    other = replace(context.key, direction_q=np.roll(context.key.direction_q, 5))
    for first, second in zip(averaged(context, 2), averaged(replace(context, key=other), 2), strict=True):
        assert np.array_equal(first, second)
