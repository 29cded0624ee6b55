"""A queue that scanners share: each upload is scanned by one of them, also when they are killed."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

import pytest

from stablesig.scanning import queue_folder
from stablesig.scanning.arrivals import Arrival
from stablesig.scanning.committed import Committed
from stablesig.scanning.parts import PartWriter
from stablesig.scanning.queue_folder import QueueFolder
from stablesig.scanning.row import Row
from stablesig_detector.errors import OutputError, UsageError

Opener = Callable[..., QueueFolder]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("queue", "queue/new", "out", "other"):
        (tmp_path / name).mkdir()
    return tmp_path / "queue"


@pytest.fixture
def scanner(folder: Path) -> Iterator[Opener]:
    """Opens the queue for one more scanner; all are closed in the end."""
    with ExitStack() as held:

        def opened(out: str = "out", **options: object) -> QueueFolder:
            given = {"committed": Committed(folder.parent / out), "settle": 0.0, **options}
            queue = QueueFolder(folder, folder.parent / out, **given)  # type: ignore[arg-type]
            held.callback(queue.close)
            return queue

        yield opened


def upload(folder: Path, *names: str, content: bytes = b"picture") -> None:
    for name in names:
        (folder / name).write_bytes(content)
        (folder / name).rename(folder / "new" / name)


def taken(queue: QueueFolder) -> list[Arrival]:
    queue.poll()
    return list(queue.ready())


def rows_of(arrival: Arrival, *, readable: bool = True) -> list[Row]:
    item, now = arrival.item, datetime.now(UTC)
    data = Path(item.location).read_bytes()
    known = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data), "seconds": 0.0, "time": now}
    if readable:
        return [Row(item.path, item.path_bytes, "not detected", **known)]  # type: ignore[arg-type]
    return [Row(item.path, item.path_bytes, "unreadable", error_kind="damaged", **known)]  # type: ignore[arg-type]


def scan(queue: QueueFolder, arrivals: Sequence[Arrival], *, readable: bool = True) -> list[Row]:
    """Commit rows of them, and settle them; what was committed."""
    committed: list[Row] = []
    for arrival in arrivals:
        rows = queue.rows(arrival, rows_of(arrival, readable=readable))
        if rows:
            queue.durable(arrival, rows)
        committed += rows
    return committed


def files(folder: Path) -> dict[str, list[str]]:
    return {
        place: sorted(path.name for path in (folder / place).iterdir() if not path.is_dir())
        for place in ("new", "done", "failed")
    }


def test_an_upload_is_moved_when_its_rows_are_durable(folder: Path, scanner: Opener) -> None:
    queue = scanner()
    upload(folder, "a.png")
    [arrival] = taken(queue)
    assert Path(arrival.item.location).read_bytes() == b"picture"
    assert files(folder) == {"new": [], "done": [], "failed": []}
    assert queue.backlog == 1
    [row] = scan(queue, [arrival])
    assert files(folder) == {"new": [], "done": ["a.png"], "failed": []}
    assert Path(row.path) == folder / "done" / "a.png"
    assert (queue.backlog, queue.oldest) == (0, None)


def test_what_cannot_be_read_is_moved_to_failed_under_that_name(folder: Path, scanner: Opener) -> None:
    queue = scanner()
    upload(folder, "a.png", "b")
    rows = scan(queue, taken(queue), readable=False)
    assert files(folder) == {"new": [], "done": [], "failed": ["a.png", "b"]}
    assert sorted(row.path for row in rows) == [str(folder / "failed" / name) for name in ("a.png", "b")]


def test_scanners_that_share_a_queue_do_each_upload_once(folder: Path, scanner: Opener) -> None:
    queues = [scanner(), scanner("other")]
    upload(folder, *(f"{number}.png" for number in range(40)))
    for queue in queues:
        queue.poll()
    streams = [queue.ready() for queue in queues]
    paths: list[str] = []
    for _ in range(40):
        for queue, stream in zip(queues, streams, strict=True):
            arrival = next(stream, None)
            paths += [row.path for row in scan(queue, [arrival] if arrival else [])]
    assert len(paths) == len(set(paths)) == 40
    assert len(files(folder)["done"]) == 40


def test_hidden_and_unfinished_uploads_and_folders_stay(folder: Path, scanner: Opener) -> None:
    upload(folder, ".a.png", "b.png.part", "c.tmp")
    (folder / "new" / "folder").mkdir()
    assert taken(scanner()) == []
    assert files(folder)["new"] == [".a.png", "b.png.part", "c.tmp"]


def test_an_upload_that_is_written_into_the_queue_waits_until_it_is_still(
    folder: Path, scanner: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = scanner(settle=60.0)
    ahead = 0.0
    monotonic = queue_folder.time.monotonic
    monkeypatch.setattr(queue_folder.time, "monotonic", lambda: monotonic() + ahead)
    upload(folder, "old.png")
    os.utime(folder / "new" / "old.png", (1, 1))
    (folder / "new" / "a.png").write_bytes(b"x")
    assert [Path(arrival.item.path).name for arrival in taken(queue)] == ["old.png"]
    ahead += 61.0
    (folder / "new" / "a.png").write_bytes(b"xx")
    assert taken(queue) == []
    ahead += 61.0
    assert len(taken(queue)) == 1


def test_a_name_that_is_used_again_gets_a_row_of_its_own(folder: Path, scanner: Opener) -> None:
    queue = scanner()
    paths: list[str] = []
    for readable in (True, False, True):
        upload(folder, "a.png")
        paths += [row.path for row in scan(queue, taken(queue), readable=readable)]
    assert paths == [str(folder / name) for name in ("done/a.png", "failed/a~2.png", "done/a~3.png")]
    assert files(folder) == {"new": [], "done": ["a.png", "a~3.png"], "failed": ["a~2.png"]}


def test_nothing_is_overwritten_where_a_name_was_taken_meanwhile(folder: Path, scanner: Opener) -> None:
    queue = scanner()
    upload(folder, "a.png")
    [arrival] = taken(queue)
    (folder / "done" / "a.png").write_bytes(b"another")
    scan(queue, [arrival])
    assert (folder / "done" / "a.png").read_bytes() == b"another"
    assert (folder / "done" / "a~2.png").read_bytes() == b"picture"


def test_file_systems_without_hard_links_do(
    folder: Path, scanner: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(queue_folder.os, "link", refused)
    queue = scanner()
    for _ in range(2):
        upload(folder, "a.png")
        scan(queue, taken(queue))
    assert files(folder)["done"] == ["a.png", "a~2.png"]


def test_closing_gives_back_what_was_not_measured(folder: Path, scanner: Opener) -> None:
    queue = scanner()
    upload(folder, "a.png", "b.png")
    first, _ = taken(queue)
    scan(queue, [first])
    queue.close()
    assert len(files(folder)["new"]) == len(files(folder)["done"]) == 1
    assert list((folder / "cur").iterdir()) == []


def test_the_uploads_of_a_scanner_at_work_are_left_to_it(folder: Path, scanner: Opener) -> None:
    first = scanner()
    upload(folder, "a.png")
    assert len(taken(first)) == 1
    [lease] = (folder / "cur").glob("*/.lease")
    os.utime(lease, (1, 1))  # it has not come to touching it
    assert taken(scanner("other")) == []


def foreign(folder: Path, *names: str, out: Path) -> Path:
    """The claim of a scanner on another machine."""
    home = folder / "cur" / "elsewhere-7-abcd"
    home.mkdir(parents=True)
    lease = {"host": "elsewhere", "boot": "another", "pid": 7, "out": str(out)}
    (home / ".lease").write_text(json.dumps(lease), encoding="utf-8")
    for name in names:
        (home / name).write_bytes(b"picture")
    return home


def test_a_scanner_of_another_machine_is_dead_when_its_lease_has_run_out(
    folder: Path, scanner: Opener, tmp_path: Path
) -> None:
    home = foreign(folder, "a.png", out=tmp_path / "nowhere")
    warnings: list[str] = []
    queue = scanner(on_warning=warnings.append, lease=60.0)
    assert taken(queue) == []
    os.utime(home / ".lease", (1, 1))
    queue._looked = -1e9
    [arrival] = taken(queue)
    assert Path(arrival.item.path) == folder / "done" / "a.png"
    assert not home.exists()
    assert "elsewhere-7-abcd, which is dead, are taken over" in warnings[0]
    assert "will get rows here as well" in warnings[1]


def test_a_claim_without_a_lease_is_taken_over_after_as_long(folder: Path, scanner: Opener) -> None:
    home = foreign(folder, "a.png", out=folder)
    (home / ".lease").unlink()
    queue = scanner()
    assert taken(queue) == []
    os.utime(home, (1, 1))
    queue._looked = -1e9
    assert len(taken(queue)) == 1


def test_rows_of_an_upload_that_another_scanner_took_over_are_dropped(folder: Path, scanner: Opener) -> None:
    queue = scanner()
    upload(folder, "a.png")
    [arrival] = taken(queue)
    rows = rows_of(arrival)
    Path(arrival.item.location).unlink()
    assert queue.rows(arrival, rows) == ()
    assert queue.backlog == 0


KILLED = """
import os, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from scanning.test_queue_folder import Committed, PartWriter, QueueFolder, rows_of
folder, out = Path({folder!r}), Path({out!r})
queue = QueueFolder(folder, out, Committed(), settle=0.0)
queue.poll()
arrivals = sorted(queue.ready(), key=lambda arrival: arrival.item.path)
with PartWriter(out) as writer:
    for arrival, readable in zip(arrivals, (True, False)):
        writer.add(queue.rows(arrival, rows_of(arrival, readable=readable)))
os.link(arrivals[0].item.location, folder / "done" / "a.png")  # half moved
os.kill(os.getpid(), 9)
"""


@pytest.mark.parametrize("out", ["out", "other"])
def test_what_a_killed_scanner_had_is_taken_over_and_not_done_twice(
    folder: Path, scanner: Opener, tmp_path: Path, out: str
) -> None:
    """It had committed rows of a.png and b.png; the same scan or another one scans the other two."""
    upload(folder, "a.png", "b.png", "c.png", "d.png")
    script = KILLED.format(
        tests=str(Path(__file__).parents[1]), folder=str(folder), out=str(tmp_path / "out")
    )
    ended = subprocess.run([sys.executable, "-c", script], timeout=60, check=False)
    assert ended.returncode == -9
    warnings: list[str] = []
    queue = scanner(out, on_warning=warnings.append)
    arrivals = taken(queue)
    assert sorted(Path(arrival.item.path).name for arrival in arrivals) == ["c.png", "d.png"]
    assert files(folder) == {"new": [], "done": ["a.png"], "failed": ["b.png"]}
    assert len(warnings) == 1
    scan(queue, arrivals)
    assert files(folder) == {"new": [], "done": ["a.png", "c.png", "d.png"], "failed": ["b.png"]}
    assert len(list((folder / "cur").iterdir())) == 1


def test_a_killed_scanner_s_upload_with_an_old_name_is_scanned(
    folder: Path, scanner: Opener, tmp_path: Path
) -> None:
    """The name has a row of another upload, of the same size, which was cleared out of done since."""
    queue = scanner()
    upload(folder, "a.png", content=b"earlier")
    with PartWriter(tmp_path / "out") as writer:
        writer.add(scan(queue, taken(queue)))
    (folder / "done" / "a.png").unlink()
    home = foreign(folder, "a.png", out=tmp_path / "out")
    os.utime(home / "a.png", (1, 1))
    os.utime(home / ".lease", (1, 1))
    assert len(taken(scanner())) == 1


def test_a_queue_that_vanishes_and_comes_back_goes_on(folder: Path, scanner: Opener) -> None:
    warnings: list[str] = []
    queue = scanner(on_warning=warnings.append)
    folder.rename(folder.with_name("away"))
    assert taken(queue) == []
    assert queue.missing == 1
    (folder / "new").mkdir(parents=True)
    (folder / "cur").mkdir()
    (folder / "done").mkdir()
    queue._touched = -1e9
    taken(queue)
    upload(folder, "a.png")
    [arrival] = taken(queue)
    scan(queue, [arrival])
    assert (folder / "done" / "a.png").exists()
    assert queue.missing == 0
    assert len(warnings) == 2


def test_a_queue_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is no folder"):
        QueueFolder(tmp_path / "nowhere", tmp_path, Committed(), settle=0.0)


def test_a_queue_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "cur").write_bytes(b"")
    with pytest.raises(OutputError, match="cannot be written"):
        QueueFolder(tmp_path, tmp_path, Committed(), settle=0.0)


def test_an_upload_that_cannot_be_taken_holds_up_no_other(
    folder: Path, scanner: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload(folder, "a.jpg", "b.jpg", "c.jpg")
    rename = os.rename

    def refuse(source: Path, target: Path) -> None:
        if source.name == "b.jpg":
            raise PermissionError(1, "Operation not permitted")
        rename(source, target)

    warnings: list[str] = []
    queue = scanner(on_warning=warnings.append)
    monkeypatch.setattr(os, "rename", refuse)
    assert {Path(one.item.path).name for one in taken(queue)} == {"a.jpg", "c.jpg"}
    assert taken(queue) == []
    assert len(warnings) == 1
    assert "b.jpg cannot be taken: Operation not permitted" in warnings[0]


def test_the_longest_names_are_numbered_as_well(folder: Path, scanner: Opener) -> None:
    name = "\u00e9" * 125 + "x.jpg"  # 255 bytes
    queue = scanner()
    for content in (b"one", b"two"):
        (folder / "new" / name).write_bytes(content)
        scan(queue, taken(queue))
    names = sorted(path.name for path in (folder / "done").iterdir())
    assert len(names) == 2
    assert all(len(one.encode()) <= 255 and one.endswith(".jpg") for one in names)


def test_two_scanners_give_uploads_of_one_name_two_names(folder: Path, scanner: Opener) -> None:
    one, other = scanner(), scanner("other")
    arrivals = []
    for queue, content in ((one, b"first"), (other, b"second")):
        upload(folder, "x.jpg", content=content)
        arrivals += taken(queue)
    rows = [*scan(other, arrivals[1:]), *scan(one, arrivals[:1])]  # the later one is done first
    for row in rows:
        assert hashlib.sha256(Path(row.path).read_bytes()).hexdigest() == row.sha256
