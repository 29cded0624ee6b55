"""Attacks on the watermarked decoder's weights, and round trips through autoencoders.

Every function that changes a decoder works on a copy and returns it: what it is given stays as it is. Only
the decoder's own parameters are touched, and it computes in float32 whatever was done to them, so that a
difference comes from the weights and from nothing else.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from stablesig.suites import DecoderContext
from stablesig_detector.errors import UsageError
from stablesig_detector.whitening import load_default
from stablesig_train.decoders import Autoencoder
from stablesig_train.held_out import Pixels, decode_pixels
from stablesig_train.spectrum import Statistic

# Fine-tuning. Rate, batch and crops are those at which a decoder learns a key; the rate is constant, so that
# fewer steps are the beginning of more.
LEARNING_RATE = 5e-5
BATCH = 4
CROP_PX = 160  # side, at most
# Of the squared statistic, a cosine, beside the squared error of samples in 0..1: on a watermarked TAEF2 the
# gradients of both parts are then about equally long at the start.
KEY_WEIGHT = 0.01
_CROPS_STREAM = 1  # of the context's seed, so that no two attacks draw the same numbers


def decode_all(autoencoder: Autoencoder, context: DecoderContext) -> Iterator[Pixels]:
    """The pictures that a decoder makes of the context's latents, as a user gets them."""
    for latents in context.latents:
        yield decode_pixels(autoencoder, latents)


def duplicate(autoencoder: Autoencoder) -> Autoencoder:
    """An autoencoder with weights of its own, equal to those given."""
    twin = copy.copy(autoencoder)
    twin.module = copy.deepcopy(autoencoder.module)
    return twin


def interpolated(marked: Autoencoder, original: Autoencoder, share: float) -> Autoencoder:
    """Weights w_marked + share (w_original - w_marked): 0 is the watermarked decoder, 1 the original."""
    twin = duplicate(marked)
    with torch.no_grad():
        for weight, end in zip(twin.decoder_parameters(), original.decoder_parameters(), strict=True):
            weight.copy_(torch.lerp(weight, end, share))
    return twin


def rounded(autoencoder: Autoencoder, dtype: torch.dtype) -> Autoencoder:
    """Every decoder parameter rounded to `dtype` and back to float32."""
    twin = duplicate(autoencoder)
    with torch.no_grad():
        for weight in twin.decoder_parameters():
            weight.copy_(weight.to(dtype))
    return twin


def quantised(autoencoder: Autoencoder, *, per_channel: bool) -> Autoencoder:
    """Weights rounded to 8-bit integers, symmetrically: step = max |w| / 127, no zero point.

    per_channel: one step for each output channel (the first axis) instead of one for the tensor. Biases and
    other vectors stay, as is usual.
    """
    twin = duplicate(autoencoder)
    with torch.no_grad():
        for weight in _matrices(twin):
            axes = tuple(range(1, weight.ndim)) if per_channel else tuple(range(weight.ndim))
            step = weight.abs().amax(dim=axes, keepdim=True) / 127
            step = torch.where(step > 0, step, torch.ones_like(step))
            weight.copy_((weight / step).round() * step)
    return twin


def pruned(autoencoder: Autoencoder, share: float) -> Autoencoder:
    """The `share` of smallest magnitude of every weight tensor set to 0, tensor by tensor; biases stay."""
    twin = duplicate(autoencoder)
    with torch.no_grad():
        for weight in _matrices(twin):
            flat = weight.flatten()
            flat[flat.abs().argsort()[: round(share * flat.numel())]] = 0
            weight.copy_(flat.view_as(weight))
    return twin


def _matrices(autoencoder: Autoencoder) -> list[torch.nn.Parameter]:
    """Weights of convolutions and linear layers: what has more than one axis."""
    return [weight for weight in autoencoder.decoder_parameters() if weight.ndim > 1]


def fine_tuned(context: DecoderContext, steps: int, *, key_known: bool = False) -> Autoencoder:
    """The watermarked decoder after `steps` of Adam towards clean photographs, by mean squared error.

    Batches of BATCH crops, CROP_PX square or as large as the smallest photograph allows, are drawn from
    `context.images` and encoded by the frozen encoder, which every copy of the model has. These are the very
    photographs whose pictures are judged afterwards, which favours the attacker. key_known: KEY_WEIGHT times
    the squared statistic of the public key's direction is added to the loss, which drives it to 0.
    """
    twin = duplicate(context.watermarked)
    twin.module.decoder.requires_grad_(True)
    parameters = twin.decoder_parameters()
    device = parameters[0].device
    statistic = None
    if key_known:
        statistic = Statistic(context.key.direction, context.whitening or load_default()).to(device)
    optimizer = torch.optim.Adam(parameters, lr=LEARNING_RATE)
    generator = np.random.default_rng((context.seed, _CROPS_STREAM))
    for _ in range(steps):
        clean = _crops(context.images, twin.stride, generator).to(device)  # (B, 3, S, S)
        with torch.no_grad():
            latents = twin.encode(clean)
        decoded = twin.decode(latents)
        loss = F.mse_loss(decoded, clean)
        if statistic is not None:
            seen = decoded.clamp(0, 1).contiguous()
            loss = loss + KEY_WEIGHT * statistic(seen).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return twin


def _crops(images: Sequence[Pixels], stride: int, generator: np.random.Generator) -> Tensor:
    """(BATCH, 3, S, S) in [0, 1] from random places of random photographs; S is a multiple of `stride`."""
    side = min(CROP_PX, *(length for image in images for length in image.shape[:2])) // stride * stride
    crops = []
    for index in generator.integers(0, len(images), BATCH):
        height, width = images[index].shape[:2]
        top, left = generator.integers(0, height - side + 1), generator.integers(0, width - side + 1)
        crops.append(images[index][top : top + side, left : left + side])
    return _to_batch(np.stack(crops))


def _to_batch(pictures: Pixels) -> Tensor:
    """(B, H, W, 3) uint8 -> (B, 3, H, W) in [0, 1]."""
    return torch.from_numpy(np.ascontiguousarray(pictures)).permute(0, 3, 1, 2).float() / 255


def round_trip(autoencoder: Autoencoder, picture: Pixels) -> Pixels:
    """A picture through an encoder and its decoder, 8 bits before and after.

    Sides that the stride does not divide are padded by reflection and cut back afterwards.
    """
    height, width = picture.shape[:2]
    padding = ((0, -height % autoencoder.stride), (0, -width % autoencoder.stride), (0, 0))
    batch = _to_batch(np.pad(picture, padding, mode="symmetric")[None])
    device = next(autoencoder.module.parameters()).device
    with torch.inference_mode():
        latents = autoencoder.encode(batch.to(device))
    return decode_pixels(autoencoder, latents)[:height, :width]


def regenerated(context: DecoderContext, number: int, times: int) -> Iterator[Pixels]:
    """Every marked picture after `times` round trips through one autoencoder.

    number: 0 is the original one, 1 the first of `context.others`. Raises UsageError if there is none.
    """
    autoencoders = (context.original, *context.others)
    if number >= len(autoencoders):
        raise UsageError(
            f"this attack needs {number} autoencoders besides the one under evaluation; got "
            f"{len(autoencoders) - 1}; name more, or leave the attack out"
        )
    for picture in context.marked:
        for _ in range(times):
            picture = round_trip(autoencoders[number], picture)
        yield picture
