"""Watch mode: uploads are scanned as they come, until the process is told to stop.

What is done is decided by the committed parts, so a follower may be killed at any moment and started again.
Rows are committed every few seconds; only then does a file of a queue move on, and is anything counted.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from stablesig.detect_output import DETECTED, UNREADABLE
from stablesig.scanning.arrivals import Arrival, Uploads
from stablesig.scanning.committed import Committed
from stablesig.scanning.compaction import Compactor
from stablesig.scanning.item import Item, identity_of
from stablesig.scanning.local_engine import scan_items
from stablesig.scanning.metrics import ScanMetrics, serving
from stablesig.scanning.queue_folder import LEASE_S, QueueFolder
from stablesig.scanning.row import Row
from stablesig.scanning.run_folder import Run, holds_scan, metadata, open_run, places
from stablesig.scanning.watched_tree import WatchedTree
from stablesig_detector.errors import UsageError

if TYPE_CHECKING:
    from stablesig.scanning.settings import ScanSettings
    from stablesig.scanning.stopping import Stop

INTERVAL_S, SETTLE_S, COMMIT_S = 1.0, 2.0, 5.0
_POLL_SHARE = 0.25  # of one core, at most, for looking for uploads


@dataclass(frozen=True)
class FollowSummary:
    """What was made durable. out: the data set.  images: inputs, of which so many detected and unreadable."""

    out: Path
    images: int
    detected: int
    unreadable: int
    seconds: float

    @property
    def interrupted(self) -> str:
        """What to tell whoever pressed Ctrl-C."""
        return f"stopped; all that was measured is in {self.out}; run the same command again to go on"

    def __str__(self) -> str:
        return (
            f"{self.images:,} images in {self.seconds:,.0f} s, {self.detected:,} detected, "
            f"{self.unreadable:,} unreadable: {self.out}"
        )


def follow(
    sources: Sequence[str],
    settings: ScanSettings,
    out: Path | str,
    *,
    jobs: int,
    stop: Stop,
    interval: float = INTERVAL_S,
    settle: float = SETTLE_S,
    commit: float = COMMIT_S,
    queue: Path | None = None,
    metrics: str | None = None,
    recursive: bool = True,
    all_files: bool = False,
    on_warning: Callable[[str], None] = lambda text: None,
    on_start: Callable[[str | None], None] = lambda url: None,
) -> FollowSummary:
    """Scan what is in the folders `sources`, and in `queue`, and what comes into them, until `stop` is set.

    out: a data set, begun or gone on with.  interval: s between looks.  settle: s for which an upload must
    have been still.  commit: s after which rows are committed at the latest, but for the time that one image
    takes.  metrics: address for Prometheus, see `metrics_address`.  recursive, all_files: of folders, as
    for a scan.  on_start: is told the URL of the metrics, if there are any, when all is ready.

    When `stop` is set, what was begun is finished and committed. Raises UsageError, and what `open_run` and
    `scan_items` raise, before anything is scanned; OutputError when rows cannot be written any more.
    """
    _check(sources, queue, interval, settle, commit)
    _, folder, _ = places(out)
    if folder != Path(out):
        raise UsageError(f"--follow writes a folder of parts, which {out} would not be; end --out in /")
    if all_files:
        _check_out(sources, folder)
    with ExitStack() as held:
        counts = None if metrics is None else ScanMetrics(_about(settings))
        url = None if counts is None or metrics is None else held.enter_context(serving(counts, metrics))
        run = held.enter_context(
            open_run(
                out, settings.identity() | {"follow": True}, resume=holds_scan(folder), on_warning=on_warning
            )
        )
        compactor = Compactor(run.folder, metadata(run.about))
        committed = Committed(run.folder)
        uploads: list[Uploads] = []
        if sources:
            uploads.append(
                WatchedTree(
                    sources,
                    committed,
                    settle=settle,
                    interval=interval,
                    recursive=recursive,
                    all_files=all_files,
                    on_warning=on_warning,
                )
            )
        if queue is not None:
            lease = max(LEASE_S, 4.0 * (settings.seconds or 0.0))
            uploads.append(
                QueueFolder(queue, run.folder, committed, settle=settle, lease=lease, on_warning=on_warning)
            )
        for place in uploads:
            held.callback(place.close)
        follower = _Follower(uploads, run, committed, compactor, counts, stop, interval, commit)
        on_start(url)
        follower.run(settings, jobs)
        compactor.compact()
        run.finish()
        return follower.summary()


class _Follower:
    """One run of `follow`."""

    def __init__(
        self,
        uploads: Sequence[Uploads],
        run: Run,
        committed: Committed,
        compactor: Compactor,
        metrics: ScanMetrics | None,
        stop: Stop,
        interval: float,
        commit: float,
    ) -> None:
        self._uploads, self._out, self._committed = uploads, run.out, committed
        self._compactor, self._metrics, self._stop = compactor, metrics, stop
        self._interval, self._commit_s = interval, commit
        self._writer = run.writer(seconds=math.inf)  # when to commit is decided here
        self._at_work: dict[bytes, tuple[Uploads, Arrival]] = {}
        self._written: list[tuple[Uploads, Arrival, Sequence[Row]]] = []  # and not committed
        self._written_since = 0.0
        self._next_poll, self._polled = 0.0, False  # since `_items` last went through what is ready
        self._backlog, self._oldest = 0, math.inf  # for the thread that answers Prometheus
        self._began = time.monotonic()
        self._images = self._detected = self._unreadable = 0
        if metrics is not None:
            metrics.follow_backlog(
                lambda: self._backlog,
                lambda: max(0.0, time.monotonic() - self._oldest) if self._backlog else 0.0,
            )

    def run(self, settings: ScanSettings, jobs: int) -> None:
        results = scan_items(self._items(), settings, jobs)
        try:
            for rows in results:
                if rows:
                    self._take(rows)
                elif not self._stop.is_set():
                    self._rest()
                self._tick()
                self._poll_if_due()  # while workers have enough nothing is drawn, and a lease must be kept
        finally:
            results.close()  # its workers end
        self._commit()

    def summary(self) -> FollowSummary:
        seconds = time.monotonic() - self._began
        return FollowSummary(self._out, self._images, self._detected, self._unreadable, seconds)

    def _items(self) -> Iterator[Item | None]:
        """What is to be scanned; None whenever there is nothing at the moment."""
        while not self._stop.is_set():
            self._poll_if_due()
            if not self._polled:
                self._tick()
                yield None
                continue
            self._polled = False
            for place in self._uploads:
                for arrival in place.ready():
                    self._at_work[arrival.item.identity] = place, arrival
                    yield arrival.item
                    if self._stop.is_set():
                        return
                    self._poll_if_due()

    def _poll_if_due(self) -> None:
        began = time.monotonic()
        if began < self._next_poll:
            return
        self._polled = True
        for place in self._uploads:
            place.poll()
        now = time.monotonic()
        self._next_poll = now + max(self._interval, (now - began) * (1 / _POLL_SHARE - 1))
        self._measure_backlog()
        if self._metrics is not None:
            self._metrics.polled(now - began, sum(place.missing for place in self._uploads))

    def _measure_backlog(self) -> None:
        """Ask here, where nothing changes meanwhile, and not in the thread that answers Prometheus."""
        self._backlog = sum(place.backlog for place in self._uploads)
        self._oldest = min((place.oldest or math.inf for place in self._uploads), default=math.inf)

    def _take(self, rows: Sequence[Row]) -> None:
        """Write the rows of one upload, and see whether that committed them."""
        place, arrival = self._at_work.pop(identity_of(rows[0].path, rows[0].path_bytes))
        rows = place.rows(arrival, rows)
        if not rows:
            return
        if not self._written:
            self._written_since = time.monotonic()
        self._written.append((place, arrival, rows))
        self._writer.add(rows)
        if not self._writer.waiting:  # it was full
            self._are_durable()

    def _tick(self) -> None:
        if self._written and time.monotonic() - self._written_since >= self._commit_s:
            self._commit()

    def _commit(self) -> None:
        waiting, part = self._writer.waiting, self._writer.flush()
        self._are_durable()
        if part is not None:
            self._compactor.added(part, waiting)

    def _are_durable(self) -> None:
        """All rows that were written are committed: settle their uploads, and count them."""
        now, written, self._written = time.monotonic(), self._written, []
        for place, arrival, rows in written:
            self._committed.add(rows)
            place.durable(arrival, rows)
            self._images += 1
            self._detected += rows[0].verdict == DETECTED
            self._unreadable += rows[0].verdict == UNREADABLE
            if self._metrics is not None:
                self._metrics.image(rows, now - arrival.seen)
        if written and self._metrics is not None:
            self._metrics.committed()
        self._measure_backlog()

    def _rest(self) -> None:
        """Nothing is under way: wait for the next look, or for the next commit."""
        until = self._next_poll
        if self._written:
            until = min(until, self._written_since + self._commit_s)
        self._stop.wait(max(0.0, until - time.monotonic()))


def _check(sources: Sequence[str], queue: Path | None, interval: float, settle: float, commit: float) -> None:
    if not sources and queue is None:
        raise UsageError("there is nothing to follow; name folders, or a queue with --queue")
    if not 0.0 < interval <= 86_400.0:
        raise UsageError(f"--interval lies above 0 and up to 86,400 s; got {interval:g}; try {INTERVAL_S:g}")
    if not 0.0 <= settle <= 86_400.0:
        raise UsageError(f"--settle lies between 0 and 86,400 s; got {settle:g}; try {SETTLE_S:g}")
    if not 0.0 < commit <= 3600.0:
        raise UsageError(f"rows are committed every 0 to 3,600 s; got {commit:g}; try {COMMIT_S:g}")
    for source in sources:
        if "://" in source or (os.path.lexists(source) and not Path(source).is_dir()):
            raise UsageError(f"{source} is no folder; --follow watches folders, or a queue with --queue")
    if sources and queue is None and not any(os.path.lexists(source) for source in sources):
        raise UsageError(f"no such folder: {', '.join(sources)}; check the path, or make it first")
    for source in sources if queue is not None else ():
        if queue is not None and _overlap(queue, Path(source)):
            raise UsageError(
                f"the queue {queue} and {source}, which is followed, lie in one another, so files would be "
                "scanned twice; put it elsewhere"
            )


def _check_out(sources: Sequence[str], folder: Path) -> None:
    """Every file counts as an upload, and every part that is written would be the next one."""
    for source in sources:
        if folder.resolve().is_relative_to(Path(source).resolve()):
            raise UsageError(
                f"--out {folder} lies in {source}, which is followed with --all-files, so that results would "
                "be scanned without end; put it elsewhere"
            )


def _overlap(one: Path, other: Path) -> bool:
    one, other = one.resolve(), other.resolve()
    return one.is_relative_to(other) or other.is_relative_to(one)


def _about(settings: ScanSettings) -> dict[str, str]:
    """The labels of the build info."""
    from stablesig import __version__

    identity = settings.identity()
    return {
        "version": __version__,
        "features": str(identity["features"]),
        "keys": str(identity["keys"])[:16],
        "n_keys": str(identity["n_keys"]),
        "search": settings.search,
    }
