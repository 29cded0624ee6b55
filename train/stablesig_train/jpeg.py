"""A codec inside the loop: the forward pass is the real one, the gradient is that of what it keeps.

A straight-through estimator that passes every gradient tells the decoder to hide the mark where JPEG will
delete it. Here the gradient goes through JPEG's own block transform and only through the coefficients that
quantisation left standing, so a frequency that the codec zeroes teaches nothing. (Wallace, "The JPEG still
picture compression standard", 1992, for the transform; the file's own quantisation tables decide what stays.)
"""

from __future__ import annotations

import io
import math
from functools import cache

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from stablesig_detector.spectrum import COLOUR_MATRIX

BLOCK = 8  # px, the side of JPEG's blocks


def compress(images: Tensor, quality: int, codec: str = "JPEG") -> Tensor:
    """(B, 3, H, W) in [0, 1] -> the same through a real encoder and decoder.

    quality: 1..100.  codec: "JPEG", with 4:2:0 chroma, or "WEBP". The gradient is JPEG's at that quality for
    both: WebP's own transform is block-based too, and its surviving coefficients are much the same.
    """
    pixels = (images.detach().clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    decoded = torch.from_numpy(np.stack([_through(codec, image, quality) for image in pixels]))
    real = decoded.to(images.device).permute(0, 3, 1, 2).float() / 255
    kept = _surviving(images, quality)
    return kept + (real - kept).detach()


def _through(codec: str, image: np.ndarray, quality: int) -> np.ndarray:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, codec, quality=quality)
    return np.asarray(Image.open(buffer).convert("RGB"))


@cache
def _tables(quality: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The luma and chroma tables that Pillow writes at `quality`, 64 steps each, row by row."""
    buffer = io.BytesIO()
    Image.new("RGB", (BLOCK, BLOCK)).save(buffer, "JPEG", quality=quality)
    tables = Image.open(buffer).quantization  # type: ignore[attr-defined]
    return tuple(tables[0]), tuple(tables[1])


def _surviving(images: Tensor, quality: int) -> Tensor:
    """The part of the images that stands after quantisation, linear in them given what was zeroed."""
    height, width = images.shape[-2:]
    step = 2 * BLOCK
    padded = functional.pad(images, (0, -width % step, 0, -height % step), mode="replicate")
    ycc = torch.tensor(COLOUR_MATRIX, device=images.device, dtype=images.dtype)
    planes = torch.einsum("ij,bjhw->bihw", ycc, padded * 255)
    luma_table, chroma_table = (images.new_tensor(t).view(BLOCK, BLOCK) for t in _tables(quality))
    luma = _masked(planes[:, :1], luma_table)
    chroma = _masked(functional.avg_pool2d(planes[:, 1:], 2), chroma_table)
    chroma = functional.interpolate(chroma, scale_factor=2, mode="nearest")
    rebuilt = torch.einsum("ij,bjhw->bihw", torch.linalg.inv(ycc), torch.cat([luma, chroma], dim=1)) / 255
    return rebuilt[..., :height, :width]


def _masked(planes: Tensor, table: Tensor) -> Tensor:
    """(B, C, H, W), H and W multiples of 8: block transform, zero what rounds to zero, transform back."""
    matrix = _dct_matrix(planes)
    b, c, h, w = planes.shape
    blocks = planes.view(b, c, h // BLOCK, BLOCK, w // BLOCK, BLOCK).transpose(3, 4)
    coefficients = matrix @ blocks @ matrix.T
    stands = (coefficients.detach() / table).abs() > 0.5
    stands[..., 0, 0] = True  # the mean is never lost
    blocks = matrix.T @ (coefficients * stands) @ matrix
    return blocks.transpose(3, 4).reshape(b, c, h, w)


def _dct_matrix(like: Tensor) -> Tensor:
    """The orthonormal (8, 8) type II cosine transform, on the device and in the dtype of `like`."""
    n = torch.arange(BLOCK, device=like.device, dtype=like.dtype)
    matrix = torch.cos(math.pi * (2 * n + 1) * n.unsqueeze(1) / (2 * BLOCK)) * math.sqrt(2 / BLOCK)
    matrix[0] /= math.sqrt(2)
    return matrix
