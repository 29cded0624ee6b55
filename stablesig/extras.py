"""What to say when a command needs an extra that is not installed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from stablesig_detector.errors import UsageError

# Top-level modules that the `train` extra brings.
_TRAIN_MODULES = {"torch", "diffusers", "kornia", "huggingface_hub", "matplotlib"}


class MissingExtraError(UsageError, ImportError):
    """A package of an optional extra is not installed."""


@contextmanager
def needs_train(what: str) -> Iterator[None]:
    """Turn a missing package of the `train` extra into one line that says how to get it.

    Any other import error passes through: it is a fault of the installation and not of the user.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in _TRAIN_MODULES:
            raise
        raise MissingExtraError(
            f"{what} needs the training side; {missing} is not installed; run: pip install 'stablesig[train]'"
        ) from error
