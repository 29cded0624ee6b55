"""The columns of the results: types, what each says, and the way from rows to Arrow.

The fields are those of `Row`, in its order. Types are chosen for queries: what has few values is
dictionary-encoded (pyarrow and pandas read categories, DuckDB and Spark plain strings), digests and ids stay
hexadecimal text, which is what people search for, and times are microseconds in UTC. The description of every
field travels in its metadata; docs/scan-results.md has the same table.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from operator import attrgetter
from typing import TYPE_CHECKING, Any, cast

from stablesig.extras import needs_scan

from .row import Row

if TYPE_CHECKING:
    import pyarrow as pa

SCHEMA = "stablesig-scan"
SCHEMA_VERSION = 1  # rises when a field is removed or changes its meaning; a new field does not raise it

# name -> (type, what it says). "category" is dictionary-encoded text.
FIELDS: Mapping[str, tuple[str, str]] = {
    "path": (
        "string",
        "the input: path as found, address without password, or ARCHIVE::MEMBER; not UTF-8: \\xNN",
    ),
    "path_bytes": ("binary", "exact bytes of the path; only where they are not valid UTF-8"),
    "verdict": ("category", "detected, not detected (which proves nothing), or unreadable"),
    "sha256": (
        "string",
        "SHA-256 of the file's bytes, 64 hexadecimal digits; null if they could not be read",
    ),
    "bytes": ("int64", "size of the file, bytes"),
    "key_id": ("category", "id of the key: the one detected, else the strongest; null if unreadable"),
    "provider": ("category", "whose key it is, as the key set says"),
    "model_id": ("category", "model that carries the key, as the key set says"),
    "key_state": ("category", "valid, not yet valid, expired or revoked, on the day of the scan"),
    "statistic": ("double", "cosine between the image's features and the key, -1 to 1"),
    "p_value": ("double", "p-value corrected for all keys and geometries tried, 0 to 1; 0 below 1e-308"),
    "log10_p_value": ("double", "log10 of the corrected p-value, at most 0"),
    "n_keys": ("int32", "keys that were tried and paid for"),
    "hypothesis_factor": ("int64", "what the p-value was multiplied by for the geometries tried"),
    "transform": ("category", "how the image was turned: identity, flip, rot90 or rot90flip"),
    "scale": ("double", "size of the image over its size when decoded; 1 unless searched"),
    "rotation": ("double", "degrees anticlockwise after mirroring, above -90 to 90"),
    "matches": ("int32", "message bits read right; null for a public key"),
    "n_bits": ("int32", "length of the message, bits; null for a public key"),
    "bits_log10_p": ("double", "log10 P(Bin(n_bits, 1/2) >= matches), uncorrected; null for a public key"),
    "screened": ("bool", "whether a part of the image's windows sufficed to rule it out (--screen)"),
    "width": ("int32", "of the upright image, px"),
    "height": ("int32", "of the upright image, px"),
    "format": ("category", "of the file, by its first bytes"),
    "background": ("category", "white or black, laid under transparent parts; null where opaque"),
    "error": ("string", "why it is unreadable and what to do; else null"),
    "error_kind": ("category", "class of the error; else null"),
    "seconds": ("double", "wall-clock time in the worker for the whole image, reading included, s"),
    "time": ("timestamp", "when it was done, UTC"),
}
_values = attrgetter(*FIELDS)


@cache
def arrow_schema() -> pa.Schema:
    """The schema of every part and of the merged Parquet file. Raises MissingExtraError without pyarrow."""
    with needs_scan("the results of a scan"):
        import pyarrow as pa
    types = {
        "string": pa.string(),
        "binary": pa.binary(),
        "category": pa.dictionary(pa.int32(), pa.string()),
        "bool": pa.bool_(),
        "int32": pa.int32(),
        "int64": pa.int64(),
        "double": pa.float64(),
        "timestamp": pa.timestamp("us", tz="UTC"),
    }
    fields = [
        pa.field(name, types[kind], nullable=name not in ("path", "verdict"), metadata={"description": text})
        for name, (kind, text) in FIELDS.items()
    ]
    return pa.schema(
        fields, metadata={"stablesig.schema": SCHEMA, "stablesig.schema_version": str(SCHEMA_VERSION)}
    )


def schema_about(about: Mapping[str, Any] | None) -> pa.Schema:
    """The schema with what the scan was, as JSON, in its metadata under "stablesig.scan"."""
    schema = arrow_schema()
    if about is None:
        return schema
    text = json.dumps(about, allow_nan=False, sort_keys=True)
    return schema.with_metadata({**(schema.metadata or {}), b"stablesig.scan": text.encode()})


def about_of(schema: pa.Schema) -> dict[str, Any] | None:
    """What `schema_about` put there, if it is there and can be read."""
    try:
        about = json.loads((schema.metadata or {})[b"stablesig.scan"])
    except (KeyError, ValueError):
        return None
    return about if isinstance(about, dict) else None


def batch_of(rows: Sequence[Row]) -> pa.RecordBatch:
    """Rows -> one batch of `arrow_schema`. Text that is not valid UTF-8 gets \\xNN and the like in it."""
    import pyarrow as pa

    schema = arrow_schema()
    columns: Sequence[Sequence[Any]] = list(zip(*map(_values, rows), strict=True)) or [()] * len(schema)
    return pa.record_batch(
        [_array(column, field.type) for column, field in zip(columns, schema, strict=True)], schema=schema
    )


def _array(column: Sequence[Any], kind: pa.DataType) -> pa.Array:
    import pyarrow as pa

    try:
        return pa.array(column, kind)
    except UnicodeEncodeError:  # lone surrogates, as Python stands in for bytes of a name
        return pa.array([None if text is None else _utf8(text) for text in column], kind)


def _utf8(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()


def rows_of(table: pa.Table | pa.RecordBatch) -> Iterator[Row]:
    """The rows of a table of `arrow_schema`; further columns are ignored."""
    for fields in table.select(list(FIELDS)).to_pylist():
        yield Row(**fields)


# What makes a spreadsheet take a cell for a formula, and the sign that is put before it, also before itself,
# so that one apostrophe less always gives the exact text.
FORMULA_SIGNS = "=+-@\t\r\n\uff1d\uff0b\uff0d\uff20'"  # the last but one: full-width = + - @


def json_columns(batch: pa.RecordBatch) -> list[list[Any]]:
    """The columns of a batch as JSON holds them: times as ISO 8601, bytes as base64, no NaN."""
    return [_plain(batch.column(name), kind) for name, (kind, _) in FIELDS.items()]


def csv_columns(batch: pa.RecordBatch) -> list[list[Any]]:
    """The same for CSV: booleans as true and false, and no text is a formula."""
    columns = []
    for name, (kind, _) in FIELDS.items():
        values = _plain(batch.column(name), kind, _no_formula)
        if kind == "bool":
            values = [None if value is None else "true" if value else "false" for value in values]
        columns.append(values)
    return columns


def _plain(column: pa.Array, kind: str, text: Callable[[str], str] | None = None) -> list[Any]:
    """Whole columns at once, and each category once: row by row takes five times as long."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_dictionary(column.type):
        words = [*_plain(column.dictionary, "string", text), None]
        return [words[-1 if index is None else index] for index in column.indices.to_pylist()]
    if kind == "timestamp":
        return cast(
            list[Any], pc.strftime(column, "%Y-%m-%dT%H:%M:%SZ").to_pylist()
        )  # %S has the microseconds
    if kind == "double":
        column = pc.if_else(pc.is_finite(column), column, None)
    values: list[Any] = column.to_pylist()
    if kind == "binary":
        return [None if value is None else base64.b64encode(value).decode("ascii") for value in values]
    if text is not None and kind in ("string", "category"):
        return [None if value is None else text(value) for value in values]
    return values


def _no_formula(text: str) -> str:
    return f"'{text}" if text[:1] and text[0] in FORMULA_SIGNS else text
