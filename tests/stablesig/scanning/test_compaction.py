"""Small parts put together: the same rows, whatever happens meanwhile."""

from __future__ import annotations

from pathlib import Path

import pytest

from stablesig.scanning import compaction
from stablesig.scanning.compaction import Compactor
from stablesig.scanning.parts import batches_of, new_part_name, parts_in, write_part
from stablesig.scanning.row import Row
from stablesig.scanning.schema import batch_of, rows_of
from stablesig_detector.errors import OutputError

from .result_rows import absent, hit


def committed(folder: Path, *rows: Row) -> Path:
    part = folder / new_part_name()
    write_part(part, [batch_of(rows)])
    return part


def small_parts(folder: Path, count: int) -> list[Path]:
    return [committed(folder, absent(n), hit(n + 1000)) for n in range(count)]


def paths(folder: Path) -> list[str]:
    return sorted(
        row.path for part in parts_in(folder) for batch in batches_of(part) for row in rows_of(batch)
    )


def test_small_parts_become_one_with_the_same_rows(tmp_path: Path) -> None:
    small_parts(tmp_path, 5)
    before = paths(tmp_path)
    whole = Compactor(tmp_path, {"started": "now"}).compact()
    assert parts_in(tmp_path) == [whole]
    assert paths(tmp_path) == before
    assert [path.name for path in tmp_path.iterdir()] == [whole.name if whole else ""]


def test_parts_are_put_together_once_there_are_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compaction, "MOST_SMALL_PARTS", 8)
    compactor = Compactor(tmp_path)
    for number in range(30):
        compactor.added(committed(tmp_path, absent(number)), 1)
    assert len(parts_in(tmp_path)) <= 8
    assert len(set(paths(tmp_path))) == 30


def test_whole_parts_are_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compaction, "PART_ROWS", 4)
    compactor = Compactor(tmp_path)
    small_parts(tmp_path, 5)
    compactor = Compactor(tmp_path)
    assert compactor.compact() is not None
    assert compactor.compact() is not None
    assert compactor.compact() is None
    assert sorted(sum(len(batch) for batch in batches_of(part)) for part in parts_in(tmp_path)) == [2, 4, 4]


@pytest.mark.parametrize("step", range(7))
def test_an_end_at_any_step_loses_and_doubles_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """Each rename and each removal is one step; the process ends before it."""
    small_parts(tmp_path, 4)
    before = paths(tmp_path)
    compactor = Compactor(tmp_path)
    with monkeypatch.context() as patch:
        steps = iter(range(100))

        def ending(do):  # type: ignore[no-untyped-def]
            def until(*arguments, **options):  # type: ignore[no-untyped-def]
                if next(steps) >= step:
                    raise KeyboardInterrupt
                return do(*arguments, **options)

            return until

        for name in ("rename", "unlink"):
            patch.setattr(Path, name, ending(getattr(Path, name)))
        with pytest.raises(KeyboardInterrupt):
            compactor.compact()
    assert set(paths(tmp_path)) == set(before)
    Compactor(tmp_path)
    assert paths(tmp_path) == before
    assert not [path for path in tmp_path.iterdir() if path.suffix != ".parquet" and path.suffix != ".tmp"]


def test_a_full_disk_leaves_all_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = small_parts(tmp_path, 3)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(compaction.os, "fsync", full)
        with pytest.raises(OutputError, match="No space left on device"):
            Compactor(tmp_path).compact()
    assert sorted(tmp_path.iterdir()) == sorted(parts)
