"""The torch twin measures what the detector measures, and lets gradients through."""

import numpy as np
import pytest
import torch

from stablesig_detector.spectrum import DIMENSION, MIN_SIDE, spectrum
from stablesig_detector.statistics import cosine_statistic
from stablesig_detector.whitening import load_default
from stablesig_train.spectrum import Spectrum, Statistic

DEVICES = ["cpu"] + (["cuda"] if torch.cuda.is_available() else [])


def _uniform(seed: int, height: int, width: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def _smooth(seed: int, height: int, width: int) -> np.ndarray:
    walk = np.random.default_rng(seed).normal(size=(height, width, 3)).cumsum(0).cumsum(1)
    return np.clip(128 + walk / walk.std() * 60, 0, 255).astype(np.uint8)


def _flat(seed: int, height: int, width: int) -> np.ndarray:
    return np.full((height, width, 3), seed * 37 % 256, dtype=np.uint8)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("make", [_uniform, _smooth, _flat])
@pytest.mark.parametrize(("height", "width"), [(MIN_SIDE, MIN_SIDE), (64, 97), (131, 250), (512, 512)])
def test_twin_agrees_within_1e_4(make, height, width, device) -> None:
    pixels = make(3, height, width)
    images = torch.from_numpy(pixels).permute(2, 0, 1)[None].to(device).float() / 255
    twin = Spectrum().to(device)(images)[0].cpu().numpy()
    assert np.abs(twin - spectrum(pixels).values).max() < 1e-4


def test_twin_ignores_autocast() -> None:
    pixels = _smooth(1, 96, 96)
    images = torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255
    with torch.autocast("cpu", torch.bfloat16):
        inside = Spectrum()(images)
    assert inside.dtype == torch.float32
    assert torch.equal(inside, Spectrum()(images))


def test_statistic_is_the_detectors() -> None:
    whitening = load_default()
    direction = np.random.default_rng(0).normal(size=DIMENSION)
    direction /= np.linalg.norm(direction)
    pixels = _smooth(2, 160, 128)
    images = torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255
    expected = cosine_statistic(whitening.apply(spectrum(pixels).values)[None], direction[None])[0, 0]
    assert float(Statistic(direction, whitening)(images)) == pytest.approx(expected, abs=1e-3)


def test_gradient_raises_the_statistic() -> None:
    whitening = load_default()
    direction = np.random.default_rng(1).normal(size=DIMENSION)
    statistic = Statistic(direction / np.linalg.norm(direction), whitening)
    images = (torch.from_numpy(_smooth(5, 96, 96)).permute(2, 0, 1)[None].float() / 255).requires_grad_()
    before = statistic(images)
    before.backward()
    assert images.grad is not None
    step = images.grad / images.grad.abs().max() * 0.01
    assert float(statistic(images.detach() + step)) > float(before.detach()) + 0.2  # 0.35 measured
