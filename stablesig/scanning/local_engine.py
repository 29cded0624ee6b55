"""The local engine: worker processes that measure, within limits that cost one image and no other.

Workers are forked, so that they share the keys and start with everything loaded. Each has two chunks of items
at most, one at work and one waiting, and items are drawn from their source only when a worker has room: what
the engine holds does not grow with the scan. When a worker dies, of a limit or of what it was given, it has
said which item it was at; that one gets a row that says so, after a second try with a worker of its own where
it may not be to blame, and the others are given to another worker.

Where there is no fork (Windows), everything runs in this process, without limits.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import selectors
import signal
import threading
import time
import warnings
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection

from stablesig.scanning.item import Item
from stablesig.scanning.local_worker import (
    BEGUN,
    CELLS,
    DEADLINE,
    FETCHING,
    NO_DEADLINE,
    OUT_OF_MEMORY,
    WORKED,
    Measure,
    become_worker,
    item_values,
)
from stablesig.scanning.measuring import WorkerState, measure_item, unreadable, warm_up
from stablesig.scanning.reading_ahead import NETWORK_KINDS
from stablesig.scanning.row import Row
from stablesig.scanning.settings import ScanSettings
from stablesig_detector.errors import StableSigError, UsageError
from stablesig_detector.guard import ending

CHUNK = 16  # items that travel together
_NETWORK_CHUNK = 8  # of them, from the network
_CHUNK_BYTES = 1 << 23  # of items that carry their bytes
_CHUNKS_AHEAD = 2  # that a worker has
_GRACE = 5.0  # s after which a worker is killed that its own alarm did not end
_AT_WORK = 0.5  # of its time an item must have used the processor, or it is given a second try
_DEATHS = 8  # in a row that no item is to blame for
_PAUSE = 0.1  # s between looks at a source that has nothing at the moment


def default_jobs() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def scan_items(
    items: Iterable[Item | None], settings: ScanSettings, jobs: int, *, measure: Measure = measure_item
) -> Generator[list[Row], None, None]:
    """The rows of each item, one list an item, in the order in which they are done.

    items: drawn from as workers have room, 32 a worker ahead at most, in the process and thread of the
    caller; what its iterator raises is raised here. None in it says that there is nothing more at the
    moment: the engine then hands on what it has, without waiting for a full chunk, yields [] if nothing is
    under way, and draws again, 10 times a second at most while something is under way.
    Asked again after None, the iterator should soon return, as what is done meanwhile waits for it.
    jobs: worker processes.  measure: instead of `measure_item`, for tests.

    Every item gets one list, whatever happens to its worker. Closing the iterator ends the workers.
    Raises UsageError for jobs < 1, and whatever is wrong with the settings, before anything is drawn.
    """
    if jobs < 1:
        raise UsageError(f"at least one worker is needed; got {jobs} jobs")
    warm_up(settings)
    if not hasattr(os, "fork"):
        return _here(items, settings, measure)
    return _Engine(iter(items), settings, jobs, measure).run()


def _here(
    items: Iterable[Item | None], settings: ScanSettings, measure: Measure
) -> Generator[list[Row], None, None]:
    state = WorkerState()
    for item in items:
        yield [] if item is None else measure(item, settings, state)


@dataclass
class _Chunk:
    """Items to be given to one worker. alone: to a fresh one, which gets nothing else meanwhile."""

    items: list[Item]
    alone: bool = False


class _Worker:
    """A forked process, and the pipe to it. items: given to it and not answered."""

    def __init__(self, engine: _Engine, *, alone: bool) -> None:
        self.items: deque[Item] = deque()
        self.chunks: deque[int] = deque()  # how many of the items are in each chunk that it has
        self.answered = 0
        self.alone = alone
        self.worked = 0.0  # s of processor time in its whole life, once it has ended
        self.connection, far_end = _pipe()
        near_ends = [self.connection, *(worker.connection for worker in engine.workers)]
        self.cells = memoryview(mmap.mmap(-1, 8 * CELLS)).cast("d")
        self.cells[DEADLINE] = NO_DEADLINE
        main = threading.current_thread() is threading.main_thread()
        parent = os.getpid() if main else None
        with warnings.catch_warnings():
            # Python 3.12 warns of forking beside threads: of OpenBLAS, which restarts its own, and of the
            # progress bar, which no worker touches.
            warnings.simplefilter("ignore", DeprecationWarning)
            self.process = os.fork()
        if self.process == 0:
            become_worker(far_end, near_ends, self.cells, engine.settings, engine.measure, parent)
        far_end.close()

    @property
    def has_room(self) -> bool:
        return len(self.chunks) < _CHUNKS_AHEAD and not (self.alone and self.chunks)

    def give(self, chunk: _Chunk) -> None:
        self.items += chunk.items
        self.chunks.append(len(chunk.items))
        with contextlib.suppress(
            BrokenPipeError, ConnectionResetError
        ):  # it died; its end of the pipe says so
            self.connection.send([item_values(item) for item in chunk.items])

    def take(self) -> list[list[Row]]:
        """Rows that have come from it. Raises EOFError or OSError if it died."""
        outcomes = self.connection.recv()
        for _ in outcomes:
            self.items.popleft()
            self.chunks[0] -= 1
            if not self.chunks[0]:
                self.chunks.popleft()
        self.answered += len(outcomes)
        if not self.chunks:
            self.alone = False
        return [[Row(*values) for values in rows] for rows in outcomes]

    @property
    def is_stuck(self) -> bool:
        return bool(self.chunks) and time.monotonic() > self.cells[DEADLINE] + _GRACE

    def end(self) -> int:
        """Make sure that it ends; exit code, or minus the signal that ended it."""
        status = 0
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            os.kill(self.process, signal.SIGKILL)  # if it has ended already, this changes nothing
            for _ in range(5000):
                ended, status, used = os.wait4(self.process, os.WNOHANG)
                if ended:
                    self.worked = used.ru_utime + used.ru_stime
                    break
                time.sleep(0.001)  # a process that waits for a dead file server does not even end now
        self.connection.close()
        return os.waitstatus_to_exitcode(status)


class _Engine:
    """One scan. The fields are the arguments of `scan_items`."""

    def __init__(
        self, items: Iterator[Item | None], settings: ScanSettings, jobs: int, measure: Measure
    ) -> None:
        self.items, self.settings, self.jobs, self.measure = items, settings, jobs, measure
        self.workers: list[_Worker] = []
        self._selector = selectors.DefaultSelector()
        self._again: deque[_Chunk] = deque()  # that a worker left behind when it died
        self._drawn = 0
        self._unexplained = 0  # deaths in a row that no item is to blame for
        self._exhausted = False

    def run(self) -> Generator[list[Row], None, None]:
        try:
            while True:
                idle = self._hand_out()
                busy = any(worker.chunks for worker in self.workers)
                if not busy and self._exhausted and not self._again:
                    return
                if not busy:
                    yield []
                    continue
                yield from self._collect(_PAUSE if idle else 1.0)
        finally:
            for worker in self.workers:
                worker.end()
            self._selector.close()

    def _hand_out(self) -> bool:
        """Give what there is to workers that have room; whether the source had nothing at the moment."""
        while True:
            chunk = self._again[0] if self._again else None
            worker = self._with_room(fresh=chunk is not None and chunk.alone)
            if worker is None:
                return False
            if chunk is not None:
                self._again.popleft()
            else:
                chunk, paused = self._draw()
                if not chunk.items:
                    return paused
            worker.give(chunk)

    def _with_room(self, *, fresh: bool) -> _Worker | None:
        """The worker that has least to do, or a new one; None if all have enough."""
        free = [worker for worker in self.workers if worker.has_room]
        least = min(free, key=lambda worker: len(worker.chunks), default=None)
        if not fresh and least is not None and not least.chunks:
            return least
        if len(self.workers) < self.jobs and (self._again or not self._exhausted):
            worker = _Worker(self, alone=fresh)
            self.workers.append(worker)
            self._selector.register(worker.connection, selectors.EVENT_READ, worker)
            return worker
        if fresh and least is not None and not least.chunks:  # one that has nothing to do makes room
            self._remove(least)
            return self._with_room(fresh=True)
        return None if fresh else least

    def _draw(self) -> tuple[_Chunk, bool]:
        """The next items, few in the beginning so that all workers get some; whether None came."""
        chunk = _Chunk([])
        room = 1 if self.settings.search == "full" else min(CHUNK, 1 + self._drawn // (8 * self.jobs))
        size, network = 0, 0
        while not self._exhausted and len(chunk.items) < room:
            try:
                item = next(self.items)
            except StopIteration:
                self._exhausted = True
                break
            if item is None:
                return chunk, True
            chunk.items.append(item)
            self._drawn += 1
            size += len(item.data or b"")
            if item.kind in NETWORK_KINDS:  # which a worker waits for together, however few there are yet
                network, room = network + 1, max(room, _NETWORK_CHUNK)
            if size > _CHUNK_BYTES or network >= _NETWORK_CHUNK:
                break
        return chunk, False

    def _collect(self, seconds: float) -> Iterator[list[Row]]:
        """What has come from workers, within so many seconds; and what became of those that died."""
        for key, _ in self._selector.select(seconds):
            worker: _Worker = key.data
            try:
                outcomes = worker.take()
            except (EOFError, OSError):
                yield from self._bury(worker)
            else:
                self._unexplained = 0
                yield from outcomes
        for worker in [worker for worker in self.workers if worker.is_stuck]:
            yield from self._bury(worker, stuck=True)

    def _bury(self, worker: _Worker, *, stuck: bool = False) -> Iterator[list[Row]]:
        """The row of the item that a worker died of, if that is certain; the others are given out again."""
        code = self._remove(worker)
        left = list(worker.items)
        place = int(worker.cells[BEGUN]) - 1 - worker.answered  # of the item that it was at
        if not 0 <= place < len(left):  # killed from outside, between items; or it did not come to life
            self._unexplained += 1
            if self._unexplained > _DEATHS:
                raise StableSigError(
                    f"workers end ({ending(code)}) before they have begun; give them more memory "
                    "(--memory-limit), or use fewer (--jobs)"
                )
            if left:
                self._again.append(_Chunk(left))
            return
        blamed, others = left[place], left[:place] + left[place + 1 :]
        if others:
            self._again.append(_Chunk(others))
        late, fetching = stuck or code == -signal.SIGALRM, bool(worker.cells[FETCHING])
        # Hardly any of the time was spent at work: the machine was busy with others, or stood still.
        stalled = late and worker.worked - worker.cells[WORKED] < _AT_WORK * (self.settings.seconds or 0.0)
        if late and (fetching or worker.alone or not stalled):
            yield [self._too_slow(blamed, fetching=fetching)]
        elif not worker.alone:  # what it measured before may be to blame, or whoever sent the signal
            self._again.append(_Chunk([blamed], alone=True))
        elif code == OUT_OF_MEMORY:
            yield [unreadable(blamed, "does not fit in memory; make it smaller", "memory")]
        else:
            problem = f"made its reader crash ({ending(code)}); use another copy"
            yield [unreadable(blamed, problem, "crash")]

    def _too_slow(self, item: Item, *, fetching: bool) -> Row:
        if fetching:
            seconds = self.settings.fetch_seconds
            problem = f"did not arrive within {seconds or 0.0:g} s, all tries together; try again later"
            return unreadable(item, problem, "network", seconds=seconds)
        seconds = self.settings.seconds
        problem = f"took more than {seconds or 0.0:g} s; make it smaller"
        return unreadable(item, problem, "time", seconds=seconds)

    def _remove(self, worker: _Worker) -> int:
        self._selector.unregister(worker.connection)
        self.workers.remove(worker)
        return worker.end()


def _pipe() -> tuple[Connection, Connection]:
    import multiprocessing

    near, far = multiprocessing.get_context("fork").Pipe()
    return near, far
