"""Photographs to train on: listing them, checking them against a manifest, drawing crops from them."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from stablesig_detector.errors import ImageError, UsageError
from stablesig_detector.image import IMAGE_SUFFIXES, as_uint8, image_files, load_image

SCALES = (1.0, 0.75, 0.5)  # every photograph is seen at these sizes


def list_images(folder: Path) -> list[Path]:
    """The image files directly in `folder`, sorted by name. Raises ImageError when there are none to read."""
    found = image_files(folder)
    if not found:
        raise ImageError(
            f"{folder} holds no images ({', '.join(sorted(IMAGE_SUFFIXES))}); give one that does"
        )
    return found


def split_images(folder: Path, manifest: Path | None) -> tuple[list[Path], list[Path]]:
    """(training, held-out) photographs of `folder`.

    A manifest is a tab-separated file with the columns file, sha256 and role (`train` or `held-out`); every
    file it lists must be there with that SHA-256. Without one, the last twentieth of the sorted names (at
    least one) is held out. Raises ImageError for a missing or changed image, UsageError for a bad manifest.
    """
    if manifest is None:
        found = list_images(folder)
        count = max(1, len(found) // 20)
        if len(found) <= count:
            raise ImageError(f"{folder} holds {len(found)} image; give at least 2: one is held out")
        return found[:-count], found[-count:]
    try:
        with manifest.open(encoding="utf-8", newline="") as lines:
            rows = list(csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE))
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read the manifest {manifest}: {error}") from error
    chosen: dict[str, list[Path]] = {"train": [], "held-out": []}
    for row in rows:
        path, role = folder / (row.get("file") or ""), row.get("role") or ""
        if role not in chosen:
            raise UsageError(f"{manifest} gives {path.name} the role {role!r}; use train or held-out")
        if not path.is_file():
            raise ImageError(f"{path} is missing, though {manifest} lists it")
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        if digest != row.get("sha256"):
            raise ImageError(
                f"{path} has SHA-256 {digest}, {manifest} lists {row.get('sha256')}; restore the listed file"
            )
        chosen[role].append(path)
    if not chosen["train"] or not chosen["held-out"]:
        raise UsageError(f"{manifest} must list at least one train and one held-out image")
    return chosen["train"], chosen["held-out"]


class CropSampler:
    """Random training crops of photographs held in memory at each of SCALES, the detailed ones more often.

    Wallpapers are full of smooth gradients that teach nothing once they are learnt, hence the weight: a
    photograph's mean absolute difference between horizontal neighbours, limited to 1..16 grey levels.
    """

    def __init__(self, paths: Sequence[Path], crop: int) -> None:
        self.crop = crop
        self.levels: list[list[torch.Tensor]] = []  # per photograph, per scale: (3, H, W) uint8
        weights = []
        for path in paths:
            pixels = as_uint8(load_image(path))
            height, width = pixels.shape[:2]
            picture = Image.fromarray(pixels)
            sizes = [(round(width * scale), round(height * scale)) for scale in SCALES]
            levels = [
                torch.from_numpy(np.array(picture.resize(size, Image.Resampling.LANCZOS))).permute(2, 0, 1)
                for size in sizes
                if min(size) >= crop
            ]
            if not levels:
                raise ImageError(
                    f"{path} is {width}x{height} px; training crops have {crop} px; leave it out"
                )
            self.levels.append(levels)
            weights.append(float(np.clip(np.abs(np.diff(pixels.astype(np.float32), axis=1)).mean(), 1, 16)))
        self.weights = torch.tensor(weights)

    def draw(self, count: int, generator: torch.Generator) -> torch.Tensor:
        """(count, 3, crop, crop) float32 in [0, 1], channels last in memory; half of them mirrored."""
        crops = []
        for index in torch.multinomial(self.weights, count, replacement=True, generator=generator).tolist():
            level, top, left, flip = torch.rand(4, generator=generator).tolist()
            photo = self.levels[index][int(level * len(self.levels[index]))]
            row, column = (
                int(top * (photo.shape[1] - self.crop + 1)),
                int(left * (photo.shape[2] - self.crop + 1)),
            )
            piece = photo[:, row : row + self.crop, column : column + self.crop]
            crops.append(piece.flip(2) if flip < 0.5 else piece)
        return (torch.stack(crops).float() / 255).contiguous(memory_format=torch.channels_last)
