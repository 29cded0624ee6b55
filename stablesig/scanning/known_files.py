"""What is known of very many files, in few bytes each."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from stablesig.scanning.arrivals import is_unfinished

CHUNK = 4096

Hashes = NDArray[np.int64]
NO_HASHES: Hashes = np.empty(0, np.int64)


@dataclass(slots=True)
class KnownHashes:
    """A set of hashes, 8 bytes each: sorted, and those that came last."""

    settled: Hashes = field(default_factory=lambda: NO_HASHES)
    recent: set[int] = field(default_factory=set)

    def add(self, value: int) -> None:
        self.recent.add(value)
        if len(self.recent) > max(CHUNK, len(self.settled) // 16):
            self._settle()

    def has(self, values: Hashes) -> NDArray[np.bool_]:
        """Which of `values` are in the set."""
        self._settle()
        if not len(self.settled):
            return np.zeros(len(values), bool)
        at = np.minimum(np.searchsorted(self.settled, values), len(self.settled) - 1)
        return np.asarray(self.settled[at] == values)

    def prune(self, present: Sequence[Hashes]) -> None:
        """Forget all but `present`, which are in the set, if that is worth it.

        What was added while they were gathered may be forgotten with the rest: then it is looked at again.
        """
        if 2 * sum(map(len, present)) + CHUNK < len(self.settled):
            self.settled, self.recent = np.sort(np.concatenate([NO_HASHES, *present])), set()

    def _settle(self) -> None:
        if self.recent:
            self.settled = np.union1d(self.settled, np.fromiter(self.recent, np.int64, len(self.recent)))
            self.recent = set()


def chunks(
    entries: Iterator[os.DirEntry[str]],
    is_wanted: Callable[[str], bool],
    inside: set[str],
    size: int = CHUNK,
) -> Iterator[tuple[list[str], list[int]]]:
    """Names and inodes of the wanted files, a few at a time; the names of folders go to `inside`."""
    names: list[str] = []
    inodes: list[int] = []
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            if not is_unfinished(entry.name):
                inside.add(entry.name)
        elif is_wanted(entry.name):
            names.append(entry.name)
            inodes.append(entry.inode())
            if len(names) == size:
                yield names, inodes
                names, inodes = [], []
    if names:
        yield names, inodes
