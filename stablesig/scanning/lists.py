"""Lists of inputs: text, CSV, TSV, JSON lines and Parquet, of paths and addresses, read in bounded memory."""

from __future__ import annotations

import codecs
import csv
import json
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any, BinaryIO

from stablesig.extras import needs_scan
from stablesig_detector.errors import UsageError

from .item_error import ItemError

LIST_SUFFIXES = (".txt", ".csv", ".tsv", ".parquet", ".jsonl")
COLUMNS = ("path", "url", "file", "image")  # where none is named, the first of them that is there
LONGEST_LINE = 1 << 16  # bytes; a longer one is refused
_LONGEST_RECORD = 1 << 17  # characters of a field of CSV, which may go over several lines
_CHUNK = 1 << 16
_BATCH = 4096  # rows of Parquet at a time, and of images in Parquet:
_BATCH_OF_IMAGES = 16


@dataclass(frozen=True, slots=True)
class Listed:
    """One entry of a list.

    place: where it stands in the list, such as "line 7"
    name: the path or address that it names, undecodable bytes as surrogates; "" if there is a `problem`
    problem: why it names nothing
    data: the bytes of an image that a table holds itself
    """

    place: str
    name: str = ""
    problem: str | None = None
    data: bytes | None = None


Entries = Generator[Listed, None, None]


def is_list(name: str) -> bool:
    """By its name, in lower case."""
    return name.endswith(LIST_SUFFIXES)


def read_list(file: BinaryIO, shown: str, column: str | None) -> Entries:
    """The entries of an open list called `shown`, of the form that its suffix tells; without one, of text.

    Text: a path or address on each line. Lines that are empty or begin with "#" are passed over. If there is
    a NUL in its first 64 KiB, entries end with NULs instead, as `find -print0` writes them, and may be any
    names. Tables: the column `column`, or the first of COLUMNS. UTF-8, or UTF-16 with its mark; what is not
    valid UTF-8 is kept as it is.

    Raises UsageError, naming the columns, if there is none of that name, and ItemError for a list that is
    damaged.
    """
    name = shown.lower()
    if name.endswith(".parquet"):
        return _parquet(file, shown, column)
    if name.endswith((".csv", ".tsv")):
        return _delimited(file, shown, column, "\t" if name.endswith(".tsv") else ",")
    if name.endswith(".jsonl"):
        return _json_lines(file, shown, column)
    return _text(file)


def _text(file: BinaryIO) -> Entries:
    chunks = _utf8_chunks(file)
    first = next(chunks, b"")
    separated = b"\0" in first
    with closing(_lines(first, chunks, b"\0" if separated else b"\n")) as lines:
        for number, line in enumerate(lines, 1):
            place = f"entry {number}" if separated else f"line {number}"
            if line is None:
                yield _too_long(place)
                continue
            line = line.removesuffix(b"\0") if separated else line.rstrip(b"\r\n")
            if not separated and (not line.strip() or line.startswith(b"#")):
                continue
            if line:
                yield Listed(place, line.decode("utf-8", "surrogateescape"))


def _delimited(file: BinaryIO, shown: str, column: str | None, delimiter: str) -> Entries:
    def text() -> Iterator[str]:
        chunks = _utf8_chunks(file)
        for line in _lines(next(chunks, b""), chunks, b"\n"):
            # For a longer one, a quote that is not closed: the reader then refuses the field.
            yield '"' if line is None else line.decode("utf-8", "surrogateescape")

    csv.field_size_limit(_LONGEST_RECORD)
    reader = csv.reader(text(), delimiter=delimiter)
    header: list[str] | None = None
    at = 0
    while True:
        try:
            fields = next(reader)
        except StopIteration:
            break
        except csv.Error as error:
            yield Listed(
                f"line {reader.line_num}", problem=f"is not a line of the table ({error}); correct it"
            )
            continue
        place = f"line {reader.line_num}"
        if not fields:
            continue
        if header is None:
            header = [field.strip() for field in fields]
            at = _chosen(header, shown, column)
        elif len(fields) <= at or not fields[at].strip():
            yield Listed(place, problem=f"names no file: its column {header[at]!r} is empty")
        elif len(fields[at]) > LONGEST_LINE:
            yield _too_long(place)
        else:
            yield Listed(place, fields[at])
    if header is None:
        raise ItemError(f"{shown}: is an empty table; give one with a header", "damaged")


def _json_lines(file: BinaryIO, shown: str, column: str | None) -> Entries:
    chunks = _utf8_chunks(file)
    first = True
    for number, line in enumerate(_lines(next(chunks, b""), chunks, b"\n"), 1):
        place = f"line {number}"
        if line is None:
            yield _too_long(place)
            continue
        if not line.strip():
            continue
        try:
            record: Any = json.loads(line.decode("utf-8", "surrogateescape"))
        except (ValueError, RecursionError):
            yield Listed(place, problem="is not JSON; correct it")
            continue
        if isinstance(record, dict):
            if first:
                _chosen(list(record), shown, column)
            first = False
            if column is None:  # in capitals or not, as in the header of a table
                record = {key.lower(): value for key, value in record.items()}
            record = next((record[key] for key in ((column,) if column else COLUMNS) if key in record), None)
        if isinstance(record, str) and record:
            yield Listed(place, record)
        else:
            yield Listed(place, problem=f"names no file in {column or ', '.join(COLUMNS)}")


def _parquet(file: BinaryIO, shown: str, column: str | None) -> Entries:
    with needs_scan("reading a Parquet list"):
        import pyarrow as pa
        import pyarrow.parquet as pq
    number = 0
    try:
        table = pq.ParquetFile(file, pre_buffer=False, buffer_size=1 << 20)
        schema = table.schema_arrow
        chosen = schema.names[_chosen(schema.names, shown, column)]
        images = _holds_images(pa, schema.field(chosen).type, shown, chosen)
        size = _BATCH_OF_IMAGES if images else _BATCH
        for batch in table.iter_batches(size, columns=[chosen], use_threads=False):
            values = batch.column(0)
            if isinstance(values, pa.DictionaryArray):
                values = values.dictionary_decode()
            for value in values if images else values.cast(pa.large_binary()):
                number += 1
                yield _from_table(f"row {number}", value.as_py(), chosen)
    except (pa.ArrowException, OSError) as error:
        said = " ".join(str(error).split())[:160]
        where = f" after row {number:,}" if number else ""
        raise ItemError(
            f"{shown}: is no intact Parquet file{where} ({said}); write it anew", "damaged"
        ) from None


def _holds_images(pa: Any, kind: Any, shown: str, column: str) -> bool:
    """Whether the column holds the images themselves, as data sets on the Hub do, and not names of files."""
    if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        return True
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    types = pa.types
    if types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind):
        return False
    if types.is_binary(kind) or types.is_large_binary(kind) or types.is_null(kind):
        return False
    raise UsageError(
        f"{shown}: its column {column!r} holds {kind}, not paths or addresses; name another with --column"
    )


def _from_table(place: str, value: Any, column: str) -> Listed:
    if isinstance(value, dict):
        data, name = value["bytes"], value.get("path")
        if isinstance(data, bytes):
            return Listed(place, data=data)
        value = name.encode() if isinstance(name, str) else None
    if not value:
        return Listed(place, problem=f"names no file: its column {column!r} is empty")
    if len(value) > LONGEST_LINE:
        return _too_long(place)
    return Listed(place, value.decode("utf-8", "surrogateescape"))


def _chosen(header: Sequence[str], shown: str, column: str | None) -> int:
    """The number of the column that holds the names. Raises UsageError."""
    if column is not None:
        if column in header:
            return list(header).index(column)
        wanted = f"no column {column!r}"
    else:
        lower = [name.lower() for name in header]
        for name in COLUMNS:
            if name in lower:
                return lower.index(name)
        wanted = f"none of the columns {', '.join(COLUMNS)}"
    there = ", ".join(repr(name[:60]) for name in header[:20]) or "none"
    more = f" and {len(header) - 20} more" if len(header) > 20 else ""
    raise UsageError(f"{shown}: has {wanted}; it has {there}{more}; name one with --column")


def _too_long(place: str) -> Listed:
    return Listed(place, problem=f"is longer than {LONGEST_LINE:,} bytes, which no path or address is")


def _utf8_chunks(file: BinaryIO) -> Iterator[bytes]:
    """The content of a text in UTF-8, without the mark at its start; in UTF-16 if the mark is that of it."""
    chunk = file.read(_CHUNK)
    if not chunk.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        chunk = chunk.removeprefix(codecs.BOM_UTF8)
        while chunk:
            yield chunk
            chunk = file.read(_CHUNK)
        return
    decoder = codecs.getincrementaldecoder("utf-16")("replace")
    while chunk:
        yield decoder.decode(chunk).encode()
        chunk = file.read(_CHUNK)
    yield decoder.decode(b"", final=True).encode()


def _lines(first: bytes, chunks: Iterator[bytes], end: bytes) -> Generator[bytes | None, None, None]:
    """What `end` ends, with it; None for one of more than LONGEST_LINE bytes, which is never held whole."""
    held, skipping = b"", False
    chunk: bytes | None = first
    while chunk is not None:
        *whole, held = (held + chunk).split(end)
        for line in whole:
            yield None if skipping or len(line) > LONGEST_LINE else line + end
            skipping = False
        if len(held) > LONGEST_LINE:
            skipping, held = True, b""
        chunk = next(chunks, None)
    if held or skipping:
        yield None if skipping else held
