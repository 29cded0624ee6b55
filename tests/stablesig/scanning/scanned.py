"""Images and keys to scan, small enough that a scan of hundreds takes a second."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from stablesig.scanning.item import Item
from stablesig.scanning.measuring import WorkerState, measure_item
from stablesig.scanning.row import Row
from stablesig.scanning.settings import ScanSettings
from stablesig_detector.key import PublicKey, SecretKey
from stablesig_detector.key_entry import KeyEntry
from stablesig_detector.key_set import KeySet

from ..conftest import direction_between, textured_image

HEIGHT, WIDTH = 96, 128


def picture(seed: int) -> np.ndarray:
    """(96, 128, 3) uint8; those of an even and an odd seed differ in how their spectrum falls."""
    return textured_image(seed, HEIGHT, WIDTH, slope=1.0 if seed % 2 else 0.5)


def rows_of_chunk(items: Sequence[Item], settings: ScanSettings, state: WorkerState) -> list[Row]:
    """The rows of several items, one item after the other, in this process."""
    return [row for item in items for row in measure_item(item, settings, state)]


def key_of(seed: int) -> PublicKey:
    """A key that finds `picture(seed)` and is at right angles to its neighbour."""
    return direction_between(picture(seed), picture(seed + 1))


def settings_for(*seeds: int, **changes: Any) -> ScanSettings:
    """Settings with a key for each of the pictures `seeds`; with a random one if there are none."""
    keys = [KeyEntry(key_of(seed), provider=f"provider {seed}") for seed in seeds]
    return ScanSettings(KeySet.of(keys or [KeyEntry(SecretKey.draw())]), **changes)


def write_pictures(folder: Path, count: int) -> list[Path]:
    """picture(0), picture(1)... as PNG, some per folder."""
    paths = []
    for seed in range(count):
        path = folder / f"{seed % 3}" / f"{seed:04}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture(seed)).save(path, compress_level=1)
        paths.append(path)
    return paths


def items_of(paths: Iterable[Path]) -> list[Item]:
    return [Item(str(path), "file", str(path)) for path in paths]


def timeless(rows: Iterable[Row]) -> list[Row]:
    """Rows without what differs from run to run, in an order of their own."""
    return sorted(
        (replace(row, seconds=None, time=None) for row in rows), key=lambda row: (row.path, row.key_id or "")
    )
