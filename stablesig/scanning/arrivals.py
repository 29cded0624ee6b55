"""Where uploads come from: what a watched tree and a queue folder have in common."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from stablesig.scanning.item import Item
from stablesig.scanning.row import Row

# How programs that write a file name it until it is whole.
UNFINISHED_SUFFIXES = frozenset(
    (
        ".part",
        ".partial",
        ".tmp",
        ".temp",
        ".crdownload",
        ".download",
        ".filepart",
        ".upload",
        ".swp",
        ".lock",
    )
)


@dataclass(frozen=True, slots=True, eq=False)
class Arrival:
    """An upload that is to be scanned now. seen: when it was first seen, s of the monotonic clock."""

    item: Item
    seen: float


class Uploads(Protocol):
    """A place into which files are uploaded. Its methods are called in one thread, but for the properties."""

    @property
    def backlog(self) -> int: ...  # uploads that were seen and are not settled by `durable`
    @property
    def oldest(self) -> float | None: ...  # when the oldest of them was seen, s of the monotonic clock
    @property
    def missing(self) -> int: ...  # folders that are not there or cannot be looked into

    def poll(self) -> None:
        """Look for uploads. Raises nothing for what it finds, or finds gone."""

    def ready(self) -> Iterator[Arrival]:
        """The uploads that can be scanned now, each once; drawn one by one, as workers become free."""

    def rows(self, arrival: Arrival, rows: Sequence[Row]) -> Sequence[Row]:
        """The rows as they are to be committed; none if the upload has been taken over by another scanner."""

    def durable(self, arrival: Arrival, rows: Sequence[Row]) -> None:
        """Its rows are committed."""

    def close(self) -> None:
        """What was handed out and has no durable rows is left to whoever scans next."""


def is_unfinished(name: str) -> bool:
    """Whether a file is named as one that is hidden or still being written."""
    return name[0] == "." or name[-1] == "~" or name[name.rfind(".") :].lower() in UNFINISHED_SUFFIXES
