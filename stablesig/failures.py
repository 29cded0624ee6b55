"""What the command line says when something goes wrong, and the exit code that goes with it."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from stablesig.one_line import shown

BROKEN_PIPE = 141  # what a shell reports of a program that SIGPIPE ended: 128 + 13
FAULT = 9  # never 1, which `detect` returns for an image without the watermark

# Every usage error derives from the class that BadParameter derives from; typer has no public name for it.
_TyperUsageError: type[Exception] = typer.BadParameter.__bases__[0]


class InterruptedRunError(Exception):
    """Ctrl-C, with what the user can do now."""


class BrokenOutputError(Exception):
    """Whoever read standard output or standard error has gone, as `head` does after its last line."""


@contextlib.contextmanager
def broken_pipe_noticed() -> Iterator[None]:
    """Keep a broken pipe from typer, which would end the process with exit code 1."""
    try:
        yield
    except BrokenPipeError as error:
        raise BrokenOutputError from error


@contextlib.contextmanager
def interruption_explained(kept: Path, before: str) -> Iterator[None]:
    """Ctrl-C becomes an InterruptedRunError: how to go on if `kept` is there, else that it came `before`."""
    try:
        yield
    except KeyboardInterrupt as error:
        raise InterruptedRunError(
            f"interrupted; {kept} is kept; run the same command with --resume to go on"
            if kept.exists()
            else f"interrupted before {before}; nothing is kept; run the same command again"
        ) from error


def warn(text: str) -> None:
    """One line on standard error, whatever the text holds."""
    typer.echo(f"stablesig: warning: {shown(text)}", err=True)


def silence() -> None:
    """Point the standard streams at nothing, so that Python's last flush does not complain of the pipe."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                os.dup2(nowhere, stream.fileno())


def _say(error: BaseException | str) -> None:
    """One line, whatever the message holds."""
    typer.echo("stablesig: error: " + shown(str(error)), err=True)


def _usage_text(error: Any) -> str:
    command = error.ctx.command_path if getattr(error, "ctx", None) else "stablesig"
    return f"{error.format_message().rstrip('.')}; see {command} --help"


def _os_error_text(error: OSError) -> str:
    where = f": {error.filename}" if error.filename else ""
    advice = {
        errno.ENOSPC: "free some space and run it again",
        errno.EDQUOT: "free some space and run it again",
        errno.EACCES: "change its permissions or choose another path",
        errno.EPERM: "change its permissions or choose another path",
        errno.EROFS: "choose a path that can be written",
        errno.ENOENT: "check the path",
    }.get(error.errno or 0, "check the path and the disk")
    return f"{error.strerror or error}{where}; {advice}"


def _out_of_memory(error: Exception) -> bool:
    """Also when torch says so, in a class or a text of its own; torch itself must not be imported for it."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and ("can't allocate memory" in text or "out of memory" in text)


def report(error: Exception) -> int:
    """Say what the user can do about `error`, and return the exit code.

    A fault of ours, for which the user can do nothing, is shown with its traceback.
    """
    from stablesig_detector.errors import StableSigError

    if isinstance(error, StableSigError):
        _say(error)
        return error.exit_code
    if isinstance(error, _TyperUsageError):
        _say(_usage_text(error))
        return 2
    if isinstance(error, InterruptedRunError):
        _say(error)
        return 130
    if isinstance(error, (BrokenOutputError, BrokenPipeError)):
        silence()
        return BROKEN_PIPE
    if isinstance(error, OSError):
        _say(_os_error_text(error))
        return 8
    if _out_of_memory(error):
        _say("there is not enough memory for this; use smaller images or a smaller batch")
        return FAULT
    traceback.print_exception(error)
    return FAULT
