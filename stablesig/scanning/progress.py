"""How far a scan is, on standard error: a bar on a terminal, elsewhere a line at times."""

from __future__ import annotations

import contextlib
import mmap
import os
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any, Self

from stablesig.progress import LINE_EVERY_S, StandardErrorBar
from stablesig.scanning.tally import Tally

_EVERY_S = 0.2  # between changes of the bar
_COUNT, _COUNTED = 0, 1  # cells of the counter's memory


class CountingAhead:
    """Counts what a scan is going to find in a process of its own, while the scan is at work.

    Finding an image takes a hundredth of the time of measuring it, but where every folder or archive comes
    over the network or is unpacked on the way. A context manager, which ends the counting.

    found: what is to be counted; None: nothing is, and the total stays unknown.
    """

    def __init__(self, found: Callable[[], Iterable[object]] | None) -> None:
        self._found = found
        self._cells: memoryview[Any] = memoryview(mmap.mmap(-1, 16)).cast("q")
        self._process = 0

    def __enter__(self) -> Self:
        if self._found is not None and hasattr(os, "fork"):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # see local_engine
                self._process = os.fork()
            if self._process == 0:
                self._count(self._found, os.getppid())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process:
            with contextlib.suppress(ProcessLookupError, ChildProcessError):
                os.kill(self._process, signal.SIGKILL)
                os.waitpid(self._process, 0)

    @property
    def total(self) -> int | None:
        """How many there are; None while they are being counted, or if that failed."""
        return int(self._cells[_COUNT]) if self._cells[_COUNTED] else None

    def _count(self, found: Callable[[], Iterable[object]], parent: int) -> None:
        """The life of the counting process. Does not return."""
        try:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            nowhere = os.open(os.devnull, os.O_RDWR)
            for stream in (0, 1, 2):
                os.dup2(nowhere, stream)
            os.nice(10)
            count = 0
            for count, _ in enumerate(found(), 1):
                if count % 1024 == 0 and os.getppid() != parent:
                    break
            else:
                self._cells[_COUNT], self._cells[_COUNTED] = count, 1
        finally:
            os._exit(0)


class ScanProgress(StandardErrorBar):
    """A context manager to call after each image.

    total: how many images there are, asked for while it is None.
    """

    def __init__(self, total: Callable[[], int | None] = lambda: None) -> None:
        super().__init__("measured")
        self._total = total
        self._task = self._bar.add_task("scanning", total=None, measured="")
        self._started = time.monotonic()
        self._next = self._started  # when the bar is to change
        self._before: int | None = None  # images that an earlier run did

    def __call__(self, tally: Tally, before: int) -> None:
        """tally: of all images so far.  before: how many of them an earlier run did."""
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + _EVERY_S
        if self._before is None:
            self._before = before
        images, total = tally.images, self._total()
        rate = (images - before) / max(now - self._started, 1e-9)
        measured = (
            f"{rate:,.1f} images/s  {tally.detected:,} detected  {tally.unreadable.total():,} unreadable"
        )
        if not self._bar.disable:
            self._bar.update(self._task, completed=images, total=total, measured=measured)
            return
        if now - self._last_line < LINE_EVERY_S:
            return
        self._last_line = now
        of = "" if total is None else f" of {total:,}"
        left = "" if total is None or not rate else f"  {_time(max(total - images, 0) / rate)} left"
        print(f"{images:,}{of} images  {measured}{left}", file=sys.stderr, flush=True)


def _time(seconds: float) -> str:
    """Two units at most: 45 s, 12 min, 3 h 20 min, 2 d 4 h."""
    minutes = round(seconds / 60)
    if minutes < 2:
        return f"{seconds:.0f} s"
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 24:
        return f"{hours} h {minutes} min"
    return f"{hours // 24} d {hours % 24} h"
