"""The connection to Ray: to a cluster, or to one that is started here and ended with the scan."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from stablesig.extras import needs_scan
from stablesig.scanning.local_engine import default_jobs
from stablesig_detector.errors import UsageError

_ANSWER = 10.0  # s for a cluster to take a connection
# The environment of Ray where the user has not decided otherwise. Nothing is reported to Ray's makers; and
# what Ray prints of every worker that died would go to standard output, which is for results.
_QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_DEDUP_LOGS_SKIP_REGEX": "."}
# Of a Ray that is started here: workers like those of the local engine, which do not step back (by 15).
_OF_ITS_OWN = {"RAY_worker_niceness": "0"}
_AUTHENTICATION = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
# A cluster that was started with a token does not say so to those who come without.
_HINT = "; if it was started with a token, set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH"


@contextlib.contextmanager
def connected(address: str | None, jobs: int | None) -> Iterator[Any]:
    """The module `ray`, connected for as long as the block lasts: see `ray_engine.ray_engine`."""
    _set_environment(address)
    with needs_scan("--engine ray"):
        import ray
    if address is not None:
        _check_reachable(address)
    if ray.is_initialized():
        yield ray
        return
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address is None:
        address = "local"  # else the environment's RAY_ADDRESS would be taken
        options |= {"num_cpus": jobs or default_jobs(), "include_dashboard": False}
    in_main = threading.current_thread() is threading.main_thread()
    on_term = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(address, **options)
    except (ray.exceptions.RayError, OSError, RuntimeError, ImportError, ValueError) as error:
        hint = "" if isinstance(error, ImportError) or address == "local" else _HINT
        raise UsageError(f"the Ray cluster {address} cannot be used: {_in_short(error)}{hint}") from None
    finally:
        if in_main:  # Ray puts a handler of its own there
            signal.signal(signal.SIGTERM, on_term)
    try:
        yield ray
    finally:
        ray.shutdown()


def _set_environment(address: str | None) -> None:
    """What Ray takes from the environment, where the user has not decided otherwise."""
    wanted = _QUIET if address else _QUIET | _OF_ITS_OWN
    for name, value in wanted.items():
        os.environ.setdefault(name, value)
    if address is None and not any(name in os.environ for name in _AUTHENTICATION):
        # Else Ray would leave a token in the home folder, readable by all. Kept for as long as this process
        # lives, as Ray keeps the first one that it sees.
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)


def _check_reachable(address: str) -> None:
    """Raise UsageError unless something listens at HOST:PORT: Ray would abort this process."""
    if address == "auto":  # where Ray would look, which may be where a cluster was that is gone
        noted = Path("/tmp/ray/ray_current_cluster")
        address = os.environ.get("RAY_ADDRESS") or (noted.read_text().strip() if noted.is_file() else "auto")
    if address == "auto":
        return
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdecimal():
        raise UsageError(
            f'the address of a Ray cluster is "auto", HOST:PORT or ray://HOST:PORT; got {address}'
        )
    try:
        socket.create_connection((host.strip("[]"), int(port)), _ANSWER).close()
    except (OSError, OverflowError) as error:
        what = getattr(error, "strerror", None) or str(error)
        raise UsageError(
            f"no Ray cluster answers at {address} ({what}); check the address, and that it is up (ray status)"
        ) from None


def _in_short(error: Exception) -> str:
    """What Ray says, in one line."""
    return " ".join(str(error).split())[:300].rstrip(". ") or type(error).__name__
