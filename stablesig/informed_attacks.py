"""Attacks by somebody who knows how the watermark works, with and without the public key.

`averaged` needs nothing but many marked pictures; `flattened` and `unremarkable` know the method and no key;
`evaded` holds the public key, which is why a key that is to resist must stay private.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stablesig.image_attacks import gaussian_kernel, smoothed, to_pixels
from stablesig.suites import DecoderContext
from stablesig_detector.spectrum import COLOUR_MATRIX
from stablesig_detector.whitening import load_default
from stablesig_train.held_out import Pixels, decode_pixels, psnr_db
from stablesig_train.spectrum import Statistic

# Averaging.
HIGH_PASS_SIGMA_PX = 2.0
TILE_LATENTS = 8  # side of the tile that is averaged; any pattern locked to the decoder's grid repeats in it
DRAWN_LATENTS = 32  # side of the pictures that are drawn, at most
_WINDOWS_STREAM = 2  # of the context's seed

# Flattening.
BLOCK = 32  # px; finer in frequency than the detector's window
FLATTEN_FROM = 0.03  # cycles/px: below lies what the picture shows
LARGEST_GAIN_DB = 6.0
_POWER_FLOOR = 1.0  # grey levels squared

# Gradient.
GRADIENT_STEPS = 20
_REACH = 2.5  # sum of all steps, in radii of the ball, so that the descent can turn (Madry et al., ICLR 2018)


def averaged(context: DecoderContext, count: int) -> Iterator[Pixels]:
    """Every marked picture less the mean residual of `count` marked pictures, laid out as tiles."""
    tile = mean_residual(context, count)
    for picture in context.marked:
        height, width = picture.shape[:2]
        repeats = (-(-height // tile.shape[0]), -(-width // tile.shape[1]), 1)
        pattern = np.tile(tile, repeats)[:height, :width]
        yield to_pixels(picture - pattern)


def mean_residual(context: DecoderContext, count: int) -> NDArray[np.float64]:
    """The mean over `count` marked pictures of what a high-pass filter leaves: (T, T, 3), grey levels.

    The attacker has no unmarked picture. A residual is the picture less its Gaussian blur of
    HIGH_PASS_SIGMA_PX. Whatever does not depend on content repeats with the decoder's stride, so each
    residual is folded to a tile of TILE_LATENTS strides before the mean is taken: that averages more, which
    favours the attacker. The pictures come from the watermarked decoder, as many as are wanted: it decodes
    random windows of the context's latents, mirrored at random, DRAWN_LATENTS square at most.
    """
    generator = np.random.default_rng((context.seed, _WINDOWS_STREAM))
    kernel = gaussian_kernel(1 + 2 * math.ceil(3 * HIGH_PASS_SIGMA_PX), HIGH_PASS_SIGMA_PX)
    smallest = min(min(latents.shape[-2:]) for latents in context.latents)
    tile = min(TILE_LATENTS, smallest)
    side = min(DRAWN_LATENTS, smallest) // tile * tile
    total: NDArray[np.float64] | None = None
    for _ in range(count):
        latents = context.latents[int(generator.integers(len(context.latents)))]
        top, left = (int(generator.integers(room - side + 1)) for room in latents.shape[-2:])
        window = latents[..., top : top + side, left : left + side]
        if generator.random() < 0.5:
            window = window.flip(-1)
        picture = decode_pixels(context.watermarked, window).astype(np.float64)
        residual = picture - smoothed(picture, kernel)
        number = side // tile
        length = residual.shape[0] // number  # px
        folded = residual.reshape(number, length, number, length, 3).mean(axis=(0, 2))
        total = folded if total is None else total + folded
    assert total is not None, "at least one picture is averaged"
    return total / count


def flattened(picture: Pixels, passes: int = 1) -> Pixels:
    """A picture whose mean log local spectrum is smooth, as those of photographs nearly are.

    In luma and both colour differences the mean log power of windowed blocks of BLOCK px is measured, and a
    low-order surface in radius and angle fitted to it. A linear filter makes up the difference, by at most
    LARGEST_GAIN_DB at any frequency, none below FLATTEN_FROM. What a key has added to single frequencies
    goes, and so does whatever the picture itself had there. passes: how often, as one pass does not reach
    blocks whose power is near the floor. Pictures smaller than a block stay as they are.
    """
    if min(picture.shape[:2]) < BLOCK:
        return picture
    colour = np.array(COLOUR_MATRIX)
    planes = list(np.moveaxis(picture @ colour.T, 2, 0))
    for _ in range(passes):
        planes = [_filtered(plane, _flattening_gain(plane)) for plane in planes]
    return to_pixels(np.stack(planes, axis=2) @ np.linalg.inv(colour).T)


def _flattening_gain(plane: NDArray[np.float64]) -> NDArray[np.float64]:
    """(H, W) -> (BLOCK, BLOCK // 2 + 1) factors on amplitudes, at the frequencies of a block's rfft2."""
    taper = np.sin(np.pi * (np.arange(BLOCK) + 0.5) / BLOCK) ** 2
    window = np.outer(taper, taper) / (taper**2).sum()
    hop = BLOCK // 4
    blocks = np.lib.stride_tricks.sliding_window_view(plane, (BLOCK, BLOCK))[::hop, ::hop]
    total = np.zeros((BLOCK, BLOCK // 2 + 1))
    for row in blocks:  # one row of blocks at a time bounds the memory
        centred = row - row.mean(axis=(1, 2), keepdims=True)
        total += np.log(np.abs(np.fft.rfft2(centred * window)) ** 2 + _POWER_FLOOR).sum(axis=0)
    measured = total / (blocks.shape[0] * blocks.shape[1])
    down, across = np.fft.fftfreq(BLOCK)[:, None], np.fft.rfftfreq(BLOCK)[None, :]
    radius = np.hypot(down, across)
    kept = radius >= FLATTEN_FROM
    log_radius, angle = np.log(np.maximum(radius, FLATTEN_FROM)), np.arctan2(down, across)
    basis = np.stack(
        [log_radius**power for power in range(4)]
        + [
            wave(turns * angle) * log_radius**power
            for turns in (2, 4)
            for wave in (np.cos, np.sin)
            for power in (0, 1)
        ],
        axis=-1,
    )
    weights, *_ = np.linalg.lstsq(basis[kept], measured[kept], rcond=None)
    limit = LARGEST_GAIN_DB / 20 * math.log(10)
    gain = np.exp(np.clip((basis @ weights - measured) / 2, -limit, limit))
    return np.asarray(np.where(kept, gain, 1.0))


def _filtered(plane: NDArray[np.float64], gain: NDArray[np.float64]) -> NDArray[np.float64]:
    """(H, W) with its frequencies multiplied by `gain`, interpolated linearly between those of a block."""
    padded = np.pad(plane, BLOCK, mode="symmetric")
    height, width = padded.shape
    rows = _interpolation(np.fft.fftfreq(height) * BLOCK, BLOCK, periodic=True)
    columns = _interpolation(np.fft.rfftfreq(width) * BLOCK, BLOCK // 2 + 1, periodic=False)
    spectrum = np.fft.rfft2(padded) * (rows @ gain @ columns.T)
    filtered = np.fft.irfft2(spectrum, s=padded.shape)
    return filtered[BLOCK:-BLOCK, BLOCK:-BLOCK]


def _interpolation(
    positions: NDArray[np.floating[Any]], length: int, *, periodic: bool
) -> NDArray[np.float64]:
    """(len(positions), length) weights of linear interpolation between samples 0..length - 1."""
    below = np.floor(positions).astype(int)
    share = positions - below
    weights = np.zeros((len(positions), length))
    above = (below + 1) % length if periodic else np.minimum(below + 1, length - 1)
    index = np.arange(len(positions))
    np.add.at(weights, (index, below % length), 1 - share)
    np.add.at(weights, (index, above), share)
    return weights


def evaded(context: DecoderContext, psnr: float) -> Iterator[Pixels]:
    """Every marked picture with its statistic for the context's key descended, `psnr` dB from it or more."""
    statistic = Statistic(context.key.direction, context.whitening or load_default())
    for picture in context.marked:
        yield descended(picture, statistic, psnr)


def unremarkable(context: DecoderContext, psnr: float) -> Iterator[Pixels]:
    """Every marked picture with its whitened features descended to 0, `psnr` dB from it or more.

    Whoever has the package has the features and the whitening statistics: no key is needed. The mark makes
    the features longer, so that to shorten them takes the mark first.
    """
    # of which `features` ignores the direction
    statistic = Statistic(context.key.direction, context.whitening or load_default())

    def squared_length(images: Tensor) -> Tensor:
        return statistic.features(images).square().sum(dim=1)

    for picture in context.marked:
        yield descended(picture, squared_length, psnr)


def descended(picture: Pixels, objective: Callable[[Tensor], Tensor], psnr: float) -> Pixels:
    """The picture with `objective` made as small as projected gradient descent gets it, at `psnr` dB or more.

    objective: (1, 3, H, W) images in [0, 1] -> (1,).  GRADIENT_STEPS normalised steps, shrinking to 0, within
    the ball of squared error (L2) and between black and white, then rounding to 8 bits, whose error the
    budget includes (Madry et al., "Towards deep learning models resistant to adversarial attacks", ICLR
    2018).
    """
    start = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None].float() / 255
    rounding = 1 / 12 / 255**2  # mean squared error of rounding to whole grey levels
    budget = 10 ** (-psnr / 10) - rounding
    if budget <= 0:
        return picture
    radius = math.sqrt(start.numel() * budget)
    change = torch.zeros_like(start)
    for step in range(GRADIENT_STEPS):
        change.requires_grad_(True)
        (slope,) = torch.autograd.grad(objective(start + change).sum(), change)
        length = float(slope.norm())
        if not length > 0:  # flat, or not a number: nowhere to go
            break
        size = 2 * _REACH * radius * (1 - step / GRADIENT_STEPS) / GRADIENT_STEPS
        with torch.no_grad():
            change = change - size / length * slope
            change *= min(1.0, radius / float(change.norm()))
            change = (start + change).clamp(0, 1) - start
    best = _as_pixels(start + change)
    while psnr_db(best, picture) < psnr:  # rounding errors need not be independent of the change
        change = 0.99 * change
        best = _as_pixels(start + change)
    return best


def _as_pixels(image: Tensor) -> Pixels:
    """(1, 3, H, W) in [0, 1] -> (H, W, 3)"""
    return to_pixels(image.detach()[0].permute(1, 2, 0).mul(255).numpy())
