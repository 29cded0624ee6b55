"""Whether a file is still the one that has a row."""

from __future__ import annotations

import hashlib
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from stablesig.scanning import committed as committed_module
from stablesig.scanning.committed import Committed, LastRow, is_same
from stablesig.scanning.item import identity_of
from stablesig.scanning.parts import PartWriter

from .result_rows import START, absent, broken, hit

READ = datetime(2026, 3, 1, tzinfo=UTC)
READ_NS = int(READ.timestamp()) * 10**9


def test_the_newest_row_counts_whatever_part_it_is_in(tmp_path: Path) -> None:
    old, new = absent(1), absent(1, sha256="f" * 64, bytes=7, time=START + timedelta(days=1), seconds=2.0)
    for rows in ([new], [old, absent(2)]):
        with PartWriter(tmp_path) as writer:
            writer.add(rows)
    last = Committed(tmp_path).last(identity_of(new.path, None))
    assert last is not None
    assert (last.size, last.digest) == (7, b"\xff" * 8)
    assert last.read_ns == int((START + timedelta(days=1, seconds=-2)).timestamp() * 1e6) * 1000


def test_thousands_of_inputs_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(committed_module, "_RECENT", 100)
    committed = Committed()
    committed.add(absent(number) for number in range(1000))
    committed.add([hit(5, bytes=3, time=START + timedelta(days=1))])
    for number in range(1000):
        last = committed.last(identity_of(f"images/{number:06d}.jpg", None))
        assert last is not None
        assert last.size == (3 if number == 5 else 1000 + number)
    assert committed.last(identity_of("images/001000.jpg", None)) is None
    assert len(committed) == 1000


def test_a_name_that_is_not_utf8_is_known_by_its_bytes() -> None:
    committed = Committed()
    committed.add([absent(1, path="a\\xff", path_bytes=b"a\xff")])
    assert committed.last(identity_of("a\\xff", b"a\xff")) is not None
    assert committed.last(identity_of("a\\xff", None)) is None


@pytest.mark.parametrize(
    ("content", "changed_s", "same"),
    [
        (b"as it was", -100, True),
        (b"as it was", 100, True),  # touched, and read again to see
        (b"another!!", 100, False),
        (b"another!!", -1, False),  # within the margin of the clocks
        (b"longer than it was", -100, False),
    ],
)
def test_time_and_size_decide_and_else_the_content(
    tmp_path: Path, content: bytes, changed_s: int, same: bool
) -> None:
    file = tmp_path / "a.png"
    file.write_bytes(content)
    committed = Committed()
    digest = hashlib.sha256(b"as it was").hexdigest()
    committed.add([absent(1, sha256=digest, bytes=9, time=READ, seconds=0.0)])
    last = committed.last(identity_of(absent(1).path, None))
    assert last is not None
    assert is_same(last, len(content), READ_NS + changed_s * 10**9, str(file), 2.0) is same


def test_a_file_that_could_not_be_read_counts_as_another_once_it_was_changed() -> None:
    committed = Committed()
    committed.add([replace(broken(1, "permission"), time=READ, seconds=0.0)])
    last = committed.last(identity_of(broken(1).path, None))
    assert last is not None
    assert is_same(last, 5, READ_NS - 10 * 10**9, "nowhere", 2.0)
    assert not is_same(last, 5, READ_NS + 10 * 10**9, "nowhere", 2.0)


def test_a_row_of_the_future_decides_nothing_by_its_time(tmp_path: Path) -> None:
    path = tmp_path / "x.jpg"  # the clock was ahead when it was scanned, and has been set right
    path.write_bytes(b"another!!")
    ahead = LastRow(9, time.time_ns() + 3600 * 10**9, hashlib.sha256(b"as it was").digest()[:8], False)
    assert not is_same(ahead, 9, path.stat().st_mtime_ns, str(path), 2.0)
