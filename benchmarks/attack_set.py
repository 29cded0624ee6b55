"""What happens to a picture between the decoder and the detector, with real codecs and nothing undone.

The attacks that `stablesig embed` reports on are taken from there, so that both mean the same by a name.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter, features

from stablesig_train.held_out import ATTACKS as EMBED_ATTACKS
from stablesig_train.held_out import Pixels, crop, jpeg

Attack = Callable[[Pixels, int], Pixels]  # (picture, place) -> attacked; `place` seeds what is random

NO_ATTACK = "no attack"  # embed calls it "none", which among targets that were missed reads as all met
NOISE_SIGMA = 12.0  # of 255
BLUR_SIGMA_PX = 1.0


def through_file(image: Pixels, format_: str, **options: Any) -> Pixels:
    """The picture as it comes back from a file of Pillow's."""
    encoded = io.BytesIO()
    Image.fromarray(image).save(encoded, format_, **options)
    with Image.open(encoded) as decoded:
        return np.asarray(decoded.convert("RGB"))


def brightness(image: Pixels, factor: float) -> Pixels:
    """Samples times `factor`, clipped at white."""
    return np.asarray(ImageEnhance.Brightness(Image.fromarray(image)).enhance(factor))


def contrast(image: Pixels, factor: float) -> Pixels:
    """Distance from the picture's mean grey times `factor`, clipped at black and white."""
    return np.asarray(ImageEnhance.Contrast(Image.fromarray(image)).enhance(factor))


def noise(image: Pixels, sigma: float, place: int) -> Pixels:
    """Independent Gaussian noise of `sigma` (of 255) on every sample, rounded and clipped."""
    added = np.random.default_rng(place).normal(0.0, sigma, image.shape)
    return np.clip(np.rint(image + added), 0, 255).astype(np.uint8)


def blur(image: Pixels, sigma: float) -> Pixels:
    """Gaussian blur of `sigma` px, as Pillow approximates it by box blurs."""
    return np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(sigma)))


def crop_brighten_compress(image: Pixels, place: int) -> Pixels:
    """The combined attack of the Stable Signature paper (Fernandez et al., ICCV 2023)."""
    return jpeg(brightness(crop(image, 0.5, place), 2.0), 80)


def _all_attacks() -> dict[str, Attack]:
    attacks: dict[str, Attack] = {
        NO_ATTACK: EMBED_ATTACKS["none"],
        "PNG": lambda image, _: through_file(image, "PNG"),
        "JPEG 80": EMBED_ATTACKS["JPEG 80"],
        "JPEG 50": EMBED_ATTACKS["JPEG 50"],
        "JPEG 30": lambda image, _: jpeg(image, 30),
        "WebP 50": lambda image, _: through_file(image, "WEBP", quality=50),
        "AVIF 50": lambda image, _: through_file(image, "AVIF", quality=50),
        "crop 25 %": EMBED_ATTACKS["crop 25 %"],
        "crop 10 %": lambda image, place: crop(image, 0.1, place),
        "brightness x0.5": lambda image, _: brightness(image, 0.5),
        "brightness x2": lambda image, _: brightness(image, 2.0),
        "contrast x2": lambda image, _: contrast(image, 2.0),
        "flip": lambda image, _: np.ascontiguousarray(image[:, ::-1]),
        "noise 12/255": lambda image, place: noise(image, NOISE_SIGMA, place),
        "blur 1 px": lambda image, _: blur(image, BLUR_SIGMA_PX),
        "crop 50 % + brightness x2 + JPEG 80": crop_brighten_compress,
    }
    return attacks


def available() -> tuple[dict[str, Attack], tuple[str, ...]]:
    """The attacks by name, in the order of the report, and the names that this Pillow has no codec for."""
    needs = {"WebP 50": "webp", "AVIF 50": "avif"}
    missing = tuple(name for name, codec in needs.items() if not features.check(codec))
    return {name: attack for name, attack in _all_attacks().items() if name not in missing}, missing
