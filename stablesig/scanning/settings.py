"""What a scan looks for, how, and what one image may cost. The same for every engine."""

from __future__ import annotations

import hashlib
from dataclasses import astuple, dataclass, field
from typing import Any

import numpy as np

from stablesig.scanning.reading import ReadOptions
from stablesig_detector.detection import DEFAULT_FPR, SEARCHES, check_key
from stablesig_detector.errors import UsageError
from stablesig_detector.key_set import KeySet, detector_space

# Seconds that one image may take once its bytes are there; a hostile file must not hold up the others.
SECONDS = {"none": 10.0, "fast": 10.0, "full": 60.0}
MEMORY_BYTES = 1 << 30
LEAST_MEMORY_BYTES = 1 << 26


@dataclass(frozen=True)
class ScanSettings:
    """Settings that all workers share.

    keys: at least one, all for this detector.  fpr, search: as for `detect`.  screen: whether an image is
    ruled out by part of its windows where they suffice.  dedup: whether the evidence in bytes that a worker
    measured before is taken over; it saves work and changes no row.  seconds: wall-clock time for one image,
    None for no limit.  memory_bytes: private memory that a worker may add to what it starts with, None for no
    limit.  read: how the bytes of inputs are read.

    Raises UsageError for values out of range, KeyFileError for keys drawn for another detector.
    """

    keys: KeySet = field(repr=False)
    fpr: float = DEFAULT_FPR
    search: str = "fast"
    screen: bool = False
    dedup: bool = False
    seconds: float | None = SECONDS["fast"]
    memory_bytes: int | None = MEMORY_BYTES
    read: ReadOptions = field(default_factory=ReadOptions)

    def __post_init__(self) -> None:
        if not len(self.keys):
            raise UsageError("there are no keys to look for; give at least one")
        if not 0.0 < self.fpr < 1.0:
            raise UsageError(
                f"a false positive rate lies between 0 and 1, both excluded; got {self.fpr}; the usual is "
                f"{DEFAULT_FPR:g}"
            )
        if self.search not in SEARCHES:
            raise UsageError(f'a search is "none", "fast" or "full"; got {self.search!r}')
        if self.screen and self.search == "full":
            raise UsageError(
                "screening measures part of an image and cannot rule out other scales and rotations; "
                "leave out --screen, or take --search fast"
            )
        if self.seconds is not None and not 0.0 < self.seconds <= 86_400.0:
            raise UsageError(
                f"the time limit of an image lies between 0 and 86,400 s; got {self.seconds:g}; try 10"
            )
        if self.memory_bytes is not None and self.memory_bytes < LEAST_MEMORY_BYTES:
            raise UsageError(
                f"an image needs {LEAST_MEMORY_BYTES:,} bytes of memory at least; got {self.memory_bytes:,}; "
                "try 1g"
            )
        space = detector_space()
        for block in self.keys.blocks:
            check_key(block.entries[0].key, space.feature_version, space.dimension, space.statistics_sha256)

    @property
    def fetch_seconds(self) -> float | None:
        """Longest time for the bytes of an item from the network, retries and the waits between included."""
        if self.seconds is None:
            return None
        read = self.read
        return (
            (read.retries + 1) * read.policy.seconds + 1.5 * read.retries * read.longest_wait + self.seconds
        )

    def identity(self) -> dict[str, Any]:
        """What decides the rows of an image, for `_scan.json`: a scan is not gone on with under another.

        The limits are left out, as they decide only over images that cannot be read, and so is what saves
        work only.
        """
        space = detector_space()
        return {
            "features": space.feature_version,
            "statistics": space.statistics_sha256,
            "keys": key_fingerprint(self.keys),
            "n_keys": len(self.keys),
            "fpr": self.fpr,
            "search": self.search,
            "screen": self.screen,
        }


def key_fingerprint(keys: KeySet) -> str:
    """64 hexadecimal digits that change with the keys, whatever their order.

    Ids stand for keys, as they are hashes of them. Not with what is known of the keys: a revocation in the
    middle of a long scan must not keep it from going on.
    """
    digest = hashlib.sha256()
    for block in sorted(keys.blocks, key=lambda block: astuple(block.space)):
        digest.update(repr((astuple(block.space), len(block))).encode())
        digest.update(np.sort(block.ids).astype(">u8").tobytes())
    return digest.hexdigest()
