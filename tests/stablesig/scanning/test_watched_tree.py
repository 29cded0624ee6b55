"""A tree into which files are uploaded: each version of one is handed out once, and only when it is whole."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import pytest

from stablesig.scanning import known_files, watched_tree
from stablesig.scanning.arrivals import Arrival
from stablesig.scanning.committed import Committed
from stablesig.scanning.row import Row
from stablesig.scanning.watched_tree import WatchedTree


class Clock:
    """Both clocks of the module, which tests put forward instead of waiting. File systems keep theirs."""

    def __init__(self) -> None:
        self.ahead = 0.0
        self.wall_ahead = 0.0

    def monotonic(self) -> float:
        return time.monotonic() + self.ahead

    def time(self) -> float:
        return time.time() + self.wall_ahead


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(watched_tree, "time", clock)
    return clock


class Watching:
    """A tree over one folder, and the rows of what it handed out."""

    def __init__(
        self, root: Path, clock: Clock, committed: Committed | None = None, **options: object
    ) -> None:
        self.clock, self.committed = clock, Committed() if committed is None else committed
        self.warnings: list[str] = []
        given = {"settle": 60.0, "interval": 1.0, "on_warning": self.warnings.append, **options}
        self.tree = WatchedTree([str(root)], self.committed, **given)  # type: ignore[arg-type]

    def look(self, *, later: float = 0.0) -> list[Arrival]:
        """What is ready so many seconds later."""
        self.clock.ahead += later
        self.tree.poll()
        return list(self.tree.ready())

    def ready(self) -> list[Arrival]:
        """What is ready when it has had the time to be seen to be still."""
        return self.look() + self.look(later=100.0)

    def scanned(self) -> list[str]:
        """The names of what becomes ready and is then scanned and committed."""
        arrivals = self.ready()
        for arrival in arrivals:
            self.commit(arrival)
        return sorted(Path(arrival.item.path).name for arrival in arrivals)

    def commit(self, arrival: Arrival, kind: str | None = None) -> None:
        rows = [row_of(arrival, kind, self.clock)]
        self.committed.add(rows)
        self.tree.durable(arrival, rows)


def row_of(arrival: Arrival, kind: str | None, clock: Clock) -> Row:
    item = arrival.item
    try:
        data = Path(item.location).read_bytes()
    except OSError:
        data, kind = b"", kind or "missing"
    now = datetime.fromtimestamp(clock.time(), UTC)
    if kind is not None:
        return Row(item.path, item.path_bytes, "unreadable", error_kind=kind, seconds=0.0, time=now)  # type: ignore[arg-type]
    digest = hashlib.sha256(data).hexdigest()
    return Row(
        item.path, item.path_bytes, "not detected", sha256=digest, bytes=len(data), seconds=0.0, time=now
    )


def names(arrivals: Sequence[Arrival]) -> list[str]:
    return sorted(Path(arrival.item.path).name for arrival in arrivals)


def test_an_upload_is_handed_out_once(tmp_path: Path, clock: Clock) -> None:
    watching = Watching(tmp_path, clock)
    assert watching.scanned() == []
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "deep" / "er" / "a.png").write_bytes(b"1")
    assert watching.scanned() == ["a.png"]
    (tmp_path / "deep" / "er" / "b.JPG").write_bytes(b"2")
    assert watching.scanned() == ["b.JPG"]
    assert watching.scanned() == []
    assert watching.tree.backlog == 0


def test_an_upload_at_work_is_not_handed_out_again(tmp_path: Path, clock: Clock) -> None:
    (tmp_path / "a.png").write_bytes(b"1")
    watching = Watching(tmp_path, clock, settle=0.0)
    assert names(watching.look()) == ["a.png"]
    (tmp_path / "b.png").write_bytes(b"1")
    assert names(watching.look(later=5.0)) == ["b.png"]
    assert watching.tree.backlog == 2


def test_a_file_that_grows_waits_until_it_is_still(tmp_path: Path, clock: Clock) -> None:
    watching = Watching(tmp_path, clock)
    upload = tmp_path / "a.png"
    for size in range(1, 5):
        upload.write_bytes(b"x" * size)
        assert watching.look(later=40.0) == []
        assert watching.tree.backlog == 1
    assert names(watching.look(later=61.0)) == ["a.png"]


def test_a_file_from_the_future_waits_no_longer_than_others(tmp_path: Path, clock: Clock) -> None:
    watching = Watching(tmp_path, clock)
    (tmp_path / "a.png").write_bytes(b"1")
    os.utime(tmp_path / "a.png", (2e9, 2e9))
    assert watching.scanned() == ["a.png"]


def test_old_files_need_not_wait_at_the_start(tmp_path: Path, clock: Clock) -> None:
    (tmp_path / "a.png").write_bytes(b"1")
    watching = Watching(tmp_path, clock)
    clock.wall_ahead = 61.0
    assert names(watching.look()) == ["a.png"]


@pytest.mark.parametrize("name", [".a.png", "a.png.part", "a.png.tmp", "a.png~", "a.txt", ".hidden/a.png"])
def test_unfinished_and_hidden_names_are_left_alone(tmp_path: Path, clock: Clock, name: str) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(b"1")
    watching = Watching(tmp_path, clock)
    assert watching.scanned() == []
    assert watching.tree.backlog == 0
    (tmp_path / name).rename(tmp_path / "done.png")
    assert watching.scanned() == ["done.png"]


def test_with_all_files_names_need_no_suffix_of_images(tmp_path: Path, clock: Clock) -> None:
    for name in ("upload-17", "a.png.part"):
        (tmp_path / name).write_bytes(b"1")
    assert Watching(tmp_path, clock, all_files=True).scanned() == ["upload-17"]


def test_flat_looks_into_no_folder(tmp_path: Path, clock: Clock) -> None:
    (tmp_path / "inside").mkdir()
    (tmp_path / "inside" / "a.png").write_bytes(b"1")
    assert Watching(tmp_path, clock, recursive=False).scanned() == []


def test_a_file_that_is_replaced_is_handed_out_again(tmp_path: Path, clock: Clock) -> None:
    watching = Watching(tmp_path, clock)
    (tmp_path / "a.png").write_bytes(b"old")
    assert watching.scanned() == ["a.png"]
    (tmp_path / "b.part").write_bytes(b"new")
    os.utime(tmp_path / "b.part", (1, 1))  # as `cp -p` leaves it
    (tmp_path / "b.part").rename(tmp_path / "a.png")
    assert watching.scanned() == ["a.png"]


def test_a_file_that_is_replaced_while_at_work_is_handed_out_afterwards(tmp_path: Path, clock: Clock) -> None:
    (tmp_path / "a.png").write_bytes(b"old")
    watching = Watching(tmp_path, clock)
    [first] = watching.ready()
    row = row_of(first, None, clock)
    (tmp_path / "b.part").write_bytes(b"new")
    (tmp_path / "b.part").rename(tmp_path / "a.png")
    assert watching.ready() == []
    watching.committed.add([row])
    watching.tree.durable(first, [row])
    assert names(watching.ready()) == ["a.png"]


def test_a_file_that_is_written_over_in_place_is_handed_out_again(tmp_path: Path, clock: Clock) -> None:
    watching = Watching(tmp_path, clock)
    (tmp_path / "a.png").write_bytes(b"old")
    assert watching.scanned() == ["a.png"]
    watching.look(later=100.0)
    folder_time = tmp_path.stat().st_mtime_ns
    (tmp_path / "a.png").write_bytes(b"new")
    assert tmp_path.stat().st_mtime_ns == folder_time
    assert watching.scanned() == ["a.png"]


def test_a_file_that_is_touched_has_its_row_already(tmp_path: Path, clock: Clock) -> None:
    watching = Watching(tmp_path, clock)
    (tmp_path / "a.png").write_bytes(b"1")
    assert watching.scanned() == ["a.png"]
    clock.ahead += 1000.0
    os.utime(tmp_path / "a.png", (clock.time(), clock.time()))
    assert watching.scanned() == []


def test_what_has_rows_is_not_handed_out_after_a_restart(tmp_path: Path, clock: Clock) -> None:
    for name in ("same.png", "changed.png", "touched.png", "swapped.png"):
        (tmp_path / name).write_bytes(b"old")
    before = Watching(tmp_path, clock)
    assert len(before.scanned()) == 4
    clock.ahead += 1000.0
    (tmp_path / "changed.png").write_bytes(b"longer")
    os.utime(tmp_path / "touched.png", (clock.time(), clock.time()))
    (tmp_path / "new.part").write_bytes(b"new")
    os.utime(tmp_path / "new.part", (clock.time(), clock.time()))
    (tmp_path / "new.part").rename(tmp_path / "swapped.png")
    after = Watching(tmp_path, clock, before.committed)
    assert after.scanned() == ["changed.png", "swapped.png"]


def test_a_folder_that_vanishes_and_comes_back_gives_new_files_only(tmp_path: Path, clock: Clock) -> None:
    root, away = tmp_path / "up", tmp_path / "away"
    root.mkdir()
    (root / "a.png").write_bytes(b"1")
    watching = Watching(root, clock)
    assert watching.scanned() == ["a.png"]
    (root / "waits.png").write_bytes(b"1")
    watching.look()
    root.rename(away)
    assert watching.scanned() == []
    assert watching.tree.missing == 1
    away.rename(root)  # with the same times and inodes
    assert watching.scanned() == ["waits.png"]
    assert watching.tree.missing == 0
    assert len(watching.warnings) == 2
    assert "is not there to be watched" in watching.warnings[0]
    assert "is back" in watching.warnings[1]


def test_another_folder_in_its_place_gives_what_differs(tmp_path: Path, clock: Clock) -> None:
    root, other = tmp_path / "up", tmp_path / "other"
    for folder in (root, other):
        folder.mkdir()
        (folder / "a.png").write_bytes(b"1")
    watching = Watching(root, clock)
    assert watching.scanned() == ["a.png"]
    root.rename(tmp_path / "gone")
    watching.look()
    other.rename(root)
    (root / "b.png").write_bytes(b"2")
    assert watching.scanned() == ["b.png"]


def test_an_upload_that_is_withdrawn_is_forgotten(tmp_path: Path, clock: Clock) -> None:
    watching = Watching(tmp_path, clock)
    (tmp_path / "a.png").write_bytes(b"1")
    watching.look()
    (tmp_path / "a.png").unlink()
    assert watching.scanned() == []
    assert (watching.tree.backlog, watching.tree.oldest) == (0, None)


def test_a_file_that_was_away_when_it_was_read_is_handed_out_again(tmp_path: Path, clock: Clock) -> None:
    (tmp_path / "a.png").write_bytes(b"1")
    watching = Watching(tmp_path, clock)
    [arrival] = watching.ready()
    watching.commit(arrival, "missing")
    assert watching.scanned() == ["a.png"]


def test_a_link_that_leads_nowhere_gets_one_row_over_restarts(tmp_path: Path, clock: Clock) -> None:
    (tmp_path / "a.png").symlink_to(tmp_path / "nowhere.png")
    watching = Watching(tmp_path, clock)
    assert watching.scanned() == ["a.png"]
    assert watching.scanned() == []
    assert Watching(tmp_path, clock, watching.committed).scanned() == []
    (tmp_path / "nowhere.png").write_bytes(b"1")
    assert watching.scanned() == ["a.png", "nowhere.png"]


def test_a_pipe_gets_one_row_over_restarts(tmp_path: Path, clock: Clock) -> None:
    os.mkfifo(tmp_path / "a.png")
    watching = Watching(tmp_path, clock)
    [arrival] = watching.ready()
    row = Row(arrival.item.path, None, "unreadable", error_kind="not-a-file", time=datetime.now(UTC))
    watching.committed.add([row])
    watching.tree.durable(arrival, [row])
    assert watching.scanned() == []
    assert Watching(tmp_path, clock, watching.committed).scanned() == []


def test_names_that_are_not_utf8_and_of_several_lines_keep_their_bytes(tmp_path: Path, clock: Clock) -> None:
    for name in (b"a\nb.png", b"\xff\xfe.png"):
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name)).write_bytes(b"1")
    watching = Watching(tmp_path, clock)
    arrivals = watching.ready()
    exact = sorted(arrival.item.path_bytes or arrival.item.path.encode() for arrival in arrivals)
    assert exact == [os.fsencode(tmp_path) + b"/a\nb.png", os.fsencode(tmp_path) + b"/\xff\xfe.png"]
    for arrival in arrivals:
        watching.commit(arrival)
    assert Watching(tmp_path, clock, watching.committed).scanned() == []


def test_a_folder_that_may_not_be_read_gets_one_row_until_it_changes(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = tmp_path / "closed"
    closed.mkdir()
    (closed / "a.png").write_bytes(b"1")
    scandir = os.scandir

    def refusing(path: str) -> object:
        if path == str(closed):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    watching = Watching(tmp_path, clock)
    with monkeypatch.context() as patch:
        patch.setattr(watched_tree.os, "scandir", refusing)
        [arrival] = watching.ready()
        assert (arrival.item.kind, arrival.item.error_kind) == ("refused", "permission")
        watching.commit(arrival, "permission")
        assert watching.look(later=1.0) == []
        assert Watching(tmp_path, clock, watching.committed).look(later=1.0) == []
    assert watching.scanned() == ["a.png"]


def test_more_files_than_are_kept_in_mind_all_come_out(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watched_tree, "_MOST_WAITING", 10)
    monkeypatch.setattr(known_files, "CHUNK", 4)
    for number in range(35):
        (tmp_path / f"{number}.png").write_bytes(b"1")
    watching, found = Watching(tmp_path, clock), list[str]()
    for _ in range(8):
        found += watching.scanned()
        assert watching.tree.backlog == 35 - len(found) or len(found) == 35
    assert len(found) == len(set(found)) == 35


def test_an_idle_look_reads_no_folder_and_few_files(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(200):
        (tmp_path / f"{number}.png").write_bytes(b"1")
    monkeypatch.setattr(watched_tree, "_RECHECK_LEAST", 10)
    watching = Watching(tmp_path, clock)
    assert len(watching.scanned()) == 200
    watching.look(later=10.0)
    calls = SimpleNamespace(stat=0)
    stat = os.stat

    def counting(*arguments, **options):  # type: ignore[no-untyped-def]
        calls.stat += 1
        return stat(*arguments, **options)

    monkeypatch.setattr(watched_tree.os, "stat", counting)
    monkeypatch.setattr(watched_tree.WatchedTree, "_read", None)
    for _ in range(100):
        watching.look(later=1.0)
    assert calls.stat <= 100 * (1 + 10) + 256
