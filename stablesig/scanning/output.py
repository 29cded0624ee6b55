"""From parts to one file: Parquet, JSON lines or CSV, in bounded memory and at one stroke.

The file is written under a hidden name in the folder of the parts, synchronised, and hard-linked into place,
which fails if the place is taken. The parts stay until that is done, so a merge that was interrupted is made
again.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, get_args

from stablesig_detector.errors import OutputError, OutputExistsError

from .parts import batches_of, parquet_writer, sync_folder
from .schema import FIELDS, arrow_schema, csv_columns, json_columns

if TYPE_CHECKING:
    import pyarrow as pa

Format = Literal["parquet", "jsonl", "csv"]
FORMATS: tuple[Format, ...] = get_args(Format)
GROUP_ROWS = 122_880  # of a row group: what DuckDB scans at a time; some 40 MB in memory
_MERGED = ".merged"  # in the folder of the parts: the file in place, by another name
_TEXT_ROWS = 4_096


def merge(
    parts: Sequence[Path], folder: Path, out: Path, format: Format, about: Mapping[str, Any] | None
) -> None:
    """Write the rows of all parts to `out`. folder: of the parts.  about: for the metadata of Parquet.

    Raises OutputExistsError if `out` is taken by anything but an earlier merge from this folder,
    DamagedPartError naming a part that cannot be read, OutputError; what is at `out` is then as it was.
    """
    merged, beside = folder / _MERGED, folder / f".merge-{secrets.token_hex(4)}.tmp"
    try:
        with beside.open("xb") as file:
            _write(parts, file, format, about)
            file.flush()
            os.fsync(file.fileno())
        if is_merged(folder, out):  # the run ended after this; there may be more parts now
            beside.replace(out)
        else:
            beside.replace(merged)
            _place(merged, out)
    except OSError as error:
        if isinstance(error, FileExistsError):
            raise OutputExistsError(taken(out)) from None
        raise OutputError(
            f"{out} cannot be written: {error.strerror or error}; {folder} is kept: free some space, then "
            "use --resume"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)
    sync_folder(out.parent)


def is_merged(folder: Path, out: Path) -> bool:
    """Whether the file at `out` was merged from the parts in `folder`, and only removing them was left."""
    with contextlib.suppress(OSError):
        return not out.is_symlink() and out.samefile(folder / _MERGED)
    return False


def taken(out: Path) -> str:
    """What to say of a place that is not free."""
    return f"{out} exists, and nothing is overwritten; name another file, or move it away first"


def _place(merged: Path, out: Path) -> None:
    try:
        os.link(merged, out)
    except FileExistsError:
        raise
    except OSError:  # no hard links on this file system
        if os.path.lexists(out):
            raise FileExistsError from None
        merged.rename(out)


def _write(parts: Sequence[Path], file: BinaryIO, format: Format, about: Mapping[str, Any] | None) -> None:
    if format == "parquet":
        _write_parquet(parts, file, about)
        return
    text = io.TextIOWrapper(file, encoding="utf-8", newline="", write_through=True)
    encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode
    writer = csv.writer(text) if format == "csv" else None  # CRLF and quotes as in RFC 4180
    if writer is not None:
        writer.writerow(FIELDS)
    names = list(FIELDS)
    for part in parts:
        for batch in batches_of(part, names, rows=_TEXT_ROWS):
            if writer is not None:
                writer.writerows(zip(*csv_columns(batch), strict=True))
            else:
                rows = zip(*json_columns(batch), strict=True)
                text.writelines(f"{encode(dict(zip(names, row, strict=True)))}\n" for row in rows)
    text.flush()
    text.detach()


def _write_parquet(parts: Sequence[Path], file: BinaryIO, about: Mapping[str, Any] | None) -> None:
    """Small parts are put together to row groups of a good size."""
    import pyarrow as pa

    waiting: list[pa.Table] = []

    def write(writer: Any) -> None:
        if waiting:
            table = pa.concat_tables(waiting).unify_dictionaries()
            writer.write_table(table, row_group_size=max(1, len(table)))
            waiting.clear()

    with parquet_writer(file, about) as writer:
        for part in parts:
            for batch in batches_of(part, list(FIELDS)):
                if waiting and sum(map(len, waiting)) + len(batch) > GROUP_ROWS:
                    write(writer)
                waiting.append(pa.Table.from_batches([batch]).cast(arrow_schema()))
        write(writer)
