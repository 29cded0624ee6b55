"""What the command line says when something goes wrong, and the exit code that goes with it."""

from __future__ import annotations

import errno
from typing import Any

import typer

# Every usage error derives from the class that BadParameter derives from; typer has no public name for it.
_TyperUsageError: type[Exception] = typer.BadParameter.__bases__[0]


class InterruptedRunError(Exception):
    """Ctrl-C, with what the user can do now."""


def _say(error: BaseException | str) -> None:
    """One line, whatever the message holds."""
    typer.echo("stablesig: error: " + " ".join(str(error).split()), err=True)


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


def report(error: Exception) -> int:
    """Say what the user can do about `error` and return the exit code; a fault of ours is raised again."""
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
    if isinstance(error, OSError):
        _say(_os_error_text(error))
        return 8
    if isinstance(error, MemoryError):
        _say("there is not enough memory for this; use smaller images or a smaller batch")
        return 9
    raise error
