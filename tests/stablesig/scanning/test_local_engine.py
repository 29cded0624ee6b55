"""Every item gets its rows exactly once, whatever becomes of workers, and nothing is drawn too early."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from stablesig.scanning import local_engine
from stablesig.scanning.blas_threads import blas_threads
from stablesig.scanning.item import Item
from stablesig.scanning.local_engine import CHUNK, scan_items
from stablesig.scanning.measuring import WorkerState
from stablesig.scanning.reading import ReadOptions
from stablesig.scanning.row import Row
from stablesig.scanning.settings import ScanSettings
from stablesig_detector.errors import StableSigError, UsageError
from stablesig_detector.urls import FetchPolicy

from .scanned import items_of, rows_of_chunk, settings_for, timeless, write_pictures

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
on_linux = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="Linux only")


def acting(item: Item, settings: ScanSettings, state: WorkerState, *, alone: bool = True) -> list[Row]:
    """In place of measuring: does what the name of the item says."""
    match item.member:
        case "crash":
            os.kill(os.getpid(), signal.SIGKILL)  # a segmentation fault would print a traceback here
        case "leave":
            os._exit(7)
        case "hang":
            while True:
                pass
        case "grow":
            try:
                bytearray(1 << 29)
            except MemoryError:
                if not alone:
                    raise
                return [Row(item.path, None, "unreadable", error="too large", error_kind="memory")]
        case "process":
            return [Row(item.path, None, "not detected", bytes=os.getpid())]
        case "threads":
            return [Row(item.path, None, "not detected", error=str(blas_threads()))]
        case "slow":
            time.sleep(0.02)
    return [Row(item.path, None, "not detected")]


def named(*names: str) -> list[Item]:
    return [Item(f"{place}", "file", member=name) for place, name in enumerate(names)]


def outcomes(items: list[Item], settings: ScanSettings, jobs: int = 2) -> dict[str, list[Row]]:
    """By path; fails if an item has two outcomes or none."""
    found = list(scan_items(items, settings, jobs, measure=acting))
    assert sorted(int(rows[0].path) for rows in found) == list(range(len(items)))
    return {rows[0].path: rows for rows in found}


@pytest.fixture(scope="module")
def settings() -> ScanSettings:
    return settings_for(seconds=0.5, memory_bytes=1 << 28)


@pytest.mark.parametrize("jobs", [1, 3])
def test_one_bad_item_costs_that_item_wherever_it_stands(settings: ScanSettings, jobs: int) -> None:
    bad = {0: "crash", 5: "leave", 40: "crash", 41: "crash", 47: "hang", 70: "grow", 99: "leave"}
    names = [bad.get(place, "fine") for place in range(100)]
    found = outcomes(named(*names), settings, jobs)
    kinds = {int(path): rows[0].error_kind for path, rows in found.items() if rows[0].error_kind}
    if not Path("/proc/self/statm").exists():  # memory is limited on Linux only
        kinds[70] = "memory"
    assert kinds == {
        0: "crash", 5: "crash", 40: "crash", 41: "crash", 47: "time", 70: "memory", 99: "crash"
    }  # fmt: skip
    assert found["40"][0].error == "made its reader crash (SIGKILL); use another copy"
    assert found["47"][0].error == "took more than 0.5 s; make it smaller"
    assert found["47"][0].verdict == "unreadable"


def test_nothing_but_bad_items(settings: ScanSettings) -> None:
    found = outcomes(named(*["crash"] * 20), settings)
    assert {rows[0].error_kind for rows in found.values()} == {"crash"}


def test_an_item_whose_time_went_by_without_work_is_tried_once_more(
    settings: ScanSettings, tmp_path: Path
) -> None:
    """As when the machine stands still, or is busy with others."""

    def stall(item: Item, settings: ScanSettings, state: WorkerState, *, alone: bool = True) -> list[Row]:
        note = tmp_path / item.path
        if item.member == "once" and not note.exists():
            note.touch()
            time.sleep(60)
        return acting(item, settings, state)

    items = named("fine", "once", "fine", "hang")
    found = {rows[0].path: rows[0].error_kind for rows in scan_items(items, settings, 1, measure=stall)}
    assert found == {"0": None, "1": None, "2": None, "3": "time"}


def test_a_worker_that_its_own_alarm_does_not_end_is_killed(
    settings: ScanSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_engine, "_GRACE", 0.1)

    def deaf(item: Item, settings: ScanSettings, state: WorkerState, *, alone: bool = True) -> list[Row]:
        if item.member == "deaf":
            signal.signal(signal.SIGALRM, signal.SIG_IGN)
            time.sleep(60)
        return [Row(item.path, None, "not detected")]

    found = {
        rows[0].path: rows[0].error_kind
        for rows in scan_items(named("deaf", "fine"), replace(settings, seconds=0.2), 1, measure=deaf)
    }
    assert found == {"0": "time", "1": None}


@on_linux
def test_memory_that_earlier_items_left_behind_is_not_held_against_an_item(settings: ScanSettings) -> None:
    kept = []

    def hoard(item: Item, settings: ScanSettings, state: WorkerState, *, alone: bool = True) -> list[Row]:
        kept.append(bytearray(60 << 20))
        return [Row(item.path, None, "not detected")]

    small = replace(settings, memory_bytes=90 << 20)
    found = list(scan_items(named(*["x"] * 6), small, 1, measure=hoard))
    assert [rows[0].error_kind for rows in found] == [None] * 6


def test_a_worker_that_is_killed_from_outside_costs_no_item(settings: ScanSettings) -> None:
    """Such as by the system, when memory runs out: whoever was measured then is tried once more."""
    found: list[str] = []
    killed = 0
    for rows in scan_items(named(*["process"] * 60), settings, 2, measure=acting):
        found.append(rows[0].path)
        if killed < 3 and len(found) % 10 == 1:
            killed += 1
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(rows[0].bytes or 0), signal.SIGKILL)
        assert rows[0].verdict == "not detected"
    assert sorted(map(int, found)) == list(range(60))


def test_workers_that_do_not_come_to_life_end_the_scan(
    settings: ScanSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_engine, "become_worker", lambda *arguments: os._exit(1))
    with pytest.raises(StableSigError, match="before they have begun"):
        list(scan_items(named("a", "b"), settings, 2, measure=acting))


def test_rows_do_not_depend_on_the_number_of_workers(tmp_path: Path) -> None:
    items = items_of(write_pictures(tmp_path, 24))
    settings = settings_for(1, 4)
    alone = rows_of_chunk(items, settings, WorkerState())
    assert {row.verdict for row in alone} == {"detected", "not detected"}
    for jobs in (1, 3):
        rows = [row for of_one in scan_items(items, settings, jobs) for row in of_one]
        assert timeless(rows) == timeless(alone)


class TestDrawing:
    def test_is_bounded_however_many_items_there_are(self, settings: ScanSettings) -> None:
        drawn, total, most_ahead = 0, 100_000, 0

        def items() -> Iterator[Item]:
            nonlocal drawn
            for place in range(total):
                drawn = place + 1
                yield Item(str(place), "file", member="fine")

        done = 0
        for rows in scan_items(items(), settings, 2, measure=acting):
            done += len(rows)
            most_ahead = max(most_ahead, drawn - done)
            if done == 1_000:
                time.sleep(0.3)  # a consumer that is busy: nothing is drawn meanwhile
                before = drawn
            elif done == 1_001:
                assert drawn == before
        assert done == total
        # Two chunks a worker that it has, and those whose rows are being handed on.
        assert most_ahead <= 2 * 2 * CHUNK + 2 * CHUNK

    def test_gives_every_worker_something_of_few_items(self, settings: ScanSettings) -> None:
        names = ["slow"] * 8
        found: set[Any] = set()

        def measure(
            item: Item, settings: ScanSettings, state: WorkerState, *, alone: bool = True
        ) -> list[Row]:
            time.sleep(0.05)
            return [Row(item.path, None, "not detected", bytes=os.getpid())]

        for rows in scan_items(named(*names), settings, 4, measure=measure):
            found.add(rows[0].bytes)
        assert len(found) == 4

    def test_what_the_source_raises_is_raised_and_ends_the_workers(self, settings: ScanSettings) -> None:
        def items() -> Iterator[Item]:
            yield from named(*["process"] * 40)
            raise OSError("the list broke off")

        workers: set[int] = set()
        rows = scan_items(items(), settings, 2, measure=acting)
        with pytest.raises(OSError, match="the list broke off"):
            workers.update(int(of_one[0].bytes or 0) for of_one in rows)
        assert workers
        assert all(map(has_ended, workers))

    def test_none_hands_on_what_is_there_and_yields_control(self, settings: ScanSettings) -> None:
        got: list[str] = []

        def items() -> Iterator[Item | None]:
            yield from named("fine", "fine")
            while len(got) < 2:
                yield None
            yield Item("2", "file", member="fine")

        empty = 0
        for rows in scan_items(items(), settings, 2, measure=acting):
            got += [row.path for row in rows]
            empty += not rows
        assert sorted(got) == ["0", "1", "2"]

    def test_an_idle_engine_yields_empty_lists(self, settings: ScanSettings) -> None:
        rows = scan_items(iter([None, *named("fine")]), settings, 1, measure=acting)
        assert next(rows) == []
        assert [of_one[0].path for of_one in rows] == ["0"]


def test_closing_the_iterator_ends_the_workers(settings: ScanSettings) -> None:
    rows = scan_items(named(*["process"] * 50), settings, 2, measure=acting)
    worker = int(next(rows)[0].bytes or 0)
    rows.close()
    assert has_ended(worker)


def test_jobs_below_one_are_refused_before_anything_is_drawn(settings: ScanSettings) -> None:
    with pytest.raises(UsageError, match="got 0 jobs"):
        scan_items(iter(()), settings, 0)


KILLED = """
import os, sys, time
from pathlib import Path
from stablesig.scanning.item import Item
from stablesig.scanning.local_engine import scan_items
from stablesig.scanning.settings import ScanSettings
from stablesig_detector.key_set import load_key_set

def hang(item, settings, state, *, alone=True):
    Path(sys.argv[2], str(os.getpid())).touch()
    while True:
        pass

items = [Item(str(place), "file", "x") for place in range(9)]
list(scan_items(items, ScanSettings(load_key_set([sys.argv[1]]), seconds=300.0), 2, measure=hang))
"""


@on_linux
def test_workers_end_with_an_engine_that_was_killed(tmp_path: Path) -> None:
    """Also those in a decoder that hangs, with a time limit that is far away."""
    key, folder = tmp_path / "key.json", tmp_path / "workers"
    folder.mkdir()
    settings_for().keys.entries[0].key.save(key)
    engine = subprocess.Popen([sys.executable, "-c", KILLED, str(key), str(folder)])
    try:
        workers = soon(lambda: len(list(folder.iterdir())) == 2 and [int(w.name) for w in folder.iterdir()])
    finally:
        engine.kill()
        engine.wait()
    assert soon(lambda: all(map(has_ended, workers)))


@on_linux
def test_workers_have_one_blas_thread_each(settings: ScanSettings) -> None:
    if not blas_threads():
        pytest.skip("this NumPy has no OpenBLAS")
    [[row]] = scan_items(named("threads"), settings, 1, measure=acting)
    assert set(row.error or "") <= set("[1, ]")


class TestNetwork:
    def test_fetches_overlap(self, slow_server: SlowServer) -> None:
        """One worker with eight items that each take a while is waiting for all of them at once."""
        items = [Item(f"{place}", "url", f"{slow_server.url}/{place}") for place in range(8)]
        found = [rows[0] for rows in scan_items(items, slow_server.settings(), 1)]
        assert [row.error_kind for row in found] == ["no-image"] * 8
        assert slow_server.most_at_once > 1

    def test_an_answer_that_takes_longer_than_the_limit_of_an_image_is_waited_for(
        self, slow_server: SlowServer
    ) -> None:
        settings = replace(slow_server.settings(), seconds=0.05)
        [[row]] = scan_items([Item("a", "url", f"{slow_server.url}/a")], settings, 1)
        assert row.error_kind == "no-image"
        assert row.seconds is not None
        assert row.seconds >= SlowServer.delay

    def test_an_address_that_never_answers_is_a_row_of_kind_network(self, slow_server: SlowServer) -> None:
        policy = FetchPolicy(allow_private=True, seconds=0.1)
        settings = replace(slow_server.settings(), read=ReadOptions(policy, retries=1, first_wait=0.01))
        [[row]] = scan_items([Item("a", "url", f"{slow_server.url}/a")], settings, 1)
        assert row.error_kind == "network"


class SlowServer:
    """Answers every request with a text, after a while."""

    delay = 0.2

    def __init__(self) -> None:
        self.most_at_once = self._at_once = 0
        lock = threading.Lock()
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                with lock:
                    server._at_once += 1
                    server.most_at_once = max(server.most_at_once, server._at_once)
                time.sleep(server.delay)
                with lock:
                    server._at_once -= 1
                with contextlib.suppress(OSError):
                    self.send_response(200)
                    self.send_header("Content-Length", "4")
                    self.end_headers()
                    self.wfile.write(b"text")

            def log_message(self, *arguments: object) -> None: ...

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"

    def settings(self) -> ScanSettings:
        return settings_for(read=ReadOptions(FetchPolicy(allow_private=True)))


@pytest.fixture
def slow_server() -> Iterator[SlowServer]:
    server = SlowServer()
    thread = threading.Thread(target=server.http.serve_forever, args=(0.02,))
    thread.start()
    yield server
    server.http.shutdown()
    server.http.server_close()
    thread.join()


def soon(found: Callable[[], Any]) -> Any:
    """What `found` gives once it gives something."""
    for _ in range(2000):
        if value := found():
            return value
        time.sleep(0.01)
    raise AssertionError("nothing came of it")


def has_ended(process: int) -> bool:
    """Also as a zombie, where whoever adopts orphans does not reap them."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    return True
