"""The life of a worker process of the local engine: it is forked, measures what it is given, and is killed.

It tells the engine in shared memory what it is at, so that its death is laid to one item and to no other.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import queue
import signal
import threading
import time
from collections import deque
from collections.abc import Sequence
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Protocol

from stablesig.scanning.blas_threads import pin_blas_threads
from stablesig.scanning.freed_memory import keep_freed_memory
from stablesig.scanning.item import Item
from stablesig.scanning.measuring import RetryAloneError, WorkerState
from stablesig.scanning.reading_ahead import NETWORK_KINDS, ReadingAhead
from stablesig.scanning.row import Row
from stablesig_detector.guard import limit_memory

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

    from stablesig.scanning.reading import ReadOptions
    from stablesig.scanning.settings import ScanSettings

OUT_OF_MEMORY = 75  # exit code of a worker that met the limit
NO_DEADLINE = float("inf")
_SEND_AFTER = 0.2  # s after which what is done is sent, though the chunk is not at its end
_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>

# Rows and items travel as plain tuples: pickling a dataclass with slots takes six times as long.
row_values = attrgetter(*Row.__dataclass_fields__)
item_values = attrgetter(*Item.__dataclass_fields__)


class Measure(Protocol):
    """What `measuring.measure_item` does."""

    def __call__(
        self, item: Item, settings: ScanSettings, state: WorkerState, *, alone: bool = True
    ) -> list[Row]: ...


# What a worker is at, in memory that it shares with the engine; indices of a view of doubles.
BEGUN = 0  # items that it has begun since it was born
DEADLINE = 1  # monotonic time by which the item must be done
FETCHING = 2  # 1.0 while it waits for the network
WORKED = 3  # s of processor time that it had used when it began the item
CELLS = 4


class Worker:
    """A worker, seen from inside. connection: to the engine.  cells: see above, CELLS of them."""

    def __init__(
        self, connection: Connection, cells: memoryview[Any], settings: ScanSettings, measure: Measure
    ) -> None:
        self._connection, self._cells = connection, cells
        self._settings, self._measure = settings, measure
        self._chunks: queue.SimpleQueue[list[Item]] = queue.SimpleQueue()
        self._ahead = ReadingAhead()
        self._state = WorkerState(read=self._read)

    def live(self) -> None:
        """Serve until the engine is gone. Does not return."""
        threading.Thread(target=self._receive, name="receive", daemon=True).start()
        waiting: deque[list[Item]] = deque()
        while True:
            while not waiting or not self._chunks.empty():
                waiting.append(self._chunks.get())
                self._ahead.announce(waiting[-1])
            self._ahead.start(self._settings.read)
            self._do(waiting.popleft())

    def _receive(self) -> None:
        """Take chunks in beside the work: the engine never waits for it, and its end is noticed at once."""
        try:
            while True:
                self._chunks.put([Item(*values) for values in self._connection.recv()])
        except MemoryError:
            os._exit(OUT_OF_MEMORY)
        except BaseException:
            os._exit(0)

    def _do(self, chunk: Sequence[Item]) -> None:
        outcomes: list[list[tuple[Any, ...]]] = []
        since = time.monotonic()
        for item in chunk:
            alone = self._cells[BEGUN] == 0.0
            self._cells[FETCHING], self._cells[WORKED] = 0.0, time.process_time()
            self._arm(self._settings.seconds)
            self._cells[BEGUN] += 1.0
            try:
                rows = self._measure(item, self._settings, self._state, alone=alone)
                outcomes.append([row_values(row) for row in rows])
            except (RetryAloneError, MemoryError):
                self._arm(None)
                self._connection.send(outcomes)
                os._exit(OUT_OF_MEMORY)
            if time.monotonic() - since > _SEND_AFTER:
                self._arm(None)
                self._connection.send(outcomes)
                outcomes, since = [], time.monotonic()
        self._arm(None)
        if outcomes:
            self._connection.send(outcomes)

    def _read(self, item: Item, options: ReadOptions) -> bytes:
        network = item.kind in NETWORK_KINDS
        if network:
            self._cells[FETCHING] = 1.0
            self._arm(self._settings.fetch_seconds)
        data = self._ahead.read(item, options)
        self._state.read_began = self._ahead.began
        if network:
            self._cells[FETCHING] = 0.0
            self._arm(self._settings.seconds)
        return data

    def _arm(self, seconds: float | None) -> None:
        """Die of SIGALRM after so many seconds, never if None: in a decoder no Python code would run."""
        self._cells[DEADLINE] = NO_DEADLINE if seconds is None else time.monotonic() + seconds
        signal.setitimer(signal.ITIMER_REAL, seconds or 0.0)


def become_worker(
    connection: Connection,
    near_ends: Sequence[Connection],
    cells: memoryview[Any],
    settings: ScanSettings,
    measure: Measure,
    parent: int | None,
) -> None:
    """Turn a process that was just forked into a worker. Does not return.

    near_ends: what it must not hold open: no worker would learn that the engine is gone.  parent: process of
    the engine, with which to end at once; None where a thread forked, whose end would be taken for that.
    """
    code = 1
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the engine's to answer; it ends the workers
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # likewise: service managers send it to all
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        for near_end in near_ends:
            near_end.close()
        if parent is not None:
            _die_with(parent)
        _say_nothing()
        gc.freeze()  # what was there before the fork is shared: collections shall not write into it
        pin_blas_threads()
        keep_freed_memory()
        limit_memory(settings.memory_bytes)
        Worker(connection, cells, settings, measure).live()
    except MemoryError:
        code = OUT_OF_MEMORY
    except BaseException:
        code = 1  # the engine has gone, or a defect, which is the item's row
    finally:
        os._exit(code)


def _die_with(parent: int) -> None:
    """End with the engine, even in a decoder that hangs. Linux only; elsewhere the time limit ends that."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    if os.getppid() != parent:  # it ended before that
        os._exit(0)


def _say_nothing() -> None:
    """Drop what decoders print, such as libtiff on every damaged strip; hold no pipe of the caller open."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nowhere, stream)
