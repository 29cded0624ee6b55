"""Which windows of a plane are measured: all of them, or of a large plane an evenly spread part.

The rule for large planes depends on their size alone, never on the pixels or a key, so p-values stay exact.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

ROWS = 6  # rows of windows in a tile: as many as powers in one logarithm
COLUMNS = 36  # windows across a tile of a large plane
_AT_ONCE = 648  # windows: what is computed with them fits into a cache of 1 to 2 MB
_WIDEST = 72  # windows across a tile of any plane
_GOLDEN = 0.6180339887498949  # turns the columns from row to row, so that no pattern repeats


@dataclass(frozen=True)
class Tiles:
    """Tiles of equal size, to be measured together. tops, lefts: in windows, of each tile."""

    tops: tuple[int, ...]
    lefts: tuple[int, ...]
    rows: int
    columns: int

    @property
    def windows(self) -> int:
        """How many windows the tiles hold together."""
        return len(self.tops) * self.rows * self.columns


def tiles(down: int, across: int, most: int) -> Iterator[Tiles]:
    """Cut a plane of `down` rows of `across` windows into tiles; of more than `most` windows into some."""
    yield from _all(down, across) if down * across <= most else _some(down, across, most)


def _all(down: int, across: int) -> Iterator[Tiles]:
    """Every window once."""
    parts = -(-across // _WIDEST)
    height = ROWS * max(1, round(_AT_ONCE * parts / (ROWS * across)))
    for part in range(parts):
        left, right = across * part // parts, across * (part + 1) // parts
        for top in range(0, down, height):
            yield Tiles((top,), (left,), min(height, down - top), right - left)


def _some(down: int, across: int, most: int) -> Iterator[Tiles]:
    """At most `most` windows, but one tile at least, in whole tiles.

    The plane is covered with a grid of tiles of ROWS x COLUMNS windows, as near to each other as they go
    without overlapping; they are numbered row by row, each row starting at another column, and of these
    numbers evenly spaced ones are taken.
    """
    rows, columns = min(ROWS, down), min(COLUMNS, across)
    grid_rows, grid_columns = down // rows, across // columns
    number = grid_rows * grid_columns
    taken = max(1, min(number, most // (rows * columns)))
    tops, lefts = [], []
    for index in range(taken):
        row, place = divmod((2 * index + 1) * number // (2 * taken), grid_columns)
        column = (place + int(row * _GOLDEN % 1.0 * grid_columns)) % grid_columns
        tops.append(_place(row, grid_rows, down - rows))
        lefts.append(_place(column, grid_columns, across - columns))
    batch = max(1, _AT_ONCE // (rows * columns))
    for start in range(0, taken, batch):
        part = slice(start, start + batch)
        yield Tiles(tuple(tops[part]), tuple(lefts[part]), rows, columns)


def _place(index: int, number: int, room: int) -> int:
    """Where the index-th of `number` equal pieces begins if the first is at 0 and the last at `room`."""
    return index * room // (number - 1) if number > 1 else room // 2
