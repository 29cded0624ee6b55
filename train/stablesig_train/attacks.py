"""What happens to images between the decoder and the detector, inside the training loop.

Every attack takes (B, 3, H, W) images in [0, 1], may change H and W, and lets gradients through. One attack
and one setting of it are drawn for the whole batch; `strength` scales how hard the worst may be, so that a
curriculum can start gently.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import kornia
import torch
from torch import Generator, Tensor
from torch.nn import functional

from stablesig_detector.spectrum import MIN_SIDE
from stablesig_train.jpeg import compress

Attack = Callable[[Tensor, Generator, float], Tensor]


def _uniform(generator: Generator, low: float, high: float) -> float:
    return float(torch.rand((), generator=generator)) * (high - low) + low


def jpeg(images: Tensor, generator: Generator, strength: float) -> Tensor:
    """Real JPEG at quality 90 down to 30."""
    return compress(images, round(_uniform(generator, 90 - 60 * strength, 90)))


def webp(images: Tensor, generator: Generator, strength: float) -> Tensor:
    """Real WebP at quality 90 down to 40."""
    return compress(images, round(_uniform(generator, 90 - 50 * strength, 90)), codec="WEBP")


def noise(images: Tensor, generator: Generator, strength: float) -> Tensor:
    """White Gaussian noise, standard deviation up to 15 of 255, clipped as a file clips it."""
    sigma = _uniform(generator, 2, 2 + 13 * strength) / 255
    drawn = torch.randn(images.shape, generator=generator).to(images.device)
    return _clipped(images + sigma * drawn)


def blur(images: Tensor, generator: Generator, strength: float) -> Tensor:
    """Gaussian blur, sigma 0.3 to 1.2 px."""
    sigma = _uniform(generator, 0.3, 0.3 + 0.9 * strength)
    return kornia.filters.gaussian_blur2d(images, (7, 7), (sigma, sigma))


def brightness(images: Tensor, generator: Generator, strength: float) -> Tensor:
    """All channels times 1/2 to 2, clipped."""
    return _clipped(images * 2 ** _uniform(generator, -strength, strength))


def contrast(images: Tensor, generator: Generator, strength: float) -> Tensor:
    """Distance from the mean luma times 1/2 to 2, clipped."""
    factor = 2 ** _uniform(generator, -strength, strength)
    mean = kornia.color.rgb_to_grayscale(images).mean(dim=(1, 2, 3), keepdim=True)
    return _clipped(mean + factor * (images - mean))


def saturation(images: Tensor, generator: Generator, strength: float) -> Tensor:
    """Distance from grey times 0.3 to 2, clipped."""
    factor = _uniform(generator, 1 - 0.7 * strength, 1 + strength)
    grey = kornia.color.rgb_to_grayscale(images)
    return _clipped(grey + factor * (images - grey))


def crop(images: Tensor, generator: Generator, strength: float) -> Tensor:
    """A random window of 25 % to all of the area, at any pixel offset, never under the spectrum's least."""
    height, width = images.shape[-2:]
    side = _uniform(generator, 1 - 0.75 * strength, 1) ** 0.5
    h, w = (max(MIN_SIDE, round(side * full)) for full in (height, width))
    if h >= height or w >= width:
        return images
    top, left = (int(torch.randint(0, n, (), generator=generator)) for n in (height - h + 1, width - w + 1))
    return images[..., top : top + h, left : left + w]


def resample(images: Tensor, generator: Generator, strength: float) -> Tensor:
    """Bicubic scaling by 0.94 to 1.06: what is left after a search over scales has found the nearest step."""
    scale = _uniform(generator, 1 - 0.06 * strength, 1 + 0.06 * strength)
    size = [max(MIN_SIDE, round(n * scale)) for n in images.shape[-2:]]
    return functional.interpolate(images, size=size, mode="bicubic", antialias=True, align_corners=False)


def screenshot(images: Tensor, generator: Generator, strength: float) -> Tensor:
    """Crop, brightness and JPEG in a row, the literature's combined attack."""
    return jpeg(brightness(crop(images, generator, strength), generator, strength), generator, strength)


def _clipped(images: Tensor) -> Tensor:
    """To [0, 1]; a pixel that clips passes no gradient, as it will carry no mark."""
    return images.clamp(0, 1)


@dataclass(frozen=True)
class Choice:
    """An attack and how often it is drawn, relative to the others."""

    attack: Attack
    weight: float


ATTACKS = (
    Choice(jpeg, 7),
    Choice(webp, 4),
    Choice(noise, 2),
    Choice(crop, 2),
    Choice(screenshot, 2),
    Choice(blur, 1.5),
    Choice(brightness, 0.5),
    Choice(contrast, 0.5),
    Choice(saturation, 0.25),
    Choice(resample, 0.5),
)


def sample(images: Tensor, generator: Generator, strength: float = 1.0) -> Tensor:
    """One attack, drawn from ATTACKS, on all images of the batch.

    images: (B, 3, H, W) in [0, 1].  generator: a CPU generator; the same state gives the same attack.
    strength: 0 (barely) to 1 (the full ranges above).
    """
    weights = torch.tensor([choice.weight for choice in ATTACKS])
    index = int(torch.multinomial(weights, 1, generator=generator))
    return ATTACKS[index].attack(images, generator, strength)
