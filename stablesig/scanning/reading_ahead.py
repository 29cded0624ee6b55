"""Bytes of the next inputs are read while one is measured, where reading makes a worker wait."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from stablesig.scanning.item import Item
from stablesig.scanning.reading import ReadOptions, read_item

THREADS = 8  # of one worker
_HELD_BYTES = 1 << 26  # read and not measured yet; beyond, nothing more is begun
# A thread costs some 0.1 ms of the worker's time: too much for a file that lies in the system's cache.
_SLOW = 1e-3  # s that reading a file takes on average, from which on it pays
NETWORK_KINDS = frozenset({"url", "remote"})


class ReadingAhead:
    """Reads items in the order in which they were announced; for one thread to use.

    began: `time.perf_counter()` at which the reading of the item read last began.  waiting: whether it is an
    item for which the network is waited now.
    """

    def __init__(self) -> None:
        self.began = 0.0
        self._pool: ThreadPoolExecutor | None = None
        self._announced: deque[Item] = deque()
        self._under_way: dict[int, Future[tuple[bytes, float]]] = {}  # by id(item)
        self._seconds = 0.0  # that reading a file took of late

    def announce(self, items: Sequence[Item]) -> None:
        """These will be asked for next, in this order."""
        slow = self._seconds > _SLOW
        self._announced += [item for item in items if item.kind in NETWORK_KINDS or slow]

    def start(self, options: ReadOptions) -> None:
        """Begin to read what was announced, as far as there are threads and room for it."""
        held = sum(len(work.result()[0]) for work in self._under_way.values() if _is_read(work))
        while self._announced and len(self._under_way) < 2 * THREADS and held < _HELD_BYTES:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(THREADS, "reading")
            item = self._announced.popleft()
            self._under_way[id(item)] = self._pool.submit(self._read, item, options)

    def read(self, item: Item, options: ReadOptions) -> bytes:
        """The bytes of an item. Raises ItemError."""
        if self._announced and self._announced[0] is item:  # there was no room for it
            self._announced.popleft()
        work = self._under_way.get(id(item))
        if work is None:
            data, self.began = self._read(item, options)
            return data
        try:
            data, self.began = work.result()
            return data
        finally:
            del self._under_way[id(item)]
            self.start(options)

    def _read(self, item: Item, options: ReadOptions) -> tuple[bytes, float]:
        began = time.perf_counter()
        data = read_item(item, options)
        if item.kind not in NETWORK_KINDS:
            self._seconds += 0.1 * (time.perf_counter() - began - self._seconds)
        return data, began


def _is_read(work: Future[tuple[bytes, float]]) -> bool:
    return work.done() and work.exception() is None
