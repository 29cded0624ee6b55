"""What to say when a command needs an extra that is not installed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from stablesig_detector.errors import UsageError

# Top-level modules that the `train` extra brings.
_TRAIN_MODULES = {"torch", "diffusers", "kornia", "huggingface_hub", "matplotlib"}


class MissingExtraError(UsageError, ImportError):
    """A package of an optional extra is not installed."""


# Top-level modules that the `scan` and `scan-ray` extras bring.
_SCAN_MODULES = {"pyarrow", "duckdb", "fsspec", "prometheus_client"}
_RAY_MODULES = {"ray"}


@contextmanager
def needs_train(what: str) -> Iterator[None]:
    """Turn a missing package of the `train` extra into one line that says how to get it.

    Any other import error passes through: it is a fault of the installation and not of the user.
    """
    with _needs(f"{what} needs the training side", {"train": _TRAIN_MODULES}):
        yield


@contextmanager
def needs_scan(what: str) -> Iterator[None]:
    """The same for the packages of the `scan` and `scan-ray` extras."""
    with _needs(f"{what} needs what bulk scans need", {"scan": _SCAN_MODULES, "scan-ray": _RAY_MODULES}):
        yield


@contextmanager
def _needs(what: str, extras: Mapping[str, set[str]]) -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        for extra, modules in extras.items():
            if missing in modules:
                raise MissingExtraError(
                    f"{what}; {missing} is not installed; run: pip install 'stablesig[{extra}]'"
                ) from error
        raise
