"""What a scan tells Prometheus: images, hits, errors, times and how far behind it is.

Everything is counted when its rows are durable, from 0 when the process starts, as Prometheus expects of
counters. The registry is our own: what else the process measures stays out of it, and two scans in one
process do not meet.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, get_args

from stablesig.detect_output import DETECTED, NOT_DETECTED, UNREADABLE
from stablesig.extras import needs_scan
from stablesig.scanning.item import ErrorKind
from stablesig.scanning.row import Row
from stablesig_detector.errors import UsageError

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

LOOPBACK = "127.0.0.1"
OTHER_KEYS = "other"  # label of all keys after the first MAX_KEY_LABELS
MAX_KEY_LABELS = 1000  # every label value is a time series that Prometheus keeps
_MEASURING = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)  # s
_LATENCY = (0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 900.0, 3600.0, 14400.0)  # s


def metrics_address(text: str) -> tuple[str, int]:
    """Host and port of `--metrics`: ADDR:PORT, [IPv6]:PORT, :PORT or PORT, by default on this machine only.

    Raises UsageError for anything else. Port 0 is any free one.
    """
    host, _, port = text.strip().rpartition(":")
    host = host.removeprefix("[").removesuffix("]") if host.startswith("[") and host.endswith("]") else host
    if not (port.isascii() and port.isdigit() and len(port) <= 5 and int(port) <= 65_535) or (
        ":" in host and "[" not in text
    ):
        raise UsageError(
            f"--metrics is ADDR:PORT, such as {LOOPBACK}:9464 (this machine only), 0.0.0.0:9464 (every IPv4 "
            f"address) or [::]:9464, with a port of 0 to 65,535; got {text!r}"
        )
    return host or LOOPBACK, int(port)


class ScanMetrics:
    """The metrics of one scan, in a registry of their own.

    about: labels of the build info, such as the version; few and short, as they are one time series. Raises
    MissingExtraError without prometheus-client.
    """

    def __init__(self, about: Mapping[str, str]) -> None:
        with needs_scan("--metrics"):
            from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

        self.registry: CollectorRegistry = CollectorRegistry()
        own: dict[str, Any] = {"namespace": "stablesig", "subsystem": "scan", "registry": self.registry}
        self._images = Counter("images", "Inputs whose rows are durable, by verdict.", ["verdict"], **own)
        self._hits = Counter(
            "hits",
            f"Images in which a key was detected; after {MAX_KEY_LABELS:,} keys: other.",
            ["key_id"],
            **own,
        )
        self._errors = Counter("errors", "Inputs that could not be read, by class.", ["kind"], **own)
        self._bytes = Counter("read_bytes", "Size of the files that were read.", **own)
        self._parts = Counter("commits", "Parts of the results that were made durable.", **own)
        self._measuring = Histogram(
            "measuring_seconds", "Wall-clock time of one image in its worker.", buckets=_MEASURING, **own
        )
        self._latency = Histogram(
            "latency_seconds", "From seeing an upload to its rows being durable.", buckets=_LATENCY, **own
        )
        self._backlog = Gauge("backlog_images", "Uploads seen whose rows are not durable yet.", **own)
        self._oldest = Gauge(
            "oldest_waiting_seconds", "Age of the oldest of them; 0 if there is none.", **own
        )
        self._commit = Gauge(
            "last_commit_timestamp_seconds", "Unix time when rows were last made durable.", **own
        )
        self._poll = Gauge(
            "last_poll_timestamp_seconds", "Unix time when uploads were last looked for.", **own
        )
        self._poll_cost = Gauge("poll_seconds", "Wall-clock time of the last look for uploads.", **own)
        self._missing = Gauge("sources_missing", "Watched folders that cannot be looked into.", **own)
        Gauge("build_info", "What is running; always 1.", list(about), **own).labels(**about).set(1)
        ProcessCollector(registry=self.registry)
        for verdict in (DETECTED, NOT_DETECTED, UNREADABLE):  # a series that is 0 can be told from none
            self._images.labels(verdict)
        for kind in get_args(ErrorKind):
            self._errors.labels(kind)
        self._keys: set[str] = set()

    def image(self, rows: Sequence[Row], latency_s: float | None = None) -> None:
        """Count one input, all of whose `rows` have become durable `latency_s` after it was seen."""
        first = rows[0]
        self._images.labels(first.verdict).inc()
        if first.verdict == UNREADABLE:
            self._errors.labels(first.error_kind or "defect").inc()
        for row in rows:
            if row.verdict == DETECTED and row.key_id is not None:
                self._hits.labels(self._key_label(row.key_id)).inc()
        if first.bytes is not None:
            self._bytes.inc(first.bytes)
        if first.seconds is not None:
            self._measuring.observe(first.seconds)
        if latency_s is not None:
            self._latency.observe(latency_s)

    def committed(self) -> None:
        """A part has become durable."""
        self._parts.inc()
        self._commit.set(time.time())

    def polled(self, seconds: float, missing: int) -> None:
        """Uploads were looked for, which took `seconds`; `missing` of the watched folders are not there."""
        self._poll.set(time.time())
        self._poll_cost.set(seconds)
        self._missing.set(missing)

    def follow_backlog(self, backlog: Callable[[], float], oldest_s: Callable[[], float]) -> None:
        """Ask these whenever the metrics are read; they are called in another thread."""
        self._backlog.set_function(backlog)
        self._oldest.set_function(oldest_s)

    def _key_label(self, key_id: str) -> str:
        if key_id in self._keys or len(self._keys) < MAX_KEY_LABELS:
            self._keys.add(key_id)
            return key_id
        return OTHER_KEYS


@contextlib.contextmanager
def serving(metrics: ScanMetrics, address: str) -> Iterator[str]:
    """Answer GET /metrics at `address` (see `metrics_address`) meanwhile; the URL at which it is answered.

    Raises UsageError if the address is no address, is taken, or is not one of this machine.
    """
    from prometheus_client import start_http_server

    host, port = metrics_address(address)
    try:
        server, thread = start_http_server(port, host, metrics.registry)
    except (OSError, UnicodeError) as error:  # also of names that mean no address, and that cannot
        what = getattr(error, "strerror", None) or str(error)
        raise UsageError(
            f"--metrics {address} cannot be opened: {what}; choose a free port and an "
            f"address of this machine, such as {LOOPBACK}:9464"
        ) from error
    try:
        shown = f"[{host}]" if ":" in host else host
        yield f"http://{shown}:{server.server_port}/metrics"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
