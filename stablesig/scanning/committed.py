"""What the committed parts say of files: whether the one that lies there now is the one that has a row.

A file is known by its path, a version of it by its content. As reading all files again would take hours, the
content is taken for the same where the size is that of the row and the file was last changed before it was
read; only otherwise is it read and its SHA-256 compared. So nothing has to be kept beside the parts, and a
file that was touched, moved back or restored from a backup gets no second row.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stablesig.scanning.item import identity_of
from stablesig.scanning.parts import batches_of, parts_in
from stablesig.scanning.row import Row

_COLUMNS = ("path", "path_bytes", "sha256", "bytes", "seconds", "time", "error_kind")
_RECENT = 1 << 16  # rows kept in a dict, until there are so many of them
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# 33 bytes an input, and 8 for its key. The first 8 bytes of an identity tell paths apart: that two of 10^8
# files are confused (probability 3e-4) changes nothing unless size, time or digest agree as well.
_ENTRY = np.dtype([("key", "<u8"), ("size", "<i8"), ("read_us", "<i8"), ("digest", "<u8"), ("state", "u1")])

_READ, _NOT_READ, _MISSING = range(3)  # whether there were bytes to take the SHA-256 of
_Entry = tuple[int, int, int, int, int]


@dataclass(frozen=True)
class LastRow:
    """The newest row of a path. size: bytes; -1 if it could not be read.  read_ns: Unix time before which the
    file was read.  digest: first 8 bytes of its SHA-256; None if it could not be read.  was_missing: whether
    that was because it was not there.
    """

    size: int
    read_ns: int
    digest: bytes | None
    was_missing: bool


class Committed:
    """The newest row of every input in `folder`; raises OutputError if a part cannot be read."""

    def __init__(self, folder: Path | None = None) -> None:
        self._settled: NDArray[Any] = np.empty(0, _ENTRY)  # sorted by key
        self._keys: NDArray[np.uint64] = np.empty(
            0, np.uint64
        )  # theirs, in one piece, as a search wants them
        self._recent: dict[int, _Entry] = {}
        if folder is not None:
            for part in parts_in(folder):
                for batch in batches_of(part, _COLUMNS):
                    self._take(zip(*(column.to_pylist() for column in batch), strict=True))

    def __len__(self) -> int:
        self._settle()
        return len(self._settled)

    def add(self, rows: Iterable[Row]) -> None:
        """Rows that have been committed."""
        self._take(attrgetter(*_COLUMNS)(row) for row in rows)

    def last(self, identity: bytes) -> LastRow | None:
        """What the newest row of the input with this `Item.identity` says; None if there is no row."""
        key = int.from_bytes(identity[:8], "little")
        entry: Sequence[Any] | None = self._recent.get(key)
        if entry is None:
            at = int(np.searchsorted(self._keys, np.uint64(key)))
            if at == len(self._keys) or int(self._keys[at]) != key:
                return None
            entry = self._settled[at].tolist()
        _, size, read_us, digest, state = entry
        known = digest.to_bytes(8, "big") if state == _READ else None
        return LastRow(size, read_us * 1000, known, state == _MISSING)

    def _take(self, rows: Iterable[tuple[Any, ...]]) -> None:
        for entry in _entries(rows):
            before = self._recent.get(entry[0])
            if before is None or before[2] <= entry[2]:
                self._recent[entry[0]] = entry
            if len(self._recent) >= max(_RECENT, len(self._settled) // 16):
                self._settle()

    def _settle(self) -> None:
        if not self._recent:
            return
        added = np.array(list(self._recent.values()), _ENTRY)
        together = np.concatenate([self._settled, added])
        together = together[np.lexsort((together["read_us"], together["key"]))]
        newest = np.append(together["key"][1:] != together["key"][:-1], True)
        self._settled, self._recent = together[newest], {}
        self._keys = self._settled["key"].copy()


def _entries(rows: Iterable[tuple[Any, ...]]) -> Iterator[_Entry]:
    for path, path_bytes, sha256, size, seconds, done, error_kind in rows:
        key = int.from_bytes(identity_of(path, path_bytes)[:8], "little")
        read = _EPOCH if done is None else done - timedelta(seconds=seconds or 0.0)
        digest = int(sha256[:16], 16) if sha256 else 0
        state = _READ if sha256 else _MISSING if error_kind == "missing" else _NOT_READ
        read_us = (read - _EPOCH) // timedelta(microseconds=1)
        yield key, -1 if size is None else size, read_us, digest, state


def is_same(last: LastRow, size: int, changed_ns: int, path: str, margin_s: float) -> bool:
    """Whether the file at `path` is still what `last` is the row of.

    size: bytes it has now.  changed_ns: Unix time of its last change.  margin_s: by how much the clock that
    dates files may be behind ours. Reads the file where size and time do not decide. Raises OSError.
    """
    old = changed_ns < last.read_ns - margin_s * 1e9
    if last.read_ns > time.time_ns():  # our clock was ahead then, or is behind now: it decides nothing
        old = False
    if last.digest is None:  # it could not be read; if it was changed since, perhaps it can be now
        return old
    if size != last.size:
        return False
    if old:
        return True
    with open(path, "rb") as file:  # noqa: PTH123  a path as bytes that are not UTF-8 made it
        return hashlib.file_digest(file, "sha256").digest()[:8] == last.digest
