"""Many keys for the same features as one matrix, so that an image meets all of them in one product.

The matrix holds the stored directions themselves, whole numbers times 2^-20, which single precision holds
exactly: |u_i| <= 1 takes 21 bits of its 24. So it serves the product and the keys alike, and no second copy
is kept. Its rows are not renormalised; `matching` allows for that.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from .carriers import DIRECTION_SCALE
from .key_entry import Key, KeyEntry, LazyEntries


@dataclass(frozen=True)
class FeatureSpace:
    """What a key was drawn for; keys of different spaces have nothing to do with each other."""

    feature_version: str
    dimension: int
    statistics_sha256: str

    @classmethod
    def of(cls, key: Key) -> FeatureSpace:
        return cls(key.feature_version, key.dimension, key.statistics_sha256)


@dataclass(frozen=True, eq=False)
class KeyBlock:
    """n keys of one space.

    directions: (n, D) float32, C order, multiples of 2^-20, rows of norm 1 up to that rounding; may be a
    memory map.  ids: (n,) uint64, the 16 hex digits of each id as a number.  entries: n of them, possibly
    made only when asked for.
    """

    space: FeatureSpace
    directions: NDArray[np.float32] = field(repr=False)
    ids: NDArray[np.uint64] = field(repr=False)
    entries: Sequence[KeyEntry] = field(repr=False)

    def __len__(self) -> int:
        return len(self.ids)

    def place(self, key_id: str) -> int | None:
        """Where the key of that id is, if it is here."""
        found = np.flatnonzero(self.ids == np.uint64(int(key_id, 16)))
        return int(found[0]) if found.size else None

    def only(self, keep: NDArray[np.bool_]) -> KeyBlock:
        """The keys at which `keep` (n,) is True; the block itself if that is all."""
        if keep.all():
            return self
        rows = np.flatnonzero(keep)
        chosen = Rearranged(self.entries, rows.tolist())
        return KeyBlock(self.space, np.ascontiguousarray(self.directions[rows]), self.ids[rows], chosen)

    def replaced(self, entries: Mapping[int, KeyEntry]) -> KeyBlock:
        """The same keys, with other entries at some places."""
        if not entries:
            return self
        return KeyBlock(self.space, self.directions, self.ids, Rearranged(self.entries, None, entries))


class Rearranged(LazyEntries):
    """Some entries of a sequence, some of them replaced, without making the others."""

    def __init__(
        self,
        entries: Sequence[KeyEntry],
        rows: Sequence[int] | None,
        instead: Mapping[int, KeyEntry] | None = None,
    ) -> None:
        self._entries, self._instead = entries, instead or {}
        self._rows: Sequence[int] = range(len(entries)) if rows is None else rows

    def __len__(self) -> int:
        return len(self._rows)

    def _at(self, place: int) -> KeyEntry:
        row = self._rows[place]
        return self._instead[row] if row in self._instead else self._entries[row]


def blocks_of(entries: Iterable[KeyEntry]) -> tuple[KeyBlock, ...]:
    """Entries in order, grouped by space in the order in which the spaces appear."""
    groups: dict[FeatureSpace, list[KeyEntry]] = {}
    for entry in entries:
        groups.setdefault(FeatureSpace.of(entry.key), []).append(entry)
    return tuple(_block(space, tuple(group)) for space, group in groups.items())


def _block(space: FeatureSpace, entries: tuple[KeyEntry, ...]) -> KeyBlock:
    directions = np.stack([stored_direction(entry.key) for entry in entries])
    ids = np.array([int(entry.key.id, 16) for entry in entries], dtype=np.uint64)
    return KeyBlock(space, directions, ids, entries)


def stored_direction(key: Key) -> NDArray[np.float32]:
    """(D,) float32: the stored direction, exactly."""
    return key.direction_q.astype(np.float32) / np.float32(DIRECTION_SCALE)
