"""The parts of the results: files that are whole or not there at all.

A part is the unit of commit. It is made in memory, written under a hidden name, synchronised to disk, and
renamed: whatever ends the process, a file called part-*.parquet is whole, and what is in none of them is done
again. Every page carries a checksum.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stablesig_detector.errors import OutputError

from .row import Row
from .schema import arrow_schema, batch_of, schema_about

if TYPE_CHECKING:
    import pyarrow as pa

PART_ROWS = 50_000
PART_SECONDS = 30.0
COMPRESSION = "zstd"
DAMAGED = ".damaged"  # added to the name of a part that cannot be read
_BATCH_ROWS = 2_000  # kept as objects; more go into Arrow, which takes a quarter of the memory


class PartWriter:
    """Collects rows, and commits them to `folder` when there are `rows` of them or `seconds` have passed.

    about: what the scan was, for the metadata of the parts.  folder: must exist.  clock: s, monotonic.
    Several writers, in several processes or on several machines, may write to one folder. A context manager:
    it commits what is left, unless it is left because of this writer's own failure. An interruption at any
    moment neither loses nor doubles a row.
    """

    def __init__(
        self,
        folder: Path,
        *,
        rows: int = PART_ROWS,
        seconds: float = PART_SECONDS,
        about: Mapping[str, Any] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        arrow_schema()  # says now, and not after the first hour, that pyarrow is missing
        self.folder, self.rows, self.seconds = folder, rows, seconds
        self.committed = 0  # rows
        self._about, self._clock = about, clock
        self._held: tuple[tuple[pa.RecordBatch, ...], list[Row]] = ((), [])  # assigned at once, or not at all
        self._since = 0.0  # when the oldest row that is held came
        self._part: Path | None = None  # being written; if it is there after all, what is held is in it

    @property
    def waiting(self) -> int:
        """Rows that are not committed yet."""
        batches, recent = self._held
        return sum(map(len, batches)) + len(recent)

    def add(self, rows: Sequence[Row]) -> bool:
        """Take all rows of one input together; whether anything was committed. Raises OutputError."""
        self._settle()
        if not self.waiting:
            self._since = self._clock()
        batches, recent = self._held
        if len(recent) < _BATCH_ROWS:
            recent.extend(rows)
        else:
            self._held = ((*batches, batch_of(recent)), list(rows))
        return self.tick()

    def tick(self) -> bool:
        """Commit if there are enough rows or they are old enough; whether it did. Raises OutputError."""
        waiting = self.waiting
        if not waiting or (waiting < self.rows and self._clock() - self._since < self.seconds):
            return False
        return self.flush() is not None

    def flush(self) -> Path | None:
        """Commit all rows now; the new part, None if there were none.

        Raises OutputError if it cannot be written. What was committed before stays, and the rows stay here:
        once there is space, flush() goes on.
        """
        self._settle()
        if not self.waiting:
            return None
        batches, recent = self._held
        part = self._part = self.folder / new_part_name()
        write_part(part, [*batches, batch_of(recent)], self._about)
        self._settle()
        return part

    def _settle(self) -> None:
        """Let go of what was committed, also by a flush that was interrupted right after it."""
        if self._part is not None and self._part.exists():
            self.committed += self.waiting
            self._held = ((), [])
        self._part = None

    def close(self) -> None:
        """Commit what is left. Raises OutputError."""
        self.flush()

    def __enter__(self) -> PartWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None or not issubclass(kind, OutputError):
            self.close()


def new_part_name() -> str:
    """A name that no other writer gives, in the order of time."""
    return f"part-{datetime.now(UTC):%Y%m%dT%H%M%S%f}-{secrets.token_hex(6)}.parquet"


def write_part(part: Path, batches: Sequence[pa.RecordBatch], about: Mapping[str, Any] | None = None) -> None:
    """Commit `batches` as `part`, which must not exist. Raises OutputError, leaving nothing."""
    import pyarrow as pa

    table = pa.Table.from_batches(batches, arrow_schema())
    sink = pa.BufferOutputStream()
    with parquet_writer(sink, about) as writer:
        writer.write_table(table, row_group_size=max(1, len(table)))
    beside = part.with_name(f".{part.stem}.tmp")
    try:
        with beside.open("xb") as file:
            file.write(sink.getvalue())
            file.flush()
            os.fsync(file.fileno())
        beside.rename(part)
    except OSError as error:
        with contextlib.suppress(OSError):
            beside.unlink()
        raise OutputError(
            f"{part.parent} cannot be written: {error.strerror or error}; what was committed is kept: free "
            "some space, then use --resume"
        ) from error
    sync_folder(part.parent)


def parquet_writer(where: Any, about: Mapping[str, Any] | None = None) -> Any:
    """A writer in the form of all our Parquet files: zstd, page checksums, dictionaries for categories."""
    import pyarrow.parquet as pq

    from .schema import FIELDS

    return pq.ParquetWriter(
        where,
        schema_about(about),
        compression=COMPRESSION,
        use_dictionary=[name for name, (kind, _) in FIELDS.items() if kind == "category"],
        write_page_checksum=True,
        write_page_index=True,
    )


def parts_in(folder: Path) -> list[Path]:
    """The committed parts, by name, which is the order of their time. Raises OutputError."""
    try:
        with os.scandir(folder) as entries:
            names = [entry.name for entry in entries]
    except OSError as error:
        raise OutputError(
            f"{folder} cannot be read: {error.strerror or error}; check its permissions"
        ) from error
    return [folder / name for name in sorted(names) if name.startswith("part-") and name.endswith(".parquet")]


def leftovers_in(folder: Path) -> list[Path]:
    """What writers that were killed left there: no part of the results."""
    return list(folder.glob(".*.tmp"))


def batches_of(
    part: Path, columns: Sequence[str] | None = None, rows: int = PART_ROWS
) -> Iterator[pa.RecordBatch]:
    """Read a part, or some of its columns, at most `rows` at a time, checking the checksums.

    Raises DamagedPartError if it is torn, truncated or altered, OutputError if it is of another schema or
    cannot be opened.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(part, page_checksum_verification=True) as file:
            check_schema(file.schema_arrow, part)
            yield from file.iter_batches(
                rows, columns=None if columns is None else list(columns), use_threads=False
            )
    except (pa.ArrowException, ValueError) as error:  # also names of columns that are no text
        raise DamagedPartError(part, str(error)) from None
    except OSError as error:
        if error.errno is None:  # Arrow's, of what the file holds
            raise DamagedPartError(part, str(error)) from None
        raise OutputError(
            f"{part} cannot be read: {error.strerror or error}; check its permissions"
        ) from error


class DamagedPartError(OutputError):
    """A part whose bytes are not what was written. `part`: where it lies."""

    def __init__(self, part: Path, what: str) -> None:
        self.part = part
        super().__init__(f"{part} is damaged ({' '.join(what.split())[:200]})")


def check_schema(schema: pa.Schema, part: Path) -> None:
    """Raise OutputError unless `part` has all our columns with our types."""
    for field in arrow_schema():
        index = schema.get_field_index(field.name)
        if index < 0 or not _same_type(schema.field(index).type, field.type):
            got = "no such column" if index < 0 else str(schema.field(index).type)
            raise OutputError(
                f"{part} is no part of a scan: {field.name} is to be {field.type}, got {got}; move it away"
            )


def _same_type(found: pa.DataType, wanted: pa.DataType) -> bool:
    """Text may have lost its dictionary on the way, as it does with other writers of Parquet."""
    import pyarrow.types as kinds

    if kinds.is_dictionary(wanted):
        text = found.value_type if kinds.is_dictionary(found) else found
        return bool(kinds.is_string(text) or kinds.is_large_string(text))
    return bool(found == wanted)


def set_aside(part: Path) -> Path:
    """Take a damaged part out of the results, so that its inputs are done again; where it lies now."""
    aside = part.with_name(part.name + DAMAGED)
    try:
        part.rename(aside)
    except OSError as error:
        raise OutputError(
            f"{part} is damaged and cannot be moved away: {error.strerror or error}; move it away yourself, "
            "then use --resume"
        ) from error
    return aside


def sync_folder(folder: Path) -> None:
    """Make a rename in `folder` last over a loss of power, where the system can."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
