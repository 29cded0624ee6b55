"""Images and keys for the command line: real measurements, no training."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stablesig_detector.key import PublicKey, SecretKey


def textured_image(seed: int, height: int = 256, width: int = 320, slope: float = 1.0) -> np.ndarray:
    """(H, W, 3) uint8 whose amplitude falls as frequency^-slope; 1 is roughly a photograph."""
    generator = np.random.default_rng(seed)
    vertical = np.fft.fftfreq(height)[:, None, None]
    horizontal = np.fft.rfftfreq(width)[None, :, None]
    radius = np.sqrt(vertical**2 + horizontal**2) + 1.0 / max(height, width)
    noise = np.fft.rfft2(generator.standard_normal((height, width, 3)), axes=(0, 1))
    field = np.fft.irfft2(noise / radius**slope, s=(height, width), axes=(0, 1))
    return np.clip(128 + 40 * field / field.std(), 0, 255).astype(np.uint8)


def key_that_finds(image: Path, but_not: Path) -> PublicKey:
    """A public key along the features of one image and at right angles to those of another."""
    from stablesig_detector.image import load_image

    return direction_between(load_image(image), load_image(but_not))


def direction_between(wanted: np.ndarray, other: np.ndarray) -> PublicKey:
    """The same for pictures in memory, (H, W, 3)."""
    from stablesig_detector.carriers import DIRECTION_SCALE
    from stablesig_detector.spectrum import FEATURE_VERSION, spectrum
    from stablesig_detector.whitening import load_default

    whitening = load_default()
    has, has_not = (whitening.apply(spectrum(pixels).values) for pixels in (wanted, other))
    direction = has - (has @ has_not) / (has_not @ has_not) * has_not
    quantised = np.rint(direction / np.linalg.norm(direction) * DIRECTION_SCALE).astype(np.int32)
    return PublicKey(quantised, 48, FEATURE_VERSION, whitening.sha256)


@dataclass(frozen=True)
class Gallery:
    """Files in one folder. `finds_first` is found in the first image and not in the second."""

    first: Path
    second: Path
    broken: Path
    finds_first: Path
    finds_second: Path
    secret: Path


@pytest.fixture(scope="session")
def gallery(tmp_path_factory: pytest.TempPathFactory) -> Gallery:
    folder = tmp_path_factory.mktemp("gallery")
    names = ("first.png", "second.png", "broken.png", "first.pub.json", "second.pub.json", "other.json")
    gallery = Gallery(*(folder / name for name in names))
    Image.fromarray(textured_image(1)).save(gallery.first)
    Image.fromarray(textured_image(2, slope=0.5)).save(gallery.second)
    gallery.broken.write_bytes(gallery.first.read_bytes()[:2000])
    key_that_finds(gallery.first, gallery.second).save(gallery.finds_first)
    key_that_finds(gallery.second, gallery.first).save(gallery.finds_second)
    SecretKey.draw().save(gallery.secret)
    return gallery
