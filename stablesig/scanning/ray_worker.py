"""The Ray engine's half on the nodes: an actor, and beside it a process in which the local engine runs.

The local engine forks its workers, and an actor must not be forked. It has some twenty threads of Ray's,
whose locks a child would inherit in whatever state they are, and a child would hold its sockets open: Ray
then learns of the death of an actor only when the last child has ended (docs/scan-ray.md has the
measurement). So the actor starts a fresh Python, and only hands items and rows through. The keys lie in that
process, and the workers that it forks share them.
"""

from __future__ import annotations

import contextlib
import os
import platform
import signal
import socket
import subprocess
import sys
import threading
from collections import defaultdict, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from importlib import metadata
from multiprocessing.connection import Connection
from typing import Any

from stablesig.scanning.item import Item
from stablesig.scanning.local_engine import scan_items
from stablesig.scanning.local_worker import item_values, row_values
from stablesig.scanning.settings import ScanSettings
from stablesig_detector.errors import StableSigError
from stablesig_detector.key_set import detector_space

# Packages whose version can change a row. numpy computes it, the others give it the pixels.
_PACKAGES = ("numpy", "pillow", "pillow-heif")

Values = tuple[Any, ...]  # of an Item or a Row, which as tuples take a sixth of the time to pickle


def versions() -> dict[str, str]:
    """What must be the same on all nodes, so that it does not matter to a row where it is made."""
    import stablesig

    space = detector_space()
    found = {
        "stablesig": stablesig.__version__,
        "python": ".".join(platform.python_version_tuple()[:2]),
        "features": space.feature_version,
        "statistics": space.statistics_sha256[:16],
    }
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "none"
    return found


class ScanActor:
    """Measures on one node. Its methods run in threads, several at a time.

    settings: as for the local engine.  jobs: workers.  folder: what relative paths are relative to.
    """

    def __init__(self, settings: ScanSettings, jobs: int, folder: str) -> None:
        near, far = socket.socketpair()
        code = f"from stablesig.scanning.ray_worker import serve; serve({far.fileno()})"
        self._process = subprocess.Popen(
            [sys.executable, "-c", code],
            pass_fds=[far.fileno()],
            stdin=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        far.close()
        self._connection = Connection(near.detach())
        self._connection.send((settings, jobs, folder))
        self._sending = threading.Lock()
        self._calls: defaultdict[Values, deque[_Call]] = defaultdict(deque)  # by path and path_bytes
        self._problem: str | None = None
        self._ready = threading.Event()
        threading.Thread(target=self._receive, name="receive", daemon=True).start()

    def start(self) -> tuple[str, Mapping[str, str], str | None]:
        """Wait until it can measure; the node's name, its versions, and what is wrong with it, if at all."""
        self._ready.wait()
        return platform.node(), versions(), self._problem

    def process(self) -> tuple[int, int]:
        """The ids of the actor's process and of the one that measures, for tests."""
        return os.getpid(), self._process.pid

    def rows(self, chunk: Sequence[Values]) -> list[list[Values]]:
        """The rows of each item, one list an item, in the order in which they were done."""
        call = _Call(len(chunk))
        with self._sending:
            for values in chunk:
                self._calls[_name(Item(*values))].append(call)
            with contextlib.suppress(OSError):  # it ended: `_receive` sees to that
                self._connection.send(chunk)
        call.finished.wait()
        return call.rows

    def _receive(self) -> None:
        """Hand what comes to the calls that wait for it. The end of that process is the end of this one."""
        with contextlib.suppress(EOFError, OSError):
            self._problem = self._connection.recv()
            self._ready.set()
            while self._problem is None:
                name, rows = self._connection.recv()
                self._calls[name].popleft().take(rows)
                if not self._calls[name]:
                    del self._calls[name]
        if self._problem is None:
            os._exit(1)  # Ray tells the engine, which gives the items to another actor


class _Call:
    """A call of `rows` that waits for its rows."""

    def __init__(self, awaited: int) -> None:
        self.rows: list[list[Values]] = []
        self.finished = threading.Event()
        self._awaited = awaited

    def take(self, rows: list[Values]) -> None:
        self.rows.append(rows)
        if len(self.rows) == self._awaited:
            self.finished.set()


def _name(thing: Any) -> Values:
    return thing.path, thing.path_bytes


def serve(descriptor: int) -> None:
    """The life of the process beside an actor; `descriptor`: of its end of the connection."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the engine's to answer
    connection = Connection(descriptor)
    os.set_inheritable(descriptor, False)
    settings, jobs, folder = connection.recv()
    stream = _Stream(connection, folder)
    measured = scan_items(stream.items(), settings, jobs)
    try:
        first = next(measured, None)  # [] once everything is loaded: `items` begins with None
    except StableSigError as error:
        connection.send(str(error))
        return
    assert not first
    with contextlib.suppress(EOFError, OSError), contextlib.closing(measured):
        connection.send(None)
        for rows in measured:
            if rows:
                stream.under_way -= 1
                connection.send((_name(rows[0]), [row_values(row) for row in rows]))


class _Stream:
    """The items that come through a connection. under_way: those whose rows have not gone back yet.

    folder: what relative paths are relative to.
    """

    def __init__(self, connection: Connection, folder: str) -> None:
        self.under_way = 0
        self._connection = connection
        self._absent: str | None = None
        try:
            os.chdir(folder)
        except OSError:  # what was relative is missing here, and must not be found somewhere else
            self._absent = folder

    def items(self) -> Iterator[Item | None]:
        """Raises EOFError when the actor is gone."""
        yield None
        while True:
            if not self._connection.poll(0.0 if self.under_way else None):
                yield None
                continue
            for values in self._connection.recv():
                self.under_way += 1
                yield self._placed(Item(*values))

    def _placed(self, item: Item) -> Item:
        if self._absent is None or item.kind not in ("file", "tar", "zip"):
            return item
        return replace(item, location=os.path.join(self._absent, item.location))  # noqa: PTH118


__all__ = ["ScanActor", "Values", "item_values", "serve", "versions"]
