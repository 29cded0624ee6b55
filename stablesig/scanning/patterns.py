"""Patterns of names: braces as in shard-{000..009}.tar, and *, ? and [] as in the shell."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

_MAGIC = re.compile(r"[*?\[]")
_BRACES = re.compile(r"\{(?:(\d{1,15})\.\.(\d{1,15})|([^{},]*(?:,[^{},]*)+))\}")


def has_braces(name: str) -> bool:
    return _BRACES.search(name) is not None


def expand_braces(name: str) -> Iterator[str]:
    """All names that braces stand for, lazily: {000..009} with the zeros kept, {train,test}.

    Braces within braces are left as they are.
    """
    found = _BRACES.search(name)
    if found is None:
        yield name
        return
    for rest in expand_braces(name[found.end() :]):
        for text in _choices(found):
            yield name[: found.start()] + text + rest


def _choices(found: re.Match[str]) -> Iterable[str]:
    first, last, listed = found.groups()
    if listed is not None:
        return listed.split(",")
    width = len(first) if first.startswith("0") else 0
    start, end = int(first), int(last)
    numbers = range(start, end + 1) if start <= end else range(start, end - 1, -1)
    return (f"{number:0{width}d}" for number in numbers)


def has_magic(name: str) -> bool:
    return _MAGIC.search(name) is not None


@dataclass(frozen=True, slots=True)
class Entry:
    """Something in a folder.

    path: of it, beginning with that of the folder.  kind: "link" is a link to a folder, "other" a pipe, a
    device, or a link that leads nowhere; a link to a file is a "file"
    size: bytes; -1: not known.  errno: of a link that could not be followed
    """

    path: str
    name: str
    kind: str
    size: int = -1
    errno: int = 0


ListFolder = Callable[[str], Iterator[Entry]]


def matching(base: str, parts: tuple[str, ...], listing: ListFolder) -> Iterator[Entry]:
    """What the pattern `parts`, one for each level below the folder `base`, matches, lazily.

    `**` stands for any folders, none included; as the last part, for all that is in them. Names that begin
    with a dot are matched only by a part that does. Links to folders are matched and not entered. A thing may
    be met twice where `**` stands twice. Folders that cannot be listed are raised as `listing` does.
    """
    part, rest = parts[0], parts[1:]
    if part == "**":
        yield from _anywhere(base, rest or ("*",), listing)
        return
    matches = _matcher(part)
    for entry in listing(base):
        if not matches(entry.name):
            continue
        if not rest:
            yield entry
        elif entry.kind == "folder" or (entry.kind == "link" and rest[0] != "**"):
            yield from matching(entry.path, rest, listing)


def _anywhere(base: str, parts: tuple[str, ...], listing: ListFolder) -> Iterator[Entry]:
    last = None if len(parts) > 1 or parts[0] == "**" else _matcher(parts[0])
    waiting = [iter((base,))]
    while waiting:
        folder = next(waiting[-1], None)
        if folder is None:
            waiting.pop()
            continue
        if last is None:
            yield from matching(folder, parts, listing)
        below = []
        for entry in listing(folder):
            if last is not None and last(entry.name):
                yield entry
            if entry.kind == "folder" and not entry.name.startswith("."):
                below.append(entry.path)
        waiting.append(iter(below))


def _matcher(part: str) -> Callable[[str], bool]:
    expression = re.compile(fnmatch.translate(part), re.DOTALL)
    hidden = part.startswith(".")
    return lambda name: expression.match(name) is not None and (hidden or not name.startswith("."))
