"""A whole scan: from sources to results, on one machine, in one call."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any, Protocol, cast

from stablesig import __version__
from stablesig.scanning.interruptions import Interruptions
from stablesig.scanning.item import Item
from stablesig.scanning.local_engine import default_jobs, scan_items
from stablesig.scanning.path_set import PathSet
from stablesig.scanning.row import Row
from stablesig.scanning.run_folder import Run, open_run
from stablesig.scanning.settings import ScanSettings
from stablesig.scanning.sources import SourceOptions, find_items
from stablesig.scanning.tally import Tally, tally_of

PART_ROWS = 50_000
PART_SECONDS = 30.0


@dataclass(frozen=True)
class ScanResult:
    """How a scan ended.

    out: the file, or the folder of parts, with the results.  tally: of all images, those of earlier runs
    included.  before: how many of them earlier runs had done.  seconds: wall-clock time of this run.  jobs:
    worker processes.
    """

    out: Path
    tally: Tally
    before: int
    seconds: float
    jobs: int

    @property
    def images_per_second(self) -> float:
        """Of this run."""
        return (self.tally.images - self.before) / self.seconds if self.seconds > 0 else 0.0


class Engine(Protocol):
    """What `local_engine.scan_items` does."""

    def __call__(
        self, items: Iterable[Item | None], settings: ScanSettings, jobs: int
    ) -> Iterator[list[Row]]: ...


class Observer(Protocol):
    """Is told of rows that were made durable, all of one image together."""

    def image(self, rows: Sequence[Row]) -> None: ...
    def committed(self) -> None: ...


def scan(
    sources: Sequence[str],
    settings: ScanSettings,
    out: Path | str,
    *,
    options: SourceOptions | None = None,
    format: str | None = None,
    jobs: int | None = None,
    resume: bool = False,
    engine: Engine = scan_items,
    progress: Callable[[Tally, int], None] | None = None,
    observer: Observer | None = None,
    on_warning: Callable[[str], None] | None = None,
) -> ScanResult:
    """Look for the keys of `settings` in all images that `sources` name; results go to `out`.

    sources, options: see `find_items`.  out, format, resume: see `open_run`.  jobs: worker processes; None:
    one for each core.  progress: called after each image with what became of all so far, and how many of them
    earlier runs had done.  on_warning: is told of damaged parts.

    Every input gets exactly one outcome, whatever it holds. What is done is committed in parts, at the latest
    every 30 seconds, also when the scan is interrupted (Ctrl-C and SIGTERM raise KeyboardInterrupt here) or
    the disk is full; `resume` then goes on.

    Raises UsageError, KeyFileError, OutputError.
    """
    started = time.monotonic()
    found = find_items(sources, options or SourceOptions(read=settings.read))
    workers = default_jobs() if jobs is None else jobs
    with Interruptions() as interruptions:
        identity = scan_identity(sources, settings, options)
        run = open_run(out, identity, format=format, resume=resume, on_warning=on_warning)
        with run:
            done = PathSet(run.done()) if resume else PathSet()
            before = len(done)
            tally = tally_of(run.folder, before) if resume else Tally()
            # The states of keys are those of the day on which the scan began, so that its rows agree.
            day = date.fromisoformat(str(run.about["started"])[:10])
            settings = replace(settings, keys=replace(settings.keys, on=day))
            rows = cast(
                "Generator[list[Row], None, None]", engine(_new(found, done, run.folder), settings, workers)
            )
            sink = _Sink(run, interruptions, observer)
            try:
                with closing(rows):
                    for of_one in rows:
                        if of_one:
                            sink.add(of_one)
                            tally.add(of_one)
                            if progress is not None:
                                progress(tally, before)
            finally:
                sink.close()
            place = run.finish()
    return ScanResult(place, tally, before, time.monotonic() - started, workers)


def scan_identity(
    sources: Sequence[str], settings: ScanSettings, options: SourceOptions | None
) -> dict[str, Any]:
    """What decides the rows of a scan, without secrets: see `open_run`."""
    from stablesig.scanning.addresses import public_address

    searched = options or SourceOptions()
    return {
        "stablesig": __version__,
        **settings.identity(),
        "sources": [public_address(source) if "://" in source else source for source in sources],
        "recursive": searched.recursive,
        "all_files": searched.all_files,
        "follow_links": searched.follow_links,
        "archives": searched.archives,
        "column": searched.column,
    }


def _new(items: Iterable[Item], done: PathSet, folder: Path) -> Iterator[Item]:
    """Each input once, without those that are done, and without what this scan writes itself to `folder`."""
    real = os.path.realpath(folder)
    for item in items:
        if item.kind == "file" and _is_own(item.location, real):
            continue
        if done.add(item.identity):
            yield item


def _is_own(location: str, folder: str) -> bool:
    parent, name = os.path.split(location)
    return name.startswith(("part-", "_", ".")) and os.path.realpath(parent) == folder


class _Sink:
    """Where rows go: into parts, and once they are durable to the observer."""

    def __init__(self, run: Run, interruptions: Interruptions, observer: Observer | None) -> None:
        self._writer = run.writer(rows=PART_ROWS, seconds=PART_SECONDS)
        self._interruptions, self._observer = interruptions, observer
        self._not_durable: list[list[Row]] = []

    def add(self, rows: list[Row]) -> None:
        if self._observer is not None:
            self._not_durable.append(rows)
        with self._interruptions.held():
            if self._writer.add(rows):
                self._tell()

    def close(self) -> None:
        """Commit what is there, also where the scan ends by an error."""
        with self._interruptions.held():
            self._writer.close()
            self._tell()

    def _tell(self) -> None:
        if self._observer is None:
            return
        for rows in self._not_durable:
            self._observer.image(rows)
        self._observer.committed()
        self._not_durable = []
