"""What a watermarked decoder is worth, measured on held-out images as a user will see it.

Everything here is on 8-bit images, in float32, with the NumPy detector and real JPEG files: no shortcut that
training takes (bfloat16, straight-through JPEG, small crops) reaches a published number.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from stablesig_detector.detection import Detection, Key, detect
from stablesig_detector.errors import TrainingError
from stablesig_detector.spectrum import MIN_SIDE
from stablesig_detector.whitening import Whitening
from stablesig_train.decoders import Autoencoder

Pixels = NDArray[np.uint8]  # (H, W, 3) in 0..255

PSNR_TOLERANCE_DB = 0.1  # how far above the target the PSNR may end
SCALE_RANGE = (0.05, 1.3)  # of the change of the weights; it is near 1 after a run that held its target
GRID_PX = 8  # of JPEG's blocks, and of most decoders' latents
_TRIALS = 8


@dataclass(frozen=True)
class HeldOut:
    """Latents (1, C, h, w) of held-out images and the original decoder's pictures of them."""

    latents: tuple[Tensor, ...]
    originals: tuple[Pixels, ...]


@dataclass(frozen=True)
class Robustness:
    """Detections under one attack. p-values pay for the hypotheses that `detect` tries by default."""

    name: str
    detected: int
    total: int
    mean_statistic: float
    median_log10_p: float
    worst_log10_p: float  # the largest: the image that came nearest to being missed


@dataclass(frozen=True)
class Control:
    """Detections in pictures that carry no key, for which a small p-value is the bad one."""

    detected: int
    total: int
    mean_statistic: float
    median_log10_p: float
    lowest_log10_p: float  # the image that came nearest to a false positive


@dataclass(frozen=True)
class Measurement:
    """Quality and detection on the held-out images. `control` is the original decoder, not attacked."""

    psnr_mean_db: float
    psnr_worst_db: float
    attacks: tuple[Robustness, ...]
    control: Control
    fpr: float
    images: int
    largest_side: int  # px


def crop(image: Pixels, share: float, place: int) -> Pixels:
    """`share` of the area in the picture's own shape, its corner off the grid of GRID_PX in both directions.

    `place` fixes the corner. Not smaller than the detector's MIN_SIDE. Where there is no room to leave the
    grid, the corner is (0, 0).
    """
    height, width = image.shape[:2]
    tall, wide = (min(side, max(MIN_SIDE, round(side * share**0.5))) for side in (height, width))
    generator = np.random.default_rng(place)
    top, left = (_off_grid(room, generator) for room in (height - tall, width - wide))
    return image[top : top + tall, left : left + wide]


def _off_grid(room: int, generator: np.random.Generator) -> int:
    places = [place for place in range(room + 1) if place % GRID_PX]
    return int(generator.choice(places)) if places else 0


def crop_quarter(image: Pixels, index: int) -> Pixels:
    """A quarter of the area, from a place that `index` fixes and that the grid of GRID_PX does not share."""
    return crop(image, 0.25, index)


def jpeg(image: Pixels, quality: int) -> Pixels:
    """The image as it comes back from a JPEG file of Pillow's default subsampling."""
    encoded = io.BytesIO()
    Image.fromarray(image).save(encoded, "JPEG", quality=quality)
    with Image.open(encoded) as decoded:
        return np.asarray(decoded.convert("RGB"))


# (image, its index) -> attacked image; each name is what reports print.
ATTACKS: dict[str, Callable[[Pixels, int], Pixels]] = {
    "none": lambda image, _: image,
    "JPEG 80": lambda image, _: jpeg(image, 80),
    "JPEG 50": lambda image, _: jpeg(image, 50),
    "crop 25 %": crop_quarter,
}


def psnr_db(first: Pixels, second: Pixels) -> float:
    """Peak signal-to-noise ratio of two 8-bit images in dB; inf where they are equal."""
    mse = float(np.mean((first.astype(np.float64) - second.astype(np.float64)) ** 2))
    return math.inf if mse == 0.0 else 10 * math.log10(255**2 / mse)


def decode_pixels(autoencoder: Autoencoder, latents: Tensor) -> Pixels:
    """Latents (1, C, h, w) -> the picture that a user gets."""
    with torch.inference_mode():
        decoded = autoencoder.decode(latents)[0].clamp(0, 1).mul(255).round()
    return decoded.permute(1, 2, 0).to(torch.uint8).cpu().numpy()


def prepare(original: Autoencoder, images: Sequence[Pixels]) -> HeldOut:
    """Encode images, sides multiples of the stride, and decode them with the `original` decoder."""
    device = next(original.module.parameters()).device
    latents, pictures = [], []
    for image in images:
        batch = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].to(device).float() / 255
        with torch.no_grad():
            latents.append(original.encode(batch))
        pictures.append(decode_pixels(original, latents[-1]))
    return HeldOut(tuple(latents), tuple(pictures))


def hold_psnr(
    autoencoder: Autoencoder, original: Autoencoder, held_out: HeldOut, target_db: float
) -> tuple[float, list[Pixels]]:
    """Scale the change of the decoder's weights until the mean PSNR over `held_out` is `target_db`.

    The weights become w0 + a (w1 - w0), rounded to the dtype that ships, w0 the original's and w1 those of
    `autoencoder` now. Returns a and the pictures that the decoder makes then. `find_scale` says what is
    reached. Raises TrainingError if no scale reaches it.
    """
    w0 = [parameter.detach().clone() for parameter in original.decoder_parameters()]
    w1 = [parameter.detach().clone() for parameter in autoencoder.decoder_parameters()]
    last: tuple[float, list[Pixels]] = (math.nan, [])

    def psnr_at(scale: float) -> float:
        nonlocal last
        with torch.no_grad():
            for parameter, start, end in zip(autoencoder.decoder_parameters(), w0, w1, strict=True):
                parameter.copy_(torch.lerp(start, end, scale))
        autoencoder.round_decoder()
        last = scale, [decode_pixels(autoencoder, z) for z in held_out.latents]
        return mean_db([psnr_db(*pair) for pair in zip(last[1], held_out.originals, strict=True)])

    scale = find_scale(psnr_at, target_db)
    if last[0] != scale:
        psnr_at(scale)
    return last


def find_scale(psnr_at: Callable[[float], float], target_db: float) -> float:
    """The scale in SCALE_RANGE at which `psnr_at(scale)` is from the target to PSNR_TOLERANCE_DB above it.

    The difference between the pictures grows about as the scale, so the PSNR falls by 20 log10 of it, and
    two or three trials suffice; where that fails (rounding, saturation), the bracket is halved. Gives the
    upper end of the range where even that is above the target, and the largest good scale seen if trials run
    out. Raises TrainingError if no scale tried reaches the target.
    """
    low, high = SCALE_RANGE
    good: float | None = None  # the largest scale seen that reaches the target
    bad: float | None = None  # the smallest seen that does not
    scale = 1.0
    for _ in range(_TRIALS):
        reached = psnr_at(scale)
        if reached >= target_db:
            good = scale
            if reached <= target_db + PSNR_TOLERANCE_DB or scale >= high:
                break
        else:
            bad = scale
            if scale <= low:
                break
        scale *= 10 ** ((reached - target_db - PSNR_TOLERANCE_DB / 2) / 20)
        scale = min(max(scale, low), high)
        if (good is not None and scale <= good) or (bad is not None and scale >= bad):
            scale = ((low if good is None else good) + (high if bad is None else bad)) / 2
    if good is None:
        raise TrainingError(
            f"the decoder left the original too far: {reached:.1f} dB with {scale:g} of the change, the "
            f"target is {target_db:g} dB; train again with another --seed or a lower learning rate"
        )
    return good


def measure(
    marked: Sequence[Pixels], originals: Sequence[Pixels], key: Key, whitening: Whitening, fpr: float
) -> Measurement:
    """Quality and detection of watermarked pictures, and detection in the original decoder's."""
    quality = [psnr_db(*pair) for pair in zip(marked, originals, strict=True)]

    def detections(name: str, pictures: Sequence[Pixels]) -> list[Detection]:
        attack = ATTACKS[name]
        return [
            detect(attack(picture, index), [key], fpr=fpr, whitening=whitening)[0]
            for index, picture in enumerate(pictures)
        ]

    return Measurement(
        psnr_mean_db=mean_db(quality),
        psnr_worst_db=min(quality),
        attacks=tuple(robustness(name, detections(name, marked)) for name in ATTACKS),
        control=control(detections("none", originals)),
        fpr=fpr,
        images=len(marked),
        largest_side=max(max(picture.shape[:2]) for picture in marked),
    )


def robustness(name: str, found: Sequence[Detection]) -> Robustness:
    """The row of one attack."""
    worst = max(detection.log10_p_value for detection in found)
    return Robustness(name, *_summary(found), worst_log10_p=worst)


def control(found: Sequence[Detection]) -> Control:
    """The row of the original decoder."""
    return Control(*_summary(found), lowest_log10_p=min(detection.log10_p_value for detection in found))


def _summary(found: Sequence[Detection]) -> tuple[int, int, float, float]:
    """Detected, total, mean statistic, median log10 p."""
    return (
        sum(detection.detected for detection in found),
        len(found),
        float(np.mean([detection.statistic for detection in found])),
        float(np.median([detection.log10_p_value for detection in found])),
    )


def mean_db(values: Sequence[float]) -> float:
    """Their mean, an infinite PSNR (equal images) counted as 100 dB."""
    return float(np.mean([min(value, 100.0) for value in values]))
