"""Writing files that must be whole, must not replace anything, and may belong together.

Each file is written and synchronised beside its place under a name of its own, then hard-linked into place: a
link fails if the name is taken, so a reader sees either nothing or the whole file, and no race can overwrite.
File systems without hard links (FAT, some network mounts) get an exclusive create instead, removed again if
writing fails.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .errors import OutputError, OutputExistsError


@dataclass(frozen=True, repr=False)
class NewFile:
    """A file to be. private: mode 0600 whatever the umask is; else 0644 less the umask."""

    path: Path
    content: bytes
    private: bool = False


def check_place(path: Path) -> None:
    """Raise what `write_new_files` would, before the work whose result is to go to `path`.

    Raises OutputExistsError if the path is taken, OutputError if there is no such folder.
    """
    if os.path.lexists(path):
        raise OutputExistsError(_taken(path))
    if not path.parent.is_dir():
        raise OutputError(_no_folder(path))


def write_new_files(files: Sequence[NewFile]) -> None:
    """Write all of `files` or none of them.

    Raises OutputExistsError if a path is taken (by a file, a folder or a dangling link), OutputError if the
    system refuses: no such folder, no permission, no space left.
    """
    for file in files:
        if os.path.lexists(file.path):
            raise OutputExistsError(_taken(file.path))
    written: list[Path] = []  # beside
    placed: list[Path] = []  # in place
    problem: OSError | None = None
    at = files[0].path if files else Path()
    try:
        for file in files:
            at = file.path
            beside = at.with_name(f".{at.name}.{secrets.token_hex(4)}.tmp")
            _create(beside, file, written)
        for beside, file in zip(tuple(written), files, strict=True):
            at = file.path
            _place(beside, file, placed)
        placed.clear()  # all there: nothing to take back
    except OSError as error:
        problem = error
    finally:  # also on Ctrl-C
        for path in (*written, *placed):
            with contextlib.suppress(OSError):
                path.unlink()
    if isinstance(problem, FileExistsError):
        raise OutputExistsError(_taken(at))
    if isinstance(problem, (FileNotFoundError, NotADirectoryError)):
        raise OutputError(_no_folder(at))
    if problem is not None:
        raise OutputError(f"{at}: cannot be written: {problem.strerror or problem}; nothing was left there")


def _create(path: Path, file: NewFile, created: list[Path]) -> None:
    """Create `path` with the content of `file`, noting it in `created` as soon as it exists."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600 if file.private else 0o644)
    created.append(path)
    with os.fdopen(descriptor, "wb") as stream:
        if file.private and hasattr(os, "fchmod"):
            os.fchmod(descriptor, 0o600)  # a umask can only take bits away, even the owner's
        stream.write(file.content)
        stream.flush()
        os.fsync(descriptor)


def _place(beside: Path, file: NewFile, placed: list[Path]) -> None:
    try:
        os.link(beside, file.path)
    except FileExistsError:
        raise
    except OSError:  # no hard links here
        _create(file.path, file, placed)
    else:
        placed.append(file.path)


def _taken(path: Path) -> str:
    return f"{path}: exists already, and nothing is overwritten; name another place, or move it away first"


def _no_folder(path: Path) -> str:
    return f"{path}: there is no folder {path.parent}; make it first, or name another place"
