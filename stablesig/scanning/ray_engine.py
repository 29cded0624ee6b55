"""The Ray engine: the workers of the local engine, on as many machines as a Ray cluster has.

An actor for every few cores measures chunks of items (`ray_worker`), and this process, which found the items,
is the only one that keeps rows: it commits them in the same parts as the local engine. So a chunk whose actor
or node died is simply given to another one, no row can come twice, no node has to be able to write, and a
scan that one engine began the other can go on with.

This is not on Ray Data, whose reader and checkpoints do not keep one outcome for every input:
`read_binary_files` passes over links that lead nowhere, ends with an error for a file that has vanished, and
cannot name one whose name is not UTF-8; on --resume its checkpoints have no effect, and rows are there twice,
unless a reader of files is the source. docs/scan-ray.md has what was tried.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from stablesig.scanning.item import Item
from stablesig.scanning.measuring import WorkerState, measure_item, unreadable
from stablesig.scanning.ray_connection import connected
from stablesig.scanning.ray_worker import ScanActor, Values, item_values, versions
from stablesig.scanning.row import Row
from stablesig.scanning.settings import ScanSettings
from stablesig_detector.errors import UsageError

CHUNK = 16  # items that travel together, for each worker of an actor
_CHUNK_BYTES = 1 << 23  # of items that carry their bytes
_CHUNKS_AHEAD = 3  # that an actor has: one slow image must not leave its other workers idle
_WORKERS = 8  # of an actor at most; they share one copy of the keys
_TRIES = 3  # actors that a chunk may lose, and then each of its items
_FAILED_STARTS = 5  # without one that succeeds, until the scan gives up
_PAUSE = 0.1  # s between looks at a source that has nothing at the moment
_PATIENCE = 30.0  # s without a single worker, until the user is told


@contextlib.contextmanager
def ray_engine(address: str | None = None, jobs: int | None = None) -> Iterator[RayEngine]:
    """An engine for `api.scan`, connected to Ray for as long as the block lasts.

    address: "auto" for the cluster that this machine belongs to, HOST:PORT or ray://HOST:PORT for another;
    None starts a Ray of its own on this machine, and ends it. A Ray that this process is connected to already
    is used, and left as it is.  jobs: CPUs to use; None: all that there are now.

        with ray_engine("auto") as engine:
            scan(sources, settings, out, engine=engine, jobs=engine.jobs)

    Raises MissingExtraError without Ray, and UsageError for jobs < 1 or a cluster that cannot be used.
    """
    if jobs is not None and jobs < 1:
        raise UsageError(f"at least one worker is needed; got {jobs} jobs")
    with connected(address, jobs) as ray:
        yield RayEngine(ray, jobs)


class RayEngine:
    """Measures like `local_engine.scan_items`, on Ray. jobs: CPUs that it uses."""

    def __init__(self, ray: Any, jobs: int | None) -> None:
        self._ray = ray
        self._cpus = _cpus_of_nodes(ray)
        self.jobs = sum(self._cpus) if jobs is None else jobs

    def __call__(
        self, items: Iterable[Item | None], settings: ScanSettings, jobs: int
    ) -> Iterator[list[Row]]:
        """The rows of each item, one list an item, in the order in which they are done.

        items: drawn in the process and thread of the caller as there is room; None in it says that there is
        nothing more at the moment, as for `scan_items`.  jobs: CPUs to use.

        Paths must lead to the same files on every node; one that does not is a row of kind "missing". Every
        item gets one list, however many actors and nodes die, as long as some are left or come to be. Closing
        the iterator ends the actors.

        Raises UsageError if a node has other versions than this process, or cannot measure, or none can start
        a worker.
        """
        return _Fleet(self._ray, iter(items), settings, _actor_sizes(self._cpus, jobs)).run()


@dataclass
class _Chunk:
    """Items that go to one actor. losses: actors that died while they had it.  alone: to one that has nothing
    else, as it is a single item that may be what they died of.
    """

    items: list[Item]
    losses: int = 0
    alone: bool = False


@dataclass
class _Actor:
    """An actor, and what it has to do: chunks by the reference to their rows. start: until it is ready."""

    handle: Any
    start: Any
    workers: int
    chunks: dict[Any, _Chunk] = field(default_factory=dict)

    def has_room(self, *, alone: bool) -> bool:
        if alone or any(chunk.alone for chunk in self.chunks.values()):
            return self.start is None and not self.chunks
        return self.start is None and len(self.chunks) < _CHUNKS_AHEAD


class _Fleet:
    """One scan. sizes: workers of each actor; the others are the arguments of `RayEngine.__call__`."""

    def __init__(
        self, ray: Any, items: Iterator[Item | None], settings: ScanSettings, sizes: list[int]
    ) -> None:
        self._ray, self.items, self.settings, self._sizes = ray, items, settings, sizes
        self._kept = ray.put(settings)  # once, however many actors read it from shared memory
        self._here = versions()
        self._class = ray.remote(max_concurrency=_CHUNKS_AHEAD + 2, scheduling_strategy="SPREAD")(ScanActor)
        self._actors: list[_Actor] = []
        self._again: deque[_Chunk] = deque()
        self._refused = WorkerState()
        self._drawn = 0
        self._exhausted = False
        self._failed_starts = 0
        self._since = time.monotonic()  # when there was a worker last

    def run(self) -> Iterator[list[Row]]:
        try:
            for size in self._sizes:
                self._actors.append(self._begin(size))
            while True:
                paused, refused = self._hand_out()
                yield from refused
                busy = any(actor.chunks for actor in self._actors)
                if not busy and self._exhausted and not self._again:
                    return
                if not busy and paused:
                    yield []
                yield from self._collect(
                    0.0 if refused or (paused and not busy) else _PAUSE if paused else 1.0
                )
        finally:
            for actor in self._actors:
                self._ray.kill(actor.handle)

    def _begin(self, workers: int) -> _Actor:
        folder = os.getcwd()  # noqa: PTH109
        handle = self._class.options(num_cpus=workers).remote(self._kept, workers, folder)
        return _Actor(handle, handle.start.remote(), workers)

    def _hand_out(self) -> tuple[bool, list[list[Row]]]:
        """Give chunks to actors that have room. Whether the source had nothing at the moment; rows of items
        that are refused, which need no worker.
        """
        while True:
            alone = bool(self._again) and self._again[0].alone
            free = [actor for actor in self._actors if actor.has_room(alone=alone)]
            if not free:
                return False, []
            actor = min(free, key=lambda actor: len(actor.chunks))
            paused, refused = False, list[list[Row]]()
            if self._again:
                chunk = self._again.popleft()
            else:
                chunk, paused, refused = self._draw(actor.workers)
            if chunk.items:
                rows = actor.handle.rows.remote([item_values(item) for item in chunk.items])
                actor.chunks[rows] = chunk
            if refused or not chunk.items:
                return paused, refused

    def _draw(self, workers: int) -> tuple[_Chunk, bool, list[list[Row]]]:
        """The next items, few in the beginning so that all workers get some; as in `_hand_out`."""
        chunk = _Chunk([])
        refused: list[list[Row]] = []
        most = 1 if self.settings.search == "full" else min(CHUNK, 1 + self._drawn // (8 * sum(self._sizes)))
        size = 0
        while not self._exhausted and len(chunk.items) < most * workers and size <= _CHUNK_BYTES:
            try:
                item = next(self.items)
            except StopIteration:
                self._exhausted = True
                break
            if item is None:
                return chunk, True, refused
            self._drawn += 1
            if item.kind == "refused":
                refused.append(measure_item(item, self.settings, self._refused))
                if len(refused) == CHUNK:
                    break
                continue
            chunk.items.append(item)
            size += len(item.data or b"")
        return chunk, False, refused

    def _collect(self, seconds: float) -> Iterator[list[Row]]:
        """What has come from actors, within so many seconds; and what becomes of what dead ones had."""
        waiting = {actor.start: actor for actor in self._actors if actor.start is not None}
        waiting |= {rows: actor for actor in self._actors for rows in actor.chunks}
        if not waiting:
            return
        ready, _ = self._ray.wait(list(waiting), num_returns=len(waiting), timeout=0.0)
        if not ready:
            ready, _ = self._ray.wait(list(waiting), num_returns=1, timeout=seconds)
        for reference in ready:
            actor = waiting[reference]
            if reference == actor.start:
                self._take_start(actor)
            elif reference in actor.chunks:
                yield from self._take_rows(actor, reference)
        self._watch()

    def _take_start(self, actor: _Actor) -> None:
        """See whether an actor can measure. Raises UsageError if its node, or every node, cannot."""
        try:
            node, there, problem = self._ray.get(actor.start)
        except self._ray.exceptions.RayError as error:
            self._failed_starts += 1
            if self._failed_starts >= _FAILED_STARTS and all(one.start is not None for one in self._actors):
                raise UsageError(
                    f"no worker can be started on the Ray cluster; is stablesig[scan-ray] installed on every "
                    f"node? The last one said: {_last_line(error)}"
                ) from None
            self._replace(actor)
            return
        if problem is not None:
            raise UsageError(f"node {node} cannot measure: {problem}")
        _check_versions(node, self._here, there)
        self._failed_starts = 0
        actor.start = None

    def _take_rows(self, actor: _Actor, reference: Any) -> Iterator[list[Row]]:
        try:
            outcomes: list[list[Values]] = self._ray.get(reference)
        except self._ray.exceptions.RayError:
            yield from self._bury(actor)
            return
        del actor.chunks[reference]
        for rows in outcomes:
            yield [Row(*values) for values in rows]

    def _bury(self, actor: _Actor) -> Iterator[list[Row]]:
        """Replace an actor that died; its chunks go to others, and what too many died of gets its row."""
        chunks, actor.chunks = list(actor.chunks.values()), {}
        self._replace(actor)
        for chunk in chunks:
            chunk.losses += 1
            if chunk.losses < _TRIES:
                self._again.append(chunk)
            elif not chunk.alone:
                self._again += [_Chunk([item], alone=True) for item in chunk.items]
            else:
                problem = f"lost {_TRIES} machines or processes that were reading it; try it alone"
                yield [unreadable(chunk.items[0], problem, "crash", seconds=0.0)]

    def _replace(self, actor: _Actor) -> None:
        self._ray.kill(actor.handle)  # it may be the process beside it that died
        self._actors.remove(actor)
        self._actors.append(self._begin(actor.workers))

    def _watch(self) -> None:
        """Tell the user of long times without a worker: the cluster is full, or its nodes on their way."""
        now = time.monotonic()
        if any(actor.start is None for actor in self._actors):
            self._since = now
        elif now - self._since > _PATIENCE:
            self._since = now
            print(
                f"waiting for the Ray cluster to give {self._sizes[0]} CPUs to a worker; see `ray status`",
                file=sys.stderr,
                flush=True,
            )


def _cpus_of_nodes(ray: Any) -> list[int]:
    """Of those nodes that have any. Raises UsageError if none has."""
    counts = [int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]]
    if not any(counts):
        raise UsageError("the Ray cluster has no CPU to give; start a node with --num-cpus above 0")
    return [count for count in counts if count]


def _actor_sizes(cpus: list[int], jobs: int) -> list[int]:
    """How many workers each actor has: `jobs` together, and no more than the smallest node has CPUs."""
    size = min(_WORKERS, jobs, *cpus)
    return [size] * (jobs // size) + [jobs % size] * bool(jobs % size)


def _check_versions(node: str, here: Mapping[str, str], there: Mapping[str, str]) -> None:
    """Raise UsageError unless a node has the versions of this process."""
    differing = [name for name in here if here[name] != there.get(name)]
    if differing:
        listed = ", ".join(f"{name} {there.get(name, 'none')} (here {here[name]})" for name in differing)
        raise UsageError(
            f"node {node} has {listed}, and rows would depend on the node that made them; install the same "
            "versions on every node"
        )


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines or [type(error).__name__])[-1][:300]
