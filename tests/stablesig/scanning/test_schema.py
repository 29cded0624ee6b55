"""The columns of the results, and that no reader of Parquet sees anything else."""

from __future__ import annotations

from dataclasses import fields
from datetime import timedelta, timezone
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stablesig.scanning.parts import write_part
from stablesig.scanning.row import Row
from stablesig.scanning.schema import FIELDS, arrow_schema, batch_of, csv_columns, json_columns, rows_of

from .result_rows import START, absent, broken, hit

DOCS = Path(__file__).parents[3] / "docs" / "scan-results.md"
NAMES = {"category": "dictionary(int32, string)", "timestamp": "timestamp(us, UTC)"}


def test_the_columns_are_the_fields_of_a_row_in_their_order() -> None:
    assert list(FIELDS) == [field.name for field in fields(Row)] == arrow_schema().names


def test_rows_come_back_from_arrow_as_they_went_in() -> None:
    rows = [
        absent(1),
        hit(2, key=7),
        broken(3),
        absent(4, path="n\\xff", path_bytes=b"n\xff", n_keys=100_000),
    ]
    assert list(rows_of(batch_of(rows))) == rows


def test_no_rows_are_an_empty_batch() -> None:
    assert batch_of([]).schema == arrow_schema()
    assert len(batch_of([])) == 0


def test_text_that_is_not_utf8_does_not_stop_a_batch() -> None:
    [row] = rows_of(batch_of([broken(1, error="\udcff.jpg: is damaged")]))
    assert row.error == "\\udcff.jpg: is damaged"


def test_times_are_in_utc_whatever_zone_they_came_in() -> None:
    there = START.astimezone(timezone(timedelta(hours=5)))
    [row] = rows_of(batch_of([absent(1, time=there)]))
    assert row.time is not None
    assert row.time.utcoffset() == timedelta(0)
    assert row.time == START


def test_every_column_says_in_the_file_what_it_is(tmp_path: Path) -> None:
    write_part(tmp_path / "part-1.parquet", [batch_of([hit(1)])])
    schema = pq.read_schema(tmp_path / "part-1.parquet")
    assert {field.name: field.metadata[b"description"].decode() for field in schema} == {
        name: text for name, (_, text) in FIELDS.items()
    }


def test_the_documentation_has_the_table_of_the_code() -> None:
    lines = [line for line in DOCS.read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    documented = {row[0].strip("`"): (row[1], row[2]) for row in cells if len(row) == 3}
    assert {name: documented.get(name) for name in FIELDS} == {
        name: (NAMES.get(kind, kind), text) for name, (kind, text) in FIELDS.items()
    }


def test_duckdb_reads_types_that_can_be_queried(tmp_path: Path) -> None:
    part = tmp_path / "part-1.parquet"
    write_part(part, [batch_of([hit(1), broken(2)])])
    with duckdb.connect() as database:
        described = database.execute("DESCRIBE SELECT * FROM read_parquet(?)", [str(part)]).fetchall()
    types = {row[0]: row[1] for row in described}
    assert types["verdict"] == types["sha256"] == types["key_id"] == "VARCHAR"
    assert (types["path_bytes"], types["time"], types["screened"]) == (
        "BLOB",
        "TIMESTAMP WITH TIME ZONE",
        "BOOLEAN",
    )


def test_pandas_reads_the_rows(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    write_part(tmp_path / "part-1.parquet", [batch_of([hit(1), broken(2)])])
    frame = pandas.read_parquet(tmp_path)
    assert list(frame.columns) == list(FIELDS)
    assert frame["verdict"].dtype == "category"
    assert str(frame["time"].dt.tz) == "UTC"


def test_json_has_iso_times_and_base64_bytes_and_no_nan() -> None:
    batch = batch_of([absent(1, path_bytes=b"\xff\x00", statistic=float("nan"))])
    plain = dict(zip(FIELDS, next(zip(*json_columns(batch), strict=True)), strict=True))
    assert plain["time"] == "2026-03-01T12:00:01.123456Z"
    assert (plain["path_bytes"], plain["statistic"], plain["error"]) == ("/wA=", None, None)


@given(st.text(st.characters(codec="utf-8"), min_size=1, max_size=8))
def test_no_text_in_csv_is_a_formula_and_one_apostrophe_less_is_the_text(name: str) -> None:
    path = csv_columns(batch_of([absent(1, path=name)]))[0][0]
    assert path[0] not in "=+-@\t\r\n＝＋－＠"  # noqa: RUF001
    assert path.removeprefix("'") == name


def test_numbers_in_csv_keep_their_sign_and_categories_are_text() -> None:
    batch = batch_of([hit(1, provider="=1+1"), broken(2)])
    first, second = (dict(zip(FIELDS, row, strict=True)) for row in zip(*csv_columns(batch), strict=True))
    assert (first["log10_p_value"], first["screened"], first["error"]) == (-12.5, "false", None)
    assert (first["provider"], second["provider"], second["error_kind"]) == ("'=1+1", None, "damaged")


def test_a_row_of_another_type_is_refused_and_not_bent() -> None:
    with pytest.raises((pa.ArrowInvalid, pa.ArrowTypeError)):
        batch_of([absent(1, width="wide")])
