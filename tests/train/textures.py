"""Images with the spectrum of photographs, and whitening statistics that fit them: no data files needed."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from stablesig_detector.spectrum import spectrum
from stablesig_detector.whitening import Whitening


def textured(seed: int, height: int, width: int) -> NDArray[np.uint8]:
    """(H, W, 3) whose amplitude falls as 1 / frequency, as a photograph's does on average."""
    generator = np.random.default_rng(seed)
    frequencies = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)) + 1 / max(height, width)
    noise = np.fft.rfft2(generator.standard_normal((height, width, 3)), axes=(0, 1))
    field = np.fft.irfft2(noise / frequencies[..., None], s=(height, width), axes=(0, 1))
    return np.clip(128 + 40 * field / field.std(), 0, 255).astype(np.uint8)


def textures_whitening() -> Whitening:
    """Statistics of 24 textures: a mean and one scale, no rotation."""
    samples = np.stack([spectrum(textured(1000 + seed, 64, 64)).values for seed in range(24)])
    return Whitening(samples.mean(axis=0), np.diag(1 / samples.std(axis=0)), "0" * 64)
