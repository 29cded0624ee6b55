"""Lists of paths and addresses, as people and programs write them."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from stablesig.scanning import lists
from stablesig.scanning.item_error import ItemError
from stablesig.scanning.lists import Listed, read_list
from stablesig_detector.errors import UsageError


def entries(data: bytes, name: str, column: str | None = None) -> list[Listed]:
    return list(read_list(io.BytesIO(data), name, column))


def names(data: bytes, name: str, column: str | None = None) -> list[str]:
    return [entry.name for entry in entries(data, name, column)]


def problems(data: bytes, name: str, column: str | None = None) -> list[tuple[str, str]]:
    found = entries(data, name, column)
    return [(entry.place, entry.problem) for entry in found if entry.problem is not None]


@pytest.mark.parametrize(
    "data",
    [
        b"a.jpg\nb b.jpg\n",
        b"a.jpg\r\nb b.jpg\r\n",
        b"\xef\xbb\xbfa.jpg\n\n   \n# a comment\nb b.jpg",
        "a.jpg\r\nb b.jpg\r\n".encode("utf-16"),
        b"\xfe\xff" + "a.jpg\nb b.jpg\n".encode("utf-16-be"),
    ],
)
def test_a_text_is_read_whoever_wrote_it(data: bytes) -> None:
    assert names(data, "l.txt") == ["a.jpg", "b b.jpg"]
    assert names(data, "list") == ["a.jpg", "b b.jpg"]


def test_places_are_lines_of_the_file() -> None:
    assert [entry.place for entry in entries(b"# x\n\na\nb\n", "l.txt")] == ["line 3", "line 4"]


def test_what_find_print0_writes_may_hold_any_name() -> None:
    data = b"new\nline.jpg\0#hash.jpg\0 \xff.jpg\0\0"
    assert names(data, "l.txt") == ["new\nline.jpg", "#hash.jpg", " \udcff.jpg"]


def test_a_line_without_end_is_passed_over_in_bounded_memory() -> None:
    class Endless(io.RawIOBase):
        left = 300

        def read(self, size: int = -1) -> bytes:
            self.left -= 1
            return b"x" * size if self.left > 0 else b"\na.jpg\n" if self.left == 0 else b""

    found = list(read_list(Endless(), "l.txt", None))  # type: ignore[arg-type]
    assert [(entry.place, entry.name) for entry in found] == [("line 1", ""), ("line 2", "a.jpg")]
    assert "longer than" in str(found[0].problem)


def test_a_line_as_long_as_may_be_is_whole_wherever_it_lies() -> None:
    long = b"x" * lists.LONGEST_LINE
    for before in (b"", b"a\n" * 3, b"a\n" * 40_000):
        assert names(before + long + b"\nb\n", "l.txt")[-2:] == [long.decode(), "b"]


def test_csv_is_quoted_as_the_standard_says() -> None:
    data = b'id,Path\r\n1,"a, ""b"".jpg"\r\n2,"new\nline.jpg"\r\n\r\n3, c.jpg\r\n'
    assert names(data, "l.csv") == ['a, "b".jpg', "new\nline.jpg", " c.jpg"]
    assert names(b"\xef\xbb\xbfurl\tn\nhttp://h/a\t1\n", "l.tsv") == ["http://h/a"]
    assert names("url,n\r\nhttp://h/ü,1\r\n".encode("utf-16"), "l.csv") == ["http://h/ü"]
    assert names(b"path\n\xff.jpg\n", "l.csv") == ["\udcff.jpg"]
    assert names(b"a,b\n1,2\n", "l.csv", "b") == ["2"]


def test_the_first_of_the_known_columns_is_taken() -> None:
    assert names(b"image,file,url,path\n1,2,3,4\n", "l.csv") == ["4"]
    assert names(b"image,FILE,x\n1,2,3\n", "l.csv") == ["2"]


def test_a_row_without_a_name_and_a_broken_one_cost_themselves() -> None:
    data = b"id,path\n1,a\n2,\n3\n4,nul\0.jpg\n5,b\n"
    assert names(data, "l.csv") == ["a", "", "", "nul\0.jpg", "b"]
    assert [place for place, _ in problems(data, "l.csv")] == ["line 3", "line 4"]
    unclosed = b'path\na\n"never closed\n' + b"x\n" * 200_000
    found = entries(unclosed, "l.csv")
    assert found[0].name == "a"
    assert "not a line of the table" in str(found[1].problem)


def arrow_table(**columns: object) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer, row_group_size=2)
    return buffer.getvalue()


def test_parquet_of_every_kind_of_text() -> None:
    import pyarrow as pa

    values = ["a.jpg", None, "", "ü\n.jpg", "s3://b/c.png"]
    for kind in (pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string()), pa.binary()):
        encoded = [value.encode() if kind == pa.binary() and value is not None else value for value in values]
        data = arrow_table(n=pa.array(range(5)), url=pa.array(encoded, kind))
        assert names(data, "l.parquet") == ["a.jpg", "", "", "ü\n.jpg", "s3://b/c.png"]
        assert [place for place, _ in problems(data, "l.parquet")] == ["row 2", "row 3"]
    assert names(arrow_table(url=pa.array([b"\xff.jpg"])), "l.parquet") == ["\udcff.jpg"]
    assert problems(arrow_table(url=pa.array([None, None], pa.null())), "l.parquet")


def test_parquet_may_hold_the_images_themselves() -> None:
    found = entries(
        arrow_table(image=[{"bytes": b"png", "path": "x.png"}, {"bytes": None, "path": "y.png"}, None]),
        "l.parquet",
    )
    assert [(entry.name, entry.data) for entry in found] == [("", b"png"), ("y.png", None), ("", None)]
    assert found[2].problem is not None


def test_damaged_parquet_gives_what_it_can_and_then_an_error() -> None:
    data = bytearray(arrow_table(path=[f"{n}.jpg" for n in range(10)]))
    for broken in (
        bytes(data[:-20]),
        b"PAR1",
        b"",
        bytes(data[:200]) + bytes(len(data) - 208) + bytes(data[-8:]),
    ):
        with pytest.raises(ItemError, match="no intact Parquet") as caught:
            entries(broken, "l.parquet")
        assert caught.value.kind == "damaged"


def test_json_lines_hold_records_or_names() -> None:
    lines = [{"path": "a", "n": 1}, "b", {"path": 7}, {"n": 1}, [], {"url": "http://h/c", "image": {}}]
    data = b"\n".join(json.dumps(line).encode() for line in lines) + b"\n{broken\n\n" + b"[" * 5000 + b"\n"
    assert [entry.name for entry in entries(data, "l.jsonl") if entry.problem is None] == [
        "a",
        "b",
        "http://h/c",
    ]
    assert [place for place, _ in problems(data, "l.jsonl")] == [f"line {n}" for n in (3, 4, 5, 7, 9)]


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "parquet"])
@pytest.mark.parametrize("column", [None, "picture"])
def test_a_missing_column_is_a_usage_error_that_names_those_there(suffix: str, column: str | None) -> None:
    data = {
        "csv": b"id,where\n1,a\n",
        "tsv": b"id\twhere\n1\ta\n",
        "jsonl": b'{"id": 1, "where": "a"}\n',
        "parquet": arrow_table(id=[1], where=["a"]),
    }[suffix]
    with pytest.raises(UsageError, match=r"it has 'id', 'where'; name one with --column"):
        entries(data, f"l.{suffix}", column)


def test_a_column_of_numbers_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="'path' holds int64"):
        entries(arrow_table(path=[1]), "l.parquet")


def test_an_empty_table_is_an_error_and_an_empty_text_is_not(tmp_path: Path) -> None:
    assert entries(b"", "l.txt") == []
    assert entries(b"", "l.jsonl") == []
    with pytest.raises(ItemError, match="empty table"):
        entries(b"", "l.csv")


def test_columns_of_json_may_be_in_capitals_as_those_of_tables() -> None:
    assert names(b'{"PATH": "a.jpg"}\n{"Url": "b.jpg"}\n', "l.jsonl") == ["a.jpg", "b.jpg"]
