"""What a command line names: files, folders, patterns, standard input, web addresses."""

from __future__ import annotations

import glob
import os
import stat
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from .bounds import MAX_FILE_BYTES
from .errors import ImageError
from .image import IMAGE_SUFFIXES
from .reading import LoadedImage, read_image
from .urls import FetchPolicy, fetch, without_password

STANDARD_INPUT = "standard input"


@dataclass(frozen=True)
class Source:
    """One image to be read. Exactly one of path, data and url is given.

    name: what is printed of it: the path or address as it was named, or STANDARD_INPUT
    """

    name: str
    path: Path | None = None
    data: bytes | None = field(default=None, repr=False)
    url: str | None = None


@dataclass(frozen=True)
class Unreadable:
    """An argument, or something in a folder, that gives no image. It takes a row in the results."""

    name: str
    error: ImageError


def find_sources(arguments: Sequence[str], *, recursive: bool = True) -> Iterator[Source | Unreadable]:
    """What `arguments` name, in their order; the contents of a folder or a pattern sorted by name.

    A file may have any name; folders are searched for IMAGE_SUFFIXES, with the folders in them if
    `recursive`. An argument that is no path and holds `*`, `?` or `[` is a pattern, in which `**` stands for
    any folders. Neither follows links to folders. "-" is standard input, read here and now. http:// and
    https:// addresses are handed on and not opened. Nothing is raised for what cannot be found: it comes out
    as Unreadable.
    """
    stdin_read = False
    for argument in arguments:
        if argument == "-":
            yield _standard_input(stdin_read)
            stdin_read = True
        elif argument.lower().startswith(("http://", "https://")):
            yield Source(without_password(argument), url=argument)
        else:
            yield from _on_disk(argument, recursive)


def read_source(source: Source, policy: FetchPolicy | None = None) -> LoadedImage:
    """Read one source; a web address is fetched under `policy`, by default `FetchPolicy()`.

    Raises ImageError, which names the source.
    """
    if source.url is not None:
        return read_image(fetch(source, policy or FetchPolicy()), name=source.name)
    content = source.path if source.data is None else source.data
    if content is None:
        raise ImageError(f"{source.name}: names no file, bytes or address")
    return read_image(content, name=source.name)


def _on_disk(argument: str, recursive: bool) -> Iterator[Source | Unreadable]:
    path = Path(argument)
    try:
        mode = path.stat().st_mode
    except ValueError:  # a NUL in it
        yield Unreadable(repr(argument), ImageError(f"{argument!r}: is not a valid path"))
    except OSError as error:
        if glob.has_magic(argument):
            yield from _pattern(argument, recursive)
        elif isinstance(error, FileNotFoundError):
            yield _unreadable(argument, "no such file or folder; check the path")
        else:
            yield _unreadable(argument, f"cannot be read: {error.strerror or error}")
    else:
        if stat.S_ISDIR(mode):
            yield from _folder(path, recursive)
        else:
            yield Source(argument, path=path)


def _pattern(pattern: str, recursive: bool) -> Iterator[Source | Unreadable]:
    matches = sorted(_matches(pattern))
    if not matches:
        yield _unreadable(pattern, "no file matches this pattern; check it")
    elif "**" in pattern and all(map(os.path.isdir, matches)):
        yield _unreadable(pattern, "matches folders only; end it with /* for the files in them")
    for match in matches:
        if not os.path.isdir(match):  # noqa: PTH112  Path.is_dir raises where it may not look
            yield Source(match, path=Path(match))
        elif "**" not in pattern:  # which has matched what is in the folder already
            yield from _folder(Path(match), recursive)


def _matches(pattern: str) -> set[str]:
    """What a pattern matches. In `**` glob follows links, and two that lead in circles keep it for ever."""
    parts = Path(pattern).parts
    if "**" not in parts:
        return set(glob.glob(pattern))  # noqa: PTH207  Path.glob takes no absolute pattern
    first = parts.index("**")
    rest = parts[first + 1 :] or ("*",)
    found: set[str] = set()
    for base in _matches(str(Path(*parts[:first]))) if first else {os.curdir}:
        for place, folders, _ in os.walk(base):
            folders[:] = [name for name in folders if not name.startswith(".")]  # as `*` passes them over
            found |= _matches(str(Path(glob.escape(place), *rest)))
    return found


def _folder(folder: Path, recursive: bool) -> Iterator[Source | Unreadable]:
    problems: list[OSError] = []
    found = False
    for place, folders, names in os.walk(folder, onerror=problems.append):
        folders.sort()
        if not recursive:
            folders.clear()
        for name in sorted(names):
            path = Path(place, name)
            if path.suffix.lower() not in IMAGE_SUFFIXES:
                continue
            found = True
            if os.path.isfile(path):  # noqa: PTH113  Path.is_file raises where it may not look
                yield Source(str(path), path=path)
            else:  # a pipe would never end, a broken link leads nowhere
                problem = "is not a regular file, or may not be looked at; name it outright if it is meant"
                yield _unreadable(str(path), problem)
        yield from _refused(problems)
    yield from _refused(problems)
    if not found:
        suffixes = ", ".join(sorted(IMAGE_SUFFIXES))
        yield _unreadable(str(folder), f"holds no images; they are known by their names ({suffixes})")


def _refused(problems: list[OSError]) -> Iterator[Unreadable]:
    while problems:
        error = problems.pop(0)
        problem = f"cannot be read: {error.strerror or error}; check its permissions"
        yield _unreadable(str(error.filename), problem)


def _standard_input(read_already: bool) -> Source | Unreadable:
    if read_already:
        return _unreadable("-", "standard input can be read once; name it once")
    if sys.stdin is None:
        return _unreadable("-", "there is no standard input; name a file")
    data = sys.stdin.buffer.read(MAX_FILE_BYTES + 1)
    if len(data) > MAX_FILE_BYTES:
        return _unreadable(STANDARD_INPUT, f"is more than {MAX_FILE_BYTES:,} bytes; make it smaller")
    return Source(STANDARD_INPUT, data=data)


def _unreadable(name: str, problem: str) -> Unreadable:
    return Unreadable(name, ImageError(f"{name}: {problem}"))
