"""A scan as a whole: one outcome for every input, whatever interrupts it and however often."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import threading
from collections.abc import Generator, Iterable
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from stablesig.scanning import api, parts
from stablesig.scanning.api import scan, scan_identity
from stablesig.scanning.item import Item
from stablesig.scanning.local_engine import scan_items
from stablesig.scanning.measuring import WorkerState
from stablesig.scanning.reading import read_item
from stablesig.scanning.row import Row
from stablesig.scanning.run_folder import partial_of
from stablesig.scanning.schema import rows_of
from stablesig.scanning.settings import ScanSettings
from stablesig.scanning.sources import SourceOptions
from stablesig.scanning.tally import Tally
from stablesig_detector.errors import OutputError, UsageError
from stablesig_detector.key_entry import KeyEntry
from stablesig_detector.key_set import KeySet

from .scanned import key_of, settings_for, timeless, write_pictures


def rows_at(place: Path) -> list[Row]:
    return timeless(rows_of(pq.read_table(place)))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    paths = write_pictures(folder, 60)
    (folder / "0" / "torn.png").write_bytes(paths[0].read_bytes()[:500])
    (folder / "1" / "text.jpg").write_text("no image")
    (folder / "2" / "two\nlines.png").write_bytes(paths[1].read_bytes())
    Path(os.fsdecode(os.fsencode(folder) + b"/\xff.png")).write_bytes(paths[2].read_bytes())
    (folder / "nowhere.png").symlink_to("gone.png")
    return folder


@pytest.fixture(scope="module")
def settings() -> ScanSettings:
    return settings_for(1, 4)


@pytest.fixture(scope="module")
def whole(pictures: Path, settings: ScanSettings, tmp_path_factory: pytest.TempPathFactory) -> list[Row]:
    """The rows of a scan that nothing interrupts."""
    out = tmp_path_factory.mktemp("whole") / "out.parquet"
    result = scan([str(pictures)], settings, out, jobs=2)
    assert result.out == out
    assert (result.tally.images, result.tally.detected, result.before) == (65, 3, 0)
    assert result.tally.unreadable == {"damaged": 1, "no-image": 1, "missing": 1}
    return rows_at(out)


def test_every_input_has_one_outcome(whole: list[Row]) -> None:
    assert len({(row.path, row.path_bytes) for row in whole}) == len(whole) == 65
    assert all(row.error for row in whole if row.verdict == "unreadable")


def test_an_input_that_is_named_twice_is_scanned_once(
    pictures: Path, settings: ScanSettings, whole: list[Row], tmp_path: Path
) -> None:
    names = [str(pictures), str(pictures / "1"), str(pictures / "1" / "*.png"), str(pictures)]
    scan(names, settings, tmp_path / "out.parquet", jobs=1)
    assert rows_at(tmp_path / "out.parquet") == whole


def test_a_folder_of_parts_takes_what_is_new_and_nothing_twice(
    settings: ScanSettings, tmp_path: Path
) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    write_pictures(source, 3)
    assert scan([str(source)], settings, out, jobs=1).tally.images == 3
    write_pictures(source, 5)
    told: list[tuple[int, int]] = []
    result = scan(
        [str(source)], settings, out, jobs=1, resume=True,
        progress=lambda tally, before: told.append((tally.images, before)),
    )  # fmt: skip
    assert (result.tally.images, result.before) == (5, 3)
    assert told == [(4, 3), (5, 3)]
    assert result.tally.detected == 2  # one of them by the earlier run
    assert len(rows_at(out)) == 5


class Interrupted:
    """An engine that stops in the middle as `error` says."""

    def __init__(self, after: int, error: type[BaseException]) -> None:
        self.after, self.error = after, error

    def __call__(
        self, items: Iterable[Item | None], settings: ScanSettings, jobs: int
    ) -> Generator[list[Row], None, None]:
        with closing(scan_items(items, settings, jobs)) as rows:
            for number, of_one in enumerate(rows):
                if number == self.after:
                    raise self.error
                yield of_one


def test_what_was_done_when_it_is_interrupted_is_kept_and_not_done_again(
    pictures: Path, settings: ScanSettings, whole: list[Row], tmp_path: Path
) -> None:
    out = tmp_path / "out.parquet"
    with pytest.raises(KeyboardInterrupt):
        scan([str(pictures)], settings, out, jobs=2, engine=Interrupted(30, KeyboardInterrupt))
    assert not out.exists()
    assert len(rows_at(partial_of(out))) == 30
    result = scan([str(pictures)], settings, out, jobs=2, resume=True)
    assert (result.before, result.tally.images) == (30, 65)
    assert result.tally.unreadable.total() == 3
    assert rows_at(out) == whole


def test_a_full_disk_stops_the_scan_and_resume_goes_on(
    pictures: Path, settings: ScanSettings, whole: list[Row], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out.parquet"
    monkeypatch.setattr(api, "PART_ROWS", 10)
    synchronise, written = os.fsync, 0

    def full(descriptor: int) -> None:
        nonlocal written
        written += 1
        if written > 6:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        synchronise(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(parts.os, "fsync", full)
        with pytest.raises(OutputError, match=r"No space left on device.*--resume"):
            scan([str(pictures)], settings, out, jobs=2)
    kept = len(rows_at(partial_of(out)))
    assert 0 < kept < 65
    assert scan([str(pictures)], settings, out, jobs=2, resume=True).before == kept
    assert rows_at(out) == whole


KILLS = pytest.param(5, ".parquet", id="5"), pytest.param(20, ".parquet", id="20", marks=pytest.mark.slow)
FOLDER = pytest.param(20, "/", id="20-folder", marks=pytest.mark.slow)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for workers in /proc")
@pytest.mark.parametrize(("kills", "ending"), [*KILLS, FOLDER])
def test_kill_9_at_random_moments_loses_and_doubles_no_row(
    pictures: Path, whole: list[Row], tmp_path: Path, kills: int, ending: str
) -> None:
    keys = tmp_path / "keys"
    keys.mkdir()
    for seed in (1, 4):
        key_of(seed).save(keys / f"{seed}.json")
    program = Path(__file__).with_name("killed_scans.py")
    ended = subprocess.run(
        [sys.executable, str(program), str(keys), str(pictures), str(tmp_path), str(kills), "6", ending],
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    told = json.loads(ended.stdout)
    assert told["kills"] == kills
    # Five moments may fall together on a busy machine; of twenty the test would mean little if they did.
    assert len(told["parts"]) > (2 if kills >= 20 else 0)
    expected = [replace(row, provider=None) for row in whole]
    for place in range(told["outs"]):
        assert rows_at(tmp_path / f"{place}{ending}".rstrip("/")) == expected


def nothing(item: Item, settings: ScanSettings, state: WorkerState, *, alone: bool = True) -> list[Row]:
    return [Row(item.path, item.path_bytes, "not detected", bytes=len(read_item(item, settings.read)))]


@pytest.mark.parametrize("count", [2_000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_very_many_tiny_files(settings: ScanSettings, tmp_path: Path, count: int) -> None:
    for place in range(count):
        folder = tmp_path / "in" / f"{place // 1000}"
        if place % 1000 == 0:
            folder.mkdir(parents=True)
        (folder / f"{place}.jpg").write_bytes(b"x")
    out = tmp_path / "out.parquet"
    result = scan([str(tmp_path / "in")], settings, out, jobs=2, engine=partial(scan_items, measure=nothing))
    assert result.tally.images == count
    assert len(set(pq.read_table(out, columns=["path"])[0].to_pylist())) == count


def test_an_observer_hears_of_rows_when_they_are_durable(
    pictures: Path, settings: ScanSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api, "PART_ROWS", 20)
    out = tmp_path / "out"
    seen: list[str] = []

    class Observer:
        def image(self, rows: Any) -> None:
            seen.append(rows[0].path)

        def committed(self) -> None:
            assert sorted(seen) == sorted(row.path for row in rows_at(out))

    scan([str(pictures)], settings, out, jobs=1, observer=Observer())
    assert len(seen) == 65


def test_key_states_are_those_of_the_day_on_which_the_scan_began(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    today = datetime.now(UTC).date()
    entry = KeyEntry(key_of(1), not_after=today)
    out = tmp_path / "out.parquet"
    first = replace(settings_for(), keys=KeySet.of([entry], on=today))
    with pytest.raises(KeyboardInterrupt):
        scan([str(pictures / "0")], first, out, jobs=1, engine=Interrupted(5, KeyboardInterrupt))
    tomorrow = replace(first, keys=KeySet.of([entry], on=today + timedelta(days=1)))
    scan([str(pictures / "0")], tomorrow, out, jobs=1, resume=True)
    assert {row.key_state for row in rows_at(out)} == {"valid", None}


def test_a_scan_with_other_keys_does_not_go_on_with_this_one(
    pictures: Path, settings: ScanSettings, tmp_path: Path
) -> None:
    out = tmp_path / "out.parquet"
    with pytest.raises(KeyboardInterrupt):
        scan([str(pictures)], settings, out, jobs=1, engine=Interrupted(5, KeyboardInterrupt))
    with pytest.raises(UsageError, match="other keys"):
        scan([str(pictures)], settings_for(1, 5), out, jobs=1, resume=True)


def test_sources_that_are_not_there_leave_nothing_behind(settings: ScanSettings, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no source can be found"):
        scan([str(tmp_path / "gone")], settings, tmp_path / "out.parquet", jobs=1)
    assert list(tmp_path.iterdir()) == []


def test_no_password_is_written_down(settings: ScanSettings) -> None:
    identity = scan_identity(
        ["s3://user:secret@bucket/x", "https://h/x?X-Amz-Signature=secret"], settings, None
    )
    assert "secret" not in json.dumps(identity)


def test_works_in_a_thread_that_may_set_no_signal_handlers(settings: ScanSettings, tmp_path: Path) -> None:
    write_pictures(tmp_path / "in", 4)
    found: list[Tally] = []

    def work() -> None:
        found.append(scan([str(tmp_path / "in")], settings, tmp_path / "out.csv", jobs=2).tally)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found[0].images == 4


def test_what_the_scan_writes_itself_is_no_input(settings: ScanSettings, tmp_path: Path) -> None:
    """Where it goes on, its folder is there before the sources are looked at."""
    (tmp_path / "part-1.txt").write_text("no image")
    out, options = tmp_path / "out", SourceOptions(all_files=True)
    for resume in (False, True, True):
        found = scan([str(tmp_path)], settings, out, options=options, jobs=1, resume=resume)
    assert found.tally.images == 1
