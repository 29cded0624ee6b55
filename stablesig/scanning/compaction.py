"""Many small parts become one: a follower commits every few seconds, and a million parts are slow to read.

Whatever ends the process, no row is lost, and none stays doubled: what is to replace what is written down
before anything is replaced, and whoever goes on with the scan completes it. The new part takes its place
before the old ones are removed, so for a few milliseconds, or from kill -9 to the next start, a reader may
see rows twice, but never miss one.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from stablesig.scanning.parts import (
    PART_ROWS,
    batches_of,
    new_part_name,
    parquet_writer,
    parts_in,
    sync_folder,
)
from stablesig_detector.errors import OutputError

MOST_SMALL_PARTS = 64  # are there before they are put together
_JOURNAL = ".compacting.json"


class Compactor:
    """Puts the small parts in `folder` together. about: for the metadata of the new parts.

    Only one may be at work on a folder, and under its lock. Completes what an earlier one left half done;
    raises OutputError.
    """

    def __init__(self, folder: Path, about: Mapping[str, Any] | None = None) -> None:
        self._folder, self._about = folder, about
        try:
            _complete(folder)
            self._small = {part: rows for part in parts_in(folder) if (rows := _rows_in(part)) < PART_ROWS}
        except OSError as error:
            raise _not_written(folder, error) from error

    def added(self, part: Path, rows: int) -> None:
        """A part has been committed; if there are many small ones now, they are put together."""
        if rows < PART_ROWS:
            self._small[part] = rows
        if len(self._small) >= MOST_SMALL_PARTS:
            self.compact()

    def compact(self) -> Path | None:
        """Put small parts together, the oldest first, up to PART_ROWS rows; the new part, if there is one."""
        chosen: list[Path] = []
        total = 0
        for part in sorted(self._small):
            if chosen and total + self._small[part] > PART_ROWS:
                break
            chosen.append(part)
            total += self._small[part]
        if len(chosen) < 2:
            for part in chosen:  # the next one would not fit beside it
                if len(self._small) > 1:
                    del self._small[part]
            return None
        try:
            whole = self._merged(chosen)
        except OSError as error:
            raise _not_written(self._folder, error) from error
        for part in chosen:
            del self._small[part]
        if total < PART_ROWS:
            self._small[whole] = total
        return whole

    def _merged(self, parts: Sequence[Path]) -> Path:
        name = new_part_name()
        hidden, journal = self._folder / f".{name}.whole", self._folder / _JOURNAL
        beside = journal.with_name(f"{_JOURNAL}.tmp")
        try:
            with hidden.open("xb") as file:
                with parquet_writer(file, self._about) as writer:
                    for part in parts:
                        for batch in batches_of(part):
                            writer.write_batch(batch, row_group_size=PART_ROWS)
                file.flush()
                os.fsync(file.fileno())
            plan = {
                "whole": hidden.name,
                "part": name,
                "replaces": [part.name for part in parts],
            }
            with beside.open("x", encoding="utf-8") as file_of_plan:
                json.dump(plan, file_of_plan)
                file_of_plan.flush()
                os.fsync(file_of_plan.fileno())
            beside.rename(journal)
        except BaseException:
            for path in (hidden, beside):
                with contextlib.suppress(OSError):
                    path.unlink(missing_ok=True)
            raise
        sync_folder(self._folder)
        _complete(self._folder)
        return self._folder / name


def _complete(folder: Path) -> None:
    """Do what the journal says, if there is one, and remove what has none. Raises OSError."""
    journal = folder / _JOURNAL
    if journal.exists():
        plan = json.loads(journal.read_bytes())
        with contextlib.suppress(FileNotFoundError):  # it has its place already
            (folder / plan["whole"]).rename(folder / plan["part"])
        sync_folder(folder)
        if (folder / plan["part"]).exists():  # else it was moved away, and the old ones are all there is
            for name in plan["replaces"]:
                (folder / name).unlink(missing_ok=True)
        sync_folder(folder)
        journal.unlink()
    for path in folder.glob(".part-*.whole"):
        path.unlink(missing_ok=True)


def replaced_parts(folder: Path) -> set[Path]:
    """Parts whose rows are there a second time, as another one has just taken their place."""
    try:
        plan = json.loads((folder / _JOURNAL).read_bytes())
    except FileNotFoundError:
        return set()
    return {folder / name for name in plan["replaces"]} if (folder / plan["part"]).exists() else set()


def _rows_in(part: Path) -> int:
    import pyarrow.parquet as pq

    return int(pq.read_metadata(part).num_rows)


def _not_written(folder: Path, error: OSError) -> OutputError:
    return OutputError(
        f"{folder} cannot be written: {error.strerror or error}; what was committed is kept: free some space "
        "and start it again"
    )
