"""From what the command line of `stablesig scan` says to settings and a running scan."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from stablesig.detect_keys import keys_to_look_for
from stablesig.failures import InterruptedRunError, interruption_explained
from stablesig.one_line import shown
from stablesig.scanning.api import Engine, Observer, ScanResult, scan
from stablesig.scanning.item import Item
from stablesig.scanning.local_engine import default_jobs, scan_items
from stablesig.scanning.progress import CountingAhead, ScanProgress
from stablesig.scanning.reading import ReadOptions
from stablesig.scanning.run_folder import places
from stablesig.scanning.settings import SECONDS, ScanSettings
from stablesig.scanning.sources import SourceOptions, find_items
from stablesig_detector.errors import UsageError
from stablesig_detector.urls import FetchPolicy

if TYPE_CHECKING:
    from stablesig.scanning.follow import FollowSummary

_UNITS = {"k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_UNPACKED_ON_THE_WAY = (".gz", ".tgz", ".zst", ".tzst", ".bz2", ".tbz2", ".xz", ".txz")

Warn = Callable[[str], None]


def settings_of(
    keys: tuple[list[Path], list[Path], list[str]],
    fpr: float,
    search: str,
    *,
    screen: bool,
    dedup: bool,
    time_limit: float | None,
    memory_limit: str,
    allow_private: bool,
    retries: int,
) -> ScanSettings:
    """Load the keys and put the settings together. Raises UsageError, KeyFileError.

    keys: as for `keys_to_look_for`.  time_limit: s; 0 for none; None for what the search is expected to take.
    memory_limit: as for `bytes_of`; 0 for none.
    """
    seconds = SECONDS.get(search, 0.0) if time_limit is None else time_limit
    return ScanSettings(
        keys=keys_to_look_for(*keys),
        fpr=fpr,
        search=search,
        screen=screen,
        dedup=dedup,
        seconds=seconds or None,
        memory_bytes=bytes_of(memory_limit) or None,
        read=ReadOptions(FetchPolicy(allow_private=allow_private), retries=retries),
    )


def run_scan(
    sources: Sequence[str],
    settings: ScanSettings,
    out: str,
    options: SourceOptions,
    *,
    format: str | None,
    jobs: int | None,
    resume: bool,
    ray: bool,
    ray_address: str | None,
    observer: Observer | None,
    on_warning: Warn,
) -> ScanResult:
    """One scan, with progress on standard error; Ctrl-C says how to go on. ray: whether on Ray."""
    _, folder, _ = places(out, format)
    counting = CountingAhead(
        (lambda: cheaply_found(find_items(sources, options))) if _is_countable(sources) else None
    )
    with ExitStack() as held:
        held.enter_context(interruption_explained(folder, "anything was measured"))
        held.enter_context(counting)
        engine: Engine = scan_items
        if ray:
            from stablesig.scanning.ray_engine import ray_engine

            on_ray = held.enter_context(ray_engine(ray_address, jobs))
            engine, jobs = on_ray, on_ray.jobs
        progress = held.enter_context(ScanProgress(lambda: counting.total))
        return scan(
            sources,
            settings,
            out,
            options=options,
            format=format,
            jobs=jobs,
            resume=resume,
            engine=engine,
            progress=progress,
            observer=observer,
            on_warning=on_warning,
        )


def run_follow(
    sources: Sequence[str],
    settings: ScanSettings,
    out: str,
    options: SourceOptions,
    *,
    jobs: int | None,
    interval: float,
    settle: float,
    queue: Path | None,
    metrics: str | None,
    on_warning: Warn,
    on_end: Callable[[FollowSummary], None],
) -> None:
    """Watch until SIGTERM or Ctrl-C; after Ctrl-C raises InterruptedRunError, when `on_end` was told."""
    from stablesig.scanning.follow import follow
    from stablesig.scanning.stopping import stop_on_signals

    if options.follow_links or options.archives or options.column is not None:
        raise UsageError("--follow-links, --archives and --column are not for --follow; leave them out")
    watched = ", ".join([*sources, *([] if queue is None else [f"the queue {queue}"])])
    with stop_on_signals() as stop:
        print(shown(f"watching {watched}; Ctrl-C or SIGTERM ends it"), file=sys.stderr, flush=True)
        summary = follow(
            sources,
            settings,
            out,
            jobs=default_jobs() if jobs is None else jobs,
            stop=stop,
            interval=interval,
            settle=settle,
            queue=queue,
            metrics=metrics,
            recursive=options.recursive,
            all_files=options.all_files,
            on_warning=on_warning,
            on_start=lambda url: None if url is None else print(f"metrics at {url}", file=sys.stderr),
        )
    on_end(summary)
    if stop.signal == signal.SIGINT:
        raise InterruptedRunError(summary.interrupted)


def _is_countable(sources: Sequence[str]) -> bool:
    """Whether what the sources name can be counted beside the scan, for little."""
    return not any(
        source in ("-", "@-") or source.lower().endswith(_UNPACKED_ON_THE_WAY) or "://" in source
        for source in sources
    )


def cheaply_found(items: Iterable[Item]) -> Iterator[Item]:
    """The same, for counting; raises ValueError at what was fetched or unpacked for it, as lists may name.

    To go on would fetch and unpack everything twice.
    """
    for item in items:
        if item.kind == "data":
            raise ValueError("this takes as much to count as to scan")
        yield item


@contextlib.contextmanager
def observed(
    address: str | None, settings: ScanSettings, on_start: Callable[[str], None]
) -> Iterator[Observer | None]:
    """What answers Prometheus at `address`, if that was asked for. on_start: is told the URL."""
    if address is None:
        yield None
        return
    from stablesig import __version__
    from stablesig.scanning.metrics import ScanMetrics, serving

    told = ScanMetrics({"version": __version__, "features": str(settings.identity()["features"])})
    with serving(told, address) as url:
        on_start(url)
        yield told


def bytes_of(text: str) -> int:
    """A size: 512m -> 536870912. Units k, m, g, t, of 1024 each. Raises UsageError."""
    number, unit = text.strip().lower().removesuffix("b"), 1
    if number[-1:] in _UNITS:
        unit, number = _UNITS[number[-1]], number[:-1]
    try:
        size = float(number) * unit
    except ValueError:
        size = -1.0
    if not 0.0 <= size < 1 << 60:
        raise UsageError(f"a size is a number with k, m or g behind it, such as 512m; got {text!r}")
    return int(size)
