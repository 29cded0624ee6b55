"""The keys that images are held against: from files, folders and registries, each key once.

A set may hold a hundred thousand keys. They lie in matrices (`key_block`), and an entry is made only when it
is asked for, so that a packed registry opens in milliseconds.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .errors import KeyFileError, UsageError
from .key_block import FeatureSpace, KeyBlock, blocks_of
from .key_entry import Key, KeyEntry, KeyState, LazyEntries, merged, today

if TYPE_CHECKING:
    from .whitening import Whitening

__all__ = ["KeyEntry", "KeySet", "KeyState", "load_key_set"]


@dataclass(frozen=True, eq=False)
class KeySet:
    """Keys with their entries, each id once.

    blocks: the keys, by the features that they are for.  on: the day (UTC) on which their states are taken.
    notes: what a reader of the evidence should know about where they came from, one line each.
    """

    blocks: tuple[KeyBlock, ...] = field(repr=False)
    on: date
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, entries: Iterable[KeyEntry], *, on: date | None = None) -> KeySet:
        """A set of entries, in their order; entries for the same key become one."""
        return _assembled([], entries, on, ())

    def __len__(self) -> int:
        return sum(map(len, self.blocks))

    @cached_property
    def entries(self) -> Sequence[KeyEntry]:
        """All entries, block by block; each is made when it is asked for."""
        return _Entries(self.blocks)

    @property
    def keys(self) -> Sequence[Key]:
        """All keys, in the order of `entries`. `detect` takes the set itself, and is faster with it."""
        return [entry.key for entry in self.entries]

    def entry(self, key_id: str) -> KeyEntry:
        """The entry of a key. Raises KeyError if there is none."""
        for block in self.blocks:
            if (place := block.place(key_id)) is not None:
                return block.entries[place]
        raise KeyError(key_id)

    def state(self, key_id: str) -> KeyState:
        """The state of a key on the day `on`. Raises KeyError if it is not in the set."""
        return self.entry(key_id).state_on(self.on)

    def and_entries(self, entries: Iterable[KeyEntry]) -> KeySet:
        """This set and further entries; those for a key that is here already are put together with it."""
        return _assembled(self.blocks, entries, self.on, self.notes)

    def for_detector(self, whitening: Whitening | None = None) -> KeySet:
        """The keys that this detector can look for, with a note of how many others were left out.

        A registry holds keys of several releases; an image is measured in one way, and only keys that were
        drawn for it have a p-value. whitening: statistics other than those shipped. Raises KeyFileError if no
        key is left.
        """
        space = detector_space(whitening)
        left_out = [block for block in self.blocks if block.space != space]
        if not left_out:
            return self
        kept = tuple(block for block in self.blocks if block.space == space)
        count, first = sum(map(len, left_out)), f"{int(left_out[0].ids[0]):016x}"
        if not kept:
            raise KeyFileError(
                f"none of the {count:,} keys is for the features and statistics of this detector "
                f"({space.feature_version}, {space.statistics_sha256[:16]}...; the first is key {first}); "
                "use the release that drew them, or draw new ones"
            )
        note = f"{count:,} keys are for other features or statistics and were not looked for (first: {first})"
        return replace(self, blocks=kept, notes=(*self.notes, note))


def detector_space(whitening: Whitening | None = None) -> FeatureSpace:
    """What keys must have been drawn for, for this detector to look for them."""
    from .spectrum import DIMENSION, FEATURE_VERSION

    if whitening is None:
        from .whitening import load_default

        whitening = load_default()
    return FeatureSpace(FEATURE_VERSION, DIMENSION, whitening.sha256)


def load_key_set(paths: Sequence[str | os.PathLike[str]], *, on: date | None = None) -> KeySet:
    """Read the keys at `paths`, which may be mixed:

    - key files, secret or public, registry entries, and a watermark.json that publishes its direction;
    - folders, whose .json files of these kinds are read, subfolders included;
    - registries: a folder with registry.json, or the .safetensors file that `stablesig registry pack` makes.

    A key that occurs several times is there once, with all that is known about it. on: the day for the states
    of keys; today in UTC if not given.

    Raises UsageError if no path is given, KeyFileError (naming the file) if one cannot be read, is damaged,
    or if there is no key at all.
    """
    from .key_sources import read_source

    if isinstance(paths, (str, os.PathLike)):
        raise UsageError("paths is a sequence; got a single path; pass [path]")
    if not paths:
        raise UsageError("there are no keys to look for; name a key file, a folder of them or a registry")
    packed: list[KeyBlock] = []
    loose: list[KeyEntry] = []
    notes: list[str] = []
    for path in paths:
        found = read_source(Path(path))
        packed += found.blocks
        loose += found.entries
        notes += found.notes
    return _assembled(packed, loose, on, notes)


def _assembled(
    packed: Sequence[KeyBlock], loose: Iterable[KeyEntry], on: date | None, notes: Sequence[str]
) -> KeySet:
    """Loose entries first, then packed ones, without the keys that occur already."""
    together: dict[tuple[FeatureSpace, str], KeyEntry] = {}
    for entry in loose:
        name = (FeatureSpace.of(entry.key), entry.key.id)
        together[name] = merged(together[name], entry) if name in together else entry
    blocks: list[KeyBlock] = []
    for block in packed:
        for earlier in blocks:
            if earlier.space == block.space:
                block = block.only(~np.isin(block.ids, earlier.ids))
        if not len(block):
            continue
        known: dict[int, KeyEntry] = {}
        for name in list(together):
            if name[0] == block.space and (place := block.place(name[1])) is not None:
                known[place] = merged(together.pop(name), block.entries[place])
        blocks.append(block.replaced(known))
    return KeySet((*blocks_of(together.values()), *blocks), today() if on is None else on, tuple(notes))


class _Entries(LazyEntries):
    """The entries of several blocks, one after the other."""

    def __init__(self, blocks: Sequence[KeyBlock]) -> None:
        self._blocks = blocks
        self._ends = list(accumulate(map(len, blocks)))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def _at(self, place: int) -> KeyEntry:
        from bisect import bisect_right

        block = bisect_right(self._ends, place)
        return self._blocks[block].entries[place - (self._ends[block - 1] if block else 0)]

    def __iter__(self) -> Iterator[KeyEntry]:
        for block in self._blocks:
            yield from block.entries
