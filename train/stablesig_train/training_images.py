"""A folder of photographs, made ready for training: split, cut into crops, encoded once.

What is held out is decided by the files' contents (their SHA-256), not by names or order, and so are the
places of the crops: the same images and seed give the same crops on every machine.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from stablesig_detector.errors import ImageError
from stablesig_detector.image import as_uint8, load_image
from stablesig_train.decoders import Autoencoder
from stablesig_train.photographs import list_images
from stablesig_train.precision import mixed

Pixels = NDArray[np.uint8]  # (H, W, 3) in 0..255
Warn = Callable[[str], None]

# Crops come from the photograph with its shorter side at most this, px: about what diffusion models decode.
SCALES_PX = (768, 384)
HELD_OUT_PX = 512  # side of the held-out crops, at most
HELD_OUT_AT_LEAST = 8
HELD_OUT_AT_MOST = 16  # more would tell no more, and each is decoded several times
CACHE_BYTES = 1 << 30  # bound on the prepared crops in memory
_ENCODED_TOGETHER = 8  # crops in a batch; memory stays below that of a training step
_STORED = torch.float16  # of the original decodes: 0.1 grey levels; their weights' noise is below that


@dataclass(frozen=True)
class ImageFile:
    """An image and the SHA-256 of its file."""

    path: Path
    sha256: str


@dataclass(frozen=True)
class TrainingCrops:
    """What `cut_crops` makes of a folder."""

    training: Tensor  # (N, 3, size, size) uint8, in the order of the files' SHA-256
    held_out: tuple[Pixels, ...]
    held_out_files: tuple[ImageFile, ...]
    training_files: tuple[ImageFile, ...]
    skipped: tuple[Path, ...]


@dataclass(frozen=True)
class LatentCache:
    """Latents (N, C, h, w) float32 of crops, and what the original decoder makes of them.

    `originals` (N, 3, H, W) float16, about [0, 1]. Each comes from the very crop that its latent was encoded
    from: a decoder may normalise over the whole latent (TAEF2 does), so a piece of a decode is no decode of a
    piece.
    """

    latents: Tensor
    originals: Tensor

    def __len__(self) -> int:
        return len(self.latents)


def find_images(folder: Path, warn: Warn) -> list[ImageFile]:
    """The distinct images directly in `folder`, by name, sorted by SHA-256; they are not decoded yet.

    A file that repeats another's content, or cannot be opened, is left out with a warning. Raises ImageError
    if the folder is none or has no images.
    """
    found: dict[str, Path] = {}
    for path in list_images(folder):
        try:
            with path.open("rb") as stream:
                digest = hashlib.file_digest(stream, "sha256").hexdigest()
        except OSError as error:
            warn(f"{path}: {error.strerror or error}; skipped")
            continue
        if digest in found:  # the same picture on both sides of the split would flatter what is measured
            warn(f"{path}: the same file as {found[digest].name}; skipped")
            continue
        found[digest] = path
    if not found:
        raise ImageError(f"none of the images in {folder} may be read; check their permissions")
    return [ImageFile(found[digest], digest) for digest in sorted(found)]


def manifest_sha256(files: Sequence[ImageFile]) -> str:
    """Which images these are, whatever their names: SHA-256 over their sorted hexadecimal hashes."""
    return hashlib.sha256("".join(sorted(file.sha256 for file in files)).encode("ascii")).hexdigest()


def held_out_count(images: int) -> int:
    """How many of `images` are held out: a tenth, from 8 to 16, but never over a quarter unless that is 0."""
    return max(1, min(images // 4, HELD_OUT_AT_MOST, max(HELD_OUT_AT_LEAST, images // 10)))


def cut_crops(
    files: Sequence[ImageFile], size: int, stride: int, count: int, seed: int, warn: Warn
) -> TrainingCrops:
    """Decode images, hold some out, and cut training crops from the others.

    files: as `find_images` gives them; the first usable ones are held out, and no more are decoded than
    `count` crops need.  size: side of the crops, px.  stride: of the autoencoder, px; held-out crops have
    sides that are multiples of it.  count: crops wanted, at most (less where memory bounds them). Half of the
    crops are mirrored, and the two scales alternate. Images that cannot be read or are too small are skipped
    with a warning. Raises ImageError if fewer than two can be used.
    """
    wanted = max(1, min(count, CACHE_BYTES // _bytes_per_crop(size)))
    skipped: list[Path] = []
    usable = _usable(files, size, skipped, warn)
    held_out = list(_take(usable, held_out_count(len(files))))
    crops: list[Pixels] = []
    cut: list[ImageFile] = []
    place = {file: index for index, file in enumerate(files)}
    for file, pixels in usable:
        share = -(-(wanted - len(crops)) // (len(files) - place[file]))  # of this image, rounded up
        crops += _crops_of(pixels, file, size, share, seed)
        cut.append(file)
        if len(crops) >= wanted:
            break
    if not cut and len(held_out) > 1:  # most files were unusable: split what is left
        left = cut_crops([file for file, _ in held_out], size, stride, count, seed, warn)
        return replace(left, skipped=tuple(skipped))
    if not cut:
        raise ImageError(
            f"{len(held_out)} of {len(files)} images can be used, training needs at least 2 (one is held "
            f"out); give intact photographs of at least {size} x {size} px"
        )
    stacked = torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2).contiguous()
    return TrainingCrops(
        training=stacked,
        held_out=tuple(_centre(pixels, stride) for _, pixels in held_out),
        held_out_files=tuple(file for file, _ in held_out),
        training_files=tuple(cut),
        skipped=tuple(skipped),
    )


def encode_crops(autoencoder: Autoencoder, crops: Tensor, dtype: torch.dtype) -> LatentCache:
    """Encode and decode crops (N, 3, size, size) uint8 once, with the decoder as it is.

    dtype: of the convolutions. The result is on the CPU.
    """
    device = next(autoencoder.module.parameters()).device
    latents, originals = [], []
    with torch.no_grad(), mixed(device, dtype):
        for batch in crops.split(_ENCODED_TOGETHER):
            encoded = autoencoder.encode(batch.to(device).float() / 255).float()  # (b, C, h, w)
            latents.append(encoded.cpu())
            originals.append(autoencoder.decode(encoded).to(_STORED).cpu())
    return LatentCache(torch.cat(latents), torch.cat(originals))


def _bytes_per_crop(size: int) -> int:
    """Of one crop, its latent (as large as half a crop, generously) and its decode in memory."""
    return 3 * size * size * (1 + 2 + _STORED.itemsize)


def _usable(
    files: Sequence[ImageFile], size: int, skipped: list[Path], warn: Warn
) -> Iterator[tuple[ImageFile, Pixels]]:
    for file in files:
        try:
            loaded = load_image(file.path)
        except ImageError as error:
            warn(f"skipped {error}")
            skipped.append(file.path)
            continue
        height, width = loaded.shape[:2]
        if min(height, width) < size:
            warn(f"skipped {file.path}: {width} x {height} px, the crops need {size} x {size} px")
            skipped.append(file.path)
            continue
        yield file, as_uint8(loaded)


def _take(pairs: Iterator[tuple[ImageFile, Pixels]], count: int) -> Iterator[tuple[ImageFile, Pixels]]:
    """The first `count`, reduced so that they take little memory; asks `pairs` for no more than these."""
    for _ in range(count):
        pair = next(pairs, None)
        if pair is None:
            return
        file, pixels = pair
        yield file, _reduced(pixels, max(SCALES_PX))


def _reduced(pixels: Pixels, shorter: int) -> Pixels:
    """`pixels` with its shorter side `shorter` px, or as it is where that is no larger already."""
    height, width = pixels.shape[:2]
    if min(height, width) <= shorter:
        return pixels
    scale = shorter / min(height, width)
    size = (max(shorter, round(width * scale)), max(shorter, round(height * scale)))
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS))


def _crops_of(pixels: Pixels, file: ImageFile, size: int, count: int, seed: int) -> list[Pixels]:
    """`count` crops (size, size, 3), scales alternating, from places that seed and content fix."""
    digest = hashlib.sha256(f"crops {seed} {file.sha256}".encode("ascii")).digest()
    generator = np.random.default_rng(int.from_bytes(digest[:8], "little"))
    scaled = [_reduced(pixels, max(shorter, size)) for shorter in SCALES_PX]
    first = int(generator.integers(len(scaled)))  # else a single crop would always be of the larger scale
    crops = []
    for index in range(count):
        source = scaled[(first + index) % len(scaled)]
        top = int(generator.integers(source.shape[0] - size + 1))
        left = int(generator.integers(source.shape[1] - size + 1))
        crop = source[top : top + size, left : left + size]
        crops.append(crop[:, ::-1] if generator.random() < 0.5 else crop)
    return crops


def _centre(pixels: Pixels, stride: int) -> Pixels:
    """The middle of an image, up to HELD_OUT_PX on a side, sides multiples of `stride`."""
    height, width = (min(side, HELD_OUT_PX) // stride * stride for side in pixels.shape[:2])
    top, left = (pixels.shape[0] - height) // 2, (pixels.shape[1] - width) // 2
    return pixels[top : top + height, left : left + width]
