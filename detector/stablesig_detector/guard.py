"""One bad image costs that image: each is handled in a worker process, within limits of memory and time.

The workers are forked, so that they start in milliseconds with everything loaded that the caller had loaded,
and `function` needs no pickling. Items and results travel through pipes and do. This bounds accidents and
hostile files that make a decoder loop, grow or crash; it is no sandbox for one that takes a process over.
What workers write to stderr is dropped: libtiff comments there on every damaged strip.

Where there is no fork (Windows), everything runs in this process, with neither limit. Memory is limited on
Linux only.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

from .errors import ImageError, StableSigError, UsageError

if TYPE_CHECKING:
    from multiprocessing.connection import Connection
    from multiprocessing.process import BaseProcess

Item = TypeVar("Item")
Result = TypeVar("Result")
_OUT_OF_MEMORY = 75  # exit code of a worker that had not even enough left to say so
_ORPHANED = 5.0  # s beyond its time after which a worker ends itself: nobody has ended it
_AHEAD = 4  # items that a worker may be ahead of the one whose result is awaited


@dataclass(frozen=True)
class Failure(Generic[Item]):
    """An item that gave no result.

    kind: "error": the function raised what it documents; "defect": it raised something else; "time",
        "memory": it passed a limit; "died": its process ended
    error: what to tell the user; for "error" the very exception that was raised
    """

    item: Item
    kind: Literal["error", "defect", "time", "memory", "died"]
    error: StableSigError


def guarded(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    *,
    seconds: float | None = 10.0,
    memory_bytes: int | None = 1 << 30,
    jobs: int = 1,
) -> Iterator[Result | Failure[Item]]:
    """Run `function` on each item in a worker process; results in the order of the items.

    seconds: of wall-clock time for one item.  memory_bytes: of private memory above what a worker starts
    with.  None lifts a limit.  jobs: workers at a time.  `items` is drawn from as workers become free, at
    most 4 items a worker ahead; whatever its iterator raises is raised here.

    Nothing that `function` does ends the iteration: what it raises, and its process passing a limit or dying,
    is a Failure for its item, after which a fresh process goes on. Raises UsageError for jobs < 1.
    """
    if jobs < 1:
        raise UsageError(f"at least one worker is needed; got {jobs}")
    if not hasattr(os, "fork"):
        return (_outcome(function, item) for item in items)
    return _Pool(function, seconds, memory_bytes, jobs).run(iter(items))


def _name(item: object) -> str:
    name = getattr(item, "name", item)
    return f"item of {len(name):,} bytes" if isinstance(name, (bytes, bytearray)) else str(name)[:300]


def _outcome(function: Callable[[Item], Result], item: Item) -> Result | Failure[Item]:
    try:
        return function(item)
    except Exception as error:
        error.__traceback__ = None  # whose frames hold on to what filled the memory
        return _failure(item, error)


def _failure(item: Item, error: Exception) -> Failure[Item]:
    if isinstance(error, StableSigError):
        return Failure(item, "error", error)
    if isinstance(error, MemoryError):
        return _too_large(item)
    what = " ".join(f"{type(error).__name__}: {error}".split())[:200]
    text = f"{_name(item)}: met a defect of stablesig ({what}); please report it"
    return Failure(item, "defect", ImageError(text))


def _too_large(item: Item) -> Failure[Item]:
    return Failure(item, "memory", ImageError(f"{_name(item)}: does not fit in memory; make it smaller"))


def _too_slow(item: Item, seconds: float | None = None) -> Failure[Item]:
    long = "too long" if seconds is None else f"more than {seconds:g} s"
    return Failure(item, "time", ImageError(f"{_name(item)}: took {long}; make it smaller"))


class _Worker:
    """A forked process that waits for items, and the pipe to it."""

    def __init__(self, pool: _Pool[Any, Any]) -> None:
        import multiprocessing

        context = multiprocessing.get_context("fork")
        self.connection, far_end = context.Pipe()
        self.fresh = True
        self.number = -1  # of the item it has; -1: idle
        self.item: Any = None
        self.deadline = float("inf")
        # What this process must not inherit: while it held the near end of a pipe, no worker would learn that
        # the caller is gone.
        near_ends = [self.connection, *(worker.connection for worker in pool.workers)]
        self.process: BaseProcess = context.Process(
            target=_work, args=(pool, far_end, near_ends), daemon=True
        )
        with warnings.catch_warnings():
            # Python 3.12 warns of forking beside threads, those of OpenBLAS included, which restarts its own.
            warnings.simplefilter("ignore", DeprecationWarning)
            self.process.start()
        far_end.close()

    def give(self, number: int, item: Any, seconds: float | None) -> None:
        self.number, self.item = number, item
        self.deadline = time.monotonic() + seconds if seconds else float("inf")
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it died idle: `take` finds out
            self.connection.send(item)

    def take(self) -> Any:
        """The outcome of its item, which is there to be read, or the end of the pipe is."""
        try:
            outcome = self.connection.recv()
        except (EOFError, OSError):
            self.process.join(5.0)
            if self.process.exitcode == _OUT_OF_MEMORY:
                outcome = _too_large(self.item)
            elif self.process.exitcode == -signal.SIGALRM:  # before this process saw the time pass
                outcome = _too_slow(self.item)
            else:
                how = ending(self.process.exitcode)
                error = ImageError(f"{_name(self.item)}: made its reader crash ({how}); use another copy")
                outcome = Failure(self.item, "died", error)
        self.fresh = False
        return outcome

    def stop(self) -> None:
        self.process.kill()
        self.process.join(5.0)
        self.connection.close()


class _Pool(Generic[Item, Result]):
    def __init__(
        self,
        function: Callable[[Item], Result],
        seconds: float | None,
        memory_bytes: int | None,
        jobs: int,
    ) -> None:
        self.function, self.seconds, self.memory_bytes, self.jobs = function, seconds, memory_bytes, jobs
        self.workers: list[_Worker] = []

    def run(self, items: Iterator[Item]) -> Iterator[Result | Failure[Item]]:
        done: dict[int, Result | Failure[Item]] = {}
        awaited, given, exhausted = 0, 0, False
        try:
            while True:
                while not exhausted and given - awaited < _AHEAD * self.jobs and (worker := self._idle()):
                    try:
                        item = next(items)
                    except StopIteration:
                        exhausted = True
                    else:
                        worker.give(given, item, self.seconds)
                        given += 1
                if not any(worker.number >= 0 for worker in self.workers):
                    return
                done.update(self._collect())
                while awaited in done:
                    yield done.pop(awaited)
                    awaited += 1
        finally:
            for worker in self.workers:
                worker.stop()

    def _idle(self) -> _Worker | None:
        for worker in self.workers:
            if worker.number < 0:
                return worker
        return self._fresh() if len(self.workers) < self.jobs else None

    def _collect(self) -> dict[int, Result | Failure[Item]]:
        """Wait for a result or a deadline; what is finished then, by number."""
        from multiprocessing.connection import wait

        busy = [worker for worker in self.workers if worker.number >= 0]
        nearest = min(worker.deadline for worker in busy)
        left = None if nearest == float("inf") else max(nearest - time.monotonic(), 0.0)
        ready = wait([worker.connection for worker in busy], left)
        finished: dict[int, Result | Failure[Item]] = {}
        for worker in busy:
            used = not worker.fresh
            if worker.connection in ready:
                outcome = worker.take()
            elif time.monotonic() >= worker.deadline:
                outcome = _too_slow(worker.item, self.seconds)
            else:
                continue
            number, worker.number = worker.number, -1
            if isinstance(outcome, Failure):
                if outcome.kind in ("time", "memory", "died"):
                    self._discard(worker)
                if outcome.kind == "memory" and used:  # what earlier items left behind may be to blame
                    self._fresh().give(number, worker.item, self.seconds)
                    continue
                outcome = Failure(worker.item, outcome.kind, outcome.error)  # not the copy that came back
            finished[number] = outcome
        return finished

    def _discard(self, worker: _Worker) -> None:
        worker.stop()
        self.workers.remove(worker)

    def _fresh(self) -> _Worker:
        worker = _Worker(self)
        self.workers.append(worker)
        return worker


def _work(pool: _Pool[Any, Any], connection: Connection, near_ends: list[Connection]) -> None:
    """The life of a worker process."""
    for near_end in near_ends:
        near_end.close()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the caller's to answer; it ends the workers
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    limit_memory(pool.memory_bytes)
    try:
        _serve(pool.function, connection, pool.seconds)
    except MemoryError:
        os._exit(_OUT_OF_MEMORY)
    except (EOFError, OSError):
        return  # the caller has gone, or needs no more


def _serve(function: Callable[[Any], Any], connection: Connection, seconds: float | None) -> None:
    while True:
        item = connection.recv()
        if seconds:  # where the caller was killed, nobody else ends a decoder that hangs
            signal.setitimer(signal.ITIMER_REAL, seconds + _ORPHANED)
        outcome = _outcome(function, item)
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        if isinstance(outcome, Failure):
            outcome = replace(outcome, item=None)  # the caller has it; it may be large
        try:
            connection.send(outcome)  # pickles all of it before the first byte goes out
        except OSError:
            raise
        except Exception as error:
            error.__traceback__ = outcome = None
            connection.send(_failure(_name(item), error))


def limit_memory(memory_bytes: int | None) -> None:
    """Limit what private writable memory this process may add to what it has; None lifts no limit.

    RLIMIT_AS would also count what the allocator sets aside for threads.
    """
    if memory_bytes is None:
        return
    import resource

    with contextlib.suppress(ValueError, OSError):  # no /proc (macOS, BSD), or a stricter limit in force
        data_pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[5])
        hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
        limit = data_pages * resource.getpagesize() + memory_bytes
        resource.setrlimit(resource.RLIMIT_DATA, (limit if hard < 0 else min(limit, hard), hard))


def ending(exit_code: int | None) -> str:
    """How a process ended, in a word or two: the signal (a negative code) or its exit code."""
    if exit_code is not None and exit_code < 0:
        with contextlib.suppress(ValueError):
            return signal.Signals(-exit_code).name
    return f"exit code {exit_code}"
